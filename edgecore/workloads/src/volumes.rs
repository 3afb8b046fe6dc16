//! The files that containers of a pod see beside their image's: made before its containers, kept up to date, and taken away after them.
//!
//! All that is known about a pod's volumes is on the disk, in the pod's folder (`volumes/<name>`, `volume-subpaths/…`), in the table of mounts
//! and in the store: every call works out what is missing and goes on from there, whenever an earlier one was killed. Secrets and tokens are
//! on a file system in memory where the machine allows that. Never runs a container; called by `pods`, for one pod one call at a time.

mod atomic;
mod claims;
mod content;
mod host_path;
mod mounts;
mod sub_path;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cri::v1::{Mount, MountPropagation};
use metastore::store::ObjectKey;

use crate::cluster::{CONFIG_MAPS, Cluster, Key, Kind, PODS, SECRETS};
use crate::pod::{Container, Pod, Volume, VolumeMount};
use crate::setup::{Env, Host, SetupError, amount, expand};

pub(crate) use claims::claims;
#[cfg(test)]
pub(crate) use mounts::unmount_below;
pub(crate) use tree::Space;

const CLAIMS: Kind = Kind {
    group: "",
    version: "v1",
    kind: "PersistentVolumeClaim",
    plural: "persistentvolumeclaims",
};
const PERSISTENT: Kind = Kind {
    group: "",
    version: "v1",
    kind: "PersistentVolume",
    plural: "persistentvolumes",
};

/// Why a volume is not there. The text is that of the Event `FailedMount`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct VolumeError(pub(crate) String);

impl VolumeError {
    fn of(volume: &str, why: impl std::fmt::Display) -> Self {
        Self(format!("MountVolume.SetUp failed for volume {volume:?} : {why}"))
    }
}

/// A volume that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// On the machine.
    pub(crate) path: PathBuf,
    pub(crate) read_only: bool,
}

/// The volumes of a pod, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mounted(BTreeMap<String, Place>);

impl Mounted {
    pub(crate) fn get(&self, volume: &str) -> Option<&Place> {
        self.0.get(volume)
    }
}

/// What a pod's own volumes take on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Together: what counts against a pod's `ephemeral-storage`.
    pub(crate) total: Space,
    /// Of each `emptyDir`, in memory or not.
    pub(crate) volumes: BTreeMap<String, Space>,
}

/// The volumes of all pods. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Volumes {
    cluster: Cluster,
    host: Arc<Host>,
    /// By pod (uid): one call at a time works on its files.
    turns: Arc<Mutex<BTreeMap<String, Arc<Mutex<()>>>>>,
}

/// What to do with files does not belong on the threads that answer requests.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, VolumeError> + Send + 'static,
) -> Result<T, VolumeError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(VolumeError(format!("the volumes could not be looked after: {e}"))))
}

impl Volumes {
    pub(crate) fn new(cluster: Cluster, host: Arc<Host>) -> Self {
        Self {
            cluster,
            host,
            turns: Arc::default(),
        }
    }

