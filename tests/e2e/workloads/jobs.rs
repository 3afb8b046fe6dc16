//! Work that ends: Jobs, and CronJobs through a night without power.

use jiff::civil::date;
use jiff::{Timestamp, ToSpan, tz};
use serde_json::{Value, json};
use tests::gateway::{Gateway, stays};
use tests::objects::{condition, container, job, name};
use tests::{LOOK, PATIENCE, clock_at};

use super::deploy::until_running;

#[tokio::test]
async fn a_job_is_done_when_all_its_parts_are() {
    let gateway = Gateway::alone().await;
    let at = &gateway.at;
    let mut made = job("parts", container("echo part $JOB_COMPLETION_INDEX; sleep 1"));
    made["spec"]["completions"] = json!(5);
    made["spec"]["parallelism"] = json!(2);
    made["spec"]["completionMode"] = json!("Indexed");
    at.create(&made).await;
    let done = at
        .until("Job/parts", "to be complete", |j| condition(j, "Complete") == "True")
        .await;
    let status = &done["status"];
    assert_eq!(
        (&status["succeeded"], &status["completedIndexes"]),
        (&json!(5), &json!("0-4"))
    );
    assert_eq!(condition(&done, "SuccessCriteriaMet"), "True");
    assert!(
        status["completionTime"].is_string() && status["startTime"].is_string(),
        "{status}"
    );
    // No more than two at a time, by what their containers say.
    let pods = at.pods("parts").await;
    let span = |pod: &Value| {
        let end = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
        let stamp = |v: &Value| v.as_str().unwrap().parse::<Timestamp>().unwrap();
        (stamp(&end["startedAt"]), stamp(&end["finishedAt"]))
    };
    let spans: Vec<_> = pods.iter().map(span).collect();
    for (start, _) in &spans {
        // Seconds are all that a status holds: what ended in the second in which another began does not count.
        let beside = spans.iter().filter(|(from, to)| from <= start && start < to).count();
        assert!(beside <= 2, "{spans:?}");
    }
    for pod in &pods {
        let index = &pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"];
        let words = gateway.kubectl.told(&["logs", name(pod)]).await;
        assert_eq!(words, format!("part {}\n", index.as_str().unwrap()));
    }
    until_running(&gateway, 0).await;
    at.until_event("parts", "Completed").await;
}

#[tokio::test]
async fn a_job_that_fails_is_tried_again_a_while_later_and_not_for_ever() {
    let gateway = Gateway::alone().await;
    let at = &gateway.at;
    let mut made = job("hopeless", container("exit 1"));
    made["spec"]["backoffLimit"] = json!(1);
    at.create(&made).await;
    let mut short = job("short", container("sleep 1000"));
    short["spec"]["activeDeadlineSeconds"] = json!(2);
    short["spec"]["ttlSecondsAfterFinished"] = json!(1);
    short["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(1);
    at.create(&short).await;
    at.until_event("short", "DeadlineExceeded").await;
    at.until_gone("Job/short").await;

    let failed = at
        .until("Job/hopeless", "to fail", |j| condition(j, "Failed") == "True")
        .await;
    let last = failed["status"]["conditions"].as_array().unwrap().last().unwrap();
    assert_eq!(last["reason"], "BackoffLimitExceeded");
    assert_eq!(last["message"], "Job has reached the specified backoff limit");
    assert_eq!(failed["status"]["failed"], 2);
    let pods = at.pods("hopeless").await;
    let mut made: Vec<Timestamp> = pods
        .iter()
        .map(|p| p["metadata"]["creationTimestamp"].as_str().unwrap().parse().unwrap())
        .collect();
    made.sort_unstable();
    let rest = made[1].as_second() - made[0].as_second();
    assert!(made.len() == 2 && rest >= 9, "tried again after {rest} s");
}

fn cron(name: &str, schedule: &str, more: &Value) -> Value {
    let template = job(name, container("date"))["spec"].clone();
    let mut made = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name},
        "spec": {"schedule": schedule, "jobTemplate": {"metadata": {"labels": {"app": name}}, "spec": template}}});
    for (field, value) in more.as_object().unwrap() {
        made["spec"][field] = value.clone();
    }
    made
}

