//! The ground the other tests stand on: a containerd of one's own, through the agent's own client of it, with nothing of a Pod.

use std::collections::BTreeMap;

use cri::v1;
use tests::eventually;
use tests::runtime::{Machine, Make, PodNetwork};

async fn there() -> Machine {
    Machine::with(Make {
        network: PodNetwork::There,
        ..Make::default()
    })
    .await
}

const IDLE: [&str; 2] = ["/bin/sleep", "1000"];

#[tokio::test]
async fn a_container_runs_speaks_and_goes() {
    let machine = there().await;
    let runtime = machine.runtime();
    let words = ["/bin/sh", "-c", "echo hello; sleep 1000"];
    let made = machine.run_bare("one", &words, BTreeMap::new()).await;

    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: made.sandbox.clone(),
        verbose: false,
    };
    let answer = runtime.pod_sandbox_status(request).await.unwrap().status.unwrap();
    assert!(answer.network.unwrap().ip.starts_with("10.42.0."));

    let request = v1::ExecSyncRequest {
        container_id: made.container.clone(),
        cmd: ["sh", "-c", "echo out; echo err >&2; exit 3"].map(str::to_owned).into(),
        timeout: 10,
    };
    let answer = runtime.exec_sync(request).await.unwrap();
    assert_eq!(
        (answer.stdout.as_ref(), answer.stderr.as_ref(), answer.exit_code),
        (&b"out\n"[..], &b"err\n"[..], 3)
    );

    let log = machine.folder().join("one/c.log");
    let line = eventually("the container's first line", async || {
        std::fs::read_to_string(&log).ok().filter(|text| text.ends_with('\n'))
    })
    .await;
    assert!(line.ends_with(" stdout F hello\n"), "{line}");

    machine.remove_bare(&made).await;
    assert_eq!(
        runtime.list_containers(v1::ContainerFilter::default()).await.unwrap(),
        []
    );
    assert_eq!(
        runtime
            .list_pod_sandboxes(v1::PodSandboxFilter::default())
            .await
            .unwrap(),
        []
    );
}

#[tokio::test]
async fn containers_outlive_their_runtime_and_end_with_the_power() {
    let mut machine = there().await;
    let made = machine.run_bare("two", &IDLE, BTreeMap::new()).await;
    let before = machine.bare_status(&made.container).await;
    machine.kill_containerd().await;
    machine.start_containerd().await;
    assert_eq!(machine.bare_status(&made.container).await, before);
    machine.stop_containerd().await;
    machine.start_containerd().await;
    assert_eq!(machine.bare_status(&made.container).await, before);

    machine.power_cut().await;
    machine.boot().await;
    let after = machine.bare_status(&made.container).await;
    assert_eq!(after.state(), v1::ContainerState::ContainerExited);
    assert_eq!(machine.running().await, Some((0, 0)));
    machine.run_bare("three", &IDLE, BTreeMap::new()).await;
    assert_eq!(machine.running().await, Some((1, 1)));
}

#[tokio::test]
async fn machines_know_nothing_of_each_other_and_leave_nothing() {
    let folder = {
        let machine = there().await;
        machine.run_bare("four", &IDLE, BTreeMap::new()).await;
        machine.import("localhost/late:1").await;
        machine.forget("localhost/late:1").await;
        machine.folder().to_owned()
    };
    let machine = there().await;
    assert_eq!(machine.running().await, Some((0, 0)));
    assert!(!folder.exists());
    let name = folder.file_name().unwrap().to_str().unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(name), "{mounts}");
}
