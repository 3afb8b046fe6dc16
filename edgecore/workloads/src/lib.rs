//! Containers on the gateway: a cluster of one.
//!
//! - `controllers`: Deployment, ReplicaSet, StatefulSet, DaemonSet, Job, CronJob, EndpointSlice … to Pods, from the local store, with or without a hub.
//! - `pods`: Pods to sandboxes and containers on the runtime, and what became of them back into their status.
//! - `setup`: what a Pod asks for in the runtime's words: environment, mounts, security, resources.
//! - `volumes`: files that containers see: made, kept up to date, taken away.
//! - `images`: pulled, counted, collected.
//! - `network`: the pod network's configuration, Services and names.
//! - `machine`: what the Node says about the machine; pressure, eviction, usage.
//! - `reach`: logs, exec, attach, port-forward, metrics: the way from a request to a running program.
//!
//! Everything is worked out from the store (`metastore`) and the runtime (`cri`): this crate keeps no truth of its own, so the agent may be killed at
//! any moment and containers do not notice. Never knows a device, a hub or a link.

mod cluster;
mod controllers;
mod events;
mod images;
mod machine;
mod network;
mod pod;
mod pods;
mod reach;
mod settings;
mod setup;
mod supply;
mod time;
mod volumes;
mod workloads;

pub use machine::{Condition, Eviction, Machine, MachineOptions, Report, Reserved};
pub use network::{Cidr, CidrError, ClusterAddresses, FUZZ_TARGETS, FuzzTarget};
pub use settings::{CgroupDriver, Services, Settings};
pub use workloads::{Options, Workloads};
