//! One module per command; each turns arguments into API calls and lines of output.

use clap::CommandFactory;

pub(crate) mod check;
pub(crate) mod demo;
pub(crate) mod describe;
pub(crate) mod exec;
pub(crate) mod get;
pub(crate) mod join;
pub(crate) mod logs;
pub(crate) mod node;
pub(crate) mod reset;
pub(crate) mod token;
pub(crate) mod top;
pub(crate) mod twin;
pub(crate) mod why;

/// `kurator completion`
pub(crate) fn completion(shell: clap_complete::Shell) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut crate::cli::Cli::command(), "kurator", &mut script);
    crate::say::text(&String::from_utf8_lossy(&script));
}

/// `kurator version`
pub(crate) fn version() {
    crate::say::line(&format!(
        "kurator {} ({}-{})",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH
    ));
}
