use federation::names::EXECUTION_FINALIZER;
use serde_json::json;

use super::*;
use crate::upstream::desired::Name;
use crate::upstream::works::{ClusterEntry, Stands, WorkEntry};

const SPACE: &str = "karmada-es-hall";

fn s(text: &str) -> Arc<str> {
    Arc::from(text)
}

fn name(work: &str) -> Name {
    (s(SPACE), s(work))
}

fn cluster(after: Option<u64>) -> Option<ClusterEntry> {
    Some(ClusterEntry {
        stands: Stands::Site(s("hall")),
        reschedule_after: after,
        uid: s("u"),
        deleting: false,
        finalized: true,
        ready: None,
    })
}

fn place(site: &str, connected: bool) -> Option<Place> {
    Some(Place {
        site: s(site),
        labels: BTreeMap::new(),
        taints: Vec::new(),
        connected,
        left: if connected { 0 } else { 1000 },
        registered: true,
    })
}

fn work(replicas: Option<i64>, change: impl FnOnce(&mut Value)) -> Option<WorkEntry> {
    let mut manifests =
        vec![json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "fx"}})];
    manifests.extend(replicas.map(|replicas| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "fx"}, "spec": {"replicas": replicas}})
    }));
    // What goes to all comes last, so that places in the list differ.
    manifests.reverse();
    let mut object = json!({
        "apiVersion": "work.karmada.io/v1alpha1", "kind": "Work",
        "metadata": {"name": "web", "namespace": SPACE, "finalizers": [EXECUTION_FINALIZER]},
        "spec": {"workload": {"manifests": manifests}},
    });
    change(&mut object);
    Some(WorkEntry::of(SPACE, "web", object))
}

/// Three gateways, all connected, in a site with a Cluster.
fn hall() -> Works {
    let mut works = Works::default();
    works.sites.begin(0, None);
    for node in ["a", "b", "c"] {
        works.place(&s(node), place("hall", true), 0);
    }
    works.placed();
    works.cluster(&s("hall"), cluster(None), 0);
    works
}

fn told(effects: &Effects) -> BTreeMap<&str, bool> {
    effects.deltas.iter().map(|d| (&*d.node, d.body.is_some())).collect()
}

fn replicas(works: &Works) -> BTreeMap<&'static str, i64> {
    let of = |node: &'static str| {
        works.set(node).find_map(|(_, body)| {
            let body: Value = serde_json::from_slice(&body.bytes).unwrap();
            Some((
                node,
                body.pointer("/spec/workload/manifests/0/spec/replicas")?.as_i64()?,
            ))
        })
    };
    ["a", "b", "c"].into_iter().filter_map(of).collect()
}

fn say(works: &mut Works, node: &str, report: &Value) -> Taken {
    let bytes = Bytes::from(report.to_string());
    let key = "work.karmada.io/works/karmada-es-hall/web";
    works.said(&s(node), key, Spoken::of_work(7, &bytes).unwrap())
}

fn applied() -> Value {
    json!({"applied": {"status": "True"}, "manifestStatuses": []})
}

#[test]
fn what_is_for_all_is_one_body_and_what_is_divided_is_one_for_each_share() {
    let mut works = hall();
    let effects = works.work(&name("web"), work(None, |_| ()), 1);
    assert_eq!(told(&effects), BTreeMap::from([("a", true), ("b", true), ("c", true)]));
    let bytes = |d: &Delta| d.body.as_ref().unwrap().bytes.as_ptr();
    assert!(
        effects.deltas.iter().all(|d| bytes(d) == bytes(&effects.deltas[0])),
        "held once"
    );
    assert_eq!(effects.look.len(), 1);
    assert!(works.work(&name("web"), work(None, |_| ()), 2).deltas.is_empty());

    let effects = works.work(&name("web"), work(Some(7), |_| ()), 3);
    let bodies: std::collections::BTreeSet<_> = effects.deltas.iter().map(bytes).collect();
    assert_eq!((effects.deltas.len(), bodies.len()), (3, 2), "two have the same share");
    assert_eq!(replicas(&works).values().sum::<i64>(), 7);
    let two = works.work(&name("web"), work(Some(2), |_| ()), 4);
    assert_eq!(told(&two).len(), 3, "the third keeps the map");
    assert_eq!(replicas(&works).len(), 2);
    let gone = works.work(&name("web"), None, 0);
    assert!(told(&gone).values().all(|there| !there));
}

