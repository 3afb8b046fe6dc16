//! Services: what is filled in, what they are given, what is wrong with them, how they print.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::checks::{self, At, default_to, entries, items, made, refuse, whole, word};
use super::endpoints::endpoint_ip;
use super::network::balancer_addresses;
use super::{computed, fields, row, text};
use crate::api::addresses::{Giver, Refusal, family};
use crate::api::connect;
use crate::api::kinds::{KindSpec, Special, StatusPart};
use crate::api::names::NameRule;
use crate::api::status::{Cause, Status};
use crate::api::table::Column;

/// For how long a client stays with a pod when nothing is said.
const STAY: i64 = 10_800;
const LONGEST_STAY: i64 = 86_400;
const MAY_NOT_CHANGE: &str = "may not change once set";

/// The rows of this file.
pub(super) fn kinds() -> Vec<KindSpec> {
    vec![service()]
}

fn service() -> KindSpec {
    KindSpec {
        names: NameRule::Label1035,
        categories: vec!["all".into()],
        status: StatusPart::Apart,
        create_on_update: true,
        special: Special {
            validate_status: Some(validate),
            give: Some(give),
            prepare_status: Some(prepare_status),
            connects: connect::OF_SERVICES,
            returns_deleted: true,
            ..Special::default()
        },
        prepare: Some(prepare),
        validate: Some(validate),
        columns: vec![
            Column::name(),
            text("Type", "How the service is reached.", ".spec.type"),
            computed("Cluster-IP", "string", "The address inside the cluster.", |s| {
                json!(
                    items(&s["spec"], "clusterIPs")
                        .first()
                        .and_then(Value::as_str)
                        .unwrap_or("<none>")
                )
            }),
            computed("External-IP", "string", "The address outside.", outside),
            computed("Port(s)", "string", "The ports of the service.", ports),
            Column::age(),
            computed("Selector", "string", "The pods it leads to.", |s| {
                let list: Vec<String> = entries(&s["spec"], "selector")
                    .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
                    .collect();
                json!(if list.is_empty() {
                    "<none>".to_owned()
                } else {
                    list.join(",")
                })
            })
            .wide(),
        ],
        fields: fields(&["spec.clusterIP", "spec.type"]),
        ..row("", "core", "Service", &["svc"])
    }
}

fn outside(service: &Value) -> Value {
    let spec = &service["spec"];
    let mut list: Vec<String> = items(spec, "externalIPs")
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let none = match word(spec, "type") {
        "ExternalName" => return json!(word(spec, "externalName")),
        "LoadBalancer" => {
            let given = balancer_addresses(service);
            if !given.is_empty() {
                list.insert(0, given);
            }
            "<pending>"
        }
        _ => "<none>",
    };
    json!(if list.is_empty() {
        none.to_owned()
    } else {
        list.join(",")
    })
}

fn ports(service: &Value) -> Value {
    let list: Vec<String> = items(&service["spec"], "ports")
        .iter()
        .map(|p| {
            let node = whole(p, "nodePort").filter(|n| *n > 0);
            let node = node.map_or_else(String::new, |n| format!(":{n}"));
            format!("{}{node}/{}", whole(p, "port").unwrap_or(0), word(p, "protocol"))
        })
        .collect();
    json!(if list.is_empty() {
        "<none>".to_owned()
    } else {
        list.join(",")
    })
}

// ---- what a Service is ----

fn is_headless(spec: &Value) -> bool {
    let list = items(spec, "clusterIPs");
    list.len() == 1 && list[0] == "None"
}

fn kind_of(spec: &Value) -> &str {
    word(spec, "type")
}

fn needs_ip(spec: &Value) -> bool {
    kind_of(spec) != "ExternalName"
}

fn needs_ports(spec: &Value) -> bool {
    matches!(kind_of(spec), "NodePort" | "LoadBalancer")
}

fn needs_health_port(spec: &Value) -> bool {
    kind_of(spec) == "LoadBalancer" && word(spec, "externalTrafficPolicy") == "Local"
}

fn is_reached_from_outside(spec: &Value) -> bool {
    needs_ports(spec) || (kind_of(spec) == "ClusterIP" && !items(spec, "externalIPs").is_empty())
}

