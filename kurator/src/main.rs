//! The `kurator` program: reads the command line, runs one command, ends with its exit code.

use std::process::ExitCode;

use clap::Parser;
use daemon::exit::{BAD_CONFIG, BAD_INPUT, DONE, Failure, USAGE};
use kurator::cli::Cli;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return answer(&e),
    };
    daemon::tls::install_provider();
    match kurator::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => with_hint(failure).report(),
    }
}

/// Help and version are answers; everything else is a usage error, told as every error is: what in one line, what to do in one.
fn answer(e: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    if !e.use_stderr() || e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        drop(e.print());
        let code = if e.use_stderr() { USAGE } else { DONE };
        return ExitCode::from(code);
    }
    let text = e.to_string();
    let paragraphs: Vec<String> = text
        .split("\n\n")
        .map(|p| p.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let after = |lead: &str| paragraphs.iter().find_map(|p| p.strip_prefix(lead));
    let what = after("error: ").unwrap_or("the command line is wrong");
    let mut hint = after("tip: ").map(|tip| format!("{tip}; ")).unwrap_or_default();
    if let Some(usage) = after("Usage: ") {
        hint.push_str(&format!("usage: {usage}; "));
    }
    Failure::new(USAGE, what)
        .hint(format!("{hint}--help says more"))
        .report()
}

/// No error without a word on what to do.
fn with_hint(failure: Failure) -> Failure {
    if failure.hint.is_some() {
        return failure;
    }
    let hint = match failure.code {
        BAD_INPUT => "correct it and try again; --help shows an example",
        BAD_CONFIG => "mend it and try again",
        _ => "--log debug says more, and so does the log of the hub or the agent",
    };
    failure.hint(hint)
}
