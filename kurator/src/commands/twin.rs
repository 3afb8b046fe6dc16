//! `kurator twin get|set|watch|diff`: desired values live in the Device, reported ones in the DeviceStatus.

use std::time::Duration;

use daemon::exit::{BAD_INPUT, FAILED, Failure};
use futures_util::StreamExt;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::cli::{Global, Output, TwinAction};
use crate::client::Api;
use crate::commands::why;
use crate::{output, say};

/// How often a write is tried again when somebody else wrote in between.
const CONFLICT_TRIES: u32 = 8;
/// A watch line longer than this is not a device.
const MAX_LINE: usize = 4 * 1024 * 1024;

/// One property as both sides see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Row {
    property: String,
    desired: Option<String>,
    reported: Option<String>,
    reported_at: Option<u64>,
    unit: String,
    access: String,
}

impl Row {
    /// Whether the device still has to follow.
    fn differs(&self) -> bool {
        self.desired
            .as_deref()
            .is_some_and(|d| !self.reported.as_deref().is_some_and(|r| same(d, r)))
    }
}

/// Equal as text, or as numbers: a device that answers `80.0` to `80` has obeyed.
fn same(desired: &str, reported: &str) -> bool {
    desired == reported
        || matches!((desired.trim().parse::<f64>(), reported.trim().parse::<f64>()), (Ok(d), Ok(r)) if d == r)
}

pub(crate) async fn run(global: &Global, action: TwinAction) -> Result<(), Failure> {
    let api = Api::find(global).await?;
    let paths = Paths {
        namespace: global.namespace.clone(),
    };
    match action {
        TwinAction::Get { device, property } => {
            let mut rows = read(&api, &paths, &device).await?;
            if let Some(property) = property {
                rows.retain(|r| r.property == property);
                if rows.is_empty() {
                    return Err(
                        Failure::new(BAD_INPUT, format!("device {device} has no property {property:?}"))
                            .hint(format!("kurator twin get {device} lists them")),
                    );
                }
            }
            print(&rows, global.output)
        }
        TwinAction::Diff { device } => {
            let mut rows = read(&api, &paths, &device).await?;
            rows.retain(Row::differs);
            if rows.is_empty() && matches!(global.output, Output::Table | Output::Wide) {
                say::remark(&format!("{device}: reported and desired agree."));
                return Ok(());
            }
            print(&rows, global.output)
        }
        TwinAction::Set { device, values, wait } => {
            let done = set(&api, &paths, &device, &values, wait).await?;
            match global.output {
                Output::Table | Output::Wide => say::line(&done),
                Output::Name => say::line(&device),
                Output::Json | Output::Yaml => {
                    let mut rows = read(&api, &paths, &device).await?;
                    rows.retain(|r| values.iter().any(|(property, _)| *property == r.property));
                    print(&rows, global.output)?;
                }
            }
            Ok(())
        }
        TwinAction::Watch { device } => watch(&api, &paths, &device).await,
    }
}

struct Paths {
    namespace: String,
}

impl Paths {
    fn list(&self, plural: &str) -> String {
        format!(
            "/apis/devices.kubeedge.io/v1beta1/namespaces/{}/{plural}",
            self.namespace
        )
    }

    fn object(&self, plural: &str, name: &str) -> String {
        format!("{}/{name}", self.list(plural))
    }

    fn watch(&self, plural: &str, name: &str) -> String {
        format!("{}?watch=true&fieldSelector=metadata.name%3D{name}", self.list(plural))
    }
}

async fn optional(api: &Api, path: &str) -> Result<Option<Value>, Failure> {
    match api.try_json(Method::GET, path, None).await? {
        Ok(value) => Ok(Some(value)),
        Err(refusal) if refusal.status == StatusCode::NOT_FOUND => Ok(None),
        Err(refusal) => Err(refusal.into()),
    }
}

