//! The words the store speaks: keys, objects, operations, scopes, events. Plain data, no behaviour beyond conversion.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use serde_json::Value;

/// Largest object accepted, in bytes of its JSON.
pub const MAX_OBJECT: usize = 1536 * 1024;
/// Largest key-value or journal body accepted, in bytes.
pub const MAX_VALUE: usize = 4 * 1024 * 1024;
/// Longest group, resource, namespace, name, bucket, stream or key, in bytes.
pub const MAX_NAME: usize = 512;

/// Names one object. Orders as lists do: by group, resource, namespace, name, each bytewise.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// API group, empty for core.
    pub group: Arc<str>,
    /// Plural resource name, `pods`.
    pub resource: Arc<str>,
    /// Namespace, empty for cluster scope.
    pub namespace: Arc<str>,
    /// Object name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// Builds a key from its four parts.
    pub fn new(
        group: impl Into<Arc<str>>,
        resource: impl Into<Arc<str>>,
        namespace: impl Into<Arc<str>>,
        name: impl Into<Arc<str>>,
    ) -> Self {
        Self {
            group: group.into(),
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Whether the body of this object is sealed at rest: Secrets, and Works, as the objects that a Work carries may be Secrets.
    pub fn is_secret(&self) -> bool {
        match &*self.resource {
            "secrets" => self.group.is_empty(),
            "works" => &*self.group == "work.karmada.io",
            _ => false,
        }
    }
}

/// `group/resource/namespace/name`, the replica key of the object.
impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.group, self.resource, self.namespace, self.name)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One version of one object. Cheap to clone: the JSON is shared.
#[derive(Clone, PartialEq, Eq)]
pub struct Object {
    /// Its name.
    pub key: ObjectKey,
    /// The revision that wrote it, equal to `metadata.resourceVersion`.
    pub revision: u64,
    /// The complete JSON, `metadata.resourceVersion` included, keys sorted.
    pub json: Bytes,
}

impl Object {
    /// Parses the JSON.
    ///
    /// # Errors
    /// Only when the file was edited by hand: everything the store writes is JSON.
    pub fn value(&self) -> Result<Value, serde_json::Error> {
        serde_json::from_slice(&self.json)
    }
}

/// Shows the size and never the content, which may be a Secret.
impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Object({} @{}, {} bytes)", self.key, self.revision, self.json.len())
    }
}

/// What must hold of the stored object for an operation to go through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expect {
    /// Anything, also nothing.
    #[default]
    Any,
    /// No such object ([`CommitError::Exists`](super::CommitError::Exists) otherwise).
    Absent,
    /// There is one ([`CommitError::NotFound`](super::CommitError::NotFound) otherwise).
    Present,
    /// There is one and its revision is this ([`CommitError::Conflict`](super::CommitError::Conflict) otherwise).
    Revision(u64),
}

/// One step of a [`Tx`].
#[derive(Clone)]
pub enum Op {
    /// Writes an object. `metadata.resourceVersion` in it is ignored and set by the store; everything else is kept.
    /// Writing what is already stored, byte for byte, changes nothing and takes no revision.
    Put {
        key: ObjectKey,
        object: Value,
        expect: Expect,
        uid: Option<String>,
    },
    /// Removes an object. With [`Expect::Any`] an absent object is no error.
    Delete {
        key: ObjectKey,
        expect: Expect,
        uid: Option<String>,
    },
    /// Writes a key of a bucket.
    KvPut {
        bucket: Arc<str>,
        key: Vec<u8>,
        value: Vec<u8>,
    },
    /// Removes a key of a bucket, if there.
    KvDelete { bucket: Arc<str>, key: Vec<u8> },
    /// Removes the keys `from <= key < to` of a bucket.
    KvDeleteRange {
        bucket: Arc<str>,
        from: Vec<u8>,
        to: Vec<u8>,
    },
    /// Goes through only if a key of a bucket holds this value, or nothing when `None`
    /// ([`CommitError::KvConflict`](super::CommitError::KvConflict) otherwise).
    KvExpect {
        bucket: Arc<str>,
        key: Vec<u8>,
        value: Option<Vec<u8>>,
    },
    /// Adds a record to a journal stream; its number is in [`Committed::journal_seqs`].
    JournalAppend { stream: Arc<str>, body: Bytes },
    /// The records up to and including `upto` are safe elsewhere and need not be kept.
    JournalTrim { stream: Arc<str>, upto: u64 },
}

/// Names what it does, never the bodies.
impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put { key, expect, .. } => write!(f, "Put({key}, {expect:?})"),
            Self::Delete { key, expect, .. } => write!(f, "Delete({key}, {expect:?})"),
            Self::KvPut { bucket, value, .. } => write!(f, "KvPut({bucket}, {} bytes)", value.len()),
            Self::KvDelete { bucket, .. } => write!(f, "KvDelete({bucket})"),
            Self::KvDeleteRange { bucket, .. } => write!(f, "KvDeleteRange({bucket})"),
            Self::KvExpect { bucket, .. } => write!(f, "KvExpect({bucket})"),
            Self::JournalAppend { stream, body } => write!(f, "JournalAppend({stream}, {} bytes)", body.len()),
            Self::JournalTrim { stream, upto } => write!(f, "JournalTrim({stream}, {upto})"),
        }
    }
}

/// Operations that happen together or not at all, in order.
#[derive(Clone, Debug, Default)]
pub struct Tx(pub Vec<Op>);

