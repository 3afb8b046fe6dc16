//! What gateways and the hub say to each other: messages, framing, limits, and the session as a state machine.
//!
//! This crate does no I/O, reads no clock and starts no task. Time is an argument ([`Now`]), frames go in and come out; whoever has the
//! socket drives it (`link::driver`). Everything a peer sends is taken as hostile: lengths are held to [`limits`] before anything is
//! allocated, a broken rule ends the session with a typed error, nothing panics.
//!
//! - [`wire`]: the messages, generated from `proto/kurator.proto`; [`Codec`]: frames to bytes and back.
//! - [`SourceSet`], [`Inventory`], [`Digest`]: the two ends of a replicated set as data.
//! - [`Session`]: one connection's protocol, for both roles: resume, replica in both directions, journals, heartbeats.
//! - [`JoinToken`], [`join`]: enrolment.

mod codec;
mod compress;
mod digest;
#[doc(hidden)]
pub mod fuzzing;
pub mod join;
pub mod limits;
mod session;
mod set;
mod token;
pub mod wire;

pub use codec::{Codec, CodecError};
pub use compress::UnpackError;
pub use digest::{Digest, Hash, Key, entry_hash};
pub use session::{
    Applied, Change, CloseReason, Digests, DropReason, DroppedRange, EdgeConfig, Event, HubConfig, JournalCursor,
    KeyState, Limits, RefuseReason, Rotation, Session, SessionError, StoredCursor,
};
pub use set::{Inventory, Refusal, SourceSet, Unfit, check_entry};
pub use token::{JoinToken, Secret, TokenError, secret_hash};
pub use wire::SetKind;

/// Time since an origin of the caller's choice, the same for every call on one session, never running backwards.
pub type Now = core::time::Duration;
