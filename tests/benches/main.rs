//! The bench: one table, target beside measured, printed and stored in `tests/benches/RESULTS.md` with date, machine and method.
//!
//! `bench [--quick] [GROUP …]` runs all groups or those named; `bench --help` names them. Release programs are expected beside it.
//! `bench --server URL --kubeconfig FILE [--pid N …]` sends the API's load to another server instead.
//! Nothing here asserts a time; it writes down what it saw.

mod api;
mod edge;
mod federation;
mod fleet;
mod idle;
mod latency;
mod process;
mod report;
mod size;
mod workloads;

use std::path::PathBuf;
use std::process::ExitCode;

use daemon::exit::{FAILED, Failure, USAGE};
use report::Report;

/// What a run was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Smaller numbers, for seeing that the bench itself works.
    quick: bool,
}

/// The groups, in the order they run.
const GROUPS: [&str; 9] = [
    "size",
    "edge",
    "latency",
    "rate",
    "idle",
    "api",
    "workloads",
    "fleet",
    "federation",
];

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Help,
    Run {
        quick: bool,
        groups: Vec<String>,
    },
    /// The API's load on another server.
    Other {
        quick: bool,
        url: String,
        kubeconfig: PathBuf,
        pids: Vec<u32>,
    },
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Asked, String> {
    let (mut quick, mut groups) = (false, Vec::new());
    let (mut server, mut kubeconfig, mut pids) = (None, None, Vec::new());
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "-h" | "--help" => return Ok(Asked::Help),
            "--quick" => quick = true,
            "--server" => server = Some(value()?),
            "--kubeconfig" => kubeconfig = Some(PathBuf::from(value()?)),
            "--pid" => pids.push(value()?.parse().map_err(|_| "a process id is a number".to_owned())?),
            name if GROUPS.contains(&name) => groups.push(argument),
            name => return Err(format!("no group or option {name:?}")),
        }
    }
    match (server, kubeconfig) {
        (None, None) => Ok(Asked::Run { quick, groups }),
        (Some(url), Some(kubeconfig)) => Ok(Asked::Other {
            quick,
            url,
            kubeconfig,
            pids,
        }),
        _ => Err("another server needs --server and --kubeconfig".to_owned()),
    }
}

fn usage() -> String {
    format!(
        "Usage: bench [--quick] [GROUP ...]\n\nGroups: {}; all of them when none is named.\n\
         --quick takes smaller numbers, for seeing that the bench itself works.\n\
         Only a full run without --quick is stored in tests/benches/RESULTS.md.\n\
         --server URL --kubeconfig FILE [--pid N ...] sends the API's load to another server, a kube-apiserver say.\n\nExample: bench --quick latency rate\n",
        GROUPS.join(" ")
    )
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok(Asked::Help) => {
            report::print(&usage());
            ExitCode::SUCCESS
        }
        Err(what) => Failure::new(USAGE, what)
            .hint(format!("groups are {}; bench --help says more", GROUPS.join(" ")))
            .report(),
        Ok(asked) => match run(asked) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => Failure::new(FAILED, format!("{e:#}")).report(),
        },
    }
}

fn run(asked: Asked) -> anyhow::Result<()> {
    daemon::tls::install_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut report = Report::new();
    let (quick, names) = match asked {
        Asked::Help => return Ok(()),
        Asked::Run { quick, groups } => (quick, groups),
        Asked::Other {
            quick,
            url,
            kubeconfig,
            pids,
        } => {
            runtime.block_on(api::other(&mut report, Plan { quick }, kubeconfig, url, pids))?;
            report::print(&report.table());
            return Ok(());
        }
    };
    let plan = Plan { quick };
    runtime.block_on(async {
        let wants = |name: &str| names.is_empty() || names.iter().any(|n| n == name);
        if wants("size") {
            group("size", size::run(&mut report));
        }
        if wants("edge") {
            group("edge", edge::run(&mut report, plan).await);
        }
        if wants("latency") {
            group("latency", latency::run(&mut report, plan).await);
        }
        if wants("rate") {
            group("rate", latency::rate(&mut report, plan).await);
        }
        if wants("idle") {
            group("idle", idle::run(&mut report, plan).await);
        }
        if wants("api") {
            group("api", api::run(&mut report, plan).await);
        }
        if wants("workloads") {
            group("workloads", workloads::run(&mut report, plan));
        }
        if wants("fleet") {
            group("fleet", fleet::run(&mut report, plan).await);
        }
        if wants("federation") {
            group("federation", federation::run(&mut report, plan).await);
        }
    });
    let table = report.table();
    report::print(&table);
    if names.is_empty() && !quick {
        report.store(&table)?;
    }
    Ok(())
}

/// A group that fails is told and leaves its figures out; the others go on.
fn group(name: &str, outcome: anyhow::Result<()>) {
    if let Err(e) = outcome {
        report::print(&format!("group {name} failed: {e:#}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Result<Asked, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_name_that_is_no_group_is_refused_and_help_runs_nothing() {
        assert_eq!(
            asked("--quick size rate"),
            Ok(Asked::Run {
                quick: true,
                groups: vec!["size".into(), "rate".into()]
            })
        );
        assert_eq!(
            asked(""),
            Ok(Asked::Run {
                quick: false,
                groups: vec![]
            })
        );
        assert_eq!(asked("size --help"), Ok(Asked::Help));
        assert_eq!(
            asked("--server https://h:1 --kubeconfig f --pid 7"),
            Ok(Asked::Other {
                quick: false,
                url: "https://h:1".into(),
                kubeconfig: "f".into(),
                pids: vec![7]
            })
        );
        for bad in ["sizes", "--fast", "size latencies", "--server https://h:1", "--pid"] {
            assert!(asked(bad).is_err(), "{bad}");
        }
        assert!(GROUPS.iter().all(|g| usage().contains(g)));
    }
}
