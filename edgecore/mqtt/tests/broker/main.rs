//! The broker from outside: raw bytes, real client libraries, mosquitto's programs.

#![allow(clippy::unwrap_used)]

mod clients;
mod durability;
mod features;
mod fuzz;
mod hostile;
mod mosquitto;
mod support;
