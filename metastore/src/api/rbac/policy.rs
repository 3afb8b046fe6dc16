//! The roles and bindings that are there from the start, and how they are kept.
//!
//! The table is text, one line each:
//!
//! ```text
//! role NAME [for:ROLE …] [from:ROLE]     a cluster role; its rules follow. It is gathered by the roles it is `for`, and gathers those `from`
//!   VERBS | GROUPS | RESOURCES           a rule; `core` is the empty group; `read`, `write`, `all` stand for their verbs
//!   VERBS | PATHS                        a rule for paths
//!     + WORD …                           continues the line before
//! bind ROLE GROUP …                      a cluster role binding of the role's name
//! ```
//!
//! At each start what is missing of them is added; what people added stays, and who sets the annotation
//! `rbac.authorization.kubernetes.io/autoupdate` to `false` is left alone. Nothing is written when nothing is missing.

use std::collections::BTreeMap;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::{Map, Value, json};

use super::rule::Rule;
use super::{CLUSTER_ROLES, GROUP, gather_once};
use crate::api::auth::User;
use crate::api::server::{ApiServer, ResourceId};
use crate::api::status::Status;

const POLICY: &str = include_str!("policy.txt");
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const GATHERED: &str = "rbac.authorization.k8s.io/aggregate-to-";
const BINDINGS: &str = "clusterrolebindings";
/// Objects written at once: they share a sync.
const AT_ONCE: usize = 32;

/// Brings what the table says, and the tables of whoever builds the server, into the store.
///
/// # Errors
/// A table that cannot be read, or a store that cannot be read or written.
pub(crate) async fn install(server: &ApiServer, more: &[String]) -> Result<(), Status> {
    let mut wanted = Vec::new();
    for table in std::iter::once(POLICY).chain(more.iter().map(String::as_str)) {
        let objects = read(table).map_err(|why| Status::internal(format!("the table of default roles: {why}")))?;
        wanted.extend(objects);
    }
    stream::iter(wanted)
        .map(|object| ensure(server, object))
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    gather_once(&server.core).await
}

/// Makes one object be there with at least what it must have.
async fn ensure(server: &ApiServer, wanted: Value) -> Result<(), Status> {
    let text = |pointer: &str| wanted.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let resource = if text("/kind") == "ClusterRole" {
        CLUSTER_ROLES
    } else {
        BINDINGS
    };
    let id = ResourceId::cluster(GROUP, resource, text("/metadata/name"));
    let user = User::internal();
    // Once to make it, once more when it came in between.
    for _ in 0..2 {
        let Some(there) = server.get(&id)? else {
            match server.create(&user, wanted.clone()).await {
                Err(status) if status.reason == "AlreadyExists" => continue,
                other => return other.map(drop),
            }
        };
        let there = super::super::write::parse(&there)?;
        if completed(&there, &wanted) == there {
            return Ok(());
        }
        let changed = server.modify(&user, &id, "", |current| {
            *current = completed(current, &wanted);
            Ok(())
        });
        return changed.await.map(drop);
    }
    Ok(())
}

/// What is there, with what it lacks.
fn completed(there: &Value, wanted: &Value) -> Value {
    let mut out = there.clone();
    if there.pointer("/metadata/annotations").and_then(|a| a.get(AUTOUPDATE)) == Some(&json!("false")) {
        return out;
    }
    let Value::Object(map) = &mut out else { return out };
    if let Some(Value::Object(metadata)) = map.get_mut("metadata") {
        for part in ["labels", "annotations"] {
            let have = metadata.entry(part).or_insert_with(|| json!({}));
            if let (Value::Object(have), Some(Value::Object(must))) = (have, wanted["metadata"].get(part)) {
                have.extend(must.clone());
            }
        }
    }
    if let Some(aggregation) = wanted.get("aggregationRule") {
        map.entry("aggregationRule").or_insert_with(|| aggregation.clone());
    } else {
        add_rules(map, wanted);
    }
    let Some(Value::Array(must)) = wanted.get("subjects") else {
        return out;
    };
    if let Value::Array(have) = map.entry("subjects").or_insert_with(|| json!([])) {
        let added: Vec<Value> = must.iter().filter(|s| !have.contains(s)).cloned().collect();
        have.extend(added);
    }
    out
}

/// Adds the permissions that a role lacks, as rules of their own.
fn add_rules(role: &mut Map<String, Value>, wanted: &Value) {
    let rules = |v: Option<&Value>| -> Vec<Rule> {
        v.and_then(|v| serde_json::from_value(v.clone()).ok())
            .unwrap_or_default()
    };
    let have = rules(role.get("rules"));
    let lacking: Vec<Rule> = rules(wanted.get("rules"))
        .into_iter()
        .filter(|rule| !rule.parts().all(|part| have.iter().any(|h| h.covers(&part))))
        .collect();
    if lacking.is_empty() {
        return;
    }
    if let Value::Array(list) = role.entry("rules").or_insert_with(|| json!([])) {
        list.extend(lacking.iter().map(|rule| json!(rule)));
    }
}

/// The objects of a table.
fn read(table: &str) -> Result<Vec<Value>, String> {
    let mut lines: Vec<String> = Vec::new();
    for line in table.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')) {
        match line.trim_start().strip_prefix("+ ") {
            Some(more) => {
                let last = lines.last_mut().ok_or("it begins with a continuation")?;
                last.push(' ');
                last.push_str(more);
            }
            None => lines.push(line.to_owned()),
        }
    }
    let mut out: Vec<Value> = Vec::new();
    for line in lines {
        let wrong = || format!("{line:?} cannot be read");
        if line.starts_with(' ') {
            let rule = rule(&line).ok_or_else(wrong)?;
            let rules = out.last_mut().and_then(|role| role.get_mut("rules"));
            let rules = rules.and_then(Value::as_array_mut).ok_or_else(wrong)?;
            rules.push(json!(rule));
            continue;
        }
        let mut words = line.split_whitespace();
        let object = match (words.next(), words.next()) {
            (Some("role"), Some(name)) => role(name, words),
            (Some("bind"), Some(name)) => Some(binding(name, words)),
            _ => None,
        };
        out.push(object.ok_or_else(wrong)?);
    }
    Ok(out)
}

