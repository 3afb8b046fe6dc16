use proptest::prelude::*;
use serde::Deserialize;
use serde_json::json;

use super::*;
use crate::hlc::Clock;
use crate::kinds::{DEVICES_API_VERSION, DeviceModel};
use crate::payload::{Entry, parse_twin_update};
use crate::{edge_registers, merge_device_desired};

const NOW: u64 = 1_795_230_654_934;

fn device(properties: Value) -> Value {
    json!({
        "apiVersion": DEVICES_API_VERSION, "kind": "Device",
        "metadata": {"name": "d0", "namespace": "default"},
        "spec": {"nodeName": "edge1", "deviceModelRef": {"name": "press"}, "properties": properties},
    })
}

fn press() -> Arc<Rules> {
    let model: DeviceModel = serde_json::from_value(json!({
        "metadata": {"name": "press"},
        "spec": {"properties": [
            {"name": "setpoint", "type": "DOUBLE", "accessMode": "ReadWrite", "minimum": "20", "maximum": "200", "unit": "°C"},
            {"name": "temperature", "type": "DOUBLE", "accessMode": "ReadOnly"},
            {"name": "enabled", "type": "BOOLEAN", "accessMode": "ReadWrite"},
            {"name": "cycles", "type": "INT", "accessMode": "ReadOnly"},
        ]},
    }))
    .unwrap();
    Arc::new(Rules::compile(&model))
}

struct Bench {
    twin: Twin,
    clock: Clock,
}

impl Bench {
    fn new(twin: Twin) -> Self {
        Self {
            twin,
            clock: Clock::edge("edge1", None),
        }
    }

    fn update(&mut self, now: u64, payload: &str) -> Result<Outcome, ReportError> {
        let update = parse_twin_update(payload.as_bytes()).unwrap();
        self.twin.report(
            now,
            Author {
                clock: &mut self.clock,
                by: "mqtt test",
            },
            &update.entries,
        )
    }

