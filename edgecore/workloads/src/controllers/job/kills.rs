//! The agent is killed at any await, again and again, while pods end, are deleted and the Job is suspended: in the end each pod has been counted
//! exactly once.

use std::pin::Pin;
use std::task::{Context, Poll};

use proptest::prelude::*;
use serde_json::json;

use super::super::look::is_active;
use super::tests::Shop;
use super::*;
use crate::cluster::NAMESPACES;
use crate::controllers::pod_gc::pod_gc;

/// A look that is dropped when it is woken for so many times.
struct Killed<'f> {
    left: usize,
    look: Pin<Box<dyn Future<Output = Reconciled> + Send + 'f>>,
}

impl Future for Killed<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.left == 0 {
            return Poll::Ready(());
        }
        self.left -= 1;
        self.look.as_mut().poll(context).map(drop)
    }
}

#[derive(Clone, Debug)]
enum Deed {
    /// A look, cut off at this await.
    Look(usize),
    /// One of the pods that run ends.
    Ends(usize, bool),
    /// Somebody deletes one.
    Deleted(usize),
    /// The Job is suspended, or resumed.
    Suspend(bool),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        6 => (0_usize..12).prop_map(Deed::Look),
        4 => (0_usize..9, any::<bool>()).prop_map(|(pod, well)| Deed::Ends(pod, well)),
        1 => (0_usize..9).prop_map(Deed::Deleted),
        1 => any::<bool>().prop_map(Deed::Suspend),
    ]
}

/// How many pods ended well and how many did not, as those who ended them know it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Truth {
    succeeded: i64,
    failed: i64,
}

async fn play(indexed: bool, deeds: Vec<Deed>) {
    const COMPLETIONS: i64 = 5;
    let shop = Shop::open().await;
    let mode = if indexed { "Indexed" } else { "NonIndexed" };
    shop.job(json!({"completions": COMPLETIONS, "parallelism": 3, "backoffLimit": 1000, "completionMode": mode}))
        .await;
    let key = Key::new("plant", "j");
    shop.bench.node("press-01", "4", "1Gi").await;
    let sweeper = pod_gc(shop.bench.cluster.clone(), "press-01");
    let namespace = Key::new("", "plant");
    let mut beats = 0;
    let mut truth = Truth::default();
    // Who was let go uncounted is on the way out.
    let pods = || {
        let mut pods = shop.bench.list(PODS);
        pods.retain(|p| is_active(p) && is_held(p));
        pods
    };
    for deed in deeds {
        shop.hands.turn(86_400);
        match deed {
            Deed::Look(left) => {
                let look = shop.all[0].reconcile(&key);
                Killed { left, look }.await;
                // What it had handed to the store is in it, or never will be, when the next agent starts: writes go one after another.
                beats += 1;
                let beat = shop.bench.cluster.modify(NAMESPACES, &namespace, |n| {
                    n["metadata"]["annotations"] = json!({"beat": beats.to_string()});
                    Ok(())
                });
                beat.await.unwrap();
            }
            Deed::Ends(at, well) => {
                let pods = pods();
                if let Some(pod) = pods.get(at % pods.len().max(1)) {
                    shop.exits(name(pod), i64::from(!well)).await;
                    *(if well { &mut truth.succeeded } else { &mut truth.failed }) += 1;
                }
            }
            Deed::Deleted(at) => {
                let pods = pods();
                if let Some(pod) = pods.get(at % pods.len().max(1)) {
                    shop.bench.delete(PODS, name(pod), None).await;
                    truth.failed += 1;
                }
            }
            Deed::Suspend(yes) => {
                shop.bench
                    .change(JOBS, "j", |j| j["spec"]["suspend"] = yes.into())
                    .await
            }
        }
        let running = shop.bench.list(PODS).iter().filter(|p| is_active(p)).count();
        assert!(running <= 3, "{running} at once");
    }
    shop.bench
        .change(JOBS, "j", |j| j["spec"]["suspend"] = false.into())
        .await;
    for round in 0.. {
        if job_end(&shop.bench.get(JOBS, "j")).is_some() {
            break;
        }
        shop.bench.settle(std::slice::from_ref(&sweeper)).await;
        assert!(round < 20, "it does not end: {:#}", shop.bench.get(JOBS, "j"));
        shop.hands.turn(86_400);
        shop.settle().await;
        for pod in pods() {
            shop.exits(name(&pod), 0).await;
            truth.succeeded += 1;
        }
    }
    let status = shop.status();
    let counted = Truth {
        succeeded: status["succeeded"].as_i64().unwrap_or(0),
        failed: status["failed"].as_i64().unwrap_or(0),
    };
    assert_eq!(counted, truth);
    assert_eq!(status["uncountedTerminatedPods"], json!({}));
    if indexed {
        assert_eq!(status["completedIndexes"], "0-4");
    }
    assert!(shop.bench.list(PODS).iter().all(|p| !is_held(p)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn each_pod_counts_once(indexed: bool, deeds in proptest::collection::vec(deed(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play(indexed, deeds));
    }
}
