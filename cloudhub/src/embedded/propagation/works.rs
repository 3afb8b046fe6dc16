//! Works: one for each cluster that a binding goes to, and none for any other.

mod manifest;

pub(super) use self::manifest::targets;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use federation::kinds::{OverrideSpec, TargetCluster};
use federation::names::{execution_namespace, work_name};
use federation::overrides::{Policy, applied, apply_all, overriders_for};
use futures_util::{StreamExt, stream};
use metastore::api::Status;
use serde_json::{Value, json};

use self::manifest::{Parts, Shares};
use super::detector::{FINALIZER, reference};
use super::follow::{Part, Shared};
use super::hand::{
    Hand, Key, WORKS, generation, has_finalizer, id_of, is_leaving, is_there, now, remove_finalizer, text,
};
use super::picture::Cluster;
use super::queue::Desk;
use super::{Controller, Looked};

/// Works that are written at a time: enough for the store to take several in one turn.
const AT_A_TIME: usize = 16;

pub(super) struct Works {
    shared: Arc<Shared>,
    hand: Hand,
    written: Mutex<HashMap<Key, Written>>,
}

/// What a Work was made to be: while that is asked for and the Work is in that generation, nobody needs to read it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Written {
    digest: u64,
    generation: i64,
}

/// In place of a generation: it is being written.
const WRITING: i64 = -1;

/// What all Works of a binding have in common.
struct Common<'a> {
    at: &'a Key,
    binding: &'a Value,
    template: &'a Value,
    /// The template as it travels.
    base: Value,
    name: String,
    shares: Shares,
    overrides: Vec<(Key, Arc<OverrideSpec>)>,
}

impl Works {
    pub(super) fn new(shared: Arc<Shared>, hand: Hand) -> Self {
        Self {
            shared,
            hand,
            written: Mutex::default(),
        }
    }

