//! Whether a control plane is a Karmada that a hub can work with: asked through its API, changing nothing.

use daemon::exit::{BAD_CONFIG, FAILED, Failure, UNREACHABLE};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::told;
use crate::client::{Api, Refusal};

/// Groups with their version and what of them must be served.
const SERVED: [(&str, &[&str]); 4] = [
    ("cluster.karmada.io/v1alpha1", &["clusters", "clusters/status"]),
    ("work.karmada.io/v1alpha1", &["works", "works/status"]),
    (
        "work.karmada.io/v1alpha2",
        &["resourcebindings", "clusterresourcebindings"],
    ),
    (
        "policy.karmada.io/v1alpha1",
        &[
            "propagationpolicies",
            "clusterpropagationpolicies",
            "overridepolicies",
            "clusteroverridepolicies",
        ],
    ),
];
/// Which server answers for the kind Cluster.
const CLUSTER_API: &str = "/apis/apiregistration.k8s.io/v1/apiservices/v1alpha1.cluster.karmada.io";
/// From here on the defaults of Karmada's controllers begin to hurt.
const MANY: u64 = 300;

/// Looks, and tells what it finds.
///
/// # Errors
/// What a hub cannot work without, and what to do about it.
pub(super) async fn look(api: &Api) -> Result<(), Failure> {
    let version = api.get("/version").await?;
    let version = version["gitVersion"].as_str().unwrap_or("of no version");
    told("ok", &format!("{} answers: Kubernetes {version}", api.server()));
    match api.try_json(Method::GET, CLUSTER_API, None).await? {
        Ok(service) => told("ok", &aggregated(&service)?),
        Err(refusal) if refusal.status == StatusCode::NOT_FOUND => return Err(no_karmada()),
        Err(refusal) => return Err(refusal.into()),
    }
    for (version, wanted) in SERVED {
        let list = match api.try_json(Method::GET, &format!("/apis/{version}"), None).await? {
            Ok(list) => list,
            Err(refusal) if refusal.status == StatusCode::NOT_FOUND => Value::Null,
            Err(refusal) => return Err(refusal.into()),
        };
        let missing = missing(&list, wanted);
        if !missing.is_empty() {
            return Err(
                Failure::new(FAILED, format!("{version} is served without {}", missing.join(", ")))
                    .hint("apply the CustomResourceDefinitions that come with this Karmada's version"),
            );
        }
        told("ok", &format!("{version} has {}", wanted.join(", ")));
    }
    for (path, object, label) in probes() {
        let path = format!("{path}?dryRun=All");
        let answer = api.try_json(Method::POST, &path, Some(&object)).await?;
        match webhook(answer, label)? {
            Ok(found) => told("ok", &format!("{found} ({})", text(&object["kind"]))),
            Err((found, fix)) => warn(&format!("{found} ({})", text(&object["kind"])), fix),
        }
    }
    let list = api.get("/apis/cluster.karmada.io/v1alpha1/clusters?limit=1").await?;
    let count = count(&list);
    told("ok", &format!("clusters registered: {count}"));
    if count > MANY {
        warn(
            "with so many, Karmada's defaults get slow",
            "karmada-controller-manager: --controllers=*,-namespace (else every namespace goes to every cluster, again at each new one), \
             --cluster-monitor-grace-period=300s (and leaseEvery: 60s in the hub's upstream), --kube-api-qps and --kube-api-burst of some hundreds",
        );
    }
    Ok(())
}

fn warn(found: &str, fix: &str) {
    told("warn", found);
    told("", &format!("fix: {fix}"));
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn no_karmada() -> Failure {
    Failure::new(
        BAD_CONFIG,
        "the kubeconfig's server is no Karmada: it does not have the kind Cluster",
    )
    .hint("name the kubeconfig of karmada-apiserver, not that of the cluster it runs in or of a member")
}

/// Whether another server answers for the kind Cluster, and can be reached.
fn aggregated(service: &Value) -> Result<String, Failure> {
    let at = &service["spec"]["service"];
    if !at.is_object() {
        return Err(Failure::new(
            BAD_CONFIG,
            "cluster.karmada.io is served, but not by karmada-aggregated-apiserver",
        )
        .hint("is this a hub's own API? a hub joins a Karmada that stands above it"));
    }
    let conditions = service["status"]["conditions"].as_array().into_iter().flatten();
    let available = conditions.into_iter().find(|c| c["type"] == "Available");
    match available {
        Some(condition) if condition["status"] == "True" => Ok(format!(
            "cluster.karmada.io/v1alpha1 is served through {}/{}",
            text(&at["namespace"]),
            text(&at["name"])
        )),
        condition => {
            let why = condition.map_or("not looked at yet", |c| text(&c["message"]));
            Err(
                Failure::new(UNREACHABLE, format!("karmada-aggregated-apiserver is not available: {why}"))
                    .hint("is it running, and does karmada-apiserver reach it? kubectl describe apiservice v1alpha1.cluster.karmada.io"),
            )
        }
    }
}

/// What a group version does not serve of what is needed.
fn missing<'a>(list: &Value, wanted: &[&'a str]) -> Vec<&'a str> {
    let served = |name: &str| {
        let all = list["resources"].as_array().into_iter().flatten();
        all.into_iter().any(|resource| resource["name"] == name)
    };
    wanted.iter().copied().filter(|name| !served(name)).collect()
}

