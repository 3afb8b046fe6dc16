use serde_json::json;

use super::*;
use crate::edge_registers;

const NOW: u64 = 1_795_230_654_934;

fn device(properties: Value) -> Value {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
        "metadata": {"name": "press-01", "namespace": "default"},
        "spec": {"nodeName": "gw-1", "deviceModelRef": {"name": "press"}, "properties": properties},
    })
}

fn model() -> Value {
    json!({"metadata": {"name": "press"}, "spec": {"properties": [
        {"name": "setpoint", "type": "DOUBLE", "accessMode": "ReadWrite", "minimum": "20", "maximum": "200", "unit": "°C"},
        {"name": "temperature", "type": "DOUBLE", "accessMode": "ReadOnly"},
        {"name": "enabled", "type": "BOOLEAN", "accessMode": "ReadWrite"},
    ]}})
}

fn admit(old: Option<&Value>, new: &mut Value, clock: &mut Clock, wall: u64) -> Result<(), Vec<FieldError>> {
    admit_device(old, new, Some(&model()), clock, wall, "kubernetes-admin")
}

fn metadata(device: &Value, index: usize) -> &Value {
    &device["spec"]["properties"][index]["desired"]["metadata"]
}

#[test]
fn changed_values_are_stamped_and_unchanged_ones_keep_their_stamp() {
    let mut clock = Clock::hub("h", None);
    let mut first = device(json!([
        {"name": "setpoint", "desired": {"value": "80", "metadata": {"type": "double", "timestamp": "1", "stamp": "forged", "by": "root"}}},
        {"name": "enabled", "desired": {"value": "true"}},
    ]));
    admit(None, &mut first, &mut clock, NOW).unwrap();
    assert_eq!(
        *metadata(&first, 0),
        json!({"type": "double", "timestamp": NOW.to_string(), "stamp": "01a1fc15e1d6-0000-@h", "by": "kubernetes-admin"})
    );
    assert_eq!(metadata(&first, 1)["stamp"], "01a1fc15e1d6-0001-@h");
    assert_eq!(clock.last().to_string(), "01a1fc15e1d6-0001-@h");

    let mut second = device(json!([
        {"name": "setpoint", "desired": {"value": "80", "metadata": {"stamp": "0fffffffffff-0000-@h"}}},
        {"name": "enabled", "desired": {"value": "false"}},
    ]));
    admit(Some(&first), &mut second, &mut clock, NOW + 5).unwrap();
    assert_eq!(metadata(&second, 0)["stamp"], "01a1fc15e1d6-0000-@h");
    assert_eq!(metadata(&second, 1)["stamp"], "01a1fc15e1db-0000-@h");
}

#[test]
fn a_value_taken_away_is_remembered_and_forgotten_when_set_again() {
    let mut clock = Clock::hub("h", None);
    let mut first = device(json!([{"name": "setpoint", "desired": {"value": "80"}}]));
    admit(None, &mut first, &mut clock, NOW).unwrap();
    let mut second = device(json!([]));
    admit(Some(&first), &mut second, &mut clock, NOW + 1).unwrap();
    let register = &desired_registers(&second)["setpoint"];
    assert_eq!((register.value.as_deref(), register.stamp.ms()), (None, NOW + 1));
    // The annotation is ours: whoever leaves it out or edits it changes nothing.
    let mut third = device(json!([{"name": "setpoint"}]));
    third["metadata"]["annotations"] = json!({"kurator.dev/cleared": "{}", "mine": "x"});
    admit(Some(&second), &mut third, &mut clock, NOW + 2).unwrap();
    assert_eq!(desired_registers(&third), desired_registers(&second));
    assert_eq!(third["metadata"]["annotations"]["mine"], "x");
    let mut fourth = device(json!([{"name": "setpoint", "desired": {"value": "80"}}]));
    admit(Some(&third), &mut fourth, &mut clock, NOW + 3).unwrap();
    assert_eq!(fourth["metadata"].get("annotations"), None);
    assert_eq!(desired_registers(&fourth)["setpoint"].stamp.ms(), NOW + 3);
}

