//! The objects that Karmada's Works bring: what Karmada's execution and work-status controllers do, at the gateway itself.
//!
//! ```text
//!   hub's set --mirror--> Work in the store --task--> objects of the local API --task--> Work's status --observed--> hub
//!                                             ledger
//! ```
//!
//! *Owns* the status of the local Work objects and the bucket of their ledger. *Never* asks the hub: everything it does it does by the Works
//! that are stored here, so that it repairs and reports while the cable is cut. It looks at a Work when the Work changed, when an object
//! that it brought changed or went, when a kind appeared that it waits for, and after a pause when something of it failed.
//!
//! Objects of a Work that is gone, or that a Work does not list any more, are found by the ledger, which is written before the first of
//! them is. No object is kept in memory: of each it is known where it is, and by hashes what was asked for and what became of it.

mod cluster;
mod kinds;
mod ledger;
mod manifest;
mod member;
mod objects;
mod state;
mod task;
#[cfg(test)]
mod tests;

pub(crate) use cluster::{Report, Reporter, cluster_key};
pub(crate) use manifest::check;
pub(crate) use state::{keep_status, report};
pub(crate) use task::run;
