//! The detector: which policy claims a template, said on the template for people to see, and the binding that follows from it.
//!
//! A policy keeps what it has claimed for as long as it selects it, unless another takes it by preemption. What no policy claims any more
//! stays where it was sent, as Karmada's users expect: only the end of the template ends that.

mod binding;

pub(super) use self::binding::{FINALIZER, bare, id_label, reference};

use std::sync::Arc;

use federation::kinds::{ActivationPreference, Preemption, ResourceSelector};
use federation::names::{CLUSTER_POLICY_ID, CLUSTER_POLICY_NAME, POLICY_ID, POLICY_NAME, POLICY_NAMESPACE};
use federation::schedule::{Claimant, claims, matches, precision};
use metastore::api::Status;
use metastore::store::{ObjectKey, Scope};
use serde_json::Value;

use super::follow::{Shared, Task, binding_of};
use super::hand::{Hand, Key, controller_uid, id_of, is_leaving, is_there, label, note, put, take, text};
use super::kinds::{can_be_sent, group_of, is_open};
use super::picture::{Picture, Policy};
use super::queue::Desk;
use super::{Controller, Looked};

pub(super) struct Detector {
    shared: Arc<Shared>,
    hand: Hand,
}

/// A policy, with its name.
type Named = (Key, Arc<Policy>);

impl Detector {
    pub(super) const fn new(shared: Arc<Shared>, hand: Hand) -> Self {
        Self { shared, hand }
    }

    /// Wants a look at everything that a policy may select.
    fn spread(&self, key: &Key) -> Result<(), Status> {
        let Some(policy) = self.shared.picture().policies.get(key).cloned() else {
            return Ok(());
        };
        for selector in &policy.spec.resource_selectors {
            let namespace = match (key.namespace.is_empty(), selector.namespace.as_str()) {
                (false, _) => Some(&*key.namespace),
                (true, "") => None,
                (true, namespace) => Some(namespace),
            };
            let place = {
                let picture = self.shared.picture();
                let at = namespace.unwrap_or_default();
                picture
                    .kinds
                    .place(&selector.api_version, &selector.kind, at, &selector.name)
            };
            let Some(place) = place.filter(|p| can_be_sent(&p.group, &selector.kind)) else {
                continue;
            };
            if !selector.name.is_empty() && (namespace.is_some() || !self.is_namespaced(selector)) {
                self.shared.desks.detector.add(Task::Refresh(place));
                continue;
            }
            let scope = Scope {
                group: place.group,
                resource: place.resource,
                namespace: namespace.filter(|n| !n.is_empty()).map(Arc::from),
            };
            self.hand.each(&scope, |key, object| {
                if matches(selector, &object).is_some() {
                    self.shared.desks.detector.add(Task::Refresh(key));
                }
            })?;
        }
        Ok(())
    }

    fn is_namespaced(&self, selector: &ResourceSelector) -> bool {
        let picture = self.shared.picture();
        let served = picture.kinds.served(&selector.api_version, &selector.kind);
        served.is_some_and(|s| s.namespaced)
    }

    /// Looks at a template. `own`: it changed itself.
    async fn template(&self, key: &ObjectKey, own: bool) -> Result<(), Status> {
        if !is_open(key) {
            return Ok(());
        }
        let Some(object) = self.hand.get(&id_of(key))? else {
            return Ok(());
        };
        let kind = text(&object, "/kind").to_owned();
        if is_leaving(&object) || !can_be_sent(&key.group, &kind) || is_token(&object) {
            return Ok(());
        }
        let at = binding_of(&key.namespace, &kind, &key.name);
        let Some((name, policy)) = choose(&self.shared.picture(), &object) else {
            return self.let_go(key, &at, &object).await;
        };
        let Some(object) = self.claim(key, &object, &name, &policy).await? else {
            return Ok(());
        };
        let lazy = policy.spec.activation_preference == Some(ActivationPreference::Lazy);
        if lazy && !own && self.shared.picture().bindings.contains_key(&at) {
            return Ok(());
        }
        self.bind(&at, &object, &name, &policy).await
    }

    /// Writes on a template whose it is.
    async fn claim(
        &self,
        key: &ObjectKey,
        object: &Value,
        name: &Key,
        policy: &Policy,
    ) -> Result<Option<Value>, Status> {
        let mut wanted = object.clone();
        binding::mark(&mut wanted, name, &policy.id);
        if wanted == *object {
            return Ok(Some(wanted));
        }
        tracing::debug!(template = %key, policy = %name, "The policy claims the template.");
        self.hand
            .modify(&id_of(key), |o| binding::mark(o, name, &policy.id))
            .await
    }

    /// No policy claims a template any more.
    async fn let_go(&self, key: &ObjectKey, at: &Key, object: &Value) -> Result<(), Status> {
        let is_claimed = |o: &Value| [POLICY_ID, CLUSTER_POLICY_ID].iter().any(|id| !label(o, id).is_empty());
        if is_claimed(object) {
            self.hand.modify(&id_of(key), binding::unmark).await?;
        }
        let id = at.binding().id(at);
        if let Some(bound) = self.hand.get(&id)?
            && is_claimed(&bound)
        {
            self.hand.modify(&id, binding::unmark).await?;
        }
        Ok(())
    }