    /// Works on a pod's files when nobody else does. What is called must not come here again: it would wait for itself.
    fn in_turn<T>(&self, uid: &str, work: impl FnOnce() -> T) -> T {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(uid.to_owned()).or_default())
        };
        let _mine = turn.lock().unwrap_or_else(PoisonError::into_inner);
        work()
    }

    /// Makes what is missing of a pod's volumes, and says where they are.
    ///
    /// # Errors
    /// The first volume that cannot be there, with why.
    pub(crate) async fn prepare(&self, pod: &Pod) -> Result<Mounted, VolumeError> {
        let (this, pod) = (self.clone(), pod.clone());
        blocking(move || this.in_turn(pod.uid(), || this.prepare_now(&pod, true))).await
    }

    /// The same, but what is there is good enough: for a container that starts again in a pod whose objects may be gone meanwhile.
    ///
    /// # Errors
    /// The first volume that is not there and cannot be.
    pub(crate) async fn prepared(&self, pod: &Pod) -> Result<Mounted, VolumeError> {
        let (this, pod) = (self.clone(), pod.clone());
        blocking(move || this.in_turn(pod.uid(), || this.prepare_now(&pod, false))).await
    }

    /// Brings the files of a pod's volumes up to date, those that were made. True when some changed.
    ///
    /// # Errors
    /// The first volume that cannot be brought up to date; the others are.
    pub(crate) async fn refresh(&self, pod: &Pod) -> Result<bool, VolumeError> {
        let (this, pod) = (self.clone(), pod.clone());
        blocking(move || this.in_turn(pod.uid(), || this.refresh_now(&pod))).await
    }

    /// Takes a pod's folder away, after what is mounted in it. None of its containers may run any more.
    ///
    /// # Errors
    /// When something is still mounted or cannot be removed: what is left is found again by [`on_disk`](Self::on_disk).
    pub(crate) async fn tear_down(&self, uid: &str) -> Result<(), VolumeError> {
        let (this, uid) = (self.clone(), uid.to_owned());
        blocking(move || this.in_turn(&uid, || this.tear_down_now(&uid))).await
    }

    /// The pods that have a folder, by uid.
    ///
    /// # Errors
    /// When the folder of all pods cannot be read.
    pub(crate) fn on_disk(&self) -> Result<Vec<String>, VolumeError> {
        let entries = match fs::read_dir(&self.host.pods) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|e| VolumeError(format!("{}: {e}", self.host.pods.display())))?,
        };
        let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
        Ok(names.filter(|name| is_name(name)).collect())
    }

    /// What a pod's own volumes take.
    ///
    /// # Errors
    /// When they cannot be looked at.
    pub(crate) async fn usage(&self, pod: &Pod) -> Result<Usage, VolumeError> {
        let (this, pod) = (self.clone(), pod.clone());
        blocking(move || {
            let folder = this.folder(pod.uid())?.join("volumes");
            let mut usage = Usage::default();
            for volume in &pod.spec.volumes {
                let own = volume.empty_dir.is_some() || is_made_of_files(volume);
                if !own || !is_name(&volume.name) {
                    continue;
                }
                let path = folder.join(&volume.name);
                let space = tree::space(&path).map_err(|e| VolumeError::of(&volume.name, e))?;
                if !mounts::is_tmpfs(&path).unwrap_or(false) {
                    usage.total += space;
                }
                if volume.empty_dir.is_some() {
                    usage.volumes.insert(volume.name.clone(), space);
                }
            }
            Ok(usage)
        })
        .await
    }

    /// How long until a pod's volumes are to be refreshed although nothing changed: a token grows old. `None` when it has none.
    pub(crate) fn refresh_in(&self, pod: &Pod) -> Option<Duration> {
        let folder = self.folder(pod.uid()).ok()?.join("volumes");
        let made = |v: &&Volume| is_name(&v.name) && atomic::is_made(&folder.join(&v.name));
        let volumes = pod.spec.volumes.iter().filter(made);
        volumes
            .filter_map(|v| content::renewed_in(v, &folder.join(&v.name)))
            .min()
    }

    /// The pods (uids) whose volumes show what changed.
    pub(crate) fn wants(&self, changed: &ObjectKey) -> Vec<String> {
        let (namespace, name) = (&*changed.namespace, &*changed.name);
        let wanted = |object: serde_json::Value, shows: &dyn Fn(&Volume) -> bool| {
            let pod = Pod::read(object).ok()?;
            let here = pod.spec.node_name == *self.host.node && !pod.is_finished();
            (here && pod.spec.volumes.iter().any(shows)).then(|| pod.uid().to_owned())
        };
        if PODS.is_of(changed) {
            let found = self.cluster.get(PODS, &Key::new(namespace, name)).ok().flatten();
            return found.and_then(|o| wanted(o, &content::shows_pod)).into_iter().collect();
        }
        let Some(kind) = [CONFIG_MAPS, SECRETS].into_iter().find(|k| k.is_of(changed)) else {
            return Vec::new();
        };
        let pods = self.cluster.list(PODS, Some(namespace)).unwrap_or_default();
        let shows = |v: &Volume| content::shows(v, kind, name);
        pods.into_iter().filter_map(|o| wanted(o, &shows)).collect()
    }

    /// A container's mounts, its parts of volumes made ready.
    ///
    /// # Errors
    /// In the words of a waiting container's status.
    pub(crate) async fn mounts(
        &self,
        pod: &Pod,
        container: &Container,
        mounted: &Mounted,
        env: &Env,
    ) -> Result<Vec<Mount>, SetupError> {
        let mut out = Vec::with_capacity(container.volume_mounts.len());
        for (at, mount) in container.volume_mounts.iter().enumerate() {
            let place = mounted.get(&mount.name).ok_or_else(|| {
                SetupError::container(format!(
                    "cannot find volume {:?} to mount into container {:?}",
                    mount.name, container.name
                ))
            })?;
            let part = part_of(mount, env).map_err(SetupError::container)?;
            let path = if part.is_empty() {
                place.path.clone()
            } else {
                let failed = || {
                    SetupError::container(format!(
                        "failed to prepare subPath for volumeMount {:?} of container {:?}",
                        mount.name, container.name
                    ))
                };
                let folder = self.folder(pod.uid()).map_err(|_| failed())?;
                let parts = folder.join("volume-subpaths");
                let target = parts.join(&mount.name).join(&container.name).join(at.to_string());
                let (this, uid) = (self.clone(), pod.uid().to_owned());
                let (volume, to) = (place.path.clone(), target.clone());
                let done = blocking(move || {
                    let mount = || sub_path::mount(&volume, &part, &to).map_err(|e| VolumeError(e.to_string()));
                    this.in_turn(&uid, mount)
                });
                done.await.map_err(|error| {
                    // What it says may tell about the machine: it is not for the one who made the pod.
                    tracing::warn!(pod = %pod.key(), volume = %mount.name, %error, "A part of a volume cannot be mounted.");
                    failed()
                })?;
                target
            };
            out.push(Mount {
                container_path: if mount.mount_path.starts_with('/') {
                    mount.mount_path.clone()
                } else {
                    format!("/{}", mount.mount_path)
                },
                host_path: path.to_string_lossy().into_owned(),
                readonly: mount.read_only || place.read_only,
                propagation: propagation(mount).into(),
                recursive_read_only: self.is_read_only_below(mount).map_err(SetupError::container)?,
                ..Mount::default()
            });
        }
        Ok(out)
    }

    fn is_read_only_below(&self, mount: &VolumeMount) -> Result<bool, String> {
        let wrong = |why: &str| {
            Err(format!(
                "failed to resolve recursive read-only mode: volume {:?} requested recursive read-only mode, but it is {why}",
                mount.name
            ))
        };
        let able = self.host.recursive_read_only;
        match mount.recursive_read_only.as_str() {
            "" | "Disabled" => Ok(false),
            _ if !mount.read_only => wrong("not read-only"),
            // What is mounted later would come in writable.
            _ if propagation(mount) != MountPropagation::PropagationPrivate => wrong(&format!(
                "not compatible with propagation {:?}",
                mount.mount_propagation
            )),
            "Enabled" if !able => wrong("not supported by the runtime"),
            _ => Ok(able),
        }
    }

    fn folder(&self, uid: &str) -> Result<PathBuf, VolumeError> {
        if is_name(uid) {
            Ok(self.host.pod_dir(uid))
        } else {
            Err(VolumeError(format!("{uid:?} cannot be the name of a folder")))
        }
    }

    /// `renew`: also files that are there are brought up to date.
    fn prepare_now(&self, pod: &Pod, renew: bool) -> Result<Mounted, VolumeError> {
        let folder = self.folder(pod.uid())?;
        let mut mounted = Mounted::default();
        for volume in &pod.spec.volumes {
            let place = self.place(pod, volume, &folder.join("volumes"), renew)?;
            mounted.0.insert(volume.name.clone(), place);
        }
        Ok(mounted)
    }

    fn tear_down_now(&self, uid: &str) -> Result<(), VolumeError> {
        let folder = self.folder(uid)?;
        let failed = |e: io::Error| VolumeError(format!("the files of pod {uid} cannot be removed: {e}"));
        let folder = match folder.canonicalize() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(failed)?,
        };
        mounts::unmount_below(&folder)
            .and_then(|()| tree::remove(&folder))
            .map_err(failed)
    }

    fn refresh_now(&self, pod: &Pod) -> Result<bool, VolumeError> {
        let folder = self.folder(pod.uid())?.join("volumes");
        let mut outcome = Ok(false);
        for volume in pod
            .spec
            .volumes
            .iter()
            .filter(|v| is_made_of_files(v) && is_name(&v.name))
        {
            let path = folder.join(&volume.name);
            // A pod that is going, or whose volumes were never made, gets none by this.
            if !atomic::is_made(&path) {
                continue;
            }
            match self.fill(pod, volume, &path) {
                Ok(changed) => outcome = outcome.map(|before| before || changed),
                Err(why) => outcome = outcome.and(Err(why)),
            }
        }
        outcome
    }

    /// Makes one volume.
    fn place(&self, pod: &Pod, volume: &Volume, folder: &Path, renew: bool) -> Result<Place, VolumeError> {
        let name = volume.name.as_str();
        let failed = |e: io::Error| VolumeError::of(name, e);
        if !is_name(name) {
            return Err(VolumeError::of(name, "this cannot be the name of a folder"));
        }
        let path = folder.join(name);
        if is_made_of_files(volume) {
            if renew || !atomic::is_made(&path) {
                self.fill(pod, volume, &path)?;
            }
            return Ok(Place { path, read_only: true });
        }
        if let Some(empty) = &volume.empty_dir {
            make(&path, 0o777).map_err(failed)?;
            if empty.medium == "Memory" {
                if !mounts::is_tmpfs(&path).map_err(failed)? {
                    let size = self.size_in_memory(pod, volume);
                    mounts::tmpfs(&path, Some(size)).map_err(failed)?;
                }
            } else if !empty.medium.is_empty() {
                return Err(VolumeError::of(
                    name,
                    format!("unknown storage medium {:?}", empty.medium),
                ));
            }
            if let Some(group) = group(pod)
                && !tree::is_given(&path, group).map_err(failed)?
            {
                tree::give(&path, group, true).map_err(failed)?;
            }
            return Ok(Place { path, read_only: false });
        }
        if let Some(host) = &volume.host_path {
            host_path::prepare(host).map_err(|e| VolumeError::of(name, e))?;
            return Ok(Place {
                path: PathBuf::from(&host.path),
                read_only: false,
            });
        }
        if let Some(claim) = &volume.persistent_volume_claim {
            // The folder says that the volume was given to the pod's group: that may take long, and is done once.
            let made = path.exists();
            let (at, read_only) = self.claimed(pod, &claim.claim_name, made)?;
            if !made {
                own(pod, &at).map_err(failed)?;
                make(&path, 0o750).map_err(failed)?;
            }
            return Ok(Place {
                path: at,
                read_only: read_only || claim.read_only,
            });
        }
        Err(VolumeError::of(name, "no volume plugin matched"))
    }

    /// Bytes that a volume in memory may have: what it says, at most what its pod or the machine has.
    fn size_in_memory(&self, pod: &Pod, volume: &Volume) -> u64 {
        let limits = pod
            .spec
            .containers
            .iter()
            .map(|c| amount(&c.resources.limits, "memory"));
        let of_pod: Option<i64> = limits.map(|limit| (limit > 0).then_some(limit)).sum();
        let said = volume.empty_dir.as_ref().and_then(|e| e.size_limit.clone());
        let said = said.map(|limit| amount(&BTreeMap::from([(String::new(), limit)]), ""));
        let all = [said.filter(|s| *s > 0), of_pod.filter(|s| *s > 0)];
        let least = all.into_iter().flatten().map(i64::unsigned_abs).min();
        least.unwrap_or(self.host.memory).min(self.host.memory.max(1))
    }

    /// Writes the files of a volume that is made of files. True when they changed.
    fn fill(&self, pod: &Pod, volume: &Volume, path: &Path) -> Result<bool, VolumeError> {
        let name = volume.name.as_str();
        let sources = content::Sources {
            cluster: &self.cluster,
            host: &self.host,
            pod,
        };
        let files = sources.files(volume, path).map_err(|e| VolumeError::of(name, e))?;
        let failed = |e: io::Error| VolumeError::of(name, e);
        make(path, 0o755).map_err(failed)?;
        if content::is_secret(volume) && !mounts::is_tmpfs(path).map_err(failed)? {
            match mounts::tmpfs(path, None) {
                // Without the right to mount they are on the disk, for root alone.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                    tracing::debug!(
                        volume = name,
                        "A secret volume is on the disk: mounting is not allowed."
                    );
                }
                other => other.map_err(failed)?,
            }
        }
        let group = group(pod);
        if let Some(group) = group {
            tree::give(path, group, true).map_err(failed)?;
        }
        let changed = atomic::write(path, &files.unwrap_or_default(), group).map_err(failed)?;
        for part in nested(pod, name) {
            fs::create_dir_all(path.join(part)).map_err(failed)?;
        }
        Ok(changed)
    }

    /// Where the volume of a claim is, and whether it may only be read. `made`: the pod had it before, and keeps it when the claim is gone.
    fn claimed(&self, pod: &Pod, claim: &str, made: bool) -> Result<(PathBuf, bool), VolumeError> {
        let namespace = pod.metadata.namespace.as_str();
        let failed = |why: String| VolumeError(format!("error processing PVC {namespace}/{claim}: {why}"));
        let absent = |kind: Kind, name: &str| failed(format!("{} {name:?} not found", kind.plural));
        let get = |kind: Kind, key: Key| self.cluster.get(kind, &key).map_err(|e| failed(e.to_string()));
        let volume = match get(CLAIMS, Key::new(namespace, claim))? {
            Some(object) => {
                let name = object["spec"]["volumeName"].as_str().unwrap_or_default();
                if name.is_empty() || object["status"]["phase"] != "Bound" {
                    return Err(failed("PVC is not bound".to_owned()));
                }
                let volume = get(PERSISTENT, Key::new("", name))?.ok_or_else(|| absent(PERSISTENT, name))?;
                if volume["spec"]["claimRef"]["uid"] != object["metadata"]["uid"] {
                    return Err(failed("PV is bound to another claim".to_owned()));
                }
                volume
            }
            None if made => {
                let all = self.cluster.list(PERSISTENT, None);
                let all = all.map_err(|e| failed(e.to_string()))?;
                let mut left = all.into_iter().filter(|v| claims::was_of(v, namespace, claim));
                match (left.next(), left.next()) {
                    (Some(volume), None) => volume,
                    (None, _) => return Err(absent(CLAIMS, claim)),
                    // Better none than that of another claim of the same name.
                    (Some(_), Some(_)) => {
                        let many = "PVC is gone, and several PVs were bound to one of its name";
                        return Err(failed(many.to_owned()));
                    }
                }
            }
            None => return Err(absent(CLAIMS, claim)),
        };
        let spec = &volume["spec"];
        let path = [&spec["local"]["path"], &spec["hostPath"]["path"]];
        let path = path.into_iter().find_map(|p| p.as_str());
        let path = path.ok_or_else(|| failed("no volume plugin matched".to_owned()))?;
        if !Path::new(path).is_dir() {
            return Err(failed(format!("path {path:?} does not exist")));
        }
        let modes = spec["accessModes"].as_array().map_or(&[][..], Vec::as_slice);
        let read_only = !modes.is_empty() && modes.iter().all(|m| m == "ReadOnlyMany");
        Ok((PathBuf::from(path), read_only))
    }
}

