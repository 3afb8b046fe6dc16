//! What Karmada knows of the kinds of Kubernetes: what of an object travels, what a member keeps of its own, what a member says of the
//! object's state, and what all members' words add up to.
//!
//! Functions on JSON, called by the gateway (prune, retain, reflect, health) and the hub (all of them). They never fail: what an object has in
//! a shape that its kind does not know is passed over, and a kind without a rule gets the one for kinds that nobody knows. The rules go by
//! group, version and kind together, so that somebody's own kind named `Service` is not taken for the core's; only [`prune()`] does not ask whose
//! a kind is.
//!
//! No clock: where a summary carries a time, it is the latest one that a member gave.

mod aggregate;
pub(crate) mod counts;
mod dependencies;
mod health;
pub(crate) mod kind;
pub(crate) mod look;
mod prune;
mod quantity;
mod reflect;
mod replicas;
mod resources;
mod retain;
#[cfg(test)]
mod tests;

pub use aggregate::{Item, aggregate};
pub use dependencies::{ObjectRef, dependencies};
pub use health::{Health, health};
pub use prune::prune;
pub use reflect::reflect;
pub use replicas::{Replicas, replicas, set_replicas};
pub use resources::{Resources, add_resources, written_resources};
pub use retain::retain;
