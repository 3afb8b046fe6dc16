//! An orderly stop: every long-lived task holds a [`Drain`]; the daemon's main triggers it, waits up to a deadline, and only then
//! lets go of what the tasks used.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;

/// A cheap handle on "are we stopping?" and on the tasks to wait for. Children stop when their parent does, never the reverse.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    token: CancellationToken,
    tasks: TaskTracker,
}

impl Drain {
    /// A drain of its own.
    pub fn new() -> Self {
        Self::default()
    }

    /// A part that can be stopped alone; its tasks are also waited for by the whole.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            token: self.token.child_token(),
            tasks: self.tasks.clone(),
        }
    }

    /// Resolves when the stop begins: the first arm of every loop.
    pub fn stopping(&self) -> WaitForCancellationFuture<'_> {
        self.token.cancelled()
    }

    /// Whether the stop has begun.
    pub fn is_stopping(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Begins the stop.
    pub fn stop(&self) {
        self.token.cancel();
    }

    /// The token, for code that wants one.
    pub const fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Runs a task that the stop waits for. Every task of the daemons starts here, so that none outlives its owner unseen.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        // The runtime's code for a task is compiled once for each type of future: two kilobytes of program a time.
        let task: Pin<Box<dyn Future<Output = F::Output> + Send>> = Box::pin(task);
        self.tasks.spawn(task)
    }

    /// Begins the stop and waits for the tasks; false when `deadline` passed with some still running.
    pub async fn finish(&self, deadline: Duration) -> bool {
        self.stop();
        self.tasks.close();
        tokio::time::timeout(deadline, self.tasks.wait()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn finish_waits_for_tasks_and_tells_when_one_hangs() {
        let drain = Drain::new();
        let child = drain.child();
        drop(drain.spawn(async move { child.stopping().await }));
        assert!(drain.finish(Duration::from_secs(1)).await);

        let drain = Drain::new();
        drop(drain.spawn(std::future::pending::<()>()));
        assert!(!drain.finish(Duration::from_secs(1)).await);
    }

    #[tokio::test]
    async fn child_stops_alone() {
        let drain = Drain::new();
        let child = drain.child();
        child.stop();
        assert!(child.is_stopping() && !drain.is_stopping());
    }
}