/// Whether a volume is made of files that come from objects.
fn is_made_of_files(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

/// Whether a name may stand in a path for itself alone.
fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=253).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(plain)
}

/// Where in a volume of files other volumes are mounted: such a place has to be there, since containers may only read the volume.
fn nested(pod: &Pod, volume: &str) -> Vec<PathBuf> {
    let mut places = Vec::new();
    for container in pod.all_containers() {
        let mounts = &container.volume_mounts;
        for outer in mounts.iter().filter(|m| m.name == volume && m.sub_path.is_empty()) {
            let inside = |m: &VolumeMount| {
                Some(
                    Path::new(&m.mount_path)
                        .strip_prefix(&outer.mount_path)
                        .ok()?
                        .to_owned(),
                )
            };
            let plain = |p: &PathBuf| p.components().all(|c| matches!(c, Component::Normal(_)));
            let inner = mounts.iter().filter_map(inside);
            places.extend(inner.filter(|p| !p.as_os_str().is_empty() && !p.starts_with("..data") && plain(p)));
        }
    }
    places
}

/// Makes a folder that all who may come to it may use so. One that is there is left as it is.
fn make(path: &Path, mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o750).create(parent)?;
    }
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => {
            other?;
            // The process's mask took its part.
            fs::set_permissions(path, fs::Permissions::from_mode(mode))
        }
    }
}

