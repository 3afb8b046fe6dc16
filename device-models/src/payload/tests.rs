use proptest::prelude::*;

use super::*;

fn bad(payload: &str) -> (String, String) {
    let error = parse_twin_update(payload.as_bytes()).unwrap_err();
    (error.event_id, error.reason)
}

#[test]
fn a_full_request() {
    let payload = r#"{"event_id":"e1","timestamp":1690000000000,"twin":{"temp":{"expected":{"value":"20","metadata":{"timestamp":1}},
        "actual":{"value":"1\n9","metadata":{"timestamp":1}},"optional":true,"metadata":{"type":"string"},
        "expected_version":{"cloud":1,"edge":2},"actual_version":null},"gone":null,"also":{"metadata":{"type":"deleted"}},
        "empty":{"expected":null,"actual":{"value":null}}}}"#;
    let update = parse_twin_update(payload.as_bytes()).unwrap();
    let set =
        |expected: Option<&'static str>, actual: Option<&'static str>, value_type: Option<&'static str>| Entry::Set {
            expected: expected.map(Cow::from),
            actual: actual.map(Cow::from),
            value_type: value_type.map(Cow::from),
            metadata: BTreeMap::new(),
        };
    let entries = vec![
        ("temp".into(), set(Some("20"), Some("1\n9"), Some("string"))),
        ("gone".into(), Entry::Delete),
        ("also".into(), Entry::Delete),
        ("empty".into(), set(None, None, None)),
    ];
    assert_eq!(
        update,
        TwinUpdate {
            event_id: "e1".into(),
            identified: true,
            entries
        }
    );
    assert!(matches!(update.event_id, Cow::Borrowed(_)));
}

