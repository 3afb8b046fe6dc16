//! Making tokens: `POST …/serviceaccounts/NAME/token`, and the tokens that stand in Secrets.

use std::sync::{Arc, LazyLock};

use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::jwt::{Bound, Legacy, Ref, sign};
use super::{LEGACY_ISSUER, Tokens, now};
use crate::api::audit::{STREAM, record};
use crate::api::body::ApiBody;
use crate::api::builtin::token_request;
use crate::api::codec::Parsed;
use crate::api::kinds::KindSpec;
use crate::api::request::WriteQuery;
use crate::api::server::{ApiServer, Call, Core, json_response, with_warnings};
use crate::api::status::{Cause, Status};
use crate::api::write::{Part, Writing, check_namespace, commit_status, encode, note_owner, parse};
use crate::api::{apply, meta};
use crate::store::{ObjectKey, Tx};

/// How long a token is good, in seconds: when nobody says, at least, and at most.
const LIFE: (i64, i64, i64) = (3600, 600, 1 << 32);
/// Pods' tokens of this life are renewed by who mounts them, and are good for a year in case nobody does.
const RENEWED: i64 = 3607;
const EXTENDED: u64 = 365 * 24 * 3600;
/// Audiences of a token, and the length of each.
const MAX_AUDIENCES: (usize, usize) = (64, 1024);

/// The kind of such a request.
static KIND: LazyLock<Arc<KindSpec>> = LazyLock::new(|| Arc::new(token_request()));

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    audiences: Vec<String>,
    expiration_seconds: Option<i64>,
    bound_object_ref: Option<BoundRef>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct BoundRef {
    kind: String,
    api_version: String,
    name: String,
    uid: String,
}

impl Core {
    /// Answers a request for a token of a ServiceAccount.
    pub(crate) async fn token_request(
        self: &Arc<Self>,
        call: &Call,
        body: Parsed,
    ) -> Result<Response<ApiBody>, Status> {
        let tokens = self.tokens.as_ref().ok_or_else(Status::no_such_resource)?;
        let options = WriteQuery::parse(&call.query, "CreateOptions")?;
        let writing = Writing {
            kind: &KIND,
            ..call.writing(Part::Main, options)
        };
        let Parsed { mut value, duplicates } = body;
        drop(apply::take_managed_fields(&mut value));
        self.check_type(&mut value, &KIND)?;
        let warnings = self.bring_into_shape(&mut value, &writing, duplicates)?;
        check_namespace(&value, &KIND, writing.namespace)?;
        let spec = value.get("spec").cloned().unwrap_or_else(|| json!({}));
        let spec = Spec::deserialize(spec).unwrap_or_default();
        let name = call.name.as_deref().unwrap_or_default();
        let bound = self.described(&value, &spec, writing.namespace, name)?;
        let life = spec.expiration_seconds.unwrap_or(LIFE.0);
        let audiences = if spec.audiences.is_empty() {
            tokens.audiences.clone()
        } else {
            spec.audiences
        };
        let now = now();
        let uid = bound.serviceaccount.uid.clone();
        let token = tokens
            .issue(bound, &audiences, now, life)
            .ok_or_else(|| Status::internal("no token can be signed"))?;
        if !writing.dry_run && self.is_audited(call) {
            let tx = Tx::new().append(STREAM, record(call, &call.kind, name, 201));
            let noted = self.store.commit(tx).await;
            self.note_audited(&noted.map_err(|e| commit_status(e, &call.kind, name))?);
        }
        note_owner(&writing, None, &mut value, None)?;
        let created = meta::timestamp(now * 1000);
        let metadata = meta::of_mut(&mut value)?;
        for (field, text) in [
            ("name", name),
            ("namespace", writing.namespace),
            ("uid", &uid),
            ("creationTimestamp", &created),
        ] {
            metadata.insert(field.to_owned(), text.into());
        }
        let end = meta::timestamp((now + life.unsigned_abs()) * 1000);
        if let Value::Object(map) = &mut value {
            let bound = map.get("spec").and_then(|s| s.get("boundObjectRef")).cloned();
            map.insert(
                "spec".to_owned(),
                json!({"audiences": audiences, "expirationSeconds": life, "boundObjectRef": bound}),
            );
            map.insert("status".to_owned(), json!({"token": token, "expirationTimestamp": end}));
        }
        Ok(with_warnings(
            json_response(StatusCode::CREATED, encode(&value)?),
            &warnings,
        ))
    }

