//! What is in the files of ConfigMaps, Secrets, the downward API and tokens.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::atomic::{self, File, Files};
use crate::cluster::{CONFIG_MAPS, Cluster, Key, Kind, NODES, SECRETS};
use crate::pod::{DownwardItem, KeyToPath, Pod, Projection, TokenProjection, Volume};
use crate::setup::{self, Host};

/// A file's mode when nobody says.
const MODE: u32 = 0o644;
/// A token's life when nobody says.
const LIFE: i64 = 3600;
/// No token is used for longer.
const LONGEST_USE: Duration = Duration::from_secs(24 * 3600);
/// Longest token that is read back.
const MAX_TOKEN: u64 = 64 * 1024;

/// What the files of a pod's volumes are made of.
pub(super) struct Sources<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) host: &'a Host,
    pub(super) pod: &'a Pod,
}

impl Sources<'_> {
    /// The files of a volume; `None` when it is of another sort. `folder`: where they are, for the token that is there.
    pub(super) fn files(&self, volume: &Volume, folder: &Path) -> Result<Option<Files>, String> {
        let mut files = Files::new();
        if let Some(map) = &volume.config_map {
            let mode = map.default_mode.unwrap_or(MODE);
            self.object(CONFIG_MAPS, &map.name, &map.items, mode, map.optional, &mut files)?;
        } else if let Some(secret) = &volume.secret {
            let mode = secret.default_mode.unwrap_or(MODE);
            self.object(
                SECRETS,
                &secret.secret_name,
                &secret.items,
                mode,
                secret.optional,
                &mut files,
            )?;
        } else if let Some(downward) = &volume.downward_api {
            self.downward(&downward.items, downward.default_mode.unwrap_or(MODE), &mut files)?;
        } else if let Some(projected) = &volume.projected {
            let mode = projected.default_mode.unwrap_or(MODE);
            let mut wrong = Vec::new();
            for source in &projected.sources {
                if let Err(why) = self.projection(source, mode, folder, &mut files) {
                    wrong.push(why);
                }
            }
            match wrong.len() {
                0 => {}
                1 => return Err(wrong.remove(0)),
                _ => return Err(format!("[{}]", wrong.join(", "))),
            }
        } else {
            return Ok(None);
        }
        Ok(Some(files))
    }

    fn projection(&self, source: &Projection, mode: u32, folder: &Path, files: &mut Files) -> Result<(), String> {
        if let Some(map) = &source.config_map {
            self.object(CONFIG_MAPS, &map.name, &map.items, mode, map.optional, files)
        } else if let Some(secret) = &source.secret {
            self.object(SECRETS, &secret.name, &secret.items, mode, secret.optional, files)
        } else if let Some(downward) = &source.downward_api {
            self.downward(&downward.items, mode, files)
        } else if let Some(token) = &source.service_account_token {
            self.token(token, mode, folder, files)
        } else {
            Err("a projection of this sort is not supported".to_owned())
        }
    }

    /// The files of a ConfigMap or Secret: all of its keys, or those that are named.
    fn object(
        &self,
        kind: Kind,
        name: &str,
        items: &[KeyToPath],
        mode: u32,
        optional: bool,
        files: &mut Files,
    ) -> Result<(), String> {
        let key = Key::new(self.pod.metadata.namespace.as_str(), name);
        let found = self.cluster.get(kind, &key).map_err(|e| e.to_string())?;
        if found.is_none() && !optional {
            return Err(format!("{} {name:?} not found", kind.kind.to_lowercase()));
        }
        let object = found.unwrap_or_default();
        let content = contents(kind, &object)?;
        let file = |data: &[u8], mode: u32| File {
            data: data.to_vec(),
            mode,
            ..File::default()
        };
        if items.is_empty() {
            files.extend(
                content
                    .iter()
                    .map(|(name, data)| ((*name).to_owned(), file(data, mode))),
            );
        }
        for item in items {
            match content.get(item.key.as_str()) {
                Some(data) => drop(files.insert(item.path.clone(), file(data, item.mode.unwrap_or(mode)))),
                None if optional => {}
                None if kind == SECRETS => return Err(format!("references non-existent secret key: {}", item.key)),
                None => return Err(format!("configmap references non-existent config key: {}", item.key)),
            }
        }
        Ok(())
    }

    fn downward(&self, items: &[DownwardItem], mode: u32, files: &mut Files) -> Result<(), String> {
        for item in items {
            let text = if let Some(reference) = &item.field_ref {
                // Of the pod's own addresses nothing is known when its files are made.
                setup::field(self.pod, &reference.field_path, &[], self.host)?
            } else if let Some(reference) = &item.resource_field_ref {
                let name = reference.container_name.as_str();
                let container = self
                    .pod
                    .container(name)
                    .ok_or_else(|| format!("container {name} not found"))?;
                let node = Key::new("", &*self.host.node);
                let node = self.cluster.get(NODES, &node).map_err(|e| e.to_string())?;
                let allocatable = &node.unwrap_or_default()["status"]["allocatable"];
                setup::resource(self.pod, container, reference, allocatable)?
            } else {
                continue;
            };
            let file = File {
                data: text.into_bytes(),
                mode: item.mode.unwrap_or(mode),
                ..File::default()
            };
            files.insert(item.path.clone(), file);
        }
        Ok(())
    }

    /// The token that is there, or a new one when its time has come.
    fn token(&self, token: &TokenProjection, mode: u32, folder: &Path, files: &mut Files) -> Result<(), String> {
        let there = atomic::read(folder, &token.path, MAX_TOKEN);
        let there = there.filter(|(_, made)| left(token, *made).is_some());
        let (data, made) = match there {
            Some((data, made)) => (data, Some(made)),
            None => {
                let meta = &self.pod.metadata;
                let audience = Some(&token.audience).filter(|a| !a.is_empty()).cloned();
                let issued = self.cluster.api().issue_token(
                    (&meta.namespace, &self.pod.spec.service_account_name),
                    (&meta.name, &meta.uid),
                    audience.as_slice(),
                    token.expiration_seconds,
                );
                let issued = issued.map_err(|e| format!("failed to fetch token: {e}"))?;
                (issued.token.into_bytes(), None)
            }
        };
        let owner = user(self.pod);
        let private = owner.is_some() || self.pod.spec.security_context.fs_group.is_some();
        let file = File {
            data,
            mode: if private { 0o600 } else { mode },
            owner,
            made,
        };
        files.insert(token.path.clone(), file);
        Ok(())
    }
}

