//! One node's key opens one node's door.

use std::sync::Arc;

use base64::Engine;
use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::gateway::{Enrolled, Gateway, enrol, pem};
use crate::world::{DEVICES, EDGE_NODES, MODELS, Person, STATUSES, World, eventually};

fn kubeconfig(server: &str, enrolled: &Enrolled) -> String {
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "x", "cluster": {"server": server, "certificate-authority-data": encode(&pem(&enrolled.ca))}}],
        "users": [{"name": "x", "user": {
            "client-certificate-data": encode(&enrolled.credential.chain_pem),
            "client-key-data": encode(&enrolled.credential.key_pem),
        }}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
    })
    .to_string()
}

#[tokio::test]
async fn a_nodes_certificate_reads_its_own_objects_and_no_others() {
    let world = World::start().await;
    let one = enrol(&world.admin.token(json!({})).await, "gw-1").await.unwrap();
    enrol(&world.admin.token(json!({})).await, "gw-2").await.unwrap();
    world.admin.press("press-01", "gw-1").await;
    world.admin.press("press-02", "gw-2").await;
    for name in ["gw-1", "gw-2"] {
        eventually("its objects", async || {
            world.admin.get(&format!("/api/v1/nodes/{name}")).await.ok()
        })
        .await;
        eventually("its objects", async || {
            world.admin.get(&format!("{EDGE_NODES}/{name}")).await.ok()
        })
        .await;
    }
    let me = Person::with(&kubeconfig(&world.api(), &one)).await;
    // Whatever roles somebody gives to gateways.
    let everything = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "gateways"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "system:nodes"}]});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    world.admin.post(bindings, &everything).await.unwrap();
    for path in [
        "/api/v1/nodes/gw-1",
        &format!("{EDGE_NODES}/gw-1"),
        &format!("{DEVICES}/press-01"),
        &format!("{MODELS}/press"),
    ] {
        eventually(path, async || me.get(path).await.ok()).await;
    }
    for path in [
        "/api/v1/nodes/gw-2",
        "/api/v1/nodes",
        "/api/v1/secrets",
        "/api/v1/namespaces/default/configmaps/x",
        &format!("{EDGE_NODES}/gw-2"),
        EDGE_NODES,
        &format!("{DEVICES}/press-02"),
        &format!("{DEVICES}/nobody"),
        DEVICES,
        &format!("{STATUSES}/press-02"),
        &format!("{MODELS}/other"),
        "/kurator/v1/tokens",
        "/kurator/v1/nodes",
        "/kurator/v1/why/device/default/press-01",
        "/clusters/gw-1/api/v1/nodes",
        "/clusters/gw-2/api/v1/nodes",
        "/metrics",
    ] {
        assert_eq!(me.get(path).await.unwrap_err().0, 403, "{path}");
    }
    let change = json!({"metadata": {"labels": {"a": "b"}}});
    for path in [
        "/api/v1/nodes/gw-1",
        &format!("{EDGE_NODES}/gw-1"),
        &format!("{DEVICES}/press-01"),
    ] {
        assert_eq!(me.merge(path, &change).await.unwrap_err().0, 403, "{path}");
        assert_eq!(me.delete(path).await.unwrap_err().0, 403, "{path}");
    }
    assert_eq!(me.post("/kurator/v1/tokens", &json!({})).await.unwrap_err().0, 403);
    assert_eq!(
        me.post("/kurator/v1/nodes/gw-2/revoke", &json!({}))
            .await
            .unwrap_err()
            .0,
        403
    );
    world
        .admin
        .post("/kurator/v1/nodes/gw-1/revoke", &json!({}))
        .await
        .unwrap();
    assert_eq!(me.get("/api/v1/nodes/gw-1").await.unwrap_err().0, 403);
}

#[tokio::test]
async fn a_certificate_that_a_later_join_replaced_opens_nothing() {
    let world = World::start().await;
    let stolen = enrol(&world.admin.token(json!({})).await, "gw-1").await.unwrap();
    eventually("its Node", async || world.admin.get("/api/v1/nodes/gw-1").await.ok()).await;
    let thief = Person::with(&kubeconfig(&world.api(), &stolen)).await;
    assert!(thief.get("/api/v1/nodes/gw-1").await.is_ok());
    let token = world.admin.token(json!({"node": "gw-1"})).await;
    let replaced = enrol(&token, "gw-1").await.unwrap();
    let owner = Person::with(&kubeconfig(&world.api(), &replaced)).await;
    assert!(owner.get("/api/v1/nodes/gw-1").await.is_ok());
    // On the connection it already has, and on a new one.
    for person in [thief, Person::with(&kubeconfig(&world.api(), &stolen)).await] {
        let (code, message) = person.get("/api/v1/nodes/gw-1").await.unwrap_err();
        assert_eq!(code, 403);
        assert!(message.contains("replaced"), "{message}");
    }
}

#[tokio::test]
async fn through_its_link_a_gateway_reads_its_own_objects_and_no_others() {
    let world = World::start().await;
    let one = enrol(&world.admin.token(json!({})).await, "gw-1").await.unwrap();
    world.admin.press("press-02", "gw-2").await;
    let gateway = Gateway::online(&one, &Arc::default()).await;
    eventually("its Node", async || world.admin.get("/api/v1/nodes/gw-1").await.ok()).await;
    for (path, code) in [
        ("/api/v1/nodes/gw-1", 200),
        ("/api/v1/nodes", 403),
        (&*format!("{DEVICES}/press-02"), 403),
    ] {
        // Whatever it calls itself.
        let request = http::Request::builder()
            .uri(path)
            .header("host", "hub")
            .header("impersonate-user", if code == 200 { "" } else { "admin" })
            .body(http_body_util::Empty::<bytes::Bytes>::new())
            .unwrap();
        let request = if code == 200 {
            let (mut parts, body) = request.into_parts();
            parts.headers.remove("impersonate-user");
            http::Request::from_parts(parts, body)
        } else {
            request
        };
        let answer = link::tunnel::request(&gateway.connection, request, std::time::Duration::from_secs(5))
            .await
            .unwrap();
        assert_eq!(answer.status().as_u16(), code, "{path}");
    }
}

#[tokio::test]
async fn who_shows_nothing_sees_nothing() {
    let world = World::start().await;
    let one = enrol(&world.admin.token(json!({})).await, "gw-1").await.unwrap();
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "x", "cluster": {"server": world.api(), "certificate-authority-data":
            base64::engine::general_purpose::STANDARD.encode(pem(&one.ca))}}],
        "users": [{"name": "x", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
    });
    let nobody = Person::with(&config.to_string()).await;
    for path in [
        "/api/v1/nodes",
        "/kurator/v1/nodes",
        "/clusters/gw-1/api",
        "/apis",
        "/metrics",
    ] {
        let code = nobody.get(path).await.unwrap_err().0;
        assert!(code == 401 || code == 403, "{path}: {code}");
    }
    let health = |path: &'static str| {
        let at = world.health();
        async move {
            let mut s = tokio::net::TcpStream::connect(at).await.unwrap();
            s.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
                .await
                .unwrap();
            let mut out = String::new();
            s.read_to_string(&mut out).await.unwrap();
            out
        }
    };
    assert!(health("/readyz").await.starts_with("HTTP/1.1 200"));
    let page = health("/metrics").await;
    assert!(page.contains("kurator_hub_joins_admitted_total 1"), "{page}");
    let open = nobody
        .ask(Method::GET, "/version", "application/json", None)
        .await
        .unwrap();
    assert!(open["gitVersion"].is_string());
}
