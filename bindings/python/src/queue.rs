//! The completion queue: how results travel from the mesh's threads to Python's.
//!
//! Decides: which results somebody still waits for. Never: touches a Python object off a Python thread:
//! workers push plain Rust values and write a descriptor.
//! Invariant: one operation, at most one completion; a forgotten operation completes nowhere.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;

use crate::fork::Owned;
use crate::outcome::Outcome;
use crate::signal::is_main_thread;
use crate::wake::{Waited, Wake};

/// Where completions wait. One per event loop, one per blocking thread.
#[pyclass(frozen, module = "mesh._native")]
pub struct Queue {
    shared: Owned<Arc<Completions>>,
}

/// The half of a queue that the mesh's threads see.
pub struct Completions {
    state: Mutex<State>,
    wake: Wake,
}

#[derive(Default)]
struct State {
    done: VecDeque<(u64, Outcome)>,
    expected: HashSet<u64>,
    last_token: u64,
    is_signalled: bool,
}

type Completed<'py> = (u64, bool, Bound<'py, PyAny>);

#[pymethods]
impl Queue {
    #[new]
    fn new() -> PyResult<Self> {
        let completions = Completions { state: Mutex::default(), wake: Wake::new()? };
        Ok(Self { shared: Owned::new(Arc::new(completions)) })
    }

    /// The descriptor that is readable while completions wait.
    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        Ok(self.completions(py)?.wake.fd())
    }

    /// Everything that completed: (token, is_value, value or exception).
    fn drain<'py>(&self, py: Python<'py>) -> PyResult<Vec<Completed<'py>>> {
        let done = self.completions(py)?.take_all();
        Ok(done.into_iter().map(|(token, outcome)| completed(py, token, outcome)).collect())
    }

    /// Like `drain`, but blocks until something completed. Ctrl-C interrupts it.
    fn wait<'py>(&self, py: Python<'py>) -> PyResult<Vec<Completed<'py>>> {
        loop {
            let completions = self.completions(py)?;
            let done = completions.take_all();
            if !done.is_empty() {
                return Ok(done.into_iter().map(|(token, outcome)| completed(py, token, outcome)).collect());
            }
            let slice = signal_slice();
            if py.detach(|| completions.wake.wait(slice)) != Waited::Ready {
                py.check_signals()?;
            }
        }
    }
}

impl Queue {
    /// The shared half, unless the process forked.
    pub fn completions(&self, py: Python<'_>) -> PyResult<&Arc<Completions>> {
        self.shared.require(py)
    }
}

impl Completions {
    /// A new operation that somebody will wait for.
    pub fn expect(&self) -> u64 {
        let mut state = self.state();
        state.last_token += 1;
        let token = state.last_token;
        state.expected.insert(token);
        token
    }

    /// Nobody waits any more; a result that is here already is dropped.
    pub fn forget(&self, token: u64) {
        let dropped = {
            let mut state = self.state();
            state.expected.remove(&token);
            let place = state.done.iter().position(|(done, _)| *done == token);
            place.and_then(|place| state.done.remove(place))
        };
        drop(dropped);
    }

    /// Called by the mesh's threads.
    pub fn push(&self, token: u64, outcome: Outcome) {
        let mut state = self.state();
        if !state.expected.remove(&token) {
            drop(state);
            return;
        }
        state.done.push_back((token, outcome));
        if !state.is_signalled {
            state.is_signalled = true;
            self.wake.signal();
        }
    }

    /// Blocks until `token` completed. Others that wait on the same queue keep theirs.
    pub fn wait_for(&self, token: u64, slice: Option<Duration>) -> Result<Outcome, Waited> {
        loop {
            {
                let mut state = self.state();
                if let Some(place) = state.done.iter().position(|(done, _)| *done == token)
                    && let Some((_, outcome)) = state.done.remove(place)
                {
                    return Ok(outcome);
                }
                self.clear(&mut state);
            }
            match self.wake.wait(slice) {
                Waited::Ready => {}
                ended => return Err(ended),
            }
        }
    }

    fn take_all(&self) -> VecDeque<(u64, Outcome)> {
        let mut state = self.state();
        self.clear(&mut state);
        std::mem::take(&mut state.done)
    }

    fn clear(&self, state: &mut State) {
        if state.is_signalled {
            state.is_signalled = false;
            self.wake.clear();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a thread may block before it must look for signals. Only Python's main thread runs handlers. A
/// signal ends `poll` at once; the slice only covers the one that arrives just before `poll`.
pub fn signal_slice() -> Option<Duration> {
    is_main_thread().then_some(SLICE)
}

fn completed(py: Python<'_>, token: u64, outcome: Outcome) -> Completed<'_> {
    match outcome.into_python(py) {
        Ok(value) => (token, true, value),
        Err(error) => (token, false, error.into_value(py).into_bound(py).into_any()),
    }
}

/// Below the 50 ms that Ctrl-C may take.
const SLICE: Duration = Duration::from_millis(40);
