//! What both daemons need and neither should write twice: one clock, configuration loading, telemetry, readiness, an orderly
//! stop, a new start after damage, reconnect back-off, exit codes, the health listener, the TLS provider and what the C library is told.
//!
//! Nothing in here knows what a gateway, a hub, a device or an object is.

pub mod backoff;
pub mod clock;
pub mod config;
pub mod descriptors;
pub mod drain;
pub mod exit;
pub mod health;
pub mod heap;
pub mod lives;
pub mod names;
pub mod ready;
pub mod signal;
pub mod telemetry;
pub mod tls;
