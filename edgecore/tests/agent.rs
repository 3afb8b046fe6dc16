//! Whole agents in this process: a stranger's MQTT client and the local API on one side, a simulated hub on the other.

// Helpers of tests are tests: what fails here fails the test.
#![allow(clippy::unwrap_used)]

#[path = "agent/again.rs"]
mod again;
#[path = "agent/devices.rs"]
mod devices;
#[path = "agent/external.rs"]
mod external;
#[path = "agent/harness.rs"]
mod harness;
#[path = "agent/hub.rs"]
mod hub;
#[path = "agent/link.rs"]
mod link_tests;
#[path = "agent/works.rs"]
mod works;
