use serde_json::{Value, json};

use super::*;
use crate::controllers::bench::{Bench, Hands};
use crate::controllers::job::job;

struct Shop {
    bench: Bench,
    hands: Hands,
    all: [Arc<dyn Controller>; 1],
}

const KEY: (&str, &str) = ("plant", "c");

impl Shop {
    /// A CronJob `c` that was made at this time.
    async fn open(at: &str, spec: Value) -> Self {
        let bench = Bench::start().await;
        let hands = Hands::at(at);
        let all = [cron_job(bench.cluster.clone(), bench.events.clone(), hands.clock())];
        let pod = json!({"restartPolicy": "Never", "containers": [{"name": "main", "image": "i"}]});
        let template = json!({"metadata": {"labels": {"of": "cron"}, "annotations": {"a": "b"}}, "spec": {"template": {"spec": pod}}});
        let mut whole = json!({"schedule": "0 * * * *", "jobTemplate": template});
        for (field, value) in spec.as_object().unwrap() {
            whole[field] = value.clone();
        }
        bench
            .create(json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "c"}, "spec": whole}))
            .await;
        // It was made when the bench's clock says, not the machine's.
        bench
            .status(CRON_JOBS, &Key::new(KEY.0, KEY.1), |c| {
                c["status"] = json!({"lastScheduleTime": hands.stamp()})
            })
            .await;
        Self { bench, hands, all }
    }

    async fn look(&self) -> Option<u64> {
        let again = self.all[0].reconcile(&Key::new(KEY.0, KEY.1)).await.unwrap();
        again.map(|d| u64::try_from(d.as_millis()).unwrap())
    }

    /// Looks at a time.
    async fn at(&self, seconds: i64) -> Vec<String> {
        self.hands.turn(seconds);
        self.bench.settle(&self.all).await;
        self.jobs()
    }

    fn jobs(&self) -> Vec<String> {
        self.bench.list(JOBS).iter().map(|j| name(j).to_owned()).collect()
    }

    async fn ends(&self, job: &str, how: &str) {
        let at = self.hands.stamp();
        let (first, pods) = if how == "Complete" {
            ("SuccessCriteriaMet", "succeeded")
        } else {
            ("FailureTarget", "failed")
        };
        let condition = |ty: &str| json!({"type": ty, "status": "True", "reason": "r", "message": "m", "lastProbeTime": at, "lastTransitionTime": at});
        let mut status = json!({"startTime": at, "conditions": [condition(first), condition(how)], "uncountedTerminatedPods": {}, pods: 1});
        if how == "Complete" {
            status["completionTime"] = at.clone().into();
        }
        self.bench
            .status(JOBS, &Key::new(KEY.0, job), |j| j["status"] = status.clone())
            .await;
    }

    fn status(&self) -> Value {
        self.bench.get(CRON_JOBS, "c")["status"].clone()
    }
}

#[tokio::test]
async fn a_job_is_made_when_it_is_due() {
    let mut shop = Shop::open(
        "2026-11-21T09:59:30Z",
        json!({"timeZone": "Asia/Kolkata", "schedule": "30 * * * *"}),
    )
    .await;
    assert_eq!(shop.look().await, Some(30_100));
    assert_eq!(shop.at(29).await, Vec::<String>::new());
    assert_eq!(shop.at(1).await, ["c-29920920"]);
    let job = shop.bench.get(JOBS, "c-29920920");
    assert_eq!(
        job["metadata"]["annotations"],
        json!({"a": "b", SCHEDULED_AT: "2026-11-21T15:30:00+05:30"})
    );
    assert_eq!(job["metadata"]["labels"]["of"], "cron");
    assert_eq!(job["metadata"]["ownerReferences"][0]["kind"], "CronJob");
    let status = shop.status();
    assert_eq!(status["lastScheduleTime"], "2026-11-21T10:00:00Z");
    assert_eq!(
        (&status["active"][0]["name"], &status["active"][0]["kind"]),
        (&json!("c-29920920"), &json!("Job"))
    );
    shop.hands.turn(20);
    shop.ends("c-29920920", "Complete").await;
    shop.bench.settle(&shop.all).await;
    assert_eq!(
        shop.status(),
        json!({"lastScheduleTime": "2026-11-21T10:00:00Z", "lastSuccessfulTime": "2026-11-21T10:00:20Z"})
    );
    assert_eq!(
        shop.bench.told.take(),
        [
            "Normal SuccessfulCreate c: Created job c-29920920",
            "Normal SawCompletedJob c: Saw completed job: c-29920920, condition: Complete",
        ]
    );
    assert_eq!(shop.look().await, Some(60_000), "a clock that is set is noticed");
}

