//! Colour, where a person reads, and output that ends quietly when nobody does any more.

use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

/// Paints words, or leaves them as they are.
#[derive(Debug, Clone, Copy)]
pub struct Paint {
    is_on: bool,
}

/// For standard output: on at a terminal, unless `NO_COLOR` is set (no-color.org).
pub fn for_stdout() -> Paint {
    Paint { is_on: std::io::stdout().is_terminal() && is_wanted() }
}

/// The same for standard error.
pub fn for_stderr() -> Paint {
    Paint { is_on: std::io::stderr().is_terminal() && is_wanted() }
}

fn is_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

impl Paint {
    /// Never paints.
    #[cfg(test)]
    pub const OFF: Self = Self { is_on: false };

    /// Something is wrong.
    pub fn error(self, text: &str) -> String {
        self.with("1;31", text)
    }

    /// Something may be wrong.
    pub fn warning(self, text: &str) -> String {
        self.with("1;33", text)
    }

    /// Something is right.
    pub fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    /// A heading.
    pub fn strong(self, text: &str) -> String {
        self.with("1", text)
    }

    /// Beside the point.
    pub fn faint(self, text: &str) -> String {
        self.with("2", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.is_on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Prints to standard output. A reader that has gone (`mesh schema | head`) is no error.
pub fn print(text: &str) -> Result<ExitCode, String> {
    let mut output = std::io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(format!("cannot write: {error}")),
        _ => Ok(ExitCode::SUCCESS),
    }
}
