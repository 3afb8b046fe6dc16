//! The `kurator` program: reads the command line, runs one command, ends with its exit code.

use std::process::ExitCode;

use clap::Parser;
use kurator::cli::Cli;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are answers; everything else is a usage error.
            let code = if e.use_stderr() {
                daemon::exit::USAGE
            } else {
                daemon::exit::DONE
            };
            drop(e.print());
            return ExitCode::from(code);
        }
    };
    daemon::tls::install_provider();
    match kurator::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
