//! Containers: how long an object takes to be a process beside what the runtime takes for it alone, what agents cost with many pods, how
//! fast they are found again.
//!
//! Needs root, and a thread of its own: that thread moves into the machine's network namespace.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tests::Api;
use tests::gateway::Gateway;
use tests::objects::{Objects, deployment, idle, path};
use tests::runtime::{Bare, Machine};

use crate::Plan;
use crate::process::{memory, percentile, ticks};
use crate::report::Report;

/// Most of the pods.
const MANY: u32 = 50;
/// What the agent may add to the runtime's own time for a pod, milliseconds.
const OVERHEAD: f64 = 30.0;
/// What it may add after a reboot, milliseconds.
const BACK: f64 = 100.0;
/// Pods that a reboot brings back.
const REBOOTED: u32 = 10;
/// A bound against hanging.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) fn run(report: &mut Report, plan: Plan) -> anyhow::Result<()> {
    let body = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            starts(report, plan).await?;
            costs(report, plan).await
        })
    };
    std::thread::scope(|scope| scope.spawn(body).join())
        .unwrap_or_else(|_| Err(anyhow::anyhow!("it needs root and what tests/setup.sh installs")))
}

/// From the request at the hub to the process, and the runtime's share of it, in turn.
async fn starts(report: &mut Report, plan: Plan) -> anyhow::Result<()> {
    let gateway = Gateway::with_hub().await;
    let through = &gateway.above().through;
    // The first pod makes the bridge and reads the programs from disk.
    apply(&gateway, through, "warm").await?;
    let (mut whole, mut bare, mut beyond) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..if plan.quick { 3 } else { 20 } {
        let took = apply(&gateway, through, &format!("app-{n}")).await?;
        let started = daemon::clock::now();
        let made = gateway
            .machine
            .run_bare(&format!("bare-{n}"), &["/bin/sleep", "1000"], BTreeMap::new())
            .await;
        let alone = milliseconds(started);
        gateway.machine.remove_bare(&made).await;
        whole.push(took);
        bare.push(alone);
        beyond.push(took - alone);
    }
    let count = whole.len();
    let how = format!(
        "one pod, one container, image there; POST at /clusters/gw-1 of the hub until an API watch at the gateway shows it running; median of {count}"
    );
    report.note(
        "Deployment applied at the hub -> container running",
        format!("{:.0} ms", percentile(&mut whole, 0.5)),
        &how,
    );
    report.note(
        "the runtime's own share of it",
        format!("{:.0} ms", percentile(&mut bare, 0.5)),
        "a sandbox with the same names, DNS and seccomp profile and a container through CRI with nobody between, in turn with the above",
    );
    report.at_most(
        "agent's own overhead per pod start",
        OVERHEAD,
        percentile(&mut beyond, 0.5),
        "ms",
        &format!("median of the {count} differences"),
    );
    Ok(())
}

/// Milliseconds from a Deployment's request to its container, which is taken away again.
async fn apply(gateway: &Gateway, through: &Objects, app: &str) -> anyhow::Result<f64> {
    let mut watch = Watch::start(&gateway.at.0, app).await?;
    let started = daemon::clock::now();
    through.create(&deployment(app, 1, idle())).await;
    watch.until(is_running).await?;
    let took = milliseconds(started);
    through.delete(&format!("Deployment/{app}")).await;
    gateway.at.until_pods(app, "to be gone", <[Value]>::is_empty).await;
    Ok(took)
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn is_running(pod: &Value) -> bool {
    pod["status"]["containerStatuses"][0]["state"]["running"].is_object()
}

/// The changes of an app's pods as the API tells them.
struct Watch {
    data: BoxStream<'static, Result<Vec<u8>, String>>,
    text: Vec<u8>,
}

impl Watch {
    async fn start(api: &Api, app: &str) -> anyhow::Result<Self> {
        let path = format!("{}?watch=1&labelSelector=app%3D{app}", path("Pod"));
        let answer = api
            .send(Method::GET, &path, &[("accept", "application/json")], None)
            .await;
        let answer = answer.map_err(|e| anyhow::anyhow!("{e:?}"))?;
        let data = answer.into_body().into_data_stream();
        Ok(Self {
            data: data.map(|part| part.map(Vec::from).map_err(|e| e.to_string())).boxed(),
            text: Vec::new(),
        })
    }

    /// Waits for a pod to be like this.
    async fn until(&mut self, fits: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        loop {
            while let Some(end) = self.text.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line)?;
                if fits(&event["object"]) {
                    return Ok(event["object"].clone());
                }
            }
            let part = tokio::time::timeout(PATIENCE, self.data.next()).await?;
            let part = part.ok_or_else(|| anyhow::anyhow!("the watch ended"))?;
            self.text
                .extend(part.map_err(|e| anyhow::anyhow!("the watch broke: {e}"))?);
        }
    }
}

/// Memory and time with no, ten and fifty pods; then the same pods after restarts of the agent and of the machine.
async fn costs(report: &mut Report, plan: Plan) -> anyhow::Result<()> {
    let mut gateway = Gateway::alone().await;
    let mut probed = idle();
    probed["readinessProbe"] = json!({"exec": {"command": ["true"]}, "periodSeconds": 10});
    gateway.at.create(&deployment("many", 0, probed)).await;
    let many = if plan.quick { 12 } else { MANY };
    for (pods, rss) in [(0, None), (10, Some(16.0)), (many, Some(22.0))] {
        scale(&gateway, pods).await;
        cost(report, plan, &gateway, pods, rss).await?;
    }
    adopted(report, plan, &mut gateway, many).await?;
    scale(&gateway, 0).await;
    rebooted(report, plan, &mut gateway).await
}

