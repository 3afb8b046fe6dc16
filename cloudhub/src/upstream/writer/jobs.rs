//! One attempt at one job: what is read, what is written, and what the index learns from it. Jobs of nodes are next door.

use std::sync::Arc;

use bytes::Bytes;
use device_models::kinds::DeviceModel;
use device_models::{Conflict, Rules, check_twins, merge_device_desired, note_overruled};
use proto::{Hash, Key};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Job, Shared};
use crate::upstream::body::{
    CONTENT, HUB_PREFIX, OBSERVED, OBSERVED_FROM, ObservedKey, TWINS, TWINS_FROM, hash_text, observed_key,
    reported_object, status_content,
};
use crate::upstream::objects::{ApiError, DEVICE, DEVICE_STATUS, revision};

/// Largest a Device may become by what is noted in it: well below what may travel.
const MAX_NOTED: usize = proto::limits::MAX_BODY / 2;

pub(super) const NO_DEVICE: ApiError = ApiError::NotOwned("there is no such device");
pub(super) const NOT_ITS_DEVICE: ApiError = ApiError::NotOwned("the device is not this gateway's");

pub(super) fn refused<T>(reason: impl Into<String>) -> Result<T, ApiError> {
    Err(ApiError::Refused(reason.into()))
}

pub(super) fn object(body: &Bytes) -> Result<Map<String, Value>, ApiError> {
    reported_object(body).map_err(ApiError::Refused)
}

impl Shared {
    pub(super) async fn attempt(&self, key: &Key, job: &Job) -> Result<(), ApiError> {
        match (job, observed_key(key)) {
            (Job::Status { node, body, hash, anew }, Some(ObservedKey::Status { namespace, name })) => {
                // Written already, and asked for again because that was not known yet.
                if !anew && self.index.marked(key) == Some((Arc::clone(node), *hash)) {
                    return Ok(());
                }
                self.write_status(key, namespace, name, node, body, *hash).await
            }
            (Job::StatusGone { node }, Some(ObservedKey::Status { namespace, name })) => {
                match self.index.marked(key) {
                    Some((owner, _)) if owner == *node => self.delete_status(key, namespace, name).await,
                    // What another gateway reported meanwhile is not this one's to remove.
                    _ => self.delete_orphan(key, namespace, name).await.map(drop),
                }
            }
            (Job::Orphan, Some(ObservedKey::Status { namespace, name })) => {
                if self.delete_orphan(key, namespace, name).await? {
                    return Ok(());
                }
                self.adopt(namespace, name).await
            }
            (Job::Twins { node, body, hash }, Some(ObservedKey::Twins { namespace, name })) => {
                self.merge_twins(key, namespace, name, node, body, *hash).await
            }
            (Job::TwinsGone { node }, Some(ObservedKey::Twins { namespace, name })) => {
                self.forget_twins(key, namespace, name, node).await
            }
            (Job::Cluster { observed }, Some(ObservedKey::Cluster { node })) => {
                self.write_cluster(key, node, observed).await
            }
            (Job::ClusterGone { uid }, _) => self.cluster_gone(key.rsplit(' ').next().unwrap_or_default(), uid).await,
            (Job::Work { node, body, hash }, Some(ObservedKey::Work { namespace, name })) => {
                self.write_work(key, (namespace, name), node, body, *hash).await
            }
            (Job::WorkGone { node }, Some(ObservedKey::Work { .. })) => {
                if self.index.marked(key).is_some_and(|(owner, _)| owner == *node) {
                    self.index.forget(key);
                }
                Ok(())
            }
            (Job::Attend, Some(ObservedKey::Work { namespace, name })) => self.attend(namespace, name).await,
            (Job::Merge, Some(ObservedKey::Work { namespace, name })) => self.merge_work(key, namespace, name).await,
            (Job::Site { site }, _) => self.write_site(site).await,
            (Job::Node { observed }, Some(ObservedKey::Node { name })) => self.write_node(key, name, observed).await,
            (Job::EdgeNode { anew }, _) => {
                let node = key.splitn(4, '/').nth(3).unwrap_or_default();
                self.write_edge_node(node, *anew).await
            }
            _ => refused("the hub does not take such an entry"),
        }
    }

