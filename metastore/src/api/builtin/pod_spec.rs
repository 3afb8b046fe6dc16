//! What a pod may be, alone or as the template of a controller: defaults that depend on other fields, and mistakes that more than one field
//! makes. Fixed defaults and limits of single values stand in the table of types.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::container_rules as container;
use super::shared::{default_to, flag, list, shown, word};
use crate::api::names;
use crate::api::schema::limits;
use crate::api::selector;
use crate::api::status::Cause;

/// Where a pod is described.
#[derive(Clone, Debug)]
pub(super) enum Place<'a> {
    /// In a Pod.
    Pod,
    /// In a template; volumes of these names are made by its controller, which also names the host.
    Template { volumes: Vec<&'a str>, names_hosts: bool },
}

impl Place<'_> {
    /// A template of a controller that adds nothing.
    pub(super) const fn template() -> Self {
        Self::Template {
            volumes: Vec::new(),
            names_hosts: false,
        }
    }
}

/// All sources of a volume, in the order in which the first one counts.
const SOURCES: [&str; 30] = [
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

/// The three lists of containers of a pod.
const GROUPS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// Completes a pod or a template of one.
pub(super) fn complete(spec: &mut Map<String, Value>) {
    for group in GROUPS {
        for container in spec.get_mut(group).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Value::Object(container) = container {
                default_to(container, "imagePullPolicy", json!(pull_policy(container.get("image"))));
            }
        }
    }
    for volume in spec
        .get_mut("volumes")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let Value::Object(volume) = volume else { continue };
        if !SOURCES.iter().any(|s| volume.contains_key(*s)) {
            volume.insert("emptyDir".to_owned(), json!({}));
        }
        if let Some(Value::Object(image)) = volume.get_mut("image") {
            default_to(image, "pullPolicy", json!(pull_policy(image.get("reference"))));
        }
    }
    // Two names of one thing: the newer one counts where both are said.
    match (
        spec.get("serviceAccountName").cloned(),
        spec.get("serviceAccount").cloned(),
    ) {
        (Some(name), _) => spec.insert("serviceAccount".to_owned(), name),
        (None, Some(name)) => spec.insert("serviceAccountName".to_owned(), name),
        (None, None) => None,
    };
}

fn pull_policy(image: Option<&Value>) -> &'static str {
    match image.and_then(Value::as_str) {
        Some(image) if is_latest(image) => "Always",
        _ => "IfNotPresent",
    }
}

/// Whether an image names no tag, or `latest`.
fn is_latest(image: &str) -> bool {
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => !digest && !image.is_empty(),
    }
}

/// Finds what is wrong with the description of a pod at a path.
pub(super) fn check(spec: Option<&Value>, at: &str, place: &Place<'_>, causes: &mut Vec<Cause>) {
    let Some(spec) = spec else { return };
    let volumes = volumes(spec, at, place, causes);
    let mut context = container::Context {
        volumes: &volumes,
        is_pod: matches!(place, Place::Pod),
        host_network: flag(spec, "hostNetwork"),
        names: BTreeSet::new(),
    };
    for group in GROUPS {
        container::check(group, list(spec, group), at, &mut context, causes);
    }
    if matches!(place, Place::Template { .. }) && !list(spec, "ephemeralContainers").is_empty() {
        let why = "ephemeral containers not allowed in pod template";
        causes.push(Cause::forbidden(format!("{at}.ephemeralContainers"), why));
    }
    if let Place::Template { names_hosts: true, .. } = place {
        causes.retain(|c| c.field != format!("{at}.hostname") && c.field != format!("{at}.subdomain"));
    }
    tolerations(list(spec, "tolerations"), &format!("{at}.tolerations"), causes);
    scheduling(spec, at, causes);
    dns(spec, at, causes);
    security(spec, at, causes);
    for (i, alias) in list(spec, "hostAliases").iter().enumerate() {
        for (j, name) in list(alias, "hostnames").iter().enumerate() {
            if !names::is_subdomain(name.as_str().unwrap_or_default()) {
                let field = format!("{at}.hostAliases[{i}].hostnames[{j}]");
                causes.push(Cause::invalid(
                    field,
                    &name.to_string(),
                    "must be an RFC 1123 subdomain",
                ));
            }
        }
    }
    for (i, gate) in list(spec, "readinessGates").iter().enumerate() {
        key(
            word(gate, "conditionType"),
            &format!("{at}.readinessGates[{i}].conditionType"),
            causes,
        );
    }
    let os = spec.pointer("/os/name").and_then(Value::as_str).unwrap_or("linux");
    if !os.is_empty() && os != "linux" && os != "windows" {
        causes.push(Cause::not_supported(
            format!("{at}.os"),
            &format!("{os:?}"),
            &["linux", "windows"],
        ));
    }
    for (i, gate) in list(spec, "schedulingGates").iter().enumerate() {
        key(word(gate, "name"), &format!("{at}.schedulingGates[{i}]"), causes);
        let before = &list(spec, "schedulingGates")[..i];
        if before.iter().any(|g| word(g, "name") == word(gate, "name")) {
            let name = format!("{:?}", word(gate, "name"));
            causes.push(Cause::duplicate(format!("{at}.schedulingGates[{i}]"), &name));
        }
    }
}

