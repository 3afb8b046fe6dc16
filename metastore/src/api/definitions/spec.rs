//! What a definition may say outside its schemas, and which of that may change.
//!
//! What all versions share counts as said once: causes then name the field where the API's own form of a definition has it
//! (`spec.validation`, `spec.subresources`, …) rather than that of a version.

use serde_json::Value;

use super::structural::{self, Place};
use super::{MAX_VERSIONS, text, versions};
use crate::api::names::{self, NameRule};
use crate::api::schema::parse;
use crate::api::status::Cause;

/// Fields by which objects of one version may be selected.
const MAX_SELECTABLE: usize = 8;
const APPROVED: &str = "api-approved.kubernetes.io";

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn label(name: &str, field: String, causes: &mut Vec<Cause>) {
    if let Err(why) = NameRule::Label1035.check(name) {
        causes.push(Cause::invalid(field, &quoted(name), why));
    }
}

/// Finds everything that is wrong with a definition.
pub(super) fn check(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let group = text(new, "/spec/group");
    let name = text(new, "/metadata/name");
    if old.is_none() && name != format!("{}.{group}", text(new, "/spec/names/plural")) {
        let why = "must be spec.names.plural+\".\"+spec.group";
        causes.push(Cause::invalid("metadata.name", &quoted(name), why));
    }
    if group.is_empty() {
        causes.push(Cause::required("spec.group", ""));
    } else if !names::is_subdomain(group) {
        causes.push(Cause::invalid(
            "spec.group",
            &quoted(group),
            "must be a DNS-1123 subdomain",
        ));
    } else if !group.contains('.') {
        let why = "should be a domain with at least one dot";
        causes.push(Cause::invalid("spec.group", &quoted(group), why));
    }
    match text(new, "/spec/scope") {
        "Namespaced" | "Cluster" => {}
        "" => causes.push(Cause::required("spec.scope", "")),
        other => causes.push(Cause::not_supported(
            "spec.scope",
            &quoted(other),
            &["Cluster", "Namespaced"],
        )),
    }
    check_versions(new, causes);
    check_names(new, "/spec/names", "spec.names", true, causes);
    check_conversion(new, causes);
    check_stored(new, causes);
    check_approval(new, old, causes);
    if new.pointer("/spec/preserveUnknownFields") == Some(&Value::Bool(true)) {
        let why =
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        causes.push(Cause::invalid("spec.preserveUnknownFields", "true", why));
        if has_default(new) {
            let why = "must be false in order to use defaults in the schema";
            causes.push(Cause::invalid("spec.preserveUnknownFields", "true", why));
        }
    }
    if let Some(old) = old {
        check_update(new, old, causes);
    }
}

fn check_update(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let established = super::condition(old, "Established").is_some_and(|c| text(c, "/status") == "True");
    for (field, always) in [
        ("scope", false),
        ("names/kind", false),
        ("group", true),
        ("names/plural", true),
    ] {
        let at = format!("/spec/{field}");
        if (always || established) && text(old, &at) != text(new, &at) {
            let field = format!("spec.{}", field.replace('/', "."));
            causes.push(Cause::invalid(field, &quoted(text(new, &at)), "field is immutable"));
        }
    }
}

fn has_default(definition: &Value) -> bool {
    fn within(schema: &Value) -> bool {
        let Some(map) = schema.as_object() else { return false };
        map.contains_key("default")
            || map.get("items").is_some_and(within)
            || map.get("additionalProperties").is_some_and(within)
            || map
                .get("properties")
                .and_then(Value::as_object)
                .is_some_and(|m| m.values().any(within))
    }
    super::schemas(definition).iter().any(|(_, schema)| within(schema))
}

