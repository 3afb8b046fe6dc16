//! The pod network's configuration (CNI), which the runtime acts on: what is there is used; where nothing is and the plugins are, one is written.
//!
//! The one written is ours by the name of its file and of its network: it is brought up to date when settings change, and nobody else's is ever
//! touched. Pods keep the addresses they have: another range means another bridge for the pods to come.

mod leases;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::cidr::Cidr;

pub(super) use leases::{give_back, held};

/// Where configurations stand when nobody says.
const CONFIG_DIR: &str = "/etc/cni/net.d";
/// Where plugins usually are, beside where the runtime says.
const PLUGIN_DIRS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];
/// Our file, and our network in it.
const FILE: &str = "10-kurator.conflist";
const NETWORK: &str = "kurator";
/// Without these there is no network; the last is the runtime's own need.
const NEEDED: [&str; 3] = ["bridge", "host-local", "loopback"];
/// The version of the format: what plugins of the last five years know.
const VERSION: &str = "0.4.0";
/// A configuration is a page of text.
const MAX_FILE: u64 = 1024 * 1024;

/// Where the runtime looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) config: PathBuf,
    pub(super) plugins: Vec<PathBuf>,
}

/// What pods are connected by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The configuration in this file, which is somebody else's.
    Theirs(PathBuf),
    /// Ours.
    Ours(PathBuf),
}

/// Why pods cannot be connected.
#[derive(Debug, thiserror::Error)]
pub(super) enum CniError {
    #[error(
        "no network configuration in {config}, and no plugin {plugin:?} in {places} to write one for: install the CNI plugins"
    )]
    NoPlugin {
        config: String,
        plugin: &'static str,
        places: String,
    },
    #[error("network configuration {path}: {source}")]
    File { path: String, source: io::Error },
}

impl Places {
    /// From what the operator says, else what the runtime says of itself (the verbose part of its status), else the usual.
    pub(super) fn of(setting: &Path, info: &BTreeMap<String, String>) -> Self {
        let cni = |key: &str| -> Option<Value> {
            let told: Value = serde_json::from_str(info.get(key)?).ok()?;
            Some(told.get("cni")?.clone())
        };
        let told = cni("config").unwrap_or_default();
        let folder = |value: &Value| value.as_str().filter(|path| path.starts_with('/')).map(PathBuf::from);
        let config = if setting.as_os_str().is_empty() {
            folder(&told["confDir"]).unwrap_or_else(|| CONFIG_DIR.into())
        } else {
            setting.to_owned()
        };
        let several = told["binDirs"].as_array().into_iter().flatten();
        let mut plugins: Vec<PathBuf> = several.chain([&told["binDir"]]).filter_map(folder).collect();
        for usual in PLUGIN_DIRS {
            if !plugins.iter().any(|p| p == Path::new(usual)) {
                plugins.push(usual.into());
            }
        }
        Self { config, plugins }
    }

    fn has(&self, plugin: &str) -> bool {
        self.plugins.iter().any(|folder| folder.join(plugin).is_file())
    }
}

/// How ours is to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// The pods' addresses.
    pub(super) range: Cidr,
    /// Whether plugins can put this machine's address in the place of a pod's; without, they are told not to.
    pub(super) masquerades: bool,
    /// Folder in which is kept which address is given: the agent's own, as there may be others on the machine.
    pub(super) leases: &'a Path,
}

/// Uses what is there, or writes ours.
pub(super) fn ensure(places: &Places, wanted: Wanted<'_>) -> Result<Found, CniError> {
    let path = places.config.join(FILE);
    let failed = |path: &Path, source| CniError::File {
        path: path.display().to_string(),
        source,
    };
    let theirs = other(&places.config).map_err(|e| failed(&places.config, e))?;
    let ours = read(&path).map_err(|e| failed(&path, e))?;
    match (&ours, theirs) {
        (None, Some(theirs)) => return Ok(Found::Theirs(theirs)),
        // The runtime takes the first by name.
        (Some(_), Some(theirs)) if theirs.file_name() < path.file_name() => return Ok(Found::Theirs(theirs)),
        (Some(text), _) if !is_ours(text) => return Ok(Found::Theirs(path)),
        _ => {}
    }
    if let Some(plugin) = NEEDED.into_iter().find(|plugin| !places.has(plugin)) {
        if ours.is_some() {
            return Ok(Found::Ours(path));
        }
        let places_text: Vec<_> = places.plugins.iter().map(|p| p.display().to_string()).collect();
        return Err(CniError::NoPlugin {
            config: places.config.display().to_string(),
            plugin,
            places: places_text.join(", "),
        });
    }
    let text = conflist(wanted, wanted.masquerades && places.has("portmap"));
    if ours.as_deref() != Some(text.as_str()) {
        write(&places.config, &path, &text).map_err(|e| failed(&path, e))?;
        tracing::info!(path = %path.display(), range = %wanted.range, "The pod network's configuration was written.");
    }
    Ok(Found::Ours(path))
}

/// Our configuration.
fn conflist(wanted: Wanted<'_>, portmap: bool) -> String {
    let range = wanted.range;
    let all = if range.base().is_ipv4() { "0.0.0.0/0" } else { "::/0" };
    let mut plugins = vec![json!({
        "type": "bridge",
        "bridge": bridge(range),
        "isGateway": true,
        "ipMasq": wanted.masquerades,
        "hairpinMode": true,
        "promiscMode": false,
        "ipam": {
            "type": "host-local",
            "dataDir": wanted.leases,
            "ranges": [[{"subnet": range.to_string()}]],
            "routes": [{"dst": all}],
        },
    })];
    if portmap {
        plugins.push(json!({"type": "portmap", "capabilities": {"portMappings": true}}));
    }
    let list = json!({"cniVersion": VERSION, "name": NETWORK, "plugins": plugins});
    format!("{list:#}\n")
}

