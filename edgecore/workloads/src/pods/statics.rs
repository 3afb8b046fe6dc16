//! Static pods: manifests in a folder of this machine. They run whether or not the API can be written; in the API each is shown by a mirror.
//!
//! A manifest's hash is the uid that everything about the pod on this machine is called by: another text is another pod, which starts when the
//! one before it is gone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use metastore::api::{DeleteOptions, Status};
use serde_json::{Value, json};

use super::Shared;
use crate::cluster::{Key, NODES, PODS};

/// Annotation of a mirror: the hash of the manifest it stands for.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";
const HASH: &str = "kubernetes.io/config.hash";
const SOURCE: &str = "kubernetes.io/config.source";
const SEEN: &str = "kubernetes.io/config.seen";
/// Longest manifest, in bytes.
const MAX_MANIFEST: u64 = 1024 * 1024;
/// Most manifests.
const MAX_MANIFESTS: usize = 110;

/// A static pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) uid: String,
    pub(super) key: Key,
    /// The pod, as JSON.
    pub(super) object: Bytes,
}

/// The folder of manifests.
#[derive(Debug)]
pub(super) struct Statics {
    folder: PathBuf,
    node: String,
    /// What each file held, and its time and size then.
    files: BTreeMap<PathBuf, ((u128, u64), Option<Manifest>)>,
}

impl Statics {
    pub(super) const fn new(folder: PathBuf, node: String) -> Self {
        Self {
            folder,
            node,
            files: BTreeMap::new(),
        }
    }

    /// The static pods there are now. `now`: milliseconds since 1970. A file that cannot be read holds what it held.
    pub(super) fn look(&mut self, now: u64) -> Vec<&Manifest> {
        let mut found = BTreeMap::new();
        match std::fs::read_dir(&self.folder) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => {
                tracing::warn!(folder = %self.folder.display(), error = %e, "The folder of static pods cannot be read.");
                found = std::mem::take(&mut self.files);
            }
            Ok(entries) => {
                let hidden = |path: &Path| path.file_name().is_none_or(|n| n.to_string_lossy().starts_with('.'));
                let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| !hidden(p)).collect();
                paths.sort();
                paths.truncate(MAX_MANIFESTS);
                for path in paths {
                    let before = self.files.remove(&path);
                    found.extend(self.file(&path, before, now).map(|held| (path, held)));
                }
            }
        }
        self.files = found;
        let mut names = std::collections::BTreeSet::new();
        let manifests = self.files.values().filter_map(|(_, manifest)| manifest.as_ref());
        manifests.filter(|m| names.insert(&m.key)).collect()
    }

    fn file(
        &self,
        path: &Path,
        before: Option<((u128, u64), Option<Manifest>)>,
        now: u64,
    ) -> Option<((u128, u64), Option<Manifest>)> {
        let metadata = std::fs::metadata(path).ok()?;
        if !metadata.is_file() {
            return None;
        }
        let modified = metadata
            .modified()
            .ok()
            .and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let stamp = (modified.map_or(0, |d| d.as_nanos()), metadata.len());
        if before.as_ref().is_some_and(|(was, _)| *was == stamp) {
            return before;
        }
        let read = if metadata.len() > MAX_MANIFEST {
            Err(format!("longer than {MAX_MANIFEST} bytes"))
        } else {
            std::fs::read(path)
                .map_err(|e| e.to_string())
                .and_then(|text| manifest(&text, path, &self.node, now))
        };
        match read {
            Ok(new) => {
                // The same text at another time is the same pod.
                let same = before.and_then(|(_, m)| m).filter(|m| m.uid == new.uid);
                Some((stamp, Some(same.unwrap_or(new))))
            }
            Err(why) => {
                tracing::warn!(file = %path.display(), why, "A manifest holds no Pod that can be run.");
                Some((stamp, before.and_then(|(_, m)| m)))
            }
        }
    }
}

fn manifest(text: &[u8], path: &Path, node: &str, now: u64) -> Result<Manifest, String> {
    let mut pod = metastore::api::read_yaml(text)?;
    if pod["kind"] != "Pod" || pod["apiVersion"] != "v1" {
        return Err("it is not of kind Pod, v1".to_owned());
    }
    let name = pod["metadata"]["name"]
        .as_str()
        .filter(|n| !n.is_empty())
        .ok_or("it has no name")?;
    let name = format!("{name}-{}", node.to_lowercase());
    if pod["spec"]["containers"].as_array().is_none_or(Vec::is_empty) {
        return Err("it has no containers".to_owned());
    }
    let namespace = pod["metadata"]["namespace"]
        .as_str()
        .filter(|n| !n.is_empty())
        .unwrap_or("default")
        .to_owned();
    let plain = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
    };
    if !plain(&name) || !plain(&namespace) {
        return Err("its name is none".to_owned());
    }
    let source = format!("host:{node}file:{}", path.display());
    // Of the bytes alone: with another uid after an upgrade of the agent the pod would be another pod.
    let text = pod.to_string();
    let halves = ["1", "2"].map(|salt| [salt, source.as_str(), text.as_str()].join("\0"));
    let halves = halves.map(|half| crate::time::fingerprint_of_bytes(half.as_bytes()));
    let uid = format!("{:016x}{:016x}", halves[0], halves[1]);
    let metadata = &mut pod["metadata"];
    metadata["name"] = name.as_str().into();
    metadata["namespace"] = namespace.as_str().into();
    metadata["uid"] = uid.as_str().into();
    if !metadata["annotations"].is_object() {
        metadata["annotations"] = json!({});
    }
    metadata["annotations"][HASH] = uid.as_str().into();
    metadata["annotations"][SOURCE] = "file".into();
    metadata["annotations"][SEEN] = crate::time::stamp(now).into();
    let spec = &mut pod["spec"];
    spec["nodeName"] = node.into();
    let tolerates = json!({"operator": "Exists", "effect": "NoExecute"});
    match spec["tolerations"].as_array_mut() {
        Some(list) if list.contains(&tolerates) => {}
        Some(list) => list.push(tolerates),
        None => spec["tolerations"] = json!([tolerates]),
    }
    let read: Result<crate::pod::Pod, _> = serde_json::from_value(pod.clone());
    read.map_err(|e| e.to_string())?;
    Ok(Manifest {
        key: Key::new(namespace, name),
        object: pod.to_string().into(),
        uid,
    })
}

