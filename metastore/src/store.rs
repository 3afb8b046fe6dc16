//! Kubernetes objects, key-value buckets and journals in one SQLite file.
//!
//! *Owns* the file. One thread writes; it groups what waits into one transaction with one sync, so that a commit is durable when
//! its caller hears of it and a thousand callers share the wait. Readers have connections of their own and never block it.
//! One counter numbers all changes of objects: the revision, which is `metadata.resourceVersion`.
//!
//! *Never* knows what an object means: any JSON object under a key is one. *Called by* the API and by the daemons' services.
//!
//! ```text
//! submit -> queue (bounded by cost) -> writer thread: BEGIN, each Tx, COMMIT + fsync -> feeds (memory) -> watchers
//!                                                                                    -> answers
//! get, list, scan -> read-only connections           watch behind memory -> change log in the file -> Gone
//! ```
//!
//! Damage is found by a check after an unclean stop or by SQLite while in use. A damaged file is never served: in use, the store
//! ends ([`Store::ended`]); at the next [`Store::open`] the file is set aside and the last good snapshot, or nothing, takes its place.

mod apply;
mod body;
mod error;
mod feed;
mod files;
mod journal;
mod queue;
mod read;
mod recover;
mod schema;
mod seal;
mod tap;
mod types;
mod watch;
mod writer;

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use self::{
    apply::Step,
    error::Fault,
    feed::Feeds,
    queue::{Job, Queue},
    read::Reader,
    schema::Role,
};
pub use self::{
    error::{CommitError, Gone, StoreError, WatchError},
    journal::JournalBound,
    seal::SealKey,
    tap::{Tap, Tapped},
    types::{
        Committed, DropReason, Dropped, Event, EventKind, Expect, JournalBounds, ListOptions, Listed, MAX_NAME,
        MAX_OBJECT, MAX_VALUE, Object, ObjectKey, Op, Scope, Tx,
    },
    watch::Watch,
};

/// Time since some origin, always forward. Journal ages and the pace of snapshots are measured with it.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// How a store is opened.
#[derive(Clone)]
pub struct StoreOptions {
    /// The file. Its folder is made if it is not there; `<path>.lock` is held beside it while it is open.
    pub path: PathBuf,
    /// Changes kept in memory for watchers, all kinds together.
    pub ring: usize,
    /// Bytes of bodies kept in memory for watchers, all kinds together.
    pub ring_bytes: usize,
    /// Revisions the change log keeps at least: how far back a watch or a list can start.
    pub log_keep: u64,
    /// Seals Secrets. Without it they can be neither written nor read.
    pub seal_key: Option<SealKey>,
    /// Where the last good snapshot is kept; `None` for no snapshots.
    pub snapshot_dir: Option<PathBuf>,
    /// How often a snapshot is made, when something changed.
    pub snapshot_every: Duration,
    /// What a journal stream may hold, by name.
    pub journals: BTreeMap<Arc<str>, JournalBound>,
    /// What a stream may hold that has no entry in `journals`.
    pub journal_default: JournalBound,
    /// Largest the file may grow; beyond it commits fail with [`CommitError::Full`].
    pub max_bytes: Option<u64>,
    /// KiB of the file's pages kept in memory for writing; for each of the two ways of reading a quarter of that.
    pub cache_kib: u32,
    /// The clock, `daemon::clock::since_start` unless a test brings its own.
    pub clock: Clock,
}

impl StoreOptions {
    /// A store with everything at its default: a small memory, a log of 10,000 revisions, no seal key, no snapshots.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            ring: 2048,
            ring_bytes: 1024 * 1024,
            log_keep: 10_000,
            seal_key: None,
            snapshot_dir: None,
            snapshot_every: Duration::from_secs(6 * 3600),
            journals: BTreeMap::new(),
            journal_default: JournalBound::default(),
            max_bytes: None,
            cache_kib: 1024,
            clock: Arc::new(daemon::clock::since_start),
        }
    }

    /// The file name of the last good snapshot.
    pub fn snapshot_path(&self) -> Option<PathBuf> {
        let name = self.path.file_name()?;
        Some(files::beside(&self.snapshot_dir.as_ref()?.join(name), ".last-good"))
    }

    fn bound(&self, stream: &str) -> JournalBound {
        self.journals.get(stream).copied().unwrap_or(self.journal_default)
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// What was found when the store was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The file was damaged and now has this name.
    pub damaged: Option<PathBuf>,
    /// In its place came the last good snapshot (otherwise an empty file).
    pub restored: bool,
    /// Random, made with the file, new when the file was replaced: revisions and journal numbers mean something within it only.
    pub incarnation: u64,
    /// The last user of the file did not close it; it was checked.
    pub unclean: bool,
}

