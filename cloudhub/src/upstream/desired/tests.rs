//! The index against a plain recomputation, and the cases with a name.

use std::collections::BTreeMap;

use super::*;

fn body(text: &str) -> Body {
    Body::new("k", text.to_owned())
}

fn name(n: &str) -> Name {
    (Arc::from("default"), Arc::from(n))
}

fn dev(n: &str, node: &str, model: &str, rev: u32) -> DeviceEntry {
    DeviceEntry {
        key: Arc::from(format!("d/{n}")),
        body: body(&format!("{n} on {node} of {model} rev {rev}")),
        uid: Arc::from("u"),
        node: Some(Arc::from(node)),
        model: Some(Arc::from(model)),
    }
}

fn model_key(n: &str) -> Arc<str> {
    Arc::from(format!("m/{n}"))
}

fn brief(deltas: &[Delta]) -> Vec<String> {
    let line = |d: &Delta| format!("{}{} {}", if d.body.is_some() { "+" } else { "-" }, d.node, d.key);
    deltas.iter().map(line).collect()
}

#[test]
fn a_device_brings_its_model_and_takes_it_along() {
    let mut x = Desired::default();
    assert!(
        x.model(&name("press"), &model_key("press"), Some(body("m1")))
            .is_empty()
    );
    assert_eq!(
        brief(&x.device(&name("a"), Some(dev("a", "gw-1", "press", 1)))),
        ["+gw-1 m/press", "+gw-1 d/a"]
    );
    assert_eq!(
        brief(&x.device(&name("b"), Some(dev("b", "gw-1", "press", 1)))),
        ["+gw-1 d/b"]
    );
    assert_eq!(
        brief(&x.model(&name("press"), &model_key("press"), Some(body("m2")))),
        ["+gw-1 m/press"]
    );
    assert_eq!(brief(&x.device(&name("a"), None)), ["-gw-1 d/a"]);
    assert_eq!(brief(&x.device(&name("b"), None)), ["-gw-1 d/b", "-gw-1 m/press"]);
    assert!(x.nodes.is_empty());
    assert!(x.set("gw-1").is_empty());
}

#[test]
fn a_device_that_moves_leaves_one_set_and_enters_the_other() {
    let mut x = Desired::default();
    x.model(&name("press"), &model_key("press"), Some(body("m")));
    x.device(&name("a"), Some(dev("a", "gw-1", "press", 1)));
    let moved = x.device(&name("a"), Some(dev("a", "gw-2", "press", 2)));
    assert_eq!(
        brief(&moved),
        ["-gw-1 d/a", "-gw-1 m/press", "+gw-2 m/press", "+gw-2 d/a"]
    );
    assert_eq!(x.device_node("default", "a"), Some(Some(Arc::from("gw-2"))));
    assert!(x.uses_model("gw-2", "default", "press") && !x.uses_model("gw-1", "default", "press"));
    assert_eq!(x.device_node("default", "nobody"), None);
}

#[test]
fn the_same_object_again_says_nothing() {
    let mut x = Desired::default();
    let key = model_key("press");
    x.model(&name("press"), &key, Some(body("m")));
    x.device(&name("a"), Some(dev("a", "gw-1", "press", 1)));
    assert!(x.device(&name("a"), Some(dev("a", "gw-1", "press", 1))).is_empty());
    assert!(x.model(&name("press"), &key, Some(body("m"))).is_empty());
    let node: Arc<str> = Arc::from("gw-1");
    let now = || Some((Arc::clone(&node), Arc::from("e/first"), body("e")));
    assert_eq!(brief(&x.edge_node(&Arc::from("first"), now())), ["+gw-1 e/first"]);
    assert!(x.edge_node(&Arc::from("first"), now()).is_empty());
    assert_eq!(x.edge_node_of("gw-1").unwrap().0.as_ref(), "first");
    assert_eq!(x.set("gw-1").len(), 3);
}

#[test]
fn what_a_relist_does_not_show_is_missing() {
    let mut x = Desired::default();
    x.device(&name("a"), Some(dev("a", "gw-1", "press", 1)));
    x.device(&name("b"), Some(dev("b", "gw-1", "press", 1)));
    assert_eq!(x.devices_missing(&HashSet::from([name("b")])), [name("a")]);
    assert!(x.models_missing(&HashSet::new()).is_empty());
}

/// Random edits: a mirror per node that only applies differences must always equal the set built from scratch.
#[test]
fn differences_add_up_to_the_set() {
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..50 {
        let mut x = Desired::default();
        let mut mirrors: HashMap<Arc<str>, BTreeMap<Arc<str>, Body>> = HashMap::new();
        for step in 0..300_u32 {
            let d = format!("d{}", rng.u8(..6));
            let m = format!("m{}", rng.u8(..3));
            let n = format!("n{}", rng.u8(..3));
            let deltas = match rng.u8(..10) {
                0..=4 => {
                    let mut entry = dev(&d, &n, &m, rng.u32(..3));
                    if rng.u8(..5) == 0 {
                        entry.node = None;
                    }
                    if rng.u8(..5) == 0 {
                        entry.model = None;
                    }
                    x.device(&name(&d), Some(entry))
                }
                5 => x.device(&name(&d), None),
                6 | 7 => x.model(&name(&m), &model_key(&m), Some(body(&format!("{m} {}", rng.u8(..3))))),
                8 => x.model(&name(&m), &model_key(&m), None),
                _ => {
                    let e = format!("e{}", rng.u8(..4));
                    let now = rng.bool().then(|| {
                        let body = body(&format!("{e} of {n} {}", rng.u8(..3)));
                        (Arc::from(n.as_str()), Arc::from(format!("e/{e}")), body)
                    });
                    x.edge_node(&Arc::from(e.as_str()), now)
                }
            };
            for delta in deltas {
                let mirror = mirrors.entry(delta.node).or_default();
                match delta.body {
                    Some(body) => drop(mirror.insert(delta.key, body)),
                    None => drop(mirror.remove(&delta.key)),
                }
            }
            for n in ["n0", "n1", "n2"] {
                let set: BTreeMap<_, _> = x.set(n).into_iter().collect();
                assert_eq!(mirrors.get(n).cloned().unwrap_or_default(), set, "step {step} node {n}");
            }
        }
    }
}
