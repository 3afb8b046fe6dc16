//! What the members say of a Work, as one cluster's word: the form is that in which a gateway reports.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Spread;
use crate::interpret::counts::{Counts, Generations};
use crate::interpret::kind::Kind;
use crate::interpret::look::{list, number, text};
use crate::interpret::{Health, Item, aggregate};

/// Most bytes of a message.
const MAX_MESSAGE: usize = 1024;
/// Most bytes of it that one member has.
const MAX_OF_ONE: usize = 256;

/// A member that has a part of a Work.
#[derive(Clone, Copy, Debug)]
pub struct Holder<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it reports: `{applied, manifestStatuses}`; nothing while it has said nothing.
    pub report: Option<&'a Value>,
    /// It has said nothing to this hub, but had applied what it was given when it last spoke.
    pub had_applied: bool,
}

/// The members' reports as one, in the order of the Work's own list of objects. Nothing while there is nothing to say.
pub fn merge(manifests: &[Value], spread: &Spread, holders: &[Holder<'_>]) -> Option<Value> {
    let mut report = Map::new();
    if let Some(applied) = applied(manifests, spread, holders) {
        report.insert("applied".to_owned(), applied);
    }
    let statuses: Vec<Value> = manifests
        .iter()
        .enumerate()
        .filter_map(|(at, manifest)| status(at, manifest, spread, holders))
        .collect();
    if !statuses.is_empty() {
        report.insert("manifestStatuses".to_owned(), statuses.into());
    }
    (!report.is_empty()).then_some(Value::Object(report))
}

fn applied(manifests: &[Value], spread: &Spread, holders: &[Holder<'_>]) -> Option<Value> {
    let said = |holder: &Holder<'_>| holder.report.and_then(|report| report.get("applied")).is_some();
    if !holders.iter().any(said) && spread.unplaced.is_empty() {
        return None;
    }
    let mut wrong: Vec<String> = Vec::new();
    for at in &spread.unplaced {
        let manifest = manifests.get(*at).unwrap_or(&Value::Null);
        let (kind, name) = (text(manifest, "/kind"), text(manifest, "/metadata/name"));
        wrong.push(format!("no gateway of the site can take {kind} {name}"));
    }
    let mut done = 0;
    for holder in holders {
        let applied = holder.report.and_then(|report| report.get("applied"));
        match applied {
            Some(applied) if text(applied, "/status") == "True" => done += 1,
            Some(applied) => {
                wrong.push(format!(
                    "{}: {}",
                    holder.name,
                    cut(text(applied, "/message"), MAX_OF_ONE)
                ));
            }
            None if holder.had_applied => done += 1,
            None => wrong.push(format!("{}: has not said so yet", holder.name)),
        }
    }
    if wrong.is_empty() {
        return Some(json!({
            "status": "True", "reason": "AppliedSuccessful", "message": "Manifest has been successfully applied",
        }));
    }
    let mut message = format!("Failed to apply all manifests ({done}/{}): ", holders.len());
    for (n, what) in wrong.iter().enumerate() {
        let next = if n == 0 { what.clone() } else { format!("; {what}") };
        if message.len() + next.len() > MAX_MESSAGE {
            message.push_str(&format!("; and {} more", wrong.len() - n));
            break;
        }
        message.push_str(&next);
    }
    Some(json!({"status": "False", "reason": "AppliedFailed", "message": message}))
}

fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// What is said of the object in this place of the list.
fn status(at: usize, manifest: &Value, spread: &Spread, holders: &[Holder<'_>]) -> Option<Value> {
    let has = |holder: &&Holder<'_>| {
        let shares = spread.members.get(holder.name);
        shares.is_some_and(|shares| shares.get(at).is_some_and(Option::is_some))
    };
    let holders: Vec<&Holder<'_>> = holders.iter().filter(has).collect();
    // A member says of an object which it is. Its place in the member's list may be that in a list before this one.
    let of = |holder: &Holder<'_>| -> Option<Value> {
        let all = list(holder.report?, "/manifestStatuses");
        all.iter().find(|status| is_of(status, manifest)).cloned()
    };
    let said: BTreeMap<&str, Value> = holders
        .iter()
        .filter_map(|holder| Some((holder.name, of(holder)?)))
        .collect();
    let mut merged = said.values().next()?.clone();
    let fields = merged.as_object_mut()?;
    fields.remove("status");
    fields
        .get_mut("identifier")?
        .as_object_mut()?
        .insert("ordinal".to_owned(), at.into());
    let health = health(holders.len(), said.values());
    fields.insert("health".to_owned(), health.as_str().into());
    if let Some(status) = one_status(manifest, holders.len(), &said) {
        fields.insert("status".to_owned(), status);
    }
    Some(merged)
}

fn is_of(status: &Value, manifest: &Value) -> bool {
    let said = |field: &str| text(status, field);
    let (group, version) = match text(manifest, "/apiVersion").split_once('/') {
        Some(parts) => parts,
        None => ("", text(manifest, "/apiVersion")),
    };
    let namespace = said("/identifier/namespace");
    said("/identifier/name") == text(manifest, "/metadata/name")
        && said("/identifier/kind") == text(manifest, "/kind")
        && said("/identifier/group") == group
        && said("/identifier/version") == version
        // Of an object that is in none, whatever the manifest says.
        && (namespace.is_empty() || namespace == text(manifest, "/metadata/namespace"))
}

fn health<'a>(holders: usize, said: impl ExactSizeIterator<Item = &'a Value>) -> Health {
    let all_spoke = said.len() == holders;
    let mut worst = if all_spoke { Health::Healthy } else { Health::Unknown };
    for status in said {
        match text(status, "/health") {
            "Unhealthy" => return Health::Unhealthy,
            "Healthy" => {}
            _ => worst = Health::Unknown,
        }
    }
    worst
}

