//! The grammar of the command line.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

/// A gateway's store, when nothing says otherwise.
pub(crate) const DATA_DIR: &str = "/var/lib/kurator";

/// Kurator Edge: every factory gateway a one-node Kubernetes cluster.
#[derive(Debug, Parser)]
#[command(
    name = "kurator",
    version,
    about,
    propagate_version = true,
    disable_help_subcommand = true
)]
#[command(after_help = "Example:\n  kurator token create --node gw-1 | ssh root@gw-1 kurator join edge -")]
pub struct Cli {
    /// Options every command knows.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options every command knows.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Kubeconfig of the hub or gateway [default: $KUBECONFIG, this machine's hub, this gateway, ~/.kube/config].
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Ask this gateway through the hub (the hub's /clusters/NAME).
    #[arg(long, global = true, value_name = "GATEWAY", value_parser = name)]
    pub gateway: Option<String>,
    /// Namespace.
    #[arg(short, long, global = true, default_value = "default", value_parser = name)]
    pub namespace: String,
    /// Output form.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Log filter, for example `debug`.
    #[arg(long, global = true, value_name = "FILTER")]
    pub log: Option<String>,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns.
    Table,
    /// More columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Names only.
    Name,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make, list or revoke join tokens.
    #[command(subcommand, after_help = "Example:\n  kurator token create --node gw-1 --ttl 15m")]
    Token(TokenAction),
    /// Make this machine a member of a hub, or a hub one of Karmada.
    #[command(
        after_help = "Examples:\n  kurator join edge --token-file /run/token --node-name gw-1\n  kurator join karmada --kubeconfig karmada-apiserver.config"
    )]
    Join {
        /// What to join as.
        #[command(subcommand)]
        target: JoinTarget,
    },
    /// Undo a join.
    #[command(after_help = "Example:\n  kurator reset edge --yes")]
    Reset {
        /// What to reset.
        #[command(subcommand)]
        target: ResetTarget,
    },
    /// Act on an enrolled gateway's identity.
    #[command(subcommand, after_help = "Example:\n  kurator node revoke gw-1")]
    Node(NodeAction),
    /// List or show objects of any kind.
    #[command(
        after_help = "Examples:\n  kurator get nodes -o wide\n  kurator get devices press-01 -o yaml\n  kurator get policies -A -o wide"
    )]
    Get(GetArgs),
    /// Show one object with its conditions and what happened to it.
    #[command(after_help = "Example:\n  kurator describe pod web-1\n  kurator --gateway gw-1 describe deployment web")]
    Describe {
        /// Kind: plural, singular or short name.
        what: String,
        /// The object.
        #[arg(value_parser = name)]
        name: String,
    },
    /// Run a command in a container.
    #[command(after_help = "Example:\n  kurator --gateway gw-1 exec -it web-1 -- sh")]
    Exec(ExecArgs),
    /// Print what a container said.
    #[command(after_help = "Example:\n  kurator --gateway gw-1 logs web-1 -f --tail 20")]
    Logs(LogsArgs),
    /// Show what nodes or pods use.
    #[command(subcommand, after_help = "Example:\n  kurator --gateway gw-1 top pods -A")]
    Top(TopTarget),
    /// Read, edit and follow device twins.
    #[command(
        subcommand,
        after_help = "Example:\n  kurator twin set press-01 setpoint=80 --wait 10s"
    )]
    Twin(TwinAction),
    /// Explain where something stands: the chain of hops, and the one that waits.
    #[command(
        after_help = "Examples:\n  kurator why device press-01.setpoint\n  kurator why deployment web\n  kurator --gateway gw-1 why deployment web"
    )]
    Why(WhyArgs),
    /// Check this gateway: what is wrong, and the fix for it.
    #[command(after_help = "Example:\n  kurator check")]
    Check(CheckArgs),
    /// Show it all on this machine, without root: hub, gateway, a simulated press, a cut cable.
    #[command(after_help = "Example:\n  kurator demo\n  kurator demo --once")]
    Demo(DemoArgs),
    /// Print a completion script.
    #[command(after_help = "Example:\n  kurator completion bash > /etc/bash_completion.d/kurator")]
    Completion {
        /// The shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the version.
    Version,
}

