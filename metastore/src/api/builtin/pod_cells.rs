//! How `kubectl get pods` sums up a pod in one line.

use serde_json::{Value, json};

use super::shared::{flag, is_condition, list, whole, word, word_at};
use crate::api::table;

/// When the run before this one ended. Times of one form: the later one is the greater text.
const LAST_END: &str = "/lastState/terminated/finishedAt";

/// What all containers of a pod come to.
struct Sum<'p> {
    ready: usize,
    reason: String,
    restarts: i64,
    /// When a container last ended that was restarted.
    last: &'p str,
}

fn sum(pod: &Value) -> Sum<'_> {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let status = pod.get("status").unwrap_or(&Value::Null);
    let sidecar = |name: &str| {
        let mut all = list(spec, "initContainers").iter();
        all.any(|c| word(c, "name") == name && word(c, "restartPolicy") == "Always")
    };
    let mut out = Sum {
        ready: 0,
        reason: word(status, "phase").to_owned(),
        restarts: 0,
        last: "",
    };
    if !word(status, "reason").is_empty() {
        word(status, "reason").clone_into(&mut out.reason);
    }
    if list(status, "conditions")
        .iter()
        .any(|c| word(c, "type") == "PodScheduled" && word(c, "reason") == "SchedulingGated")
    {
        "SchedulingGated".clone_into(&mut out.reason);
    }
    let (mut sidecar_restarts, mut sidecar_last) = (0, "");
    let mut initializing = false;
    for (i, container) in list(status, "initContainerStatuses").iter().enumerate() {
        let is_sidecar = sidecar(word(container, "name"));
        let count = whole(container, "/restartCount");
        let when = word_at(container, LAST_END);
        out.restarts += count;
        out.last = out.last.max(when);
        if is_sidecar {
            sidecar_restarts += count;
            sidecar_last = sidecar_last.max(when);
        }
        let waits = word_at(container, "/state/waiting/reason");
        if let Some(terminated) = container.pointer("/state/terminated") {
            if whole(terminated, "/exitCode") == 0 {
                continue;
            }
            if !(is_sidecar && flag(container, "started")) {
                out.reason = format!("Init:{}", end_of(terminated));
                initializing = true;
                break;
            }
        }
        if is_sidecar && flag(container, "started") {
            out.ready += usize::from(flag(container, "ready"));
            continue;
        }
        out.reason = if waits.is_empty() || waits == "PodInitializing" {
            format!("Init:{i}/{}", list(spec, "initContainers").len())
        } else {
            format!("Init:{waits}")
        };
        initializing = true;
        break;
    }
    if !initializing || is_condition(pod, "Initialized") {
        (out.restarts, out.last) = (sidecar_restarts, sidecar_last);
        let (mut running, mut failure) = (false, String::new());
        for container in list(status, "containerStatuses").iter().rev() {
            out.restarts += whole(container, "/restartCount");
            out.last = out.last.max(word_at(container, LAST_END));
            let waits = word_at(container, "/state/waiting/reason");
            if !waits.is_empty() {
                waits.clone_into(&mut out.reason);
            } else if let Some(terminated) = container.pointer("/state/terminated") {
                out.reason = end_of(terminated);
                if whole(terminated, "/exitCode") != 0 {
                    failure.clone_from(&out.reason);
                }
            } else if flag(container, "ready") && container.pointer("/state/running").is_some() {
                running = true;
                out.ready += 1;
            }
        }
        if out.reason == "Completed" {
            if running && is_condition(pod, "Ready") {
                "Running".clone_into(&mut out.reason);
            } else if !failure.is_empty() {
                out.reason = failure;
            } else if running {
                "NotReady".clone_into(&mut out.reason);
            }
        }
    }
    if pod.pointer("/metadata/deletionTimestamp").is_some() {
        if word(status, "reason") == "NodeLost" {
            "Unknown".clone_into(&mut out.reason);
        } else if !matches!(word(status, "phase"), "Failed" | "Succeeded") {
            "Terminating".clone_into(&mut out.reason);
        }
    }
    out
}

