//! Pods and what keeps them, where recorded scenarios do not look: events of a pod that ends, the seam to running programs, what is left behind.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use metastore::api::{ApiBody, Connect, Connected, Connector, User};
use serde_json::{Value, json};

use crate::support::{Api, admin};

const PODS: &str = "/api/v1/namespaces/default/pods";
const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";

fn pod(name: &str, node: &str, containers: &[&str]) -> Value {
    let containers: Vec<Value> = containers.iter().map(|c| json!({"name": c, "image": "i:1"})).collect();
    json!({"metadata": {"name": name}, "spec": {"nodeName": node, "containers": containers}})
}

async fn made(api: &Api, path: &str, object: Value) -> Value {
    let (status, body) = api.call("POST", path, object).await;
    assert_eq!(status, 201, "{body}");
    body
}

#[tokio::test]
async fn a_watch_sees_a_pod_end_step_by_step() {
    let api = Api::start().await;
    made(&api, PODS, pod("p", "gw", &["c"])).await;
    let mut watch = api.watch(&format!("{PODS}?watch=1")).await;
    for grace in [
        json!(null),
        json!({"gracePeriodSeconds": 5}),
        json!({"gracePeriodSeconds": 0}),
    ] {
        assert_eq!(api.call("DELETE", &format!("{PODS}/p"), grace).await.0, 200);
    }
    let mut seen = Vec::new();
    for _ in 0..5 {
        let event = watch.next().await.unwrap();
        let metadata = &event["object"]["metadata"];
        seen.push((
            event["type"].as_str().unwrap().to_owned(),
            metadata["deletionGracePeriodSeconds"].as_i64(),
            metadata["generation"].as_i64().unwrap(),
        ));
    }
    let event = |ty: &str, grace, generation| (ty.to_owned(), grace, generation);
    assert_eq!(
        seen,
        [
            event("ADDED", None, 1),
            event("MODIFIED", Some(30), 2),
            event("MODIFIED", Some(5), 2),
            event("MODIFIED", Some(0), 2),
            event("DELETED", Some(0), 2),
        ]
    );
}

/// Notes what it is asked for.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Connector for Notes {
    fn connect(&self, to: Connect) -> Connected {
        let line = format!(
            "{} {} {} {:?} {:?} {}",
            to.parts.method,
            to.kind.plural(),
            to.subresource,
            to.container,
            to.path,
            to.body.len()
        );
        self.0.lock().unwrap().push(line);
        Box::pin(async { Ok(Response::new(ApiBody::full("said"))) })
    }
}

#[tokio::test]
async fn programs_are_reached_through_the_connector_by_those_who_may() {
    let notes = Arc::new(Notes::default());
    let seam = notes.clone();
    let api = Api::with(|_| (), |b| b.connector(seam)).await;
    made(&api, "/api/v1/nodes", json!({"metadata": {"name": "gw"}})).await;
    made(&api, PODS, pod("p", "gw", &["c"])).await;
    made(&api, PODS, pod("two", "gw", &["c", "d"])).await;
    let send = |method: &str, path: String, user: Option<User>| {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("upgrade", "websocket")
            .body(Full::new(Bytes::from_static(b"abc")))
            .unwrap();
        request.extensions_mut().extend(
            user.map(|u| {
                let mut all = http::Extensions::new();
                all.insert(u);
                all
            })
            .unwrap_or_default(),
        );
        api.send(request)
    };
    for (method, path, code) in [
        ("GET", "p/log", 200),
        ("GET", "two/log", 400),
        ("GET", "two/exec?container=d", 200),
        ("POST", "p/exec", 200),
        ("PUT", "p/exec", 405),
        ("PUT", "p/proxy/a/b", 200),
        ("GET", "p/exec/a", 404),
        ("GET", "p/portforward", 200),
        ("GET", "none/log", 404),
    ] {
        let answer = send(method, format!("{PODS}/{path}"), Some(admin())).await;
        assert_eq!(answer.status(), code, "{method} {path}");
    }
    let bob = User::new("bob", ["dev"]);
    assert_eq!(send("GET", format!("{PODS}/p/log"), Some(bob)).await.status(), 403);
    assert_eq!(
        *notes.0.lock().unwrap(),
        [
            "GET pods log Some(\"c\") \"\" 3",
            "GET pods exec Some(\"d\") \"\" 3",
            "POST pods exec Some(\"c\") \"\" 3",
            "PUT pods proxy None \"a/b\" 3",
            "GET pods portforward None \"\" 3",
        ]
    );
}

#[tokio::test]
async fn a_job_that_is_deleted_leaves_its_pods_unless_told_otherwise() {
    let api = Api::start().await;
    for (name, query, left) in [("a", "", 200), ("b", "?propagationPolicy=Background", 404)] {
        let spec =
            json!({"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]}}});
        let job = made(&api, JOBS, json!({"metadata": {"name": name}, "spec": spec})).await;
        let mut owned = pod(name, "", &["c"]);
        owned["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"]}]);
        made(&api, PODS, owned).await;
        assert_eq!(
            api.call("DELETE", &format!("{JOBS}/{name}{query}"), Value::Null)
                .await
                .0,
            200
        );
        let settled = async {
            loop {
                let (job, _) = api.get(&format!("{JOBS}/{name}")).await;
                let (status, pod) = api.get(&format!("{PODS}/{name}")).await;
                let free = status == 404 || pod["metadata"].get("ownerReferences").is_none();
                if job == 404 && free {
                    return status;
                }
                tokio::task::yield_now().await;
            }
        };
        let status = tokio::time::timeout(Duration::from_secs(20), settled).await.unwrap();
        assert_eq!(status, left, "{name}");
    }
}

#[tokio::test]
async fn what_surprises_is_said_in_a_warning() {
    let api = Api::start().await;
    let mut spec = pod("x", "", &["c"])["spec"].clone();
    spec["containers"][0]["env"] = json!([{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]);
    let body = json!({"metadata": {"name": "a.b"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": spec}}});
    let mut request = Request::post("/apis/apps/v1/namespaces/default/deployments")
        .header("content-type", "application/json")
        .body(Full::from(body.to_string()))
        .unwrap();
    request.extensions_mut().insert(admin());
    let response = api.send(request).await;
    assert_eq!(response.status(), 201);
    let warnings: Vec<&str> = response
        .headers()
        .get_all("warning")
        .iter()
        .map(|w| w.to_str().unwrap())
        .collect();
    assert!(warnings[0].contains("a DNS label is recommended"), "{warnings:?}");
    assert!(
        warnings[1].contains("env[1]: hides previous definition"),
        "{warnings:?}"
    );
}
