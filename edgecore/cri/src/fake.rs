//! A container runtime in the same process, for tests: CRI v1 on a real unix socket, with no process behind any container.
//!
//! It honours the whole interface and holds its callers to it (a sandbox is stopped before it is removed, a container starts once, names are
//! taken once), records every call, and does what a script says: delays, refusals, answers that are lost though the work was done, containers
//! that exit, vanish or ignore signals, its own stop and restart, the machine's reboot, events held back and let go in another order.
//! Time is tokio's, so that a paused clock is honoured; wall times start at [`EPOCH_NS`].

mod images;
mod runtime;
mod script;
mod serve;
mod world;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use script::{Act, Call, Rule};
pub use tonic::Code;
pub use world::{Behaviour, Cntr, ExecResult, Sbx};

use crate::v1;
use script::Script;
use world::World;

/// The wall time at which a fake starts, in nanoseconds since 1970: 2026-11-21T00:00:00Z.
pub const EPOCH_NS: i64 = 1_795_219_200_000_000_000;

/// Which events the runtime tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tells {
    /// None: it must be listed.
    Nothing,
    /// The interface's own.
    Cri,
    /// containerd's service.
    Containerd,
}

/// An event on its way to the listeners: container, what, whether memory ran out.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) kind: v1::ContainerEventType,
    pub(crate) oom: bool,
}

pub(crate) struct Shared {
    world: Mutex<World>,
    script: Mutex<Script>,
    events: broadcast::Sender<Event>,
    held: Mutex<Option<Vec<Event>>>,
    tells: Mutex<Tells>,
    lag: Mutex<Duration>,
    started: Instant,
}

/// The runtime. Its containers live as long as this value, whether it listens or not.
pub struct Fake {
    shared: Arc<Shared>,
    socket: PathBuf,
    listening: Mutex<Option<CancellationToken>>,
}

