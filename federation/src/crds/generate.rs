//! Definitions from types. JSON Schema as derived says more than the API server's structural schemas may: it is brought to
//! their shape here.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::kinds::{
    APPS_GROUP, CLUSTER_GROUP, Cluster, ClusterOverridePolicy, ClusterPropagationPolicy, ClusterResourceBinding,
    FederatedDeployment, OverridePolicy, POLICY_GROUP, PropagationPolicy, ResourceBinding, WORK_GROUP, Work,
};

struct Kind {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static str,
    category: &'static str,
    namespaced: bool,
    status_subresource: bool,
    /// Name, type, path, shown only when wide.
    columns: &'static [Column],
}

type Column = (&'static str, &'static str, &'static str, bool);

const KARMADA: &str = "karmada-io";
const AGE: Column = ("AGE", "date", ".metadata.creationTimestamp", false);
const POLICY_COLUMNS: &[Column] = &[
    ("CONFLICT-RESOLUTION", "string", ".spec.conflictResolution", false),
    ("PRIORITY", "string", ".spec.priority", false),
    AGE,
];
const BINDING_COLUMNS: &[Column] = &[
    (
        "SCHEDULED",
        "string",
        r#".status.conditions[?(@.type=="Scheduled")].status"#,
        false,
    ),
    (
        "FULLYAPPLIED",
        "string",
        r#".status.conditions[?(@.type=="FullyApplied")].status"#,
        false,
    ),
    AGE,
];

/// A policy: it has no status, and columns only where others sort by them.
const fn policy(
    kind: &'static str,
    plural: &'static str,
    short: &'static str,
    namespaced: bool,
    columns: &'static [Column],
) -> Kind {
    Kind {
        group: POLICY_GROUP,
        version: "v1alpha1",
        kind,
        plural,
        short,
        category: KARMADA,
        namespaced,
        status_subresource: false,
        columns,
    }
}

/// A binding.
const fn binding(kind: &'static str, plural: &'static str, short: &'static str, namespaced: bool) -> Kind {
    Kind {
        group: WORK_GROUP,
        version: "v1alpha2",
        kind,
        plural,
        short,
        category: KARMADA,
        namespaced,
        status_subresource: true,
        columns: BINDING_COLUMNS,
    }
}

/// Makes all definitions: (file name, object).
pub fn generate() -> Vec<(String, Value)> {
    vec![
        definition::<PropagationPolicy>(&policy(
            "PropagationPolicy",
            "propagationpolicies",
            "pp",
            true,
            POLICY_COLUMNS,
        )),
        definition::<ClusterPropagationPolicy>(&policy(
            "ClusterPropagationPolicy",
            "clusterpropagationpolicies",
            "cpp",
            false,
            POLICY_COLUMNS,
        )),
        definition::<OverridePolicy>(&policy("OverridePolicy", "overridepolicies", "op", true, &[])),
        definition::<ClusterOverridePolicy>(&policy(
            "ClusterOverridePolicy",
            "clusteroverridepolicies",
            "cop",
            false,
            &[],
        )),
        definition::<ResourceBinding>(&binding("ResourceBinding", "resourcebindings", "rb", true)),
        definition::<ClusterResourceBinding>(&binding(
            "ClusterResourceBinding",
            "clusterresourcebindings",
            "crb",
            false,
        )),
        definition::<Work>(&Kind {
            group: WORK_GROUP,
            version: "v1alpha1",
            kind: "Work",
            plural: "works",
            short: "wk",
            category: KARMADA,
            namespaced: true,
            status_subresource: true,
            columns: &[
                ("WORKLOAD-KIND", "string", ".spec.workload.manifests[*].kind", false),
                (
                    "APPLIED",
                    "string",
                    r#".status.conditions[?(@.type=="Applied")].status"#,
                    false,
                ),
                AGE,
            ],
        }),
        definition::<Cluster>(&Kind {
            group: CLUSTER_GROUP,
            version: "v1alpha1",
            kind: "Cluster",
            plural: "clusters",
            short: "",
            category: "",
            namespaced: false,
            status_subresource: true,
            columns: &[
                ("VERSION", "string", ".status.kubernetesVersion", false),
                ("MODE", "string", ".spec.syncMode", false),
                (
                    "READY",
                    "string",
                    r#".status.conditions[?(@.type=="Ready")].status"#,
                    false,
                ),
                AGE,
                ("ZONES", "string", ".spec.zones", true),
                ("REGION", "string", ".spec.region", true),
                ("PROVIDER", "string", ".spec.provider", true),
                ("API-ENDPOINT", "string", ".spec.apiEndpoint", true),
                ("PROXY-URL", "string", ".spec.proxyURL", true),
            ],
        }),
        definition::<FederatedDeployment>(&Kind {
            group: APPS_GROUP,
            version: "v1alpha1",
            kind: "FederatedDeployment",
            plural: "federateddeployments",
            short: "fdeploy",
            category: "",
            namespaced: true,
            status_subresource: true,
            columns: &[
                ("REPLICAS", "integer", ".status.replicas", false),
                ("READY-REPLICAS", "integer", ".status.readyReplicas", false),
                (
                    "READY",
                    "string",
                    r#".status.conditions[?(@.type=="Ready")].status"#,
                    false,
                ),
                AGE,
            ],
        }),
    ]
}

fn definition<T: JsonSchema>(kind: &Kind) -> (String, Value) {
    let name = format!("{}.{}", kind.plural, kind.group);
    let mut names = json!({
        "kind": kind.kind,
        "listKind": format!("{}List", kind.kind),
        "plural": kind.plural,
        "singular": kind.kind.to_lowercase(),
    });
    if !kind.short.is_empty() {
        names["shortNames"] = json!([kind.short]);
    }
    if !kind.category.is_empty() {
        names["categories"] = json!([kind.category]);
    }
    let columns: Vec<Value> = kind
        .columns
        .iter()
        .map(|(name, kind, path, wide)| {
            let mut column = json!({ "name": name, "type": kind, "jsonPath": path });
            if *wide {
                column["priority"] = json!(1);
            }
            column
        })
        .collect();
    let mut version = json!({
        "name": kind.version,
        "served": true,
        "storage": true,
        "schema": { "openAPIV3Schema": schema::<T>() },
    });
    if !columns.is_empty() {
        version["additionalPrinterColumns"] = json!(columns);
    }
    if kind.status_subresource {
        version["subresources"] = json!({ "status": {} });
    }
    let object = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": name },
        "spec": {
            "group": kind.group,
            "names": names,
            "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
            "versions": [version],
        },
    });
    (format!("{}_{}.yaml", kind.group, kind.plural), object)
}

