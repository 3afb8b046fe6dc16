//! The rows of the kinds that are there without a definition. What one kind does beyond the common rules stands in [`rules`].

use std::sync::Arc;

use serde_json::{Value, json};

use super::jsonpath::Path;
use super::kinds::{Action, Deletion, KindSpec, Review, Scale, Selector, StatusPart, Storage, View};
use super::names::NameRule;
use super::schema::types;
use super::table::{Cell, Column, path};

mod rules;

const APIEXTENSIONS: &str = "apiextensions.k8s.io";

/// Where definitions live.
pub(crate) const DEFINITIONS: (&str, &str) = (APIEXTENSIONS, "customresourcedefinitions");

/// All built-in rows. `ApiServer::builder` starts from them.
pub fn builtin_kinds() -> Vec<KindSpec> {
    vec![
        namespace(),
        node(),
        config_map(),
        secret(),
        service_account(),
        service(),
        pod(),
        event(),
        event_view(),
        lease(),
        deployment(),
        definition(),
        review("authorization.k8s.io", "SelfSubjectAccessReview", Review::SelfAccess),
        review("authorization.k8s.io", "SubjectAccessReview", Review::Access),
        review("authorization.k8s.io", "SelfSubjectRulesReview", Review::SelfRules),
        review("authentication.k8s.io", "SelfSubjectReview", Review::SelfSubject),
    ]
}

/// A namespaced row with Name and Age columns; `kind` must stand in the table of types under `package`.
fn row(group: &str, package: &str, kind: &str, short: &[&str]) -> KindSpec {
    let singular = kind.to_lowercase();
    let plural = if singular.ends_with('s') {
        format!("{singular}es")
    } else {
        format!("{singular}s")
    };
    let api_version = if group.is_empty() {
        "v1".to_owned()
    } else {
        format!("{group}/v1")
    };
    let table_type = format!("{package}.v1.{kind}");
    let group: Arc<str> = group.into();
    let plural: Arc<str> = plural.into();
    KindSpec {
        group: group.clone(),
        version: "v1".into(),
        kind: kind.into(),
        list_kind: format!("{kind}List").into(),
        plural: plural.clone(),
        singular: singular.into(),
        short_names: short.iter().map(|s| (*s).into()).collect(),
        categories: Vec::new(),
        namespaced: true,
        schema: types::named(&table_type).expect("every row's type stands in the table, as a test shows"),
        table_type: Some(table_type.into()),
        custom: false,
        storage: Storage {
            group,
            plural,
            api_version: api_version.into(),
            view: None,
        },
        names: NameRule::Subdomain,
        status: StatusPart::Whole,
        scale: None,
        generation: false,
        columns: vec![Column::name(), Column::age()],
        fields: Vec::new(),
        prepare: None,
        validate: None,
        deletion: Deletion::Plain,
        review: None,
        actions: Vec::new(),
        deprecated: None,
    }
}

fn review(group: &str, kind: &str, question: Review) -> KindSpec {
    let package = group.split('.').next().unwrap_or(group);
    KindSpec {
        namespaced: false,
        review: Some(question),
        ..row(group, package, kind, &[])
    }
}

fn fields(list: &[&str]) -> Vec<(Arc<str>, Path)> {
    list.iter()
        .filter_map(|f| path(&format!(".{f}")).map(|p| ((*f).into(), p)))
        .collect()
}

fn text(name: &str, about: &str, at: &str) -> Column {
    let cell = path(at).map_or(Cell::Of(|_| Value::Null), Cell::Value);
    Column::new(name, "string", about, cell)
}

fn computed(name: &str, ty: &str, about: &str, of: fn(&Value) -> Value) -> Column {
    Column::new(name, ty, about, Cell::Of(of))
}

fn namespace() -> KindSpec {
    KindSpec {
        namespaced: false,
        names: NameRule::Label,
        status: StatusPart::ApartAfterCreate,
        deletion: Deletion::EmptiesNamespace,
        prepare: Some(rules::prepare_namespace),
        columns: vec![
            Column::name(),
            text("Status", "The status of the namespace", ".status.phase"),
            Column::age(),
        ],
        fields: fields(&["status.phase"]),
        ..row("", "core", "Namespace", &["ns"])
    }
}

