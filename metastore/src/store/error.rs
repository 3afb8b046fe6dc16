//! What can go wrong, and whose fault it is. SQLite's result codes are sorted here and nowhere else.

use std::{path::PathBuf, sync::Arc};

use rusqlite::ErrorCode;

use super::ObjectKey;

/// Why a transaction was not committed. None of its operations happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// [`Expect::Revision`](super::Expect::Revision) named another revision than the stored one.
    #[error("{key} was changed meanwhile: expected revision {expected}, it is at {found}")]
    Conflict { key: ObjectKey, expected: u64, found: u64 },
    /// The uid precondition named another object of the same name.
    #[error("{key} is another object of that name: expected uid {expected:?}, found {found:?}")]
    UidConflict {
        key: ObjectKey,
        expected: String,
        found: String,
    },
    /// [`Op::KvExpect`](super::Op::KvExpect) named another value than the stored one.
    #[error("a key of {bucket} was changed meanwhile")]
    KvConflict { bucket: Arc<str> },
    /// The object must be there and is not.
    #[error("{0} does not exist")]
    NotFound(ObjectKey),
    /// The object must not be there and is.
    #[error("{0} already exists")]
    Exists(ObjectKey),
    /// The operation can never be stored as it is.
    #[error("{what} cannot be stored: {reason}")]
    Invalid { what: String, reason: &'static str },
    /// A Secret was written to a store opened without a seal key.
    #[error("{0} cannot be stored: the store was opened without a key to seal secrets with")]
    NoSealKey(ObjectKey),
    /// The disk, or the size the store may have, is full. It stays usable and accepts writes again when there is space.
    #[error("no space left for the store")]
    Full,
    /// More is waiting than the queue may hold. Wait with [`Store::commit`](super::Store::commit) instead, or try later.
    #[error("the store has more work waiting than it may queue")]
    Overloaded,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The file is damaged. Nothing more is served from it; open the store again to set it aside.
    #[error("the store file is damaged: {0}")]
    Corrupt(Arc<str>),
    /// The disk failed. Whether the next attempt works is the disk's to say.
    #[error("the store cannot be written: {0}")]
    Io(Arc<str>),
}

/// Why the store could not be opened or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another process (or another `Store` of this one) has the file open.
    #[error("{} is in use by another process; stop it first", .0.display())]
    Locked(PathBuf),
    /// The file was written by a newer version of this program.
    #[error("the store file has layout {found}, this version knows up to {known}; use the newer version again")]
    NewerLayout { found: u32, known: u32 },
    /// The seal key is not the one the file's Secrets were sealed with.
    #[error("the seal key is not the one this store's secrets were sealed with")]
    WrongSealKey,
    /// A Secret was asked for without a key, or its row was moved or altered.
    #[error("{0} cannot be unsealed")]
    Sealed(ObjectKey),
    /// The revision asked for is not covered.
    #[error(transparent)]
    Gone(#[from] Gone),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The file is damaged. Nothing more is served from it; open the store again to set it aside.
    #[error("the store file is damaged: {0}")]
    Corrupt(Arc<str>),
    /// No space left.
    #[error("no space left for the store")]
    Full,
    /// The file cannot be read or written.
    #[error("the store cannot be read: {0}")]
    Io(Arc<str>),
}

/// The revision asked for is older than the change log reaches, or newer than the store is. Start over with a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("revision {asked} is not available: this store covers {oldest} to {newest}")]
pub struct Gone {
    /// The revision asked for.
    pub asked: u64,
    /// The oldest revision that can be listed at or watched from.
    pub oldest: u64,
    /// The newest revision.
    pub newest: u64,
}

/// Why a watch ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The watcher was too slow and the changes it still had to see are no longer kept.
    #[error(transparent)]
    Gone(#[from] Gone),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The changes could not be read.
    #[error(transparent)]
    Read(StoreError),
}

/// What an error of SQLite means to the store.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    Full,
    Corrupt(Arc<str>),
    Io(Arc<str>),
}

/// `SQLITE_IOERR_SHMSIZE`: the wal-index could not grow, which is how a full disk shows there.
const IOERR_SHMSIZE: i32 = 10 | (19 << 8);

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        let text: Arc<str> = error.to_string().into();
        match &error {
            rusqlite::Error::SqliteFailure(e, _) => match e.code {
                ErrorCode::DiskFull => Self::Full,
                _ if e.extended_code == IOERR_SHMSIZE => Self::Full,
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Self::Corrupt(text),
                _ => Self::Io(text),
            },
            // A row that does not have the shape that only this store writes.
            rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::Utf8Error(..) => Self::Corrupt(text),
            _ => Self::Io(text),
        }
    }
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::StorageFull {
            Self::Full
        } else {
            Self::Io(error.to_string().into())
        }
    }
}

impl From<Fault> for CommitError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Full => Self::Full,
            Fault::Corrupt(why) => Self::Corrupt(why),
            Fault::Io(why) => Self::Io(why),
        }
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Full => Self::Full,
            Fault::Corrupt(why) => Self::Corrupt(why),
            Fault::Io(why) => Self::Io(why),
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Fault::from(error).into()
    }
}