/// Objects whose creation Karmada's webhooks have a say in, and the label each of them gets.
fn probes() -> [(&'static str, Value, &'static str); 2] {
    let name = format!("kurator-probe-{:08x}", fastrand::u32(..));
    let metadata = json!({"name": name, "namespace": "default"});
    let nothing = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata});
    [
        (
            "/apis/work.karmada.io/v1alpha1/namespaces/default/works",
            json!({"apiVersion": "work.karmada.io/v1alpha1", "kind": "Work", "metadata": metadata,
                "spec": {"workload": {"manifests": [nothing]}}}),
            federation::names::WORK_ID,
        ),
        (
            "/apis/policy.karmada.io/v1alpha1/namespaces/default/propagationpolicies",
            json!({"apiVersion": "policy.karmada.io/v1alpha1", "kind": "PropagationPolicy", "metadata": metadata,
                "spec": {"resourceSelectors": [{"apiVersion": "v1", "kind": "ConfigMap", "name": name}]}}),
            federation::names::POLICY_ID,
        ),
    ]
}

/// What a creation that was only judged says of the webhooks: well, or what is not, with what to do.
fn webhook(
    answer: Result<Value, Refusal>,
    label: &str,
) -> Result<Result<&'static str, (String, &'static str)>, Failure> {
    match answer {
        Ok(object) if object["metadata"]["labels"][label].is_string() => Ok(Ok("the webhooks answer")),
        Ok(_) => Ok(Err((
            "no webhook looked at an object that was to be created".to_owned(),
            "apply Karmada's webhook configurations: without them Works do not get their ids",
        ))),
        Err(refusal) if refusal.message.contains("denied the request") => Ok(Err((
            refusal.message,
            "the webhooks answer; somebody's policy refused the probe",
        ))),
        Err(refusal) if refusal.message.contains("failed calling webhook") => {
            Err(Failure::new(FAILED, refusal.message).hint(
                "is karmada-webhook running, and does karmada-apiserver reach it? nothing can be changed without it",
            ))
        }
        Err(refusal) => Err(refusal.into()),
    }
}

/// How many there are, from the first page of them.
fn count(list: &Value) -> u64 {
    let here = list["items"].as_array().map_or(0, |items| items.len() as u64);
    here.saturating_add(list["metadata"]["remainingItemCount"].as_u64().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use daemon::exit::NOT_ALLOWED;

    fn service(available: &str) -> Value {
        json!({"spec": {"service": {"namespace": "karmada-system", "name": "karmada-aggregated-apiserver"}},
            "status": {"conditions": [{"type": "Available", "status": available, "message": "m"}]}})
    }

    #[test]
    fn the_kind_cluster_must_be_karmadas() {
        assert!(aggregated(&service("True")).unwrap().contains("karmada-system/"));
        assert_eq!(aggregated(&service("False")).unwrap_err().code, UNREACHABLE);
        let local = json!({"spec": {}, "status": {"conditions": [{"type": "Available", "status": "True"}]}});
        assert_eq!(aggregated(&local).unwrap_err().code, BAD_CONFIG);
        assert_eq!(
            aggregated(&json!({"spec": {"service": {}}})).unwrap_err().code,
            UNREACHABLE
        );
    }

    #[test]
    fn what_is_not_served_is_named() {
        let list = json!({"resources": [{"name": "works"}, {"name": 7}]});
        assert_eq!(missing(&list, &["works", "works/status"]), ["works/status"]);
        assert_eq!(missing(&Value::Null, &["works"]), ["works"]);
    }

    #[test]
    fn webhooks_are_told_by_what_they_leave() {
        let refused = |status, message: &str| {
            webhook(
                Err(Refusal {
                    status,
                    reason: String::new(),
                    message: message.to_owned(),
                }),
                "l",
            )
        };
        let labelled = json!({"metadata": {"labels": {"l": "1"}}});
        assert!(webhook(Ok(labelled), "l").unwrap().is_ok());
        assert!(webhook(Ok(json!({"metadata": 1})), "l").unwrap().is_err());
        let denied = "admission webhook \"x\" denied the request: no";
        assert!(refused(StatusCode::FORBIDDEN, denied).unwrap().is_err());
        let down = "Internal error occurred: failed calling webhook \"work.karmada.io\": connection refused";
        assert_eq!(
            refused(StatusCode::INTERNAL_SERVER_ERROR, down).unwrap_err().code,
            FAILED
        );
        assert_eq!(
            refused(StatusCode::FORBIDDEN, "works is forbidden").unwrap_err().code,
            NOT_ALLOWED
        );
    }

    #[test]
    fn clusters_are_counted_from_one_page() {
        assert_eq!(
            count(&json!({"items": [{}], "metadata": {"remainingItemCount": 999}})),
            1000
        );
        assert_eq!(count(&json!({"items": []})), 0);
        assert_eq!(
            count(&json!({"items": [{}], "metadata": {"remainingItemCount": -3}})),
            1
        );
    }
}
