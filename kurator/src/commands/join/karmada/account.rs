//! A hub's account in Karmada: the objects it is made of, and what is to be changed about those that are there. Pure.
//!
//! Its credential is a service account's token in a Secret. Karmada's agents have client certificates, but those need a signer, somebody
//! who approves, and a hub that renews them in time; and nobody can take back one that got lost. Tokens of the TokenRequest API end by
//! themselves, and the hub would have to be allowed to ask for the next one: whoever has the one has all. A token in a Secret lasts as
//! long as the Secret: it is revoked by deleting that, works with every Karmada (all ship the controller that fills it), and is what
//! Karmada itself uses where it reaches clusters.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use daemon::exit::{BAD_CONFIG, Failure};
use federation::names::SKIP_AUTO_PROPAGATION;
use serde_json::{Map, Value, json};

/// Where hubs' accounts are.
const NAMESPACE: &str = "kurator-system";
/// Where Karmada keeps leases of clusters, and what it reaches them by.
pub(super) const CLUSTER_NAMESPACE: &str = "karmada-cluster";
const RBAC: &str = "rbac.authorization.k8s.io";

/// Of which hub, and what it may do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account<'a> {
    pub(super) hub: &'a str,
    /// Whether Karmada's cluster proxy shall reach gateways through the hub.
    pub(super) proxy: bool,
}

impl Account<'_> {
    /// Of the ServiceAccount, and of the user in the kubeconfig.
    pub(super) fn name(&self) -> String {
        format!("kurator-{}", self.hub)
    }

    fn role(&self) -> String {
        format!("kurator:{}", self.hub)
    }

    /// What the hub gives Karmada's cluster proxy.
    fn proxy_secrets(&self) -> [String; 2] {
        [self.name(), format!("{}-impersonator", self.name())]
    }

    fn token_secret(&self) -> String {
        format!("{}-token", self.name())
    }

    pub(super) fn token_path(&self) -> String {
        format!("/api/v1/namespaces/{NAMESPACE}/secrets/{}", self.token_secret())
    }

    /// All of it, in an order in which each finds what it needs.
    pub(super) fn objects(&self) -> Vec<Object> {
        let subjects = json!([{"kind": "ServiceAccount", "name": self.name(), "namespace": NAMESPACE}]);
        let reference = |kind: &str| json!({"apiGroup": RBAC, "kind": kind, "name": self.role()});
        let account = json!({"kubernetes.io/service-account.name": self.name()});
        vec![
            Object::new("", "Namespace", "", NAMESPACE, json!({}))
                // Karmada sends every other namespace to every cluster.
                .metadata("labels", json!({SKIP_AUTO_PROPAGATION: "true"})),
            // Who registers the first cluster makes it; the hub may not make namespaces.
            Object::new("", "Namespace", "", CLUSTER_NAMESPACE, json!({})),
            Object::new(
                "",
                "ServiceAccount",
                NAMESPACE,
                &self.name(),
                json!({"automountServiceAccountToken": false}),
            ),
            Object::new(RBAC, "ClusterRole", "", &self.role(), json!({"rules": cluster_rules()})),
            Object::new(
                RBAC,
                "ClusterRoleBinding",
                "",
                &self.role(),
                json!({"subjects": subjects, "roleRef": reference("ClusterRole")}),
            ),
            Object::new(
                RBAC,
                "Role",
                CLUSTER_NAMESPACE,
                &self.role(),
                json!({"rules": self.namespace_rules()}),
            ),
            Object::new(
                RBAC,
                "RoleBinding",
                CLUSTER_NAMESPACE,
                &self.role(),
                json!({"subjects": subjects, "roleRef": reference("Role")}),
            ),
            Object::new(
                "",
                "Secret",
                NAMESPACE,
                &self.token_secret(),
                json!({"type": "kubernetes.io/service-account-token"}),
            )
            .metadata("annotations", account),
        ]
    }
}

impl Account<'_> {
    fn namespace_rules(&self) -> Value {
        let mut rules = vec![rule(
            "coordination.k8s.io",
            "leases",
            &["get", "create", "update", "patch"],
        )];
        if self.proxy {
            // What does not exist has no name yet that a rule could go by.
            rules.push(rule("", "secrets", &["create"]));
            let secrets = self.proxy_secrets();
            let names: Vec<&str> = secrets.iter().map(String::as_str).collect();
            rules.push(named(rule("", "secrets", &["get", "update", "patch"]), &names));
        }
        rules.into()
    }
}

