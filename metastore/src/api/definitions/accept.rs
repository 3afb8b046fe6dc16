//! Which names a definition gets, and the conditions that say so. Names belong to whoever had them first in the group; a definition whose
//! names are all accepted is established, and stays so.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{condition, text};

/// The finalizer by which a definition waits for its objects.
pub(crate) const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Names that are in use in a group.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    resources: BTreeSet<String>,
    kinds: BTreeSet<String>,
}

impl Taken {
    /// Adds what a definition was given.
    pub(crate) fn add(&mut self, definition: &Value) {
        let Some(names) = definition.pointer("/status/acceptedNames") else {
            return;
        };
        let word = |key: &str| names.get(key).and_then(Value::as_str).filter(|w| !w.is_empty());
        self.resources
            .extend(["plural", "singular"].into_iter().filter_map(word).map(str::to_owned));
        let short = names.get("shortNames").and_then(Value::as_array).into_iter().flatten();
        self.resources
            .extend(short.filter_map(Value::as_str).map(str::to_owned));
        self.kinds
            .extend(["kind", "listKind"].into_iter().filter_map(word).map(str::to_owned));
    }
}

/// Gives a definition the names that nobody else has, and says so in its status.
pub(crate) fn accept(definition: &mut Value, taken: &Taken, now: &str) {
    let none = json!({});
    let wanted = definition.pointer("/spec/names").unwrap_or(&none).clone();
    let have = definition.pointer("/status/acceptedNames").unwrap_or(&none).clone();
    let mut given = have.as_object().cloned().unwrap_or_default();
    let mut conflict: Option<(&str, String)> = None;
    let free = |name: &Value, used: &BTreeSet<String>| name.as_str().is_none_or(|n| !used.contains(n));
    for (key, used, reason) in [
        ("plural", &taken.resources, "PluralConflict"),
        ("singular", &taken.resources, "SingularConflict"),
        ("shortNames", &taken.resources, "ShortNamesConflict"),
        ("kind", &taken.kinds, "KindConflict"),
        ("listKind", &taken.kinds, "ListKindConflict"),
    ] {
        let name = wanted.get(key).cloned().unwrap_or(Value::Null);
        let old = have.get(key).unwrap_or(&Value::Null);
        if name == *old {
            continue;
        }
        let bad: Vec<&str> = match &name {
            Value::Array(list) => {
                let mine = old.as_array().map_or(&[][..], Vec::as_slice);
                let others = list.iter().filter(|n| !mine.contains(n) && !free(n, used));
                others.filter_map(Value::as_str).collect()
            }
            one => one.as_str().filter(|_| !free(one, used)).into_iter().collect(),
        };
        if !bad.is_empty() {
            let said: Vec<String> = bad.iter().map(|n| format!("{n:?} is already in use")).collect();
            conflict = Some((reason, said.join(", ")));
        } else if name.is_null() {
            given.remove(key);
        } else {
            given.insert(key.to_owned(), name);
        }
    }
    match wanted.get("categories") {
        Some(categories) => given.insert("categories".to_owned(), categories.clone()),
        None => given.remove("categories"),
    };
    for key in ["plural", "kind"] {
        given.entry(key).or_insert_with(|| json!(""));
    }
    let established = condition(definition, "Established").is_some_and(|c| text(c, "/status") == "True");
    let accepted = conflict.is_none();
    let (status, reason, message) = match &conflict {
        None => ("True", "NoConflicts", "no conflicts found"),
        Some((reason, message)) => ("False", *reason, message.as_str()),
    };
    let names = (status, reason.to_owned(), message.to_owned());
    status_of(definition).insert("acceptedNames".to_owned(), Value::Object(given));
    set_condition(definition, "NamesAccepted", names.0, &names.1, &names.2, now);
    if !established {
        let (status, reason, message) = if accepted {
            ("True", "InitialNamesAccepted", "the initial names have been accepted")
        } else {
            ("False", "NotAccepted", "not all names are accepted")
        };
        set_condition(definition, "Established", status, reason, message, now);
    }
}

/// Marks a definition as one that waits for its objects to go.
pub(crate) fn terminate(definition: &mut Value, now: &str) {
    if let Some(m) = definition.get_mut("metadata").and_then(Value::as_object_mut) {
        let list = m.entry("finalizers").or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut()
            && !list.contains(&json!(CLEANUP))
        {
            list.push(json!(CLEANUP));
        }
    }
    let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    set_condition(
        definition,
        "Terminating",
        "True",
        "InstanceDeletionPending",
        message,
        now,
    );
}