fn metadata(name: &str) -> Value {
    json!({
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {AUTOUPDATE: "true"},
    })
}

fn role<'t>(name: &str, words: impl Iterator<Item = &'t str>) -> Option<Value> {
    let mut role = json!({"apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole", "metadata": metadata(name)});
    let map = role.as_object_mut()?;
    for word in words {
        match word.split_once(':')? {
            ("for", other) => {
                let labels = map["metadata"]["labels"].as_object_mut()?;
                labels.insert(format!("{GATHERED}{other}"), json!("true"));
            }
            ("from", other) => {
                let labels = BTreeMap::from([(format!("{GATHERED}{other}"), "true")]);
                map.insert(
                    "aggregationRule".to_owned(),
                    json!({"clusterRoleSelectors": [{"matchLabels": labels}]}),
                );
            }
            _ => return None,
        }
    }
    if !map.contains_key("aggregationRule") {
        map.insert("rules".to_owned(), json!([]));
    }
    Some(role)
}

fn binding<'t>(name: &str, groups: impl Iterator<Item = &'t str>) -> Value {
    let subjects: Vec<Value> = groups
        .map(|group| json!({"kind": "Group", "apiGroup": GROUP, "name": group}))
        .collect();
    let mut binding = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRoleBinding", "metadata": metadata(name),
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": name},
    });
    if let Some(map) = binding.as_object_mut().filter(|_| !subjects.is_empty()) {
        map.insert("subjects".to_owned(), json!(subjects));
    }
    binding
}

fn rule(line: &str) -> Option<Rule> {
    let words = |text: &str| -> Vec<Box<str>> { text.split_whitespace().map(Into::into).collect() };
    let mut parts = line.split('|').map(str::trim);
    let verbs = match parts.next()? {
        "read" => words("get list watch"),
        "write" => words("create delete deletecollection patch update"),
        "all" => words("create delete deletecollection get list patch update watch"),
        other => words(other),
    };
    let (first, second) = (parts.next()?, parts.next());
    if verbs.is_empty() || first.is_empty() || parts.next().is_some() {
        return None;
    }
    let empty = Rule {
        verbs,
        ..Rule::default()
    };
    let Some(resources) = second else {
        return Some(Rule {
            urls: words(first),
            ..empty
        });
    };
    let groups = first
        .split_whitespace()
        .map(|g| if g == "core" { "" } else { g }.into());
    Some(Rule {
        groups: groups.collect(),
        resources: words(resources),
        ..empty
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_the_roles_that_clients_expect() {
        let objects = read(POLICY).unwrap();
        let find = |kind: &str, name: &str| {
            objects
                .iter()
                .find(|o| o["kind"] == kind && o["metadata"]["name"] == name)
                .cloned()
                .unwrap_or_else(|| panic!("{kind} {name}"))
        };
        let edit = find("ClusterRole", "edit");
        assert_eq!(
            edit["aggregationRule"]["clusterRoleSelectors"][0]["matchLabels"],
            json!({"rbac.authorization.k8s.io/aggregate-to-edit": "true"})
        );
        assert_eq!(
            edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-admin"],
            "true"
        );
        let root = find("ClusterRole", "cluster-admin");
        assert_eq!(root["rules"], json!(Rule::everything()));
        let view = find("ClusterRole", "system:aggregate-to-view");
        let resources = view["rules"][0]["resources"].as_array().unwrap();
        assert_eq!(
            (resources.first(), resources.last()),
            (Some(&json!("configmaps")), Some(&json!("services/status")))
        );
        assert_eq!(view["rules"][0]["apiGroups"], json!([""]));
        for name in ["system:discovery", "system:basic-user", "system:public-info-viewer"] {
            find("ClusterRole", name);
            assert_eq!(find("ClusterRoleBinding", name)["roleRef"]["name"], *name);
        }
        for wrong in [
            "x",
            "role",
            "  get | a",
            "role a\n  get",
            "role a x",
            "+ b",
            "role a\n  get | a | b | c",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_missing_is_added_and_what_is_there_stays() {
        let wanted = &read("role r for:view\n  read | core | pods\nbind r a b").unwrap();
        let mut there = wanted[0].clone();
        there["rules"] = json!([{"verbs": ["get"], "apiGroups": ["*"], "resources": ["*"]}]);
        there["metadata"]["labels"] = json!({"mine": "x"});
        let after = completed(&there, &wanted[0]);
        assert_eq!(after["rules"].as_array().unwrap().len(), 2);
        assert_eq!(after["metadata"]["labels"]["mine"], "x");
        assert_eq!(
            after["metadata"]["labels"]["kubernetes.io/bootstrapping"],
            "rbac-defaults"
        );
        assert_eq!(completed(&after, &wanted[0]), after);
        let mut bound = wanted[1].clone();
        bound["subjects"] = json!([{"kind": "User", "name": "me"}, {"kind": "Group", "apiGroup": GROUP, "name": "b"}]);
        assert_eq!(completed(&bound, &wanted[1])["subjects"].as_array().unwrap().len(), 3);
        bound["metadata"]["annotations"][AUTOUPDATE] = json!("false");
        assert_eq!(completed(&bound, &wanted[1]), bound);
    }
}