fn node_ports(spec: &Value) -> BTreeSet<i64> {
    items(spec, "ports")
        .iter()
        .filter_map(|p| whole(p, "nodePort"))
        .filter(|n| *n != 0)
        .collect()
}

// ---- defaults ----

fn prepare(new: &mut Value, old: Option<&Value>, _now: &str) {
    let Value::Object(service) = new else { return };
    if old.is_none() {
        service.insert("status".to_owned(), json!({"loadBalancer": {}}));
    }
    let Some(spec) = made(service, "spec") else { return };
    default_to(spec, "sessionAffinity", "None");
    default_to(spec, "type", "ClusterIP");
    match word_of(spec, "sessionAffinity") {
        "None" => {
            spec.remove("sessionAffinityConfig");
        }
        "ClientIP" => {
            let said = spec
                .get("sessionAffinityConfig")
                .and_then(|c| c.pointer("/clientIP/timeoutSeconds"));
            if said.is_none() {
                let config = json!({"clientIP": {"timeoutSeconds": STAY}});
                spec.insert("sessionAffinityConfig".to_owned(), config);
            }
        }
        _ => {}
    }
    if let Some(Value::Array(ports)) = spec.get_mut("ports") {
        for port in ports {
            if let Value::Object(port) = port {
                default_to(port, "protocol", "TCP");
                if port.get("targetPort").is_none_or(|t| *t == 0 || *t == "") {
                    let number = port.get("port").cloned().unwrap_or_else(|| json!(0));
                    port.insert("targetPort".to_owned(), number);
                }
            }
        }
    }
    let view = Value::Object(std::mem::take(spec));
    let (outside, inside) = (is_reached_from_outside(&view), needs_ip(&view));
    let balanced = kind_of(&view) == "LoadBalancer";
    let Value::Object(view) = view else { return };
    *spec = view;
    if outside {
        default_to(spec, "externalTrafficPolicy", "Cluster");
    }
    if inside {
        default_to(spec, "internalTrafficPolicy", "Cluster");
    }
    if balanced {
        default_to(spec, "allocateLoadBalancerNodePorts", true);
    }
}

fn word_of<'v>(map: &'v Map<String, Value>, field: &str) -> &'v str {
    map.get(field).and_then(Value::as_str).unwrap_or_default()
}

// ---- what it is given ----

/// Completes addresses and ports, and takes away what belongs to another type.
fn give(new: &mut Value, old: Option<&Value>, giver: &mut Giver<'_>) -> Result<(), Gave> {
    let Some(spec) = new.get_mut("spec").filter(|s| s.is_object()) else {
        return Ok(());
    };
    let before = old.map(|o| &o["spec"]);
    if let Some(before) = before {
        keep_given(spec, before);
    }
    pair_addresses(spec, before);
    if needs_ip(spec) {
        set_families(spec, before, giver)?;
        give_addresses(spec, giver, before)?;
    }
    if needs_ports(spec) {
        give_ports(spec, before, giver)?;
    }
    if needs_health_port(spec) && !before.is_some_and(needs_health_port) {
        give_health_port(spec, giver)?;
    }
    if let Some(before) = before {
        drop_foreign(spec, before);
    }
    if new.pointer("/spec/type").is_some_and(|t| t != "LoadBalancer") && old.is_some() {
        new["status"]["loadBalancer"] = json!({});
    }
    Ok(())
}

/// Why a Service gets nothing.
pub(crate) enum Gave {
    /// It asks for what it cannot have.
    Wrong(Vec<Cause>),
    Status(Box<Status>),
}