/// Checks names at a place. `needed`: they must be there.
fn check_names(new: &Value, at: &str, field: &str, needed: bool, causes: &mut Vec<Cause>) {
    let none = Value::Null;
    let given = new.pointer(at).unwrap_or(&none);
    let word = |key: &str| given.get(key).and_then(Value::as_str).unwrap_or_default();
    for key in ["plural", "singular", "kind", "listKind"] {
        if needed && word(key).is_empty() {
            causes.push(Cause::required(format!("{field}.{key}"), ""));
        }
    }
    for key in ["plural", "singular"] {
        if !word(key).is_empty() {
            label(word(key), format!("{field}.{key}"), causes);
        }
    }
    for key in ["kind", "listKind"] {
        if !word(key).is_empty() && NameRule::Label1035.check(&word(key).to_lowercase()).is_err() {
            let why = "may have mixed case, but should otherwise be a DNS-1035 label";
            causes.push(Cause::invalid(format!("{field}.{key}"), &quoted(word(key)), why));
        }
    }
    if !word("kind").is_empty() && word("kind") == word("listKind") {
        let why = "kind and listKind may not be the same";
        causes.push(Cause::invalid(
            format!("{field}.listKind"),
            &quoted(word("listKind")),
            why,
        ));
    }
    for key in ["shortNames", "categories"] {
        for (i, name) in list(given, key).iter().enumerate() {
            label(name.as_str().unwrap_or_default(), format!("{field}.{key}[{i}]"), causes);
        }
    }
}

/// The places of a field of the versions: one for all when they share it.
pub(super) fn places<'v>(all: &'v [Value], key: &str, shared: &str) -> Vec<(String, &'v Value, &'v Value)> {
    let Some(first) = all.first() else { return Vec::new() };
    let same = all.iter().all(|v| v.get(key) == first.get(key));
    let used = if same { &all[..1] } else { all };
    used.iter()
        .enumerate()
        .filter_map(|(i, version)| {
            let value = version.get(key).filter(|v| !v.is_null())?;
            let at = if same {
                format!("spec.{shared}")
            } else {
                format!("spec.versions[{i}].{key}")
            };
            Some((at, value, version))
        })
        .collect()
}

fn check_versions(new: &Value, causes: &mut Vec<Cause>) {
    let all = versions(new);
    if all.len() > MAX_VERSIONS {
        causes.push(Cause::too_many("spec.versions", all.len(), MAX_VERSIONS as u64));
        return;
    }
    let shares_schema = all.iter().all(|v| v.get("schema") == all[0].get("schema"));
    let missing = |v: &Value| v.pointer("/schema/openAPIV3Schema").is_none();
    for (i, version) in all.iter().enumerate() {
        let at = format!("spec.versions[{i}]");
        if missing(version) {
            causes.push(Cause::required(format!("{at}.schema.openAPIV3Schema"), ""));
        }
        label(text(version, "/name"), format!("{at}.name"), causes);
        check_warning(version, &at, causes);
    }
    // The first one also is the definition's `version`, a field of former days.
    if let Some(first) = all.first().map(|v| text(v, "/name")).filter(|n| !n.is_empty()) {
        label(first, "spec.version".to_owned(), causes);
    }
    let mut seen = std::collections::BTreeSet::new();
    let shown = "the versions";
    let mut wrong = |why: &str| causes.push(Cause::invalid("spec.versions", shown, why));
    if !all.iter().all(|v| seen.insert(text(v, "/name"))) {
        wrong("must contain unique version names");
    }
    let storing = all.iter().filter(|v| v.get("storage") == Some(&Value::Bool(true)));
    if storing.count() != 1 {
        wrong("must have exactly one version marked as storage version");
    }
    let status = |v: &Value| v.pointer("/subresources/status").is_some();
    for (at, holder, version) in places(all, "schema", "validation") {
        let with_status = if shares_schema {
            all.iter().any(status)
        } else {
            status(version)
        };
        if let Some(schema) = holder.get("openAPIV3Schema") {
            check_schema(schema, &format!("{at}.openAPIV3Schema"), with_status, causes);
        }
    }
    for (at, subresources, _) in places(all, "subresources", "subresources") {
        if let Some(scale) = subresources.get("scale").filter(|s| !s.is_null()) {
            check_scale(scale, &format!("{at}.scale"), causes);
        }
    }
    for (at, columns, _) in places(all, "additionalPrinterColumns", "additionalPrinterColumns") {
        for (i, column) in columns.as_array().into_iter().flatten().enumerate() {
            check_column(column, &format!("{at}[{i}]"), causes);
        }
    }
    for (at, fields, version) in places(all, "selectableFields", "selectableFields") {
        check_selectable(fields, version, &at, causes);
    }
}

