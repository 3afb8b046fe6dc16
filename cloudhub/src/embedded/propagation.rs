//! What a Karmada control plane does, done by the hub for its gateways where no Karmada stands above it: policies claim templates, bindings
//! say which clusters get what, Works carry it, and what gateways report is summed up again.
//!
//! [`follow`] keeps one picture of what is where, from the changes of the store; each controller has a desk with keys that want a look, and
//! looks at one after another. A look is a function of the store at that moment: a lost, late or doubled change costs another look and no
//! more. Nothing here knows of connections; `upstream` takes Works to gateways and brings back what they say, as it does under a Karmada.
//!
//! ```text
//! template + policy --detector--> binding --scheduler--> its clusters --works--> a Work for each
//!                                    ^                                              | upstream, gateway
//!     template's status <--status-- binding's aggregatedStatus <---------------- the Work's status
//! ```

mod clusters;
mod dependencies;
mod detector;
mod federated;
mod follow;
mod hand;
mod kinds;
mod picture;
mod queue;
mod scheduler;
mod status;
mod works;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use daemon::drain::Drain;
use metastore::api::{ApiServer, Status};
use tokio::time::Instant;

use self::follow::Shared;
use self::hand::Hand;
use self::queue::Desk;

/// When to look at a key again without a change; `None`: not.
type Looked = Result<Option<Duration>, Status>;

/// Brings the store towards what one kind of object asks for.
trait Controller: Send + Sync + 'static {
    type Key: Ord + Clone + Debug + Send + Sync;
    /// As it is called in logs.
    const NAME: &'static str;
    /// How many keys are looked at at a time: some, so that the store can take several writes in one turn.
    const LOOKERS: usize = 4;
    /// After a look a key rests for so many times as long as that took. What takes longer the more there is of it gets no more than its
    /// share of the machine, and what comes meanwhile is one look.
    const RESTS: u32 = 0;

    fn desk(&self) -> &Desk<Self::Key>;

    /// One look, for a key whose object may be gone already. Safe to be dropped at any await.
    fn look(&self, key: &Self::Key) -> impl Future<Output = Looked> + Send;
}

/// Looks at one key after another until the drain begins.
async fn run<C: Controller>(controller: Arc<C>, drain: Drain) {
    let desk = controller.desk();
    loop {
        let looked = async {
            let key = desk.next().await;
            let begun = Instant::now();
            let looked = controller.look(&key).await;
            (key, looked, begun.elapsed())
        };
        let (key, looked, took) = tokio::select! {
            biased;
            () = drain.stopping() => return,
            looked = looked => looked,
        };
        match looked {
            Ok(again) => desk.done(key, again, took.saturating_mul(C::RESTS)),
            Err(e) => {
                tracing::debug!(controller = C::NAME, ?key, error = %e, "A look failed; it is tried again.");
                desk.failed(key);
            }
        }
    }
}

fn spawn<C: Controller>(controller: C, drain: &Drain) {
    let controller = Arc::new(controller);
    for _ in 0..C::LOOKERS {
        drop(drain.spawn(run(Arc::clone(&controller), drain.clone())));
    }
}

/// Starts all of it.
///
/// # Errors
/// A store that cannot be read.
pub(crate) fn start(api: &ApiServer, drain: &Drain) -> Result<(), Status> {
    let shared = Arc::new(Shared::default());
    let hand = |name: &str| Hand::new(api.clone(), name);
    let follower = hand("propagation");
    let tap = follow::tap(&follower);
    shared.look_at_all(&follower)?;
    let of = || Arc::clone(&shared);
    drop(drain.spawn(follow::follow(of(), follower, tap, drain.clone())));
    spawn(clusters::Clusters::new(of(), hand("cluster-controller")), drain);
    spawn(detector::Detector::new(of(), hand("detector")), drain);
    spawn(scheduler::Scheduler::new(of(), hand("propagation-scheduler")), drain);
    spawn(works::Works::new(of(), hand("binding-controller")), drain);
    spawn(status::Statuses::new(of(), hand("binding-status-controller")), drain);
    spawn(
        dependencies::Dependencies::new(of(), hand("dependencies-distributor")),
        drain,
    );
    spawn(federated::Federated::new(of(), hand("federated-deployment")), drain);
    Ok(())
}
