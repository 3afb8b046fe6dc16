use serde_json::{Value, json};

use super::super::memory::{Refused, Said};
use super::super::observed::Sandbox;
use super::*;

const NOW: u64 = 1_795_219_200_000;

/// A pod, what the runtime has of it and what its task remembers, changed step by step.
struct Scene {
    pod: Value,
    observed: Observed,
    memory: Memory,
    now: u64,
}

impl Scene {
    fn new(spec: Value) -> Self {
        let mut pod = json!({"metadata": {"name": "p", "namespace": "default", "uid": "u"}, "spec": spec});
        if pod["spec"]["containers"].is_null() {
            pod["spec"]["containers"] = json!([{"name": "a"}]);
        }
        if pod["spec"]["restartPolicy"].is_null() {
            pod["spec"]["restartPolicy"] = "Always".into();
        }
        Self {
            pod,
            observed: Observed::default(),
            memory: Memory::default(),
            now: NOW,
        }
    }

    fn status(mut self, status: Value) -> Self {
        self.pod["status"] = status;
        self
    }

    fn deleted(mut self, grace: i64, at: u64) -> Self {
        self.pod["metadata"]["deletionTimestamp"] = crate::time::stamp(at).into();
        self.pod["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        self
    }

    fn sandbox(mut self, id: &str, attempt: u32, ready: bool) -> Self {
        self.observed.put_sandbox(Sandbox {
            id: id.to_owned(),
            attempt,
            ready,
            created: i64::from(attempt) + 1,
            ips: if ready {
                vec!["10.42.0.2".to_owned()]
            } else {
                Vec::new()
            },
        });
        self
    }

    /// `state`: `created`, `running`, `unknown`, or an exit code; it ended `ago` milliseconds before now, after a second.
    fn container(mut self, name: &str, attempt: u32, sandbox: &str, state: &str, ago: u64) -> Self {
        let code = state.parse::<i32>().ok();
        let ended = i64::try_from(NOW - ago).unwrap() * 1_000_000;
        self.observed.put(Seen {
            id: format!("{name}{attempt}"),
            name: name.to_owned(),
            attempt,
            sandbox: sandbox.to_owned(),
            state: match state {
                "created" => State::Created,
                "running" => State::Running,
                "unknown" => State::Unknown,
                _ => State::Exited,
            },
            created: 1 + i64::from(attempt),
            started: if state == "created" { 0 } else { ended - 1_000_000_000 },
            finished: if code.is_some() { ended } else { 0 },
            exit_code: code.unwrap_or(0),
            ..Seen::default()
        });
        self
    }

    fn remember(mut self, change: impl FnOnce(&mut Memory)) -> Self {
        change(&mut self.memory);
        self
    }

    fn plan(&self) -> Plan {
        let pod = Pod::read(self.pod.clone()).unwrap();
        plan(Look {
            pod: &pod,
            observed: &self.observed,
            memory: &self.memory,
            now: self.now,
        })
    }

    /// The actions, each as a few words.
    fn does(&self) -> Vec<String> {
        self.plan().actions.iter().map(words).collect()
    }
}

fn words(action: &Action) -> String {
    match action {
        Action::RunSandbox { attempt } => format!("sandbox {attempt}"),
        Action::StopSandbox { id } => format!("stop sandbox {id}"),
        Action::RemoveSandbox { id } => format!("remove sandbox {id}"),
        Action::Start { name, attempt, sandbox } => format!("start {name} {attempt} in {sandbox}"),
        Action::Stop { id, deadline, .. } => format!("stop {id} within {}", (deadline - NOW) / 1000),
        Action::RemoveContainer { id } => format!("remove {id}"),
        Action::Resize { id, .. } => format!("resize {id}"),
        Action::GiveUp { name } => format!("give up {name}"),
        Action::TearDown => "tear down".to_owned(),
        Action::Delete => "delete".to_owned(),
    }
}

#[test]
fn a_pod_comes_up_step_by_step() {
    let spec = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    let new = || Scene::new(spec.clone());
    assert_eq!(new().does(), ["sandbox 0"]);
    assert!(new().remember(|m| m.busy.sandbox = true).does().is_empty());
    let up = || new().sandbox("s", 0, true);
    assert_eq!(up().does(), ["start a 0 in s"]);
    let starting = up().remember(|m| {
        m.busy.starts.insert("a".to_owned());
    });
    assert!(starting.does().is_empty(), "one at a time");
    let first = || up().container("a", 0, "s", "running", 0);
    assert_eq!(first().does(), ["start b 0 in s"]);
    let both = first().container("b", 0, "s", "running", 0);
    assert_eq!((both.does(), both.plan().goal), (vec![], Goal::Run));
}

#[test]
fn a_container_that_cannot_be_started_does_not_hold_up_the_next() {
    let scene = Scene::new(json!({"containers": [{"name": "a"}, {"name": "b"}]}))
        .sandbox("s", 0, true)
        .remember(|m| {
            let refused = Refused {
                retry_at: NOW + 5000,
                ..Refused::default()
            };
            m.refused.insert("a".to_owned(), refused);
        });
    assert_eq!(scene.does(), ["start b 0 in s"]);
    assert_eq!(scene.plan().wake_at, Some(NOW + 5000));
}

#[test]
fn init_containers_come_in_order_and_again_in_a_new_sandbox() {
    let spec = json!({"initContainers": [{"name": "i"}, {"name": "j"}]});
    let up = || Scene::new(spec.clone()).sandbox("s", 0, true);
    assert_eq!(up().does(), ["start i 0 in s"]);
    assert!(up().container("i", 0, "s", "running", 0).does().is_empty());
    assert_eq!(up().container("i", 0, "s", "0", 0).does(), ["start j 0 in s"]);
    let done = || up().container("i", 0, "s", "0", 0).container("j", 0, "s", "0", 0);
    assert_eq!(done().does(), ["start a 0 in s"]);
    assert!(done().container("a", 0, "s", "running", 0).does().is_empty());
    let lost = up().container("a", 0, "s", "running", 0);
    assert!(lost.does().is_empty(), "they ran, whatever became of their records");
    let again = done()
        .container("a", 0, "s", "137", 5000)
        .sandbox("s", 0, false)
        .sandbox("t", 1, true);
    let again = again.remember(|m| {
        m.stopped.insert("s".to_owned());
    });
    assert_eq!(again.does(), ["start i 1 in t"]);
}

#[test]
fn an_init_container_that_fails_is_tried_again_unless_never() {
    let fails = |policy: &str, attempt: u32| {
        Scene::new(json!({"restartPolicy": policy, "initContainers": [{"name": "i"}]}))
            .sandbox("s", 0, true)
            .container("i", attempt, "s", "2", 1000)
    };
    assert_eq!(fails("Always", 0).does(), ["start i 1 in s"]);
    let waits = fails("OnFailure", 1);
    assert!(waits.does().is_empty());
    assert_eq!(waits.plan().wake_at, Some(NOW - 1000 + 10_000));
    let over = fails("Never", 0);
    assert_eq!(over.plan().goal, Goal::End(None));
    assert_eq!(over.does(), ["stop sandbox s"]);
}

#[test]
fn sidecars_start_before_what_follows_them_and_end_last() {
    let spec = json!({
        "restartPolicy": "Never",
        "initContainers": [
            {"name": "x", "restartPolicy": "Always", "startupProbe": {"exec": {"command": ["up"]}}},
            {"name": "y", "restartPolicy": "Always"},
        ],
    });
    let up = || Scene::new(spec.clone()).sandbox("s", 0, true);
    assert_eq!(up().does(), ["start x 0 in s"]);
    let waits = up().container("x", 0, "s", "running", 0);
    assert!(waits.does().is_empty(), "its startup probe has not said yes");
    let started = |m: &mut Memory| {
        let said = Said {
            startup: Some(true),
            ..Said::default()
        };
        m.said.insert("x0".to_owned(), said);
    };
    assert_eq!(
        up().container("x", 0, "s", "running", 0).remember(started).does(),
        ["start y 0 in s"]
    );
    let all = |main: &str| {
        up().container("x", 0, "s", "running", 0)
            .container("y", 0, "s", "running", 0)
            .container("a", 0, "s", main, 1000)
            .remember(started)
    };
    assert!(all("running").does().is_empty());
    let died = up()
        .container("x", 0, "s", "1", 1000)
        .container("a", 0, "s", "running", 0)
        .remember(|m| {
            m.busy.starts.insert("y".to_owned());
        });
    assert!(died.does().is_empty(), "one start at a time");
    let died = up()
        .container("x", 0, "s", "1", 1000)
        .container("y", 0, "s", "running", 0);
    let died = died.container("a", 0, "s", "running", 0);
    assert_eq!(died.does(), ["start x 1 in s"], "it is started again beside what runs");
    // The main container is done: the last sidecar goes first.
    assert_eq!(all("0").does(), ["stop y0 within 30"]);
    let stopping = all("0").remember(|m| {
        m.busy.ids.insert("y0".to_owned());
    });
    assert!(stopping.does().is_empty());
    let next = up()
        .container("x", 0, "s", "running", 0)
        .container("y", 0, "s", "143", 0)
        .container("a", 0, "s", "0", 0);
    assert_eq!(next.does(), ["stop x0 within 30"]);
}

#[test]
fn what_ended_runs_again_by_policy_and_waits_longer_each_time() {
    let ended = |policy: &str, attempt: u32, code: &str, ago: u64| {
        Scene::new(json!({"restartPolicy": policy}))
            .sandbox("s", 0, true)
            .container("a", attempt, "s", code, ago)
    };
    for (policy, code, again) in [
        ("Always", "0", true),
        ("Always", "1", true),
        ("OnFailure", "0", false),
        ("OnFailure", "1", true),
        ("Never", "0", false),
        ("Never", "1", false),
    ] {
        let scene = ended(policy, 0, code, 0);
        assert_eq!(scene.plan().goal == Goal::Run, again, "{policy} {code}");
        assert_eq!(
            scene.does(),
            [if again { "start a 1 in s" } else { "stop sandbox s" }],
            "{policy} {code}"
        );
    }
    for (attempt, wait) in [(1, 10), (2, 20), (3, 40), (4, 80), (5, 160), (6, 300), (60, 300)] {
        let waits = ended("Always", attempt, "1", wait * 1000 - 1);
        assert_eq!(waits.plan().backing_off, [("a".to_owned(), wait * 1000)]);
        assert!(waits.does().is_empty());
        let due = ended("Always", attempt, "1", wait * 1000);
        assert_eq!(due.does(), [format!("start a {} in s", attempt + 1)]);
    }
    let well = ended("Always", 7, "1", 0).remember(|m| {
        m.counted_from.insert("a".to_owned(), 7);
    });
    assert_eq!(well.does(), ["start a 8 in s"], "it ran well before");
    let mut set_back = ended("Always", 3, "1", 0);
    set_back.now = NOW - 3_600_000;
    assert_eq!(
        set_back.does(),
        ["start a 4 in s"],
        "a clock that was set back keeps nobody waiting"
    );
}

#[test]
fn of_no_container_two_instances_run() {
    let up = || Scene::new(json!({})).sandbox("s", 0, true);
    assert_eq!(up().container("a", 2, "s", "unknown", 0).does(), ["remove a2"]);
    assert_eq!(
        up().container("a", 0, "s", "created", 0).does(),
        ["remove a0"],
        "made and never started"
    );
    let other = Scene::new(json!({}))
        .sandbox("s", 0, false)
        .sandbox("t", 1, true)
        .container("a", 0, "s", "running", 0);
    assert_eq!(
        other.does(),
        ["stop a0 within 30"],
        "the one in a dead sandbox ends first"
    );
    let stopping = up().container("a", 0, "s", "1", 0).remember(|m| {
        m.busy.ids.insert("a0".to_owned());
    });
    assert!(stopping.does().is_empty());
}

#[test]
fn a_dead_sandbox_keeps_the_next_waiting_only_where_it_stands_in_its_way() {
    let dead = |spec: Value| {
        Scene::new(spec)
            .sandbox("s", 0, false)
            .container("a", 0, "s", "137", 60_000)
    };
    let stopped = |m: &mut Memory| {
        m.stopped.insert("s".to_owned());
    };
    let next = dead(json!({}));
    assert_eq!(next.does(), ["sandbox 1"], "as after a power cut");
    let refused = next.remember(|m| {
        m.sandbox_refused = Some(Refused {
            retry_at: NOW + 1000,
            ..Refused::default()
        });
    });
    assert_eq!(refused.does(), ["stop sandbox s"], "its address may be what is missing");
    let port = json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
    assert_eq!(
        dead(port.clone()).does(),
        ["stop sandbox s"],
        "its port is taken until then"
    );
    assert_eq!(dead(port).remember(stopped).does(), ["sandbox 1"]);
    let alive = Scene::new(json!({}))
        .sandbox("s", 0, false)
        .container("a", 0, "s", "unknown", 0);
    assert_eq!(alive.does(), ["stop a0 within 30"], "something in it may run");

    let again = dead(json!({})).sandbox("t", 1, false);
    assert_eq!(
        again.does(),
        ["stop sandbox s"],
        "one that dies soon does not leave two behind"
    );
    assert_eq!(again.remember(stopped).does(), ["sandbox 2"]);

    // Then it is tidied away in peace.
    let mut both = dead(json!({})).sandbox("t", 1, true);
    both.observed.sandboxes[0].created = i64::try_from(NOW).unwrap() * 1_000_000;
    assert_eq!(both.does(), ["start a 1 in t"]);
    assert_eq!(both.plan().wake_at, Some(NOW + 5000));
    both.now = NOW + 5000;
    assert_eq!(both.does(), ["stop sandbox s", "start a 1 in t"]);
    both.now = NOW - 1;
    assert_eq!(
        both.does(),
        ["stop sandbox s", "start a 1 in t"],
        "a clock that was set back"
    );
    let replaced = Scene::new(json!({}))
        .remember(stopped)
        .sandbox("s", 0, false)
        .sandbox("t", 1, true);
    assert_eq!(
        replaced.container("a", 1, "t", "running", 0).does(),
        ["remove sandbox s"]
    );
    let two = Scene::new(json!({}))
        .sandbox("s", 0, true)
        .sandbox("t", 1, true)
        .container("a", 0, "t", "running", 0);
    assert_eq!(two.does(), ["stop sandbox s"]);
    let mut mute = Scene::new(json!({})).sandbox("s", 0, true);
    mute.observed.sandboxes[0].ips.clear();
    assert_eq!(mute.does(), ["stop sandbox s"], "without an address it is of no use");
    mute.pod["spec"]["hostNetwork"] = true.into();
    assert_eq!(mute.does(), ["start a 0 in s"]);
}

#[test]
fn after_a_reboot_what_is_done_stays_done() {
    // The runtime forgot everything; the status tells.
    let told = |policy: &str, state: Value| {
        let status = json!({"phase": "Running", "containerStatuses": [{"name": "a", "restartCount": 3, "containerID": "containerd://x", "state": state}]});
        Scene::new(json!({"restartPolicy": policy})).status(status)
    };
    let ended = |code: i32| json!({"terminated": {"exitCode": code}});
    let running = json!({"running": {"startedAt": "2026-11-20T00:00:00Z"}});
    assert_eq!(told("Always", running.clone()).does(), ["sandbox 0"]);
    assert_eq!(told("OnFailure", ended(0)).does(), ["tear down"]);
    assert_eq!(told("OnFailure", ended(1)).does(), ["sandbox 0"]);
    assert_eq!(told("Never", ended(1)).does(), ["tear down"]);
    assert_eq!(told("Never", running.clone()).does(), ["tear down"]);
    assert_eq!(
        told("Always", running.clone()).sandbox("t", 0, true).does(),
        ["start a 4 in t"]
    );
    assert_eq!(
        told("Always", ended(0)).sandbox("t", 0, true).does(),
        ["start a 4 in t"]
    );
    let finished = Scene::new(json!({})).status(json!({"phase": "Succeeded"}));
    assert_eq!(finished.does(), ["tear down"]);
    // The runtime remembers: the pod that may not run twice is not.
    let once = Scene::new(json!({"restartPolicy": "Never"}))
        .sandbox("s", 0, false)
        .container("a", 0, "s", "255", 0);
    assert_eq!(once.plan().goal, Goal::End(None));
}

#[test]
fn a_deleted_pod_goes_to_the_last_trace() {
    let spec = json!({"terminationGracePeriodSeconds": 40});
    let up = || {
        Scene::new(spec.clone())
            .sandbox("s", 0, true)
            .container("a", 0, "s", "running", 0)
    };
    assert_eq!(up().deleted(30, NOW + 30_000).does(), ["stop a0 within 30"]);
    assert_eq!(
        up().deleted(30, NOW + 12_000).does(),
        ["stop a0 within 12"],
        "what is left after a restart"
    );
    assert_eq!(up().deleted(0, NOW).does(), ["stop a0 within 2"]);
    assert_eq!(up().deleted(30, NOW - 3_600_000).does(), ["stop a0 within 2"]);
    assert_eq!(
        up().deleted(30, NOW + 3_600_000).does(),
        ["stop a0 within 30"],
        "the clock was set back"
    );
    let stopping = |until: u64| {
        up().deleted(5, NOW + 5000).remember(move |m| {
            m.busy.ids.insert("a0".to_owned());
            m.busy.stops.insert("a0".to_owned(), until);
        })
    };
    assert!(stopping(NOW + 5000).does().is_empty());
    assert_eq!(
        stopping(NOW + 30_000).does(),
        ["stop a0 within 5"],
        "it was given less time"
    );
    let ended = || {
        Scene::new(spec.clone())
            .sandbox("s", 0, true)
            .container("a", 0, "s", "0", 0)
            .deleted(30, NOW)
    };
    assert_eq!(ended().does(), ["stop sandbox s"]);
    let stopped = |m: &mut Memory| {
        m.stopped.insert("s".to_owned());
    };
    let dead = || {
        Scene::new(spec.clone())
            .sandbox("s", 0, false)
            .container("a", 0, "s", "0", 0)
            .deleted(30, NOW)
    };
    assert_eq!(dead().remember(stopped).does(), ["remove sandbox s"]);
    let gone = || Scene::new(spec.clone()).deleted(30, NOW);
    assert_eq!(gone().does(), ["tear down"]);
    assert!(gone().remember(|m| m.busy.volumes = true).does().is_empty());
    assert_eq!(gone().remember(|m| m.torn_down = true).does(), ["delete"]);
    let stray = gone().container("a", 0, "s", "0", 0);
    assert_eq!(stray.does(), ["remove a0"], "a record without a sandbox");
    let starting = gone().remember(|m| {
        m.busy.starts.insert("a".to_owned());
    });
    assert_eq!(starting.does(), ["give up a"]);
    assert!(!starting.plan().ended);
}

#[test]
fn a_probe_that_failed_ends_the_container_with_its_own_grace() {
    let spec = json!({"containers": [{
        "name": "a",
        "livenessProbe": {"exec": {"command": ["x"]}, "terminationGracePeriodSeconds": 7},
        "startupProbe": {"exec": {"command": ["x"]}},
    }]});
    let said = |said: Said| {
        Scene::new(spec.clone())
            .sandbox("s", 0, true)
            .container("a", 0, "s", "running", 0)
            .remember(move |m| {
                m.said.insert("a0".to_owned(), said);
            })
    };
    let live = said(Said {
        startup: Some(true),
        liveness: Some(false),
        ..Said::default()
    });
    assert_eq!(live.does(), ["stop a0 within 7"]);
    let Some(Action::Stop { message, .. }) = live.plan().actions.pop() else {
        panic!("it is stopped");
    };
    assert_eq!(message, "Container a failed liveness probe, will be restarted");
    let start = said(Said {
        startup: Some(false),
        ..Said::default()
    });
    assert_eq!(start.does(), ["stop a0 within 30"]);
    let unready = said(Said {
        startup: Some(true),
        readiness: Some(false),
        ..Said::default()
    });
    assert!(unready.does().is_empty());
}

#[test]
fn of_each_container_the_last_end_is_kept() {
    let scene = Scene::new(json!({}))
        .sandbox("s", 0, true)
        .container("a", 0, "s", "1", 3000)
        .container("a", 1, "s", "1", 2000)
        .container("a", 2, "s", "running", 0);
    assert_eq!(scene.does(), ["remove a0"]);
}

#[test]
fn a_deadline_and_an_eviction_end_the_pod() {
    let spec = json!({"activeDeadlineSeconds": 60});
    let late = |start: u64| {
        let status = json!({"phase": "Running", "startTime": crate::time::stamp(start)});
        Scene::new(spec.clone())
            .status(status)
            .sandbox("s", 0, true)
            .container("a", 0, "s", "running", 0)
    };
    assert!(late(NOW - 59_000).does().is_empty());
    assert_eq!(late(NOW - 59_000).plan().wake_at, Some(NOW + 1000));
    assert_eq!(late(NOW - 60_000).does(), ["stop a0 within 30"]);
    let evicted = late(NOW).remember(|m| {
        m.verdict = Some(Verdict {
            reason: "Evicted".to_owned(),
            message: String::new(),
            grace: Some(0),
            disruption: None,
        });
    });
    assert_eq!(evicted.does(), ["stop a0 within 2"]);
}

#[test]
fn a_debug_container_runs_once_beside_whatever_goes_on() {
    let spec = json!({"initContainers": [{"name": "i"}], "ephemeralContainers": [{"name": "d"}]});
    let up = || {
        Scene::new(spec.clone())
            .sandbox("s", 0, true)
            .container("i", 0, "s", "running", 0)
    };
    assert_eq!(up().does(), ["start d 0 in s"]);
    assert!(up().container("d", 0, "s", "1", 0).does().is_empty());
}

#[test]
fn resources_change_in_place_or_by_another_start() {
    let scene = |policy: &str, now: &str| {
        let resources = json!({"limits": {"cpu": now}});
        let policy = json!([{"resourceName": "cpu", "restartPolicy": policy}]);
        let container = json!({"name": "a", "resources": resources, "resizePolicy": policy});
        let told = json!({"name": "a", "containerID": "containerd://a0", "resources": {"limits": {"cpu": "1"}}});
        Scene::new(json!({"containers": [container]}))
            .status(json!({"containerStatuses": [told]}))
            .sandbox("s", 0, true)
            .container("a", 0, "s", "running", 0)
    };
    assert!(scene("NotRequired", "1").does().is_empty());
    assert_eq!(scene("NotRequired", "2").does(), ["resize a0"]);
    assert_eq!(scene("RestartContainer", "2").does(), ["stop a0 within 30"]);
    let pod = Pod::read(scene("NotRequired", "2").pod).unwrap();
    let print = crate::time::fingerprint(&resources_of(&pod.spec.containers[0]).to_string());
    let done = scene("NotRequired", "2").remember(|m| {
        m.resized.insert("a0".to_owned(), print);
    });
    assert!(done.does().is_empty());
}

#[test]
fn the_newest_is_the_last_attempt_though_the_clock_was_set_back() {
    let mut scene = Scene::new(json!({}));
    for attempt in 0..2_u32 {
        let (sandbox, created) = (format!("s{attempt}"), 10 - i64::from(attempt));
        scene.observed.put_sandbox(Sandbox {
            id: sandbox.clone(),
            attempt,
            ready: attempt == 1,
            created,
            ips: vec!["10.42.0.2".to_owned()],
        });
        scene.observed.put(Seen {
            id: format!("a{attempt}"),
            name: "a".to_owned(),
            attempt,
            sandbox,
            state: if attempt == 1 { State::Running } else { State::Exited },
            created,
            ..Seen::default()
        });
    }
    scene.memory.stopped.insert("s0".to_owned());
    assert!(scene.does().is_empty());
}

#[test]
fn a_clock_that_was_set_back_holds_up_no_other_try() {
    let refused = Refused {
        retry_at: NOW + 5000,
        ..Refused::default()
    };
    let mut waits = Scene::new(json!({})).remember(|m| m.sandbox_refused = Some(refused.clone()));
    assert!(waits.does().is_empty());
    waits.now = NOW - 3_600_000;
    assert_eq!(waits.does(), ["sandbox 0"]);
    let mut waits = Scene::new(json!({})).sandbox("s", 0, true);
    waits.memory.refused.insert("a".to_owned(), refused);
    assert!(waits.does().is_empty());
    waits.now = NOW - 3_600_000;
    assert_eq!(waits.does(), ["start a 0 in s"]);
}

#[test]
fn no_grace_is_too_long_to_be_counted() {
    let up = || {
        Scene::new(json!({"terminationGracePeriodSeconds": i64::MAX}))
            .sandbox("s", 0, true)
            .container("a", 0, "s", "running", 0)
    };
    assert_eq!(up().deleted(i64::MAX, NOW).does(), ["stop a0 within 2"]);
    let evicted = up().remember(|m| {
        m.verdict = Some(Verdict {
            reason: "Evicted".to_owned(),
            message: String::new(),
            grace: None,
            disruption: None,
        });
    });
    assert_eq!(evicted.does(), [format!("stop a0 within {MAX_GRACE}")]);
}

#[test]
fn a_container_of_another_definition_is_started_again_whatever_the_policy() {
    let scene = |policy: &str, state: &str, attempt: u32, image: &str| {
        let made_of = Container {
            name: "a".to_owned(),
            image: image.to_owned(),
            ..Container::default()
        };
        let mut scene = Scene::new(json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "new"}]}))
            .sandbox("s", 0, true)
            .container("a", attempt, "s", state, 0);
        scene.observed.containers[0].hash = crate::setup::hash(&made_of);
        scene
    };
    assert!(scene("Always", "running", 0, "new").does().is_empty());
    let other = scene("Never", "running", 0, "old");
    assert_eq!(other.does(), ["stop a0 within 30"]);
    let Some(Action::Stop { message, .. }) = other.plan().actions.pop() else {
        panic!("it is stopped");
    };
    assert_eq!(message, "Container a definition changed, will be restarted");
    assert_eq!(scene("Never", "0", 0, "old").does(), ["start a 1 in s"]);
    assert_eq!(scene("Never", "0", 0, "new").plan().goal, Goal::End(None));
    assert!(scene("Always", "1", 3, "new").does().is_empty());
    assert_eq!(
        scene("Always", "1", 3, "old").does(),
        ["start a 4 in s"],
        "it need not wait"
    );
}