impl From<Status> for Gave {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl From<Cause> for Gave {
    fn from(cause: Cause) -> Self {
        Self::Wrong(vec![cause])
    }
}

fn set(spec: &mut Value, field: &str, value: Value) {
    if let Value::Object(map) = spec {
        map.insert(field.to_owned(), value);
    }
}

fn unset(spec: &mut Value, field: &str) {
    if let Value::Object(map) = spec {
        map.remove(field);
    }
}

/// A writer need not repeat what the Service was given.
fn keep_given(spec: &mut Value, before: &Value) {
    if needs_ip(before) && needs_ip(spec) {
        if word(spec, "clusterIP").is_empty() && !word(before, "clusterIP").is_empty() {
            set(spec, "clusterIP", before["clusterIP"].clone());
        }
        if items(spec, "clusterIPs").is_empty() && !items(before, "clusterIPs").is_empty() {
            set(spec, "clusterIPs", before["clusterIPs"].clone());
        }
    }
    if needs_ports(before) && needs_ports(spec) {
        let both: BTreeSet<i64> = node_ports(before).intersection(&node_ports(spec)).copied().collect();
        let had: Vec<(&str, i64)> = items(before, "ports")
            .iter()
            .map(|p| (word(p, "name"), whole(p, "nodePort").unwrap_or(0)))
            .collect();
        if let Some(Value::Array(ports)) = spec.get_mut("ports") {
            for port in ports.iter_mut().filter(|p| whole(p, "nodePort").unwrap_or(0) == 0) {
                let name = word(port, "name");
                let number = had
                    .iter()
                    .rev()
                    .find(|(n, _)| *n == name)
                    .map_or(0, |(_, number)| *number);
                if number != 0 && !both.contains(&number) {
                    set(port, "nodePort", json!(number));
                }
            }
        }
    }
    let port = whole(before, "healthCheckNodePort").unwrap_or(0);
    if needs_health_port(before)
        && needs_health_port(spec)
        && whole(spec, "healthCheckNodePort").unwrap_or(0) == 0
        && port != 0
    {
        set(spec, "healthCheckNodePort", json!(port));
    }
}

/// The one address and the list of them say the same, whichever a writer knows.
fn pair_addresses(spec: &mut Value, before: Option<&Value>) {
    let one = word(spec, "clusterIP").to_owned();
    let Some(before) = before else {
        if !one.is_empty() && items(spec, "clusterIPs").is_empty() {
            set(spec, "clusterIPs", json!([one]));
        }
        return;
    };
    let had = word(before, "clusterIP");
    if one != had && items(before, "clusterIPs") == items(spec, "clusterIPs") {
        if one.is_empty() {
            unset(spec, "clusterIPs");
        } else {
            set(spec, "clusterIPs", json!([one]));
        }
    }
}

fn set_families(spec: &mut Value, before: Option<&Value>, giver: &Giver<'_>) -> Result<(), Gave> {
    let at = At::top("spec");
    let bare = word(spec, "clusterIP") == "None" && entries(spec, "selector").next().is_none();
    if word(spec, "ipFamilyPolicy").is_empty() {
        let policy = match before.map(|b| word(b, "ipFamilyPolicy")) {
            Some(had) if !had.is_empty() => had,
            _ if bare => "RequireDualStack",
            _ => "SingleStack",
        };
        set(spec, "ipFamilyPolicy", json!(policy));
    }
    let mut causes = Vec::new();
    check_addresses(at, spec, &mut causes);
    if !causes.is_empty() {
        return Err(Gave::Wrong(causes));
    }
    let policy = word(spec, "ipFamilyPolicy").to_owned();
    let wrong = |causes: &mut Vec<Cause>, why: &str| {
        causes.push(Cause::invalid(at.member("ipFamilyPolicy"), &format!("{policy:?}"), why));
    };
    for (field, of_one) in [
        ("clusterIPs", "multiple cluster IPs"),
        ("ipFamilies", "multiple IP families"),
    ] {
        let count = items(spec, field).len();
        let had = before.map_or(0, |b| items(b, field).len());
        if policy == "SingleStack" {
            let same = before.is_some_and(|b| b.get(field) == spec.get(field));
            if same && count > 1 {
                let first = items(spec, field)[0].clone();
                set(spec, field, json!([first]));
            } else if count == 2 {
                wrong(
                    &mut causes,
                    &format!("must be 'RequireDualStack' or 'PreferDualStack' when {of_one} are specified"),
                );
            }
        } else if count > 0 && count < had {
            wrong(&mut causes, "must be 'SingleStack' to release what is second");
        }
    }
    let mut families: Vec<String> = items(spec, "ipFamilies")
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let known: Vec<&str> = giver.families().collect();
    for (i, ip) in items(spec, "clusterIPs").iter().enumerate() {
        let Some(ip) = ip
            .as_str()
            .filter(|ip| *ip != "None")
            .and_then(|ip| ip.parse::<IpAddr>().ok())
        else {
            break;
        };
        if i >= families.len() {
            if known.contains(&family(ip)) {
                families.push(family(ip).to_owned());
            } else {
                let list = at.member("clusterIPs");
                let why = "the family is not configured on this cluster";
                causes.push(Cause::invalid(list.item(i), &spec["clusterIPs"].to_string(), why));
            }
        }
    }
    let first = known.first().copied().unwrap_or("IPv4");
    if families.is_empty() {
        families.push(first.to_owned());
    }
    let dual = policy != "SingleStack";
    if !bare {
        if policy == "RequireDualStack" && known.len() < 2 {
            wrong(&mut causes, "this cluster is not configured for dual-stack services");
        }
        let list = at.member("ipFamilies");
        for (i, family) in families.iter().enumerate() {
            if !known.contains(&family.as_str()) && items(spec, "ipFamilies").len() > i {
                refuse(list.item(i), family, &["not configured on this cluster"], &mut causes);
            }
        }
    }
    if !causes.is_empty() {
        return Err(Gave::Wrong(causes));
    }
    if dual && families.len() == 1 && (bare || known.len() == 2) {
        let other = if families[0] == "IPv4" { "IPv6" } else { "IPv4" };
        families.push(other.to_owned());
    }
    set(spec, "ipFamilies", json!(families));
    Ok(())
}

fn give_addresses(spec: &mut Value, giver: &mut Giver<'_>, before: Option<&Value>) -> Result<(), Gave> {
    let before = before.filter(|b| needs_ip(b));
    if is_headless(spec) || items(spec, "clusterIPs").iter().any(|ip| ip == "None") || before.is_some_and(is_headless) {
        return Ok(());
    }
    let has = before.map_or(&[][..], |b| items(b, "clusterIPs"));
    let families: Vec<Value> = items(spec, "ipFamilies").to_vec();
    let mut ips: Vec<Value> = items(spec, "clusterIPs").to_vec();
    if !has.is_empty()
        && ips.len() >= families.len()
        && ips.iter().zip(has).all(|(a, b)| a == b)
        && ips.len() <= has.len()
    {
        return Ok(());
    }
    // Another first address is refused when the change is looked at.
    if !has.is_empty() && ips.first() != has.first() {
        return Ok(());
    }
    for (i, family) in families.iter().enumerate() {
        let asked = ips.get(i).and_then(Value::as_str).unwrap_or_default();
        if has.get(i).is_some_and(|h| h == asked) {
            continue;
        }
        let ip = if asked.is_empty() {
            giver.any_ip(family.as_str().unwrap_or_default())?
        } else {
            let ip = checks::parse_ip(asked).ok_or_else(|| Status::internal("an address cannot be read"))?;
            if let Err(refusal) = giver.this_ip(ip)? {
                let why = format!("failed to allocate IP {asked}: {}", refusal.why());
                return Err(Cause::invalid("spec.clusterIPs", &spec["clusterIPs"].to_string(), &why).into());
            }
            ip
        };
        if i < ips.len() {
            if asked.is_empty() {
                ips[i] = json!(ip);
            }
        } else {
            ips.push(json!(ip));
        }
    }
    if let Some(first) = ips.first() {
        set(spec, "clusterIP", first.clone());
        set(spec, "clusterIPs", json!(ips));
    }
    Ok(())
}

fn give_ports(spec: &mut Value, before: Option<&Value>, giver: &mut Giver<'_>) -> Result<(), Gave> {
    let may = kind_of(spec) != "LoadBalancer" || checks::is_true(spec, "allocateLoadBalancerNodePorts");
    let has = before.filter(|b| needs_ports(b)).map(node_ports).unwrap_or_default();
    let mut own = node_ports(spec);
    // Ports of one number with different protocols share the port of the node.
    let mut shared: Vec<(i64, i64)> = Vec::new();
    let mut asked = BTreeSet::new();
    let list = At::top("spec");
    let list = list.member("ports");
    let Some(Value::Array(ports)) = spec.get_mut("ports") else {
        return Ok(());
    };
    for (i, port) in ports.iter().enumerate() {
        let (number, node) = (whole(port, "port").unwrap_or(0), whole(port, "nodePort").unwrap_or(0));
        if node == 0 {
            continue;
        }
        let known = has.contains(&node)
            || if before.is_some() {
                !asked.insert(node)
            } else {
                shared.contains(&(number, node))
            };
        if !known && let Err(refusal) = giver.this_port(node)? {
            let at = list.item(i);
            let why = match refusal {
                Refusal::Outside => "provided port is not in the valid range. The range of valid ports is 30000-32767",
                Refusal::Taken => "provided port is already allocated",
            };
            return Err(Cause::invalid(at.member("nodePort"), &node.to_string(), why).into());
        }
        shared.push((number, node));
    }
    for port in ports.iter_mut() {
        if !may || whole(port, "nodePort").unwrap_or(0) != 0 {
            continue;
        }
        let number = whole(port, "port").unwrap_or(0);
        let there = shared.iter().find(|(n, _)| *n == number).filter(|_| before.is_none());
        let node = match there {
            Some((_, node)) => *node,
            None => i64::from(giver.any_port(&own)?),
        };
        own.insert(node);
        shared.push((number, node));
        set(port, "nodePort", json!(node));
    }
    Ok(())
}

fn give_health_port(spec: &mut Value, giver: &mut Giver<'_>) -> Result<(), Gave> {
    let asked = whole(spec, "healthCheckNodePort").unwrap_or(0);
    if asked == 0 {
        let port = giver.any_port(&node_ports(spec))?;
        set(spec, "healthCheckNodePort", json!(port));
        return Ok(());
    }
    match giver.this_port(asked)? {
        Ok(()) => Ok(()),
        Err(refusal) => Err(Status::internal(format!(
            "failed to allocate requested HealthCheck NodePort {asked}: {}",
            refusal.why()
        ))
        .into()),
    }
}

/// What the writer took over from another type goes, unless it was changed: then it is a mistake.
fn drop_foreign(spec: &mut Value, before: &Value) {
    let same = |spec: &Value, field: &str| spec.get(field) == before.get(field);
    if needs_ip(before) && !needs_ip(spec) {
        if same(spec, "clusterIP") && same(spec, "clusterIPs") {
            unset(spec, "clusterIP");
            unset(spec, "clusterIPs");
        }
        for field in ["ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            if same(spec, field) {
                unset(spec, field);
            }
        }
    }
    if needs_ports(before)
        && !needs_ports(spec)
        && node_ports(spec).is_subset(&node_ports(before))
        && let Some(Value::Array(ports)) = spec.get_mut("ports")
    {
        for port in ports {
            unset(port, "nodePort");
        }
    }
    if needs_health_port(before) && !needs_health_port(spec) && same(spec, "healthCheckNodePort") {
        unset(spec, "healthCheckNodePort");
    }
    if kind_of(before) == "LoadBalancer" && kind_of(spec) != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if same(spec, field) {
                unset(spec, field);
            }
        }
    }
    if is_reached_from_outside(before) && !is_reached_from_outside(spec) && same(spec, "externalTrafficPolicy") {
        unset(spec, "externalTrafficPolicy");
    }
}

