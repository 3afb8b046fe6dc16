//! The room on a node, and why a pod does not fit into it. Pure: what is not about pods and the node is asked of a [`World`].

use serde_json::{Value, json};

use super::super::look::{flag, is_terminating, list, name, namespace, text, whole};
use super::affinity;
use super::requests::{Amounts, HostPort, amounts, host_ports, of_pod};

/// What else decides where a pod may be.
pub(super) trait World {
    /// A Namespace.
    fn namespace(&self, name: &str) -> Option<Value>;
    /// A PersistentVolumeClaim.
    fn claim(&self, namespace: &str, name: &str) -> Option<Value>;
    /// A PersistentVolume.
    fn volume(&self, name: &str) -> Option<Value>;
}

/// Why a pod cannot be on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reasons: Vec<String>,
    /// The reason is the pod's and not the node's: it is told without a count of nodes.
    pub(super) own: bool,
    /// Fewer pods on the node could help.
    pub(super) room_helps: bool,
}

impl Refusal {
    fn of(reason: impl Into<String>, room_helps: bool) -> Self {
        Self {
            reasons: vec![reason.into()],
            own: false,
            room_helps,
        }
    }

    fn own(reason: impl Into<String>) -> Self {
        Self {
            own: true,
            ..Self::of(reason, false)
        }
    }

    /// As it is told: `0/1 nodes are available: 1 Insufficient cpu.`
    pub(super) fn message(&self) -> String {
        if self.own {
            return format!("0/1 nodes are available: {}.", self.reasons.join(", "));
        }
        let mut reasons: Vec<String> = self.reasons.iter().map(|r| format!("1 {r}")).collect();
        reasons.sort_unstable();
        format!("0/1 nodes are available: {}.", reasons.join(", "))
    }
}

/// A pod with what it takes.
#[derive(Clone, Debug)]
pub(super) struct Guest<'p> {
    pub(super) pod: &'p Value,
    pub(super) priority: i64,
    asks: Amounts,
    ports: Vec<HostPort>,
}

impl<'p> Guest<'p> {
    pub(super) fn new(pod: &'p Value) -> Self {
        Self {
            pod,
            priority: whole(pod, "/spec/priority").unwrap_or(0),
            asks: of_pod(pod),
            ports: host_ports(pod),
        }
    }
}

/// A node and who is on it.
#[derive(Debug)]
pub(super) struct Room<'p> {
    node: &'p Value,
    has: Amounts,
    pub(super) guests: Vec<Guest<'p>>,
}

const BILLION: i128 = 1_000_000_000;

impl<'p> Room<'p> {
    pub(super) fn new(node: &'p Value, guests: Vec<Guest<'p>>) -> Self {
        Self {
            node,
            has: amounts(node, "/status/allocatable"),
            guests,
        }
    }

    /// Whether a pod fits, else why not: the first of the checks that says no, in the order of the default profile.
    pub(super) fn check(&self, guest: &Guest<'_>, world: &dyn World) -> Result<(), Refusal> {
        let (pod, node) = (guest.pod, self.node);
        check_claims(pod, world)?;
        if affinity::names_other_nodes(pod, node) {
            return Err(Refusal::of("node(s) didn't satisfy plugin(s) [NodeAffinity]", false));
        }
        let untolerated = |key: &str| !tolerates(pod, &json!({"key": key, "effect": "NoSchedule"}));
        if flag(node, "/spec/unschedulable") && untolerated("node.kubernetes.io/unschedulable") {
            return Err(Refusal::of("node(s) were unschedulable", false));
        }
        if let Some(taint) = untolerated_taint(pod, node) {
            let (key, value) = (text(&taint, "/key"), text(&taint, "/value"));
            return Err(Refusal::of(
                format!("node(s) had untolerated taint {{{key}: {value}}}"),
                false,
            ));
        }
        if !affinity::wants_node(pod, node) {
            return Err(Refusal::of("node(s) didn't match Pod's node affinity/selector", false));
        }
        let taken = |port: &HostPort| self.guests.iter().flat_map(|g| &g.ports).any(|p| p.conflicts(port));
        if guest.ports.iter().any(taken) {
            let why = "node(s) didn't have free ports for the requested pod ports";
            return Err(Refusal::of(why, true));
        }
        self.check_amounts(guest)?;
        check_volumes(pod, node, world)?;
        let others = self.guests.iter().map(|g| g.pod);
        affinity::spread(pod, node, others.clone())
            .and_then(|()| affinity::beside(pod, node, others, world))
            .map_err(|(why, room_helps)| Refusal::of(why, room_helps))
    }

