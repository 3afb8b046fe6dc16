//! A client of the container runtime on this machine: CRI v1 over gRPC on its unix socket.
//!
//! Owns the connection (made when first needed, and again after the runtime was restarted), a deadline for every call, and what the runtime's
//! refusals mean ([`CriError`]). Never knows a Pod: it speaks of sandboxes, containers and images, in the interface's own messages ([`v1`]).
//! Called by the agent's workloads. With the feature `fake`, `fake` is a runtime in the same process that does what a script says.

mod channel;
mod error;
mod events;
#[cfg(feature = "fake")]
pub mod fake;
mod runtime;
mod shown;
#[allow(
    clippy::all,
    clippy::allow_attributes,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    reason = "generated"
)]
pub mod v1 {
    //! The interface's messages and services.
    tonic::include_proto!("runtime.v1");
}

#[allow(
    clippy::all,
    clippy::allow_attributes,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    reason = "generated"
)]
mod containerd {
    tonic::include_proto!("containerd.services.events.v1");
}

pub use error::{CriError, Why};
pub use events::{Events, Happened};
pub use runtime::Runtime;
