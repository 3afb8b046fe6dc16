//! Storage: volumes, the claims on them, the classes they come from.

use serde_json::{Value, json};

use super::checks::{self, At, default_to, entries, items, part, refuse, word};
use super::network::{marked, named};
use super::{computed, row, text};
use crate::api::kinds::{KindSpec, Special, StatusPart};
use crate::api::schema::quantity;
use crate::api::status::Cause;
use crate::api::table::Column;

/// Where the class stood before it had a field.
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The rows of this file.
pub(super) fn kinds() -> Vec<KindSpec> {
    vec![volume(), claim(), class()]
}

// ---- shared ----

/// Ways to mount.
const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// Access modes in the letters of the table.
fn modes(list: &[Value]) -> String {
    const KNOWN: [(&str, &str); 4] = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let found: Vec<&str> = KNOWN
        .iter()
        .filter(|(mode, _)| list.iter().any(|m| m == mode))
        .map(|(_, short)| *short)
        .collect();
    found.join(",")
}

/// The class of a volume or claim.
fn class_of(object: &Value) -> Value {
    let noted = entries(&object["metadata"], "annotations").find(|(k, _)| *k == BETA_CLASS);
    noted.map_or_else(|| json!(word(&object["spec"], "storageClassName")), |(_, v)| v.clone())
}

/// A phase, or that the object is going.
fn phase(object: &Value) -> Value {
    if object.pointer("/metadata/deletionTimestamp").is_some() {
        return json!("Terminating");
    }
    json!(word(&object["status"], "phase"))
}

/// A text that reads `<unset>` when nothing was said.
fn or_unset(object: &Value, pointer: &str) -> Value {
    object.pointer(pointer).cloned().unwrap_or_else(|| json!("<unset>"))
}

fn only_once(at: At<'_>, spec: &Value, causes: &mut Vec<Cause>) {
    let list = items(spec, "accessModes");
    let known = |m: &Value| matches!(m.as_str(), Some("ReadWriteOnce" | "ReadOnlyMany" | "ReadWriteMany"));
    if list.iter().any(|m| m == "ReadWriteOncePod") && list.iter().any(known) {
        causes.push(Cause::forbidden(
            at.member("accessModes"),
            "may not use ReadWriteOncePod with other access modes",
        ));
    }
}

fn positive(at: At<'_>, amount: &Value, causes: &mut Vec<Cause>) {
    if quantity::nanos(amount).is_some_and(|n| n <= 0) {
        causes.push(Cause::invalid(at, &amount.to_string(), checks::POSITIVE));
    }
}

// ---- PersistentVolume ----

fn volume() -> KindSpec {
    KindSpec {
        namespaced: false,
        status: StatusPart::Apart,
        special: Special {
            returns_deleted: true,
            ..Special::default()
        },
        prepare: Some(prepare_volume),
        validate: Some(validate_volume),
        columns: vec![
            Column::name(),
            computed("Capacity", "string", "How much it holds.", |v| {
                v.pointer("/spec/capacity/storage")
                    .cloned()
                    .unwrap_or_else(|| json!("0"))
            }),
            computed("Access Modes", "string", "How it can be mounted.", |v| {
                json!(modes(items(&v["spec"], "accessModes")))
            }),
            text(
                "Reclaim Policy",
                "What becomes of it when its claim is gone.",
                ".spec.persistentVolumeReclaimPolicy",
            ),
            computed("Status", "string", "Whether it is free, bound or going.", phase),
            computed("Claim", "string", "The claim that has it.", |v| {
                json!(part(&v["spec"], "claimRef").map_or_else(String::new, |c| format!(
                    "{}/{}",
                    word(c, "namespace"),
                    word(c, "name")
                )))
            }),
            computed("StorageClass", "string", "StorageClass of the pv", class_of),
            computed(
                "VolumeAttributesClass",
                "string",
                "VolumeAttributesClass of the pv",
                |v| or_unset(v, "/spec/volumeAttributesClassName"),
            ),
            text("Reason", "Why it is as it is.", ".status.reason"),
            Column::age(),
            computed("VolumeMode", "string", "A file system or a block device.", |v| {
                or_unset(v, "/spec/volumeMode")
            })
            .wide(),
        ],
        ..row("", "core", "PersistentVolume", &["pv"])
    }
}

