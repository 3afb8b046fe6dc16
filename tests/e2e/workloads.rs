//! Containers on a gateway: real agents, a real containerd on a machine of its own, busybox in the containers.

mod deploy;
mod files;
mod images;
mod jobs;
mod local;
mod network;
mod node;
mod pods;
mod pressure;
mod reach;
mod runtime;
mod survival;
