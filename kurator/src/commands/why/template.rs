//! `kurator why KIND NAME` of an object that a policy distributes: from the policy that claims it over its binding to each cluster's Work, gateway
//! and pods, and back to the object's own status. Here everything is asked for; `facts` keeps what matters, `hops` judges it.
//!
//! It asks the Kubernetes API alone, which is the same at a hub and at a Karmada that stands above one. However many clusters there
//! are, answers are read in pages and few of them are kept or shown.

mod facts;
mod hops;

use std::collections::BTreeMap;

use daemon::exit::{BAD_CONFIG, Failure};
use federation::names;
use http::{Method, StatusCode};
use serde_json::Value;

use self::facts::{Facts, Gateway, Pods, Work};
use crate::client::Api;
use crate::commands::get::{self, escaped, federation as kinds};

const WORK_API: &str = "/apis/work.karmada.io/v1alpha2";
const POLICY_API: &str = "/apis/policy.karmada.io/v1alpha1";
const CLUSTERS: &str = "/apis/cluster.karmada.io/v1alpha1/clusters";
/// Objects a page.
const PAGE: usize = 500;
/// Up to so many clusters each is asked for by name.
const FEW: usize = 20;
/// Gateways whose pods are looked at.
const LOOKED_INTO: usize = 5;

pub(super) async fn explain(
    api: &Api,
    gateway: Option<&str>,
    namespace: &str,
    what: &str,
    name: &str,
) -> Result<Value, Failure> {
    let resource = get::find(api, what).await?;
    let template = api.get(&resource.path(Some(namespace), Some(name))).await?;
    if optional(api, WORK_API).await?.is_none() {
        return Err(Failure::new(
            BAD_CONFIG,
            "this server distributes nothing: it has no bindings and no Works",
        )
        .hint("name a hub's or Karmada's kubeconfig with --kubeconfig"));
    }
    let binding = binding(api, &template).await?;
    let (policy, unclaiming) = match claimed_by(&template) {
        Some((_, path)) => (optional(api, &path).await?, Vec::new()),
        None => (None, policies(api, &template).await?),
    };
    let mut facts = Facts {
        policy,
        unclaiming,
        binding,
        only: gateway.map(names::cluster_name),
        template,
        ..Facts::default()
    };
    if facts.binding.is_some() {
        facts.works = works(api, &facts).await?;
        facts.gateways = gateways(api, &facts.targets()).await?;
        look_into(api, &mut facts).await?;
    }
    Ok(hops::hops(&facts))
}

/// What is there; none where there is nothing.
async fn optional(api: &Api, path: &str) -> Result<Option<Value>, Failure> {
    match api.try_json(Method::GET, path, None).await? {
        Ok(object) => Ok(Some(object)),
        Err(refusal) if refusal.status == StatusCode::NOT_FOUND => Ok(None),
        Err(refusal) => Err(refusal.into()),
    }
}

/// The policy that an object says has claimed it: for people, and where it is.
fn claimed_by(object: &Value) -> Option<(String, String)> {
    let note = |key: &str| {
        object["metadata"]["annotations"][key]
            .as_str()
            .filter(|v| !v.is_empty())
    };
    if let (Some(namespace), Some(name)) = (note(names::POLICY_NAMESPACE), note(names::POLICY_NAME)) {
        let path = format!(
            "{POLICY_API}/namespaces/{}/propagationpolicies/{}",
            escaped(namespace),
            escaped(name)
        );
        return Some((format!("PropagationPolicy {name}"), path));
    }
    let name = note(names::CLUSTER_POLICY_NAME)?;
    let path = format!("{POLICY_API}/clusterpropagationpolicies/{}", escaped(name));
    Some((format!("ClusterPropagationPolicy {name}"), path))
}

/// All pages of a list, one object after another.
async fn each(api: &Api, path: &str, selector: &str, mut take: impl FnMut(Value)) -> Result<(), Failure> {
    let mut next = String::new();
    loop {
        let mut page = format!("{path}?limit={PAGE}");
        if !selector.is_empty() {
            page.push_str(&format!("&labelSelector={}", escaped(selector)));
        }
        if !next.is_empty() {
            page.push_str(&format!("&continue={}", escaped(&next)));
        }
        let Some(mut list) = optional(api, &page).await? else {
            return Ok(());
        };
        if let Some(items) = list.get_mut("items").and_then(Value::as_array_mut) {
            std::mem::take(items).into_iter().for_each(&mut take);
        }
        match list["metadata"]["continue"].as_str() {
            Some(more) if !more.is_empty() && more != next => next = more.to_owned(),
            _ => return Ok(()),
        }
    }
}

/// The policies that could claim an object.
async fn policies(api: &Api, object: &Value) -> Result<Vec<Value>, Failure> {
    let mut all = Vec::new();
    if let Some(namespace) = object["metadata"]["namespace"].as_str() {
        let path = format!("{POLICY_API}/namespaces/{}/propagationpolicies", escaped(namespace));
        each(api, &path, "", |policy| all.push(policy)).await?;
    }
    each(api, &format!("{POLICY_API}/clusterpropagationpolicies"), "", |policy| {
        all.push(policy)
    })
    .await?;
    Ok(all)
}