#[test]
fn errors_name_the_field_and_leave_everything_as_it_was() {
    let mut clock = Clock::hub("h", None);
    let before = clock.last().clone();
    let mut new = device(json!([
        {"name": "enabled", "desired": {"value": "true"}},
        {"name": "setpoint", "desired": {"value": "250"}},
        {"name": "temperature", "desired": {"value": "5"}},
        {"name": "pressure"},
        {"name": "enabled"},
        {"reportCycle": -1},
    ]));
    new["spec"]["methods"] = json!([{"name": "m", "propertyNames": ["setpoint", "nope"]}]);
    new["spec"]["nodeName"] = json!("GW_1");
    new["metadata"]["annotations"] = json!({"kurator.dev/merge-policy": "setpoint=newest"});
    let sent = new.clone();
    let errors = admit(None, &mut new, &mut clock, NOW).unwrap_err();
    let said: Vec<_> = errors
        .iter()
        .map(|e| (e.kind.reason(), &*e.path, &*e.value, &*e.message))
        .collect();
    let unknown = "property pressure: model press has no such property";
    assert_eq!(
        said,
        [
            (
                "FieldValueInvalid",
                "spec.nodeName",
                "\"GW_1\"",
                "must be a node's name: lower case letters, digits, '-' and '.', at most 253 characters"
            ),
            (
                "FieldValueInvalid",
                "metadata.annotations[kurator.dev/merge-policy]",
                "\"setpoint=newest\"",
                "\"setpoint=newest\": a merge policy is one of latest, cloud, edge, min, max"
            ),
            (
                "FieldValueInvalid",
                "spec.properties[1].desired.value",
                "\"250\"",
                "property setpoint: \"250\" is above the maximum 200 °C"
            ),
            (
                "FieldValueForbidden",
                "spec.properties[2].desired.value",
                "\"5\"",
                "property temperature: \"5\" cannot be set, its access mode is ReadOnly"
            ),
            ("FieldValueNotFound", "spec.properties[3].name", "\"pressure\"", unknown),
            (
                "FieldValueDuplicate",
                "spec.properties[4].name",
                "\"enabled\"",
                "property enabled stands there twice"
            ),
            (
                "FieldValueRequired",
                "spec.properties[5].name",
                "",
                "a property needs a name"
            ),
            (
                "FieldValueInvalid",
                "spec.properties[5].reportCycle",
                "\"-1\"",
                "property : reportCycle -1 is below the minimum 0"
            ),
            (
                "FieldValueNotFound",
                "spec.methods[0].propertyNames[1]",
                "\"nope\"",
                "property nope: model press has no such property"
            ),
        ]
    );
    assert_eq!(new, sent);
    assert_eq!(*clock.last(), before);
}

#[test]
fn a_number_without_quotes_is_explained() {
    let mut new = device(json!([{"name": "setpoint", "desired": {"value": 80}}]));
    let errors = admit(None, &mut new, &mut Clock::hub("h", None), NOW).unwrap_err();
    assert_eq!(
        errors[0].to_string(),
        "spec.properties[0].desired.value: must be text in quotes: \"80\""
    );
}

#[test]
fn without_its_model_a_device_is_stamped_only() {
    let mut new = device(json!([{"name": "anything", "desired": {"value": "at all"}}]));
    admit_device(None, &mut new, None, &mut Clock::edge("gw-1", None), 0, "local api").unwrap();
    assert_eq!(metadata(&new, 0)["stamp"], "000000000000-0001-gw-1");
    assert!(edge_registers(&new, "gw-1").is_some());
    assert_eq!(edge_registers(&new, "gw-2"), None);
    let mut long = device(json!([{"name": "p", "desired": {"value": "x".repeat(70_000)}}]));
    let errors = admit_device(None, &mut long, None, &mut Clock::edge("gw-1", None), 0, "x").unwrap_err();
    assert_eq!(
        errors[0].message,
        "property p: the value has 70000 bytes, at most 65536 are allowed"
    );
}

#[test]
fn what_a_stricter_model_would_refuse_now_does_not_block_other_changes() {
    let mut clock = Clock::hub("h", None);
    let mut old = device(
        json!([{"name": "setpoint", "desired": {"value": "900"}}, {"name": "legacy", "desired": {"value": "1"}}]),
    );
    admit_device(None, &mut old, None, &mut clock, NOW, "x").unwrap();
    let mut new = old.clone();
    new["metadata"]["labels"] = json!({"line": "4"});
    admit(Some(&old), &mut new, &mut clock, NOW).unwrap();
    assert_eq!(desired_registers(&new), desired_registers(&old));
    new["spec"]["properties"][0]["desired"]["value"] = json!("901");
    new["spec"]["properties"][1]["desired"]["value"] = json!("2");
    assert_eq!(admit(Some(&old), &mut new, &mut clock, NOW).unwrap_err().len(), 2);
}