    /// What the token will be about, when everything that was asked for may be.
    fn described(&self, request: &Value, spec: &Spec, namespace: &str, name: &str) -> Result<Bound, Status> {
        let invalid = |name: &str, cause| Err(Status::invalid(&KIND.group, &KIND.kind, name, vec![cause]));
        let said = meta::text(request, "name");
        if !said.is_empty() && said != name {
            let why = "must match the service account name if specified";
            return invalid(name, Cause::invalid("metadata.name", &format!("{said:?}"), why));
        }
        let serviceaccount = self.referred("serviceaccounts", namespace, name)?.0;
        let life = spec.expiration_seconds.unwrap_or(LIFE.0);
        let why = match life {
            short if short < LIFE.1 => Some("may not specify a duration less than 10 minutes"),
            long if long > LIFE.2 => Some("may not specify a duration larger than 2^32 seconds"),
            _ => None,
        };
        if let Some(why) = why {
            return invalid("", Cause::invalid("spec.expirationSeconds", &life.to_string(), why));
        }
        if spec.audiences.len() > MAX_AUDIENCES.0 || spec.audiences.iter().any(|a| a.len() > MAX_AUDIENCES.1) {
            return Err(Status::bad_request("a token cannot have so many or so long audiences"));
        }
        let mut bound = Bound {
            namespace: namespace.to_owned(),
            serviceaccount,
            pod: None,
            secret: None,
            node: None,
            warnafter: None,
        };
        if let Some(to) = &spec.bound_object_ref {
            self.bind(to, &mut bound)?;
        }
        Ok(bound)
    }

    /// An object that a token is about.
    fn referred(&self, resource: &str, namespace: &str, name: &str) -> Result<(Ref, Value), Status> {
        let key = ObjectKey::new("", resource, namespace, name);
        let object = self.read(&key)?.ok_or_else(|| Status::not_found("", resource, name))?;
        let value = parse(&object)?;
        let found = Ref {
            name: name.to_owned(),
            uid: meta::text(&value, "uid").to_owned(),
        };
        Ok((found, value))
    }

    /// Binds a token to what its request names.
    fn bind(&self, to: &BoundRef, bound: &mut Bound) -> Result<(), Status> {
        let space = bound.namespace.clone();
        let (group, version) = to.api_version.split_once('/').unwrap_or(("", &to.api_version));
        let found = match to.kind.as_str() {
            "Pod" if group.is_empty() => {
                let (found, pod) = self.referred("pods", &space, &to.name)?;
                let at = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
                let runs_as = at("/spec/serviceAccountName");
                let runs_as = if runs_as.is_empty() { "default" } else { runs_as };
                if runs_as != bound.serviceaccount.name {
                    return Err(Status::bad_request(format!(
                        "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                        bound.serviceaccount.name
                    )));
                }
                let node = at("/spec/nodeName");
                if !node.is_empty() {
                    // The name is worth telling also when there is no such object.
                    let unknown = |_| Ref {
                        name: node.to_owned(),
                        uid: String::new(),
                    };
                    bound.node = Some(self.referred("nodes", "", node).map_or_else(unknown, |(node, _)| node));
                }
                bound.pod.insert(found)
            }
            "Secret" if group.is_empty() => {
                let (found, _) = self.referred("secrets", &space, &to.name)?;
                bound.secret.insert(found)
            }
            "Node" if group.is_empty() => {
                let (found, _) = self.referred("nodes", "", &to.name)?;
                bound.node.insert(found)
            }
            kind => {
                return Err(Status::bad_request(format!(
                    "cannot bind token to object of type {group}/{version}, Kind={kind}"
                )));
            }
        };
        if !to.uid.is_empty() && to.uid != found.uid {
            let why = format!(
                "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
                to.uid
            );
            return Err(Status::conflict(group, &to.kind, &to.name, &why));
        }
        Ok(())
    }
}

