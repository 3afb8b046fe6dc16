//! The volumes of a StatefulSet's pods: made with the pod, kept for its successor, and owned by whomever they are to go with.

use http::StatusCode;
use metastore::api::Status;
use serde_json::{Value, json};

use super::identity::ordinal;
use super::{CREATE, Round, UPDATE};
use crate::cluster::{Key, PERSISTENT_VOLUME_CLAIMS};
use crate::controllers::shared::{is_terminating, list, name, number, owner_reference, same_object, text, uid};
use crate::events::Tone;

/// Name of the claim of a template for an ordinal.
pub(super) fn claim_name(set: &Value, template: &Value, ordinal: i64) -> String {
    format!("{}-{}-{ordinal}", name(template), name(set))
}

/// Whether a claim of this name may be one of the set's.
pub(super) fn could_be_of(set: &Value, claim: &str) -> bool {
    list(set, "/spec/volumeClaimTemplates").iter().any(|template| {
        let rest = claim
            .strip_prefix(name(template))
            .and_then(|rest| rest.strip_prefix('-'));
        rest.is_some_and(|rest| rest.starts_with(name(set)))
    })
}

/// Whether what `when` says is to happen to claims is that they go.
fn goes(set: &Value, when: &str) -> bool {
    set["spec"]["persistentVolumeClaimRetentionPolicy"][when] == "Delete"
}

/// Whether a reference names an object, be it the same or one before it.
fn names(reference: &Value, object: &Value) -> bool {
    let of = |field: &str| reference[field] == object[field];
    of("apiVersion") && of("kind") && reference["name"] == object["metadata"]["name"]
}

fn is_to(reference: &Value, object: &Value) -> bool {
    reference["uid"] == object["metadata"]["uid"]
}