    async fn write_status(
        &self,
        key: &Key,
        namespace: &str,
        name: &str,
        node: &Arc<str>,
        body: &Bytes,
        hash: Hash,
    ) -> Result<(), ApiError> {
        match self.index.device_node(namespace, name) {
            None => {
                self.delete_orphan(key, namespace, name).await?;
                return Err(NO_DEVICE);
            }
            Some(Some(owner)) if owner == *node => {}
            Some(_) => return Err(NOT_ITS_DEVICE),
        }
        let Some(facts) = self.index.device_facts(namespace, name) else {
            return Err(NO_DEVICE);
        };
        let mut reported = object(body)?;
        let status = reported.remove("status").unwrap_or_else(|| json!({}));
        let mut notes = reported
            .get("metadata")
            .and_then(|m| m.get("annotations"))
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        notes.retain(|n, v| !n.starts_with(HUB_PREFIX) && v.is_string());
        notes.insert(OBSERVED.to_owned(), hash_text(hash).into());
        notes.insert(OBSERVED_FROM.to_owned(), (&**node).into());
        let owners = owners(name, &facts.uid);
        let mut object = json!({
            "apiVersion": "devices.kubeedge.io/v1beta1",
            "kind": "DeviceStatus",
            "metadata": {"name": name, "namespace": namespace},
            "status": status,
        });
        if let Some(spec) = reported.remove("spec") {
            object["spec"] = spec;
        }
        let content = status_content(hash, &object);
        notes.insert(CONTENT.to_owned(), content.as_str().into());
        let written = if self.index.marked(key).is_some() {
            let mut patch = vec![
                json!({"op": "add", "path": "/status", "value": object["status"]}),
                json!({"op": "add", "path": "/metadata/annotations", "value": notes}),
                json!({"op": "add", "path": "/metadata/ownerReferences", "value": owners}),
            ];
            if let Some(spec) = object.get("spec") {
                patch.push(json!({"op": "add", "path": "/spec", "value": spec}));
            }
            self.objects
                .json_patch(DEVICE_STATUS, namespace, name, &Value::Array(patch))
                .await
        } else {
            Err(ApiError::NotFound)
        };
        let mut written = match written {
            Ok(written) => written,
            Err(ApiError::NotFound) => {
                object["metadata"]["annotations"] = Value::Object(notes);
                object["metadata"]["ownerReferences"] = owners;
                match self.objects.create(DEVICE_STATUS, namespace, &object).await {
                    // It is there, made by somebody else or by a hub before this one: replace it as it stands.
                    Err(ApiError::Conflict) => {
                        let now = self.objects.get(DEVICE_STATUS, namespace, name).await?;
                        object["metadata"]["resourceVersion"] = now["metadata"]["resourceVersion"].clone();
                        self.objects.replace(DEVICE_STATUS, namespace, name, &object).await?
                    }
                    other => other?,
                }
            }
            Err(e) => return Err(e),
        };
        // The API left out what its schema does not know: what it has now is what there is to be compared with.
        let has = status_content(hash, &written);
        if has != content {
            let patch = json!({"metadata": {"annotations": {CONTENT: has}}});
            written = self.objects.merge_patch(DEVICE_STATUS, namespace, name, &patch).await?;
        }
        self.wrote(key, node, hash, revision(&written))
    }

    /// The API has what the gateway reported, unless it was altered since: then it is written again.
    pub(super) fn wrote(&self, key: &Key, node: &Arc<str>, hash: Hash, at: u64) -> Result<(), ApiError> {
        if self.index.mark(key, Some((Arc::clone(node), hash)), at) {
            Ok(())
        } else {
            Err(ApiError::Conflict)
        }
    }

    /// Deletes a DeviceStatus that has no device; false when it has one.
    async fn delete_orphan(&self, key: &Key, namespace: &str, name: &str) -> Result<bool, ApiError> {
        let Some(mark) = self.index.orphaned(key) else {
            return Ok(false);
        };
        let deleted = self.objects.delete(DEVICE_STATUS, namespace, name).await;
        if deleted.is_err() {
            self.remember(key, mark);
        }
        deleted.map(|()| true)
    }

    /// A device of the same name took the place of the one that a DeviceStatus belonged to.
    async fn adopt(&self, namespace: &str, name: &str) -> Result<(), ApiError> {
        let Some(facts) = self.index.device_facts(namespace, name) else {
            return Ok(());
        };
        let owners = owners(name, &facts.uid);
        let patch = json!({"metadata": {"ownerReferences": owners}});
        match self.objects.merge_patch(DEVICE_STATUS, namespace, name, &patch).await {
            Ok(_) | Err(ApiError::NotFound) => Ok(()),
            Err(e) => Err(e),
        }
    }

    async fn delete_status(&self, key: &Key, namespace: &str, name: &str) -> Result<(), ApiError> {
        // Before the watch tells of it, so that nobody takes it for a loss.
        let mark = self.index.marked(key);
        self.index.forget(key);
        let deleted = self.objects.delete(DEVICE_STATUS, namespace, name).await;
        if deleted.is_err() {
            self.remember(key, mark);
        }
        deleted
    }

    /// The object is still there after all: whoever tries again must find whose it is, or it would pass for done.
    fn remember(&self, key: &Key, mark: Option<(Arc<str>, Hash)>) {
        if self.index.marked(key).is_none() {
            self.index.mark(key, mark, 0);
        }
    }

