//! What containers are given: files, variables, tokens, what they are told of themselves; and how changes reach them.

use serde_json::{Value, json};
use tests::gateway::{Gateway, NODE};
use tests::objects::{idle, lives, name, pod};
use tests::{Api, eventually};

fn config_map(name: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

#[tokio::test]
async fn changes_of_config_maps_and_secrets_are_seen_in_their_mounts() {
    let gateway = Gateway::alone().await;
    let at = &gateway.at;
    at.create(&config_map("settings", &json!({"colour": "red", "old": "here"})))
        .await;
    at.create(
        &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pass"}, "stringData": {"word": "sesame"}}),
    )
    .await;
    let mut made = pod("reader", idle());
    made["spec"]["volumes"] = json!([
        {"name": "settings", "configMap": {"name": "settings"}},
        {"name": "pass", "secret": {"secretName": "pass", "defaultMode": 0o400}},
        {"name": "maybe", "configMap": {"name": "absent", "optional": true}}]);
    made["spec"]["containers"][0]["volumeMounts"] = json!([
        {"name": "settings", "mountPath": "/settings"},
        {"name": "settings", "mountPath": "/fixed/colour", "subPath": "colour"},
        {"name": "pass", "mountPath": "/pass", "readOnly": true},
        {"name": "maybe", "mountPath": "/maybe"}]);
    at.create(&made).await;
    let before = at.until_ready("reader", 1).await;
    assert_eq!(gateway.read("reader", "/settings/colour").await, "red");
    assert_eq!(gateway.read("reader", "/pass/word").await, "sesame");
    let mode = gateway
        .exec("reader", &["stat", "-L", "-c", "%a", "/pass/word"])
        .await
        .good();
    assert_eq!(mode, "400\n");

    at.patch(
        "ConfigMap/settings",
        &json!({"data": {"colour": "blue", "new": "too", "old": null}}),
    )
    .await;
    at.patch("Secret/pass", &json!({"stringData": {"word": "mellon"}}))
        .await;
    at.create(&config_map("absent", &json!({"now": "there"}))).await;
    for (file, text) in [
        ("/settings/colour", "blue"),
        ("/settings/new", "too"),
        ("/pass/word", "mellon"),
        ("/maybe/now", "there"),
    ] {
        eventually(&format!("{file} to hold {text}"), async || {
            let ended = gateway.exec("reader", &["cat", file]).await;
            (ended.out == text).then_some(())
        })
        .await;
    }
    let files = gateway.exec("reader", &["ls", "/settings"]).await.good();
    assert_eq!(files, "colour\nnew\n");
    // A file mounted by itself stays the file that it was.
    assert_eq!(gateway.read("reader", "/fixed/colour").await, "red");
    assert_eq!(lives(&before[0]), lives(&at.pods("reader").await[0]));
}

#[tokio::test]
async fn variables_and_files_tell_a_container_of_itself() {
    let gateway = Gateway::alone().await;
    let at = &gateway.at;
    at.create(&config_map("settings", &json!({"colour": "red", "not-a-name": "x"})))
        .await;
    at.create(
        &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pass"}, "stringData": {"WORD": "sesame"}}),
    )
    .await;
    let mut c = idle();
    c["resources"] = json!({"limits": {"memory": "64Mi", "cpu": "500m"}, "requests": {"memory": "32Mi"}});
    c["envFrom"] = json!([{"configMapRef": {"name": "settings"}, "prefix": "SET_"}, {"secretRef": {"name": "pass"}}]);
    c["env"] = json!([
        {"name": "PLAIN", "value": "a $(WORD) $$(WORD) $(ABSENT)"},
        {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}},
        {"name": "MAYBE", "valueFrom": {"secretKeyRef": {"name": "absent", "key": "x", "optional": true}}},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "MEMORY", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}}]);
    c["volumeMounts"] = json!([{"name": "me", "mountPath": "/me"}, {"name": "fast", "mountPath": "/fast"}]);
    let mut made = pod("self", c);
    made["metadata"]["annotations"] = json!({"note": "first"});
    made["spec"]["hostname"] = json!("press");
    made["spec"]["hostAliases"] = json!([{"ip": "10.1.2.3", "hostnames": ["plc"]}]);
    made["spec"]["securityContext"] = json!({"runAsUser": 1000, "fsGroup": 2000});
    made["spec"]["volumes"] = json!([
        {"name": "fast", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "me", "projected": {"sources": [
            {"downwardAPI": {"items": [
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                {"path": "note", "fieldRef": {"fieldPath": "metadata.annotations['note']"}}]}},
            {"configMap": {"name": "settings", "items": [{"key": "colour", "path": "deep/colour"}]}},
            {"secret": {"name": "pass"}}]}}]);
    at.create(&made).await;
    let made = at.until_ready("self", 1).await.remove(0);
    let told = gateway.exec("self", &["env"]).await.good();
    let ip = made["status"]["podIP"].as_str().unwrap();
    for line in [
        "PLAIN=a sesame $(WORD) $(ABSENT)",
        "COLOUR=red",
        "SET_colour=red",
        "WORD=sesame",
        "POD=self",
        &format!("NODE={NODE}"),
        &format!("IP={ip}"),
        "LABEL=self",
        "MEMORY=64",
        "CPU=500",
        "HOSTNAME=press",
    ] {
        assert!(told.lines().any(|l| l == line), "{line} in\n{told}");
    }
    assert!(!told.contains("MAYBE="), "{told}");
    for (file, text) in [
        ("/me/labels", "app=\"self\""),
        ("/me/note", "first"),
        ("/me/deep/colour", "red"),
        ("/me/WORD", "sesame"),
    ] {
        assert_eq!(gateway.read("self", file).await, text, "{file}");
    }
    assert_eq!(gateway.exec("self", &["id", "-u"]).await.good(), "1000\n");
    let hosts = gateway.read("self", "/etc/hosts").await;
    assert!(
        hosts.contains("10.1.2.3\tplc") && hosts.contains(&format!("{ip}\tpress")),
        "{hosts}"
    );
    let mounted = gateway.exec("self", &["stat", "-f", "-c", "%T", "/fast"]).await.good();
    assert_eq!(mounted, "tmpfs\n");
    // fsGroup: what the pod's user does not own it can write all the same.
    gateway.exec("self", &["touch", "/fast/mine"]).await.good();
    assert_eq!(
        gateway.exec("self", &["stat", "-c", "%g", "/fast/mine"]).await.good(),
        "2000\n"
    );

    at.patch("Pod/self", &json!({"metadata": {"annotations": {"note": "second"}}}))
        .await;
    eventually("the note to change", async || {
        (gateway.exec("self", &["cat", "/me/note"]).await.out == "second").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_container_knows_its_account_and_the_api_knows_it() {
    let gateway = Gateway::alone().await;
    let at = &gateway.at;
    at.create(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}}))
        .await;
    let mut made = pod("robot", idle());
    made["spec"]["serviceAccountName"] = json!("robot");
    at.create(&made).await;
    let made = at.until_ready("robot", 1).await.remove(0);
    let folder = "/var/run/secrets/kubernetes.io/serviceaccount";
    assert_eq!(gateway.read("robot", &format!("{folder}/namespace")).await, "default");
    let authority = gateway.read("robot", &format!("{folder}/ca.crt")).await;
    assert!(authority.starts_with("-----BEGIN CERTIFICATE-----"), "{authority}");
    let token = gateway.read("robot", &format!("{folder}/token")).await;
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let said = review_of(&at.0, &review).await;
    assert_eq!(
        said["status"]["user"]["username"],
        "system:serviceaccount:default:robot"
    );
    let bound = &said["status"]["user"]["extra"]["authentication.kubernetes.io/pod-name"];
    assert_eq!(*bound, json!([name(&made)]));
    // Nobody's pod, nobody's token.
    at.delete("Pod/robot").await;
    at.until_gone("Pod/robot").await;
    let said = review_of(&at.0, &review).await;
    assert_ne!(said["status"]["authenticated"], true, "{said}");
}

async fn review_of(api: &Api, review: &Value) -> Value {
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    api.json(http::Method::POST, path, Some(review)).await.unwrap()
}
