//! The bookkeeping between a Deployment and its ReplicaSets: which is the new one, what is noted on them, how large they are, which are kept.

use metastore::api::{DeleteOptions, Status};
use serde_json::{Value, json};

use super::{HASH, REVISION, Rollout, UNLIMITED};
use crate::cluster::{Key, REPLICA_SETS};
use crate::controllers::shared::{
    annotate, annotation, condition, is_controlled_by, is_terminating, millis, name, number, owner_reference,
    same_object, same_template, set_condition, share, template_hash, text, uid,
};
use crate::events::Tone;

const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations that are a Deployment's own, or a ReplicaSet's own.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];
/// Most bytes of [`HISTORY`].
const MAX_HISTORY: usize = 2000;
/// Longest name of an object.
const MAX_NAME: usize = 253;

/// When a set was made, and its name for those made in the same second.
pub(super) fn age(set: &Value) -> (i64, String) {
    let created = millis(&set["metadata"]["creationTimestamp"]).unwrap_or(0);
    (created, name(set).to_owned())
}

/// How many pods a set is to have.
pub(super) fn replicas(set: &Value) -> i64 {
    number(set, "/spec/replicas")
}

/// How many of its pods are available.
pub(super) fn available(set: &Value) -> i64 {
    number(set, "/status/availableReplicas")
}

/// The set with the Deployment's template; the oldest if there are several.
pub(super) fn position(deployment: &Value, sets: &[Value]) -> Option<usize> {
    let template = &deployment["spec"]["template"];
    sets.iter()
        .position(|set| same_template(&set["spec"]["template"], template))
}

/// The place of a set's template among those its Deployment had; none when somebody has written nonsense there.
fn revision(set: &Value) -> Option<i64> {
    annotation(set, REVISION).map_or(Some(0), |text| text.parse().ok())
}

/// How many pods may be there beyond those wanted, and how many of those wanted may be missing.
pub(super) fn bounds(deployment: &Value) -> (i64, i64) {
    if deployment["spec"]["strategy"]["type"] == "Recreate" {
        return (0, 0);
    }
    let replicas = number(deployment, "/spec/replicas");
    let rolling = &deployment["spec"]["strategy"]["rollingUpdate"];
    let surge = share(&rolling["maxSurge"], replicas, true);
    let missing = share(&rolling["maxUnavailable"], replicas, false);
    // With neither it would never move.
    let missing = if surge == 0 && missing == 0 { 1 } else { missing };
    (surge, missing.min(replicas))
}

/// Notes the size of the Deployment on a set. Whether that changed it.
fn note_size(deployment: &Value, set: &mut Value) -> bool {
    let replicas = number(deployment, "/spec/replicas");
    let most = replicas + bounds(deployment).0;
    let desired = annotate(set, DESIRED, &replicas.to_string());
    annotate(set, MAX, &most.to_string()) || desired
}

/// Notes on the new set what it takes over from its Deployment: annotations and the place of its template. Whether that changed it.
pub(super) fn note_revision(deployment: &Value, set: &mut Value, newest: i64) -> bool {
    let mut changed = false;
    for (key, value) in deployment["metadata"]["annotations"].as_object().into_iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) {
            changed |= annotate(set, key, value.as_str().unwrap_or_default());
        }
    }
    let before = annotation(set, REVISION).map(str::to_owned);
    let Some(number) = revision(set) else { return false };
    if number >= newest {
        return changed;
    }
    annotate(set, REVISION, &newest.to_string());
    // It comes back: the places it had stay known.
    if let Some(before) = before {
        let history = annotation(set, HISTORY).unwrap_or_default();
        let mut had: Vec<&str> = history.split(',').filter(|r| !r.is_empty()).collect();
        had.push(&before);
        while had.len() > 1 && had.iter().map(|r| r.len() + 1).sum::<usize>() > MAX_HISTORY + 1 {
            had.remove(0);
        }
        let history = had.join(",");
        annotate(set, HISTORY, &history);
    }
    true
}

