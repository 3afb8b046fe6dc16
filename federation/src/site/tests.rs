use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::share::{Bid, apportion};
use super::*;

struct Machine {
    name: String,
    labels: BTreeMap<String, String>,
    taints: Vec<Value>,
    allocatable: Resources,
    lapsed: bool,
}

fn machine(name: &str) -> Machine {
    Machine {
        name: name.to_owned(),
        labels: BTreeMap::new(),
        taints: Vec::new(),
        allocatable: Resources::new(),
        lapsed: false,
    }
}

fn with(name: &str, change: impl FnOnce(&mut Machine)) -> Machine {
    let mut machine = machine(name);
    change(&mut machine);
    machine
}

fn room(cpu: i64) -> Resources {
    Resources::from([("cpu".to_owned(), cpu), ("pods".to_owned(), 110)])
}

fn placed(manifest: &Value, machines: &[Machine]) -> BTreeMap<String, Share> {
    let members: Vec<Member<'_>> = machines
        .iter()
        .map(|m| Member {
            name: &m.name,
            labels: &m.labels,
            taints: &m.taints,
            allocatable: &m.allocatable,
            lapsed: m.lapsed,
        })
        .collect();
    let spread = spread("ns/work", &[Piece::of(manifest)], &members);
    assert_eq!(spread.members.is_empty(), !spread.unplaced.is_empty());
    spread
        .members
        .into_iter()
        .map(|(name, shares)| (name, shares[0].expect("in it only with a share")))
        .collect()
}

fn pods(shares: &BTreeMap<String, Share>) -> BTreeMap<&str, i64> {
    let count = |share: &Share| match share {
        Share::All => -1,
        Share::Pods(count, _) => *count,
    };
    shares
        .iter()
        .map(|(name, share)| (name.as_str(), count(share)))
        .collect()
}

fn deployment(replicas: i64, pod: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "fx"},
        "spec": {"replicas": replicas, "template": {"spec": pod}}})
}

fn three() -> Vec<Machine> {
    ["gw-1", "gw-2", "gw-3"].map(machine).into()
}

#[test]
fn what_has_no_replicas_is_everywhere_and_what_has_a_place_is_there() {
    for kind in [
        "v1 ConfigMap",
        "apps/v1 DaemonSet",
        "v1 Service",
        "devices.kubeedge.io/v1beta1 Device",
        "a.b/v1 Deployment",
    ] {
        let (version, kind) = kind.split_once(' ').unwrap();
        let piece = Piece::of(&json!({"apiVersion": version, "kind": kind, "spec": {"replicas": 3}}));
        assert_eq!(piece, Piece::Everywhere, "{kind}");
    }
    let device = json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device", "spec": {"nodeName": "gw-2"}});
    assert_eq!(pods(&placed(&device, &three())), BTreeMap::from([("gw-2", -1)]));
    let elsewhere =
        json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device", "spec": {"nodeName": "gw-9"}});
    assert!(placed(&elsewhere, &three()).is_empty());
    for kind in ["apps/v1 StatefulSet", "v1 Pod", "batch/v1 CronJob"] {
        let (version, kind) = kind.split_once(' ').unwrap();
        let whole = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "a"}, "spec": {"replicas": 3}});
        let there = placed(&whole, &three());
        assert_eq!(there.values().collect::<Vec<_>>(), [&Share::All], "{kind}");
    }
}

#[test]
fn replicas_are_divided_by_what_there_is_room_for() {
    let ask = json!({"containers": [{"resources": {"requests": {"cpu": "500m"}}}]});
    let machines = [
        with("big", |m| m.allocatable = room(4000)),
        with("small", |m| m.allocatable = room(1000)),
        with("tiny", |m| m.allocatable = room(400)),
    ];
    let shares = placed(&deployment(10, ask.clone()), &machines);
    assert_eq!(pods(&shares), BTreeMap::from([("big", 8), ("small", 2)]));
    let shares = placed(&deployment(5, ask.clone()), &machines);
    assert_eq!(pods(&shares), BTreeMap::from([("big", 4), ("small", 1)]));
    let too_many = placed(&deployment(20, ask), &machines);
    assert_eq!(
        pods(&too_many).values().sum::<i64>(),
        20,
        "what fits nowhere waits, and is seen"
    );
    assert_eq!(
        pods(&placed(&deployment(7, json!({})), &three())).values().sum::<i64>(),
        7
    );
    let none = placed(&deployment(0, json!({})), &three());
    assert_eq!(
        none.values().collect::<Vec<_>>(),
        [&Share::All],
        "it is there all the same"
    );
    let mut manifest = deployment(7, json!({}));
    put_share(&mut manifest, Share::Pods(3, None));
    assert_eq!(manifest["spec"]["replicas"], 3);
}

