use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::hlc::Clock;
use crate::{Who, admit_device};

const NOW: u64 = 1_795_230_654_934;

fn device(properties: Value) -> Value {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
        "metadata": {"name": "d0", "namespace": "default"},
        "spec": {"nodeName": "gw-1", "properties": properties},
    })
}

fn desired(value: &str, stamp: &str) -> Value {
    json!({"value": value, "metadata": {"stamp": stamp, "by": "someone"}})
}

#[test]
fn registers_of_a_device() {
    let mut object = device(json!([
        {"name": "a", "desired": desired("1", "000000001000-0002-@h")},
        {"name": "b", "desired": {"value": "2"}},
        {"name": "c", "desired": {"value": "3", "metadata": {"stamp": "garbage"}}},
        {"name": "d"},
        {"name": "a", "desired": desired("9", "000000000001-0000-@h")},
        {"desired": {"value": "no name"}},
        5,
    ]));
    object["metadata"]["annotations"] = json!({CLEARED: r#"{"e":{"value":null,"stamp":"000000001000-0000-gw-1"},"f":{"value":"x","stamp":"000000001000-0000-gw-1"}}"#});
    let registers = desired_registers(&object);
    assert_eq!(registers.keys().collect::<Vec<_>>(), ["a", "b", "c", "e"]);
    assert_eq!(registers["a"].stamp, Stamp::new(0x1000, 2, "@h"));
    assert_eq!(registers["a"].value.as_deref(), Some("1"));
    assert_eq!(registers["b"].stamp, Stamp::unstamped());
    assert_eq!(registers["c"].stamp, Stamp::unstamped());
    assert_eq!(registers["e"].value, None);
}

#[test]
fn a_register_put_reads_back_and_leaves_the_writers_metadata() {
    let mut object = device(
        json!([{"name": "a", "reportCycle": 5, "desired": {"value": "0", "metadata": {"type": "int", "saw": "x"}}}]),
    );
    let register = Register {
        value: Some("7".into()),
        stamp: Stamp::new(NOW, 1, "gw-1"),
        by: "me".into(),
        saw: None,
    };
    put_register(&mut object, "a", &register);
    put_register(&mut object, "b", &register);
    let metadata = json!({"by": "me", "stamp": "01a1fc15e1d6-0001-gw-1", "timestamp": NOW.to_string()});
    let mut with_type = metadata.clone();
    with_type["type"] = json!("int");
    assert_eq!(
        object["spec"]["properties"],
        json!([{"name": "a", "reportCycle": 5, "desired": {"value": "7", "metadata": with_type}},
               {"name": "b", "desired": {"value": "7", "metadata": metadata}}])
    );
    assert_eq!(desired_registers(&object)["b"], register);
    let cleared = Register {
        value: None,
        ..register.clone()
    };
    put_register(&mut object, "b", &cleared);
    assert_eq!(object["spec"]["properties"][1], json!({"name": "b"}));
    assert_eq!(desired_registers(&object)["b"], cleared);
    put_register(&mut object, "b", &register);
    assert_eq!(object["metadata"].get("annotations"), None);
    let mut odd = json!(null);
    put_register(&mut odd, "a", &register);
    assert_eq!(desired_registers(&odd)["a"], register);
}

#[test]
fn the_hubs_device_comes_in_around_the_local_registers() {
    let mut local = device(json!([
        {"name": "a", "desired": desired("1", "000000002000-0000-gw-1")},
        {"name": "b", "desired": desired("1", "000000001000-0000-gw-1")},
        {"name": "c", "desired": desired("1", "000000003000-0000-gw-1")},
        {"name": "d", "desired": desired("1", "000000003000-0000-@h")},
    ]));
    local["metadata"]["resourceVersion"] = json!("77");
    local["metadata"]["uid"] = json!("local");
    let mut incoming = device(json!([
        {"name": "b", "desired": desired("2", "000000002000-0000-@h"), "reportCycle": 9},
        {"name": "a", "desired": desired("2", "000000001000-0000-@h")},
    ]));
    incoming["metadata"]["labels"] = json!({"line": "4"});
    incoming["metadata"]["uid"] = json!("hub");
    let changed = merge_device_desired(&mut local, &incoming);
    assert!(changed.object);
    assert_eq!(changed.desired, ["b", "d"]);
    assert_eq!(changed.kept, ["a", "c"]);
    let lost: Vec<_> = changed
        .conflicts
        .iter()
        .map(|c| (&*c.property, c.kept.value.as_deref(), c.lost.value.as_deref()))
        .collect();
    assert_eq!(lost, [("a", Some("1"), Some("2")), ("b", Some("2"), Some("1"))]);
    assert_eq!(
        local["metadata"],
        json!({"name": "d0", "namespace": "default", "labels": {"line": "4"}, "resourceVersion": "77", "uid": "local"})
    );
    let names: Vec<_> = properties(&local).map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["b", "a", "c"]);
    assert_eq!(local["spec"]["properties"][0]["reportCycle"], 9);
    let again = merge_device_desired(&mut local, &incoming);
    assert!(!again.object && again.desired.is_empty());
}

#[test]
fn policies_are_read_from_the_annotation() {
    let policies: Policies = " setpoint=max, a=b=cloud ,*=edge,".parse().unwrap();
    assert_eq!(policies.get("setpoint"), Policy::Max);
    assert_eq!(policies.get("a=b"), Policy::Cloud);
    assert_eq!(policies.get("other"), Policy::Edge);
    assert_eq!("".parse::<Policies>().unwrap().get("x"), Policy::Latest);
    assert!("setpoint".parse::<Policies>().is_err());
    assert!("setpoint=newest".parse::<Policies>().is_err());
}

#[test]
fn a_twins_body_is_checked_against_its_sender_and_the_model() {
    let model = serde_json::from_value(json!({"metadata": {"name": "m"}, "spec": {"properties": [{"name": "a", "type": "INT", "maximum": "5"}, {"name": "r", "accessMode": "ReadOnly"}]}})).unwrap();
    let rules = Rules::compile(&model);
    let check = |twins: Value| {
        let errors = check_twins(&json!({"properties": twins}), "gw-1", Some(&rules));
        errors.into_iter().map(|error| error.to_string()).collect::<Vec<_>>()
    };
    let stamp = "000000001000-0000-gw-1";
    assert!(check(json!({"a": {"value": "5", "stamp": stamp, "by": "x"}})).is_empty());
    assert!(check(json!({"r": {"value": null, "stamp": stamp}})).is_empty());
    assert_eq!(
        check(json!({"a": {"value": "6", "stamp": stamp}})),
        ["properties[a].value: property a: \"6\" is above the maximum 5"]
    );
    assert_eq!(check(json!({"r": {"value": "6", "stamp": stamp}})).len(), 1);
    assert_eq!(check(json!({"zz": {"value": null, "stamp": stamp}})).len(), 1);
    assert_eq!(
        check(json!({"a": {"value": "5", "stamp": "000000001000-0000-gw-2"}})),
        ["properties[a].stamp: must be a stamp of gateway gw-1"]
    );
    assert_eq!(
        check(json!({"a": {"value": "5", "stamp": "000000001000-0000-@h"}})).len(),
        1
    );
    assert_eq!(
        check(json!({"a": {"value": "5", "stamp": "ffffffffffff-0000-gw-1"}})).len(),
        1
    );
    assert_eq!(
        check(json!({"a": {"value": "5", "stamp": stamp, "saw": "ffffffffffff-0000-@h"}})).len(),
        1
    );
    assert_eq!(check(json!({"a": {"value": 5, "stamp": stamp}})).len(), 1);
    assert_eq!(check(json!({"a": {"value": "5"}})).len(), 1);
    assert_eq!(check_twins(&json!({}), "gw-1", None).len(), 1);
    assert!(
        check_twins(
            &json!({"properties": {"free": {"value": "6", "stamp": stamp}}}),
            "gw-1",
            None
        )
        .is_empty()
    );
}

/// A hub and a gateway, each with its copy of a Device, and messages under way between them.
struct Pair {
    hub: Value,
    edge: Value,
    hub_clock: Clock,
    edge_clock: Clock,
    down: Option<Value>,
    up: Option<Value>,
}

impl Pair {
    fn edit(&mut self, hub: bool, name: &str, value: Option<String>, wall: u64) {
        let (object, clock) = match hub {
            true => (&mut self.hub, &mut self.hub_clock),
            false => (&mut self.edge, &mut self.edge_clock),
        };
        let old = object.clone();
        let list = object["spec"]["properties"].as_array_mut().unwrap();
        match (list.iter_mut().find(|entry| entry["name"] == name), value) {
            (Some(entry), Some(value)) => entry["desired"] = json!({"value": value}),
            (Some(entry), None) => drop(entry.as_object_mut().unwrap().remove("desired")),
            (None, Some(value)) => list.push(json!({"name": name, "desired": {"value": value}})),
            (None, None) => {}
        }
        // A write that would lose by its policy is refused and leaves the object as it was.
        if admit_device(Some(&old), object, None, clock, wall, "writer").is_err() {
            *object = old;
        }
    }

    fn deliver_down(&mut self) {
        if let Some(body) = self.down.take() {
            for register in desired_registers(&body).values() {
                self.edge_clock.observe(&register.stamp, 0);
            }
            merge_device_desired(&mut self.edge, &body);
        }
    }

    fn deliver_up(&mut self) {
        if let Some(body) = self.up.take() {
            assert_eq!(check_twins(&body, "gw-1", None), []);
            let old = self.hub.clone();
            merge_device_desired(&mut self.hub, &body);
            // The hub writes the merged object through its API as a system writer: the stamps stay.
            let merged = desired_registers(&self.hub);
            admit_device(
                Some(&old),
                &mut self.hub,
                None,
                &mut self.hub_clock,
                NOW,
                Who::System("fleet"),
            )
            .unwrap();
            assert_eq!(desired_registers(&self.hub), merged);
        }
    }
}

proptest! {
    /// Writes on both sides while cut, messages coalesced to the newest, lost and repeated, a gateway with any clock:
    /// once each side heard the other, both hold the same bytes.
    #[test]
    fn hub_and_gateway_end_with_the_same_bytes(
        policy in prop::sample::select(vec!["latest", "cloud", "edge", "min", "max"]),
        edge_wall in prop::sample::select(vec![0u64, NOW - 3_600_000, NOW, NOW * 2]),
        steps in prop::collection::vec((0u8..8, "[a-c]", prop::option::of("[0-9]{1,2}")), 1..60),
    ) {
        let mut object = device(json!([{"name": "a"}]));
        object["metadata"]["annotations"] = json!({MERGE_POLICY: format!("*={policy}")});
        let mut pair = Pair {
            hub: object.clone(), edge: object, hub_clock: Clock::hub("h", None), edge_clock: Clock::edge("gw-1", None), down: None, up: None,
        };
        for (index, (what, name, value)) in steps.into_iter().enumerate() {
            let wall = index as u64;
            match what {
                0 | 1 => pair.edit(true, &name, value, NOW + wall),
                2 | 3 => pair.edit(false, &name, value, edge_wall + wall),
                4 => pair.down = Some(pair.hub.clone()),
                5 => pair.up = edge_registers(&pair.edge, "gw-1"),
                6 => pair.deliver_down(),
                _ => pair.deliver_up(),
            }
        }
        // The link is back: newest states go both ways until nothing is new.
        for _ in 0..3 {
            pair.up = edge_registers(&pair.edge, "gw-1");
            pair.deliver_up();
            pair.down = Some(pair.hub.clone());
            pair.deliver_down();
        }
        prop_assert_eq!(pair.hub.to_string(), pair.edge.to_string());
    }
}