#[test]
fn a_member_that_comes_or_goes_is_told_and_the_others_only_of_what_moves() {
    let mut works = hall();
    works.work(&name("web"), work(Some(6), |_| ()), 1);
    works.work(&name("map"), work(None, |_| ()), 1);
    let again = works.place(&s("a"), place("hall", false), 2000);
    assert!(
        again.deltas.is_empty() && again.look.is_empty(),
        "that it is away moves nothing"
    );
    let effects = works.place(&s("c"), place("yard", true), 3000);
    assert_eq!(told(&effects), BTreeMap::from([("a", true), ("b", true), ("c", false)]));
    assert_eq!(replicas(&works), BTreeMap::from([("a", 3), ("b", 3)]));
    assert_eq!(effects.sites, [s("hall"), s("yard")]);
    assert_eq!(works.set("c").count(), 0);
    let back = works.place(&s("c"), place("hall", true), 4000);
    assert_eq!(replicas(&works), BTreeMap::from([("a", 2), ("b", 2), ("c", 2)]));
    assert!(back.deltas.iter().filter(|d| &*d.node == "c").all(|d| d.joined));
    works.place(&s("c"), None, 5000);
    assert_eq!(works.sites.site_of("c"), None);
    // Its Cluster goes, and comes back.
    let effects = works.cluster(&s("hall"), None, 0);
    assert_eq!(told(&effects), BTreeMap::from([("a", false), ("b", false)]));
    assert_eq!(
        told(&works.cluster(&s("hall"), cluster(None), 0)),
        BTreeMap::from([("a", true), ("b", true)])
    );
}

#[test]
fn what_a_site_allows_to_move_moves_at_its_time() {
    let mut works = hall();
    works.work(&name("web"), work(Some(6), |_| ()), 1);
    works.place(&s("a"), place("hall", false), 2000);
    assert!(works.cluster(&s("hall"), cluster(Some(5000)), 2000).deltas.is_empty());
    assert_eq!(works.sites.due(6000), [Due::Lapse(s("a"))], "it left at 1000");
    let effects = works.lapse(&s("a"), 6000);
    assert_eq!(
        told(&effects),
        BTreeMap::from([("a", true), ("b", true), ("c", true)]),
        "it keeps the map"
    );
    assert_eq!(replicas(&works), BTreeMap::from([("b", 3), ("c", 3)]));
    works.place(&s("a"), place("hall", true), 7000);
    assert_eq!(replicas(&works).len(), 3);
    works.place(&s("a"), place("hall", false), 8000);
    works.cluster(&s("hall"), cluster(None), 9000);
    assert_eq!(replicas(&works).len(), 3, "never");
}

#[test]
fn a_sum_waits_for_those_who_are_there_but_not_for_ever() {
    let mut works = hall();
    works.work(&name("web"), work(Some(6), |_| ()), 1);
    let look = |works: &mut Works, now| works.look(SPACE, "web", true, now);
    assert!(matches!(look(&mut works, 0), Look::Nothing), "nobody said anything");
    assert!(matches!(
        say(&mut works, "a", &applied()),
        Taken::Held { work: Some(_), .. }
    ));
    say(&mut works, "b", &applied());
    assert!(matches!(look(&mut works, 100), Look::Nothing));
    assert_eq!(works.sites.due(100 + GATHER).len(), 1);
    let Look::Merge(late) = look(&mut works, 100 + GATHER) else {
        panic!()
    };
    let said = late.merged().unwrap();
    assert_eq!(
        said["applied"]["message"],
        "Failed to apply all manifests (2/3): c: has not said so yet"
    );
    say(&mut works, "c", &applied());
    let Look::Merge(whole) = look(&mut works, 200 + GATHER) else {
        panic!()
    };
    assert_eq!(whole.merged().unwrap()["applied"]["status"], "True");
    assert!(!whole.is_written(5));
    works.wrote(SPACE, "web", 5, Some(6), 9);
    let Look::Merge(whole) = look(&mut works, 200 + GATHER) else {
        panic!()
    };
    assert!(whole.is_written(5) && whole.is_written(6) && !whole.is_written(7));
    assert_eq!(works.held_of("a").len(), 1);
    let effects = works.place(&s("a"), None, 0);
    assert_eq!(effects.lost.len(), 2, "of the Work, and of itself");
    assert_eq!(say(&mut works, "a", &applied()), Taken::NotOfSite);
    assert!(Spoken::of_work(1, &Bytes::from_static(b"[]")).is_err());
}

