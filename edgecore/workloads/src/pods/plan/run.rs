//! The plan of a pod that is to run.

use super::super::memory::Memory;
use super::super::observed::{Observed, Sandbox, Seen, State, millis};
use super::{
    Action, Goal, Look, MAX_GRACE, MIN_GRACE, Past, Plan, deadline, has_started, is_other, next_attempt, resources_of,
    restarts, status_of,
};
use crate::pod::{Container, ResizePolicy};

/// Whether nothing in the pod will run again: every main container ended for good, or an init container did without success.
pub(super) fn is_over(look: Look<'_>) -> bool {
    let Look {
        pod, observed, memory, ..
    } = look;
    if !memory.busy.starts.is_empty() {
        return false;
    }
    if let Some(sandbox) = observed.sandboxes.first()
        && pod.spec.restart_policy == "Never"
        && !initialized(look, &sandbox.id)
    {
        let failed = |c: &&Container| {
            let ended = observed.latest_in(&c.name, &sandbox.id);
            !c.is_sidecar() && ended.is_some_and(|s| s.state == State::Exited && s.exit_code != 0)
        };
        if pod.spec.init_containers.iter().any(|c| failed(&c)) {
            return true;
        }
    }
    let over = |c: &Container| match Past::of(look, &c.name) {
        Past::None => false,
        Past::Seen(seen) => {
            seen.state == State::Exited && !is_other(c, seen) && !restarts(pod, Some(seen.exit_code.into()))
        }
        Past::Told(code) => !restarts(pod, code),
    };
    !pod.spec.containers.is_empty() && pod.spec.containers.iter().all(over)
}

/// Whether init containers are behind it in this sandbox: a main container was made in it.
fn initialized(look: Look<'_>, sandbox: &str) -> bool {
    let main = |c: &Container| look.observed.latest_in(&c.name, sandbox).is_some();
    look.pod.spec.containers.iter().any(main)
}

pub(super) fn plan(look: Look<'_>) -> Plan {
    let mut plan = Plan::new(Goal::Run);
    if let Some(at) = deadline(look.pod) {
        plan.wake(at);
    }
    let current = current(look);
    leftovers(look, current, &mut plan);
    match current {
        None => new_sandbox(look, &mut plan),
        Some(sandbox) => {
            let mut starts = Starts {
                look,
                sandbox,
                taken: !look.memory.busy.starts.is_empty(),
                plan: &mut plan,
            };
            starts.ephemeral();
            if starts.init() {
                starts.main();
            }
        }
    }
    records(look.observed, look.memory, current, &mut plan);
    plan
}

/// The sandbox to run in. One without an address (and not on the host's network) is of no use.
pub(super) fn current(look: Look<'_>) -> Option<&Sandbox> {
    let usable = |s: &&Sandbox| look.pod.spec.host_network || !s.ips.is_empty();
    let ours = |s: &&Sandbox| !look.memory.stopped.contains(&s.id) && !look.memory.busy.ids.contains(&s.id);
    look.observed.current().filter(usable).filter(ours)
}

/// How long after the next sandbox one that is no more is tidied away, in milliseconds.
const TIDIED: u64 = 5000;

/// Whether a sandbox in which nothing runs can be tidied away later: it is no more, and no port of the machine leads to it. After a power cut
/// that is every pod's, and the next one need not wait for it. When none can be made its address may be what is missing. Only the last one
/// waits: sandboxes that die one after another must not pile up.
fn can_wait(look: Look<'_>, sandbox: &Sandbox) -> bool {
    let last = look.observed.sandboxes.iter().find(|s| !s.ready);
    last.is_some_and(|s| s.id == sandbox.id) && look.memory.sandbox_refused.is_none() && !look.pod.has_host_ports()
}

/// What is left of earlier sandboxes ends: containers with their grace, then the sandbox with its network.
fn leftovers(look: Look<'_>, current: Option<&Sandbox>, plan: &mut Plan) {
    let id = current.map_or("", |s| s.id.as_str());
    let grace = look.pod.spec.termination_grace_period_seconds;
    for seen in look
        .observed
        .containers
        .iter()
        .filter(|c| c.sandbox != id && c.may_run())
    {
        let message = format!("Stopping container {}", seen.name);
        stop(look, seen, message, grace, plan);
    }
    for sandbox in look.observed.sandboxes.iter().filter(|s| s.id != id) {
        let inhabited = |c: &Seen| c.sandbox == sandbox.id && c.may_run();
        let done = look.memory.stopped.contains(&sandbox.id) && !sandbox.ready;
        let busy = look.memory.busy.ids.contains(&sandbox.id);
        if done || busy || look.observed.containers.iter().any(inhabited) {
            continue;
        }
        if can_wait(look, sandbox) {
            let Some(next) = current else { continue };
            // What starts in it has the machine to itself. A clock that was set back puts nothing off.
            let since = millis(next.created);
            let until = since.saturating_add(TIDIED);
            if (since..until).contains(&look.now) {
                plan.wake(until);
                continue;
            }
        }
        plan.actions.push(Action::StopSandbox { id: sandbox.id.clone() });
    }
}

