//! Roles and who has them, as kinds. Who may do what is decided elsewhere, by whoever reads these objects.

use serde_json::{Map, Value, json};

use super::checks::{self, At, items, must_be_one_of, part, refuse, word};
use super::{computed, row};
use crate::api::kinds::KindSpec;
use crate::api::names::NameRule;
use crate::api::status::Cause;
use crate::api::table::Column;

/// The group of the kinds, and of what they refer to.
const GROUP: &str = "rbac.authorization.k8s.io";

/// The rows of this file.
pub(super) fn kinds() -> Vec<KindSpec> {
    vec![
        role("Role", true, validate_role),
        role("ClusterRole", false, validate_cluster_role),
        binding("RoleBinding", true, validate_role_binding),
        binding("ClusterRoleBinding", false, validate_cluster_role_binding),
    ]
}

type Validate = fn(&Value, Option<&Value>, &mut Vec<Cause>);

fn role(kind: &str, namespaced: bool, validate: Validate) -> KindSpec {
    KindSpec {
        namespaced,
        names: NameRule::PathSegment,
        create_on_update: true,
        validate: Some(validate),
        columns: vec![Column::name(), Column::created()],
        ..row(GROUP, "rbac", kind, &[])
    }
}

fn binding(kind: &str, namespaced: bool, validate: Validate) -> KindSpec {
    KindSpec {
        namespaced,
        names: NameRule::PathSegment,
        create_on_update: true,
        prepare: Some(prepare_binding),
        validate: Some(validate),
        columns: vec![
            Column::name(),
            computed("Role", "string", "The role that is given.", |b| {
                json!(format!(
                    "{}/{}",
                    word(&b["roleRef"], "kind"),
                    word(&b["roleRef"], "name")
                ))
            }),
            Column::age(),
            computed("Users", "string", "Users who have it.", |b| subjects(b, "User")).wide(),
            computed("Groups", "string", "Groups who have it.", |b| subjects(b, "Group")).wide(),
            computed("ServiceAccounts", "string", "ServiceAccounts that have it.", |b| {
                subjects(b, "ServiceAccount")
            })
            .wide(),
        ],
        ..row(GROUP, "rbac", kind, &[])
    }
}

/// The subjects of a kind, for the table.
fn subjects(binding: &Value, kind: &str) -> Value {
    let list: Vec<String> = items(binding, "subjects")
        .iter()
        .filter(|s| word(s, "kind") == kind)
        .map(|s| {
            let name = word(s, "name");
            if kind == "ServiceAccount" {
                format!("{}/{name}", word(s, "namespace"))
            } else {
                name.to_owned()
            }
        })
        .collect();
    json!(list.join(", "))
}

// ---- roles ----

fn validate_role(new: &Value, _old: Option<&Value>, causes: &mut Vec<Cause>) {
    check_rules(new, true, causes);
}

fn validate_cluster_role(new: &Value, _old: Option<&Value>, causes: &mut Vec<Cause>) {
    check_rules(new, false, causes);
    let Some(aggregation) = part(new, "aggregationRule") else {
        return;
    };
    let at = At::top("aggregationRule");
    let at = at.member("clusterRoleSelectors");
    let selectors = items(aggregation, "clusterRoleSelectors");
    if selectors.is_empty() {
        causes.push(Cause::required(
            at,
            "at least one clusterRoleSelector required if aggregationRule is non-nil",
        ));
    }
    for (i, selector) in selectors.iter().enumerate() {
        let before = causes.len();
        checks::label_selector(at.item(i), selector, causes);
        if causes.len() > before {
            causes.push(Cause::invalid(at.item(i), "null", "invalid label selector."));
        }
    }
}

fn check_rules(role: &Value, namespaced: bool, causes: &mut Vec<Cause>) {
    for (i, rule) in items(role, "rules").iter().enumerate() {
        let at = |field: &str| format!("rules[{i}].{field}");
        let none = |field: &str| items(rule, field).is_empty();
        if none("verbs") {
            causes.push(Cause::required(at("verbs"), "verbs must contain at least one value"));
        }
        if none("nonResourceURLs") {
            if none("apiGroups") {
                causes.push(Cause::required(
                    at("apiGroups"),
                    "resource rules must supply at least one api group",
                ));
            }
            if none("resources") {
                causes.push(Cause::required(
                    at("resources"),
                    "resource rules must supply at least one resource",
                ));
            }
            continue;
        }
        let mut refuse = |why: &str| {
            let urls = rule
                .get("nonResourceURLs")
                .map_or_else(String::new, ToString::to_string);
            causes.push(Cause::invalid(at("nonResourceURLs"), &urls, why));
        };
        if namespaced {
            refuse("namespaced rules cannot apply to non-resource URLs");
        }
        if !(none("apiGroups") && none("resources") && none("resourceNames")) {
            refuse("rules cannot apply to both regular resources and non-resource URLs");
        }
    }
}

// ---- bindings ----