/// Killed after the Job was made and before that was written down.
#[tokio::test]
async fn a_job_is_made_once() {
    let shop = Shop::open("2026-11-21T09:59:00Z", json!({"concurrencyPolicy": "Forbid"})).await;
    let before = shop.status();
    assert_eq!(shop.at(60).await.len(), 1);
    let after = shop.status();
    shop.bench
        .status(CRON_JOBS, &Key::new(KEY.0, KEY.1), |c| c["status"] = before.clone())
        .await;
    assert_eq!(shop.at(5).await.len(), 1);
    let now = shop.status();
    assert_eq!(
        (&now["lastScheduleTime"], &now["active"][0]["uid"]),
        (&after["lastScheduleTime"], &after["active"][0]["uid"])
    );
    // And when the next time has come meanwhile, what runs still forbids it.
    shop.bench
        .status(CRON_JOBS, &Key::new(KEY.0, KEY.1), |c| c["status"] = before.clone())
        .await;
    assert_eq!(shop.at(3600).await.len(), 1);
}

#[tokio::test]
async fn what_runs_still_is_joined_waited_for_or_replaced() {
    for (policy, jobs, reason) in [
        ("Allow", 2, "SuccessfulCreate"),
        ("Forbid", 1, "JobAlreadyActive"),
        ("Replace", 1, "SuccessfulDelete"),
    ] {
        let mut shop = Shop::open("2026-11-21T09:59:30Z", json!({"concurrencyPolicy": policy})).await;
        let first = shop.at(30).await;
        shop.bench.told.take();
        let then = shop.at(3600).await;
        assert_eq!(then.len(), jobs, "{policy}");
        assert_eq!(then.contains(&first[0]), policy != "Replace");
        let told = shop.bench.told.take();
        assert!(told.iter().any(|t| t.contains(reason)), "{policy} {told:#?}");
        // What was forbidden is made up for as soon as it may.
        shop.hands.turn(600);
        shop.ends(&then[0], "Complete").await;
        assert_eq!(shop.at(0).await.len(), if policy == "Forbid" { 2 } else { jobs });
    }
}

#[tokio::test]
async fn so_many_are_kept() {
    let shop = Shop::open(
        "2026-11-21T09:59:30Z",
        json!({"successfulJobsHistoryLimit": 2, "failedJobsHistoryLimit": 1}),
    )
    .await;
    shop.hands.turn(30 - 3600);
    for i in 0..6 {
        let jobs = shop.at(3600).await;
        let last = jobs.last().unwrap().clone();
        shop.ends(&last, if i % 2 == 0 { "Complete" } else { "Failed" }).await;
    }
    assert_eq!(shop.at(1).await, ["c-29921040", "c-29921160", "c-29921220"]);
}

/// Three days without power.
#[tokio::test]
async fn what_was_missed_is_made_up_for_once_or_not_at_all() {
    for (deadline, schedule, made, many) in [
        (None, "0 * * * *", 1, false),
        (None, "*/5 * * * *", 1, true),
        (Some(600), "0 * * * *", 0, false),
        (Some(3600), "0 * * * *", 1, false),
    ] {
        let mut spec = json!({ "schedule": schedule });
        if let Some(deadline) = deadline {
            spec["startingDeadlineSeconds"] = deadline.into();
        }
        let mut shop = Shop::open("2026-11-21T09:59:30Z", spec).await;
        let jobs = shop.at(3 * 86_400 + 30 + 1802).await;
        assert_eq!(jobs.len(), made, "{schedule} {deadline:?}");
        let told = shop.bench.told.take();
        assert_eq!(told.iter().any(|t| t.contains("TooManyMissedTimes")), many, "{told:#?}");
        assert_eq!(shop.at(60).await.len(), made);
    }
}

