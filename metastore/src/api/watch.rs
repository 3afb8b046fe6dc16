//! Watches. A change is encoded by whoever wrote it: each watcher sends the stored bytes between two constants. Only watchers that asked for
//! another form (tables, metadata, another version) encode for themselves.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};

use super::body::ApiBody;
use super::budget::Place;
use super::kinds::KindSpec;
use super::meta;
use super::read::Filter;
use super::request::{Form, ListQuery, Version};
use super::selector::Fields;
use super::server::{Call, Core, json_response};
use super::status::Status;
use super::table::{self, RowObject};
use super::write::{encode, parse};
use crate::store::{Event, EventKind, Object, Watch, WatchError};

/// How often a watcher that wants bookmarks gets one.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// A watch without a time of its own ends after this long, plus up to as much again, so that not all clients return at once.
const DEFAULT_LIFE: Duration = Duration::from_secs(1800);
/// No watch lives longer.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Events taken in one go before the connection gets a turn.
const BATCH: usize = 64;
/// And no more bytes than this: what a client that does not read makes us hold.
const BATCH_BYTES: usize = 256 * 1024;

/// What stands between the bytes of a watch event.
const fn head(kind: EventKind) -> &'static [u8] {
    match kind {
        EventKind::Added => b"{\"type\":\"ADDED\",\"object\":",
        EventKind::Modified => b"{\"type\":\"MODIFIED\",\"object\":",
        EventKind::Deleted => b"{\"type\":\"DELETED\",\"object\":",
    }
}

const TAIL: &[u8] = b"}\n";

/// One open watch.
struct Watcher {
    kind: Arc<KindSpec>,
    filter: Filter,
    form: Form,
    include: RowObject,
    /// Column definitions go with the first table only.
    defined: bool,
    watch: Option<Watch>,
    out: VecDeque<Bytes>,
    /// Held while what was there at the beginning waits to be sent.
    initial: Option<Place>,
    bookmarks: bool,
    next_bookmark: Instant,
    ends: Instant,
    drain: daemon::drain::Drain,
    /// The table of kinds, for a kind that may change.
    table: Option<Table>,
    _permit: OwnedSemaphorePermit,
}

impl Core {
    /// GET with `watch`.
    pub(crate) async fn watch_request(
        self: &Arc<Self>,
        call: Call,
        options: ListQuery,
        form: Form,
    ) -> Result<Response<ApiBody>, Status> {
        let kind = call.kind.clone();
        let filter = Filter::new(&kind, options.labels.clone(), options.fields.clone())?;
        let permit = self
            .watches
            .clone()
            .try_acquire_owned()
            .map_err(|_| Status::too_many_requests(5))?;
        let life = options.timeout.filter(|t| *t > 0).map_or_else(
            || DEFAULT_LIFE + DEFAULT_LIFE.mul_f64(fastrand::f64()),
            |seconds| Duration::from_secs(seconds).min(LONGEST_LIFE),
        );
        let started = Instant::now();
        let mut watcher = Watcher {
            kind: kind.clone(),
            filter,
            form,
            include: options.include,
            defined: false,
            watch: None,
            out: VecDeque::new(),
            initial: None,
            bookmarks: options.bookmarks,
            next_bookmark: started + BOOKMARK_EVERY,
            ends: started + life,
            drain: self.drain.clone(),
            table: kind.custom.then(|| Table::new(self)),
            _permit: permit,
        };
        if let Err(status) = self.begin_watch(&mut watcher, call, options).await {
            // Too old, too new: a watch says it as its first event.
            if !matches!(status.code, 410 | 501 | 504) {
                return Err(status);
            }
            watcher.error(&status);
        }
        let body = ApiBody::stream(stream::unfold(watcher, |mut w| async move {
            let bytes = w.next().await?;
            Some((bytes, w))
        }));
        let mut response = json_response(StatusCode::OK, Bytes::new());
        *response.body_mut() = body;
        Ok(response)
    }

