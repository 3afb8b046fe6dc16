//! What the gateway says of a Work: in the local object's status for people here, and without times as the entry of the observed set.

use bytes::Bytes;
use federation::interpret::{health, reflect};
use federation::names;
use metastore::store::Object;
use serde_json::{Map, Value, json};

use super::manifest::Place;
use super::member::Member;
use crate::objects;

/// Whether everything could be applied.
const APPLIED: &str = "Applied";
/// Everything of a Work that is deleted above is gone.
const DELETED: &str = "Deleted";
/// Longest message of a condition.
const MAX_MESSAGE: usize = 4096;
/// Most bytes of the states of one Work's objects; beyond it their health alone is told.
const MAX_STATES: usize = 256 * 1024;

/// How a Work's last apply went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Applied {
    /// There was none.
    #[default]
    Never,
    Yes,
    /// It failed, with this message.
    No(Box<str>),
}

impl Applied {
    /// What failed of `total` manifests.
    pub(super) fn of(total: usize, errors: Vec<String>) -> Self {
        if errors.is_empty() {
            return Self::Yes;
        }
        let done = total - errors.len();
        let mut told: Vec<String> = Vec::new();
        for error in errors {
            if !told.contains(&error) {
                told.push(error);
            }
        }
        let told = match &mut told[..] {
            [one] => std::mem::take(one),
            many => format!("[{}]", many.join(", ")),
        };
        let mut message = format!("Failed to apply all manifests ({done}/{total}): {told}");
        let fits = |end: &usize| message.is_char_boundary(*end);
        let end = (0..=message.len().min(MAX_MESSAGE)).rev().find(fits).unwrap_or(0);
        message.truncate(end);
        Self::No(message.into())
    }

    /// As a Work's status says it.
    pub(super) fn stored(work: &Value) -> Self {
        match condition(work, APPLIED) {
            Some(said) if said["status"] == "True" => Self::Yes,
            Some(said) => Self::No(said["message"].as_str().unwrap_or_default().into()),
            None => Self::Never,
        }
    }

    fn condition(&self) -> Option<Value> {
        match self {
            Self::Never => None,
            Self::Yes => Some(json!({"type": APPLIED, "status": "True", "reason": "AppliedSuccessful",
                "message": "Manifest has been successfully applied"})),
            Self::No(message) => Some(json!({"type": APPLIED, "status": "False", "reason": "AppliedFailed",
                "message": &**message})),
        }
    }
}

/// The conditions and states of a Work as they are now, without times.
pub(super) fn status(
    member: &Member,
    applied: &Applied,
    places: &[Option<Place>],
    deleted: bool,
) -> Result<Value, String> {
    let mut conditions: Vec<Value> = applied.condition().into_iter().collect();
    if deleted {
        conditions.push(json!({"type": DELETED, "status": "True", "reason": "Deleted",
            "message": "Nothing that came through this Work is delivered by it any more"}));
    }
    let mut status = Map::new();
    if !conditions.is_empty() {
        status.insert("conditions".to_owned(), conditions.into());
    }
    if *applied == Applied::Yes && !deleted {
        let mut states = Vec::with_capacity(places.len());
        for (ordinal, place) in places.iter().enumerate() {
            if let Some(place) = place {
                states.push(state(ordinal, place, member.get(place)?.as_ref()));
            }
        }
        let mut all = Value::Array(states);
        if objects::canonical(&all).len() > MAX_STATES {
            for state in all.as_array_mut().into_iter().flatten() {
                if let Some(state) = state.as_object_mut() {
                    state.remove("status");
                }
            }
        }
        status.insert("manifestStatuses".to_owned(), all);
    }
    Ok(Value::Object(status))
}

/// The state of one object.
fn state(ordinal: usize, place: &Place, object: Option<&Value>) -> Value {
    // `resource` has to be there; Karmada's own agent leaves it empty.
    let mut identifier = json!({"ordinal": ordinal, "version": &*place.kind.version, "kind": &*place.kind.kind, "resource": "",
        "name": &*place.key.name});
    for (field, text) in [("group", &place.key.group), ("namespace", &place.key.namespace)] {
        if !text.is_empty() {
            identifier[field] = (**text).into();
        }
    }
    let Some(object) = object else {
        return json!({"identifier": identifier, "health": "Unknown"});
    };
    let mut state = json!({"identifier": identifier, "health": health(object).as_str()});
    if let Some(reflected) = reflect(object).filter(Value::is_object) {
        state["status"] = reflected;
    }
    state
}