/// The time that a Job was for, as its name tells: minutes since 1970.
fn minute(time: Timestamp) -> String {
    (time.as_second() / 60).to_string()
}

async fn jobs_of(gateway: &Gateway, app: &str) -> Vec<String> {
    let jobs = gateway.at.labelled("Job", app).await;
    let mut names: Vec<String> = jobs.iter().map(|job| name(job).to_owned()).collect();
    names.sort_unstable();
    names
}

async fn until_jobs(gateway: &Gateway, app: &str, wanted: &[String]) {
    let deadline = daemon::clock::now() + 2 * PATIENCE;
    loop {
        let jobs = jobs_of(gateway, app).await;
        if jobs == wanted {
            return;
        }
        assert!(
            daemon::clock::now() < deadline,
            "Jobs of {app}: {jobs:?}, not {wanted:?}"
        );
        tokio::time::sleep(LOOK).await;
    }
}

/// The agent's next start believes that it is this time.
fn tell_time(gateway: &mut Gateway, time: Timestamp) {
    let shown = time
        .to_zoned(tz::TimeZone::UTC)
        .strftime("%Y-%m-%d %H:%M:%S")
        .to_string();
    for (key, value) in clock_at(&shown) {
        gateway.edge.set(&key, &value);
    }
    gateway.edge.set("TZ", "UTC");
}

#[tokio::test]
async fn a_night_without_power_is_made_up_for_as_each_cron_job_says() {
    let mut gateway = Gateway::alone().await;
    gateway.edge.stop().await;
    // Certificates are good from now on, so the evening lies ahead.
    let tomorrow = Timestamp::now().to_zoned(tz::TimeZone::UTC).date().tomorrow().unwrap();
    let evening = date(tomorrow.year(), tomorrow.month(), tomorrow.day())
        .at(22, 0, 0, 0)
        .to_zoned(tz::TimeZone::UTC)
        .unwrap()
        .timestamp();
    tell_time(&mut gateway, evening - 12.seconds());
    gateway.start_again().await;
    let at = &gateway.at;
    at.create(&cron("hourly", "0 * * * *", &json!({}))).await;
    at.create(&cron("prompt", "0 * * * *", &json!({"startingDeadlineSeconds": 600})))
        .await;
    at.create(&cron("paused", "0 * * * *", &json!({"suspend": true}))).await;
    // Where it is ten hours later than here, the same minute is another hour.
    at.create(&cron("far", "0 8 * * *", &json!({"timeZone": "Australia/Brisbane"})))
        .await;
    let first = |app: &str| format!("{app}-{}", minute(evening));
    for app in ["hourly", "prompt", "far"] {
        until_jobs(&gateway, app, &[first(app)]).await;
        at.until(&format!("Job/{}", first(app)), "to be complete", |j| {
            condition(j, "Complete") == "True"
        })
        .await;
    }
    assert_eq!(jobs_of(&gateway, "paused").await, [""; 0]);

    // Off until half past six: of the eight hours missed the last is made up for, where that is not too late.
    gateway.power_cut().await;
    let morning = evening + 8.hours() + 30.minutes();
    tell_time(&mut gateway, morning);
    gateway.boot().await;
    let six = evening + 8.hours();
    until_jobs(
        &gateway,
        "hourly",
        &[first("hourly"), format!("hourly-{}", minute(six))],
    )
    .await;
    let at = &gateway.at;
    let made = at
        .until("CronJob/hourly", "to say when", |c| {
            c["status"]["lastScheduleTime"] == six.to_string()
        })
        .await;
    at.until(&format!("Job/hourly-{}", minute(six)), "to be complete", |j| {
        condition(j, "Complete") == "True"
    })
    .await;
    assert!(made["status"]["lastSuccessfulTime"].is_string());
    stays(
        "Jobs whose time is over",
        std::time::Duration::from_secs(2),
        async || (jobs_of(&gateway, "prompt").await, jobs_of(&gateway, "far").await),
    )
    .await;
    assert_eq!(jobs_of(&gateway, "prompt").await, [first("prompt")]);
    assert_eq!(jobs_of(&gateway, "far").await, [first("far")]);
}
