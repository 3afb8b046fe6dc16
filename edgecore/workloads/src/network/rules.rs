//! Services as rules of the kernel (nftables): text for `nft -f -`, a function of the routes alone.
//!
//! One table of ours. A packet is looked up once, by address, protocol and port, in a map of verdicts, however many Services there are; what is
//! found is a chain that picks the endpoint. A change is one transaction: rules and maps are written anew, and the memory of which client stays
//! with which endpoint (sets with names of their own) outlives it. Packets of connections that there are already never see these rules.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::cidr::Cidr;
use super::link;
use super::table::{Protocol, Route, Targets};

/// Name of our table, in both families.
pub(super) const TABLE: &str = "kurator";
/// Clients remembered for one endpoint.
const CLIENTS: u32 = 65_535;
/// Chains that are always there; their names are none that a Service's chain can have.
const BASE: [(&str, &str); 8] = [
    ("prerouting", "{ type nat hook prerouting priority -100 ; }"),
    ("output", "{ type nat hook output priority -100 ; }"),
    ("postrouting", "{ type nat hook postrouting priority 100 ; }"),
    ("refuse-input", "{ type filter hook input priority -110 ; }"),
    ("refuse-forward", "{ type filter hook forward priority -110 ; }"),
    // Behind the translation of addresses: before it, Services still look like what leads nowhere.
    ("refuse-output", "{ type filter hook output priority 10 ; }"),
    ("services", ""),
    ("refuse", ""),
];

/// What about the machine matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    pub(super) ipv6: bool,
    /// Where pods on a bridge hear each other's answers past the rules: their range.
    pub(super) deaf: Option<Cidr>,
    /// Range of Services.
    pub(super) services: Option<Cidr>,
}

/// What is in the table beside what is always there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) chains: BTreeSet<String>,
    pub(super) sets: BTreeSet<String>,
}

/// Rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ruleset {
    pub(super) names: Names,
    ip: &'static str,
    /// Maps and sets that are written anew, with their elements.
    maps: [(&'static str, String, BTreeMap<String, String>); 5],
    rules: String,
}

/// The rules for these routes.
pub(super) fn ruleset(routes: &[Route], machine: Machine) -> Ruleset {
    let (ip, address, loopback) = if machine.ipv6 {
        ("ip6", "ipv6_addr", "::1")
    } else {
        ("ip", "ipv4_addr", "127.0.0.0/8")
    };
    let mut out = Writer {
        ip,
        rules: String::new(),
        names: Names::default(),
    };
    let mut services = BTreeMap::new();
    let mut ports = BTreeMap::new();
    let mut refused = BTreeMap::new();
    let mut refused_ports = BTreeMap::new();
    let mut hairpin = BTreeMap::new();
    let mut elsewhere = BTreeSet::new();
    for route in routes {
        let protocol = route.protocol.name();
        for (front, targets, sources) in route.fronts() {
            if front.is_ipv6() != machine.ipv6 || route.is_itself(front, targets) {
                continue;
            }
            let key = format!("{front} . {protocol} . {}", route.port);
            if let Some(verdict) = out.verdict(route, targets, sources) {
                // Of two that claim the same, the first by name has it.
                services.entry(key).or_insert(verdict);
            } else {
                refused.entry(key).or_insert_with(|| refusal(targets));
            }
        }
        if let Some(port) = route.node_port {
            let key = format!("{protocol} . {port}");
            if let Some(verdict) = out.verdict(route, &route.to_outside, &[]) {
                ports.entry(key).or_insert(verdict);
            } else {
                refused_ports.entry(key).or_insert_with(|| refusal(&route.to_outside));
            }
        }
        for end in route.to.ends.iter().chain(&route.to_outside.ends) {
            hairpin.insert(format!("{0} . {0}", end.ip()), String::new());
        }
        elsewhere.extend(route.elsewhere.iter().map(ToString::to_string));
    }
    let to = format!("{ip} daddr . meta l4proto . th dport vmap");
    let own = format!("fib daddr type local {ip} daddr != {loopback} meta l4proto . th dport vmap");
    let link = link::NAME;
    out.rule("prerouting", "jump services");
    out.rule("output", "jump services");
    out.rule("services", &format!("{to} @services"));
    out.rule("services", &format!("{own} @ports"));
    // A pod that reached itself must not see itself as its client.
    out.rule(
        "postrouting",
        &format!("ct status dnat {ip} saddr . {ip} daddr @hairpin masquerade fully-random"),
    );
    // The machine's own packets leave with the address of the link that they leave by.
    out.rule(
        "postrouting",
        "ct status dnat oifname != \"lo\" fib saddr type local masquerade fully-random",
    );
    if !elsewhere.is_empty() {
        // Answers from other machines come back by this one.
        let list: Vec<_> = elsewhere.into_iter().collect();
        out.rule(
            "postrouting",
            &format!(
                "ct status dnat {ip} daddr {{ {} }} masquerade fully-random",
                list.join(", ")
            ),
        );
    }
    if let Some(pods) = machine.deaf.filter(|pods| pods.base().is_ipv6() == machine.ipv6) {
        out.rule(
            "postrouting",
            &format!("ct status dnat {ip} saddr {pods} {ip} daddr {pods} masquerade fully-random"),
        );
    }
    for chain in ["refuse-input", "refuse-forward", "refuse-output"] {
        out.rule(chain, &format!("ct state new {to} @refused"));
    }
    out.rule("refuse-input", &format!("ct state new {own} @refused-ports"));
    // Nothing answers at an address of the range that has led nowhere until here.
    if let Some(range) = machine.services.filter(|range| range.base().is_ipv6() == machine.ipv6) {
        for chain in ["refuse-forward", "refuse-output"] {
            out.rule(chain, &format!("oifname \"{link}\" {ip} daddr {range} reject"));
        }
    }
    out.rule("refuse", "reject");
    let place = format!("{address} . inet_proto . inet_service : verdict");
    let port = "inet_proto . inet_service : verdict".to_owned();
    Ruleset {
        names: out.names,
        ip,
        maps: [
            ("services", place.clone(), services),
            ("ports", port.clone(), ports),
            ("refused", place, refused),
            ("refused-ports", port, refused_ports),
            ("hairpin", format!("{address} . {address}"), hairpin),
        ],
        rules: out.rules,
    }
}

fn refusal(targets: &Targets) -> String {
    if targets.not_here { "drop" } else { "goto refuse" }.to_owned()
}

/// Chains of Services while they are written.
struct Writer {
    ip: &'static str,
    rules: String,
    names: Names,
}

impl Writer {
    fn rule(&mut self, chain: &str, rule: &str) {
        let ip = self.ip;
        line(&mut self.rules, format_args!("add rule {ip} {TABLE} {chain} {rule}"));
    }

    /// Where packets of a front go; `None` when nobody answers.
    fn verdict(&mut self, route: &Route, targets: &Targets, sources: &[Cidr]) -> Option<String> {
        if targets.ends.is_empty() {
            return None;
        }
        let mut chain = route.name.clone();
        if *targets != route.to {
            chain.push_str("/outside");
        }
        if self.names.chains.insert(chain.clone()) {
            self.pick(&chain, route, targets);
        }
        if !sources.is_empty() {
            let guard = format!("{}/from", route.name);
            if self.names.chains.insert(guard.clone()) {
                let list: Vec<_> = sources.iter().map(ToString::to_string).collect();
                let ip = self.ip;
                self.rule(&guard, &format!("{ip} saddr != {{ {} }} drop", list.join(", ")));
                self.rule(&guard, &format!("goto {chain}"));
            }
            chain = guard;
        }
        Some(format!("goto {chain}"))
    }

    fn pick(&mut self, chain: &str, route: &Route, targets: &Targets) {
        let (ip, protocol) = (self.ip, route.protocol.name());
        let ends = &targets.ends;
        let Some(seconds) = route.affinity.filter(|_| ends.len() > 1) else {
            let rule = match &**ends {
                [one] => format!("meta l4proto {protocol} dnat to {one}"),
                many => {
                    let list = numbered(many.iter().map(|e| format!("{} . {}", e.ip(), e.port())));
                    let count = many.len();
                    format!(
                        "meta l4proto {protocol} dnat {ip} addr . port to numgen random mod {count} map {{ {list} }}"
                    )
                }
            };
            return self.rule(chain, &rule);
        };
        let named: Vec<_> = ends
            .iter()
            .map(|end| (end, crate::time::fingerprint(&(chain, end.to_string()))))
            .collect();
        for (end, print) in &named {
            let own = format!("{chain}/{print:016x}");
            let set = format!("stays-{print:016x}");
            self.rule(&own, &format!("update @{set} {{ {ip} saddr timeout {seconds}s }}"));
            self.rule(&own, &format!("meta l4proto {protocol} dnat to {end}"));
            self.rule(chain, &format!("{ip} saddr @{set} goto {own}"));
            self.names.chains.insert(own);
            self.names.sets.insert(set);
        }
        let list = numbered(named.iter().map(|(_, print)| format!("goto {chain}/{print:016x}")));
        let count = named.len();
        self.rule(chain, &format!("numgen random mod {count} vmap {{ {list} }}"));
    }
}

fn numbered(items: impl Iterator<Item = String>) -> String {
    let items: Vec<_> = items.enumerate().map(|(i, item)| format!("{i} : {item}")).collect();
    items.join(", ")
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _written = writeln!(out, "{text}");
}

impl Ruleset {
    /// The transaction that brings the table from what it has to this. `anew`: whatever it has.
    pub(super) fn transaction(&self, has: &Names, anew: bool) -> String {
        let ip = self.ip;
        let at = format!("{ip} {TABLE}");
        let mut out = String::with_capacity(self.rules.len() + 4096);
        let o = &mut out;
        line(o, format_args!("add table {at}"));
        if anew {
            line(o, format_args!("delete table {at}"));
            line(o, format_args!("add table {at}"));
        }
        for (name, ty, _) in &self.maps {
            line(o, format_args!("add {} {at} {name} {{ type {ty} ; }}", form(ty)));
        }
        let address = if ip == "ip" { "ipv4_addr" } else { "ipv6_addr" };
        for set in &self.names.sets {
            line(
                o,
                format_args!("add set {at} {set} {{ type {address} ; flags dynamic,timeout ; size {CLIENTS} ; }}"),
            );
        }
        for (chain, hook) in BASE {
            line(o, format_args!("add chain {at} {chain} {hook}"));
        }
        for chain in &self.names.chains {
            line(o, format_args!("add chain {at} {chain}"));
        }
        // Rules, but no sets.
        line(o, format_args!("flush table {at}"));
        for (name, ty, elements) in &self.maps {
            line(o, format_args!("flush {} {at} {name}", form(ty)));
            if !elements.is_empty() {
                let list: Vec<_> = elements
                    .iter()
                    .map(|(key, value)| {
                        if value.is_empty() {
                            key.clone()
                        } else {
                            format!("{key} : {value}")
                        }
                    })
                    .collect();
                line(o, format_args!("add element {at} {name} {{ {} }}", list.join(", ")));
            }
        }
        out.push_str(&self.rules);
        if !anew {
            let o = &mut out;
            for chain in has.chains.difference(&self.names.chains) {
                line(o, format_args!("delete chain {at} {chain}"));
            }
            for set in has.sets.difference(&self.names.sets) {
                line(o, format_args!("delete set {at} {set}"));
            }
        }
        out
    }
}

/// Whether a type is that of a map.
fn form(ty: &str) -> &'static str {
    if ty.contains(':') { "map" } else { "set" }
}