fn new_sandbox(look: Look<'_>, plan: &mut Plan) {
    let Look {
        observed, memory, now, ..
    } = look;
    if memory.busy.sandbox || !memory.busy.starts.is_empty() {
        return;
    }
    let gone = |s: &Sandbox| !s.ready && memory.stopped.contains(&s.id);
    let waits = |s: &Sandbox| memory.busy.ids.contains(&s.id) || !(gone(s) || can_wait(look, s));
    if observed.sandboxes.iter().any(waits) || observed.containers.iter().any(Seen::may_run) {
        return;
    }
    if let Some(refused) = memory.sandbox_refused.as_ref().filter(|r| r.waits(now)) {
        plan.wake(refused.retry_at);
        return;
    }
    let attempts = observed.sandboxes.iter().map(|s| s.attempt.saturating_add(1));
    plan.actions.push(Action::RunSandbox {
        attempt: attempts.max().unwrap_or(0),
    });
}

/// Records that nobody needs any more: of each container only the last end is kept, of sandboxes only those with such a record.
fn records(observed: &Observed, memory: &Memory, current: Option<&Sandbox>, plan: &mut Plan) {
    let busy = &memory.busy.ids;
    for (at, seen) in observed.containers.iter().enumerate() {
        let newer = |c: &Seen| c.name == seen.name && c.state == State::Exited;
        let again = observed.containers[..at].iter().any(newer);
        if seen.state == State::Exited && again && !busy.contains(&seen.id) {
            plan.actions.push(Action::RemoveContainer { id: seen.id.clone() });
        }
    }
    let id = current.map_or("", |s| s.id.as_str());
    // The newest stays until there is another: it carries the number of attempts.
    for sandbox in observed.sandboxes.iter().skip(1).filter(|s| s.id != id && !s.ready) {
        let inhabited = observed.containers.iter().any(|c| c.sandbox == sandbox.id);
        if !inhabited && memory.stopped.contains(&sandbox.id) && !busy.contains(&sandbox.id) {
            plan.actions.push(Action::RemoveSandbox { id: sandbox.id.clone() });
        }
    }
}

/// `grace`: seconds.
fn stop(look: Look<'_>, seen: &Seen, message: String, grace: Option<i64>, plan: &mut Plan) {
    if look.memory.busy.ids.contains(&seen.id) {
        return;
    }
    let grace = u64::try_from(grace.unwrap_or(30))
        .unwrap_or(0)
        .clamp(MIN_GRACE, MAX_GRACE);
    plan.actions.push(Action::Stop {
        id: seen.id.clone(),
        name: seen.name.clone(),
        deadline: look.now.saturating_add(grace.saturating_mul(1000)),
        message,
    });
}

/// Which containers are started or restarted.
struct Starts<'a, 'p> {
    look: Look<'a>,
    sandbox: &'a Sandbox,
    plan: &'p mut Plan,
    /// One is being started already, or planned.
    taken: bool,
}

impl Starts<'_, '_> {
    /// Never restarted, and nothing waits for them.
    fn ephemeral(&mut self) {
        for container in &self.look.pod.spec.ephemeral_containers {
            if matches!(Past::of(self.look, &container.name), Past::None) {
                self.start(container, None);
            }
        }
    }

    /// Whether the main containers may go on.
    fn init(&mut self) -> bool {
        let look = self.look;
        let initialized = initialized(look, &self.sandbox.id);
        for container in &look.pod.spec.init_containers {
            let seen = look.observed.latest_in(&container.name, &self.sandbox.id);
            let goes_on = if container.is_sidecar() {
                self.sidecar(container, seen)
            } else {
                initialized || self.regular(container, seen)
            };
            if !goes_on && !initialized {
                return false;
            }
        }
        true
    }

    /// Whether it ended well.
    fn regular(&mut self, container: &Container, seen: Option<&Seen>) -> bool {
        match seen {
            Some(seen) if seen.succeeded() => return true,
            Some(seen) if seen.state == State::Running => {}
            other => self.start(container, other),
        }
        false
    }

    /// Whether it has started.
    fn sidecar(&mut self, container: &Container, seen: Option<&Seen>) -> bool {
        match seen {
            Some(seen) if seen.state == State::Running => {
                self.probed(container, seen, "Init container");
                has_started(container, seen, self.look.memory)
            }
            other => {
                self.start(container, other);
                false
            }
        }
    }

