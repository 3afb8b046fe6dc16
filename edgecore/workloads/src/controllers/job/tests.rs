use serde_json::{Value, json};

use super::*;
use crate::controllers::bench::{Bench, Hands};
use crate::controllers::look::{annotation, is_active};

/// A Job controller on a bench, with a clock that stands.
pub(super) struct Shop {
    pub(super) bench: Bench,
    pub(super) hands: Hands,
    pub(super) all: [Arc<dyn Controller>; 1],
}

impl Shop {
    pub(super) async fn open() -> Self {
        let bench = Bench::start().await;
        let hands = Hands::at("2026-11-21T10:00:00Z");
        let all = [job(bench.cluster.clone(), bench.events.clone(), hands.clock())];
        Self { bench, hands, all }
    }

    /// Makes the Job `j`.
    pub(super) async fn job(&self, spec: Value) -> Value {
        let pod = json!({"containers": [{"name": "main", "image": "i"}], "restartPolicy": "Never"});
        let mut whole = json!({"template": {"spec": pod}});
        for (field, value) in spec.as_object().unwrap() {
            whole[field] = value.clone();
        }
        self.bench
            .create(json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": whole}))
            .await
    }

    pub(super) async fn settle(&self) {
        self.bench.settle(&self.all).await;
    }

    /// When the Job wants to be looked at again, in seconds.
    async fn again(&self) -> Option<u64> {
        let again = self.all[0].reconcile(&Key::new("plant", "j")).await.unwrap();
        again.map(|d| d.as_secs())
    }

    pub(super) fn status(&self) -> Value {
        self.bench.get(JOBS, "j")["status"].clone()
    }

    /// Names of the pods that are active, by index and age.
    pub(super) fn active(&self) -> Vec<String> {
        let mut pods = self.bench.list(PODS);
        pods.retain(is_active);
        pods.sort_by_key(|p| {
            (
                picture::index(p),
                text(p, "/metadata/resourceVersion").parse::<u64>().ok(),
            )
        });
        pods.iter().map(|p| name(p).to_owned()).collect()
    }

    /// A pod ends now with a code.
    pub(super) async fn exits(&self, pod: &str, code: i64) {
        let at = self.hands.stamp();
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        self.bench
            .status(PODS, &Key::new("plant", pod), |p| {
                p["status"]["phase"] = phase.into();
                p["status"]["containerStatuses"] = json!([{"name": "main", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"terminated": {"exitCode": code, "finishedAt": at, "startedAt": at}}}]);
            })
            .await;
    }

    fn conditions(&self) -> Vec<String> {
        let status = self.status();
        let line = |c: &Value| {
            format!(
                "{}={} {}: {}",
                text(c, "/type"),
                text(c, "/status"),
                text(c, "/reason"),
                text(c, "/message")
            )
        };
        list(&json!({ "status": status }), "/status/conditions")
            .iter()
            .map(line)
            .collect()
    }
}

#[tokio::test]
async fn pods_are_made_until_enough_have_succeeded() {
    let mut shop = Shop::open().await;
    shop.job(json!({"completions": 3, "parallelism": 2})).await;
    shop.settle().await;
    let first = shop.active();
    assert_eq!(first.len(), 2);
    let pod = shop.bench.get(PODS, &first[0]);
    assert_eq!(pod["metadata"]["generateName"], "j-");
    assert_eq!(pod["metadata"]["finalizers"], json!([FINALIZER]));
    assert_eq!(label(&pod, "batch.kubernetes.io/job-name"), Some("j"));
    assert_eq!(
        shop.status(),
        json!({"active": 2, "ready": 0, "terminating": 0, "startTime": "2026-11-21T10:00:00Z", "uncountedTerminatedPods": {}})
    );
    shop.hands.turn(5);
    shop.exits(&first[0], 0).await;
    shop.exits(&first[1], 0).await;
    shop.settle().await;
    assert_eq!(shop.active().len(), 1, "one is missing still");
    assert_eq!(shop.status()["succeeded"], 2);
    assert!(!is_held(&shop.bench.get(PODS, &first[0])));
    shop.exits(&shop.active()[0], 0).await;
    shop.settle().await;
    assert_eq!(
        shop.status(),
        json!({"succeeded": 3, "ready": 0, "terminating": 0, "startTime": "2026-11-21T10:00:00Z",
            "completionTime": "2026-11-21T10:00:05Z", "uncountedTerminatedPods": {}, "conditions": [
            {"type": "SuccessCriteriaMet", "status": "True", "reason": "CompletionsReached", "message": "Reached expected number of succeeded pods",
                "lastProbeTime": "2026-11-21T10:00:05Z", "lastTransitionTime": "2026-11-21T10:00:05Z"},
            {"type": "Complete", "status": "True", "reason": "CompletionsReached", "message": "Reached expected number of succeeded pods",
                "lastProbeTime": "2026-11-21T10:00:05Z", "lastTransitionTime": "2026-11-21T10:00:05Z"}]})
    );
    assert_eq!(
        shop.bench.told.take().last().unwrap(),
        "Normal Completed j: Job completed"
    );
}

