//! One watcher's place in the stream of changes.
//!
//! A watch is a cursor into its kind's [`feed`](super::feed) and a bell. When memory does not reach back to the cursor, changes
//! come from the log in the file; when that does not reach back either, the watch is [`Gone`]. It keeps no queue of its own
//! beyond one page from the log, so a slow watcher costs nobody anything.

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::watch;

use super::{
    Event, Scope, Shared, StoreError, WatchError,
    error::Gone,
    feed::{Feed, Next},
    read,
};

/// Changes of one scope, each once, in revision order. Dropping it is all there is to stopping it.
pub struct Watch {
    shared: Arc<Shared>,
    feed: Arc<Feed>,
    bell: watch::Receiver<u64>,
    scope: Scope,
    /// Everything up to here was handed out or does not concern the scope.
    cursor: u64,
    /// From the log, not yet handed out.
    backlog: VecDeque<Arc<Event>>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch")
            .field("scope", &self.scope)
            .field("cursor", &self.cursor)
            .finish_non_exhaustive()
    }
}

impl Watch {
    pub(super) fn start(shared: Arc<Shared>, scope: Scope, from: u64) -> Result<Self, Gone> {
        let newest = match shared.revision() {
            newest if from <= newest => newest,
            // A reader sees a commit in the file a moment before the writer has announced it.
            _ => read::revision(&shared).unwrap_or(0),
        };
        let feed = shared.feeds.feed(&scope);
        let gone = |oldest| Gone {
            asked: from,
            oldest,
            newest,
        };
        if from > newest {
            return Err(gone(shared.compacted()));
        }
        if from < feed.evicted() && from < shared.compacted() {
            return Err(gone(shared.compacted()));
        }
        let bell = feed.bell();
        Ok(Self {
            shared,
            feed,
            bell,
            scope,
            cursor: from,
            backlog: VecDeque::new(),
        })
    }

    /// The next change. Safe to drop half-way: nothing is skipped.
    ///
    /// # Errors
    /// [`WatchError::Gone`] when the watcher fell behind what is kept: list again and watch from there.
    pub async fn next(&mut self) -> Result<Arc<Event>, WatchError> {
        loop {
            self.bell.borrow_and_update();
            if let Some(event) = self.try_next() {
                return Ok(event);
            }
            self.shared.check_open().map_err(|e| match e {
                StoreError::Closed => WatchError::Closed,
                other => WatchError::Read(other),
            })?;
            if self.cursor < self.feed.evicted() {
                self.read_log().await?;
                continue;
            }
            if self.bell.changed().await.is_err() {
                return Err(WatchError::Closed);
            }
        }
    }

    /// The next change if it is in memory already, to take several without waiting between them.
    pub fn try_next(&mut self) -> Option<Arc<Event>> {
        if let Some(event) = self.backlog.pop_front() {
            self.cursor = event.object.revision;
            return Some(event);
        }
        match self.feed.next(self.cursor, &self.scope) {
            Next::Event(event) => {
                self.cursor = event.object.revision;
                Some(event)
            }
            Next::Nothing(upto) => {
                self.cursor = upto;
                None
            }
            Next::Missed => None,
        }
    }

    /// The revision up to which this watcher has been handed everything: what a bookmark may say. `None` while there is
    /// something it has not taken yet.
    pub fn bookmark(&mut self) -> Option<u64> {
        // Taken first: whatever is up to here has been published to the feeds before it was announced.
        let announced = self.shared.revision();
        if !self.backlog.is_empty() {
            return None;
        }
        match self.feed.next(self.cursor, &self.scope) {
            Next::Nothing(upto) => {
                self.cursor = upto.max(announced);
                Some(self.cursor)
            }
            Next::Event(_) | Next::Missed => None,
        }
    }

    /// Fetches a page of changes from the file.
    async fn read_log(&mut self) -> Result<(), WatchError> {
        let (shared, scope, cursor) = (self.shared.clone(), self.scope.clone(), self.cursor);
        let upto = self.feed.evicted();
        let page = tokio::task::spawn_blocking(move || read::changes(&shared, &scope, cursor, upto)).await;
        // Only a runtime on its way down does not run it.
        let Ok(page) = page else { return Err(WatchError::Closed) };
        match page {
            Ok(page) => {
                if page.events.is_empty() {
                    self.cursor = self.cursor.max(page.upto);
                }
                self.backlog.extend(page.events);
                Ok(())
            }
            Err(StoreError::Gone(gone)) => Err(WatchError::Gone(gone)),
            Err(StoreError::Closed) => Err(WatchError::Closed),
            Err(other) => Err(WatchError::Read(other)),
        }
    }
}
