//! ControllerRevisions: the templates that a StatefulSet or a DaemonSet had, so that people can go back and pods are known by the one they
//! were made of.

use metastore::api::{DeleteOptions, Status};
use serde_json::{Value, json};

use super::shared::{
    claim, is_controlled_by, millis, name, number, owner_reference, same_template, template_hash, uid,
};
use crate::cluster::{CONTROLLER_REVISIONS, Cluster, Key};

/// The revisions of one owner, the oldest first.
#[derive(Debug)]
pub(super) struct Revisions {
    pub(super) all: Vec<Value>,
    /// The place of the one with the owner's template.
    pub(super) newest: usize,
    /// How often two templates had the same name, where that is known.
    pub(super) collisions: Option<i64>,
}

impl Revisions {
    /// The one with the owner's template.
    pub(super) fn newest(&self) -> &Value {
        &self.all[self.newest]
    }

    /// The one of this name.
    pub(super) fn named(&self, wanted: &str) -> Option<&Value> {
        self.all.iter().find(|revision| name(revision) == wanted)
    }
}

/// The template that a revision keeps.
pub(super) fn template(revision: &Value) -> Value {
    let mut template = revision["data"]["spec"]["template"].clone();
    if let Some(template) = template.as_object_mut() {
        template.remove("$patch");
    }
    template
}

/// The owner's revisions, after the one of its template was made where there was none, or became the newest again. `label`: where a revision
/// carries the word that its name ends with.
pub(super) async fn sync(
    cluster: &Cluster,
    owner: &Value,
    label: &str,
    collisions: Option<i64>,
) -> Result<Revisions, Status> {
    let namespace = owner["metadata"]["namespace"].as_str();
    let all = cluster.list(CONTROLLER_REVISIONS, namespace)?;
    let mut all = claim(cluster, CONTROLLER_REVISIONS, owner, all, |_| true).await?;
    all.sort_by_cached_key(|r| {
        let created = millis(&r["metadata"]["creationTimestamp"]);
        (number(r, "/revision"), created, name(r).to_owned())
    });
    let next = all.last().map_or(1, |last| number(last, "/revision") + 1);
    let wanted = &owner["spec"]["template"];
    let mut revisions = Revisions {
        newest: all.len(),
        all,
        collisions,
    };
    let same = revisions.all.iter().rposition(|r| same_template(&template(r), wanted));
    match same {
        Some(at) if at + 1 == revisions.all.len() => revisions.newest = at,
        Some(at) => {
            let old = revisions.all.remove(at);
            let key = Key::of(&old);
            let renumbered = cluster.modify(CONTROLLER_REVISIONS, &key, |revision| {
                revision["revision"] = next.into();
                Ok(())
            });
            revisions.all.push(renumbered.await?);
            revisions.newest = revisions.all.len() - 1;
        }
        None => {
            let made = create(cluster, owner, label, next, &mut revisions.collisions).await?;
            revisions.all.push(made);
        }
    }
    Ok(revisions)
}

/// Makes the revision of the owner's template. A name that another template has is counted and another one found.
async fn create(
    cluster: &Cluster,
    owner: &Value,
    label: &str,
    revision: i64,
    collisions: &mut Option<i64>,
) -> Result<Value, Status> {
    /// Longest beginning of a name.
    const MOST: usize = 223;
    let mut template = owner["spec"]["template"].clone();
    let mut labels = template["metadata"]["labels"].clone();
    template["$patch"] = "replace".into();
    let data = json!({"spec": {"template": template}});
    let prefix = name(owner);
    let prefix = prefix.get(..MOST).unwrap_or(prefix);
    loop {
        let hash = template_hash(&data, *collisions);
        labels[label] = hash.as_str().into();
        let mut made = json!({
            "apiVersion": CONTROLLER_REVISIONS.api_version(),
            "kind": CONTROLLER_REVISIONS.kind,
            "metadata": {
                "name": format!("{prefix}-{hash}"),
                "namespace": owner["metadata"]["namespace"],
                "labels": labels,
                "ownerReferences": [owner_reference(owner)],
            },
            "data": data,
            "revision": revision,
        });
        if let Some(annotations) = owner["metadata"].get("annotations") {
            made["metadata"]["annotations"] = annotations.clone();
        }
        let key = Key::of(&made);
        match cluster.create(made).await {
            Err(e) if e.reason == "AlreadyExists" => {}
            other => return other,
        }
        let same = |there: &Value| there["data"] == data && is_controlled_by(there, owner);
        if let Some(there) = cluster.get(CONTROLLER_REVISIONS, &key)?.filter(same) {
            return Ok(there);
        }
        *collisions = Some(collisions.unwrap_or(0) + 1);
    }
}

/// Deletes so many revisions, the oldest of those that nobody needs.
pub(super) async fn forget<'v>(
    cluster: &Cluster,
    unneeded: impl Iterator<Item = &'v Value>,
    count: usize,
) -> Result<(), Status> {
    for revision in unneeded.take(count) {
        let options = DeleteOptions {
            uid: Some(uid(revision).to_owned()),
            ..DeleteOptions::default()
        };
        cluster
            .delete(CONTROLLER_REVISIONS, &Key::of(revision), &options)
            .await?;
    }
    Ok(())
}
