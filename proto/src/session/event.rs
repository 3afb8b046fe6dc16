//! What a session tells its application, and the errors that end it.

use super::config::{DropReason, JournalCursor, Limits};
use crate::codec::CodecError;
use crate::compress::UnpackError;
use crate::digest::{Digest, Hash, Key};
use crate::limits::Versions;
use crate::wire::GoodbyeReason;
use bytes::Bytes;
use core::time::Duration;
use std::sync::Arc;

/// For the application, in the order of what happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Hub: a gateway is there and waits for [`accept`](super::Session::accept) or [`refuse`](super::Session::refuse).
    Hello {
        /// Its agent.
        agent_version: String,
        /// Another number than before: the agent was restarted.
        boot_id: u64,
        /// Another number than before: its store was lost, journals begin anew.
        instance: u64,
        /// What it can do beyond the version.
        capabilities: Vec<String>,
        /// The version both speak.
        version: u32,
        /// What it holds of the desired set.
        desired: Digest,
        /// Its observed set.
        observed: Digest,
        /// Its journals.
        journals: Vec<JournalCursor>,
    },
    /// Edge: the hub took the session.
    Welcome {
        /// Of this session.
        epoch: u64,
        /// Which hub.
        hub_id: String,
        /// The version both speak.
        version: u32,
        /// In force from now on.
        limits: Limits,
        /// What the hub can do beyond the version.
        capabilities: Vec<String>,
    },
    /// Mirror: commit these in one transaction, in order, then call [`applied`](super::Session::applied). May be empty.
    Apply {
        /// To be named in `applied`.
        batch: u64,
        /// A key occurs more than once at most from a strange peer; the last one counts.
        changes: Vec<Change>,
    },
    /// Source: the mirror has dealt with these bodies durably, except those told by [`Event::Refused`].
    Acked {
        /// A key whose body has changed again since is sent again.
        keys: Vec<Key>,
    },
    /// Both sides of this set are equal now, as far as this side can know: the source has nothing left to send; the mirror has dealt
    /// with all that the source had when it sent its last batch.
    InSync {
        /// Which of the two.
        set: crate::wire::SetKind,
    },
    /// Source: the mirror refused this body; it is not sent again until it changes. Also for a body that cannot travel.
    Refused {
        /// Which entry.
        key: Key,
        /// For people.
        reason: String,
    },
    /// Edge: read records from here on, up to `max_bytes` in all but at least one, and give them to
    /// [`journal_read`](super::Session::journal_read).
    NeedJournal {
        /// Which stream.
        stream: Arc<str>,
        /// First number wanted.
        from: u64,
        /// Bytes wanted at most.
        max_bytes: usize,
    },
    /// Hub: store these under (node, instance, stream, seq), then call [`journal_stored`](super::Session::journal_stored).
    Journal {
        /// Which stream.
        stream: Arc<str>,
        /// Number of the first record.
        first_seq: u64,
        /// Records of consecutive numbers.
        records: Vec<Bytes>,
    },
    /// Hub: this range will never come; account it, then call [`journal_stored`](super::Session::journal_stored).
    JournalDropped {
        /// Which stream.
        stream: Arc<str>,
        /// First.
        from: u64,
        /// Last.
        to: u64,
        /// Why.
        reason: DropReason,
    },
    /// Hub: the gateway has accepted records up to here, more than this session's events said before. What of them is not stored yet
    /// waits at the gateway or is on its way. Comes before the records that told it; what was so at the beginning stands in
    /// [`Event::Hello`].
    JournalAccepted {
        /// Which stream.
        stream: Arc<str>,
        /// Highest number accepted.
        accepted_to: u64,
    },
    /// Edge: the hub has everything up to the cursor; trim.
    JournalAcked {
        /// Which stream.
        stream: Arc<str>,
        /// Stored or accounted up to here.
        cursor: u64,
        /// How many of 1..=cursor were accounted as dropped, all others were stored.
        dropped: u64,
    },
    /// Edge: the hub has more of this stream than the store ever accepted, so the store went back in time (a restored copy). Begin a
    /// new instance: records under numbers the hub knows would be taken for repetitions. Nothing of this stream is sent until then.
    JournalAhead {
        /// Which stream.
        stream: Arc<str>,
        /// Up to where the hub has records.
        cursor: u64,
    },
    /// Hub: the gateway asks for a new certificate; answer with [`rotated`](super::Session::rotated).
    Rotate {
        /// PKCS#10 DER.
        csr: Bytes,
    },
    /// Edge: the answer.
    Rotated(Rotation),
    /// The peer ended the session, or refused the Hello.
    PeerClosed {
        /// Why.
        reason: CloseReason,
        /// For people; may be empty.
        detail: String,
        /// Not to come back before.
        retry_after: Option<Duration>,
    },
}

/// One change of a mirrored set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which entry.
    pub key: Key,
    /// The new body; `None` = removed.
    pub body: Option<Bytes>,
    /// To be kept with the body, so that the inventory can be built again without hashing. 0 for a removal.
    pub hash: Hash,
}

/// What the mirror did with a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Keys that were not applied, with the reason. All others are durable.
    pub refused: Vec<(Key, String)>,
}

/// The hub's answer to a request for a new certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// DER, leaf first.
    Issued(Vec<Bytes>),
    /// For people.
    Refused(String),
}