/// A qualified name that has to be said.
fn key(text: &str, at: &str, causes: &mut Vec<Cause>) {
    for why in selector::key_problems(text) {
        causes.push(Cause::invalid(at, &format!("{text:?}"), &why));
    }
}

/// Checks the volumes; the names of those that are right.
fn volumes(spec: &Value, at: &str, place: &Place<'_>, causes: &mut Vec<Cause>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    if let Place::Template { volumes, .. } = place {
        names.extend(volumes.iter().map(|v| (*v).to_owned()));
    }
    for (i, volume) in list(spec, "volumes").iter().enumerate() {
        let path = format!("{at}.volumes[{i}]");
        let before = causes.len();
        let single = causes.iter().any(|c| c.field.starts_with(&path));
        let sources = SOURCES.iter().filter(|s| volume.get(**s).is_some());
        for (n, source) in sources.enumerate() {
            if n > 0 {
                let why = "may not specify more than 1 volume type";
                causes.push(Cause::forbidden(format!("{path}.{source}"), why));
            }
        }
        if let Some(map) = volume.get("configMap")
            && word(map, "name").is_empty()
        {
            causes.push(Cause::required(format!("{path}.configMap.name"), ""));
        }
        if let Some(projected) = volume.get("projected") {
            projection(projected, &format!("{path}.projected"), causes);
        }
        for file in list(volume.get("downwardAPI").unwrap_or(&Value::Null), "items") {
            downward_file(file, &format!("{path}.downwardAPI"), causes);
        }
        let name = word(volume, "name");
        let made = matches!(place, Place::Template { volumes, .. } if volumes.contains(&name));
        if names.contains(name) && !made {
            causes.push(Cause::duplicate(format!("{path}.name"), &format!("{name:?}")));
        }
        if causes.len() == before && !single {
            names.insert(name.to_owned());
        }
    }
    names
}