// ---- validation ----

fn validate(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let spec = &new["spec"];
    let at = At::top("spec");
    let headless = is_headless(spec);
    if items(spec, "ports").is_empty() && !headless && needs_ip(spec) {
        causes.push(Cause::required(at.member("ports"), ""));
    }
    match kind_of(spec) {
        kind @ ("LoadBalancer" | "NodePort") if headless => {
            let list = at.member("clusterIPs");
            let why = format!("may not be set to 'None' for {kind} services");
            causes.push(Cause::invalid(list.item(0), "\"None\"", &why));
        }
        "ExternalName" => check_external_name(at, spec, causes),
        _ => {}
    }
    check_ports(at, spec, causes);
    if word(spec, "sessionAffinity") == "ClientIP" {
        let config = at.member("sessionAffinityConfig");
        let client = config.member("clientIP");
        let stay = spec
            .pointer("/sessionAffinityConfig/clientIP/timeoutSeconds")
            .and_then(Value::as_i64);
        if let Some(n) = stay.filter(|n| !(1..=LONGEST_STAY).contains(n)) {
            let why = format!("must be greater than 0 and less than {LONGEST_STAY}");
            causes.push(Cause::invalid(client.member("timeoutSeconds"), &n.to_string(), &why));
        }
    }
    if needs_ip(spec) {
        check_addresses(at, spec, causes);
    }
    let list = at.member("externalIPs");
    let had = old.map_or(&[][..], |o| items(&o["spec"], "externalIPs"));
    for (i, ip) in items(spec, "externalIPs").iter().enumerate() {
        let text = ip.as_str().unwrap_or_default();
        let faults = if had.contains(ip) { Vec::new() } else { checks::ip(text) };
        if faults.is_empty() {
            refuse(list.item(i), text, &endpoint_ip(text), causes);
        } else {
            refuse(list.item(i), text, &faults, causes);
        }
    }
    check_balancer(at, spec, causes);
    check_policies(at, spec, causes);
    check_status(new, causes);
    if let Some(old) = old {
        check_update(at, spec, &old["spec"], causes);
    }
}

