//! Metadata: what the server sets, what it keeps from being changed, what it checks.

use serde_json::{Map, Value, json};

use super::kinds::KindSpec;
use super::selector;
use super::status::{Cause, Status};

/// Most bytes of all annotations together, as in other servers.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// Now as objects say it: RFC 3339, whole seconds, UTC.
pub(crate) fn now() -> String {
    timestamp(daemon::clock::wall_ms())
}

/// Milliseconds since 1970 as RFC 3339 with whole seconds. By hand, as every write needs some.
pub(crate) fn timestamp(ms: u64) -> String {
    /// The last second of the year 9999; what lies behind it is a clock gone wild.
    const LAST: u64 = 253_402_300_799;
    let seconds = Some(ms / 1000).filter(|s| *s <= LAST).unwrap_or(0);
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years begin in March here, so that a leap day is the last of its year; an era is the 400 years after which all repeats.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, turned) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year_of_era + turned;
    let mut out = *b"0000-00-00T00:00:00Z";
    for (at, length, mut value) in [
        (0, 4, year),
        (5, 2, month),
        (8, 2, day),
        (11, 2, rest / 3600),
        (14, 2, rest / 60 % 60),
        (17, 2, rest % 60),
    ] {
        for digit in out[at..at + length].iter_mut().rev() {
            *digit += u8::try_from(value % 10).unwrap_or(0);
            value /= 10;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The metadata of an object.
pub(crate) fn of(object: &Value) -> Option<&Map<String, Value>> {
    object.get("metadata").and_then(Value::as_object)
}

/// A text field of the metadata, empty when absent.
pub(crate) fn text<'v>(object: &'v Value, field: &str) -> &'v str {
    of(object)
        .and_then(|m| m.get(field))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The metadata to be changed; made when it is not there.
pub(crate) fn of_mut(object: &mut Value) -> Result<&mut Map<String, Value>, Status> {
    object
        .as_object_mut()
        .map(|map| {
            map.entry("metadata".to_owned())
                .or_insert_with(|| Value::Object(Map::new()))
        })
        .and_then(Value::as_object_mut)
        .ok_or_else(|| Status::bad_request("metadata must be an object"))
}

/// Whether the object waits for its finalizers.
pub(crate) fn is_terminating(object: &Value) -> bool {
    of(object).is_some_and(|m| m.get("deletionTimestamp").is_some_and(|t| !t.is_null()))
}

/// The finalizers of an object.
pub(crate) fn finalizers(object: &Value) -> &[Value] {
    of(object)
        .and_then(|m| m.get("finalizers"))
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The generation of an object, 0 when it has none.
pub(crate) fn generation(object: &Value) -> u64 {
    of(object)
        .and_then(|m| m.get("generation"))
        .and_then(Value::as_u64)
        .unwrap_or(0)
}

/// Sets what the server decides on a new object.
pub(crate) fn begin(object: &mut Value, kind: &KindSpec, namespace: &str, name: &str, now: &str) -> Result<(), Status> {
    let meta = of_mut(object)?;
    for field in [
        "resourceVersion",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "managedFields",
    ] {
        meta.remove(field);
    }
    // Where the server does not count generations, the number is the client's.
    if kind.generation || meta.get("generation").is_some_and(|g| g == 0) {
        meta.remove("generation");
    }
    meta.insert("name".to_owned(), json!(name));
    if kind.namespaced {
        meta.insert("namespace".to_owned(), json!(namespace));
    } else {
        meta.remove("namespace");
    }
    meta.insert("uid".to_owned(), json!(uuid::Uuid::new_v4().to_string()));
    meta.insert("creationTimestamp".to_owned(), json!(now));
    if kind.generation {
        meta.insert("generation".to_owned(), json!(1));
    }
    drop_empty(meta);
    Ok(())
}

/// Puts back what only the server changes.
pub(crate) fn carry(object: &mut Value, current: &Value) -> Result<(), Status> {
    const OURS: [&str; 9] = [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "resourceVersion",
        "managedFields",
    ];
    let empty = Map::new();
    let old = of(current).unwrap_or(&empty);
    let meta = of_mut(object)?;
    meta.remove("selfLink");
    for field in OURS {
        match old.get(field) {
            Some(v) => {
                meta.insert(field.to_owned(), v.clone());
            }
            None => {
                meta.remove(field);
            }
        }
    }
    drop_empty(meta);
    Ok(())
}

/// Empty maps and lists are not on the wire.
fn drop_empty(meta: &mut Map<String, Value>) {
    for field in ["labels", "annotations"] {
        if meta.get(field).and_then(Value::as_object).is_some_and(Map::is_empty) {
            meta.remove(field);
        }
    }
    for field in ["finalizers", "ownerReferences"] {
        if meta.get(field).and_then(Value::as_array).is_some_and(Vec::is_empty) {
            meta.remove(field);
        }
    }
}

/// Checks the metadata of an object about to be stored; `old` is the object before.
pub(crate) fn check(object: &Value, old: Option<&Value>, kind: &KindSpec, causes: &mut Vec<Cause>) {
    match old {
        None => check_new(object, kind, causes),
        Some(old) => {
            let from = causes.len();
            check_change(object, old, causes);
            check_parts(object, causes);
            // Other servers check built-in kinds in two places and say it twice; clients see both.
            if !kind.custom {
                causes.extend_from_within(from..);
            }
        }
    }
    if !kind.custom && kind.group.as_ref() != "apiextensions.k8s.io" {
        const STANDARD: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];
        for (i, finalizer) in finalizers(object).iter().enumerate() {
            let text = finalizer.as_str().unwrap_or_default();
            if !text.contains('/') && !STANDARD.contains(&text) {
                let why = "name is neither a standard finalizer name nor is it fully qualified";
                causes.push(Cause::invalid(
                    format!("metadata.finalizers[{i}]"),
                    &format!("{text:?}"),
                    why,
                ));
            }
        }
    }
}

fn check_new(object: &Value, kind: &KindSpec, causes: &mut Vec<Cause>) {
    let (name, prefix) = (text(object, "name"), text(object, "generateName"));
    if !prefix.is_empty()
        && let Err(why) = kind.names.check_prefix(prefix)
    {
        causes.push(Cause::invalid("metadata.generateName", &format!("{prefix:?}"), why));
    }
    if let Err(why) = kind.names.check(name) {
        causes.push(Cause::invalid("metadata.name", &format!("{name:?}"), why));
    }
    if let Some(n) = of(object)
        .and_then(|m| m.get("generation"))
        .and_then(Value::as_i64)
        .filter(|n| *n < 0)
    {
        let why = "must be greater than or equal to 0";
        causes.push(Cause::invalid("metadata.generation", &n.to_string(), why));
    }
    check_parts(object, causes);
    let mut ways = 0;
    for finalizer in finalizers(object) {
        let text = finalizer.as_str().unwrap_or_default();
        ways += usize::from(matches!(text, "orphan" | "foregroundDeletion"));
        for why in selector::key_problems(text) {
            causes.push(Cause::invalid("metadata.finalizers", &format!("{text:?}"), &why));
        }
    }
    if ways > 1 {
        let why = "finalizer orphan and foregroundDeletion cannot be both set";
        causes.push(Cause::invalid("metadata.finalizers", "", why));
    }
}

fn check_change(object: &Value, old: &Value, causes: &mut Vec<Cause>) {
    if !is_terminating(old) {
        return;
    }
    let added: Vec<&str> = finalizers(object)
        .iter()
        .filter(|f| !finalizers(old).contains(f))
        .filter_map(Value::as_str)
        .collect();
    if !added.is_empty() {
        let why =
            format!("no new finalizers can be added if the object is being deleted, found new finalizers {added:?}");
        causes.push(Cause::forbidden("metadata.finalizers", &why));
    }
}

/// What is checked of a new object and of a changed one alike.
pub(crate) fn check_parts(object: &Value, causes: &mut Vec<Cause>) {
    let map = |field: &str| of(object).and_then(|m| m.get(field)).and_then(Value::as_object);
    for (key, value) in map("labels").into_iter().flatten() {
        for why in selector::key_problems(key) {
            causes.push(Cause::invalid("metadata.labels", &format!("{key:?}"), &why));
        }
        let value = value.as_str().unwrap_or_default();
        for why in selector::value_problems(value) {
            causes.push(Cause::invalid("metadata.labels", &format!("{value:?}"), &why));
        }
    }
    let mut size = 0;
    for (key, value) in map("annotations").into_iter().flatten() {
        size += key.len() + value.as_str().map_or(0, str::len);
        for why in selector::key_problems(&key.to_lowercase()) {
            causes.push(Cause::invalid("metadata.annotations", &format!("{key:?}"), &why));
        }
    }
    if size > MAX_ANNOTATIONS {
        causes.push(Cause::too_long("metadata.annotations", MAX_ANNOTATIONS as u64));
    }
    let owners = of(object)
        .and_then(|m| m.get("ownerReferences"))
        .and_then(Value::as_array);
    check_owners(owners.map_or(&[], Vec::as_slice), causes);
}

fn check_owners(owners: &[Value], causes: &mut Vec<Cause>) {
    const AT: &str = "metadata.ownerReferences";
    let mut controllers = 0;
    for owner in owners {
        let word = |field: &str| owner.get(field).and_then(Value::as_str).unwrap_or_default();
        let api_version = word("apiVersion");
        if api_version.is_empty() || api_version.matches('/').count() > 1 {
            let why = "version must not be empty";
            causes.push(Cause::invalid(
                format!("{AT}.apiVersion"),
                &format!("{api_version:?}"),
                why,
            ));
        }
        for field in ["kind", "name", "uid"] {
            if word(field).is_empty() {
                causes.push(Cause::invalid(format!("{AT}.{field}"), "\"\"", "must not be empty"));
            }
        }
        if api_version == "v1" && word("kind") == "Event" {
            causes.push(Cause::invalid(
                AT,
                "",
                "/v1, Kind=Event is disallowed from being an owner",
            ));
        }
        if owner.get("controller") == Some(&Value::Bool(true)) {
            controllers += 1;
            if controllers > 1 {
                let why = "Only one reference can have Controller set to true";
                causes.push(Cause::invalid(AT, "", why));
            }
        }
    }
}

/// Refuses an update that says another identity or deletion than the object has.
pub(crate) fn check_kept(sent: &Value, current: &Value, kind: &KindSpec, name: &str) -> Result<(), Status> {
    let mut causes = Vec::new();
    for field in ["uid", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let (new, old) = (
            of(sent).and_then(|m| m.get(field)),
            of(current).and_then(|m| m.get(field)),
        );
        let Some(new) = new.filter(|v| !v.is_null() && *v != "") else {
            continue;
        };
        // A deletion's time is put back silently where there is one.
        if Some(new) != old && !(field == "deletionTimestamp" && old.is_some()) {
            let cause = Cause::invalid(format!("metadata.{field}"), &new.to_string(), "field is immutable");
            causes.extend(vec![cause; if kind.custom { 1 } else { 2 }]);
        }
    }
    if causes.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(&kind.group, &kind.kind, name, causes))
}