/// `kurator token …`
#[derive(Debug, Subcommand)]
pub enum TokenAction {
    /// Print a new token, alone, on standard output.
    Create {
        /// Only this gateway may use it.
        #[arg(long, value_name = "NAME", value_parser = node_name)]
        node: Option<String>,
        /// How long it is good for.
        #[arg(long, default_value = "15m", value_parser = ttl)]
        ttl: Duration,
        /// How many gateways may join with it.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        uses: u32,
        /// Labels that gateways joining with it get.
        #[arg(long, value_name = "K=V,…", value_delimiter = ',', value_parser = label)]
        labels: Vec<(String, String)>,
    },
    /// List tokens; secrets are not kept and cannot be shown.
    List,
    /// Revoke a token.
    Revoke {
        /// Its id, as `token list` shows it.
        #[arg(value_parser = name)]
        id: String,
    },
}

/// `kurator join …`
#[derive(Debug, Subcommand)]
pub enum JoinTarget {
    /// As a gateway.
    Edge(JoinArgs),
    /// Check a Karmada control plane, and give a hub an identity there that may do what a hub does and nothing else.
    #[command(
        after_help = "Example:\n  kurator join karmada --kubeconfig /etc/karmada/karmada-apiserver.config --hub-kubeconfig hub.kubeconfig\n  cloudhub --upstream karmada --kubeconfig hub.kubeconfig"
    )]
    Karmada(JoinKarmadaArgs),
}

/// `kurator join karmada`; the administrator's kubeconfig is `--kubeconfig`.
#[derive(Debug, Args)]
pub struct JoinKarmadaArgs {
    /// Where the hub's kubeconfig goes [default: kurator-NAME.kubeconfig, here].
    #[arg(long, value_name = "FILE")]
    pub hub_kubeconfig: Option<PathBuf>,
    /// Context of the administrator's kubeconfig [default: its current one].
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// The hub's name in Karmada: its account is kurator-NAME.
    #[arg(long, value_name = "NAME", default_value = "hub", value_parser = hub_name)]
    pub hub: String,
    /// Have the control plane check everything, and write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Karmada's cluster proxy shall not reach gateways: the hub may not write Secrets.
    #[arg(long)]
    pub no_proxy: bool,
}

/// `kurator join edge`
#[derive(Debug, Args)]
pub struct JoinArgs {
    /// The token, or `-` to read it from standard input.
    #[arg(conflicts_with = "token_file", required_unless_present = "token_file")]
    pub token: Option<String>,
    /// A file with the token.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// This gateway's name [default: the host's name].
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Labels for this gateway.
    #[arg(long, value_name = "K=V,…", value_delimiter = ',', value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// The site this gateway stands at: gateways of one site are one cluster above. A site in the token's labels counts over it.
    #[arg(long, value_name = "SITE")]
    pub site: Option<String>,
    /// Where configuration and keys go.
    #[arg(long, default_value = "/etc/kurator", value_name = "DIR")]
    pub config_dir: PathBuf,
    /// Where the store goes [default: where it is already, else /var/lib/kurator].
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Enrol and write the configuration; start nothing.
    #[arg(long)]
    pub no_service: bool,
    /// Say what would be done; contact nobody, write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Get a new identity from the same hub although this machine has one: after it was revoked or ran out. Devices and data stay.
    #[arg(long)]
    pub again: bool,
}

/// `kurator reset …`
#[derive(Debug, Subcommand)]
pub enum ResetTarget {
    /// Removes this gateway's identity, configuration and store.
    Edge(ResetArgs),
}

/// `kurator reset edge`
#[derive(Debug, Args)]
pub struct ResetArgs {
    /// Where configuration and keys are.
    #[arg(long, default_value = "/etc/kurator", value_name = "DIR")]
    pub config_dir: PathBuf,
    /// Where the store is [default: where edgecore.yaml says, else /var/lib/kurator].
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Do it.
    #[arg(long)]
    pub yes: bool,
}

/// `kurator node …`
#[derive(Debug, Subcommand)]
pub enum NodeAction {
    /// Revoke a gateway's identity: its session ends at once, and its certificates open nothing any more.
    Revoke {
        /// The gateway.
        #[arg(value_parser = name)]
        name: String,
    },
}

/// `kurator get`
#[derive(Debug, Args)]
pub struct GetArgs {
    /// Kind: plural, singular or short name; `nodes` on a hub shows gateways, `policies` those that distribute, of both kinds.
    pub what: String,
    /// One object.
    #[arg(value_parser = name)]
    pub name: Option<String>,
    /// Label selector.
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// All namespaces.
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}

