//! The objects that speak of a gateway itself: its Node, which is its own report with the hub's word on the connection put in, and
//! its EdgeNode, whose status is the hub's alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use device_models::kinds::Condition;
use proto::{Hash, Key};
use serde_json::{Map, Value, json};

use super::jobs::{member, object, put_notes};
use super::{Observed, Shared};
use crate::upstream::body::{
    CONTENT, HUB_PREFIX, LABELS, OBSERVED, OBSERVED_FROM, READY, REPORTED_LABELS, content, hash_of, hash_text,
};
use crate::upstream::objects::{ApiError, EDGE_NODE, NODE, revision};
use crate::upstream::presence::{Claim, rfc3339};

/// EdgeNodes of one gateway whose status is kept up to date; one is what there should be.
const MAX_EDGE_NODES: usize = 4;

pub(super) type Labels = BTreeMap<String, Value>;

impl Shared {
    pub(super) async fn write_node(&self, key: &Key, name: &str, observed: &Observed) -> Result<(), ApiError> {
        let presence = self.presences.of(name);
        let before = match self.objects.get(NODE, "", name).await {
            Ok(object) => Some(object),
            Err(ApiError::NotFound) => None,
            Err(e) => return Err(e),
        };
        // A gateway that was thrown out is not to come back because its Node was deleted.
        if before.is_none() && presence.revoked {
            return Ok(());
        }
        let mut node = before.clone().unwrap_or_else(
            || json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {}, "status": {}}),
        );
        let altered = !node_is_as_written(&node);
        match observed {
            Observed::Reported { body, hash } => {
                let mut reported = object(body)?;
                let labels: Map<String, Value> = labels_of(reported.get("metadata")).collect();
                node["status"] = reported.remove("status").unwrap_or_else(|| json!({}));
                let ready = Claim::of(&node["status"]).map(|claim| claim.to_text());
                let labels = (!labels.is_empty()).then(|| Value::Object(labels).to_string());
                put_or_remove(&mut node, READY, ready);
                put_or_remove(&mut node, REPORTED_LABELS, labels);
                put_notes(&mut node, &[(OBSERVED, &hash_text(*hash)), (OBSERVED_FROM, name)]);
            }
            Observed::Gone => {
                self.index.forget(key);
                drop_notes(&mut node, |n| n.starts_with(HUB_PREFIX));
            }
            // Somebody else wrote what the gateway is to have said: it is asked again.
            Observed::Same if altered => drop_notes(&mut node, |n| [OBSERVED, OBSERVED_FROM, CONTENT].contains(&n)),
            Observed::Same => {}
        }
        let claim = note(&node, READY).and_then(Claim::parse);
        presence.put_ready(
            &mut node["status"],
            claim.as_ref(),
            before.as_ref().map(|b| &b["status"]),
            daemon::clock::wall_ms(),
        );
        // The gateway's own, those of its token, and what was announced, which counts most.
        let mut labels: Labels = note(&node, REPORTED_LABELS).map(parse_labels).unwrap_or_default();
        labels.extend(presence.labels.into_iter().map(|(k, v)| (k, v.into())));
        if let Some((_, body)) = self.index.edge_node_of(name)
            && let Ok(edge_node) = serde_json::from_slice::<Value>(&body.bytes)
        {
            labels.extend(labels_of(edge_node.get("spec")));
        }
        put_labels(&mut node, labels);

        let mut at = before.as_ref().map_or(0, revision);
        let mut stands = before;
        match &stands {
            None => {
                let written = self.objects.create(NODE, "", &node).await?;
                at = revision(&written);
                node["status"] = written["status"].clone();
                node["metadata"]["resourceVersion"] = written["metadata"]["resourceVersion"].clone();
                stands = Some(written);
            }
            // The status first: the mark in the metadata says that it is there.
            Some(before) if node["status"] != before["status"] => {
                let written = self.objects.replace_status(NODE, name, &node).await?;
                at = revision(&written);
                node["status"] = written["status"].clone();
                node["metadata"]["resourceVersion"] = written["metadata"]["resourceVersion"].clone();
            }
            Some(_) => {}
        }
        if let Some(hash) = node_hash(&node) {
            let content = node_content(hash, &node);
            put_notes(&mut node, &[(CONTENT, &content)]);
        }
        let differs = |what: &str| {
            stands
                .as_ref()
                .is_none_or(|s| s["metadata"][what] != node["metadata"][what])
        };
        if differs("labels") || differs("annotations") {
            at = revision(&self.objects.replace(NODE, "", name, &node).await?);
        }
        let mark = node_hash(&node).map(|hash| (Arc::from(name), hash));
        match observed {
            Observed::Reported { hash, .. } => self.wrote(key, &Arc::from(name), *hash, at),
            Observed::Gone => Ok(()),
            // Tells the session when the mark was taken off, and passes over what the watch will say of this write.
            Observed::Same => {
                self.index.mark(key, mark, at);
                Ok(())
            }
        }
    }

    pub(super) async fn write_edge_node(&self, node: &str, anew: bool) -> Result<(), ApiError> {
        let presence = self.presences.of(node);
        let mut names = self.index.edge_nodes_of(node);
        names.truncate(MAX_EDGE_NODES);
        if names.is_empty() {
            if !presence.enrolled || presence.revoked || !self.make_edge_node(node).await? {
                return Ok(());
            }
            names.push(Arc::from(node));
        }
        let now = daemon::clock::wall_ms();
        for name in names {
            let mut status = presence.edge_node_status(now);
            if *name != *node && self.presences.of(&name).enrolled {
                status.conditions.push(misnamed(&name, node, now));
            }
            let status = serde_json::to_value(status).expect("a status of texts and numbers serialises");
            // Read and written under its version: it may speak of another gateway by now, and what is said of this one would stay.
            let written = match self.objects.get(EDGE_NODE, "", &name).await {
                Ok(object) if !speaks_of(&object, &name, node) => continue,
                Ok(mut object) => {
                    let there = member(&mut object, "status");
                    if anew {
                        *there = json!({});
                    }
                    if let (Some(there), Value::Object(status)) = (there.as_object_mut(), status) {
                        there.extend(status);
                    }
                    self.objects.replace_status(EDGE_NODE, &name, &object).await
                }
                Err(e) => Err(e),
            };
            match written {
                // Deleted just now: the watch tells, and what is to be done then is done then.
                Ok(_) | Err(ApiError::NotFound) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Makes the EdgeNode of a gateway that has none; false when another gateway's has its name.
    async fn make_edge_node(&self, node: &str) -> Result<bool, ApiError> {
        match self.objects.get(EDGE_NODE, "", node).await {
            Ok(other) => {
                let mine = speaks_of(&other, node, node);
                if !mine {
                    tracing::warn!(
                        node,
                        "The EdgeNode of this name speaks of another gateway; this one has none."
                    );
                }
                return Ok(mine);
            }
            Err(ApiError::NotFound) => {}
            Err(e) => return Err(e),
        }
        let object = json!({
            "apiVersion": "edge.kubeedge.io/v1",
            "kind": "EdgeNode",
            "metadata": {"name": node},
            "spec": {"nodeInfo": {"nodeID": node}},
        });
        self.objects.create(EDGE_NODE, "", &object).await.map(|_| true)
    }
}

/// Whether the EdgeNode of this name speaks of this gateway.
fn speaks_of(edge_node: &Value, name: &str, node: &str) -> bool {
    let said = edge_node.pointer("/spec/nodeInfo/nodeID").and_then(Value::as_str);
    said.filter(|said| !said.is_empty()).unwrap_or(name) == node
}

/// Two gateways meet in one EdgeNode: one has its name, it speaks of the other.
fn misnamed(name: &str, speaks_of: &str, now: u64) -> Condition {
    Condition {
        condition_type: "Misnamed".to_owned(),
        status: "True".to_owned(),
        reason: Some("NameOfAnotherGateway".to_owned()),
        message: Some(format!(
            "this speaks of gateway {speaks_of}, but a gateway {name} joined and has no EdgeNode of its own: set spec.nodeInfo.nodeID \
             to {name}, or delete this and announce {speaks_of} under another name"
        )),
        last_transition_time: Some(rfc3339(now)),
        observed_generation: None,
    }
}

/// Whether the content of a Node is what was written from the report that it is marked with; true without a mark.
pub(in crate::upstream) fn node_is_as_written(node: &Value) -> bool {
    node_hash(node).is_none_or(|hash| note(node, CONTENT) == Some(&*node_content(hash, node)))
}

fn node_hash(node: &Value) -> Option<Hash> {
    hash_of(note(node, OBSERVED)?)
}

/// Of a Node, the gateway's part: all of the status but the condition that the hub has a word in, and what stands in for that.
fn node_content(hash: Hash, node: &Value) -> String {
    let mut status = node["status"].clone();
    if let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) {
        conditions.retain(|c| c["type"] != "Ready");
    }
    let text = |name: &str| note(node, name).map_or(Value::Null, Value::from);
    content(hash, &[&status, &text(READY), &text(REPORTED_LABELS)])
}

fn note<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object.get("metadata")?.get("annotations")?.get(name)?.as_str()
}

