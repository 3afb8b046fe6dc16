use serde_json::json;

use super::super::memory::{Memory, Refused, Said};
use super::super::observed::{Observed, Sandbox, Seen, State};
use super::super::plan::plan;
use super::*;
use crate::pod::Pod;

const NOW: u64 = 1_795_219_200_000;

struct Scene {
    pod: Value,
    observed: Observed,
    memory: Memory,
}

impl Scene {
    fn new(spec: Value, status: Value) -> Self {
        let mut pod =
            json!({"metadata": {"name": "p", "namespace": "default", "uid": "u"}, "spec": spec, "status": status});
        if pod["spec"]["containers"].is_null() {
            pod["spec"]["containers"] = json!([{"name": "a", "image": "app"}]);
        }
        if pod["spec"]["restartPolicy"].is_null() {
            pod["spec"]["restartPolicy"] = "Always".into();
        }
        let mut observed = Observed::default();
        observed.put_sandbox(Sandbox {
            id: "s".to_owned(),
            ready: true,
            ips: vec!["10.42.0.9".to_owned(), "fd00::9".to_owned()],
            ..Sandbox::default()
        });
        Self {
            pod,
            observed,
            memory: Memory::default(),
        }
    }

    fn seen(mut self, name: &str, attempt: u32, state: State, code: i32) -> Self {
        self.observed.put(Seen {
            id: format!("{name}{attempt}"),
            name: name.to_owned(),
            attempt,
            sandbox: "s".to_owned(),
            state,
            created: i64::from(attempt) + 1,
            started: i64::try_from(NOW).unwrap() * 1_000_000,
            finished: if state == State::Exited {
                i64::try_from(NOW).unwrap() * 1_000_000
            } else {
                0
            },
            exit_code: code,
            image: "docker.io/library/app:1".to_owned(),
            image_id: "docker.io/library/app@sha256:1".to_owned(),
            ..Seen::default()
        });
        self
    }

    fn remember(mut self, change: impl FnOnce(&mut Memory)) -> Self {
        change(&mut self.memory);
        self
    }

    fn status(&self) -> Value {
        self.status_by("containerd")
    }

    fn status_by(&self, runtime: &str) -> Value {
        let pod = Pod::read(self.pod.clone()).unwrap();
        let look = Look {
            pod: &pod,
            observed: &self.observed,
            memory: &self.memory,
            now: NOW,
        };
        let place = Place {
            host_ips: vec!["192.0.2.7".to_owned()],
            runtime: runtime.into(),
        };
        status(look, &plan(look), &place)
    }
}

fn condition<'a>(status: &'a Value, ty: &str) -> &'a Value {
    status["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["type"] == ty)
        .unwrap()
}

