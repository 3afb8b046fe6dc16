//! Ingresses with their classes, and network policies.

use serde_json::{Value, json};

use super::checks::{self, At, entries, items, masked, part, refuse, whole, word};
use super::shared::label_selector_text;
use super::{computed, row, text};
use crate::api::kinds::{KindSpec, Special, StatusPart};
use crate::api::status::Cause;
use crate::api::table::{Cell, Column};

const GROUP: &str = "networking.k8s.io";

/// The rows of this file.
pub(super) fn kinds() -> Vec<KindSpec> {
    vec![ingress(), ingress_class(), network_policy()]
}

// ---- Ingress ----

fn ingress() -> KindSpec {
    KindSpec {
        status: StatusPart::Apart,
        generation: true,
        validate: Some(validate_ingress),
        special: Special {
            validate_status: Some(validate_ingress),
            ..Special::default()
        },
        columns: vec![
            Column::name(),
            computed("Class", "string", "The class that serves it.", |i| {
                json!(
                    i.pointer("/spec/ingressClassName")
                        .map_or("<none>", |c| c.as_str().unwrap_or_default())
                )
            }),
            computed("Hosts", "string", "The hosts whose requests it takes.", hosts),
            computed("Address", "string", "Where it is reached.", |i| {
                json!(balancer_addresses(i))
            }),
            computed("Ports", "string", "The ports it listens on.", |i| {
                json!(if items(&i["spec"], "tls").is_empty() {
                    "80"
                } else {
                    "80, 443"
                })
            }),
            Column::age(),
        ],
        ..row(GROUP, "networking", "Ingress", &["ing"])
    }
}

/// At most `max` texts, and how many of `count` are not shown.
pub(super) fn some_of(mut list: Vec<String>, max: usize, count: usize, none: &str) -> Value {
    let more = list.len() > max;
    list.truncate(max);
    let text = list.join(",");
    json!(match (text.is_empty(), more) {
        (true, _) => none.to_owned(),
        (_, false) => text,
        (_, true) => format!("{text} + {} more...", count.saturating_sub(max)),
    })
}

fn hosts(ingress: &Value) -> Value {
    let rules = items(&ingress["spec"], "rules");
    let named = |r: &&Value| !word(r, "host").is_empty();
    // A rule beyond the third named one counts as more, with or without a host.
    let third = rules
        .iter()
        .enumerate()
        .filter(|(_, r)| named(r))
        .nth(2)
        .map(|(i, _)| i);
    let mut list: Vec<String> = rules
        .iter()
        .filter(named)
        .take(3)
        .map(|r| word(r, "host").to_owned())
        .collect();
    if third.is_some_and(|i| i + 1 < rules.len()) {
        list.push(String::new());
    }
    some_of(list, 3, rules.len(), "*")
}

/// The addresses that a load balancer gave, sorted.
pub(super) fn balancer_addresses(object: &Value) -> String {
    let list = object
        .pointer("/status/loadBalancer")
        .map_or(&[][..], |l| items(l, "ingress"));
    let set: std::collections::BTreeSet<&str> = list
        .iter()
        .map(|i| match word(i, "ip") {
            "" => word(i, "hostname"),
            ip => ip,
        })
        .filter(|a| !a.is_empty())
        .collect();
    set.into_iter().collect::<Vec<_>>().join(",")
}

fn validate_ingress(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let spec = &new["spec"];
    let at = At::top("spec");
    let rules = items(spec, "rules");
    match part(spec, "defaultBackend") {
        None if rules.is_empty() => causes.push(Cause::invalid(
            at,
            "null",
            "either `defaultBackend` or `rules` must be specified",
        )),
        None => {}
        Some(backend) => check_backend(at.member("defaultBackend"), backend, causes),
    }
    let list = at.member("rules");
    for (i, rule) in rules.iter().enumerate() {
        let at = list.item(i);
        let host = word(rule, "host");
        if !host.is_empty() {
            check_host(at.member("host"), host, causes);
        }
        let http = at.member("http");
        let paths = http.member("paths");
        for (p, path) in items(&rule["http"], "paths").iter().enumerate() {
            check_path(paths.item(p), path, causes);
        }
    }
    let list = at.member("tls");
    for (i, tls) in items(spec, "tls").iter().enumerate() {
        let at = list.item(i);
        let at = at.member("hosts");
        for (h, host) in items(tls, "hosts").iter().enumerate() {
            let host = host.as_str().unwrap_or_default();
            refuse(at.item(h), host, &host_faults(host), causes);
        }
    }
    if let Some(class) = spec.get("ingressClassName").and_then(Value::as_str) {
        refuse(
            at.member("ingressClassName"),
            class,
            &checks::dns_subdomain(class),
            causes,
        );
        let noted = new
            .pointer("/metadata/annotations/kubernetes.io~1ingress.class")
            .and_then(Value::as_str);
        if let Some(noted) = noted.filter(|n| old.is_none() && *n != class) {
            causes.push(Cause::invalid(
                "annotations.kubernetes.io/ingress.class",
                &format!("{noted:?}"),
                "must match `ingressClassName` when both are specified",
            ));
        }
    }
    check_balancer(new, causes);
}