#[tokio::test]
async fn each_failure_waits_longer_until_there_were_too_many() {
    let shop = Shop::open().await;
    shop.job(json!({"backoffLimit": 2})).await;
    shop.settle().await;
    for wait in [10, 20] {
        shop.exits(&shop.active()[0], 1).await;
        shop.settle().await;
        assert!(shop.active().is_empty());
        assert_eq!(shop.again().await, Some(wait));
        shop.hands.turn(i64::try_from(wait).unwrap() - 1);
        assert_eq!(shop.again().await, Some(1));
        shop.hands.turn(1);
        shop.settle().await;
        assert_eq!(shop.active().len(), 1);
    }
    shop.exits(&shop.active()[0], 1).await;
    shop.settle().await;
    let why = "BackoffLimitExceeded: Job has reached the specified backoff limit";
    assert_eq!(
        shop.conditions(),
        [format!("FailureTarget=True {why}"), format!("Failed=True {why}")]
    );
    assert_eq!(shop.status()["failed"], 3);
    assert!(shop.status().get("completionTime").is_none());
}

#[tokio::test]
async fn each_index_once() {
    let shop = Shop::open().await;
    let spec = json!({"completions": 5, "parallelism": 3, "completionMode": "Indexed"});
    shop.job(spec).await;
    shop.settle().await;
    let pods = shop.active();
    assert_eq!(pods.len(), 3);
    let pod = shop.bench.get(PODS, &pods[1]);
    assert!(name(&pod).starts_with("j-1-"), "{pods:?}");
    assert_eq!((annotation(&pod, INDEX), label(&pod, INDEX)), (Some("1"), Some("1")));
    assert_eq!(pod["spec"]["hostname"], "j-1");
    assert_eq!(
        pod["spec"]["containers"][0]["env"],
        json!([{"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {"apiVersion": "v1",
            "fieldPath": "metadata.labels['batch.kubernetes.io/job-completion-index']"}}}])
    );
    shop.exits(&pods[0], 0).await;
    shop.exits(&pods[2], 0).await;
    shop.settle().await;
    assert_eq!(shop.status()["completedIndexes"], "0,2");
    assert_eq!(shop.status()["succeeded"], 2);
    let pods = shop.active();
    assert!(pods[1].starts_with("j-3-") && pods[2].starts_with("j-4-"), "{pods:?}");
    for pod in shop.active() {
        shop.exits(&pod, 0).await;
    }
    shop.settle().await;
    assert_eq!(shop.status()["completedIndexes"], "0-4");
    assert!(shop.conditions()[1].starts_with("Complete=True CompletionsReached"));
}

#[tokio::test]
async fn an_index_that_failed_too_often_fails_alone() {
    let shop = Shop::open().await;
    shop.job(json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 1}))
        .await;
    shop.settle().await;
    shop.exits(&shop.active()[0], 1).await;
    shop.settle().await;
    assert_eq!(shop.active().len(), 1);
    assert_eq!(shop.status().get("failed"), None, "held until its successor is there");
    assert_eq!(shop.again().await, Some(10));
    shop.hands.turn(10);
    shop.settle().await;
    assert_eq!(shop.status()["failed"], 1);
    let again = shop.active()[0].clone();
    assert!(again.starts_with("j-0-"));
    assert_eq!(annotation(&shop.bench.get(PODS, &again), FAILURES), Some("1"));
    shop.exits(&again, 1).await;
    shop.settle().await;
    assert_eq!(shop.status()["failedIndexes"], "0");
    shop.exits(&shop.active()[0], 0).await;
    shop.settle().await;
    assert_eq!(
        shop.conditions(),
        [
            "FailureTarget=True FailedIndexes: Job has failed indexes",
            "Failed=True FailedIndexes: Job has failed indexes"
        ]
    );
    assert_eq!(shop.status()["completedIndexes"], "1");
}