    /// Sends what is there first, where that is asked for, and finds where the changes begin.
    async fn begin_watch(self: &Arc<Self>, w: &mut Watcher, call: Call, options: ListQuery) -> Result<(), Status> {
        let namespace = call
            .namespace
            .clone()
            .or_else(|| options.fields.only_namespace().map(str::to_owned));
        let scope = w.kind.scope(namespace.as_deref());
        let asked = options.initial_events == Some(true);
        let from = match options.version {
            Version::Exactly(n) if !asked => n,
            version => {
                if let (Version::Exactly(n), newest) = (version, self.store.revision())
                    && n > newest
                {
                    return Err(super::read::too_new(n, newest));
                }
                if asked && version == Version::Unset && !self.consistent_stream {
                    return Err(Status::new(
                        StatusCode::NOT_IMPLEMENTED,
                        "NotImplemented",
                        "streaming a consistent list is not enabled: use resourceVersion=0, or list and watch",
                    ));
                }
                if options.initial_events == Some(false) {
                    self.store.revision()
                } else {
                    let bare = ListQuery {
                        version: Version::Unset,
                        version_match: None,
                        limit: None,
                        token: None,
                        fields: Fields(options.fields.0.clone()),
                        ..options
                    };
                    let (_, page) = self.list(&w.kind, call.namespace, bare).await?;
                    let bytes = page.items.iter().map(|o| o.json.len()).sum();
                    w.initial = Some(self.budget.answer(bytes).await?);
                    for object in &page.items {
                        w.send(EventKind::Added, object)?;
                    }
                    if asked {
                        w.bookmark(page.revision, true)?;
                    }
                    page.revision
                }
            }
        };
        let watch = self
            .store
            .watch(scope, from)
            .map_err(|gone| Status::expired(format!("too old resource version: {} ({})", gone.asked, gone.newest)))?;
        w.watch = Some(watch);
        Ok(())
    }
}

/// The table of kinds as a watcher follows it: when its row is replaced or gone, the watch is over, and the client begins anew.
struct Table {
    core: Arc<Core>,
    replaced: tokio::sync::watch::Receiver<u64>,
}

impl Table {
    fn new(core: &Arc<Core>) -> Self {
        let mut replaced = core.table.subscribe();
        // The row may have been replaced since the request found it.
        replaced.mark_changed();
        Self {
            core: core.clone(),
            replaced,
        }
    }

    /// Ends when the row is not in the table any more.
    async fn outdates(table: Option<&mut Self>, kind: &Arc<KindSpec>) {
        if let Some(table) = table {
            while table.replaced.changed().await.is_ok() {
                let registry = table.core.registry();
                let row = registry.get(&kind.group, &kind.version, &kind.plural);
                if !row.is_some_and(|r| Arc::ptr_eq(r, kind)) {
                    return;
                }
            }
        }
        std::future::pending().await
    }
}