#[test]
fn jobs_divide_completions_as_they_divide_pods() {
    let job = |spec: Value| json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": spec});
    let shares = placed(&job(json!({"parallelism": 4, "completions": 10})), &three());
    let sums = shares.values().fold((0, 0), |(pods, done), share| match share {
        Share::Pods(p, Some(c)) if c >= p => (pods + p, done + c),
        other => panic!("{other:?}"),
    });
    assert_eq!(sums, (4, 10));
    let one = placed(&job(json!({"completions": 10})), &three());
    assert_eq!(one.values().collect::<Vec<_>>(), [&Share::Pods(1, Some(10))]);
    let indexed = placed(
        &job(json!({"parallelism": 4, "completions": 10, "completionMode": "Indexed"})),
        &three(),
    );
    assert_eq!(indexed.values().collect::<Vec<_>>(), [&Share::All]);
    let mut manifest = job(json!({"parallelism": 4, "completions": 10}));
    put_share(&mut manifest, Share::Pods(1, Some(3)));
    assert_eq!(manifest["spec"], json!({"parallelism": 1, "completions": 3}));
}

#[test]
fn pods_run_where_they_may() {
    let mut machines = three();
    machines[0].labels.insert("disk".to_owned(), "ssd".to_owned());
    machines[0].labels.insert("floor".to_owned(), "7".to_owned());
    machines[1].taints = vec![json!({"key": "line", "value": "a", "effect": "NoSchedule"})];
    let on = |pod: Value| -> Vec<String> { placed(&deployment(30, pod), &machines).into_keys().collect() };
    let affinity = |rules: Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": rules}}}});
    let rule = |key: &str, operator: &str, values: Value| {
        affinity(json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]))
    };
    assert_eq!(on(json!({})), ["gw-1", "gw-3"]);
    assert_eq!(on(json!({"nodeSelector": {"disk": "ssd"}})), ["gw-1"]);
    assert_eq!(
        on(json!({"nodeSelector": {"kubernetes.io/hostname": "gw-3"}})),
        ["gw-3"]
    );
    for toleration in [
        json!({"key": "line", "value": "a"}),
        json!({"key": "line", "operator": "Exists", "effect": "NoSchedule"}),
        json!({"operator": "Exists"}),
    ] {
        assert_eq!(on(json!({"tolerations": [toleration]})).len(), 3);
    }
    for toleration in [
        json!({"key": "line", "value": "b"}),
        json!({"operator": "Exists", "effect": "NoExecute"}),
        json!({}),
    ] {
        assert_eq!(on(json!({"tolerations": [toleration]})).len(), 2);
    }
    assert_eq!(on(rule("disk", "In", json!(["hdd", "ssd"]))), ["gw-1"]);
    assert_eq!(on(rule("disk", "NotIn", json!(["ssd"]))), ["gw-3"]);
    assert_eq!(on(rule("disk", "Exists", json!(null))), ["gw-1"]);
    assert_eq!(on(rule("disk", "DoesNotExist", json!([]))), ["gw-3"]);
    assert_eq!(on(rule("floor", "Gt", json!(["6"]))), ["gw-1"]);
    assert_eq!(on(rule("floor", "Lt", json!(["7"]))), [""; 0]);
    assert_eq!(on(affinity(json!([{}]))), [""; 0]);
    assert_eq!(
        on(affinity(
            json!([{}, {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["gw-3"]}]}])
        )),
        ["gw-3"]
    );
}

