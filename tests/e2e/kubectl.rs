//! What people do with kubectl that no transcript covers, at hub and gateway alike.

use std::path::Path;

use tests::{Ended, Pair, kubectl, kubectl_with_input};

fn deployment(replicas: u32) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: web, labels: {{app: web}}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - {{name: c, image: 'busybox:1', ports: [{{containerPort: 80}}], env: [{{name: A, value: '1'}}]}}
"
    )
}

async fn told(kubeconfig: &Path, arguments: &[&str]) -> String {
    let ended = kubectl(kubeconfig, arguments).await;
    assert!(ended.status.success(), "{arguments:?}: {}{}", ended.out, ended.err);
    ended.out
}

async fn apply(kubeconfig: &Path, flags: &[&str], manifest: &str) -> Ended {
    let arguments = [&["apply", "-f", "-"][..], flags].concat();
    kubectl_with_input(kubeconfig, &arguments, manifest).await
}

/// A manifest applied again and again, with somebody else's hands in between.
async fn server_side_apply(kubeconfig: &Path) {
    let server: &[&str] = &["--server-side"];
    let first = apply(kubeconfig, server, &deployment(2)).await;
    assert!(first.status.success(), "{}{}", first.out, first.err);
    assert!(apply(kubeconfig, server, &deployment(3)).await.status.success());
    told(kubeconfig, &["scale", "deployment/web", "--replicas=5"]).await;
    told(kubeconfig, &["set", "image", "deployment/web", "c=busybox:2"]).await;
    let refused = apply(kubeconfig, server, &deployment(3)).await;
    assert!(!refused.status.success());
    for said in [
        "conflict with \"kubectl\" with subresource \"scale\" using apps/v1: .spec.replicas",
        "conflict with \"kubectl-set\" using apps/v1: .spec.template.spec.containers[name=\"c\"].image",
    ] {
        assert!(refused.err.contains(said), "{}", refused.err);
    }
    let forced = apply(kubeconfig, &["--server-side", "--force-conflicts"], &deployment(3)).await;
    assert!(forced.status.success(), "{}{}", forced.out, forced.err);
    let path = "jsonpath={.spec.replicas} {.spec.template.spec.containers[0].image}";
    let now = told(kubeconfig, &["get", "deployment", "web", "-o", path]).await;
    assert_eq!(now, "3 busybox:1");
    // What the manifest no longer names goes.
    let shorter = deployment(3).replace(", env: [{name: A, value: '1'}]", "");
    assert!(apply(kubeconfig, server, &shorter).await.status.success());
    let path = "jsonpath={.spec.template.spec.containers[0].env}";
    assert_eq!(told(kubeconfig, &["get", "deployment", "web", "-o", path]).await, "");
}

async fn owned_by(kubeconfig: &Path, owner: &str, names: &[&str]) {
    told(kubeconfig, &["create", "configmap", owner, "--from-literal=a=b"]).await;
    let uid = told(
        kubeconfig,
        &["get", "configmap", owner, "-o", "jsonpath={.metadata.uid}"],
    )
    .await;
    for name in names {
        let manifest = format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}, ownerReferences: [
                {{apiVersion: v1, kind: ConfigMap, name: {owner}, uid: {uid}, blockOwnerDeletion: true}}]}}}}"
        );
        let made = apply(kubeconfig, &[], &manifest).await;
        assert!(made.status.success(), "{}{}", made.out, made.err);
    }
}

async fn cascades(kubeconfig: &Path) {
    owned_by(kubeconfig, "front", &["f1", "f2"]).await;
    // kubectl waits until the owner is gone, which in the foreground is after what it owns.
    told(kubeconfig, &["delete", "configmap", "front", "--cascade=foreground"]).await;
    assert_eq!(told(kubeconfig, &["get", "configmaps", "-o", "name"]).await, "");
    owned_by(kubeconfig, "back", &["b1"]).await;
    told(kubeconfig, &["delete", "configmap", "back"]).await;
    told(kubeconfig, &["wait", "--for=delete", "configmap/b1", "--timeout=30s"]).await;
    owned_by(kubeconfig, "left", &["l1"]).await;
    told(kubeconfig, &["delete", "configmap", "left", "--cascade=orphan"]).await;
    let path = "jsonpath={.metadata.name}{.metadata.ownerReferences}";
    assert_eq!(told(kubeconfig, &["get", "configmap", "l1", "-o", path]).await, "l1");
}

#[tokio::test]
async fn fields_have_owners_and_objects_go_with_theirs() {
    let pair = Pair::start().await;
    for kubeconfig in [pair.hub.kubeconfig(), pair.edge.kubeconfig()] {
        server_side_apply(&kubeconfig).await;
        cascades(&kubeconfig).await;
    }
}
