use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::Mesh;

const CONFIG: &str = "
guards:
  - { name: inventory, timeout: 30s, idempotent: true, retry: { attempts: 2, base: 1ms, max: 1ms } }
  - { name: quick, timeout: 30s, attempt_timeout: 20ms, retry: { attempts: 1, base: 1ms, max: 1ms }, idempotent: true }
  - { name: payment, concurrency_limit: { max_requests: 1 } }
";

fn mesh() -> Mesh {
    Mesh::from_yaml(CONFIG, "guards.yaml").expect("a valid configuration")
}

fn reset() -> io::Error {
    io::Error::from(io::ErrorKind::ConnectionReset)
}

fn kind<T>(result: Result<T, Failure<io::Error>>) -> ErrorKind {
    match result {
        Err(Failure::Refused(error)) => error.kind(),
        Err(Failure::Own(error)) => panic!("the operation's own error: {error}"),
        Ok(_) => panic!("it worked"),
    }
}

fn value(page: &str, series: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(series)).unwrap_or_else(|| panic!("no {series}"));
    line.trim().parse().expect("a number")
}

#[tokio::test]
async fn a_function_is_tried_until_it_works_and_counted() {
    let (mesh, tries) = (mesh(), AtomicU32::new(0));
    let guard = mesh.guard("inventory").expect("configured");
    let answer = guard
        .run(|| async {
            match tries.fetch_add(1, Ordering::Relaxed) {
                0 | 1 => Err(reset()),
                n => Ok(n),
            }
        })
        .await;
    assert_eq!(answer.expect("the third try"), 2);
    let page = mesh.metrics_text();
    assert_eq!(value(&page, r#"libmesh_guard_calls_total{guard="inventory",outcome="success"}"#), 1.0);
    assert_eq!(value(&page, r#"libmesh_guard_attempts_total{guard="inventory"}"#), 3.0);
    assert_eq!(value(&page, r#"libmesh_guard_retries_total{guard="inventory"}"#), 2.0);
    assert_eq!(value(&page, r#"libmesh_guard_calls_in_flight{guard="inventory"}"#), 0.0);
    assert_eq!(mesh.status()["guards"]["inventory"]["calls"]["success"], 1);
}

#[test]
fn the_same_on_a_thread_without_a_runtime() {
    let (mesh, mut tries) = (mesh(), 0);
    let guard = mesh.guard("inventory").expect("configured");
    let failed = guard.run_blocking(|| {
        tries += 1;
        Err::<(), _>(reset())
    });
    assert!(matches!(failed, Err(Failure::Own(error)) if error.kind() == io::ErrorKind::ConnectionReset));
    assert_eq!(tries, 3);
}

#[tokio::test]
async fn an_attempt_that_hangs_is_cut_and_tried_again() {
    let (mesh, tries) = (mesh(), AtomicU32::new(0));
    let guard = mesh.guard("quick").expect("configured");
    let hangs = || async {
        tries.fetch_add(1, Ordering::Relaxed);
        std::future::pending::<io::Result<()>>().await
    };
    assert_eq!(kind(guard.run(hangs).await), ErrorKind::AttemptTimeout);
    assert_eq!(tries.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn an_operation_that_may_have_acted_is_repeated_only_when_somebody_says_so() {
    let (mesh, tries) = (mesh(), AtomicU32::new(0));
    let guard = mesh.guard("payment").expect("configured");
    let fails = || async {
        tries.fetch_add(1, Ordering::Relaxed);
        Err::<(), _>(reset())
    };
    assert!(guard.run(fails).await.is_err());
    assert_eq!(tries.swap(0, Ordering::Relaxed), 1);
    assert!(guard.clone().idempotent(true).run(fails).await.is_err());
    assert_eq!(tries.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_dropped_call_frees_its_place() {
    let mesh = mesh();
    let guard = mesh.guard("payment").expect("configured");
    let mut waiting = Box::pin(guard.run(std::future::pending::<io::Result<()>>));
    assert!(futures_poll(&mut waiting).await.is_none());
    assert_eq!(kind(guard.run(|| async { Ok::<_, io::Error>(()) }).await), ErrorKind::Overloaded);
    drop(waiting);
    guard.run(|| async { Ok::<_, io::Error>(()) }).await.expect("the place is free");
    assert_eq!(mesh.status()["guards"]["payment"]["calls"]["ignored"], 1);
}

/// One poll.
async fn futures_poll<F: std::future::Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(cx) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

#[tokio::test]
async fn what_is_called_inside_inherits_the_deadline_of_the_attempt_and_the_trace() {
    let mesh = mesh();
    let guard = mesh.guard("inventory").expect("configured").timeout(Duration::from_secs(5));
    let outer = Arc::new(CallContext {
        deadline: Some(Instant::now() + Duration::from_secs(2)),
        ..CallContext::new(TraceContext::root(&mut fastrand::Rng::with_seed(1), 100.0))
    });
    let seen = CallContext::scope(
        Arc::clone(&outer),
        guard.run(|| async { Ok::<_, io::Error>(CallContext::current().expect("a context")) }),
    );
    let seen = seen.await.expect("it works");
    assert_eq!((seen.deadline, seen.trace.trace_id), (outer.deadline, outer.trace.trace_id));
    let blocking = guard.run_blocking(|| Ok::<_, io::Error>(CallContext::current().expect("a context").deadline));
    assert!(blocking.expect("it works").is_some_and(|deadline| deadline <= Instant::now() + Duration::from_secs(5)));
}

#[tokio::test]
async fn a_reload_changes_the_terms_and_keeps_the_state() {
    let mesh = mesh();
    let guard = mesh.guard("inventory").expect("configured");
    for _ in 0..5 {
        let _ = guard.run_with(|_| Class::Failed.into(), || async { Err::<(), _>(reset()) }).await;
    }
    assert_eq!(kind(guard.run(|| async { Ok::<_, io::Error>(()) }).await), ErrorKind::CircuitOpen);
    mesh.reload("guards: [{ name: inventory, timeout: 7s }]", "new.yaml").expect("valid");
    assert_eq!(kind(guard.run(|| async { Ok::<_, io::Error>(()) }).await), ErrorKind::CircuitOpen);
    let off = "guards: [{ name: inventory, circuit_breaker: { consecutive_failures: 0, min_requests: 0 } }]";
    mesh.reload(off, "off.yaml").expect("valid");
    guard.run(|| async { Ok::<_, io::Error>(()) }).await.expect("without a breaker it runs");
    mesh.reload("guards: []", "none.yaml").expect("valid");
    let mut call = guard.begin().expect("the terms it began with");
    assert!(matches!(call.proceed(), Step::Stop(Ending::Refused(error)) if error.kind() == ErrorKind::CircuitOpen));
}

#[test]
fn an_unknown_guard_and_a_closed_mesh_are_typed_errors() {
    let mesh = mesh();
    let error = mesh.guard("nobody").map(drop).expect_err("not configured");
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.message().contains("inventory"), "{error}");
    let guard = mesh.guard("inventory").expect("configured");
    mesh.close(Duration::from_secs(1));
    assert_eq!(guard.begin().map(drop).expect_err("closed").kind(), ErrorKind::Closed);
}

#[test]
fn only_a_refused_connection_is_known_to_have_done_nothing() {
    use super::Retryable;
    use std::io::ErrorKind as Io;
    for (kind, expected) in [
        (Io::ConnectionRefused, Class::Unprocessed),
        (Io::HostUnreachable, Class::Transient),
        (Io::NetworkUnreachable, Class::Transient),
        (Io::ConnectionReset, Class::Transient),
        (Io::NotFound, Class::Rejected),
        (Io::OutOfMemory, Class::Failed),
    ] {
        assert_eq!(std::io::Error::from(kind).outcome().class, expected, "{kind:?}");
    }
}
