use proptest::prelude::*;

use super::*;

fn property(property_type: PropertyType, minimum: &str, maximum: &str) -> ModelProperty {
    let bound = |text: &str| Some(text.to_owned());
    ModelProperty {
        name: Some("p".into()),
        property_type: Some(property_type),
        minimum: bound(minimum),
        maximum: bound(maximum),
        ..ModelProperty::default()
    }
}

#[test]
fn types_take_what_they_should() {
    use PropertyType::*;
    let cases: [(PropertyType, &[&str], &[&str]); 7] = [
        (
            Int,
            &["0", "-5", "+7", "9223372036854775807"],
            &["", "1.0", "1e3", " 1", "0x10", "9223372036854775808", "abc"],
        ),
        (
            Float,
            &["0", "-1.5", "1e3", "3.4e38"],
            &["", "1e39", "NaN", "inf", "-Infinity", "1,5", "5 bar"],
        ),
        (
            Double,
            &["0", "-1.5", "1e300", "007"],
            &["", "1e309", "nan", "infinity"],
        ),
        (
            Boolean,
            &["true", "false", "True", "FALSE"],
            &["", "1", "on", "yes", "truth"],
        ),
        (String, &["", "{\"a\": [1]}", "20 °C = 68 °F", "日本"], &[]),
        (Bytes, &["", "AAEC/w==", "\u{0}\u{1}"], &[]),
        (Stream, &["rtsp://10.0.0.7/1"], &[]),
    ];
    for (property_type, good, bad) in cases {
        let property = property(property_type, "", "");
        for value in good {
            assert_eq!(check_value(&property, value), Ok(()), "{property_type:?} {value:?}");
        }
        for value in bad {
            assert!(
                matches!(check_value(&property, value), Err(ValueError::Type { .. })),
                "{property_type:?} {value:?}"
            );
        }
    }
}

#[test]
fn errors_name_property_value_and_bound() {
    let mut setpoint = property(PropertyType::Double, "20", "200");
    setpoint.name = Some("setpoint".into());
    setpoint.unit = Some("°C".into());
    let say = |value: &str| check_desired(&setpoint, value).unwrap_err().to_string();
    assert_eq!(say("250"), "property setpoint: \"250\" is above the maximum 200 °C");
    assert_eq!(say("19.99"), "property setpoint: \"19.99\" is below the minimum 20 °C");
    assert_eq!(say("hot"), "property setpoint: \"hot\" is not a finite number (DOUBLE)");
    assert_eq!(check_desired(&setpoint, "20"), Ok(()));
    assert_eq!(check_desired(&setpoint, "200.0"), Ok(()));
    setpoint.access_mode = Some(AccessMode::ReadOnly);
    let error = check_desired(&setpoint, "80").unwrap_err().to_string();
    assert_eq!(
        error,
        "property setpoint: \"80\" cannot be set, its access mode is ReadOnly"
    );
    assert_eq!(check_reported(&setpoint, "80"), Ok(()));
}

#[test]
fn whole_numbers_are_compared_as_such() {
    let at_the_edge = property(PropertyType::Int, "-9223372036854775808", "9223372036854775806");
    assert_eq!(check_value(&at_the_edge, "9223372036854775806"), Ok(()));
    assert!(matches!(
        check_value(&at_the_edge, "9223372036854775807"),
        Err(ValueError::AboveMaximum { .. })
    ));
    let between = property(PropertyType::Int, "0.5", "10.5");
    assert_eq!(check_value(&between, "10"), Ok(()));
    assert!(check_value(&between, "0").is_err());
    assert!(check_value(&between, "11").is_err());
    let huge = property(PropertyType::Int, "-1e30", "1e30");
    assert_eq!(check_value(&huge, "9223372036854775807"), Ok(()));
}

#[test]
fn single_precision_is_compared_as_such() {
    assert_eq!(check_value(&property(PropertyType::Float, "0.1", "0.1"), "0.1"), Ok(()));
    assert!(same_value(PropertyType::Float, "0.1", "0.10000000149011612"));
    assert!(!same_value(PropertyType::Double, "0.1", "0.10000000149011612"));
    assert!(same_value(PropertyType::Double, "-0", "0"));
    assert_eq!(check_value(&property(PropertyType::Double, "0", ""), "-0.0"), Ok(()));
    assert!(same_value(PropertyType::Double, "20", "20.0"));
    assert!(same_value(PropertyType::Boolean, "True", "true"));
    assert!(!same_value(PropertyType::Boolean, "on", "ON"));
    assert!(!same_value(PropertyType::String, "20", "20.0"));
}

#[test]
fn an_unreadable_bound_lets_nothing_through() {
    let error = check_value(&property(PropertyType::Int, "", "ten"), "3").unwrap_err();
    assert_eq!(
        error.to_string(),
        "property p: \"3\" cannot be checked, the model's bound \"ten\" is not a number"
    );
}

#[test]
fn long_values_are_refused_and_errors_stay_short() {
    let text = property(PropertyType::String, "", "");
    assert_eq!(check_value(&text, &"é".repeat(MAX_VALUE / 2)), Ok(()));
    let error = check_value(&text, &"x".repeat(MAX_VALUE + 1)).unwrap_err();
    assert_eq!(
        error,
        ValueError::TooLong {
            property: "p".into(),
            length: MAX_VALUE + 1
        }
    );
    let error = check_value(&property(PropertyType::Int, "", ""), &"é".repeat(30_000)).unwrap_err();
    assert!(error.to_string().chars().count() < 150);
}

#[test]
fn names() {
    for good in ["p", "a b", "Temp.1-x_y/z:@#", "température", &"n".repeat(128)] {
        assert_eq!(check_property_name(good), Ok(()), "{good:?}");
    }
    for bad in ["", " p", "p ", "a\nb", "a\u{0}", &"n".repeat(129)] {
        assert!(
            matches!(check_property_name(bad), Err(ValueError::Name { .. })),
            "{bad:?}"
        );
    }
}

#[test]
fn rules_find_properties() {
    let model: DeviceModel = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "press"},
        "spec": {"properties": [{"name": "z", "type": "INT"}, {"name": "a", "type": "BOOLEAN"}, {"name": "z", "type": "STRING"}]},
    }))
    .unwrap();
    let rules = Rules::compile(&model);
    assert_eq!(rules.get("z").unwrap().property_type(), PropertyType::Int);
    assert_eq!(
        rules.get("y").unwrap_err().to_string(),
        "property y: model press has no such property"
    );
}

proptest! {
    #[test]
    fn an_int_is_compared_with_a_real_as_128_bits_would(int in any::<i64>(), real in -1e19f64..1e19) {
        let wide = (int as i128).cmp(&(real.floor() as i128)).then(if real.fract() != 0.0 { Ordering::Less } else { Ordering::Equal });
        prop_assert_eq!(Number::Int(int).compare(Number::Real(real)), wide);
    }

    #[test]
    fn whatever_is_accepted_lies_within_the_bounds(value in "[-+]?[0-9]{1,4}(\\.[0-9]{1,3})?(e[0-2])?") {
        if check_value(&property(PropertyType::Double, "-50.5", "1000"), &value).is_ok() {
            let number: f64 = value.parse().unwrap();
            prop_assert!((-50.5..=1000.0).contains(&number));
        }
    }
}
