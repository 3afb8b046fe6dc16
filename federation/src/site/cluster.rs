//! What members have in common, as the Cluster that stands for them says it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::interpret::look::{list, text};

/// The kinds that all of these members serve, from their `apiEnablements`.
pub fn common_enablements<'a>(members: impl IntoIterator<Item = &'a Value>) -> Value {
    // Version and kind -> the name of the kind's resource.
    type Served = BTreeMap<(String, String), String>;
    let served = |enablements: &Value| -> Served {
        let versions = enablements.as_array().into_iter().flatten();
        let kinds = versions.flat_map(|version| {
            let of = text(version, "/groupVersion").to_owned();
            list(version, "/resources").iter().map(move |kind| {
                (
                    (of.clone(), text(kind, "/kind").to_owned()),
                    text(kind, "/name").to_owned(),
                )
            })
        });
        kinds.collect()
    };
    let mut members = members.into_iter();
    let mut common = members.next().map(served).unwrap_or_default();
    let mut last: Option<&Value> = None;
    for member in members {
        // Most have what the one before has.
        if last != Some(member) {
            let other = served(member);
            common.retain(|kind, _| other.contains_key(kind));
            last = Some(member);
        }
    }
    let mut versions: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
    for ((version, kind), name) in common {
        versions.entry(version).or_default().insert((name, kind));
    }
    versions
        .into_iter()
        .map(|(version, kinds)| {
            let kinds: Vec<Value> = kinds
                .into_iter()
                .map(|(name, kind)| json!({"name": name, "kind": kind}))
                .collect();
            json!({"groupVersion": version, "resources": kinds})
        })
        .collect()
}

/// The lowest of these versions of Kubernetes.
pub fn lowest_version<'a>(versions: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let parts = |version: &str| -> Vec<u64> {
        let numbers = version.trim_start_matches('v').split(|c: char| !c.is_ascii_digit());
        numbers.take(3).map(|number| number.parse().unwrap_or(0)).collect()
    };
    versions
        .into_iter()
        .filter(|version| !version.is_empty())
        .min_by_key(|version| (parts(version), *version))
}