fn node() -> KindSpec {
    KindSpec {
        namespaced: false,
        status: StatusPart::ApartAfterCreate,
        columns: vec![
            Column::name(),
            computed("Status", "string", "The status of the node", rules::node_status),
            computed("Roles", "string", "The roles of the node", rules::node_roles),
            Column::age(),
            text(
                "Version",
                "Kubelet Version reported by the node.",
                ".status.nodeInfo.kubeletVersion",
            ),
            computed("Internal-IP", "string", "The internal address.", |n| {
                rules::node_address(n, "InternalIP")
            })
            .wide(),
            computed("External-IP", "string", "The external address.", |n| {
                rules::node_address(n, "ExternalIP")
            })
            .wide(),
            text("OS-Image", "OS Image reported by the node.", ".status.nodeInfo.osImage").wide(),
            text(
                "Kernel-Version",
                "Kernel Version reported by the node.",
                ".status.nodeInfo.kernelVersion",
            )
            .wide(),
            text(
                "Container-Runtime",
                "ContainerRuntime Version reported by the node.",
                ".status.nodeInfo.containerRuntimeVersion",
            )
            .wide(),
        ],
        fields: fields(&["spec.unschedulable"]),
        ..row("", "core", "Node", &["no"])
    }
}

fn config_map() -> KindSpec {
    const ABOUT: &str = "Data contains the configuration data. Each key must consist of alphanumeric characters, '-', '_' or '.'. Values with non-UTF-8 byte sequences must use the BinaryData field. The keys stored in Data must not overlap with the keys in the BinaryData field, this is enforced during validation process.";
    KindSpec {
        validate: Some(rules::validate_config_map),
        columns: vec![
            Column::name(),
            computed("Data", "string", ABOUT, |o| {
                json!(rules::count(o, "data") + rules::count(o, "binaryData"))
            }),
            Column::age(),
        ],
        ..row("", "core", "ConfigMap", &["cm"])
    }
}

fn secret() -> KindSpec {
    KindSpec {
        prepare: Some(rules::prepare_secret),
        validate: Some(rules::validate_secret),
        columns: vec![
            Column::name(),
            text(
                "Type",
                "Used to facilitate programmatic handling of secret data.",
                ".type",
            ),
            computed("Data", "string", "How many values it has.", |o| {
                json!(rules::count(o, "data"))
            }),
            Column::age(),
        ],
        fields: fields(&["type"]),
        ..row("", "core", "Secret", &[])
    }
}

fn service_account() -> KindSpec {
    KindSpec {
        columns: vec![
            Column::name(),
            computed("Secrets", "string", "How many secrets it names.", |o| {
                json!(o.get("secrets").and_then(Value::as_array).map_or(0, Vec::len))
            }),
            Column::age(),
        ],
        ..row("", "core", "ServiceAccount", &["sa"])
    }
}

fn service() -> KindSpec {
    KindSpec {
        names: NameRule::Label1035,
        categories: vec!["all".into()],
        status: StatusPart::ApartAfterCreate,
        prepare: Some(rules::prepare_service),
        validate: Some(rules::validate_service),
        columns: vec![
            Column::name(),
            text("Type", "How the service is reached.", ".spec.type"),
            computed("Cluster-IP", "string", "The address inside the cluster.", |s| {
                s.pointer("/spec/clusterIP").cloned().unwrap_or_else(|| json!("<none>"))
            }),
            computed("External-IP", "string", "The address outside.", |_| json!("<none>")),
            computed("Port(s)", "string", "The ports of the service.", rules::service_ports),
            Column::age(),
        ],
        ..row("", "core", "Service", &["svc"])
    }
}

fn pod() -> KindSpec {
    KindSpec {
        categories: vec!["all".into()],
        status: StatusPart::Apart,
        generation: true,
        prepare: Some(rules::prepare_pod),
        validate: Some(rules::validate_pod),
        columns: vec![
            Column::name(),
            computed(
                "Ready",
                "string",
                "The aggregate readiness state of this pod for accepting traffic.",
                rules::pod_ready,
            ),
            computed(
                "Status",
                "string",
                "The aggregate status of the containers in this pod.",
                rules::pod_status,
            ),
            computed(
                "Restarts",
                "string",
                "The number of times the containers in this pod have been restarted.",
                rules::pod_restarts,
            ),
            Column::age(),
            computed("IP", "string", "The address of the pod.", |p| {
                rules::word_or_none(p, "/status/podIP")
            })
            .wide(),
            computed("Node", "string", "The node it runs on.", |p| {
                rules::word_or_none(p, "/spec/nodeName")
            })
            .wide(),
        ],
        fields: fields(&[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ]),
        actions: vec![Action {
            name: "binding",
            kind: "Binding",
            act: rules::bind_pod,
        }],
        ..row("", "core", "Pod", &["po"])
    }
}

