//! Sessions in pairs and fleets on virtual links, with a stepped clock: no sockets, no sleeps. And the wire's bytes.

#![allow(clippy::unwrap_used)]

mod arbitrary;
mod cases;
mod fleet;
mod golden;
mod hostile;
mod journal;
mod world;
