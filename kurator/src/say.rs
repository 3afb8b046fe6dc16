//! The only places that print: a result on standard output, a remark on standard error.

use std::io::Write;

/// One line on standard output. A closed pipe (`| head`) ends the process quietly, as users of pipes expect.
pub(crate) fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Text on standard output as it is.
pub(crate) fn text(text: &str) {
    let mut out = std::io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Bytes on standard output as they come.
pub(crate) fn bytes(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// One line on standard error: progress and remarks, which must not end up in a pipe. If nobody reads them, they are not missed.
pub(crate) fn remark(text: &str) {
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}