fn one_status(manifest: &Value, holders: usize, said: &BTreeMap<&str, Value>) -> Option<Value> {
    let statuses: Vec<(&str, &Value)> = said
        .iter()
        .filter_map(|(name, said)| Some((*name, said.get("status").filter(|status| status.is_object())?)))
        .collect();
    let (_, first) = *statuses.first()?;
    if holders == 1 {
        return Some(first.clone());
    }
    let kind = Kind::of(manifest);
    let summed = matches!(
        kind,
        Some(
            Kind::Deployment
                | Kind::ReplicaSet
                | Kind::StatefulSet
                | Kind::DaemonSet
                | Kind::Job
                | Kind::PodDisruptionBudget
                | Kind::HorizontalPodAutoscaler
                | Kind::Service
                | Kind::Ingress
        )
    );
    let Some(kind) = kind.filter(|_| summed) else {
        return Some(first.clone());
    };
    // As the template's is made out of all clusters', of a template that has said nothing yet.
    let mut items: Vec<Item<'_>> = statuses
        .iter()
        .map(|(cluster, status)| Item {
            cluster,
            status: Some(status),
        })
        .collect();
    let silent = holders.saturating_sub(items.len());
    items.extend(std::iter::repeat_n(
        Item {
            cluster: "",
            status: None,
        },
        silent,
    ));
    let template = json!({
        "apiVersion": manifest["apiVersion"], "kind": manifest["kind"], "spec": {"type": manifest["spec"]["type"]},
    });
    let mut status = match aggregate(&template, &items) {
        Some(Value::Object(status)) => status,
        // Nothing but zeroes: what has to be there is in each of them.
        _ => Counts::of(kind)
            .into_iter()
            .flat_map(|counts| counts.required)
            .map(|name| ((*name).to_owned(), 0.into()))
            .collect(),
    };
    status.remove("observedGeneration");
    if let Some(counts) = Counts::of(kind) {
        put_generations(&mut status, counts.generations, holders, &statuses);
    }
    Some(Value::Object(status))
}

/// A sum is of the generation that every member's numbers are of.
fn put_generations(status: &mut Map<String, Value>, which: Generations, holders: usize, all: &[(&str, &Value)]) {
    if which == Generations::None {
        return;
    }
    let each = |field: &str| -> Vec<i64> { all.iter().map(|(_, status)| number(status, field)).collect() };
    let (own, of_template) = (each("/generation"), each("/resourceTemplateGeneration"));
    let everybody = all.len() == holders;
    let generation = own.iter().copied().max().unwrap_or(0);
    let mut put = |field: &str, value: i64| {
        if value > 0 {
            status.insert(field.to_owned(), value.into());
        }
    };
    put("generation", generation);
    let lowest = of_template.iter().copied().min().unwrap_or(0);
    put("resourceTemplateGeneration", if everybody { lowest } else { 0 });
    if which == Generations::Observed {
        let observed = each("/observedGeneration");
        let current = everybody && observed.iter().zip(&own).all(|(observed, own)| observed >= own);
        let behind = observed
            .iter()
            .copied()
            .min()
            .unwrap_or(0)
            .min(generation.saturating_sub(1));
        put("observedGeneration", if current { generation } else { behind });
    }
}
