//! The gateway's own API as the workloads use it: typed places, values in and out, in process. Every write goes the way of a request
//! (admission, validation, one commit) and is durable when it is answered; every read sees all writes before it.

use std::sync::Arc;

use metastore::api::{ApiServer, DeleteOptions, MASTERS, ResourceId, Status, User};
use metastore::store::{ListOptions, ObjectKey, Scope, Store};
use serde_json::Value;

/// A kind of object: how it is named in a body and in a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
}

const fn kind(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> Kind {
    Kind {
        group,
        version,
        kind,
        plural,
    }
}

pub(crate) const BUDGETS: Kind = kind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets");
pub(crate) const CONFIG_MAPS: Kind = kind("", "v1", "ConfigMap", "configmaps");
pub(crate) const CONTROLLER_REVISIONS: Kind = kind("apps", "v1", "ControllerRevision", "controllerrevisions");
pub(crate) const CRON_JOBS: Kind = kind("batch", "v1", "CronJob", "cronjobs");
pub(crate) const DAEMON_SETS: Kind = kind("apps", "v1", "DaemonSet", "daemonsets");
pub(crate) const DEPLOYMENTS: Kind = kind("apps", "v1", "Deployment", "deployments");
pub(crate) const ENDPOINTS: Kind = kind("", "v1", "Endpoints", "endpoints");
pub(crate) const ENDPOINT_SLICES: Kind = kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices");
pub(crate) const EVENTS: Kind = kind("", "v1", "Event", "events");
pub(crate) const JOBS: Kind = kind("batch", "v1", "Job", "jobs");
pub(crate) const NAMESPACES: Kind = kind("", "v1", "Namespace", "namespaces");
pub(crate) const NODES: Kind = kind("", "v1", "Node", "nodes");
pub(crate) const PERSISTENT_VOLUME_CLAIMS: Kind = kind("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims");
pub(crate) const PERSISTENT_VOLUMES: Kind = kind("", "v1", "PersistentVolume", "persistentvolumes");
pub(crate) const PODS: Kind = kind("", "v1", "Pod", "pods");
pub(crate) const REPLICA_SETS: Kind = kind("apps", "v1", "ReplicaSet", "replicasets");
pub(crate) const SECRETS: Kind = kind("", "v1", "Secret", "secrets");
pub(crate) const SERVICES: Kind = kind("", "v1", "Service", "services");
pub(crate) const STATEFUL_SETS: Kind = kind("apps", "v1", "StatefulSet", "statefulsets");

impl Kind {
    /// `v1`, `apps/v1`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// All objects of the kind, or those of a namespace.
    pub(crate) fn scope(&self, namespace: Option<&str>) -> Scope {
        match namespace {
            Some(namespace) => Scope::namespace(self.group, self.plural, namespace),
            None => Scope::all(self.group, self.plural),
        }
    }

    /// Whether a place in the store holds an object of this kind.
    pub(crate) fn is_of(&self, key: &ObjectKey) -> bool {
        *key.resource == *self.plural && *key.group == *self.group
    }

    fn id(&self, namespace: &str, name: &str) -> ResourceId {
        ResourceId::new(self.group, self.plural, namespace, name)
    }
}

/// Namespace and name. The namespace is empty for what has none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

impl Key {
    pub(crate) fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The key of an object, by its metadata.
    pub(crate) fn of(object: &Value) -> Self {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        Self::new(text("namespace"), text("name"))
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The API under the name of one of its controllers. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    api: ApiServer,
    user: Arc<User>,
}

impl Cluster {
    /// For a controller of this name (`deployment-controller`), which is who the audit journal says wrote.
    pub(crate) fn new(api: ApiServer, controller: &str) -> Self {
        Self {
            api,
            user: Arc::new(User::new(format!("system:kurator:{controller}"), [MASTERS])),
        }
    }

    pub(crate) fn store(&self) -> &Store {
        self.api.store()
    }

    pub(crate) const fn api(&self) -> &ApiServer {
        &self.api
    }

    /// An object as it is stored, `None` when there is none.
    pub(crate) fn get(&self, kind: Kind, key: &Key) -> Result<Option<Value>, Status> {
        let found = self.api.get(&kind.id(&key.namespace, &key.name))?;
        found.map(|object| object.value().map_err(unreadable)).transpose()
    }

    /// All objects of a kind, or those of a namespace, by name.
    pub(crate) fn list(&self, kind: Kind, namespace: Option<&str>) -> Result<Vec<Value>, Status> {
        let listed = self.store().list(&kind.scope(namespace), ListOptions::default());
        let listed = listed.map_err(unreadable)?;
        listed
            .items
            .iter()
            .map(|object| object.value().map_err(unreadable))
            .collect()
    }

    /// Creates an object; kind, namespace and name (or `generateName`) are in it. As it is stored.
    pub(crate) async fn create(&self, object: Value) -> Result<Value, Status> {
        self.api.create(&self.user, object).await?.value().map_err(unreadable)
    }

    /// Changes an object by a function, which is called again when somebody else wrote meanwhile, and changes nothing by leaving it as it
    /// is. As it is stored then. An object that is not there is an error with code 404.
    pub(crate) async fn modify(
        &self,
        kind: Kind,
        key: &Key,
        change: impl FnMut(&mut Value) -> Result<(), Status> + Send,
    ) -> Result<Value, Status> {
        self.change(kind, key, "", change).await
    }

    /// The same for its status.
    pub(crate) async fn modify_status(
        &self,
        kind: Kind,
        key: &Key,
        change: impl FnMut(&mut Value) -> Result<(), Status> + Send,
    ) -> Result<Value, Status> {
        self.change(kind, key, "status", change).await
    }

    async fn change(
        &self,
        kind: Kind,
        key: &Key,
        part: &str,
        change: impl FnMut(&mut Value) -> Result<(), Status> + Send,
    ) -> Result<Value, Status> {
        let id = kind.id(&key.namespace, &key.name);
        let applied = self.api.modify(&self.user, &id, part, change).await?;
        applied.object.value().map_err(unreadable)
    }

    /// Acts on an object: what a POST to one of its subresources does, such as `binding` of a pod.
    pub(crate) async fn act(&self, kind: Kind, key: &Key, action: &str, body: &Value) -> Result<(), Status> {
        let id = kind.id(&key.namespace, &key.name);
        self.api.act(&self.user, &id, action, body).await
    }

    /// Deletes an object. False when there was none.
    pub(crate) async fn delete(&self, kind: Kind, key: &Key, options: &DeleteOptions) -> Result<bool, Status> {
        let id = kind.id(&key.namespace, &key.name);
        self.api.delete_internal(&self.user, &id, options).await
    }
}

fn unreadable(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}
