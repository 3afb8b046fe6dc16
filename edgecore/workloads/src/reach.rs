//! The way from a request to a running program: logs, exec, attach, port-forward, proxies.
//!
//! The API has found the object, let the caller in and read its options; here the program behind it is reached: its log files, the runtime's streaming
//! server, its address in the pod network. Nothing is kept between requests. Never decides who may do what.

mod carry;
mod dial;
mod logs;
mod metrics;
mod proxy;
mod running;
mod spdy;
mod stream;
mod websocket;

use std::path::Path;
use std::sync::{Arc, OnceLock};

use http::StatusCode;
use metastore::api::{ApiBody, Connect, Connected, Connector, Measured, Measurement, Status};
use metastore::store::Store;
use tokio::sync::Semaphore;

pub(crate) use running::{House, Runs};

/// Streams and proxied requests at a time; each holds some tens of kilobytes.
const PLACES: usize = 512;
/// Commands that are being started at a time. containerd's shim takes each start the longer the more of them it has before it: two hundred at
/// once end after five minutes, eight at a time after ten seconds (1.6.20 on two cores).
const STARTS: usize = 8;
/// When to come back if there is no place, in seconds.
const COME_BACK: u32 = 1;

/// Reaches the programs of this gateway.
#[derive(Clone)]
pub(crate) struct Reach(Arc<Inner>);

struct Inner {
    node: Arc<str>,
    store: Store,
    logs: Arc<Path>,
    /// There from when pods are looked after; requests may come before.
    runs: OnceLock<Arc<dyn Runs>>,
    places: Arc<Semaphore>,
    starts: Arc<Semaphore>,
}

impl std::fmt::Debug for Reach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reach").finish_non_exhaustive()
    }
}

impl Reach {
    /// `logs`: the folder of all containers' logs.
    pub(crate) fn new(node: Arc<str>, store: Store, logs: &Path) -> Self {
        Self(Arc::new(Inner {
            node,
            store,
            logs: logs.into(),
            runs: OnceLock::new(),
            places: Arc::new(Semaphore::new(PLACES)),
            starts: Arc::new(Semaphore::new(STARTS)),
        }))
    }

    /// Says who knows what runs; the first one stays.
    pub(crate) fn runs(&self, runs: Arc<dyn Runs>) {
        self.0.runs.get_or_init(|| runs);
    }

    async fn answer(self, to: Connect) -> Result<http::Response<ApiBody>, Status> {
        let inner = &*self.0;
        let Ok(place) = inner.places.clone().try_acquire_owned() else {
            return Err(Status::too_many_requests(COME_BACK));
        };
        match to.subresource.as_str() {
            "log" => logs::answer(inner.logs.clone(), inner.store.clone(), to, place).await,
            "proxy" if to.kind.plural() == "nodes" => self.node(to).await,
            "proxy" => proxy::answer(&inner.store, to, place).await,
            _ => {
                let runs = inner.runs.get();
                let runtime = runs.and_then(|runs| runs.runtime()).ok_or_else(|| {
                    Status::unavailable("no container runtime was found on this machine; see the Node's conditions")
                })?;
                let uid = to.object["metadata"]["uid"].as_str().unwrap_or_default();
                let running = runs.and_then(|runs| runs.running(uid)).ok_or_else(|| {
                    let name = to.object["metadata"]["name"].as_str().unwrap_or_default();
                    Status::new(
                        StatusCode::NOT_FOUND,
                        "NotFound",
                        format!("nothing runs of pod {name:?} on this machine"),
                    )
                })?;
                let turn = match to.subresource.as_str() {
                    "exec" => Some(stream::turn(&inner.starts).await?),
                    _ => None,
                };
                Box::pin(stream::answer(&runtime, running, to, place, turn)).await
            }
        }
    }
}

impl Reach {
    /// What a kubelet answers about its node.
    async fn node(&self, to: Connect) -> Result<http::Response<ApiBody>, Status> {
        let inner = &*self.0;
        if to.object["metadata"]["name"] != *inner.node {
            return Err(Status::unavailable("only this machine's own node can be asked"));
        }
        if let Some(answer) = metrics::plain(&inner.store, &to) {
            return answer;
        }
        let usage = self.runs_here()?.usage(to.path.starts_with("stats")).await;
        Ok(metrics::of_node(&to.path, &usage, &inner.node))
    }

    async fn measured(self, of: Measured) -> Result<Vec<serde_json::Value>, Status> {
        let usage = self.runs_here()?.usage(false).await;
        Ok(metrics::measured(of, &usage, &self.0.node, &self.0.store))
    }

    fn runs_here(&self) -> Result<&dyn Runs, Status> {
        let runs = self.0.runs.get();
        runs.map(|runs| &**runs)
            .ok_or_else(|| Status::unavailable("containers are not looked after yet; try again soon"))
    }
}

impl Connector for Reach {
    fn connect(&self, to: Connect) -> Connected {
        Box::pin(self.clone().answer(to))
    }

    fn measure(&self, of: Measured) -> Measurement {
        Box::pin(self.clone().measured(of))
    }
}

#[cfg(test)]
mod tests;
