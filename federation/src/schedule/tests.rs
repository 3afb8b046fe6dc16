use proptest::prelude::*;
use proptest::strategy::Strategy as Generator;
use serde_json::{Value, json};

use super::*;
use crate::kinds::{LabelSelector, ResourceSelector, SelectorRequirement, Toleration};

/// What a [`ClusterView`] borrows from.
#[derive(Clone, Debug, Default)]
struct Member {
    name: String,
    labels: BTreeMap<String, String>,
    provider: String,
    region: String,
    zones: Vec<String>,
    taints: Vec<Taint>,
    available: Option<i64>,
    being_deleted: bool,
}

fn member(name: &str) -> Member {
    Member {
        name: name.to_owned(),
        ..Member::default()
    }
}

fn room(name: &str, available: i64) -> Member {
    Member {
        available: Some(available),
        ..member(name)
    }
}

fn in_region(name: &str, region: &str, available: i64) -> Member {
    Member {
        region: region.to_owned(),
        ..room(name, available)
    }
}

fn views(members: &[Member]) -> Vec<ClusterView<'_>> {
    members
        .iter()
        .map(|m| ClusterView {
            name: &m.name,
            labels: &m.labels,
            provider: &m.provider,
            region: &m.region,
            zones: &m.zones,
            taints: &m.taints,
            ready: true,
            enablements: &|_, kind| kind != "Device",
            available: m.available,
            being_deleted: m.being_deleted,
        })
        .collect()
}

fn placement(value: Value) -> Placement {
    serde_json::from_value(value).unwrap()
}

fn had(shares: &[(&str, i64)]) -> Vec<TargetCluster> {
    shares
        .iter()
        .map(|(name, replicas)| TargetCluster {
            name: (*name).to_owned(),
            replicas: Some(*replicas),
            ..TargetCluster::default()
        })
        .collect()
}

fn run(
    placement_of: Value,
    previous: &[TargetCluster],
    wanted: Option<i64>,
    members: &[Member],
) -> Result<Vec<(String, Option<i64>)>, Unschedulable> {
    let decision = schedule(
        &placement(placement_of),
        previous,
        wanted,
        "apps/v1",
        "Deployment",
        &views(members),
    )?;
    Ok(decision.clusters.into_iter().map(|c| (c.name, c.replicas)).collect())
}

/// The shares as `a:1 b:2`.
fn shares(placement: Value, previous: &[(&str, i64)], wanted: i64, members: &[Member]) -> String {
    match run(placement, &had(previous), Some(wanted), members) {
        Ok(shares) => said(&shares),
        Err(e) => e.to_string(),
    }
}

fn said(shares: &[(String, Option<i64>)]) -> String {
    let parts: Vec<String> = shares
        .iter()
        .map(|(name, share)| share.map_or(name.clone(), |share| format!("{name}:{share}")))
        .collect();
    parts.join(" ")
}

fn taint(key: &str, value: &str, effect: &str) -> Taint {
    Taint {
        key: key.to_owned(),
        value: value.to_owned(),
        effect: effect.to_owned(),
        time_added: None,
    }
}

fn divided(preference: &str) -> Value {
    json!({"replicaScheduling": {"replicaSchedulingType": "Divided", "replicaDivisionPreference": preference}})
}

fn dynamic() -> Value {
    json!({"replicaScheduling": {"replicaSchedulingType": "Divided", "replicaDivisionPreference": "Weighted",
        "weightPreference": {"dynamicWeight": "AvailableReplicas"}}})
}

fn weights(list: &[(&str, i64)]) -> Value {
    let list: Vec<Value> = list
        .iter()
        .map(|(name, weight)| json!({"targetCluster": {"clusterNames": [name]}, "weight": weight}))
        .collect();
    json!({"replicaScheduling": {"replicaSchedulingType": "Divided", "replicaDivisionPreference": "Weighted",
        "weightPreference": {"staticWeightList": list}}})
}

#[test]
fn objects_without_replicas_go_everywhere_and_duplicates_get_all() {
    let members = [member("b"), member("a")];
    assert_eq!(said(&run(json!({}), &[], None, &members).unwrap()), "a b");
    assert_eq!(said(&run(divided("Aggregated"), &[], None, &members).unwrap()), "a b");
    assert_eq!(shares(json!({}), &[], 3, &members), "a:3 b:3");
    assert_eq!(shares(json!({}), &[("a", 1)], 0, &members), "a:0 b:0");
    assert_eq!(shares(weights(&[("a", 1)]), &[("a", 1)], -7, &members), "a:0 b:0");
}

