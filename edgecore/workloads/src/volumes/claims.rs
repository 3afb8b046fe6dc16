//! PersistentVolumeClaims get their volume: one that is there and fits, else a folder on this machine, which goes when its claim does.
//!
//! Looks at a claim at one moment and brings claim and volume a step on, the volume first: who is killed in between finds the volume by what it
//! says of its claim. Never touches a folder that it did not make.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use metastore::api::{DeleteOptions, Status, quantity_nanos, selector_selects};
use serde_json::{Value, json};

use super::{CLAIMS, PERSISTENT, is_name, tree};
use crate::cluster::{Cluster, Key, Kind, PODS};
use crate::controllers::{Change, Controller, Reconciled};
use crate::events::{Recorder, Tone};

const CLASSES: Kind = Kind {
    group: "storage.k8s.io",
    version: "v1",
    kind: "StorageClass",
    plural: "storageclasses",
};
/// How volumes that are made here are marked, and what a class says that wants them.
const PROVISIONER: &str = "dev.kurator/local";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const BOUND_HERE: &str = "pv.kubernetes.io/bound-by-controller";
const COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// A folder that a pod may still write to is looked at again after this.
const IN_USE: Duration = Duration::from_secs(30);

/// The controller. `folder`: where the folders of claims are made.
pub(crate) fn claims(cluster: Cluster, events: Recorder, folder: PathBuf) -> Arc<dyn Controller> {
    Arc::new(Claims {
        cluster,
        events,
        folder,
    })
}

struct Claims {
    cluster: Cluster,
    events: Recorder,
    folder: PathBuf,
}