    fn error(&mut self, payload: &str) -> (u16, String) {
        let error = self.update(NOW, payload).unwrap_err();
        (error.code(), error.to_string())
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

fn json_of(bytes: Vec<u8>) -> Value {
    serde_json::from_slice(&bytes).unwrap()
}

/// What KubeEdge was seen to answer, byte for byte: request, time, result, document, and time, id and text of the delta.
#[test]
fn answers_are_those_of_kubeedge() {
    type Exchange = (
        &'static str,
        u64,
        &'static str,
        &'static str,
        Option<(u64, &'static str, &'static str)>,
    );
    let exchanges: [Exchange; 9] = [
        (
            r#"{"event_id":"u1","timestamp":1,"twin":{"p0":{"actual":{"value":"1"},"metadata":{"type":"string"}}}}"#,
            1795230654934,
            r#"{"event_id":"u1","timestamp":1795230654934,"twin":{"p0":{"actual":{"value":"1","metadata":{"timestamp":1795230654934}},"optional":true,"metadata":{"type":"string"}}}}"#,
            r#"{"event_id":"u1","timestamp":1795230654934,"twin":{"p0":{"last":null,"current":{"actual":{"value":"1","metadata":{"timestamp":1795230654934}},"optional":true,"metadata":{"type":"string"}}}}}"#,
            None,
        ),
        (
            r#"{"event_id":"u2","timestamp":1,"twin":{"p0":{"actual":{"value":"2"},"metadata":{"type":"string"}}}}"#,
            1795230656194,
            r#"{"event_id":"u2","timestamp":1795230656194,"twin":{"p0":{"actual":{"value":"2","metadata":{"timestamp":1795230656194}},"optional":true,"metadata":{"type":"string"}}}}"#,
            r#"{"event_id":"u2","timestamp":1795230656194,"twin":{"p0":{"last":{"actual":{"value":"1","metadata":{"timestamp":1795230654934}},"optional":true,"metadata":{"type":"string"}},"current":{"actual":{"value":"2","metadata":{"timestamp":1795230656194}},"optional":true,"metadata":{"type":"string"}}}}}"#,
            None,
        ),
        (
            r#"{"event_id":"u3","timestamp":1,"twin":{"p1":{"expected":{"value":"on"},"metadata":{"type":"string"}}}}"#,
            1795230657446,
            r#"{"event_id":"u3","timestamp":1795230657446,"twin":{"p1":{"expected":{"value":"on","metadata":{"timestamp":1795230657446}},"optional":true,"metadata":{"type":"string"}}}}"#,
            r#"{"event_id":"u3","timestamp":1795230657446,"twin":{"p1":{"last":null,"current":{"expected":{"value":"on","metadata":{"timestamp":1795230657446}},"optional":true,"metadata":{"type":"string"}}}}}"#,
            Some((
                1795230657447,
                "431e5323-352e-4270-83c1-de1ac60d7244",
                r#"{"event_id":"431e5323-352e-4270-83c1-de1ac60d7244","timestamp":1795230657447,"twin":{"p1":{"expected":{"value":"on","metadata":{"timestamp":1795230657446}},"optional":true,"metadata":{"type":"string"}}},"delta":{"p1":"on"}}"#,
            )),
        ),
        (
            r#"{"event_id":"u4","timestamp":1,"twin":{"p1":{"actual":{"value":"off"}}}}"#,
            1795230658653,
            r#"{"event_id":"u4","timestamp":1795230658653,"twin":{"p1":{"actual":{"value":"off","metadata":{"timestamp":1795230658653}},"optional":true,"metadata":{"type":"string"}}}}"#,
            r#"{"event_id":"u4","timestamp":1795230658653,"twin":{"p1":{"last":{"expected":{"value":"on","metadata":{"timestamp":1795230657446}},"optional":true,"metadata":{"type":"string"}},"current":{"expected":{"value":"on","metadata":{"timestamp":1795230657446}},"actual":{"value":"off","metadata":{"timestamp":1795230658653}},"optional":true,"metadata":{"type":"string"}}}}}"#,
            Some((
                1795230658657,
                "095b7b18-a71c-4d78-b24b-de91932a651b",
                r#"{"event_id":"095b7b18-a71c-4d78-b24b-de91932a651b","timestamp":1795230658657,"twin":{"p1":{"expected":{"value":"on","metadata":{"timestamp":1795230657446}},"actual":{"value":"off","metadata":{"timestamp":1795230658653}},"optional":true,"metadata":{"type":"string"}}},"delta":{"p1":"on"}}"#,
            )),
        ),
        (
            r#"{"event_id":"u5","timestamp":1,"twin":{"p1":{"actual":{"value":"on"}}}}"#,
            1795230659860,
            r#"{"event_id":"u5","timestamp":1795230659860,"twin":{"p1":{"actual":{"value":"on","metadata":{"timestamp":1795230659860}},"optional":true,"metadata":{"type":"string"}}}}"#,
            r#"{"event_id":"u5","timestamp":1795230659860,"twin":{"p1":{"last":{"expected":{"value":"on","metadata":{"timestamp":1795230657446}},"actual":{"value":"off","metadata":{"timestamp":1795230658653}},"optional":true,"metadata":{"type":"string"}},"current":{"expected":{"value":"on","metadata":{"timestamp":1795230657446}},"actual":{"value":"on","metadata":{"timestamp":1795230659860}},"optional":true,"metadata":{"type":"string"}}}}}"#,
            None,
        ),
        (
            r#"{"event_id":"u6","timestamp":1,"twin":{"zz":{"actual":{"value":"7"},"metadata":{"type":"string"}}}}"#,
            1795230661115,
            r#"{"event_id":"u6","timestamp":1795230661115,"twin":{"zz":{"actual":{"value":"7","metadata":{"timestamp":1795230661115}},"optional":true,"metadata":{"type":"string"}}}}"#,
            r#"{"event_id":"u6","timestamp":1795230661115,"twin":{"zz":{"last":null,"current":{"actual":{"value":"7","metadata":{"timestamp":1795230661115}},"optional":true,"metadata":{"type":"string"}}}}}"#,
            None,
        ),
        (
            r#"{"event_id":"u7","timestamp":1,"twin":{"p2":{"actual":{"value":"7"}}}}"#,
            1795230662320,
            r#"{"event_id":"u7","timestamp":1795230662320,"twin":{"p2":{"actual":{"value":"7","metadata":{"timestamp":1795230662320}},"optional":true,"metadata":{"type":"string"}}}}"#,
            r#"{"event_id":"u7","timestamp":1795230662320,"twin":{"p2":{"last":null,"current":{"actual":{"value":"7","metadata":{"timestamp":1795230662320}},"optional":true,"metadata":{"type":"string"}}}}}"#,
            None,
        ),
        (
            r#"{"event_id":"u8","timestamp":1,"twin":{"zz":null}}"#,
            1795230663530,
            r#"{"event_id":"u8","timestamp":1795230663530,"twin":{"zz":null}}"#,
            r#"{"event_id":"u8","timestamp":1795230663530,"twin":{"zz":{"last":{"actual":{"value":"7","metadata":{"timestamp":1795230661115}},"optional":true,"metadata":{"type":"string"}},"current":null}}}"#,
            None,
        ),
        // Not seen, but implied: both registers at once, two properties, sorted by name.
        (
            r#"{"event_id":"v1","twin":{"q":{"actual":{"value":"5"},"expected":{"value":"5"},"metadata":{"type":"integer"}},"a":{"actual":{"value":"x"}}}}"#,
            1795230663531,
            r#"{"event_id":"v1","timestamp":1795230663531,"twin":{"a":{"actual":{"value":"x","metadata":{"timestamp":1795230663531}},"optional":true,"metadata":{"type":"string"}},"q":{"expected":{"value":"5","metadata":{"timestamp":1795230663531}},"actual":{"value":"5","metadata":{"timestamp":1795230663531}},"optional":true,"metadata":{"type":"integer"}}}}"#,
            r#"{"event_id":"v1","timestamp":1795230663531,"twin":{"a":{"last":null,"current":{"actual":{"value":"x","metadata":{"timestamp":1795230663531}},"optional":true,"metadata":{"type":"string"}}},"q":{"last":null,"current":{"expected":{"value":"5","metadata":{"timestamp":1795230663531}},"actual":{"value":"5","metadata":{"timestamp":1795230663531}},"optional":true,"metadata":{"type":"integer"}}}}}"#,
            None,
        ),
    ];
    let mut bench = Bench::new(Twin::new(&device(json!([{"name": "p0"}, {"name": "p1"}])), None, None));
    assert_eq!(
        text(bench.twin.get(1795230652524, "g0")),
        r#"{"event_id":"g0","timestamp":1795230652524,"twin":{}}"#
    );
    for (index, (request, now, result, document, delta)) in exchanges.into_iter().enumerate() {
        let id = parse_twin_update(request.as_bytes()).unwrap().event_id.into_owned();
        let outcome = bench.update(now, request).unwrap();
        assert_eq!(text(outcome.result(&id)), result);
        assert_eq!(text(outcome.document(&id)), document);
        let (at, delta_id, expected) = delta.unwrap_or((now, "", ""));
        assert_eq!(bench.twin.delta(at, delta_id).map(text).unwrap_or_default(), expected);
        if index == 7 {
            let get = r#"{"event_id":"g1","timestamp":1795230664733,"twin":{"p0":{"actual":{"value":"2","metadata":{"timestamp":1795230656194}},"optional":true,"metadata":{"type":"string"}},"p1":{"expected":{"value":"on","metadata":{"timestamp":1795230657446}},"actual":{"value":"on","metadata":{"timestamp":1795230659860}},"optional":true,"metadata":{"type":"string"}},"p2":{"actual":{"value":"7","metadata":{"timestamp":1795230662320}},"optional":true,"metadata":{"type":"string"}}}}"#;
            assert_eq!(text(bench.twin.get(1795230664733, "g1")), get);
        }
    }
}

#[test]
fn state_answer_is_kubeedges() {
    let mut twin = Twin::new(&device(json!([])), None, None);
    twin.set_state(1795230670759, "online").unwrap();
    assert_eq!(
        text(twin.state_result(1795230670759, "d83355da-e8e9-4673-8948-c81fe8337e20")),
        r#"{"event_id":"d83355da-e8e9-4673-8948-c81fe8337e20","timestamp":1795230670759,"device":{"name":"d0","state":"online","lastOnlineTime":"2026-11-21T03:11:10Z"}}"#
    );
    twin.set_state(1795230680000, "offline").unwrap();
    assert_eq!(twin.status()["status"]["lastOnlineTime"], "2026-11-21T03:11:10Z");
    let error = twin.set_state(1795230680000, "on fire").unwrap_err();
    assert_eq!(error.code(), 400);
    assert_eq!(
        error.to_string(),
        "state \"on fire\" is not one of online, offline, ok, unknown, unhealthy"
    );
    assert_eq!(twin.state(), Some("offline"));
}

#[test]
fn the_model_is_enforced_and_nothing_is_half_done() {
    let mut bench = Bench::new(Twin::new(&device(json!([{"name": "setpoint"}])), Some(press()), None));
    let cases = [
        (
            r#"{"twin":{"setpoint":{"expected":{"value":"250"}}}}"#,
            400,
            r#"property setpoint: "250" is above the maximum 200 °C"#,
        ),
        (
            r#"{"twin":{"setpoint":{"actual":{"value":"19"}}}}"#,
            400,
            r#"property setpoint: "19" is below the minimum 20 °C"#,
        ),
        (
            r#"{"twin":{"cycles":{"actual":{"value":"abc"},"metadata":{"type":"string"}}}}"#,
            400,
            r#"property cycles: "abc" is not an integer (INT, 64 bits)"#,
        ),
        (
            r#"{"twin":{"temperature":{"expected":{"value":"3"}}}}"#,
            400,
            r#"property temperature: "3" cannot be set, its access mode is ReadOnly"#,
        ),
        (
            r#"{"twin":{"zz":{"actual":{"value":"3"}}}}"#,
            404,
            "property zz: model press has no such property",
        ),
        (
            r#"{"twin":{"zz":null}}"#,
            404,
            "property zz: model press has no such property",
        ),
        (
            r#"{"twin":{"cycles":{}}}"#,
            400,
            "property cycles: neither expected nor actual has a value",
        ),
        (
            r#"{"twin":{"cycles":{"actual":{"value":"5"}},"enabled":{"expected":{"value":"maybe"}}}}"#,
            400,
            r#"property enabled: "maybe" is not true or false (BOOLEAN)"#,
        ),
        (
            r#"{"twin":{"enabled":{"expected":{"value":"true"}},"zz":{"actual":{"value":"3"}}}}"#,
            404,
            "property zz: model press has no such property",
        ),
    ];
    let before = (bench.twin.status(), bench.clock.last().clone());
    for (payload, code, reason) in cases {
        assert_eq!(bench.error(payload), (code, reason.to_owned()), "{payload}");
    }
    assert_eq!((bench.twin.status(), bench.clock.last().clone()), before);
}

#[test]
fn without_a_model_the_message_names_the_type() {
    let mut bench = Bench::new(Twin::new(&device(json!([])), None, None));
    let (code, reason) = bench
        .error(r#"{"event_id":"u9","timestamp":1,"twin":{"p3":{"actual":{"value":"abc"},"metadata":{"type":"int"}}}}"#);
    assert_eq!(
        (code, &*reason),
        (400, r#"property p3: "abc" is not an integer (INT, 64 bits)"#)
    );
    let (code, reason) = bench.error(r#"{"twin":{"p3":{"actual":{"value":"abc"},"metadata":{"type":"decimal"}}}}"#);
    assert_eq!(code, 400);
    assert!(reason.starts_with(r#"property p3: "decimal" is not a type: use string,"#));
    // The type sticks: a later message without one is checked against it.
    bench
        .update(
            NOW,
            r#"{"twin":{"p3":{"actual":{"value":"5"},"metadata":{"type":"int"}}}}"#,
        )
        .unwrap();
    assert_eq!(bench.error(r#"{"twin":{"p3":{"actual":{"value":"abc"}}}}"#).0, 400);
}

#[test]
fn values_kubeedge_refuses_are_taken() {
    let mut bench = Bench::new(Twin::new(&device(json!([])), None, None));
    let long = format!(
        "{{\"a\": [1, 2], \"t\": \"20 °C = 68 °F\", \"x\": \"{}\"}}",
        "+%".repeat(20_000)
    );
    let payload = json!({"twin": {"température": {"actual": {"value": long}}}}).to_string();
    let outcome = bench.update(NOW, &payload).unwrap();
    assert_eq!(
        json_of(outcome.result(""))["twin"]["température"]["actual"]["value"],
        Value::from(&*long)
    );
    assert_eq!(bench.twin.reported("température"), Some(&*long));
}

#[test]
fn an_edit_from_the_cloud_comes_out_as_delta_until_the_device_follows() {
    let stamped = |value: &str, ms: u64| json!([{"name": "setpoint", "desired": {"value": value, "metadata": {"stamp": format!("{ms:012x}-0000-@h"), "timestamp": ms.to_string()}}}]);
    let mut twin = Twin::new(&device(json!([{"name": "setpoint"}])), Some(press()), None);
    let change = twin.set_device(&device(stamped("80", NOW)), Some(press()));
    assert!(change.delta && change.status);
    assert_eq!(change.desired, ["setpoint".into()]);
    let delta = json_of(twin.delta(NOW + 1, "e").unwrap());
    assert_eq!(delta["delta"], json!({"setpoint": "80"}));
    assert_eq!(delta["twin"]["setpoint"]["expected"]["metadata"]["timestamp"], NOW);
    assert_eq!(twin.differences().collect::<Vec<_>>(), [("setpoint", "80")]);
    assert_eq!(twin.status()["status"]["twins"][0]["observedDesired"]["value"], "80");
    // The same Device again: nothing new.
    assert_eq!(
        twin.set_device(&device(stamped("80", NOW)), Some(press())),
        DeviceChange::default()
    );
    // A device that reports 80.0 has followed.
    let mut bench = Bench::new(twin);
    bench
        .update(NOW + 2, r#"{"twin":{"setpoint":{"actual":{"value":"80.0"}}}}"#)
        .unwrap();
    assert!(!bench.twin.differs());
    assert_eq!(bench.twin.delta(NOW + 3, "e"), None);
    // Taken away in the cloud: no delta, and no observed desired value any more.
    let change = bench
        .twin
        .set_device(&device(json!([{"name": "setpoint"}])), Some(press()));
    assert_eq!((change.desired.len(), change.delta, change.status), (1, false, true));
    assert_eq!(bench.twin.status()["status"]["twins"][0].get("observedDesired"), None);
}

#[test]
fn a_desired_value_set_at_the_gateway_becomes_part_of_the_device() {
    let mut stored = device(json!([{"name": "setpoint", "reportCycle": 100}]));
    let mut bench = Bench::new(Twin::new(&stored, Some(press()), None));
    let outcome = bench
        .update(
            NOW,
            r#"{"twin":{"setpoint":{"expected":{"value":"90"}},"cycles":{"actual":{"value":"5"}}}}"#,
        )
        .unwrap();
    let body = outcome.desired_body().unwrap();
    let changed = merge_device_desired(&mut stored, &body);
    assert_eq!(changed.desired, ["setpoint"]);
    assert_eq!(stored["spec"]["properties"][0]["reportCycle"], 100);
    assert_eq!(
        stored["spec"]["properties"][0]["desired"]["metadata"]["by"],
        "mqtt test"
    );
    assert_eq!(edge_registers(&stored, "edge1"), Some(body));
    // The twin holds what the stored Device holds.
    assert_eq!(bench.twin.set_device(&stored, Some(press())), DeviceChange::default());
    // The same value again is no write; a report alone neither.
    let again = bench
        .update(NOW + 5, r#"{"twin":{"setpoint":{"expected":{"value":"90"}}}}"#)
        .unwrap();
    assert_eq!(again.desired_body(), None);
    assert_eq!(json_of(again.result(""))["twin"]["setpoint"]["expected"]["value"], "90");
    // Taking it out clears it, and the Device learns of it.
    let gone = bench.update(NOW + 9, r#"{"twin":{"setpoint":null}}"#).unwrap();
    merge_device_desired(&mut stored, &gone.desired_body().unwrap());
    assert_eq!(stored["spec"]["properties"][0].get("desired"), None);
    assert_eq!(bench.twin.set_device(&stored, Some(press())), DeviceChange::default());
    assert!(!bench.twin.differs());
}

#[test]
fn taking_a_property_out_leaves_what_the_cloud_wants() {
    let cloud = json!([{"name": "p", "desired": {"value": "on", "metadata": {"stamp": "000000001000-0000-@h"}}}]);
    let mut bench = Bench::new(Twin::new(&device(cloud), None, None));
    bench
        .update(NOW, r#"{"twin":{"p":{"actual":{"value":"on"}}}}"#)
        .unwrap();
    let outcome = bench.update(NOW, r#"{"twin":{"p":null}}"#).unwrap();
    assert_eq!(outcome.desired_body(), None);
    assert_eq!(
        (bench.twin.desired("p"), bench.twin.reported("p"), bench.twin.differs()),
        (Some("on"), None, true)
    );
    let never_there = bench.update(NOW, r#"{"event_id":"e","twin":{"q":null}}"#).unwrap();
    assert_eq!(
        json_of(never_there.document("e"))["twin"]["q"],
        json!({"last": null, "current": null})
    );
}

#[test]
fn a_policy_that_gives_the_cloud_the_last_word_is_a_409() {
    let mut stored = device(
        json!([{"name": "setpoint", "desired": {"value": "80", "metadata": {"stamp": "000000001000-0000-@h"}}}]),
    );
    stored["metadata"]["annotations"] = json!({"kurator.dev/merge-policy": "setpoint=cloud"});
    let mut bench = Bench::new(Twin::new(&stored, Some(press()), None));
    let (code, reason) = bench.error(r#"{"twin":{"setpoint":{"expected":{"value":"90"}}}}"#);
    assert_eq!(
        (code, &*reason),
        (
            409,
            r#"property setpoint: "80" set by the cloud stays, its merge policy is cloud"#
        )
    );
    assert_eq!(bench.twin.desired("setpoint"), Some("80"));
    stored["metadata"]["annotations"] = json!({"kurator.dev/merge-policy": "*=min"});
    bench.twin.set_device(&stored, Some(press()));
    assert_eq!(
        bench.error(r#"{"twin":{"setpoint":{"expected":{"value":"90"}}}}"#).0,
        409
    );
    bench
        .update(NOW, r#"{"twin":{"setpoint":{"expected":{"value":"70"}}}}"#)
        .unwrap();
}

#[test]
fn the_status_survives_a_restart() {
    let stored = device(
        json!([{"name": "setpoint", "desired": {"value": "80", "metadata": {"stamp": "000000001000-0000-@h"}}}]),
    );
    let mut bench = Bench::new(Twin::new(&stored, Some(press()), None));
    bench
        .update(
            NOW,
            r#"{"twin":{"setpoint":{"actual":{"value":"70"}},"enabled":{"actual":{"value":"true"}}}}"#,
        )
        .unwrap();
    bench.twin.set_state(NOW, "ok").unwrap();
    let mut status = bench.twin.status();
    status["status"]["extensions"] = json!({"firmware": "1.2"});
    status["status"]["twins"][1]["reported"]["metadata"]["quality"] = json!("good");
    let restarted = Twin::new(&stored, Some(press()), Some(&status));
    assert_eq!(restarted.status(), status);
    assert_eq!(text(restarted.status_json()), status.to_string());
    assert_eq!(restarted.differing, 1);
    assert_eq!(restarted.delta(NOW, "e"), bench.twin.delta(NOW, "e"));
    let expected = json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceStatus", "metadata": {"name": "d0", "namespace": "default"},
        "status": {
            "state": "ok", "lastOnlineTime": "2026-11-21T03:10:54Z", "extensions": {"firmware": "1.2"},
            "twins": [
                {"propertyName": "enabled", "reported": {"value": "true", "metadata": {"timestamp": "1795230654934", "type": "boolean"}}},
                {"propertyName": "setpoint",
                 "reported": {"value": "70", "metadata": {"timestamp": "1795230654934", "type": "double", "quality": "good"}},
                 "observedDesired": {"value": "80", "metadata": {"timestamp": "4096", "type": "double", "stamp": "000000001000-0000-@h"}}},
            ],
        },
    });
    assert_eq!(status, expected);
    crate::kinds::DeviceStatus::deserialize(&status).unwrap();
}

#[test]
fn a_damaged_status_is_passed_over() {
    for status in [
        json!(null),
        json!({"status": 5}),
        json!({"status": {"twins": [5, {"propertyName": "p"}, {"propertyName": "p", "reported": {"value": 7}}], "lastOnlineTime": "soon"}}),
    ] {
        let twin = Twin::new(&device(json!([])), None, Some(&status));
        assert_eq!(twin.status()["status"], json!({"twins": []}));
    }
}

#[test]
fn a_twin_is_bounded_in_properties_and_bytes() {
    let mut bench = Bench::new(Twin::new(&device(json!([])), None, None));
    let value = "x".repeat(60_000);
    for index in 0..17 {
        bench
            .update(
                NOW,
                &json!({"twin": {format!("big{index}"): {"actual": {"value": value}}}}).to_string(),
            )
            .unwrap();
    }
    let (code, reason) = bench.error(&json!({"twin": {"more": {"actual": {"value": value}}}}).to_string());
    assert_eq!(
        (code, &*reason),
        (
            400,
            "property more: the values of the device would take more than 1048576 bytes together, the maximum"
        )
    );
    bench
        .update(NOW, r#"{"twin":{"big0":null,"big1":{"actual":{"value":"x"}}}}"#)
        .unwrap();
    bench
        .update(
            NOW,
            &json!({"twin": {"more": {"actual": {"value": value}}}}).to_string(),
        )
        .unwrap();

    let mut bench = Bench::new(Twin::new(&device(json!([])), None, None));
    let all: Map<String, Value> = (0..1024)
        .map(|n| (format!("p{n}"), json!({"actual": {"value": "1"}})))
        .collect();
    bench.update(NOW, &json!({"twin": all}).to_string()).unwrap();
    assert!(
        bench
            .error(r#"{"twin":{"one more":{"actual":{"value":"1"}}}}"#)
            .1
            .contains("1024 properties")
    );
    bench
        .update(NOW, r#"{"twin":{"p7":null,"p8":{"actual":{"value":"2"}}}}"#)
        .unwrap();
    bench
        .update(NOW, r#"{"twin":{"one more":{"actual":{"value":"1"}}}}"#)
        .unwrap();
}

#[test]
fn one_property_twice_is_refused() {
    let mut bench = Bench::new(Twin::new(&device(json!([])), None, None));
    let entries = [
        ("p".into(), Entry::actual("1")),
        ("q".into(), Entry::actual("1")),
        ("p".into(), Entry::Delete),
    ];
    let error = bench
        .twin
        .report(
            NOW,
            Author {
                clock: &mut bench.clock,
                by: "dmi",
            },
            &entries,
        )
        .unwrap_err();
    assert_eq!(error, ReportError::Twice { property: "p".into() });
}

#[test]
fn reported_changes_tell_what_is_new() {
    let mut bench = Bench::new(Twin::new(&device(json!([])), None, None));
    bench.update(1, r#"{"twin":{"a":{"actual":{"value":"1"}}}}"#).unwrap();
    let outcome = bench
        .update(
            2,
            r#"{"twin":{"a":{"actual":{"value":"1"}},"b":{"actual":{"value":"1"}},"c":{"expected":{"value":"1"}}}}"#,
        )
        .unwrap();
    let reported: Vec<_> = outcome
        .reported()
        .map(|r| (r.property, r.timestamp, r.changed))
        .collect();
    assert_eq!(reported, [("a", 2, false), ("b", 2, true)]);
}

proptest! {
    /// Whatever is reported: the counters are those of the properties, the status reads back as the same twin, the
    /// Device merged with the outcomes holds the twin's desired values.
    #[test]
    fn the_twin_is_the_store(steps in prop::collection::vec(("[a-d]", 0u8..5, "[0-9a-z\"\n]{0,3}"), 1..40), model in any::<bool>()) {
        let mut stored = device(json!([{"name": "a", "desired": {"value": "1", "metadata": {"stamp": "000000001000-0000-@h"}}}]));
        let rules = model.then(|| {
            let properties: Vec<Value> = ["a", "b", "c"].map(|name| json!({"name": name, "type": "STRING"})).into();
            let model = json!({"metadata": {"name": "m"}, "spec": {"properties": properties}});
            Arc::new(Rules::compile(&serde_json::from_value(model).unwrap()))
        });
        let mut bench = Bench::new(Twin::new(&stored, rules.clone(), None));
        for (now, (name, what, value)) in steps.into_iter().enumerate() {
            let entry = match what {
                0 => Entry::Delete,
                1 => Entry::expected(value),
                _ => Entry::actual(value),
            };
            let author = Author { clock: &mut bench.clock, by: "x" };
            match bench.twin.report(now as u64, author, &[(name.clone().into(), entry)]) {
                Ok(outcome) => {
                    if let Some(body) = outcome.desired_body() {
                        prop_assert!(merge_device_desired(&mut stored, &body).object);
                    }
                }
                Err(_) => prop_assert!(model && name == "d"),
            }
            let (differing, weight) = (bench.twin.differing, bench.twin.weight);
            let status = bench.twin.status();
            prop_assert_eq!(text(bench.twin.status_json()), status.to_string());
            let mut rebuilt = Twin::new(&stored, rules.clone(), Some(&status));
            prop_assert_eq!((rebuilt.differing, rebuilt.weight), (differing, weight));
            prop_assert_eq!(rebuilt.status(), status);
            prop_assert_eq!(bench.twin.set_device(&stored, rules.clone()), DeviceChange::default());
            prop_assert_eq!(rebuilt.set_device(&stored, rules.clone()), DeviceChange::default());
            prop_assert_eq!(rebuilt.get(0, ""), bench.twin.get(0, ""));
        }
    }
}

#[test]
fn a_twin_that_the_cloud_made_too_large_can_still_shrink_and_report_little() {
    let value = "x".repeat(60_000);
    let properties: Vec<Value> = (0..18)
        .map(|index| json!({"name": format!("p{index:02}"), "desired": {"value": value, "metadata": {"stamp": "000000001000-0000-@h"}}}))
        .collect();
    let mut bench = Bench::new(Twin::new(&device(json!(properties[..17])), None, None));
    bench
        .update(NOW, r#"{"twin":{"p00":{"actual":{"value":"long enough"}}}}"#)
        .unwrap();
    bench.twin.set_device(&device(json!(properties)), None);
    assert!(bench.twin.weight > MAX_TWIN_BYTES);
    bench
        .update(NOW, r#"{"twin":{"p00":{"actual":{"value":"short"}}}}"#)
        .unwrap();
    assert_eq!(bench.error(r#"{"twin":{"p01":{"actual":{"value":"more"}}}}"#).0, 400);
}
