//! The one thread that writes.
//!
//! It takes all transactions that wait, runs them in one SQLite transaction, syncs once, then publishes their events and answers
//! them all. Nobody waits for more than that: the write-ahead log goes into the file behind the answers. Between groups it does the
//! chores: old journal records, the change log, free pages, snapshots.
//!
//! Memory never runs ahead of the file: revision, streams and events of a group are adopted after its COMMIT, dropped with its
//! ROLLBACK.

use std::{
    path::PathBuf,
    slice,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rusqlite::{Connection, InterruptHandle, hooks::Wal};

use super::{
    CommitError, Committed, Shared, StoreError,
    apply::{Group, Step},
    error::Fault,
    files::Lock,
    journal::Streams,
    queue::{Job, Taken},
    recover,
    schema::{self, Role},
};

/// Operations and bytes that share one sync. More would make the first of them wait longer than the disk does.
const GROUP_OPS: usize = 2048;
const GROUP_BYTES: usize = 2 * 1024 * 1024;
/// How often the chores are looked at.
const CHORES_EVERY: Duration = Duration::from_secs(30);
/// The change log may run this far past what it is to keep (or a quarter of that, if less), so that compaction comes in pieces
/// worth their while.
const LOG_SLACK: u64 = 256;
/// Revisions compacted in one piece.
const LOG_PIECE: u64 = 1024;
/// Pages in the write-ahead log that bring it into the file: what SQLite would do within a commit.
const WAL_PAGES: i32 = 1000;
/// Free pages given back to the file system at a time.
const VACUUM_PAGES: i64 = 256;
/// The first snapshot of a file that has none comes this soon after the first change.
const FIRST_SNAPSHOT: Duration = Duration::from_secs(60);

pub(super) struct Writer {
    shared: Arc<Shared>,
    db: Connection,
    lock: Option<Lock>,
    streams: Streams,
    revision: u64,
    compacted: u64,
    /// The file says that it is in use: set with the first group, taken back on an orderly stop.
    marked: bool,
    /// Pages in the write-ahead log after the last commit.
    wal_pages: Arc<AtomicI32>,
    /// Changed since the last checkpoint, since the last snapshot.
    wal_dirty: bool,
    snapshot_dirty: bool,
    chores_at: Duration,
    snapshot_at: Duration,
    snapshot: Option<(JoinHandle<bool>, InterruptHandle)>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, mut db: Connection, lock: Lock, unclean: bool) -> Result<Self, StoreError> {
        let wal_pages = Arc::new(AtomicI32::new(0));
        let counted = Arc::clone(&wal_pages);
        // In the place of SQLite's own hook, which would bring the log into the file before the commit returns.
        db.wal_hook(Some(move |_: &mut Wal, pages| {
            counted.store(pages, Ordering::Relaxed);
            Ok(())
        }))?;
        let now = (shared.options.clock)();
        let has_snapshot = shared.options.snapshot_path().is_some_and(|path| path.exists());
        let every = shared.options.snapshot_every;
        Ok(Self {
            streams: Streams::load(&db)?,
            revision: schema::revision(&db)?,
            compacted: schema::meta(&db, "compacted")?,
            marked: unclean,
            wal_pages,
            wal_dirty: true,
            snapshot_dirty: !has_snapshot,
            chores_at: now + CHORES_EVERY,
            snapshot_at: now + if has_snapshot { every } else { every.min(FIRST_SNAPSHOT) },
            snapshot: None,
            shared,
            db,
            lock: Some(lock),
        })
    }

    /// Works until the queue is closed and empty.
    pub(super) fn run(mut self) {
        loop {
            match self.shared.queue.take(GROUP_OPS, GROUP_BYTES, CHORES_EVERY) {
                Taken::Jobs(jobs) => {
                    self.serve(jobs);
                    // Counted anew with the next commit.
                    if self.wal_pages.swap(0, Ordering::Relaxed) >= WAL_PAGES {
                        self.checkpoint("PASSIVE");
                    }
                    if (self.shared.options.clock)() >= self.chores_at {
                        self.chores(false);
                    }
                }
                Taken::Idle => self.chores(true),
                Taken::Closed => break,
            }
        }
        self.stop();
    }

    /// Commits a group and answers each of its transactions.
    fn serve(&mut self, jobs: Vec<Job>) {
        if let Err(StoreError::Corrupt(why)) = self.shared.check_open() {
            return answer_all(jobs, &CommitError::Corrupt(why));
        }
        match self.commit(&jobs) {
            Ok(answers) => answer(jobs, answers),
            Err(Fault::Full) => {
                // What does not fit must not take down what does.
                self.make_room();
                for job in jobs {
                    match self.commit(slice::from_ref(&job)) {
                        Ok(answers) => answer(vec![job], answers),
                        Err(fault) => self.failed(vec![job], fault),
                    }
                }
            }
            Err(fault) => self.failed(jobs, fault),
        }
    }

    fn failed(&self, jobs: Vec<Job>, fault: Fault) {
        if let Fault::Corrupt(why) = &fault {
            self.shared.condemn(why.clone());
        } else {
            tracing::warn!(error = ?fault, transactions = jobs.len(), "A commit failed.");
        }
        answer_all(jobs, &fault.into());
    }

    /// One SQLite transaction for all of them. On a fault nothing of it remains.
    fn commit(&mut self, jobs: &[Job]) -> Result<Vec<Result<Committed, CommitError>>, Fault> {
        self.number_kinds(jobs)?;
        let before = self.streams.clone();
        let result = self.try_commit(jobs);
        if result.is_err() {
            self.streams = before;
            self.roll_back();
        }
        result
    }

    fn try_commit(&mut self, jobs: &[Job]) -> Result<Vec<Result<Committed, CommitError>>, Fault> {
        self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let mut group = Group {
            db: &self.db,
            shared: &self.shared,
            now: self.shared.open_time_ms(),
            revision: self.revision,
            events: Vec::new(),
            streams: &mut self.streams,
            wrote: false,
        };
        let answers = jobs
            .iter()
            .map(|job| group.run(&job.steps))
            .collect::<Result<Vec<_>, Fault>>()?;
        let Group {
            revision,
            events,
            wrote,
            ..
        } = group;
        if !wrote {
            self.db.prepare_cached("ROLLBACK")?.execute([])?;
            return Ok(answers);
        }
        self.streams.flush(&self.db)?;
        let log_keep = self.shared.options.log_keep;
        let compacted = self.compact_piece(revision, log_keep.saturating_add(LOG_SLACK.min(log_keep / 4)))?;
        if !self.marked {
            schema::set_meta(&self.db, "clean", 0)?;
        }
        self.db.prepare_cached("COMMIT")?.execute([])?;

        self.marked = true;
        self.wal_dirty = true;
        self.snapshot_dirty = true;
        self.adopt(revision, compacted);
        self.shared.taps.publish(&events);
        self.shared.feeds.publish(events);
        // Announced last: who sees this revision can rely on its events being there.
        self.shared.revision.store(revision, Ordering::Release);
        Ok(answers)
    }

    fn adopt(&mut self, revision: u64, compacted: u64) {
        self.revision = revision;
        self.compacted = compacted;
        self.shared.compacted.store(compacted, Ordering::Release);
    }

    fn roll_back(&self) {
        if !self.db.is_autocommit()
            && let Err(error) = self.db.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "A failed commit could not be rolled back.");
        }
    }

    /// Gives numbers to kinds never stored before, in a transaction of their own: they stay, whatever becomes of the group.
    fn number_kinds(&self, jobs: &[Job]) -> Result<(), Fault> {
        for step in jobs.iter().flat_map(|job| &job.steps) {
            let Step::Put { key, .. } = step else { continue };
            if self.shared.kind(&key.group, &key.resource).is_none() {
                self.db
                    .execute("INSERT INTO kinds VALUES (NULL, ?1, ?2)", [&*key.group, &*key.resource])?;
                self.shared
                    .add_kind(key.group.clone(), key.resource.clone(), self.db.last_insert_rowid());
            }
        }
        Ok(())
    }

    /// Compacts one piece of what lies more than `keep` back. Returns where the log now begins.
    fn compact_piece(&self, revision: u64, keep: u64) -> Result<u64, Fault> {
        let floor = revision.saturating_sub(keep);
        if floor <= self.compacted {
            return Ok(self.compacted);
        }
        let upto = revision
            .saturating_sub(self.shared.options.log_keep.min(keep))
            .min(self.compacted + LOG_PIECE);
        schema::compact(&self.db, self.compacted, upto)?;
        Ok(upto)
    }

    /// The disk is full: give back what can be spared. The write-ahead log goes into the file, and the change log goes, which
    /// costs watchers that lag a new list.
    fn make_room(&mut self) {
        self.checkpoint("TRUNCATE");
        while self.compacted < self.revision {
            let compacted = self.transaction(|writer| writer.compact_piece(writer.revision, 0));
            match compacted {
                Ok(compacted) => self.adopt(self.revision, compacted),
                Err(_) => break,
            }
        }
        self.checkpoint("TRUNCATE");
    }

    fn transaction<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        self.db.execute_batch("BEGIN IMMEDIATE")?;
        let before = self.streams.clone();
        let result = work(self).and_then(|done| {
            self.db.execute_batch("COMMIT")?;
            Ok(done)
        });
        if result.is_err() {
            self.streams = before;
            self.roll_back();
        }
        result
    }

    fn chores(&mut self, idle: bool) {
        let now = (self.shared.options.clock)();
        self.chores_at = now + CHORES_EVERY;
        if let Err(fault) = self.try_chores(idle) {
            match fault {
                Fault::Corrupt(why) => return self.shared.condemn(why),
                fault => tracing::warn!(error = ?fault, "The store's housekeeping failed; it is tried again."),
            }
        }
        self.tend_snapshots(now);
    }

    fn try_chores(&mut self, idle: bool) -> Result<(), Fault> {
        if self.streams.any_waiting() {
            let now = self.shared.open_time_ms();
            self.transaction(|w| {
                if w.streams.expire(&w.db, now, &w.shared.options)? {
                    w.streams.flush(&w.db)?;
                    w.wal_dirty = true;
                }
                Ok(())
            })?;
        }
        if !idle || !self.wal_dirty {
            return Ok(());
        }
        let free: i64 = self.db.query_row("PRAGMA freelist_count", [], |row| row.get(0))?;
        let pages: i64 = self.db.query_row("PRAGMA page_count", [], |row| row.get(0))?;
        // Free pages are used again by themselves; give some back when they are many.
        if free > 4 * VACUUM_PAGES && free > pages / 4 {
            let mut vacuum = self.db.prepare(&format!("PRAGMA incremental_vacuum({VACUUM_PAGES})"))?;
            let mut rows = vacuum.query([])?;
            while rows.next()?.is_some() {}
        }
        self.checkpoint("PASSIVE");
        self.wal_dirty = false;
        Ok(())
    }

    fn checkpoint(&self, mode: &str) {
        let result = self
            .db
            .query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()));
        if let Err(error) = result {
            tracing::debug!(%error, "A checkpoint did not go through.");
        }
    }

    /// Starts a snapshot when one is due, and looks after the one that runs.
    fn tend_snapshots(&mut self, now: Duration) {
        if let Some((thread, interrupt)) = self.snapshot.take() {
            if !thread.is_finished() {
                self.snapshot = Some((thread, interrupt));
                return;
            }
            if !thread.join().unwrap_or(false) {
                self.snapshot_dirty = true;
            }
        }
        let Some(target) = self.shared.options.snapshot_path() else {
            return;
        };
        if !self.snapshot_dirty || now < self.snapshot_at {
            return;
        }
        self.snapshot_at = now + self.shared.options.snapshot_every;
        self.snapshot_dirty = false;
        match self.start_snapshot(target) {
            Ok(started) => self.snapshot = Some(started),
            Err(fault) => tracing::warn!(error = ?fault, "The snapshot could not be started."),
        }
    }

    fn start_snapshot(&self, target: PathBuf) -> Result<(JoinHandle<bool>, InterruptHandle), Fault> {
        let db = schema::connect(&self.shared.options.path, Role::Reader)?;
        let interrupt = db.get_interrupt_handle();
        let shared = self.shared.clone();
        let thread = thread::Builder::new().name("store-snapshot".into()).spawn(move || {
            match recover::snapshot(&db, &target) {
                Ok(()) => true,
                Err(StoreError::Corrupt(why)) => {
                    shared.condemn(why);
                    false
                }
                Err(error) => {
                    tracing::warn!(%error, "The snapshot failed; the one before it stays.");
                    false
                }
            }
        })?;
        Ok((thread, interrupt))
    }

    /// An orderly stop: nothing left in the write-ahead log, and a file that says so.
    fn stop(mut self) {
        if let Some((thread, interrupt)) = self.snapshot.take() {
            interrupt.interrupt();
            // A snapshot that panicked is a snapshot that was not made.
            drop(thread.join());
        }
        self.shared.points.close();
        self.shared.scans.close();
        if self.shared.check_open().is_ok() {
            let marked = !self.marked || schema::set_meta(&self.db, "clean", 1).is_ok();
            self.checkpoint("TRUNCATE");
            if !marked {
                tracing::warn!("The store could not be marked as closed; it will be checked at the next start.");
            }
        }
    }
}

/// Also when the thread ends by a panic: who waits gets an answer and the lock goes last.
impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.queue.close();
        while let Taken::Jobs(jobs) = self.shared.queue.take(usize::MAX, usize::MAX, Duration::ZERO) {
            drop(jobs);
        }
        self.shared.points.close();
        self.shared.scans.close();
        match Connection::open_in_memory() {
            Ok(nothing) => drop(std::mem::replace(&mut self.db, nothing)),
            Err(error) => tracing::debug!(%error, "The file is closed after its lock."),
        }
        self.lock = None;
        self.shared.finished();
    }
}

fn answer(jobs: Vec<Job>, answers: Vec<Result<Committed, CommitError>>) {
    for (job, answer) in jobs.into_iter().zip(answers) {
        // Whoever does not wait for the answer does not want it.
        drop(job.answer.send(answer));
    }
}

fn answer_all(jobs: Vec<Job>, error: &CommitError) {
    for job in jobs {
        drop(job.answer.send(Err(error.clone())));
    }
}
