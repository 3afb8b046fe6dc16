//! End to end, one binary: real daemons, strangers' clients (kubectl, mosquitto), a cable that can be cut. One module a subject.

// A test says what is wrong by stopping there.
#![allow(clippy::unwrap_used)]

mod access;
mod autonomy;
mod clients;
mod commands;
mod conformance;
mod demo;
mod disk;
mod federation;
mod hostile;
mod hub_disk;
mod joining;
mod kills;
mod kubectl;
mod spine;
mod workloads;
