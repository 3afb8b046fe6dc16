//! `kurator join edge`: reads the token, makes a key that never leaves this machine, has it certified, writes the agent's
//! configuration, and starts the service where there is a service manager.
//!
//! Nothing is written before the hub said yes, and everything is written before this returns: a refusal leaves no trace. The
//! configuration goes first and suits the old identity as well as the new one; then the identity changes as one thing
//! ([`link::pki::install_identity`]), so that a power cut at any moment leaves a gateway with the one or the other.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use daemon::exit::{BAD_CONFIG, BAD_INPUT, FAILED, Failure, NOT_ALLOWED, UNREACHABLE, USAGE};
use link::join::{self, JoinFailure};
use link::pki::{self, Cert, Credential, NODE_PREFIX, NodeKey, Pin, PkiError, write_atomic};
use link::{DialError, Dialer};
use proto::join::{Admitted, JoinCode, JoinRefusal, JoinRequest};
use proto::{JoinToken, limits};
use serde_json::{Map, Value, json};

use crate::cli::{DATA_DIR, JoinArgs};
use crate::say;

pub(crate) mod karmada;
pub(super) mod unit;

/// The label that says at which site a gateway stands.
const SITE: &str = "kurator.dev/site";

/// What the agent reads besides its identity, in its configuration folder.
const CONFIGURATION: &str = "edgecore.yaml";

pub(crate) async fn run(arguments: JoinArgs) -> Result<(), Failure> {
    let token = read_token(&arguments)?;
    let name = node_name(&arguments)?;
    site_name(&arguments)?;
    let place = Place::new(&arguments)?;
    let joined = place.joined(&token)?;
    if let Some(joined) = joined.filter(|_| !arguments.again) {
        say::remark(&format!(
            "already joined as {joined}: nothing to do (--again gets a new identity)"
        ));
        return Ok(());
    }
    if arguments.dry_run {
        say::line(&format!(
            "would ask {} to admit this machine as {name}",
            token.addrs.join(", ")
        ));
        for file in place.files() {
            say::line(&format!("would write {}", file.display()));
        }
        return Ok(());
    }
    // A token that is used up for nothing is worse than a late start.
    place.writable()?;
    let key = NodeKey::generate().map_err(|e| Failure::new(FAILED, format!("cannot make a key: {e}")))?;
    let mut labels: BTreeMap<String, String> = arguments.labels.iter().cloned().collect();
    labels.extend(arguments.site.iter().map(|site| (SITE.to_owned(), site.clone())));
    let request = JoinRequest {
        version: limits::VERSIONS.max,
        token_id: token.id.clone(),
        token_secret: token.secret.clone(),
        csr_der: key
            .request()
            .map_err(|e| Failure::new(FAILED, format!("cannot make a request: {e}")))?
            .into(),
        node_name: name,
        labels,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
        nonce: std::iter::repeat_with(|| fastrand::u8(..))
            .take(32)
            .collect::<Vec<u8>>()
            .into(),
    };
    say::remark(&format!("asking {}", token.addrs.join(", ")));
    let dialer = Dialer::join(Pin(token.pin));
    let admitted = join::join(&dialer, &token.addrs, Pin(token.pin), &key, request)
        .await
        .map_err(not_joined)?;
    place.write(&key, &admitted, &token.addrs)?;
    say::remark(&format!("admitted as {}", admitted.node_name));
    if arguments.no_service {
        say::line(&format!(
            "joined as {}; start it with: {}",
            admitted.node_name,
            place.start_command()
        ));
        return Ok(());
    }
    start_service(&place, &admitted.node_name)
}