fn projection(projected: &Value, at: &str, causes: &mut Vec<Cause>) {
    const KINDS: [&str; 6] = [
        "secret",
        "configMap",
        "downwardAPI",
        "serviceAccountToken",
        "clusterTrustBundle",
        "podCertificate",
    ];
    let mut paths = BTreeSet::new();
    for (i, source) in list(projected, "sources").iter().enumerate() {
        let path = format!("{at}.sources[{i}]");
        let given = KINDS.iter().filter(|k| source.get(**k).is_some());
        if given.count() > 1 {
            let why = "may not specify more than 1 volume type per source";
            causes.push(Cause::forbidden(path.clone(), why));
        }
        if let Some(token) = source.get("serviceAccountToken") {
            // The volume is named, not the source.
            let (field, file) = (format!("{at}.path"), word(token, "path"));
            if file.is_empty() {
                causes.push(Cause::required(field, ""));
            } else if file.starts_with('/') || file.split('/').any(|p| p.starts_with("..")) {
                causes.push(Cause::invalid(
                    field,
                    &format!("{file:?}"),
                    "must be a relative path without '..'",
                ));
            }
        }
        for kind in ["secret", "configMap"] {
            let Some(map) = source.get(kind) else { continue };
            if word(map, "name").is_empty() {
                causes.push(Cause::required(format!("{path}.{kind}.name"), ""));
            }
        }
        for kind in ["secret", "configMap", "downwardAPI"] {
            for item in list(source.get(kind).unwrap_or(&Value::Null), "items") {
                if kind == "downwardAPI" {
                    downward_file(item, &format!("{path}.{kind}"), causes);
                }
                if !word(item, "path").is_empty() && !paths.insert(word(item, "path")) {
                    causes.push(Cause::invalid(
                        at,
                        &shown(item.get("path")),
                        "conflicting duplicate paths",
                    ));
                }
            }
        }
    }
}

/// A file with something about the pod in it: one source, and one that a file may show.
fn downward_file(file: &Value, at: &str, causes: &mut Vec<Cause>) {
    match (file.get("fieldRef"), file.get("resourceFieldRef")) {
        (Some(_), Some(_)) => {
            let why = "fieldRef and resourceFieldRef can not be specified simultaneously";
            causes.push(Cause::invalid(at, "\"resource\"", why));
        }
        (Some(field), None) => container::field_reference(field, &format!("{at}.fieldRef"), true, causes),
        (None, Some(resource)) => {
            container::resource_reference(resource, &format!("{at}.resourceFieldRef"), true, causes);
        }
        (None, None) => causes.push(Cause::required(at, "one of fieldRef and resourceFieldRef is required")),
    }
}

/// Checks tolerations.
pub(super) fn tolerations(list: &[Value], at: &str, causes: &mut Vec<Cause>) {
    for (i, toleration) in list.iter().enumerate() {
        let at = format!("{at}[{i}]");
        let text = |f: &str| word(toleration, f);
        let invalid =
            |field: &str, value: &str, why: &str| Cause::invalid(format!("{at}.{field}"), &format!("{value:?}"), why);
        if text("key").is_empty() && text("operator") != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            causes.push(invalid("operator", text("operator"), why));
        }
        if toleration.get("tolerationSeconds").is_some() && text("effect") != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            causes.push(invalid("effect", text("effect"), why));
        }
        match text("operator") {
            "" | "Equal" => {
                for why in selector::value_problems(text("value")) {
                    causes.push(invalid("operator", text("value"), &why));
                }
            }
            "Exists" if !text("value").is_empty() => {
                causes.push(invalid(
                    "operator",
                    text("value"),
                    "value must be empty when `operator` is 'Exists'",
                ));
            }
            "Exists" => {}
            other => causes.push(Cause::not_supported(
                format!("{at}.operator"),
                &format!("{other:?}"),
                &["Equal", "Exists"],
            )),
        }
    }
}

