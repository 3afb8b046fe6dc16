//! The hub's program: reads what it is told, runs a [`cloudhub::Hub`] until it is asked to stop.

use std::process::ExitCode;

use clap::Parser;
use cloudhub::{Bound, Config, Flags};
use daemon::exit::{BAD_CONFIG, DONE, FAILED, Failure, USAGE};

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
    daemon::telemetry::init(&config.log).map_err(|e| Failure::new(BAD_CONFIG, format!("log: {e}")))?;
    daemon::tls::install_provider();
    daemon::descriptors::raise_limit();
    tracing::debug!(?config, "configuration");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(FAILED, format!("cannot start: {e}")))?;
    runtime.block_on(async {
        let stop = daemon::signal::stop_requested();
        let hub = Bound::new(config).await?.run().await?;
        daemon::signal::notify_ready();
        let broken = tokio::select! {
            signal = stop => {
                tracing::info!(signal = signal.unwrap_or("none"), "stopping");
                None
            }
            why = hub.broken() => Some(why),
        };
        daemon::signal::notify_stopping();
        if !hub.stop().await {
            tracing::warn!("Something did not end in time.");
        }
        broken.map_or(Ok(()), |why| {
            Err(Failure::new(FAILED, why).hint("start it again: a damaged store is set aside"))
        })
    })
}
