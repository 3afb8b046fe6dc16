//! Pods as their controllers see them: what counts as alive and as available, which one goes first, whether two templates are the same.

use std::time::Duration;

use serde_json::Value;

use super::{annotation, condition, list, millis, number, safe_word, text, uid};

/// What a lower number of makes a pod go first.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// Label by which the pods of one template are told from those of another.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// Whether a pod's condition `Ready` is `True`.
pub(crate) fn is_ready(pod: &Value) -> bool {
    condition(&pod["status"], "Ready").is_some_and(|c| c["status"] == "True")
}

/// Milliseconds since 1970 when a ready pod became so.
fn ready_since(pod: &Value) -> Option<i64> {
    let ready = condition(&pod["status"], "Ready").filter(|c| c["status"] == "True")?;
    millis(&ready["lastTransitionTime"])
}

/// Whether a pod has been ready for so many seconds. `now`: milliseconds since 1970.
pub(crate) fn is_available(pod: &Value, min_ready_seconds: i64, now: u64) -> bool {
    is_ready(pod) && (min_ready_seconds == 0 || left(pod, min_ready_seconds, now).is_some_and(|left| left <= 0))
}

/// Milliseconds until a ready pod is available; negative when it has been for so long.
fn left(pod: &Value, min_ready_seconds: i64, now: u64) -> Option<i64> {
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let at = ready_since(pod)?.saturating_add(min_ready_seconds.saturating_mul(1000));
    Some(at.saturating_sub(now))
}

/// How long until the next of these pods is available, if one that is ready is not yet. Never longer than it has to be ready, for a clock
/// that was set back.
pub(crate) fn next_available<'v>(
    pods: impl IntoIterator<Item = &'v Value>,
    min_ready_seconds: i64,
    now: u64,
) -> Option<Duration> {
    let most = u64::try_from(min_ready_seconds.saturating_mul(1000)).ok()?;
    let waits = |pod: &Value| {
        u64::try_from(left(pod, min_ready_seconds, now)?)
            .ok()
            .filter(|ms| *ms > 0)
    };
    let soonest = pods.into_iter().filter_map(waits).min()?;
    Some(Duration::from_millis(soonest.min(most)))
}

/// Sorts pods so that those which are missed least come first: not assigned to a node, not running, not ready, cheap by annotation, ready for
/// a short time, often restarted, young. Ages are compared by magnitude, so that it is not always the youngest. That several stand on one
/// node, which counts elsewhere, counts for none here: all do.
pub(crate) fn rank_for_deletion(pods: &mut [Value], now: u64) {
    pods.sort_by_cached_key(|pod| {
        let phase = match text(pod, "/status/phase") {
            "Running" => 2,
            "Unknown" => 1,
            _ => 0,
        };
        let ready = is_ready(pod);
        let cost: i32 = annotation(pod, DELETION_COST)
            .and_then(|cost| cost.parse().ok())
            .unwrap_or(0);
        (
            !text(pod, "/spec/nodeName").is_empty(),
            phase,
            ready,
            cost,
            ready.then(|| magnitude(ready_since(pod), now)),
            std::cmp::Reverse(restarts(pod)),
            magnitude(millis(&pod["metadata"]["creationTimestamp"]), now),
            uid(pod).to_owned(),
        )
    });
}

/// Magnitude of an age: the logarithm of its nanoseconds; what has no time is the youngest.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
fn magnitude(since: Option<i64>, now: u64) -> i64 {
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    match since.map(|since| now.saturating_sub(since)) {
        Some(age) if age > 0 => (age as f64 * 1e6).log2() as i64,
        _ => -1,
    }
}

/// Most restarts of one of a pod's containers, and of one of its sidecars.
fn restarts(pod: &Value) -> (i64, i64) {
    let most = |statuses: &str, counts: &dyn Fn(&Value) -> bool| {
        let statuses = list(pod, statuses).iter().filter(|c| counts(c));
        statuses.map(|c| number(c, "/restartCount")).max().unwrap_or(0)
    };
    let sidecar = |status: &Value| {
        let mut containers = list(pod, "/spec/initContainers").iter();
        containers.any(|c| c["name"] == status["name"] && c["restartPolicy"] == "Always")
    };
    (
        most("/status/containerStatuses", &|_| true),
        most("/status/initContainerStatuses", &sidecar),
    )
}

/// What a template is called: a word that follows from it and from how many others were called the same.
pub(crate) fn template_hash(template: &Value, collisions: Option<i64>) -> String {
    let hash = crate::time::fingerprint(&(template.to_string(), collisions));
    #[allow(clippy::cast_possible_truncation)]
    safe_word((hash ^ (hash >> 32)) as u32)
}

