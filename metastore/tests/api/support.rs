//! A server over a temporary store, and calls as a client makes them.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use metastore::api::{ApiBody, ApiServer, Builder, MASTERS, User};
use metastore::store::{SealKey, Store, StoreOptions};
use serde_json::{Value, json};

pub(crate) const WIDGETS: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.test.io}
spec:
  group: test.io
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, shortNames: [wd]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns:
    - {name: Size, type: integer, jsonPath: .spec.size}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              size: {type: integer, default: 3, maximum: 10}
          status:
            type: object
            properties:
              ready: {type: integer}
"#;

/// A server and the folder of its store.
pub(crate) struct Api {
    pub(crate) server: ApiServer,
    folder: tempfile::TempDir,
}

pub(crate) fn options(folder: &tempfile::TempDir) -> StoreOptions {
    let mut options = StoreOptions::new(folder.path().join("api.db"));
    options.seal_key = Some(SealKey::new(&[9; 32]));
    options
}

impl Api {
    pub(crate) async fn start() -> Self {
        Self::with(|_| (), |b| b.crds(&[WIDGETS])).await
    }

    pub(crate) async fn with(store: impl FnOnce(&mut StoreOptions), api: impl FnOnce(Builder) -> Builder) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = options(&folder);
        store(&mut options);
        let (store, _) = Store::open(options).unwrap();
        let server = api(ApiServer::builder(store)).build().await.unwrap();
        Self { server, folder }
    }

    /// Another server over a store that is open.
    pub(crate) fn over(server: ApiServer, folder: tempfile::TempDir) -> Self {
        Self { server, folder }
    }

    /// Its folder, for the next one.
    pub(crate) fn into_folder(self) -> tempfile::TempDir {
        self.folder
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Response<ApiBody> {
        self.server.handle(request).await
    }

    /// A call as an administrator; the answer's status and body.
    pub(crate) async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.call_as(Some(admin()), method, path, "application/json", body)
            .await
    }

    pub(crate) async fn call_as(
        &self,
        user: Option<User>,
        method: &str,
        path: &str,
        content_type: &str,
        body: Value,
    ) -> (u16, Value) {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content_type)
            .body(Full::from(body))
            .unwrap();
        if let Some(user) = user {
            request.extensions_mut().insert(user);
        }
        let response = self.send(request).await;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        self.call("GET", path, Value::Null).await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> (u16, Value) {
        self.call_as(Some(admin()), "PATCH", path, "application/merge-patch+json", body)
            .await
    }

    /// Creates a ConfigMap in `default`; its resourceVersion.
    pub(crate) async fn config_map(&self, name: &str, labels: Value) -> u64 {
        let object = json!({"metadata": {"name": name, "labels": labels}, "data": {"k": "v"}});
        let (status, body) = self.call("POST", "/api/v1/namespaces/default/configmaps", object).await;
        assert_eq!(status, 201, "{body}");
        version(&body)
    }

    /// Opens a watch.
    pub(crate) async fn watch(&self, path: &str) -> Watching {
        let mut request = Request::get(path).body(Full::new(Bytes::new())).unwrap();
        request.extensions_mut().insert(admin());
        let response = self.send(request).await;
        assert_eq!(response.status(), 200);
        Watching::of(response.into_body())
    }
}

pub(crate) fn admin() -> User {
    User::new("admin", [MASTERS])
}

pub(crate) fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

/// An open watch.
pub(crate) struct Watching {
    body: ApiBody,
    text: String,
}

impl Watching {
    pub(crate) fn of(body: ApiBody) -> Self {
        Self {
            body,
            text: String::new(),
        }
    }

    /// The body as it is.
    pub(crate) fn into_body(self) -> ApiBody {
        self.body
    }

    /// The next event; none when the watch is over.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((line, rest)) = self.text.split_once('\n') {
                let event = serde_json::from_str(line).unwrap();
                self.text = rest.to_owned();
                return Some(event);
            }
            let frame = tokio::time::timeout(Duration::from_secs(20), self.body.frame())
                .await
                .expect("an event should have come")?;
            self.text
                .push_str(std::str::from_utf8(frame.unwrap().data_ref().unwrap()).unwrap());
        }
    }

    /// The next event as type and name.
    pub(crate) async fn short(&mut self) -> (String, String) {
        let event = self.next().await.expect("an event");
        (
            event["type"].as_str().unwrap().to_owned(),
            event["object"]["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        )
    }
}