#[test]
fn failures_say_how_many_clusters_are_out_for_which_reason() {
    let mut members = [member("a"), member("b"), member("c"), member("d")];
    members[2].taints = vec![
        taint("soft", "", "PreferNoSchedule"),
        taint(crate::names::TAINT_NOT_READY, "", "NoSchedule"),
    ];
    members[3].being_deleted = true;
    let only = json!({"clusterAffinity": {"clusterNames": ["c", "d"]}});
    let failed = run(only.clone(), &[], Some(1), &members).unwrap_err();
    assert_eq!(
        failed.to_string(),
        "0/4 clusters are available: 1 cluster(s) had untolerated taint {cluster.karmada.io/not-ready:NoSchedule}, \
         2 cluster(s) did not match the placement cluster affinity constraint."
    );
    assert_eq!((failed.reason(), failed.clears()), ("NoClusterFit", true));
    assert_eq!(
        shares(only, &[("c", 1)], 1, &members),
        "c:1",
        "what is there already stays"
    );
    assert_eq!(
        shares(json!({}), &[], 1, &[]),
        "0/0 clusters are available: no cluster exists."
    );
    members[2].taints = vec![taint("k", "v", "NoExecute")];
    assert!(shares(json!({"clusterAffinity": {"clusterNames": ["c"]}}), &[], 1, &members).contains("{k=v:NoExecute}"));
}

#[test]
fn an_api_that_a_cluster_does_not_have_keeps_new_objects_away() {
    let members = [member("a"), member("b")];
    let device = |previous: &[TargetCluster]| {
        schedule(
            &Placement::default(),
            previous,
            None,
            "x/v1",
            "Device",
            &views(&members),
        )
    };
    assert_eq!(
        device(&[]).unwrap_err().to_string(),
        "0/2 clusters are available: 2 cluster(s) did not have the API resource."
    );
    assert_eq!(device(&had(&[("b", 0)])).unwrap().clusters.len(), 1);
}

#[test]
fn affinities_hold_for_names_labels_and_fields() {
    let mut members = [member("a"), member("b"), member("c")];
    for (m, (site, region)) in members.iter_mut().zip([("x", "north"), ("y", "south"), ("", "")]) {
        if !site.is_empty() {
            m.labels.insert("site".into(), site.into());
            m.provider = "own".into();
            m.zones = vec![format!("{region}-1"), format!("{region}-2")];
        }
        m.region = region.into();
    }
    let names = |affinity: Value| match run(json!({"clusterAffinity": affinity}), &[], None, &members) {
        Ok(chosen) => said(&chosen),
        Err(_) => String::new(),
    };
    let label = |op: &str, values: &[&str]| {
        names(json!({"labelSelector": {"matchExpressions": [{"key": "site", "operator": op, "values": values}]}}))
    };
    let field = |key: &str, op: &str, values: &[&str]| {
        names(json!({"fieldSelector": {"matchExpressions": [{"key": key, "operator": op, "values": values}]}}))
    };
    assert_eq!(names(json!({})), "a b c");
    assert_eq!(names(json!({"exclude": ["b"]})), "a c");
    assert_eq!(names(json!({"clusterNames": ["a", "b"], "exclude": ["b"]})), "a");
    assert_eq!(names(json!({"labelSelector": {"matchLabels": {"site": "y"}}})), "b");
    assert_eq!(names(json!({"labelSelector": {}})), "a b c");
    assert_eq!(label("In", &["x", "y"]), "a b");
    assert_eq!(label("NotIn", &["x"]), "b c");
    assert_eq!(label("Exists", &[]), "a b");
    assert_eq!(label("DoesNotExist", &[]), "c");
    for invalid in [
        label("In", &[]),
        label("NotIn", &[]),
        label("Exists", &["x"]),
        label("Like", &["x"]),
    ] {
        assert_eq!(invalid, "", "what is not valid holds for none");
    }
    assert_eq!(field("region", "In", &["north", "west"]), "a");
    assert_eq!(field("region", "NotIn", &["north"]), "b c");
    assert_eq!(field("provider", "In", &["own"]), "a b");
    assert_eq!(field("zone", "In", &["south-2"]), "b");
    assert_eq!(field("zone", "NotIn", &["south-2"]), "a c");
    assert_eq!(field("height", "In", &["1"]), "");
}