impl std::fmt::Debug for Fake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fake")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fake {
    /// A runtime that listens on `cri.sock` in this folder.
    ///
    /// # Panics
    /// When it cannot listen there.
    pub fn start(folder: &Path) -> Self {
        let fake = Self {
            shared: Arc::new(Shared {
                world: Mutex::new(World::default()),
                script: Mutex::new(Script::default()),
                events: broadcast::channel(1024).0,
                held: Mutex::new(None),
                tells: Mutex::new(Tells::Containerd),
                lag: Mutex::default(),
                started: Instant::now(),
            }),
            socket: folder.join("cri.sock"),
            listening: Mutex::new(None),
        };
        fake.up();
        fake
    }

    /// Path of its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A client of it.
    pub fn client(&self) -> crate::Runtime {
        crate::Runtime::new(&self.socket)
    }

    /// Listens again after [`Self::down`]. Its containers are as they were.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn up(&self) {
        let mut listening = lock(&self.listening);
        if listening.is_none() {
            let token = CancellationToken::new();
            serve::listen(&self.socket, Arc::clone(&self.shared), token.clone()).expect("the fake runtime listens");
            *listening = Some(token);
        }
    }

    /// Stops listening and breaks all connections. Containers go on, as they do without containerd.
    pub fn down(&self) {
        if let Some(token) = lock(&self.listening).take() {
            token.cancel();
        }
        // The path may be gone already.
        drop(std::fs::remove_file(&self.socket));
    }

    /// Everything dies and the records stay, as after a power cut: sandboxes not ready, containers ended with 255.
    pub fn reboot(&self) {
        let now = self.shared.now_ns();
        lock(&self.shared.world).die(now);
    }

    /// Everything dies and nothing is remembered.
    pub fn wipe(&self) {
        lock(&self.shared.world).forget();
    }

    /// Which events it tells listeners that come after this.
    pub fn tells(&self, tells: Tells) {
        *lock(&self.shared.tells) = tells;
    }

    /// How long after the event of a container's end its status says so, for ends that [`Self::exit`] brings: containerd takes its time.
    pub fn lag(&self, lag: Duration) {
        *lock(&self.shared.lag) = lag;
    }

    /// Adds what shall happen to calls.
    pub fn rule(&self, rule: Rule) {
        lock(&self.shared.script).rules.push(rule);
    }

    /// Forgets all rules.
    pub fn no_rules(&self) {
        lock(&self.shared.script).rules.clear();
    }

    /// The calls so far.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.shared.script).calls.clone()
    }

    /// The calls since the last time, which are forgotten.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut lock(&self.shared.script).calls)
    }

    /// How containers of this name behave (empty: all), when they are started from now on.
    pub fn behave(&self, name: &str, behaviour: Behaviour) {
        lock(&self.shared.world).behaviours.insert(name.to_owned(), behaviour);
    }

    /// Makes an image be there.
    pub fn image(&self, name: &str) {
        lock(&self.shared.world).add_image(name);
    }

    /// All sandboxes, oldest first.
    pub fn sandboxes(&self) -> Vec<Sbx> {
        lock(&self.shared.world).sandboxes.clone()
    }

    /// All containers, oldest first.
    pub fn containers(&self) -> Vec<Cntr> {
        lock(&self.shared.world).containers.clone()
    }

    /// Pod's uid, name and attempt of every container that was ever started, in order.
    pub fn starts(&self) -> Vec<(String, String, u32)> {
        lock(&self.shared.world).starts.clone()
    }

    /// The containers of this name that run.
    pub fn running(&self, name: &str) -> Vec<Cntr> {
        let world = lock(&self.shared.world);
        let named = |c: &&Cntr| c.name() == name && c.is_running();
        world.containers.iter().filter(named).cloned().collect()
    }

    /// Ends a container.
    pub fn exit(&self, id: &str, code: i32) {
        let lag = *lock(&self.shared.lag);
        if lag.is_zero() {
            self.shared.exit(id, code, false);
            return;
        }
        self.shared.tell(Event {
            id: id.to_owned(),
            kind: v1::ContainerEventType::ContainerStoppedEvent,
            oom: false,
        });
        let (shared, id) = (Arc::clone(&self.shared), id.to_owned());
        drop(tokio::spawn(async move {
            tokio::time::sleep(lag).await;
            let now = shared.now_ns();
            lock(&shared.world).exit(&id, code, false, now);
        }));
    }

    /// Ends a container for its memory.
    pub fn oom(&self, id: &str) {
        self.shared.exit(id, 137, true);
    }

    /// Kills a sandbox with all that is in it, as a reboot of its virtual machine would.
    pub fn kill_sandbox(&self, id: &str) {
        self.shared.end_sandbox(id, 137);
    }

    /// Removes every trace of a container, without an event.
    pub fn vanish(&self, id: &str) {
        lock(&self.shared.world).containers.retain(|c| c.status.id != id);
    }

    /// Puts a sandbox there that nobody asked for through this socket. Its id.
    pub fn plant_sandbox(&self, config: v1::PodSandboxConfig) -> String {
        let now = self.shared.now_ns();
        lock(&self.shared.world)
            .add_sandbox(config, "", now)
            .unwrap_or_else(|_| String::new())
    }

    /// Keeps events back from now on.
    pub fn hold_events(&self) {
        lock(&self.shared.held).get_or_insert_with(Vec::new);
    }

    /// Lets go of the events that were kept back, in the order that `order` makes of them (it may drop and double some).
    pub fn release_events(&self, order: impl FnOnce(&mut Vec<String>)) {
        let held = lock(&self.shared.held).take().unwrap_or_default();
        let mut ids: Vec<String> = held.iter().map(|e| e.id.clone()).collect();
        order(&mut ids);
        for id in ids {
            if let Some(event) = held.iter().find(|e| e.id == id) {
                self.shared.tell(event.clone());
            }
        }
    }

    /// What its wall clock says, in nanoseconds since 1970.
    pub fn now_ns(&self) -> i64 {
        self.shared.now_ns()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.down();
    }
}

impl Shared {
    fn now_ns(&self) -> i64 {
        let since = self.started.elapsed().as_nanos();
        EPOCH_NS + i64::try_from(since).unwrap_or(0)
    }

    fn tell(&self, event: Event) {
        if let Some(held) = lock(&self.held).as_mut() {
            held.push(event);
            return;
        }
        // Nobody may be listening.
        drop(self.events.send(event));
    }

    fn exit(&self, id: &str, code: i32, oom: bool) {
        let now = self.now_ns();
        if lock(&self.world).exit(id, code, oom, now) {
            self.tell(Event {
                id: id.to_owned(),
                kind: v1::ContainerEventType::ContainerStoppedEvent,
                oom,
            });
        }
    }

    fn end_sandbox(&self, id: &str, code: i32) {
        let ended = lock(&self.world).end_sandbox(id);
        for container in ended {
            self.exit(&container, code, false);
        }
        self.tell(Event {
            id: id.to_owned(),
            kind: v1::ContainerEventType::ContainerStoppedEvent,
            oom: false,
        });
    }

    /// Ends a container by itself after a while.
    fn exit_later(self: &Arc<Self>, id: String, after: Duration, code: i32) {
        let shared = Arc::clone(self);
        drop(tokio::spawn(async move {
            tokio::time::sleep(after).await;
            shared.exit(&id, code, false);
        }));
    }
}

#[cfg(test)]
mod tests;
