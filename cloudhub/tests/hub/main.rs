//! Whole hubs in this process, gateways made of the link and the session and nothing else, and people with a Kubernetes client.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod gateway;
mod world;

mod access;
mod joining;
mod journeys;
mod propagation;
mod proxy;
mod reports;
mod restart;
mod site_proxy;
mod sites;