/// From the argument, a file, or standard input; never more than a token can have.
fn read_token(arguments: &JoinArgs) -> Result<JoinToken, Failure> {
    let cap = limits::MAX_TOKEN as u64 + 64;
    let text = match (arguments.token.as_deref(), &arguments.token_file) {
        (Some("-"), _) => {
            let mut text = String::new();
            std::io::stdin()
                .take(cap)
                .read_to_string(&mut text)
                .map_err(|e| Failure::new(BAD_INPUT, format!("cannot read the token from standard input: {e}")))?;
            text
        }
        (Some(token), _) => token.to_owned(),
        (None, Some(file)) => {
            let mut text = String::new();
            std::fs::File::open(file)
                .and_then(|f| f.take(cap).read_to_string(&mut text))
                .map_err(|e| {
                    Failure::new(BAD_INPUT, format!("cannot read {}: {e}", file.display()))
                        .hint("on the hub, `kurator token create` prints a token; - reads it from standard input")
                })?;
            text
        }
        (None, None) => {
            return Err(
                Failure::new(USAGE, "no token").hint("give it as argument, with --token-file, or - for standard input")
            );
        }
    };
    text.trim()
        .parse::<JoinToken>()
        .map_err(|e| Failure::new(BAD_INPUT, e.to_string()).hint("on the hub, `kurator token create` prints a new one"))
}

fn node_name(arguments: &JoinArgs) -> Result<String, Failure> {
    let name = match &arguments.node_name {
        Some(name) => name.clone(),
        None => rustix::system::uname().nodename().to_string_lossy().to_lowercase(),
    };
    if !pki::is_node_name(&name) {
        return Err(Failure::new(USAGE, format!("{name:?} cannot be a gateway's name"))
            .hint("lower-case letters, digits, - and . as in a DNS name; give one with --node-name"));
    }
    Ok(name)
}

/// It travels as the value of a label.
fn site_name(arguments: &JoinArgs) -> Result<(), Failure> {
    let Some(site) = &arguments.site else {
        return Ok(());
    };
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = site.as_bytes();
    if bytes.len() > 63 || !bytes.iter().copied().all(inner) || !ends(bytes.first()) || !ends(bytes.last()) {
        return Err(Failure::new(USAGE, format!("{site:?} cannot be a site's name"))
            .hint("letters, digits, -, _ and ., at most 63 of them, a letter or a digit at both ends"));
    }
    Ok(())
}

fn refused(refusal: &JoinRefusal) -> Failure {
    let code = match refusal.code {
        JoinCode::BadCsr | JoinCode::BadRequest => BAD_INPUT,
        JoinCode::Busy => UNREACHABLE,
        JoinCode::Version | JoinCode::Internal => FAILED,
        _ => NOT_ALLOWED,
    };
    let hint = if refusal.hint.is_empty() {
        "on the hub, `kurator token create` makes a new token"
    } else {
        &refusal.hint
    };
    Failure::new(code, refusal.message.clone()).hint(hint)
}

fn not_joined(e: JoinFailure) -> Failure {
    match e {
        JoinFailure::Refused(refusal) => refused(&refusal),
        JoinFailure::Dial(e @ DialError::PinMismatch { .. }) => {
            Failure::new(NOT_ALLOWED, format!("{e}: its CA does not have the token's pin"))
                .hint("the token is another hub's, or somebody stands between")
        }
        JoinFailure::Dial(e @ (DialError::Timeout | DialError::Unreachable(_))) => {
            Failure::new(UNREACHABLE, format!("cannot reach the hub: {e}"))
                .hint("is it up, and does the firewall let its port through (UDP or TCP)?")
        }
        JoinFailure::Dial(e @ (DialError::Clock { .. } | DialError::BadCertificate(_))) => {
            Failure::new(NOT_ALLOWED, e.to_string()).hint("check this machine's clock and the hub's certificate")
        }
        e @ (JoinFailure::Timeout | JoinFailure::Lost(_)) => {
            Failure::new(UNREACHABLE, e.to_string()).hint("try again, with a new token if this one is refused as used")
        }
        other => Failure::new(FAILED, other.to_string()).hint("the hub's log says more"),
    }
}

/// The folders and files of a joined machine.
#[derive(Debug)]
struct Place {
    config: PathBuf,
    data: PathBuf,
    pki: PathBuf,
    /// The configuration that is there already: an operator's settings stay.
    present: Map<String, Value>,
}

