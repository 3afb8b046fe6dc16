//! Containers on a gateway: real agents, a real containerd on a machine of its own, busybox in the containers.

mod node;
mod runtime;