async fn read(api: &Api, paths: &Paths, device: &str) -> Result<Vec<Row>, Failure> {
    let object = api.get(&paths.object("devices", device)).await?;
    let status = optional(api, &paths.object("devicestatuses", device)).await?;
    let model = match object["spec"]["deviceModelRef"]["name"].as_str() {
        Some(name) if !name.is_empty() => optional(api, &paths.object("devicemodels", name)).await?,
        _ => None,
    };
    Ok(rows(&object, status.as_ref(), model.as_ref()))
}

/// Model properties first and in the model's order, then what only the device or its status names.
fn rows(device: &Value, status: Option<&Value>, model: Option<&Value>) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut row = |name: &str, fill: &mut dyn FnMut(&mut Row)| {
        let at = rows.iter().position(|r| r.property == name).unwrap_or_else(|| {
            rows.push(Row {
                property: name.to_owned(),
                ..Row::default()
            });
            rows.len() - 1
        });
        fill(&mut rows[at]);
    };
    let list = |v: &Value| v.as_array().cloned().unwrap_or_default();
    let text = |v: &Value| v.as_str().map(str::to_owned);
    for property in list(&model.unwrap_or(&Value::Null)["spec"]["properties"]) {
        row(property["name"].as_str().unwrap_or_default(), &mut |r| {
            r.unit = text(&property["unit"]).unwrap_or_default();
            r.access = text(&property["accessMode"]).unwrap_or_default();
        });
    }
    for property in list(&device["spec"]["properties"]) {
        row(property["name"].as_str().unwrap_or_default(), &mut |r| {
            r.desired = text(&property["desired"]["value"])
        });
    }
    for twin in list(&status.unwrap_or(&Value::Null)["status"]["twins"]) {
        row(twin["propertyName"].as_str().unwrap_or_default(), &mut |r| {
            r.reported = text(&twin["reported"]["value"]);
            r.reported_at = twin["reported"]["metadata"]["timestamp"]
                .as_str()
                .and_then(|t| t.parse().ok());
        });
    }
    rows
}

fn print(rows: &[Row], form: Output) -> Result<(), Failure> {
    let as_json = || {
        let one = |r: &Row| json!({"property": r.property, "desired": r.desired, "reported": r.reported, "reportedAt": r.reported_at, "differs": r.differs()});
        Value::Array(rows.iter().map(one).collect())
    };
    match form {
        Output::Json => say::text(&output::json(&as_json())),
        Output::Yaml => say::text(&output::yaml(&as_json())?),
        Output::Name => rows.iter().for_each(|r| say::line(&r.property)),
        Output::Table | Output::Wide => {
            let now = daemon::clock::wall_ms();
            let body: Vec<Vec<String>> = rows
                .iter()
                .map(|r| {
                    let shown = |v: &Option<String>| v.clone().unwrap_or_else(|| "-".to_owned());
                    let age = r
                        .reported_at
                        .map_or_else(|| "-".to_owned(), |at| format!("{}s", now.saturating_sub(at) / 1000));
                    let state = if r.differs() { "waiting" } else { "" };
                    vec![
                        r.property.clone(),
                        shown(&r.desired),
                        shown(&r.reported),
                        r.unit.clone(),
                        r.access.clone(),
                        age,
                        state.to_owned(),
                    ]
                })
                .collect();
            say::text(&output::columns(
                &["PROPERTY", "DESIRED", "REPORTED", "UNIT", "ACCESS", "AGE", ""],
                &body,
            ));
        }
    }
    Ok(())
}

async fn set(
    api: &Api,
    paths: &Paths,
    device: &str,
    values: &[(String, String)],
    wait: Option<Duration>,
) -> Result<String, Failure> {
    let path = paths.object("devices", device);
    for attempt in 1.. {
        let mut object = api.get(&path).await?;
        for (property, value) in values {
            assign(&mut object, property, value);
        }
        match api.try_json(Method::PUT, &path, Some(&object)).await? {
            Ok(_) => break,
            Err(refusal) if refusal.status == StatusCode::CONFLICT && attempt < CONFLICT_TRIES => {}
            Err(refusal) => return Err(refusal.into()),
        }
    }
    let Some(limit) = wait else {
        return Ok(format!("device {device}: desired value set"));
    };
    let started = daemon::clock::now();
    if tokio::time::timeout(limit, reported(api, paths, device, values))
        .await
        .is_ok_and(|r| r.is_ok())
    {
        return Ok(format!(
            "device {device}: reported after {} ms",
            started.elapsed().as_millis()
        ));
    }
    Err(stuck(api, paths, device, values, limit).await)
}

