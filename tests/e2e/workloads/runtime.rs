//! The ground the other tests stand on: a containerd of one's own, through the agent's own client of it, with nothing of a Pod.

use std::collections::BTreeMap;

use cri::v1;
use tests::eventually;
use tests::runtime::{BOX, Machine, Make, PodNetwork};

fn sandbox(name: &str, logs: &str) -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("{name}-uid"),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        log_directory: logs.to_owned(),
        labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
        linux: Some(v1::LinuxPodSandboxConfig::default()),
        ..Default::default()
    }
}

fn container(name: &str, command: &[&str]) -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: name.to_owned(),
            attempt: 0,
        }),
        image: Some(v1::ImageSpec {
            image: BOX.to_owned(),
            ..Default::default()
        }),
        command: command.iter().map(|&word| word.to_owned()).collect(),
        log_path: format!("{name}.log"),
        linux: Some(v1::LinuxContainerConfig::default()),
        ..Default::default()
    }
}

/// Makes and starts a container in a new sandbox: both ids.
async fn run_pod(machine: &Machine, name: &str, command: &[&str]) -> (String, String) {
    let runtime = machine.runtime();
    let logs = machine.folder().join(name);
    std::fs::create_dir_all(&logs).unwrap();
    let config = sandbox(name, logs.to_str().unwrap());
    let request = v1::RunPodSandboxRequest {
        config: Some(config.clone()),
        ..Default::default()
    };
    let sandbox = runtime.run_pod_sandbox(request).await.unwrap().pod_sandbox_id;
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: sandbox.clone(),
        config: Some(container("c", command)),
        sandbox_config: Some(config),
    };
    let id = runtime.create_container(request).await.unwrap().container_id;
    let request = v1::StartContainerRequest {
        container_id: id.clone(),
    };
    runtime.start_container(request).await.unwrap();
    (sandbox, id)
}

async fn status(machine: &Machine, id: &str) -> v1::ContainerStatus {
    let request = v1::ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose: false,
    };
    let answer = machine.runtime().container_status(request).await.unwrap();
    answer.status.unwrap()
}

async fn there() -> Machine {
    Machine::with(Make {
        network: PodNetwork::There,
        ..Make::default()
    })
    .await
}

#[tokio::test]
async fn a_container_runs_speaks_and_goes() {
    let machine = there().await;
    let runtime = machine.runtime();
    let (sandbox, id) = run_pod(&machine, "one", &["/bin/sh", "-c", "echo hello; sleep 1000"]).await;

    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: sandbox.clone(),
        verbose: false,
    };
    let answer = runtime.pod_sandbox_status(request).await.unwrap().status.unwrap();
    assert!(answer.network.unwrap().ip.starts_with("10.42.0."));

    let request = v1::ExecSyncRequest {
        container_id: id.clone(),
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

    let request = v1::StopPodSandboxRequest {
        pod_sandbox_id: sandbox.clone(),
    };
    runtime.stop_pod_sandbox(request).await.unwrap();
    assert_eq!(status(&machine, &id).await.exit_code, 137);
    let request = v1::RemovePodSandboxRequest {
        pod_sandbox_id: sandbox,
    };
    runtime.remove_pod_sandbox(request).await.unwrap();
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
    let (_, id) = run_pod(&machine, "two", &["/bin/sleep", "1000"]).await;
    let before = status(&machine, &id).await;
    machine.kill_containerd().await;
    machine.start_containerd().await;
    assert_eq!(status(&machine, &id).await, before);
    machine.stop_containerd().await;
    machine.start_containerd().await;
    assert_eq!(status(&machine, &id).await, before);

    machine.power_cut().await;
    machine.boot().await;
    let after = status(&machine, &id).await;
    assert_eq!(after.state(), v1::ContainerState::ContainerExited);
    let sandboxes = machine
        .runtime()
        .list_pod_sandboxes(v1::PodSandboxFilter::default())
        .await
        .unwrap();
    assert_eq!(sandboxes[0].state(), v1::PodSandboxState::SandboxNotready);
    run_pod(&machine, "three", &["/bin/sleep", "1000"]).await;
}

#[tokio::test]
async fn machines_know_nothing_of_each_other_and_leave_nothing() {
    let folder = {
        let machine = there().await;
        run_pod(&machine, "four", &["/bin/sleep", "1000"]).await;
        machine.import("localhost/late:1").await;
        machine.forget("localhost/late:1").await;
        machine.folder().to_owned()
    };
    let machine = there().await;
    let runtime = machine.runtime();
    assert_eq!(
        runtime
            .list_pod_sandboxes(v1::PodSandboxFilter::default())
            .await
            .unwrap(),
        []
    );
    assert!(!folder.exists());
    let name = folder.file_name().unwrap().to_str().unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(name), "{mounts}");
}
