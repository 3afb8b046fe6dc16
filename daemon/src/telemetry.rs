//! Logging: one line per event on standard error, level by `--log` or configuration: a level (`info`), or levels by module
//! (`warn,edgecore=debug`).

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// A filter that is none.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a filter: a level (info), or levels by module (warn,edgecore=debug)")]
pub struct FilterError(String);

/// Installs the process's subscriber; the second call in one process does nothing.
///
/// # Errors
/// When `filter` is not in filter syntax.
pub fn init(filter: &str) -> Result<(), FilterError> {
    let filter = parse(filter).ok_or_else(|| FilterError(filter.to_owned()))?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        // What cannot be written to a full disk would be told on the same one, with a panic when that fails too.
        .log_internal_errors(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    let installed = tracing_subscriber::registry().with(lines).with(filter).try_init();
    if let Err(e) = installed {
        tracing::debug!(error = %e, "a subscriber is already installed");
    }
    Ok(())
}

fn parse(filter: &str) -> Option<Targets> {
    // The parser takes any word for a module.
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_-:=, ".contains(c);
    filter.parse().ok().filter(|_| filter.chars().all(is_part))
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn filters_are_levels_alone_or_by_module() {
        let passes = |filter: &str, target: &str, level: Level| parse(filter).unwrap().would_enable(target, &level);
        assert!(passes("info", "edgecore::app", Level::INFO) && !passes("info", "edgecore", Level::DEBUG));
        assert!(
            passes("edgecore=debug", "edgecore::app", Level::DEBUG) && !passes("edgecore=debug", "link", Level::ERROR)
        );
        assert!(
            passes("warn,link=trace", "link::quic", Level::TRACE) && passes("warn,link=trace", "mqtt", Level::WARN)
        );
        assert!(!passes("off", "edgecore", Level::ERROR));
        for none in ["edgecore=loud", "]]", "a=b=c"] {
            assert!(init(none).is_err(), "{none}");
        }
    }
}
