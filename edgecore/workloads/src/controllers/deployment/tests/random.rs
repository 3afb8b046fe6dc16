//! Whatever is done to a Deployment, in whatever order its controllers look, and whenever they are killed: it comes to rest as it should be, and on the way there are never
//! too many pods and never too few that are available.

use proptest::prelude::*;

use super::*;
use crate::controllers::shared::share;

#[derive(Clone, Debug)]
enum Act {
    /// Another template.
    Image(u8),
    Scale(i64),
    /// The pod at this place fails.
    Fail(usize),
    /// The pod at this place is deleted by somebody.
    Delete(usize),
    /// So many looks, by one controller or the other.
    Looks(usize),
    /// One controller ends after so many steps of a look, and begins again.
    Kill(usize),
    /// The machine brings one pod a step on.
    Machine(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        1 => (0..3u8).prop_map(Act::Image),
        1 => (0..7i64).prop_map(Act::Scale),
        1 => (0..9usize).prop_map(Act::Fail),
        1 => (0..9usize).prop_map(Act::Delete),
        6 => (1..6usize).prop_map(Act::Looks),
        2 => (1..12usize).prop_map(Act::Kill),
        6 => (0..9usize).prop_map(Act::Machine),
    ]
}

/// What a Deployment allows at the moment.
struct Allowed {
    most: i64,
    least: i64,
}

fn allowed(deployment: &Value) -> Allowed {
    let replicas = number(deployment, "/spec/replicas");
    let rolling = &deployment["spec"]["strategy"]["rollingUpdate"];
    let missing = share(&rolling["maxUnavailable"], replicas, false);
    let surge = share(&rolling["maxSurge"], replicas, true);
    Allowed {
        most: replicas + surge,
        least: replicas - if surge == 0 && missing == 0 { 1 } else { missing },
    }
}

async fn machine(stage: &Stage, at: usize) {
    let mut pods = stage.list(PODS);
    pods.retain(|p| is_terminating(p) || (!is_ready(p) && crate::controllers::shared::is_active(p)));
    let Some(pod) = pods.get(at % pods.len().max(1)) else {
        return;
    };
    if is_terminating(pod) {
        stage.gone(name(pod)).await;
    } else {
        stage.ready(name(pod), 0).await;
    }
}

async fn play(surge: Value, missing: Value, seed: u64, acts: Vec<Act>) {
    let mut stage = stage().await;
    stage.seed(seed);
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": missing}});
    stage.create(web(4, json!({"strategy": strategy}))).await;
    stage.settle().await;
    // What somebody did to pods or to the size is not the rollout's fault: the bounds give way by that much until all is at rest.
    let mut most = allowed(&stage.get(DEPLOYMENTS, "web")).most;
    let mut least = allowed(&stage.get(DEPLOYMENTS, "web")).least;
    for act in acts {
        match act {
            Act::Image(n) => set_image(&stage, &format!("press:{n}")).await,
            Act::Scale(to) => {
                stage
                    .change(DEPLOYMENTS, "web", |d| d["spec"]["replicas"] = to.into())
                    .await;
                let new = allowed(&stage.get(DEPLOYMENTS, "web"));
                most = most.max(new.most);
                least = least.min(new.least);
            }
            Act::Fail(at) | Act::Delete(at) => {
                let pods = stage.pods();
                let Some(pod) = pods.get(at) else { continue };
                match act {
                    Act::Fail(_) => stage.ended(name(pod), "Failed").await,
                    _ => stage.delete(PODS, name(pod)).await,
                }
                least -= i64::from(is_ready(pod));
            }
            Act::Looks(count) => {
                for _ in 0..count {
                    if !stage.step().await {
                        // At rest: what was done to it is made good as far as the machine has brought pods up.
                        let pods = stage.list(PODS);
                        if pods.iter().all(is_ready) {
                            let now = allowed(&stage.get(DEPLOYMENTS, "web"));
                            (most, least) = (now.most, now.least);
                        }
                        let there = i64::try_from(stage.pods().len()).unwrap();
                        assert!(there <= most, "{there} pods, {most} at most: {:?}", sizes(&stage));
                        break;
                    }
                    check(&stage, most, least);
                }
            }
            Act::Kill(steps) => stage.kill(steps).await,
            Act::Machine(at) => machine(&stage, at).await,
        }
        check(&stage, most, least);
    }
    stage.settle().await;
    let deployment = stage.get(DEPLOYMENTS, "web");
    let wanted = number(&deployment, "/spec/replicas");
    let pods = stage.pods();
    assert_eq!(i64::try_from(pods.len()).unwrap(), wanted);
    let image = &deployment["spec"]["template"]["spec"]["containers"][0]["image"];
    for pod in &pods {
        assert_eq!(&pod["spec"]["containers"][0]["image"], image);
    }
    assert_eq!(number(&deployment, "/status/availableReplicas"), wanted);
    assert_eq!(number(&deployment, "/status/updatedReplicas"), wanted);
    assert_eq!(number(&deployment, "/status/unavailableReplicas"), 0);
    assert_eq!(
        deployment["status"]["observedGeneration"],
        deployment["metadata"]["generation"]
    );
    assert!(says(&stage, "Progressing").starts_with("True/NewReplicaSetAvailable"));
}

fn check(stage: &Stage, most: i64, least: i64) {
    let now = daemon::clock::wall_ms();
    let pods = stage.pods();
    let available = pods.iter().filter(|p| is_available(p, 0, now)).count();
    let available = i64::try_from(available).unwrap();
    let sizes = sizes(stage);
    assert!(available >= least, "{available} available, {least} at least: {sizes:?}");
    // Of what the sets are to have: one that shrinks may be slower than one that grows.
    assert!(
        sizes.iter().map(|(_, size)| size).sum::<i64>() <= most,
        "{most} at most: {sizes:?}"
    );
}

fn bound() -> impl Strategy<Value = Value> {
    prop_oneof![
        (0..3i64).prop_map(Value::from),
        Just("25%".into()),
        Just("50%".into()),
        Just("100%".into())
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_sequence_comes_to_rest_within_bounds(
        surge in bound(),
        missing in bound(),
        seed in any::<u64>(),
        acts in prop::collection::vec(act(), 1..40),
    ) {
        let nothing = |bound: &Value| bound == &json!(0);
        prop_assume!(!(nothing(&surge) && nothing(&missing)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play(surge, missing, seed, acts));
    }
}
