use serde_json::json;

use super::super::table::tests::{service, slice, table};
use super::*;

const MACHINE: Machine = Machine {
    ipv6: false,
    deaf: None,
    services: None,
};

fn text(ruleset: &Ruleset) -> String {
    ruleset.transaction(&Names::default(), false)
}

#[test]
fn a_service_is_an_element_and_a_chain() {
    let table = table(&[
        service(
            "web",
            json!({"clusterIP": "10.43.0.5", "type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}),
        ),
        slice("web", json!({"name": "", "port": 8080}), &["10.42.0.2", "10.42.0.3"]),
    ]);
    let text = text(&ruleset(&table.routes(false), MACHINE));
    for wanted in [
        "add element ip kurator services { 10.43.0.5 . tcp . 80 : goto svc/line/web/tcp/80 }",
        "add element ip kurator ports { tcp . 30080 : goto svc/line/web/tcp/80 }",
        "add rule ip kurator svc/line/web/tcp/80 meta l4proto tcp dnat ip addr . port to numgen random mod 2 map { \
         0 : 10.42.0.2 . 8080, 1 : 10.42.0.3 . 8080 }",
        "add element ip kurator hairpin { 10.42.0.2 . 10.42.0.2, 10.42.0.3 . 10.42.0.3 }",
    ] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
    assert_eq!(text.matches("add chain ip kurator svc/line/").count(), 1);
}

#[test]
fn who_has_nobody_to_answer_is_refused_and_who_answers_at_its_own_place_is_left_alone() {
    let own = json!({"clusterIP": "10.43.0.10", "ports": [{"port": 53, "protocol": "UDP"}]});
    let local = json!({"clusterIP": "10.43.0.6", "externalIPs": ["192.0.2.7"], "externalTrafficPolicy": "Local",
        "ports": [{"port": 80, "nodePort": 30001}]});
    let table = table(&[
        service("dns", own),
        slice(
            "dns",
            json!({"name": "", "port": 53, "protocol": "UDP"}),
            &["10.43.0.10"],
        ),
        service("empty", json!({"clusterIP": "10.43.0.7", "ports": [{"port": 80}]})),
        service("local", local),
        slice("local", json!({"name": "", "port": 80}), &["10.9.0.1!e"]),
    ]);
    let text = text(&ruleset(&table.routes(false), MACHINE));
    let wanted = "add element ip kurator refused { 10.43.0.7 . tcp . 80 : goto refuse, 192.0.2.7 . tcp . 80 : drop }";
    assert!(text.contains(wanted), "{text}");
    assert!(text.contains("refused-ports { tcp . 30001 : drop }"), "{text}");
    assert!(text.contains("ip daddr { 10.9.0.1 } masquerade"), "{text}");
    assert!(!text.contains("10.43.0.10 . udp"), "{text}");
}

#[test]
fn two_that_claim_the_same_do_not_break_the_rest() {
    let claims = |name: &str, ip: &str| {
        [
            service(
                name,
                json!({"clusterIP": ip, "externalIPs": ["192.0.2.7"], "ports": [{"port": 80}]}),
            ),
            slice(name, json!({"name": "", "port": 80}), &["10.42.0.2"]),
        ]
    };
    let table = table(&[claims("a", "10.43.0.5"), claims("b", "10.43.0.6")].concat());
    let text = text(&ruleset(&table.routes(false), MACHINE));
    assert_eq!(text.matches("192.0.2.7 . tcp . 80 :").count(), 1);
    assert!(text.contains("192.0.2.7 . tcp . 80 : goto svc/line/a/tcp/80"), "{text}");
}

#[test]
fn what_was_is_taken_out_in_the_same_transaction() {
    let one = json!({"clusterIP": "10.43.0.5", "sessionAffinity": "ClientIP", "ports": [{"port": 80}]});
    let of = |endpoints: &[&str]| {
        let table = table(&[
            service("web", one.clone()),
            slice("web", json!({"name": "", "port": 80}), endpoints),
        ]);
        ruleset(&table.routes(false), MACHINE)
    };
    let (before, after) = (
        of(&["10.42.0.2", "10.42.0.3", "10.42.0.4"]),
        of(&["10.42.0.2", "10.42.0.3"]),
    );
    assert_eq!((before.names.sets.len(), after.names.sets.len()), (3, 2));
    let text = after.transaction(&before.names, false);
    assert_eq!(text.matches("delete set").count(), 1);
    assert_eq!(text.matches("delete chain").count(), 1);
    // Who stays with which endpoint is not forgotten.
    assert!(!text.contains("flush set ip kurator stays"));
    assert!(
        after
            .transaction(&before.names, true)
            .contains("delete table ip kurator\n")
    );
}

#[test]
fn listings_are_read() {
    let listing = "table ip kurator {\n\tmap services {\n\t}\n\tset stays-00ff {\n\t\tsize 65535\n\t}\n\tset hairpin {\n\t}\n\
        \tchain prerouting {\n\t\ttype nat\n\t}\n\tchain svc/line/web/tcp/80 {\n\t}\n}\n";
    let names = names(listing);
    assert_eq!(names.chains, BTreeSet::from(["svc/line/web/tcp/80".to_owned()]));
    assert_eq!(names.sets, BTreeSet::from(["stays-00ff".to_owned()]));
}

#[test]
fn stale_udp_is_what_leads_to_nobody() {
    let table = table(&[
        service(
            "dns",
            json!({"clusterIP": "10.43.0.5", "ports": [{"port": 53, "protocol": "UDP", "nodePort": 30053}]}),
        ),
        slice(
            "dns",
            json!({"name": "", "port": 5353, "protocol": "UDP"}),
            &["10.42.0.2"],
        ),
    ]);
    let answering = Answering::of(&table.routes(false));
    let local = BTreeSet::from(["192.0.2.1".parse().unwrap()]);
    let stale = |to: &str, from: &str| answering.is_stale(&local, to.parse().unwrap(), from.parse().unwrap());
    assert!(!stale("10.43.0.5:53", "10.42.0.2:5353"));
    assert!(stale("10.43.0.5:53", "10.42.0.3:5353"));
    assert!(
        stale("10.43.0.5:53", "10.43.0.5:53"),
        "one from before there were endpoints"
    );
    assert!(stale("192.0.2.1:30053", "10.42.0.3:5353"));
    assert!(!stale("192.0.2.9:30053", "10.42.0.3:5353") && !stale("10.43.0.5:54", "10.42.0.3:1"));
}
