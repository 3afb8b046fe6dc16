//! What the members' words about an object add up to: the status of its template.

mod addresses;
mod jobs;
mod pods;

use serde_json::{Map, Value, json};

use super::counts::{Counts, Generations};
use super::kind::Kind;
use super::look::{is_zero, map, number, text};

/// What one cluster reports.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    /// The cluster.
    pub cluster: &'a str,
    /// The status that it reports of the object; nothing while it has not.
    pub status: Option<&'a Value>,
}

/// A template's new status, from what all clusters that it goes to report. Nothing where the kind has no rule, or the template says the same
/// already.
///
/// The workloads keep the fields of their status that are no sums. Their `observedGeneration` moves on when every cluster's numbers are those of
/// the template as it is now; until then it stays what it was.
pub fn aggregate(template: &Value, items: &[Item<'_>]) -> Option<Value> {
    let kind = Kind::of(template)?;
    let reported = || {
        items
            .iter()
            .filter_map(|item| Some((item.cluster, item.status.filter(|status| status.is_object())?)))
    };
    let statuses: Vec<&Value> = reported().map(|(_, status)| status).collect();
    let status = match kind {
        Kind::Deployment | Kind::ReplicaSet | Kind::StatefulSet | Kind::DaemonSet => {
            let mut status = map(template, "/status").cloned().unwrap_or_default();
            let observed = observed(template, &statuses, items.len());
            put(&mut status, "observedGeneration", observed, false);
            add(&mut status, kind, &statuses);
            status
        }
        Kind::PodDisruptionBudget => {
            let mut status = Map::new();
            add(&mut status, kind, &statuses);
            let disrupted: Map<String, Value> = reported()
                .flat_map(|(cluster, status)| {
                    let pods = map(status, "/disruptedPods").into_iter().flatten();
                    pods.map(move |(pod, time)| (format!("{cluster}/{pod}"), time.clone()))
                })
                .collect();
            put_unless_zero(&mut status, "disruptedPods", disrupted.into());
            status
        }
        Kind::HorizontalPodAutoscaler => {
            let mut status = Map::new();
            add(&mut status, kind, &statuses);
            status
        }
        Kind::Job => {
            let mut status = jobs::job(template, items)?;
            add(&mut status, kind, &statuses);
            status
        }
        Kind::CronJob => jobs::cron_job(&statuses),
        Kind::Pod => pods::pod(template, items)?,
        Kind::PersistentVolume => pods::volume(items),
        Kind::PersistentVolumeClaim => claim(&statuses),
        Kind::Service if text(template, "/spec/type") != "LoadBalancer" => return None,
        Kind::Service => addresses::service(&statuses),
        Kind::Ingress => addresses::ingress(&statuses),
        Kind::Secret | Kind::ServiceAccount | Kind::ServiceImport => return None,
    };
    changed(template, &status, kind).then_some(Value::Object(status))
}

/// Sums up a kind's numbers.
fn add(status: &mut Map<String, Value>, kind: Kind, statuses: &[&Value]) {
    // The fields are of 32 bits. A member's number that does not fit would keep a server from taking all the others'.
    let most = i64::from(i32::MAX);
    let Some(counts) = Counts::of(kind) else {
        return;
    };
    for (name, required) in counts.each() {
        let of_member = |status: &&Value| status.get(name).and_then(Value::as_i64).unwrap_or(0).clamp(0, most);
        let sum = statuses.iter().map(of_member).fold(0, i64::saturating_add).min(most);
        put(status, name, sum, required);
    }
}

/// The generation of the template that the sums are of.
fn observed(template: &Value, statuses: &[&Value], clusters: usize) -> i64 {
    let latest = number(template, "/metadata/generation");
    let up_to_date = |status: &&&Value| {
        number(status, "/observedGeneration") >= number(status, "/generation")
            && number(status, "/resourceTemplateGeneration") >= latest
    };
    if statuses.iter().filter(up_to_date).count() == clusters {
        latest
    } else {
        number(template, "/status/observedGeneration")
    }
}

/// A claim is bound unless a member says otherwise. That it is lost anywhere is what matters most; else the last one that has another phase.
fn claim(statuses: &[&Value]) -> Map<String, Value> {
    let phases = || statuses.iter().map(|status| text(status, "/phase"));
    let phase = phases()
        .find(|phase| *phase == "Lost")
        .or_else(|| phases().rfind(|phase| *phase != "Bound" && !phase.is_empty()))
        .unwrap_or("Bound");
    Map::from_iter([("phase".to_owned(), json!(phase))])
}

fn put(status: &mut Map<String, Value>, name: &str, value: i64, required: bool) {
    if required || value != 0 {
        status.insert(name.to_owned(), value.into());
    } else {
        status.remove(name);
    }
}

fn put_unless_zero(status: &mut Map<String, Value>, name: &str, value: Value) {
    if !is_zero(&value) {
        status.insert(name.to_owned(), value);
    }
}

/// Whether the template says another thing in any of the fields that are summed up. What else a server or a controller wrote there is no
/// reason to write again: it would come back each time.
fn changed(template: &Value, status: &Map<String, Value>, kind: Kind) -> bool {
    let old = map(template, "/status");
    let differs = |name: &str| {
        let old = old.and_then(|old| old.get(name)).filter(|value| !is_zero(value));
        old != status.get(name).filter(|value| !is_zero(value))
    };
    let others: &[&str] = match kind {
        Kind::PodDisruptionBudget => &["disruptedPods"],
        Kind::Job => &["conditions", "startTime", "completionTime"],
        Kind::CronJob => &["active", "lastScheduleTime", "lastSuccessfulTime"],
        Kind::Pod => &["phase", "containerStatuses", "initContainerStatuses"],
        Kind::PersistentVolume | Kind::PersistentVolumeClaim => &["phase"],
        Kind::Service | Kind::Ingress => &["loadBalancer"],
        _ => &[],
    };
    let counts = Counts::of(kind);
    let generation = counts.is_some_and(|counts| counts.generations != Generations::None);
    others.iter().any(|name| differs(name))
        || counts.is_some_and(|counts| counts.each().any(|(name, _)| differs(name)))
        || (generation && differs("observedGeneration"))
}
