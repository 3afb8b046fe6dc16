//! The agent as a process: one life after another (`daemon::lives`), each on the ports of the one before.

use std::sync::{Arc, Mutex, PoisonError};

use daemon::exit::Failure;
use daemon::lives::{CancellationToken, End};
use metastore::store::StoreError;

use super::{Agent, AgentError};
use crate::config::Config;

/// Runs the agent until the process is told to stop. A store found damaged is set aside by starting over, in this process.
///
/// # Errors
/// What cannot be opened or listened on, or damage that comes back again and again; with the exit code.
pub fn run(config: Config) -> Result<(), Failure> {
    let config = Arc::new(Mutex::new(config));
    daemon::lives::run(super::runtime, |stop| live(Arc::clone(&config), stop))
}

async fn live(config: Arc<Mutex<Config>>, stop: CancellationToken) -> Result<(), End> {
    let wanted = config.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let agent = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        agent = Agent::start(wanted) => agent?,
    };
    config
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .keep_ports(agent.addresses());
    daemon::signal::notify_ready();
    Ok(agent.until(&stop).await?)
}

impl From<AgentError> for End {
    fn from(error: AgentError) -> Self {
        let failure = Failure::new(error.exit_code(), error.to_string());
        match error {
            // Closed: its writer ended by itself, which the next start looks into.
            AgentError::Store {
                source: StoreError::Corrupt(_) | StoreError::Closed,
                ..
            } => Self::Damaged(failure),
            _ => Self::Failed(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_damaged_store_is_worth_another_life() {
        let store = |source| {
            End::from(AgentError::Store {
                path: "edgecore.db".into(),
                source,
            })
        };
        assert!(
            matches!(store(StoreError::Corrupt("page 7".into())), End::Damaged(why) if why.what.contains("page 7"))
        );
        assert!(matches!(store(StoreError::Full), End::Failed(_)));
        let End::Failed(why) = End::from(AgentError::Identity("no name".to_owned())) else {
            panic!("not mended by a start");
        };
        assert_eq!(why.code, daemon::exit::BAD_CONFIG);
    }
}
