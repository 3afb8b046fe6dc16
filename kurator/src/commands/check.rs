//! `kurator check`: looks at this gateway, one line a finding, each that is not well with its fix. It changes nothing.
//!
//! [`CHECKS`] is the table: a name and a function from the [`Site`] to findings, run in this order. What a check reads of the machine it
//! reads below the site's root, so that a test can give it another machine.

mod agent;
mod hub;
mod identity;
mod machine;

use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon::exit::{FAILED, Failure};
use edgecore::{Config, ConfigFault};
use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use link::TimeFloor;
use link::pki::{Identity, PkiError, load_identity};
use serde_json::{Value, json};

use crate::cli::{CheckArgs, Global, Output};
use crate::{output, say};

pub use agent::ask;

/// For one connection to an agent's own port.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

/// A verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ok,
    /// It works, but not as well as it could, or not for long.
    Warn,
    Fail,
}

impl State {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// What a check found.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    state: State,
    found: String,
    /// What to do; empty when it is well.
    fix: String,
}

fn ok(found: impl Into<String>) -> Finding {
    Finding {
        state: State::Ok,
        found: found.into(),
        fix: String::new(),
    }
}

fn warn(found: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding {
        state: State::Warn,
        found: found.into(),
        fix: fix.into(),
    }
}

fn fail(found: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding {
        state: State::Fail,
        found: found.into(),
        fix: fix.into(),
    }
}

/// What is looked at.
struct Site {
    config_dir: PathBuf,
    /// The agent's configuration, read and judged as the agent does it.
    config: Result<Config, ConfigFault>,
    identity: Result<Identity, PkiError>,
    /// `/`, or a test's machine.
    root: PathBuf,
    /// The machine's wall clock, milliseconds since 1970.
    now_ms: u64,
    /// The latest time that a certificate proves; raised by every hub that was reached.
    proven: TimeFloor,
}

impl Site {
    fn new(config_dir: &Path, env: impl IntoIterator<Item = (String, String)>) -> Self {
        let file = config_dir.join("edgecore.yaml");
        let config = Config::load(Some(&file), config_dir, env).and_then(Config::checked);
        let pki = config
            .as_ref()
            .map_or_else(|_| config_dir.join("pki"), |config| config.pki.clone());
        Self {
            config_dir: config_dir.to_owned(),
            config,
            identity: load_identity(&pki),
            root: PathBuf::from("/"),
            now_ms: daemon::clock::wall_ms(),
            proven: TimeFloor::default(),
        }
    }

    /// The configuration, or the defaults where it cannot be read: a machine can be looked at before it joins.
    fn config(&self) -> Config {
        self.config.as_ref().ok().cloned().unwrap_or_default()
    }

    /// A path of the machine, such as `proc/meminfo`.
    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

type Findings<'a> = LocalBoxFuture<'a, Vec<Finding>>;

enum Look {
    Now(fn(&Site) -> Vec<Finding>),
    Later(for<'a> fn(&'a Site) -> Findings<'a>),
}

/// Every check, in the order of the report. The clock comes after the hub, which may know the time better.
const CHECKS: &[(&str, Look)] = &[
    ("configuration", Look::Now(identity::configuration)),
    ("identity", Look::Now(identity::identity)),
    ("permissions", Look::Now(identity::permissions)),
    ("hub", Look::Later(|site| hub::hubs(site).boxed_local())),
    ("clock", Look::Now(machine::clock)),
    ("agent", Look::Later(|site| agent::agent(site).boxed_local())),
    ("link", Look::Later(|site| agent::link(site).boxed_local())),
    ("ports", Look::Now(agent::ports)),
    ("disk space", Look::Now(machine::disk_space)),
    ("disk speed", Look::Now(machine::disk_speed)),
    ("memory", Look::Now(machine::memory)),
    ("kubeedge", Look::Now(machine::kubeedge)),
    ("containers", Look::Now(machine::containers)),
    ("cgroups", Look::Now(machine::cgroups)),
];

pub(crate) async fn run(global: &Global, arguments: CheckArgs) -> Result<(), Failure> {
    let site = Site::new(&arguments.config_dir, std::env::vars());
    let mut report = Vec::new();
    for (name, look) in CHECKS {
        let findings = match look {
            Look::Now(look) => look(&site),
            Look::Later(look) => look(&site).await,
        };
        report.extend(findings.into_iter().map(|finding| (*name, finding)));
    }
    print(global.output, &report)?;
    match report.iter().filter(|(_, f)| f.state == State::Fail).count() {
        0 => Ok(()),
        n => Err(Failure::new(FAILED, format!("{n} check(s) failed")).hint("the FIX column says what to do")),
    }
}

fn print(form: Output, report: &[(&str, Finding)]) -> Result<(), Failure> {
    let value = || {
        let one = |(name, f): &(&str, Finding)| json!({"check": name, "state": f.state.word().to_lowercase(), "found": f.found, "fix": f.fix});
        Value::Array(report.iter().map(one).collect())
    };
    match form {
        Output::Json => say::text(&output::json(&value())),
        Output::Yaml => say::text(&output::yaml(&value())?),
        Output::Name => report
            .iter()
            .filter(|(_, f)| f.state != State::Ok)
            .for_each(|(name, _)| say::line(name)),
        Output::Table | Output::Wide => {
            let row = |(name, f): &(&str, Finding)| {
                vec![
                    (*name).to_owned(),
                    f.state.word().to_owned(),
                    f.found.clone(),
                    f.fix.clone(),
                ]
            };
            let rows: Vec<Vec<String>> = report.iter().map(row).collect();
            say::text(&output::columns(&["CHECK", "", "FOUND", "FIX"], &rows));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_well_comes_with_a_fix() {
        let dir = tempfile::tempdir().unwrap();
        let site = Site::new(dir.path(), []);
        for (name, look) in CHECKS {
            let Look::Now(look) = look else { continue };
            let findings = look(&site);
            for f in &findings {
                assert_eq!(f.state == State::Ok, f.fix.is_empty(), "{name}: {f:?}");
                assert!(!f.found.is_empty() && !f.found.contains('\n'), "{name}: {f:?}");
            }
        }
    }
}