fn check_external_name(at: At<'_>, spec: &Value, causes: &mut Vec<Cause>) {
    for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if spec.get(field).is_some_and(|v| !v.is_null()) {
            causes.push(Cause::forbidden(
                at.member(field),
                "may not be set for ExternalName services",
            ));
        }
    }
    let name = word(spec, "externalName");
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        causes.push(Cause::required(at.member("externalName"), ""));
    } else {
        refuse(at.member("externalName"), name, &checks::dns_subdomain(name), causes);
    }
}

fn check_ports(at: At<'_>, spec: &Value, causes: &mut Vec<Cause>) {
    let list = at.member("ports");
    let ports = items(spec, "ports");
    let (mut names, mut numbers, mut nodes) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (i, port) in ports.iter().enumerate() {
        let at = list.item(i);
        let (name, protocol) = (word(port, "name"), word(port, "protocol"));
        if name.is_empty() {
            if ports.len() > 1 {
                causes.push(Cause::required(at.member("name"), ""));
            }
        } else if !names.insert(name) {
            causes.push(Cause::duplicate(at.member("name"), &format!("{name:?}")));
        }
        if let Some(target) = port.get("targetPort") {
            checks::port_or_name(at.member("targetPort"), target, causes);
        }
        if !numbers.insert((protocol, whole(port, "port"))) {
            causes.push(Cause::duplicate(at, &port.to_string()));
        }
        let node = whole(port, "nodePort").unwrap_or(0);
        if node != 0 {
            if kind_of(spec) == "ClusterIP" {
                let why = "may not be used when `type` is 'ClusterIP'";
                causes.push(Cause::forbidden(at.member("nodePort"), why));
            }
            if !nodes.insert((protocol, node)) {
                causes.push(Cause::duplicate(at.member("nodePort"), &node.to_string()));
            }
        }
    }
}

