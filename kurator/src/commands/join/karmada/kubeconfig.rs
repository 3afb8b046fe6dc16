//! The kubeconfig that a hub starts with: what stands in it, and where it goes. A file of somebody else is never replaced.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use daemon::exit::{BAD_CONFIG, FAILED, Failure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use link::pki;
use serde_json::json;

use crate::client::Api;
use crate::output;

/// Readable and writable by its owner.
const MODE: u32 = 0o600;

/// The kubeconfig of an account, for the server that `admin` has been verified to reach.
///
/// # Errors
/// None in practice: what is in it can always be written.
pub(super) fn text(admin: &kube::Config, user: &str, token: &str) -> Result<String, Failure> {
    let server = admin.cluster_url.to_string();
    let mut cluster = json!({"server": server.trim_end_matches('/')});
    // Without one the server's certificate is the public kind, and verified as such.
    if let Some(ca) = &admin.root_cert {
        let pem: String = ca.iter().map(|der| pki::certificate_pem(der)).collect();
        cluster["certificate-authority-data"] = STANDARD.encode(pem).into();
    }
    if let Some(name) = &admin.tls_server_name {
        cluster["tls-server-name"] = name.as_str().into();
    }
    if let Some(proxy) = &admin.proxy_url {
        cluster["proxy-url"] = proxy.to_string().into();
    }
    output::yaml(&json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "karmada", "cluster": cluster}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "karmada", "context": {"cluster": "karmada", "user": user}}],
        "current-context": "karmada",
    }))
}

/// The API as such a kubeconfig opens it.
///
/// # Errors
/// A text that is no kubeconfig.
pub(super) async fn open(text: &str) -> Result<Api, Failure> {
    let bad = |e: String| Failure::new(FAILED, format!("the hub's kubeconfig cannot be used: {e}"));
    let kubeconfig = Kubeconfig::from_yaml(text).map_err(|e| bad(e.to_string()))?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|e| bad(e.to_string()))?;
    Api::with(config).map_err(bad)
}

/// Where it goes.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    /// What stands there now, of this account.
    present: Option<String>,
}

impl Place {
    /// Looks at it before anything is done.
    ///
    /// # Errors
    /// A file that is not this account's, or a folder that cannot be written.
    pub(super) fn new(path: &Path, admin: &Path, user: &str) -> Result<Self, Failure> {
        let same = |a: &Path, b: &Path| a.canonicalize().ok().is_some_and(|a| b.canonicalize().ok() == Some(a));
        let foreign = |what: &str| {
            Failure::new(BAD_CONFIG, format!("{} is {what}", path.display()))
                .hint("name another file with --hub-kubeconfig")
        };
        if same(path, admin) {
            return Err(foreign("the administrator's kubeconfig"));
        }
        let present = match std::fs::read_to_string(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(unwritten(path, &e.to_string())),
            Ok(text) => Some(text),
        };
        if let Some(text) = &present {
            let theirs = Kubeconfig::from_yaml(text).map_or(true, |there| {
                there.auth_infos.iter().map(|u| u.name.as_str()).ne([user])
            });
            if theirs {
                return Err(foreign(&format!("there, and is no kubeconfig of {user}")));
            }
        }
        tempfile::tempfile_in(folder(path)).map_err(|e| unwritten(path, &e.to_string()))?;
        Ok(Self {
            path: path.to_owned(),
            present,
        })
    }

    /// Puts it there, whole or not at all; what was done.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn put(&self, text: &str) -> Result<&'static str, Failure> {
        let failed = |e: &dyn std::fmt::Display| unwritten(&self.path, &e.to_string());
        let Some(present) = &self.present else {
            // Made with its mode, and named only where no file has come to be since.
            let mut file = tempfile::NamedTempFile::new_in(folder(&self.path)).map_err(|e| failed(&e))?;
            let written = file.write_all(text.as_bytes());
            written
                .and_then(|()| file.as_file().sync_all())
                .map_err(|e| failed(&e))?;
            file.persist_noclobber(&self.path).map_err(|e| failed(&e.error))?;
            return Ok("written");
        };
        let mode = std::fs::metadata(&self.path).map(|m| m.permissions().mode() & 0o777);
        if present == text && mode.is_ok_and(|mode| mode == MODE) {
            return Ok("unchanged");
        }
        pki::write_atomic(&self.path, text.as_bytes(), MODE).map_err(|e| failed(&e))?;
        Ok("updated")
    }
}

fn folder(path: &Path) -> &Path {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    folder.unwrap_or_else(|| Path::new("."))
}

fn unwritten(path: &Path, why: &str) -> Failure {
    Failure::new(FAILED, format!("cannot write {}: {why}", path.display()))
        .hint("name a file in a folder that is yours with --hub-kubeconfig")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(token: &str) -> String {
        let mut admin = kube::Config::new("https://karmada.example:5443/".parse().unwrap());
        admin.root_cert = Some(vec![vec![1, 2, 3], vec![4]]);
        admin.tls_server_name = Some("karmada".into());
        text(&admin, "kurator-hub", token).unwrap()
    }

    #[tokio::test]
    async fn the_server_and_its_ca_are_in_it_and_it_is_a_kubeconfig() {
        let there = Kubeconfig::from_yaml(&written("t0ken: #'\n")).unwrap();
        let config = kube::Config::from_custom_kubeconfig(there, &KubeConfigOptions::default())
            .await
            .unwrap();
        assert_eq!(config.cluster_url.to_string(), "https://karmada.example:5443/");
        assert_eq!(config.root_cert, Some(vec![vec![1, 2, 3], vec![4]]));
        assert_eq!(config.tls_server_name.as_deref(), Some("karmada"));
        assert!(!config.accept_invalid_certs);
    }

    #[test]
    fn it_is_its_owners_only_and_replaced_only_by_its_like() {
        let folder = tempfile::tempdir().unwrap();
        let (path, admin) = (folder.path().join("hub.kubeconfig"), folder.path().join("admin"));
        std::fs::write(&admin, "x").unwrap();
        let place = || Place::new(&path, &admin, "kurator-hub");
        assert_eq!(place().unwrap().put(&written("a")).unwrap(), "written");
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        assert_eq!(place().unwrap().put(&written("a")).unwrap(), "unchanged");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(place().unwrap().put(&written("a")).unwrap(), "updated");
        assert_eq!(mode(), 0o600);
        assert_eq!(place().unwrap().put(&written("b")).unwrap(), "updated");
        assert!(std::fs::read_to_string(&path).unwrap().contains("token: b"));
        assert_eq!(Place::new(&path, &admin, "kurator-east").unwrap_err().code, BAD_CONFIG);
        assert_eq!(Place::new(&admin, &admin, "kurator-hub").unwrap_err().code, BAD_CONFIG);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
        // One that came to be in between is not replaced.
        let early = Place::new(&folder.path().join("late"), &admin, "kurator-hub").unwrap();
        std::fs::write(folder.path().join("late"), "mine").unwrap();
        assert_eq!(early.put("x").unwrap_err().code, FAILED);
    }
}