fn prepare_volume(new: &mut Value, old: Option<&Value>, now: &str) {
    if let (None, Value::Object(map)) = (old, new) {
        map.insert(
            "status".to_owned(),
            json!({"phase": "Pending", "lastPhaseTransitionTime": now}),
        );
    }
}

/// The sources of a volume, of which there is one.
const SOURCES: [&str; 22] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

fn validate_volume(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let spec = &new["spec"];
    let at = At::top("spec");
    only_once(at, spec, causes);
    check_capacity(at.member("capacity"), spec, causes);
    check_source(at, spec, causes);
    check_affinity(at.member("nodeAffinity"), &spec["nodeAffinity"], causes);
    let recycled_root = spec
        .pointer("/hostPath/path")
        .and_then(Value::as_str)
        .is_some_and(|p| p.trim_matches('/').is_empty())
        && word(spec, "persistentVolumeReclaimPolicy") == "Recycle";
    if recycled_root {
        causes.push(Cause::forbidden(
            at.member("persistentVolumeReclaimPolicy"),
            "may not be 'recycle' for a hostPath mount of '/'",
        ));
    }
    if let Some(class) = spec.get("volumeAttributesClassName").and_then(Value::as_str) {
        let at_class = at.member("volumeAttributesClassName");
        if class.is_empty() {
            causes.push(Cause::required(at_class, "an empty string is disallowed"));
        } else {
            refuse(at_class, class, &checks::dns_subdomain(class), causes);
        }
        if part(spec, "csi").is_none() {
            causes.push(Cause::required(
                at.member("csi"),
                "has to be specified when using volumeAttributesClassName",
            ));
        }
    }
    if let Some(old) = old {
        check_volume_update(spec, &old["spec"], causes);
    }
}

fn check_capacity(at: At<'_>, spec: &Value, causes: &mut Vec<Cause>) {
    let count = entries(spec, "capacity").count();
    if count == 0 {
        causes.push(Cause::required(at, ""));
    }
    if count != 1 || spec.pointer("/capacity/storage").is_none() {
        causes.push(Cause::not_supported(at, &spec["capacity"].to_string(), &["storage"]));
    }
    for (name, amount) in entries(spec, "capacity") {
        if quantity::nanos(amount).is_some_and(|n| n < 0) {
            causes.push(Cause::invalid(
                at.key(name),
                &amount.to_string(),
                "must be a valid resource quantity",
            ));
        }
        positive(at.key(name), amount, causes);
    }
}

fn check_source(at: At<'_>, spec: &Value, causes: &mut Vec<Cause>) {
    let mut found = false;
    for name in SOURCES.iter().filter(|s| part(spec, s).is_some()) {
        if found {
            causes.push(Cause::forbidden(
                at.member(name),
                "may not specify more than 1 volume type",
            ));
        }
        found = true;
    }
    if !found {
        causes.push(Cause::required(at, "must specify a volume type"));
    }
    if part(spec, "local").is_some() && part(spec, "nodeAffinity").is_none() {
        causes.push(Cause::required(
            at.member("nodeAffinity"),
            "Local volume requires node affinity",
        ));
    }
}

fn check_affinity(at: At<'_>, affinity: &Value, causes: &mut Vec<Cause>) {
    let Some(required) = part(affinity, "required") else {
        return;
    };
    let at = at.member("required");
    let list = at.member("nodeSelectorTerms");
    for (i, term) in items(required, "nodeSelectorTerms").iter().enumerate() {
        checks::node_selector_term(list.item(i), term, causes);
    }
}