/// The group that a pod's volumes are for.
fn group(pod: &Pod) -> Option<u32> {
    u32::try_from(pod.spec.security_context.fs_group?).ok()
}

/// Gives a volume to its pod's group.
fn own(pod: &Pod, path: &Path) -> io::Result<()> {
    let Some(group) = group(pod) else { return Ok(()) };
    let once = pod.spec.security_context.fs_group_change_policy == "OnRootMismatch";
    if once && tree::is_given(path, group)? {
        return Ok(());
    }
    tree::give(path, group, false)
}

/// The part of a volume that a mount is of; empty for all of it.
fn part_of(mount: &VolumeMount, env: &Env) -> Result<String, String> {
    let mut part = mount.sub_path.clone();
    if !mount.sub_path_expr.is_empty() {
        let mut missing = std::collections::BTreeSet::new();
        let expanded = expand(&mount.sub_path_expr, |name| {
            let value = env.0.get(name).filter(|v| !v.is_empty());
            if value.is_none() {
                missing.insert(name.to_owned());
            }
            value.cloned()
        });
        if !missing.is_empty() {
            let missing: Vec<_> = missing.into_iter().collect();
            return Err(format!("missing value for {}", missing.join(", ")));
        }
        part = String::from_utf8_lossy(&expanded).into_owned();
    }
    sub_path::check(&part).map(|()| part)
}

fn propagation(mount: &VolumeMount) -> MountPropagation {
    match mount.mount_propagation.as_str() {
        "HostToContainer" => MountPropagation::PropagationHostToContainer,
        "Bidirectional" => MountPropagation::PropagationBidirectional,
        _ => MountPropagation::PropagationPrivate,
    }
}
