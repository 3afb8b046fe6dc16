//! One connection's protocol as a state machine, for both roles. No I/O, no clock: frames and times come in, frames and events go out.
//!
//! Whoever drives it calls, after every input, [`Session::poll_transmit`] and [`Session::poll_event`] until both are empty, then waits
//! for the next frame, application call or [`Session::poll_timeout`]. An error from `handle_*` ends the session: `poll_transmit` still
//! gives one goodbye that tells the peer why.
//!
//! | state      | gateway                                  | hub                                                  |
//! |------------|------------------------------------------|------------------------------------------------------|
//! | `Opening`  | Hello is out, Welcome is awaited         | Hello is awaited                                     |
//! | `Greeted`  | -                                        | Hello came, the application decides: accept, refuse  |
//! | `Live`     | sets, journals, heartbeats               | the same                                             |
//! | `Ended`    | closed by either side or by an error     | the same                                             |
//!
//! The gateway is the source of the observed set and of the journals and the mirror of the desired set; the hub is the opposite. Memory:
//! an idle session costs this struct, its two sets and nothing else; what is in flight is bounded by the windows.

mod config;
mod event;
mod handshake;
mod inbox;
mod mirror;
mod outbox;
mod pulse;
mod source;

pub use config::{DropReason, DroppedRange, EdgeConfig, HubConfig, JournalCursor, Limits, StoredCursor};
pub use event::{Applied, Change, CloseReason, Digests, Event, KeyState, RefuseReason, Rotation, SessionError};

use crate::Now;
use crate::digest::{Digest, Hash, Key, entry_hash};
use crate::join::{chain_is_good, retry_after, shown};
use crate::limits;
use crate::set::{Inventory, SourceSet};
use crate::wire::{self, Frame, SetKind, frame::Kind};
use bytes::Bytes;
use inbox::Inbox;
use mirror::{Mirror, digest_bytes};
use outbox::Outbox;
use pulse::Pulse;
use source::Source;
use std::collections::VecDeque;

/// One connection's protocol. See the module's description for how to drive it.
#[derive(Debug)]
pub struct Session {
    role: Role,
    state: State,
    now: Now,
    started: Now,
    pulse: Pulse,
    ack_deadline: core::time::Duration,
    source: Source,
    mirror: Mirror,
    /// What the peer was last told of the own sets' digests in heartbeats, acknowledgements or batches: desired, observed.
    told: [Digest; 2],
    control: VecDeque<Kind>,
    events: VecDeque<Event>,
}

#[derive(Debug)]
enum Role {
    Edge {
        outbox: Outbox,
        rotation: Option<Rotate>,
        versions: limits::Versions,
    },
    Hub {
        inbox: Inbox,
        config: HubConfig,
        node: String,
        hello: Option<handshake::Greeting>,
        accepted: bool,
        rotating: bool,
    },
}

#[derive(Debug)]
struct Rotate {
    sent: Option<Now>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Opening,
    Greeted,
    Live,
    Ended,
}

/// Input from the connection and the clock.
impl Session {
    /// Takes a frame from the peer.
    ///
    /// # Errors
    /// Any: the peer broke a rule, the session has ended.
    pub fn handle_frame(&mut self, now: Now, frame: Frame) -> Result<(), SessionError> {
        self.tick(now);
        if self.state == State::Ended {
            return Err(SessionError::Ended);
        }
        self.pulse.heard(self.now);
        let Some(kind) = frame.kind else {
            // A kind that this version does not know.
            return Ok(());
        };
        self.dispatch(kind).map_err(|error| self.fail(error))
    }

