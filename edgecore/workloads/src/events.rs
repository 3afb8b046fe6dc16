//! Events (`core/v1`): what happened to an object, for `kubectl describe`. Told without waiting; the same again is counted on the Event that is there.
//!
//! What cannot be written because too much is told at once is dropped: an Event informs, it is no record.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use metastore::api::{DeleteOptions, Status};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::cluster::{Cluster, EVENTS, Key};

/// Events that wait to be written.
const WAITING: usize = 256;
/// How long an Event is kept after it was last true, in seconds.
const KEPT_SECONDS: i64 = 3600;
/// Most Events kept: about a megabyte of the store.
const MOST_KEPT: usize = 1000;
/// How often old ones are looked for.
const SWEPT_EVERY: Duration = Duration::from_secs(300);
/// Deletes that are handed to the store together.
const AT_ONCE: usize = 32;
/// Longest message; the API refuses longer ones.
const MAX_MESSAGE: usize = 1024;

/// Whether something went as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Normal,
    Warning,
}

/// What is told.
#[derive(Clone, Debug)]
struct Told {
    /// `involvedObject`.
    about: Value,
    tone: Tone,
    reason: Cow<'static, str>,
    message: String,
    at: u64,
}

/// Tells Events in the name of one component. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    told: mpsc::Sender<(Arc<str>, Told)>,
    component: Arc<str>,
}

impl Recorder {
    /// A recorder and the task that writes what it is told, until all recorders are gone.
    pub(crate) fn new(
        cluster: Cluster,
        node: Arc<str>,
        component: &str,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let (told, waiting) = mpsc::channel(WAITING);
        let recorder = Self {
            told,
            component: component.into(),
        };
        (recorder, write_all(cluster, node, waiting))
    }

    /// A recorder of which nothing is written.
    #[cfg(test)]
    pub(crate) fn kept() -> (Self, Kept) {
        let (told, waiting) = mpsc::channel(WAITING);
        let recorder = Self {
            told,
            component: "test".into(),
        };
        (recorder, Kept(waiting))
    }

    /// The same for another component.
    pub(crate) fn of(&self, component: &str) -> Self {
        Self {
            told: self.told.clone(),
            component: component.into(),
        }
    }

    /// Tells what happened to an object.
    pub(crate) fn tell(
        &self,
        object: &Value,
        tone: Tone,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) {
        self.tell_field(object, "", tone, reason, message);
    }

    /// Tells what happened to a part of an object, such as `spec.containers{app}`.
    pub(crate) fn tell_field(
        &self,
        object: &Value,
        field: &str,
        tone: Tone,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) {
        let mut message: String = message.into();
        if message.len() > MAX_MESSAGE {
            let end = (0..=MAX_MESSAGE).rev().find(|at| message.is_char_boundary(*at));
            message.truncate(end.unwrap_or(0));
        }
        let metadata = &object["metadata"];
        let mut about = json!({
            "apiVersion": object["apiVersion"],
            "kind": object["kind"],
            "name": metadata["name"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        });
        if metadata["namespace"].is_string() {
            about["namespace"] = metadata["namespace"].clone();
        }
        if !field.is_empty() {
            about["fieldPath"] = field.into();
        }
        let told = Told {
            about,
            tone,
            reason: reason.into(),
            message,
            at: daemon::clock::wall_ms(),
        };
        if self.told.try_send((Arc::clone(&self.component), told)).is_err() {
            tracing::debug!("An Event was dropped: too many wait.");
        }
    }
}

/// What a recorder was told.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Kept(mpsc::Receiver<(Arc<str>, Told)>);

#[cfg(test)]
impl Kept {
    /// What was told since the last time: `Warning FailedScheduling name: message`.
    pub(crate) fn take(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.0.try_recv().ok())
            .map(|(_, told)| {
                let name = told.about["name"].as_str().unwrap_or_default();
                format!("{:?} {} {name}: {}", told.tone, told.reason, told.message)
            })
            .collect()
    }
}

async fn write_all(cluster: Cluster, node: Arc<str>, mut waiting: mpsc::Receiver<(Arc<str>, Told)>) {
    let mut sweep = tokio::time::interval(SWEPT_EVERY);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            told = waiting.recv() => {
                let Some((component, told)) = told else { return };
                if let Err(e) = write(&cluster, &node, &component, &told).await {
                    tracing::debug!(error = %e, reason = %told.reason, "An Event cannot be written.");
                }
            }
            _ = sweep.tick() => {
                if let Err(e) = forget(&cluster, daemon::clock::wall_ms()).await {
                    tracing::warn!(error = %e, "Old Events cannot be deleted.");
                }
            }
        }
    }
}

