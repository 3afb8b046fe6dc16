//! One attempt at one job: what is read, what is written, and what the index learns from it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use device_models::kinds::DeviceModel;
use device_models::{Rules, check_twins, merge_device_desired};
use proto::{Hash, Key};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Job, Observed, Shared};
use crate::upstream::body::{HUB_PREFIX, OBSERVED, OBSERVED_FROM, ObservedKey, TWINS, TWINS_FROM, observed_key};
use crate::upstream::objects::{ApiError, DEVICE, DEVICE_STATUS, EDGE_NODE, NODE, revision};

fn refused<T>(reason: impl Into<String>) -> Result<T, ApiError> {
    Err(ApiError::Refused(reason.into()))
}

fn object(body: &Bytes) -> Result<Map<String, Value>, ApiError> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => refused("the body is not an object"),
        Err(e) => refused(format!("the body is not JSON: {e}")),
    }
}

fn hash_text(hash: Hash) -> String {
    format!("{hash:032x}")
}

/// Reads the hash back out of an annotation.
pub(crate) fn hash_of(text: &str) -> Option<Hash> {
    (text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| Hash::from_str_radix(text, 16).ok())
        .flatten()
}

impl Shared {
    pub(super) async fn attempt(&self, key: &Key, job: &Job) -> Result<(), ApiError> {
        match (job, observed_key(key)) {
            (Job::Status { node, body, hash }, Some(ObservedKey::Status { namespace, name })) => {
                self.write_status(key, namespace, name, node, body, *hash).await
            }
            (Job::StatusGone { node }, Some(ObservedKey::Status { namespace, name })) => {
                // What another gateway reported meanwhile is not this one's to remove.
                match self.index.marked(key) {
                    Some((owner, _)) if owner == *node => self.delete_status(key, namespace, name).await,
                    _ => Ok(()),
                }
            }
            (Job::Orphan, Some(ObservedKey::Status { namespace, name })) => {
                if self.index.device_node(namespace, name).is_some() {
                    return Ok(());
                }
                self.delete_status(key, namespace, name).await
            }
            (Job::Twins { node, body, hash }, Some(ObservedKey::Twins { namespace, name })) => {
                self.merge_twins(key, namespace, name, node, body, *hash).await
            }
            (Job::TwinsGone { node }, Some(ObservedKey::Twins { namespace, name })) => {
                self.forget_twins(key, namespace, name, node).await
            }
            (Job::Node { observed }, Some(ObservedKey::Node { name })) => self.write_node(key, name, observed).await,
            (Job::EdgeNode, _) => {
                let node = key.rsplit('/').next().unwrap_or_default();
                self.write_edge_node(node).await
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
            None => return refused("there is no such device"),
            Some(Some(owner)) if owner == *node => {}
            Some(_) => return refused("the device is not this gateway's"),
        }
        let Some(facts) = self.index.device_facts(namespace, name) else {
            return refused("there is no such device");
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
        let owners = json!([{
            "apiVersion": "devices.kubeedge.io/v1beta1",
            "kind": "Device",
            "name": name,
            "uid": &*facts.uid,
        }]);
        let written = if self.index.marked(key).is_some() {
            let patch = json!([
                {"op": "add", "path": "/status", "value": status},
                {"op": "add", "path": "/metadata/annotations", "value": notes},
                {"op": "add", "path": "/metadata/ownerReferences", "value": owners},
            ]);
            self.objects.json_patch(DEVICE_STATUS, namespace, name, &patch).await
        } else {
            Err(ApiError::NotFound)
        };
        let written = match written {
            Ok(written) => written,
            Err(ApiError::NotFound) => {
                let mut object = json!({
                    "apiVersion": "devices.kubeedge.io/v1beta1",
                    "kind": "DeviceStatus",
                    "metadata": {"name": name, "namespace": namespace, "annotations": notes, "ownerReferences": owners},
                    "status": status,
                });
                if let Some(spec) = reported.remove("spec") {
                    object["spec"] = spec;
                }
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
        self.index.mark(key, Some((Arc::clone(node), hash)), revision(&written));
        Ok(())
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
            Err(ApiError::NotFound) => return refused("there is no such device"),
            other => other?,
        };
        if device.pointer("/spec/nodeName").and_then(Value::as_str) != Some(node) {
            return refused("the device is not this gateway's");
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
        for conflict in &changed.conflicts {
            tracing::info!(
                device = %format_args!("{namespace}/{name}"), property = %conflict.property,
                kept = ?conflict.kept.value, lost = ?conflict.lost.value,
                "A desired value was set here and at the gateway without knowledge of each other."
            );
        }
        let noted = put_notes(&mut device, &[(TWINS, &hash_text(hash)), (TWINS_FROM, node)]);
        let at = if changed.object || noted {
            revision(&self.objects.replace(DEVICE, namespace, name, &device).await?)
        } else {
            revision(&device)
        };
        self.index.mark(key, Some((Arc::clone(node), hash)), at);
        Ok(())
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

    async fn write_node(&self, key: &Key, name: &str, observed: &Observed) -> Result<(), ApiError> {
        let presence = self.presences.of(name);
        let now = daemon::clock::wall_ms();
        let before = match self.objects.get(NODE, "", name).await {
            Ok(object) => Some(object),
            Err(ApiError::NotFound) => None,
            Err(e) => return Err(e),
        };
        let mut node = before.clone().unwrap_or_else(
            || json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {}, "status": {}}),
        );
        let mut labels: BTreeMap<String, Value> = BTreeMap::new();
        if let Observed::Reported { body, hash } = observed {
            let mut reported = object(body)?;
            labels.extend(labels_of(reported.get("metadata")));
            node["status"] = reported.remove("status").unwrap_or_else(|| json!({}));
            put_notes(&mut node, &[(OBSERVED, &hash_text(*hash)), (OBSERVED_FROM, name)]);
        } else if matches!(observed, Observed::Gone) {
            self.index.forget(key);
            if let Some(notes) = node.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
                notes.retain(|n, _| !n.starts_with(HUB_PREFIX));
            }
        }
        presence.put_ready(&mut node["status"], before.as_ref().map(|b| &b["status"]), now);
        labels.extend(presence.labels.into_iter().map(|(k, v)| (k, v.into())));
        if let Some((_, body)) = self.index.edge_node_of(name)
            && let Ok(edge_node) = serde_json::from_slice::<Value>(&body.bytes)
        {
            labels.extend(labels_of(edge_node.get("spec")));
        }
        if !labels.is_empty() {
            let meta = member(&mut node, "metadata");
            let slot = member(meta, "labels");
            labels.into_iter().for_each(|(k, v)| slot[&k] = v);
        }
        let mut at = before.as_ref().map_or(0, revision);
        match &before {
            None => at = revision(&self.objects.create(NODE, "", &node).await?),
            Some(before) => {
                // The status first: the mark in the metadata says that it is there.
                if node["status"] != before["status"] {
                    let written = self.objects.replace_status(NODE, name, &node).await?;
                    at = revision(&written);
                    node["metadata"]["resourceVersion"] = written["metadata"]["resourceVersion"].clone();
                }
                if node["metadata"]["labels"] != before["metadata"]["labels"]
                    || node["metadata"]["annotations"] != before["metadata"]["annotations"]
                {
                    at = revision(&self.objects.replace(NODE, "", name, &node).await?);
                }
            }
        }
        if let Observed::Reported { hash, .. } = observed {
            self.index.mark(key, Some((Arc::from(name), *hash)), at);
        }
        Ok(())
    }

    async fn write_edge_node(&self, node: &str) -> Result<(), ApiError> {
        let presence = self.presences.of(node);
        let name = self
            .index
            .edge_node_of(node)
            .map_or_else(|| Arc::from(node), |(name, _)| name);
        let status = serde_json::to_value(presence.edge_node_status(daemon::clock::wall_ms()))
            .expect("a status of texts and numbers serialises");
        let patch = json!({"status": status});
        match self.objects.merge_patch_status(EDGE_NODE, &name, &patch).await {
            Err(ApiError::NotFound) => {
                let object = json!({
                    "apiVersion": "edge.kubeedge.io/v1",
                    "kind": "EdgeNode",
                    "metadata": {"name": node},
                    "spec": {"nodeInfo": {"nodeID": node}},
                });
                match self.objects.create(EDGE_NODE, "", &object).await {
                    Ok(_) | Err(ApiError::Conflict) => {}
                    Err(e) => return Err(e),
                }
                self.objects.merge_patch_status(EDGE_NODE, node, &patch).await.map(drop)
            }
            other => other.map(drop),
        }
    }
}

/// The object under a member, made when it is missing or no object.
fn member<'a>(value: &'a mut Value, name: &str) -> &'a mut Value {
    if !value[name].is_object() {
        value[name] = json!({});
    }
    &mut value[name]
}

/// Sets annotations; true when that changed the object.
fn put_notes(object: &mut Value, notes: &[(&str, &str)]) -> bool {
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

fn labels_of(holder: Option<&Value>) -> impl Iterator<Item = (String, Value)> + '_ {
    let labels = holder.and_then(|h| h.get("labels")).and_then(Value::as_object);
    labels
        .into_iter()
        .flatten()
        .filter(|(_, v)| v.is_string())
        .map(|(k, v)| (k.clone(), v.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_survive_the_annotation() {
        for hash in [0, 1, Hash::MAX, 0xfeed << 64] {
            assert_eq!(hash_of(&hash_text(hash)), Some(hash));
        }
        for bad in [
            "",
            "0",
            "+0000000000000000000000000000000",
            "zz000000000000000000000000000000",
        ] {
            assert_eq!(hash_of(bad), None, "{bad}");
        }
    }

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
