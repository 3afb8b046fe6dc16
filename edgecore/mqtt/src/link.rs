//! How the core gets the attention of a connection's task.

use std::{
    sync::atomic::{AtomicBool, AtomicU8, Ordering},
    task::{Context, Waker},
};

use futures_util::task::AtomicWaker;

/// Why the broker ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kick {
    TakenOver = 1,
    Shutdown = 2,
    Expelled = 3,
}

/// Shared by a connection's task and whoever has something for it.
#[derive(Debug, Default)]
pub(crate) struct Link {
    work: AtomicBool,
    kick: AtomicU8,
    waker: AtomicWaker,
}

impl Link {
    /// Something may be there to send.
    pub(crate) fn wake(&self) {
        if !self.work.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    /// End the connection. The first reason stays.
    pub(crate) fn kick(&self, why: Kick) {
        if self
            .kick
            .compare_exchange(0, why as u8, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
        {
            self.waker.wake();
        }
    }

    /// From the connection's task, before it looks at the flags.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        let waker: &Waker = cx.waker();
        self.waker.register(waker);
    }

    /// Takes the note that there may be work.
    pub(crate) fn take_work(&self) -> bool {
        self.work.load(Ordering::Relaxed) && self.work.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn kicked(&self) -> Option<Kick> {
        match self.kick.load(Ordering::Acquire) {
            1 => Some(Kick::TakenOver),
            2 => Some(Kick::Shutdown),
            3 => Some(Kick::Expelled),
            _ => None,
        }
    }
}