    /// Time has passed.
    ///
    /// # Errors
    /// A deadline is over, the session has ended.
    pub fn handle_timeout(&mut self, now: Now) -> Result<(), SessionError> {
        self.tick(now);
        let now = self.now;
        match self.state {
            State::Ended => return Ok(()),
            State::Opening | State::Greeted => {
                if now >= self.started + limits::HANDSHAKE_DEADLINE {
                    return Err(self.fail(SessionError::HandshakeOverdue));
                }
                return Ok(());
            }
            State::Live => {}
        }
        if let Err(silence) = self.pulse.tick(now) {
            return Err(self.fail(SessionError::PeerSilent(silence)));
        }
        if self.ack_overdue_at().is_some_and(|at| now >= at) {
            let deadline = self.ack_deadline;
            return Err(self.fail(SessionError::AckOverdue(deadline)));
        }
        if self.rotation_overdue_at().is_some_and(|at| now >= at) {
            if let Role::Edge { rotation, .. } = &mut self.role {
                *rotation = None;
            }
            let reason = format!("the hub did not answer within {} s", limits::ROTATE_DEADLINE.as_secs());
            self.events.push_back(Event::Rotated(Rotation::Refused(reason)));
        }
        self.source.check(now, self.pulse.interval());
        Ok(())
    }

    /// The peer may have forgotten this session: a heartbeat goes out now, ahead of its time. Nothing else changes; a session that is not
    /// live asks nothing.
    pub fn nudge(&mut self, now: Now) {
        self.tick(now);
        if self.state == State::Live {
            self.pulse.ask_now(self.now);
        }
    }

    /// When [`Self::handle_timeout`] wants to be called, `None` = never. May be in the past: then at once. What was handed out by
    /// [`Self::poll_transmit`] gets its time by that call.
    pub fn poll_timeout(&self) -> Option<Now> {
        match self.state {
            State::Ended => None,
            State::Opening | State::Greeted => Some(self.started + limits::HANDSHAKE_DEADLINE),
            State::Live => {
                let others = [
                    self.ack_overdue_at(),
                    self.rotation_overdue_at(),
                    self.source.check_at(),
                ];
                Some(others.into_iter().flatten().fold(self.pulse.timeout(), Now::min))
            }
        }
    }

    /// The next frame for the peer; `None` when there is nothing to say or the window is full.
    pub fn poll_transmit(&mut self) -> Option<Frame> {
        if let Some(kind) = self.control.pop_front() {
            return Some(kind.into());
        }
        self.control = VecDeque::new();
        if self.state != State::Live {
            return None;
        }
        self.next_kind().map(Frame::from)
    }

    fn next_kind(&mut self) -> Option<Kind> {
        if let Some(answer) = self.pulse.take() {
            return Some(self.heartbeat(answer));
        }
        if let Some(refusals) = self.mirror.next_refusals() {
            return Some(Kind::Refusals(refusals));
        }
        if let Some(ack) = self.mirror.next_ack() {
            self.tell(self.mirror_kind(), self.mirror.inventory().digest());
            return Some(Kind::BatchAck(ack));
        }
        if let Role::Hub { inbox, .. } = &mut self.role
            && let Some(ack) = inbox.next_ack()
        {
            return Some(Kind::JournalAck(ack));
        }
        if let Some(request) = self.source.take_request() {
            return Some(Kind::InventoryRequest(request));
        }
        if let Some(page) = self.mirror.next_page() {
            if page.last {
                self.tell(self.mirror_kind(), self.mirror.inventory().digest());
            }
            return Some(Kind::InventoryPage(page));
        }
        if let Some(batch) = self.source.next_batch() {
            self.tell(self.source_kind(), self.source.set().digest());
            return Some(Kind::Batch(batch));
        }
        // A change told with a batch and undone before it was sent, or a copy lost by the mirror: the other side would not know.
        let ours = self.source.settled() && self.told(self.source_kind()) != self.source.set().digest();
        if ours || self.told(self.mirror_kind()) != self.mirror.inventory().digest() {
            return Some(self.heartbeat(true));
        }
        match &mut self.role {
            Role::Edge { outbox, .. } => outbox.next_frame(),
            Role::Hub { .. } => None,
        }
    }