#[test]
fn a_system_writers_stamps_are_kept_if_they_are_real() {
    let mut clock = Clock::hub("h", None);
    let mut old = device(json!([{"name": "setpoint", "desired": {"value": "80"}}]));
    admit(None, &mut old, &mut clock, NOW).unwrap();
    let with = |value: &str, stamp: &str| {
        device(
            json!([{"name": "setpoint", "desired": {"value": value, "metadata": {"stamp": stamp, "by": "mqtt press"}}}]),
        )
    };
    let system = |new: &mut Value, clock: &mut Clock| {
        admit_device(Some(&old), new, Some(&model()), clock, NOW, Who::System("fleet")).unwrap();
        desired_registers(new)["setpoint"].clone()
    };
    let kept = system(&mut with("90", "01a1fc15e1d9-0000-gw-1"), &mut clock);
    assert_eq!(
        (kept.stamp.to_string(), &*kept.by),
        ("01a1fc15e1d9-0000-gw-1".into(), "mqtt press")
    );
    assert!(clock.last() > &kept.stamp || clock.last().ms() == kept.stamp.ms());
    // Another value under the stored stamp, no stamp, a stamp beyond all time: a new write of the system's.
    for stamp in ["01a1fc15e1d6-0000-@h", "", "ffffffffffff-0000-gw-1"] {
        let register = system(&mut with("91", stamp), &mut clock);
        assert_eq!((register.stamp.node(), &*register.by), ("@h", "fleet"), "{stamp}");
    }
}

#[test]
fn a_write_that_loses_by_its_policy_is_refused() {
    let mut clock = Clock::hub("h", None);
    let mut old = device(json!([{"name": "setpoint", "desired": {"value": "80"}}]));
    old["metadata"]["annotations"] = json!({"kurator.dev/merge-policy": "setpoint=edge"});
    admit_device(None, &mut old, None, &mut Clock::edge("gw-1", None), NOW, "mqtt press").unwrap();
    let mut new = old.clone();
    new["spec"]["properties"][0]["desired"]["value"] = json!("90");
    let errors = admit(Some(&old), &mut new, &mut clock, NOW + 9).unwrap_err();
    assert_eq!(
        errors[0].message,
        "property setpoint: \"80\" set by the gateway stays, its merge policy is edge"
    );
    // Whoever changes the policy in the same write gets the value.
    new["metadata"]["annotations"] = json!({"kurator.dev/merge-policy": "setpoint=latest"});
    admit(Some(&old), &mut new, &mut clock, NOW + 9).unwrap();
}

#[test]
fn models() {
    let check = |properties: Value| {
        let errors = crate::validate_model(&json!({"spec": {"properties": properties}}));
        errors.into_iter().map(|error| error.to_string()).collect::<Vec<_>>()
    };
    assert!(crate::validate_model(&model()).is_empty());
    assert!(
        check(json!([{"name": "s", "type": "STRING", "minimum": "a"}, {"name": "i", "type": "INT", "maximum": ""}]))
            .is_empty()
    );
    assert_eq!(
        check(json!([{"name": "i", "type": "INT", "minimum": "10", "maximum": "9.5"}])),
        ["spec.properties[0].minimum: property i: the minimum 10 is above the maximum 9.5"]
    );
    assert_eq!(
        check(json!([{"name": "i", "type": "INT", "minimum": "ten"}])),
        ["spec.properties[0].minimum: property i: minimum \"ten\" is not a number"]
    );
    assert_eq!(
        check(json!([{"name": "i"}, {"name": "i"}, {"type": "INT"}, {"name": ""}])).len(),
        3
    );
    assert_eq!(check(json!([{"name": "i", "type": "DECIMAL"}])).len(), 1);
    let many: Vec<Value> = (0..1025).map(|n| json!({"name": format!("p{n}")})).collect();
    assert_eq!(
        check(json!(many)),
        ["spec.properties: has 1025 properties, at most 1024 are allowed"]
    );
}
