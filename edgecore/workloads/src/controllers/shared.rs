//! What controllers have in common: reading objects by path, who owns what, conditions and counts of a status.
//!
//! Objects stay JSON values: what a controller does not know of must survive it.

mod own;
mod pods;

use std::fmt::Write as _;

use jiff::Timestamp;
use metastore::api::{Status, selector_selects};
use serde_json::{Map, Value, json};

use super::Change;
pub(super) use super::look::{
    annotation, controller_of, is_active, is_finished, is_terminating, list, name, text, uid,
};
use crate::cluster::{Cluster, Key, Kind};

pub(crate) use own::{claim, create_pod, create_pods, delete_pod, delete_pods, pod_of, same_object};
pub(crate) use pods::{is_available, is_ready, next_available, rank_for_deletion, same_template, template_hash};

/// The number at a JSON pointer, 0 when there is none.
pub(crate) fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// Sets an annotation. Whether that changed it.
pub(crate) fn annotate(object: &mut Value, name: &str, value: &str) -> bool {
    if annotation(object, name) == Some(value) {
        return false;
    }
    let annotations = &mut object["metadata"]["annotations"];
    if !annotations.is_object() {
        *annotations = json!({});
    }
    annotations[name] = value.into();
    true
}

/// Milliseconds since 1970 of a time as objects carry it.
pub(crate) fn millis(value: &Value) -> Option<i64> {
    let time: Timestamp = value.as_str()?.parse().ok()?;
    Some(time.as_millisecond())
}

/// Whether an object is controlled by this owner.
pub(crate) fn is_controlled_by(object: &Value, owner: &Value) -> bool {
    controller_of(object).is_some_and(|reference| reference["uid"] == owner["metadata"]["uid"])
}

