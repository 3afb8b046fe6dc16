//! Bearer tokens: whose they are, and making them.
//!
//! Two kinds. A file of fixed tokens (`file`), for bootstrap. Tokens of ServiceAccounts (`jwt`, `keys`, `issue`): signed statements that name
//! a ServiceAccount, perhaps an object they are bound to, an audience and an end. A signature is checked once and remembered; whether the
//! ServiceAccount and the bound object are still there, and the same, is looked at on every request, so that deleting one ends its tokens at
//! once. Nothing here logs a token or a key.
//!
//! Time is the machine's own, which may be wrong at a gateway: a token's end is kept, its beginning is not looked at. Only this server makes
//! its tokens, and none that begin later.

mod file;
mod issue;
mod jwt;
mod keys;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Extensions, HeaderMap, HeaderValue, Response, StatusCode, header};
use ring::{digest, hmac, rand};
use serde::Deserialize;
use serde_json::{Value, json};

pub use issue::IssuedToken;
pub use keys::KeyError;
use {file::TokenFile, jwt::Claims, keys::Keys};

use super::auth::User;
use super::body::ApiBody;
use super::request::Route;
use super::review::info;
use super::server::{Core, json_response};
use super::status::Status;
use crate::store::{Object, ObjectKey, Store};

/// Longest token that is looked at.
const MAX_TOKEN: usize = 16 * 1024;
/// Tokens whose signature is remembered.
const MAX_REMEMBERED: usize = 512;
/// What an unreadable, unknown, ended or revoked token is called.
const INVALID: &str = "invalid bearer token";
/// Who issued the tokens in Secrets.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// The type of a Secret that holds a token.
pub(crate) const TOKEN_SECRET: &str = "kubernetes.io/service-account-token";
pub(crate) const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
pub(crate) const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// What ServiceAccounts are told to be issued by, when nobody says otherwise.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// What a server needs to take and make bearer tokens.
#[derive(Clone)]
pub struct TokenOptions {
    /// The folder of signing keys: `sa.key` signs and is made when it is missing; every other `*.key` and `*.pub` in it (PEM) still verifies.
    pub keys: PathBuf,
    /// Fixed tokens, a line each: `token,user,uid,"group,group"`. Read again when it changes.
    pub file: Option<PathBuf>,
    /// Fixed tokens that the server's own program gives out, with whom each speaks for.
    pub given: Vec<(String, User)>,
    /// Who issues: the `iss` of tokens, and the audience of tokens for this server.
    pub issuer: String,
    /// How clients reach this server (`https://host:port`), for those who look up the keys.
    pub url: String,
}

impl std::fmt::Debug for TokenOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let given: Vec<&str> = self.given.iter().map(|(_, user)| user.name.as_str()).collect();
        f.debug_struct("TokenOptions")
            .field("keys", &self.keys)
            .field("file", &self.file)
            .field("given", &given)
            .field("issuer", &self.issuer)
            .field("url", &self.url)
            .finish()
    }
}

impl TokenOptions {
    /// With the usual issuer, without a file.
    pub fn new(keys: impl Into<PathBuf>, url: impl Into<String>) -> Self {
        Self {
            keys: keys.into(),
            file: None,
            given: Vec::new(),
            issuer: ISSUER.to_owned(),
            url: url.into(),
        }
    }
}

/// The bearer tokens of a server.
pub(crate) struct Tokens {
    keys: Keys,
    file: Option<TokenFile>,
    given: BTreeMap<Print, User>,
    issuer: String,
    url: String,
    /// Audiences of tokens that are for this server.
    audiences: Vec<String>,
    /// Signed tokens that were verified, by their fingerprint.
    remembered: Mutex<BTreeMap<Print, Arc<Claims>>>,
    prints: Prints,
}

/// A token's keyed hash. What is looked up by it tells nothing about tokens by the time it takes.
type Print = [u8; 32];

/// Makes [`Print`]s under a key of this process.
#[derive(Clone)]
struct Prints(hmac::Key);