#[test]
fn ids_begin_with_the_name_of_the_runtime() {
    let old = json!({
        "name": "a", "containerID": "containerd://a1", "state": {"running": {}}, "lastState": {"terminated": {"exitCode": 3}},
    });
    let scene = Scene::new(json!({}), json!({"containerStatuses": [old]})).seen("a", 1, State::Running, 0);
    let status = scene.status_by("cri-o");
    let told = &status["containerStatuses"][0];
    assert_eq!(told["containerID"], "cri-o://a1");
    assert_eq!(
        told["lastState"]["terminated"]["exitCode"], 3,
        "it is the same container"
    );
    let scene = Scene::new(json!({}), json!({})).seen("a", 0, State::Exited, 1);
    let end = &scene.status_by("cri-o")["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(end["containerID"], "cri-o://a0");
}

#[test]
fn a_new_pod_is_pending_and_says_what_it_waits_for() {
    let mut scene = Scene::new(json!({}), json!({"phase": "Pending", "qosClass": "BestEffort"}));
    scene.observed = Observed::default();
    let status = scene.status();
    assert_eq!(status["phase"], "Pending");
    assert_eq!(status["qosClass"], "BestEffort");
    assert_eq!(status["startTime"], "2026-11-21T00:00:00Z");
    let expected = json!({
        "name": "a", "image": "app", "imageID": "", "ready": false, "started": false, "restartCount": 0,
        "state": {"waiting": {"reason": "ContainerCreating"}}, "lastState": {}, "resources": {},
    });
    assert_eq!(status["containerStatuses"][0], expected);
    assert_eq!(condition(&status, "PodReadyToStartContainers")["status"], "False");
    assert_eq!(condition(&status, "Initialized")["status"], "True");
    assert_eq!(condition(&status, "PodScheduled")["status"], "True");
    let ready = condition(&status, "Ready");
    assert_eq!(
        (&ready["status"], &ready["reason"]),
        (&json!("False"), &json!("ContainersNotReady"))
    );
    assert_eq!(ready["message"], "containers with unready status: [a]");
    assert_eq!(ready["lastProbeTime"], Value::Null);
    assert!(status.get("podIP").is_none());
}

#[test]
fn a_running_pod_is_told_whole_and_telling_it_again_changes_nothing() {
    let spec = json!({"containers": [
        {"name": "b", "image": "app", "readinessProbe": {"exec": {"command": ["x"]}}},
        {"name": "a", "image": "app", "resources": {"requests": {"cpu": "10m"}}, "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": true}]},
    ]});
    let scene = Scene::new(spec, json!({}))
        .seen("a", 0, State::Running, 0)
        .seen("b", 2, State::Running, 0);
    let status = scene.status();
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["podIPs"], json!([{"ip": "10.42.0.9"}, {"ip": "fd00::9"}]));
    assert_eq!(status["hostIPs"], json!([{"ip": "192.0.2.7"}]));
    let expected = json!({
        "name": "a", "image": "docker.io/library/app:1", "imageID": "docker.io/library/app@sha256:1",
        "containerID": "containerd://a0", "ready": true, "started": true, "restartCount": 0,
        "state": {"running": {"startedAt": "2026-11-21T00:00:00Z"}}, "lastState": {},
        "resources": {"requests": {"cpu": "10m"}}, "allocatedResources": {"cpu": "10m"},
        "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": true, "recursiveReadOnly": "Disabled"}],
    });
    assert_eq!(status["containerStatuses"][0], expected, "by name");
    assert_eq!(status["containerStatuses"][1]["restartCount"], 2);
    assert_eq!(status["containerStatuses"][1]["ready"], false);
    assert_eq!(
        condition(&status, "ContainersReady")["message"],
        "containers with unready status: [b]"
    );
    let ready = |m: &mut Memory| {
        let said = Said {
            readiness: Some(true),
            ..Said::default()
        };
        m.said.insert("b2".to_owned(), said);
    };
    let mut scene = scene.remember(ready);
    let status = scene.status();
    assert_eq!(condition(&status, "Ready")["status"], "True");
    scene.pod["status"] = status.clone();
    assert_eq!(scene.status(), status);
}

#[test]
fn phases_are_those_of_the_kubelet() {
    use State::{Exited, Running};
    for (policy, ends, phase) in [
        ("Always", [(Exited, 0), (Exited, 1)], "Running"),
        ("OnFailure", [(Exited, 0), (Exited, 1)], "Running"),
        ("OnFailure", [(Exited, 0), (Exited, 0)], "Succeeded"),
        ("Never", [(Exited, 0), (Exited, 0)], "Succeeded"),
        ("Never", [(Exited, 0), (Exited, 1)], "Failed"),
        ("Never", [(Exited, 0), (Running, 0)], "Running"),
        ("Always", [(Running, 0), (Running, 0)], "Running"),
    ] {
        let spec = json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]});
        let mut scene = Scene::new(spec, json!({}));
        for (name, (state, code)) in ["a", "b"].into_iter().zip(ends) {
            scene = scene.seen(name, 0, state, code);
        }
        assert_eq!(scene.status()["phase"], phase, "{policy} {ends:?}");
    }
    let one = Scene::new(json!({"containers": [{"name": "a"}, {"name": "b"}]}), json!({})).seen("a", 0, Running, 0);
    assert_eq!(one.status()["phase"], "Pending");
    let kept = Scene::new(
        json!({}),
        json!({"phase": "Failed", "reason": "Evicted", "message": "m"}),
    )
    .seen("a", 0, Running, 0);
    let status = kept.status();
    assert_eq!(
        (&status["phase"], &status["reason"], &status["message"]),
        (&json!("Failed"), &json!("Evicted"), &json!("m"))
    );
}

#[test]
fn a_crash_is_told_with_its_wait_and_its_last_end() {
    let scene = Scene::new(json!({}), json!({})).seen("a", 3, State::Exited, 137);
    let status = scene.status();
    let container = &status["containerStatuses"][0];
    assert_eq!(
        container["state"]["waiting"],
        json!({"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container=a pod=p_default(u)"})
    );
    let end = &container["lastState"]["terminated"];
    assert_eq!((&end["exitCode"], &end["reason"]), (&json!(137), &json!("Error")));
    assert_eq!(end["containerID"], "containerd://a3");
    assert_eq!(
        (&container["restartCount"], &status["phase"]),
        (&json!(3), &json!("Running"))
    );
    let again = Scene::new(json!({}), status.clone())
        .seen("a", 3, State::Exited, 137)
        .seen("a", 4, State::Running, 0);
    let status = again.status();
    assert_eq!(
        status["containerStatuses"][0]["lastState"]["terminated"]["containerID"],
        "containerd://a3"
    );
    // The record of the end goes; what was told stays.
    let later = Scene::new(json!({}), status).seen("a", 4, State::Running, 0).status();
    assert_eq!(
        later["containerStatuses"][0]["lastState"]["terminated"]["exitCode"],
        137
    );
}