#[test]
fn tolerations_match_by_key_value_and_effect() {
    let mut members = [member("a")];
    members[0].taints = vec![taint("k", "v", "NoSchedule")];
    for (toleration, good) in [
        (json!({"key": "k", "operator": "Exists"}), true),
        (json!({"operator": "Exists"}), true),
        (json!({"key": "k", "value": "v"}), true),
        (
            json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}),
            true,
        ),
        (json!({"key": "k", "value": "w"}), false),
        (json!({"key": "j", "operator": "Exists"}), false),
        (json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), false),
        (json!({"key": "k", "operator": "Gt", "value": "v"}), false),
    ] {
        let parsed: Toleration = serde_json::from_value(toleration.clone()).unwrap();
        assert_eq!(
            untolerated(&members[0].taints, &[parsed]).is_none(),
            good,
            "{toleration}"
        );
    }
}

#[test]
fn static_weights_divide_by_largest_remainder() {
    let members = [member("a"), member("b"), member("c")];
    assert_eq!(
        shares(weights(&[("a", 1), ("b", 2)]), &[], 9, &members),
        "a:3 b:6",
        "c has no weight"
    );
    assert_eq!(shares(weights(&[("a", 1), ("b", 3)]), &[], 9, &members), "a:2 b:7");
    assert_eq!(
        shares(weights(&[("a", 60), ("b", 40)]), &[("a", 0), ("b", 5)], 5, &members),
        "a:3 b:2",
        "divided anew"
    );
    assert_eq!(
        shares(weights(&[("z", 5)]), &[], 4, &members),
        "a:2 b:1 c:1",
        "no weight holds: all weigh the same"
    );
    assert_eq!(
        shares(weights(&[("z", 5)]), &[("c", 9)], 4, &members),
        "a:1 b:1 c:2",
        "who had more goes before the name"
    );
    assert_eq!(shares(divided("Weighted"), &[], 1, &members), "a:1", "zero shares go");
    assert_eq!(
        shares(weights(&[("a", i64::MAX), ("b", i64::MAX)]), &[], i64::MAX, &members)
            .matches(':')
            .count(),
        2
    );
    assert_eq!(shares(weights(&[("a", -5), ("b", 1)]), &[], 2, &members), "b:2");
    let most = json!({"replicaScheduling": {"replicaSchedulingType": "Divided", "weightPreference": {"staticWeightList": [
        {"targetCluster": {"clusterNames": ["a", "b"]}, "weight": 1},
        {"targetCluster": {"exclude": ["a"]}, "weight": 3}]}}});
    assert_eq!(
        shares(most, &[], 7, &members),
        "a:1 b:3 c:3",
        "the largest weight that holds"
    );
}

#[test]
fn old_spellings_divide_by_weight_too() {
    let members = [member("a"), member("b")];
    let old = json!({"replicaScheduling": {"replicaSchedulingType": "Weighted", "replicaDivisionPreference": "Aggregated",
        "weightList": [{"targetCluster": {"clusterNames": ["a"]}, "weight": 60},
                       {"targetCluster": {"clusterNames": ["b"]}, "weight": 40}]}});
    assert_eq!(shares(old, &[], 10, &members), "a:6 b:4");
}

#[test]
fn aggregated_takes_as_few_clusters_as_have_room() {
    let members = [room("a", 3), room("b", 10), room("c", 6)];
    let of = |previous: &[(&str, i64)], wanted| shares(divided("Aggregated"), previous, wanted, &members);
    assert_eq!(of(&[], 8), "b:8");
    assert_eq!(of(&[], 12), "b:8 c:4");
    assert_eq!(of(&[("a", 2)], 4), "a:4", "where it is already comes first");
    assert_eq!(
        of(&[("a", 2)], 10),
        "a:4 b:6",
        "what is there stays, and only the rest is divided"
    );
    assert_eq!(of(&[("a", 2), ("b", 5)], 4), "b:4", "shrinks to the largest");
    assert_eq!(of(&[("a", 2), ("b", 5)], 7), "a:2 b:5");
    assert_eq!(
        of(&[], 20),
        "failed to assign replicas: failed to scale up: Clusters available replicas 19 are not enough to schedule."
    );
    let failed = run(divided("Aggregated"), &[], Some(20), &members).unwrap_err();
    assert_eq!((failed.reason(), failed.clears()), ("Unschedulable", false));
}

