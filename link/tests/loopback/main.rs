//! Both ends of the link over real sockets on the loopback.

#![allow(clippy::unwrap_used)] // helpers of tests are not inside a test function

mod access;
mod crowd;
mod harness;
mod joining;
mod restart;
mod sessions;
mod transports;
mod tunnels;
mod weather;
