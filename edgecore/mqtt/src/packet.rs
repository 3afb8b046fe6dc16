//! The packets of both protocol versions as one set of types.
//!
//! Owns the vocabulary the rest of the crate speaks; knows nothing of bytes (that is `codec`) or of who is connected.

use std::sync::Arc;

use bytes::Bytes;

/// Quality of service of a message or a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum QoS {
    /// At most once: sent, never acknowledged, dropped when a receiver is slow.
    AtMostOnce = 0,
    /// At least once: acknowledged with PUBACK after the durable commit.
    AtLeastOnce = 1,
    /// Exactly once: PUBREC after the durable commit, then PUBREL and PUBCOMP.
    ExactlyOnce = 2,
}

impl QoS {
    /// From the number on the wire; `None` above 2.
    pub fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// The protocol version a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT 3.1.1 (protocol level 4).
    V4,
    /// MQTT 5 (protocol level 5).
    V5,
}

/// One application message.
///
/// `payload` may be a slice of the connection's read buffer: copy it if you keep it for long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Topic name, valid and within the configured length.
    pub topic: Arc<str>,
    /// The body.
    pub payload: Bytes,
    /// Quality of service it was published with.
    pub qos: QoS,
    /// The publisher asked for it to be retained.
    pub retain: bool,
    /// The publisher marked it as sent again.
    pub dup: bool,
    /// MQTT 5 properties that travel with the message to its receivers.
    pub properties: Option<Arc<Properties>>,
}

impl Publish {
    /// A message with QoS 1, not retained.
    pub fn new(topic: impl Into<Arc<str>>, payload: impl Into<Bytes>) -> Self {
        Self {
            topic: topic.into(),
            payload: payload.into(),
            qos: QoS::AtLeastOnce,
            retain: false,
            dup: false,
            properties: None,
        }
    }

    /// Bytes it costs to keep.
    pub(crate) fn cost(&self) -> usize {
        MESSAGE_OVERHEAD + self.topic.len() + self.payload.len() + self.properties.as_ref().map_or(0, |p| p.cost())
    }

    /// The same message cut loose from the read buffer it came in, for keeping.
    pub(crate) fn detached(&self) -> Self {
        Self {
            payload: Bytes::copy_from_slice(&self.payload),
            dup: false,
            ..self.clone()
        }
    }

    pub(crate) fn expiry_s(&self) -> Option<u32> {
        self.properties.as_ref().and_then(|p| p.expiry_s)
    }
}

/// What a queued message costs beside its bytes; keeps a flood of empty messages within the byte bounds too.
pub(crate) const MESSAGE_OVERHEAD: usize = 128;

/// MQTT 5 properties of a message that receivers get to see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// 1 says that the payload is UTF-8 text.
    pub payload_format: Option<u8>,
    /// Seconds after which the message is no longer worth delivering.
    pub expiry_s: Option<u32>,
    /// MIME type or the like.
    pub content_type: Option<String>,
    /// Where an answer is expected.
    pub response_topic: Option<String>,
    /// Ties an answer to its question.
    pub correlation: Option<Bytes>,
    /// Free pairs, order kept.
    pub user: Vec<(String, String)>,
}