/// Says that its objects are being deleted. Whether that is news.
pub(crate) fn in_progress(definition: &mut Value, now: &str) -> bool {
    let reason = "InstanceDeletionInProgress";
    let known = condition(definition, "Terminating").is_some_and(|c| text(c, "/reason") == reason);
    if !known {
        let message = "CustomResource deletion is in progress";
        set_condition(definition, "Terminating", "True", reason, message, now);
    }
    !known
}

fn status_of(definition: &mut Value) -> &mut Map<String, Value> {
    if !definition.get("status").is_some_and(Value::is_object)
        && let Value::Object(map) = definition
    {
        map.insert("status".to_owned(), json!({}));
    }
    definition
        .get_mut("status")
        .and_then(Value::as_object_mut)
        .expect("a definition is an object, and its status was made just now")
}

/// Sets a condition; its time changes with its status only.
fn set_condition(definition: &mut Value, kind: &str, status: &str, reason: &str, message: &str, now: &str) {
    let conditions = status_of(definition).entry("conditions").or_insert_with(|| json!([]));
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(list) = conditions.as_array_mut() else { return };
    let found = list.iter_mut().find(|c| text(c, "/type") == kind);
    let since = found
        .as_ref()
        .filter(|c| text(c, "/status") == status)
        .and_then(|c| c.get("lastTransitionTime").cloned())
        .unwrap_or_else(|| json!(now));
    let new =
        json!({"type": kind, "status": status, "lastTransitionTime": since, "reason": reason, "message": message});
    match found {
        Some(old) => *old = new,
        None => list.push(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(plural: &str, kind: &str) -> Value {
        json!({"spec":{"group":"x.io","names":{"plural":plural,"singular":kind.to_lowercase(),"kind":kind,
            "listKind":format!("{kind}List"),"shortNames":["w"]}}})
    }

    fn said(definition: &Value, kind: &str) -> (String, String) {
        let c = condition(definition, kind).unwrap();
        (text(c, "/status").to_owned(), text(c, "/reason").to_owned())
    }

    #[test]
    fn names_belong_to_whoever_had_them_first() {
        let mut first = definition("widgets", "Widget");
        accept(&mut first, &Taken::default(), "t0");
        assert_eq!(
            said(&first, "Established"),
            ("True".into(), "InitialNamesAccepted".into())
        );
        let mut taken = Taken::default();
        taken.add(&first);
        let mut second = definition("gadgets", "Widget");
        accept(&mut second, &taken, "t1");
        assert_eq!(
            said(&second, "NamesAccepted"),
            ("False".into(), "ListKindConflict".into())
        );
        assert_eq!(said(&second, "Established"), ("False".into(), "NotAccepted".into()));
        assert_eq!(second["status"]["acceptedNames"], json!({"plural":"gadgets","kind":""}));
        // The first one is gone.
        accept(&mut second, &Taken::default(), "t2");
        assert_eq!(said(&second, "Established").0, "True");
        assert_eq!(condition(&second, "Established").unwrap()["lastTransitionTime"], "t2");
        // Asked again, with names of its own in the list.
        let mut taken = Taken::default();
        taken.add(&second);
        let before = second.clone();
        accept(&mut second, &taken, "t3");
        assert_eq!(second, before);
    }

    #[test]
    fn what_is_established_stays_so() {
        let mut d = definition("widgets", "Widget");
        accept(&mut d, &Taken::default(), "t0");
        let mut taken = Taken::default();
        taken.add(&json!({"status":{"acceptedNames":{"plural":"others","shortNames":["o"]}}}));
        d["spec"]["names"]["shortNames"] = json!(["w", "o"]);
        accept(&mut d, &taken, "t1");
        assert_eq!(said(&d, "NamesAccepted"), ("False".into(), "ShortNamesConflict".into()));
        assert_eq!(said(&d, "Established").0, "True");
        assert_eq!(d["status"]["acceptedNames"]["shortNames"], json!(["w"]));
        terminate(&mut d, "t2");
        assert_eq!(d["metadata"].as_object(), None);
        assert!(in_progress(&mut d, "t3") && !in_progress(&mut d, "t4"));
    }
}
