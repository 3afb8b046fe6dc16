//! Where the pods of a Service are reached: its EndpointSlices, and the Endpoints of old.
//!
//! Owns the EndpointSlices that say so in their label `managed-by`, and the Endpoints of Services that have a selector. Services without one, and those
//! that are only another name, are others' business. What is wanted is worked out from the Service and its pods alone; what is there is changed as
//! little as it takes, so that who follows it hears little.

mod slices;
mod subsets;
#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::Arc;

use metastore::api::{DeleteOptions, Status};
use serde_json::{Map, Value, json};

use super::look::{condition, is_finished, is_terminating, is_true, label, list, name, namespace, pairs, text, uid};
use super::{Change, Controller, Reconciled};
use crate::cluster::{Cluster, ENDPOINT_SLICES, ENDPOINTS, Key, Kind, NODES, PODS, SERVICES};
use slices::{Plan, plan};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Whose Endpoints are ours.
pub(super) const ENDPOINTS_MANAGED_BY: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");
/// When the pods changed that made the change.
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

/// Keeps EndpointSlices and Endpoints of Services.
pub(crate) fn endpoints(cluster: Cluster) -> Arc<dyn Controller> {
    Arc::new(EndpointsController { cluster })
}

struct EndpointsController {
    cluster: Cluster,
}

impl Controller for EndpointsController {
    fn name(&self) -> &'static str {
        "endpoints"
    }

    fn kind(&self) -> Kind {
        SERVICES
    }

    fn follows(&self) -> &'static [Kind] {
        &[PODS, ENDPOINT_SLICES, ENDPOINTS]
    }

    fn concerned(&self, change: &Change, cluster: &Cluster) -> Vec<Key> {
        let object = change.object();
        if change.kind == ENDPOINTS {
            return vec![Key::of(object)];
        }
        if change.kind == ENDPOINT_SLICES {
            let service = label(object, SERVICE_NAME).filter(|_| label(object, MANAGED_BY) == Some(MANAGER));
            return service.map(|s| Key::new(namespace(object), s)).into_iter().collect();
        }
        let sides = [change.before.as_ref(), change.after.as_ref()];
        if sides[0].map(shown) == sides[1].map(shown) {
            return Vec::new();
        }
        let services = cluster.list(SERVICES, Some(namespace(object))).unwrap_or_default();
        let concerned = |service: &&Value| sides.iter().flatten().any(|pod| is_of(service, pod));
        services.iter().filter(concerned).map(Key::of).collect()
    }

    fn reconcile<'a>(&'a self, key: &'a Key) -> Pin<Box<dyn Future<Output = Reconciled> + Send + 'a>> {
        Box::pin(async move {
            self.look(key).await?;
            Ok(None)
        })
    }
}

/// What of a pod is seen through a Service.
fn shown(pod: &Value) -> [Option<&Value>; 8] {
    let ready = condition(pod, "Ready");
    [
        pod.pointer("/metadata/labels"),
        pod.pointer("/metadata/deletionTimestamp"),
        pod.pointer("/spec/nodeName"),
        pod.pointer("/spec/hostname"),
        pod.pointer("/spec/subdomain"),
        pod.pointer("/status/podIPs"),
        ready.and_then(|c| c.get("status")),
        pod.pointer("/status/phase").filter(|_| is_finished(pod)),
    ]
}

/// Whether a Service selects a pod.
fn is_of(service: &Value, pod: &Value) -> bool {
    let mut wanted = pairs(service, "/spec/selector").peekable();
    wanted.peek().is_some() && wanted.all(|(k, v)| label(pod, k) == v.as_str())
}

/// Whether a Service has no address of its own.
fn is_headless(service: &Value) -> bool {
    matches!(text(service, "/spec/clusterIP"), "" | "None")
}