    async fn merge_twins(
        &self,
        key: &Key,
        namespace: &str,
        name: &str,
        node: &Arc<str>,
        body: &Bytes,
        hash: Hash,
    ) -> Result<(), ApiError> {
        let twins = Value::Object(object(body)?);
        let mut device = match self.objects.get(DEVICE, namespace, name).await {
            Err(ApiError::NotFound) => return Err(NO_DEVICE),
            other => other?,
        };
        if device.pointer("/spec/nodeName").and_then(Value::as_str) != Some(node) {
            return Err(NOT_ITS_DEVICE);
        }
        let model = self.index.device_facts(namespace, name).and_then(|f| f.model);
        let model = model.and_then(|m| serde_json::from_slice::<Value>(&m.bytes).ok());
        let model = model.and_then(|m| DeviceModel::deserialize(&m).ok());
        let rules = model.as_ref().map(Rules::compile);
        let errors = check_twins(&twins, node, rules.as_ref());
        if !errors.is_empty() {
            let text: Vec<String> = errors.iter().take(4).map(ToString::to_string).collect();
            return refused(text.join("; "));
        }
        let changed = merge_device_desired(&mut device, &twins);
        note_conflicts(&mut device, &changed.conflicts, namespace, name);
        let noted = put_notes(&mut device, &[(TWINS, &hash_text(hash)), (TWINS_FROM, node)]);
        let at = if changed.object || noted {
            revision(&self.objects.replace(DEVICE, namespace, name, &device).await?)
        } else {
            revision(&device)
        };
        self.wrote(key, node, hash, at)
    }

    async fn forget_twins(&self, key: &Key, namespace: &str, name: &str, node: &Arc<str>) -> Result<(), ApiError> {
        let mark = self.index.marked(key);
        match &mark {
            Some((owner, _)) if owner == node => {}
            _ => return Ok(()),
        }
        self.index.forget(key);
        let patch = json!({"metadata": {"annotations": {TWINS: null, TWINS_FROM: null}}});
        match self.objects.merge_patch(DEVICE, namespace, name, &patch).await {
            Ok(_) | Err(ApiError::NotFound) => Ok(()),
            Err(e) => {
                self.remember(key, mark);
                Err(e)
            }
        }
    }
}

/// Leaves the conflicts that the cloud lost in the Device for the gateway's conflict log, in the write that drops the values: the gateway
/// may never be sent what was there before. Those that the gateway lost it finds itself, when it merges what it is sent.
fn note_conflicts(device: &mut Value, conflicts: &[Conflict], namespace: &str, name: &str) {
    if conflicts.is_empty() {
        return;
    }
    let mut noted = device.clone();
    let mut left_out = note_overruled(&mut noted, conflicts);
    if body_size(&noted) > MAX_NOTED && body_size(&noted) > body_size(device) {
        // It has to fit on the link.
        left_out = conflicts.iter().map(|conflict| conflict.property.clone()).collect();
    } else {
        *device = noted;
    }
    let device = format_args!("{namespace}/{name}");
    if !left_out.is_empty() {
        tracing::warn!(%device, properties = ?left_out, "Conflicts have no room in the Device; the gateway may not hear of them.");
    }
    tracing::info!(%device, count = conflicts.len(), "Desired values were set here and at the gateway without knowledge of each other.");
}

fn body_size(device: &Value) -> usize {
    serde_json::to_vec(device).map_or(usize::MAX, |bytes| bytes.len())
}

fn owners(name: &str, uid: &str) -> Value {
    json!([{
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "Device",
        "name": name,
        "uid": uid,
    }])
}

/// The object under a member, made when it is missing or no object.
pub(in crate::upstream) fn member<'a>(value: &'a mut Value, name: &str) -> &'a mut Value {
    if !value[name].is_object() {
        value[name] = json!({});
    }
    &mut value[name]
}

/// Sets annotations; true when that changed the object.
pub(super) fn put_notes(object: &mut Value, notes: &[(&str, &str)]) -> bool {
    let slot = member(member(object, "metadata"), "annotations");
    let mut changed = false;
    for (name, value) in notes {
        if slot[*name].as_str() != Some(value) {
            slot[*name] = Value::from(*value);
            changed = true;
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_tell_whether_they_changed_anything() {
        let mut device = json!({"metadata": {"name": "a"}});
        assert!(put_notes(&mut device, &[(TWINS, "1")]));
        assert!(!put_notes(&mut device, &[(TWINS, "1")]));
        assert!(put_notes(&mut device, &[(TWINS, "2")]));
        let mut odd = json!({"metadata": {"annotations": null}});
        assert!(put_notes(&mut odd, &[(TWINS, "1")]));
    }
}
