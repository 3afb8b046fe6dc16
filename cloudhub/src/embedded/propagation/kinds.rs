//! Which kinds can be templates, and where objects of a kind are: from `apiVersion` and kind to a place in the store and back.

use std::collections::HashMap;
use std::sync::Arc;

use metastore::store::ObjectKey;
use serde_json::Value;

use super::hand::{list, text};

/// Groups whose objects are about propagation, about gateways, or about this server: none of them is sent anywhere.
const OWN: [&str; 5] = [
    "apps.kurator.dev",
    "edge.kubeedge.io",
    "events.k8s.io",
    "metrics.k8s.io",
    "coordination.k8s.io",
];
/// Core kinds that are a server's own.
const OWN_CORE: [&str; 3] = ["Event", "Node", "Endpoints"];

/// A kind that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Served {
    pub(super) plural: Arc<str>,
    pub(super) kind: Arc<str>,
    pub(super) namespaced: bool,
}

/// The kinds that are served.
#[derive(Debug)]
pub(super) struct Kinds {
    /// By group and kind.
    by_kind: HashMap<(String, String), Served>,
    /// By group and plural: the kind.
    by_plural: HashMap<(String, String), Arc<str>>,
}

/// The group of an `apiVersion`.
pub(super) fn group_of(api_version: &str) -> &str {
    api_version.rsplit_once('/').map_or("", |(group, _)| group)
}

impl Default for Kinds {
    fn default() -> Self {
        let mut kinds = Self {
            by_kind: HashMap::new(),
            by_plural: HashMap::new(),
        };
        for kind in metastore::api::builtin_kinds() {
            kinds.enter(kind.group(), kind.kind(), kind.plural(), kind.namespaced());
        }
        kinds
    }
}

impl Kinds {
    fn enter(&mut self, group: &str, kind: &str, plural: &str, namespaced: bool) {
        let served = Served {
            plural: plural.into(),
            kind: kind.into(),
            namespaced,
        };
        self.by_plural
            .insert((group.to_owned(), plural.to_owned()), Arc::clone(&served.kind));
        self.by_kind.insert((group.to_owned(), kind.to_owned()), served);
    }

    /// A definition appeared or changed: its group and kind, when that is new.
    pub(super) fn define(&mut self, definition: &Value) -> Option<(String, String)> {
        let group = text(definition, "/spec/group");
        let kind = text(definition, "/spec/names/kind");
        let plural = text(definition, "/spec/names/plural");
        let served = list(definition, "/spec/versions").iter().any(|v| v["served"] == true);
        if group.is_empty() || kind.is_empty() || plural.is_empty() || !served {
            return None;
        }
        let new = !self.by_kind.contains_key(&(group.to_owned(), kind.to_owned()));
        self.enter(group, kind, plural, text(definition, "/spec/scope") == "Namespaced");
        new.then(|| (group.to_owned(), kind.to_owned()))
    }

    /// A kind, by any `apiVersion` of it.
    pub(super) fn served(&self, api_version: &str, kind: &str) -> Option<&Served> {
        self.by_kind.get(&(group_of(api_version).to_owned(), kind.to_owned()))
    }

    /// The name of the kind of the objects in this place.
    pub(super) fn kind_at(&self, key: &ObjectKey) -> Option<&Arc<str>> {
        self.by_plural.get(&(key.group.to_string(), key.resource.to_string()))
    }

    /// Where an object is.
    pub(super) fn place(&self, api_version: &str, kind: &str, namespace: &str, name: &str) -> Option<ObjectKey> {
        let served = self.served(api_version, kind)?;
        let namespace = if served.namespaced { namespace } else { "" };
        Some(ObjectKey::new(
            group_of(api_version),
            Arc::clone(&served.plural),
            namespace,
            name,
        ))
    }
}

/// Whether objects of a kind can be templates.
pub(super) fn can_be_sent(group: &str, kind: &str) -> bool {
    if group == "karmada.io" || group.ends_with(".karmada.io") || OWN.contains(&group) {
        return false;
    }
    match group {
        "" => !OWN_CORE.contains(&kind),
        "apiregistration.k8s.io" | "authentication.k8s.io" | "authorization.k8s.io" => false,
        _ => !kind.ends_with("Review"),
    }
}

/// Whether an object can be a template by where it is: namespaces that are a server's own stay here, and so does what is in them.
pub(super) fn is_open(place: &ObjectKey) -> bool {
    let namespace = match &*place.resource {
        "namespaces" if place.group.is_empty() => &place.name,
        _ => &place.namespace,
    };
    !(namespace.starts_with("kube-") || namespace.starts_with("karmada-") || &**namespace == "kurator-system")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn kinds_lead_to_places_and_back() {
        let mut kinds = Kinds::default();
        let web = kinds.place("apps/v1", "Deployment", "fx", "web").unwrap();
        assert_eq!(web.to_string(), "apps/deployments/fx/web");
        assert_eq!(kinds.kind_at(&web).map(|k| &**k), Some("Deployment"));
        let role = kinds
            .place("rbac.authorization.k8s.io/v1", "ClusterRole", "fx", "r")
            .unwrap();
        assert!(role.namespace.is_empty());
        assert_eq!(kinds.place("x.example/v1", "Thing", "fx", "t"), None);
        let definition = json!({"spec": {"group": "x.example", "scope": "Namespaced", "names": {"kind": "Thing", "plural": "things"},
            "versions": [{"name": "v1", "served": true}]}});
        assert!(kinds.define(&definition).is_some());
        assert_eq!(kinds.define(&definition), None, "known");
        assert!(kinds.place("x.example/v1", "Thing", "fx", "t").is_some());
        for junk in [json!(null), json!({"spec": 1}), json!({"spec": {"group": "g"}})] {
            assert_eq!(kinds.define(&junk), None);
        }
    }

    #[test]
    fn what_is_a_servers_own_is_sent_nowhere() {
        for (group, kind) in [
            ("policy.karmada.io", "PropagationPolicy"),
            ("", "Event"),
            ("", "Node"),
            ("apps.kurator.dev", "X"),
        ] {
            assert!(!can_be_sent(group, kind), "{kind}");
        }
        for (group, kind) in [
            ("apps", "Deployment"),
            ("", "ConfigMap"),
            ("", "Pod"),
            ("devices.kubeedge.io", "Device"),
        ] {
            assert!(can_be_sent(group, kind), "{kind}");
        }
        let of = |namespace: &str| is_open(&ObjectKey::new("", "configmaps", namespace, "x"));
        assert!(of("default") && of("") && !of("kube-system") && !of("karmada-es-a"));
        assert!(!is_open(&ObjectKey::new("", "namespaces", "", "karmada-es-a")));
    }
}