/// What a load balancer reported.
fn check_balancer(new: &Value, causes: &mut Vec<Cause>) {
    let status = At::top("status");
    let at = status.member("loadBalancer");
    let list = at.member("ingress");
    let reported = new
        .pointer("/status/loadBalancer")
        .map_or(&[][..], |l| items(l, "ingress"));
    for (i, entry) in reported.iter().enumerate() {
        let at = list.item(i);
        let (ip, host) = (word(entry, "ip"), word(entry, "hostname"));
        if !ip.is_empty() {
            refuse(at.member("ip"), ip, &checks::ip(ip), causes);
        }
        if !host.is_empty() {
            refuse(at.member("hostname"), host, &checks::dns_subdomain(host), causes);
            refuse_ip(at.member("hostname"), host, causes);
        }
    }
}

fn refuse_ip(at: At<'_>, host: &str, causes: &mut Vec<Cause>) {
    if checks::parse_ip(host).is_some() {
        refuse(at, host, &["must be a DNS name, not an IP address"], causes);
    }
}

fn host_faults(host: &str) -> checks::Faults {
    if host.contains('*') {
        checks::wildcard_subdomain(host)
    } else {
        checks::dns_subdomain(host)
    }
}

fn check_host(at: At<'_>, host: &str, causes: &mut Vec<Cause>) {
    refuse_ip(at, host, causes);
    refuse(at, host, &host_faults(host), causes);
}

fn check_path(at: At<'_>, path: &Value, causes: &mut Vec<Cause>) {
    let Some(kind) = path.get("pathType").and_then(Value::as_str) else {
        causes.push(Cause::required(at.member("pathType"), "pathType must be specified"));
        return;
    };
    let said = word(path, "path");
    let mut wrong = |why: &str| causes.push(Cause::invalid(at.member("path"), &format!("{said:?}"), why));
    match kind {
        "Exact" | "Prefix" => {
            if !said.starts_with('/') {
                wrong("must be an absolute path");
            }
            for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                if said.contains(bad) {
                    wrong(&format!("must not contain '{bad}'"));
                }
            }
            for bad in ["/..", "/."] {
                if said.ends_with(bad) {
                    wrong(&format!("cannot end with '{bad}'"));
                }
            }
        }
        "ImplementationSpecific" if !said.is_empty() && !said.starts_with('/') => wrong("must be an absolute path"),
        "ImplementationSpecific" => {}
        other => causes.push(Cause::not_supported(
            at.member("pathType"),
            &format!("{other:?}"),
            &["Exact", "ImplementationSpecific", "Prefix"],
        )),
    }
    check_backend(at.member("backend"), &path["backend"], causes);
}

fn check_backend(at: At<'_>, backend: &Value, causes: &mut Vec<Cause>) {
    match (part(backend, "resource"), part(backend, "service")) {
        (Some(_), Some(_)) => {
            causes.push(Cause::invalid(
                at,
                "\"\"",
                "cannot set both resource and service backends",
            ));
        }
        (Some(resource), None) => {
            let at = at.member("resource");
            check_reference(at, resource, causes);
        }
        (None, Some(service)) => check_service_backend(at, service, causes),
        (None, None) => causes.push(Cause::invalid(at, "\"\"", "resource or service backend is required")),
    }
}

fn check_service_backend(at: At<'_>, service: &Value, causes: &mut Vec<Cause>) {
    let inner = at.member("service");
    let name = word(service, "name");
    if name.is_empty() {
        causes.push(Cause::required(inner.member("name"), ""));
    } else {
        refuse(inner.member("name"), name, &checks::dns_1035_label(name), causes);
    }
    let port_at = inner.member("port");
    let (name, number) = (
        word(&service["port"], "name"),
        whole(&service["port"], "number").unwrap_or(0),
    );
    match (name.is_empty(), number == 0) {
        (false, false) => causes.push(Cause::invalid(at, "\"\"", "cannot set both port name & port number")),
        (false, true) => refuse(port_at.member("name"), name, &checks::port_name(name), causes),
        (true, false) => checks::port(port_at.member("number"), number, causes),
        (true, true) => causes.push(Cause::required(at, "port name or number is required")),
    }
}

