//! The lives of a daemon in one process: a run that ends because its store's file is damaged is followed by another, which sets the
//! file aside where it starts. Not everybody who runs a daemon has a service manager that would do it.
//!
//! *Owns* the signals, and one runtime for each life: what a life left behind, tasks and the sockets they hold, goes with its runtime
//! before the next begins. *Never* knows what a daemon does. Damage that comes back again and again ends the process: a third file
//! would be lost to the same disk.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
pub use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::exit::{FAILED, Failure};
use crate::signal::{notify_stopping, stop_requested};

/// Damage met this often within [`WINDOW`] ends the process.
const MOST: usize = 3;
/// How long damage is remembered.
const WINDOW: Duration = Duration::from_secs(10 * 60);
/// How long work on other threads may hold up the next life.
const LEFT_BEHIND: Duration = Duration::from_secs(5);

/// Why a life ended without having been asked to.
#[derive(Debug)]
pub enum End {
    /// Another life would end the same way.
    Failed(Failure),
    /// A damaged file, which the next start sets aside.
    Damaged(Failure),
}

/// Runs one life after the other until one ends in order, fails, or damage comes too often. `life` gets what tells it to stop.
///
/// # Errors
/// The last life's failure, or that there are no threads to live on.
pub fn run<F>(
    runtime: impl Fn() -> io::Result<Runtime>,
    mut life: impl FnMut(CancellationToken) -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Result<(), End>> + Send + 'static,
{
    let no_threads = |e: io::Error| Failure::new(FAILED, format!("cannot start: {e}"));
    // On this thread, which has nothing else to do.
    let watcher = Builder::new_current_thread().enable_io().build().map_err(no_threads)?;
    watcher.block_on(async {
        let stop = CancellationToken::new();
        let mut signal = pin!(stop_requested());
        let mut damages = Damages::default();
        loop {
            let runtime = runtime().map_err(no_threads)?;
            let mut task = runtime.spawn(life(stop.clone()));
            let ended = loop {
                tokio::select! {
                    biased;
                    signal = &mut signal, if !stop.is_cancelled() => {
                        tracing::info!(signal = signal.unwrap_or("no signal handler"), "Stopping.");
                        notify_stopping();
                        stop.cancel();
                    }
                    ended = &mut task => break ended,
                }
            };
            let gone = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(LEFT_BEHIND)).await;
            if let Err(e) = gone {
                tracing::warn!(error = %e, "What ran before did not go in order.");
            }
            let why = match ended {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(End::Failed(why))) => return Err(why),
                Ok(Err(End::Damaged(why))) if stop.is_cancelled() => return Err(why),
                Ok(Err(End::Damaged(why))) => why,
                Err(panicked) => return Err(Failure::new(FAILED, panicked.to_string())),
            };
            if !damages.again(clock::now()) {
                let what = format!("{why}; damaged files were met {MOST} times within ten minutes");
                return Err(Failure::new(FAILED, what)
                    .hint("the disk or its cable is failing: look into dmesg and smartctl, then start again"));
            }
            tracing::error!(%why, "Starting over: the damaged file is set aside.");
        }
    })
}

/// When damage was met.
#[derive(Debug, Default)]
struct Damages(VecDeque<Instant>);

impl Damages {
    /// Takes note of damage met `now`; says whether another life is worth it.
    fn again(&mut self, now: Instant) -> bool {
        self.0.retain(|met| now.saturating_duration_since(*met) < WINDOW);
        self.0.push_back(now);
        self.0.len() < MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, TcpListener};
    use std::sync::{Arc, Mutex};

    fn runtime() -> io::Result<Runtime> {
        Builder::new_multi_thread().worker_threads(1).enable_all().build()
    }

    fn damaged() -> End {
        End::Damaged(Failure::new(FAILED, "store: page 7"))
    }

    #[test]
    fn damage_counts_for_ten_minutes() {
        let mut damages = Damages::default();
        let start = clock::now();
        let at = |minutes: u64| start + Duration::from_secs(60 * minutes);
        assert!(damages.again(at(0)) && damages.again(at(9)));
        assert!(damages.again(at(10)), "the first is forgotten");
        assert!(!damages.again(at(11)));
    }

    #[test]
    fn the_next_life_finds_the_ports_of_the_last_one_free() {
        let port = Arc::new(Mutex::new(None::<SocketAddr>));
        let lived = Arc::clone(&port);
        let ended = run(runtime, |_| {
            let port = Arc::clone(&lived);
            async move {
                let before = *port.lock().unwrap();
                let listener = TcpListener::bind(before.unwrap_or(([127, 0, 0, 1], 0).into())).unwrap();
                listener.set_nonblocking(true).unwrap();
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                *port.lock().unwrap() = listener.local_addr().ok();
                // Nobody waits for this task.
                drop(tokio::spawn(async move { drop(listener.accept().await) }));
                if before.is_none() { Err(damaged()) } else { Ok(()) }
            }
        });
        ended.unwrap();
        assert!(port.lock().unwrap().is_some());
    }

    #[test]
    fn damage_that_comes_back_ends_the_process_and_says_so() {
        let mut lives = 0;
        let why = run(runtime, |_| {
            lives += 1;
            async { Err(damaged()) }
        })
        .unwrap_err();
        assert_eq!((lives, why.code), (MOST, FAILED));
        assert!(why.what.contains("page 7") && why.what.contains("3 times"), "{why}");
        assert!(why.hint.is_some());
    }

    #[test]
    fn another_failure_is_the_last_and_so_is_a_panic() {
        let mut lives = 0;
        let why = run(runtime, |_| {
            lives += 1;
            async { Err(End::Failed(Failure::new(78, "nodeName"))) }
        });
        assert_eq!((lives, why.unwrap_err().code), (1, 78));
        let why = run(runtime, |_| async { panic!("a bug") }).unwrap_err();
        assert_eq!(why.code, FAILED);
    }
}