/// Deletes Events that are older than they are kept, whoever wrote them, and the oldest of too many.
async fn forget(cluster: &Cluster, now: u64) -> Result<(), Status> {
    let mut events: Vec<(i64, Key)> = cluster
        .list(EVENTS, None)?
        .iter()
        .map(|event| (last_seen(event), Key::of(event)))
        .collect();
    events.sort_unstable();
    let oldest = i64::try_from(now / 1000).unwrap_or(i64::MAX) - KEPT_SECONDS;
    let over = events.len().saturating_sub(MOST_KEPT);
    let gone = events.partition_point(|(at, _)| *at <= oldest).max(over);
    for some in events[..gone].chunks(AT_ONCE) {
        let options = DeleteOptions::default();
        let deleted = some.iter().map(|(_, key)| cluster.delete(EVENTS, key, &options));
        for deleted in join_all(deleted).await {
            deleted?;
        }
    }
    Ok(())
}

/// Seconds since 1970 when an Event was last true.
fn last_seen(event: &Value) -> i64 {
    let at = |pointer: &str| event.pointer(pointer)?.as_str()?.parse::<Timestamp>().ok();
    [
        "/series/lastObservedTime",
        "/lastTimestamp",
        "/eventTime",
        "/firstTimestamp",
        "/metadata/creationTimestamp",
    ]
    .into_iter()
    .find_map(at)
    .map_or(0, Timestamp::as_second)
}

async fn write(cluster: &Cluster, node: &str, component: &str, told: &Told) -> Result<(), Status> {
    let about = &told.about;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let at = crate::time::stamp(told.at);
    let tone = match told.tone {
        Tone::Normal => "Normal",
        Tone::Warning => "Warning",
    };
    // The same thing about the same object has the same name, so that it is found without a list.
    let same = [
        text(&about["uid"]),
        text(&about["fieldPath"]),
        tone.to_owned(),
        told.reason.clone().into_owned(),
        component.to_owned(),
        told.message.clone(),
    ];
    let namespace = about["namespace"].as_str().unwrap_or("default");
    let name = format!("{}.{:016x}", text(&about["name"]), crate::time::fingerprint(&same));
    let key = Key::new(namespace, name.as_str());
    let again = cluster.modify(EVENTS, &key, |event| {
        event["count"] = (event["count"].as_i64().unwrap_or(0) + 1).into();
        event["lastTimestamp"] = at.clone().into();
        Ok(())
    });
    match again.await {
        Err(e) if e.code == 404 => {}
        other => return other.map(drop),
    }
    let event = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": about,
        "type": tone,
        "reason": &*told.reason,
        "message": told.message,
        "source": {"component": component, "host": node},
        "reportingComponent": component,
        "reportingInstance": node,
        "count": 1,
        "firstTimestamp": at,
        "lastTimestamp": at,
    });
    cluster.create(event).await.map(drop)
}

#[cfg(test)]
mod tests {
    use metastore::api::ApiServer;
    use metastore::store::{Store, StoreOptions};

    use super::*;

    async fn cluster() -> (Cluster, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(StoreOptions::new(folder.path().join("api.db"))).unwrap();
        let api = ApiServer::builder(store).build().await.unwrap();
        (Cluster::new(api, "test"), folder)
    }

    fn event(name: &str, at: u64) -> Value {
        json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": "default"},
            "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}, "reason": "R", "type": "Normal",
            "lastTimestamp": crate::time::stamp(at * 1000)})
    }

    #[tokio::test]
    async fn events_are_kept_for_an_hour_and_not_too_many() {
        const NOW: u64 = 1_795_262_400;
        let (cluster, _folder) = cluster().await;
        for (name, ago) in [("old", 3600), ("young", 3599)] {
            cluster.create(event(name, NOW - ago)).await.unwrap();
        }
        forget(&cluster, NOW * 1000).await.unwrap();
        let names = || -> Vec<String> {
            let all = cluster.list(EVENTS, None).unwrap();
            all.iter().map(|e| Key::of(e).name.to_string()).collect()
        };
        assert_eq!(names(), ["young"]);
        let many = (0..MOST_KEPT + 1).map(|i| cluster.create(event(&format!("e-{i:04}"), NOW)));
        for made in join_all(many).await {
            made.unwrap();
        }
        forget(&cluster, NOW * 1000).await.unwrap();
        let names = names();
        assert_eq!(names.len(), MOST_KEPT);
        assert_eq!(
            (names[0].as_str(), names.contains(&"young".to_owned())),
            ("e-0001", false)
        );
    }

    #[tokio::test]
    async fn the_same_again_is_counted() {
        let (cluster, _folder) = cluster().await;
        let (recorder, writer) = Recorder::new(cluster.clone(), "press-01".into(), "test");
        let pod =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default", "uid": "u"}});
        for message in ["a", "a", "b"] {
            recorder.tell(&pod, Tone::Warning, "Failed", message);
        }
        drop(recorder);
        writer.await;
        let events = cluster.list(EVENTS, None).unwrap();
        let mut counts: Vec<(&str, i64)> = events
            .iter()
            .map(|e| (e["message"].as_str().unwrap(), e["count"].as_i64().unwrap()))
            .collect();
        counts.sort_unstable();
        assert_eq!(counts, [("a", 2), ("b", 1)]);
    }
}