#[test]
fn dynamic_weights_are_the_room() {
    let members = [room("a", 2), room("b", 4), room("c", 0)];
    let of = |previous: &[(&str, i64)], wanted| shares(dynamic(), previous, wanted, &members);
    assert_eq!(of(&[], 3), "a:1 b:2");
    assert_eq!(of(&[("c", 6)], 9), "a:1 b:2 c:6");
    assert_eq!(of(&[("a", 6), ("b", 3)], 3), "a:2 b:1");
    assert_eq!(
        of(&[("gone", 3)], 3),
        "a:1 b:2",
        "the share of a cluster that is out goes to the others"
    );
    assert_eq!(
        shares(dynamic(), &[], 4, &[member("a"), member("b")]),
        "a:2 b:2",
        "unknown room is enough"
    );
    assert_eq!(
        shares(dynamic(), &[("a", i64::MAX), ("b", i64::MAX)], 4, &members),
        "a:2 b:2"
    );
}

#[test]
fn asked_to_do_it_anew_nothing_keeps_its_share() {
    let members = [room("a", 2), room("b", 4)];
    let placement = placement(dynamic());
    let previous = had(&[("a", 4)]);
    let clusters = views(&members);
    let request = Request {
        placement: &placement,
        previous: &previous,
        wanted: Some(5),
        api_version: "apps/v1",
        kind: "Deployment",
        observed_affinity: None,
        fresh: true,
    };
    assert_eq!(
        decide(&request, &clusters).unwrap().clusters,
        had(&[("a", 3), ("b", 2)])
    );
}

#[test]
fn groups_are_tried_in_their_order() {
    let groups = json!({"clusterAffinities": [
        {"affinityName": "near", "clusterNames": ["a"]}, {"affinityName": "far", "clusterNames": ["b"]}],
        "replicaScheduling": {"replicaSchedulingType": "Divided", "replicaDivisionPreference": "Aggregated"}});
    let placement = placement(groups);
    let of = |members: &[Member], observed: Option<&str>, fresh: bool| {
        let request = Request {
            placement: &placement,
            previous: &[],
            wanted: Some(4),
            api_version: "apps/v1",
            kind: "Deployment",
            observed_affinity: observed,
            fresh,
        };
        decide(&request, &views(members)).map(|d| d.affinity_name.unwrap())
    };
    let plenty = [room("a", 9), room("b", 9)];
    assert_eq!(of(&plenty, None, false).unwrap(), "near");
    assert_eq!(of(&plenty, Some("far"), false).unwrap(), "far", "no way back by itself");
    assert_eq!(of(&plenty, Some("far"), true).unwrap(), "near");
    assert_eq!(of(&plenty, Some("gone"), false).unwrap(), "near");
    assert_eq!(of(&[room("a", 1), room("b", 9)], None, false).unwrap(), "far");
    let failed = of(&[room("a", 1), room("b", 2)], None, false).unwrap_err();
    assert!(
        matches!(failed, Unschedulable::NoRoom { available: 1, .. }),
        "the first one's reason: {failed}"
    );
}

#[test]
fn overflow_takes_what_the_group_has_no_room_for() {
    let groups = |wanted: Option<i64>, members: &[Member]| {
        run(
            json!({"clusterAffinities": [{"affinityName": "own", "clusterNames": ["a", "b"],
                "overflowAffinities": [{"affinityName": "rented", "clusterNames": ["c"]}]}],
                "replicaScheduling": {"replicaSchedulingType": "Divided", "replicaDivisionPreference": "Aggregated"}}),
            &[],
            wanted,
            members,
        )
    };
    let members = [room("a", 2), room("b", 3), room("c", 4)];
    assert_eq!(said(&groups(Some(3), &members).unwrap()), "b:3");
    assert_eq!(said(&groups(Some(7), &members).unwrap()), "a:2 b:3 c:2");
    assert_eq!(
        said(&groups(None, &members).unwrap()),
        "a b",
        "what has no replicas needs no overflow"
    );
    assert_eq!(groups(Some(10), &members).unwrap_err(), Unschedulable::NoRoomInOverflow);
}

