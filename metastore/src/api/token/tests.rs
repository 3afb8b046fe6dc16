use serde_json::json;

use super::jwt::{Bound, Ref, sign};
use super::*;
use crate::store::{Expect, SealKey, StoreOptions, Tx};

struct World {
    tokens: Tokens,
    store: Store,
    _dir: tempfile::TempDir,
}

async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let mut options = StoreOptions::new(dir.path().join("x.db"));
    options.seal_key = Some(SealKey::new(&[1; 32]));
    let (store, _) = Store::open(options).unwrap();
    std::fs::write(dir.path().join("tokens.csv"), "fixed,bob,7,dev\n").unwrap();
    let mut options = TokenOptions::new(dir.path().join("sa"), "https://here:1");
    options.file = Some(dir.path().join("tokens.csv"));
    let world = World {
        tokens: Tokens::new(options).unwrap(),
        store,
        _dir: dir,
    };
    world.put("serviceaccounts", "app", "u-sa").await;
    world
}

impl World {
    async fn put(&self, resource: &str, name: &str, uid: &str) {
        let object = json!({"metadata": {"name": name, "namespace": "ns", "uid": uid}});
        let key = ObjectKey::new("", resource, "ns", name);
        self.store
            .commit(Tx::new().put(key, object, Expect::Any))
            .await
            .unwrap();
    }

    async fn remove(&self, resource: &str, name: &str) {
        let key = ObjectKey::new("", resource, "ns", name);
        self.store.commit(Tx::new().delete(key, Expect::Present)).await.unwrap();
    }

    fn whose(&self, token: &str) -> Result<Known, String> {
        self.tokens.whose(&self.store, token, &[])
    }

    fn token(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = json!({"iss": ISSUER, "aud": [ISSUER], "exp": now() + 600, "iat": now(), "nbf": now(), "jti": "j-1",
            "sub": "system:serviceaccount:ns:app",
            "kubernetes.io": {"namespace": "ns", "serviceaccount": {"name": "app", "uid": "u-sa"}}});
        change(&mut claims);
        sign(&claims, &self.tokens.keys).unwrap()
    }
}

#[tokio::test]
async fn a_good_token_says_who_it_is() {
    let w = world().await;
    let token = w.token(|c| {
        c["kubernetes.io"]["pod"] = json!({"name": "p", "uid": "u-pod"});
        c["kubernetes.io"]["node"] = json!({"name": "n", "uid": "u-node"});
    });
    assert!(w.whose(&token).is_err(), "the pod is not there");
    w.put("pods", "p", "u-pod").await;
    let known = w.whose(&token).unwrap();
    assert_eq!(known.user.name, "system:serviceaccount:ns:app");
    assert_eq!(known.user.uid, "u-sa");
    assert_eq!(known.audiences, [ISSUER]);
    for (key, value) in [
        ("credential-id", "JTI=j-1"),
        ("pod-name", "p"),
        ("pod-uid", "u-pod"),
        ("node-name", "n"),
    ] {
        assert_eq!(
            known.user.extra[&format!("authentication.kubernetes.io/{key}")],
            [value]
        );
    }
    let fixed = w.whose("fixed").unwrap();
    assert_eq!((fixed.user.name.as_str(), fixed.user.uid.as_str()), ("bob", "7"));
    assert!(w.tokens.whose(&w.store, "fixed", &["other".to_owned()]).is_err());
}

#[tokio::test]
async fn what_a_token_names_must_be_there_and_be_the_same() {
    let w = world().await;
    let token = w.token(|_| ());
    for _ in 0..2 {
        assert!(w.whose(&token).is_ok());
    }
    w.put("serviceaccounts", "app", "another").await;
    assert!(w.whose(&token).is_err());
    w.put("serviceaccounts", "app", "u-sa").await;
    assert!(w.whose(&token).is_ok());
    w.remove("serviceaccounts", "app").await;
    assert!(w.whose(&token).is_err());
    w.put("serviceaccounts", "app", "u-sa").await;
    for resource in ["pods", "secrets"] {
        let bound =
            w.token(|c| c["kubernetes.io"][&resource[..resource.len() - 1]] = json!({"name": "x", "uid": "u-x"}));
        assert!(w.whose(&bound).is_err(), "{resource}");
        w.put(resource, "x", "u-x").await;
        assert!(w.whose(&bound).is_ok(), "{resource}");
        w.put(resource, "x", "u-y").await;
        assert!(w.whose(&bound).is_err(), "{resource}");
    }
}

