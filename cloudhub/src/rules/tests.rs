//! Rules from schema to cause, as a kube-apiserver answers them.

use super::*;
use serde_json::json;

const FULL: u64 = 10_000_000;

fn schema(properties: Value, rules: Value) -> Value {
    json!({"type": "object", "properties": {"spec": {
        "type": "object", "properties": properties, "x-kubernetes-validations": rules}}})
}

fn sample() -> Value {
    json!({
        "n": {"type": "integer", "maximum": 100},
        "x": {"type": "number"},
        "name": {"type": "string", "maxLength": 20},
        "when": {"type": "string", "format": "date-time"},
        "span": {"type": "string", "format": "duration"},
        "raw": {"type": "string", "format": "byte", "maxLength": 20},
        "port": {"x-kubernetes-int-or-string": true},
        "list": {"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 20}},
        "labels": {"type": "object", "maxProperties": 5, "additionalProperties": {"type": "string", "maxLength": 10}},
        "max-size": {"type": "integer"},
        "opt": {"type": "string", "nullable": true},
        "objects": {"type": "array", "maxItems": 5, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "required": ["k"], "properties": {
                "k": {"type": "string", "maxLength": 10}, "v": {"type": "integer"}}}},
    })
}

fn compiled(schema: &Value) -> Arc<dyn Rules> {
    CelRules.compile(schema, "s").unwrap().unwrap()
}

/// Whether a rule holds for a spec; what stands in its way otherwise.
fn holds(rule: &str, spec: Value) -> Result<bool, String> {
    let rules = CelRules
        .compile(&schema(sample(), json!([{"rule": rule}])), "s")
        .map_err(|causes| causes[0].message.clone())?
        .unwrap();
    match rules.check(&json!({"spec": spec}), None, FULL) {
        Ok(verdict) if verdict.causes.is_empty() => Ok(true),
        Ok(verdict) if verdict.causes[0].message.contains("failed rule") => Ok(false),
        Ok(verdict) => Err(verdict.causes[0].message.clone()),
        Err(_) => Err("spent".to_owned()),
    }
}

fn refused(rules: Value) -> Vec<(String, String)> {
    match CelRules.compile(&schema(sample(), rules), "s") {
        Err(causes) => causes.into_iter().map(|c| (c.reason, c.field)).collect(),
        Ok(_) => Vec::new(),
    }
}