fn spread(constraints: Value, scheduling: Value) -> Value {
    let mut placement = scheduling;
    placement
        .as_object_mut()
        .unwrap()
        .insert("spreadConstraints".into(), constraints);
    placement
}

#[test]
fn clusters_are_taken_within_bounds() {
    let members = [room("a", 1), room("b", 5), room("c", 3)];
    let two = json!([{"spreadByField": "cluster", "minGroups": 1, "maxGroups": 2}]);
    assert_eq!(
        shares(spread(two.clone(), json!({})), &[], 2, &members),
        "b:2 c:2",
        "those with the most room"
    );
    assert_eq!(
        shares(spread(two.clone(), json!({})), &[("a", 2)], 2, &members),
        "a:2 b:2",
        "where it is already"
    );
    assert_eq!(
        shares(spread(two.clone(), dynamic()), &[("a", 1)], 8, &members),
        "b:5 c:3",
        "others where there is no room"
    );
    assert_eq!(
        shares(spread(two.clone(), dynamic()), &[], 9, &members),
        "failed to select clusters: no enough resource when selecting 2 clusters"
    );
    assert_eq!(
        shares(spread(two, weights(&[("a", 1)])), &[], 4, &members),
        "a:4",
        "fixed weights say it themselves"
    );
    let four = json!([{"spreadByField": "cluster", "minGroups": 4}]);
    let failed = run(spread(four, json!({})), &[], Some(1), &members).unwrap_err();
    assert_eq!(failed.reason(), "SchedulerError");
    assert_eq!(
        failed.to_string(),
        "failed to select clusters: the number of feasible clusters is less than spreadConstraint.MinGroups"
    );
    let zones = json!([{"spreadByField": "zone", "minGroups": 1}]);
    let failed = shares(spread(zones, json!({})), &[], 1, &members);
    assert_eq!(
        failed,
        "0/3 clusters are available: 3 cluster(s) did not have zones property."
    );
    let label = json!([{"spreadByLabel": "site"}]);
    let failed = shares(spread(label, json!({})), &[], 1, &members);
    assert_eq!(
        failed,
        "failed to select clusters: just support cluster and region spread constraint"
    );
}

#[test]
fn regions_are_taken_within_bounds() {
    let members = [
        in_region("a", "north", 9),
        in_region("b", "north", 8),
        in_region("c", "south", 7),
        in_region("d", "west", 6),
        in_region("e", "west", 5),
        in_region("f", "west", 1),
    ];
    let of = |regions: Value, clusters: Value, scheduling: Value, previous: &[(&str, i64)], wanted: i64| {
        shares(
            spread(json!([regions, clusters]), scheduling),
            previous,
            wanted,
            &members,
        )
    };
    let region = |min: i64, max: i64| json!({"spreadByField": "region", "minGroups": min, "maxGroups": max});
    let cluster = |min: i64, max: i64| json!({"spreadByField": "cluster", "minGroups": min, "maxGroups": max});
    assert_eq!(
        of(region(2, 2), cluster(2, 2), json!({}), &[], 5),
        "a:5 d:5",
        "the regions with most clusters that fit"
    );
    assert_eq!(
        of(region(2, 2), cluster(2, 3), json!({}), &[], 5),
        "a:5 b:5 d:5",
        "then the best of all that are left"
    );
    assert_eq!(
        of(region(2, 2), cluster(2, 2), json!({}), &[("c", 5), ("f", 5)], 1),
        "a:1 f:1"
    );
    assert_eq!(
        of(region(1, 3), cluster(5, 6), json!({}), &[], 1),
        "a:1 b:1 d:1 e:1 f:1",
        "as few regions as have the clusters"
    );
    assert_eq!(
        of(region(2, 2), cluster(2, 2), divided("Aggregated"), &[], 12),
        "a:7 d:5",
        "by room among the few"
    );
    assert!(
        of(region(4, 4), cluster(4, 4), json!({}), &[], 1)
            .ends_with("feasible region is less than spreadConstraint.MinGroups")
    );
    assert!(
        of(region(1, 2), cluster(6, 6), json!({}), &[], 1)
            .ends_with("less than the cluster spreadConstraint.MinGroups")
    );
}

