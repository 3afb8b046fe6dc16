//! What the hub can be told: file < environment (`CLOUDHUB__…`) < flags. Pure: nothing is bound or opened here.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon::exit::{BAD_CONFIG, Failure};
use metastore::store::JournalBound;
use serde::{Deserialize, Serialize};

/// The file that is read when it is there and `--config` names no other.
pub const DEFAULT_FILE: &str = "/etc/kurator/cloudhub.yaml";

/// The hub's whole configuration; every field has a default, so an empty file is a working hub.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// Where the store, the keys and the admin kubeconfig live.
    pub data_dir: PathBuf,
    /// The gateways' port: QUIC on UDP, TLS on TCP, one number.
    pub listen: SocketAddr,
    /// The people's port: the Kubernetes API, `/clusters/<node>/…` and the hub's own administration.
    pub api: SocketAddr,
    /// The orchestrators' port: plain HTTP health and metrics.
    pub health: SocketAddr,
    /// `host:port` addresses that tokens carry. Empty: what the hub listens on; a wildcard becomes 127.0.0.1, this machine's
    /// name and its first address.
    pub advertise: Vec<String>,
    /// More names and addresses for the hub's server certificate, beside those of `advertise`.
    pub names: Vec<String>,
    /// The SPIFFE trust domain that gateway certificates name.
    pub trust_domain: String,
    /// How often an idle link is proven alive ("65s": what 12 kB an hour allow). A dead one is known within three of these, on both sides.
    pub heartbeat: Span,
    /// How long a gateway's certificate is good for ("720h"); gateways renew at two thirds of it.
    pub certificate_lifetime: Span,
    /// How many gateways may come back a second after an outage; the rest are told when to try again.
    pub reconnects_per_second: u32,
    /// Bytes of telemetry and event records kept in the hub per gateway and stream; the oldest go first.
    pub journal_bytes: u64,
    /// Fixed bearer tokens for the people's port, a line each: `token,user,uid,"group,group"`. For bootstrap and for programs that have no
    /// certificate; keep it 0600. Read again when it changes.
    pub token_file: Option<PathBuf>,
    /// The journal of who wrote what through the API.
    pub audit: Audit,
    /// What stands above the hub.
    pub upstream: Upstream,
    /// What to log, in `tracing` filter syntax.
    pub log: String,
}

/// The journal of who wrote what through the API (`/kurator/v1/audit`): one record for each object that a request changed, never its contents.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Audit {
    /// Whether it is kept.
    pub enabled: bool,
    /// Bytes of records kept; the oldest go first.
    pub max_bytes: u64,
    /// How long a record is kept ("2160h").
    pub max_age: Span,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            enabled: true,
            max_bytes: 64 << 20,
            max_age: Span(Duration::from_secs(90 * 86400)),
        }
    }
}

impl Audit {
    /// The bound of its journal stream.
    pub(crate) fn bound(&self) -> JournalBound {
        JournalBound {
            max_bytes: self.max_bytes,
            max_age_ms: Some(u64::try_from(self.max_age.0.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

/// What stands above the hub.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Upstream {
    /// Which kind.
    pub mode: Mode,
    /// How to reach it; not read in embedded mode.
    pub kubeconfig: Option<PathBuf>,
    /// What this hub is called there, when several hubs share one control plane (`kurator join karmada --hub`).
    pub name: String,
    /// `https://host:port` under which Karmada reaches this hub's people's port, for its cluster proxy. By default the first host of
    /// `advertise` with the port of `api`, or what `api` is.
    pub endpoint: Option<String>,
    /// Whether Karmada's cluster proxy may reach gateways through this hub.
    pub proxy: bool,
    /// How often the lease of each cluster is renewed ("10s"); Karmada takes a cluster for lost when its lease is 40 s old, unless its
    /// `--cluster-monitor-grace-period` says otherwise.
    pub lease_every: Span,
    /// How long a gateway of a site may be away before its share of what is divided in the site runs on the others ("10m"); absent it never
    /// does. The annotation `kurator.dev/reschedule-after` of the site's Cluster says otherwise for that site.
    pub reschedule_after: Option<Span>,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            kubeconfig: None,
            name: "hub".to_owned(),
            endpoint: None,
            proxy: true,
            lease_every: Span(Duration::from_secs(10)),
            reschedule_after: None,
        }
    }
}

/// Which API the hub works against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// Its own, in this process, on one SQLite file.
    #[default]
    Embedded,
    /// Karmada's.
    Karmada,
    /// A Kubernetes cluster's.
    Kubernetes,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/kurator-hub"),
            listen: SocketAddr::from(([0, 0, 0, 0], 10443)),
            api: SocketAddr::from(([127, 0, 0, 1], 8443)),
            health: SocketAddr::from(([0, 0, 0, 0], 8081)),
            advertise: Vec::new(),
            names: Vec::new(),
            trust_domain: "kurator.local".to_owned(),
            heartbeat: Span(Duration::from_secs(65)),
            certificate_lifetime: Span(Duration::from_secs(720 * 3600)),
            reconnects_per_second: 2000,
            journal_bytes: 16 << 20,
            token_file: None,
            audit: Audit::default(),
            upstream: Upstream::default(),
            log: "info".to_owned(),
        }
    }
}

