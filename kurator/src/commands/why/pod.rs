//! `kurator why pod`: from what wants the pod to its containers being ready: each hop with its time, and the one that it waits at with what to do.

use daemon::exit::Failure;
use http::Method;
use serde_json::{Value, json};

use crate::client::Api;
use crate::commands::describe;

/// Owners of owners that are looked at.
const MOST_OWNERS: usize = 4;

pub(super) async fn explain(api: &Api, namespace: &str, name: &str) -> Result<Value, Failure> {
    let pod = api.get(&format!("/api/v1/namespaces/{namespace}/pods/{name}")).await?;
    let events = describe::events(api, &pod).await?;
    let mut owners: Vec<Value> = Vec::new();
    while let Some(path) = owner_path(owners.last().unwrap_or(&pod), namespace).filter(|_| owners.len() < MOST_OWNERS) {
        // An owner that is gone, or that may not be read, ends the chain.
        let Ok(owner) = api.try_json(Method::GET, &path, None).await? else {
            break;
        };
        owners.push(owner);
    }
    owners.reverse();
    Ok(hops(&owners, &pod, &events))
}

/// Where the controlling owner of an object is, for the kinds that own pods.
fn owner_path(object: &Value, namespace: &str) -> Option<String> {
    let owners = object["metadata"]["ownerReferences"].as_array()?;
    let owner = owners.iter().find(|owner| owner["controller"] == true)?;
    let plural = match owner["kind"].as_str()? {
        "ReplicaSet" => "replicasets",
        "Deployment" => "deployments",
        "StatefulSet" => "statefulsets",
        "DaemonSet" => "daemonsets",
        "Job" => "jobs",
        "CronJob" => "cronjobs",
        _ => return None,
    };
    let (version, name) = (owner["apiVersion"].as_str()?, owner["name"].as_str()?);
    Some(format!("/apis/{version}/namespaces/{namespace}/{plural}/{name}"))
}

/// Puts hops behind each other; what follows one that waits has not been come to.
#[derive(Default)]
pub(super) struct Hops {
    list: Vec<Value>,
    waiting: Option<String>,
}

impl Hops {
    pub(super) fn add(&mut self, hop: impl Into<String>, done: bool, at: &Value, detail: impl Into<String>) {
        let (hop, detail) = (hop.into(), detail.into());
        if !done && self.waiting.is_none() {
            self.waiting = Some(hop.clone());
        }
        let state = if done { "done" } else { "waiting" };
        self.list
            .push(json!({"hop": hop, "state": state, "at": at, "detail": detail}));
    }

    pub(super) fn answer(self) -> Value {
        json!({"waitingAt": self.waiting, "hops": self.list})
    }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// `reason: message`, or what there is of it, and what to do where something is known.
pub(super) fn told(reason: &str, message: &str) -> String {
    let said = match (reason, message) {
        ("", message) => message.to_owned(),
        (reason, "") => reason.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    };
    match hint(reason) {
        Some(hint) => format!("{said}; {hint}"),
        None => said,
    }
}

/// What helps against a reason.
fn hint(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "ErrImagePull" | "ImagePullBackOff" => {
            "is the name right, does the gateway reach the registry, does it need imagePullSecrets?"
        }
        "ErrImageNeverPull" => "import the image on the gateway, or change imagePullPolicy",
        "InvalidImageName" => "correct the image's name",
        "CrashLoopBackOff" => "kurator logs --previous shows what it said last",
        "OOMKilled" => "it needs a higher memory limit, or has a leak",
        "CreateContainerConfigError" => "a ConfigMap, Secret or key that it names is not there",
        "RunContainerError" | "StartError" | "CreateContainerError" => "is its command in the image?",
        "FailedScheduling" | "Unschedulable" => {
            "kurator describe node shows what the gateway has, its labels and taints"
        }
        "SchedulingGated" => "somebody has to take its schedulingGates away",
        "FailedMount" => "kurator describe pod shows which volume, and what it lacks",
        "FailedCreatePodSandBox" => "is the pod network set up? kurator describe node shows NetworkReady",
        "NodeNotReady" | "NetworkNotReady" => "kurator why node shows how the gateway is",
        "Evicted" => "the gateway ran short of memory, disk or processes",
        _ => return None,
    })
}