/// The mirror of a static pod, when there is one.
pub(super) fn mirror(shared: &Shared, key: &Key, uid: &str) -> Option<Value> {
    let stored = shared.cluster.get(PODS, key).ok().flatten()?;
    (stored["metadata"]["annotations"][MIRROR] == uid).then_some(stored)
}

/// Makes the mirror be there, in place of one that was asked to go or stands for another manifest.
///
/// # Errors
/// What the API says. The pod runs all the same.
pub(super) async fn show(shared: &Shared, key: &Key, uid: &str, manifest: &[u8]) -> Result<Value, Status> {
    if let Some(stored) = shared.cluster.get(PODS, key)? {
        let metadata = &stored["metadata"];
        if metadata["annotations"][MIRROR] == uid && metadata["deletionTimestamp"].is_null() {
            return Ok(stored);
        }
        if metadata["annotations"][MIRROR].is_null() {
            return Err(Status::conflict(
                "",
                "pods",
                &key.name,
                "a Pod of this name stands in the way of a static pod",
            ));
        }
        forget(shared, key, metadata["uid"].as_str().unwrap_or_default()).await?;
    }
    let mut object: Value = serde_json::from_slice(manifest).map_err(|e| Status::internal(e.to_string()))?;
    let metadata = &mut object["metadata"];
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.remove("uid");
    }
    metadata["annotations"][MIRROR] = uid.into();
    let node = &*shared.options.node;
    if let Some(owner) = shared.cluster.get(NODES, &Key::new("", node))? {
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": node, "uid": owner["metadata"]["uid"], "controller": true});
        metadata["ownerReferences"] = json!([owner]);
    }
    shared.cluster.create(object).await
}

/// Removes a mirror.
///
/// # Errors
/// What the API says.
pub(super) async fn forget(shared: &Shared, key: &Key, uid: &str) -> Result<(), Status> {
    let options = DeleteOptions {
        uid: Some(uid.to_owned()),
        grace: Some(0),
        ..DeleteOptions::default()
    };
    shared.cluster.delete(PODS, key, &options).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - {name: a, image: app}\n";

    #[test]
    fn manifests_become_pods_of_this_node() {
        let dir = tempfile::tempdir().unwrap();
        let mut statics = Statics::new(dir.path().to_owned(), "Press".to_owned());
        assert!(statics.look(0).is_empty());
        std::fs::write(dir.path().join("web.yaml"), POD).unwrap();
        std::fs::write(dir.path().join(".hidden"), POD).unwrap();
        std::fs::write(dir.path().join("z-same-name.yaml"), POD).unwrap();
        std::fs::write(dir.path().join("not.yaml"), "kind: Service").unwrap();
        let found: Vec<Manifest> = statics.look(1_795_219_200_000).into_iter().cloned().collect();
        assert_eq!(found.len(), 1, "a name is taken once");
        assert_eq!(found[0].key, Key::new("default", "web-press"));
        let object: Value = serde_json::from_slice(&found[0].object).unwrap();
        assert_eq!(object["spec"]["nodeName"], "Press");
        assert_eq!(object["metadata"]["annotations"][HASH], found[0].uid.as_str());
        assert_eq!(object["metadata"]["annotations"][SOURCE], "file");
        assert_eq!(
            statics.look(1_795_219_260_000),
            found.iter().collect::<Vec<_>>(),
            "nothing changed"
        );
        std::fs::write(dir.path().join("web.yaml"), "apiVersion: [").unwrap();
        assert_eq!(statics.look(0)[0].uid, found[0].uid, "a broken text ends no pod");
        std::fs::write(dir.path().join("web.yaml"), POD.replace("app", "app:2")).unwrap();
        assert_ne!(statics.look(0)[0].uid, found[0].uid);
        std::fs::remove_file(dir.path().join("web.yaml")).unwrap();
        assert_eq!(statics.look(0).len(), 1, "the other of that name is there now");
        std::fs::remove_dir_all(dir.path()).unwrap();
        assert!(statics.look(0).is_empty());
    }
}