#[test]
fn the_most_precise_selector_counts() {
    let object = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "fx", "labels": {"app": "web", "odd": 3}}});
    let selector = |more: Value| -> ResourceSelector {
        let mut whole = json!({"apiVersion": "apps/v1", "kind": "Deployment"});
        whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(whole).unwrap()
    };
    for (more, expected) in [
        (json!({}), Some(Precision::All)),
        (json!({"namespace": "fx"}), Some(Precision::All)),
        (json!({"namespace": "other"}), None),
        (
            json!({"name": "web", "labelSelector": {"matchLabels": {"app": "other"}}}),
            Some(Precision::Name),
        ),
        (
            json!({"name": "api", "labelSelector": {"matchLabels": {"app": "web"}}}),
            None,
        ),
        (
            json!({"labelSelector": {"matchLabels": {"app": "web"}}}),
            Some(Precision::Labels),
        ),
        (json!({"labelSelector": {"matchLabels": {"odd": "3"}}}), None),
        (json!({"kind": "Job"}), None),
        (json!({"apiVersion": "apps/v2"}), None),
    ] {
        assert_eq!(matches(&selector(more.clone()), &object), expected, "{more}");
    }
    for hostile in [
        json!(null),
        json!([]),
        json!({"metadata": 3}),
        json!({"metadata": {"labels": []}}),
    ] {
        assert_eq!(matches(&selector(json!({})), &hostile), None);
    }

    let (all, name) = ([selector(json!({}))], [selector(json!({"name": "web"}))]);
    let policy = |namespace, name, priority, selectors| Claimant {
        namespace,
        name,
        priority,
        selectors,
    };
    let chosen = |policies: &[Claimant<'_>]| claims(policies, &object).map(|p| p.name.to_owned());
    assert_eq!(chosen(&[]), None);
    assert_eq!(
        chosen(&[policy(None, "b", 0, &all), policy(None, "a", 0, &all)]).unwrap(),
        "a"
    );
    assert_eq!(
        chosen(&[policy(None, "b", 0, &name), policy(None, "a", 0, &all)]).unwrap(),
        "b"
    );
    assert_eq!(
        chosen(&[policy(None, "b", 0, &name), policy(None, "a", 1, &all)]).unwrap(),
        "a"
    );
    assert_eq!(
        chosen(&[policy(Some("fx"), "b", 0, &all), policy(None, "a", 9, &name)]).unwrap(),
        "b"
    );
    assert_eq!(chosen(&[policy(Some("other"), "b", 0, &all)]), None);
}

fn requirement() -> impl Generator<Value = SelectorRequirement> {
    (
        prop_oneof!["site", "zone", "region", "provider", "x"],
        prop_oneof!["In", "NotIn", "Exists", "DoesNotExist", "Gt", ""],
        proptest::collection::vec("[a-c]", 0..3),
    )
        .prop_map(|(key, operator, values)| SelectorRequirement { key, operator, values })
}

fn fleet() -> impl Generator<Value = Vec<Member>> {
    let one = (
        "[a-h]",
        "[nsw]?",
        proptest::option::of(0..20_i64),
        proptest::bool::weighted(0.1),
    );
    proptest::collection::vec(one, 1..12).prop_map(|members| {
        let mut members: Vec<Member> = members
            .into_iter()
            .map(|(name, region, available, tainted)| Member {
                name,
                region,
                available,
                taints: if tainted {
                    vec![taint("k", "", "NoSchedule")]
                } else {
                    Vec::new()
                },
                ..Member::default()
            })
            .collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        members.dedup_by(|a, b| a.name == b.name);
        members
    })
}