/// What names an object of any kind by group, kind and name.
fn check_reference(at: At<'_>, reference: &Value, causes: &mut Vec<Cause>) {
    if let Some(group) = reference.get("apiGroup").and_then(Value::as_str) {
        refuse(at.member("apiGroup"), group, &checks::dns_subdomain(group), causes);
    }
    for field in ["kind", "name"] {
        let said = word(reference, field);
        if said.is_empty() {
            causes.push(Cause::required(at.member(field), ""));
        } else {
            refuse(at.member(field), said, &checks::path_segment(said), causes);
        }
    }
}

// ---- IngressClass ----

fn ingress_class() -> KindSpec {
    KindSpec {
        namespaced: false,
        generation: true,
        validate: Some(validate_ingress_class),
        columns: vec![
            named(|c| marked(c, &["ingressclass.kubernetes.io/is-default-class"])),
            text("Controller", "Who serves the class.", ".spec.controller"),
            computed("Parameters", "string", "What more is to be known.", parameters),
            Column::age(),
        ],
        ..row(GROUP, "networking", "IngressClass", &[])
    }
}

/// The name column of a kind of which one object is the default.
pub(super) fn named(of: fn(&Value) -> Value) -> Column {
    let mut column = Column::name();
    column.cell = Cell::Of(of);
    column
}

/// The name of an object, marked when an annotation says that it is the default of its kind.
pub(super) fn marked(object: &Value, annotations: &[&str]) -> Value {
    let name = word(&object["metadata"], "name");
    let is_default =
        entries(&object["metadata"], "annotations").any(|(k, v)| annotations.contains(&k.as_str()) && v == "true");
    json!(if is_default {
        format!("{name} (default)")
    } else {
        name.to_owned()
    })
}

fn parameters(class: &Value) -> Value {
    let Some(p) = part(&class["spec"], "parameters") else {
        return json!("<none>");
    };
    let group = p.get("apiGroup").and_then(Value::as_str).map(|g| format!(".{g}"));
    json!(format!(
        "{}{}/{}",
        word(p, "kind"),
        group.unwrap_or_default(),
        word(p, "name")
    ))
}

fn validate_ingress_class(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    const MAX_CONTROLLER: usize = 250;
    let spec = &new["spec"];
    let at = At::top("spec");
    let controller = word(spec, "controller");
    if controller.len() > MAX_CONTROLLER {
        causes.push(Cause::too_long(at.member("controller"), MAX_CONTROLLER as u64));
    }
    check_domain_path(at.member("controller"), controller, causes);
    if let Some(parameters) = part(spec, "parameters") {
        let at = at.member("parameters");
        check_reference(at, parameters, causes);
        let namespace = parameters.get("namespace").and_then(Value::as_str);
        match (word(parameters, "scope"), namespace) {
            ("Namespace", None) => causes.push(Cause::required(
                at.member("namespace"),
                "`parameters.scope` is set to 'Namespace'",
            )),
            ("Namespace", Some(n)) => refuse(at.member("namespace"), n, &checks::dns_label(n), causes),
            ("Cluster", Some(_)) => causes.push(Cause::forbidden(
                at.member("namespace"),
                "`parameters.scope` is set to 'Cluster'",
            )),
            _ => {}
        }
    }
    if let Some(old) = old {
        checks::unchanged(at, spec, &old["spec"], "controller", causes);
    }
}

/// A path below a domain, like `acme.io/foo`.
fn check_domain_path(at: At<'_>, text: &str, causes: &mut Vec<Cause>) {
    if text.is_empty() {
        causes.push(Cause::required(at, ""));
        return;
    }
    match text.split_once('/') {
        Some((host, path)) if !host.is_empty() && !path.is_empty() => {
            refuse(at, host, &checks::dns_subdomain(host), causes);
            let known = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
            if !path.bytes().all(known) {
                refuse(at, path, &["Invalid path"], causes);
            }
        }
        _ => refuse(
            at,
            text,
            &["must be a domain-prefixed path (such as \"acme.io/foo\")"],
            causes,
        ),
    }
}

// ---- NetworkPolicy ----