/// `kurator exec`
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// The pod.
    #[arg(value_parser = name)]
    pub pod: String,
    /// Its container, where it has several.
    #[arg(short, long, value_name = "NAME", value_parser = name)]
    pub container: Option<String>,
    /// Pass standard input on.
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Give it a terminal.
    #[arg(short, long)]
    pub tty: bool,
    /// The command and its arguments.
    #[arg(required = true, last = true)]
    pub command: Vec<String>,
}

/// `kurator logs`
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The pod.
    #[arg(value_parser = name)]
    pub pod: String,
    /// Its container, where it has several.
    #[arg(short, long, value_name = "NAME", value_parser = name)]
    pub container: Option<String>,
    /// Go on printing what comes, until the container ends.
    #[arg(short, long)]
    pub follow: bool,
    /// Of the container before this one.
    #[arg(short, long)]
    pub previous: bool,
    /// The time before each line.
    #[arg(long)]
    pub timestamps: bool,
    /// So many lines from the end.
    #[arg(long, value_name = "LINES")]
    pub tail: Option<u64>,
    /// Nothing older than this.
    #[arg(long, value_parser = duration)]
    pub since: Option<Duration>,
}

/// `kurator top …`
#[derive(Debug, Subcommand)]
pub enum TopTarget {
    /// Nodes.
    #[command(alias = "node")]
    Nodes {
        /// One of them.
        #[arg(value_parser = name)]
        name: Option<String>,
    },
    /// Pods.
    #[command(alias = "pod")]
    Pods {
        /// One of them.
        #[arg(value_parser = name)]
        name: Option<String>,
        /// All namespaces.
        #[arg(short = 'A', long)]
        all_namespaces: bool,
    },
}

/// `kurator twin …`
#[derive(Debug, Subcommand)]
pub enum TwinAction {
    /// Show desired and reported values.
    Get {
        /// The device.
        #[arg(value_parser = name)]
        device: String,
        /// One property.
        property: Option<String>,
    },
    /// Set desired values.
    Set {
        /// The device.
        #[arg(value_parser = name)]
        device: String,
        /// `property=value`.
        #[arg(required = true, value_parser = assignment)]
        values: Vec<(String, String)>,
        /// Wait until the device reported them, at most this long.
        #[arg(long, value_parser = duration)]
        wait: Option<Duration>,
    },
    /// Print each change as it comes.
    Watch {
        /// The device.
        #[arg(value_parser = name)]
        device: String,
    },
    /// Show only what differs.
    Diff {
        /// The device.
        #[arg(value_parser = name)]
        device: String,
    },
}

/// `kurator why`
#[derive(Debug, Args)]
pub struct WhyArgs {
    /// What it is: one of these, or any other kind that a policy distributes.
    #[arg(value_name = "KIND", value_parser = Kinds)]
    pub what: String,
    /// Its name; of a device also `NAME.PROPERTY`.
    #[arg(value_parser = name)]
    pub name: String,
}

/// Any kind; those that people ask for are shown and completed.
#[derive(Clone, Copy, Debug)]
struct Kinds;

impl TypedValueParser for Kinds {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        TypedValueParser::parse_ref(&name, command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let kinds = [
            ("device", "A device, or one of its properties"),
            ("pod", "A pod, asked of its gateway"),
            ("node", "A gateway"),
            ("deployment", "From its policy to its pods on each gateway"),
            ("daemonset", "From its policy to its pods on each gateway"),
            ("statefulset", "From its policy to its pods on each gateway"),
            ("job", "From its policy to its pods on each gateway"),
            ("configmap", "From its policy to each gateway"),
        ];
        Some(Box::new(
            kinds
                .into_iter()
                .map(|(kind, help)| PossibleValue::new(kind).help(help)),
        ))
    }
}

/// `kurator check`
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Where configuration and keys are.
    #[arg(long, default_value = "/etc/kurator", value_name = "DIR")]
    pub config_dir: PathBuf,
}

/// `kurator demo`
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// End after the last step instead of staying until Ctrl-C.
    #[arg(long)]
    pub once: bool,
}

/// `90s`, `15m`, `2h`, `7d`, or plain seconds.
///
/// # Errors
/// What a duration looks like.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration: write 500ms, 90s, 15m, 2h or 7d");
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "d" => number.checked_mul(86_400_000),
        _ => None,
    };
    milliseconds
        .filter(|ms| *ms > 0)
        .map(Duration::from_millis)
        .ok_or_else(bad)
}

/// How long a token may live: what the hub takes.
fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = duration(text)?;
    if (Duration::from_secs(1)..=Duration::from_secs(365 * 86_400)).contains(&ttl) {
        Ok(ttl)
    } else {
        Err(format!("{text:?} is not between 1s and 365d"))
    }
}

