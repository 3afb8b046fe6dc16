//! The signed form of a ServiceAccount's token: JSON Web Signature, ES256 and nothing else.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::LEGACY_ISSUER;
use super::keys::Keys;
use crate::api::auth::User;

const EXTRA: &str = "authentication.kubernetes.io/";

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
}

/// The payload of a token that one of our keys signed.
pub(super) fn verify(token: &str, keys: &Keys) -> Option<Vec<u8>> {
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, payload) = signed.split_once('.')?;
    let Header { alg, kid } = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
    // The algorithm is ours to choose, not the sender's.
    if alg != "ES256" {
        return None;
    }
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    if !keys.verify(&kid, signed.as_bytes(), &signature) {
        return None;
    }
    URL_SAFE_NO_PAD.decode(payload).ok()
}

/// A token that says `claims`; `None` when the system gives no random numbers.
pub(super) fn sign(claims: &Value, keys: &Keys) -> Option<String> {
    let header = serde_json::json!({"alg": "ES256", "kid": keys.kid()}).to_string();
    let mut token = URL_SAFE_NO_PAD.encode(header);
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut token);
    let signature = keys.sign(token.as_bytes())?;
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    Some(token)
}

/// An object that a token names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Ref {
    pub(super) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) uid: String,
}

/// What a token says, once its signature is known to be ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claims {
    pub(super) namespace: String,
    pub(super) account: Ref,
    pub(super) secret: Option<Ref>,
    pub(super) pod: Option<Ref>,
    pub(super) node: Option<Ref>,
    id: String,
    /// Seconds since 1970; `None` for the token of a Secret.
    pub(super) ends: Option<u64>,
    /// `None`: whatever this server is.
    pub(super) audiences: Option<Vec<String>>,
    /// It is good only while its Secret holds it.
    pub(super) in_secret: bool,
}

#[derive(Deserialize)]
struct Wire {
    iss: String,
    #[serde(default)]
    jti: String,
    exp: Option<u64>,
    aud: Option<Vec<String>>,
    #[serde(rename = "kubernetes.io")]
    bound: Option<Bound>,
    #[serde(flatten)]
    legacy: Legacy,
}

/// The private claims of a token.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Bound {
    pub(super) namespace: String,
    pub(super) serviceaccount: Ref,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pod: Option<Ref>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<Ref>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<Ref>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) warnafter: Option<u64>,
}

/// The private claims of a token in a Secret.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Legacy {
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    pub(super) namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    pub(super) secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    pub(super) account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    pub(super) account_uid: String,
}

impl Claims {
    /// Reads a payload; `None` when it is none of a token that `issuer` makes.
    pub(super) fn read(payload: &[u8], issuer: &str) -> Option<Self> {
        let wire: Wire = serde_json::from_slice(payload).ok()?;
        if wire.iss == LEGACY_ISSUER {
            let Legacy {
                namespace,
                secret,
                account,
                account_uid,
            } = wire.legacy;
            return Some(Self {
                namespace,
                account: Ref {
                    name: account,
                    uid: account_uid,
                },
                secret: Some(Ref {
                    name: secret,
                    uid: String::new(),
                }),
                pod: None,
                node: None,
                id: String::new(),
                ends: None,
                audiences: None,
                in_secret: true,
            });
        }
        // A token that never ends, or is for nobody, was not made here.
        let (bound, ends, audiences) = (wire.bound?, wire.exp?, wire.aud?);
        (wire.iss == issuer).then_some(Self {
            namespace: bound.namespace,
            account: bound.serviceaccount,
            secret: bound.secret,
            pod: bound.pod,
            node: bound.node,
            id: wire.jti,
            ends: Some(ends),
            audiences: Some(audiences),
            in_secret: false,
        })
    }

    /// Whom it authenticates.
    pub(super) fn user(&self) -> User {
        let mut user = User::service_account(&self.namespace, &self.account.name, &self.account.uid);
        let mut put = |key: String, value: String| {
            if !value.is_empty() {
                user.extra.insert(format!("{EXTRA}{key}"), vec![value]);
            }
        };
        if !self.id.is_empty() {
            put("credential-id".to_owned(), format!("JTI={}", self.id));
        }
        for (what, of) in [("pod", &self.pod), ("node", &self.node)] {
            if let Some(of) = of {
                put(format!("{what}-name"), of.name.clone());
                put(format!("{what}-uid"), of.uid.clone());
            }
        }
        user
    }
}