impl Prints {
    fn new() -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new());
        Self(key.expect("the system has random numbers, without which no key of this process would exist"))
    }

    fn of(&self, token: &str) -> Print {
        let tag = hmac::sign(&self.0, token.as_bytes());
        tag.as_ref().try_into().expect("SHA-256 is 32 bytes long")
    }
}

/// Whose a token is, and for which of the wanted audiences.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) user: User,
    pub(crate) audiences: Vec<String>,
}

impl Tokens {
    /// Reads or makes the keys, and reads the file.
    ///
    /// # Errors
    /// When the keys cannot be read or made. A file that cannot be read is reported and tried again.
    pub(crate) fn new(options: TokenOptions) -> Result<Self, KeyError> {
        let prints = Prints::new();
        let given = options.given.into_iter();
        Ok(Self {
            given: given.map(|(token, user)| (prints.of(&token), user)).collect(),
            keys: Keys::load_or_create(&options.keys)?,
            file: options.file.map(|path| TokenFile::new(path, prints.clone())),
            audiences: vec![options.issuer.clone()],
            issuer: options.issuer,
            url: options.url,
            remembered: Mutex::default(),
            prints,
        })
    }

    /// Whose a token is. `wanted`: the audiences it may be for, this server when empty.
    ///
    /// # Errors
    /// Why it is nobody's, for whoever asks about a token. A client that shows one is told nothing but that it is no good.
    pub(crate) fn whose(&self, store: &Store, token: &str, wanted: &[String]) -> Result<Known, String> {
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Err(INVALID.to_owned());
        }
        let wanted = if wanted.is_empty() { &self.audiences } else { wanted };
        let common = |of: &[String]| -> Vec<String> { wanted.iter().filter(|a| of.contains(a)).cloned().collect() };
        let print = self.prints.of(token);
        let fixed = || self.file.as_ref().and_then(|file| file.user(&print));
        if let Some(user) = self.given.get(&print).cloned().or_else(fixed) {
            let audiences = common(&self.audiences);
            return if audiences.is_empty() {
                Err(INVALID.to_owned())
            } else {
                Ok(Known { user, audiences })
            };
        }
        let claims = self.verified(token, print)?;
        if claims.ends.is_some_and(|end| end <= now()) {
            return Err(format!("[{INVALID}, service account token has expired]"));
        }
        let of = claims.audiences.as_deref().unwrap_or(&self.audiences);
        let audiences = common(of);
        if audiences.is_empty() {
            return Err(format!(
                "[{INVALID}, token audiences {of:?} is invalid for the target audiences {wanted:?}]"
            ));
        }
        still_there(store, &claims, token).map_err(|why| format!("[{INVALID}, {why}]"))?;
        Ok(Known {
            user: claims.user(),
            audiences,
        })
    }

    /// The statement of a token that this server signed.
    fn verified(&self, token: &str, print: Print) -> Result<Arc<Claims>, String> {
        let remembered = || self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(claims) = remembered().get(&print) {
            return Ok(claims.clone());
        }
        let payload = jwt::verify(token, &self.keys).ok_or(INVALID)?;
        let claims = Claims::read(&payload, &self.issuer).ok_or(INVALID)?;
        let claims = Arc::new(claims);
        let mut map = remembered();
        if map.len() >= MAX_REMEMBERED {
            let now = now();
            map.retain(|_, c| c.ends.is_none_or(|end| end > now));
        }
        if map.len() >= MAX_REMEMBERED {
            map.pop_first();
        }
        map.insert(print, claims.clone());
        Ok(claims)
    }

    fn discovery(&self, route: &Route) -> Value {
        if *route == Route::SigningKeys {
            return self.keys.public();
        }
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("{}/openid/v1/jwks", self.url),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    daemon::clock::wall_ms() / 1000
}

/// The narrow view of an object that a token names.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    metadata: Identity,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Identity {
    uid: String,
    deletion_timestamp: Option<String>,
}

