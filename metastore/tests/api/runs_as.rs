//! What a new Pod gets from its ServiceAccount and its PriorityClass where pods run, and tokens made in process.

use std::cell::OnceCell;

use metastore::api::TokenOptions;
use serde_json::{Value, json};

use super::support::Api;

const PODS: &str = "/api/v1/namespaces/default/pods";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const AT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

async fn start() -> Api {
    let keys = OnceCell::new();
    Api::with(
        |options| drop(keys.set(options.path.with_file_name("sa"))),
        |b| {
            b.tokens(TokenOptions::new(keys.get().unwrap(), "https://here:1"))
                .runs_pods(true)
        },
    )
    .await
}

fn pod(name: &str, spec: Value) -> Value {
    let mut whole = json!({"containers": [{"name": "a", "image": "x"}]});
    for (field, value) in spec.as_object().unwrap() {
        whole[field] = value.clone();
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": whole})
}

#[tokio::test]
async fn a_pod_gets_the_token_of_its_account() {
    let api = start().await;
    let two = json!({"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "x",
            "volumeMounts": [{"name": "own", "mountPath": AT}]}],
        "initContainers": [{"name": "i", "image": "x"}], "volumes": [{"name": "own", "emptyDir": {}}]});
    let (code, made) = api.call("POST", PODS, pod("p", two)).await;
    assert_eq!(code, 201, "{made}");
    let spec = &made["spec"];
    let name = spec["volumes"][1]["name"].as_str().unwrap();
    assert!(name.starts_with("kube-api-access-") && name.len() == 21, "{name}");
    let mount = json!([{"name": name, "readOnly": true, "mountPath": AT}]);
    assert_eq!(spec["containers"][0]["volumeMounts"], mount);
    assert_eq!(spec["initContainers"][0]["volumeMounts"], mount);
    assert_eq!(spec["containers"][1]["volumeMounts"][0]["name"], "own");
    assert_eq!(
        spec["volumes"][1]["projected"],
        json!({"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]})
    );
    // Who has such a volume keeps it.
    let own = json!({"volumes": [{"name": "kube-api-access-mine", "emptyDir": {}}]});
    let (_, made) = api.call("POST", PODS, pod("q", own)).await;
    assert_eq!(made["spec"]["volumes"].as_array().unwrap().len(), 1);
    assert_eq!(
        made["spec"]["containers"][0]["volumeMounts"][0]["name"],
        "kube-api-access-mine"
    );
}

#[tokio::test]
async fn accounts_and_pods_say_whether_they_want_it() {
    let api = start().await;
    let account = json!({"metadata": {"name": "quiet"}, "automountServiceAccountToken": false,
        "imagePullSecrets": [{"name": "registry"}]});
    assert_eq!(api.call("POST", ACCOUNTS, account).await.0, 201);
    for (name, spec, mounted) in [
        ("a", json!({"serviceAccountName": "quiet"}), false),
        (
            "b",
            json!({"serviceAccountName": "quiet", "automountServiceAccountToken": true}),
            true,
        ),
        ("c", json!({"automountServiceAccountToken": false}), false),
    ] {
        let (code, made) = api.call("POST", PODS, pod(name, spec)).await;
        assert_eq!(code, 201, "{made}");
        assert_eq!(made["spec"]["volumes"].is_array(), mounted, "{name}");
        let secrets = if name == "c" {
            Value::Null
        } else {
            json!([{"name": "registry"}])
        };
        assert_eq!(made["spec"]["imagePullSecrets"], secrets, "{name}");
    }
    let own = json!({"serviceAccountName": "quiet", "imagePullSecrets": [{"name": "mine"}]});
    let (_, made) = api.call("POST", PODS, pod("d", own)).await;
    assert_eq!(made["spec"]["imagePullSecrets"], json!([{"name": "mine"}]));

    let (code, refused) = api
        .call("POST", PODS, pod("e", json!({"serviceAccountName": "no"})))
        .await;
    assert_eq!(code, 403);
    assert_eq!(
        refused["message"],
        "pods \"e\" is forbidden: error looking up service account default/no: serviceaccount \"no\" not found"
    );
}

#[tokio::test]
async fn a_pod_is_as_important_as_its_class() {
    let api = start().await;
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    for (name, value, usual) in [("line", 1000, false), ("rest", -5, true), ("more", 7, true)] {
        let class =
            json!({"metadata": {"name": name}, "value": value, "globalDefault": usual, "preemptionPolicy": "Never"});
        let (code, made) = api.call("POST", classes, class).await;
        assert_eq!(code, 201, "{made}");
    }
    for (name, spec, class, priority, policy) in [
        ("a", json!({"priorityClassName": "line"}), "line", 1000, "Never"),
        (
            "b",
            json!({"priorityClassName": "line", "priority": 1000}),
            "line",
            1000,
            "Never",
        ),
        ("c", json!({}), "rest", -5, "Never"),
        (
            "d",
            json!({"priorityClassName": "system-node-critical"}),
            "system-node-critical",
            2_000_001_000,
            "PreemptLowerPriority",
        ),
        // Of another cluster, which worked out the number.
        (
            "e",
            json!({"priorityClassName": "theirs", "priority": 9}),
            "theirs",
            9,
            "",
        ),
    ] {
        let (code, made) = api.call("POST", PODS, pod(name, spec)).await;
        assert_eq!(code, 201, "{made}");
        let spec = &made["spec"];
        assert_eq!(spec["priorityClassName"], class, "{name}");
        assert_eq!(spec["priority"], priority, "{name}");
        assert_eq!(spec["preemptionPolicy"].as_str().unwrap_or_default(), policy, "{name}");
    }
    for (spec, why) in [
        (
            json!({"priorityClassName": "none"}),
            "no PriorityClass with name none was found",
        ),
        (
            json!({"priorityClassName": "line", "priority": 3}),
            "the integer value of priority (3) must not be provided in pod spec; priority admission controller computed 1000 from the \
             given PriorityClass name",
        ),
    ] {
        let (code, refused) = api.call("POST", PODS, pod("s", spec)).await;
        assert_eq!(code, 403);
        assert_eq!(refused["message"], format!("pods \"s\" is forbidden: {why}"));
    }
}

#[tokio::test]
async fn an_account_may_limit_its_pods_to_secrets_it_lists() {
    let api = start().await;
    let account = json!({"metadata": {"name": "strict", "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}},
        "secrets": [{"name": "mine"}]});
    assert_eq!(api.call("POST", ACCOUNTS, account).await.0, 201);
    let strict = |spec: Value| {
        let mut pod = pod("s", spec);
        pod["spec"]["serviceAccountName"] = json!("strict");
        pod
    };
    let from =
        |name: &str| json!({"containers": [{"name": "a", "image": "x", "envFrom": [{"secretRef": {"name": name}}]}]});
    for (spec, why) in [
        (
            json!({"volumes": [{"name": "v", "secret": {"secretName": "x"}}]}),
            "volume with secret.secretName=\"x\" is not allowed because service account strict does not reference that secret",
        ),
        (
            from("x"),
            "container a with envFrom referencing secret.secretName=\"x\" is not allowed because service account strict does not reference that secret",
        ),
        (
            json!({"imagePullSecrets": [{"name": "x"}]}),
            "imagePullSecrets[0].name=\"x\" is not allowed because service account strict does not reference that imagePullSecret",
        ),
    ] {
        let (code, refused) = api.call("POST", PODS, strict(spec)).await;
        assert_eq!(code, 403);
        assert_eq!(refused["message"], format!("pods \"s\" is forbidden: {why}"));
    }
    assert_eq!(api.call("POST", PODS, strict(from("mine"))).await.0, 201);
}

#[tokio::test]
async fn a_copy_of_a_static_pod_runs_as_nobody() {
    let api = start().await;
    let mirror = |name: &str, spec: Value| {
        let mut pod = pod(name, spec);
        pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        pod
    };
    let (code, made) = api.call("POST", PODS, mirror("m", json!({}))).await;
    assert_eq!(code, 201, "{made}");
    assert!(
        made["spec"]["volumes"].is_null() && made["spec"]["serviceAccountName"].is_null(),
        "{made}"
    );
    for (spec, why) in [
        (
            json!({"serviceAccountName": "x"}),
            "a mirror pod may not reference service accounts",
        ),
        (
            json!({"volumes": [{"name": "v", "secret": {"secretName": "x"}}]}),
            "a mirror pod may not reference secrets",
        ),
        (
            json!({"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}),
            "a mirror pod may not use ServiceAccountToken volume projections",
        ),
    ] {
        let (code, refused) = api.call("POST", PODS, mirror("n", spec)).await;
        assert_eq!(
            (code, &refused["message"]),
            (403, &json!(format!("pods \"n\" is forbidden: {why}")))
        );
    }
}

#[tokio::test]
async fn tokens_are_made_in_process_for_pods_that_are_there() {
    let api = start().await;
    let (_, made) = api.call("POST", PODS, pod("p", json!({"nodeName": "gw"}))).await;
    let uid = made["metadata"]["uid"].as_str().unwrap();
    let issue = |account: &str, uid: &str, life| {
        let issued = api.server.issue_token(("default", account), ("p", uid), &[], life);
        issued.map_err(|s| (s.code, s.message))
    };
    let issued = issue("default", uid, Some(3607)).unwrap();
    let shown =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": issued.token}});
    let (code, review) = api
        .call("POST", "/apis/authentication.k8s.io/v1/tokenreviews", shown.clone())
        .await;
    assert_eq!(code, 201, "{review}");
    let user = &review["status"]["user"];
    assert_eq!(user["username"], "system:serviceaccount:default:default");
    assert_eq!(user["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    assert_eq!(user["extra"]["authentication.kubernetes.io/node-name"], json!(["gw"]));
    let hour = issue("default", uid, None).unwrap();
    assert!((issued.expires - hour.expires) <= 7 && !format!("{issued:?}").contains(&issued.token));

    let created = json!({"metadata": {"name": "other"}});
    assert_eq!(api.call("POST", ACCOUNTS, created).await.0, 201);
    assert_eq!(issue("none", uid, None).unwrap_err().0, 404);
    assert_eq!(
        issue("other", uid, None).unwrap_err().0,
        400,
        "the pod runs as somebody else"
    );
    assert_eq!(issue("default", "another", None).unwrap_err().0, 409);
    assert_eq!(issue("default", uid, Some(10)).unwrap_err().0, 422);
    assert_eq!(
        api.call("DELETE", &format!("{PODS}/p?gracePeriodSeconds=0"), Value::Null)
            .await
            .0,
        200
    );
    let (_, review) = api
        .call("POST", "/apis/authentication.k8s.io/v1/tokenreviews", shown)
        .await;
    assert!(review["status"]["authenticated"].is_null(), "{review}");
    assert_eq!(issue("default", uid, None).unwrap_err().0, 404);
}