    /// Makes the binding of a template what its policy asks for.
    async fn bind(&self, at: &Key, object: &Value, name: &Key, policy: &Policy) -> Result<(), Status> {
        let id = at.binding().id(at);
        for _ in 0..2 {
            match self.hand.get(&id)? {
                // The one of a template that is gone: it goes as well, and its end is news.
                Some(there) if is_leaving(&there) || controller_uid(&there) != text(object, "/metadata/uid") => {
                    return Ok(());
                }
                Some(_) => {
                    let change = |b: &mut Value| binding::bring(b, object, name, policy);
                    if self.hand.modify(&id, change).await?.is_some() {
                        return Ok(());
                    }
                }
                None => match self.hand.create(binding::new(at, object, name, policy)).await {
                    Ok(_) => return Ok(()),
                    Err(s) if is_there(&s) => {}
                    Err(s) => return Err(s),
                },
            }
        }
        Err(Status::internal("the binding comes and goes"))
    }
}

/// Whether it is the token of a ServiceAccount: each cluster makes its own.
pub(super) fn is_token(object: &Value) -> bool {
    text(object, "/kind") == "Secret" && text(object, "/type") == "kubernetes.io/service-account-token"
}

impl Controller for Detector {
    type Key = Task;
    const NAME: &'static str = "detector";

    fn desk(&self) -> &Desk<Task> {
        &self.shared.desks.detector
    }

    async fn look(&self, task: &Task) -> Looked {
        match task {
            Task::Policy(key) => self.spread(key)?,
            Task::Template(key) => self.template(key, true).await?,
            Task::Refresh(key) => self.template(key, false).await?,
        }
        Ok(None)
    }
}

/// The policy that a template is of.
fn choose(picture: &Picture, object: &Value) -> Option<Named> {
    let group = group_of(text(object, "/apiVersion"));
    let namespace = text(object, "/metadata/namespace");
    let all: Vec<Named> = picture
        .selecting(group, text(object, "/kind"))
        .into_iter()
        .filter(|key| key.namespace.is_empty() || *key.namespace == *namespace)
        .filter_map(|key| {
            let policy = picture.policies.get(&key)?;
            Some((key, Arc::clone(policy)))
        })
        .filter(|(_, policy)| !policy.leaving && overrides_are_there(picture, namespace, policy))
        .filter(|(_, policy)| precision(&policy.spec.resource_selectors, object).is_some())
        .collect();
    let claimed = all.iter().find(|(key, policy)| is_claimed_by(object, key, policy));
    let Some(claimed) = claimed else {
        return first(&all, object).cloned();
    };
    let rank = |(key, policy): &Named| (!key.namespace.is_empty(), policy.spec.priority.unwrap_or(0));
    let takes = |other: &&Named| other.1.spec.preemption == Some(Preemption::Always) && rank(other) > rank(claimed);
    let takers: Vec<Named> = all.iter().filter(takes).cloned().collect();
    first(&takers, object).or(Some(claimed)).cloned()
}

fn first<'a>(all: &'a [Named], object: &Value) -> Option<&'a Named> {
    let claimants: Vec<Claimant<'_>> = all
        .iter()
        .map(|(key, policy)| Claimant {
            namespace: (!key.namespace.is_empty()).then_some(&*key.namespace),
            name: &key.name,
            priority: policy.spec.priority.unwrap_or(0),
            selectors: &policy.spec.resource_selectors,
        })
        .collect();
    let won = claims(&claimants, object)?;
    all.iter()
        .find(|(key, _)| *key.name == *won.name && *key.namespace == *won.namespace.unwrap_or_default())
}

fn is_claimed_by(object: &Value, key: &Key, policy: &Policy) -> bool {
    if key.namespace.is_empty() {
        label(object, CLUSTER_POLICY_ID) == policy.id
            && note(object, CLUSTER_POLICY_NAME) == &*key.name
            && label(object, POLICY_ID).is_empty()
    } else {
        label(object, POLICY_ID) == policy.id
            && note(object, POLICY_NAME) == &*key.name
            && note(object, POLICY_NAMESPACE) == &*key.namespace
    }
}

/// Whether the OverridePolicies that a policy waits for are there.
fn overrides_are_there(picture: &Picture, namespace: &str, policy: &Policy) -> bool {
    let there = |name: &String| {
        [namespace, ""]
            .iter()
            .any(|ns| picture.overrides.contains_key(&Key::new(*ns, name.as_str())))
    };
    policy.spec.dependent_overrides.iter().all(there)
}

/// Takes an entry off.
fn untie(object: &mut Value, map: &str, keys: &[&str]) {
    take(object, map, keys);
}

/// Puts entries on.
fn tie(object: &mut Value, map: &str, entries: &[(&str, &str)]) {
    for (key, value) in entries {
        put(object, map, key, value);
    }
}

#[cfg(test)]
mod tests;
