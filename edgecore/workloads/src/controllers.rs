//! The controllers of a cluster of one: each brings what the store says towards what one kind of object asks for.
//!
//! A controller is a function of the store at one moment ([`Controller::reconcile`]): it keeps nothing that it could not work out again, so a lost,
//! late or doubled change costs a look and no more. It reads what was committed before it looked, so it needs no expectations about its own
//! writes. What it owns it finds by the controller's uid in `ownerReferences`.

#[cfg(test)]
mod bench;
mod cron_job;
mod daemon_set;
mod deployment;
mod disruption;
mod endpoints;
mod job;
mod look;
mod pod_gc;
mod queue;
#[cfg(test)]
mod recorded;
mod replica_set;
mod revisions;
mod run;
mod schedule;
mod scheduler;
mod shared;
mod stateful_set;
#[cfg(test)]
mod testing;
mod ttl;

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::events::Recorder;

pub(crate) use run::{Change, Controller, Reconciled, run};
pub(crate) use scheduler::turns_away;

/// All controllers of a gateway of this name, to be [`run()`].
pub(crate) fn all(cluster: Cluster, events: Recorder, node: &str) -> Vec<Arc<dyn Controller>> {
    // Each writes and tells in its own name.
    let own = |name: &str| (Cluster::new(cluster.api().clone(), name), events.of(name));
    let make = |name: &str, controller: fn(Cluster, Recorder) -> Arc<dyn Controller>| {
        let (cluster, events) = own(name);
        controller(cluster, events)
    };
    let (counting, counted) = own("controllermanager");
    let (slicing, _) = own("endpointslice-controller");
    let (scheduling, placed) = own(scheduler::NAME);
    let (working, worked) = own("job-controller");
    let (timing, timed) = own("cronjob-controller");
    vec![
        make("daemonset-controller", daemon_set::daemon_set),
        make("deployment-controller", deployment::deployment),
        make("replicaset-controller", replica_set::replica_set),
        make("statefulset-controller", stateful_set::stateful_set),
        disruption::disruption(counting, counted, look::wall_clock()),
        endpoints::endpoints(slicing),
        cron_job::cron_job(timing, timed, look::wall_clock()),
        job::job(working, worked, look::wall_clock()),
        pod_gc::pod_gc(own("pod-garbage-collector").0, node),
        scheduler::scheduler(scheduling, placed, node),
        ttl::ttl_after_finished(own("ttl-after-finished-controller").0, look::wall_clock()),
    ]
}