    /// The next thing the application has to know or do.
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        self.events = VecDeque::new();
        if self.state != State::Live {
            return None;
        }
        if self.source.take_in_sync() {
            return Some(Event::InSync {
                set: self.source_kind(),
            });
        }
        if self.mirror.take_in_sync() {
            return Some(Event::InSync {
                set: self.mirror_kind(),
            });
        }
        match &mut self.role {
            Role::Edge { outbox, .. } => outbox.next_need(),
            Role::Hub { .. } => None,
        }
    }

    fn tick(&mut self, now: Now) {
        self.now = self.now.max(now);
        self.source.stamp(self.now);
        if let Role::Edge { outbox, rotation, .. } = &mut self.role {
            outbox.stamp(self.now);
            if let Some(rotation) = rotation {
                rotation.sent.get_or_insert(self.now);
            }
        }
    }

    fn ack_overdue_at(&self) -> Option<Now> {
        let journal = match &self.role {
            Role::Edge { outbox, .. } => outbox.awaiting(),
            Role::Hub { .. } => None,
        };
        let at = |(sent, bytes): (Option<Now>, usize)| {
            // Not stamped yet: wake up at once, the next call gives it its time.
            let Some(sent) = sent else { return self.now };
            let on_the_way = core::time::Duration::from_secs(1) * bytes as u32 / limits::SLOWEST_LINK;
            sent.max(self.pulse.heard_at()) + self.ack_deadline + on_the_way
        };
        [self.source.awaiting(), journal].into_iter().flatten().map(at).min()
    }

    fn rotation_overdue_at(&self) -> Option<Now> {
        match &self.role {
            Role::Edge {
                rotation: Some(rotation),
                ..
            } => Some(rotation.sent.map_or(self.now, |at| at + limits::ROTATE_DEADLINE)),
            _ => None,
        }
    }

    fn dispatch(&mut self, kind: Kind) -> Result<(), SessionError> {
        match (self.state, kind) {
            (_, Kind::Goodbye(goodbye)) => {
                self.state = State::Ended;
                self.control.clear();
                let retry_after = retry_after(goodbye.retry_after_ms);
                let reason = CloseReason::from_wire(goodbye.reason, retry_after);
                let detail = shown(&goodbye.detail);
                self.events.push_back(Event::PeerClosed {
                    reason,
                    detail,
                    retry_after,
                });
                Ok(())
            }
            (State::Opening, Kind::Hello(hello)) => self.on_hello(hello),
            (State::Opening, Kind::Welcome(welcome)) => self.on_welcome(&welcome),
            (State::Live, kind) => self.on_live(kind),
            (_, kind) => Err(SessionError::Unexpected(name_of(&kind))),
        }
    }

    fn on_live(&mut self, kind: Kind) -> Result<(), SessionError> {
        let name = name_of(&kind);
        match (&mut self.role, kind) {
            (_, Kind::Heartbeat(heartbeat)) => self.on_heartbeat(&heartbeat),
            (_, Kind::InventoryRequest(request)) => {
                self.need_set(request.set, self.mirror_kind())?;
                self.mirror.page(request.round);
                Ok(())
            }
            (_, Kind::InventoryPage(page)) => {
                self.need_set(page.set, self.source_kind())?;
                self.source.on_inventory(page)
            }
            (_, Kind::Refusals(refusals)) => {
                self.need_set(refusals.set, self.source_kind())?;
                self.source.on_refusals(refusals.entries, &mut self.events)
            }
            (_, Kind::Batch(batch)) => {
                self.need_set(batch.set, self.mirror_kind())?;
                let apply = self.mirror.on_batch(batch)?;
                self.events.push_back(apply);
                Ok(())
            }
            (_, Kind::BatchAck(ack)) => {
                self.need_set(ack.set, self.source_kind())?;
                let digest = Digest::from_slice(&ack.digest).ok_or(SessionError::Field("digest"))?;
                let keys = self.source.on_ack(ack.batch, digest)?;
                self.events.push_back(Event::Acked { keys });
                Ok(())
            }
            (Role::Hub { inbox, .. }, Kind::Journal(journal)) => inbox.on_records(&journal, &mut self.events),
            (Role::Hub { inbox, .. }, Kind::JournalDropped(dropped)) => inbox.on_dropped(&dropped, &mut self.events),
            (Role::Edge { outbox, .. }, Kind::JournalAck(ack)) => {
                self.events.extend(outbox.on_ack(&ack)?);
                Ok(())
            }
            (Role::Hub { rotating, .. }, Kind::Rotate(rotate)) if !*rotating => {
                if rotate.csr.is_empty() || rotate.csr.len() > limits::MAX_CSR {
                    return Err(SessionError::Field("certificate request"));
                }
                *rotating = true;
                self.events.push_back(Event::Rotate { csr: rotate.csr });
                Ok(())
            }
            (Role::Edge { rotation, .. }, Kind::Rotated(rotated)) => {
                // An answer that comes after its deadline was reported as refused: nobody waits for it.
                if rotation.take().is_some() {
                    self.events.push_back(Event::Rotated(read_rotation(rotated)?));
                }
                Ok(())
            }
            _ => Err(SessionError::Unexpected(name)),
        }
    }

    fn on_heartbeat(&mut self, heartbeat: &wire::Heartbeat) -> Result<(), SessionError> {
        for (set, bytes) in [
            (SetKind::Desired, &heartbeat.desired),
            (SetKind::Observed, &heartbeat.observed),
        ] {
            if bytes.is_empty() {
                continue;
            }
            let digest = Digest::from_slice(bytes).ok_or(SessionError::Field("digest"))?;
            if set == self.source_kind() {
                self.source.on_report(digest);
            } else {
                self.mirror.on_report(digest);
            }
        }
        match &mut self.role {
            _ if heartbeat.journals.is_empty() => {}
            Role::Hub { inbox, .. } if heartbeat.journals.len() <= limits::MAX_STREAMS => {
                for state in &heartbeat.journals {
                    self.events.extend(inbox.accepted(&state.stream, state.accepted_to)?);
                }
            }
            Role::Hub { .. } => return Err(SessionError::TooMany("journal streams")),
            Role::Edge { .. } => return Err(SessionError::Unexpected("the states of journals")),
        }
        if !heartbeat.answer {
            self.pulse.owe_answer();
        }
        Ok(())
    }

    /// A heartbeat with the digests and the journals that have changed since they were last told.
    fn heartbeat(&mut self, answer: bool) -> Kind {
        let news = |session: &mut Self, set: SetKind| {
            let digest = if set == session.source_kind() {
                session.source.set().digest()
            } else {
                session.mirror.inventory().digest()
            };
            if session.tell(set, digest) {
                digest_bytes(digest)
            } else {
                Bytes::new()
            }
        };
        let (desired, observed) = (news(self, SetKind::Desired), news(self, SetKind::Observed));
        Kind::Heartbeat(wire::Heartbeat {
            answer,
            desired,
            observed,
            journals: match &mut self.role {
                Role::Edge { outbox, .. } => outbox.news(),
                Role::Hub { .. } => Vec::new(),
            },
        })
    }

    fn told(&self, set: SetKind) -> Digest {
        self.told[usize::from(set == SetKind::Observed)]
    }

    /// Notes that the peer is told a digest; whether that is news.
    fn tell(&mut self, set: SetKind, digest: Digest) -> bool {
        let told = &mut self.told[usize::from(set == SetKind::Observed)];
        core::mem::replace(told, digest) != digest
    }

    fn need_set(&self, got: i32, want: SetKind) -> Result<(), SessionError> {
        if got == want as i32 {
            Ok(())
        } else {
            Err(SessionError::Unexpected("a frame for the other set"))
        }
    }

    fn source_kind(&self) -> SetKind {
        match self.role {
            Role::Edge { .. } => SetKind::Observed,
            Role::Hub { .. } => SetKind::Desired,
        }
    }

    fn mirror_kind(&self) -> SetKind {
        match self.role {
            Role::Edge { .. } => SetKind::Desired,
            Role::Hub { .. } => SetKind::Observed,
        }
    }

    fn fail(&mut self, error: SessionError) -> SessionError {
        self.end(error.reason(), shown(&error.to_string()));
        error
    }

    fn end(&mut self, reason: CloseReason, detail: String) {
        if self.state == State::Ended {
            return;
        }
        self.state = State::Ended;
        self.control.clear();
        let (reason, retry_after_ms) = reason.to_wire();
        self.control.push_back(Kind::Goodbye(wire::Goodbye {
            reason: reason as i32,
            detail,
            retry_after_ms,
        }));
    }
}

