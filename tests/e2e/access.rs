//! Who may do what, as people and programs meet it: kubectl with certificates, tokens and somebody else's name, at hub and gateway.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tests::{Ended, Pair, eventually, kubectl};

/// What kubectl says of a 401.
const LOGGED_OUT: &str = "You must be logged in to the server";

async fn told(kubeconfig: &Path, arguments: &[&str]) -> String {
    kubectl(kubeconfig, arguments).await.good()
}

/// Not done, and why.
async fn refused(kubeconfig: &Path, arguments: &[&str], why: &str) {
    let Ended { status, out, err } = kubectl(kubeconfig, arguments).await;
    assert!(!status.success(), "{arguments:?}: {out}");
    assert!(err.contains(why), "{arguments:?}: {err}");
}

async fn may(kubeconfig: &Path, arguments: &[&str]) -> bool {
    let all = [&["auth", "can-i"], arguments].concat();
    kubectl(kubeconfig, &all).await.out.trim() == "yes"
}

/// A kubeconfig beside another: the same server, a token for a certificate.
async fn with_token(kubeconfig: &Path, name: &str, token: &str) -> PathBuf {
    let view = told(kubeconfig, &["config", "view", "--raw", "-o", "json"]).await;
    let mut config: Value = serde_json::from_str(&view).unwrap();
    for user in config["users"].as_array_mut().unwrap() {
        user["user"] = json!({"token": token});
    }
    let path = kubeconfig.with_file_name(format!("{name}.kubeconfig"));
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

async fn raw(kubeconfig: &Path, path: &str) -> Value {
    serde_json::from_str(&told(kubeconfig, &["get", "--raw", path]).await).unwrap()
}

/// Roles, bindings and questions about them.
async fn roles(admin: &Path) {
    let app = "--as=system:serviceaccount:default:app";
    told(admin, &["create", "serviceaccount", "app"]).await;
    assert!(!may(admin, &["create", "configmaps", app]).await);
    told(
        admin,
        &[
            "create",
            "role",
            "maps",
            "--verb=get,list,create",
            "--resource=configmaps",
        ],
    )
    .await;
    told(
        admin,
        &[
            "create",
            "rolebinding",
            "maps",
            "--role=maps",
            "--serviceaccount=default:app",
        ],
    )
    .await;
    assert!(may(admin, &["create", "configmaps", app]).await);
    assert!(!may(admin, &["create", "configmaps", app, "-n", "kube-system"]).await);
    assert!(!may(admin, &["get", "secrets", app]).await);
    assert!(may(admin, &["*", "*"]).await);
    let list = told(admin, &["auth", "can-i", "--list", app]).await;
    let line = list
        .lines()
        .find(|l| l.starts_with("configmaps"))
        .unwrap_or_else(|| panic!("{list}"));
    assert!(line.contains("[get list create]"), "{line}");
    assert!(list.contains("selfsubjectreviews.authentication.k8s.io"), "{list}");
    // Devices are part of the roles that everybody knows.
    told(
        admin,
        &[
            "create",
            "rolebinding",
            "viewers",
            "--clusterrole=view",
            "--group=viewers",
        ],
    )
    .await;
    let viewer = ["--as=vera", "--as-group=viewers"];
    assert!(may(admin, &[&["get", "devices.devices.kubeedge.io"], &viewer[..]].concat()).await);
    assert!(
        !may(
            admin,
            &[&["update", "devices.devices.kubeedge.io"], &viewer[..]].concat()
        )
        .await
    );
    let create = ["create", "configmap", "x", viewer[0], viewer[1]];
    refused(admin, &create, "cannot create resource \"configmaps\"").await;
    let me = told(admin, &["auth", "whoami", viewer[0], viewer[1], "-o", "json"]).await;
    let me: Value = serde_json::from_str(&me).unwrap();
    assert_eq!(
        me["status"]["userInfo"]["groups"],
        json!(["viewers", "system:authenticated"])
    );
    // Nobody gives what they do not have.
    told(
        admin,
        &["create", "role", "granting", "--verb=*", "--resource=rolebindings"],
    )
    .await;
    told(
        admin,
        &["create", "rolebinding", "granting", "--role=granting", "--user=eve"],
    )
    .await;
    let grant = [
        "create",
        "rolebinding",
        "mine",
        "--clusterrole=edit",
        "--user=eve",
        "--as=eve",
    ];
    refused(admin, &grant, "attempting to grant RBAC permissions not currently held").await;
}

/// A program with a ServiceAccount's token, until what the token names is gone.
async fn tokens(admin: &Path) {
    let token = told(admin, &["create", "token", "app", "--duration=1h"]).await;
    let app = with_token(admin, "app", token.trim()).await;
    let me = told(&app, &["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]).await;
    assert_eq!(me, "system:serviceaccount:default:app");
    told(&app, &["create", "configmap", "by-app", "--from-literal=a=b"]).await;
    refused(
        &app,
        &["delete", "configmap", "by-app"],
        "cannot delete resource \"configmaps\"",
    )
    .await;
    refused(
        &app,
        &["get", "configmaps", "--as=bob"],
        "cannot impersonate resource \"users\"",
    )
    .await;
    let keys = raw(&app, "/openid/v1/jwks").await;
    assert_eq!(keys["keys"][0]["alg"], "ES256");
    // Bound to an object that goes.
    told(admin, &["create", "secret", "generic", "holds", "--from-literal=a=b"]).await;
    let bound = [
        "create",
        "token",
        "app",
        "--bound-object-kind=Secret",
        "--bound-object-name=holds",
    ];
    let bound = with_token(admin, "bound", told(admin, &bound).await.trim()).await;
    told(&bound, &["get", "configmap", "by-app"]).await;
    told(admin, &["delete", "secret", "holds"]).await;
    refused(&bound, &["get", "configmap", "by-app"], LOGGED_OUT).await;
    // In a Secret, as kubeconfigs that last have it.
    let secret = "{apiVersion: v1, kind: Secret, type: kubernetes.io/service-account-token,
        metadata: {name: lasting, annotations: {kubernetes.io/service-account.name: app}}}";
    tests::kubectl_with_input(admin, &["create", "-f", "-"], secret)
        .await
        .good();
    let filled = eventually("the Secret to have its token", async || {
        let secret = told(admin, &["get", "secret", "lasting", "-o", "json"]).await;
        let secret: Value = serde_json::from_str(&secret).unwrap();
        secret["data"]["token"].is_string().then_some(secret)
    })
    .await;
    let decode = |field: &str| {
        let bytes = base64::engine::general_purpose::STANDARD.decode(filled["data"][field].as_str().unwrap());
        String::from_utf8(bytes.unwrap()).unwrap()
    };
    assert!(decode("ca.crt").contains("BEGIN CERTIFICATE"));
    let lasting = with_token(admin, "lasting", &decode("token")).await;
    told(&lasting, &["get", "configmap", "by-app"]).await;
    hostile(admin, &app, token.trim(), &keys).await;
    told(admin, &["delete", "serviceaccount", "app"]).await;
    for gone in [&app, &lasting] {
        refused(gone, &["get", "configmap", "by-app"], LOGGED_OUT).await;
    }
}

/// What somebody shows who has none.
async fn hostile(admin: &Path, app: &Path, good: &str, keys: &Value) {
    let other = ["create", "token", "app", "--audience=elsewhere"];
    let other = told(admin, &other).await.trim().to_owned();
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let payload = signed.split_once('.').unwrap().1;
    let header = |alg: &str| URL_SAFE_NO_PAD.encode(json!({"alg": alg, "kid": keys["keys"][0]["kid"]}).to_string());
    for token in [
        "garbage".to_owned(),
        other,
        format!("{}.{payload}.", header("none")),
        format!("{}.{payload}.{signature}", header("HS256")),
        format!("{signed}.{}", "A".repeat(86)),
        "x".repeat(20 * 1024),
    ] {
        let thief = with_token(admin, "thief", &token).await;
        refused(&thief, &["get", "configmap", "by-app"], LOGGED_OUT).await;
    }
    // More than a request's head may be: the connection ends, the server does not.
    let thief = with_token(admin, "thief", &"x".repeat(1 << 20)).await;
    assert!(!kubectl(&thief, &["get", "configmap", "by-app"]).await.status.success());
    told(app, &["get", "configmap", "by-app"]).await;
}

/// A journal that says who did that.
fn tells(records: &[Value], user: &str, verb: &str, resource: &str, name: &str) -> bool {
    records.iter().any(|r| {
        r["user"]["username"] == user
            && r["verb"] == verb
            && r["objectRef"]["resource"] == resource
            && r["objectRef"]["name"] == name
    })
}

#[tokio::test]
async fn roles_and_tokens_say_who_may_what_at_hub_and_gateway() {
    let pair = Pair::start().await;
    for admin in [pair.hub.kubeconfig(), pair.edge.kubeconfig()] {
        roles(&admin).await;
        tokens(&admin).await;
    }
    let hub = pair.hub.kubeconfig();
    let account = "system:serviceaccount:default:app";
    let page = raw(&hub, "/kurator/v1/audit?limit=1000").await;
    let records = page["items"].as_array().unwrap();
    assert!(tells(records, account, "create", "configmaps", "by-app"), "{page}");
    assert!(
        tells(records, "kurator-admin", "delete", "serviceaccounts", "app"),
        "{page}"
    );
    // What was done at the gateway is told at the hub.
    eventually("the gateway's journal to reach the hub", async || {
        let path = "/kurator/v1/journals/gw-1/audit?limit=1000";
        let page: Value = serde_json::from_str(&kubectl(&hub, &["get", "--raw", path]).await.out).ok()?;
        let records: Vec<Value> = page["items"].as_array()?.iter().map(|i| i["record"].clone()).collect();
        tells(&records, "kurator-edge-admin", "delete", "serviceaccounts", "app").then_some(())
    })
    .await;
}

#[tokio::test]
async fn through_the_hub_a_gateways_roles_decide() {
    let pair = Pair::start().await;
    let (hub, edge) = (pair.hub.kubeconfig(), pair.edge.kubeconfig());
    let server = format!("--server={}/clusters/gw-1", pair.hub.api_url());
    let get = ["get", "configmaps", "--as=bob", server.as_str()];
    refused(&hub, &get, "User \"bob\" cannot list resource \"configmaps\"").await;
    told(
        &edge,
        &["create", "rolebinding", "bob", "--clusterrole=edit", "--user=bob"],
    )
    .await;
    told(&hub, &get).await;
    told(&hub, &["create", "configmap", "by-bob", "--as=bob", server.as_str()]).await;
    // A ServiceAccount of the hub is not the gateway's of that name, unless the hub says that it may come through.
    told(&hub, &["create", "serviceaccount", "app"]).await;
    told(
        &edge,
        &[
            "create",
            "rolebinding",
            "app",
            "--clusterrole=view",
            "--serviceaccount=default:app",
        ],
    )
    .await;
    let token = told(&hub, &["create", "token", "app"]).await;
    let app = with_token(&hub, "app", token.trim()).await;
    let get = ["get", "configmap", "by-bob", server.as_str()];
    refused(&app, &get, "forbidden").await;
    let role = [
        "create",
        "clusterrole",
        "gw-1",
        "--verb=get",
        "--non-resource-url=/clusters/gw-1/*",
    ];
    told(&hub, &role).await;
    told(
        &hub,
        &[
            "create",
            "clusterrolebinding",
            "gw-1",
            "--clusterrole=gw-1",
            "--serviceaccount=default:app",
        ],
    )
    .await;
    told(&app, &get).await;
    // Who wrote is known at the gateway, and the token of the hub is worth nothing there.
    let thief = with_token(&edge, "thief", token.trim()).await;
    refused(&thief, &["get", "configmap", "by-bob"], LOGGED_OUT).await;
    eventually("the gateway's journal to reach the hub", async || {
        let path = "/kurator/v1/journals/gw-1/audit?limit=1000";
        let page: Value = serde_json::from_str(&kubectl(&hub, &["get", "--raw", path]).await.out).ok()?;
        page["items"].as_array()?.iter().find_map(|i| {
            let record = &i["record"];
            let by_bob = record["objectRef"]["name"] == "by-bob" && record["impersonatedUser"]["username"] == "bob";
            by_bob.then_some(())
        })
    })
    .await;
}

#[tokio::test]
async fn fixed_tokens_are_taken_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.csv");
    std::fs::write(&file, "fixed-1,root,1,\"system:masters\"\nfixed-2,bob,2,\"dev\"\n").unwrap();
    let config = folder.path().join("hub.yaml");
    std::fs::write(&config, format!("tokenFile: {}\n", file.display())).unwrap();
    let mut pair = Pair::with(&["--config", config.to_str().unwrap()]).await;
    pair.edge.stop().await;
    pair.edge.set("EDGECORE__TOKEN_FILE", file.to_str().unwrap());
    pair.edge.start_again().await;
    for admin in [pair.hub.kubeconfig(), pair.edge.kubeconfig()] {
        let root = with_token(&admin, "root", "fixed-1").await;
        told(&root, &["get", "secrets", "-A"]).await;
        let bob = with_token(&admin, "bob", "fixed-2").await;
        refused(&bob, &["get", "configmaps"], "User \"bob\" cannot list").await;
        told(
            &admin,
            &["create", "rolebinding", "dev", "--clusterrole=view", "--group=dev"],
        )
        .await;
        told(&bob, &["get", "configmaps"]).await;
    }
}