fn check_volume_update(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    // A secret for expanding may be named later.
    let plain = |spec: &Value, name: &str| {
        let mut source = spec.get(name).cloned();
        if old.pointer("/csi/controllerExpandSecretRef").is_none()
            && let Some(Value::Object(map)) = &mut source
        {
            map.remove("controllerExpandSecretRef");
        }
        source
    };
    if SOURCES.iter().any(|name| plain(new, name) != plain(old, name)) {
        causes.push(Cause::forbidden(
            "spec.persistentvolumesource",
            "spec.persistentvolumesource is immutable after creation",
        ));
    }
    if new.get("volumeMode") != old.get("volumeMode") {
        let shown = new["volumeMode"].to_string();
        causes.push(Cause::invalid("volumeMode", &shown, checks::IMMUTABLE));
    }
    if !old["nodeAffinity"].is_null() && new.get("nodeAffinity") != old.get("nodeAffinity") {
        let shown = new["nodeAffinity"].to_string();
        causes.push(Cause::invalid("nodeAffinity", &shown, checks::IMMUTABLE));
    }
    if !old["volumeAttributesClassName"].is_null() && new["volumeAttributesClassName"].is_null() {
        causes.push(Cause::forbidden(
            "spec.volumeAttributesClassName",
            "update from non-nil value to nil is forbidden",
        ));
    }
}

// ---- PersistentVolumeClaim ----

fn claim() -> KindSpec {
    KindSpec {
        status: StatusPart::Apart,
        special: Special {
            returns_deleted: true,
            ..Special::default()
        },
        prepare: Some(prepare_claim),
        validate: Some(validate_claim),
        columns: vec![
            Column::name(),
            computed("Status", "string", "Whether it has what it asks for.", phase),
            text("Volume", "The volume it has.", ".spec.volumeName"),
            computed("Capacity", "string", "How much it has.", |c| {
                if word(&c["spec"], "volumeName").is_empty() {
                    return json!("");
                }
                c.pointer("/status/capacity/storage")
                    .cloned()
                    .unwrap_or_else(|| json!("0"))
            }),
            computed("Access Modes", "string", "How it can be mounted.", |c| {
                if word(&c["spec"], "volumeName").is_empty() {
                    return json!("");
                }
                json!(modes(items(&c["status"], "accessModes")))
            }),
            computed("StorageClass", "string", "StorageClass of the pvc", class_of),
            computed(
                "VolumeAttributesClass",
                "string",
                "VolumeAttributesClass of the pvc",
                |c| or_unset(c, "/spec/volumeAttributesClassName"),
            ),
            Column::age(),
            computed("VolumeMode", "string", "A file system or a block device.", |c| {
                or_unset(c, "/spec/volumeMode")
            })
            .wide(),
        ],
        ..row("", "core", "PersistentVolumeClaim", &["pvc"])
    }
}

/// The two fields for a source say the same where both can.
fn prepare_claim(new: &mut Value, old: Option<&Value>, _now: &str) {
    let Value::Object(map) = new else { return };
    if let Some(Value::Object(spec)) = map.get_mut("spec") {
        // What no program of the cluster itself can fill from is passed over in the older field.
        if let Some(source) = spec.get("dataSource") {
            let (group, kind) = (word(source, "apiGroup"), word(source, "kind"));
            let known = (group.is_empty() && kind == "PersistentVolumeClaim")
                || (group == "snapshot.storage.k8s.io" && kind == "VolumeSnapshot");
            if !known {
                spec.remove("dataSource");
            }
        }
        match (spec.get("dataSource").cloned(), spec.get("dataSourceRef").cloned()) {
            (Some(source), None) => {
                spec.insert("dataSourceRef".to_owned(), source);
            }
            (None, Some(reference)) if word(&reference, "namespace").is_empty() => {
                spec.insert("dataSource".to_owned(), reference);
            }
            _ => {}
        }
    }
    if old.is_none() {
        map.insert("status".to_owned(), json!({"phase": "Pending"}));
    } else if let Some(Value::Object(status)) = map.get_mut("status") {
        default_to(status, "phase", "Pending");
    }
}

