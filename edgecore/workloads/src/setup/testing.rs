//! A store with the API before it, in a folder of its own, and Pods to try things on.

use std::path::Path;
use std::sync::Arc;

use metastore::api::{ApiServer, Builder};
use metastore::store::{SealKey, Store, StoreOptions};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Host, Ips};
use crate::cluster::Cluster;
use crate::pod::Pod;

pub(crate) async fn cluster() -> (TempDir, Cluster) {
    cluster_with(|builder| builder).await
}

pub(crate) async fn cluster_with(more: impl FnOnce(Builder) -> Builder) -> (TempDir, Cluster) {
    let dir = TempDir::new().unwrap();
    let mut options = StoreOptions::new(dir.path().join("test.db"));
    options.seal_key = Some(SealKey::new(&[7; 32]));
    let (store, _) = Store::open(options).unwrap();
    let api = more(ApiServer::builder(store)).build().await.unwrap();
    (dir, Cluster::new(api, "test"))
}

pub(crate) fn host(dir: &Path) -> Host {
    Host {
        node: Arc::from("gw-1"),
        ips: Ips(Arc::new(|| {
            vec!["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()]
        })),
        logs: dir.join("logs"),
        pods: dir.join("pods"),
        seccomp: dir.join("seccomp"),
        cluster_domain: "cluster.local".to_owned(),
        systemd: false,
        memory: 4_000_000_000,
        swap: false,
        recursive_read_only: false,
    }
}

/// A pod of one container, with more in its spec.
pub(crate) fn pod(spec: Value) -> Pod {
    let mut whole = json!({"containers": [{"name": "app", "image": "busybox"}]});
    for (field, value) in spec.as_object().unwrap() {
        whole[field] = value.clone();
    }
    Pod::read(json!({
        "metadata": {"name": "press", "namespace": "plant", "uid": "0aa1-22", "labels": {"app": "press"},
            "annotations": {"note": "a \"b\"\n"}},
        "spec": whole,
    }))
    .unwrap()
}

/// A pod whose container has this in it.
pub(crate) fn pod_of(container: Value) -> Pod {
    let mut whole = json!({"name": "app", "image": "busybox"});
    for (field, value) in container.as_object().unwrap() {
        whole[field] = value.clone();
    }
    pod(json!({"containers": [whole]}))
}
