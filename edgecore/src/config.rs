//! The agent's configuration: typed, defaulted, every unknown field refused. Pure: nothing here opens a socket or writes a file.
//!
//! `main` lays flags over [`Config::load`]; tests build the struct directly.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon::config::ConfigError;
use serde::Deserialize;

use crate::app::Addresses;

/// Where the agent looks for `edgecore.yaml` and `pki/` when no flag says otherwise.
pub const CONFIG_DIR: &str = "/etc/kurator";
/// Where the store stands when nothing says otherwise.
pub const DATA_DIR: &str = "/var/lib/kurator";
/// Variables `EDGECORE__NODE_NAME` and so on are laid over the file.
const ENV_PREFIX: &str = "EDGECORE";
/// A Kubernetes object name (RFC 1123 subdomain) has at most this many characters.
const MAX_NODE_NAME: usize = 253;

/// Everything an operator can say about one gateway.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// The gateway's name in the fleet. Empty: what the node certificate says, else the machine's host name.
    pub node_name: String,
    /// Folder of `edgecore.db` and `edge.json`.
    pub data_dir: PathBuf,
    /// Folder of `edge.kubeconfig`; set by `--config-dir`, not by the file.
    #[serde(skip)]
    pub config_dir: PathBuf,
    /// `host:port` of the hubs, tried in turn. Empty: the gateway works alone.
    pub hubs: Vec<String>,
    /// Folder of certificates and keys. Empty: `<config-dir>/pki`.
    pub pki: PathBuf,
    /// Where the local Kubernetes API listens.
    pub api: String,
    /// Where the health listener listens.
    pub health: String,
    /// Devices' MQTT.
    pub mqtt: Mqtt,
    /// Labels of this gateway's own Node.
    pub labels: BTreeMap<String, String>,
    /// Log filter in `tracing` syntax.
    pub log: String,
    /// Least milliseconds between two reported values of one property that leave for the hub, where the Device does not say
    /// (`spec.properties[].reportCycle`). 0: at once, coalesced while one is under way.
    pub report_cycle: u64,
    /// Bounds of the journal that keeps history for the hub.
    pub journal: Journal,
    /// Fixed bearer tokens for the local API, a line each: `token,user,uid,"group,group"`. For programs on this machine that have no
    /// certificate; keep it 0600. Read again when it changes.
    pub token_file: Option<PathBuf>,
    /// The journal of who wrote what through the local API.
    pub audit: Audit,
    /// Largest the store's file may grow, in bytes; none: as the disk allows.
    pub store_max_bytes: Option<u64>,
    /// Containers on this gateway.
    pub workloads: workloads::Settings,
}

/// The devices' side.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Mqtt {
    /// Which broker devices talk to.
    pub mode: MqttMode,
    /// Where the embedded broker listens.
    pub listen: String,
    /// `host:port` of an external broker.
    pub external: String,
}

/// Which broker devices talk to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MqttMode {
    /// The broker inside this process.
    #[default]
    Embedded,
    /// A broker that somebody else runs; this process is its client.
    External,
    /// No MQTT.
    Off,
}

/// Bounds of each journal stream; what they force out is counted as dropped.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Journal {
    /// Most bytes kept per stream that has no bound of its own.
    pub max_bytes: u64,
    /// Most bytes kept of the stream `events`, which is the conflict log.
    pub events_max_bytes: u64,
    /// Oldest record kept, in hours.
    pub max_age_hours: u64,
}

/// The journal of who wrote what through the local API: one record for each object that a request changed, never its contents. With a hub it
/// goes there (`/kurator/v1/journals/<node>/audit`); what waits, or all of it without a hub, is read at `/kurator/v1/audit`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Audit {
    /// Whether it is kept.
    pub enabled: bool,
    /// Most bytes of records that wait here.
    pub max_bytes: u64,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            enabled: true,
            max_bytes: 4 * 1024 * 1024,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            data_dir: PathBuf::from(DATA_DIR),
            config_dir: PathBuf::from(CONFIG_DIR),
            hubs: Vec::new(),
            pki: PathBuf::new(),
            api: "127.0.0.1:10550".to_owned(),
            health: "127.0.0.1:10350".to_owned(),
            mqtt: Mqtt::default(),
            labels: BTreeMap::new(),
            log: "info".to_owned(),
            report_cycle: 0,
            journal: Journal::default(),
            token_file: None,
            audit: Audit::default(),
            store_max_bytes: None,
            workloads: workloads::Settings::default(),
        }
    }
}

impl Default for Mqtt {
    fn default() -> Self {
        Self {
            mode: MqttMode::Embedded,
            listen: "127.0.0.1:1883".to_owned(),
            external: String::new(),
        }
    }
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            max_bytes: 64 * 1024 * 1024,
            events_max_bytes: 1024 * 1024,
            max_age_hours: 7 * 24,
        }
    }
}

/// Why a configuration was refused, one line per fault: all of them, not only the first.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFault {
    /// It cannot be read at all.
    #[error(transparent)]
    Load(#[from] ConfigError),
    /// It reads, but says something impossible.
    #[error("{}", .0.join("; "))]
    Invalid(Vec<String>),
}

