//! `kurator describe`: one object of any kind with its conditions and what happened to it.

use daemon::exit::Failure;
use http::Method;
use serde_json::Value;

use super::get;
use crate::cli::{Global, Output};
use crate::client::Api;
use crate::{output, say};

pub(crate) async fn run(global: &Global, what: &str, name: &str) -> Result<(), Failure> {
    let api = Api::find(global).await?;
    let resource = get::find(&api, what).await?;
    let object = api.get(&resource.path(Some(&global.namespace), Some(name))).await?;
    let text = match global.output {
        Output::Json => output::json(&object),
        Output::Yaml => output::yaml(&object)?,
        Output::Name => format!("{}/{name}\n", resource.full()),
        Output::Table | Output::Wide => {
            let events = events(&api, &object).await?;
            render(&object, &events, daemon::clock::wall_ms())?
        }
    };
    say::text(&text);
    Ok(())
}

/// What was told about an object, oldest first. None where the server has no events, or does not let them be read.
pub(super) async fn events(api: &Api, object: &Value) -> Result<Vec<Value>, Failure> {
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
    let mut events = Vec::new();
    for uid in uids(object) {
        let uid = get::escaped(uid);
        let path = format!("/api/v1/namespaces/{namespace}/events?fieldSelector=involvedObject.uid%3D{uid}");
        if let Ok(mut list) = api.try_json(Method::GET, &path, None).await?
            && let Value::Array(items) = list["items"].take()
        {
            events.extend(items);
        }
    }
    events.sort_by(|a, b| when(a).cmp(when(b)));
    Ok(events)
}