    fn main(&mut self) {
        let look = self.look;
        for container in &look.pod.spec.containers {
            match Past::of(look, &container.name) {
                Past::Seen(seen) if seen.state == State::Running => {
                    if seen.sandbox == self.sandbox.id {
                        self.probed(container, seen, "Container");
                    }
                }
                Past::Seen(seen) if seen.state == State::Exited => {
                    // Whatever the policy, when the pod asks for another one by now.
                    if is_other(container, seen) || restarts(look.pod, Some(seen.exit_code.into())) {
                        self.start(container, Some(seen));
                    }
                }
                Past::Seen(seen) => self.start(container, Some(seen)),
                Past::Told(code) => {
                    if restarts(look.pod, code) {
                        self.start(container, None);
                    }
                }
                Past::None => self.start(container, None),
            }
        }
    }

    /// Stops a container that the pod wants otherwise by now, or whose probe says so; its end then starts it again.
    fn probed(&mut self, container: &Container, seen: &Seen, what: &str) {
        if is_other(container, seen) {
            let message = format!("{what} {} definition changed, will be restarted", container.name);
            let grace = self.look.pod.spec.termination_grace_period_seconds;
            return stop(self.look, seen, message, grace, self.plan);
        }
        let said = self.look.memory.said(&seen.id);
        let (probe, which) = if said.startup == Some(false) {
            (&container.startup_probe, "startup")
        } else if said.liveness == Some(false) {
            (&container.liveness_probe, "liveness")
        } else {
            return self.resized(container, seen);
        };
        let mut message = format!("{what} {} failed {which} probe", container.name);
        if !container.is_sidecar() && self.look.pod.spec.restart_policy != "Never" {
            message.push_str(", will be restarted");
        }
        let own = probe.as_ref().and_then(|p| p.termination_grace_period_seconds);
        let grace = own.or(self.look.pod.spec.termination_grace_period_seconds);
        stop(self.look, seen, message, grace, self.plan);
    }

    /// Brings a container to the resources that the pod says now: in place, or by another start where it asks for that.
    fn resized(&mut self, container: &Container, seen: &Seen) {
        let Look { pod, memory, .. } = self.look;
        let told = &status_of(pod, &container.name);
        let now = resources_of(container);
        let known =
            told["containerID"].as_str().is_some_and(|id| id.ends_with(&seen.id)) && told["resources"].is_object();
        let done = memory.resized.get(&seen.id) == Some(&crate::time::fingerprint(&now.to_string()));
        if !known || done || told["resources"] == now || memory.busy.ids.contains(&seen.id) {
            return;
        }
        let before = &told["resources"];
        let differs = |resource: &str| {
            ["limits", "requests"]
                .iter()
                .any(|list| before[list][resource] != now[list][resource])
        };
        let again = |p: &ResizePolicy| p.restart_policy == "RestartContainer" && differs(&p.resource_name);
        if container.resize_policy.iter().any(again) {
            let message = format!("Container {} resize requires restart", container.name);
            stop(
                self.look,
                seen,
                message,
                pod.spec.termination_grace_period_seconds,
                self.plan,
            );
        } else {
            self.plan.actions.push(Action::Resize {
                id: seen.id.clone(),
                name: container.name.clone(),
            });
        }
    }

    /// Starts a container when its time has come. `seen` is its last attempt.
    fn start(&mut self, container: &Container, seen: Option<&Seen>) {
        let Look { memory, now, .. } = self.look;
        let name = &container.name;
        if memory.busy.starts.contains(name) || seen.is_some_and(|s| memory.busy.ids.contains(&s.id)) {
            return;
        }
        match seen.map(|s| (s, s.state)) {
            None => {}
            Some((_, State::Running)) => return,
            // It was made and never started, or nobody knows what became of it: it goes, and the next is made in its place.
            Some((seen, State::Created | State::Unknown)) => {
                self.plan.actions.push(Action::RemoveContainer { id: seen.id.clone() });
                return;
            }
            Some((seen, State::Exited)) => {
                // What made it crash may be what was changed.
                let wait = if is_other(container, seen) {
                    0
                } else {
                    memory.wait_of(seen)
                };
                let due = millis(seen.finished).saturating_add(wait);
                // A clock that was set back must not make it wait longer than it would have.
                if now < due && due - now <= wait {
                    self.plan.backing_off.push((name.clone(), wait));
                    self.plan.wake(due);
                    return;
                }
            }
        }
        if let Some(refused) = memory.refused.get(name).filter(|r| r.waits(now)) {
            self.plan.wake(refused.retry_at);
            return;
        }
        if self.taken {
            return;
        }
        self.taken = true;
        self.plan.actions.push(Action::Start {
            name: name.clone(),
            attempt: next_attempt(self.look, name),
            sandbox: self.sandbox.id.clone(),
        });
    }
}
