//! The one owner of the core: runs each step under its lock, hands the changes to the store in the same order, and tells
//! the core when they are durable.
//!
//! The lock is held for a step only, never across an await. `Persist::commit` is called under it, so that the order of
//! commits is the order of steps; the waiting for a commit is a task of its own, so that a connection that ends does not
//! leave its messages unsettled.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{sync::Notify, task::JoinHandle, time::Instant};

use crate::{
    config::BrokerConfig,
    core::{Core, Effects},
    hooks::LocalHandler,
    persist::{Persist, PersistError},
    stats::{Counters, Stats},
};

pub(crate) struct Hub {
    core: Mutex<Core>,
    persist: Arc<dyn Persist>,
    pub(crate) local: Arc<dyn LocalHandler>,
    pub(crate) config: BrokerConfig,
    pub(crate) counters: Counters,
    origin: Instant,
    /// Told when the time of the next timeout changed.
    pub(crate) timer: Notify,
    runtime: tokio::runtime::Handle,
    failing: AtomicBool,
}

/// Resolves when the changes of a step are durable, or are not going to be.
pub(crate) type Settled = JoinHandle<Result<(), PersistError>>;

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Hub {
    /// Must be called within a tokio runtime: commits are awaited on it.
    pub(crate) fn new(
        core: Core,
        persist: Arc<dyn Persist>,
        local: Arc<dyn LocalHandler>,
        config: BrokerConfig,
    ) -> Arc<Self> {
        Arc::new(Self {
            core: Mutex::new(core),
            persist,
            local,
            config,
            counters: Counters::default(),
            origin: Instant::now(),
            timer: Notify::new(),
            runtime: tokio::runtime::Handle::current(),
            failing: AtomicBool::new(false),
        })
    }

    /// One step of the core, with its commit begun. `None`: nothing to commit.
    pub(crate) fn step<R>(
        self: &Arc<Self>,
        f: impl FnOnce(&mut Core, Duration, &mut Effects) -> R,
    ) -> (R, Option<Settled>) {
        let mut fx = Effects::default();
        let (result, commit, timer_moved) = {
            let mut core = self.lock();
            let before = core.poll_timeout();
            let result = f(&mut core, self.now(), &mut fx);
            let changes = std::mem::take(&mut fx.changes);
            let commit = (!changes.is_empty()).then(|| self.persist.commit(changes));
            (result, commit, core.poll_timeout() != before)
        };
        if timer_moved {
            self.timer.notify_one();
        }
        let settled = commit.map(|commit| {
            let (hub, waiting) = (self.clone(), fx.waiting);
            self.runtime.spawn(async move {
                let outcome = AssertUnwindSafe(commit).catch_unwind().await;
                let outcome = outcome.unwrap_or_else(|_| Err(PersistError::Failed("the store panicked".to_owned())));
                if !waiting.is_empty() {
                    hub.lock().settle(&waiting, outcome.is_ok());
                }
                hub.note(&outcome);
                outcome
            })
        });
        (result, settled)
    }

    /// A look at the core that changes nothing durable.
    pub(crate) fn look<R>(&self, f: impl FnOnce(&Core) -> R) -> R {
        f(&self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        // A panic within a step ended the connection it was for; the others go on.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the core's time counts from.
    pub(crate) fn origin(&self) -> Instant {
        self.origin
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Says once when commits begin to fail, and once when they work again.
    fn note(&self, outcome: &Result<(), PersistError>) {
        match outcome {
            Ok(()) => {
                if self.failing.load(Ordering::Relaxed) && self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("MQTT state is stored again");
                }
            }
            Err(error) => {
                self.counters.commit_failures.one();
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "MQTT state cannot be stored; messages that need it are not acknowledged");
                }
            }
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        let (figures, drops) = self.look(|core| (core.figures(), core.drops()));
        let c = &self.counters;
        Stats {
            connections: c.connections.get(),
            accepted: c.accepted.get(),
            refused_busy: c.refused_busy.get(),
            failed_handshakes: c.failed_handshakes.get(),
            protocol_errors: c.protocol_errors.get(),
            timeouts: c.timeouts.get(),
            unavailable: c.unavailable.get(),
            received: c.received.get(),
            sent: c.sent.get(),
            denied: c.denied.get(),
            commit_failures: c.commit_failures.get(),
            sessions: figures.sessions as u64,
            subscriptions: figures.subscriptions as u64,
            retained: figures.retained as u64,
            queued_messages: figures.queued_messages as u64,
            queued_bytes: figures.queued_bytes as u64,
            drops,
        }
    }
}

/// Waits for a step's commit; `true` if there was none or it is durable.
pub(crate) async fn durable(settled: Option<Settled>) -> bool {
    match settled {
        None => true,
        Some(settled) => matches!(settled.await, Ok(Ok(()))),
    }
}