/// A duration written as people write it: `90s`, `15m`, `720h`, `250ms`, `30d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let bad = || format!("{text:?} is not a duration; write 90s, 15m, 720h or 250ms");
        let number: u64 = number.parse().map_err(|_| bad())?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(bad()),
        };
        let total = number.checked_mul(millis).ok_or_else(bad)?;
        Ok(Self(Duration::from_millis(total)))
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = self.0.as_millis();
        match ms {
            _ if ms.is_multiple_of(3_600_000) && ms > 0 => write!(f, "{}h", ms / 3_600_000),
            _ if ms.is_multiple_of(60_000) && ms > 0 => write!(f, "{}m", ms / 60_000),
            _ if ms.is_multiple_of(1000) => write!(f, "{}s", ms / 1000),
            _ => write!(f, "{ms}ms"),
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Span {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// The hub: enrols gateways, keeps their desired state, shows what they reported.
#[derive(Clone, Debug, Default, clap::Parser)]
#[command(
    name = "cloudhub",
    version,
    about,
    after_help = "Example: cloudhub --data-dir /tmp/hub --listen 127.0.0.1:10443"
)]
pub struct Flags {
    /// Configuration file [default: /etc/kurator/cloudhub.yaml when it is there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the store and the keys live
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The gateways' port, UDP and TCP
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// The people's port: Kubernetes API and administration
    #[arg(long, value_name = "ADDR")]
    pub api: Option<SocketAddr>,
    /// The health port, plain HTTP
    #[arg(long, value_name = "ADDR")]
    pub health: Option<SocketAddr>,
    /// host:port that tokens carry; repeat or separate with commas
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub advertise: Vec<String>,
    /// How often an idle link is proven alive, such as 60s
    #[arg(long, value_name = "DURATION")]
    pub heartbeat: Option<Span>,
    /// What stands above the hub
    #[arg(long, value_enum)]
    pub upstream: Option<Mode>,
    /// How to reach what stands above the hub
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// What to log: error, warn, info, debug, or a filter such as cloudhub=debug
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

impl Config {
    /// Lays the flags over the file and the environment, and checks the result.
    ///
    /// # Errors
    /// A file or a value that is wrong, with exit code 78 and a hint.
    pub fn load(flags: &Flags, env: impl IntoIterator<Item = (String, String)>) -> Result<Self, Failure> {
        let standard = Path::new(DEFAULT_FILE);
        let file = flags
            .config
            .as_deref()
            .or_else(|| standard.exists().then_some(standard));
        let mut config: Self =
            daemon::config::load(file, "CLOUDHUB", env).map_err(|e| Failure::new(BAD_CONFIG, e.to_string()))?;
        config.overlay(flags);
        config.check()?;
        Ok(config)
    }

    fn overlay(&mut self, flags: &Flags) {
        fn set<T: Clone>(slot: &mut T, flag: Option<&T>) {
            if let Some(value) = flag {
                *slot = value.clone();
            }
        }
        set(&mut self.data_dir, flags.data_dir.as_ref());
        set(&mut self.listen, flags.listen.as_ref());
        set(&mut self.api, flags.api.as_ref());
        set(&mut self.health, flags.health.as_ref());
        set(&mut self.heartbeat, flags.heartbeat.as_ref());
        set(&mut self.upstream.mode, flags.upstream.as_ref());
        set(&mut self.log, flags.log.as_ref());
        if !flags.advertise.is_empty() {
            self.advertise.clone_from(&flags.advertise);
        }
        if flags.kubeconfig.is_some() {
            self.upstream.kubeconfig.clone_from(&flags.kubeconfig);
        }
    }