    fn with_written<R>(&self, act: impl FnOnce(&mut HashMap<Key, Written>) -> R) -> R {
        act(&mut self.written.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a Work is in the generation that it was given here, or is about to be.
    fn is_ours(&self, at: &Key) -> bool {
        let written = self.with_written(|all| all.get(at).copied());
        let there = self.shared.picture().works.get(at).map(|w| w.generation);
        written.is_some_and(|w| w.generation == WRITING || Some(w.generation) == there)
    }

    /// Whether the Work is known to be as it should be.
    fn is_so(&self, at: &Key, digest: u64) -> bool {
        let Some(written) = self.with_written(|all| all.get(at).copied()) else {
            return false;
        };
        let picture = self.shared.picture();
        let there = picture.works.get(at).filter(|w| !w.leaving);
        written.digest == digest && there.is_some_and(|w| w.generation == written.generation)
    }

    /// Makes the Work of one cluster what it should be.
    async fn work(&self, common: &Common<'_>, target: &TargetCluster, cluster: &Cluster) -> Result<(), Status> {
        let mut manifest = common.base.clone();
        common.shares.put(&mut manifest, target);
        let takes = |_: &str, _: &str| true;
        let policies = common.overrides.iter().map(|(key, spec)| Policy {
            namespace: (!key.namespace.is_empty()).then_some(&*key.namespace),
            name: &key.name,
            spec,
        });
        // What a selector may look at is the template, which still has all that does not travel.
        let rules = overriders_for(policies, common.template, &cluster.view(&takes, None));
        let applied_all = apply_all(&mut manifest, &rules).map_err(|e| e.to_string());
        // An override says how an object is in a cluster, never which: who may override in one namespace could reach into all others.
        let applied_all = applied_all.and_then(|()| match differs_in(common.template, &manifest) {
            None => Ok(()),
            Some(field) => Err(format!("an override would change {field}, which no override may")),
        });
        if let Err(e) = applied_all {
            tracing::warn!(binding = %common.at, cluster = &*cluster.name, error = %e,
                "An override cannot be applied; the cluster keeps what it has.");
            self.tell(common.template, &e).await?;
            return Err(Status::bad_request(e));
        }
        let namespace = execution_namespace(&cluster.name);
        let at = Key::new(namespace, common.name.as_str());
        let parts = Parts {
            at: &at,
            binding: common.binding,
            template: common.template,
            cluster: &cluster.name,
            overrides: [applied(&rules, true), applied(&rules, false)],
        };
        let digest = parts.digest(manifest.clone());
        if self.is_so(&at, digest) {
            return Ok(());
        }
        self.note(&at, digest, WRITING);
        match self.write(&at, &parts, manifest).await {
            Ok(Some(generation)) => {
                self.note(&at, digest, generation);
                // What somebody else wrote meanwhile was taken for this.
                let now = self.shared.picture().works.get(&at).map_or(0, |w| w.generation);
                if now > generation {
                    let part = Part::Check(Arc::clone(&cluster.name), at);
                    self.shared.desks.works.add((common.at.clone(), part));
                }
                Ok(())
            }
            other => {
                self.with_written(|all| all.remove(&at));
                other.map(drop)
            }
        }
    }

    /// Says what is wrong with the overrides of a template, where people look: once for all clusters.
    async fn tell(&self, template: &Value, message: &str) -> Result<(), Status> {
        let name = text(template, "/metadata/name");
        let namespace = match text(template, "/metadata/namespace") {
            "" => "default",
            namespace => namespace,
        };
        let mut hasher = DefaultHasher::new();
        message.hash(&mut hasher);
        let mut about = reference(template);
        if let Some(about) = about.as_object_mut() {
            about.remove("resourceVersion");
        }
        let now = now();
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": format!("{name}.{:016x}", hasher.finish()), "namespace": namespace},
            "involvedObject": about, "type": "Warning", "reason": "ApplyOverridePolicyFailed", "message": message,
            "source": {"component": "binding-controller"}, "firstTimestamp": now, "lastTimestamp": now, "count": 1,
        });
        match self.hand.create(event).await {
            Err(s) if !is_there(&s) => Err(s),
            _ => Ok(()),
        }
    }

    fn note(&self, at: &Key, digest: u64, generation: i64) {
        self.with_written(|all| all.insert(at.clone(), Written { digest, generation }));
    }

    /// Writes a Work; its generation then. `None` where there can be none now: its next change brings it back here.
    async fn write(&self, at: &Key, parts: &Parts<'_>, manifest: Value) -> Result<Option<i64>, Status> {
        let id = WORKS.id(at);
        for _ in 0..2 {
            if self.hand.get(&id)?.is_none() {
                match self.hand.create(parts.new_work(manifest.clone())).await {
                    Ok(work) => return Ok(Some(generation(&work))),
                    Err(s) if is_there(&s) => {}
                    // Its room may not be there yet, or go: it is tried again.
                    Err(s) => return Err(s),
                }
            }
            let changed = self.hand.modify(&id, |work| {
                if !is_leaving(work) {
                    parts.bring(work, manifest.clone());
                }
            });
            if let Some(work) = changed.await? {
                return Ok((!is_leaving(&work)).then(|| generation(&work)));
            }
        }
        Err(Status::internal("the Work comes and goes"))
    }

    /// The Works of a binding that are for no cluster of these go.
    async fn leave(&self, at: &Key, keep: impl Fn(&str) -> bool + Send) -> Result<usize, Status> {
        let works = self.shared.picture().works_of(at);
        let mut left = 0;
        let mut going = Vec::new();
        for (key, work) in works {
            if keep(&work.cluster) {
                continue;
            }
            left += 1;
            self.with_written(|all| all.remove(&key));
            if !work.leaving {
                going.push(key);
            }
        }
        let gone = stream::iter(going).map(|key| async move { self.hand.delete(&WORKS.id(&key)).await });
        let results: Vec<_> = gone.buffer_unordered(AT_A_TIME).collect().await;
        results.into_iter().collect::<Result<Vec<()>, Status>>()?;
        Ok(left)
    }