/// Why a session ends by someone's will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// This side stops or drains.
    Shutdown,
    /// Too much to do; come back then.
    Busy {
        /// Not before.
        retry_after: Duration,
    },
    /// A newer session of the same node took over.
    Fenced,
    /// The certificate was revoked.
    Revoked,
    /// No common version.
    Version,
    /// The hub knows no such node.
    UnknownNode,
    /// The peer broke a rule.
    Protocol,
    /// The peer was silent.
    Timeout,
    /// This side failed.
    Internal,
}

/// Why a Hello is refused; the same reasons.
pub type RefuseReason = CloseReason;

impl CloseReason {
    pub(super) fn to_wire(self) -> (GoodbyeReason, u32) {
        let reason = match self {
            Self::Shutdown => GoodbyeReason::Shutdown,
            Self::Busy { retry_after } => return (GoodbyeReason::Busy, crate::join::millis(retry_after)),
            Self::Fenced => GoodbyeReason::Fenced,
            Self::Revoked => GoodbyeReason::Revoked,
            Self::Version => GoodbyeReason::Version,
            Self::UnknownNode => GoodbyeReason::UnknownNode,
            Self::Protocol => GoodbyeReason::Protocol,
            Self::Timeout => GoodbyeReason::Timeout,
            Self::Internal => GoodbyeReason::Internal,
        };
        (reason, 0)
    }

    pub(super) fn from_wire(reason: i32, retry_after: Option<Duration>) -> Self {
        match GoodbyeReason::try_from(reason) {
            Ok(GoodbyeReason::Shutdown) => Self::Shutdown,
            Ok(GoodbyeReason::Busy) => Self::Busy {
                retry_after: retry_after.unwrap_or_default(),
            },
            Ok(GoodbyeReason::Fenced) => Self::Fenced,
            Ok(GoodbyeReason::Revoked) => Self::Revoked,
            Ok(GoodbyeReason::Version) => Self::Version,
            Ok(GoodbyeReason::UnknownNode) => Self::UnknownNode,
            Ok(GoodbyeReason::Protocol) => Self::Protocol,
            Ok(GoodbyeReason::Timeout) => Self::Timeout,
            Ok(GoodbyeReason::Internal | GoodbyeReason::Unspecified) | Err(_) => Self::Internal,
        }
    }
}

/// Where an entry of this side's set stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Not in the set, and the mirror knows.
    Absent,
    /// The mirror has dealt with the newest body.
    Delivered,
    /// The newest body waits to be sent.
    Waiting,
    /// A body is on its way, not acknowledged.
    InFlight,
    /// The mirror refused the newest body.
    Refused(String),
}

/// Both sets as both sides have them, as far as this side knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digests {
    /// Here.
    pub desired_local: Digest,
    /// At the peer, as it last said.
    pub desired_peer: Digest,
    /// Here.
    pub observed_local: Digest,
    /// At the peer, as it last said.
    pub observed_peer: Digest,
    /// Desired entries the gateway refused; they count as dealt with in the digests.
    pub desired_refused: usize,
    /// Observed entries the hub refused.
    pub observed_refused: usize,
    /// Established, both sets equal, nothing waiting or in flight.
    pub in_sync: bool,
}

/// Ends the session. What is on the wire after it means nothing; connect again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// No frame for two and a half heartbeats.
    #[error("the peer has been silent for {} s", .0.as_secs())]
    PeerSilent(Duration),
    /// Data in flight and no word from the peer.
    #[error("no acknowledgement for data in flight within {} s", .0.as_secs())]
    AckOverdue(Duration),
    /// The handshake was not finished in time.
    #[error("the handshake was not finished in time")]
    HandshakeOverdue,
    /// A frame that has no place in this state or for this role.
    #[error("the peer sends {0}, which has no place here")]
    Unexpected(&'static str),
    /// The certificate is another node's.
    #[error("the peer calls itself {said:?} and its certificate says {is:?}")]
    WrongNode {
        /// In Hello.
        said: String,
        /// In the certificate.
        is: String,
    },
    /// No common version.
    #[error("the peer speaks versions {} to {}, this side {} to {}", .peer.min, .peer.max, .here.min, .here.max)]
    Version {
        /// Theirs.
        peer: Versions,
        /// Ours.
        here: Versions,
    },
    /// A field outside its bounds.
    #[error("the peer sends a {0} that is missing, too long or not valid")]
    Field(&'static str),
    /// More than was agreed.
    #[error("the peer sends more {0} than agreed")]
    TooMany(&'static str),
    /// A number out of its order.
    #[error("the peer sends {what} number {got} where {want} comes next")]
    Order {
        /// Of what.
        what: &'static str,
        /// What would be right.
        want: u64,
        /// What came.
        got: u64,
    },
    /// A body that does not decode.
    #[error("the peer sends {0}")]
    Unpack(#[from] UnpackError),
    /// Bytes that are no frame (for drivers: the session itself takes frames).
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The session had ended before.
    #[error("the session has ended")]
    Ended,
}

impl SessionError {
    /// What the peer is told.
    pub fn reason(&self) -> CloseReason {
        match self {
            Self::PeerSilent(_) | Self::AckOverdue(_) | Self::HandshakeOverdue => CloseReason::Timeout,
            Self::Version { .. } => CloseReason::Version,
            _ => CloseReason::Protocol,
        }
    }
}
