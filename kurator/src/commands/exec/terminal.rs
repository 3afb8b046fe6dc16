//! The terminal of this process: passed on key by key while a command has it, and given back as it was.

use daemon::exit::{FAILED, Failure};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// The terminal, as long as this lives, without anything of its own: no echo, no lines, no signals from keys.
pub(super) struct Raw(Termios);

impl Raw {
    pub(super) fn new() -> Result<Self, Failure> {
        let failed = |e: rustix::io::Errno| Failure::new(FAILED, format!("the terminal cannot be passed on: {e}"));
        let before = tcgetattr(std::io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // There is nobody to tell but the terminal itself.
        tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0).unwrap_or_default();
    }
}

/// Columns and rows; those of old where they cannot be told.
pub(super) fn size() -> (u16, u16) {
    tcgetwinsize(std::io::stdin()).map_or((80, 24), |size| (size.ws_col, size.ws_row))
}
