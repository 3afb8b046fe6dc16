//! The exit codes that scripts may rely on (sysexits where one fits).

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

    /// Prints `error:` and `hint:` to standard error and gives the code.
    #[allow(clippy::print_stderr)]
    pub fn report(&self) -> ExitCode {
        eprintln!("error: {}", self.what);
        if let Some(hint) = &self.hint {
            eprintln!("hint: {hint}");
        }
        ExitCode::from(self.code)
    }
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