impl Watcher {
    /// The next bytes; none when the watch is over.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.out.pop_front() {
                return Some(bytes);
            }
            self.initial = None;
            let watch = self.watch.as_mut()?;
            let wake = self
                .ends
                .min(if self.bookmarks { self.next_bookmark } else { self.ends });
            tokio::select! {
                biased;
                () = self.drain.stopping() => return None,
                event = watch.next() => self.take(event),
                () = Table::outdates(self.table.as_mut(), &self.kind) => return None,
                () = sleep_until(wake) => self.tick()?,
            }
        }
    }

    fn take(&mut self, first: Result<Arc<Event>, WatchError>) {
        let mut next = match first {
            Ok(event) => Some(event),
            Err(WatchError::Gone(gone)) => {
                return self.error(&Status::expired(format!(
                    "too old resource version: {} ({})",
                    gone.asked, gone.newest
                )));
            }
            Err(WatchError::Closed) => {
                self.watch = None;
                return;
            }
            Err(WatchError::Read(e)) => {
                tracing::error!(error = %e, "A watch could not be read.");
                return self.error(&Status::internal("the changes cannot be read"));
            }
        };
        let mut bytes = 0;
        for _ in 0..BATCH {
            let Some(event) = next else { return };
            if let Err(status) = self.event(&event) {
                return self.error(&status);
            }
            bytes += event.object.json.len();
            if bytes >= BATCH_BYTES {
                return;
            }
            next = self.watch.as_mut().and_then(Watch::try_next);
        }
        // The last one taken belongs to the next batch.
        if let Some(event) = next
            && let Err(status) = self.event(&event)
        {
            self.error(&status);
        }
    }

    /// A change as this watcher sees it: an object that enters or leaves its selection is added or deleted.
    fn event(&mut self, event: &Event) -> Result<(), Status> {
        if self.filter.is_empty() {
            return self.send(event.kind, &event.object);
        }
        let selects = |o: &Object| self.filter.selects(&self.kind, o);
        let before = event.previous.as_ref().filter(|_| event.kind == EventKind::Modified);
        let seen = match event.kind {
            EventKind::Added | EventKind::Deleted => selects(&event.object).then_some(event.kind),
            EventKind::Modified => match (before.is_some_and(selects), selects(&event.object)) {
                (true, true) => Some(EventKind::Modified),
                (false, true) => Some(EventKind::Added),
                (true, false) => Some(EventKind::Deleted),
                (false, false) => None,
            },
        };
        match (seen, before) {
            (None, _) => Ok(()),
            (Some(EventKind::Deleted), Some(previous)) => {
                // The object as the client knows it, with the version of this change.
                let mut value = parse(previous)?;
                meta::of_mut(&mut value)?
                    .insert("resourceVersion".to_owned(), json!(event.object.revision.to_string()));
                let left = Object {
                    key: previous.key.clone(),
                    revision: event.object.revision,
                    json: encode(&value)?,
                };
                self.send(EventKind::Deleted, &left)
            }
            (Some(kind), _) => self.send(kind, &event.object),
        }
    }

    fn send(&mut self, kind: EventKind, object: &Object) -> Result<(), Status> {
        let body = if self.form == Form::Json && self.kind.is_stored_form(object.revision) {
            object.json.clone()
        } else {
            let mut value = parse(object)?;
            self.kind.show(&mut value);
            self.formed(value, object.revision)?
        };
        self.out.push_back(Bytes::from_static(head(kind)));
        self.out.push_back(body);
        self.out.push_back(Bytes::from_static(TAIL));
        Ok(())
    }

    fn formed(&mut self, value: Value, revision: u64) -> Result<Bytes, Status> {
        encode(&match self.form {
            Form::Table => {
                let row = table::row(&self.kind.columns, &value, self.include, daemon::clock::wall_ms());
                let metadata = json!({"resourceVersion": revision.to_string()});
                let first = !std::mem::replace(&mut self.defined, true);
                table::table(&self.kind.columns, vec![row], &metadata, first)
            }
            Form::Partial | Form::PartialList => table::partial(&value),
            Form::Json | Form::Aggregated(_) => value,
        })
    }

    /// Time for a bookmark, or for the end.
    fn tick(&mut self) -> Option<()> {
        let now = Instant::now();
        if now >= self.ends {
            return None;
        }
        if now >= self.next_bookmark {
            self.next_bookmark = now + BOOKMARK_EVERY;
            if let Some(revision) = self.watch.as_mut().and_then(Watch::bookmark)
                && let Err(status) = self.bookmark(revision, false)
            {
                self.error(&status);
            }
        }
        Some(())
    }

    fn bookmark(&mut self, revision: u64, end_of_initial: bool) -> Result<(), Status> {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if end_of_initial && let Value::Object(map) = &mut metadata {
            map.insert("annotations".to_owned(), json!({"k8s.io/initial-events-end": "true"}));
        }
        let object = json!({"kind": &*self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata});
        let body = self.formed(object, revision)?;
        self.out
            .push_back(Bytes::from_static(b"{\"type\":\"BOOKMARK\",\"object\":"));
        self.out.push_back(body);
        self.out.push_back(Bytes::from_static(TAIL));
        Ok(())
    }

    /// The last event: why it ends.
    fn error(&mut self, status: &Status) {
        self.out
            .push_back(Bytes::from_static(b"{\"type\":\"ERROR\",\"object\":"));
        self.out.push_back(status.to_json().into());
        self.out.push_back(Bytes::from_static(TAIL));
        self.watch = None;
    }
}
