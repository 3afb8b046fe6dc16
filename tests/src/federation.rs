//! Two gateways with containers, each on a machine of its own, and a hub on the second one's, with whatever stands above it.

use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::gateway::configure;
use crate::objects::Objects;
use crate::runtime::{Machine, WIRE};
use crate::{Api, Edge, Hub, eventually};

/// Their names.
pub const NODES: [&str; 2] = ["cluster-beijing", "cluster-shanghai"];

/// A gateway and its machine.
#[derive(Debug)]
pub struct Member {
    /// The agent.
    pub edge: Edge,
    /// Its API by way of the hub.
    pub at: Objects,
    // Last, since it takes the other's ground away.
    /// The machine.
    pub machine: Machine,
}

/// The hub, its gateways, and the control plane that people speak to.
#[derive(Debug)]
pub struct Federation {
    /// The control plane: the hub itself, or what stands above it.
    pub above: Objects,
    /// The gateways, in the order of [`NODES`].
    pub members: [Member; 2],
    /// The hub. The calling thread is where it is.
    pub hub: Hub,
    _folder: TempDir,
}

/// Two machines with a wire between them; the calling thread is on the second.
#[derive(Debug)]
pub struct Ground {
    machines: [Machine; 2],
    folder: TempDir,
}

impl Ground {
    /// Makes them.
    pub async fn lay() -> Self {
        daemon::tls::install_provider();
        let machines = [Machine::start().await, Machine::start().await];
        let [first, second] = &machines;
        second.wire_to(first).await;
        Self {
            machines,
            folder: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    /// Starts a hub with these arguments, lets both gateways join it, and waits until they are equal with it.
    ///
    /// # Panics
    /// When they do not start.
    pub async fn build(self, arguments: &[&str], above: Option<Api>) -> Federation {
        let [first, second] = self.machines;
        let arguments = [&["--heartbeat", "1s"], arguments].concat();
        let hub = Hub::start_on(self.folder.path(), &format!("{}:0", WIRE[0]), &arguments).await;
        let joined = async |name: &str, machine: &Machine| {
            let token = hub.token(&["--node", name]).await;
            let own = machine.folder().join("gateway");
            configure(&own, name, machine, Value::Null);
            machine.enter();
            Edge::join(&own, name, &token).await.good();
            let edge = Edge::start_with(&own, name, &[]).await;
            second.enter();
            edge
        };
        let edges = [joined(NODES[0], &first).await, joined(NODES[1], &second).await];
        let through = async |name: &str| {
            hub.until_in_sync(name).await;
            let api = Api::open(&hub.kubeconfig(), Some(name)).await;
            Objects(api.expect("the hub wrote its kubeconfig"))
        };
        let at = [through(NODES[0]).await, through(NODES[1]).await];
        let above = match above {
            Some(api) => Objects(api),
            None => Objects(
                Api::open(&hub.kubeconfig(), None)
                    .await
                    .expect("the hub wrote its kubeconfig"),
            ),
        };
        let ([edge1, edge2], [at1, at2]) = (edges, at);
        let member = |edge, at, machine| Member { edge, at, machine };
        let federation = Federation {
            above,
            members: [member(edge1, at1, first), member(edge2, at2, second)],
            hub,
            _folder: self.folder,
        };
        for name in NODES {
            federation.until_cluster(name, "True").await;
        }
        federation
    }

    /// A folder that goes with it.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }
}

impl Federation {
    /// Any object above by its path.
    pub async fn get(&self, path: &str) -> Option<Value> {
        crate::get(&self.above.0, path).await
    }

    /// Waits until a cluster is ready, or is not.
    pub async fn until_cluster(&self, name: &str, ready: &str) -> Value {
        let path = format!("/apis/cluster.karmada.io/v1alpha1/clusters/{name}");
        eventually(&format!("cluster {name} to have Ready={ready}"), async || {
            let cluster = self.get(&path).await?;
            let conditions = cluster["status"]["conditions"].as_array()?;
            let is = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == ready);
            is.then_some(cluster)
        })
        .await
    }

    /// Creates an object in `default` by the path of its kind's group and version.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn post(&self, root: &str, plural: &str, object: &Value) {
        let path = format!("{root}/namespaces/default/{plural}");
        let made = self.above.0.json(Method::POST, &path, Some(object)).await;
        made.unwrap_or_else(|e| panic!("{plural} is refused: {e:?}"));
    }

    /// A PropagationPolicy for Deployments of this name on both gateways.
    pub async fn propagate(&self, kind: (&str, &str), name: &str, scheduling: Value) {
        let (version, kind) = kind;
        let policy = json!({
            "apiVersion": "policy.karmada.io/v1alpha1",
            "kind": "PropagationPolicy",
            "metadata": {"name": name},
            "spec": {
                "resourceSelectors": [{"apiVersion": version, "kind": kind, "name": name}],
                "placement": {"clusterAffinity": {"clusterNames": NODES}, "replicaScheduling": scheduling},
            },
        });
        self.post("/apis/policy.karmada.io/v1alpha1", "propagationpolicies", &policy)
            .await;
    }
}
