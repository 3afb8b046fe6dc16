use std::time::Duration;

use super::*;
use crate::{Happened, Why};

fn sandbox_config(uid: &str) -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "p".to_owned(),
            uid: uid.to_owned(),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        ..v1::PodSandboxConfig::default()
    }
}

fn container_config(name: &str) -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: name.to_owned(),
            attempt: 0,
        }),
        image: Some(v1::ImageSpec {
            image: "app".to_owned(),
            ..v1::ImageSpec::default()
        }),
        ..v1::ContainerConfig::default()
    }
}

async fn sandbox(client: &crate::Runtime, uid: &str) -> String {
    let request = v1::RunPodSandboxRequest {
        config: Some(sandbox_config(uid)),
        runtime_handler: String::new(),
    };
    client.run_pod_sandbox(request).await.unwrap().pod_sandbox_id
}

async fn container(client: &crate::Runtime, sandbox: &str, name: &str) -> Result<String, crate::CriError> {
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: sandbox.to_owned(),
        config: Some(container_config(name)),
        sandbox_config: None,
    };
    client.create_container(request).await.map(|r| r.container_id)
}

fn start(id: &str) -> v1::StartContainerRequest {
    v1::StartContainerRequest {
        container_id: id.to_owned(),
    }
}

fn stop(id: &str, timeout: i64) -> v1::StopContainerRequest {
    v1::StopContainerRequest {
        container_id: id.to_owned(),
        timeout,
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_lives_and_ends_as_the_interface_says() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::start(dir.path());
    let client = fake.client();
    fake.image("app");
    let pod = sandbox(&client, "u1").await;
    let id = container(&client, &pod, "a").await.unwrap();
    assert_eq!(container(&client, &pod, "a").await.unwrap_err().why(), Why::Refused);
    client.start_container(start(&id)).await.unwrap();
    assert_eq!(
        client.start_container(start(&id)).await.unwrap_err().why(),
        Why::Refused
    );
    assert_eq!(fake.running("a").len(), 1);
    fake.behave(
        "a",
        Behaviour {
            stops_after: Duration::from_secs(60),
            ..Behaviour::default()
        },
    );
    let before = fake.now_ns();
    client.stop_container(stop(&id, 30)).await.unwrap();
    let status = fake.containers()[0].status.clone();
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
    assert!(status.finished_at - before >= 30_000_000_000);
    let remove = v1::RemovePodSandboxRequest {
        pod_sandbox_id: pod.clone(),
    };
    assert_eq!(
        client.remove_pod_sandbox(remove.clone()).await.unwrap_err().why(),
        Why::Refused
    );
    let stop = v1::StopPodSandboxRequest { pod_sandbox_id: pod };
    client.stop_pod_sandbox(stop).await.unwrap();
    client.remove_pod_sandbox(remove).await.unwrap();
    assert!(fake.containers().is_empty() && fake.sandboxes().is_empty());
    assert_eq!(fake.calls().last().unwrap().name, "remove_pod_sandbox");
}

#[tokio::test(start_paused = true)]
async fn a_script_delays_refuses_and_loses_answers() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::start(dir.path());
    let client = fake.client();
    fake.image("app");
    let pod = sandbox(&client, "u1").await;
    fake.rule(Rule::next(
        "create_container",
        Act::Refuse(tonic::Code::Unknown, "no".to_owned()),
    ));
    assert_eq!(container(&client, &pod, "a").await.unwrap_err().to_string(), "no");
    fake.rule(Rule::next("create_container", Act::LoseAnswer));
    assert_eq!(container(&client, &pod, "a").await.unwrap_err().why(), Why::Unreachable);
    assert_eq!(fake.containers().len(), 1, "it was made all the same");
    fake.rule(Rule::next("list_containers", Act::Hang));
    let filter = v1::ContainerFilter::default();
    assert_eq!(
        client.list_containers(filter.clone()).await.unwrap_err().why(),
        Why::Late
    );
    fake.down();
    assert_eq!(
        client.list_containers(filter.clone()).await.unwrap_err().why(),
        Why::Unreachable
    );
    fake.up();
    assert_eq!(client.list_containers(filter).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn events_come_by_either_service_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::start(dir.path());
    let client = fake.client();
    fake.image("app");
    let pod = sandbox(&client, "u1").await;
    for (tells, name) in [(Tells::Containerd, "a"), (Tells::Cri, "b")] {
        fake.tells(tells);
        let mut events = client.events();
        let id = container(&client, &pod, name).await.unwrap();
        client.start_container(start(&id)).await.unwrap();
        // The stream is open when the runtime knows a listener.
        let ended = async {
            while fake.shared.events.receiver_count() == 0 {
                tokio::task::yield_now().await;
            }
            fake.oom(&id);
            std::future::pending::<()>().await;
        };
        let next = async {
            loop {
                let happened = events.next().await.unwrap();
                if happened.id == id {
                    return happened;
                }
            }
        };
        let happened = tokio::select! {
            happened = next => happened,
            () = ended => unreachable!(),
        };
        let oom = tells == Tells::Containerd;
        assert_eq!(happened, Happened { id: id.clone(), oom });
        drop(events);
        while fake.shared.events.receiver_count() > 0 {
            tokio::task::yield_now().await;
        }
    }
    fake.tells(Tells::Nothing);
    assert_eq!(client.events().next().await.unwrap_err().why(), Why::Unimplemented);
}