impl Place {
    fn new(arguments: &JoinArgs) -> Result<Self, Failure> {
        // The configuration must mean the same from any folder.
        let absolute = |p: &Path| std::path::absolute(p).unwrap_or_else(|_| p.to_owned());
        let config = absolute(&arguments.config_dir);
        let file = config.join(CONFIGURATION);
        let present = if file.exists() {
            daemon::config::load(Some(&file), "", std::iter::empty())
                .map_err(|e| Failure::new(BAD_CONFIG, e.to_string()).hint("mend this file, or remove it"))?
        } else {
            Map::new()
        };
        let said = |name: &str| {
            let text = present.get(name).and_then(Value::as_str);
            text.filter(|t| !t.is_empty()).map(PathBuf::from)
        };
        let data = arguments.data_dir.as_deref().map(absolute);
        Ok(Self {
            data: data
                .or_else(|| said("dataDir"))
                .unwrap_or_else(|| PathBuf::from(DATA_DIR)),
            pki: said("pki").unwrap_or_else(|| config.join("pki")),
            config,
            present,
        })
    }

    fn yaml(&self) -> PathBuf {
        self.config.join(CONFIGURATION)
    }

    fn files(&self) -> [PathBuf; 4] {
        let pki = |name: &str| self.pki.join(name);
        [self.yaml(), pki("hub-ca.crt"), pki("node.key"), pki("node.crt")]
    }

    fn start_command(&self) -> String {
        format!("edgecore --config-dir {}", self.config.display())
    }

    /// The name this machine has already joined the token's hub with; an error when it joined another hub.
    fn joined(&self, token: &JoinToken) -> Result<Option<String>, Failure> {
        if !self.yaml().exists() {
            return Ok(None);
        }
        let identity = match pki::load_identity(&self.pki) {
            Err(PkiError::Io { path, source }) if source.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(
                    Failure::new(FAILED, format!("cannot read {}: {source}", path.display())).hint("run as root"),
                );
            }
            // None, or one that is of no use any more.
            Err(_) => return Ok(None),
            Ok(identity) => identity,
        };
        let (Ok(ca), Ok(node)) = (Cert::parse_pem(&identity.ca_pem), identity.credential.info()) else {
            return Ok(None);
        };
        if ca.pin != Pin(token.pin) {
            return Err(Failure::new(BAD_CONFIG, "this machine has joined another hub")
                .hint("kurator reset edge --yes, then join again"));
        }
        Ok(Some(node.common_name.trim_start_matches(NODE_PREFIX).to_owned()))
    }

    /// Whether everything can be written, tried with a file that has no name and is gone at once.
    fn writable(&self) -> Result<(), Failure> {
        for folder in [&self.config, &self.pki, &self.data] {
            let there = folder.ancestors().find(|p| p.symlink_metadata().is_ok());
            if let Some(there) = there {
                tempfile::tempfile_in(there).map_err(|e| unwritten(folder, &e.to_string()))?;
            }
        }
        Ok(())
    }

    fn write(&self, key: &NodeKey, admitted: &Admitted, token_addrs: &[String]) -> Result<(), Failure> {
        // Keys and store are their owner's; the configuration is for everybody to read.
        for (folder, mode) in [(&self.config, 0o755), (&self.data, 0o700)] {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(folder)
                .map_err(|e| unwritten(folder, &e.to_string()))?;
        }
        let hubs = if admitted.hub_addrs.is_empty() {
            token_addrs
        } else {
            &admitted.hub_addrs
        };
        self.write_configuration(hubs, &admitted.labels)?;
        let identity = Credential::from_der(&admitted.cert_chain, key);
        let ca = pki::certificate_pem(&admitted.ca);
        pki::install_identity(&self.pki, &identity, Some(&ca)).map_err(|e| unwritten(&self.pki, &e.to_string()))
    }

    /// The configuration with this hub in it and all else as it was. The gateway's name is not in it: the certificate says it, and a
    /// name that stood here too could not change together with it.
    fn write_configuration(&self, hubs: &[String], labels: &BTreeMap<String, String>) -> Result<(), Failure> {
        let mut config = self.present.clone();
        config.remove("nodeName");
        config.insert("dataDir".to_owned(), json!(self.data));
        config.insert("hubs".to_owned(), json!(hubs));
        let kept = config.remove("labels").and_then(|l| l.as_object().cloned());
        let mut all = kept.unwrap_or_default();
        all.extend(labels.iter().map(|(k, v)| (k.clone(), json!(v))));
        config.insert("labels".to_owned(), Value::Object(all));
        if config == self.present {
            return Ok(());
        }
        let head = "# Written by `kurator join edge`. Every other setting has a default; the gateway's name is in its certificate.\n";
        let text = format!("{head}{}", crate::output::yaml(&Value::Object(config))?);
        let path = self.yaml();
        write_atomic(&path, text.as_bytes(), 0o644).map_err(|e| unwritten(&path, &e.to_string()))
    }
}

