//! Logging: one line per event on standard error, level by `--log` or configuration in `tracing` filter syntax.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// Installs the process's subscriber; the second call in one process does nothing.
///
/// # Errors
/// When `filter` is not in filter syntax.
pub fn init(filter: &str) -> Result<(), tracing_subscriber::filter::ParseError> {
    let filter = EnvFilter::try_new(filter)?;
    let installed = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE)
        // What cannot be written to a full disk would be told on the same one, with a panic when that fails too.
        .log_internal_errors(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init();
    if let Err(e) = installed {
        tracing::debug!(error = %e, "a subscriber is already installed");
    }
    Ok(())
}
