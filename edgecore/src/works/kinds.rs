//! The kinds that the local API serves, by what an object says of itself: read from its discovery, and again when a definition changed.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use http::{Request, header};
use hyper::body::Body;
use metastore::api::{ApiBody, ApiServer, User};
use serde::Deserialize;
use serde_json::{Value, json};

/// The form of discovery that says everything in one answer.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
/// Longest answer that is read: some thousand kinds.
const MAX_ANSWER: usize = 8 * 1024 * 1024;

/// A kind in one version.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    pub(super) group: Arc<str>,
    pub(super) version: Arc<str>,
    pub(super) kind: Arc<str>,
    pub(super) plural: Arc<str>,
    pub(super) namespaced: bool,
    /// The version that the API prefers, in which it hands out what is asked for by its resource.
    pub(super) preferred: bool,
}

/// The table.
#[derive(Debug, Default)]
pub(super) struct Kinds {
    /// By `apiVersion` and `kind`.
    rows: BTreeMap<(Box<str>, Box<str>), Arc<Kind>>,
    /// Of all that is in it.
    pub(super) fingerprint: u64,
}

impl Kinds {
    /// Reads what the API serves now.
    pub(super) async fn read(api: &ApiServer, user: &User) -> Option<Self> {
        let mut out = Self::default();
        for path in ["/api", "/apis"] {
            out.add(&get(api, user, path).await?);
        }
        let mut hasher = DefaultHasher::new();
        for (key, row) in &out.rows {
            (key, &row.plural, row.namespaced, row.preferred).hash(&mut hasher);
        }
        out.fingerprint = hasher.finish();
        Some(out)
    }

    fn add(&mut self, answer: &[u8]) {
        let list: List = serde_json::from_slice(answer).unwrap_or_default();
        for group in list.items {
            let name: Arc<str> = group.metadata.name.into();
            let mut seen: Vec<Arc<str>> = Vec::new();
            for version in group.versions {
                let number: Arc<str> = version.version.into();
                let from = seen.len();
                for resource in version.resources {
                    let plural: Arc<str> = resource.resource.into();
                    let row = Kind {
                        group: Arc::clone(&name),
                        version: Arc::clone(&number),
                        kind: resource.response_kind.kind.into(),
                        // Versions stand in the order of the API's liking.
                        preferred: !seen[..from].contains(&plural),
                        namespaced: resource.scope == "Namespaced",
                        plural: Arc::clone(&plural),
                    };
                    seen.push(plural);
                    let key = (api_version(&name, &number).into(), (&*row.kind).into());
                    // Some kinds are the answer of several resources; the first is the one that is called so.
                    self.rows.entry(key).or_insert_with(|| Arc::new(row));
                }
            }
        }
    }

    /// The row of an object.
    pub(super) fn of(&self, api_version: &str, kind: &str) -> Option<&Arc<Kind>> {
        self.rows.get(&(Box::from(api_version), Box::from(kind)))
    }

    /// The preferred row of a resource.
    pub(super) fn of_resource(&self, group: &str, plural: &str) -> Option<&Arc<Kind>> {
        let mut rows = self.rows.values();
        rows.find(|row| row.preferred && *row.group == *group && *row.plural == *plural)
    }

    /// What a Cluster says of them: `apiEnablements`, sorted.
    pub(super) fn enablements(&self) -> Value {
        let mut groups: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
        for ((api_version, kind), row) in &self.rows {
            let resource = json!({"name": &*row.plural, "kind": &**kind});
            groups.entry(api_version).or_default().push(resource);
        }
        let entry = |(version, resources): (&str, Vec<Value>)| json!({"groupVersion": version, "resources": resources});
        groups.into_iter().map(entry).collect()
    }
}

/// `v1`, `apps/v1`.
pub(super) fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// The version that the API says it is.
pub(super) async fn version(api: &ApiServer, user: &User) -> Option<String> {
    let said: Value = serde_json::from_slice(&get(api, user, "/version").await?).ok()?;
    Some(said.get("gitVersion")?.as_str()?.to_owned())
}

async fn get(api: &ApiServer, user: &User, path: &str) -> Option<Vec<u8>> {
    let mut request = Request::get(path).body(ApiBody::full(Bytes::new())).ok()?;
    if path != "/version" {
        request.headers_mut().insert(header::ACCEPT, AGGREGATED.parse().ok()?);
    }
    request.extensions_mut().insert(user.clone());
    let response = api.handle(request).await;
    if !response.status().is_success() {
        tracing::warn!(path, status = %response.status(), "The local API does not say what it serves.");
        return None;
    }
    let mut body = response.into_body();
    let mut out = Vec::new();
    while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let data = frame.ok()?.into_data().unwrap_or_default();
        if out.len() + data.remaining() > MAX_ANSWER {
            return None;
        }
        out.extend_from_slice(&data);
    }
    Some(out)
}

#[derive(Default, Deserialize)]
struct List {
    #[serde(default)]
    items: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    metadata: Named,
    #[serde(default)]
    versions: Vec<Version>,
}

#[derive(Default, Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct Version {
    version: String,
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resource {
    resource: String,
    response_kind: ResponseKind,
    #[serde(default)]
    scope: String,
}

#[derive(Deserialize)]
struct ResponseKind {
    kind: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_version_is_the_preferred_one() {
        let resource = |plural: &str, kind: &str| json!({"resource": plural, "responseKind": {"kind": kind}, "scope": "Namespaced", "subresources": [{"subresource": "status"}]});
        let answer = json!({"items": [{"metadata": {"name": "example.com"}, "versions": [
            {"version": "v1", "resources": [resource("things", "Thing")]},
            {"version": "v1beta1", "resources": [resource("things", "Thing"), resource("olds", "Old")]},
        ]}]});
        let mut kinds = Kinds::default();
        kinds.add(answer.to_string().as_bytes());
        let preferred = |version: &str, kind: &str| kinds.of(version, kind).map(|row| row.preferred);
        assert_eq!(preferred("example.com/v1", "Thing"), Some(true));
        assert_eq!(preferred("example.com/v1beta1", "Thing"), Some(false));
        assert_eq!(preferred("example.com/v1beta1", "Old"), Some(true));
        assert_eq!(preferred("example.com/v2", "Thing"), None);
        assert_eq!(
            kinds.enablements().to_string(),
            r#"[{"groupVersion":"example.com/v1","resources":[{"kind":"Thing","name":"things"}]},{"groupVersion":"example.com/v1beta1","resources":[{"kind":"Old","name":"olds"},{"kind":"Thing","name":"things"}]}]"#
        );
        kinds.add(b"no JSON");
    }
}