#[test]
fn who_is_away_too_long_gets_nothing_but_what_is_pinned() {
    let mut machines = three();
    machines[2].lapsed = true;
    let mut manifest = deployment(30, json!({}));
    assert_eq!(placed(&manifest, &machines).len(), 2);
    manifest["spec"]["template"]["metadata"]["annotations"][PINNED] = "true".into();
    assert_eq!(placed(&manifest, &machines).len(), 3);
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}});
    assert_eq!(placed(&map, &machines).len(), 3);
}

#[test]
fn pods_that_keep_apart_do() {
    let machines = [
        with("big", |m| m.allocatable = room(8000)),
        with("small", |m| m.allocatable = room(1000)),
    ];
    let ask = |rule: Value| {
        let mut pod = json!({"containers": [{"resources": {"requests": {"cpu": "100m"}}}]});
        pod.as_object_mut().unwrap().extend(rule.as_object().unwrap().clone());
        pod
    };
    let even = json!({"topologySpreadConstraints": [{"topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}]});
    assert_eq!(
        pods(&placed(&deployment(6, ask(even)), &machines)),
        BTreeMap::from([("big", 3), ("small", 3)])
    );
    let apart = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        [{"topologyKey": "kubernetes.io/hostname"}]}}});
    assert_eq!(
        pods(&placed(&deployment(2, ask(apart)), &machines)),
        BTreeMap::from([("big", 1), ("small", 1)])
    );
}

#[test]
fn members_words_become_one() {
    let manifests = [
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "fx"}}),
        deployment(7, json!({})),
    ];
    let state = |ordinal: i64, ready: i64, observed: i64, template: i64, health: &str| {
        json!({"identifier": {"ordinal": ordinal, "group": "apps", "version": "v1", "kind": "Deployment", "resource": "", "namespace": "fx", "name": "web"},
            "health": health, "status": {"replicas": ready, "readyReplicas": ready, "generation": 2, "observedGeneration": observed,
            "resourceTemplateGeneration": template}})
    };
    let map = json!({"identifier": {"ordinal": 0, "version": "v1", "kind": "ConfigMap", "resource": "", "namespace": "fx", "name": "c"}, "health": "Healthy"});
    let yes = json!({"status": "True", "reason": "AppliedSuccessful", "message": "m"});
    let one = json!({"applied": yes, "manifestStatuses": [map, state(1, 4, 2, 3, "Healthy")]});
    let two = json!({"applied": yes, "manifestStatuses": [state(0, 3, 2, 4, "Healthy")]});
    let mut spread = Spread::default();
    spread
        .members
        .insert("gw-1".to_owned(), vec![Some(Share::All), Some(Share::Pods(4, None))]);
    spread
        .members
        .insert("gw-2".to_owned(), vec![None, Some(Share::Pods(3, None))]);
    let told = |one: Option<&Value>, two: Option<&Value>| {
        let holders = [("gw-1", one), ("gw-2", two)].map(|(name, report)| Holder {
            name,
            report,
            had_applied: false,
        });
        merge(&manifests, &spread, &holders)
    };
    let both = told(Some(&one), Some(&two)).unwrap();
    assert_eq!(both["applied"]["status"], "True");
    let statuses = both["manifestStatuses"].as_array().unwrap();
    assert_eq!(
        (
            &statuses[0]["identifier"]["ordinal"],
            &statuses[1]["identifier"]["ordinal"]
        ),
        (&json!(0), &json!(1))
    );
    assert_eq!(
        statuses[1]["status"],
        json!({"replicas": 7, "readyReplicas": 7, "generation": 2, "observedGeneration": 2, "resourceTemplateGeneration": 3})
    );
    assert_eq!(statuses[1]["health"], "Healthy");
    let behind = json!({"applied": yes, "manifestStatuses": [state(0, 3, 1, 4, "Unhealthy")]});
    let late = told(Some(&one), Some(&behind)).unwrap();
    assert_eq!(
        (
            &late["manifestStatuses"][1]["status"]["observedGeneration"],
            &late["manifestStatuses"][1]["health"]
        ),
        (&json!(1), &json!("Unhealthy"))
    );
    let silent = told(Some(&one), None).unwrap();
    assert_eq!(
        silent["applied"]["message"],
        "Failed to apply all manifests (1/2): gw-2: has not said so yet"
    );
    assert_eq!(silent["manifestStatuses"][1]["health"], "Unknown");
    let failed = json!({"applied": {"status": "False", "reason": "x", "message": "ü".repeat(4000)}});
    let failed = told(Some(&one), Some(&failed)).unwrap();
    assert!(failed["applied"]["message"].as_str().unwrap().len() < 1024);
    assert_eq!(told(None, None), None);
}

