//! `kurator join edge`: reads the token, makes a key that never leaves this machine, has it certified, writes the agent's
//! configuration, and starts the service where there is a service manager.
//!
//! Nothing is written before the hub said yes, and everything is written before this returns: a refusal leaves no trace.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use daemon::exit::{BAD_CONFIG, BAD_INPUT, FAILED, Failure, NOT_ALLOWED, UNREACHABLE, USAGE};
use link::join::{self, JoinFailure};
use link::pki::{self, Cert, Credential, NodeKey, Pin, write_atomic};
use link::{DialError, Dialer};
use proto::join::{Admitted, JoinCode, JoinRefusal, JoinRequest};
use proto::{JoinToken, limits};
use serde_json::{Value, json};

use crate::cli::JoinArgs;
use crate::say;

/// The unit installed where systemd runs.
const UNIT: &str = "kurator-edgecore.service";

pub(crate) async fn run(arguments: JoinArgs) -> Result<(), Failure> {
    let token = read_token(&arguments)?;
    let name = node_name(&arguments)?;
    let place = Place::new(&arguments);
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
    let key = NodeKey::generate().map_err(|e| Failure::new(FAILED, format!("cannot make a key: {e}")))?;
    let labels: BTreeMap<String, String> = arguments.labels.iter().cloned().collect();
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
                .map_err(|e| Failure::new(BAD_INPUT, format!("cannot read {}: {e}", file.display())))?;
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
struct Place {
    config: PathBuf,
    data: PathBuf,
}

impl Place {
    fn new(arguments: &JoinArgs) -> Self {
        // The configuration must mean the same from any folder.
        let absolute = |p: &Path| std::path::absolute(p).unwrap_or_else(|_| p.to_owned());
        Self {
            config: absolute(&arguments.config_dir),
            data: absolute(&arguments.data_dir),
        }
    }

    fn pki(&self, name: &str) -> PathBuf {
        self.config.join("pki").join(name)
    }

    fn yaml(&self) -> PathBuf {
        self.config.join("edgecore.yaml")
    }

    fn files(&self) -> [PathBuf; 4] {
        [
            self.pki("hub-ca.crt"),
            self.pki("node.key"),
            self.pki("node.crt"),
            self.yaml(),
        ]
    }

    fn start_command(&self) -> String {
        format!("edgecore --config-dir {}", self.config.display())
    }

    /// The name this machine has already joined the token's hub with; an error when it joined another hub.
    fn joined(&self, token: &JoinToken) -> Result<Option<String>, Failure> {
        if !self.yaml().exists() {
            return Ok(None);
        }
        let cert = |name: &str| {
            std::fs::read_to_string(self.pki(name))
                .ok()
                .and_then(|pem| Cert::parse_pem(&pem).ok())
        };
        let (Some(ca), Some(node)) = (cert("hub-ca.crt"), cert("node.crt")) else {
            return Ok(None);
        };
        if ca.pin != Pin(token.pin) {
            return Err(Failure::new(BAD_CONFIG, "this machine has joined another hub")
                .hint("kurator reset edge --yes, then join again"));
        }
        Ok(Some(node.common_name.trim_start_matches("system:node:").to_owned()))
    }

    fn write(&self, key: &NodeKey, admitted: &Admitted, token_addrs: &[String]) -> Result<(), Failure> {
        let failed = |what: &Path, e: String| {
            Failure::new(FAILED, format!("cannot write {}: {e}", what.display()))
                .hint("run as root, or move it with --config-dir and --data-dir")
        };
        for folder in [self.config.join("pki"), self.data.clone()] {
            std::fs::create_dir_all(&folder).map_err(|e| failed(&folder, e.to_string()))?;
        }
        let identity = Credential::from_der(&admitted.cert_chain, key);
        let hubs = if admitted.hub_addrs.is_empty() {
            token_addrs
        } else {
            &admitted.hub_addrs
        };
        let config = json!({
            "nodeName": admitted.node_name,
            "dataDir": self.data,
            "hubs": hubs,
            "labels": admitted.labels,
        });
        // The configuration last: it is what says that this machine has joined.
        let parts: [(PathBuf, String, u32); 4] = [
            (self.pki("hub-ca.crt"), pki::certificate_pem(&admitted.ca), 0o644),
            (self.pki("node.key"), identity.key_pem, 0o600),
            (self.pki("node.crt"), identity.chain_pem, 0o644),
            (self.yaml(), yaml(&config)?, 0o644),
        ];
        for (path, text, mode) in parts {
            write_atomic(&path, text.as_bytes(), mode).map_err(|e| failed(&path, e.to_string()))?;
        }
        Ok(())
    }
}

fn yaml(config: &Value) -> Result<String, Failure> {
    let head = "# Written by `kurator join edge`. Every other setting has a default.\n";
    Ok(format!("{head}{}", crate::output::yaml(config)?))
}

fn start_service(place: &Place, name: &str) -> Result<(), Failure> {
    if !Path::new("/run/systemd/system").is_dir() {
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
    let unit = Path::new("/etc/systemd/system").join(UNIT);
    let text = format!(
        "[Unit]\nDescription=Kurator Edge agent\nWants=network-online.target\nAfter=network-online.target\n\n\
         [Service]\nType=notify\nExecStart={} --config-dir {}\nRestart=always\nRestartSec=2\nLimitNOFILE=65536\n\n\
         [Install]\nWantedBy=multi-user.target\n",
        program.display(),
        place.config.display()
    );
    write_atomic(&unit, text.as_bytes(), 0o644)
        .map_err(|e| Failure::new(FAILED, format!("cannot write {}: {e}", unit.display())))?;
    for arguments in [&["daemon-reload"][..], &["enable", "--now", UNIT][..]] {
        let status = std::process::Command::new("systemctl").args(arguments).status();
        if !status.as_ref().is_ok_and(std::process::ExitStatus::success) {
            return Err(Failure::new(
                FAILED,
                format!("joined as {name}, but `systemctl {}` failed", arguments.join(" ")),
            )
            .hint(format!("journalctl -u {UNIT}")));
        }
    }
    say::line(&format!("joined as {name}; {UNIT} is running"));
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
            config_dir: folder.join("etc"),
            data_dir: folder.join("data"),
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
}