    /// What types cannot say.
    ///
    /// # Errors
    /// The first field that is out of bounds, by name.
    pub fn check(&self) -> Result<(), Failure> {
        let bad = |what: String| Err(Failure::new(BAD_CONFIG, what));
        let (beat, life) = (self.heartbeat.0, self.certificate_lifetime.0);
        if beat < Duration::from_millis(100) || beat > Duration::from_secs(3600) {
            return bad(format!("heartbeat: {} is not between 100ms and 1h", self.heartbeat));
        }
        if life < Duration::from_secs(60) || life > Duration::from_secs(3650 * 86400) {
            return bad(format!(
                "certificateLifetime: {} is not between 1m and 3650d",
                self.certificate_lifetime
            ));
        }
        if self.reconnects_per_second == 0 {
            return bad("reconnectsPerSecond: 0 would let no gateway in".to_owned());
        }
        if self.trust_domain.is_empty()
            || !self
                .trust_domain
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        {
            return bad(format!("trustDomain: {:?} is not a domain name", self.trust_domain));
        }
        if let Some(wrong) = self.advertise.iter().find(|a| split_address(a).is_none()) {
            return bad(format!("advertise: {wrong:?} is not host:port"));
        }
        let upstream = &self.upstream;
        if upstream.mode == Mode::Kubernetes {
            return Err(Failure::new(
                BAD_CONFIG,
                "upstream.mode: this build has no gateways as Nodes of a Kubernetes cluster",
            )
            .hint("leave upstream.mode out, or set it to embedded or karmada"));
        }
        if upstream.mode == Mode::Karmada && upstream.kubeconfig.is_none() {
            return Err(
                Failure::new(BAD_CONFIG, "upstream.kubeconfig: is needed to reach Karmada")
                    .hint("`kurator join karmada` makes one; name it with --kubeconfig"),
            );
        }
        if !link::pki::is_node_name(&upstream.name) || upstream.name.len() > 40 {
            return bad(format!(
                "upstream.name: {:?} is not a name of at most 40 characters",
                upstream.name
            ));
        }
        if let Some(url) = &upstream.endpoint
            && (!url.starts_with("https://") || url.ends_with('/') || url.contains(['?', '#', '@', ' ']))
        {
            return bad(format!("upstream.endpoint: {url:?} is not https://host:port"));
        }
        if upstream.lease_every.0 < Duration::from_secs(1) || upstream.lease_every.0 > Duration::from_secs(600) {
            return bad(format!(
                "upstream.leaseEvery: {} is not between 1s and 10m",
                upstream.lease_every
            ));
        }
        Ok(())
    }
}

/// `host:port`, with brackets around an IPv6 address, as its two parts.
pub(crate) fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    let port = port.parse().ok().filter(|p| *p != 0)?;
    (!host.is_empty() && !host.contains(char::is_whitespace)).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn spans_read_and_print_the_same() {
        for (text, ms) in [
            ("250ms", 250),
            ("90s", 90_000),
            ("15m", 900_000),
            ("720h", 2_592_000_000),
            ("30d", 2_592_000_000),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.0.as_millis(), ms);
            assert_eq!(span.to_string().parse::<Span>().unwrap(), span);
        }
        for text in [
            "",
            "5",
            "s",
            "-1s",
            "5 s",
            "1.5h",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn flags_win_over_environment_and_both_over_defaults() {
        let flags = Flags::parse_from([
            "cloudhub",
            "--listen",
            "127.0.0.1:0",
            "--advertise",
            "hub.example:10443,10.0.0.1:7",
        ]);
        let env = [
            ("CLOUDHUB__LISTEN".to_owned(), "1.2.3.4:5".to_owned()),
            ("CLOUDHUB__HEARTBEAT".to_owned(), "5s".to_owned()),
        ];
        let config = Config::load(&flags, env).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:0");
        assert_eq!(config.heartbeat, Span(Duration::from_secs(5)));
        assert_eq!(config.advertise, ["hub.example:10443", "10.0.0.1:7"]);
        assert_eq!(config.api.to_string(), "127.0.0.1:8443");
    }

    #[test]
    fn bad_values_name_the_field_and_end_with_78() {
        for (name, value, field) in [
            ("HEARTBEAT", "1ms", "heartbeat"),
            ("CERTIFICATE_LIFETIME", "1s", "certificateLifetime"),
            ("TRUST_DOMAIN", "a/b", "trustDomain"),
            ("RECONNECTS_PER_SECOND", "0", "reconnectsPerSecond"),
            ("NO_SUCH", "1", "noSuch"),
        ] {
            let env = [(format!("CLOUDHUB__{name}"), value.to_owned())];
            let failure = Config::load(&Flags::default(), env).unwrap_err();
            assert_eq!(failure.code, BAD_CONFIG);
            assert!(failure.what.contains(field), "{failure}");
        }
        let flags = Flags {
            advertise: vec!["nohost".into()],
            ..Flags::default()
        };
        assert!(Config::load(&flags, []).unwrap_err().what.contains("advertise"));
    }

    #[test]
    fn addresses_split_at_the_port() {
        assert_eq!(split_address("hub:1"), Some(("hub", 1)));
        assert_eq!(split_address("[::1]:10443"), Some(("::1", 10443)));
        for bad in ["hub", "hub:", ":1", "hub:0", "::1:5", "[::1:5", "a b:1"] {
            assert_eq!(split_address(bad), None, "{bad}");
        }
    }
}