#[tokio::test]
async fn hostile_tokens_are_nobodys() {
    let w = world().await;
    let good = w.token(|_| ());
    assert!(w.whose(&good).is_ok());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (header, payload) = signed.split_once('.').unwrap();
    let encode = |v: Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(v.to_string());
    let kid = w.tokens.keys.kid();
    let none = format!("{}.{payload}.", encode(json!({"alg": "none", "kid": kid})));
    // The public key as a shared secret, the oldest trick.
    let public = w.tokens.keys.public().to_string();
    let shared = format!("{}.{payload}", encode(json!({"alg": "HS256", "kid": kid})));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, public.as_bytes()), shared.as_bytes());
    let shared = format!(
        "{shared}.{}",
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(tag)
    );
    let other_key = Keys::load_or_create(&w._dir.path().join("other")).unwrap();
    let foreign = sign(&json!({"iss": ISSUER}), &other_key).unwrap();
    let cases = [
        "x".repeat(1 << 20),
        "a.b.c".to_owned(),
        "...".to_owned(),
        "garbage".to_owned(),
        format!("{header}.{payload}."),
        format!("{header}.{payload}.{}", "A".repeat(86)),
        format!("{header}.{}.{signature}", encode(json!({"iss": ISSUER}))),
        format!("{good}A"),
        none,
        shared,
        foreign,
        w.token(|c| c["iss"] = json!("https://elsewhere")),
        w.token(|c| c["aud"] = json!(["elsewhere"])),
        w.token(|c| c["exp"] = json!(now() - 1)),
        w.token(|c| drop(c.as_object_mut().unwrap().remove("exp"))),
        w.token(|c| drop(c.as_object_mut().unwrap().remove("aud"))),
        w.token(|c| drop(c.as_object_mut().unwrap().remove("kubernetes.io"))),
        w.token(|c| c["kubernetes.io"]["namespace"] = json!("other")),
        // It says that it is the token of a Secret that there is not.
        w.token(|c| c["iss"] = json!(LEGACY_ISSUER)),
    ];
    for token in cases {
        let why = w.whose(&token).unwrap_err();
        assert!(why.contains(INVALID), "{why}");
    }
    assert!(
        w.tokens.remembered.lock().unwrap().len() < 10,
        "only what we signed is remembered"
    );
}

#[tokio::test]
async fn the_token_of_a_secret_is_good_while_the_secret_holds_it() {
    let w = world().await;
    let mut secret = json!({"metadata": {"name": "t", "namespace": "ns", "uid": "u-t"}});
    let token = w.tokens.for_secret(&secret, ("app", "u-sa")).unwrap();
    let put = async |secret: &Value| {
        let key = ObjectKey::new("", "secrets", "ns", "t");
        w.store
            .commit(Tx::new().put(key, secret.clone(), Expect::Any))
            .await
            .unwrap();
    };
    assert!(w.whose(&token).is_err());
    put(&secret).await;
    assert!(w.whose(&token).is_err(), "it does not hold it yet");
    secret["data"] = json!({"token": STANDARD.encode(&token)});
    put(&secret).await;
    assert_eq!(w.whose(&token).unwrap().user.name, "system:serviceaccount:ns:app");
    secret["data"]["token"] = json!(STANDARD.encode("another"));
    put(&secret).await;
    assert!(w.whose(&token).is_err());
}

#[tokio::test]
async fn remembered_tokens_are_bounded() {
    let w = world().await;
    for n in 0..MAX_REMEMBERED + 20 {
        let token = w.token(|c| c["jti"] = json!(n.to_string()));
        assert!(w.whose(&token).is_ok());
    }
    assert_eq!(w.tokens.remembered.lock().unwrap().len(), MAX_REMEMBERED);
}

#[test]
fn the_claims_of_a_bound_token_are_those_that_clients_read() {
    let named = |name: &str| Ref {
        name: name.to_owned(),
        uid: String::new(),
    };
    let bound = Bound {
        namespace: "ns".to_owned(),
        serviceaccount: named("app"),
        pod: None,
        secret: None,
        node: Some(named("n")),
        warnafter: Some(5),
    };
    let wanted = json!({"namespace": "ns", "serviceaccount": {"name": "app"}, "node": {"name": "n"}, "warnafter": 5});
    assert_eq!(json!(bound), wanted);
}

#[test]
fn bearers_are_read_as_other_servers_do() {
    let of = |text: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static(text));
        bearer(&headers).map(str::to_owned)
    };
    assert_eq!(of("Bearer x").as_deref(), Some("x"));
    assert_eq!(of("bEaReR x y").as_deref(), Some("x"));
    for none in ["Bearer ", "Bearer", "Basic YTpi", "x"] {
        assert_eq!(of(none), None, "{none}");
    }
    assert_eq!(bearer(&HeaderMap::new()), None);
}