/// Addresses and families, as far as they can be judged without knowing what is taken.
fn check_addresses(at: At<'_>, spec: &Value, causes: &mut Vec<Cause>) {
    let (list, ips) = (at.member("clusterIPs"), items(spec, "clusterIPs"));
    let shown = spec["clusterIPs"].to_string();
    let one = word(spec, "clusterIP");
    let wrong = |causes: &mut Vec<Cause>, why: &str| causes.push(Cause::invalid(list, &shown, why));
    match ips.first() {
        None if !one.is_empty() => causes.push(Cause::required(list, "")),
        Some(_) if one.is_empty() => wrong(causes, "must be empty when `clusterIP` is not specified"),
        Some(first) if first != one => wrong(causes, "first value must match `clusterIP`"),
        _ => {}
    }
    let families = at.member("ipFamilies");
    let mut seen = BTreeSet::new();
    let wanted = items(spec, "ipFamilies");
    for (i, wanted) in wanted.iter().enumerate() {
        let family = wanted.as_str().unwrap_or_default();
        checks::must_be_one_of(families.item(i), family, &["IPv4", "IPv6"], causes);
        if !seen.insert(family) {
            causes.push(Cause::duplicate(families.item(i), &wanted.to_string()));
        }
    }
    checks::one_of(
        at.member("ipFamilyPolicy"),
        word(spec, "ipFamilyPolicy"),
        &["PreferDualStack", "RequireDualStack", "SingleStack"],
        causes,
    );
    let mut parsed = Vec::new();
    let mut unreadable = false;
    for (i, ip) in ips.iter().enumerate() {
        let text = ip.as_str().unwrap_or_default();
        if i == 0 && text == "None" {
            if ips.len() > 1 {
                unreadable = true;
                wrong(causes, "'None' must be the first and only value");
            }
            continue;
        }
        let faults = checks::ip(text);
        unreadable |= !faults.is_empty();
        refuse(list.item(i), text, &faults, causes);
        parsed.extend(checks::parse_ip(text));
    }
    if ips.len() > 2 {
        wrong(causes, "may only hold up to 2 values");
    }
    if unreadable {
        return;
    }
    if ips.len() > 1 && !(parsed.len() == 2 && family(parsed[0]) != family(parsed[1])) {
        wrong(causes, "may specify no more than one IP for each IP family");
    }
    for (i, (ip, wanted)) in parsed.iter().zip(wanted).enumerate() {
        if family(*ip) != wanted {
            let why = format!(
                "expected an {} value as indicated by `ipFamilies[{i}]`",
                wanted.as_str().unwrap_or_default()
            );
            causes.push(Cause::invalid(list.item(i), &ip.to_string(), &why));
        }
    }
}