#[test]
fn jobs_and_load_balancers_become_one() {
    let yes = json!({"status": "True"});
    let of = |kind: &str, group: &str, statuses: [Value; 2]| {
        let version = if group.is_empty() {
            "v1".to_owned()
        } else {
            format!("{group}/v1")
        };
        let manifest = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x", "namespace": "fx"}, "spec": {"type": "LoadBalancer"}});
        let mut spread = Spread::default();
        let reports = statuses.map(|status| {
            json!({"applied": yes, "manifestStatuses": [{"identifier": {"ordinal": 0, "group": group, "version": "v1", "kind": kind,
                "resource": "", "name": "x", "namespace": "fx"}, "health": "Healthy", "status": status}]})
        });
        let names = ["a", "b"];
        let holders: Vec<Holder<'_>> = names
            .iter()
            .zip(&reports)
            .map(|(name, report)| Holder {
                name,
                report: Some(report),
                had_applied: false,
            })
            .collect();
        for name in names {
            spread.members.insert(name.to_owned(), vec![Some(Share::All)]);
        }
        merge(&[manifest], &spread, &holders).unwrap()["manifestStatuses"][0]["status"].clone()
    };
    let complete = json!({"succeeded": 2, "conditions": [{"type": "Complete", "status": "True"}]});
    let both = of("Job", "batch", [complete.clone(), complete.clone()]);
    assert_eq!(
        (&both["succeeded"], &both["conditions"][0]["type"]),
        (&json!(4), &json!("Complete"))
    );
    let one = of("Job", "batch", [complete.clone(), json!({"active": 1})]);
    assert_eq!((&one["active"], &one["conditions"]), (&json!(1), &Value::Null));
    let failed = of(
        "Job",
        "batch",
        [complete, json!({"conditions": [{"type": "Failed", "status": "True"}]})],
    );
    assert_eq!(failed["conditions"][0]["type"], "Failed");
    let at = |ip: &str| json!({"loadBalancer": {"ingress": [{"ip": ip}]}});
    assert_eq!(
        of("Service", "", [at("1.1.1.1"), at("1.1.1.2")])["loadBalancer"]["ingress"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(
        of(
            "PersistentVolumeClaim",
            "",
            [json!({"phase": "Bound"}), json!({"phase": "Lost"})]
        )["phase"],
        "Bound"
    );
    assert_eq!(of("StatefulSet", "apps", [json!({}), json!({})])["replicas"], 0);
}

#[test]
fn a_site_serves_what_all_its_members_serve() {
    let serves = |kinds: &[&str]| {
        let kinds: Vec<Value> = kinds
            .iter()
            .map(|kind| json!({"name": kind.to_lowercase(), "kind": kind}))
            .collect();
        json!([{"groupVersion": "v1", "resources": kinds}, {"groupVersion": "odd"}])
    };
    let (a, b) = (serves(&["Pod", "Secret", "Service"]), serves(&["Secret", "Pod"]));
    assert_eq!(
        common_enablements([&a, &b]),
        json!([{"groupVersion": "v1", "resources": [{"name": "pod", "kind": "Pod"}, {"name": "secret", "kind": "Secret"}]}])
    );
    assert_eq!(common_enablements([&a, &Value::Null]), json!([]));
    assert_eq!(common_enablements([]), json!([]));
    assert_eq!(lowest_version(["v1.33.2", "v1.9.10", "", "v1.9.9-k"]), Some("v1.9.9-k"));
}

fn bids<'a>(names: &'a [String], weights: &[(i64, i64)]) -> Vec<Bid<'a>> {
    names
        .iter()
        .zip(weights)
        .map(|(name, (weight, most))| Bid {
            name,
            weight: *weight,
            most: *most,
        })
        .collect()
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("gw-{n}")).collect()
}