    /// Why the node itself does not take a pod that was put on it by name: reason and message of its status, as the kubelet says them.
    pub(super) fn turns_away(&self, guest: &Guest<'_>) -> Option<(String, String)> {
        let too_much = |resource: &str, asked: i128, used: i128, has: i128| {
            let unit = if resource == "cpu" { BILLION / 1000 } else { BILLION };
            let [asked, used, has] = [asked, used, has].map(|amount| amount.div_euclid(unit));
            let message = format!(
                "Node didn't have enough resource: {resource}, requested: {asked}, used: {used}, capacity: {has}"
            );
            (format!("OutOf{resource}"), message)
        };
        let most = self.has.get("pods").copied().filter(|most| *most > 0)?;
        let count = self.guests.len() as i128 * BILLION;
        if count + BILLION > most {
            return Some(too_much("pods", BILLION, count, most));
        }
        for (resource, asked) in guest.asks.iter().filter(|(_, asked)| **asked > 0) {
            let has = self.has.get(resource).copied().unwrap_or(0);
            let used: i128 = self.guests.iter().filter_map(|g| g.asks.get(resource)).sum();
            if *asked > has.saturating_sub(used) {
                return Some(too_much(resource, *asked, used, has));
            }
        }
        let failed = |predicate: &str| Some((predicate.to_owned(), format!("Predicate {predicate} failed")));
        if !affinity::wants_node(guest.pod, self.node) {
            return failed("NodeAffinity");
        }
        let taken = |port: &HostPort| self.guests.iter().flat_map(|g| &g.ports).any(|p| p.conflicts(port));
        if guest.ports.iter().any(taken) {
            return failed("NodePorts");
        }
        let keeps_off = |t: &&Value| text(t, "/effect") == "NoExecute" && !tolerates(guest.pod, t);
        if list(self.node, "/spec/taints").iter().any(|t| keeps_off(&t)) {
            return failed("TaintToleration");
        }
        None
    }

    fn check_amounts(&self, guest: &Guest<'_>) -> Result<(), Refusal> {
        let most = self.has.get("pods").copied().unwrap_or(0);
        if most == 0 {
            return Err(Refusal::of("node(s) had no container runtime", false));
        }
        let mut reasons = Vec::new();
        let mut room_helps = true;
        if self.guests.len() as i128 * BILLION + BILLION > most {
            reasons.push("Too many pods".to_owned());
        }
        for (resource, asked) in guest.asks.iter().filter(|(_, asked)| **asked > 0) {
            let has = self.has.get(resource).copied().unwrap_or(0);
            let taken: i128 = self.guests.iter().filter_map(|g| g.asks.get(resource)).sum();
            if *asked > has.saturating_sub(taken) {
                reasons.push(format!("Insufficient {resource}"));
                room_helps &= *asked <= has;
            }
        }
        if reasons.is_empty() {
            return Ok(());
        }
        Err(Refusal {
            reasons,
            own: false,
            room_helps,
        })
    }
}

/// The first taint of a node for which a pod may not be put there.
fn untolerated_taint(pod: &Value, node: &Value) -> Option<Value> {
    let keeps_off = |t: &&Value| matches!(text(t, "/effect"), "NoSchedule" | "NoExecute");
    let said = list(node, "/spec/taints").iter().filter(keeps_off).cloned();
    said.chain(not_ready(node)).find(|taint| !tolerates(pod, taint))
}

/// A node that says that it is not ready is as one with the taint for it.
fn not_ready(node: &Value) -> Option<Value> {
    let ready = list(node, "/status/conditions").iter().find(|c| c["type"] == "Ready")?;
    let key = match text(ready, "/status") {
        "True" => return None,
        "False" => "node.kubernetes.io/not-ready",
        _ => "node.kubernetes.io/unreachable",
    };
    Some(json!({"key": key, "effect": "NoSchedule"}))
}

/// Whether a pod bears with a taint.
pub(in crate::controllers) fn tolerates(pod: &Value, taint: &Value) -> bool {
    list(pod, "/spec/tolerations").iter().any(|t| {
        let (key, effect) = (text(t, "/key"), text(t, "/effect"));
        let about =
            (effect.is_empty() || effect == text(taint, "/effect")) && (key.is_empty() || key == text(taint, "/key"));
        about
            && match text(t, "/operator") {
                "Exists" => true,
                "" | "Equal" => !key.is_empty() && text(t, "/value") == text(taint, "/value"),
                _ => false,
            }
    })
}

fn claims(pod: &Value) -> impl Iterator<Item = &str> {
    let volumes = list(pod, "/spec/volumes").iter();
    volumes.filter_map(|v| v.pointer("/persistentVolumeClaim/claimName")?.as_str())
}

/// Claims that are not there yet hold up a pod before any node is looked at.
fn check_claims(pod: &Value, world: &dyn World) -> Result<(), Refusal> {
    for claim in claims(pod) {
        let Some(found) = world.claim(namespace(pod), claim) else {
            return Err(Refusal::own(format!("persistentvolumeclaim {claim:?} not found")));
        };
        let volume = text(&found, "/spec/volumeName");
        if text(&found, "/status/phase") == "Lost" {
            let why = format!("persistentvolumeclaim {claim:?} bound to non-existent persistentvolume {volume:?}");
            return Err(Refusal::own(why));
        }
        if is_terminating(&found) {
            return Err(Refusal::own(format!(
                "persistentvolumeclaim {claim:?} is being deleted"
            )));
        }
        if volume.is_empty() {
            return Err(Refusal::own("pod has unbound immediate PersistentVolumeClaims"));
        }
    }
    Ok(())
}

fn check_volumes(pod: &Value, node: &Value, world: &dyn World) -> Result<(), Refusal> {
    for claim in claims(pod) {
        let found = world.claim(namespace(pod), claim);
        let volume = found.and_then(|c| world.volume(text(&c, "/spec/volumeName")));
        let Some(volume) = volume else {
            let why = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
            return Err(Refusal::of(why, false));
        };
        let here = volume.pointer("/spec/nodeAffinity/required");
        if here.is_some_and(|selector| !affinity::matches_any(selector, node)) {
            let why = "node(s) didn't match PersistentVolume's node affinity";
            return Err(Refusal::of(why, false));
        }
    }
    Ok(())
}

impl Room<'_> {
    /// The node's name.
    pub(super) fn name(&self) -> &str {
        name(self.node)
    }
}
