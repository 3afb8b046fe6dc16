//! Whether a workload's pods may run at a member, and how many of them there is room for.

use serde_json::Value;

use super::{HOSTNAME, Member};
use crate::interpret::look::{list, text};
use crate::interpret::{Replicas, Resources};

/// How many pods a member takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fit {
    pub(super) weight: i64,
    pub(super) most: i64,
}

/// Whether the pods' selectors and tolerations let them run there.
pub(super) fn may_run(wanted: &Replicas, member: &Member<'_>) -> bool {
    let selected = wanted
        .node_selector
        .iter()
        .all(|(key, value)| label(member, key) == Some(value.as_str()));
    let tolerated = |taint: &Value| {
        !matches!(text(taint, "/effect"), "NoSchedule" | "NoExecute")
            || wanted.tolerations.iter().any(|toleration| tolerates(toleration, taint))
    };
    selected
        && wanted
            .node_affinity
            .as_ref()
            .is_none_or(|affinity| affine(affinity, member))
        && member.taints.iter().all(tolerated)
}

fn label<'a>(member: &Member<'a>, key: &str) -> Option<&'a str> {
    let own = member.labels.get(key).map(String::as_str);
    own.or_else(|| (key == HOSTNAME).then_some(member.name))
}

fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let part = |field: &str| text(toleration, field);
    let effect = part("/effect");
    let key = part("/key");
    let exists = part("/operator") == "Exists";
    (effect.is_empty() || effect == text(taint, "/effect"))
        && ((key.is_empty() && exists) || key == text(taint, "/key"))
        && (exists || (matches!(part("/operator"), "" | "Equal") && part("/value") == text(taint, "/value")))
}

/// One of the terms has to hold, and all that it asks for; a term that asks for nothing holds nowhere.
fn affine(affinity: &Value, member: &Member<'_>) -> bool {
    list(affinity, "/nodeSelectorTerms").iter().any(|term| {
        let (labels, fields) = (list(term, "/matchExpressions"), list(term, "/matchFields"));
        let field = |rule: &Value| text(rule, "/key") == "metadata.name" && holds(rule, Some(member.name));
        (!labels.is_empty() || !fields.is_empty())
            && labels.iter().all(|rule| holds(rule, label(member, text(rule, "/key"))))
            && fields.iter().all(field)
    })
}

fn holds(rule: &Value, value: Option<&str>) -> bool {
    let values = || list(rule, "/values").iter().filter_map(Value::as_str);
    let compared = |holds: fn(i64, i64) -> bool| {
        let sides = value.and_then(|value| Some((value.parse().ok()?, values().next()?.parse().ok()?)));
        sides.is_some_and(|(value, bound)| holds(value, bound))
    };
    match text(rule, "/operator") {
        "In" => value.is_some_and(|value| values().any(|one| one == value)),
        "NotIn" => value.is_none_or(|value| values().all(|one| one != value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared(|value, bound| value > bound),
        "Lt" => compared(|value, bound| value < bound),
        _ => false,
    }
}

/// Most replicas that one gateway is thought to have room for.
const MOST: i64 = i32::MAX as i64;

/// How many pods each of these members takes. What runs there already is not looked at: the shares would follow from themselves.
pub(super) fn fits(requests: &Resources, members: &[&Member<'_>]) -> Vec<Fit> {
    let asks = requests.values().any(|request| *request > 0);
    let known: Vec<Option<i64>> = members.iter().map(|member| room(requests, member)).collect();
    // One of which nothing is known counts as the smallest of the others.
    let least = known
        .iter()
        .flatten()
        .copied()
        .filter(|room| *room > 0)
        .min()
        .unwrap_or(1);
    let fit = |room: &Option<i64>| Fit {
        // No gateway has room for more, whatever it says of itself.
        weight: if asks { room.unwrap_or(least).min(MOST) } else { 1 },
        most: room.unwrap_or(MOST).min(MOST),
    };
    known.iter().map(fit).collect()
}

fn room(requests: &Resources, member: &Member<'_>) -> Option<i64> {
    if member.allocatable.is_empty() {
        return None;
    }
    let of = |name: &str| member.allocatable.get(name).copied().unwrap_or(0).max(0);
    let asked = requests.iter().filter(|(_, request)| **request > 0);
    let rooms = asked.map(|(name, request)| of(name) / request);
    let pods = member.allocatable.get("pods").map(|pods| (*pods).max(0));
    Some(rooms.chain(pods).min().unwrap_or(i64::MAX))
}