/// The store. Cheap to clone; the file is closed with the last clone, or by [`Store::close`].
#[derive(Clone)]
pub struct Store {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What the writer thread, readers and watchers share. The last [`Store`] going away ends it, watchers or not.
struct Shared {
    options: StoreOptions,
    seal: Option<SealKey>,
    incarnation: u64,
    /// Milliseconds the store had been open in its life when it was opened now, and the clock at that moment.
    opened_at: (u64, Duration),
    queue: Queue,
    feeds: Feeds,
    taps: tap::Taps,
    points: Reader,
    scans: Reader,
    kinds: RwLock<Kinds>,
    revision: AtomicU64,
    compacted: AtomicU64,
    phase: tokio::sync::watch::Sender<Phase>,
}

/// Numbers of (group, resource), as rows say them.
type Kinds = BTreeMap<(Arc<str>, Arc<str>), i64>;

#[derive(Clone, Debug, Default)]
struct Phase {
    damaged: Option<Arc<str>>,
    finished: bool,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.handle.shared.options.path)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the file, creating it when it is not there. Blocks: milliseconds, or as long as reading the file through takes
    /// after an unclean stop.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when somebody has it open, [`StoreError::NewerLayout`], [`StoreError::WrongSealKey`], or the disk's
    /// refusal. Damage is no error: see [`Opened`].
    pub fn open(options: StoreOptions) -> Result<(Self, Opened), StoreError> {
        let recover::Ready { db, lock, opened } = recover::open(&options)?;
        let mut kinds = Kinds::new();
        let mut statement = db.prepare("SELECT grp, resource, id FROM kinds")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            kinds.insert(
                (row.get::<_, String>(0)?.into(), row.get::<_, String>(1)?.into()),
                row.get(2)?,
            );
        }
        drop(rows);
        drop(statement);
        let revision = schema::revision(&db)?;
        schema::keep_pages(&db, options.cache_kib)?;
        let reader = || {
            let db = schema::connect(&options.path, Role::Reader)?;
            schema::keep_pages(&db, options.cache_kib / 4)?;
            Ok::<_, Fault>(Reader::new(db))
        };
        let shared = Arc::new(Shared {
            seal: options.seal_key.clone(),
            incarnation: opened.incarnation,
            opened_at: (journal::latest(&db)?, (options.clock)()),
            queue: Queue::new(),
            feeds: Feeds::new(revision, options.ring, options.ring_bytes),
            taps: tap::Taps::default(),
            points: reader()?,
            scans: reader()?,
            kinds: RwLock::new(kinds),
            revision: AtomicU64::new(revision),
            compacted: AtomicU64::new(schema::meta(&db, "compacted")?),
            phase: tokio::sync::watch::Sender::default(),
            options,
        });
        let writer = writer::Writer::new(shared.clone(), db, lock, opened.unclean)?;
        let thread = thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run());
        let thread = thread.map_err(Fault::from)?;
        let handle = Handle {
            shared,
            writer: Mutex::new(Some(thread)),
        };
        Ok((
            Self {
                handle: Arc::new(handle),
            },
            opened,
        ))
    }

    /// Commits a transaction: all of it or nothing. Waits for room in the queue, then for the disk.
    ///
    /// # Errors
    /// See [`CommitError`]; nothing of the transaction happened.
    pub async fn commit(&self, tx: Tx) -> Result<Committed, CommitError> {
        self.enqueue(tx).await.await
    }

    /// Hands a transaction over without waiting for room: [`CommitError::Overloaded`] when there is none. The order of these
    /// calls is the order of the commits.
    pub fn submit(&self, tx: Tx) -> Commit {
        let shared = &self.handle.shared;
        let (steps, bytes) = match apply::prepare(tx, shared.seal.is_some()) {
            Ok(prepared) => prepared,
            Err(error) => return Commit::failed(error),
        };
        match shared.queue.try_reserve(steps.len(), bytes) {
            Some(room) => self.push(steps, bytes, room),
            None => Commit::failed(shared.refusal().unwrap_or(CommitError::Overloaded)),
        }
    }

    /// Waits for room, then hands the transaction over. The order in which these return is the order of the commits, so a caller
    /// can keep several on their way and stay bounded.
    pub async fn enqueue(&self, tx: Tx) -> Commit {
        let shared = &self.handle.shared;
        let (steps, bytes) = match apply::prepare(tx, shared.seal.is_some()) {
            Ok(prepared) => prepared,
            Err(error) => return Commit::failed(error),
        };
        match shared.queue.reserve(steps.len(), bytes).await {
            Some(room) => self.push(steps, bytes, room),
            None => Commit::failed(shared.refusal().unwrap_or(CommitError::Closed)),
        }
    }

    fn push(&self, steps: Vec<Step>, bytes: usize, room: OwnedSemaphorePermit) -> Commit {
        let shared = &self.handle.shared;
        let (answer, result) = oneshot::channel();
        match shared.queue.push(Job {
            steps,
            bytes,
            answer,
            _room: room,
        }) {
            Ok(()) => Commit(Ok(result)),
            Err(_) => Commit::failed(shared.refusal().unwrap_or(CommitError::Closed)),
        }
    }

    /// One object, as it is now. Takes microseconds; may be called on the async runtime.
    ///
    /// # Errors
    /// [`StoreError::Sealed`] for a Secret that cannot be opened, or the file cannot be read.
    pub fn get(&self, key: &ObjectKey) -> Result<Option<Object>, StoreError> {
        read::get(&self.handle.shared, key)
    }

    /// Objects of a scope in key order. Blocks for as long as reading them takes: use `spawn_blocking` for anything but a few.
    ///
    /// # Errors
    /// [`StoreError::Gone`] when the change log does not cover [`ListOptions::at`].
    pub fn list(&self, scope: &Scope, options: ListOptions) -> Result<Listed, StoreError> {
        read::list(&self.handle.shared, scope, &options)
    }

    /// The changes of a scope behind a revision, each once and in order.
    ///
    /// # Errors
    /// [`Gone`] when neither memory nor the change log reaches back that far, or the revision has not happened yet.
    pub fn watch(&self, scope: Scope, from: u64) -> Result<Watch, Gone> {
        Watch::start(self.handle.shared.clone(), scope, from)
    }

    /// The changes of all kinds from now on, those that `wanted` picks. It runs where transactions are committed and must be quick.
    pub fn tap(&self, wanted: fn(&Event) -> bool) -> Tap {
        self.handle.shared.taps.open(wanted)
    }

    /// One value of a bucket.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn kv_get(&self, bucket: &str, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        read::kv_get(&self.handle.shared, bucket, key)
    }

    /// All pairs of a bucket whose key starts with a prefix, in key order. Blocks like [`Self::list`].
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn kv_scan(&self, bucket: &str, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.kv_page(bucket, prefix, None, usize::MAX)
    }

    /// Up to `limit` pairs of a bucket whose key starts with a prefix and lies behind `after`, in key order.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn kv_page(
        &self,
        bucket: &str,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        read::kv_scan(&self.handle.shared, bucket, prefix, after, limit)
    }

    /// Records of a journal stream from a number on, until their bodies reach `max_bytes`; at least one if there is one.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn journal_read(&self, stream: &str, from: u64, max_bytes: usize) -> Result<Vec<(u64, Bytes)>, StoreError> {
        let shared = &self.handle.shared;
        shared
            .scans
            .moment(shared, |db| Ok(journal::read(db, stream, from, max_bytes)?))
    }

    /// Where a journal stream stands.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn journal_bounds(&self, stream: &str) -> Result<JournalBounds, StoreError> {
        let shared = &self.handle.shared;
        shared.points.moment(shared, |db| Ok(journal::bounds(db, stream)?))
    }

    /// The names of all journal streams that ever had a record.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn journal_streams(&self) -> Result<Vec<Arc<str>>, StoreError> {
        let shared = &self.handle.shared;
        shared.points.read(shared, |db| Ok(journal::names(db)?))
    }

    /// The newest revision.
    pub fn revision(&self) -> u64 {
        self.handle.shared.revision()
    }

    /// The oldest revision that can be listed at or watched from.
    pub fn oldest_revision(&self) -> u64 {
        self.handle.shared.compacted()
    }

    /// Random, made with the file. See [`Opened::incarnation`].
    pub fn incarnation(&self) -> u64 {
        self.handle.shared.incarnation
    }

    /// Writes a checked copy of the store as it is now, beside ongoing writes; the file appears whole or not at all. Blocks.
    ///
    /// # Errors
    /// The copy cannot be written, or the file turned out damaged.
    pub fn snapshot(&self, target: &Path) -> Result<(), StoreError> {
        let shared = &self.handle.shared;
        shared.check_open()?;
        let db = schema::connect(&shared.options.path, Role::Reader)?;
        let made = recover::snapshot(&db, target);
        if let Err(StoreError::Corrupt(why)) = &made {
            shared.condemn(why.clone());
        }
        made
    }

    /// Has the writer look at its chores now (journal ages, snapshot) instead of at the next half minute.
    pub fn tend(&self) {
        self.handle.shared.queue.nudge();
    }

    /// Resolves when the store has ended: [`StoreError::Closed`], or [`StoreError::Corrupt`] when damage was met, after which
    /// the file is free to be opened again.
    pub async fn ended(&self) -> StoreError {
        let mut phase = self.handle.shared.phase.subscribe();
        // The sender is in `shared`, which is alive.
        drop(phase.wait_for(|phase| phase.finished).await);
        match &phase.borrow().damaged {
            Some(why) => StoreError::Corrupt(why.clone()),
            None => StoreError::Closed,
        }
    }

    /// Commits what was submitted, ends watches, closes the file.
    pub async fn close(&self) {
        self.handle.shared.queue.close();
        self.ended().await;
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.queue.close();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A writer that panicked has logged so and answered everybody.
        drop(writer.map(JoinHandle::join));
    }
}