/// The structural schema of a type.
fn schema<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    make_structural(&mut schema);
    // Of its metadata a definition may say no more than the type.
    if let Some(Value::Object(metadata)) = schema.pointer_mut("/properties/metadata") {
        metadata.remove("description");
    }
    schema
}

fn make_structural(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    if !fields.contains_key("x-kubernetes-int-or-string") {
        unwrap_option(fields);
    }
    // Descriptions keep their words and lose the line breaks of the source.
    if let Some(Value::String(text)) = fields.get_mut("description") {
        *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    merge_variants(fields);
    for key in ["title", "nullable", "default", "$defs", "components"] {
        fields.remove(key);
    }
    if let Some(default) = fields.remove("x-default") {
        fields.insert("default".to_owned(), default);
    }
    for (_, property) in fields
        .get_mut("properties")
        .and_then(Value::as_object_mut)
        .into_iter()
        .flatten()
    {
        make_structural(property);
    }
    for key in ["items", "additionalProperties"] {
        match fields.get_mut(key) {
            // Whatever is not declared is pruned or kept by the API server's own rules.
            Some(Value::Bool(_)) => drop(fields.remove(key)),
            Some(inner) => make_structural(inner),
            None => {}
        }
    }
}

/// `anyOf: [T, null]` and `allOf: [T]` become T; the field's own description stands before the type's.
fn unwrap_option(fields: &mut Map<String, Value>) {
    for key in ["anyOf", "allOf"] {
        let Some(Value::Array(choices)) = fields.remove(key) else {
            continue;
        };
        let is_null =
            |choice: &Value| choice.get("enum") == Some(&json!([null])) || choice.get("type") == Some(&json!("null"));
        for choice in choices.into_iter().filter(|choice| !is_null(choice)) {
            for (key, value) in choice.as_object().cloned().unwrap_or_default() {
                fields.entry(key).or_insert(value);
            }
        }
    }
}

/// An enum whose variants have descriptions comes as `oneOf`, one variant each: the variants' names become `enum`.
fn merge_variants(fields: &mut Map<String, Value>) {
    if let Some(Value::Array(variants)) = fields.remove("oneOf") {
        let names: Vec<Value> = variants
            .iter()
            .flat_map(|variant| {
                variant
                    .get("enum")
                    .and_then(Value::as_array)
                    .cloned()
                    .unwrap_or_default()
            })
            .collect();
        fields.insert("type".to_owned(), json!("string"));
        fields.insert("enum".to_owned(), Value::Array(names));
    }
    if let Some(Value::Array(names)) = fields.get_mut("enum") {
        names.retain(|name| !name.is_null());
    }
}