#[tokio::test]
async fn too_many_failed_indexes_end_the_job() {
    let shop = Shop::open().await;
    let spec = json!({"completions": 4, "parallelism": 4, "completionMode": "Indexed", "backoffLimitPerIndex": 0, "maxFailedIndexes": 1});
    shop.job(spec).await;
    shop.settle().await;
    let pods = shop.active();
    shop.exits(&pods[0], 1).await;
    shop.settle().await;
    assert_eq!(shop.active().len(), 3);
    shop.exits(&pods[3], 1).await;
    shop.settle().await;
    assert_eq!(
        shop.conditions().last().unwrap(),
        "Failed=True MaxFailedIndexesExceeded: Job has exceeded the specified maximal number of failed indexes"
    );
    assert_eq!(shop.status()["failedIndexes"], "0,3");
    assert_eq!(shop.status()["failed"], 4, "who still ran has failed with it");
}

#[tokio::test]
async fn the_failure_policy_decides() {
    let shop = Shop::open().await;
    let rules = json!({"rules": [
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]});
    shop.job(json!({"backoffLimit": 0, "podFailurePolicy": rules})).await;
    shop.settle().await;
    let first = shop.active()[0].clone();
    shop.bench
        .status(PODS, &Key::new("plant", &*first), |p| {
            let disrupted =
                json!({"type": "DisruptionTarget", "status": "True", "lastTransitionTime": "2026-11-21T10:00:00Z"});
            crate::controllers::look::set_condition(p, &disrupted);
        })
        .await;
    shop.exits(&first, 137).await;
    shop.settle().await;
    assert_eq!(shop.status().get("failed"), None);
    shop.hands.turn(10);
    shop.settle().await;
    let second = shop.active()[0].clone();
    shop.exits(&second, 42).await;
    shop.settle().await;
    let why = format!(
        "PodFailurePolicy: Container main for pod plant/{second} failed with exit code 42 matching FailJob rule at index 0"
    );
    assert_eq!(
        shop.conditions(),
        [format!("FailureTarget=True {why}"), format!("Failed=True {why}")]
    );
    assert_eq!(shop.status()["failed"], 1);
}

#[tokio::test]
async fn some_successes_are_enough_and_the_rest_is_stopped() {
    let shop = Shop::open().await;
    let spec = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed", "successPolicy": {"rules": [{"succeededIndexes": "1"}]}});
    shop.job(spec).await;
    shop.settle().await;
    shop.exits(&shop.active()[1], 0).await;
    shop.settle().await;
    assert!(shop.active().is_empty());
    let why = "SuccessPolicy: Matched rules at index 0";
    assert_eq!(
        shop.conditions(),
        [format!("SuccessCriteriaMet=True {why}"), format!("Complete=True {why}")]
    );
    let status = shop.status();
    assert_eq!((&status["succeeded"], status.get("failed")), (&json!(1), None));
}

#[tokio::test]
async fn a_deadline_ends_it() {
    let shop = Shop::open().await;
    shop.job(json!({"activeDeadlineSeconds": 60})).await;
    shop.settle().await;
    assert_eq!(shop.again().await, Some(60));
    shop.hands.turn(60);
    shop.settle().await;
    let why = "DeadlineExceeded: Job was active longer than specified deadline";
    assert_eq!(
        shop.conditions(),
        [format!("FailureTarget=True {why}"), format!("Failed=True {why}")]
    );
    assert_eq!(shop.status()["failed"], 1);
}

/// A Job that ends waits for its pods to be gone.
#[tokio::test]
async fn the_end_is_said_when_nothing_runs_any_more() {
    let shop = Shop::open().await;
    shop.bench.node("press-01", "4", "1Gi").await;
    let scheduler =
        crate::controllers::scheduler::scheduler(shop.bench.cluster.clone(), shop.bench.events.clone(), "press-01");
    shop.job(json!({"activeDeadlineSeconds": 60})).await;
    shop.settle().await;
    shop.bench.settle(&[scheduler]).await;
    shop.hands.turn(60);
    let pod = shop.active()[0].clone();
    shop.settle().await;
    assert_eq!(shop.conditions().len(), 1, "FailureTarget only");
    assert_eq!(shop.status()["terminating"], 1);
    shop.exits(&pod, 143).await;
    shop.settle().await;
    assert_eq!(shop.conditions().len(), 2);
    assert_eq!(shop.status()["terminating"], 0);
}