/// Input from the application.
impl Session {
    /// The own set has this entry now. Only the newest body of a key is sent. A body that cannot travel comes back as
    /// [`Event::Refused`]. On the hub it has no effect before [`Self::accept`], which brings the whole set.
    pub fn source_put(&mut self, key: impl Into<Key>, body: impl Into<Bytes>) {
        let (key, body) = (key.into(), body.into());
        let hash = entry_hash(&key, &body);
        self.source_put_hashed(key, hash, body);
    }

    /// The same with a hash that the caller has; it must be `entry_hash(key, body)`.
    pub fn source_put_hashed(&mut self, key: Key, hash: Hash, body: Bytes) {
        self.events.extend(self.source.put(key, hash, body));
    }

    /// The own set has this entry no longer.
    pub fn source_remove(&mut self, key: impl AsRef<str>) {
        self.source.remove(key.as_ref());
    }

    /// The mirror's application committed everything up to and with this batch durably, except what is refused by key. Acknowledges.
    /// Batches are applied in order; one call may cover several. A number that is not with the application is ignored.
    pub fn applied(&mut self, batch: u64, applied: Applied) {
        self.mirror.applied(batch, applied);
    }

    /// The mirror's application lost what it held under a key (a damaged store): the source will send it again.
    pub fn mirror_forget(&mut self, key: impl AsRef<str>) {
        self.mirror.forget(key.as_ref());
    }