#[test]
fn what_cannot_be_started_waits_with_the_reason() {
    let refuse = |m: &mut Memory| {
        let refused = Refused {
            reason: "ImagePullBackOff".to_owned(),
            message: "Back-off pulling image \"app\"".to_owned(),
            retry_at: NOW + 1000,
            times: 1,
        };
        m.refused.insert("a".to_owned(), refused);
    };
    let status = Scene::new(json!({}), json!({})).remember(refuse).status();
    let expected = json!({"reason": "ImagePullBackOff", "message": "Back-off pulling image \"app\""});
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"], expected);
    assert_eq!(status["phase"], "Pending");
}

#[test]
fn init_containers_gate_the_condition_and_the_phase() {
    let spec = json!({"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]});
    let new = || Scene::new(spec.clone(), json!({}));
    let status = new().seen("i", 0, State::Running, 0).status();
    assert_eq!(
        status["containerStatuses"][0]["state"]["waiting"]["reason"],
        "PodInitializing"
    );
    let initialized = condition(&status, "Initialized");
    assert_eq!(initialized["reason"], "ContainersNotInitialized");
    assert_eq!(initialized["message"], "containers with incomplete status: [i s]");
    assert_eq!(status["phase"], "Pending");
    let status = new()
        .seen("i", 0, State::Exited, 0)
        .seen("s", 0, State::Running, 0)
        .status();
    assert_eq!(condition(&status, "Initialized")["status"], "True");
    assert_eq!(status["initContainerStatuses"][0]["ready"], true);
    assert_eq!(status["initContainerStatuses"][1]["started"], true);
    let lost = new()
        .seen("a", 0, State::Running, 0)
        .seen("s", 0, State::Running, 0)
        .status();
    assert_eq!(
        lost["initContainerStatuses"][0]["state"]["terminated"]["reason"],
        "Completed"
    );
    assert_eq!(lost["phase"], "Running");
}

#[test]
fn gates_and_conditions_of_others_are_kept_and_heeded() {
    let spec = json!({"readinessGates": [{"conditionType": "press/open"}]});
    let scene = Scene::new(spec.clone(), json!({})).seen("a", 0, State::Running, 0);
    let ready = scene.status();
    let ready = condition(&ready, "Ready");
    assert_eq!(ready["reason"], "ReadinessGatesNotReady");
    assert_eq!(
        ready["message"],
        "corresponding condition of pod readiness gate \"press/open\" does not exist."
    );
    let open = |status: &str| {
        let own = json!({"conditions": [{"type": "press/open", "status": status}]});
        Scene::new(spec.clone(), own).seen("a", 0, State::Running, 0).status()
    };
    assert_eq!(condition(&open("False"), "Ready")["status"], "False");
    let status = open("True");
    assert_eq!(condition(&status, "Ready")["status"], "True");
    let mut stored = json!({"status": {"resize": "x", "conditions": [{"type": "press/open", "status": "False"}]}});
    merge(&mut stored, status);
    assert_eq!(
        condition(&stored["status"], "press/open")["status"],
        "False",
        "somebody else's word is not undone"
    );
    assert_eq!(stored["status"]["conditions"].as_array().unwrap().len(), 6);
    assert_eq!(stored["status"]["resize"], "x");
}

#[test]
fn a_container_that_vanished_counts_as_one_restart() {
    let told = json!({"phase": "Running", "containerStatuses": [
        {"name": "a", "restartCount": 1, "containerID": "containerd://x", "state": {"running": {}}, "lastState": {}},
    ]});
    let status = Scene::new(json!({}), told).status();
    let container = &status["containerStatuses"][0];
    assert_eq!(container["lastState"]["terminated"]["reason"], "ContainerStatusUnknown");
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 137);
    assert_eq!(container["restartCount"], 2);
    assert_eq!(status["phase"], "Running", "it is no new pod");
    let again = Scene::new(json!({}), status).status();
    assert_eq!(again["containerStatuses"][0]["restartCount"], 2, "once");
}

#[test]
fn times_of_conditions_change_with_what_they_say() {
    let old = json!({"conditions": [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
        {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
    ]});
    let status = Scene::new(json!({}), old).status();
    assert_eq!(
        condition(&status, "PodScheduled")["lastTransitionTime"],
        "2026-01-01T00:00:00Z"
    );
    assert_eq!(
        condition(&status, "Ready")["lastTransitionTime"],
        "2026-11-21T00:00:00Z"
    );
}