#[tokio::test]
async fn a_suspended_job_has_no_pods_and_starts_anew() {
    let mut shop = Shop::open().await;
    shop.job(json!({"suspend": true, "completions": 2, "parallelism": 2, "activeDeadlineSeconds": 100}))
        .await;
    shop.settle().await;
    assert!(shop.active().is_empty());
    assert_eq!(shop.conditions(), ["Suspended=True JobSuspended: Job suspended"]);
    assert!(shop.status().get("startTime").is_none());
    shop.hands.turn(60);
    shop.bench
        .change(JOBS, "j", |j| j["spec"]["suspend"] = false.into())
        .await;
    shop.settle().await;
    assert_eq!(shop.active().len(), 2);
    assert_eq!(shop.conditions(), ["Suspended=False JobResumed: Job resumed"]);
    assert_eq!(shop.status()["startTime"], "2026-11-21T10:01:00Z");
    shop.bench
        .change(JOBS, "j", |j| j["spec"]["suspend"] = true.into())
        .await;
    shop.settle().await;
    assert!(shop.active().is_empty());
    assert_eq!(shop.status().get("failed"), None, "who was taken away did not fail");
    // The time that it stands still is not held against it.
    shop.hands.turn(3600);
    shop.bench
        .change(JOBS, "j", |j| j["spec"]["suspend"] = false.into())
        .await;
    shop.settle().await;
    assert_eq!(shop.active().len(), 2);
    shop.hands.turn(101);
    shop.settle().await;
    assert!(shop.status()["conditions"].to_string().contains("DeadlineExceeded"));
    let told = shop.bench.told.take();
    for reason in ["Normal Suspended", "Normal Resumed", "Normal SuccessfulDelete"] {
        assert!(told.iter().any(|t| t.starts_with(reason)), "{told:#?}");
    }
}

/// With `podReplacementPolicy: Failed` the place of a pod that goes is taken when it is gone.
#[tokio::test]
async fn who_goes_is_replaced_as_the_job_says() {
    for (policy, replaced) in [("TerminatingOrFailed", true), ("Failed", false)] {
        let shop = Shop::open().await;
        shop.bench.node("press-01", "4", "1Gi").await;
        let scheduler =
            crate::controllers::scheduler::scheduler(shop.bench.cluster.clone(), shop.bench.events.clone(), "press-01");
        shop.job(json!({"podReplacementPolicy": policy})).await;
        shop.settle().await;
        shop.bench.settle(&[scheduler]).await;
        let pod = shop.active()[0].clone();
        shop.bench.delete(PODS, &pod, Some(30)).await;
        shop.hands.turn(86_400 * 3650);
        shop.settle().await;
        assert_eq!(!shop.active().is_empty(), replaced, "{policy}");
        let status = shop.status();
        assert_eq!(status["terminating"], 1);
        assert_eq!(status["failed"] == 1, replaced);
        shop.bench.phase(&pod, "Failed").await;
        shop.settle().await;
        assert_eq!(shop.active().len(), 1, "{policy}");
        assert_eq!(shop.status()["failed"], 1);
    }
}

/// A Job that is deleted lets go of its pods; so does one that is over.
#[tokio::test]
async fn nothing_is_held_for_a_job_that_is_gone() {
    let shop = Shop::open().await;
    shop.job(json!({"parallelism": 2, "completions": 2})).await;
    shop.settle().await;
    let pods = shop.active();
    shop.bench.delete(JOBS, "j", None).await;
    let key = Key::new("plant", "j");
    while shop.bench.find(JOBS, "j").is_some() {
        tokio::task::yield_now().await;
    }
    shop.all[0].reconcile(&key).await.unwrap();
    for pod in pods {
        assert!(shop.bench.find(PODS, &pod).is_none_or(|p| !is_held(&p)));
    }
}

#[tokio::test]
async fn restarts_within_a_pod_count_too() {
    let shop = Shop::open().await;
    let pod = json!({"containers": [{"name": "main", "image": "i"}], "restartPolicy": "OnFailure"});
    shop.job(json!({"backoffLimit": 3, "template": {"spec": pod}})).await;
    shop.settle().await;
    let pod = Key::new("plant", shop.active()[0].as_str());
    for (restarts, ends) in [(2, false), (3, true)] {
        shop.bench
            .status(PODS, &pod, |p| {
                p["status"]["phase"] = "Running".into();
                p["status"]["containerStatuses"] = json!([{"name": "main", "image": "i", "imageID": "", "ready": false, "restartCount": restarts, "state": {}}]);
            })
            .await;
        shop.settle().await;
        assert_eq!(!shop.conditions().is_empty(), ends);
    }
}

#[tokio::test]
async fn a_job_of_somebody_else_is_left_alone() {
    let shop = Shop::open().await;
    shop.job(json!({"managedBy": "volcano.sh/controller"})).await;
    shop.settle().await;
    assert!(shop.active().is_empty());
}