/// The bridge of a range: another range is another bridge, so that pods on the old one keep their gateway.
pub(super) fn bridge(range: Cidr) -> String {
    let print = crate::time::fingerprint(&range.to_string());
    format!("kurator-{:04x}", print & 0xffff)
}

fn is_ours(text: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok_and(|list| list["name"] == NETWORK)
        // A file of our name that nobody can read is what a power cut left of ours.
        || serde_json::from_str::<Value>(text).is_err()
}

/// The first configuration that is not our file.
fn other(folder: &Path) -> io::Result<Option<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut first: Option<PathBuf> = None;
    for entry in entries {
        let path = entry?.path();
        let is_config = path
            .extension()
            .is_some_and(|e| e == "conflist" || e == "conf" || e == "json");
        let earlier = first.as_ref().is_none_or(|first| path < *first);
        if is_config && path.file_name().is_some_and(|name| name != FILE) && earlier {
            first = Some(path);
        }
    }
    Ok(first)
}

fn read(path: &Path) -> io::Result<Option<String>> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.len() > MAX_FILE => Err(io::ErrorKind::FileTooLarge.into()),
        Ok(_) => std::fs::read(path).map(|bytes| Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Writes a file so that after a power cut it is the old one or the new one. The runtime sees no file that is not whole: the name under which
/// it is written is no configuration's.
fn write(folder: &Path, path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    std::fs::create_dir_all(folder)?;
    let new = folder.join(".10-kurator.new");
    let mut file = std::fs::File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: &str = "10.42.0.0/24";

    fn wanted(range: &str, masquerades: bool) -> Wanted<'static> {
        Wanted {
            range: range.parse().unwrap(),
            masquerades,
            leases: Path::new("/somewhere/leases"),
        }
    }

    fn places(dir: &Path) -> Places {
        let plugins = dir.join("bin");
        std::fs::create_dir_all(&plugins).unwrap();
        for plugin in NEEDED.into_iter().chain(["portmap"]) {
            std::fs::write(plugins.join(plugin), "").unwrap();
        }
        Places {
            config: dir.join("net.d"),
            plugins: vec![plugins],
        }
    }

    #[test]
    fn the_runtime_says_where() {
        let told = r#"{"cni": {"binDir": "/x/bin", "confDir": "/x/net.d"}, "other": 1}"#;
        let info = BTreeMap::from([("config".to_owned(), told.to_owned())]);
        let places = Places::of(Path::new(""), &info);
        assert_eq!(places.config, Path::new("/x/net.d"));
        assert_eq!(places.plugins[0], Path::new("/x/bin"));
        assert_eq!(places.plugins.len(), 3);
        assert_eq!(Places::of(Path::new("/mine"), &info).config, Path::new("/mine"));
        for told in [
            "",
            "{",
            r#"{"cni": 3}"#,
            r#"{"cni": {"confDir": "relative", "binDir": null}}"#,
        ] {
            let info = BTreeMap::from([("config".to_owned(), told.to_owned())]);
            let places = Places::of(Path::new(""), &info);
            assert_eq!((&*places.config, places.plugins.len()), (Path::new(CONFIG_DIR), 2));
        }
    }

    #[test]
    fn ours_is_written_once_and_follows_settings() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        let Found::Ours(path) = ensure(&places, wanted(RANGE, true)).unwrap() else {
            panic!("nothing else is there");
        };
        let list = |path: &Path| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
        assert_eq!(
            list(&path)["plugins"][0]["ipam"]["ranges"][0][0]["subnet"],
            "10.42.0.0/24"
        );
        assert_eq!(list(&path)["plugins"][1]["type"], "portmap");
        let written = std::fs::metadata(&path).unwrap().modified().unwrap();
        ensure(&places, wanted(RANGE, true)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), written);
        // Another range: another bridge.
        let before = list(&path)["plugins"][0]["bridge"].clone();
        ensure(&places, wanted("10.50.0.0/24", false)).unwrap();
        assert_ne!(list(&path)["plugins"][0]["bridge"], before);
        assert_eq!(list(&path)["plugins"].as_array().unwrap().len(), 1);
        // What a power cut left.
        std::fs::write(&path, "{\"name\": \"kur").unwrap();
        ensure(&places, wanted(RANGE, true)).unwrap();
        assert_eq!(list(&path)["name"], NETWORK);
    }

    #[test]
    fn nobody_elses_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        std::fs::create_dir_all(&places.config).unwrap();
        let theirs = places.config.join("20-flannel.conflist");
        std::fs::write(&theirs, "{}").unwrap();
        std::fs::write(places.config.join("README"), "").unwrap();
        assert_eq!(
            ensure(&places, wanted(RANGE, true)).unwrap(),
            Found::Theirs(theirs.clone())
        );
        assert!(!places.config.join(FILE).exists());
        std::fs::remove_file(&theirs).unwrap();
        let named_so = places.config.join(FILE);
        std::fs::write(&named_so, r#"{"name": "press-hall"}"#).unwrap();
        assert_eq!(ensure(&places, wanted(RANGE, true)).unwrap(), Found::Theirs(named_so));
    }

    #[test]
    fn missing_plugins_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        std::fs::remove_file(places.plugins[0].join("host-local")).unwrap();
        let why = ensure(&places, wanted(RANGE, true)).unwrap_err().to_string();
        assert!(why.contains("\"host-local\"") && why.contains("install"), "{why}");
    }
}