/// A pod that a Service leads to.
#[derive(Clone, Debug)]
struct Member<'p> {
    pod: &'p Value,
    serving: bool,
    terminating: bool,
    /// By `spec.ports` of the Service: the number in this pod, none where it has no such port.
    ports: Vec<Option<i64>>,
}

/// The pods of a Service that have an address and have not ended, by name.
fn members<'p>(service: &Value, pods: &'p [Value]) -> Vec<Member<'p>> {
    let has_address = |p: &Value| !list(p, "/status/podIPs").is_empty() || !text(p, "/status/podIP").is_empty();
    pods.iter()
        .filter(|p| is_of(service, p) && !is_finished(p) && has_address(p))
        .map(|pod| Member {
            pod,
            serving: is_true(pod, "Ready"),
            terminating: is_terminating(pod),
            ports: list(service, "/spec/ports").iter().map(|p| port_in(pod, p)).collect(),
        })
        .collect()
}

/// Which port of a pod is meant by a port of a Service.
fn port_in(pod: &Value, port: &Value) -> Option<i64> {
    let wanted = match port.get("targetPort") {
        None | Some(Value::Null) => return port["port"].as_i64(),
        Some(Value::Number(number)) => return number.as_i64(),
        Some(other) => other.as_str()?,
    };
    let sidecars = list(pod, "/spec/initContainers")
        .iter()
        .filter(|c| text(c, "/restartPolicy") == "Always");
    list(pod, "/spec/containers")
        .iter()
        .chain(sidecars)
        .flat_map(|container| list(container, "/ports"))
        .find(|p| text(p, "/name") == wanted && protocol(p) == protocol(port))?["containerPort"]
        .as_i64()
}

fn protocol(port: &Value) -> &str {
    match text(port, "/protocol") {
        "" => "TCP",
        said => said,
    }
}

/// The pod as others name it.
fn reference(pod: &Value) -> Value {
    json!({"kind": "Pod", "namespace": namespace(pod), "name": name(pod), "uid": uid(pod)})
}

/// The name that a pod has within its Service.
fn hostname<'p>(service: &Value, pod: &'p Value) -> Option<&'p str> {
    let host = text(pod, "/spec/hostname");
    (!host.is_empty() && text(pod, "/spec/subdomain") == name(service)).then_some(host)
}

/// Its labels, for what is made for a Service, without those that say who made it.
fn service_labels(service: &Value) -> Map<String, Value> {
    let mut labels = Map::new();
    for (key, value) in pairs(service, "/metadata/labels") {
        if ![SERVICE_NAME, MANAGED_BY, HEADLESS].contains(&key.as_str()) {
            labels.insert(key.clone(), value.clone());
        }
    }
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), json!(""));
    }
    labels
}

/// When the first of these pods became what it is.
fn since<'p>(pods: impl Iterator<Item = &'p Value>) -> Option<String> {
    pods.filter_map(|pod| condition(pod, "Ready")?["lastTransitionTime"].as_str())
        .min()
        .map(str::to_owned)
}

/// Whether Endpoints have a pod, and if so whether as one that is ready.
fn has_ready(endpoints: &Value, pod: &Value) -> Option<bool> {
    let has = |field: &str| {
        let addresses = list(endpoints, "/subsets").iter().flat_map(|s| list(s, field));
        addresses.into_iter().any(|a| text(a, "/targetRef/uid") == uid(pod))
    };
    if has("/addresses") {
        return Some(true);
    }
    has("/notReadyAddresses").then_some(false)
}

impl EndpointsController {
    async fn look(&self, key: &Key) -> Result<(), Status> {
        let Some(service) = self.cluster.get(SERVICES, key)? else {
            // Slices are collected with their owner; Endpoints have none.
            let (label_key, manager) = ENDPOINTS_MANAGED_BY;
            if let Some(left) = self.cluster.get(ENDPOINTS, key)?
                && label(&left, label_key) == Some(manager)
            {
                self.cluster.delete(ENDPOINTS, key, &DeleteOptions::default()).await?;
            }
            return Ok(());
        };
        let is_name = text(&service, "/spec/type") == "ExternalName";
        if is_name || pairs(&service, "/spec/selector").next().is_none() || is_terminating(&service) {
            return Ok(());
        }
        let pods = self.cluster.list(PODS, Some(&key.namespace))?;
        let members = members(&service, &pods);
        self.keep_slices(&service, &members).await?;
        self.keep_endpoints(&service, &members).await
    }