impl Round<'_> {
    fn claims_of<'s>(&'s self, pod: &Value) -> impl Iterator<Item = (&'s Value, Key)> {
        let ordinal = ordinal(&self.set, pod).unwrap_or(0);
        let templates = list(&self.set, "/spec/volumeClaimTemplates").iter();
        templates.map(move |template| {
            let named = claim_name(&self.set, template, ordinal);
            (template, Key::new(text(&self.set, "/metadata/namespace"), named))
        })
    }

    /// Makes the claims that a pod needs and that are not there.
    pub(super) async fn create_claims(&self, pod: &Value) -> Result<(), Status> {
        for (template, key) in self.claims_of(pod) {
            if let Some(claim) = self.cluster.get(PERSISTENT_VOLUME_CLAIMS, &key)? {
                if is_terminating(&claim) {
                    let why = format!("pvc {} is being deleted", key.name);
                    return Err(Status::new(StatusCode::CONFLICT, "Conflict", why));
                }
                continue;
            }
            let mut metadata = template["metadata"].clone();
            metadata["name"] = (*key.name).into();
            metadata["namespace"] = (*key.namespace).into();
            let selected = self.set["spec"]["selector"]["matchLabels"].as_object();
            for (label, value) in selected.into_iter().flatten() {
                metadata["labels"][label] = value.clone();
            }
            let made = self.cluster.create(json!({
                "apiVersion": "v1",
                "kind": PERSISTENT_VOLUME_CLAIMS.kind,
                "metadata": metadata,
                "spec": template["spec"],
            }));
            match made.await {
                Ok(_) => self.tell_claim(&key.name, pod, None),
                Err(e) if e.reason == "AlreadyExists" => {}
                Err(e) => {
                    self.tell_claim(&key.name, pod, Some(&e));
                    return Err(Status {
                        message: format!("failed to create PVC {}: {e}", key.name),
                        ..e
                    });
                }
            }
        }
        Ok(())
    }

    fn tell_claim(&self, claim: &str, pod: &Value, failed: Option<&Status>) {
        let link = if failed.is_some() { "for " } else { "" };
        let (verb, pod, set) = (CREATE.word, name(pod), name(&self.set));
        let about = format!("{verb} Claim {claim} {link}Pod {pod} in StatefulSet {set}");
        self.tell_of(&CREATE, &about, "success", failed);
    }

    /// Whether a claim that a new pod would use still goes with the pod before it.
    pub(super) fn has_old_claim(&self, pod: &Value) -> Result<bool, Status> {
        if !goes(&self.set, "whenScaled") {
            return Ok(false);
        }
        for (_, key) in self.claims_of(pod) {
            let claim = self.cluster.get(PERSISTENT_VOLUME_CLAIMS, &key)?.unwrap_or_default();
            let mut owners = list(&claim, "/metadata/ownerReferences").iter();
            if owners.any(|owner| names(owner, pod) && !is_to(owner, pod)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes the claims of a pod go with the set, with the pod, or with nobody, as the set says. Whether one did not.
    pub(super) async fn keep_claims(&self, pod: &Value) -> Result<bool, Status> {
        let mut any = false;
        for (_, key) in self.claims_of(pod) {
            let Some(claim) = self.cluster.get(PERSISTENT_VOLUME_CLAIMS, &key)? else {
                continue;
            };
            if self.is_strange(&claim, pod) {
                let message = format!(
                    "PersistentVolumeClaim {} has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim",
                    key.name
                );
                self.events
                    .tell(&self.set, Tone::Warning, "ConflictingController", message);
            }
            let Some(owners) = self.owners_of(&claim, pod) else {
                continue;
            };
            let changed = self.cluster.modify(PERSISTENT_VOLUME_CLAIMS, &key, |current| {
                same_object(PERSISTENT_VOLUME_CLAIMS, &claim, current)?;
                current["metadata"]["ownerReferences"] = owners.clone().into();
                Ok(())
            });
            if let Err(e) = changed.await {
                self.tell(&UPDATE, name(pod), Some(&e));
                return Err(e);
            }
            any = true;
        }
        Ok(any)
    }

    /// Whether somebody else decides when a claim goes.
    fn is_strange(&self, claim: &Value, pod: &Value) -> bool {
        (goes(&self.set, "whenScaled") || goes(&self.set, "whenDeleted"))
            && list(claim, "/metadata/ownerReferences").iter().any(|owner| {
                let own = names(owner, &self.set) || names(owner, pod);
                let same = is_to(owner, &self.set) || is_to(owner, pod);
                if own { !same } else { owner["controller"] == true }
            })
    }

    /// The owners that a claim is to have; `None` when it has them, or when they are not ours to decide.
    fn owners_of(&self, claim: &Value, pod: &Value) -> Option<Vec<Value>> {
        let owners = list(claim, "/metadata/ownerReferences");
        let set = &self.set;
        let old =
            |owner: &Value| (names(owner, set) && !is_to(owner, set)) || (names(owner, pod) && !is_to(owner, pod));
        if owners.iter().any(old) {
            return None;
        }
        let has = |object: &Value| !uid(object).is_empty() && owners.iter().any(|owner| is_to(owner, object));
        let others = owners.iter().filter(|owner| !names(owner, set) && !names(owner, pod));
        let mut new: Vec<Value> = others.cloned().collect();
        if self.is_strange(claim, pod) {
            return (has(set) || has(pod)).then_some(new);
        }
        let start = number(set, "/spec/ordinals/start");
        let place = ordinal(set, pod).unwrap_or(start) - start;
        let scaled_away = place < 0 || place >= number(set, "/spec/replicas");
        let (scaled, deleted) = (goes(set, "whenScaled"), goes(set, "whenDeleted"));
        let with_set = deleted && !(scaled && scaled_away);
        let with_pod = scaled && scaled_away;
        let weak = |owner: &Value| (is_to(owner, set) || is_to(owner, pod)) && owner["controller"] != true;
        if has(set) == with_set && has(pod) == with_pod && !owners.iter().any(weak) {
            return None;
        }
        if with_set {
            new.push(owner_reference(set));
        }
        if with_pod {
            new.push(owner_reference(pod));
        }
        Some(new)
    }
}