fn network_policy() -> KindSpec {
    KindSpec {
        generation: true,
        prepare: Some(prepare_network_policy),
        validate: Some(validate_network_policy),
        columns: vec![
            Column::name(),
            computed("Pod-Selector", "string", "The pods it is about.", |p| {
                let text = label_selector_text(&p["spec"]["podSelector"]);
                json!(if text.is_empty() { "<none>" } else { &text })
            }),
            Column::age(),
        ],
        ..row(GROUP, "networking", "NetworkPolicy", &["netpol"])
    }
}

fn prepare_network_policy(new: &mut Value, _old: Option<&Value>, _now: &str) {
    if let Some(Value::Object(spec)) = new.get_mut("spec")
        && spec
            .get("policyTypes")
            .and_then(Value::as_array)
            .is_none_or(Vec::is_empty)
    {
        let both = spec
            .get("egress")
            .and_then(Value::as_array)
            .is_some_and(|e| !e.is_empty());
        let types = if both {
            json!(["Ingress", "Egress"])
        } else {
            json!(["Ingress"])
        };
        spec.insert("policyTypes".to_owned(), types);
    }
}

fn validate_network_policy(new: &Value, _old: Option<&Value>, causes: &mut Vec<Cause>) {
    let spec = &new["spec"];
    let at = At::top("spec");
    for (field, peers) in [("ingress", "from"), ("egress", "to")] {
        let list = at.member(field);
        for (i, rule) in items(spec, field).iter().enumerate() {
            let at = list.item(i);
            let ports = at.member("ports");
            for (p, port) in items(rule, "ports").iter().enumerate() {
                check_policy_port(ports.item(p), port, causes);
            }
            let list = at.member(peers);
            for (p, peer) in items(rule, peers).iter().enumerate() {
                check_peer(list.item(p), peer, causes);
            }
        }
    }
    let types = items(spec, "policyTypes");
    let list = at.member("policyTypes");
    if types.len() > 2 {
        let shown = spec["policyTypes"].to_string();
        causes.push(Cause::invalid(
            list,
            &shown,
            "may not specify more than two policyTypes",
        ));
        return;
    }
    for (i, kind) in types.iter().enumerate() {
        checks::must_be_one_of(
            list.item(i),
            kind.as_str().unwrap_or_default(),
            &["Ingress", "Egress"],
            causes,
        );
    }
}

fn check_policy_port(at: At<'_>, port: &Value, causes: &mut Vec<Cause>) {
    let end = whole(port, "endPort");
    let mut wrong = |why: &str| {
        if let Some(end) = end {
            causes.push(Cause::invalid(at.member("endPort"), &end.to_string(), why));
        }
    };
    match port.get("port") {
        None => wrong("may not be specified when `port` is not specified"),
        Some(Value::String(_)) => wrong("may not be specified when `port` is non-numeric"),
        Some(number) => {
            if end.is_some_and(|e| number.as_i64().is_some_and(|n| e < n)) {
                wrong("must be greater than or equal to `port`");
            }
            if let Some(end) = end {
                checks::port(at.member("endPort"), end, causes);
            }
        }
    }
    if let Some(value) = port.get("port") {
        checks::port_or_name(at.member("port"), value, causes);
    }
}

fn check_peer(at: At<'_>, peer: &Value, causes: &mut Vec<Cause>) {
    let selects = part(peer, "podSelector").is_some() || part(peer, "namespaceSelector").is_some();
    match part(peer, "ipBlock") {
        None if !selects => causes.push(Cause::required(at, "must specify a peer")),
        None => {}
        Some(block) => {
            check_block(at.member("ipBlock"), block, causes);
            if selects {
                causes.push(Cause::forbidden(at, "may not specify both ipBlock and another peer"));
            }
        }
    }
}

fn check_block(at: At<'_>, block: &Value, causes: &mut Vec<Cause>) {
    let cidr = word(block, "cidr");
    if cidr.is_empty() {
        return;
    }
    refuse(at.member("cidr"), cidr, &checks::cidr(cidr), causes);
    let Some((address, length)) = checks::parse_cidr(cidr) else {
        return;
    };
    let list = at.member("except");
    for (i, except) in items(block, "except").iter().enumerate() {
        let except = except.as_str().unwrap_or_default();
        refuse(list.item(i), except, &checks::cidr(except), causes);
        if let Some((inner, inner_length)) = checks::parse_cidr(except)
            && (inner_length <= length
                || inner.is_ipv4() != address.is_ipv4()
                || masked(inner, length) != masked(address, length))
        {
            refuse(list.item(i), except, &["must be a strict subset of `cidr`"], causes);
        }
    }
}
