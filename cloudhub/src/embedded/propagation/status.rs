//! What members say of an object: summed up in its binding, and from there in its template.
//!
//! A burst of reports is one write: the desk has each binding once, and a look takes all that is known by then.

use std::collections::BTreeSet;
use std::sync::Arc;

use federation::interpret::{Item, aggregate};
use metastore::api::Status;
use serde_json::{Map, Value, json};

use super::follow::Shared;
use super::hand::{Hand, Key, id_of, is_leaving, list, member, now, set, set_condition, text};
use super::picture::Work;
use super::queue::Desk;
use super::works::targets;
use super::{Controller, Looked};

pub(super) struct Statuses {
    shared: Arc<Shared>,
    hand: Hand,
}

impl Statuses {
    pub(super) const fn new(shared: Arc<Shared>, hand: Hand) -> Self {
        Self { shared, hand }
    }

    async fn sum_up(&self, at: &Key, binding: &Value, items: &[Value]) -> Result<(), Status> {
        let Some(bound) = self.shared.picture().bindings.get(at).cloned() else {
            return Ok(());
        };
        let id = id_of(&bound.template);
        let Some(template) = self.hand.get(&id)? else {
            return Ok(());
        };
        let uid = text(binding, "/spec/resource/uid");
        if is_leaving(&template) || (!uid.is_empty() && text(&template, "/metadata/uid") != uid) {
            return Ok(());
        }
        if summary(&template, items).is_none() {
            return Ok(());
        }
        let written = self.hand.modify_status(&id, |t| {
            // It may be another by now.
            if let Some(status) = summary(t, items)
                && let Some(map) = t.as_object_mut()
            {
                map.insert("status".to_owned(), status);
            }
        });
        written.await?;
        Ok(())
    }
}

impl Controller for Statuses {
    type Key = Key;
    const NAME: &'static str = "status";
    const RESTS: u32 = 4;

    fn desk(&self) -> &Desk<Key> {
        &self.shared.desks.status
    }

    async fn look(&self, at: &Key) -> Looked {
        let id = at.binding().id(at);
        let Some(binding) = self.hand.get(&id)?.filter(|b| !is_leaving(b)) else {
            return Ok(None);
        };
        let mut works = self.shared.picture().works_of(at);
        works.retain(|(_, work)| !work.leaving);
        works.sort_by(|(_, a), (_, b)| a.cluster.cmp(&b.cluster));
        let items: Vec<Value> = works.iter().map(|(_, work)| item(work)).collect();
        let chosen = targets(&binding);
        if items.is_empty() && chosen.is_empty() && list(&binding, "/status/aggregatedStatus").is_empty() {
            return Ok(None);
        }
        let applied: BTreeSet<&str> = works
            .iter()
            .filter(|(_, w)| w.applied == Some(true))
            .map(|(_, w)| &*w.cluster)
            .collect();
        let full =
            !chosen.is_empty() && works.len() == chosen.len() && chosen.keys().all(|c| applied.contains(c.as_str()));
        let write = |b: &mut Value| {
            if let Some(status) = member(b, "status") {
                put(status, &items, full);
            }
        };
        self.hand.modify_status(&id, write).await?;
        self.sum_up(at, &binding, &items).await?;
        Ok(None)
    }
}

fn put(status: &mut Map<String, Value>, items: &[Value], full: bool) {
    set(
        status,
        "aggregatedStatus",
        (!items.is_empty()).then(|| items.to_vec().into()),
    );
    let said = if full {
        (true, "FullyAppliedSuccess", "All works have been successfully applied")
    } else {
        (
            false,
            "FullyAppliedFailed",
            "Failed to apply all works, see status.aggregatedStatus for details",
        )
    };
    set_condition(status, "FullyApplied", said, &now());
}

/// What one cluster says. Before an object is applied nobody knows its state.
fn item(work: &Work) -> Value {
    let applied = work.applied == Some(true);
    let mut item = json!({
        "clusterName": &*work.cluster,
        "health": if applied { work.health.as_str() } else { "Unknown" },
    });
    if applied {
        item["applied"] = true.into();
        if let Some(status) = work.status.as_ref().and_then(|s| serde_json::from_str::<Value>(s).ok()) {
            item["status"] = status;
        }
    } else if !work.message.is_empty() {
        item["appliedMessage"] = work.message.as_str().into();
    }
    item
}

/// What they all say of their template.
fn summary(template: &Value, items: &[Value]) -> Option<Value> {
    let items: Vec<Item<'_>> = items
        .iter()
        .map(|item| Item {
            cluster: text(item, "/clusterName"),
            status: item.get("status"),
        })
        .collect();
    aggregate(template, &items)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(cluster: &str, applied: Option<bool>) -> Work {
        Work {
            binding: Key::new("fx", "web-deployment"),
            cluster: cluster.into(),
            generation: 1,
            leaving: false,
            applied,
            message: applied.map_or(
                String::new(),
                |yes| if yes { String::new() } else { "no room".to_owned() },
            ),
            health: "Healthy".to_owned(),
            status: Some(r#"{"replicas":2,"readyReplicas":2}"#.into()),
        }
    }

    #[test]
    fn each_cluster_has_its_word() {
        assert_eq!(
            item(&work("a", Some(true))),
            json!({"clusterName": "a", "applied": true, "health": "Healthy", "status": {"replicas": 2, "readyReplicas": 2}})
        );
        assert_eq!(
            item(&work("b", Some(false))),
            json!({"clusterName": "b", "health": "Unknown", "appliedMessage": "no room"})
        );
        assert_eq!(item(&work("c", None)), json!({"clusterName": "c", "health": "Unknown"}));
    }

    #[test]
    fn a_status_is_written_once() {
        let items = [item(&work("a", Some(true)))];
        let mut status = Map::new();
        put(&mut status, &items, true);
        let before = status.clone();
        put(&mut status, &items, true);
        assert_eq!(status, before);
        put(&mut status, &[], false);
        assert_eq!(status.get("aggregatedStatus"), None);
    }

    #[test]
    fn replicas_add_up() {
        let template =
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "generation": 1}});
        let items = [item(&work("a", Some(true))), item(&work("b", Some(true)))];
        assert_eq!(summary(&template, &items).unwrap()["readyReplicas"], 4);
    }
}
