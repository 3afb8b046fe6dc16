//! Entry points for fuzzing: whatever the bytes, no panic, and what holds for accepted input holds. Run over the corpus in
//! the normal tests.

use std::sync::Arc;

use serde_json::Value;

use crate::hlc::Clock;
use crate::payload::{parse_get, parse_state_update, parse_twin_update};
use crate::topic::{self, Answer, Request, TopicError};
use crate::twin::{Author, Twin};
use crate::values::Rules;
use crate::{Who, admit_device, check_twins, edge_registers, merge_device_desired, validate_model};

/// Reads the bytes as every MQTT request and applies it to a twin without a model.
pub fn twin_payload(data: &[u8]) {
    let (get, state) = (parse_get(data).is_ok(), parse_state_update(data).is_ok());
    let Ok(update) = parse_twin_update(data) else { return };
    assert!(get, "a twin update is read as a get too");
    let mut device = serde_json::json!({"metadata": {"name": "d", "namespace": "n"}, "spec": {}});
    let mut twin = Twin::new(&device, None, None);
    if state {
        twin.set_state(1, "ok").expect("a known state");
    }
    let mut clock = Clock::edge("gw", None);
    let before = twin.status();
    let author = Author {
        clock: &mut clock,
        by: "fuzz",
    };
    let Ok(outcome) = twin.report(1_000, author, &update.entries) else {
        assert_eq!(twin.status(), before, "an error changes nothing");
        return;
    };
    for answer in [
        outcome.result(&update.event_id),
        outcome.document(&update.event_id),
        twin.repeated(1, &update.event_id, &update.entries),
        twin.get(1, ""),
    ] {
        serde_json::from_slice::<Value>(&answer).expect("answers are JSON");
    }
    if let Some(body) = outcome.desired_body() {
        assert!(
            check_twins(&body, "gw", None).is_empty(),
            "our own body passes our own check"
        );
        merge_device_desired(&mut device, &body);
    }
    let status = twin.status();
    let rebuilt = Twin::new(&device, None, Some(&status));
    assert_eq!(rebuilt.status(), status, "a twin survives a restart");
    assert_eq!(rebuilt.get(1, ""), twin.get(1, ""), "a twin survives a restart");
}

/// Reads the bytes as a topic.
pub fn topic(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match topic::parse(text) {
        Ok(Request::TwinUpdate(device) | Request::TwinGet(device) | Request::StateUpdate(device)) => {
            for answer in [
                Answer::UpdateResult,
                Answer::Delta,
                Answer::Document,
                Answer::GetResult,
                Answer::StateResult,
            ] {
                assert_eq!(
                    topic::parse(&device.topic(answer)),
                    Err(TopicError::Reserved),
                    "answers are no requests"
                );
            }
        }
        Ok(Request::MembershipGet { node }) => {
            assert_eq!(
                topic::parse(&topic::membership_result(node)),
                Err(TopicError::Reserved),
                "answers are no requests"
            );
        }
        Err(_) => {}
    }
}

/// Reads the bytes as two JSON objects, a model and a Device, or as one Device.
pub fn device(data: &[u8]) {
    let mut values = serde_json::Deserializer::from_slice(data)
        .into_iter::<Value>()
        .map_while(Result::ok);
    let Some(first) = values.next() else { return };
    let (model, mut object) = match values.next() {
        Some(second) => (Some(first), second),
        None => (None, first),
    };
    let rules = model.as_ref().and_then(|model| {
        let _ = validate_model(model);
        serde::Deserialize::deserialize(model)
            .ok()
            .map(|model| Arc::new(Rules::compile(&model)))
    });
    // Whatever is stored, a twin is built from it.
    let twin = Twin::new(&object, rules.clone(), Some(&object));
    let _ = (twin.delta(1, "e"), twin.get(1, "e"), twin.status());
    let mut clock = Clock::hub("h", None);
    if admit_device(None, &mut object, model.as_ref(), &mut clock, 1_000, "fuzz").is_err() {
        return;
    }
    let admitted = object.clone();
    let mut again = object.clone();
    admit_device(Some(&object), &mut again, model.as_ref(), &mut clock, 2_000, "other")
        .expect("the same again is fine");
    assert_eq!(again, admitted, "what is unchanged keeps its stamps");
    admit_device(Some(&object), &mut again, None, &mut clock, 2_000, Who::System("s")).expect("the same again is fine");
    assert_eq!(again, admitted, "what is unchanged keeps its stamps");
    assert!(
        !merge_device_desired(&mut again, &admitted).object,
        "merging the same changes nothing"
    );
    assert_eq!(edge_registers(&admitted, "gw"), None, "all was written in the cloud");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn corpus(name: &str, target: fn(&[u8])) {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz-corpus")
            .join(name);
        let mut seeds = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            let data = std::fs::read(file.unwrap().path()).unwrap();
            target(&data);
            // Neighbours: cut, and with a byte changed.
            for at in 0..data.len() {
                target(&data[..at]);
                let mut changed = data.clone();
                changed[at] ^= 1 << (at % 8);
                target(&changed);
            }
            seeds += 1;
        }
        assert!(seeds >= 5, "the corpus is there");
    }

    #[test]
    fn twin_payload_corpus() {
        corpus("twin_payload", twin_payload);
    }

    #[test]
    fn topic_corpus() {
        corpus("topic", topic);
    }

    #[test]
    fn device_corpus() {
        corpus("device", device);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let key = prop::sample::select(vec![
            "spec",
            "metadata",
            "annotations",
            "properties",
            "name",
            "desired",
            "value",
            "stamp",
            "saw",
            "kurator.dev/cleared",
            "kurator.dev/merge-policy",
            "status",
            "twins",
            "propertyName",
            "reported",
            "timestamp",
            "type",
        ]);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            prop::sample::select(vec![
                "a",
                "b",
                "",
                "1",
                "000000001000-0000-gw",
                "INT",
                "*=max",
                "{\"a\":{\"value\":null,\"stamp\":\"000000001000-0000-gw\"}}"
            ])
            .prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(key.clone().prop_map(str::to_owned), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn device_of_any_json(model in any_json(), object in any_json()) {
            device(format!("{model}{object}").as_bytes());
            device(object.to_string().as_bytes());
        }

        #[test]
        fn twin_payload_of_any_json(names in prop::collection::vec("[a-c]{1,2}", 1..4), entry in any_json()) {
            let twin: serde_json::Map<String, Value> = names.into_iter().map(|name| (name, entry.clone())).collect();
            twin_payload(serde_json::json!({"twin": twin}).to_string().as_bytes());
        }
    }
}
