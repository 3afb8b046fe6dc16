//! Compares our definitions of the device kinds with KubeEdge's own: `cargo run -p device-models --example crds-compare FOLDER`,
//! where FOLDER holds KubeEdge's CustomResourceDefinition files.
//!
//! Whatever one accepts the other must accept too, in version v1beta1: same fields, types, formats, enums, required
//! fields, and same treatment of unknown fields. A default may stand here only where one stands there. Exit code 1 on any
//! difference.

#![allow(clippy::print_stdout, reason = "the output of a command")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use serde_json::{Map, Value};

const VERSION: &str = "v1beta1";
/// What decides about acceptance, besides the fields themselves. Descriptions and printer columns do not.
const FACETS: [&str; 6] = [
    "type",
    "format",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-map-type",
    "minimum",
    "maximum",
];

type Facts = BTreeMap<String, BTreeMap<String, Value>>;

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: crds-compare FOLDER")?;
    let mut theirs = BTreeMap::new();
    for file in std::fs::read_dir(folder)? {
        let path = file?.path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        for document in std::fs::read_to_string(path)?
            .split("\n---")
            .filter(|text| text.contains("CustomResourceDefinition"))
        {
            let definition: Value = serde_saphyr::from_str(document.trim_start_matches("---"))?;
            theirs.insert(definition["metadata"]["name"].to_string(), definition);
        }
    }
    let mut differences = 0;
    let mut compared = 0;
    for text in device_models::CRDS {
        let ours: Value = serde_saphyr::from_str(text)?;
        if ours["spec"]["group"] != device_models::kinds::DEVICES_GROUP {
            continue;
        }
        let name = ours["metadata"]["name"].to_string();
        let Some(theirs) = theirs.get(&name) else {
            println!("{name}: not in the folder");
            differences += 1;
            continue;
        };
        let (ours, theirs) = (facts(&ours), facts(theirs));
        compared += ours.len();
        differences += compare(&name, &ours, &theirs);
    }
    println!("{compared} fields compared, {differences} differences");
    Ok(if differences == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn compare(name: &str, ours: &Facts, theirs: &Facts) -> usize {
    let paths: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let mut differences = 0;
    for path in paths {
        match (ours.get(path), theirs.get(path)) {
            (Some(a), Some(b)) if a == b => continue,
            (Some(a), Some(b)) => println!("{name} {path}: here {a:?}, there {b:?}"),
            (Some(_), None) => println!("{name} {path}: only here"),
            (None, _) => println!("{name} {path}: only there"),
        }
        differences += 1;
    }
    differences
}

fn facts(definition: &Value) -> Facts {
    let mut facts = Facts::new();
    let spec = &definition["spec"];
    let mut top = BTreeMap::new();
    for key in ["kind", "listKind", "plural", "singular"] {
        top.insert(key.to_owned(), spec["names"][key].clone());
    }
    top.insert("scope".to_owned(), spec["scope"].clone());
    let version = spec["versions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|version| version["name"] == VERSION);
    let version = version.cloned().unwrap_or_default();
    for key in ["served", "storage", "subresources"] {
        top.insert(key.to_owned(), version[key].clone());
    }
    facts.insert(String::new(), top);
    collect("$", &version["schema"]["openAPIV3Schema"], &mut facts);
    facts
}

fn collect(path: &str, schema: &Value, facts: &mut Facts) {
    let empty = Map::new();
    let schema = schema.as_object().unwrap_or(&empty);
    let mut here: BTreeMap<String, Value> = FACETS
        .iter()
        .filter_map(|key| Some(((*key).to_owned(), schema.get(*key)?.clone())))
        .collect();
    for key in ["enum", "required"] {
        // Sets: the order says nothing.
        if let Some(list) = schema.get(key).and_then(Value::as_array) {
            let set: BTreeSet<String> = list.iter().map(Value::to_string).collect();
            here.insert(key.to_owned(), set.into_iter().collect());
        }
    }
    if let Some(default) = schema.get("default") {
        here.insert("default".to_owned(), default.clone());
    }
    facts.insert(path.to_owned(), here);
    for (name, property) in schema.get("properties").and_then(Value::as_object).unwrap_or(&empty) {
        collect(&format!("{path}.{name}"), property, facts);
    }
    for (key, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
        if let Some(inner) = schema.get(key) {
            collect(&format!("{path}{mark}"), inner, facts);
        }
    }
}
