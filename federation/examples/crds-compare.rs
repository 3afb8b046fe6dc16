//! Compares our definitions of Karmada's kinds with its own: `cargo run -p federation --example crds-compare FOLDER`, where FOLDER holds
//! Karmada's CustomResourceDefinition files.
//!
//! Whatever one accepts the other must accept too: same fields, types, formats, bounds, enums, required fields, list types, defaults and
//! treatment of unknown fields; and users see the same short names and columns. Exit code 1 on any difference that is not in the list of
//! known ones, and on a known one that is no more.

#![allow(clippy::print_stdout, reason = "the output of a command")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use serde_json::{Map, Value, json};

/// Differences that are meant: end of the definition's name, end of the path, how many there are, why.
const KNOWN: [(&str, &str, usize, &str); 5] = [
    (
        "",
        ".replicaScheduling.replicaSchedulingType",
        4,
        "the old spelling Weighted gets past the schema, to be translated with a warning",
    ),
    (
        "",
        ".replicaScheduling.weightList",
        4 * 24,
        "the old spelling of weightPreference.staticWeightList, likewise",
    ),
    (
        "resourcebindings.work.karmada.io",
        "version v1alpha1",
        2,
        "no longer stored there, and served through a conversion webhook",
    ),
    (
        "serviceexports.multicluster.x-k8s.io",
        "",
        1,
        "Services across clusters are not federated",
    ),
    (
        "serviceimports.multicluster.x-k8s.io",
        "",
        1,
        "Services across clusters are not federated",
    ),
];

/// What decides about acceptance, besides the fields themselves. Descriptions do not.
const FACETS: [&str; 17] = [
    "type",
    "format",
    "pattern",
    "anyOf",
    "default",
    "nullable",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-int-or-string",
    "x-kubernetes-map-type",
    "x-kubernetes-list-type",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-validations",
];

/// What is said, by path.
type Facts = BTreeMap<String, BTreeMap<String, Value>>;

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: crds-compare FOLDER")?;
    let mut theirs = BTreeMap::new();
    for file in std::fs::read_dir(folder)? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let definition: Value = serde_saphyr::from_str(&std::fs::read_to_string(path)?)?;
            theirs.insert(name(&definition), definition);
        }
    }
    let mut compared = 0;
    let mut found: Vec<(String, String, String)> = Vec::new();
    for text in federation::crds::CRDS {
        let ours: Value = serde_saphyr::from_str(text)?;
        let name = name(&ours);
        match theirs.remove(&name) {
            Some(theirs) => {
                let (ours, theirs) = (facts(&ours), facts(&theirs));
                compared += ours.len();
                compare(&name, &ours, &theirs, &mut found);
            }
            None => println!("{name}: not in the folder, not compared"),
        }
    }
    for name in theirs.into_keys() {
        found.push((name, String::new(), "only there".to_owned()));
    }
    let mut known = [0; KNOWN.len()];
    let mut unknown = 0;
    for (name, path, what) in &found {
        let place = KNOWN
            .iter()
            .position(|(of, within, ..)| name.ends_with(of) && is_at(path, within));
        match place {
            Some(place) => known[place] += 1,
            None => {
                println!("{name} {path}: {what}");
                unknown += 1;
            }
        }
    }
    for ((_, path, expected, why), there) in KNOWN.iter().zip(known) {
        println!("known: {there} at {path:?}: {why}");
        if there != *expected {
            println!("but {expected} are known");
            unknown += 1;
        }
    }
    let sum: usize = known.iter().sum();
    println!("{compared} fields compared, {sum} known differences, {unknown} unexplained");
    Ok(if unknown == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Whether a path ends with another, or is below one that does.
fn is_at(path: &str, end: &str) -> bool {
    path.match_indices(end)
        .any(|(at, _)| matches!(path[at + end.len()..].chars().next(), None | Some('.' | '[' | '{')))
}

fn name(definition: &Value) -> String {
    definition["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

fn compare(name: &str, ours: &Facts, theirs: &Facts, found: &mut Vec<(String, String, String)>) {
    let paths: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    for path in paths {
        let what = match (ours.get(path), theirs.get(path)) {
            (Some(a), Some(b)) if a == b => continue,
            (Some(a), Some(b)) => format!("here {a:?}, there {b:?}"),
            (Some(_), None) => "only here".to_owned(),
            (None, _) => "only there".to_owned(),
        };
        found.push((name.to_owned(), path.clone(), what));
    }
}

fn facts(definition: &Value) -> Facts {
    let mut facts = Facts::new();
    let spec = &definition["spec"];
    let mut top: BTreeMap<String, Value> = spec["names"]
        .as_object()
        .cloned()
        .unwrap_or_default()
        .into_iter()
        .collect();
    top.insert("scope".to_owned(), spec["scope"].clone());
    facts.insert(String::new(), top);
    for version in spec["versions"].as_array().into_iter().flatten() {
        let at = format!("version {}", version["name"].as_str().unwrap_or_default());
        if version["storage"] != true {
            // Its fields would all be missing: once is enough.
            facts.insert(at, BTreeMap::new());
            continue;
        }
        let mut here = BTreeMap::new();
        for key in ["served", "additionalPrinterColumns"] {
            here.insert(key.to_owned(), version[key].clone());
        }
        // No subresources, said in two ways.
        let subresources = version["subresources"].as_object().cloned().unwrap_or_default();
        here.insert("subresources".to_owned(), json!(subresources));
        facts.insert(at, here);
        collect("$", &version["schema"]["openAPIV3Schema"], &mut facts);
    }
    facts
}

fn collect(path: &str, schema: &Value, facts: &mut Facts) {
    let empty = Map::new();
    let schema = schema.as_object().unwrap_or(&empty);
    let mut here: BTreeMap<String, Value> = FACETS
        .iter()
        .filter_map(|key| Some(((*key).to_owned(), schema.get(*key)?.clone())))
        .collect();
    for key in ["enum", "required", "x-kubernetes-list-map-keys"] {
        // Sets: the order says nothing.
        if let Some(list) = schema.get(key).and_then(Value::as_array) {
            let set: BTreeSet<String> = list.iter().map(Value::to_string).collect();
            here.insert(key.to_owned(), set.into_iter().collect());
        }
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