impl Controller for Claims {
    fn name(&self) -> &'static str {
        "persistentvolume-binder"
    }

    fn kind(&self) -> Kind {
        CLAIMS
    }

    fn follows(&self) -> &'static [Kind] {
        &[PERSISTENT, CLASSES]
    }

    fn concerned(&self, change: &Change, cluster: &Cluster) -> Vec<Key> {
        let all = cluster.list(CLAIMS, None).unwrap_or_default();
        let waits = all.iter().filter(|c| text(c, "/spec/volumeName").is_empty());
        let mut keys: Vec<_> = waits.map(Key::of).collect();
        let claim = &change.object()["spec"]["claimRef"];
        // A volume without claim is looked at as the claim that it does not have.
        keys.push(Key::new(text(claim, "/namespace"), text(claim, "/name")));
        keys
    }

    fn reconcile<'a>(&'a self, key: &'a Key) -> Pin<Box<dyn Future<Output = Reconciled> + Send + 'a>> {
        Box::pin(self.look(key))
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Whether a volume is a claim's: by name and, once it says so, by uid.
fn is_of(volume: &Value, claim: &Value) -> bool {
    let (reference, meta) = (&volume["spec"]["claimRef"], &claim["metadata"]);
    let uid = text(reference, "/uid");
    reference["namespace"] == meta["namespace"]
        && reference["name"] == meta["name"]
        && (uid.is_empty() || meta["uid"] == uid)
}

/// Whether a volume was bound to a claim of this name, be it there or gone. One that is only kept for such a claim was not.
pub(super) fn was_of(volume: &Value, namespace: &str, name: &str) -> bool {
    let reference = &volume["spec"]["claimRef"];
    reference["namespace"] == namespace && reference["name"] == name && !text(reference, "/uid").is_empty()
}

/// Whether a volume that nobody has is what a claim asks for.
fn fits(volume: &Value, claim: &Value) -> bool {
    let (has, wants) = (&volume["spec"], &claim["spec"]);
    let modes = |spec: &Value| spec["accessModes"].as_array().cloned().unwrap_or_default();
    let class = |spec: &Value| text(spec, "/storageClassName").to_owned();
    let size = |value: &Value| quantity_nanos(value).unwrap_or(0);
    let sort = |spec: &Value| spec["volumeMode"].as_str().unwrap_or("Filesystem").to_owned();
    let labels = volume["metadata"].get("labels");
    let selected = wants["selector"].is_null() || selector_selects(&wants["selector"], labels);
    volume["metadata"]["deletionTimestamp"].is_null()
        && class(has) == class(wants)
        && sort(has) == sort(wants)
        && size(&has["capacity"]["storage"]) >= size(&wants["resources"]["requests"]["storage"])
        && modes(wants).iter().all(|mode| modes(has).contains(mode))
        && selected
}

impl Claims {
    async fn look(&self, key: &Key) -> Reconciled {
        let claim = self.cluster.get(CLAIMS, key)?;
        let volumes = self.cluster.list(PERSISTENT, None)?;
        let Some(claim) = claim else {
            return self.release(key, "", &volumes).await;
        };
        // Its own first: what an earlier claim of the name left may have to wait for a pod.
        self.settle(key, &claim, &volumes).await?;
        self.release(key, text(&claim, "/metadata/uid"), &volumes).await
    }

    /// Brings a claim to its volume.
    async fn settle(&self, key: &Key, claim: &Value, volumes: &[Value]) -> Result<(), Status> {
        let named = text(claim, "/spec/volumeName");
        let volume = if named.is_empty() {
            let own = volumes.iter().find(|v| is_of(v, claim));
            let free = volumes
                .iter()
                .filter(|v| v["spec"]["claimRef"].is_null() && fits(v, claim));
            let size = |v: &&Value| quantity_nanos(&v["spec"]["capacity"]["storage"]);
            match own.or_else(|| free.min_by_key(size)) {
                Some(volume) => volume.clone(),
                None => match self.make(claim).await? {
                    Some(volume) => volume,
                    None => return Ok(()),
                },
            }
        } else {
            let found = volumes.iter().find(|v| text(v, "/metadata/name") == named);
            match found.filter(|v| v["spec"]["claimRef"].is_null() || is_of(v, claim)) {
                Some(volume) => volume.clone(),
                None => {
                    if text(claim, "/status/phase") == "Bound" {
                        let lost = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
                        self.events.tell(claim, Tone::Warning, "ClaimLost", lost);
                        self.phase(CLAIMS, key, "Lost").await?;
                    }
                    return Ok(());
                }
            }
        };
        self.bind(key, claim, &volume).await
    }

    /// Makes a folder for a claim, and the volume that it is. `None`: that is not for us to do, or cannot be.
    async fn make(&self, claim: &Value) -> Result<Option<Value>, Status> {
        let uid = text(claim, "/metadata/uid");
        let class = claim["spec"]["storageClassName"].as_str();
        let ours = match class {
            Some("") => false,
            Some(name) => match self.cluster.get(CLASSES, &Key::new("", name))? {
                Some(class) => class["provisioner"] == PROVISIONER,
                None => {
                    let why = format!("storageclass.storage.k8s.io {name:?} not found");
                    self.events.tell(claim, Tone::Warning, "ProvisioningFailed", why);
                    false
                }
            },
            // Another one that is for all who name none has them.
            None => {
                let classes = self.cluster.list(CLASSES, None)?;
                let default = |c: &&Value| c["metadata"]["annotations"][DEFAULT_CLASS] == "true";
                classes
                    .iter()
                    .find(default)
                    .is_none_or(|c| c["provisioner"] == PROVISIONER)
            }
        };
        let block = claim["spec"]["volumeMode"] == "Block";
        if !ours || block || !is_name(uid) || !claim["spec"]["selector"].is_null() {
            return Ok(None);
        }
        let name = format!("pvc-{uid}");
        let path = self.folder.join(&name);
        if let Err(e) = make_folder(&path) {
            let why = format!("failed to provision volume: {}: {e}", path.display());
            self.events.tell(claim, Tone::Warning, "ProvisioningFailed", why);
            return Err(Status::internal(e.to_string()));
        }
        let meta = &claim["metadata"];
        let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": {"name": name, "annotations": {PROVISIONED_BY: PROVISIONER, BOUND_HERE: "yes"}},
            "spec": {
                "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
                "accessModes": claim["spec"]["accessModes"],
                "persistentVolumeReclaimPolicy": "Delete",
                "storageClassName": class.unwrap_or_default(),
                "hostPath": {"path": path},
                "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": meta["namespace"],
                    "name": meta["name"], "uid": meta["uid"]}}});
        let made = match self.cluster.create(volume).await {
            Err(e) if e.reason == "AlreadyExists" => return self.cluster.get(PERSISTENT, &Key::new("", name.as_str())),
            other => other?,
        };
        let said = format!("Successfully provisioned volume {name}");
        self.events.tell(claim, Tone::Normal, "ProvisioningSucceeded", said);
        Ok(Some(made))
    }

    /// Writes on both that they are each other's.
    async fn bind(&self, key: &Key, claim: &Value, volume: &Value) -> Result<(), Status> {
        let name = text(volume, "/metadata/name");
        let place = Key::new("", name);
        let meta = &claim["metadata"];
        let claimed = |volume: &mut Value| {
            if !volume["spec"]["claimRef"].is_null() && !is_of(volume, claim) {
                return Err(Status::conflict("", "persistentvolumes", name, "another claim has it"));
            }
            if text(volume, "/spec/claimRef/uid").is_empty() {
                volume["spec"]["claimRef"] = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                    "namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"]});
            }
            Ok(())
        };
        self.cluster.modify(PERSISTENT, &place, claimed).await?;
        self.phase(PERSISTENT, &place, "Bound").await?;
        let bound = |claim: &mut Value| {
            if text(claim, "/spec/volumeName").is_empty() {
                claim["spec"]["volumeName"] = name.into();
                claim["metadata"]["annotations"][BOUND_HERE] = "yes".into();
            }
            claim["metadata"]["annotations"][COMPLETED] = "yes".into();
            Ok(())
        };
        self.cluster.modify(CLAIMS, key, bound).await?;
        let has = |claim: &mut Value| {
            claim["status"]["phase"] = "Bound".into();
            claim["status"]["accessModes"] = volume["spec"]["accessModes"].clone();
            claim["status"]["capacity"] = volume["spec"]["capacity"].clone();
            Ok(())
        };
        self.cluster.modify_status(CLAIMS, key, has).await.map(drop)
    }

    async fn phase(&self, kind: Kind, key: &Key, phase: &str) -> Result<(), Status> {
        let set = |object: &mut Value| {
            if object["status"]["phase"] != phase {
                object["status"]["phase"] = phase.into();
            }
            Ok(())
        };
        self.cluster.modify_status(kind, key, set).await.map(drop)
    }

    /// The volumes of a claim that is gone, and those that never had one. `present`: uid of the claim that has the name now, empty for none; what
    /// is its own stays.
    async fn release(&self, key: &Key, present: &str, volumes: &[Value]) -> Reconciled {
        let mut again = None;
        for volume in volumes {
            let claim = &volume["spec"]["claimRef"];
            let place = Key::of(volume);
            if claim.is_null() {
                // A claim that is there may have taken it just now.
                if present.is_empty() && matches!(text(volume, "/status/phase"), "" | "Pending") {
                    self.phase(PERSISTENT, &place, "Available").await?;
                }
                continue;
            }
            if !was_of(volume, &key.namespace, &key.name) || text(claim, "/uid") == present {
                continue;
            }
            self.phase(PERSISTENT, &place, "Released").await?;
            let made_here = volume["metadata"]["annotations"][PROVISIONED_BY] == PROVISIONER;
            if !made_here || volume["spec"]["persistentVolumeReclaimPolicy"] != "Delete" {
                continue;
            }
            if self.is_used(key)? {
                again = Some(IN_USE);
                continue;
            }
            // By its own name, whatever the object says of a path.
            if is_name(&place.name) && place.name.starts_with("pvc-") {
                let path = self.folder.join(&*place.name);
                let removed = tokio::task::spawn_blocking(move || tree::remove(&path)).await;
                removed
                    .unwrap_or_else(|e| Err(io::Error::other(e)))
                    .map_err(|e| Status::internal(format!("the folder of {place} cannot be removed: {e}")))?;
            }
            self.cluster
                .delete(PERSISTENT, &place, &DeleteOptions::default())
                .await?;
        }
        Ok(again)
    }

    /// Whether a pod that still runs names the claim.
    fn is_used(&self, key: &Key) -> Result<bool, Status> {
        let pods = self.cluster.list(PODS, Some(&*key.namespace))?;
        let names = |pod: &Value| {
            let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
            let done = matches!(text(pod, "/status/phase"), "Succeeded" | "Failed");
            !done
                && volumes
                    .into_iter()
                    .any(|v| text(v, "/persistentVolumeClaim/claimName") == &*key.name)
        };
        Ok(pods.iter().any(names))
    }
}

