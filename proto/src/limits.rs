//! Every cap of the wire in one place. A receiver holds its peer to these whatever the peer says; a sender keeps within them.

use core::time::Duration;

/// Protocol versions this build speaks, oldest and newest. It keeps the previous one once there are two.
pub const VERSIONS: Versions = Versions { min: 1, max: 1 };

/// Bytes of one frame without its length prefix.
pub const MAX_FRAME: usize = 4 << 20;
/// Bytes of one frame before the peer has shown who it is or what it wants (enrolment, Hello).
pub const MAX_HANDSHAKE_FRAME: usize = 64 << 10;
/// Protobuf fields in one frame, counted before anything is decoded: bounds what small repeated fields can blow up to.
pub const MAX_FIELDS: usize = MAX_BATCH_ENTRIES + 64;

/// Bytes of one decoded body (etcd's own limit for an object is the same size).
pub const MAX_BODY: usize = 3 << 19;
/// Bytes of one key.
pub const MAX_KEY: usize = 512;
/// Changes in one batch.
pub const MAX_BATCH_ENTRIES: usize = 4096;
/// Decoded bytes in one batch, keys included. Room for one body of the largest size.
pub const MAX_BATCH_BYTES: usize = 2 << 20;
/// Decoded bytes a sender puts into a batch before it begins the next: small enough to arrive within the deadline on a slow link.
pub const BATCH_BYTES: usize = 64 << 10;
/// Bytes an entry is counted with beside its key and body, the same on both sides.
pub const ENTRY_COST: usize = 32;
/// Batches a sender may have unacknowledged whatever their size.
pub const MAX_IN_FLIGHT: usize = 128;
/// Default window: bytes of batches sent and not yet acknowledged.
pub const WINDOW_BYTES: usize = 1 << 20;
/// A window announced beyond these is taken as the bound.
pub const WINDOW_RANGE: (usize, usize) = (16 << 10, 8 << 20);

/// Entries in one page of an inventory.
pub const MAX_INVENTORY_PAGE: usize = 2048;
/// Bytes of keys a sender puts in one page of an inventory.
pub const INVENTORY_PAGE_BYTES: usize = 64 << 10;
/// Entries a mirror takes; what is beyond is refused by key. At twice this the session ends.
pub const MAX_SET_ENTRIES: usize = 32_768;
/// Bytes of keys unknown to the source it takes from one inventory.
pub const MAX_STRANGER_BYTES: usize = 8 << 20;

/// Refusals in one frame.
pub const MAX_REFUSALS: usize = 1024;
/// Bytes of a refusal's reason; a longer one is cut.
pub const MAX_REASON: usize = 256;

/// Journal streams of one gateway.
pub const MAX_STREAMS: usize = 16;
/// Bytes of a stream's name.
pub const MAX_STREAM_NAME: usize = 64;
/// Bytes of one journal record.
pub const MAX_RECORD: usize = 256 << 10;
/// Records in one journal batch.
pub const MAX_JOURNAL_RECORDS: usize = 4096;
/// Decoded bytes of one journal batch.
pub const MAX_JOURNAL_BYTES: usize = 512 << 10;
/// Decoded bytes a sender puts into one journal batch.
pub const JOURNAL_BYTES: usize = 128 << 10;

/// Bytes of a node's name (a DNS subdomain).
pub const MAX_NODE: usize = 253;
/// Bytes of any other short text: versions, hub id, details.
pub const MAX_TEXT: usize = 256;
/// Capabilities in a Hello.
pub const MAX_CAPABILITIES: usize = 64;

/// Bytes of a certificate request.
pub const MAX_CSR: usize = 8 << 10;
/// Bytes of one certificate.
pub const MAX_CERT: usize = 16 << 10;
/// Certificates in a chain.
pub const MAX_CHAIN: usize = 8;
/// Labels in a join.
pub const MAX_LABELS: usize = 64;
/// Addresses in a token or a join response.
pub const MAX_ADDRS: usize = 8;
/// Characters of a join token.
pub const MAX_TOKEN: usize = 4096;

/// Idle heartbeat interval.
pub const HEARTBEAT: Duration = Duration::from_secs(60);
/// An interval announced beyond these is taken as the bound, so that a peer cannot ask for a storm.
pub const HEARTBEAT_RANGE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(3600));
/// How long data in flight may stay unacknowledged while the peer says nothing.
pub const ACK_DEADLINE: Duration = Duration::from_secs(15);
/// Bounds of an announced ack deadline.
pub const ACK_DEADLINE_RANGE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(600));
/// Slowest link that is served: the oldest batch in flight has this many bytes per second on top of the deadline.
pub const SLOWEST_LINK: u32 = 8 << 10;
/// From the beginning of a session until Hello came (hub), until Welcome came (gateway), until the hub's own accept.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(30);
/// From the request of a new certificate to its answer.
pub const ROTATE_DEADLINE: Duration = Duration::from_secs(60);
/// A peer's wish about when to come back is followed up to this.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// A range of protocol versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// Oldest spoken.
    pub min: u32,
    /// Newest spoken.
    pub max: u32,
}

impl Versions {
    /// The newest version both speak.
    pub fn agree(self, peer: Self) -> Option<u32> {
        let newest = self.max.min(peer.max);
        (newest >= self.min.max(peer.min)).then_some(newest)
    }
}