/// Checks where a pod wants to run.
fn scheduling(spec: &Value, at: &str, causes: &mut Vec<Cause>) {
    let none = Value::Null;
    let affinity = spec.get("affinity").unwrap_or(&none);
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    if let Some(nodes) = affinity.get("nodeAffinity") {
        let at = format!("{at}.affinity.nodeAffinity");
        let terms = list(nodes.get(required).unwrap_or(&none), "nodeSelectorTerms");
        for (i, term) in terms.iter().enumerate() {
            node_term(term, &format!("{at}.{required}.nodeSelectorTerms[{i}]"), causes);
        }
        for (i, term) in list(nodes, preferred).iter().enumerate() {
            let preference = term.get("preference").unwrap_or(&none);
            node_term(preference, &format!("{at}.{preferred}[{i}].preference"), causes);
        }
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(pods) = affinity.get(kind) else { continue };
        let terms = list(pods, required).iter().enumerate();
        let terms = terms.map(|(i, t)| (format!("{required}[{i}]"), t));
        let weighted = list(pods, preferred).iter().enumerate();
        let weighted = weighted.map(|(i, t)| {
            let term = t.get("podAffinityTerm").unwrap_or(&Value::Null);
            (format!("{preferred}[{i}].podAffinityTerm"), term)
        });
        for (place, term) in terms.chain(weighted) {
            if word(term, "topologyKey").is_empty() {
                key("", &format!("{at}.affinity.{kind}.{place}.topologyKey"), causes);
            }
        }
    }
    let constraints = list(spec, "topologySpreadConstraints");
    for (i, one) in constraints.iter().enumerate() {
        let path = format!("{at}.topologySpreadConstraints[{i}]");
        let identity = |c: &Value| {
            (
                word(c, "topologyKey").to_owned(),
                word(c, "whenUnsatisfiable").to_owned(),
            )
        };
        if constraints[i + 1..].iter().any(|c| identity(c) == identity(one)) {
            let value = format!("{:?}", identity(one));
            causes.push(Cause::duplicate(
                format!("{path}.{{topologyKey, whenUnsatisfiable}}"),
                &value,
            ));
        }
        if one.get("minDomains").is_some() && word(one, "whenUnsatisfiable") != "DoNotSchedule" {
            let why = "can only use minDomains if whenUnsatisfiable=DoNotSchedule";
            causes.push(Cause::invalid(
                format!("{path}.minDomains"),
                &shown(one.get("minDomains")),
                why,
            ));
        }
    }
}

