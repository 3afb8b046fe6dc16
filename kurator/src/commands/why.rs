//! `kurator why`: the chain of hops of one thing, and the hop it waits at, as the hub sees it; of a pod, as its gateway does.

mod pod;
mod template;

use daemon::exit::{BAD_INPUT, Failure};
use http::{Method, StatusCode};
use serde_json::Value;

use crate::cli::{Global, Output};
use crate::client::Api;
use crate::{output, say};

pub(crate) async fn run(global: &Global, what: &str, name: &str) -> Result<(), Failure> {
    let gateway = Api::find(global).await?;
    let api = gateway.hub();
    let answer = match what.to_lowercase().as_str() {
        "pod" | "pods" | "po" => pod::explain(&gateway, &global.namespace, name).await?,
        "device" | "devices" => device(&api, &global.namespace, name).await?,
        "node" | "nodes" | "no" => api.get(&format!("/kurator/v1/why/node/{name}")).await?,
        kind => template::explain(&api, global.gateway.as_deref(), &global.namespace, kind, name).await?,
    };
    match global.output {
        Output::Json => say::text(&output::json(&answer)),
        Output::Yaml => say::text(&output::yaml(&answer)?),
        Output::Name => say::line(answer["waitingAt"].as_str().unwrap_or("")),
        Output::Table | Output::Wide => say::text(&render(&answer)),
    }
    Ok(())
}

/// Devices' names may have dots, and properties' too: the longest name that is a device's is meant.
async fn device(api: &Api, namespace: &str, name: &str) -> Result<Value, Failure> {
    let mut last = None;
    for (device, property) in readings(name) {
        let path = device_path(namespace, device, property);
        match api.try_json(Method::GET, &path, None).await? {
            Ok(answer) => return Ok(answer),
            Err(refusal) if refusal.status == StatusCode::NOT_FOUND => last = Some(refusal),
            Err(refusal) => return Err(refusal.into()),
        }
    }
    Err(last.map_or_else(|| Failure::new(BAD_INPUT, "no name"), Failure::from))
}

/// `a.b.c` may be the device `a.b.c`, the property `c` of `a.b`, or `b.c` of `a`.
fn readings(name: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let split = name
        .rmatch_indices('.')
        .map(|(at, _)| (&name[..at], Some(&name[at + 1..])));
    std::iter::once((name, None)).chain(split.filter(|(device, _)| !device.is_empty()))
}

/// The hub's explanation for a device or a property.
pub(crate) fn device_path(namespace: &str, device: &str, property: Option<&str>) -> String {
    let query = property.map(|p| format!("?property={p}")).unwrap_or_default();
    format!("/kurator/v1/why/device/{namespace}/{device}{query}")
}

/// One line per hop.
pub(crate) fn render(answer: &Value) -> String {
    let rows: Vec<Vec<String>> = answer["hops"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|hop| {
            let text = |field: &str| hop[field].as_str().unwrap_or("").to_owned();
            vec![text("hop"), text("state"), text("at"), text("detail")]
        })
        .collect();
    let table = output::columns(&["HOP", "STATE", "AT", "DETAIL"], &rows);
    match conflict(&answer["conflict"]) {
        Some(line) => format!("{}\n\n{line}\n", table.trim_end()),
        None => table,
    }
}

/// What the last conflict was, if there ever was one.
fn conflict(record: &Value) -> Option<String> {
    let side = |side: &Value| {
        let by = side["by"].as_str().filter(|by| !by.is_empty()).unwrap_or("somebody");
        match side["value"].as_str() {
            Some(value) => format!("{value} by {by}"),
            None => format!("no value by {by}"),
        }
    };
    let text = |field: &str| record[field].as_str();
    Some(format!(
        "last conflict {}: both sides set {} unaware of each other; policy {} kept {}, dropped {}",
        text("at")?,
        text("property")?,
        text("policy")?,
        side(&record["kept"]),
        side(&record["lost"]),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_last_conflict_stands_below_the_hops() {
        let hops = json!([{"hop": "api", "state": "done", "at": null, "detail": "p = 1"}]);
        let plain = render(&json!({"hops": hops}));
        assert!(!plain.contains("conflict"));
        let conflict = json!({"type": "conflict", "property": "p", "policy": "latest", "at": "2026-01-01T00:00:00Z",
            "kept": {"value": "1", "by": "admin"}, "lost": {"value": null, "by": ""}});
        let told = render(&json!({"hops": hops, "conflict": conflict}));
        assert_eq!(
            told.strip_prefix(plain.trim_end()).unwrap(),
            "\n\nlast conflict 2026-01-01T00:00:00Z: both sides set p unaware of each other; policy latest kept 1 by admin, \
             dropped no value by somebody\n"
        );
    }

    #[test]
    fn a_dotted_name_is_read_in_every_way() {
        let all: Vec<_> = readings("a.b.c").collect();
        assert_eq!(all, [("a.b.c", None), ("a.b", Some("c")), ("a", Some("b.c"))]);
        assert_eq!(readings("a").count(), 1);
    }
}