    /// The reason why the mirror's application refused a body has gone: the source will send it again. Nothing when none was refused.
    pub fn mirror_reconsider(&mut self, key: impl AsRef<str>) {
        self.mirror.reconsider(key.as_ref());
    }

    /// Edge: the store accepted records up to this number. A stream that Hello did not name begins here.
    pub fn journal_appended(&mut self, stream: &str, upto_seq: u64) {
        if let Role::Edge { outbox, .. } = &mut self.role {
            outbox.appended(stream, upto_seq);
        }
    }

    /// Edge: the answer to [`Event::NeedJournal`], records of consecutive numbers from `first_seq`. Numbers left out between the one
    /// asked for and the first given are told to the hub as missing.
    pub fn journal_read(&mut self, stream: &str, first_seq: u64, records: Vec<Bytes>) {
        if let Role::Edge { outbox, .. } = &mut self.role {
            outbox.read(stream, first_seq, records);
        }
    }

    /// Edge: a bound of the store forced these out. What of them was sent already stays sent; for the rest the hub is told.
    pub fn journal_dropped(&mut self, stream: &str, from: u64, to: u64, reason: DropReason) {
        if let Role::Edge { outbox, .. } = &mut self.role {
            outbox.dropped(stream, DroppedRange { from, to, reason });
        }
    }

    /// Hub: everything of this stream up to the cursor is safe in the sink, dropped ranges accounted. Acknowledges.
    pub fn journal_stored(&mut self, stream: &str, cursor: u64) {
        if let Role::Hub { inbox, .. } = &mut self.role {
            inbox.stored(stream, cursor);
        }
    }

    /// Edge: asks for a new certificate; [`Event::Rotated`] answers, within [`limits::ROTATE_DEADLINE`]. False when the session is not
    /// established or a request is under way already.
    pub fn rotate(&mut self, csr: impl Into<Bytes>) -> bool {
        match &mut self.role {
            Role::Edge {
                rotation: rotation @ None,
                ..
            } if self.state == State::Live => {
                *rotation = Some(Rotate { sent: None });
                self.control.push_back(Kind::Rotate(wire::Rotate { csr: csr.into() }));
                true
            }
            _ => false,
        }
    }

    /// Hub: the answer to [`Event::Rotate`].
    pub fn rotated(&mut self, outcome: Rotation) {
        if let Role::Hub {
            rotating: rotating @ true,
            ..
        } = &mut self.role
            && self.state == State::Live
        {
            *rotating = false;
            let rotated = match outcome {
                Rotation::Issued(chain) => wire::Rotated {
                    chain,
                    refused: String::new(),
                },
                Rotation::Refused(reason) if reason.is_empty() => wire::Rotated {
                    refused: "refused".into(),
                    ..Default::default()
                },
                Rotation::Refused(reason) => wire::Rotated {
                    refused: shown(&reason),
                    ..Default::default()
                },
            };
            self.control.push_back(Kind::Rotated(rotated));
        }
    }

