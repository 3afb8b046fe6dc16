//! Pods as the runtime knows them, made through its own interface with nobody between: what tests compare with, and what strangers run.

use std::collections::BTreeMap;

use cri::v1;

use super::{BOX, Machine};

/// Ids of a sandbox and of the one container in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bare {
    /// The sandbox.
    pub sandbox: String,
    /// The container.
    pub container: String,
}

impl Machine {
    /// Makes a sandbox as an agent asks for one (names and servers of DNS, the runtime's seccomp profile: 15 ms for the runtime)
    /// and starts one container in it that runs this command. Both carry the labels; the log is `<name>/c.log` in the
    /// machine's folder.
    ///
    /// # Panics
    /// When the runtime refuses.
    pub async fn run_bare(&self, name: &str, command: &[&str], labels: BTreeMap<String, String>) -> Bare {
        let runtime = self.runtime();
        let logs = self.folder().join(name);
        std::fs::create_dir_all(&logs).expect("the machine's folder can be written");
        let config = v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("{name}-uid"),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: logs.display().to_string(),
            dns_config: Some(v1::DnsConfig {
                servers: vec!["10.43.0.10".to_owned()],
                searches: vec!["default.svc.cluster.local".to_owned()],
                options: vec!["ndots:5".to_owned()],
            }),
            labels: labels.clone(),
            linux: Some(v1::LinuxPodSandboxConfig {
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(v1::NamespaceOption {
                        pid: v1::NamespaceMode::Container.into(),
                        ..Default::default()
                    }),
                    seccomp: Some(v1::SecurityProfile {
                        profile_type: v1::security_profile::ProfileType::RuntimeDefault.into(),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let request = v1::RunPodSandboxRequest {
            config: Some(config.clone()),
            ..Default::default()
        };
        let made = runtime.run_pod_sandbox(request).await;
        let sandbox = made.expect("the runtime makes a sandbox").pod_sandbox_id;
        let container = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: "c".to_owned(),
                attempt: 0,
            }),
            image: Some(v1::ImageSpec {
                image: BOX.to_owned(),
                ..Default::default()
            }),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            log_path: "c.log".to_owned(),
            labels,
            linux: Some(v1::LinuxContainerConfig::default()),
            ..Default::default()
        };
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.clone(),
            config: Some(container),
            sandbox_config: Some(config),
        };
        let made = runtime.create_container(request).await;
        let container = made.expect("the runtime makes a container").container_id;
        let request = v1::StartContainerRequest {
            container_id: container.clone(),
        };
        let started = runtime.start_container(request).await;
        started.expect("the runtime starts the container");
        Bare { sandbox, container }
    }

    /// Ends a sandbox with what is in it, and removes it.
    ///
    /// # Panics
    /// When the runtime refuses.
    pub async fn remove_bare(&self, bare: &Bare) {
        let runtime = self.runtime();
        let request = v1::StopPodSandboxRequest {
            pod_sandbox_id: bare.sandbox.clone(),
        };
        runtime.stop_pod_sandbox(request).await.expect("the runtime stops it");
        let request = v1::RemovePodSandboxRequest {
            pod_sandbox_id: bare.sandbox.clone(),
        };
        runtime
            .remove_pod_sandbox(request)
            .await
            .expect("the runtime removes it");
    }

    /// A container as the runtime knows it.
    ///
    /// # Panics
    /// When it does not.
    pub async fn bare_status(&self, container: &str) -> v1::ContainerStatus {
        let request = v1::ContainerStatusRequest {
            container_id: container.to_owned(),
            verbose: false,
        };
        let answer = self.runtime().container_status(request).await;
        answer
            .expect("the runtime answers")
            .status
            .expect("the runtime knows it")
    }

    /// How many sandboxes and how many containers run. `None` while the runtime does not answer.
    pub async fn running(&self) -> Option<(usize, usize)> {
        let runtime = self.runtime();
        let sandboxes = runtime.list_pod_sandboxes(v1::PodSandboxFilter::default()).await.ok()?;
        let ready = |s: &&v1::PodSandbox| s.state() == v1::PodSandboxState::SandboxReady;
        let containers = runtime.list_containers(v1::ContainerFilter::default()).await.ok()?;
        let up = |c: &&v1::Container| c.state() == v1::ContainerState::ContainerRunning;
        Some((
            sandboxes.iter().filter(ready).count(),
            containers.iter().filter(up).count(),
        ))
    }
}
