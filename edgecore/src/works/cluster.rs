//! What this gateway is as a Karmada Cluster: which version and which kinds its API serves, and what of its machine is taken. The entry
//! `cluster.karmada.io/clusters//<node>` of the observed set.
//!
//! Kept in the store, so that a session that begins before the API is up says what the last one said.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use daemon::drain::Drain;
use metastore::api::{ApiServer, MASTERS, User, quantity_nanos};
use metastore::store::{ListOptions, ObjectKey, Scope, Store, StoreError, Tx, WatchError};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::kinds::{self, Kinds};
use super::member::USER;
use crate::objects;

/// The report as it is now, and whether it changed.
pub(crate) type Report = watch::Receiver<Option<Bytes>>;

/// The bucket of the report, and its key.
const BUCKET: &str = "cluster";
const KEY: &[u8] = b"report";
/// How long what changes waits, so that the API serves what a definition brought, and pods come together.
const SETTLES: Duration = Duration::from_millis(300);
/// How long a report holds at least: pods come and go in groups, and what is said of them decides what comes next.
const HOLDS: Duration = Duration::from_secs(10);
/// Pods read at a time.
const PAGE: usize = 64;

/// The replica key of a gateway's report.
pub(crate) fn cluster_key(node: &str) -> ObjectKey {
    ObjectKey::new("cluster.karmada.io", "clusters", "", node)
}

/// Writes the report.
#[derive(Debug)]
pub(crate) struct Reporter {
    node: String,
    store: Store,
    report: watch::Sender<Option<Bytes>>,
    /// How long a report holds at least.
    pub(super) holds: Duration,
}

impl Reporter {
    /// Of gateway `node`; says at first what was said last.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn open(store: Store, node: &str) -> Result<(Self, Report), StoreError> {
        let (report, reports) = watch::channel(store.kv_get(BUCKET, KEY)?);
        let node = node.to_owned();
        let reporter = Self {
            node,
            store,
            report,
            holds: HOLDS,
        };
        Ok((reporter, reports))
    }

    /// Follows the API's kinds, the Node and the pods until the drain begins.
    pub(crate) async fn run(self, api: ApiServer, drain: Drain) {
        tokio::select! {
            biased;
            () = drain.stopping() => {}
            () = self.follow(api) => {}
        }
    }

    async fn follow(&self, api: ApiServer) {
        let user = User::new(USER, [MASTERS]);
        let version = kinds::version(&api, &user).await.unwrap_or_default();
        loop {
            let revision = self.store.revision();
            let watches = (
                self.store.watch(
                    Scope::all("apiextensions.k8s.io", "customresourcedefinitions"),
                    revision,
                ),
                self.store.watch(objects::node_scope(), revision),
                self.store.watch(Scope::all("", "pods"), revision),
            );
            let (Ok(mut definitions), Ok(mut nodes), Ok(mut pods)) = watches else {
                return;
            };
            // The machine is looked at while the API starts; what it has is said with the rest, or later if it takes long.
            let known = async { while !self.knows_machine() && nodes.next().await.is_ok() {} };
            drop(tokio::time::timeout(self.holds, known).await);
            let mut enablements = String::new();
            let mut defined = true;
            loop {
                if std::mem::take(&mut defined)
                    && let Some(kinds) = Kinds::read(&api, &user).await
                {
                    enablements = kinds.enablements().to_string();
                }
                if let Err(error) = self.write(&version, &enablements).await {
                    tracing::warn!(%error, "What this gateway is as a cluster cannot be told.");
                }
                tokio::time::sleep(self.holds).await;
                let changed = tokio::select! {
                    changed = definitions.next() => changed.map(|_| defined = true),
                    changed = nodes.next() => changed.map(drop),
                    changed = pods.next() => changed.map(drop),
                };
                match changed {
                    Ok(()) => {}
                    // It fell behind: begin anew.
                    Err(WatchError::Gone(_)) => break,
                    Err(_) => return,
                }
                tokio::time::sleep(SETTLES).await;
                while definitions.try_next().is_some() {
                    defined = true;
                }
                while nodes.try_next().is_some() || pods.try_next().is_some() {}
            }
        }
    }

    /// Writes the report, if it says something new.
    async fn write(&self, version: &str, enablements: &str) -> Result<(), String> {
        if enablements.is_empty() {
            return Ok(());
        }
        let summary = self.summary().map_err(|e| e.to_string())?;
        // Canonical JSON: the fields in their order.
        let text = format!(
            r#"{{"apiEnablements":{enablements},"kubernetesVersion":{},"nodeSummary":{},"resourceSummary":{}}}"#,
            Value::from(version),
            summary.nodes,
            summary.resources,
        );
        let report = Bytes::from(text);
        if self.report.borrow().as_ref() == Some(&report) {
            return Ok(());
        }
        let kept = self.store.commit(Tx::new().kv_put(BUCKET, KEY, report.to_vec())).await;
        self.report.send_replace(Some(report));
        kept.map(drop).map_err(|e| e.to_string())
    }

    fn knows_machine(&self) -> bool {
        let node = self.store.get(&objects::node_key(&self.node));
        let node = node.ok().flatten().and_then(|node| node.value().ok());
        node.is_some_and(|node| node.pointer("/status/allocatable").is_some())
    }

    fn summary(&self) -> Result<Summary, StoreError> {
        let node = self.store.get(&objects::node_key(&self.node))?;
        let node = node.and_then(|node| node.value().ok()).unwrap_or_default();
        let mut allocatable = node.pointer("/status/allocatable").cloned().unwrap_or_default();
        if !allocatable.is_object() {
            allocatable = Value::Object(Map::new());
        }
        let (mut allocated, mut allocating) = (Sum::default(), Sum::default());
        let mut after = None;
        loop {
            let options = ListOptions {
                limit: Some(PAGE),
                after,
                at: None,
            };
            let listed = self.store.list(&Scope::all("", "pods"), options)?;
            for pod in listed.items.iter().filter_map(|object| object.value().ok()) {
                if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
                    continue;
                }
                match pod["spec"]["nodeName"].as_str().unwrap_or_default() {
                    "" => allocating.add(&pod),
                    node if node == self.node => allocated.add(&pod),
                    _ => {}
                }
            }
            after = listed.items.last().map(|object| object.key.clone());
            if !listed.more {
                break;
            }
        }
        let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
        let is_ready = |c: &Value| c["type"] == "Ready" && c["status"] == "True";
        let ready = u8::from(conditions.is_some_and(|all| all.iter().any(is_ready)));
        Ok(Summary {
            nodes: json!({"readyNum": ready, "totalNum": 1}),
            resources: json!({
                "allocatable": allocatable, "allocated": allocated.told(), "allocating": allocating.told(),
            }),
        })
    }
}