/// The keys of a ConfigMap or Secret with their bytes.
fn contents(kind: Kind, object: &Value) -> Result<BTreeMap<&str, Vec<u8>>, String> {
    let mut all = BTreeMap::new();
    let fields = [("data", kind == SECRETS), ("binaryData", true)];
    for (field, encoded) in fields {
        for (name, value) in object[field].as_object().into_iter().flatten() {
            let text = value.as_str().unwrap_or_default();
            let data = if encoded {
                STANDARD
                    .decode(text)
                    .map_err(|e| format!("key {name} is not base64: {e}"))?
            } else {
                text.as_bytes().to_vec()
            };
            all.insert(name.as_str(), data);
        }
    }
    Ok(all)
}

/// The user that all containers of a pod run as, if they say so and it is one.
fn user(pod: &Pod) -> Option<u32> {
    let mut users = pod
        .all_containers()
        .map(|c| c.security_context.run_as_user.or(pod.spec.security_context.run_as_user));
    let first = users.next()??;
    users.all(|u| u == Some(first)).then(|| u32::try_from(first).ok())?
}

/// How long a token that was made then is still used: four fifths of its life, at most a day. `None` when that is over, or when the clock was
/// set back before it was made.
fn left(token: &TokenProjection, made: SystemTime) -> Option<Duration> {
    let life = u64::try_from(token.expiration_seconds.unwrap_or(LIFE)).unwrap_or(0);
    let used = (Duration::from_secs(life) / 5 * 4).min(LONGEST_USE);
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(daemon::clock::wall_ms());
    let age = match now.duration_since(made) {
        Ok(age) => age,
        // Files are stamped by another clock of the kernel, which is a few milliseconds off.
        Err(ahead) if ahead.duration() < Duration::from_secs(1) => Duration::ZERO,
        Err(_) => return None,
    };
    used.checked_sub(age).filter(|left| !left.is_zero())
}

/// How long until a token of a volume is to be renewed; `None` when it has none.
pub(super) fn renewed_in(volume: &Volume, folder: &Path) -> Option<Duration> {
    let sources = volume.projected.iter().flat_map(|p| &p.sources);
    let tokens = sources.filter_map(|s| s.service_account_token.as_ref());
    let left = tokens.map(|token| {
        let made = atomic::read(folder, &token.path, MAX_TOKEN).map(|(_, made)| made);
        made.and_then(|made| left(token, made)).unwrap_or_default()
    });
    left.min()
}

/// Whether a volume shows this ConfigMap or Secret.
pub(super) fn shows(volume: &Volume, kind: Kind, name: &str) -> bool {
    let sources = || volume.projected.iter().flat_map(|p| &p.sources);
    if kind == SECRETS {
        volume.secret.iter().any(|s| s.secret_name == name)
            || sources().any(|s| s.secret.iter().any(|s| s.name == name))
    } else {
        volume.config_map.iter().any(|m| m.name == name)
            || sources().any(|s| s.config_map.iter().any(|m| m.name == name))
    }
}

/// Whether a volume shows fields of its own pod that can change.
pub(super) fn shows_pod(volume: &Volume) -> bool {
    let projected = volume.projected.iter().flat_map(|p| &p.sources);
    let projected = projected.filter_map(|s| s.downward_api.as_ref());
    let items = volume.downward_api.iter().chain(projected).flat_map(|d| &d.items);
    let fixed = |path: &str| matches!(path, "metadata.name" | "metadata.namespace" | "metadata.uid");
    items
        .into_iter()
        .any(|i| i.field_ref.as_ref().is_none_or(|f| !fixed(&f.field_path)))
}

/// Whether what it shows must not be written to the disk.
pub(super) fn is_secret(volume: &Volume) -> bool {
    let mut sources = volume.projected.iter().flat_map(|p| &p.sources);
    volume.secret.is_some() || sources.any(|s| s.secret.is_some() || s.service_account_token.is_some())
}
