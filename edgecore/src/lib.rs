//! The gateway's daemon as a library: a whole agent runs in a process that asks for it, with its ports in [`Addresses`].
//!
//! - `twin`: the twins of this gateway's devices; every report durable before it is acknowledged.
//! - `bus`: devices' MQTT, embedded broker or somebody else's.
//! - `meta`: the local Kubernetes API, with or without a hub.
//! - `works`: the objects that Karmada's Works bring, applied to the local API and kept as they are wanted, with or without a hub.
//! - `uplink`: the link to the hub: its set mirrored here, what was observed mirrored there, journals, rotation, tunnel.
//! - `conflicts`: the log of desired values that a merge dropped.
//! - `app`: starts and stops them in order.
//!
//! The store (`metastore`) is the only state. Everything else here is derived from it or on its way into it.

mod app;
mod bus;
mod config;
mod conflicts;
mod meta;
mod metrics;
mod objects;
mod stamps;
mod twin;
mod uplink;
mod works;

pub use app::{Addresses, Agent, AgentError, run, runtime};
pub use bus::BusError;
pub use config::{CONFIG_DIR, Config, ConfigFault, DATA_DIR, Journal, Mqtt, MqttMode};