fn any_placement() -> impl Generator<Value = Value> {
    let scheduling = prop_oneof![
        Just(json!({})),
        Just(divided("Aggregated")),
        Just(dynamic()),
        Just(divided("Weighted")),
        proptest::collection::vec(("[a-h]", 0..9_i64), 0..5).prop_map(|list| {
            let list: Vec<(&str, i64)> = list.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
            weights(&list)
        }),
    ];
    let bounds = (0..4_i64, 0..5_i64);
    let constraints = prop_oneof![
        Just(json!([])),
        bounds
            .clone()
            .prop_map(|(min, max)| json!([{"spreadByField": "cluster", "minGroups": min, "maxGroups": max}])),
        (bounds.clone(), bounds).prop_map(|((a, b), (c, d))| json!([
            {"spreadByField": "region", "minGroups": a, "maxGroups": b},
            {"spreadByField": "cluster", "minGroups": c, "maxGroups": d}])),
    ];
    let groups = prop_oneof![
        Just(json!({})),
        Just(json!({"clusterAffinity": {"exclude": ["a"]}})),
        Just(
            json!({"clusterAffinities": [{"affinityName": "x", "clusterNames": ["a", "b", "c"]},
            {"affinityName": "y", "exclude": ["a"]}]})
        ),
        Just(
            json!({"clusterAffinities": [{"affinityName": "x", "clusterNames": ["a", "b"],
            "overflowAffinities": [{"affinityName": "o", "clusterNames": ["c", "d"]}, {"affinityName": "p"}]}]})
        ),
    ];
    (scheduling, constraints, groups).prop_map(|(mut scheduling, constraints, groups)| {
        let placement = scheduling.as_object_mut().unwrap();
        placement.insert("spreadConstraints".into(), constraints);
        placement.extend(groups.as_object().unwrap().clone());
        scheduling
    })
}

fn past() -> impl Generator<Value = Vec<TargetCluster>> {
    proptest::collection::btree_map("[a-j]", 0..20_i64, 0..4).prop_map(|shares| {
        let shares: Vec<(&str, i64)> = shares.iter().map(|(name, share)| (name.as_str(), *share)).collect();
        had(&shares)
    })
}