async fn scale(gateway: &Gateway, pods: u32) {
    gateway
        .at
        .patch("Deployment/many", &json!({"spec": {"replicas": pods}}))
        .await;
    until_ready(gateway, pods).await;
}

async fn until_ready(gateway: &Gateway, pods: u32) {
    let fits = |d: &Value| d["status"]["readyReplicas"].as_u64().unwrap_or(0) == u64::from(pods);
    gateway
        .at
        .until_within(PATIENCE, "Deployment/many", "to be ready", fits)
        .await;
    let machine = &gateway.machine;
    tests::eventually("what is not wanted to be gone", async || {
        let count = usize::try_from(pods).unwrap_or_default();
        machine.running().await.filter(|now| *now == (count, count))
    })
    .await;
}

async fn cost(report: &mut Report, plan: Plan, gateway: &Gateway, pods: u32, rss: Option<f64>) -> anyhow::Result<()> {
    tokio::time::sleep(Duration::from_secs(if plan.quick { 3 } else { 20 })).await;
    let pid = gateway.edge.pid().unwrap_or(0);
    let used = memory(pid)?;
    let how = format!("smaps_rollup, alone, Services by nftables, {pods} pods with an exec probe every 10 s");
    match rss {
        Some(most) => report.at_most(
            &format!("agent RSS with {pods} pods"),
            most,
            used.rss_kb as f64 / 1e3,
            "MB",
            &how,
        ),
        None => report.note(
            "agent RSS with a runtime and no pod",
            format!("{:.1} MB", used.rss_kb as f64 / 1e3),
            &how,
        ),
    }
    report.note(
        &format!("agent PSS with {pods} pods"),
        format!("{:.1} MB", used.pss_kb as f64 / 1e3),
        "the same",
    );
    let window = if plan.quick { 10 } else { 60 };
    let before = ticks(pid)?;
    tokio::time::sleep(Duration::from_secs(window)).await;
    let share = (ticks(pid)? - before) as f64 / window as f64;
    let how = format!("utime+stime over {window} s, the same pods");
    report.at_most(&format!("agent CPU with {pods} pods"), 0.5, share, "% of a core", &how);
    Ok(())
}

/// kill -9 of the agent, and one container that ends meanwhile: started again once the agent knows its pods.
async fn adopted(report: &mut Report, plan: Plan, gateway: &mut Gateway, pods: u32) -> anyhow::Result<()> {
    let mut times = Vec::new();
    for _ in 0..if plan.quick { 2 } else { 10 } {
        gateway.edge.kill().await;
        let started = daemon::clock::now();
        gateway.start_again().await;
        let added = format!("after-{}", times.len());
        let mut watch = Watch::start(&gateway.at.0, &added).await?;
        gateway.at.create(&tests::objects::pod(&added, idle())).await;
        watch.until(is_running).await?;
        times.push(milliseconds(started));
        gateway.at.delete(&format!("Pod/{added}")).await;
        until_ready(gateway, pods).await;
    }
    let count = times.len();
    report.note(
        &format!("{pods} pods adopted after kill -9 of the agent"),
        format!("{:.0} ms", percentile(&mut times, 0.5)),
        &format!("exec until a pod that is new runs beside them, its own start included; median of {count}"),
    );
    Ok(())
}

/// The power goes and comes: exec of the agent until all pods run, beside what the runtime takes for as many.
async fn rebooted(report: &mut Report, plan: Plan, gateway: &mut Gateway) -> anyhow::Result<()> {
    // Without probes: the runtime's own pods have none either, and each is a process of its own beside those that start.
    gateway.at.create(&deployment("back", REBOOTED, idle())).await;
    let at_rest = (usize::try_from(REBOOTED)?, usize::try_from(REBOOTED)?);
    let all_run = async |gateway: &Gateway| {
        tests::eventually("all pods to run", async || {
            gateway.machine.running().await.filter(|now| *now == at_rest)
        })
        .await;
    };
    all_run(gateway).await;
    let (mut whole, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..if plan.quick { 1 } else { 5 } {
        gateway.power_cut().await;
        gateway.machine.boot().await;
        let alone = side_by_side(&gateway.machine).await;
        bare.push(alone);
        let started = daemon::clock::now();
        gateway.start_again().await;
        all_run(gateway).await;
        whole.push(milliseconds(started));
    }
    let (whole, bare) = (percentile(&mut whole, 0.5), percentile(&mut bare, 0.5));
    report.note(
        &format!("the runtime's own time for {REBOOTED} pods"),
        format!("{bare:.0} ms"),
        "all at once through CRI after the same boot",
    );
    report.at_most(
        &format!("reboot: exec to {REBOOTED} pods running, no network"),
        bare + BACK,
        whole,
        "ms",
        "every process, mount and interface gone; containers looked for every 20 ms; target: the runtime's own time + 100 ms",
    );
    Ok(())
}

/// Milliseconds that the runtime takes for as many pods at once.
async fn side_by_side(machine: &Machine) -> f64 {
    let started = daemon::clock::now();
    let one = async |n: u32| -> Bare {
        machine
            .run_bare(&format!("side-{n}"), &["/bin/sleep", "1000"], BTreeMap::new())
            .await
    };
    let all = futures_util::future::join_all((0..REBOOTED).map(one)).await;
    let took = milliseconds(started);
    for bare in &all {
        machine.remove_bare(bare).await;
    }
    took
}
