//! Requests to the API above, as JSON values, with errors sorted by what to do about them. The only place that knows paths.

use http::{Method, Request, StatusCode};
use serde_json::Value;

/// Why a request came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApiError {
    /// There is no such object.
    #[error("not found")]
    NotFound,
    /// Somebody else was faster: read again and repeat.
    #[error("changed meanwhile")]
    Conflict,
    /// The API will never take this.
    #[error("{0}")]
    Refused(String),
    /// What was reported is of a device that is not the reporter's, as things are.
    #[error("{0}")]
    NotOwned(&'static str),
    /// Something else has to happen first; the API is well.
    #[error("{0}")]
    NotYet(&'static str),
    /// The API cannot be asked now.
    #[error("{0}")]
    Unavailable(String),
}

/// A kind and where it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    /// `/api/v1` or `/apis/<group>/<version>`.
    root: &'static str,
    /// Plural.
    plural: &'static str,
    namespaced: bool,
}

pub(crate) const DEVICE: Kind = Kind {
    root: "/apis/devices.kubeedge.io/v1beta1",
    plural: "devices",
    namespaced: true,
};
pub(crate) const DEVICE_STATUS: Kind = Kind {
    root: "/apis/devices.kubeedge.io/v1beta1",
    plural: "devicestatuses",
    namespaced: true,
};
pub(crate) const NODE: Kind = Kind {
    root: "/api/v1",
    plural: "nodes",
    namespaced: false,
};
pub(crate) const EDGE_NODE: Kind = Kind {
    root: "/apis/edge.kubeedge.io/v1",
    plural: "edgenodes",
    namespaced: false,
};

pub(crate) const WORK: Kind = Kind {
    root: "/apis/work.karmada.io/v1alpha1",
    plural: "works",
    namespaced: true,
};
pub(crate) const CLUSTER: Kind = Kind {
    root: "/apis/cluster.karmada.io/v1alpha1",
    plural: "clusters",
    namespaced: false,
};
pub(crate) const LEASE: Kind = Kind {
    root: "/apis/coordination.k8s.io/v1",
    plural: "leases",
    namespaced: true,
};

pub(crate) const NAMESPACE: Kind = Kind {
    root: "/api/v1",
    plural: "namespaces",
    namespaced: false,
};
pub(crate) const SECRET: Kind = Kind {
    root: "/api/v1",
    plural: "secrets",
    namespaced: true,
};

impl Kind {
    fn collection(&self, namespace: &str) -> String {
        if self.namespaced {
            format!("{}/namespaces/{namespace}/{}", self.root, self.plural)
        } else {
            format!("{}/{}", self.root, self.plural)
        }
    }

    fn object(&self, namespace: &str, name: &str) -> String {
        format!("{}/{name}", self.collection(namespace))
    }
}

/// The client.
#[derive(Clone)]
pub(crate) struct Objects {
    client: kube::Client,
    /// That it does not know or does not allow the hub may be so for a moment only: while it starts, or while its roles are brought up to date.
    patient: bool,
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Objects")
    }
}

const JSON: &str = "application/json";

impl Objects {
    pub(crate) const fn new(client: kube::Client) -> Self {
        Self { client, patient: false }
    }

    /// Of an API in another place.
    pub(crate) const fn elsewhere(client: kube::Client) -> Self {
        Self { client, patient: true }
    }

    async fn send(&self, method: Method, path: String, kind: &str, body: Option<&Value>) -> Result<Value, ApiError> {
        let body = body.map_or_else(Vec::new, |b| serde_json::to_vec(b).expect("a JSON value serialises"));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::CONTENT_TYPE, kind)
            .header(http::header::ACCEPT, JSON)
            .body(body)
            .map_err(|e| ApiError::Refused(format!("cannot be named in a request: {e}")))?;
        self.client.request::<Value>(request).await.map_err(|e| match e {
            kube::Error::Api(status) if self.patient && matches!(status.code, 401 | 403) => {
                ApiError::Unavailable(status.message)
            }
            e => sort(e),
        })
    }

    pub(crate) async fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Value, ApiError> {
        self.send(Method::GET, kind.object(namespace, name), JSON, None).await
    }

    pub(crate) async fn create(&self, kind: Kind, namespace: &str, object: &Value) -> Result<Value, ApiError> {
        self.send(Method::POST, kind.collection(namespace), JSON, Some(object))
            .await
    }

    pub(crate) async fn replace(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        object: &Value,
    ) -> Result<Value, ApiError> {
        self.send(Method::PUT, kind.object(namespace, name), JSON, Some(object))
            .await
    }

    pub(crate) async fn replace_status(&self, kind: Kind, name: &str, object: &Value) -> Result<Value, ApiError> {
        self.send(Method::PUT, kind.object("", name) + "/status", JSON, Some(object))
            .await
    }

    pub(crate) async fn json_patch(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<Value, ApiError> {
        let path = kind.object(namespace, name);
        self.send(Method::PATCH, path, "application/json-patch+json", Some(patch))
            .await
    }

    pub(crate) async fn merge_patch(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<Value, ApiError> {
        let path = kind.object(namespace, name);
        self.send(Method::PATCH, path, "application/merge-patch+json", Some(patch))
            .await
    }

    pub(crate) async fn merge_patch_status(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<Value, ApiError> {
        let path = kind.object(namespace, name) + "/status";
        self.send(Method::PATCH, path, "application/merge-patch+json", Some(patch))
            .await
    }

    /// Deletes; absent is deleted.
    pub(crate) async fn delete(&self, kind: Kind, namespace: &str, name: &str) -> Result<(), ApiError> {
        match self
            .send(Method::DELETE, kind.object(namespace, name), JSON, None)
            .await
        {
            Ok(_) | Err(ApiError::NotFound) => Ok(()),
            Err(e) => Err(e),
        }
    }
}

fn sort(error: kube::Error) -> ApiError {
    let status = match error {
        kube::Error::Api(status) => status,
        other => return ApiError::Unavailable(other.to_string()),
    };
    match StatusCode::from_u16(status.code) {
        Ok(StatusCode::NOT_FOUND) => ApiError::NotFound,
        Ok(StatusCode::CONFLICT) => ApiError::Conflict,
        Ok(code)
            if code.is_client_error()
                && code != StatusCode::TOO_MANY_REQUESTS
                && code != StatusCode::REQUEST_TIMEOUT =>
        {
            ApiError::Refused(status.message)
        }
        _ => ApiError::Unavailable(status.message),
    }
}

/// `metadata.resourceVersion` as a number, 0 when it is none.
pub(crate) fn revision(object: &Value) -> u64 {
    let text = object.pointer("/metadata/resourceVersion").and_then(Value::as_str);
    text.and_then(|t| t.parse().ok()).unwrap_or(0)
}