#[test]
fn expressions_mean_what_they_mean_upstream() {
    let spec = || {
        json!({"n": 3, "x": 2, "name": "abc", "when": "2024-05-06T07:08:09Z", "span": "1h30m", "raw": "AAEC", "port": "80%",
        "list": ["a", "b", "b"], "labels": {"k": "v", "l": "w"}, "max-size": 7, "opt": null,
        "objects": [{"k": "a", "v": 1}, {"k": "b"}]})
    };
    for (rule, wanted) in [
        (
            "self.n == 3 && self.n * 2 - 1 == 5 && self.n % 2 == 1 && -self.n < 0",
            true,
        ),
        ("self.x == 2.0 && self.x < self.n", true),
        (
            "self.name.startsWith('a') && self.name.matches('^[a-c]+$') && self.name.size() == 3",
            true,
        ),
        ("size(self.name) in [1, 2, 3]", true),
        (
            "self.when > timestamp('2024-01-01T00:00:00Z') && self.when.getFullYear() == 2024",
            true,
        ),
        ("self.span == duration('90m') && self.span.getMinutes() == 90", true),
        ("self.raw.size() == 3", true),
        ("type(self.port) == string && self.port.endsWith('%')", true),
        (
            "type(self.port) == int ? self.port < 5 : int(self.port.replace('%', '')) > 50",
            true,
        ),
        ("self.list.exists(i, i == 'b') && self.list.all(i, i.size() == 1)", true),
        ("self.list.exists_one(i, i == 'b')", false),
        ("self.list.exists_one(i, i == 'a')", true),
        ("self.list.map(i, i + '!') == ['a!', 'b!', 'b!']", true),
        ("self.list.filter(i, i == 'b').size() == 2", true),
        ("self.list.map(i, i != 'a', i) == ['b', 'b']", true),
        ("self.list.all(i, v, i < 3 && v != '')", true),
        ("self.list.transformList(i, v, i > 0, v) == ['b', 'b']", true),
        ("self.labels.transformMap(k, v, k + v) == {'k': 'kv', 'l': 'lw'}", true),
        (
            "self.labels.all(k, k in ['k', 'l']) && self.labels['k'] == 'v' && 'l' in self.labels",
            true,
        ),
        ("self.max__dash__size == 7", true),
        (
            "has(self.name) && !has(self.objects[1].v) && has(self.objects[0].v)",
            true,
        ),
        (
            "self.objects.all(o, o.k.size() > 0) && self.objects.filter(o, has(o.v)).all(o, o.v > 0)",
            true,
        ),
        ("self.objects[1].v > 0 || true", true),
        ("self.objects.exists(o, o.v == 1)", true),
        (
            "self.?name.orValue('z') == 'abc' && self.objects[1].?v.orValue(9) == 9",
            true,
        ),
        ("self.objects[?7].?v.hasValue()", false),
        ("self.?name.optMap(n, n + n).value() == 'abcabc'", true),
        (
            "quantity('1Gi').isGreaterThan(quantity('900M')) && isQuantity('20m') && !isQuantity('x')",
            true,
        ),
        (
            "url('https://e.org:8080/a%20b?q=1&q=2#f').getPort() == '8080' && url('https://e.org/p?q=1&q=2').getQuery()['q'].size() == 2",
            true,
        ),
        (
            "isURL('/absolute') && !isURL('../relative') && url('https://[::1]:80/').getHostname() == '::1'",
            true,
        ),
        (
            "ip('10.0.0.1').family() == 4 && isIP('::1') && cidr('10.0.0.0/8').containsIP('10.2.3.4')",
            true,
        ),
        (
            "cidr('10.0.0.0/8').containsCIDR(cidr('10.1.0.0/16')) && cidr('10.0.0.0/8').prefixLength() == 8",
            true,
        ),
        ("!format.dns1123Label().validate(self.name).hasValue()", true),
        ("format.named('dns1123Label').value().validate('A_').hasValue()", true),
        (
            "semver('1.2.3').isLessThan(semver('1.10.0')) && isSemver('1.0.0')",
            true,
        ),
        (
            "self.list.isSorted() && [3, 1].max() == 3 && self.list.indexOf('b') == 1 && [1, 2].sum() == 3",
            true,
        ),
        (
            "sets.contains(self.list, ['a']) && sets.equivalent(self.list, ['b', 'a'])",
            true,
        ),
        (
            "'x,y'.split(',') == ['x', 'y'] && ['x', 'y'].join('-') == 'x-y' && ' a '.trim() == 'a' && 'Ab'.lowerAscii() == 'ab'",
            true,
        ),
        (
            "'a1b2'.find('[0-9]') == '1' && 'a1b2'.findAll('[0-9]') == ['1', '2']",
            true,
        ),
        ("'%s is %d'.format(['a', 3]) == 'a is 3'", true),
        ("[1, 2] + [3] == [1, 2, 3] && {'a': 1}.a == 1 && dyn(1) == 1.0", true),
        ("self.n > 5", false),
        ("self.name == 'x' ? true : self.n == 4", false),
    ] {
        assert_eq!(holds(rule, spec()), Ok(wanted), "{rule}");
    }
}

#[test]
fn what_fails_for_an_object_says_so() {
    assert!(holds("self.n > 3", json!({})).unwrap_err().contains("no such key: n"));
    assert!(
        holds("1 / (self.n - 1) == 0", json!({"n": 1}))
            .unwrap_err()
            .contains("division by zero")
    );
    assert!(
        holds("self.list[5] == ''", json!({"list": []}))
            .unwrap_err()
            .contains("index out of bounds")
    );
    assert!(
        holds("self.port < 5", json!({"port": "x"}))
            .unwrap_err()
            .contains("no such overload")
    );
    assert!(
        holds("9223372036854775807 + self.n > 0", json!({"n": 1}))
            .unwrap_err()
            .contains("overflow")
    );
    assert!(holds("quantity(self.name).isInteger()", json!({"name": "what"})).is_err());
    assert_eq!(
        holds("-9223372036854775807 - 1 == self.n", json!({"n": i64::MIN})),
        Ok(true)
    );
}