/// Whether the desired state differs: everything but metadata, and but the status where that is apart.
pub(crate) fn desired_differs(a: &Value, b: &Value, kind: &KindSpec) -> bool {
    if kind.special.annotations_count && a.pointer("/metadata/annotations") != b.pointer("/metadata/annotations") {
        return true;
    }
    let skip = |k: &str| k == "metadata" || (k == "status" && kind.has_status());
    let parts = |v: &Value| -> Vec<(String, Value)> {
        v.as_object()
            .into_iter()
            .flatten()
            .filter(|(k, _)| !skip(k))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    };
    parts(a) != parts(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::builtin::builtin_kinds;

    fn kind() -> KindSpec {
        builtin_kinds().into_iter().find(|k| k.kind() == "ConfigMap").unwrap()
    }

    fn wrong(object: Value, old: Option<Value>) -> Vec<String> {
        let mut causes = Vec::new();
        check(&object, old.as_ref(), &kind(), &mut causes);
        causes.into_iter().map(|c| c.field).collect()
    }

    #[test]
    fn a_new_object_gets_what_the_server_sets_and_nothing_else() {
        let mut o = json!({"metadata":{"name":"a","resourceVersion":"5","generation":9,"labels":{},"uid":"x"}});
        begin(&mut o, &kind(), "ns", "a", "2026-01-01T00:00:00Z").unwrap();
        let m = of(&o).unwrap();
        assert_eq!(m["namespace"], "ns");
        assert_ne!(m["uid"], "x");
        assert!(!m.contains_key("resourceVersion") && !m.contains_key("labels"));
        assert_eq!(m["generation"], 9, "nobody counts them for this kind");
        let counted = builtin_kinds().into_iter().find(|k| k.kind() == "Deployment").unwrap();
        begin(&mut o, &counted, "ns", "a", "2026-01-01T00:00:00Z").unwrap();
        assert_eq!(o["metadata"]["generation"], 1);
        assert!(begin(&mut json!({"metadata":3}), &kind(), "", "a", "").is_err());
    }

    #[test]
    fn metadata_is_checked_by_field() {
        assert!(
            wrong(
                json!({"metadata":{"name":"a","labels":{"x.io/a":"b"},"annotations":{"A":"any thing"}}}),
                None
            )
            .is_empty()
        );
        assert_eq!(wrong(json!({"metadata":{"name":"A"}}), None), ["metadata.name"]);
        assert_eq!(
            wrong(json!({"metadata":{"name":"a","labels":{"-":"b c"}}}), None),
            ["metadata.labels"; 2]
        );
        assert_eq!(
            wrong(
                json!({"metadata":{"name":"a","annotations":{"a":"x".repeat(300_000)}}}),
                None
            ),
            ["metadata.annotations"]
        );
        let old = json!({"metadata":{"name":"a","deletionTimestamp":"x","finalizers":["x.io/a"]}});
        let new = json!({"metadata":{"name":"a","finalizers":["x.io/a","x.io/b"]}});
        assert_eq!(wrong(new, Some(old.clone())), ["metadata.finalizers"; 2]);
        let new = json!({"metadata":{"name":"a","labels":{"":"x"},"finalizers":["x.io/a"]}});
        assert_eq!(wrong(new, Some(old)), ["metadata.labels"; 4]);
        let new = json!({"metadata":{"name":"a","finalizers":["orphan","foregroundDeletion","short"]}});
        assert_eq!(wrong(new, None), ["metadata.finalizers", "metadata.finalizers[2]"]);
        let owner = |version: &str, kind: &str| json!({"apiVersion":version,"kind":kind,"name":"o","uid":"u","controller":true});
        let new = json!({"metadata":{"generateName":"A-","name":"a","ownerReferences":[owner("v1", "Event"), owner("a/b/c", "X")]}});
        assert_eq!(
            wrong(new, None),
            [
                "metadata.generateName",
                "metadata.ownerReferences",
                "metadata.ownerReferences.apiVersion",
                "metadata.ownerReferences"
            ]
        );
    }

    #[test]
    fn the_servers_fields_are_carried_over() {
        let mut new = json!({"metadata":{"name":"z","uid":"forged","generation":7,"labels":{"a":"b"}}});
        carry(
            &mut new,
            &json!({"metadata":{"name":"a","uid":"u","creationTimestamp":"t"}}),
        )
        .unwrap();
        assert_eq!(
            new,
            json!({"metadata":{"name":"a","uid":"u","creationTimestamp":"t","labels":{"a":"b"}}})
        );
    }

    #[test]
    fn timestamps() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp(1_767_225_600_999), "2026-01-01T00:00:00Z");
        assert_eq!(timestamp(u64::MAX), "1970-01-01T00:00:00Z");
        // Every day of four centuries and some, and its last second, as a calendar has them.
        for day in 0..150_000_i64 {
            let second = day * 86_400 + 86_399 - day % 7;
            let at = jiff::Timestamp::from_second(second).unwrap();
            let calendar = at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            assert_eq!(timestamp(second.unsigned_abs() * 1000 + 999), calendar);
        }
    }
}
