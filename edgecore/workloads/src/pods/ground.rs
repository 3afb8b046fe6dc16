//! What a pod stands on, put together from its neighbours: `setup` for the words, `volumes`, `images`, `network` for names.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cri::{Runtime, v1};
use metastore::store::ObjectKey;

use super::means::{Making, Means, Refusal, Work};
use crate::cluster::Cluster;
use crate::images::{ImageError, Images};
use crate::network::Network;
use crate::pod::{Container, Pod};
use crate::setup::{self, Cgroups, Host, Inputs, SetupError};
use crate::volumes::{VolumeError, Volumes};

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    pub(crate) cluster: Cluster,
    pub(crate) host: Arc<Host>,
    pub(crate) runtime: Runtime,
    pub(crate) volumes: Volumes,
    pub(crate) images: Images,
    pub(crate) network: Network,
    pub(crate) cgroups: Cgroups,
}

impl From<SetupError> for Refusal {
    fn from(e: SetupError) -> Self {
        Self::new(e.reason, e.message)
    }
}

impl From<VolumeError> for Refusal {
    fn from(e: VolumeError) -> Self {
        Self::new("FailedMount", e.0)
    }
}

impl From<ImageError> for Refusal {
    fn from(e: ImageError) -> Self {
        Self {
            after: e.after,
            told: true,
            ..Self::new(e.reason, e.message)
        }
    }
}

impl Ground {
    async fn make(&self, making: Making<'_>) -> Result<v1::ContainerConfig, Refusal> {
        let Making {
            pod,
            container,
            attempt,
            sandbox,
            target,
            ..
        } = making;
        let image = self.images.ensure(pod, container, Some(sandbox)).await?;
        let ips: Vec<IpAddr> = if pod.spec.host_network {
            self.host.ips.clone()
        } else {
            making.ips.iter().filter_map(|ip| ip.parse().ok()).collect()
        };
        let env = setup::environment(&self.cluster, pod, container, &ips, &self.host)?;
        // All are there already; this says where.
        let mounted = self.volumes.prepare(pod).await?;
        let mut mounts = self.volumes.mounts(pod, container, &mounted, &env).await?;
        let own = setup::own_files(&self.host, pod, container, attempt, &ips, &mounts)?;
        mounts.extend(own);
        let inputs = Inputs {
            image: &image,
            env: &env,
            mounts,
            target,
        };
        Ok(setup::container(pod, container, attempt, inputs, &self.host)?)
    }
}

impl Means for Ground {
    fn prepare<'a>(&'a self, pod: &'a Arc<Pod>) -> Work<'a, Result<(), Refusal>> {
        Box::pin(async move {
            if let Err(e) = self.cgroups.ensure(pod) {
                tracing::warn!(pod = %pod.key(), error = %e, "The cgroup of a pod cannot be made: the runtime makes it without limits.");
            }
            self.volumes.prepare(pod).await?;
            Ok(())
        })
    }

    fn sandbox(&self, pod: &Pod, attempt: u32) -> Result<(v1::PodSandboxConfig, String), Refusal> {
        let names = self.network.dns_for(pod);
        let dns = v1::DnsConfig {
            servers: names.servers,
            searches: names.searches,
            options: names.options,
        };
        let config = setup::sandbox(pod, attempt, dns, &self.host)?;
        Ok((config, setup::runtime_handler(&self.cluster, pod)?))
    }

    fn container<'a>(&'a self, making: Making<'a>) -> Work<'a, Result<v1::ContainerConfig, Refusal>> {
        Box::pin(self.make(making))
    }

    fn refresh<'a>(&'a self, pod: &'a Arc<Pod>) -> Work<'a, ()> {
        Box::pin(async move {
            if let Err(e) = self.volumes.refresh(pod).await {
                tracing::debug!(pod = %pod.key(), error = %e, "The contents of a volume cannot be brought up to date.");
            }
        })
    }

    fn refresh_in(&self, pod: &Pod) -> Option<Duration> {
        self.volumes.refresh_in(pod)
    }

    fn concerned(&self, changed: &ObjectKey) -> Vec<String> {
        self.volumes.wants(changed)
    }

    fn tear_down<'a>(&'a self, uid: &'a str) -> Work<'a, bool> {
        Box::pin(async move {
            self.images.forget(uid);
            let files = self.volumes.tear_down(uid).await;
            if let Err(e) = &files {
                tracing::warn!(uid, error = %e, "The files of a pod cannot be taken away yet.");
            }
            let cgroup = self.cgroups.remove(uid);
            if let Err(e) = &cgroup {
                tracing::debug!(uid, error = %e, "The cgroup of a pod cannot be removed yet.");
            }
            files.is_ok() && cgroup.is_ok()
        })
    }

    fn on_disk(&self) -> Vec<String> {
        self.volumes.on_disk().unwrap_or_else(|e| {
            tracing::debug!(error = %e, "The pods' folders cannot be listed.");
            Vec::new()
        })
    }

    fn left(&self, ip: IpAddr) -> Work<'_, ()> {
        Box::pin(self.network.left(ip))
    }

    fn resize<'a>(&'a self, pod: &'a Pod, container: &'a Container, id: &'a str) -> Work<'a, Result<(), Refusal>> {
        Box::pin(async move {
            if let Err(e) = self.cgroups.ensure(pod) {
                tracing::debug!(pod = %pod.key(), error = %e, "The cgroup of a pod cannot be changed.");
            }
            let request = v1::UpdateContainerResourcesRequest {
                container_id: id.to_owned(),
                linux: Some(setup::resources(pod, container, &self.host)),
                ..v1::UpdateContainerResourcesRequest::default()
            };
            let done = self.runtime.update_container_resources(request).await;
            done.map(drop)
                .map_err(|e| Refusal::new("ResizeContainerError", e.to_string()))
        })
    }
}
