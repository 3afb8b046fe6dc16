//! What pods are made of: the words of `setup`, the files of `volumes` and the programs of `images`, put together as `pods` asks for them.
//!
//! Keeps nothing of a pod but what its containers' limits were last set to. Never starts or ends anything.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cri::Runtime;
use cri::v1::{self, DnsConfig, UpdateContainerResourcesRequest};
use daemon::drain::Drain;
use metastore::store::ObjectKey;

use crate::cluster::{Cluster, PODS};
use crate::controllers;
use crate::images::{ImageError, Images};
use crate::machine::Machine;
use crate::network::Network;
use crate::pod::{Container, Pod};
use crate::pods::{Making, Means, Refusal, Work};
use crate::setup::{self, Cgroups, Host, Inputs, SetupError};
use crate::volumes::{VolumeError, Volumes};

/// Tokens are looked after this often at least; the shortest is to be renewed after eight minutes.
const LOOK: Duration = Duration::from_secs(240);
/// And at most.
const REST: Duration = Duration::from_secs(10);

/// How a pod's programs look up names.
pub(crate) type Names = Arc<dyn Fn(&Pod) -> DnsConfig + Send + Sync>;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Supply {
    cluster: Cluster,
    runtime: Runtime,
    host: Arc<Host>,
    names: Names,
    volumes: Volumes,
    images: Images,
    cgroups: Cgroups,
    network: Option<Network>,
    machine: Option<Arc<Machine>>,
    /// Limits that a container was last told, by pod (uid) and container (id), as a fingerprint.
    limits: Arc<Mutex<BTreeMap<(String, String), u64>>>,
}

impl std::fmt::Debug for Supply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supply")
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

impl From<SetupError> for Refusal {
    fn from(error: SetupError) -> Self {
        Self::new(error.reason, error.message)
    }
}

impl From<VolumeError> for Refusal {
    fn from(error: VolumeError) -> Self {
        Self::new("FailedMount", error.0)
    }
}

impl From<ImageError> for Refusal {
    fn from(error: ImageError) -> Self {
        Self {
            after: error.after,
            told: true,
            ..Self::new(error.reason, error.message)
        }
    }
}

impl Supply {
    pub(crate) fn new(cluster: Cluster, runtime: Runtime, images: Images, host: Arc<Host>, names: Names) -> Self {
        Self {
            volumes: Volumes::new(cluster.clone(), Arc::clone(&host)),
            cgroups: Cgroups::new(host.systemd),
            cluster,
            runtime,
            host,
            names,
            images,
            network: None,
            machine: None,
            limits: Arc::default(),
        }
    }

    /// Beside a network: what ends is left alone by Services first.
    #[must_use]
    pub(crate) fn beside(mut self, network: Network) -> Self {
        self.network = Some(network);
        self
    }

    /// On a machine, which takes no pods while it runs short.
    #[must_use]
    pub(crate) fn on(mut self, machine: Arc<Machine>) -> Self {
        self.machine = Some(machine);
        self
    }

    pub(crate) const fn volumes(&self) -> &Volumes {
        &self.volumes
    }

    /// Renews tokens before they end, until the drain begins. What changes otherwise `pods` notices.
    pub(crate) async fn keep(&self, drain: &Drain) {
        loop {
            let mut wait = LOOK;
            for pod in self.cluster.list(PODS, None).unwrap_or_default() {
                let Ok(pod) = Pod::read(pod) else { continue };
                let Some(due) = self.volumes.refresh_in(&pod) else {
                    continue;
                };
                // What cannot be renewed is tried again, and told only here: what is there is still good for a while.
                if due.is_zero()
                    && let Err(error) = self.volumes.refresh(&pod).await
                {
                    tracing::warn!(pod = %pod.key(), %error, "A token cannot be renewed yet.");
                }
                wait = wait.min(due);
            }
            tokio::select! {
                biased;
                () = drain.stopping() => return,
                () = tokio::time::sleep(wait.max(REST)) => {}
            }
        }
    }