/// A folder that programs of any user may write to.
fn make_folder(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o711).create(parent)?;
    }
    match fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o777))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::testing;

    struct Stage {
        dir: tempfile::TempDir,
        claims: Arc<dyn Controller>,
        cluster: Cluster,
    }

    impl Stage {
        async fn new() -> Self {
            let (dir, cluster) = testing::cluster().await;
            let (events, writer) = Recorder::new(cluster.clone(), "gw-1".into(), "x");
            drop(tokio::spawn(writer));
            let claims = claims(cluster.clone(), events, dir.path().join("volumes"));
            Self { dir, claims, cluster }
        }

        async fn claim(&self, name: &str, more: Value) {
            let mut spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
            for (field, value) in more.as_object().unwrap() {
                spec[field] = value.clone();
            }
            let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": {"name": name, "namespace": "default"}, "spec": spec});
            self.cluster.create(claim).await.unwrap();
        }

        async fn volume(&self, name: &str, size: &str, more: Value) {
            let mut volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": {
                "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"], "hostPath": {"path": "/none"}}});
            for (field, value) in more.as_object().unwrap() {
                volume["spec"][field] = value.clone();
            }
            self.cluster.create(volume).await.unwrap();
        }

        /// Phase and volume of a claim after a look.
        async fn look(&self, name: &str) -> (String, String) {
            let key = Key::new("default", name);
            self.claims.reconcile(&key).await.unwrap();
            let claim = self.cluster.get(CLAIMS, &key).unwrap().unwrap_or_default();
            (
                text(&claim, "/status/phase").to_owned(),
                text(&claim, "/spec/volumeName").to_owned(),
            )
        }

        async fn delete(&self, kind: Kind, name: &str) {
            let options = DeleteOptions {
                grace: Some(0),
                ..DeleteOptions::default()
            };
            let key = Key::new("default", name);
            self.cluster.delete(kind, &key, &options).await.unwrap();
        }

        /// A pod that mounts a claim.
        async fn pod(&self, name: &str, claim: &str) {
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": {
                "containers": [{"name": "a", "image": "x"}], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}});
            self.cluster.create(pod).await.unwrap();
        }

        fn phase(&self, volume: &str) -> String {
            let volume = self
                .cluster
                .get(PERSISTENT, &Key::new("", volume))
                .unwrap()
                .unwrap_or_default();
            text(&volume, "/status/phase").to_owned()
        }
    }

    fn pair(a: &str, b: &str) -> (String, String) {
        (a.to_owned(), b.to_owned())
    }

    #[tokio::test]
    async fn a_claim_gets_the_smallest_volume_that_fits() {
        let stage = Stage::new().await;
        stage.volume("small", "500Mi", json!({})).await;
        stage.volume("large", "8Gi", json!({})).await;
        stage.volume("fit", "2Gi", json!({})).await;
        stage.volume("classy", "1Gi", json!({"storageClassName": "fast"})).await;
        stage.claim("c", json!({"storageClassName": ""})).await;
        assert_eq!(stage.look("c").await, pair("Bound", "fit"));
        assert_eq!(stage.phase("fit"), "Bound");
        assert_eq!(stage.look("c").await, pair("Bound", "fit"), "again changes nothing");
        stage
            .claim(
                "many",
                json!({"storageClassName": "", "accessModes": ["ReadWriteMany"]}),
            )
            .await;
        assert_eq!(stage.look("many").await, pair("Pending", ""));
        stage.claims.reconcile(&Key::new("", "")).await.unwrap();
        assert_eq!(
            (stage.phase("large").as_str(), stage.phase("fit").as_str()),
            ("Available", "Bound")
        );

        // A volume may wait for one claim alone; what was somebody's is nobody else's.
        stage
            .volume(
                "kept",
                "1Gi",
                json!({"claimRef": {"namespace": "default", "name": "mine"}}),
            )
            .await;
        stage.claim("other", json!({"storageClassName": ""})).await;
        assert_eq!(stage.look("other").await, pair("Bound", "large"));
        stage.claim("mine", json!({"storageClassName": ""})).await;
        assert_eq!(stage.look("mine").await, pair("Bound", "kept"));
        let options = DeleteOptions::default();
        stage
            .cluster
            .delete(CLAIMS, &Key::new("default", "mine"), &options)
            .await
            .unwrap();
        stage.look("mine").await;
        assert_eq!(stage.phase("kept"), "Released");
        stage.claim("mine", json!({"storageClassName": ""})).await;
        assert_eq!(stage.look("mine").await, pair("Pending", ""));
    }

    #[tokio::test]
    async fn who_names_no_class_gets_a_folder_which_goes_with_the_claim() {
        let stage = Stage::new().await;
        stage.claim("c", json!({})).await;
        let (phase, name) = stage.look("c").await;
        assert_eq!(phase, "Bound");
        let path = stage.dir.path().join("volumes").join(&name);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o777);
        fs::write(path.join("data"), "x").unwrap();
        assert_eq!(stage.look("c").await.1, name);

        let key = Key::new("default", "c");
        stage.pod("p", "c").await;
        stage.delete(CLAIMS, "c").await;
        assert_eq!(stage.claims.reconcile(&key).await.unwrap(), Some(IN_USE));
        assert!(path.join("data").exists(), "a pod still has it");
        stage.delete(PODS, "p").await;
        assert_eq!(stage.claims.reconcile(&key).await.unwrap(), None);
        assert!(!path.exists());
        assert_eq!(stage.phase(&name), "");

        stage.claim("classy", json!({"storageClassName": "fast"})).await;
        assert_eq!(stage.look("classy").await, pair("Pending", ""));
        let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "fast"}, "provisioner": PROVISIONER});
        stage.cluster.create(class).await.unwrap();
        assert_eq!(stage.look("classy").await.0, "Bound");
    }

    #[tokio::test]
    async fn what_an_earlier_claim_of_the_name_had_is_released() {
        let stage = Stage::new().await;
        stage.volume("kept", "2Gi", json!({})).await;
        stage.claim("k", json!({"storageClassName": ""})).await;
        stage.claim("c", json!({})).await;
        assert_eq!(stage.look("k").await, pair("Bound", "kept"));
        let (_, old) = stage.look("c").await;
        // Nobody looks between the end of the one and the other.
        for name in ["k", "c"] {
            stage.delete(CLAIMS, name).await;
        }
        stage.pod("p", "c").await;
        stage.claim("k", json!({"storageClassName": ""})).await;
        stage.claim("c", json!({})).await;
        assert_eq!(stage.look("k").await, pair("Pending", ""));
        assert_eq!(stage.phase("kept"), "Released");

        let key = Key::new("default", "c");
        assert_eq!(stage.claims.reconcile(&key).await.unwrap(), Some(IN_USE));
        let (phase, new) = stage.look("c").await;
        assert_eq!((phase.as_str(), stage.phase(&new).as_str()), ("Bound", "Bound"));
        assert_ne!(new, old);
        let path = |name: &str| stage.dir.path().join("volumes").join(name);
        assert!(path(&old).exists(), "a pod may have it");
        assert_eq!(stage.phase(&old), "Released");
        stage.delete(PODS, "p").await;
        assert_eq!(stage.claims.reconcile(&key).await.unwrap(), None);
        assert_eq!((path(&old).exists(), path(&new).exists()), (false, true));
        assert_eq!((stage.phase(&old).as_str(), stage.phase(&new).as_str()), ("", "Bound"));
    }
}
