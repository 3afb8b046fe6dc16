//! Karmada's kinds and what they mean: which clusters a policy chooses, how many replicas each gets, what a cluster's own values are,
//! what a member keeps of an object that is applied to it, and what it says of the object's state.
//!
//! Pure: JSON in, JSON or decisions out. No clock, no task, no store; the same input gives the same bytes on every machine. The gateway
//! uses it to apply Works, the hub to write them where no Karmada stands above it.

pub mod compat;
pub mod crds;
pub mod interpret;
pub mod kinds;
pub mod names;
pub mod overrides;
pub mod schedule;
pub mod site;