fn node_term(term: &Value, at: &str, causes: &mut Vec<Cause>) {
    for (i, rule) in list(term, "matchExpressions").iter().enumerate() {
        let at = format!("{at}.matchExpressions[{i}]");
        let values = list(rule, "values").len();
        match word(rule, "operator") {
            "In" | "NotIn" if values == 0 => causes.push(Cause::required(
                format!("{at}.values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if values > 0 => causes.push(Cause::forbidden(
                format!("{at}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "Gt" | "Lt" if values != 1 => causes.push(Cause::required(
                format!("{at}.values"),
                "must be specified single value when `operator` is 'Lt' or 'Gt'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => causes.push(Cause::invalid(
                format!("{at}.operator"),
                &format!("{other:?}"),
                "not a valid selector operator",
            )),
        }
        if word(rule, "key").is_empty() {
            key("", &format!("{at}.key"), causes);
        }
    }
}

fn dns(spec: &Value, at: &str, causes: &mut Vec<Cause>) {
    const MOST_SERVERS: usize = 3;
    const MOST_SEARCHES: usize = 32;
    let at = format!("{at}.dnsConfig");
    let config = spec.get("dnsConfig");
    let servers = config.map_or(&[][..], |c| list(c, "nameservers"));
    if word(spec, "dnsPolicy") == "None" && servers.is_empty() {
        let field = if config.is_some() {
            format!("{at}.nameservers")
        } else {
            at
        };
        causes.push(Cause::required(field, "must be given when `dnsPolicy` is None"));
        return;
    }
    let Some(config) = config else { return };
    if servers.len() > MOST_SERVERS {
        let why = format!("must not have more than {MOST_SERVERS} nameservers");
        causes.push(Cause::invalid(
            format!("{at}.nameservers"),
            &shown(config.get("nameservers")),
            &why,
        ));
    }
    for (i, server) in servers.iter().enumerate() {
        if server.as_str().is_none_or(|s| s.parse::<std::net::IpAddr>().is_err()) {
            let field = format!("{at}.nameservers[{i}]");
            causes.push(Cause::invalid(field, &server.to_string(), "must be a valid IP address"));
        }
    }
    if list(config, "searches").len() > MOST_SEARCHES {
        let why = format!("must not have more than {MOST_SEARCHES} search paths");
        causes.push(Cause::invalid(
            format!("{at}.searches"),
            &shown(config.get("searches")),
            &why,
        ));
    }
    for (i, option) in list(config, "options").iter().enumerate() {
        if word(option, "name").is_empty() {
            causes.push(Cause::required(format!("{at}.options[{i}]"), "must not be empty"));
        }
    }
}

fn security(spec: &Value, at: &str, causes: &mut Vec<Cause>) {
    if flag(spec, "hostPID") && flag(spec, "shareProcessNamespace") {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        causes.push(Cause::invalid(
            format!("{at}.securityContext.shareProcessNamespace"),
            "true",
            why,
        ));
    }
    let Some(context) = spec.get("securityContext") else {
        return;
    };
    let at = format!("{at}.securityContext");
    profiles(context, &at, causes);
    for (i, group) in list(context, "supplementalGroups").iter().enumerate() {
        if group.as_i64().is_none_or(|g| !(0..=i64::from(i32::MAX)).contains(&g)) {
            let why = "must be between 0 and 2147483647, inclusive";
            causes.push(Cause::invalid(
                format!("{at}.supplementalGroups[{i}]"),
                &group.to_string(),
                why,
            ));
        }
    }
    let sysctls = list(context, "sysctls");
    for (i, sysctl) in sysctls.iter().enumerate() {
        let name = word(sysctl, "name");
        if !name.is_empty() && sysctls[..i].iter().any(|s| word(s, "name") == name) {
            causes.push(Cause::duplicate(
                format!("{at}.sysctls[{i}].name"),
                &format!("{name:?}"),
            ));
        }
    }
}

/// A profile on the node needs its name, and only it has one.
pub(super) fn profiles(context: &Value, at: &str, causes: &mut Vec<Cause>) {
    for kind in ["seccompProfile", "appArmorProfile"] {
        let Some(profile) = context.get(kind) else { continue };
        let field = format!("{at}.{kind}.localhostProfile");
        match (word(profile, "type"), profile.get("localhostProfile")) {
            ("Localhost", None) => {
                causes.push(Cause::required(field, "must be set when seccomp type is Localhost"));
            }
            ("Localhost", Some(_)) | (_, None) => {}
            (_, Some(value)) => {
                causes.push(Cause::invalid(
                    field,
                    &value.to_string(),
                    "can only be set when type is Localhost",
                ));
            }
        }
    }
}

/// Finds what is wrong with the template of a pod at a path.
pub(super) fn check_template(template: &Value, at: &str, place: &Place<'_>, causes: &mut Vec<Cause>) {
    check_template_metadata(template, at, causes);
    check(template.get("spec"), &format!("{at}.spec"), place, causes);
}

/// Labels and annotations of a template; their places are named without `metadata`.
pub(super) fn check_template_metadata(template: &Value, at: &str, causes: &mut Vec<Cause>) {
    let map = |field: &str| {
        template
            .pointer(&format!("/metadata/{field}"))
            .and_then(Value::as_object)
    };
    if let Some(labels) = map("labels") {
        limits::labels(labels, &format!("{at}.labels"), causes);
    }
    for key in map("annotations").into_iter().flat_map(Map::keys) {
        for why in selector::key_problems(&key.to_lowercase()) {
            causes.push(Cause::invalid(format!("{at}.annotations"), &format!("{key:?}"), &why));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_a_tag_is_the_latest() {
        for (image, latest) in [
            ("nginx", true),
            ("nginx:latest", true),
            ("r:5000/nginx", true),
            ("nginx:1", false),
            ("r:5000/nginx:1", false),
            ("nginx@sha256:ab", false),
            ("", false),
        ] {
            assert_eq!(is_latest(image), latest, "{image}");
        }
    }

    #[test]
    fn a_volume_without_a_source_is_a_folder_and_both_names_of_the_account_are_said() {
        let mut spec = json!({"volumes":[{"name":"a"},{"name":"b","image":{"reference":"x:1"}}],"serviceAccount":"me"});
        complete(spec.as_object_mut().unwrap());
        assert_eq!(
            spec,
            json!({"volumes":[{"name":"a","emptyDir":{}},{"name":"b","image":{"reference":"x:1","pullPolicy":"IfNotPresent"}}],
                "serviceAccount":"me","serviceAccountName":"me"})
        );
    }
}