    /// A binding that goes waits for its Works, and they for their gateways.
    async fn end(&self, at: &Key, binding: &Value) -> Result<(), Status> {
        if self.leave(at, |_| false).await? == 0 && has_finalizer(binding, FINALIZER) {
            let id = at.binding().id(at);
            self.hand.modify(&id, |b| remove_finalizer(b, FINALIZER)).await?;
        }
        Ok(())
    }

    /// The overrides that may be about a template, with their names.
    fn overrides(&self, namespace: &str) -> Vec<(Key, Arc<OverrideSpec>)> {
        let picture = self.shared.picture();
        let near = |key: &&Key| key.namespace.is_empty() || *key.namespace == *namespace;
        let all = picture.overrides.iter();
        all.filter(|(key, _)| near(key))
            .map(|(key, spec)| (key.clone(), Arc::clone(spec)))
            .collect()
    }
}

/// What makes an object another one, if a manifest has it otherwise than its template.
fn differs_in(template: &Value, manifest: &Value) -> Option<&'static str> {
    let fields = ["/apiVersion", "/kind", "/metadata/name", "/metadata/namespace"];
    fields
        .into_iter()
        .find(|field| template.pointer(field) != manifest.pointer(field))
}

impl Controller for Works {
    type Key = (Key, Part);
    const NAME: &'static str = "works";

    fn desk(&self) -> &Desk<(Key, Part)> {
        &self.shared.desks.works
    }

    async fn look(&self, (at, part): &(Key, Part)) -> Looked {
        let only = match part {
            Part::All => None,
            Part::Of(cluster) => Some(cluster),
            Part::Check(_, work) if self.is_ours(work) => return Ok(None),
            Part::Check(cluster, _) => Some(cluster),
        };
        let Some(binding) = self.hand.get(&at.binding().id(at))? else {
            self.leave(at, |_| false).await?;
            return Ok(None);
        };
        if is_leaving(&binding) {
            self.end(at, &binding).await?;
            return Ok(None);
        }
        let targets = targets(&binding);
        self.leave(at, |cluster| targets.contains_key(cluster)).await?;
        let Some(bound) = self.shared.picture().bindings.get(at).cloned() else {
            return Ok(None);
        };
        let template = self.hand.get(&id_of(&bound.template))?;
        let uid = text(&binding, "/spec/resource/uid");
        // A template that is gone takes its binding along; another of its name has one of its own.
        let Some(template) = template.filter(|t| uid.is_empty() || text(t, "/metadata/uid") == uid) else {
            return Ok(None);
        };
        let mut base = template.clone();
        federation::interpret::prune(&mut base);
        let common = Common {
            at,
            name: work_name(&bound.template.namespace, &bound.template.name, &bound.kind),
            shares: Shares::of(&binding, &template, &targets),
            overrides: self.overrides(&bound.template.namespace),
            binding: &binding,
            template: &template,
            base,
        };
        let there: Vec<(TargetCluster, Arc<Cluster>)> = {
            let picture = self.shared.picture();
            let wanted = |name: &String| only.is_none_or(|only| **only == **name);
            let there = targets.into_iter().filter(|(name, _)| wanted(name));
            let there = there.filter_map(|(name, target)| {
                let cluster = picture.clusters.get(name.as_str())?;
                (!cluster.leaving && cluster.taken_in).then(|| (target, Arc::clone(cluster)))
            });
            there.collect()
        };
        let common = &common;
        let written = stream::iter(there)
            .map(|(target, cluster)| async move { self.work(common, &target, &cluster).await })
            .buffer_unordered(AT_A_TIME)
            .collect::<Vec<_>>()
            .await;
        // One that cannot be written keeps none of the others from theirs.
        written.into_iter().collect::<Result<Vec<()>, Status>>()?;
        Ok(None)
    }
}