/// Sets `spec.properties[name == property].desired.value`, adding the property when the device did not list it; the stamp that
/// belonged to the old value goes, the server makes a new one.
pub(crate) fn assign(object: &mut Value, property: &str, value: &str) {
    let spec = &mut object["spec"];
    if !spec["properties"].is_array() {
        spec["properties"] = Value::Array(Vec::new());
    }
    let Some(list) = spec["properties"].as_array_mut() else {
        return;
    };
    let at = list
        .iter()
        .position(|p| p["name"].as_str() == Some(property))
        .unwrap_or_else(|| {
            list.push(json!({"name": property}));
            list.len() - 1
        });
    if list[at]["desired"]["value"].as_str() != Some(value) {
        list[at]["desired"] = Value::Object(Map::from_iter([("value".to_owned(), Value::String(value.to_owned()))]));
    }
}

/// Returns when the DeviceStatus shows every value.
async fn reported(api: &Api, paths: &Paths, device: &str, values: &[(String, String)]) -> Result<(), Failure> {
    let mut lines = Lines::open(api, &paths.watch("devicestatuses", device)).await?;
    while let Some(event) = lines.next().await? {
        let rows = rows(&Value::Null, Some(&event["object"]), None);
        let shows = |(property, value): &(String, String)| {
            rows.iter()
                .any(|r| r.property == *property && r.reported.as_deref().is_some_and(|v| same(value, v)))
        };
        if values.iter().all(shows) {
            return Ok(());
        }
    }
    Err(Failure::new(FAILED, "the watch ended"))
}

async fn stuck(api: &Api, paths: &Paths, device: &str, values: &[(String, String)], limit: Duration) -> Failure {
    let property = values.first().map(|(p, _)| p.as_str());
    let what = format!("device {device} did not report the value within {limit:?}");
    let answer = api
        .hub()
        .try_json(Method::GET, &why::device_path(&paths.namespace, device, property), None)
        .await;
    match answer {
        Ok(Ok(answer)) => {
            say::remark(why::render(&answer).trim_end());
            let at = answer["waitingAt"].as_str().unwrap_or("unknown");
            let detail = answer["hops"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|h| h["hop"].as_str() == Some(at))
                .and_then(|h| h["detail"].as_str())
                .unwrap_or_default();
            Failure::new(FAILED, format!("{what}: it waits at {at:?}")).hint(detail.to_owned())
        }
        _ => Failure::new(FAILED, what).hint(format!("kurator twin get {device} shows both sides")),
    }
}

async fn watch(api: &Api, paths: &Paths, device: &str) -> Result<(), Failure> {
    // Both sides first: what a watch begins with would otherwise be told as one change after the other.
    let mut object = api.get(&paths.object("devices", device)).await?;
    let mut status = optional(api, &paths.object("devicestatuses", device)).await?;
    let mut desired = Lines::open(api, &paths.watch("devices", device)).await?;
    let mut reported = Lines::open(api, &paths.watch("devicestatuses", device)).await?;
    let mut last: Vec<Row> = Vec::new();
    loop {
        let current = rows(&object, status.as_ref(), None);
        tell_changes(&last, &current);
        last = current;
        let gone = tokio::select! {
            event = desired.next() => {
                let Some(event) = event? else { return Err(ended()) };
                object = event["object"].clone();
                event["type"].as_str() == Some("DELETED")
            }
            event = reported.next() => {
                let Some(event) = event? else { return Err(ended()) };
                status = Some(event["object"].clone());
                false
            }
        };
        if gone {
            return Err(Failure::new(FAILED, format!("device {device} was deleted")));
        }
    }
}

