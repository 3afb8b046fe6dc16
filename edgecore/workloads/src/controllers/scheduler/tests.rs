use serde_json::{Value, json};

use super::*;
use crate::controllers::bench::Bench;
use crate::controllers::look::{condition, is_true};

async fn start() -> (Bench, Arc<dyn Controller>) {
    let bench = Bench::start().await;
    bench.node("press-01", "2", "1Gi").await;
    let scheduler = scheduler(bench.cluster.clone(), bench.events.clone(), "press-01");
    (bench, scheduler)
}

fn asks(cpu: &str, memory: &str) -> Value {
    json!({"containers": [{"name": "main", "image": "i", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]})
}

fn with(mut spec: Value, field: &str, value: Value) -> Value {
    spec[field] = value;
    spec
}

fn node_of(bench: &Bench, pod: &str) -> String {
    text(&bench.get(PODS, pod), "/spec/nodeName").to_owned()
}

fn why(bench: &Bench, pod: &str) -> String {
    let pod = bench.get(PODS, pod);
    text(condition(&pod, "PodScheduled").unwrap_or(&Value::Null), "/message").to_owned()
}

#[tokio::test]
async fn a_pod_that_fits_is_given_the_node_and_told_so() {
    let (mut bench, scheduler) = start().await;
    bench.pod("a", json!({}), asks("1", "1Mi")).await;
    bench.settle(&[scheduler]).await;
    assert_eq!(node_of(&bench, "a"), "press-01");
    let pod = bench.get(PODS, "a");
    assert!(is_true(&pod, "PodScheduled"));
    assert_eq!(
        bench.told.take(),
        ["Normal Scheduled a: Successfully assigned plant/a to press-01"]
    );
}

/// The reasons of all checks, as they are told by a scheduler of a cluster.
#[tokio::test]
async fn reasons() {
    const UNHELPFUL: &str = "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    const NOBODY: &str = "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    let (bench, scheduler) = start().await;
    bench
        .pod(
            "first",
            json!({"app": "db"}),
            with(
                json!({"containers": [{"name": "main", "image": "i", "ports": [{"containerPort": 80, "hostPort": 80}],
                    "resources": {"requests": {"cpu": "1500m"}}}]}),
                "affinity",
                json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                    {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"loud": "yes"}}}]}}),
            ),
        )
        .await;
    let near = |kind: &str, app: &str| {
        json!({kind: {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": app}}}]}})
    };
    let spread = |key: &str, domains: i64| {
        json!([{"topologyKey": key, "maxSkew": 1, "minDomains": domains, "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "db"}}}])
    };
    bench.settle(std::slice::from_ref(&scheduler)).await;
    let plain = || asks("0", "0");
    for (name, labels, spec, reason, after) in [
        ("cpu", json!({}), asks("1", "1Mi"), "1 Insufficient cpu.", NOBODY),
        (
            "huge",
            json!({}),
            asks("3", "2Gi"),
            "1 Insufficient cpu, 1 Insufficient memory.",
            UNHELPFUL,
        ),
        (
            "selector",
            json!({}),
            with(plain(), "nodeSelector", json!({"disk": "ssd"})),
            "1 node(s) didn't match Pod's node affinity/selector.",
            UNHELPFUL,
        ),
        (
            "ports",
            json!({}),
            json!({"containers": [{"name": "main", "image": "i", "ports": [{"containerPort": 8080, "hostPort": 80}]}]}),
            "1 node(s) didn't have free ports for the requested pod ports.",
            NOBODY,
        ),
        (
            "near-nobody",
            json!({}),
            with(plain(), "affinity", near("podAffinity", "absent")),
            "1 node(s) didn't match pod affinity rules.",
            UNHELPFUL,
        ),
        (
            "away",
            json!({}),
            with(plain(), "affinity", near("podAntiAffinity", "db")),
            "1 node(s) didn't match pod anti-affinity rules.",
            NOBODY,
        ),
        (
            "loud",
            json!({"loud": "yes"}),
            plain(),
            "1 node(s) didn't satisfy existing pods anti-affinity rules.",
            NOBODY,
        ),
        (
            "spread-where",
            json!({}),
            with(plain(), "topologySpreadConstraints", spread("zone", 1)),
            "1 node(s) didn't match pod topology spread constraints (missing required label).",
            UNHELPFUL,
        ),
        (
            "spread",
            json!({"app": "db"}),
            with(
                plain(),
                "topologySpreadConstraints",
                spread("kubernetes.io/hostname", 2),
            ),
            "1 node(s) didn't match pod topology spread constraints.",
            NOBODY,
        ),
        (
            "claim",
            json!({}),
            with(
                plain(),
                "volumes",
                json!([{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]),
            ),
            "persistentvolumeclaim \"data\" not found.",
            UNHELPFUL,
        ),
    ] {
        bench.pod(name, labels, spec).await;
        bench.settle(std::slice::from_ref(&scheduler)).await;
        assert_eq!(node_of(&bench, name), "", "{name}");
        let message = format!("0/1 nodes are available: {reason} {after}");
        assert_eq!(why(&bench, name), message, "{name}");
    }
    for (name, labels, spec) in [
        ("near", json!({}), with(plain(), "affinity", near("podAffinity", "db"))),
        (
            "near-itself",
            json!({"app": "new"}),
            with(plain(), "affinity", near("podAffinity", "new")),
        ),
        (
            "spread-one",
            json!({"app": "db"}),
            with(
                plain(),
                "topologySpreadConstraints",
                spread("kubernetes.io/hostname", 1),
            ),
        ),
    ] {
        bench.pod(name, labels, spec).await;
        bench.settle(std::slice::from_ref(&scheduler)).await;
        assert_eq!(node_of(&bench, name), "press-01", "{name}");
    }
}

#[tokio::test]
async fn what_the_node_says_keeps_pods_off_until_it_says_otherwise() {
    let (mut bench, scheduler) = start().await;
    let all = [scheduler];
    let taint =
        json!([{"key": "line", "value": "3", "effect": "NoSchedule"}, {"key": "soft", "effect": "PreferNoSchedule"}]);
    bench
        .change(NODES, "press-01", |n| n["spec"]["taints"] = taint.clone())
        .await;
    bench.pod("a", json!({}), json!({})).await;
    let tolerant = json!({"tolerations": [{"key": "line", "operator": "Equal", "value": "3", "effect": "NoSchedule"}]});
    bench.pod("b", json!({}), tolerant).await;
    bench.settle(&all).await;
    assert_eq!(
        (node_of(&bench, "a"), node_of(&bench, "b")),
        (String::new(), "press-01".to_owned())
    );
    assert!(
        why(&bench, "a").starts_with("0/1 nodes are available: 1 node(s) had untolerated taint {line: 3}. preemption:")
    );
    bench
        .change(NODES, "press-01", |n| n["spec"] = json!({"unschedulable": true}))
        .await;
    bench.settle(&all).await;
    assert!(why(&bench, "a").starts_with("0/1 nodes are available: 1 node(s) were unschedulable."));
    bench.change(NODES, "press-01", |n| n["spec"] = json!({})).await;
    let ready = |status: &'static str| {
        move |node: &mut Value| {
            let ready = json!({"type": "Ready", "status": status, "reason": "KubeletNotReady", "lastTransitionTime": "2026-01-01T00:00:00Z"});
            set_condition(node, &ready);
        }
    };
    let node = Key::new("", "press-01");
    bench.status(NODES, &node, ready("False")).await;
    bench.settle(&all).await;
    assert!(why(&bench, "a").contains("untolerated taint {node.kubernetes.io/not-ready: }"));
    bench.status(NODES, &node, ready("True")).await;
    bench
        .status(NODES, &node, |n| n["status"]["allocatable"]["pods"] = "0".into())
        .await;
    bench.settle(&all).await;
    assert!(why(&bench, "a").starts_with("0/1 nodes are available: 1 node(s) had no container runtime."));
    bench
        .status(NODES, &node, |n| n["status"]["allocatable"]["pods"] = "1".into())
        .await;
    bench.settle(&all).await;
    assert!(why(&bench, "a").starts_with("0/1 nodes are available: 1 Too many pods. preemption:"));
    bench.phase("b", "Succeeded").await;
    bench.settle(&all).await;
    assert_eq!(node_of(&bench, "a"), "press-01");
    let told: Vec<String> = bench.told.take().into_iter().filter(|t| t.contains(" a: ")).collect();
    assert_eq!(told.len(), 6, "one for each reason and one for the end: {told:#?}");
}

#[tokio::test]
async fn a_pod_put_on_the_node_by_name_is_turned_away_where_it_does_not_fit() {
    let (bench, scheduler) = start().await;
    let port = json!([{"name": "main", "image": "i", "ports": [{"containerPort": 80, "hostPort": 80}],
        "resources": {"requests": {"cpu": "1500m", "memory": "1Gi"}}}]);
    bench.pod("there", json!({}), json!({"containers": port})).await;
    bench.settle(&[scheduler]).await;
    bench
        .change(NODES, "press-01", |node| {
            node["spec"]["taints"] = json!([{"key": "k", "effect": "NoExecute"}])
        })
        .await;
    let mut small_port = port.clone();
    small_port[0]["resources"] = json!({});
    let fits = json!({"tolerations": [{"key": "k", "operator": "Exists"}]});
    for (name, spec, reason, message) in [
        ("fits", fits, "", ""),
        (
            "cpu",
            asks("501m", "0"),
            "OutOfcpu",
            "Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000",
        ),
        (
            "memory",
            asks("500m", "1"),
            "OutOfmemory",
            "Node didn't have enough resource: memory, requested: 1, used: 1073741824, capacity: 1073741824",
        ),
        (
            "selector",
            json!({"nodeSelector": {"hall": "7"}}),
            "NodeAffinity",
            "Predicate NodeAffinity failed",
        ),
        (
            "port",
            json!({"containers": small_port}),
            "NodePorts",
            "Predicate NodePorts failed",
        ),
        (
            "taint",
            json!({}),
            "TaintToleration",
            "Predicate TaintToleration failed",
        ),
    ] {
        let made = bench
            .pod(name, json!({}), with(spec, "nodeName", json!("press-01")))
            .await;
        let away = turns_away(&bench.cluster, "press-01", uid(&made)).unwrap_or_default();
        assert_eq!((away.0.as_str(), away.1.as_str()), (reason, message), "{name}");
    }
    // A node that is not known yet turns nobody away.
    let made = bench.pod("early", json!({}), json!({"nodeName": "press-02"})).await;
    assert_eq!(turns_away(&bench.cluster, "press-02", uid(&made)), None);
}

#[tokio::test]
async fn pods_of_others_and_gated_pods_are_left_alone() {
    let (bench, scheduler) = start().await;
    bench.pod("other", json!({}), json!({"schedulerName": "volcano"})).await;
    bench
        .pod("gated", json!({}), json!({"schedulingGates": [{"name": "quota"}]}))
        .await;
    bench.settle(std::slice::from_ref(&scheduler)).await;
    assert!(condition(&bench.get(PODS, "other"), "PodScheduled").is_none());
    let gated = bench.get(PODS, "gated");
    assert_eq!(condition(&gated, "PodScheduled").unwrap()["reason"], "SchedulingGated");
    bench
        .change(PODS, "gated", |p| p["spec"]["schedulingGates"] = json!([]))
        .await;
    bench.settle(&[scheduler]).await;
    assert_eq!(node_of(&bench, "gated"), "press-01");
    assert_eq!(node_of(&bench, "other"), "");
}

#[tokio::test]
async fn the_fewest_of_the_least_important_make_room() {
    let (mut bench, scheduler) = start().await;
    let all = [scheduler];
    for (class, value) in [("low", 10), ("middle", 20), ("high", 100)] {
        bench
            .cluster
            .create(json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": class}, "value": value}))
            .await
            .unwrap();
    }
    let of = |class: &str, priority: i64, cpu: &str| {
        with(
            with(asks(cpu, "1Mi"), "priorityClassName", json!(class)),
            "priority",
            json!(priority),
        )
    };
    for (name, class, priority) in [("low-1", "low", 10), ("low-2", "low", 10), ("middle", "middle", 20)] {
        bench.pod(name, json!({}), of(class, priority, "600m")).await;
    }
    bench.settle(&all).await;
    bench.told.take();
    bench.pod("high", json!({}), of("high", 100, "700m")).await;
    bench.pod("late", json!({}), of("low", 10, "500m")).await;
    bench.settle(&all).await;
    let going: Vec<String> = bench
        .list(PODS)
        .iter()
        .filter(|p| is_terminating(p))
        .map(|p| name(p).to_owned())
        .collect();
    assert_eq!(going, ["low-2"]);
    let victim = bench.get(PODS, "low-2");
    assert_eq!(
        condition(&victim, "DisruptionTarget").unwrap()["reason"],
        "PreemptionByScheduler"
    );
    let high = bench.get(PODS, "high");
    assert_eq!(high["status"]["nominatedNodeName"], "press-01");
    assert!(why(&bench, "high").ends_with("not eligible due to a terminating pod on the nominated node."));
    let told = bench.told.take();
    let preempted = format!(
        "Normal Preempted low-2: Preempted by pod {} on node press-01",
        uid(&high)
    );
    assert!(told.contains(&preempted), "{told:#?}");
    // What becomes free is for whom it was made free.
    bench.delete(PODS, "low-2", Some(0)).await;
    bench.settle(&all).await;
    assert_eq!(
        (node_of(&bench, "high").as_str(), node_of(&bench, "late").as_str()),
        ("press-01", "")
    );
}

#[test]
fn only_what_may_help_is_a_reason_to_look() {
    let pod = |node: &str, phase: &str| json!({"spec": {"nodeName": node}, "status": {"phase": phase}});
    for (before, after, looks) in [
        (None, Some(pod("", "Pending")), true),
        (None, Some(pod("n", "Pending")), false),
        (Some(pod("", "Pending")), Some(pod("n", "Pending")), false),
        (Some(pod("", "Pending")), Some(pod("", "Pending")), false),
        (Some(pod("n", "Pending")), Some(pod("n", "Running")), false),
        (Some(pod("n", "Running")), Some(pod("n", "Failed")), true),
        (Some(pod("n", "Running")), None, true),
    ] {
        let said = format!("{before:?} {after:?}");
        let change = Change {
            kind: PODS,
            before,
            after,
        };
        assert_eq!(may_decide_anew(&change), looks, "{said}");
    }
}