#[test]
fn wrong_rules_are_refused_with_the_definition() {
    let at = |what: &str| format!("s.properties[spec].x-kubernetes-validations[0].{what}");
    let one = |reason: &str, what: &str| vec![(reason.to_owned(), at(what))];
    for rule in [
        "self.nosuch == 1",
        "self.n == 'a'",
        "self.n + 1",
        "self.name > 5",
        "other == 1",
        "self.n ==",
        "self.name.nosuch()",
        "size(self.n) == 1",
        "self.list.all(i, i > 1)",
        "self.name.matches('(')",
        "duration('x') == self.span",
        "has(self)",
        "Foo{a: 1} == 1",
        "self.name == null",
        "self.opt == null",
        "self.list == null",
        "self.n == 1.0",
        "self.list.sort() == self.list",
        "self.list.sortBy(x, x) == self.list",
        "[[1]].flatten() == [1]",
        "cel.bind(x, 1, x == 1)",
        "math.greatest(1, 2) == 2",
        "base64.encode(b'a') == 'x'",
        "isIPv4('a')",
        "self.name.reverse() == 'a'",
        "self.list.reverse() == []",
        "self.all(k, k != 'a')",
        "[1, 'a'].size() == 2",
        "\"",
        "",
    ] {
        let (reason, field) = if rule.is_empty() {
            ("FieldValueRequired", "rule")
        } else {
            ("FieldValueInvalid", "rule")
        };
        assert_eq!(refused(json!([{"rule": rule}])), one(reason, field), "{rule}");
    }
    let ok = "self.n > 0";
    assert_eq!(
        refused(json!([{"rule": ok, "message": "a\nb"}])),
        one("FieldValueInvalid", "message")
    );
    assert_eq!(
        refused(json!([{"rule": "self.n >\n0"}])),
        one("FieldValueRequired", "message")
    );
    assert_eq!(
        refused(json!([{"rule": ok, "reason": "Nope"}])),
        one("FieldValueNotSupported", "reason")
    );
    assert_eq!(
        refused(json!([{"rule": ok, "fieldPath": ".nope"}])),
        one("FieldValueInvalid", "fieldPath")
    );
    assert_eq!(
        refused(json!([{"rule": ok, "messageExpression": "self.n"}])),
        one("FieldValueInvalid", "messageExpression")
    );
    assert_eq!(
        refused(json!([{"rule": ok, "optionalOldSelf": true}])),
        one("FieldValueInvalid", "optionalOldSelf")
    );
    assert!(refused(json!([{"rule": ok, "fieldPath": ".labels['a.b']", "reason": "FieldValueForbidden"}])).is_empty());
    let items = json!({"type": "object", "properties": {"l": {"type": "array", "maxItems": 3,
        "items": {"type": "integer", "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}}});
    let causes = CelRules.compile(&items, "s").unwrap_err();
    assert_eq!(
        causes[0].field,
        "s.properties[l].items.x-kubernetes-validations[0].rule"
    );
}

#[test]
fn expensive_rules_are_refused_unless_the_schema_bounds_them() {
    let list = |most: Value| {
        let mut list = json!({"type": "array", "items": {"type": "string", "maxLength": 10}});
        if !most.is_null() {
            list["maxItems"] = most;
        }
        let rule = json!([{"rule": "self.l.all(a, self.l.exists(b, a == b))"}]);
        CelRules.compile(&schema(json!({"l": list}), rule), "s")
    };
    let causes = list(Value::Null).unwrap_err();
    assert_eq!(causes[0].reason, "FieldValueForbidden");
    assert!(causes[0].message.contains("more than 100x"), "{}", causes[0].message);
    assert!(list(json!(20)).is_ok());
}

/// As a kube-apiserver decides about a schema that bounds nothing.
#[test]
fn estimates_are_those_of_the_api() {
    let open = json!({"n": {"type": "integer"}, "name": {"type": "string"},
        "o": {"type": "object", "properties": {"a": {"type": "string"}}},
        "l": {"type": "array", "items": {"type": "string"}},
        "m": {"type": "object", "additionalProperties": {"type": "string"}},
        "s": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}});
    for (rule, causes) in [
        ("self.o == null", 0),
        ("self == oldSelf", 0),
        ("self.o == oldSelf.o", 0),
        ("self.n > 1.5", 0),
        ("self.l.all(x, self.l.exists(y, x == y))", 3),
        ("self.name.matches('a+')", 0),
        ("self.l.exists(x, x.matches('a+b+c+d+'))", 3),
        ("self.s == oldSelf.s", 0),
        ("self.m.all(k, self.m[k].size() < 5)", 0),
        ("self.l.first().hasValue()", 0),
        ("self.l.map(x, x.size()).sum() > 3", 1),
        ("self.l.join().size() < 100000", 3),
        ("self.l == oldSelf.l", 0),
        ("self.name == oldSelf.name", 0),
        ("self.l.all(x, x in self.m)", 0),
        ("self.n in [1, 2]", 0),
        ("has(self.o.a) ? self.o.a == 'b' : true", 0),
        ("self.name.replace('a', 'bb').size() < 9", 0),
        ("self.name.lowerAscii() == self.name", 0),
        ("strings.quote('a') == 'a'", 0),
        ("self.name.charAt(0) == 'a'", 0),
    ] {
        let found = CelRules.compile(&schema(open.clone(), json!([{"rule": rule}])), "s");
        let found = found.err().unwrap_or_default();
        assert!(
            found.iter().all(|c| c.reason == "FieldValueForbidden"),
            "{rule}: {found:?}"
        );
        assert_eq!(found.len(), causes, "{rule}: {found:?}");
    }
}

#[test]
fn causes_name_field_reason_and_message() {
    let schema = json!({"type": "object", "x-kubernetes-validations": [
        {"rule": "self.metadata.name.startsWith('w-')", "message": "must begin with w-"}],
        "properties": {"spec": {"type": "object", "x-kubernetes-validations": [
            {"rule": "self.min <= self.max", "messageExpression": "'min %d is more than max %d'.format([self.min, self.max])",
                "fieldPath": ".min", "reason": "FieldValueForbidden"},
            {"rule": "self.max < 10", "reason": "FieldValueRequired", "message": "m"}],
            "properties": {"min": {"type": "integer"}, "max": {"type": "integer", "x-kubernetes-validations": [
                {"rule": "self == oldSelf", "message": "is immutable"}]},
            "list": {"type": "array", "maxItems": 3, "items": {"type": "string", "maxLength": 5, "x-kubernetes-validations": [
                {"rule": "self != 'x'"}]}},
            "map": {"type": "object", "maxProperties": 3, "additionalProperties": {"type": "integer",
                "x-kubernetes-validations": [{"rule": "self > 0", "reason": "FieldValueDuplicate"}]}}}}}});
    let rules = compiled(&schema);
    let told = |new: Value, old: Option<Value>| -> Vec<(String, String, String)> {
        let verdict = rules.check(&new, old.as_ref(), FULL).unwrap();
        verdict
            .causes
            .into_iter()
            .map(|c| (c.reason, c.field, c.message))
            .collect()
    };
    let object = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    assert!(told(object("w-a", json!({"min": 1, "max": 2})), None).is_empty());
    assert_eq!(
        told(object("a", json!({"min": 1, "max": 2})), None),
        [(
            "FieldValueInvalid".into(),
            "<nil>".into(),
            "Invalid value: must begin with w-".into()
        )]
    );
    assert_eq!(
        told(object("w-a", json!({"min": 5, "max": 2})), None),
        [(
            "FieldValueForbidden".into(),
            "spec.min".into(),
            "Forbidden: min 5 is more than max 2".into()
        )]
    );
    assert_eq!(
        told(
            object("w-a", json!({"min": 1, "max": 12, "list": ["a", "x"], "map": {"k": 0}})),
            None
        ),
        [
            ("FieldValueRequired".into(), "spec".into(), "Required value: m".into()),
            (
                "FieldValueInvalid".into(),
                "spec.list[1]".into(),
                "Invalid value: \"x\": failed rule: self != 'x'".into()
            ),
            (
                "FieldValueDuplicate".into(),
                "spec.map[k]".into(),
                "Duplicate value: 0".into()
            ),
        ]
    );
    let before = object("w-a", json!({"min": 1, "max": 2}));
    assert_eq!(
        told(object("w-a", json!({"min": 1, "max": 3})), Some(before.clone())),
        [(
            "FieldValueInvalid".into(),
            "spec.max".into(),
            "Invalid value: 3: is immutable".into()
        )]
    );
    assert!(told(object("w-a", json!({"min": 2, "max": 2})), Some(before)).is_empty());
}

#[test]
fn what_did_not_change_is_not_refused() {
    let rules = compiled(&schema(
        json!({"a": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > 5"}]}, "b": {"type": "integer"}}),
        json!([{"rule": "self.b < 5"}]),
    ));
    let old = json!({"spec": {"a": 1, "b": 1}});
    let verdict = rules
        .check(&json!({"spec": {"a": 1, "b": 2}}), Some(&old), FULL)
        .unwrap();
    assert!(verdict.causes.is_empty());
    assert_eq!(verdict.warnings.len(), 1);
    let verdict = rules
        .check(&json!({"spec": {"a": 2, "b": 2}}), Some(&old), FULL)
        .unwrap();
    assert_eq!(verdict.causes.len(), 1);
}

#[test]
fn items_of_a_map_list_are_compared_by_their_keys() {
    let rules = compiled(
        &json!({"type": "object", "properties": {"l": {"type": "array", "maxItems": 5,
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
        "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}, "v": {"type": "integer",
            "x-kubernetes-validations": [{"rule": "self >= oldSelf"}]}}}}}}),
    );
    let old = json!({"l": [{"k": "a", "v": 5}, {"k": "b", "v": 1}]});
    let check = |new: Value| rules.check(&new, Some(&old), FULL).unwrap().causes.len();
    assert_eq!(
        check(json!({"l": [{"k": "b", "v": 1}, {"k": "a", "v": 6}, {"k": "c", "v": 0}]})),
        0
    );
    assert_eq!(check(json!({"l": [{"k": "b", "v": 0}, {"k": "a", "v": 4}]})), 2);
}

#[test]
fn an_optional_old_self_is_there_on_creation_too() {
    let rules = compiled(&schema(
        json!({"n": {"type": "integer", "x-kubernetes-validations": [
            {"rule": "!oldSelf.hasValue() ? self == 1 : self >= oldSelf.value()", "optionalOldSelf": true}]}}),
        json!([]),
    ));
    let n = |n: i64| json!({"spec": {"n": n}});
    assert!(rules.check(&n(1), None, FULL).unwrap().causes.is_empty());
    assert_eq!(rules.check(&n(2), None, FULL).unwrap().causes.len(), 1);
    assert!(rules.check(&n(4), Some(&n(3)), FULL).unwrap().causes.is_empty());
    assert_eq!(rules.check(&n(2), Some(&n(3)), FULL).unwrap().causes.len(), 1);
}

#[test]
fn a_rule_that_would_run_long_is_stopped() {
    // Cheap by its estimate, as the schema bounds the list; the object does not keep to it.
    let rules = compiled(&schema(
        json!({"l": {"type": "array", "maxItems": 10, "items": {"type": "integer"}}}),
        json!([{"rule": "self.l.all(a, self.l.all(b, self.l.all(c, a + b + c >= 0)))"}, {"rule": "false"}]),
    ));
    let list: Vec<i64> = (0..20_000).collect();
    let Spent(verdict) = rules.check(&json!({"spec": {"l": list}}), None, FULL).unwrap_err();
    assert_eq!(verdict.causes.len(), 1);
    assert!(
        verdict.causes[0].message.contains("cost"),
        "{}",
        verdict.causes[0].message
    );
    assert!(rules.check(&json!({"spec": {"l": [1]}}), None, 5).is_err());
}

#[test]
fn hostile_expressions_neither_overflow_nor_hang() {
    let n = 4000;
    for rule in [
        "(".repeat(n),
        format!("{}1{}", "(".repeat(n), ")".repeat(n)),
        format!("{}true", "!".repeat(n)),
        format!("{}1 == 1", "-".repeat(n)),
        format!("{}1{} == 1", "[".repeat(n), "]".repeat(n)),
        format!("self{} == 1", ".a".repeat(n)),
        format!("1{} > 0", " + 1".repeat(n)),
        format!("true{}", " && true".repeat(n / 2)),
        "true ? true : ".repeat(n / 4) + "true",
        format!("r'\\'{}", "(".repeat(n)),
        "x".repeat(20_000),
        "\u{1F600}'\"\\".to_owned(),
        "[1,2].map(x, [1,2].map(y, [1,2].map(z, x)))".repeat(20),
        "'a'.replace('', 'aaaaaaaaaa').replace('', 'aaaaaaaaaa').replace('', 'aaaaaaaaaa').replace('', 'aaaaaaaaaa').replace('', 'aaaaaaaaaa').replace('', 'aaaaaaaaaa').replace('', 'aaaaaaaaaa').size() > 0".to_owned(),
        "lists.range(9223372036854775807).size() > 0".to_owned(),
        "'x'.matches('((a{100}){100}){100}')".to_owned(),
    ] {
        let rules = CelRules.compile(&schema(sample(), json!([{"rule": rule}])), "s");
        if let Ok(Some(rules)) = rules {
            drop(rules.check(&json!({"spec": {}}), None, FULL));
        }
    }
    let many: Vec<Value> = (0..5000).map(|_| json!({"rule": "true"})).collect();
    assert_eq!(refused(json!(many)).len(), 1);
}