proptest! {
    #[test]
    fn shares_add_up_whatever_the_order(
        count in 0_i64..10_000,
        weights in proptest::collection::vec((-1_i64..1000, -1_i64..500), 1..20),
        turn in 0_usize..20,
        key in "[a-z]{1,8}",
    ) {
        let names = names(weights.len());
        let mut bids = bids(&names, &weights);
        let shares = apportion(&key, count, &bids);
        prop_assert_eq!(shares.values().sum::<i64>(), count);
        prop_assert!(shares.values().all(|share| *share > 0));
        let room: i64 = weights.iter().filter(|(weight, _)| *weight > 0).map(|(_, most)| (*most).max(0)).sum();
        if count <= room {
            for bid in &bids {
                prop_assert!(shares.get(bid.name).copied().unwrap_or(0) <= bid.most.max(0), "{:?} {:?}", bid, shares);
            }
        }
        bids.rotate_left(turn % weights.len());
        prop_assert_eq!(&apportion(&key, count, &bids), &shares, "again, in another order");
    }

    #[test]
    fn only_what_a_lost_member_had_moves(count in 0_i64..300, members in 2_usize..20, lost in 0_usize..20, key in "[a-z]{1,8}") {
        let names = names(members);
        let all = bids(&names, &vec![(1, i64::MAX); members]);
        let before = apportion(&key, count, &all);
        let mut rest = all.clone();
        rest.remove(lost % members);
        let after = apportion(&key, count, &rest);
        for bid in &rest {
            let (was, is) = (before.get(bid.name).unwrap_or(&0), after.get(bid.name).unwrap_or(&0));
            prop_assert!(is >= was, "{}: {} -> {}", bid.name, was, is);
        }
    }

    #[test]
    fn members_that_are_equal_differ_by_one_at_most(count in 0_i64..300, members in 1_usize..20, key in "[a-z]{1,8}") {
        let names = names(members);
        let shares = apportion(&key, count, &bids(&names, &vec![(7, i64::MAX); members]));
        let of = |name: &String| shares.get(name.as_str()).copied().unwrap_or(0);
        let (least, most) = (names.iter().map(of).min().unwrap(), names.iter().map(of).max().unwrap());
        prop_assert!(most - least <= 1);
    }

    #[test]
    fn nothing_that_is_said_is_too_odd(one in hostile(), two in hostile()) {
        let manifests = [one.clone(), two.clone()];
        let pieces: Vec<Piece> = manifests.iter().map(Piece::of).collect();
        let machines = three();
        let members: Vec<Member<'_>> = machines
            .iter()
            .map(|m| Member { name: &m.name, labels: &m.labels, taints: std::slice::from_ref(&two), allocatable: &m.allocatable, lapsed: false })
            .collect();
        let spread = spread("k", &pieces, &members);
        let holders = [Holder { name: "gw-1", report: Some(&one), had_applied: true }, Holder { name: "gw-2", report: Some(&two), had_applied: false }];
        merge(&manifests, &spread, &holders);
        common_enablements([&one, &two]);
        for (mut manifest, share) in manifests.into_iter().zip([Share::Pods(1, Some(2)), Share::All]) {
            put_share(&mut manifest, share);
        }
    }
}

fn hostile() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        proptest::sample::select(vec![
            "apps/v1",
            "Deployment",
            "Job",
            "batch/v1",
            "v1",
            "Pod",
            "1",
            "Indexed",
            "True",
            "gw-1",
            ""
        ])
        .prop_map(Value::from),
    ];
    let field = || {
        proptest::sample::select(vec![
            "apiVersion",
            "kind",
            "metadata",
            "name",
            "spec",
            "replicas",
            "template",
            "parallelism",
            "completions",
            "status",
            "applied",
            "manifestStatuses",
            "identifier",
            "health",
            "key",
            "effect",
            "resources",
            "groupVersion",
            "nodeName",
            "tolerations",
        ])
        .prop_map(str::to_owned)
    };
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(field(), inner, 0..7).prop_map(|map| json!(map)),
        ]
    })
}