impl Rollout<'_> {
    /// Brings the new set's notes up to date, and the Deployment's revision after it. Makes the set when there is none and `create` says so.
    pub(super) async fn sync_new(&mut self, create: bool) -> Result<(), Status> {
        let old = self.old();
        let newest = 1 + old.iter().filter_map(|at| revision(&self.sets[*at])).max().unwrap_or(0);
        let Some(at) = self.new else {
            return if create { self.create_new(newest).await } else { Ok(()) };
        };
        let deployment = &self.deployment;
        let min_ready = number(deployment, "/spec/minReadySeconds");
        let update = |set: &mut Value| {
            let noted = note_revision(deployment, set, newest);
            if number(set, "/spec/minReadySeconds") != min_ready {
                set["spec"]["minReadySeconds"] = min_ready.into();
                return true;
            }
            noted
        };
        if update(&mut self.sets[at].clone()) {
            self.sets[at] = self
                .change(at, |set| {
                    update(set);
                })
                .await?;
            return Ok(());
        }
        let mut changed = match annotation(&self.sets[at], REVISION) {
            Some(revision) => annotate(&mut self.deployment, REVISION, revision),
            None => false,
        };
        if self.deadline().is_some() && condition(&self.deployment["status"], "Progressing").is_none() {
            let message = format!("Found new replica set {:?}", name(&self.sets[at]));
            let found = self.condition("Progressing", "True", "FoundNewReplicaSet", &message);
            self.set_condition(found);
            changed = true;
        }
        if changed { self.write().await } else { Ok(()) }
    }

    /// Makes the set of the Deployment's template.
    async fn create_new(&mut self, revision: i64) -> Result<(), Status> {
        let mut template = self.deployment["spec"]["template"].clone();
        let collisions = self.deployment["status"]["collisionCount"].as_i64();
        let hash = template_hash(&template, collisions);
        template["metadata"]["labels"][HASH] = hash.as_str().into();
        let mut selector = self.deployment["spec"]["selector"].clone();
        selector["matchLabels"][HASH] = hash.as_str().into();
        let prefix = name(&self.deployment);
        let keep = prefix.len().min(MAX_NAME - 1 - hash.len());
        let named = format!("{}-{hash}", prefix.get(..keep).unwrap_or(prefix));
        let mut set = json!({
            "apiVersion": REPLICA_SETS.api_version(),
            "kind": REPLICA_SETS.kind,
            "metadata": {
                "name": named,
                "namespace": self.deployment["metadata"]["namespace"],
                "labels": template["metadata"]["labels"],
                "ownerReferences": [owner_reference(&self.deployment)],
            },
            "spec": {
                "replicas": 0,
                "minReadySeconds": number(&self.deployment, "/spec/minReadySeconds"),
                "selector": selector,
                "template": template,
            },
        });
        let replicas = self.size_of_new(0);
        set["spec"]["replicas"] = replicas.into();
        note_revision(&self.deployment, &mut set, revision);
        note_size(&self.deployment, &mut set);
        let mut existed = false;
        let created = match self.cluster.create(set).await {
            Ok(created) => created,
            Err(e) if e.reason == "AlreadyExists" => {
                existed = true;
                self.taken(&named).await?.ok_or(e)?
            }
            Err(e) => {
                self.cannot_create(&named, &e).await;
                return Err(e);
            }
        };
        if !existed && replicas > 0 {
            self.tell_scaled(&named, 0, replicas);
        }
        self.new = Some(self.sets.len());
        self.sets.push(created);
        annotate(&mut self.deployment, REVISION, &revision.to_string());
        if !existed && self.deadline().is_some() {
            let message = format!("Created new replica set {named:?}");
            let created = self.condition("Progressing", "True", "NewReplicaSetCreated", &message);
            self.set_condition(created);
        }
        self.write().await
    }

    /// The set that has the name of the one to be made: the same after all, or another template's, which is counted so that the next look
    /// finds another name.
    async fn taken(&mut self, name: &str) -> Result<Option<Value>, Status> {
        let key = Key::new(text(&self.deployment, "/metadata/namespace"), name);
        let there = self.cluster.get(REPLICA_SETS, &key)?;
        let same = |set: &Value| {
            let template = &self.deployment["spec"]["template"];
            is_controlled_by(set, &self.deployment) && same_template(&set["spec"]["template"], template)
        };
        if let Some(set) = there.filter(same) {
            return Ok(Some(set));
        }
        let collisions = number(&self.deployment, "/status/collisionCount");
        self.deployment["status"]["collisionCount"] = (collisions + 1).into();
        self.write().await?;
        Ok(None)
    }

    async fn cannot_create(&mut self, name: &str, why: &Status) {
        let reason = "ReplicaSetCreateError";
        let message = format!("Failed to create new replica set {name:?}: {why}");
        if self.deadline().is_some() {
            let failed = self.condition("Progressing", "False", reason, &message);
            self.set_condition(failed);
            if let Err(e) = self.write().await {
                tracing::debug!(error = %e, "The failure of a rollout cannot be written.");
            }
        }
        self.events.tell(&self.deployment, Tone::Warning, reason, message);
    }

    pub(super) fn set_condition(&mut self, condition: Value) {
        set_condition(&mut self.deployment["status"], condition);
    }

    /// Changes a set; as it is stored then.
    async fn change(&self, at: usize, mut change: impl FnMut(&mut Value) + Send) -> Result<Value, Status> {
        let set = &self.sets[at];
        let key = Key::of(set);
        let changed = self.cluster.modify(REPLICA_SETS, &key, |current| {
            same_object(REPLICA_SETS, set, current)?;
            change(current);
            Ok(())
        });
        changed.await
    }

    /// Gives a set another size. Notes the Deployment's own size on it then, and without another size too where `note` says so. Whether its
    /// size changed.
    pub(super) async fn scale(&mut self, at: usize, to: i64, note: bool) -> Result<bool, Status> {
        let set = &self.sets[at];
        let from = replicas(set);
        if from == to && !(note && note_size(&self.deployment, &mut set.clone())) {
            return Ok(false);
        }
        let deployment = &self.deployment;
        let changed = self.change(at, |set| {
            set["spec"]["replicas"] = to.into();
            note_size(deployment, set);
        });
        self.sets[at] = changed.await?;
        if from != to {
            self.tell_scaled(name(&self.sets[at]), from, to);
        }
        Ok(from != to)
    }

    fn tell_scaled(&self, set: &str, from: i64, to: i64) {
        let way = if from < to { "up" } else { "down" };
        let message = format!("Scaled {way} replica set {set} from {from} to {to}");
        self.events
            .tell(&self.deployment, Tone::Normal, "ScalingReplicaSet", message);
    }

    /// Whether the Deployment's size is another than the one its sets were made for.
    pub(super) fn is_scaled(&self) -> bool {
        let wanted = self.replicas();
        let noted = |set: &Value| annotation(set, DESIRED)?.parse::<i32>().ok();
        self.sets
            .iter()
            .filter(|set| replicas(set) > 0)
            .filter_map(noted)
            .any(|noted| noted >= 0 && i64::from(noted) != wanted)
    }

    /// Whether the new set is all there is wanted.
    pub(super) fn is_saturated(&self) -> bool {
        let wanted = self.replicas();
        self.new.map(|at| &self.sets[at]).is_some_and(|set| {
            replicas(set) == wanted
                && annotation(set, DESIRED) == Some(wanted.to_string().as_str())
                && available(set) == wanted
        })
    }

    /// How large a set of so many pods would be, were it to grow or shrink with the Deployment: the difference.
    pub(super) fn growth(&self, set: &Value) -> i64 {
        let size = replicas(set);
        if self.replicas() == 0 {
            return -size;
        }
        let noted = annotation(set, MAX).and_then(|max| max.parse::<i32>().ok());
        let before = match noted.map_or(0, i64::from) {
            noted if noted > 0 => noted,
            _ => number(&self.deployment, "/status/replicas"),
        };
        if before == 0 {
            return 0;
        }
        let most = self.replicas() + bounds(&self.deployment).0;
        // Rounded to the nearest.
        (2 * size * most + before) / (2 * before) - size
    }

    /// Deletes the oldest of the old sets beyond those that are to be kept.
    pub(super) async fn clean_up(&self) -> Result<(), Status> {
        let limit = self.deployment["spec"]["revisionHistoryLimit"].as_i64();
        let Some(limit) = limit.filter(|l| *l != UNLIMITED) else {
            return Ok(());
        };
        let mut old: Vec<&Value> = self.old().into_iter().map(|at| &self.sets[at]).collect();
        old.retain(|set| !is_terminating(set));
        let too_many = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        old.sort_by_cached_key(|set| (revision(set), age(set)));
        for set in old.into_iter().take(too_many) {
            let seen = number(set, "/status/observedGeneration") >= number(set, "/metadata/generation");
            if number(set, "/status/replicas") != 0 || replicas(set) != 0 || !seen {
                continue;
            }
            let options = DeleteOptions {
                uid: Some(uid(set).to_owned()),
                ..DeleteOptions::default()
            };
            self.cluster.delete(REPLICA_SETS, &Key::of(set), &options).await?;
        }
        Ok(())
    }
}