fn ask(
    placement: &Placement,
    previous: &[TargetCluster],
    wanted: Option<i64>,
    observed: Option<&str>,
    members: &[Member],
) -> Result<Decision, Unschedulable> {
    let request = Request {
        placement,
        previous,
        wanted,
        api_version: "apps/v1",
        kind: "Deployment",
        observed_affinity: observed,
        fresh: false,
    };
    decide(&request, &views(members))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn parts_add_up_and_are_near_the_exact_share(
        total in 0..5_000_i64,
        weights in proptest::collection::btree_map("[a-z]{1,3}", 0..1_000_i64, 1..12),
        previous in proptest::collection::btree_map("[a-z]{1,3}", 0..9_i64, 0..12),
    ) {
        let list: Vec<(&str, i64)> = weights.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
        let previous: BTreeMap<&str, i64> = previous.iter().map(|(name, share)| (name.as_str(), *share)).collect();
        let shares = divide_by_weight(total, &list, &previous);
        prop_assert_eq!(shares.iter().map(|(_, share)| share).sum::<i64>(), total);
        let sum: i64 = weights.values().sum();
        for (name, share) in &shares {
            let (weight, sum) = if sum == 0 { (1, list.len() as i64) } else { (weights[*name], sum) };
            prop_assert!(*share >= 0);
            prop_assert!((share * sum - total * weight).abs() < sum, "{name} has {share} of {total} for {weight} of {sum}");
        }
        let mut reversed = list.clone();
        reversed.reverse();
        prop_assert_eq!(divide_by_weight(total, &reversed, &previous), shares);
    }

    #[test]
    fn nothing_overflows(total: i64, weights: Vec<i64>, shares: Vec<i64>, available: Vec<Option<i64>>) {
        let names: Vec<String> = (0..weights.len()).map(|i| format!("{i}")).collect();
        let list: Vec<(&str, i64)> = names.iter().map(String::as_str).zip(weights.iter().copied()).collect();
        let parts = divide_by_weight(total, &list, &BTreeMap::new());
        let sum: i128 = parts.iter().map(|(_, share)| i128::from(*share)).sum();
        prop_assert!(weights.is_empty() || sum == i128::from(total.max(0)));
        let members: Vec<Member> = available.iter().enumerate()
            .map(|(i, available)| Member { available: *available, ..member(&i.to_string()) }).collect();
        let previous: Vec<(String, i64)> = shares.iter().enumerate().map(|(i, share)| (i.to_string(), *share)).collect();
        let previous: Vec<(&str, i64)> = previous.iter().map(|(name, share)| (name.as_str(), *share)).collect();
        for placement_of in [dynamic(), divided("Aggregated"), super::tests::weights(&list), json!({})] {
            let duplicated = placement_of == json!({});
            if let Ok(shares) = run(placement_of, &had(&previous), Some(total), &members) {
                let sum: i128 = shares.iter().map(|(_, share)| i128::from(share.unwrap())).sum();
                prop_assert!(duplicated || sum == i128::from(total.max(0)));
            }
        }
    }

    #[test]
    fn decisions_are_whole_and_do_not_depend_on_the_order(
        members in fleet(), placement_of in any_placement(), previous in past(), wanted in 1..30_i64,
    ) {
        let placement = placement(placement_of);
        let decision = ask(&placement, &previous, Some(wanted), None, &members);
        let mut reversed = members.clone();
        reversed.reverse();
        let mut past = previous.clone();
        past.reverse();
        prop_assert_eq!(&ask(&placement, &past, Some(wanted), None, &reversed), &decision);
        if let Ok(decision) = decision {
            let shares: Vec<i64> = decision.clusters.iter().map(|c| c.replicas.unwrap()).collect();
            prop_assert!(shares.iter().all(|share| *share > 0));
            if super::Strategy::of(&placement) == super::Strategy::Duplicated {
                prop_assert!(shares.iter().all(|share| *share == wanted));
            } else {
                prop_assert_eq!(shares.iter().sum::<i64>(), wanted);
            }
        }
    }

    #[test]
    fn what_was_decided_is_decided_again(
        members in fleet(), placement_of in any_placement(), previous in past(), wanted in proptest::option::of(0..30_i64),
    ) {
        // A cluster that came into question for its past alone no longer does once it gets no share: such are left out.
        let mut members = members;
        for member in &mut members {
            if previous.iter().any(|target| target.name == member.name) {
                member.taints.clear();
            }
        }
        let placement = placement(placement_of);
        if let Ok(first) = ask(&placement, &previous, wanted, None, &members) {
            // Now the room is what is left of it.
            let mut after = members.clone();
            for member in &mut after {
                let share = |targets: &[TargetCluster]| {
                    targets.iter().find(|t| t.name == member.name).and_then(|t| t.replicas).unwrap_or(0)
                };
                let more = share(&first.clusters) - share(&previous);
                member.available = member.available.map(|room| (room - more).max(0));
            }
            let again = ask(&placement, &first.clusters, wanted, first.affinity_name.as_deref(), &after);
            // Overflow goes before the past: between bounds on clusters it gives way to a group that has room again.
            let overflows = placement.cluster_affinities.iter().any(|group| !group.overflow_affinities.is_empty());
            if !overflows || placement.spread_constraints.is_empty() {
                prop_assert_eq!(&again, &Ok(first.clone()));
            }
            // After a first decision that holds even where nobody has counted yet; only overflow would see room that is no more.
            if !overflows && previous.is_empty() {
                let again = ask(&placement, &first.clusters, wanted, first.affinity_name.as_deref(), &members);
                prop_assert_eq!(again, Ok(first));
            }
        }
    }

    #[test]
    fn aggregated_stays_within_the_room(members in fleet(), wanted in 1..60_i64) {
        let known: Vec<Member> = members.into_iter()
            .map(|m| Member { available: Some(m.available.unwrap_or(3)), taints: Vec::new(), ..m }).collect();
        let total: i64 = known.iter().filter_map(|m| m.available).sum();
        match run(divided("Aggregated"), &[], Some(wanted), &known) {
            Ok(shares) => for (name, share) in shares {
                let room = known.iter().find(|m| m.name == name).and_then(|m| m.available);
                prop_assert!(share <= room, "{name} has {share:?} where {room:?} fit");
            },
            Err(e) => {
                prop_assert!(total < wanted);
                prop_assert_eq!(e.reason(), "Unschedulable");
            }
        }
    }

    #[test]
    fn no_requirement_panics(requirements in proptest::collection::vec(requirement(), 0..3), members in fleet()) {
        let selector = LabelSelector { match_labels: BTreeMap::new(), match_expressions: requirements.clone() };
        let affinity = ClusterAffinity {
            label_selector: Some(selector),
            field_selector: Some(crate::kinds::FieldSelector { match_expressions: requirements }),
            ..ClusterAffinity::default()
        };
        for view in views(&members) {
            prop_assert_eq!(matches_cluster(&affinity, &view), Affinity::new(&affinity).matches(&view));
        }
    }
}
