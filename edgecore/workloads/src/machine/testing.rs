//! Containers in the scripted runtime, for tests of this module.

use std::collections::BTreeMap;
use std::path::Path;

use cri::fake::Fake;
use cri::v1;

/// Runs a container of this node in a sandbox of its own; its id. Its log is `<logs>/app/0.log`.
pub(super) async fn run(fake: &Fake, node: &str, logs: &Path) -> String {
    let runtime = fake.client();
    let labels = BTreeMap::from([(crate::setup::label::NODE.to_owned(), node.to_owned())]);
    let metadata = v1::PodSandboxMetadata {
        name: "a".into(),
        uid: "u-1".into(),
        namespace: "plant".into(),
        attempt: 0,
    };
    let sandbox_config = v1::PodSandboxConfig {
        metadata: Some(metadata),
        labels: labels.clone(),
        log_directory: logs.display().to_string(),
        ..v1::PodSandboxConfig::default()
    };
    let request = v1::RunPodSandboxRequest {
        config: Some(sandbox_config.clone()),
        ..v1::RunPodSandboxRequest::default()
    };
    let pod_sandbox_id = runtime.run_pod_sandbox(request).await.unwrap().pod_sandbox_id;
    fake.image("app:1");
    let config = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: "app".into(),
            attempt: 0,
        }),
        image: Some(v1::ImageSpec {
            image: "app:1".into(),
            ..v1::ImageSpec::default()
        }),
        log_path: "app/0.log".into(),
        labels,
        ..v1::ContainerConfig::default()
    };
    std::fs::create_dir_all(logs.join("app")).unwrap();
    let request = v1::CreateContainerRequest {
        pod_sandbox_id,
        config: Some(config),
        sandbox_config: Some(sandbox_config),
    };
    let id = runtime.create_container(request).await.unwrap().container_id;
    let start = v1::StartContainerRequest {
        container_id: id.clone(),
    };
    runtime.start_container(start).await.unwrap();
    id
}