fn drop_notes(object: &mut Value, which: impl Fn(&str) -> bool) {
    if let Some(notes) = object
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        notes.retain(|n, _| !which(n));
    }
}

pub(in crate::upstream) fn put_or_remove(object: &mut Value, name: &str, value: Option<String>) {
    match value {
        Some(value) => drop(put_notes(object, &[(name, &value)])),
        None => drop_notes(object, |n| n == name),
    }
}

pub(super) fn labels_of(holder: Option<&Value>) -> impl Iterator<Item = (String, Value)> + '_ {
    let labels = holder.and_then(|h| h.get("labels")).and_then(Value::as_object);
    labels
        .into_iter()
        .flatten()
        .filter(|(_, v)| v.is_string())
        .map(|(k, v)| (k.clone(), v.clone()))
}

fn parse_labels(text: &str) -> Labels {
    let map: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
    map.into_iter().filter(|(_, v)| v.is_string()).collect()
}

/// Makes the hub's labels on a Node these, and notes which they are. One that the hub put there goes when nothing asks for it any
/// more, unless somebody gave it another value meanwhile: then it is theirs.
pub(in crate::upstream) fn put_labels(node: &mut Value, labels: Labels) {
    let before: Labels = note(node, LABELS).map(parse_labels).unwrap_or_default();
    if labels.is_empty() && before.is_empty() {
        return;
    }
    let slot = member(member(node, "metadata"), "labels");
    for (key, value) in before {
        if !labels.contains_key(&key)
            && slot[&key] == value
            && let Some(map) = slot.as_object_mut()
        {
            map.remove(&key);
        }
    }
    for (key, value) in &labels {
        slot[key] = value.clone();
    }
    // Indexing makes an entry of what it does not find.
    if let Some(map) = slot.as_object_mut() {
        map.retain(|_, v| !v.is_null());
    }
    let text = (!labels.is_empty()).then(|| Value::Object(labels.into_iter().collect()).to_string());
    put_or_remove(node, LABELS, text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(list: &[(&str, &str)]) -> Labels {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect()
    }

    #[test]
    fn labels_go_with_what_asked_for_them_and_others_stay() {
        let mut node = json!({"metadata": {"name": "gw-1", "labels": {"team": "a"}}});
        put_labels(&mut node, labels(&[]));
        assert_eq!(node, json!({"metadata": {"name": "gw-1", "labels": {"team": "a"}}}));
        put_labels(&mut node, labels(&[("region", "east"), ("line", "2"), ("shelf", "3")]));
        assert_eq!(
            node["metadata"]["labels"],
            json!({"team": "a", "region": "east", "line": "2", "shelf": "3"})
        );
        node["metadata"]["labels"]["shelf"] = "mine".into();
        node["metadata"]["labels"]["other"] = "b".into();
        put_labels(&mut node, labels(&[("region", "west")]));
        assert_eq!(
            node["metadata"]["labels"],
            json!({"team": "a", "region": "west", "shelf": "mine", "other": "b"})
        );
        put_labels(&mut node, labels(&[]));
        assert_eq!(
            node["metadata"],
            json!({"name": "gw-1", "labels": {"team": "a", "shelf": "mine", "other": "b"}, "annotations": {}})
        );
        for odd in [
            json!({"kurator.dev/labels": "["}),
            json!({"kurator.dev/labels": 7}),
            json!("x"),
        ] {
            let mut node = json!({"metadata": {"annotations": odd, "labels": 3}});
            put_labels(&mut node, labels(&[("a", "b")]));
            assert_eq!(node["metadata"]["labels"], json!({"a": "b"}));
        }
    }

    #[test]
    fn a_node_that_was_altered_is_told_from_one_that_the_hub_wrote() {
        let mut node = json!({
            "metadata": {"annotations": {OBSERVED: hash_text(7), READY: "{}"}},
            "status": {"nodeInfo": {"architecture": "arm64"}, "conditions": [{"type": "Ready"}, {"type": "Disk"}]},
        });
        assert!(!node_is_as_written(&node));
        let content = node_content(7, &node);
        put_notes(&mut node, &[(CONTENT, &content)]);
        assert!(node_is_as_written(&node));
        node["status"]["conditions"][0]["status"] = "False".into();
        assert!(node_is_as_written(&node), "that condition is the hub's");
        for (pointer, other) in [
            ("/status/nodeInfo/architecture", "x"),
            ("/status/conditions/1/type", "x"),
            ("/metadata/annotations/kurator.dev~1observed", &*hash_text(8)),
            ("/metadata/annotations/kurator.dev~1observed-ready", "x"),
        ] {
            let mut altered = node.clone();
            *altered.pointer_mut(pointer).unwrap() = other.into();
            assert!(!node_is_as_written(&altered), "{pointer}");
        }
        assert!(node_is_as_written(&json!({"metadata": {}})));
    }
}
