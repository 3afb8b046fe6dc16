//! The two seams to whoever embeds the broker: [`LocalHandler`] takes the topics the daemon answers itself, [`Access`]
//! decides who may do what.

use std::{net::SocketAddr, sync::Arc};

use futures_util::future::BoxFuture;

use crate::packet::{Protocol, Publish};

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct ClientInfo {
    /// MQTT client id, the broker's own choice if the client sent none.
    pub client_id: Arc<str>,
    /// What [`Access::authenticate`] made of the credentials; `None` without an `Access`.
    pub identity: Option<Identity>,
    /// Protocol version.
    pub protocol: Protocol,
    /// Address of the peer.
    pub peer: SocketAddr,
    /// The session outlives the connection.
    pub persistent: bool,
}

/// The name a client was authenticated as.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// For example the device or the user.
    pub name: Arc<str>,
}

/// The handler took the message: whatever it had to make durable is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accept;

/// Why the handler did not take a message.
///
/// All but `Unavailable` are final: the message is acknowledged, to an MQTT 5 client with the reason, to a 3.1.1 client
/// with the plain PUBACK, because that version has no other answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// This client may not write there.
    #[error("not authorized")]
    NotAuthorized,
    /// The handler knows no such topic.
    #[error("no such topic")]
    TopicInvalid,
    /// The payload is not what the topic wants.
    #[error("payload not valid for this topic")]
    PayloadInvalid,
    /// A bound of the handler is reached; the message is not taken and will not be.
    #[error("quota exceeded")]
    QuotaExceeded,
    /// Anything else that trying again does not cure.
    #[error("refused")]
    Other,
    /// The handler cannot make anything durable now (for example the disk is full). The message is NOT acknowledged: what
    /// was accepted before it is acknowledged, then the connection is held for `Limits::unavailable_pause` and closed
    /// (MQTT 5: DISCONNECT 0x97), so that the client sends the message again after it has connected again.
    #[error("cannot be stored now")]
    Unavailable,
}

/// A message for the handler, with what tells it from another one with the same words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPublish {
    /// The message; `dup` says that the client has sent it before.
    pub message: Publish,
    /// The client's number for it, 0 at QoS 0. The client uses it again once the message is acknowledged.
    pub packet_id: u16,
}

/// Takes the messages on the configured prefixes, and hears of clients coming and going.
///
/// The hooks run on the connection's task: they must return at once.
pub trait LocalHandler: Send + Sync + 'static {
    /// Takes consecutive messages of one client. The order of calls is the order of the messages: take your place in it
    /// before returning the future, because several futures of one client are in flight at the same time. Each must
    /// resolve to one verdict per message, in order; a missing one counts as [`Reject::Unavailable`]. A message is
    /// acknowledged only after its future has resolved. Work begun must not depend on the future being polled to its
    /// end: it is dropped when the client goes.
    ///
    /// A message sent again after a lost acknowledgement comes here again, at QoS 2 too when the crash was between the
    /// handler's commit and the broker's: recognise it by client, packet id and content.
    fn publish(
        &self,
        client: &Arc<ClientInfo>,
        batch: Vec<LocalPublish>,
    ) -> BoxFuture<'static, Vec<Result<Accept, Reject>>>;

    /// The client ended the exchange of these QoS 2 messages (PUBREL), whether the broker knows of them or not: what comes with
    /// one of these packet ids from now on is another message. Its place in the order is that of the call. PUBCOMP is sent when
    /// the future resolves to `true`; at `false` the connection ends as with [`Reject::Unavailable`] and PUBREL comes again.
    fn released(&self, _client: &Arc<ClientInfo>, _packet_ids: &[u16]) -> BoxFuture<'static, bool> {
        Box::pin(std::future::ready(true))
    }

    /// A client connected. `resumed` are the filters of the session it found; empty for a new session.
    fn on_connect(&self, _client: &Arc<ClientInfo>, _resumed: &[Arc<str>]) {}

    /// A client subscribed; its SUBACK is already on its way, so what is published now comes after it.
    fn on_subscribe(&self, _client: &Arc<ClientInfo>, _filters: &[Arc<str>]) {}

    /// A client's connection ended, for whatever reason.
    fn on_disconnect(&self, _client: &Arc<ClientInfo>) {}
}

/// A handler for brokers without local topics: refuses what should not reach it.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLocalTopics;

impl LocalHandler for NoLocalTopics {
    fn publish(
        &self,
        _: &Arc<ClientInfo>,
        batch: Vec<LocalPublish>,
    ) -> BoxFuture<'static, Vec<Result<Accept, Reject>>> {
        Box::pin(std::future::ready(vec![Err(Reject::TopicInvalid); batch.len()]))
    }
}

/// The credentials of a CONNECT.
#[derive(Clone)]
pub struct LoginRequest {
    /// Client id as sent, or the one the broker chose.
    pub client_id: Arc<str>,
    /// Address of the peer.
    pub peer: SocketAddr,
    /// User name, `None` if absent or empty.
    pub username: Option<String>,
    /// Password, `None` if absent or empty. Must be UTF-8: other passwords are refused as malformed.
    pub password: Option<String>,
}

impl std::fmt::Debug for LoginRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoginRequest")
            .field("client_id", &self.client_id)
            .field("peer", &self.peer)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| ".."))
            .finish()
    }
}

/// Why a login is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Unknown user or wrong password.
    #[error("bad user name or password")]
    BadCredentials,
    /// Known, and not allowed here.
    #[error("not authorized")]
    NotAuthorized,
}

/// Authentication and access rules.
pub trait Access: Send + Sync + std::fmt::Debug + 'static {
    /// Who is this? Has to answer within the broker's connect deadline.
    fn authenticate(&self, login: LoginRequest) -> BoxFuture<'static, Result<Identity, Denied>>;

    /// May this client publish to this topic (will message included)? Must not block.
    fn may_publish(&self, _client: &ClientInfo, _topic: &str) -> bool {
        true
    }

    /// May this client subscribe to this filter? Must not block.
    fn may_subscribe(&self, _client: &ClientInfo, _filter: &str) -> bool {
        true
    }
}
