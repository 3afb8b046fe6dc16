//! FederatedDeployment: one Deployment for several clusters, each with its own number of replicas.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::kinds::{APPS_API_VERSION, POLICY_API_VERSION};

/// Why a FederatedDeployment is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FederatedError {
    /// A field is missing, or something else than it should be.
    #[error("{path} must be {expected}")]
    Field {
        /// The field.
        path: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A cluster is named twice.
    #[error("spec.placement.clusters names {0} twice; give it one entry with all its replicas")]
    Twice(String),
    /// More replicas than an object can want.
    #[error("the replicas of spec.placement.clusters are more than {} in all", i32::MAX)]
    TooMany,
}

/// The Deployment and the PropagationPolicy that a FederatedDeployment stands for. Both have its name and namespace, and are owned by it
/// where it has a uid. A cluster that says no number gets that of the template.
///
/// # Errors
/// What it lacks. One that names no clusters is none: a policy without names would mean all clusters.
pub fn from_federated(federated: &Value) -> Result<(Value, Value), FederatedError> {
    let wrong = |path: &str, expected| FederatedError::Field {
        path: path.to_owned(),
        expected,
    };
    let metadata = &federated["metadata"];
    let name = metadata["name"]
        .as_str()
        .filter(|name| !name.is_empty())
        .ok_or_else(|| wrong("metadata.name", "a name"))?;
    let namespace = metadata["namespace"]
        .as_str()
        .filter(|name| !name.is_empty())
        .unwrap_or("default");
    let template = &federated["spec"]["template"];
    let mut spec = template["spec"]
        .as_object()
        .cloned()
        .ok_or_else(|| wrong("spec.template.spec", "the spec of a Deployment"))?;
    let usual = count(spec.get("replicas"), 1).ok_or_else(|| wrong("spec.template.spec.replicas", NUMBER))?;
    let shares = shares(&federated["spec"]["placement"]["clusters"], usual)?;
    let total: i64 = shares.iter().map(|(_, replicas)| replicas).sum();
    if total > i64::from(i32::MAX) {
        return Err(FederatedError::TooMany);
    }
    spec.insert("replicas".to_owned(), json!(total));

    let mut owned = Map::new();
    owned.insert("name".to_owned(), json!(name));
    owned.insert("namespace".to_owned(), json!(namespace));
    if let Some(uid) = metadata["uid"].as_str().filter(|uid| !uid.is_empty()) {
        let owner = json!({
            "apiVersion": federated["apiVersion"].as_str().unwrap_or(APPS_API_VERSION),
            "kind": "FederatedDeployment",
            "name": name,
            "uid": uid,
            "controller": true,
            "blockOwnerDeletion": true,
        });
        owned.insert("ownerReferences".to_owned(), json!([owner]));
    }
    let mut described = owned.clone();
    for field in ["labels", "annotations"] {
        if let Some(map) = template["metadata"][field].as_object() {
            // Copied from an object that was propagated, they would say whose it is against what is so.
            let own = |key: &str| {
                let domain = key.split('/').next().unwrap_or_default();
                domain == "karmada.io" || domain.ends_with(".karmada.io")
            };
            let map: Map<String, Value> = map
                .iter()
                .filter(|(k, _)| !own(k))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect();
            described.insert(field.to_owned(), map.into());
        }
    }
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": described, "spec": spec});
    let policy = json!({
        "apiVersion": POLICY_API_VERSION,
        "kind": "PropagationPolicy",
        "metadata": owned,
        "spec": {
            "resourceSelectors": [
                {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": namespace, "name": name},
            ],
            "propagateDeps": true,
            "placement": placement(&shares),
        },
    });
    Ok((deployment, policy))
}

const NUMBER: &str = "a number of replicas, 0 or more";

/// The clusters with their replicas, in the order in which they stand there.
fn shares(clusters: &Value, usual: i64) -> Result<Vec<(&str, i64)>, FederatedError> {
    let wrong = |path: String, expected| FederatedError::Field { path, expected };
    let clusters = clusters
        .as_array()
        .filter(|list| !list.is_empty())
        .ok_or_else(|| wrong("spec.placement.clusters".to_owned(), "a list of at least one cluster"))?;
    let mut seen = BTreeSet::new();
    let mut shares = Vec::new();
    for (index, cluster) in clusters.iter().enumerate() {
        let at = |field: &str| format!("spec.placement.clusters[{index}].{field}");
        let name = cluster["name"]
            .as_str()
            .filter(|name| !name.is_empty())
            .ok_or_else(|| wrong(at("name"), "the name of a cluster"))?;
        let replicas = count(cluster.get("replicas"), usual).ok_or_else(|| wrong(at("replicas"), NUMBER))?;
        if !seen.insert(name) {
            return Err(FederatedError::Twice(name.to_owned()));
        }
        shares.push((name, replicas));
    }
    Ok(shares)
}

/// A number of replicas, which is never so large that a sum of them would overflow.
fn count(value: Option<&Value>, absent: i64) -> Option<i64> {
    match value {
        None | Some(Value::Null) => Some(absent),
        Some(value) => value.as_i64().filter(|n| (0..=i64::from(i32::MAX)).contains(n)),
    }
}

/// Weights are the replicas: the total divides into just those. A weight of 0 is not allowed, and none at all means the same.
fn placement(shares: &[(&str, i64)]) -> Value {
    let names: Vec<&str> = shares.iter().map(|(name, _)| *name).collect();
    let weights: Vec<Value> = shares
        .iter()
        .filter(|(_, replicas)| *replicas > 0)
        .map(|(name, replicas)| json!({"targetCluster": {"clusterNames": [name]}, "weight": replicas}))
        .collect();
    let mut scheduling = json!({"replicaSchedulingType": "Divided", "replicaDivisionPreference": "Weighted"});
    if let (Some(scheduling), false) = (scheduling.as_object_mut(), weights.is_empty()) {
        scheduling.insert("weightPreference".to_owned(), json!({"staticWeightList": weights}));
    }
    json!({"clusterAffinity": {"clusterNames": names}, "replicaScheduling": scheduling})
}