fn validate_claim(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    check_claim_spec(At::top("spec"), &new["spec"], causes);
    if let Some(old) = old {
        check_claim_update(new, old, causes);
    }
}

/// What a claim asks for.
fn check_claim_spec(at: At<'_>, spec: &Value, causes: &mut Vec<Cause>) {
    let modes = items(spec, "accessModes");
    if modes.is_empty() {
        causes.push(Cause::required(
            at.member("accessModes"),
            "at least 1 access mode is required",
        ));
    }
    for mode in modes {
        let mode = mode.as_str().unwrap_or_default();
        checks::must_be_one_of(at.member("accessModes"), mode, &MODES, causes);
    }
    if let Some(selector) = part(spec, "selector") {
        checks::label_selector(at.member("selector"), selector, causes);
    }
    for field in ["storageClassName", "volumeAttributesClassName"] {
        let class = word(spec, field);
        if !class.is_empty() {
            refuse(at.member(field), class, &checks::dns_subdomain(class), causes);
        }
    }
    checks::one_of(
        at.member("volumeMode"),
        word(spec, "volumeMode"),
        &["Block", "Filesystem"],
        causes,
    );
    only_once(at, spec, causes);
    let resources = at.member("resources");
    match spec.pointer("/resources/requests/storage") {
        None => causes.push(Cause::required(resources.key("storage"), "")),
        Some(amount) => positive(resources.key("storage"), amount, causes),
    }
    let source = part(spec, "dataSource");
    for (field, reference) in [("dataSource", source), ("dataSourceRef", part(spec, "dataSourceRef"))] {
        let Some(reference) = reference else { continue };
        let at = at.member(field);
        for field in ["name", "kind"] {
            if word(reference, field).is_empty() {
                causes.push(Cause::required(at.member(field), ""));
            }
        }
        let group = word(reference, "apiGroup");
        if group.is_empty() && word(reference, "kind") != "PersistentVolumeClaim" {
            causes.push(Cause::invalid(
                at,
                &format!("{:?}", word(reference, "kind")),
                "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            ));
        } else if !group.is_empty() {
            refuse(at.member("apiGroup"), group, &checks::dns_subdomain(group), causes);
        }
    }
    if let (Some(source), Some(reference)) = (source, part(spec, "dataSourceRef")) {
        let apart = !word(reference, "namespace").is_empty();
        let same = ["apiGroup", "kind", "name"]
            .iter()
            .all(|f| word(source, f) == word(reference, f));
        if apart || !same {
            causes.push(Cause::invalid(at, "dataSource", "must match dataSourceRef"));
        }
    }
}

fn check_claim_update(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let bound = word(&new["status"], "phase") == "Bound";
    let fixed = |claim: &Value| {
        let mut spec = claim["spec"].clone();
        if let Value::Object(map) = &mut spec {
            if word(&old["spec"], "volumeName").is_empty() {
                map.remove("volumeName");
            }
            if old["spec"]["storageClassName"].is_null() {
                map.remove("storageClassName");
            }
            if bound {
                map.remove("volumeAttributesClassName");
                if let Some(Value::Object(requests)) = map.get_mut("resources").and_then(|r| r.get_mut("requests")) {
                    requests.remove("storage");
                }
            }
        }
        spec
    };
    if fixed(new) != fixed(old) {
        causes.push(Cause::forbidden(
            "spec",
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        ));
    }
    let size = |claim: &Value| {
        claim
            .pointer("/spec/resources/requests/storage")
            .and_then(quantity::nanos)
    };
    let has = new
        .pointer("/status/capacity/storage")
        .and_then(quantity::nanos)
        .unwrap_or(0);
    if let (Some(now), Some(before)) = (size(new), size(old))
        && now < before
        && now <= has
    {
        causes.push(Cause::forbidden(
            "spec.resources.requests.storage",
            "field can not be less than status.capacity",
        ));
    }
    if new["spec"]["volumeMode"] != old["spec"]["volumeMode"] {
        let shown = new["spec"]["volumeMode"].to_string();
        causes.push(Cause::invalid("volumeMode", &shown, checks::IMMUTABLE));
    }
}

// ---- StorageClass ----

fn class() -> KindSpec {
    KindSpec {
        namespaced: false,
        special: Special {
            returns_deleted: true,
            ..Special::default()
        },
        validate: Some(validate_class),
        columns: vec![
            named(|c| {
                marked(
                    c,
                    &[
                        "storageclass.kubernetes.io/is-default-class",
                        "storageclass.beta.kubernetes.io/is-default-class",
                    ],
                )
            }),
            text("Provisioner", "Who makes volumes of the class.", ".provisioner"),
            text("ReclaimPolicy", "What becomes of its volumes.", ".reclaimPolicy"),
            text(
                "VolumeBindingMode",
                "When volumes are made and bound.",
                ".volumeBindingMode",
            ),
            computed("AllowVolumeExpansion", "string", "Whether its volumes may grow.", |c| {
                json!(checks::is_true(c, "allowVolumeExpansion"))
            }),
            Column::age(),
        ],
        ..row("storage.k8s.io", "storage", "StorageClass", &["sc"])
    }
}

fn validate_class(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    const MAX_PARAMETERS: usize = 512;
    const MAX_SIZE: usize = 256 * 1024;
    let provisioner = word(new, "provisioner").to_lowercase();
    if !provisioner.is_empty() {
        refuse(
            At::top("provisioner"),
            &provisioner,
            &checks::label_key(&provisioner),
            causes,
        );
    }
    let at = At::top("parameters");
    let (mut count, mut size) = (0, 0);
    for (key, value) in entries(new, "parameters") {
        count += 1;
        size += key.len() + value.as_str().map_or(0, str::len);
        if key.is_empty() {
            refuse(at, key, &["field can not be empty."], causes);
        }
    }
    if count > MAX_PARAMETERS {
        causes.push(Cause::too_long(at, MAX_PARAMETERS as u64));
    } else if size > MAX_SIZE {
        causes.push(Cause::too_long(at, MAX_SIZE as u64));
    }
    let list = At::top("allowedTopologies");
    let terms = items(new, "allowedTopologies");
    for (i, term) in terms.iter().enumerate() {
        check_topology(list.item(i), term, causes);
        // The reference server holds an empty term against as many empty ones as there are terms.
        let empty = items(term, "matchLabelExpressions").is_empty();
        let same = terms[..i].iter().filter(|t| *t == term).count() + if empty { terms.len() } else { 0 };
        let at = list.item(i);
        for _ in 0..same {
            causes.push(Cause::duplicate(at.member("matchLabelExpressions"), "\"\""));
        }
    }
    let Some(old) = old else { return };
    for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
        if new.get(field) != old.get(field) {
            causes.push(Cause::invalid(field, &new[field].to_string(), checks::IMMUTABLE));
        }
    }
}

fn check_topology(at: At<'_>, term: &Value, causes: &mut Vec<Cause>) {
    let list = at.member("matchLabelExpressions");
    let mut keys = std::collections::BTreeSet::new();
    for (i, wanted) in items(term, "matchLabelExpressions").iter().enumerate() {
        let at = list.item(i);
        let values = items(wanted, "values");
        if values.is_empty() {
            causes.push(Cause::required(at.member("values"), ""));
        }
        let list = at.member("values");
        for (v, value) in values.iter().enumerate() {
            if values[..v].contains(value) {
                causes.push(Cause::duplicate(list.item(v), &value.to_string()));
            }
        }
        let key = word(wanted, "key");
        refuse(at.member("key"), key, &checks::label_key(key), causes);
        if !keys.insert(key) {
            causes.push(Cause::duplicate(at.member("key"), &format!("{key:?}")));
        }
    }
}
