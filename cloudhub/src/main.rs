//! The hub's program: reads what it is told, runs a [`cloudhub::Hub`] until it is asked to stop. A store found
//! damaged is set aside by starting over.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use clap::Parser;
use cloudhub::{Bound, Config, Flags};
use daemon::exit::{BAD_CONFIG, DONE, FAILED, Failure, USAGE};
use daemon::lives::{CancellationToken, End};

fn main() -> ExitCode {
    let flags = match Flags::try_parse() {
        Ok(flags) => flags,
        Err(e) => {
            let code = if e.use_stderr() { USAGE } else { DONE };
            return e.print().map_or(ExitCode::from(FAILED), |()| ExitCode::from(code));
        }
    };
    match run(&flags) {
        Ok(()) => ExitCode::from(DONE),
        Err(failure) => failure.report(),
    }
}

fn run(flags: &Flags) -> Result<(), Failure> {
    let config = Config::load(flags, std::env::vars())?;
    // Its client shows whole answers that it cannot read; Secrets may be among them.
    daemon::telemetry::init(&format!("{},kube_client::client=off", config.log))
        .map_err(|e| Failure::new(BAD_CONFIG, format!("log: {e}")))?;
    daemon::tls::install_provider();
    daemon::descriptors::raise_limit();
    tracing::debug!(?config, "configuration");
    let config = Arc::new(Mutex::new(config));
    daemon::lives::run(
        || tokio::runtime::Builder::new_multi_thread().enable_all().build(),
        |stop| live(Arc::clone(&config), stop),
    )
}

/// From the start to the stop, or to the damage of the store; the next life is on the ports of this one.
async fn live(config: Arc<Mutex<Config>>, stop: CancellationToken) -> Result<(), End> {
    let wanted = config.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let start = async { Bound::new(wanted).await?.run().await };
    let hub = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        hub = start => hub?,
    };
    let at = hub.addresses();
    {
        let mut config = config.lock().unwrap_or_else(PoisonError::into_inner);
        (config.listen, config.api, config.health) = (at.listen, at.api, at.health);
    }
    daemon::signal::notify_ready();
    let broken = tokio::select! {
        () = stop.cancelled() => None,
        why = hub.broken() => Some(why),
    };
    if !hub.stop().await {
        tracing::warn!("Something did not end in time.");
    }
    broken.map_or(Ok(()), |why| Err(End::Damaged(Failure::new(FAILED, why))))
}