/// What there is of a machine, and of it what is taken.
struct Summary {
    nodes: Value,
    resources: Value,
}

/// What pods ask for together, in billionths.
#[derive(Default)]
struct Sum(BTreeMap<String, i128>);

type Requests = BTreeMap<String, i128>;

impl Sum {
    fn add(&mut self, pod: &Value) {
        for (resource, amount) in requests(pod) {
            let sum = self.0.entry(resource).or_default();
            *sum = sum.saturating_add(amount);
        }
        *self.0.entry("pods".to_owned()).or_default() += NANOS;
    }

    fn told(self) -> Value {
        self.0
            .into_iter()
            .map(|(resource, amount)| (resource, quantity(amount).into()))
            .collect::<Map<_, _>>()
            .into()
    }
}

const NANOS: i128 = 1_000_000_000;

/// What a scheduler counts of a pod: its containers together, or the most that its beginning takes, and what it takes beside them.
fn requests(pod: &Value) -> Requests {
    let list = |field: &str| pod["spec"][field].as_array().into_iter().flatten();
    let mut running = Requests::new();
    for container in list("containers") {
        plus(&mut running, &container["resources"]["requests"]);
    }
    // Those that stay are there while later ones begin, and beside the containers.
    let (mut staying, mut most) = (Requests::new(), Requests::new());
    for container in list("initContainers") {
        let mut now = staying.clone();
        plus(&mut now, &container["resources"]["requests"]);
        if container["restartPolicy"] == "Always" {
            staying.clone_from(&now);
        }
        raise(&mut most, now);
    }
    for (resource, amount) in staying {
        let sum = running.entry(resource).or_default();
        *sum = sum.saturating_add(amount);
    }
    raise(&mut running, most);
    plus(&mut running, &pod["spec"]["overhead"]);
    running
}

fn plus(sum: &mut Requests, requests: &Value) {
    for (resource, amount) in requests.as_object().into_iter().flatten() {
        let amount = quantity_nanos(amount).filter(|amount| *amount > 0).unwrap_or(0);
        let sum = sum.entry(resource.clone()).or_default();
        *sum = sum.saturating_add(amount);
    }
}

fn raise(sum: &mut Requests, to: Requests) {
    for (resource, amount) in to {
        let sum = sum.entry(resource).or_default();
        *sum = amount.max(*sum);
    }
}

/// A quantity: whole, or in thousandths, rounded up.
fn quantity(nanos: i128) -> String {
    if nanos % NANOS == 0 {
        return (nanos / NANOS).to_string();
    }
    let milli = NANOS / 1000;
    format!("{}m", nanos / milli + i128::from(nanos % milli > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_take_what_a_scheduler_counts() {
        let ask = |cpu: &str, memory: &str| json!({"resources": {"requests": {"cpu": cpu, "memory": memory}}});
        let mut sidecar = ask("50m", "16Mi");
        sidecar["restartPolicy"] = json!("Always");
        let pod = json!({"spec": {
            "initContainers": [sidecar, ask("1", "8Mi")],
            "containers": [ask("100m", "64Mi"), ask("0.2", "1e6"), {"resources": 7}],
            "overhead": {"cpu": "1m"},
        }});
        let mut sum = Sum::default();
        sum.add(&pod);
        assert_eq!(
            sum.told(),
            json!({"cpu": "1051m", "memory": (80 * 1024 * 1024 + 1_000_000).to_string(), "pods": "1"})
        );
        for odd in [
            json!(null),
            json!({"spec": {"containers": 7}}),
            json!({"spec": {"overhead": {"cpu": "-1e400"}}}),
        ] {
            Sum::default().add(&odd);
        }
        assert_eq!(quantity(1), "1m");
    }
}