    async fn keep_slices(&self, service: &Value, members: &[Member<'_>]) -> Result<(), Status> {
        let mut there = self.cluster.list(ENDPOINT_SLICES, Some(namespace(service)))?;
        there.retain(|s| label(s, SERVICE_NAME) == Some(name(service)) && label(s, MANAGED_BY) == Some(MANAGER));
        let zones = |node: &str| {
            let node = self.cluster.get(NODES, &Key::new("", node)).ok().flatten()?;
            label(&node, "topology.kubernetes.io/zone").map(str::to_owned)
        };
        let Plan { create, update, delete } = plan(service, members, &there, &zones);
        for slice in create {
            self.cluster.create(slice).await?;
        }
        for wanted in update {
            let slice = Key::of(&wanted);
            let changed = self.cluster.modify(ENDPOINT_SLICES, &slice, |slice| {
                for field in ["endpoints", "ports"] {
                    slice[field] = wanted[field].clone();
                }
                for field in ["labels", "annotations"] {
                    slice["metadata"][field] = wanted["metadata"][field].clone();
                }
                Ok(())
            });
            changed.await?;
        }
        for slice in delete {
            self.cluster
                .delete(ENDPOINT_SLICES, &slice, &DeleteOptions::default())
                .await?;
        }
        Ok(())
    }

    async fn keep_endpoints(&self, service: &Value, members: &[Member<'_>]) -> Result<(), Status> {
        let (subsets, cut) = subsets::subsets(service, members);
        let mut labels = service_labels(service);
        labels.insert(ENDPOINTS_MANAGED_BY.0.to_owned(), json!(ENDPOINTS_MANAGED_BY.1));
        let key = Key::of(service);
        let there = self.cluster.get(ENDPOINTS, &key)?;
        let mut annotations = Map::new();
        let always = service["spec"]["publishNotReadyAddresses"] == true;
        let nothing = Value::Null;
        let was = |pod: &Value| has_ready(there.as_ref().unwrap_or(&nothing), pod);
        let changed = members
            .iter()
            .filter(|m| (always || !m.terminating) && was(m.pod) != Some(always || m.serving));
        if let Some(at) = since(changed.map(|m| m.pod)) {
            annotations.insert(TRIGGER.to_owned(), json!(at));
        }
        if cut {
            annotations.insert(OVER_CAPACITY.to_owned(), json!("truncated"));
        }
        let Some(there) = there else {
            annotations
                .entry(TRIGGER.to_owned())
                .or_insert_with(|| service["metadata"]["creationTimestamp"].clone());
            let metadata =
                json!({"name": &*key.name, "namespace": &*key.namespace, "labels": labels, "annotations": annotations});
            let mut made = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata});
            if !subsets.is_empty() {
                made["subsets"] = subsets.into();
            }
            self.cluster.create(made).await?;
            return Ok(());
        };
        let same = list(&there, "/subsets") == subsets.as_slice()
            && there["metadata"]["labels"] == Value::Object(labels.clone());
        if same {
            return Ok(());
        }
        let changed = self.cluster.modify(ENDPOINTS, &key, |endpoints| {
            endpoints["metadata"]["labels"] = labels.clone().into();
            endpoints["metadata"]["annotations"] = annotations.clone().into();
            match endpoints.as_object_mut() {
                Some(all) if subsets.is_empty() => drop(all.remove("subsets")),
                _ => endpoints["subsets"] = subsets.clone().into(),
            }
            Ok(())
        });
        changed.await?;
        Ok(())
    }
}