fn check_warning(version: &Value, at: &str, causes: &mut Vec<Cause>) {
    let Some(warning) = version.get("deprecationWarning").and_then(Value::as_str) else {
        return;
    };
    let mut wrong = |why: &str| {
        causes.push(Cause::invalid(
            format!("{at}.deprecationWarning"),
            &quoted(warning),
            why,
        ))
    };
    if version.get("deprecated") != Some(&Value::Bool(true)) {
        wrong("can only be set for deprecated versions");
        return;
    }
    if warning.len() > 256 {
        wrong("must be <= 256 characters long");
    }
    if warning.is_empty() {
        wrong("must not be an empty string");
    }
    if warning.chars().any(char::is_control) {
        wrong("must only contain printable UTF-8 characters");
    }
}

/// What may stand at the root of a schema whose status is written apart.
const AT_ROOT: [&str; 22] = [
    "description",
    "type",
    "format",
    "title",
    "maximum",
    "exclusiveMaximum",
    "minimum",
    "exclusiveMinimum",
    "maxLength",
    "minLength",
    "pattern",
    "maxItems",
    "minItems",
    "uniqueItems",
    "multipleOf",
    "required",
    "items",
    "properties",
    "externalDocs",
    "example",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
];

fn check_schema(schema: &Value, path: &str, with_status: bool, causes: &mut Vec<Cause>) {
    if let Some(cause) = structural::limits(schema, path) {
        causes.push(cause);
        return;
    }
    let before = causes.len();
    if let (true, Some(map)) = (with_status, schema.as_object()) {
        let ty = text(schema, "/type");
        let other = map.keys().find(|k| !AT_ROOT.contains(&k.as_str()));
        if !ty.is_empty() && ty != "object" {
            let why =
                "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
            causes.push(Cause::invalid(format!("{path}.type"), &quoted(ty), why));
        } else if let Some(other) = other {
            let why = format!("{other} is not allowed at the root of the schema if the status subresource is enabled");
            causes.push(Cause::invalid(path, "object", &why));
        }
    }
    if schema.get("nullable") == Some(&Value::Bool(true)) {
        let why = "nullable cannot be true at the root";
        causes.push(Cause::forbidden(format!("{path}.nullable"), why));
    }
    if let Some(found) = structural::check(schema, path) {
        let sound = found.is_empty();
        causes.extend(found);
        // Defaults are held against a schema that is sound.
        if sound && let Err(found) = parse::schema(schema, path) {
            causes.extend(found);
        }
    }
    structural::openapi(schema, path, Place::ROOT, causes);
    if before == causes.len() && structural::check(schema, path).is_none() {
        causes.push(Cause::invalid(path, "\"\"", "the schema is not structural"));
    }
}

fn check_scale(scale: &Value, at: &str, causes: &mut Vec<Cause>) {
    for (key, below, needed) in [
        ("specReplicasPath", &[".spec."][..], true),
        ("statusReplicasPath", &[".status."], true),
        ("labelSelectorPath", &[".spec.", ".status."], false),
    ] {
        let path = scale.get(key).and_then(Value::as_str).unwrap_or_default();
        let field = format!("{at}.{key}");
        if path.is_empty() {
            if needed {
                causes.push(Cause::required(field, ""));
            }
        } else if !path.starts_with('.') {
            let why = "must be a simple json path starting with .";
            causes.push(Cause::invalid(field, &quoted(path), why));
        } else if !below.iter().any(|b| path.starts_with(b)) {
            let why = format!("should be a json path under {}", below.join(" or "));
            causes.push(Cause::invalid(field, &quoted(path), &why));
        }
    }
}