    /// Hub: no, instead of [`Self::accept`].
    pub fn refuse(&mut self, reason: RefuseReason) {
        self.close(reason);
    }

    /// Ends the session; the peer is told why by the last frame.
    pub fn close(&mut self, reason: CloseReason) {
        self.end(reason, String::new());
    }
}

/// What is known.
impl Session {
    /// Both sets as both sides have them, as far as this side knows.
    pub fn digests(&self) -> Digests {
        let ours = (
            self.source.set().digest(),
            self.source.reported(),
            self.source.refused_len(),
        );
        let theirs = (
            self.mirror.inventory().digest(),
            self.mirror.source(),
            self.mirror.inventory().refused_len(),
        );
        let (desired, observed) = match self.role {
            Role::Edge { .. } => (theirs, ours),
            Role::Hub { .. } => (ours, theirs),
        };
        Digests {
            desired_local: desired.0,
            desired_peer: desired.1,
            desired_refused: desired.2,
            observed_local: observed.0,
            observed_peer: observed.1,
            observed_refused: observed.2,
            in_sync: self.state == State::Live && self.source.settled() && self.mirror.settled(),
        }
    }

    /// Whether the handshake is done and nothing has ended the session.
    pub fn is_live(&self) -> bool {
        self.state == State::Live
    }

    /// Whether it has ended; a last frame may still be there for [`Self::poll_transmit`].
    pub fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Edge: every accepted record is stored at the hub or accounted there as dropped. Always true on the hub.
    pub fn journals_settled(&self) -> bool {
        match &self.role {
            Role::Edge { outbox, .. } => outbox.settled(),
            Role::Hub { .. } => true,
        }
    }

    /// The own set.
    pub fn source(&self) -> &SourceSet {
        self.source.set()
    }

    /// What the mirror here holds of the peer's set.
    pub fn inventory(&self) -> &Inventory {
        self.mirror.inventory()
    }

    /// Both sets, to be given to the next session. `None` on a hub that never accepted: it was never given them.
    pub fn into_sets(self) -> Option<(SourceSet, Inventory)> {
        match self.role {
            Role::Hub { accepted: false, .. } => None,
            _ => Some((self.source.into_set(), self.mirror.into_inventory())),
        }
    }

    /// Entries of the own set that the peer has not dealt with yet, waiting or in flight.
    pub fn waiting(&self) -> usize {
        self.source.waiting()
    }

    /// Where an entry of the own set stands.
    pub fn key_state(&self, key: &str) -> KeyState {
        self.source.key_state(key)
    }

    /// Entries of the own set that the peer refused or that cannot travel, with the reason.
    pub fn refused(&self) -> impl Iterator<Item = (&Key, String)> {
        self.source.refused()
    }
}

fn read_rotation(rotated: wire::Rotated) -> Result<Rotation, SessionError> {
    if !rotated.refused.is_empty() {
        return Ok(Rotation::Refused(shown(&rotated.refused)));
    }
    if !chain_is_good(&rotated.chain) {
        return Err(SessionError::Field("certificate chain"));
    }
    Ok(Rotation::Issued(rotated.chain))
}

fn name_of(kind: &Kind) -> &'static str {
    match kind {
        Kind::Hello(_) => "a Hello",
        Kind::Welcome(_) => "a Welcome",
        Kind::Goodbye(_) => "a Goodbye",
        Kind::Heartbeat(_) => "a heartbeat",
        Kind::InventoryRequest(_) => "a request for an inventory",
        Kind::InventoryPage(_) => "an inventory",
        Kind::Refusals(_) => "refusals",
        Kind::Batch(_) => "a batch",
        Kind::BatchAck(_) => "an acknowledgement",
        Kind::Journal(_) => "journal records",
        Kind::JournalDropped(_) => "a dropped range",
        Kind::JournalAck(_) => "a journal acknowledgement",
        Kind::Rotate(_) => "a request for a certificate",
        Kind::Rotated(_) => "a certificate",
        Kind::JoinRequest(_) => "a join request",
        Kind::JoinResponse(_) => "a join response",
    }
}