/// One line for each property whose value is another than before.
fn tell_changes(before: &[Row], now: &[Row]) {
    for row in now {
        let old = before.iter().find(|r| r.property == row.property);
        if old.is_some_and(|o| o.desired == row.desired && o.reported == row.reported) {
            continue;
        }
        let shown = |v: &Option<String>| v.clone().unwrap_or_else(|| "-".to_owned());
        let mark = if row.differs() { "  (waiting)" } else { "" };
        say::line(&format!(
            "{}  {}  desired={} reported={}{mark}",
            jiff::Timestamp::from_millisecond(i64::try_from(daemon::clock::wall_ms()).unwrap_or(0)).unwrap_or_default(),
            row.property,
            shown(&row.desired),
            shown(&row.reported)
        ));
    }
}

fn ended() -> Failure {
    Failure::new(FAILED, "the watch ended").hint("the server stopped or the connection broke; run it again")
}

/// A watch's events, one JSON document per line.
struct Lines {
    body: http_body_util::BodyStream<kube::client::Body>,
    buffer: Vec<u8>,
}

impl Lines {
    async fn open(api: &Api, path: &str) -> Result<Self, Failure> {
        let response = api
            .send(Method::GET, path, &[("accept", "application/json")], None)
            .await?;
        if !response.status().is_success() {
            return Err(Failure::new(FAILED, format!("watch refused: {}", response.status())));
        }
        Ok(Self {
            body: http_body_util::BodyStream::new(response.into_body()),
            buffer: Vec::new(),
        })
    }

    async fn next(&mut self) -> Result<Option<Value>, Failure> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return serde_json::from_slice(&line)
                    .map(Some)
                    .map_err(|e| Failure::new(FAILED, format!("the watch sent something that is not JSON: {e}")));
            }
            if self.buffer.len() > MAX_LINE {
                return Err(Failure::new(FAILED, "the watch sent a line without end"));
            }
            match self.body.next().await {
                None => return Ok(None),
                Some(Err(e)) => return Err(Failure::new(FAILED, format!("the watch broke off: {e}"))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_join_model_device_and_status() {
        let model = json!({"spec": {"properties": [{"name": "setpoint", "unit": "°C", "accessMode": "ReadWrite"}]}});
        let device = json!({"spec": {"properties": [{"name": "setpoint", "desired": {"value": "80"}}]}});
        let status = json!({"status": {"twins": [{"propertyName": "setpoint", "reported": {"value": "80.0", "metadata": {"timestamp": "5"}}},
            {"propertyName": "extra", "reported": {"value": "x"}}]}});
        let got = rows(&device, Some(&status), Some(&model));
        assert_eq!(got.len(), 2);
        assert!(!got[0].differs(), "80.0 obeys 80");
        assert_eq!((got[0].unit.as_str(), got[0].reported_at), ("°C", Some(5)));
        assert!(rows(&device, None, None)[0].differs());
    }

    #[test]
    fn assigning_adds_what_the_device_did_not_list_and_drops_the_old_stamp() {
        let mut d = json!({"spec": {"properties": [{"name": "a", "desired": {"value": "1", "metadata": {"stamp": "s"}}, "reportCycle": 5}]}});
        assign(&mut d, "a", "1");
        assert_eq!(d["spec"]["properties"][0]["desired"]["metadata"]["stamp"], "s");
        assign(&mut d, "a", "2");
        assign(&mut d, "b", "3");
        assert_eq!(
            d["spec"]["properties"],
            json!([{"name": "a", "desired": {"value": "2"}, "reportCycle": 5}, {"name": "b", "desired": {"value": "3"}}])
        );
        let mut empty = json!({"spec": {}});
        assign(&mut empty, "x", "y");
        assert_eq!(empty["spec"]["properties"][0]["desired"]["value"], "y");
    }
}
