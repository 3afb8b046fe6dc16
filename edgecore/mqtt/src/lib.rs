//! An embedded MQTT broker: 3.1.1 and 5 on one listener, durable before it acknowledges.
//!
//! Called by the gateway's daemon, which gives it three things: where to keep what must survive a restart ([`Persist`]),
//! what to do with the topics the daemon answers itself ([`LocalHandler`]), and who may do what ([`Access`]).
//!
//! ```text
//!   connection (a task each: bytes, batches, deadlines)      codec: bytes <-> packets
//!        |  one step at a time, under one lock
//!       hub (order of commits, settling) ---> Persist
//!        |
//!       core (sans I/O: sessions + router + timers)
//! ```
//!
//! # What is promised
//! - PUBACK, PUBREC, PUBCOMP, SUBACK and UNSUBACK of a persistent session, and a CONNACK that begins or ends one, leave
//!   after the commit. A message for persistent sessions is sent to them after its commit, too.
//! - Acknowledgements are in order. Reading goes on while commits run, up to a bound.
//! - Every queue, table and length is bounded ([`Limits`]); what a bound costs is counted ([`Stats::drops`]), never silent.
//! - Malformed packets, missed deadlines and panics cost one connection.
//!
//! # What happens when nothing can be stored
//! A failed commit or [`Reject::Unavailable`]: the message and those after it are not acknowledged, the connection is held
//! for [`Limits::unavailable_pause`] and closed (MQTT 5: DISCONNECT 0x97, quota exceeded). The client sends them again
//! when it is back. Other subscribers may have been given the message already; they see it twice.
//!
//! # Choices
//! - A session with several matching subscriptions gets a message once, with the best quality of service among them and
//!   all their identifiers.
//! - A local topic also goes to its subscribers, whatever the handler's verdict, as with any other broker.
//! - QoS 0 is not kept for absent clients. Wills are not published when the broker itself stops.
//! - Message expiry and session expiry start again when the broker does: a gateway's clock proves nothing about how long
//!   it was off.
//! - Not offered: MQTT 3.1, extended authentication, outgoing topic aliases, `$SYS`.

mod broker;
mod codec;
mod config;
mod connection;
mod core;
#[doc(hidden)]
pub mod fuzzing;
mod hooks;
mod hub;
mod link;
mod packet;
mod persist;
mod router;
mod session;
mod stats;
mod topic;

pub use self::{
    broker::{Broker, BrokerHandle, PublishError, Published, StartError},
    config::{BrokerConfig, Limits},
    core::Drops,
    hooks::{
        Accept, Access, ClientInfo, Denied, Identity, LocalHandler, LocalPublish, LoginRequest, NoLocalTopics, Reject,
    },
    packet::{Properties, Protocol, Publish, QoS, RetainHandling, SubscriptionOptions},
    persist::{Change, KvOp, MemoryPersist, Persist, PersistError, Queued, SessionState, State},
    stats::Stats,
    topic::{matches, valid_topic},
};