fn check_column(column: &Value, at: &str, causes: &mut Vec<Cause>) {
    const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    const FORMATS: [&str; 8] = [
        "byte",
        "date",
        "date-time",
        "double",
        "float",
        "int32",
        "int64",
        "password",
    ];
    let (name, ty, format) = (text(column, "/name"), text(column, "/type"), text(column, "/format"));
    if name.is_empty() {
        causes.push(Cause::required(format!("{at}.name"), ""));
    }
    let one_of = format!("must be one of {}", TYPES.join(","));
    if ty.is_empty() {
        causes.push(Cause::required(format!("{at}.type"), &one_of));
    } else if !TYPES.contains(&ty) {
        causes.push(Cause::invalid(format!("{at}.type"), &quoted(ty), &one_of));
    }
    if !format.is_empty() && !FORMATS.contains(&format) {
        let why = format!("must be one of {}", FORMATS.join(","));
        causes.push(Cause::invalid(format!("{at}.format"), &quoted(format), &why));
    }
    let path = text(column, "/jsonPath");
    let field = format!("{at}.JSONPath");
    if path.is_empty() {
        causes.push(Cause::required(field, ""));
    } else if !path.starts_with('.') {
        let why = "must be a simple json path starting with .";
        causes.push(Cause::invalid(field, &quoted(path), why));
    }
}

fn check_selectable(fields: &Value, version: &Value, at: &str, causes: &mut Vec<Cause>) {
    let mut seen = std::collections::BTreeSet::new();
    for (i, field) in fields.as_array().into_iter().flatten().enumerate() {
        let path = text(field, "/jsonPath");
        let field = format!("{at}[{i}].jsonPath");
        if path.is_empty() {
            causes.push(Cause::required(field, ""));
            continue;
        }
        let mut schema = version.pointer("/schema/openAPIV3Schema");
        let mut steps = path.split('.');
        let dotted = steps.next() == Some("") && !path.contains(['[', ']']);
        for step in steps {
            schema = schema.and_then(|s| s.get("properties")?.get(step));
        }
        let Some(found) = schema.filter(|_| dotted) else {
            let why = "is an invalid path: does not refer to a valid field";
            causes.push(Cause::invalid(field, &quoted(path), why));
            continue;
        };
        if path == ".metadata" || path.starts_with(".metadata.") {
            let why = "must not point to fields in metadata";
            causes.push(Cause::invalid(&field, &quoted(path), why));
        }
        if !matches!(text(found, "/type"), "string" | "boolean" | "integer") {
            let why = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            causes.push(Cause::invalid(&field, &quoted(path), why));
        }
        if !seen.insert(path) {
            causes.push(Cause::duplicate(field, &quoted(path)));
        }
    }
    if seen.len() > MAX_SELECTABLE {
        causes.push(Cause::too_many(at, seen.len(), MAX_SELECTABLE as u64));
    }
}

fn check_conversion(new: &Value, causes: &mut Vec<Cause>) {
    let Some(conversion) = new.pointer("/spec/conversion").filter(|c| !c.is_null()) else {
        return;
    };
    let webhook = conversion.get("webhook").filter(|w| !w.is_null());
    let client = webhook.and_then(|w| w.get("clientConfig")).filter(|c| !c.is_null());
    let reviews = webhook.map_or(&[][..], |w| list(w, "conversionReviewVersions"));
    let at = |key: &str| format!("spec.conversion.{key}");
    match text(conversion, "/strategy") {
        "" => causes.push(Cause::required(at("strategy"), "")),
        "None" => {}
        "Webhook" => {
            if client.is_none() {
                let why = "required when strategy is set to Webhook";
                causes.push(Cause::required(at("webhookClientConfig"), why));
            }
            let before = causes.len();
            if let Some(client) = client {
                check_client(client, &at("webhookClientConfig"), causes);
            }
            if reviews.is_empty() {
                causes.push(Cause::required(at("conversionReviewVersions"), ""));
            } else if !reviews.iter().any(|v| v == "v1" || v == "v1beta1") {
                let why = "must include at least one of v1, v1beta1";
                causes.push(Cause::invalid(
                    at("conversionReviewVersions"),
                    &format!("{reviews:?}"),
                    why,
                ));
            }
            // A sound request for something that is not done here.
            if client.is_some() && causes.len() == before {
                let why = "conversion by a webhook is not done here: serve versions that differ in their schemas only, with strategy None";
                causes.push(Cause::invalid(at("strategy"), "\"Webhook\"", why));
            }
            return;
        }
        other => causes.push(Cause::not_supported(
            at("strategy"),
            &quoted(other),
            &["None", "Webhook"],
        )),
    }
    let why = "should not be set when strategy is not set to Webhook";
    if client.is_some() {
        causes.push(Cause::forbidden(at("webhookClientConfig"), why));
    }
    if !reviews.is_empty() {
        causes.push(Cause::forbidden(at("conversionReviewVersions"), why));
    }
}