/// Why a container ended.
fn end_of(terminated: &Value) -> String {
    match (word(terminated, "reason"), whole(terminated, "/signal")) {
        ("", 0) => format!("ExitCode:{}", whole(terminated, "/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

pub(super) fn ready(pod: &Value) -> Value {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let sidecars = list(spec, "initContainers")
        .iter()
        .filter(|c| word(c, "restartPolicy") == "Always");
    let total = list(spec, "containers").len() + sidecars.count();
    json!(format!("{}/{total}", sum(pod).ready))
}

pub(super) fn status(pod: &Value) -> Value {
    json!(sum(pod).reason)
}

pub(super) fn restarts(pod: &Value, now_ms: u64) -> Value {
    let sum = sum(pod);
    json!(if sum.restarts == 0 || sum.last.is_empty() {
        sum.restarts.to_string()
    } else {
        format!("{} ({} ago)", sum.restarts, table::age(sum.last, now_ms))
    })
}

pub(super) fn gates(pod: &Value) -> Value {
    let gates = pod.pointer("/spec/readinessGates").and_then(Value::as_array);
    json!(match gates {
        Some(gates) if !gates.is_empty() => {
            let met = gates.iter().filter(|g| is_condition(pod, word(g, "conditionType")));
            format!("{}/{}", met.count(), gates.len())
        }
        _ => "<none>".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_pod() {
        let run = json!({"name":"c","ready":true,"restartCount":0,"state":{"running":{}}});
        let crash = json!({"name":"c","ready":false,"restartCount":3,"state":{"waiting":{"reason":"CrashLoopBackOff"}},
            "lastState":{"terminated":{"finishedAt":"1970-01-01T00:00:00Z"}}});
        let done = |code: i64, reason: &str| json!({"name":"c","restartCount":0,"state":{"terminated":{"exitCode":code,"reason":reason}}});
        let case = |spec: Value, status: Value| {
            let pod = json!({"spec":spec,"status":status});
            let text = |v: Value| v.as_str().unwrap().to_owned();
            format!(
                "{} {} {}",
                text(ready(&pod)),
                text(super::status(&pod)),
                text(restarts(&pod, 60_000))
            )
        };
        let one = json!({"containers":[{"name":"c"}]});
        let init =
            json!({"containers":[{"name":"c"}],"initContainers":[{"name":"i"},{"name":"s","restartPolicy":"Always"}]});
        for (spec, status, line) in [
            (&one, json!({"phase":"Pending"}), "0/1 Pending 0"),
            (
                &one,
                json!({"phase":"Running","containerStatuses":[run]}),
                "1/1 Running 0",
            ),
            (
                &one,
                json!({"phase":"Running","containerStatuses":[crash]}),
                "0/1 CrashLoopBackOff 3 (60s ago)",
            ),
            (&one, json!({"phase":"Failed","reason":"Evicted"}), "0/1 Evicted 0"),
            (
                &one,
                json!({"phase":"Succeeded","containerStatuses":[done(0, "Completed")]}),
                "0/1 Completed 0",
            ),
            (
                &one,
                json!({"phase":"Failed","containerStatuses":[done(3, "")]}),
                "0/1 ExitCode:3 0",
            ),
            (
                &init,
                json!({"phase":"Pending","initContainerStatuses":[{"name":"i","state":{"waiting":{"reason":"PodInitializing"}}}]}),
                "0/2 Init:0/2 0",
            ),
            (
                &init,
                json!({"phase":"Pending","initContainerStatuses":[{"name":"i","restartCount":1,"state":{"terminated":{"exitCode":1,"reason":"Error"}}}]}),
                "0/2 Init:Error 1",
            ),
            (
                &init,
                json!({"phase":"Running","containerStatuses":[run],"initContainerStatuses":[
                {"name":"i","state":{"terminated":{"exitCode":0}}},{"name":"s","started":true,"ready":true,"restartCount":2,"state":{"running":{}}}]}),
                "2/2 Running 2",
            ),
        ] {
            assert_eq!(case(spec.clone(), status), line);
        }
    }
}