#[tokio::test]
async fn a_clock_that_is_behind_starts_nothing_and_one_that_is_set_right_goes_on() {
    let shop = Shop::open("2026-11-21T09:59:30Z", json!({})).await;
    assert_eq!(shop.at(30).await.len(), 1);
    let back = 20 * 365 * 86_400;
    assert_eq!(shop.at(-back).await.len(), 1);
    assert_eq!(shop.look().await, Some(60_000));
    assert_eq!(shop.at(7200).await.len(), 1);
    assert_eq!(shop.at(back).await.len(), 2);
}

#[tokio::test]
async fn who_cannot_be_served_is_told_why() {
    for (spec, told) in [
        (
            json!({"schedule": "0 0 31 2 *"}),
            Some(
                "Warning InvalidSchedule c: invalid schedule: 0 0 31 2 * : time difference between two schedules is less than 1 second",
            ),
        ),
        (json!({"suspend": true}), None),
    ] {
        let mut shop = Shop::open("2026-11-21T09:59:30Z", spec).await;
        assert!(shop.at(86_400).await.is_empty());
        assert_eq!(shop.bench.told.take().first().map(String::as_str), told);
        assert_eq!(shop.look().await, None);
    }
    // A zone that is gone from the machine since the CronJob was made.
    let mut shop = Shop::open("2026-11-21T09:59:30Z", json!({})).await;
    let mut cron = shop.bench.get(CRON_JOBS, "c");
    cron["spec"]["timeZone"] = "Mars/Olympus".into();
    let by = CronJobController {
        cluster: shop.bench.cluster.clone(),
        events: shop.bench.events.clone(),
        clock: shop.hands.clock(),
    };
    let mut work = Work {
        by: &by,
        cron: &cron,
        active: Vec::new(),
        last: String::new(),
        last_success: String::new(),
    };
    assert_eq!(work.start(&[]).await.unwrap(), None);
    assert_eq!(
        shop.bench.told.take(),
        ["Warning UnknownTimeZone c: invalid timeZone: \"Mars/Olympus\": unknown time zone Mars/Olympus"]
    );
}

/// The night in which clocks in Berlin are put back, with Jobs that run and end, seen only when the controllers want to look.
#[tokio::test]
async fn a_night() {
    let spec = json!({"schedule": "*/30 0-5 * * *", "timeZone": "Europe/Berlin", "successfulJobsHistoryLimit": 100});
    let shop = Shop::open("2026-10-24T20:00:00Z", spec).await;
    let jobs = job(
        shop.bench.cluster.clone(),
        shop.bench.events.clone(),
        shop.hands.clock(),
    );
    let all = [shop.all[0].clone(), jobs];
    let morning = seconds("2026-10-25T08:00:00Z");
    while seconds(&shop.hands.stamp()) < morning {
        let wait = shop.look().await.unwrap();
        shop.hands.turn(i64::try_from(wait).unwrap() / 1000);
        if shop.bench.list(JOBS).iter().all(|j| job_end(j).is_some()) {
            continue;
        }
        shop.bench.settle(&all).await;
        for pod in shop.bench.list(crate::cluster::PODS) {
            if text(&pod, "/status/phase") != "Succeeded" {
                shop.bench.phase(name(&pod), "Succeeded").await;
            }
        }
        shop.bench.settle(&all).await;
    }
    let mut times: Vec<String> = shop
        .bench
        .list(JOBS)
        .iter()
        .map(|j| annotation(j, SCHEDULED_AT).unwrap()[11..].to_owned())
        .collect();
    assert!(shop.bench.list(JOBS).iter().all(|j| job_end(j).is_some()));
    assert_eq!(times.len(), 14, "twelve half hours, and two that are twice");
    times.dedup();
    assert_eq!(times[..3], ["00:00:00+02:00", "00:30:00+02:00", "01:00:00+02:00"]);
    assert!(times.contains(&"02:30:00+02:00".to_owned()) && times.contains(&"02:30:00+01:00".to_owned()));
    assert_eq!(shop.status()["lastScheduleTime"], "2026-10-25T04:30:00Z");
}