#[test]
fn what_cannot_be_read_is_answered_with_the_event_id() {
    let (id, reason) = bad(r#"{"event_id":"u11","#);
    assert_eq!(id, "u11");
    assert!(
        reason.starts_with("twin/update: the payload cannot be read: "),
        "{reason}"
    );
    assert_eq!(
        bad(r#"{"event_id":"u12","timestamp":1}"#),
        ("u12".into(), "twin/update: \"twin\" is missing".into())
    );
    assert_eq!(
        bad(r#"{"event_id":"u13","twin":{}}"#).1,
        "twin/update: \"twin\" names no property"
    );
    assert_eq!(bad(r#"{"event_id":"u14","twin":null}"#).0, "u14");
    let (id, reason) = bad(r#"{"event_id":"u15","twin":{"setpoint":{"actual":{"value":20}}}}"#);
    assert_eq!(id, "u15");
    assert!(
        reason.contains("property setpoint: invalid type: integer `20`, expected text in quotes"),
        "{reason}"
    );
}

#[test]
fn strange_requests_are_refused() {
    for payload in [
        "",
        "null",
        "[]",
        "5",
        "\u{feff}{}",
        r#"{"twin":{"p":{"actual":{"value":"1"}}}} x"#,
        r#"{"twin":{"p":{"actual":{"value":"1"}},"p":null}}"#,
        r#"{"twin":{"p":null,"q":null,"p":null}}"#,
        r#"{"twin":{"p":{"actual":{"value":"1"},"actual":null}}}"#,
        r#"{"twin":{"p":null},"twin":{"p":null}}"#,
        r#"{"event_id":"a","event_id":"b","twin":{"p":null}}"#,
        r#"{"event_id":5,"twin":{"p":null}}"#,
        r#"{"twin":["p"]}"#,
        r#"{"twin":{"p":"1"}}"#,
        r#"{"twin":{"p":{"actual":"1"}}}"#,
        r#"{"twin":{"p":{"actual":{"value":true}}}}"#,
        r#"{"twin":{"p":{"actual":{"value":"\ud800"}}}}"#,
        r#"{"twin":{"p":{"metadata":"string","actual":{"value":"1"}}}}"#,
    ] {
        assert!(parse_twin_update(payload.as_bytes()).is_err(), "{payload}");
    }
    assert!(parse_twin_update(b"{\"twin\":{\"p\":{\"actual\":{\"value\":\"\xff\"}}}}").is_err());
}

#[test]
fn caps() {
    let name = |length: usize| format!(r#"{{"twin":{{"{}":null}}}}"#, "n".repeat(length));
    assert!(parse_twin_update(name(128).as_bytes()).is_ok());
    assert!(bad(&name(129)).1.contains("longer than 128 bytes"));
    let id = |length: usize| format!(r#"{{"event_id":"{}","twin":{{"p":null}}}}"#, "n".repeat(length));
    assert!(parse_twin_update(id(256).as_bytes()).is_ok());
    assert!(bad(&id(257)).1.contains("event_id is longer than 256 bytes"));
    let many = |count: usize| {
        let properties: Vec<String> = (0..count).map(|n| format!("\"p{n}\":null")).collect();
        format!(r#"{{"twin":{{{}}}}}"#, properties.join(","))
    };
    assert_eq!(parse_twin_update(many(1024).as_bytes()).unwrap().entries.len(), 1024);
    assert!(bad(&many(1025)).1.contains("more than 1024 properties"));
    assert!(bad(&"[".repeat(MAX_PAYLOAD)).1.len() < 200);
    assert!(bad(&" ".repeat(MAX_PAYLOAD + 1)).1.contains("1048577 bytes"));
    // Depth costs nothing where nothing is kept.
    assert!(bad(&format!(r#"{{"x":{}"#, "[".repeat(100_000))).1.len() < 200);
}

#[test]
fn the_other_requests() {
    assert_eq!(parse_get(br#"{"event_id":"g0","timestamp":1}"#).unwrap(), "g0");
    assert_eq!(parse_get(b"{}").unwrap(), "");
    assert!(parse_get(b"").is_err());
    let update = parse_state_update(br#"{"event_id":"s1","timestamp":1,"state":"online"}"#).unwrap();
    assert_eq!(
        update,
        StateUpdate {
            event_id: "s1".into(),
            identified: true,
            state: "online".into()
        }
    );
    let error = parse_state_update(br#"{"event_id":"s1","timestamp":1}"#).unwrap_err();
    assert_eq!(
        (&*error.event_id, &*error.reason),
        ("s1", "state/update: \"state\" is missing")
    );
}

#[test]
fn what_tells_a_request_from_another_one() {
    let table = [
        (r#"{"event_id":"e","twin":{"p":null}}"#, true),
        (r#"{"event_id":"","twin":{"p":null}}"#, false),
        (r#"{"event_id":null,"timestamp":null,"twin":{"p":null}}"#, false),
        (r#"{"timestamp":1690000000000,"twin":{"p":null}}"#, true),
        (r#"{"twin":{"p":null},"timestamp":-1.5}"#, true),
        (r#"{"timestamp":"2026-01-01T00:00:00Z","twin":{"p":null}}"#, true),
        // A clock that does not run says nothing.
        (r#"{"timestamp":0,"twin":{"p":null}}"#, false),
        (r#"{"timestamp":"","twin":{"p":null}}"#, false),
        (r#"{"timestamp":[1],"twin":{"p":null}}"#, false),
        (r#"{"timestamp":{"timestamp":1},"twin":{"p":null}}"#, false),
        (r#"{"timestamp":true,"twin":{"p":null}}"#, false),
        (r#"{"twin":{"p":{"actual":{"value":"1"}}}}"#, false),
        (
            r#"{"twin":{"p":{"actual":{"value":"1","metadata":{"timestamp":5}}}}}"#,
            true,
        ),
        (
            r#"{"twin":{"p":{"actual":{"metadata":{"x":[],"timestamp":5},"value":"1"}}}}"#,
            true,
        ),
        (
            r#"{"twin":{"p":{"actual":{"value":"1","metadata":{"timestamp":0}}}}}"#,
            false,
        ),
        (r#"{"twin":{"p":{"actual":{"value":"1","metadata":5}}}}"#, false),
        (
            r#"{"twin":{"p":{"actual":{"value":"1","metadata":[{"timestamp":5}]}}}}"#,
            false,
        ),
        // All of them, or it is not the request's.
        (
            r#"{"twin":{"p":{"actual":{"value":"1","metadata":{"timestamp":5}}},"q":{"actual":{"value":"1"}}}}"#,
            false,
        ),
        (
            r#"{"twin":{"p":{"actual":{"value":"1","metadata":{"timestamp":5}},"expected":{"value":"1"}}}}"#,
            false,
        ),
        (
            r#"{"twin":{"p":{"actual":{"value":"1","metadata":{"timestamp":5}}},"q":null}}"#,
            false,
        ),
    ];
    for (payload, identified) in table {
        let update = parse_twin_update(payload.as_bytes()).expect(payload);
        assert_eq!(update.identified, identified, "{payload}");
    }
    for (payload, identified) in [
        (r#"{"event_id":"e","state":"ok"}"#, true),
        (r#"{"timestamp":3,"state":"ok"}"#, true),
        (r#"{"state":"ok"}"#, false),
    ] {
        assert_eq!(
            parse_state_update(payload.as_bytes()).unwrap().identified,
            identified,
            "{payload}"
        );
    }
}

/// What KubeEdge was seen to write, byte for byte.
#[test]
fn membership_and_errors_are_those_of_kubeedge() {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let d0 = MemberDevice {
        id: "default/d0",
        name: "d0",
        ..MemberDevice::default()
    };
    let dx = MemberDevice {
        id: "default/dx",
        name: "dx",
        ..MemberDevice::default()
    };
    assert_eq!(
        text(membership_result("m0", 1795230653728, &[d0])),
        r#"{"event_id":"m0","timestamp":1795230653728,"devices":[{"id":"default/d0","name":"d0"}]}"#
    );
    assert_eq!(
        text(membership_updated("f1ee6dc1", 1795232262655, &[dx], &[])),
        r#"{"event_id":"f1ee6dc1","timestamp":1795232262655,"added_devices":[{"id":"default/dx","name":"dx"}],"removed_devices":null}"#
    );
    assert_eq!(
        text(membership_updated("d6a1da48", 1795232264718, &[], &[dx])),
        r#"{"event_id":"d6a1da48","timestamp":1795232264718,"added_devices":null,"removed_devices":[{"id":"default/dx","name":"dx"}]}"#
    );
    assert_eq!(
        text(error_result(
            "u10",
            1795230667146,
            404,
            "update rejected due to the device is not existed"
        )),
        r#"{"event_id":"u10","timestamp":1795230667146,"code":404,"reason":"update rejected due to the device is not existed"}"#
    );
}

proptest! {
    #[test]
    fn reads_anything(payload in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = (parse_twin_update(&payload).is_ok(), parse_get(&payload).is_ok(), parse_state_update(&payload).is_ok());
    }

    #[test]
    fn any_text_is_a_value(name in "\\PC{1,20}", value in "(?s).{0,200}", id in "(?s).{0,50}") {
        let payload = serde_json::json!({"event_id": id, "twin": {&name: {"actual": {"value": value}}}}).to_string();
        let update = parse_twin_update(payload.as_bytes()).unwrap();
        prop_assert_eq!(update.event_id, id);
        prop_assert_eq!(update.entries, vec![(Cow::from(name), Entry::actual(value))]);
    }

    /// A request cut anywhere is refused, and keeps its event id once that was complete.
    #[test]
    fn cut_requests(cut in 0usize..78) {
        let payload = r#"{"event_id":"e1","timestamp":1,"twin":{"p":{"actual":{"value":"1"},"x":[1]}}}"#;
        let error = parse_twin_update(&payload.as_bytes()[..cut.min(payload.len() - 1)]).unwrap_err();
        prop_assert_eq!(error.event_id, if cut >= 16 { "e1" } else { "" });
    }
}