fn unwritten(what: &Path, why: &str) -> Failure {
    Failure::new(FAILED, format!("cannot write {}: {why}", what.display()))
        .hint("run as root, or move it with --config-dir and --data-dir")
}

fn start_service(place: &Place, name: &str) -> Result<(), Failure> {
    if !unit::manager_runs() {
        say::line(&format!(
            "joined as {name}; no service manager is running here, start it with: {}",
            place.start_command()
        ));
        return Ok(());
    }
    let me = std::env::current_exe().map_err(|e| Failure::new(FAILED, format!("where am I? {e}")))?;
    let program = me.with_file_name("edgecore");
    if !program.exists() {
        return Err(Failure::new(
            FAILED,
            format!("joined as {name}, but {} is missing", program.display()),
        )
        .hint("install edgecore beside kurator, or use --no-service"));
    }
    unit::start(&program, &place.config, &place.data).map_err(|e| Failure {
        what: format!("joined as {name}, but {}", e.what),
        ..e
    })?;
    say::line(&format!("joined as {name}; {} is running", unit::UNIT));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(folder: &Path) -> JoinArgs {
        JoinArgs {
            token: None,
            token_file: None,
            node_name: Some("gw-1".into()),
            labels: vec![],
            site: None,
            config_dir: folder.join("etc"),
            data_dir: Some(folder.join("data")),
            no_service: true,
            dry_run: false,
            again: false,
        }
    }

    #[test]
    fn names_that_are_no_dns_names_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for bad in ["", "GW", "a_b", "-a", "a/../b"] {
            let arguments = JoinArgs {
                node_name: Some(bad.into()),
                ..arguments(folder.path())
            };
            assert_eq!(node_name(&arguments).unwrap_err().code, USAGE, "{bad}");
        }
        assert_eq!(node_name(&arguments(folder.path())).unwrap(), "gw-1");
    }

    #[test]
    fn sites_are_label_values() {
        let folder = tempfile::tempdir().unwrap();
        let check = |site: Option<&str>| {
            site_name(&JoinArgs {
                site: site.map(str::to_owned),
                ..arguments(folder.path())
            })
        };
        for good in [None, Some("hall-7"), Some("A.b_c"), Some("7")] {
            assert!(check(good).is_ok(), "{good:?}");
        }
        let long = "x".repeat(64);
        for bad in ["", "-a", "a.", "a b", "a/b", "ä", &long] {
            assert_eq!(check(Some(bad)).unwrap_err().code, USAGE, "{bad}");
        }
    }

    #[tokio::test]
    async fn a_token_that_is_none_is_bad_input_and_is_not_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let failure = run(JoinArgs {
            token: Some("hello-secret".into()),
            ..arguments(folder.path())
        })
        .await
        .unwrap_err();
        assert_eq!(failure.code, BAD_INPUT);
        assert!(!failure.what.contains("hello-secret"));
        assert!(!folder.path().join("etc").exists());
    }

    struct Hub(pki::HubCa);

    impl Hub {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            Self(pki::HubCa::load_or_create(dir.path(), daemon::clock::wall_ms()).unwrap())
        }

        fn token(&self) -> JoinToken {
            JoinToken::generate(vec!["192.0.2.1:10443".into()], self.0.pin().0).unwrap()
        }

        fn admit(&self, node: &str, hub: &str) -> (NodeKey, Admitted) {
            let key = NodeKey::generate().unwrap();
            let profile = pki::NodeProfile {
                node,
                trust_domain: "kurator.local",
                valid: pki::NODE_VALID,
            };
            let cert = self
                .0
                .issue_node(&key.request().unwrap(), &profile, daemon::clock::wall_ms())
                .unwrap();
            let admitted = Admitted {
                node_name: node.to_owned(),
                cert_chain: cert.chain.iter().map(|c| c.to_vec().into()).collect(),
                ca: self.0.cert().to_vec().into(),
                hub_addrs: vec![hub.to_owned()],
                ..Admitted::default()
            };
            (key, admitted)
        }
    }

    #[test]
    fn joining_again_changes_hub_and_identity_and_leaves_the_operators_settings() {
        let folder = tempfile::tempdir().unwrap();
        let hub = Hub::new();
        let first = arguments(folder.path());
        let (key, admitted) = hub.admit("gw-1", "a.example:10443");
        Place::new(&first).unwrap().write(&key, &admitted, &[]).unwrap();
        let file = folder.path().join("etc/edgecore.yaml");
        let mine = std::fs::read_to_string(&file).unwrap() + "mqtt:\n  listen: 127.0.0.1:18830\nnodeName: gw-1\n";
        std::fs::write(&file, mine).unwrap();
        // Without --data-dir: where the data is, it stays.
        let again = JoinArgs {
            data_dir: None,
            ..arguments(folder.path())
        };
        let (key, admitted) = hub.admit("gw-2", "b.example:10443");
        let place = Place::new(&again).unwrap();
        assert_eq!(place.joined(&hub.token()).unwrap().as_deref(), Some("gw-1"));
        place.write(&key, &admitted, &[]).unwrap();
        let config: Value = daemon::config::load(Some(&file), "", std::iter::empty()).unwrap();
        assert_eq!(config["mqtt"]["listen"], "127.0.0.1:18830");
        assert_eq!(config["dataDir"], json!(folder.path().join("data")));
        assert_eq!(config["hubs"], json!(["b.example:10443"]));
        assert_eq!(config["nodeName"], Value::Null, "the certificate says it");
        assert_eq!(place.joined(&hub.token()).unwrap().as_deref(), Some("gw-2"));
        assert_eq!(place.joined(&Hub::new().token()).unwrap_err().code, BAD_CONFIG);
        // Once more with the same hub: nothing of the file changes, an operator's remarks included.
        let remark = std::fs::read_to_string(&file).unwrap() + "# mine\n";
        std::fs::write(&file, &remark).unwrap();
        let (key, admitted) = hub.admit("gw-2", "b.example:10443");
        Place::new(&again).unwrap().write(&key, &admitted, &[]).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), remark);
    }

    #[test]
    fn a_configuration_without_the_new_identity_goes_with_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let hub = Hub::new();
        let (key, admitted) = hub.admit("gw-1", "a.example:10443");
        let place = Place::new(&arguments(folder.path())).unwrap();
        place.write(&key, &admitted, &[]).unwrap();
        // The power goes after the first of the two: new configuration, old identity, which have no name in common to disagree on.
        let place = Place::new(&arguments(folder.path())).unwrap();
        place
            .write_configuration(&["b.example:10443".into()], &BTreeMap::new())
            .unwrap();
        let text = std::fs::read_to_string(place.yaml()).unwrap();
        assert!(text.contains("b.example") && !text.contains("gw-1"), "{text}");
        assert_eq!(place.joined(&hub.token()).unwrap().as_deref(), Some("gw-1"));
    }

    #[test]
    fn a_place_that_cannot_be_written_is_known_before_the_hub_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        let place = Place::new(&JoinArgs {
            config_dir: folder.path().join("file/etc"),
            ..arguments(folder.path())
        });
        let failure = place.unwrap().writable().unwrap_err();
        assert!(failure.code == FAILED && failure.what.contains("file"), "{failure:?}");
        Place::new(&arguments(folder.path())).unwrap().writable().unwrap();
        std::fs::create_dir(folder.path().join("etc")).unwrap();
        std::fs::write(folder.path().join("etc/edgecore.yaml"), "a: [").unwrap();
        assert_eq!(Place::new(&arguments(folder.path())).unwrap_err().code, BAD_CONFIG);
    }
}