/// What Events may call an object.
fn uids(object: &Value) -> impl Iterator<Item = &str> {
    let metadata = &object["metadata"];
    // Who tells of its own Node, a kubelet or a gateway, gives the name as the uid.
    let node = object["kind"] == "Node" && object["apiVersion"] == "v1";
    [Some(&metadata["uid"]), node.then_some(&metadata["name"])]
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

/// When it happened last.
pub(super) fn when(event: &Value) -> &str {
    ["lastTimestamp", "eventTime", "firstTimestamp"]
        .iter()
        .find_map(|field| event[field].as_str())
        .or_else(|| event["metadata"]["creationTimestamp"].as_str())
        .unwrap_or_default()
}

fn render(object: &Value, events: &[Value], now: u64) -> Result<String, Failure> {
    let metadata = &object["metadata"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut rows = vec![
        vec!["Name:".to_owned(), text(&metadata["name"])],
        vec![
            "Kind:".to_owned(),
            format!("{} ({})", text(&object["kind"]), text(&object["apiVersion"])),
        ],
    ];
    let mut add = |name: &str, value: String| {
        if !value.is_empty() {
            rows.push(vec![name.to_owned(), value]);
        }
    };
    add("Namespace:", text(&metadata["namespace"]));
    for (name, field) in [("Labels:", "labels"), ("Annotations:", "annotations")] {
        let entries = metadata[field].as_object().into_iter().flatten();
        for (at, (key, value)) in entries.enumerate() {
            let value = value.as_str().unwrap_or_default().replace('\n', " ");
            add(if at == 0 { name } else { " " }, format!("{key}={value}"));
        }
    }
    for owner in metadata["ownerReferences"].as_array().into_iter().flatten() {
        add(
            "Owned by:",
            format!("{}/{}", text(&owner["kind"]), text(&owner["name"])),
        );
    }
    let created = text(&metadata["creationTimestamp"]);
    if !created.is_empty() {
        add("Created:", format!("{created} ({} ago)", output::age(&created, now)));
    }
    add("Being deleted:", text(&metadata["deletionTimestamp"]));
    let mut out = output::columns(&["", ""], &rows).trim_start_matches('\n').to_owned();
    let mut status = object["status"].clone();
    let conditions = status.as_object_mut().and_then(|status| status.remove("conditions"));
    for (name, mut part) in [
        ("Spec", object["spec"].clone()),
        ("Data", object["data"].clone()),
        ("Status", status),
    ] {
        if object["kind"] == "Secret" && name == "Data" {
            // What is secret is not for the screen: only what there is of it.
            for value in part.as_object_mut().into_iter().flat_map(|data| data.values_mut()) {
                *value = format!("{} characters of base64", value.as_str().unwrap_or_default().len()).into();
            }
        }
        if !part.is_null() && part.as_object().is_none_or(|fields| !fields.is_empty()) {
            let yaml = output::yaml(&part)?;
            out.push_str(&format!("{name}:\n"));
            out.extend(yaml.lines().map(|line| format!("  {line}\n")));
        }
    }
    if let Some(Value::Array(conditions)) = conditions {
        let rows: Vec<Vec<String>> = conditions
            .iter()
            .map(|c| {
                ["type", "status", "lastTransitionTime", "reason", "message"]
                    .map(|field| text(&c[field]))
                    .to_vec()
            })
            .collect();
        out.push_str("Conditions:\n");
        out.push_str(&indented(&output::columns(
            &["TYPE", "STATUS", "SINCE", "REASON", "MESSAGE"],
            &rows,
        )));
    }
    let rows: Vec<Vec<String>> = events
        .iter()
        .map(|event| {
            let count = event["count"].as_u64().filter(|count| *count > 1);
            let age = output::age(when(event), now);
            vec![
                text(&event["type"]),
                text(&event["reason"]),
                count.map_or_else(|| age.clone(), |count| format!("{age} (x{count})")),
                text(&event["source"]["component"]),
                text(&event["message"]).replace('\n', " "),
            ]
        })
        .collect();
    if rows.is_empty() {
        out.push_str("Events: none\n");
    } else {
        out.push_str("Events:\n");
        out.push_str(&indented(&output::columns(
            &["TYPE", "REASON", "AGE", "FROM", "MESSAGE"],
            &rows,
        )));
    }
    Ok(out)
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_is_shown_with_its_conditions_and_events() {
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "shop", "labels": {"a": "b"},
            "creationTimestamp": "1970-01-01T00:00:00Z", "ownerReferences": [{"kind": "ReplicaSet", "name": "web-5f"}]},
            "spec": {"nodeName": "gw"}, "status": {"phase": "Pending",
            "conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "m"}]}});
        let events = [
            json!({"type": "Warning", "reason": "Failed", "message": "no\nimage", "count": 3,
            "lastTimestamp": "1970-01-01T00:00:30Z", "source": {"component": "kubelet"}}),
        ];
        let text = render(&object, &events, 60_000).unwrap();
        for line in [
            "Labels:      a=b",
            "Owned by:    ReplicaSet/web-5f",
            "Created:     1970-01-01T00:00:00Z (60s ago)",
            "  nodeName: gw",
            "  Ready   False            ContainersNotReady   m",
            "  Warning   Failed   30s (x3)   kubelet   no image",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_node_is_asked_for_by_its_name_too() {
        let object = |version: &str, kind: &str| json!({"apiVersion": version, "kind": kind, "metadata": {"name": "gw", "uid": "u"}});
        assert!(uids(&object("v1", "Node")).eq(["u", "gw"]));
        assert!(uids(&object("v1", "Pod")).eq(["u"]));
        assert!(uids(&object("example.com/v1", "Node")).eq(["u"]));
        assert_eq!(uids(&json!({"kind": "Pod"})).count(), 0);
    }

    #[test]
    fn secrets_are_counted_and_not_shown() {
        let secret = json!({"kind": "Secret", "metadata": {"name": "s"}, "data": {"password": "aHVudGVyMg=="}});
        let text = render(&secret, &[], 0).unwrap();
        assert!(
            text.contains("password: 12 characters of base64") && !text.contains("aHVu"),
            "{text}"
        );
        assert!(text.ends_with("Events: none\n"));
    }
}
