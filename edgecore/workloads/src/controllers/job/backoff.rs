//! How long a Job waits before it makes a pod in the place of one that failed. Pure: read from the pods that are there, so that a restart
//! of the agent shortens no wait.

use serde_json::Value;

use super::super::look::{condition, is_terminating, list, seconds, text, whole};

/// First and longest wait, in seconds.
const WAIT: (i64, i64) = (10, 600);

/// When a pod ended, in seconds since 1970: when its last container did, else when it was no more ready, else when it was asked to go.
pub(super) fn finished_at(pod: &Value) -> i64 {
    let at = |value: &Value, pointer: &str| seconds(text(value, pointer));
    by_containers(pod)
        .or_else(|| {
            let ready = condition(pod, "Ready").filter(|c| c["status"] == "False")?;
            at(ready, "/lastTransitionTime")
        })
        .or_else(|| {
            let gone = at(pod, "/metadata/deletionTimestamp").filter(|_| is_terminating(pod))?;
            Some(gone - whole(pod, "/metadata/deletionGracePeriodSeconds").unwrap_or(0))
        })
        .or_else(|| at(pod, "/metadata/creationTimestamp"))
        .unwrap_or(0)
}

fn by_containers(pod: &Value) -> Option<i64> {
    let is_sidecar = |name: &Value| {
        list(pod, "/spec/initContainers")
            .iter()
            .any(|c| c["name"] == *name && text(c, "/restartPolicy") == "Always")
    };
    let sidecars = list(pod, "/status/initContainerStatuses")
        .iter()
        .filter(|s| is_sidecar(&s["name"]));
    let mut last = None;
    for status in list(pod, "/status/containerStatuses").iter().chain(sidecars) {
        let at = seconds(text(status, "/state/terminated/finishedAt"))?;
        last = last.max(Some(at));
    }
    last
}

/// Seconds to wait still, after so many failures in a row of which the last was then.
pub(super) fn left(failures: usize, last: i64, now: i64) -> i64 {
    if failures == 0 {
        return 0;
    }
    let doubled = u32::try_from(failures - 1).unwrap_or(u32::MAX).min(16);
    let wait = (WAIT.0 << doubled).min(WAIT.1);
    // A clock that was set back does not make the wait longer than it is.
    (wait - (now - last)).clamp(0, wait)
}

/// The failures since the last success, and when the last of them was.
pub(super) fn since_success<'p>(
    succeeded: impl Iterator<Item = &'p Value>,
    failed: impl Iterator<Item = &'p Value>,
) -> (usize, i64) {
    let success = succeeded.map(finished_at).max();
    let mut after: Vec<i64> = failed.map(finished_at).collect();
    after.retain(|at| success.is_none_or(|s| *at > s));
    (after.len(), after.into_iter().max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_failure_doubles_the_wait() {
        for (failures, passed, wait) in [
            (0, 0, 0),
            (1, 0, 10),
            (1, 4, 6),
            (1, 11, 0),
            (2, 0, 20),
            (3, 0, 40),
            (6, 0, 320),
            (7, 0, 600),
            (90, 0, 600),
            (1, -5000, 10),
        ] {
            assert_eq!(left(failures, 1000, 1000 + passed), wait, "{failures} {passed}");
        }
    }

    #[test]
    fn a_success_starts_over() {
        let at = |second: i64| json!({"status": {"containerStatuses": [{"state": {"terminated": {"finishedAt": crate::time::stamp(u64::try_from(second).unwrap() * 1000)}}}]}});
        let failed = [at(100), at(200), at(300)];
        assert_eq!(since_success([].iter(), failed.iter()), (3, 300));
        assert_eq!(since_success([at(150)].iter(), failed.iter()), (2, 300));
        assert_eq!(since_success([at(300)].iter(), failed.iter()).0, 0);
    }

    #[test]
    fn when_a_pod_ended() {
        let stamp = |second: u64| crate::time::stamp(second * 1000);
        let created = json!({"metadata": {"creationTimestamp": stamp(1)}});
        assert_eq!(finished_at(&created), 1);
        let gone = json!({"metadata": {"deletionTimestamp": stamp(50), "deletionGracePeriodSeconds": 30}});
        assert_eq!(finished_at(&gone), 20);
        let running = json!({"status": {"containerStatuses": [{"state": {"running": {}}}],
            "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": stamp(7)}]}});
        assert_eq!(finished_at(&running), 7);
        let ended = |at: u64| json!({"name": "s", "state": {"terminated": {"finishedAt": stamp(at)}}});
        let with_sidecar = json!({"spec": {"initContainers": [{"name": "s", "restartPolicy": "Always"}]},
            "status": {"containerStatuses": [ended(5)], "initContainerStatuses": [ended(9)]}});
        assert_eq!(finished_at(&with_sidecar), 9);
    }
}
