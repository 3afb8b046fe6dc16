//! The gateway's daemon: reads flags and configuration, runs the agent.

mod flags;

use std::io::Write as _;
use std::process::ExitCode;

use daemon::exit::{BAD_CONFIG, FAILED, Failure, USAGE};
use edgecore::Config;

use crate::flags::{Flags, Instead};

fn main() -> ExitCode {
    daemon::heap::share_one();
    daemon::names::without_plugins();
    let flags = match Flags::parse(std::env::args_os().skip(1)) {
        Ok(flags) => flags,
        Err(Instead::Print(page)) => {
            let printed = std::io::stdout().write_all(page.as_bytes());
            return printed.map_or(ExitCode::from(FAILED), |()| ExitCode::SUCCESS);
        }
        Err(Instead::Refuse(why)) => return Failure::new(USAGE, why).report(),
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