/// The reference by which an owner controls what it makes.
pub(crate) fn owner_reference(owner: &Value) -> Value {
    json!({
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

/// Whether the owner's label selector selects the object.
pub(crate) fn selects(owner: &Value, object: &Value) -> bool {
    selector_selects(&owner["spec"]["selector"], object["metadata"].get("labels"))
}

/// The owners of a kind whom the change of an object concerns: who controls it, who did before, and where nobody does who selects it.
pub(crate) fn owners_concerned(change: &Change, cluster: &Cluster, kind: Kind) -> Vec<Key> {
    let mut keys = Vec::new();
    for object in change.before.iter().chain(&change.after) {
        let controller = controller_of(object).filter(|o| o["kind"] == kind.kind);
        if let Some(owner) = controller.and_then(|o| o["name"].as_str()) {
            let key = Key::new(text(object, "/metadata/namespace"), owner);
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    let Some(after) = &change.after else { return keys };
    let same = |field: &str| {
        let before = change.before.as_ref();
        before.is_some_and(|before| before["metadata"].get(field) == after["metadata"].get(field))
    };
    let adoptable = controller_of(after).is_none() && !is_terminating(after);
    if adoptable && !(same("labels") && same("ownerReferences")) {
        let owners = cluster.list(kind, after["metadata"]["namespace"].as_str());
        let owners = owners.unwrap_or_default();
        keys.extend(owners.iter().filter(|owner| selects(owner, after)).map(Key::of));
    }
    keys
}

/// A condition of a status.
pub(crate) fn condition<'v>(status: &'v Value, ty: &str) -> Option<&'v Value> {
    status["conditions"].as_array()?.iter().find(|c| c["type"] == ty)
}

/// Takes a condition out of a status.
pub(crate) fn remove_condition(status: &mut Value, ty: &str) {
    if let Some(conditions) = status["conditions"].as_array_mut() {
        conditions.retain(|c| c["type"] != ty);
    }
    if status["conditions"].as_array().is_none_or(Vec::is_empty)
        && let Some(status) = status.as_object_mut()
    {
        status.remove("conditions");
    }
}

/// Puts a condition at the end, unless one of the same status and reason is there.
pub(crate) fn set_condition(status: &mut Value, mut new: Value) {
    let ty = new["type"].as_str().unwrap_or_default().to_owned();
    if let Some(old) = condition(status, &ty)
        && old["status"] == new["status"]
    {
        if old["reason"] == new["reason"] {
            return;
        }
        new["lastTransitionTime"] = old["lastTransitionTime"].clone();
    }
    remove_condition(status, &ty);
    match status["conditions"].as_array_mut() {
        Some(conditions) => conditions.push(new),
        None => status["conditions"] = json!([new]),
    }
}

/// The counts of a status; those that are 0 are left out.
pub(crate) fn counts(of: &[(&str, i64)]) -> Map<String, Value> {
    of.iter()
        .filter(|(_, count)| *count != 0)
        .map(|(field, count)| ((*field).to_owned(), json!(count)))
        .collect()
}

/// Writes the status of an object that was looked at; nothing when it is so already. The object as it is stored then.
pub(crate) async fn write_status(
    cluster: &Cluster,
    kind: Kind,
    looked_at: &Value,
    status: Value,
) -> Result<Option<Value>, Status> {
    if looked_at["status"] == status {
        return Ok(None);
    }
    let key = Key::of(looked_at);
    let written = cluster.modify_status(kind, &key, |current| {
        same_object(kind, looked_at, current)?;
        current["status"] = status.clone();
        Ok(())
    });
    written.await.map(Some)
}

/// A number, or a percentage of a whole.
pub(crate) fn share(of: &Value, whole: i64, round_up: bool) -> i64 {
    match of {
        Value::String(text) => {
            let percent: i64 = text.strip_suffix('%').and_then(|n| n.parse().ok()).unwrap_or(0);
            let hundredths = percent.saturating_mul(whole);
            hundredths.div_euclid(100) + i64::from(round_up && hundredths.rem_euclid(100) != 0)
        }
        other => other.as_i64().unwrap_or(0),
    }
}

/// A number as a word that is no bad one: its decimal digits in letters that make none.
pub(crate) fn safe_word(number: u32) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut digits = String::with_capacity(10);
    write!(digits, "{number}").expect("a String takes everything");
    let letter = |digit: u8| char::from(LETTERS[usize::from(digit) % LETTERS.len()]);
    digits.bytes().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rounded_as_asked() {
        for (of, whole, down, up) in [
            (json!(2), 10, 2, 2),
            (json!("25%"), 10, 2, 3),
            (json!("25%"), 4, 1, 1),
            (json!("30%"), 0, 0, 0),
            (json!("100%"), 7, 7, 7),
            (json!("1%"), 3, 0, 1),
            (Value::Null, 3, 0, 0),
        ] {
            assert_eq!(
                (share(&of, whole, false), share(&of, whole, true)),
                (down, up),
                "{of} of {whole}"
            );
        }
    }

    #[test]
    fn a_condition_keeps_its_time_while_its_status_stays() {
        let at = |reason: &str, status: &str, time: &str| json!({"type": "Progressing", "status": status, "reason": reason, "lastTransitionTime": time});
        let mut status = json!({});
        set_condition(&mut status, at("A", "True", "1"));
        set_condition(&mut status, json!({"type": "Available", "status": "True"}));
        set_condition(&mut status, at("A", "True", "2"));
        assert_eq!(
            status["conditions"][0],
            at("A", "True", "1"),
            "the same again changes nothing"
        );
        set_condition(&mut status, at("B", "True", "3"));
        assert_eq!(status["conditions"][1], at("B", "True", "1"));
        set_condition(&mut status, at("C", "False", "4"));
        assert_eq!(status["conditions"][1], at("C", "False", "4"));
        remove_condition(&mut status, "Available");
        remove_condition(&mut status, "Progressing");
        assert_eq!(status, json!({}));
    }

    #[test]
    fn words_of_numbers() {
        assert_eq!(safe_word(1_234_567_890), "56789bcdf4");
        assert_eq!(safe_word(0).len(), 1);
    }
}
