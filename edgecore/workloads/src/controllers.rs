//! The controllers of a cluster of one: each brings what the store says towards what one kind of object asks for.
//!
//! A controller is a function of the store at one moment ([`Controller::reconcile`]): it keeps nothing that it could not work out again, so a lost,
//! late or doubled change costs a look and no more. It reads what was committed before it looked, so it needs no expectations about its own
//! writes. What it owns it finds by the controller's uid in `ownerReferences`.

#[cfg(test)]
mod bench;
mod deployment;
mod disruption;
mod endpoints;
mod look;
mod queue;
mod replica_set;
mod run;
mod scheduler;
mod shared;
#[cfg(test)]
mod testing;

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::events::Recorder;
use crate::settings::Settings;

<<<<<<< ours
pub(crate) use look::{WallClock, wall_clock};
=======
>>>>>>> theirs
pub(crate) use run::{Change, Controller, Reconciled, run};

/// All controllers of a gateway of this name, to be [`run`].
pub(crate) fn all(cluster: Cluster, events: Recorder, node: &str, _settings: &Settings) -> Vec<Arc<dyn Controller>> {
    // Each writes and tells in its own name.
<<<<<<< ours
    let cluster = |name: &str| Cluster::new(cluster.api().clone(), name);
    let make = |name: &str, controller: fn(Cluster, Recorder) -> Arc<dyn Controller>| {
        controller(cluster(name), events.of(name))
    };
    vec![
        make("deployment-controller", deployment::deployment),
        make("replicaset-controller", replica_set::replica_set),
        disruption::disruption(cluster("disruption-controller"), &events, wall_clock()),
        endpoints::endpoints(cluster("endpoint-controller")),
        scheduler::scheduler(cluster("default-scheduler"), &events.of("default-scheduler"), node),
=======
    let of = |name: &str| (Cluster::new(cluster.api().clone(), name), events.of(name));
    let (api, told) = of("replicaset-controller");
    let (scheduling, placed) = of("default-scheduler");
    let (slicing, _) = of("endpointslice-controller");
    let (counting, counted) = of("controllermanager");
    vec![
        replica_set::replica_set(api, told),
        scheduler::scheduler(scheduling, &placed, node),
        endpoints::endpoints(slicing),
        disruption::disruption(counting, counted, look::wall_clock()),
>>>>>>> theirs
    ]
}