/// Whether the ServiceAccount and what the token is bound to are there, and the same.
fn still_there(store: &Store, claims: &Claims, token: &str) -> Result<(), &'static str> {
    // The token of a Secret names it without a uid: the Secret has to hold that very token.
    let find = |resource: &str, namespace: &str, name: &str, uid: &str| -> Option<Object> {
        let object = store
            .get(&ObjectKey::new("", resource, namespace, name))
            .ok()
            .flatten()?;
        let Named { metadata } = serde_json::from_slice(&object.json).ok()?;
        let same = uid.is_empty() || metadata.uid == uid;
        (same && metadata.deletion_timestamp.is_none()).then_some(object)
    };
    let space = claims.namespace.as_str();
    let account = &claims.account;
    find("serviceaccounts", space, &account.name, &account.uid).ok_or("the service account is gone")?;
    let gone = "service account token has been invalidated";
    if let Some(secret) = &claims.secret {
        let object = find("secrets", space, &secret.name, &secret.uid).ok_or(gone)?;
        if claims.in_secret && !holds(&object, token) {
            return Err(gone);
        }
    }
    if let Some(pod) = &claims.pod {
        find("pods", space, &pod.name, &pod.uid).ok_or(gone)?;
    } else if let Some(node) = &claims.node {
        find("nodes", "", &node.name, &node.uid).ok_or(gone)?;
    }
    Ok(())
}

/// Whether a Secret holds this token.
fn holds(secret: &Object, token: &str) -> bool {
    let hash = |bytes: &[u8]| digest::digest(&digest::SHA256, bytes);
    let kept = secret.value().ok().and_then(|value| {
        let text = value.pointer("/data/token")?.as_str()?;
        STANDARD.decode(text).ok()
    });
    kept.is_some_and(|kept| hash(&kept).as_ref() == hash(token.as_bytes()).as_ref())
}

/// The token of a request; `None` when it has none.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let mut words = text.trim().split(' ');
    let scheme = words.next()?;
    let token = words.next().unwrap_or_default();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

impl Core {
    /// Who makes a request: whom the listener's owner put on it, else whom its bearer token names, else nobody known. The token is taken off.
    ///
    /// # Errors
    /// 401 for a token that is no good.
    pub(crate) fn authenticate(&self, headers: &mut HeaderMap, extensions: &mut Extensions) -> Result<User, Status> {
        let known = extensions.get::<User>().filter(|u| !u.is_anonymous()).cloned();
        let user = match (known, bearer(headers), &self.tokens) {
            (Some(user), ..) => user,
            (None, Some(token), Some(tokens)) => {
                tokens
                    .whose(&self.store, token, &[])
                    .map_err(|why| {
                        tracing::debug!(%why, "A bearer token was refused.");
                        Status::unauthorized()
                    })?
                    .user
            }
            (None, Some(_), None) => return Err(Status::unauthorized()),
            (None, None, _) => User::anonymous(),
        };
        headers.remove(header::AUTHORIZATION);
        Ok(user)
    }

    /// The documents by which others verify the tokens of this server.
    pub(crate) fn token_documents(&self, route: &Route) -> Response<ApiBody> {
        let body = match &self.tokens {
            Some(tokens) => tokens.discovery(route).to_string(),
            None => String::new(),
        };
        let mut response = json_response(StatusCode::OK, body);
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
        if *route == Route::SigningKeys {
            let kind = HeaderValue::from_static("application/jwk-set+json");
            headers.insert(header::CONTENT_TYPE, kind);
        }
        response
    }

    /// Answers whose a token is.
    pub(crate) fn review_token(&self, spec: &Value) -> Result<Value, Status> {
        let token = spec.get("token").and_then(Value::as_str).unwrap_or_default();
        if token.is_empty() {
            return Err(Status::bad_request(
                "token is required for TokenReview in authentication",
            ));
        }
        let wanted: Vec<String> = spec
            .get("audiences")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        let known = match &self.tokens {
            Some(tokens) => tokens.whose(&self.store, token, &wanted),
            None => Err(INVALID.to_owned()),
        };
        Ok(match known {
            Ok(known) => json!({"authenticated": true, "user": info(&known.user), "audiences": known.audiences}),
            Err(why) => json!({"user": {}, "error": why}),
        })
    }
}

#[cfg(test)]
mod tests;