    async fn configure(&self, making: Making<'_>) -> Result<v1::ContainerConfig, Refusal> {
        let Making {
            pod,
            container,
            attempt,
            sandbox,
            ips,
            target,
        } = making;
        let image = self.images.ensure(pod, container, Some(sandbox)).await?;
        let mounted = self.volumes.prepared(pod).await;
        let mounted = mounted.map_err(|e| SetupError::container(e.0))?;
        let ips: Vec<IpAddr> = ips.iter().filter_map(|ip| ip.parse().ok()).collect();
        let env = setup::environment(&self.cluster, pod, container, &ips, &self.host)?;
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

    fn forget_limits(&self, uid: &str) {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        limits.retain(|(of, _), _| of != uid);
    }

    async fn limit(&self, pod: &Pod, container: &Container, id: &str) -> Result<(), Refusal> {
        let wanted = setup::resources(pod, container, &self.host);
        let print = crate::time::fingerprint(&[
            wanted.cpu_shares,
            wanted.cpu_quota,
            wanted.cpu_period,
            wanted.memory_limit_in_bytes,
        ]);
        let key = (pod.uid().to_owned(), id.to_owned());
        let known = || self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        if known().get(&key) == Some(&print) {
            return Ok(());
        }
        if let Err(error) = self.cgroups.ensure(pod) {
            tracing::warn!(pod = %pod.key(), %error, "A pod's limits cannot be set.");
        }
        let request = UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(wanted),
            ..UpdateContainerResourcesRequest::default()
        };
        let changed = self.runtime.update_container_resources(request).await;
        changed.map_err(|error| Refusal::new("ResizeContainerError", error.to_string()))?;
        known().insert(key, print);
        Ok(())
    }
}

impl Means for Supply {
    fn admits(&self, pod: &Pod, placed: bool) -> Result<(), Refusal> {
        if let Some(machine) = &self.machine {
            let admitted = machine.admits(pod);
            admitted.map_err(|why| Refusal::new("Evicted", format!("Pod was rejected: {why}")))?;
        }
        let away = (!placed).then(|| controllers::turns_away(&self.cluster, &self.host.node, pod.uid()));
        match away.flatten() {
            None => Ok(()),
            Some((reason, why)) => Err(Refusal::new(reason, format!("Pod was rejected: {why}"))),
        }
    }

    fn prepare<'a>(&'a self, pod: &'a Pod) -> Work<'a, Result<(), Refusal>> {
        Box::pin(async move {
            if let Err(error) = self.cgroups.ensure(pod) {
                // The runtime makes what it needs; only the limit of the pod as a whole is missing.
                tracing::warn!(pod = %pod.key(), %error, "A pod's limits cannot be set.");
            }
            self.volumes.prepare(pod).await?;
            Ok(())
        })
    }

    fn sandbox(&self, pod: &Pod, attempt: u32) -> Result<(v1::PodSandboxConfig, String), Refusal> {
        let handler = setup::runtime_handler(&self.cluster, pod)?;
        let config = setup::sandbox(pod, attempt, (self.names)(pod), &self.host)?;
        Ok((config, handler))
    }

    fn container<'a>(&'a self, making: Making<'a>) -> Work<'a, Result<v1::ContainerConfig, Refusal>> {
        Box::pin(self.configure(making))
    }

    fn refresh<'a>(&'a self, pod: &'a Pod) -> Work<'a, bool> {
        Box::pin(async move {
            let done = self.volumes.refresh(pod).await;
            if let Err(error) = &done {
                tracing::debug!(pod = %pod.key(), %error, "Files of a pod stay as they are.");
            }
            done.is_ok()
        })
    }

    fn concerned(&self, changed: &ObjectKey) -> Vec<String> {
        self.volumes.wants(changed)
    }

    fn left(&self, ip: IpAddr) -> Work<'_, ()> {
        Box::pin(async move {
            if let Some(network) = &self.network {
                network.left(ip).await;
            }
        })
    }

    fn tear_down<'a>(&'a self, uid: &'a str) -> Work<'a, bool> {
        Box::pin(async move {
            self.images.forget(uid);
            self.forget_limits(uid);
            let files = self.volumes.tear_down(uid).await;
            if let Err(error) = &files {
                tracing::warn!(uid, %error, "What a pod left cannot be removed yet.");
            }
            let cgroup = self.cgroups.remove(uid);
            if let Err(error) = &cgroup {
                tracing::debug!(uid, %error, "A pod's cgroup cannot be removed yet.");
            }
            files.is_ok() && cgroup.is_ok()
        })
    }

    fn on_disk(&self) -> Vec<String> {
        self.volumes.on_disk().unwrap_or_else(|error| {
            tracing::warn!(%error, "The folders of pods cannot be listed.");
            Vec::new()
        })
    }

    fn resize<'a>(&'a self, pod: &'a Pod, container: &'a Container, id: &'a str) -> Work<'a, Result<(), Refusal>> {
        Box::pin(self.limit(pod, container, id))
    }
}

#[cfg(test)]
mod tests;
