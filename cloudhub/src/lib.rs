//! The hub: enrols gateways, keeps what each of them should hold, shows what each of them said, and lets people in.
//!
//! [`Config`] is read, [`Bound`] has store and sockets, [`Hub`] runs; whole hubs run in one process with ports of their own.
//!
//! Inside, data flows one way round: `upstream` watches the Kubernetes API above (in embedded mode the one in `embedded`) and
//! keeps the index of desired sets; `fleet` has a session per connected gateway, served from that index; what gateways report
//! goes back through `upstream`'s one writer. `enroll` decides who may connect; `gateway` is the people's port. Nothing here
//! touches SQLite, sockets of the link, or the wire: those are `metastore`, `link` and `proto`.

mod app;
mod config;
mod embedded;
mod enroll;
mod fleet;
mod gateway;
mod metrics;
mod rules;
mod upstream;

pub use app::{Addresses, Bound, Hub};
pub use config::{Config, DEFAULT_FILE, Flags, Mode, Span, Upstream};
pub use embedded::EmbeddedError;
