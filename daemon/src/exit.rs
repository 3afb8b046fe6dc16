//! The exit codes that scripts may rely on (sysexits where one fits).

use std::io::Write as _;
use std::process::ExitCode;

/// Done.
pub const DONE: u8 = 0;
/// Failed at run time.
pub const FAILED: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 64;
/// The input is wrong: a garbled token, a bad manifest.
pub const BAD_INPUT: u8 = 65;
/// The hub cannot be reached.
pub const UNREACHABLE: u8 = 69;
/// Not allowed: token refused, expired, used; hub's identity not the pinned one.
pub const NOT_ALLOWED: u8 = 77;
/// The configuration is wrong.
pub const BAD_CONFIG: u8 = 78;

/// An error that knows how the process should end and what the person should do next.
#[derive(Debug)]
pub struct Failure {
    /// One of the codes above.
    pub code: u8,
    /// One line: what.
    pub what: String,
    /// One line: what to do.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(code: u8, what: impl Into<String>) -> Self {
        Self {
            code,
            what: what.into(),
            hint: None,
        }
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Prints `error:` and `hint:` to standard error, one line each, and gives the code.
    pub fn report(&self) -> ExitCode {
        let mut text = format!("error: {}\n", one_line(&self.what));
        if let Some(hint) = &self.hint {
            text.push_str(&format!("hint: {}\n", one_line(hint)));
        }
        // Nobody may be reading any more; the code still tells.
        drop(std::io::stderr().lock().write_all(text.as_bytes()));
        ExitCode::from(self.code)
    }
}

fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    lines.join(" ")
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {}

impl From<anyhow::Error> for Failure {
    fn from(e: anyhow::Error) -> Self {
        match e.downcast::<Self>() {
            Ok(failure) => failure,
            Err(e) => Self::new(FAILED, format!("{e:#}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_lines_is_told_in_one() {
        assert_eq!(one_line("cannot parse:\n  |\n1 | x\n\n"), "cannot parse: | 1 | x");
    }
}