impl Config {
    /// Reads `<config_dir>/edgecore.yaml` (or `file`, which must then exist), lays `env` over it and checks the result.
    ///
    /// # Errors
    /// An unreadable file, an unknown field, or values that cannot work, each named.
    pub fn load(
        file: Option<&Path>,
        config_dir: &Path,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigFault> {
        let default_file = config_dir.join("edgecore.yaml");
        let file = file.or_else(|| default_file.exists().then_some(default_file.as_path()));
        let mut config: Self = daemon::config::load(file, ENV_PREFIX, env)?;
        config.config_dir = config_dir.to_path_buf();
        Ok(config)
    }

    /// Fills what depends on other values and says everything that cannot work.
    ///
    /// # Errors
    /// All the faults found.
    pub fn checked(mut self) -> Result<Self, ConfigFault> {
        if self.pki.as_os_str().is_empty() {
            self.pki = self.config_dir.join("pki");
        }
        let mut faults = Vec::new();
        if !self.node_name.is_empty() && !valid_name(&self.node_name) {
            faults.push(format!(
                "nodeName {:?} is not a valid name: lower-case letters, digits, '-' and '.', at most {MAX_NODE_NAME}",
                self.node_name
            ));
        }
        let mut address = |name: &str, value: &str| {
            if !valid_address(value) {
                faults.push(format!("{name} {value:?} is not host:port"));
            }
        };
        address("api", &self.api);
        address("health", &self.health);
        match self.mqtt.mode {
            MqttMode::Embedded => address("mqtt.listen", &self.mqtt.listen),
            MqttMode::External => address("mqtt.external", &self.mqtt.external),
            MqttMode::Off => {}
        }
        for hub in &self.hubs {
            address("hubs", hub);
        }
        faults.extend(
            self.workloads
                .complete(&self.config_dir, &self.data_dir, Path::new(DATA_DIR)),
        );
        if faults.is_empty() {
            Ok(self)
        } else {
            Err(ConfigFault::Invalid(faults))
        }
    }

    /// What was to be any free port stays the port that it became: whoever was told it finds the next start there.
    pub(crate) fn keep_ports(&mut self, at: &Addresses) {
        let settings = [
            (&mut self.api, at.api),
            (&mut self.health, at.health),
            (&mut self.mqtt.listen, at.mqtt),
        ];
        for (setting, bound) in settings {
            let any = setting
                .rsplit_once(':')
                .is_some_and(|(_, port)| port.parse() == Ok(0_u16));
            if let Some(bound) = bound.filter(|_| any) {
                *setting = bound.to_string();
            }
        }
    }

    /// The least time between two reported values of one property, where the Device does not say.
    pub const fn report_cycle(&self) -> Duration {
        Duration::from_millis(self.report_cycle)
    }
}

/// RFC 1123 subdomain.
pub(crate) fn valid_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NODE_NAME
        && name.split('.').all(|label| {
            let bytes = label.as_bytes();
            let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
            edge(bytes.first())
                && edge(bytes.last())
                && bytes
                    .iter()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
        })
}

fn valid_address(address: &str) -> bool {
    address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_yaml(text: &str) -> Result<Config, ConfigFault> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("edgecore.yaml"), text).unwrap();
        Config::load(None, dir.path(), []).and_then(Config::checked)
    }

    #[test]
    fn empty_is_a_gateway_that_works_alone() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(None, dir.path(), []).unwrap().checked().unwrap();
        assert!(config.hubs.is_empty());
        assert_eq!(config.pki, dir.path().join("pki"));
        assert_eq!(config.mqtt.listen, "127.0.0.1:1883");
    }

    #[test]
    fn any_port_becomes_the_one_it_was() {
        let mut config = from_yaml("api: '127.0.0.1:0'\nmqtt: {listen: 'localhost:1883'}\n").unwrap();
        config.keep_ports(&Addresses {
            api: "127.0.0.1:4711".parse().ok(),
            health: "127.0.0.1:10350".parse().ok(),
            mqtt: "127.0.0.1:1883".parse().ok(),
        });
        assert_eq!(
            (&*config.api, &*config.mqtt.listen),
            ("127.0.0.1:4711", "localhost:1883")
        );
        assert_eq!(config.health, "127.0.0.1:10350");
    }

    #[test]
    fn all_fields_are_read() {
        let config = from_yaml(
            "nodeName: gw-1\nhubs: ['hub.example:10443']\nmqtt: {mode: external, external: '127.0.0.1:1884'}\n\
             labels: {line: press}\nreportCycle: 250\napi: '127.0.0.1:0'\njournal: {maxBytes: 1000}\n",
        )
        .unwrap();
        assert_eq!(config.node_name, "gw-1");
        assert_eq!(config.mqtt.mode, MqttMode::External);
        assert_eq!(config.report_cycle(), Duration::from_millis(250));
        assert_eq!((config.journal.max_bytes, config.journal.max_age_hours), (1000, 168));
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let e = from_yaml("nodeName: 'Gate Way'\nhubs: ['no-port']\napi: ':80'\nmqtt: {mode: external}\n")
            .unwrap_err()
            .to_string();
        for part in ["Gate Way", "no-port", "api", "mqtt.external"] {
            assert!(e.contains(part), "{part} in {e}");
        }
        assert!(from_yaml("nodname: x\n").unwrap_err().to_string().contains("nodname"));
    }
}