/// A name as it may stand in a path of the API: it names one object and nothing else.
fn name(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-._:@~".contains(c);
    if text.is_empty() || text.len() > 253 || text.chars().all(|c| c == '.') || !text.chars().all(good) {
        return Err(format!("{text:?} cannot be a name: letters, digits, - and ."));
    }
    Ok(text.to_owned())
}

/// Part of the names of a hub's objects in Karmada.
fn hub_name(text: &str) -> Result<String, String> {
    let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if text.is_empty() || text.len() > 40 || !text.chars().all(label) || text.starts_with('-') || text.ends_with('-') {
        return Err(format!(
            "{text:?} cannot be a hub's name: at most 40 lower-case letters, digits and -"
        ));
    }
    Ok(text.to_owned())
}

fn node_name(text: &str) -> Result<String, String> {
    if link::pki::is_node_name(text) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "{text:?} cannot be a gateway's name: lower-case letters, digits, - and . as in a DNS name"
        ))
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not a label: write key=value")),
    }
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not an assignment: write property=value")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_sound_and_every_command_shows_an_example() {
        Cli::command().debug_assert();
        for sub in Cli::command().get_subcommands() {
            let shown = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                sub.get_name() == "version" || shown.contains("Example"),
                "{} has no example",
                sub.get_name()
            );
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        for bad in ["", "0s", "-1s", "1.5h", "9999999999999999999d", "5 m", "m"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_stay_within_their_segment_of_a_path() {
        for bad in ["", ".", "..", "a/b", "../nodes", "a b", "a?b", "a%2fb", "a&b", "ü"] {
            assert!(name(bad).is_err(), "{bad}");
            assert!(
                Cli::try_parse_from(["kurator", "token", "revoke", bad]).is_err(),
                "{bad}"
            );
            assert!(
                Cli::try_parse_from(["kurator", "node", "revoke", bad]).is_err(),
                "{bad}"
            );
            assert!(
                Cli::try_parse_from(["kurator", "get", "devices", bad]).is_err(),
                "{bad}"
            );
            assert!(
                Cli::try_parse_from(["kurator", "get", "devices", "-n", bad]).is_err(),
                "{bad}"
            );
            assert!(
                Cli::try_parse_from(["kurator", "--gateway", bad, "get", "nodes"]).is_err(),
                "{bad}"
            );
            for verb in ["get", "watch", "diff"] {
                assert!(Cli::try_parse_from(["kurator", "twin", verb, bad]).is_err(), "{bad}");
            }
            assert!(Cli::try_parse_from(["kurator", "why", "device", bad]).is_err(), "{bad}");
        }
        for good in ["press-01", "system:node:gw-1", "a.b.c"] {
            assert_eq!(name(good).as_deref(), Ok(good));
        }
        assert!(ttl("366d").is_err() && ttl("500ms").is_err() && ttl("365d").is_ok());
        assert!(Cli::try_parse_from(["kurator", "token", "create", "--node", "GW_1"]).is_err());
    }

    #[test]
    fn a_token_may_come_from_one_place_only() {
        assert!(Cli::try_parse_from(["kurator", "join", "edge"]).is_err());
        assert!(Cli::try_parse_from(["kurator", "join", "edge", "kj1.x", "--token-file", "f"]).is_err());
        assert!(Cli::try_parse_from(["kurator", "join", "edge", "-"]).is_ok());
    }

    #[test]
    fn a_hub_joins_karmada_under_a_name_that_accounts_can_have() {
        assert!(Cli::try_parse_from(["kurator", "join", "karmada", "--kubeconfig", "f", "--no-proxy"]).is_ok());
        assert!(Cli::try_parse_from(["kurator", "join", "karmada", "--hub", "east-2"]).is_ok());
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", "a:b", &"x".repeat(41)] {
            assert!(
                Cli::try_parse_from(["kurator", "join", "karmada", "--hub", bad]).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn why_knows_any_kind_and_completes_some() {
        for what in ["device", "deployment", "ConfigMap", "widgets.example.com"] {
            assert!(Cli::try_parse_from(["kurator", "why", what, "x"]).is_ok(), "{what}");
        }
        assert!(Cli::try_parse_from(["kurator", "why", "a/b", "x"]).is_err());
        assert!(Cli::try_parse_from(["kurator", "why", "deployment"]).is_err());
        let shown: Vec<_> = Kinds.possible_values().unwrap().collect();
        assert!(shown.iter().any(|kind| kind.get_name() == "deployment"));
    }
}