impl Tx {
    /// An empty transaction. Committing it waits for everything submitted before it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds [`Op::Put`] without a uid precondition.
    #[must_use]
    pub fn put(mut self, key: ObjectKey, object: Value, expect: Expect) -> Self {
        self.0.push(Op::Put {
            key,
            object,
            expect,
            uid: None,
        });
        self
    }

    /// Adds [`Op::Delete`] without a uid precondition.
    #[must_use]
    pub fn delete(mut self, key: ObjectKey, expect: Expect) -> Self {
        self.0.push(Op::Delete { key, expect, uid: None });
        self
    }

    /// Adds [`Op::KvPut`].
    #[must_use]
    pub fn kv_put(mut self, bucket: impl Into<Arc<str>>, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        self.0.push(Op::KvPut {
            bucket: bucket.into(),
            key: key.into(),
            value: value.into(),
        });
        self
    }

    /// Adds [`Op::KvDelete`].
    #[must_use]
    pub fn kv_delete(mut self, bucket: impl Into<Arc<str>>, key: impl Into<Vec<u8>>) -> Self {
        self.0.push(Op::KvDelete {
            bucket: bucket.into(),
            key: key.into(),
        });
        self
    }

    /// Adds [`Op::JournalAppend`].
    #[must_use]
    pub fn append(mut self, stream: impl Into<Arc<str>>, body: impl Into<Bytes>) -> Self {
        self.0.push(Op::JournalAppend {
            stream: stream.into(),
            body: body.into(),
        });
        self
    }

    /// Adds [`Op::JournalTrim`].
    #[must_use]
    pub fn trim(mut self, stream: impl Into<Arc<str>>, upto: u64) -> Self {
        self.0.push(Op::JournalTrim {
            stream: stream.into(),
            upto,
        });
        self
    }
}

impl From<Vec<Op>> for Tx {
    fn from(ops: Vec<Op>) -> Self {
        Self(ops)
    }
}

/// What a transaction did. It is on disk, synced, when this is handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The newest revision of the store after this transaction.
    pub revision: u64,
    /// One entry per `Put` and `Delete`, in their order: the object as stored, or the last state of the deleted one with the
    /// revision of the deletion. A `Delete` with [`Expect::Any`] that found nothing has no entry.
    pub objects: Vec<Object>,
    /// One number per `JournalAppend`, in their order.
    pub journal_seqs: Vec<u64>,
}

/// Which objects a list or watch is about: one kind, in one namespace or in all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    /// API group, empty for core.
    pub group: Arc<str>,
    /// Plural resource name.
    pub resource: Arc<str>,
    /// Only this namespace; `None` for all.
    pub namespace: Option<Arc<str>>,
}

impl Scope {
    /// All objects of a kind.
    pub fn all(group: impl Into<Arc<str>>, resource: impl Into<Arc<str>>) -> Self {
        Self {
            group: group.into(),
            resource: resource.into(),
            namespace: None,
        }
    }

    /// The objects of a kind in one namespace.
    pub fn namespace(
        group: impl Into<Arc<str>>,
        resource: impl Into<Arc<str>>,
        namespace: impl Into<Arc<str>>,
    ) -> Self {
        Self {
            group: group.into(),
            resource: resource.into(),
            namespace: Some(namespace.into()),
        }
    }

    /// Whether an object lies in this scope.
    pub fn contains(&self, key: &ObjectKey) -> bool {
        self.resource == key.resource
            && self.group == key.group
            && self.namespace.as_ref().is_none_or(|ns| *ns == key.namespace)
    }
}

/// How much of a list is wanted, from where, and as of when.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// At most this many; `None` for all.
    pub limit: Option<usize>,
    /// Start behind this key (it need not exist any more). Only its namespace and name count.
    pub after: Option<ObjectKey>,
    /// As the scope was at this revision; `None` for now.
    pub at: Option<u64>,
}

/// A page of a list.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The revision this page is a picture of: continue with it in [`ListOptions::at`], or watch from it.
    pub revision: u64,
    /// The objects, in key order.
    pub items: Vec<Object>,
    /// Whether there are more behind the last one.
    pub more: bool,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was not there before.
    Added,
    /// It was there and is different now.
    Modified,
    /// It is gone; the event's object is its last state with the revision of the deletion.
    Deleted,
}

/// One change, shared by everybody who watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The object after the change (its last state when deleted). `object.revision` is the revision of the change.
    pub object: Object,
    /// The object before the change, for selectors: an object can leave a label selection by being modified.
    pub previous: Option<Object>,
}

/// Where a journal stream stands. Always `accepted = trimmed + waiting + dropped beyond trimmed`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalBounds {
    /// Number of the newest record ever accepted; 0 when there was none.
    pub accepted: u64,
    /// Everything up to here was trimmed by its reader.
    pub trimmed: u64,
    /// Records forced out by a bound and not yet trimmed past, oldest first, as exact inclusive ranges.
    pub dropped: Vec<Dropped>,
    /// Bytes of the records that wait.
    pub bytes: u64,
    /// Records ever forced out by a bound.
    pub dropped_total: u64,
}

impl JournalBounds {
    /// How many records wait to be read and trimmed.
    pub fn waiting(&self) -> u64 {
        let gone: u64 = self
            .dropped
            .iter()
            .map(|d| d.to - d.from.max(self.trimmed + 1) + 1)
            .sum();
        self.accepted - self.trimmed - gone
    }
}

/// Records `from..=to` that a bound forced out before they were trimmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// First number.
    pub from: u64,
    /// Last number.
    pub to: u64,
    /// Which bound.
    pub reason: DropReason,
}

/// Which bound forced records out of a journal stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// The stream held more bytes than it may.
    Bytes,
    /// The records were older than they may be.
    Age,
}