/// The object's binding.
async fn binding(api: &Api, object: &Value) -> Result<Option<Value>, Failure> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
    let all = match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{WORK_API}/namespaces/{}/resourcebindings", escaped(namespace)),
        None => format!("{WORK_API}/clusterresourcebindings"),
    };
    let usual = format!("{}-{kind}", name.replace(':', ".")).to_lowercase();
    let is_of = |binding: &Value| {
        let resource = &binding["spec"]["resource"];
        resource["kind"] == *kind && resource["name"] == *name && resource["apiVersion"] == object["apiVersion"]
    };
    if let Some(binding) = optional(api, &format!("{all}/{}", escaped(&usual))).await?
        && is_of(&binding)
    {
        return Ok(Some(binding));
    }
    let mut found = None;
    each(api, &all, "", |binding| {
        if is_of(&binding) {
            found = Some(binding);
        }
    })
    .await?;
    Ok(found)
}

/// The Works of a binding, by cluster.
async fn works(api: &Api, facts: &Facts) -> Result<BTreeMap<String, Work>, Failure> {
    let Some(binding) = &facts.binding else {
        return Ok(BTreeMap::new());
    };
    let labels = &binding["metadata"]["labels"];
    let selector = [names::BINDING_ID, names::CLUSTER_BINDING_ID]
        .iter()
        .find_map(|key| Some(format!("{key}={}", labels[*key].as_str()?)));
    let path = kinds::works_path(facts.only.as_deref().map(names::execution_namespace).as_deref());
    let metadata = &binding["metadata"];
    let is_of = |work: &Value| {
        let notes = &work["metadata"]["annotations"];
        match metadata["namespace"].as_str() {
            Some(namespace) => {
                notes[names::BINDING_NAMESPACE] == *namespace && notes[names::BINDING_NAME] == metadata["name"]
            }
            None => notes[names::CLUSTER_BINDING_NAME] == metadata["name"],
        }
    };
    let mut works = BTreeMap::new();
    each(api, &path, selector.as_deref().unwrap_or_default(), |work| {
        let namespace = work["metadata"]["namespace"].as_str().unwrap_or_default();
        if let Some(cluster) = names::cluster_of(namespace)
            && is_of(&work)
        {
            works.insert(cluster.to_owned(), Work::read(&work));
        }
    })
    .await?;
    Ok(works)
}

/// What is known of the gateways that clusters stand for.
async fn gateways(api: &Api, targets: &[&str]) -> Result<BTreeMap<String, Gateway>, Failure> {
    let mut gateways = BTreeMap::new();
    if targets.len() > FEW {
        each(api, CLUSTERS, "", |cluster| {
            let name = cluster["metadata"]["name"].as_str().unwrap_or_default();
            if targets.binary_search(&name).is_ok() {
                gateways.insert(name.to_owned(), Gateway::read(&cluster));
            }
        })
        .await?;
        return Ok(gateways);
    }
    for target in targets {
        let name = escaped(target);
        let mut found = optional(api, &format!("{CLUSTERS}/{name}")).await?;
        if found.is_none() {
            // A hub may show its gateways as Nodes alone.
            found = optional(api, &format!("/api/v1/nodes/{name}")).await?;
        }
        if let Some(object) = found {
            gateways.insert((*target).to_owned(), Gateway::read(&object));
        }
    }
    Ok(gateways)
}

/// The pods of the object at some of its gateways, those first that are not well.
async fn look_into(api: &Api, facts: &mut Facts) -> Result<(), Failure> {
    let Some(selector) = self::facts::pod_selector(&facts.template) else {
        return Ok(());
    };
    let namespace = facts.template["metadata"]["namespace"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let mut looked = BTreeMap::new();
    for cluster in facts.worth_a_look(LOOKED_INTO) {
        let gateway = facts
            .gateways
            .get(&cluster)
            .map_or(cluster.as_str(), |g| g.name.as_str());
        let pods = format!(
            "/api/v1/namespaces/{}/pods?limit={PAGE}&labelSelector={}",
            escaped(&namespace),
            escaped(&selector)
        );
        // At a hub, and through Karmada's proxy.
        let ways = [
            format!("/clusters/{}{pods}", escaped(gateway)),
            format!("{CLUSTERS}/{}/proxy{pods}", escaped(&cluster)),
        ];
        let mut found = None;
        for way in &ways {
            // Who may not look there, or finds nobody there, learns less and not nothing.
            if let Ok(Ok(list)) = api.try_json(Method::GET, way, None).await
                && list["items"].is_array()
            {
                found = Some(Pods::read(&list));
                break;
            }
        }
        looked.insert(cluster, found);
    }
    facts.pods = looked;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_claims_an_object_stands_on_it() {
        let of = |notes: Value| claimed_by(&json!({"metadata": {"annotations": notes}}));
        let (label, path) = of(json!({names::POLICY_NAMESPACE: "fx", names::POLICY_NAME: "p"})).unwrap();
        assert_eq!(label, "PropagationPolicy p");
        assert_eq!(
            path,
            "/apis/policy.karmada.io/v1alpha1/namespaces/fx/propagationpolicies/p"
        );
        let (_, path) = of(json!({names::CLUSTER_POLICY_NAME: "../p"})).unwrap();
        assert_eq!(
            path,
            "/apis/policy.karmada.io/v1alpha1/clusterpropagationpolicies/..%2Fp"
        );
        assert_eq!(of(json!({names::POLICY_NAME: "p"})), None);
        assert_eq!(of(json!(7)), None);
    }
}