impl Properties {
    pub(crate) fn cost(&self) -> usize {
        self.content_type.as_ref().map_or(0, String::len)
            + self.response_topic.as_ref().map_or(0, String::len)
            + self.correlation.as_ref().map_or(0, Bytes::len)
            + self.user.iter().map(|(k, v)| 48 + k.len() + v.len()).sum::<usize>()
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How one subscription wants its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionOptions {
    /// Upper bound of the quality of service.
    pub qos: QoS,
    /// Do not send the client its own messages (MQTT 5).
    pub no_local: bool,
    /// Keep the retain flag as published (MQTT 5).
    pub retain_as_published: bool,
    /// When retained messages are sent.
    pub retain_handling: RetainHandling,
    /// Subscription identifier that is sent along with matching messages (MQTT 5).
    pub id: Option<u32>,
}

impl SubscriptionOptions {
    /// Plain options as in MQTT 3.1.1.
    pub fn plain(qos: QoS) -> Self {
        Self {
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::EverySubscribe,
            id: None,
        }
    }
}

/// When a SUBSCRIBE is answered with the retained messages it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetainHandling {
    /// Each time.
    EverySubscribe,
    /// Only if the subscription did not exist.
    NewSubscribe,
    /// Never.
    Never,
}

/// A CONNECT after decoding and checking.
#[derive(Debug)]
pub(crate) struct Connect {
    pub(crate) protocol: Protocol,
    pub(crate) client_id: String,
    pub(crate) clean_start: bool,
    /// Seconds; 0 switches it off.
    pub(crate) keep_alive: u16,
    /// Seconds the session outlives its connection; `u32::MAX` is for ever. For 3.1.1: for ever if not clean.
    pub(crate) session_expiry: u32,
    /// Messages the client lets be in flight to it.
    pub(crate) receive_maximum: Option<u16>,
    /// Largest packet the client takes.
    pub(crate) max_packet: Option<u32>,
    pub(crate) extended_auth: bool,
    pub(crate) will: Option<Will>,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Password>,
}

/// A password on its way to the authentication hook; never printed.
pub(crate) struct Password(pub(crate) String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(..)")
    }
}

/// The message a client leaves for the case that it goes without saying so.
#[derive(Clone, Debug)]
pub(crate) struct Will {
    pub(crate) message: Publish,
    /// Seconds to wait before it is published (MQTT 5).
    pub(crate) delay_s: u32,
}

/// A packet from a client after its CONNECT.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// `publish.topic` is empty when only an alias names it.
    Publish {
        publish: Publish,
        pid: u16,
        alias: Option<u16>,
    },
    PubAck {
        pid: u16,
    },
    /// `failed`: the receiver refused the message, the exchange ends here.
    PubRec {
        pid: u16,
        failed: bool,
    },
    PubRel {
        pid: u16,
    },
    PubComp {
        pid: u16,
    },
    Subscribe {
        pid: u16,
        filters: Vec<(String, SubscriptionOptions)>,
    },
    Unsubscribe {
        pid: u16,
        filters: Vec<String>,
    },
    PingReq,
    Disconnect {
        with_will: bool,
        session_expiry: Option<u32>,
    },
}

/// Reason codes of MQTT 5 that the broker itself sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Success,
    Unspecified,
    Malformed,
    ProtocolError,
    UnsupportedProtocol,
    ClientIdInvalid,
    BadCredentials,
    NotAuthorized,
    ServerUnavailable,
    ShuttingDown,
    BadAuthMethod,
    KeepAliveTimeout,
    TakenOver,
    FilterInvalid,
    TopicInvalid,
    PidNotFound,
    ReceiveMaximumExceeded,
    AliasInvalid,
    PacketTooLarge,
    QuotaExceeded,
    Administrative,
    PayloadInvalid,
    NoSubscription,
}

/// Answer to one filter of a SUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SubscribeCode {
    Granted(QoS),
    Refused(Reason),
}

/// The four acknowledgements of PUBLISH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AckKind {
    Ack,
    Rec,
    Rel,
    Comp,
}

/// A message on its way to one client.
#[derive(Debug)]
pub(crate) enum Delivery {
    Publish {
        message: Arc<Publish>,
        qos: QoS,
        /// 0 for QoS 0.
        pid: u16,
        dup: bool,
        retain: bool,
        ids: Vec<u32>,
        /// What is left of the message's life, in seconds.
        expiry_left_s: Option<u32>,
    },
    PubRel {
        pid: u16,
    },
}

impl Delivery {
    pub(crate) fn cost(&self) -> usize {
        match self {
            Self::Publish { message, .. } => message.topic.len() + message.payload.len() + 16,
            Self::PubRel { .. } => 4,
        }
    }
}