impl Shared {
    fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    fn compacted(&self) -> u64 {
        self.compacted.load(Ordering::Acquire)
    }

    /// Milliseconds the store has been open in its life.
    fn open_time_ms(&self) -> u64 {
        let (base, origin) = self.opened_at;
        let passed = (self.options.clock)().saturating_sub(origin);
        base.saturating_add(u64::try_from(passed.as_millis()).unwrap_or(0))
    }

    fn kind(&self, group: &Arc<str>, resource: &Arc<str>) -> Option<i64> {
        let kinds = self.kinds.read().unwrap_or_else(PoisonError::into_inner);
        kinds.get(&(group.clone(), resource.clone())).copied()
    }

    fn add_kind(&self, group: Arc<str>, resource: Arc<str>, number: i64) {
        self.kinds
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert((group, resource), number);
    }

    fn check_open(&self) -> Result<(), StoreError> {
        match &*self.phase.borrow() {
            Phase { damaged: Some(why), .. } => Err(StoreError::Corrupt(why.clone())),
            Phase { finished: true, .. } => Err(StoreError::Closed),
            Phase { .. } => Ok(()),
        }
    }

    /// Why no transaction is taken any more, if so.
    fn refusal(&self) -> Option<CommitError> {
        match self.check_open() {
            Err(StoreError::Corrupt(why)) => Some(CommitError::Corrupt(why)),
            Err(_) => Some(CommitError::Closed),
            Ok(()) => self.queue.is_closed().then_some(CommitError::Closed),
        }
    }