fn event() -> KindSpec {
    KindSpec {
        columns: vec![
            computed("Last Seen", "string", "When it was last seen.", |_| Value::Null),
            text("Type", "Normal or Warning.", ".type"),
            text("Reason", "Why it was recorded.", ".reason"),
            computed("Object", "string", "What it is about.", |e| {
                rules::reference(e.get("involvedObject"))
            }),
            text("Message", "What happened.", ".message"),
            Column::name().wide(),
        ]
        .into_iter()
        .map(with_last_seen)
        .collect(),
        fields: fields(&[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ]),
        ..row("", "core", "Event", &["ev"])
    }
}

/// The age column of events reads another field than that of objects.
fn with_last_seen(mut column: Column) -> Column {
    if &*column.name == "Last Seen"
        && let Some(p) = path(".metadata.creationTimestamp")
    {
        column.cell = Cell::Age(p);
    }
    column
}

/// The same events as `events.k8s.io` shows them.
fn event_view() -> KindSpec {
    let stored = event();
    KindSpec {
        storage: Storage {
            view: Some(View {
                show: rules::show_event,
                keep: rules::keep_event,
            }),
            ..stored.storage.clone()
        },
        columns: vec![
            Column::name(),
            text("Type", "Normal or Warning.", ".type"),
            text("Reason", "Why it was recorded.", ".reason"),
            computed("Object", "string", "What it is about.", |e| {
                rules::reference(e.get("regarding"))
            }),
            text("Message", "What happened.", ".note"),
            Column::age(),
        ],
        fields: fields(&["reason", "type", "regarding.kind", "regarding.name", "regarding.uid"]),
        ..row("events.k8s.io", "events", "Event", &["ev"])
    }
}

fn lease() -> KindSpec {
    KindSpec {
        validate: Some(rules::validate_lease),
        columns: vec![
            Column::name(),
            text("Holder", "Who holds it.", ".spec.holderIdentity"),
            Column::age(),
        ],
        ..row("coordination.k8s.io", "coordination", "Lease", &[])
    }
}

fn deployment() -> KindSpec {
    KindSpec {
        categories: vec!["all".into()],
        status: StatusPart::Apart,
        generation: true,
        prepare: Some(rules::prepare_deployment),
        validate: Some(rules::validate_deployment),
        scale: scale(".spec.replicas", ".status.replicas", ".spec.selector"),
        columns: vec![
            Column::name(),
            computed(
                "Ready",
                "string",
                "Number of the pod with ready state",
                rules::deployment_ready,
            ),
            computed("Up-to-date", "string", "Pods of the newest template.", |d| {
                rules::number(d, "/status/updatedReplicas")
            }),
            computed("Available", "string", "Pods ready for long enough.", |d| {
                rules::number(d, "/status/availableReplicas")
            }),
            Column::age(),
            computed(
                "Containers",
                "string",
                "Names of each container in the template.",
                |d| rules::template(d, "name"),
            )
            .wide(),
            computed(
                "Images",
                "string",
                "Images referenced by each container in the template.",
                |d| rules::template(d, "image"),
            )
            .wide(),
            computed("Selector", "string", "Selects the pods.", rules::selector_text).wide(),
        ],
        ..row("apps", "apps", "Deployment", &["deploy"])
    }
}

fn scale(spec: &str, status: &str, selector: &str) -> Option<Scale> {
    Some(Scale {
        spec: path(spec)?,
        spec_text: spec.into(),
        status: path(status)?,
        selector: Selector::Labels(path(selector)?),
    })
}

fn definition() -> KindSpec {
    KindSpec {
        namespaced: false,
        categories: vec!["api-extensions".into()],
        status: StatusPart::Apart,
        generation: true,
        deletion: Deletion::EmptiesKind,
        prepare: Some(super::definitions::prepare),
        validate: Some(super::definitions::validate),
        columns: vec![
            Column::name(),
            text("Created At", "When it was created.", ".metadata.creationTimestamp"),
        ],
        ..row(
            APIEXTENSIONS,
            "apiextensions",
            "CustomResourceDefinition",
            &["crd", "crds"],
        )
    }
}

/// The label selector of an object as text, for scale and tables.
pub(crate) fn selector_text(selector: &Value) -> String {
    rules::label_selector_text(selector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_its_type_its_columns_and_its_selectable_fields() {
        for kind in builtin_kinds() {
            assert!(!kind.columns.is_empty());
            let json = kind.schema.to_openapi("#/", &mut std::collections::BTreeMap::new());
            assert_eq!(json["type"], "object", "{}", kind.kind);
        }
        assert_eq!(pod().fields.len(), 8);
        assert!(deployment().scale.is_some());
        assert_eq!(
            &*review("authorization.k8s.io", "SelfSubjectAccessReview", Review::SelfAccess).plural,
            "selfsubjectaccessreviews"
        );
    }
}