fn check_balancer(at: At<'_>, spec: &Value, causes: &mut Vec<Cause>) {
    const ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
    let balanced = kind_of(spec) == "LoadBalancer";
    let ranges = items(spec, "loadBalancerSourceRanges");
    // Written large by the reference server.
    let list = at.member("LoadBalancerSourceRanges");
    if !ranges.is_empty() && !balanced {
        causes.push(Cause::forbidden(list, ONLY));
    }
    for (i, range) in ranges.iter().enumerate() {
        let text = range.as_str().unwrap_or_default().trim();
        refuse(list.item(i), text, &checks::cidr(text), causes);
    }
    if !balanced && spec.get("allocateLoadBalancerNodePorts").is_some_and(|v| !v.is_null()) {
        causes.push(Cause::forbidden(at.member("allocateLoadBalancerNodePorts"), ONLY));
    }
    if let Some(class) = spec.get("loadBalancerClass").and_then(Value::as_str) {
        let at = at.member("loadBalancerClass");
        if balanced {
            refuse(at, class, &checks::label_key(class), causes);
        } else {
            causes.push(Cause::forbidden(at, ONLY));
        }
    }
}

fn check_policies(at: At<'_>, spec: &Value, causes: &mut Vec<Cause>) {
    let policy = word(spec, "externalTrafficPolicy");
    let at_policy = at.member("externalTrafficPolicy");
    if is_reached_from_outside(spec) {
        checks::must_be_one_of(at_policy, policy, &["Cluster", "Local"], causes);
    } else if !policy.is_empty() {
        refuse(
            at_policy,
            policy,
            &["may only be set for externally-accessible services"],
            causes,
        );
    }
    let port = whole(spec, "healthCheckNodePort").unwrap_or(0);
    if port != 0 && !needs_health_port(spec) {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        causes.push(Cause::invalid(at.member("healthCheckNodePort"), &port.to_string(), why));
    } else if port != 0 {
        checks::port(at.member("healthCheckNodePort"), port, causes);
    }
}

