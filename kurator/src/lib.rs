//! The command line of Kurator Edge: joins gateways, looks at them, edits twins, shows it all in a demo.
//!
//! Every command speaks to the same API that `kubectl` does; nothing here has a door of its own. One file per command in
//! `commands`; [`cli`] is the grammar, [`client`] finds and calls the API, [`output`] prints.

use daemon::exit::Failure;

pub mod cli;
pub mod client;
mod commands;
pub mod output;
pub mod relay;
mod say;

pub use commands::check::ask;

use cli::{Cli, Command, GetArgs, JoinTarget, ResetTarget};

/// Runs one command to its end.
///
/// # Errors
/// What went wrong, with the exit code and a hint.
pub fn run(cli: Cli) -> Result<(), Failure> {
    let global = cli.global;
    if let Some(filter) = &global.log {
        daemon::telemetry::init(filter).map_err(|e| {
            Failure::new(daemon::exit::USAGE, format!("--log {filter}: {e}")).hint("for example --log info")
        })?;
    }
    match cli.command {
        Command::Completion { shell } => {
            commands::completion(shell);
            return Ok(());
        }
        Command::Version => {
            commands::version();
            return Ok(());
        }
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(daemon::exit::FAILED, format!("cannot start: {e}")))?;
    runtime.block_on(async move {
        match cli.command {
            Command::Token(action) => commands::token::run(&global, action).await,
            Command::Join {
                target: JoinTarget::Edge(arguments),
            } => commands::join::run(arguments).await,
            Command::Join {
                target: JoinTarget::Karmada(arguments),
            } => commands::join::karmada::run(&global, arguments).await,
            Command::Reset {
                target: ResetTarget::Edge(arguments),
            } => commands::reset::run(&arguments),
            Command::Node(action) => commands::node::run(&global, action).await,
            Command::Get(GetArgs {
                what,
                name,
                selector,
                all_namespaces,
            }) => commands::get::run(&global, &what, name.as_deref(), selector.as_deref(), all_namespaces).await,
            Command::Describe { what, name } => commands::describe::run(&global, &what, &name).await,
            Command::Exec(arguments) => commands::exec::run(&global, arguments).await,
            Command::Logs(arguments) => commands::logs::run(&global, arguments).await,
            Command::Top(target) => commands::top::run(&global, target).await,
            Command::Twin(action) => commands::twin::run(&global, action).await,
            Command::Why(arguments) => commands::why::run(&global, &arguments.what, &arguments.name).await,
            Command::Check(arguments) => commands::check::run(&global, arguments).await,
            Command::Demo(arguments) => commands::demo::run(arguments).await,
            Command::Completion { .. } | Command::Version => unreachable!("answered above, without a runtime"),
        }
    })
}
