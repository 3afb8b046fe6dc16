//! The gateway's daemon: reads flags and configuration, runs the agent.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use daemon::exit::{BAD_CONFIG, DONE, FAILED, Failure, USAGE};
use edgecore::Config;

/// The Kurator agent of one gateway: its devices, its local API, its link to the hub.
#[derive(Parser)]
#[command(
    name = "edgecore",
    version,
    after_help = "Example: edgecore --config-dir /tmp/gw/etc --data-dir /tmp/gw/data"
)]
struct Flags {
    /// Configuration file instead of <config-dir>/edgecore.yaml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of edgecore.yaml, pki/ and edge.kubeconfig.
    #[arg(long, value_name = "DIR", default_value = edgecore::CONFIG_DIR)]
    config_dir: PathBuf,
    /// Folder of the store.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Log filter, such as "info" or "edgecore=debug".
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

fn main() -> ExitCode {
    let flags = match Flags::try_parse() {
        Ok(flags) => flags,
        Err(e) => {
            let code = if e.use_stderr() { USAGE } else { DONE };
            return e.print().map_or(ExitCode::from(FAILED), |()| ExitCode::from(code));
        }
    };
    match start(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn start(flags: Flags) -> Result<(), Failure> {
    let bad = |e: &dyn std::fmt::Display| {
        Failure::new(BAD_CONFIG, e.to_string()).hint("`kurator check` looks at the configuration and the machine")
    };
    let mut config = Config::load(flags.config.as_deref(), &flags.config_dir, std::env::vars()).map_err(|e| bad(&e))?;
    config.data_dir = flags.data_dir.unwrap_or(config.data_dir);
    config.log = flags.log.unwrap_or(config.log);
    daemon::telemetry::init(&config.log).map_err(|e| bad(&e))?;
    let config = config.checked().map_err(|e| bad(&e))?;
    daemon::descriptors::raise_limit();
    edgecore::run(config)
}