    /// Damage was met: nothing more is served from this file.
    fn condemn(&self, why: Arc<str>) {
        let first = self.phase.send_if_modified(|phase| match phase.damaged {
            Some(_) => false,
            None => {
                phase.damaged = Some(why.clone());
                true
            }
        });
        if first {
            tracing::error!(file = %self.options.path.display(), %why, "The store file is damaged; the store ends.");
            recover::mark_suspect(&self.options.path);
        }
        self.queue.close();
        self.feeds.close();
        self.taps.close();
    }

    /// The file is closed and its lock let go.
    fn finished(&self) {
        self.phase.send_modify(|phase| phase.finished = true);
        self.feeds.close();
        self.taps.close();
    }
}

/// A transaction on its way. Dropping it does not take the transaction back.
#[derive(Debug)]
#[must_use = "a transaction may be refused"]
pub struct Commit(Result<oneshot::Receiver<Result<Committed, CommitError>>, Option<CommitError>>);

impl Commit {
    fn failed(error: CommitError) -> Self {
        Self(Err(Some(error)))
    }
}

impl Future for Commit {
    type Output = Result<Committed, CommitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Ok(result) => Pin::new(result)
                .poll(context)
                .map(|answer| answer.unwrap_or(Err(CommitError::Closed))),
            Err(error) => Poll::Ready(Err(error.take().unwrap_or(CommitError::Closed))),
        }
    }
}
