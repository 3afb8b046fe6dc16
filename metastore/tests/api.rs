//! The API in process over a real store in a temporary folder.

#![allow(clippy::unwrap_used)]

#[path = "api/support.rs"]
mod support;

#[path = "api/access.rs"]
mod access;
#[path = "api/apply.rs"]
mod apply;
#[path = "api/definitions.rs"]
mod definitions;
#[path = "api/garbage.rs"]
mod garbage;
#[path = "api/hostile.rs"]
mod hostile;
#[path = "api/internal.rs"]
mod internal;
#[path = "api/lifecycle.rs"]
mod lifecycle;
#[path = "api/listen.rs"]
mod listen;
#[path = "api/objects.rs"]
mod objects;
#[path = "api/runs_as.rs"]
mod runs_as;
#[path = "api/services.rs"]
mod services;
#[path = "api/watches.rs"]
mod watches;
#[path = "api/workloads.rs"]
mod workloads;
