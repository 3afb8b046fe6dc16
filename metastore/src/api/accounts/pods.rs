//! What a new Pod gets from the ServiceAccount it runs as: the token by which its programs are known here, and the secrets its images are
//! fetched with. Asked of every Pod where pods run; a server that runs none leaves them as they come.

use serde_json::{Value, json};

use crate::api::auth::{Admission, AdmitContext, Operation};
use crate::api::meta;
use crate::api::names;
use crate::api::status::Status;
use crate::api::write::{parse, store_status};
use crate::store::ObjectKey;

/// Where programs look for their token.
const MOUNTED_AT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME: &str = "kube-api-access-";
/// Seconds; the one length of life that is extended for programs that do not read a new token.
const LIFE: i64 = 3607;
const MIRROR: &str = "/metadata/annotations/kubernetes.io~1config.mirror";
/// Of a ServiceAccount: its pods may use only the secrets that it lists.
const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";

/// Makes Pods run as ServiceAccounts.
#[derive(Debug)]
pub(crate) struct RunsAs;

impl Admission for RunsAs {
    fn admit(&self, context: &AdmitContext<'_>, _: Option<&Value>, new: &mut Value) -> Result<(), Status> {
        let kind = context.kind;
        let is_pod = kind.group.is_empty() && &*kind.plural == "pods";
        if !is_pod || context.op != Operation::Create || !context.subresource.is_empty() {
            return Ok(());
        }
        let refuse = |why: &str| Status::forbidden("", "pods", context.name, why);
        if new.pointer(MIRROR).is_some() {
            return mirror(new).map_err(refuse);
        }
        let namespace = context.namespace;
        let name = word(new, "/spec/serviceAccountName").to_owned();
        let key = ObjectKey::new("", "serviceaccounts", namespace, name.as_str());
        let account = match context.store.get(&key).map_err(store_status)? {
            Some(object) => parse(&object)?,
            // It comes with every namespace, though perhaps after its first pod.
            None if name == "default" => Value::Null,
            None => {
                return Err(refuse(&format!(
                    "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
                )));
            }
        };
        let says = |object: &Value| object.get("automountServiceAccountToken").and_then(Value::as_bool);
        if says(&new["spec"]).or_else(|| says(&account)).unwrap_or(true) {
            mount(new);
        }
        let own = list(&new["spec"], "imagePullSecrets");
        let theirs = list(&account, "imagePullSecrets");
        if own.is_empty() && !theirs.is_empty() {
            let named = theirs.iter().map(|s| json!({"name": s["name"]}));
            new["spec"]["imagePullSecrets"] = named.collect();
        }
        let notes = meta::of(&account).and_then(|m| m.get("annotations")?.get(ENFORCE)?.as_str());
        if matches!(notes, Some("true" | "True" | "TRUE" | "t" | "T" | "1")) {
            only_listed(&new["spec"], &account, &name).map_err(|why| refuse(&why))?;
        }
        Ok(())
    }
}

fn word<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A static pod's copy runs as nobody here.
fn mirror(pod: &mut Value) -> Result<(), &'static str> {
    let spec = &mut pod["spec"];
    // What every new pod begins with is not what this one said.
    if word(spec, "/serviceAccountName") == "default"
        && let Value::Object(spec) = spec
    {
        spec.remove("serviceAccountName");
        spec.remove("serviceAccount");
    }
    if !word(spec, "/serviceAccountName").is_empty() {
        return Err("a mirror pod may not reference service accounts");
    }
    if !secrets(spec).is_empty() || !list(spec, "imagePullSecrets").is_empty() {
        return Err("a mirror pod may not reference secrets");
    }
    let sources = list(spec, "volumes")
        .iter()
        .flat_map(|v| list(&v["projected"], "sources"));
    if sources.into_iter().any(|s| s.get("serviceAccountToken").is_some()) {
        return Err("a mirror pod may not use ServiceAccountToken volume projections");
    }
    Ok(())
}

/// Mounts the token in every container that has nothing at its place.
fn mount(pod: &mut Value) {
    let spec = &mut pod["spec"];
    let there = list(spec, "volumes").iter().map(|v| word(v, "/name"));
    let there = there
        .into_iter()
        .find(|name| name.starts_with(VOLUME))
        .map(str::to_owned);
    let name = there.clone().unwrap_or_else(|| names::generate(VOLUME));
    let mut needed = false;
    for group in ["initContainers", "containers"] {
        for container in spec.get_mut(group).and_then(Value::as_array_mut).into_iter().flatten() {
            let taken = |m: &Value| word(m, "/mountPath") == MOUNTED_AT;
            if !container.is_object() || list(container, "volumeMounts").iter().any(taken) {
                continue;
            }
            needed = true;
            push(
                container,
                "volumeMounts",
                json!({"name": name, "readOnly": true, "mountPath": MOUNTED_AT}),
            );
        }
    }
    if needed && there.is_none() && spec.is_object() {
        let sources = json!([
            {"serviceAccountToken": {"expirationSeconds": LIFE, "path": "token"}},
            {"configMap": {"name": super::BUNDLE, "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace",
                "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]);
        let volume = json!({"name": name, "projected": {"defaultMode": 0o644, "sources": sources}});
        push(spec, "volumes", volume);
    }
}

fn push(object: &mut Value, field: &str, item: Value) {
    match object[field].as_array_mut() {
        Some(list) => list.push(item),
        None => object[field] = json!([item]),
    }
}

/// The secrets that a pod uses, each with the words for one that it may not.
fn secrets(spec: &Value) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for volume in list(spec, "volumes") {
        let name = word(volume, "/secret/secretName");
        all.push((name.to_owned(), format!("volume with secret.secretName={name:?}")));
    }
    for (group, what) in [("initContainers", "init container"), ("containers", "container")] {
        for container in list(spec, group) {
            let whose = format!("{what} {}", word(container, "/name"));
            for variable in list(container, "env") {
                let name = word(variable, "/valueFrom/secretKeyRef/name");
                let variable = word(variable, "/name");
                let words = format!("{whose} with envVar {variable} referencing secret.secretName={name:?}");
                all.push((name.to_owned(), words));
            }
            for from in list(container, "envFrom") {
                let name = word(from, "/secretRef/name");
                let words = format!("{whose} with envFrom referencing secret.secretName={name:?}");
                all.push((name.to_owned(), words));
            }
        }
    }
    all.retain(|(name, _)| !name.is_empty());
    all
}

/// That a pod uses only the secrets that its ServiceAccount lists.
fn only_listed(spec: &Value, account: &Value, name: &str) -> Result<(), String> {
    let lists = |field: &str, secret: &str| list(account, field).iter().any(|s| word(s, "/name") == secret);
    let refused = |words: &str, what: &str| {
        Err(format!(
            "{words} is not allowed because service account {name} does not reference that {what}"
        ))
    };
    for (secret, words) in secrets(spec) {
        if !lists("secrets", &secret) {
            return refused(&words, "secret");
        }
    }
    for (at, secret) in list(spec, "imagePullSecrets").iter().enumerate() {
        let secret = word(secret, "/name");
        if !lists("imagePullSecrets", secret) {
            return refused(&format!("imagePullSecrets[{at}].name={secret:?}"), "imagePullSecret");
        }
    }
    Ok(())
}
