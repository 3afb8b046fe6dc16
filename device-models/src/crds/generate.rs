//! Definitions from types. JSON Schema as derived says more than the API server's structural schemas may: it is brought to
//! their shape here.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::kinds::{DEVICES_GROUP, DEVICES_VERSION, Device, DeviceModel, DeviceStatus, EDGE_GROUP, EdgeNode};

struct Kind {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short: &'static [&'static str],
    namespaced: bool,
    status_subresource: bool,
    /// Name, type, path, shown only when wide.
    columns: &'static [(&'static str, &'static str, &'static str, bool)],
}

const AGE: (&str, &str, &str, bool) = ("Age", "date", ".metadata.creationTimestamp", false);

/// Makes all definitions: (file name, object).
pub fn generate() -> Vec<(String, Value)> {
    vec![
        definition::<DeviceModel>(&Kind {
            group: DEVICES_GROUP,
            version: DEVICES_VERSION,
            kind: "DeviceModel",
            plural: "devicemodels",
            singular: "devicemodel",
            short: &["dm"],
            namespaced: true,
            status_subresource: false,
            columns: &[("Protocol", "string", ".spec.protocol", false), AGE],
        }),
        definition::<Device>(&Kind {
            group: DEVICES_GROUP,
            version: DEVICES_VERSION,
            kind: "Device",
            plural: "devices",
            singular: "device",
            short: &["dev"],
            namespaced: true,
            // As in KubeEdge: what a device says is in its DeviceStatus.
            status_subresource: false,
            columns: &[
                ("Model", "string", ".spec.deviceModelRef.name", false),
                ("Node", "string", ".spec.nodeName", false),
                ("Protocol", "string", ".spec.protocol.protocolName", true),
                AGE,
            ],
        }),
        definition::<DeviceStatus>(&Kind {
            group: DEVICES_GROUP,
            version: DEVICES_VERSION,
            kind: "DeviceStatus",
            plural: "devicestatuses",
            singular: "devicestatus",
            short: &[],
            namespaced: true,
            status_subresource: false,
            columns: &[
                ("State", "string", ".status.state", false),
                ("Last-Online", "string", ".status.lastOnlineTime", false),
                AGE,
            ],
        }),
        definition::<EdgeNode>(&Kind {
            group: EDGE_GROUP,
            version: "v1",
            kind: "EdgeNode",
            plural: "edgenodes",
            singular: "edgenode",
            short: &["en"],
            namespaced: false,
            status_subresource: true,
            columns: &[
                ("Connected", "boolean", ".status.connected", false),
                ("Link", "string", ".status.link", false),
                ("Version", "string", ".status.agentVersion", false),
                ("In-Sync", "boolean", ".status.inSync", false),
                ("Last-Seen", "date", ".status.lastSeen", false),
                ("Site", "string", ".spec.site", true),
                ("Address", "string", ".status.address", true),
                ("Desired", "string", ".status.desired.digest", true),
                ("Observed", "string", ".status.observed.digest", true),
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
        "singular": kind.singular,
    });
    if !kind.short.is_empty() {
        names["shortNames"] = json!(kind.short);
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
        "additionalPrinterColumns": columns,
        "schema": { "openAPIV3Schema": schema::<T>() },
    });
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
    unwrap_option(fields);
    // Descriptions keep their words and lose the line breaks of the source.
    if let Some(Value::String(text)) = fields.get_mut("description") {
        *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    merge_variants(fields);
    for key in ["title", "nullable", "default", "$defs", "components", "minimum"] {
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