fn check_client(client: &Value, at: &str, causes: &mut Vec<Cause>) {
    let url = client.get("url").and_then(Value::as_str);
    let service = client.get("service").filter(|s| !s.is_null());
    match (url, service) {
        (Some(url), None) => {
            let sound = url
                .parse::<http::Uri>()
                .is_ok_and(|u| u.scheme_str() == Some("https") && u.host().is_some());
            if !sound {
                let why = "must be a URL that begins with https:// and names a host";
                causes.push(Cause::invalid(format!("{at}.url"), &quoted(url), why));
            }
        }
        (None, Some(service)) => {
            for key in ["name", "namespace"] {
                if service.get(key).and_then(Value::as_str).is_none_or(str::is_empty) {
                    causes.push(Cause::required(format!("{at}.service.{key}"), ""));
                }
            }
        }
        _ => causes.push(Cause::required(at, "exactly one of url or service is required")),
    }
}

fn check_stored(new: &Value, causes: &mut Vec<Cause>) {
    let none = Value::Null;
    let stored = list(new.get("status").unwrap_or(&none), "storedVersions");
    let at = "status.storedVersions";
    if stored.is_empty() {
        causes.push(Cause::invalid(at, "[]", "must have at least one stored version"));
        return;
    }
    let all = versions(new);
    let named = |v: &Value| v.get("name").cloned().unwrap_or(Value::Null);
    let storing = all.iter().filter(|v| v.get("storage") == Some(&Value::Bool(true)));
    for storing in storing.filter(|v| !stored.contains(&named(v))) {
        let why = format!("must have the storage version {}", text(storing, "/name"));
        causes.push(Cause::invalid(at, &format!("{stored:?}"), &why));
    }
    for (i, version) in stored.iter().enumerate() {
        if !all.iter().any(|v| named(v) == *version) {
            let name = version.as_str().unwrap_or_default();
            let why = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            causes.push(Cause::invalid(format!("{at}[{i}]"), &quoted(name), &why));
        }
    }
}

/// What the annotation says about a group that belongs to the Kubernetes project.
fn approval(definition: &Value) -> &'static str {
    let note = definition
        .pointer("/metadata/annotations")
        .and_then(|a| a.get(APPROVED))
        .and_then(Value::as_str);
    match note {
        None | Some("") => "missing",
        Some(note) if note.starts_with("unapproved") => "bypassed",
        Some(note) => match note.parse::<http::Uri>() {
            Ok(uri) if uri.host().is_some() && uri.scheme().is_some() => "approved",
            _ => "invalid",
        },
    }
}

fn check_approval(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let group = text(new, "/spec/group");
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|g| group == *g || group.ends_with(&format!(".{g}")));
    let state = approval(new);
    if !protected || old.is_some_and(|o| approval(o) == state) {
        return;
    }
    let field = format!("metadata.annotations[{APPROVED}]");
    let why = "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111";
    match state {
        "missing" => causes.push(Cause::required(field, why)),
        "invalid" => causes.push(Cause::invalid(field, "the annotation", why)),
        _ => {}
    }
}

/// Finds what is wrong with a status that somebody wrote.
pub(super) fn check_status(new: &Value, causes: &mut Vec<Cause>) {
    check_names(new, "/status/acceptedNames", "status.acceptedNames", false, causes);
}