fn cluster_rules() -> Value {
    json!([
        rule("cluster.karmada.io", "clusters", &["get", "list", "watch", "create", "update", "patch", "delete"]),
        rule("cluster.karmada.io", "clusters/status", &["get", "patch", "update"]),
        rule("work.karmada.io", "works", &["get", "list", "watch", "update", "patch"]),
        rule("work.karmada.io", "works/status", &["get", "patch", "update"]),
        // Whose uid tells one control plane from another.
        named(rule("", "namespaces", &["get"]), &["kube-system"]),
        {"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
    ])
}

fn rule(group: &str, resource: &str, verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": [resource], "verbs": verbs})
}

fn named(mut rule: Value, names: &[&str]) -> Value {
    rule["resourceNames"] = json!(names);
    rule
}

/// The token in an account's Secret, when it is there.
pub(super) fn token(secret: &Value) -> Option<String> {
    let bytes = STANDARD.decode(secret["data"]["token"].as_str()?).ok()?;
    String::from_utf8(bytes).ok().filter(|token| !token.is_empty())
}

/// An object as it should be.
#[derive(Clone, Debug)]
pub(super) struct Object {
    /// The whole of it, and all of what is looked at in one that is there.
    pub(super) value: Value,
}

impl Object {
    fn new(group: &str, kind: &str, namespace: &str, name: &str, rest: Value) -> Self {
        let version = if group.is_empty() {
            "v1".to_owned()
        } else {
            format!("{group}/v1")
        };
        let mut value = json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}});
        if !namespace.is_empty() {
            value["metadata"]["namespace"] = namespace.into();
        }
        if let (Some(value), Value::Object(rest)) = (value.as_object_mut(), rest) {
            value.extend(rest);
        }
        Self { value }
    }

    fn metadata(mut self, field: &str, value: Value) -> Self {
        self.value["metadata"][field] = value;
        self
    }

    fn text(&self, pointer: &str) -> &str {
        self.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// Where its like are.
    pub(super) fn collection(&self) -> String {
        let version = self.text("/apiVersion");
        let root = if version.contains('/') { "apis" } else { "api" };
        let namespace = match self.text("/metadata/namespace") {
            "" => String::new(),
            namespace => format!("/namespaces/{namespace}"),
        };
        // All kinds here have the plainest of plurals.
        format!("/{root}/{version}{namespace}/{}s", self.text("/kind").to_lowercase())
    }

    /// Where it is.
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.collection(), self.text("/metadata/name"))
    }

    /// For people.
    pub(super) fn label(&self) -> String {
        let (kind, name) = (self.text("/kind").to_lowercase(), self.text("/metadata/name"));
        match self.text("/metadata/namespace") {
            "" => format!("{kind} {name}"),
            namespace => format!("{kind} {name} in {namespace}"),
        }
    }

    /// What to patch in the one that is there; none when it is as it should be. What others have put beside it stays.
    ///
    /// # Errors
    /// It differs in what can never be changed.
    pub(super) fn change(&self, there: &Value) -> Result<Option<Value>, Failure> {
        let mut patch = Map::new();
        for (field, wanted) in self.value.as_object().into_iter().flatten() {
            match field.as_str() {
                "apiVersion" | "kind" => {}
                "metadata" => {
                    let mut metadata = Map::new();
                    for part in ["labels", "annotations"] {
                        let wanted = wanted[part].as_object().into_iter().flatten();
                        let differs: Map<String, Value> = wanted
                            .filter(|(key, value)| there["metadata"][part].get(*key) != Some(value))
                            .map(|(key, value)| (key.clone(), value.clone()))
                            .collect();
                        if !differs.is_empty() {
                            metadata.insert(part.to_owned(), differs.into());
                        }
                    }
                    if !metadata.is_empty() {
                        patch.insert("metadata".to_owned(), metadata.into());
                    }
                }
                "roleRef" | "type" if there[field] != *wanted => {
                    return Err(
                        Failure::new(BAD_CONFIG, format!("{} is there with another {field}", self.label()))
                            .hint("if it is nobody else's, delete it and run this again; else choose another --hub"),
                    );
                }
                _ if there[field] != *wanted => {
                    patch.insert(field.clone(), wanted.clone());
                }
                _ => {}
            }
        }
        Ok((!patch.is_empty()).then(|| patch.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUB: Account<'_> = Account {
        hub: "hub",
        proxy: true,
    };

    fn of(kind: &str) -> Object {
        let mut all = HUB.objects().into_iter();
        all.find(|object| object.text("/kind") == kind).unwrap()
    }

    #[test]
    fn objects_are_where_they_belong() {
        let paths: Vec<String> = HUB.objects().iter().map(Object::path).collect();
        assert_eq!(
            paths,
            [
                "/api/v1/namespaces/kurator-system",
                "/api/v1/namespaces/karmada-cluster",
                "/api/v1/namespaces/kurator-system/serviceaccounts/kurator-hub",
                "/apis/rbac.authorization.k8s.io/v1/clusterroles/kurator:hub",
                "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/kurator:hub",
                "/apis/rbac.authorization.k8s.io/v1/namespaces/karmada-cluster/roles/kurator:hub",
                "/apis/rbac.authorization.k8s.io/v1/namespaces/karmada-cluster/rolebindings/kurator:hub",
                "/api/v1/namespaces/kurator-system/secrets/kurator-hub-token",
            ]
        );
        assert_eq!(HUB.token_path(), paths[7]);
    }

    #[test]
    fn a_hub_may_do_no_more_than_it_does() {
        let all = |rules: &Value| -> Vec<String> {
            let list = |value: &Value| -> Vec<String> {
                let all = value.as_array().into_iter().flatten();
                all.map(|v| v.as_str().unwrap().to_owned()).collect()
            };
            let rules = rules.as_array().unwrap().iter();
            rules
                .map(|rule| {
                    format!(
                        "{}: {} {}",
                        list(&rule["resources"]).join(","),
                        list(&rule["verbs"]).join(","),
                        list(&rule["resourceNames"]).join(",")
                    )
                })
                .collect()
        };
        let wide = all(&of("ClusterRole").value["rules"]);
        assert!(
            !wide.iter().any(|rule| rule.contains('*') || rule.contains("secrets")),
            "{wide:?}"
        );
        assert!(wide.contains(&"namespaces: get kube-system".to_owned()), "{wide:?}");
        assert_eq!(
            all(&of("Role").value["rules"])[1..],
            [
                "secrets: create ",
                "secrets: get,update,patch kurator-hub,kurator-hub-impersonator"
            ]
        );
        let without = Account { proxy: false, ..HUB };
        assert!(
            without
                .objects()
                .iter()
                .all(|object| !object.value["rules"].to_string().contains("secrets"))
        );
    }

    #[test]
    fn what_is_as_it_should_be_stays_and_what_others_put_there_too() {
        for object in HUB.objects() {
            let mut there = object.value.clone();
            there["metadata"]["labels"]["team"] = "x".into();
            there["metadata"]["uid"] = "1".into();
            assert_eq!(object.change(&there).unwrap(), None, "{}", object.label());
        }
        let role = of("ClusterRole");
        let mut there = role.value.clone();
        there["rules"] = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
        assert_eq!(
            role.change(&there).unwrap().unwrap(),
            json!({"rules": role.value["rules"]})
        );
        let namespace = of("Namespace");
        assert_eq!(
            namespace.change(&json!({"metadata": {"labels": 7}})).unwrap().unwrap(),
            json!({"metadata": {"labels": {SKIP_AUTO_PROPAGATION: "true"}}})
        );
        let mut there = of("RoleBinding").value;
        there["roleRef"]["name"] = "admin".into();
        assert_eq!(of("RoleBinding").change(&there).unwrap_err().code, BAD_CONFIG);
    }

    #[test]
    fn a_token_is_one_when_it_is_there() {
        assert_eq!(token(&json!({"data": {"token": "YWJj"}})).as_deref(), Some("abc"));
        for none in [
            json!({}),
            json!({"data": {"token": ""}}),
            json!({"data": {"token": "%"}}),
            json!({"data": 1}),
        ] {
            assert_eq!(token(&none), None, "{none}");
        }
    }
}