/// The chain of a pod. `owners`: the one that wants most first; `events`: of the pod, oldest first.
fn hops(owners: &[Value], pod: &Value, events: &[Value]) -> Value {
    let mut hops = Hops::default();
    let created = |object: &Value| object["metadata"]["creationTimestamp"].clone();
    for owner in owners {
        let count = |field: &str| owner["status"][field].as_u64();
        let ready = match (count("readyReplicas"), owner["spec"]["replicas"].as_u64()) {
            (ready, Some(wanted)) => format!("{} of {wanted} ready", ready.unwrap_or(0)),
            _ => String::new(),
        };
        hops.add(
            format!(
                "{} {}",
                text(owner, "kind").to_lowercase(),
                text(&owner["metadata"], "name")
            ),
            true,
            &created(owner),
            ready,
        );
    }
    let (spec, status) = (&pod["spec"], &pod["status"]);
    hops.add("pod", true, &created(pod), text(&pod["metadata"], "name"));
    let condition = |ty: &str| {
        let all = status["conditions"].as_array();
        all.and_then(|all| all.iter().find(|c| c["type"] == ty))
            .unwrap_or(&Value::Null)
    };
    let last = |reasons: &[&str]| {
        let found = events
            .iter()
            .rev()
            .find(|event| reasons.contains(&text(event, "reason")));
        found.unwrap_or(&Value::Null)
    };
    let since = |condition: &Value| condition["lastTransitionTime"].clone();
    let node = text(spec, "nodeName");
    let scheduled = condition("PodScheduled");
    if node.is_empty() {
        hops.add(
            "scheduled",
            false,
            &since(scheduled),
            told(text(scheduled, "reason"), text(scheduled, "message")),
        );
    } else {
        hops.add("scheduled", true, &since(scheduled), format!("on {node}"));
    }
    let phase = text(status, "phase");
    let finished = matches!(phase, "Succeeded" | "Failed");
    if finished && text(status, "reason") == "Evicted" {
        hops.add("evicted", false, &Value::Null, told("Evicted", text(status, "message")));
        return hops.answer();
    }
    let init = status["initContainerStatuses"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let main = status["containerStatuses"].as_array().map_or(&[][..], Vec::as_slice);
    let begun = |container: &Value| {
        ["running", "terminated"]
            .iter()
            .any(|state| container["state"][*state].is_object())
    };
    let any = init.iter().chain(main).any(begun);
    let sandbox = condition("PodReadyToStartContainers");
    let has_sandbox = any || finished || sandbox["status"] == "True";
    let failed = last(&[
        "FailedCreatePodSandBox",
        "FailedMount",
        "FailedAttachVolume",
        "NetworkNotReady",
    ]);
    hops.add(
        "sandbox",
        has_sandbox,
        &since(sandbox),
        if has_sandbox {
            text(status, "podIP").to_owned()
        } else if node.is_empty() {
            String::new()
        } else if failed.is_null() {
            format!("{node} has not made it yet; kurator why node {node}")
        } else {
            told(text(failed, "reason"), text(failed, "message"))
        },
    );
    let missing = init.iter().chain(main).find(|container| {
        let reason = text(&container["state"]["waiting"], "reason");
        matches!(
            reason,
            "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName"
        )
    });
    match missing {
        Some(container) => {
            let waiting = &container["state"]["waiting"];
            let why = told(text(waiting, "reason"), text(waiting, "message"));
            let at = last(&["Failed", "Pulling"]);
            hops.add(
                "image",
                false,
                &json!(describe::when(at)),
                format!("{}: {why}", text(container, "image")),
            );
        }
        None => {
            let pulled = last(&["Pulled"]);
            let pulling = last(&["Pulling"]);
            let at = if pulled.is_null() { pulling } else { pulled };
            hops.add(
                "image",
                any || finished || !pulled.is_null(),
                &json!(describe::when(at)),
                text(at, "message"),
            );
        }
    }
    for (what, containers) in [("init", init), ("container", main)] {
        for container in containers {
            container_hop(&mut hops, what, container, spec);
        }
    }
    if main.is_empty() && !finished {
        hops.add("containers", false, &Value::Null, "");
    }
    if finished {
        let detail = told(text(status, "reason"), text(status, "message"));
        hops.add(phase.to_lowercase(), phase == "Succeeded", &Value::Null, detail);
        return hops.answer();
    }
    let ready = condition("Ready");
    let unhealthy = last(&["Unhealthy"]);
    let detail = match ready["status"] == "True" {
        true => String::new(),
        false if !unhealthy.is_null() => told(text(unhealthy, "reason"), text(unhealthy, "message")),
        false => told(text(ready, "reason"), text(ready, "message")),
    };
    hops.add("ready", ready["status"] == "True", &since(ready), detail);
    hops.answer()
}

fn container_hop(hops: &mut Hops, what: &str, container: &Value, spec: &Value) {
    let name = format!("{what} {}", text(container, "name"));
    let restarts = match container["restartCount"].as_u64() {
        Some(count) if count > 0 => format!(", restarted {count} times"),
        _ => String::new(),
    };
    let state = &container["state"];
    if let Some(ended) = state.get("terminated").filter(|ended| ended.is_object()) {
        let code = ended["exitCode"].as_i64().unwrap_or(0);
        // An init container is there to end, and a Pod that is not restarted too.
        let well = code == 0 && (what == "init" || spec["restartPolicy"] != "Always");
        let detail = format!(
            "exit code {code}, {}{restarts}",
            told(text(ended, "reason"), text(ended, "message"))
        );
        hops.add(name, well, &ended["finishedAt"], detail);
    } else if let Some(running) = state.get("running").filter(|running| running.is_object()) {
        let sidecar = spec["initContainers"].as_array().is_some_and(|all| {
            all.iter()
                .any(|c| c["name"] == container["name"] && c["restartPolicy"] == "Always")
        });
        let done = what != "init" || sidecar;
        hops.add(name, done, &running["startedAt"], format!("running{restarts}"));
    } else {
        let waiting = &state["waiting"];
        let mut detail = told(text(waiting, "reason"), text(waiting, "message"));
        let ended = &container["lastState"]["terminated"];
        if ended.is_object() {
            let code = ended["exitCode"].as_i64().unwrap_or(0);
            detail.push_str(&format!(
                "; ended last with code {code} ({}){restarts}",
                text(ended, "reason")
            ));
        }
        hops.add(name, false, &ended["finishedAt"], detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(answer: &Value) -> (&str, &str) {
        let waiting = answer["waitingAt"].as_str().unwrap_or("");
        let hop = answer["hops"]
            .as_array()
            .unwrap()
            .iter()
            .find(|hop| hop["state"] == "waiting");
        (waiting, hop.map_or("", |hop| hop["detail"].as_str().unwrap()))
    }

    fn running() -> Value {
        json!({"metadata": {"name": "web-1"}, "spec": {"nodeName": "gw", "restartPolicy": "Always"}, "status": {"phase": "Running",
            "podIP": "10.42.0.3", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            "containerStatuses": [{"name": "app", "image": "a", "restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]}})
    }

    #[test]
    fn a_pod_that_is_ready_waits_nowhere() {
        let owner = json!({"kind": "ReplicaSet", "metadata": {"name": "web"}, "spec": {"replicas": 2}, "status": {"readyReplicas": 1}});
        let answer = hops(&[owner], &running(), &[]);
        assert_eq!(answer["waitingAt"], Value::Null);
        let names: Vec<&str> = answer["hops"]
            .as_array()
            .unwrap()
            .iter()
            .map(|hop| text(hop, "hop"))
            .collect();
        assert_eq!(
            names,
            [
                "replicaset web",
                "pod",
                "scheduled",
                "sandbox",
                "image",
                "container app",
                "ready"
            ]
        );
        assert_eq!(answer["hops"][0]["detail"], "1 of 2 ready");
    }

    #[test]
    fn the_hop_that_a_pod_waits_at_is_found_with_its_reason_and_what_helps() {
        let mut pod = running();
        pod["status"]["containerStatuses"][0]["state"] =
            json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}});
        pod["status"]["conditions"][0]["status"] = "False".into();
        let answer = hops(&[], &pod, &[]);
        let (hop, detail) = at(&answer);
        assert_eq!(
            hop, "sandbox",
            "nothing has begun, and no condition says that there is a sandbox"
        );
        assert!(detail.contains("why node gw"), "{detail}");
        pod["status"]["conditions"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "PodReadyToStartContainers", "status": "True"}));
        let answer = hops(&[], &pod, &[]);
        let (hop, detail) = at(&answer);
        assert!(
            hop == "image" && detail.starts_with("a: ImagePullBackOff: no such image; is the name right"),
            "{detail}"
        );
        pod["status"]["containerStatuses"][0]["state"] =
            json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}});
        pod["status"]["containerStatuses"][0]["lastState"] = json!({"terminated": {"exitCode": 3, "reason": "Error"}});
        let pulled = json!({"reason": "Pulled", "message": "pulled"});
        let answer = hops(&[], &pod, &[pulled]);
        let (hop, detail) = at(&answer);
        assert!(
            hop == "container app" && detail.contains("logs --previous") && detail.contains("code 3 (Error)"),
            "{detail}"
        );
        pod["spec"]["nodeName"] = Value::Null;
        pod["status"] = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
            "reason": "Unschedulable", "message": "0/1 nodes are available"}]});
        let answer = hops(&[], &pod, &[]);
        let (hop, detail) = at(&answer);
        assert!(
            hop == "scheduled" && detail.contains("0/1 nodes are available; kurator describe node"),
            "{detail}"
        );
    }

    #[test]
    fn what_is_over_is_told_as_it_ended() {
        let mut pod = running();
        pod["spec"]["restartPolicy"] = "Never".into();
        pod["status"]["phase"] = "Succeeded".into();
        pod["status"]["containerStatuses"][0]["state"] = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
        assert_eq!(at(&hops(&[], &pod, &[])), ("", ""));
        pod["status"] = json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory"});
        let answer = hops(&[], &pod, &[]);
        let (hop, detail) = at(&answer);
        assert!(hop == "evicted" && detail.contains("low on memory"), "{detail}");
    }

    #[test]
    fn owners_that_are_known_are_followed() {
        let owned = |kind: &str, controller: bool| {
            json!({"metadata": {"ownerReferences": [
            {"apiVersion": "apps/v1", "kind": kind, "name": "w", "controller": controller}]}})
        };
        let path = |kind, controller| owner_path(&owned(kind, controller), "d");
        assert_eq!(
            path("ReplicaSet", true).unwrap(),
            "/apis/apps/v1/namespaces/d/replicasets/w"
        );
        assert_eq!(path("ReplicaSet", false), None);
        assert_eq!(path("Thing", true), None);
    }
}