/// What of a table's listing (`nft -t list table`) is a Service's: names only.
pub(super) fn names(listing: &str) -> Names {
    let mut names = Names::default();
    for line in listing.lines() {
        let mut words = line.split_whitespace();
        let (Some(what), Some(name), Some("{")) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        match what {
            "chain" if BASE.iter().all(|(base, _)| *base != name) => drop(names.chains.insert(name.to_owned())),
            "set" if name.starts_with("stays-") => drop(names.sets.insert(name.to_owned())),
            _ => {}
        }
    }
    names
}

/// UDP: who answers at a place. What the kernel remembers beyond that is out of date.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answering {
    fronts: BTreeMap<SocketAddr, Vec<SocketAddr>>,
    ports: BTreeMap<u16, Vec<SocketAddr>>,
}

impl Answering {
    pub(super) fn of(routes: &[Route]) -> Self {
        let mut answering = Self::default();
        for route in routes.iter().filter(|r| r.protocol == Protocol::Udp) {
            for (ip, targets, _) in route.fronts() {
                if !route.is_itself(ip, targets) {
                    let at = SocketAddr::new(ip, route.port);
                    answering.fronts.entry(at).or_insert_with(|| targets.ends.clone());
                }
            }
            if let Some(port) = route.node_port {
                let ends = || route.to_outside.ends.clone();
                answering.ports.entry(port).or_insert_with(ends);
            }
        }
        answering
    }

    /// Whether a remembered connection leads where nobody answers for its place any more.
    pub(super) fn is_stale(&self, local: &BTreeSet<IpAddr>, to: SocketAddr, from: SocketAddr) -> bool {
        let port = || self.ports.get(&to.port()).filter(|_| local.contains(&to.ip()));
        let ends = self.fronts.get(&to).or_else(port);
        ends.is_some_and(|ends| !ends.contains(&from))
    }
}

#[cfg(test)]
mod tests;