#[test]
fn what_one_that_is_away_told_an_earlier_hub_stands_until_there_is_news() {
    let mut works = Works::default();
    works.sites.begin(0, None);
    for (node, connected) in [("a", true), ("b", true), ("c", false)] {
        works.place(&s(node), place("hall", connected), 0);
    }
    works.placed();
    works.cluster(&s("hall"), cluster(None), 0);
    let status = json!({"conditions": [{"type": "Applied", "status": "True", "lastTransitionTime": "t"},
        {"type": "Dispatching", "status": "True"}], "manifestStatuses": [{"health": "Healthy"}]});
    works.work(&name("web"), work(Some(6), |w| w["status"] = status), 1);
    let word = |works: &mut Works, node: &str, report: &Value| {
        say(works, node, report);
        let Look::Merge(gathered) = works.look(SPACE, "web", true, 0) else {
            return None;
        };
        let said = gathered.merged().unwrap();
        let hash = Body::new("k", said.to_string()).hash;
        let held_back = gathered.may_lack(&said) && works.is_first(SPACE, "web", hash);
        Some((said["applied"]["status"].clone(), held_back))
    };
    assert_eq!(word(&mut works, "a", &applied()), None, "b is there and said nothing");
    assert_eq!(word(&mut works, "b", &applied()), Some(("True".into(), true)));
    assert_eq!(
        word(&mut works, "b", &applied()),
        Some(("True".into(), true)),
        "nothing new"
    );
    let failed = json!({"applied": {"status": "False", "message": "no"}});
    assert_eq!(word(&mut works, "b", &failed), Some(("False".into(), false)));
    works.place(&s("c"), place("hall", true), 0);
    assert_eq!(word(&mut works, "b", &applied()), None, "c is there now");
    assert_eq!(word(&mut works, "c", &applied()), Some(("True".into(), false)));
}

#[test]
fn a_work_goes_when_all_have_let_it_go() {
    let mut works = hall();
    works.work(&name("web"), work(Some(1), |_| ()), 1);
    let going = work(Some(1), |w| {
        w["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into()
    });
    let effects = works.work(&name("web"), going, 2);
    assert_eq!(told(&effects).len(), 3, "whoever held it at another time gets it too");
    let deleted = json!({"deleted": true});
    for node in ["a", "b"] {
        say(&mut works, node, &deleted);
    }
    assert!(matches!(works.look(SPACE, "web", true, 0), Look::Nothing));
    say(&mut works, "c", &deleted);
    assert!(matches!(works.look(SPACE, "web", true, 0), Look::Release));
    // Made again before anybody looked.
    let effects = works.work(&name("web"), work(Some(1), |_| ()), 3);
    assert_eq!(effects.lost.len(), 3);
    let going = work(Some(1), |w| {
        w["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into()
    });
    works.work(&name("web"), going, 4);
    assert!(matches!(works.look(SPACE, "web", true, 0), Look::Nothing));
    for node in ["a", "b", "c"] {
        works.place(&s(node), None, 0);
    }
    assert!(
        matches!(works.look(SPACE, "web", true, 0), Look::Release),
        "nobody is left"
    );
}

#[test]
fn a_thousand_sites_of_a_hundred_are_placed_in_a_moment() {
    let mut works = Works::default();
    for n in 0..100_000 {
        works.place(&s(&format!("gw-{n}")), place(&format!("site-{}", n / 100), true), 0);
    }
    works.placed();
    for n in 0..1000 {
        let mut entry = cluster(None).unwrap();
        entry.stands = Stands::Site(s(&format!("site-{n}")));
        works.cluster(&s(&format!("site-{n}")), Some(entry), 0);
    }
    let space = s("karmada-es-site-500");
    let effects = works.work(&(Arc::clone(&space), s("web")), work(Some(1000), |_| ()), 1);
    assert_eq!(effects.deltas.len(), 100);
    let effects = works.place(&s("gw-50000"), None, 0);
    assert!(effects.deltas.iter().all(|d| d.node.starts_with("gw-500")));
}