fn check_status(new: &Value, causes: &mut Vec<Cause>) {
    let status = At::top("status");
    let at = status.member("loadBalancer");
    let list = at.member("ingress");
    let given = new
        .pointer("/status/loadBalancer")
        .map_or(&[][..], |l| items(l, "ingress"));
    if !given.is_empty() && kind_of(&new["spec"]) != "LoadBalancer" {
        causes.push(Cause::forbidden(
            list,
            "may only be used when `spec.type` is 'LoadBalancer'",
        ));
        return;
    }
    for (i, entry) in given.iter().enumerate() {
        let at = list.item(i);
        let (ip, mode, host) = (word(entry, "ip"), word(entry, "ipMode"), word(entry, "hostname"));
        if ip.is_empty() {
            if !mode.is_empty() {
                causes.push(Cause::forbidden(
                    at.member("ipMode"),
                    "may not be specified when `ip` is not set",
                ));
            }
        } else {
            refuse(at.member("ip"), ip, &checks::ip(ip), causes);
            checks::one_of(at.member("ipMode"), mode, &["Proxy", "VIP"], causes);
        }
        if !host.is_empty() {
            refuse(at.member("hostname"), host, &checks::dns_subdomain(host), causes);
            if checks::parse_ip(host).is_some() {
                refuse(
                    at.member("hostname"),
                    host,
                    &["must be a DNS name, not an IP address"],
                    causes,
                );
            }
        }
    }
}

fn check_update(at: At<'_>, spec: &Value, before: &Value, causes: &mut Vec<Cause>) {
    if needs_ip(spec) && needs_ip(before) && !(is_headless(spec) && is_headless(before)) {
        check_kept(at, "clusterIPs", spec, before, causes);
        if is_headless(spec) == is_headless(before) {
            check_kept(at, "ipFamilies", spec, before, causes);
        }
    }
    let both = |f: fn(&Value) -> bool| f(spec) && f(before);
    if both(|s| kind_of(s) == "LoadBalancer") && spec.get("loadBalancerClass") != before.get("loadBalancerClass") {
        let shown = spec["loadBalancerClass"].to_string();
        causes.push(Cause::invalid(at.member("loadBalancerClass"), &shown, MAY_NOT_CHANGE));
    }
    if both(needs_health_port) && spec.get("healthCheckNodePort") != before.get("healthCheckNodePort") {
        causes.push(Cause::forbidden(at.member("healthCheckNodePort"), checks::IMMUTABLE));
    }
}

/// What is first stays first; a second one may come and go.
fn check_kept(at: At<'_>, field: &str, spec: &Value, before: &Value, causes: &mut Vec<Cause>) {
    let (now, had) = (items(spec, field), items(before, field));
    let list = at.member(field);
    let shown = spec[field].to_string();
    if now.len() == had.len() {
        for (i, _) in now.iter().zip(had).enumerate().filter(|(_, (a, b))| a != b) {
            let i = if field == "clusterIPs" { i } else { 0 };
            causes.push(Cause::invalid(list.item(i), &shown, MAY_NOT_CHANGE));
        }
        return;
    }
    if !now.is_empty() && !had.is_empty() && now[0] != had[0] {
        causes.push(Cause::invalid(list.item(0), &shown, MAY_NOT_CHANGE));
    }
    if now.len() < had.len() {
        if items(spec, "clusterIPs").is_empty() {
            causes.push(Cause::invalid(list.item(0), &shown, "what is first can not be unset"));
        }
        if now.len() == 1 && word(spec, "ipFamilyPolicy") != "SingleStack" {
            causes.push(Cause::invalid(
                at.member("ipFamilyPolicy"),
                &spec["ipFamilyPolicy"].to_string(),
                "must be set to 'SingleStack' when releasing what is second",
            ));
        }
    }
}

/// The part of a status that says how an address is reached has a usual value.
fn prepare_status(new: &mut Value, _old: Option<&Value>, _now: &str) {
    if new.pointer("/spec/type").is_none_or(|t| t != "LoadBalancer") {
        return;
    }
    if let Some(Value::Array(list)) = new.pointer_mut("/status/loadBalancer/ingress") {
        for entry in list {
            if let Value::Object(entry) = entry
                && !word_of(entry, "ip").is_empty()
            {
                default_to(entry, "ipMode", "VIP");
            }
        }
    }
}
