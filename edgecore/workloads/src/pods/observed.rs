//! What the runtime has of one pod, in the words that decisions are made in. Pure: filled from the runtime's messages, asked by the planner.

use std::cmp::Reverse;

use cri::v1;

use super::labels;

/// Milliseconds since 1970 of the runtime's nanoseconds.
pub(crate) fn millis(nanos: i64) -> u64 {
    u64::try_from(nanos / 1_000_000).unwrap_or(0)
}

/// Sandboxes and containers of one pod, each newest first: by attempt, since a clock can be set back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    pub(crate) sandboxes: Vec<Sandbox>,
    pub(crate) containers: Vec<Seen>,
}

/// A sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) attempt: u32,
    pub(crate) ready: bool,
    /// Nanoseconds since 1970.
    pub(crate) created: i64,
    /// Its addresses, the main one first. None yet when only the list told of it.
    pub(crate) ips: Vec<String>,
}

/// How a container is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    Created,
    Running,
    Exited,
    /// The runtime lost track of it.
    #[default]
    Unknown,
}

impl State {
    pub(crate) fn of(state: i32) -> Self {
        match v1::ContainerState::try_from(state) {
            Ok(v1::ContainerState::ContainerCreated) => Self::Created,
            Ok(v1::ContainerState::ContainerRunning) => Self::Running,
            Ok(v1::ContainerState::ContainerExited) => Self::Exited,
            _ => Self::Unknown,
        }
    }
}

/// A container, in one of its attempts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) id: String,
    pub(crate) name: String,
    /// How often it had been started before.
    pub(crate) attempt: u32,
    pub(crate) sandbox: String,
    pub(crate) state: State,
    /// Nanoseconds since 1970, as the next two.
    pub(crate) created: i64,
    pub(crate) started: i64,
    pub(crate) finished: i64,
    pub(crate) exit_code: i32,
    pub(crate) reason: String,
    pub(crate) message: String,
    /// As it was asked for.
    pub(crate) image: String,
    /// What it runs, by digest where there is one.
    pub(crate) image_id: String,
    pub(crate) log_path: String,
    /// User, group and further groups of its first process, where the runtime says.
    pub(crate) user: Option<(i64, i64, Vec<i64>)>,
    /// Of what it was made from; empty when it does not say.
    pub(crate) hash: String,
}

impl Seen {
    /// Whether something of it may still run.
    pub(crate) const fn may_run(&self) -> bool {
        matches!(self.state, State::Running | State::Unknown)
    }

    /// Whether it ended well.
    pub(crate) const fn succeeded(&self) -> bool {
        matches!(self.state, State::Exited) && self.exit_code == 0
    }

    /// How long it ran, in milliseconds.
    pub(crate) fn ran(&self) -> u64 {
        millis(self.finished).saturating_sub(millis(self.started.max(self.created)))
    }

    /// As the runtime's full answer tells it.
    pub(crate) fn of(status: v1::ContainerStatus, sandbox: &str) -> Self {
        let hash = status.annotations.get(labels::HASH).cloned().unwrap_or_default();
        let metadata = status.metadata.unwrap_or_default();
        let image = status.image.unwrap_or_default();
        let user = status.user.and_then(|u| u.linux);
        // Whoever asked for the start went away in the middle of it, as an agent does that is killed: nothing ran, and nothing is the
        // container's fault. containerd writes that down as an end with its own code.
        let gave_up = State::of(status.state) == State::Exited
            && status.started_at == 0
            && status.reason == "StartError"
            && status.message.contains("context canceled");
        Self {
            id: status.id,
            name: metadata.name,
            attempt: metadata.attempt,
            sandbox: sandbox.to_owned(),
            state: if gave_up {
                State::Created
            } else {
                State::of(status.state)
            },
            created: status.created_at,
            started: status.started_at,
            finished: status.finished_at,
            exit_code: status.exit_code,
            reason: status.reason,
            message: status.message,
            image: if image.user_specified_image.is_empty() {
                image.image
            } else {
                image.user_specified_image
            },
            image_id: status.image_ref,
            log_path: status.log_path,
            user: user.map(|u| (u.uid, u.gid, u.supplemental_groups)),
            hash,
        }
    }
}

impl Observed {
    /// Puts a container in its place, instead of what was known of it.
    pub(crate) fn put(&mut self, seen: Seen) {
        self.containers.retain(|c| c.id != seen.id);
        self.containers.push(seen);
        self.containers.sort_by_key(|c| Reverse((c.attempt, c.created)));
    }

    /// Puts a sandbox in its place, instead of what was known of it.
    pub(crate) fn put_sandbox(&mut self, sandbox: Sandbox) {
        self.sandboxes.retain(|s| s.id != sandbox.id);
        self.sandboxes.push(sandbox);
        self.sandboxes.sort_by_key(|s| Reverse((s.attempt, s.created)));
    }

    /// The newest attempt of a container.
    pub(crate) fn latest(&self, name: &str) -> Option<&Seen> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The newest attempt of a container in one sandbox.
    pub(crate) fn latest_in(&self, name: &str, sandbox: &str) -> Option<&Seen> {
        self.containers.iter().find(|c| c.name == name && c.sandbox == sandbox)
    }

    /// The sandbox that containers are started in: the newest, when it is ready.
    pub(crate) fn current(&self) -> Option<&Sandbox> {
        self.sandboxes.first().filter(|s| s.ready)
    }

    /// A container by id.
    pub(crate) fn container(&self, id: &str) -> Option<&Seen> {
        self.containers.iter().find(|c| c.id == id)
    }

    /// Whether the runtime has nothing of the pod.
    pub(crate) fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.containers.is_empty()
    }
}

impl Sandbox {
    /// As the runtime's full answer tells it.
    pub(crate) fn of(status: v1::PodSandboxStatus) -> Self {
        let network = status.network.unwrap_or_default();
        let more = network.additional_ips.into_iter().map(|ip| ip.ip);
        Self {
            id: status.id,
            attempt: status.metadata.map_or(0, |m| m.attempt),
            ready: status.state == v1::PodSandboxState::SandboxReady as i32,
            created: status.created_at,
            ips: std::iter::once(network.ip)
                .chain(more)
                .filter(|ip| !ip.is_empty())
                .collect(),
        }
    }
}