/// Puts a status into a Work, with the times at which its conditions changed.
pub(super) fn put(work: &mut Value, mut status: Value, now: &str) {
    let conditions = status.get_mut("conditions").and_then(Value::as_array_mut);
    for new in conditions.into_iter().flatten() {
        let since = condition(work, new["type"].as_str().unwrap_or_default())
            .filter(|old| old["status"] == new["status"])
            .and_then(|old| old["lastTransitionTime"].as_str())
            .unwrap_or(now);
        new["lastTransitionTime"] = since.into();
    }
    if let Some(work) = work.as_object_mut() {
        work.insert("status".to_owned(), status);
    }
}

/// The hub's Work keeps what was said of the one held.
pub(crate) fn keep_status(work: &mut Value, held: Option<&Value>) {
    let Some(fields) = work.as_object_mut() else { return };
    match held.and_then(|held| held.get("status")) {
        Some(status) => fields.insert("status".to_owned(), status.clone()),
        None => fields.remove("status"),
    };
}

/// The entry of a Work in the observed set; none while there is nothing to say of it.
pub(crate) fn report(work: &Object) -> Option<Bytes> {
    let work = work.value().ok()?;
    let mut report = Map::new();
    if let Some(applied) = condition(&work, APPLIED) {
        let field = |name: &str| (name.to_owned(), applied[name].clone());
        let said: Map<String, Value> = ["status", "reason", "message"].map(field).into_iter().collect();
        report.insert("applied".to_owned(), said.into());
        if applied["status"] == "True"
            && let Some(states) = work.pointer("/status/manifestStatuses")
        {
            report.insert("manifestStatuses".to_owned(), states.clone());
        }
    }
    let deleting = work["metadata"]["annotations"][names::DELETING] == "true";
    if deleting && condition(&work, DELETED).is_some() {
        report.insert("deleted".to_owned(), true.into());
    }
    (!report.is_empty()).then(|| objects::canonical(&Value::Object(report)))
}

fn condition<'v>(work: &'v Value, kind: &str) -> Option<&'v Value> {
    let mut conditions = work.pointer("/status/conditions")?.as_array()?.iter();
    conditions.find(|condition| condition["type"] == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(work: &Value) -> Object {
        Object {
            key: objects::work_key("karmada-es-gw", "w"),
            revision: 1,
            json: objects::canonical(work),
        }
    }

    #[test]
    fn times_stay_here_and_change_only_with_what_they_are_of() {
        let mut work = json!({"metadata": {"name": "w"}});
        assert_eq!(report(&stored(&work)), None);
        put(
            &mut work,
            json!({"conditions": [Applied::Yes.condition()], "manifestStatuses": [{"health": "Healthy"}]}),
            "t1",
        );
        let again = Applied::stored(&work).condition();
        put(
            &mut work,
            json!({"conditions": [again], "manifestStatuses": [{"health": "Healthy"}]}),
            "t2",
        );
        assert_eq!(work["status"]["conditions"][0]["lastTransitionTime"], "t1");
        assert_eq!(
            &report(&stored(&work)).unwrap()[..],
            br#"{"applied":{"message":"Manifest has been successfully applied","reason":"AppliedSuccessful","status":"True"},"manifestStatuses":[{"health":"Healthy"}]}"#
        );
        let failed = Applied::of(3, vec!["a".to_owned(), "a".to_owned()]);
        assert_eq!(failed, Applied::No("Failed to apply all manifests (1/3): a".into()));
        put(&mut work, json!({"conditions": [failed.condition()]}), "t3");
        assert_eq!(work["status"]["conditions"][0]["lastTransitionTime"], "t3");
        assert_eq!(Applied::stored(&work), failed);
        let two = Applied::of(2, vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(two, Applied::No("Failed to apply all manifests (0/2): [a, b]".into()));
    }

    #[test]
    fn a_work_that_came_back_is_not_deleted() {
        let mut work = json!({"metadata": {"annotations": {names::DELETING: "true"}},
            "status": {"conditions": [{"type": "Deleted", "status": "True"}]}});
        assert_eq!(&report(&stored(&work)).unwrap()[..], br#"{"deleted":true}"#);
        work["metadata"] = json!({});
        assert_eq!(report(&stored(&work)), None);
        for odd in [
            json!(null),
            json!({"status": 7}),
            json!({"status": {"conditions": {"a": 1}}}),
        ] {
            assert_eq!(report(&stored(&odd)), None);
        }
    }
}
