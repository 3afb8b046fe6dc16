//! What the join wrote: configuration, certificate and key, and who can read them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use link::pki::{Cert, NODE_PREFIX, PkiError};

use super::{Finding, Site, fail, ok, warn};

const DAY_MS: u64 = 86_400_000;

/// As the agent reads it: what the agent would refuse is refused here.
pub(super) fn configuration(site: &Site) -> Vec<Finding> {
    let file = site.config_dir.join("edgecore.yaml");
    vec![match &site.config {
        Ok(_) => ok(file.display().to_string()),
        Err(e) if !file.exists() => fail(e.to_string(), "kurator join edge writes it"),
        Err(e) => fail(
            e.to_string().replace('\n', " "),
            "mend this line; the agent refuses to start",
        ),
    }]
}

/// Key and certificate belong together, are of the name the configuration says, and are good for long enough.
pub(super) fn identity(site: &Site) -> Vec<Finding> {
    let identity = match &site.identity {
        Ok(identity) => identity,
        Err(e @ PkiError::Io { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {
            return vec![fail(e.to_string(), "run as root")];
        }
        Err(PkiError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return vec![fail(
                "none: this machine has not joined",
                "kurator join edge with a token of the hub",
            )];
        }
        Err(e) => return vec![fail(e.to_string(), "kurator join edge --again with a new token")],
    };
    let cert = match identity.credential.info() {
        Ok(cert) => cert,
        Err(e) => return vec![fail(e.to_string(), "kurator join edge --again with a new token")],
    };
    let name = cert.common_name.strip_prefix(NODE_PREFIX).unwrap_or(&cert.common_name);
    let said = site.config().node_name;
    if !said.is_empty() && said != name {
        return vec![fail(
            format!("edgecore.yaml says nodeName {said}, the certificate is {name}'s"),
            "remove nodeName: the agent refuses to start",
        )];
    }
    vec![lifetime(name, &cert, site.now_ms)]
}

/// Renewal begins at two thirds of a certificate's life; a sixth of it left means that it has not come about for long.
fn lifetime(name: &str, cert: &Cert, now_ms: u64) -> Finding {
    let left = cert.not_after_ms.saturating_sub(now_ms);
    let life = cert.not_after_ms.saturating_sub(cert.not_before_ms);
    let days = format!("{name}: certificate good for {} more days", left / DAY_MS);
    if left == 0 {
        fail(
            format!(
                "{name}: the certificate ended {} days ago",
                (now_ms - cert.not_after_ms) / DAY_MS
            ),
            "kurator join edge --again with a new token; devices work meanwhile",
        )
    } else if left < life / 6 {
        warn(days, "bring the link up: the agent renews it over the link")
    } else {
        ok(days)
    }
}

/// Keys are their owner's alone.
pub(super) fn permissions(site: &Site) -> Vec<Finding> {
    let config = site.config();
    let pki = if config.pki.as_os_str().is_empty() {
        site.config_dir.join("pki")
    } else {
        config.pki
    };
    let (key, kubeconfig) = (pki.join("node.key"), site.config_dir.join("edge.kubeconfig"));
    let open = |path: &PathBuf| Some(std::fs::metadata(path).ok()?.permissions().mode() & 0o077 != 0);
    let mut findings = Vec::new();
    for path in [&key, &kubeconfig] {
        if open(path) == Some(true) {
            let path = path.display();
            findings.push(fail(format!("others can read {path}"), format!("chmod 600 {path}")));
        }
    }
    match (open(&key), open(&kubeconfig)) {
        (None, _) => findings.push(fail(format!("no {}", key.display()), "kurator join edge")),
        (_, None) => findings.push(warn("no edge.kubeconfig yet", "start edgecore once")),
        _ if findings.is_empty() => findings.push(ok("keys are their owner's alone")),
        _ => {}
    }
    findings
}

#[cfg(test)]
pub(super) mod tests {
    use link::pki::{Credential, HubCa, NodeKey, NodeProfile};
    use std::path::Path;
    use std::time::Duration;

    use super::super::State;
    use super::*;

    /// A joined configuration folder whose certificate was made at `made_ms`.
    pub(in super::super) fn joined(folder: &Path, made_ms: u64) -> Site {
        let ca = HubCa::load_or_create(&folder.join("ca"), made_ms).unwrap();
        let key = NodeKey::generate().unwrap();
        let profile = NodeProfile {
            node: "gw-1",
            trust_domain: "kurator.local",
            valid: Duration::from_secs(30 * 86_400),
        };
        let cert = ca.issue_node(&key.request().unwrap(), &profile, made_ms).unwrap();
        let identity = Credential::from_der(&cert.chain, &key);
        let config = folder.join("etc");
        link::pki::install_identity(&config.join("pki"), &identity, Some(&ca.cert_pem())).unwrap();
        std::fs::write(
            config.join("edgecore.yaml"),
            format!("dataDir: {}\n", folder.join("data").display()),
        )
        .unwrap();
        let mut site = Site::new(&config, []);
        site.now_ms = made_ms;
        site.root = folder.join("root");
        site
    }

    pub(in super::super) const NOW: u64 = 1_799_971_200_000;

    #[test]
    fn a_certificate_is_good_then_late_then_ended() {
        let dir = tempfile::tempdir().unwrap();
        let mut site = joined(dir.path(), NOW);
        for (days, state, word) in [
            (0, State::Ok, "29 more days"),
            (21, State::Ok, "more days"),
            (26, State::Warn, "more days"),
            (31, State::Fail, "ended"),
        ] {
            site.now_ms = NOW + days * DAY_MS + 1000;
            let found = &identity(&site)[0];
            assert!(found.state == state && found.found.contains(word), "{days}: {found:?}");
        }
        assert!(identity(&site)[0].fix.contains("--again"));
    }

    #[test]
    fn a_name_that_is_not_the_certificates_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let site = joined(dir.path(), NOW);
        assert_eq!(identity(&site)[0].state, State::Ok);
        std::fs::write(site.config_dir.join("edgecore.yaml"), "nodeName: gw-2\n").unwrap();
        let found = &identity(&Site::new(&site.config_dir, []))[0];
        assert!(found.state == State::Fail && found.found.contains("gw-2"), "{found:?}");
    }

    #[test]
    fn what_the_agent_would_refuse_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let look = |text: &str| {
            std::fs::write(dir.path().join("edgecore.yaml"), text).unwrap();
            configuration(&Site::new(dir.path(), [])).remove(0)
        };
        assert_eq!(look("hubs: ['a.example:10443']\n").state, State::Ok);
        for bad in ["hub: a.example\n", "hubs: [no-port]\n", "a: [\n"] {
            let found = look(bad);
            assert!(
                found.state == State::Fail && found.fix.contains("refuses"),
                "{bad}: {found:?}"
            );
        }
        let nothing = tempfile::tempdir().unwrap();
        let found = configuration(&Site::new(nothing.path(), [])).remove(0);
        assert_eq!(found.fix, "kurator join edge writes it");
    }

    #[test]
    fn keys_that_others_can_read_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let site = joined(dir.path(), NOW);
        assert_eq!(permissions(&site)[0].state, State::Warn, "no kubeconfig yet");
        std::fs::write(site.config_dir.join("edge.kubeconfig"), "x").unwrap();
        let key = site.config_dir.join("pki/node.key");
        for (path, mode) in [(site.config_dir.join("edge.kubeconfig"), 0o600), (key.clone(), 0o640)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let found = permissions(&site);
        assert!(
            found.len() == 1 && found[0].fix == format!("chmod 600 {}", key.display()),
            "{found:?}"
        );
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(permissions(&site)[0].state, State::Ok);
    }
}