fn prepare_binding(new: &mut Value, _old: Option<&Value>, _now: &str) {
    let Value::Object(binding) = new else { return };
    let set = |map: &mut Map<String, Value>| {
        if map.get("apiGroup").is_none_or(|g| g == "") {
            map.insert("apiGroup".to_owned(), json!(GROUP));
        }
    };
    if let Value::Object(role) = binding.entry("roleRef").or_insert_with(|| json!({})) {
        set(role);
    }
    let Some(Value::Array(subjects)) = binding.get_mut("subjects") else {
        return;
    };
    for subject in subjects {
        if matches!(word(subject, "kind"), "User" | "Group")
            && let Value::Object(subject) = subject
        {
            set(subject);
        }
    }
}

fn validate_role_binding(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    check_binding(new, old, true, causes);
}

fn validate_cluster_role_binding(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    check_binding(new, old, false, causes);
}

fn check_binding(new: &Value, old: Option<&Value>, namespaced: bool, causes: &mut Vec<Cause>) {
    let role = new.get("roleRef").unwrap_or(&Value::Null);
    let at = At::top("roleRef");
    must_be_one_of(at.member("apiGroup"), word(role, "apiGroup"), &[GROUP], causes);
    let known: &[&str] = if namespaced {
        &["Role", "ClusterRole"]
    } else {
        &["ClusterRole"]
    };
    must_be_one_of(at.member("kind"), word(role, "kind"), known, causes);
    let name = word(role, "name");
    if name.is_empty() {
        causes.push(Cause::required(at.member("name"), ""));
    } else {
        refuse(at.member("name"), name, &checks::path_segment(name), causes);
    }
    let list = At::top("subjects");
    for (i, subject) in items(new, "subjects").iter().enumerate() {
        check_subject(list.item(i), subject, namespaced, causes);
    }
    if let Some(old) = old
        && old.get("roleRef") != new.get("roleRef")
    {
        causes.push(Cause::invalid(at, &role.to_string(), "cannot change roleRef"));
    }
}

fn check_subject(at: At<'_>, subject: &Value, namespaced: bool, causes: &mut Vec<Cause>) {
    let name = word(subject, "name");
    if name.is_empty() {
        causes.push(Cause::required(at.member("name"), ""));
    }
    let group = word(subject, "apiGroup");
    match word(subject, "kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                refuse(at.member("name"), name, &checks::dns_subdomain(name), causes);
            }
            must_be_one_of(at.member("apiGroup"), group, &[""], causes);
            if !namespaced && word(subject, "namespace").is_empty() {
                causes.push(Cause::required(at.member("namespace"), ""));
            }
        }
        "User" | "Group" => must_be_one_of(at.member("apiGroup"), group, &[GROUP], causes),
        other => must_be_one_of(at.member("kind"), other, &["ServiceAccount", "User", "Group"], causes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(validate: Validate, new: Value, old: Option<Value>) -> Vec<String> {
        let mut causes = Vec::new();
        validate(&new, old.as_ref(), &mut causes);
        causes
            .into_iter()
            .map(|c| format!("{} {}", c.reason.trim_start_matches("FieldValue"), c.field))
            .collect()
    }

    #[test]
    fn rules_name_verbs_and_either_resources_or_paths() {
        let rules = json!({"rules": [{}, {"verbs": ["get"], "nonResourceURLs": ["/x"], "resources": ["a"]}]});
        let common = [
            "Required rules[0].verbs",
            "Required rules[0].apiGroups",
            "Required rules[0].resources",
        ];
        let paths = "Invalid rules[1].nonResourceURLs";
        assert_eq!(
            fields(validate_role, rules.clone(), None),
            [&common[..], &[paths, paths]].concat()
        );
        assert_eq!(
            fields(validate_cluster_role, rules, None),
            [&common[..], &[paths]].concat()
        );
        assert_eq!(
            fields(validate_cluster_role, json!({"aggregationRule": {}}), None),
            ["Required aggregationRule.clusterRoleSelectors"]
        );
        let selectors = json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b c"}}]}});
        assert_eq!(
            fields(validate_cluster_role, selectors, None),
            [
                "Invalid aggregationRule.clusterRoleSelectors[0].matchLabels",
                "Invalid aggregationRule.clusterRoleSelectors[0]"
            ]
        );
    }

    #[test]
    fn the_group_of_roles_and_people_is_filled_in_and_the_role_stays() {
        let mut binding = json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [
            {"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s"}]});
        prepare_binding(&mut binding, None, "");
        assert_eq!(binding["roleRef"]["apiGroup"], GROUP);
        assert_eq!(binding["subjects"][0]["apiGroup"], GROUP);
        assert!(binding["subjects"][1].get("apiGroup").is_none());
        assert_eq!(subjects(&binding, "ServiceAccount"), "/s");
        assert!(fields(validate_role_binding, binding.clone(), None).is_empty());
        assert_eq!(
            fields(validate_cluster_role_binding, binding.clone(), None),
            ["NotSupported roleRef.kind", "Required subjects[1].namespace"]
        );
        let mut other = binding.clone();
        other["roleRef"]["name"] = json!("x");
        assert_eq!(fields(validate_role_binding, other, Some(binding)), ["Invalid roleRef"]);
    }
}