/// Whether two templates make the same pods; the label that tells templates apart does not count.
pub(crate) fn same_template(a: &Value, b: &Value) -> bool {
    fn bare(template: &Value) -> Value {
        let mut template = template.clone();
        if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
            labels.remove(TEMPLATE_HASH);
        }
        drop_empty(&mut template);
        template
    }
    bare(a) == bare(b)
}

/// Maps and lists that mean the same absent as empty.
const EMPTY_IS_ABSENT: [&str; 8] = [
    "labels",
    "annotations",
    "metadata",
    "nodeSelector",
    "limits",
    "requests",
    "matchLabels",
    "creationTimestamp",
];

fn drop_empty(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(drop_empty);
            map.retain(|field, value| match value {
                Value::Null => false,
                Value::Array(items) => !items.is_empty(),
                Value::Object(fields) => !(fields.is_empty() && EMPTY_IS_ABSENT.contains(&field.as_str())),
                _ => true,
            });
        }
        Value::Array(items) => items.iter_mut().for_each(drop_empty),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn pod(uid: &str, ready_for: Option<u64>, change: impl FnOnce(&mut Value)) -> Value {
        let mut pod = json!({
            "metadata": {"uid": uid, "creationTimestamp": crate::time::stamp(NOW - 3_600_000)},
            "spec": {"nodeName": "n"},
            "status": {"phase": "Running"},
        });
        if let Some(seconds) = ready_for {
            let since = crate::time::stamp(NOW - seconds * 1000);
            pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]);
        }
        change(&mut pod);
        pod
    }

    #[test]
    fn who_goes_first() {
        // In this order, each for one reason.
        let ranked = [
            pod("z", None, |p| p["spec"]["nodeName"] = Value::Null),
            pod("y", None, |p| p["status"]["phase"] = "Pending".into()),
            pod("x", None, |p| p["status"]["phase"] = "Unknown".into()),
            pod("w", None, |_| ()),
            pod("v", Some(90_000), |p| {
                p["metadata"]["annotations"] = json!({DELETION_COST: "-5"})
            }),
            pod("u", Some(2), |_| ()),
            pod("t", Some(3000), |p| {
                p["status"]["containerStatuses"] = json!([{"restartCount": 3}])
            }),
            pod("s", Some(3000), |p| {
                p["spec"]["initContainers"] = json!([{"name": "side", "restartPolicy": "Always"}]);
                p["status"]["initContainerStatuses"] = json!([{"name": "side", "restartCount": 1}]);
            }),
            pod("p", Some(3000), |p| {
                p["metadata"]["creationTimestamp"] = crate::time::stamp(NOW - 60_000).into();
            }),
            pod("q", Some(3000), |_| ()),
            pod("r", Some(3000), |p| {
                p["metadata"]["annotations"] = json!({DELETION_COST: "no number"})
            }),
            pod("a", Some(90_000), |p| {
                p["metadata"]["annotations"] = json!({DELETION_COST: "1"})
            }),
        ];
        let mut pods = ranked.to_vec();
        pods.reverse();
        rank_for_deletion(&mut pods, NOW);
        let names = |pods: &[Value]| pods.iter().map(|p| uid(p).to_owned()).collect::<Vec<_>>();
        assert_eq!(names(&pods), names(&ranked));
    }

    #[test]
    fn available_is_ready_for_long_enough() {
        let young = pod("a", Some(4), |_| ());
        let older = pod("b", Some(7), |_| ());
        assert!(is_available(&young, 0, NOW) && is_available(&young, 4, NOW));
        assert!(!is_available(&young, 5, NOW) && !is_available(&pod("c", None, |_| ()), 0, NOW));
        assert_eq!(next_available([&young, &older], 10, NOW), Some(Duration::from_secs(3)));
        assert_eq!(next_available([&young, &older], 4, NOW), None);
        let back = pod("d", Some(4), |_| ());
        let long_before = NOW - 3_600_000;
        assert_eq!(
            next_available([&back], 10, long_before),
            Some(Duration::from_secs(10)),
            "the clock was set back"
        );
    }

    #[test]
    fn templates_are_the_same_without_their_label_and_what_is_empty() {
        let a = json!({"metadata": {"labels": {"app": "x", TEMPLATE_HASH: "h"}}, "spec": {"containers": [{"image": "i", "env": []}], "volumes": [{"emptyDir": {}}]}});
        let mut b = json!({"metadata": {"labels": {"app": "x"}, "annotations": {}}, "spec": {"containers": [{"image": "i"}], "volumes": [{"emptyDir": {}}]}});
        assert!(same_template(&a, &b));
        b["spec"]["volumes"][0] = json!({});
        assert!(!same_template(&a, &b), "an empty volume is something");
        assert_eq!(template_hash(&a, None), template_hash(&a.clone(), None));
        assert_ne!(template_hash(&a, None), template_hash(&a, Some(1)));
        assert_ne!(template_hash(&a, None), template_hash(&b, None));
    }
}