/// A token of a ServiceAccount. It is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct IssuedToken {
    /// What a program shows.
    pub token: String,
    /// When a new one should have taken its place; seconds since 1970.
    pub expires: u64,
}

impl std::fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedToken")
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

impl ApiServer {
    /// Issues a token of a ServiceAccount (namespace, name) for a pod (name, uid) that runs as it. `audiences`: this server when empty;
    /// `life`: seconds, an hour when not said.
    ///
    /// # Errors
    /// What a request for it would answer: the ServiceAccount or the pod is not there or another, the life is no such. 404 without an object
    /// when this server makes no tokens.
    pub fn issue_token(
        &self,
        (namespace, account): (&str, &str),
        (pod, uid): (&str, &str),
        audiences: &[String],
        life: Option<i64>,
    ) -> Result<IssuedToken, Status> {
        let tokens = self.core.tokens.as_ref().ok_or_else(Status::no_such_resource)?;
        let spec = Spec {
            audiences: audiences.to_vec(),
            expiration_seconds: life,
            bound_object_ref: Some(BoundRef {
                kind: "Pod".to_owned(),
                api_version: "v1".to_owned(),
                name: pod.to_owned(),
                uid: uid.to_owned(),
            }),
        };
        let bound = self.core.described(&Value::Null, &spec, namespace, account)?;
        let audiences = if audiences.is_empty() {
            &tokens.audiences
        } else {
            &spec.audiences
        };
        let (now, life) = (now(), life.unwrap_or(LIFE.0));
        let token = tokens
            .issue(bound, audiences, now, life)
            .ok_or_else(|| Status::internal("no token can be signed"))?;
        Ok(IssuedToken {
            token,
            expires: now + life.unsigned_abs(),
        })
    }
}

impl Tokens {
    /// A token that says this, good for so many seconds.
    fn issue(&self, mut bound: Bound, audiences: &[String], now: u64, life: i64) -> Option<String> {
        let mut lasts = life.unsigned_abs();
        if life == RENEWED && bound.pod.is_some() && audiences.iter().all(|a| self.audiences.contains(a)) {
            bound.warnafter = Some(now + lasts);
            lasts = EXTENDED;
        }
        let claims = json!({
            "iss": self.issuer,
            "sub": format!("system:serviceaccount:{}:{}", bound.namespace, bound.serviceaccount.name),
            "aud": audiences,
            "iat": now,
            "nbf": now,
            "exp": now.saturating_add(lasts),
            "jti": uuid::Uuid::new_v4().to_string(),
            "kubernetes.io": bound,
        });
        sign(&claims, &self.keys)
    }

    /// The token for a Secret of a ServiceAccount (name, uid): good as long as the Secret holds it.
    pub(crate) fn for_secret(&self, secret: &Value, account: (&str, &str)) -> Option<String> {
        let (namespace, name) = (meta::text(secret, "namespace"), meta::text(secret, "name"));
        let legacy = Legacy {
            namespace: namespace.to_owned(),
            secret: name.to_owned(),
            account: account.0.to_owned(),
            account_uid: account.1.to_owned(),
        };
        let mut claims = serde_json::to_value(&legacy).ok()?;
        let map = claims.as_object_mut()?;
        map.insert("iss".to_owned(), LEGACY_ISSUER.into());
        let subject = format!("system:serviceaccount:{namespace}:{}", account.0);
        map.insert("sub".to_owned(), subject.into());
        sign(&claims, &self.keys)
    }
}
