//! From the first byte to CONNACK, all within the connect deadline.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout_at},
};

use super::Presence;
use crate::{
    codec::{self, Codec, DecodeError, Offer},
    core::{Arrival, Departure},
    hooks::{ClientInfo, Denied, LoginRequest},
    hub::{Hub, durable},
    link::Link,
    packet::{Connect, Protocol, Reason},
    topic::valid_topic,
};

/// MQTT 5 clients may use this many topic aliases.
pub(super) const TOPIC_ALIASES: u16 = 32;

/// A connection whose CONNACK said yes.
#[derive(Debug)]
pub(super) struct Established {
    pub(super) presence: Presence,
    pub(super) codec: Codec,
    pub(super) link: Arc<Link>,
    pub(super) keep_alive: Option<Duration>,
    /// What came in the same bytes after CONNECT.
    pub(super) input: BytesMut,
}

/// Why a connection was not established.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("no complete CONNECT within the deadline")]
    Deadline,
    #[error("closed before CONNECT was complete")]
    Closed,
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Decode(#[from] DecodeError),
    #[error("answered with {0:?}")]
    Answered(Reason),
}

pub(super) async fn run<S>(hub: &Arc<Hub>, stream: &mut S, peer: SocketAddr) -> Result<Established, Refused>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let deadline = Instant::now() + hub.config.limits.connect_deadline;
    let (connect, input) = match timeout_at(deadline, read_connect(hub, stream)).await {
        Ok(Ok(read)) => read,
        Ok(Err(error)) => {
            if let Refused::Decode(DecodeError::ProtocolLevel(level)) = error {
                // An answer the client can read: 3.1.1's to those before 5, else that of 5.
                let protocol = if level < 5 { Protocol::V4 } else { Protocol::V5 };
                let codec = Codec::new(protocol, 0, None);
                answer(stream, &codec, Reason::UnsupportedProtocol, deadline).await;
            }
            return Err(error);
        }
        Err(_) => return Err(Refused::Deadline),
    };
    let codec = Codec::new(connect.protocol, hub.config.limits.packet_bytes, connect.max_packet);
    match timeout_at(deadline, admit(hub, connect, peer)).await {
        Ok(Ok(admitted)) => {
            let Admitted {
                presence,
                link,
                keep_alive,
                session_present,
                offer,
            } = admitted;
            let mut out = BytesMut::new();
            codec.connack(session_present, Reason::Success, Some(&offer), &mut out);
            timeout_at(deadline, stream.write_all(&out))
                .await
                .map_err(|_| Refused::Deadline)??;
            Ok(Established {
                presence,
                codec,
                link,
                keep_alive,
                input,
            })
        }
        Ok(Err(reason)) => {
            answer(stream, &codec, reason, deadline).await;
            Err(Refused::Answered(reason))
        }
        Err(_) => {
            // The authentication or the store took too long: a word to the client, without waiting for it.
            answer(
                stream,
                &codec,
                Reason::ServerUnavailable,
                Instant::now() + Duration::from_millis(100),
            )
            .await;
            Err(Refused::Deadline)
        }
    }
}

/// Says no; whether the client hears it is its own affair.
async fn answer<S: AsyncWrite + Unpin>(stream: &mut S, codec: &Codec, reason: Reason, deadline: Instant) {
    let mut out = BytesMut::new();
    codec.connack(false, reason, None, &mut out);
    let said = timeout_at(deadline, async {
        stream.write_all(&out).await?;
        stream.shutdown().await
    });
    if let Ok(Err(error)) = said.await {
        tracing::trace!(%error, "a refusal could not be sent");
    }
}

async fn read_connect<S>(hub: &Hub, stream: &mut S) -> Result<(Connect, BytesMut), Refused>
where
    S: AsyncRead + Unpin,
{
    let mut input = BytesMut::with_capacity(512);
    loop {
        if stream.read_buf(&mut input).await? == 0 {
            return Err(Refused::Closed);
        }
        // Refuses a length beyond the cap from the header alone, so the buffer grows no further than that.
        if let Some(connect) = codec::connect(&mut input, hub.config.limits.packet_bytes)? {
            return Ok((connect, input));
        }
    }
}

struct Admitted {
    presence: Presence,
    link: Arc<Link>,
    keep_alive: Option<Duration>,
    session_present: bool,
    offer: Offer,
}

async fn admit(hub: &Arc<Hub>, connect: Connect, peer: SocketAddr) -> Result<Admitted, Reason> {
    let limits = &hub.config.limits;
    if connect.extended_auth {
        return Err(Reason::BadAuthMethod);
    }
    let assigned = connect.client_id.is_empty();
    if connect.client_id.len() > limits.client_id_bytes
        || (assigned && connect.protocol == Protocol::V4 && !connect.clean_start)
    {
        return Err(Reason::ClientIdInvalid);
    }
    let client_id: Arc<str> = match assigned {
        true => format!("auto-{:016x}", fastrand::u64(..)).into(),
        false => connect.client_id.into(),
    };
    let identity = match &hub.config.access {
        None => None,
        Some(access) => {
            let login = LoginRequest {
                client_id: client_id.clone(),
                peer,
                username: connect.username,
                password: connect.password.map(|p| p.0),
            };
            Some(access.authenticate(login).await.map_err(|denied| match denied {
                Denied::BadCredentials => Reason::BadCredentials,
                Denied::NotAuthorized => Reason::NotAuthorized,
            })?)
        }
    };
    let expiry_s = connect.session_expiry.min(limits.session_expiry_s());
    let client = Arc::new(ClientInfo {
        client_id: client_id.clone(),
        identity,
        protocol: connect.protocol,
        peer,
        persistent: expiry_s > 0,
    });
    if let Some(will) = &connect.will {
        let topic = &will.message.topic;
        if !valid_topic(topic, limits.topic_bytes) {
            return Err(Reason::TopicInvalid);
        }
        if hub
            .config
            .access
            .as_ref()
            .is_some_and(|access| !access.may_publish(&client, topic))
        {
            return Err(Reason::NotAuthorized);
        }
    }
    let link = Arc::new(Link::default());
    let arrival = Arrival {
        client: client_id.clone(),
        clean_start: connect.clean_start,
        expiry_s,
        receive_maximum: connect.receive_maximum,
        will: connect.will,
        link: link.clone(),
    };
    let (arrived, settled) = hub.step(|core, now, fx| core.connect(now, arrival, fx));
    let arrived = arrived?;
    // From here on the core has to hear of the end, whatever happens, also while the commit is awaited.
    let mut presence = Presence {
        hub: hub.clone(),
        handle: arrived.handle,
        client,
        how: Departure::Lost,
        announced: false,
    };
    if !durable(settled).await {
        drop(hub.step(|core, now, _| core.connect_failed(now, &arrived)));
        return Err(Reason::ServerUnavailable);
    }
    // Before CONNACK is on its way, so that what the hook publishes is there when the client reads.
    presence.announced = true;
    hub.local.on_connect(&presence.client, &arrived.resumed);
    let offer = Offer {
        session_expiry: (expiry_s != connect.session_expiry).then_some(expiry_s),
        receive_maximum: u16::try_from(limits.inbound_qos2).unwrap_or(u16::MAX).max(1),
        max_packet: limits.packet_bytes,
        topic_alias_maximum: TOPIC_ALIASES,
        assigned_client_id: assigned.then(|| client_id.to_string()),
    };
    // One and a half times what the client promised.
    let keep_alive = (connect.keep_alive > 0).then(|| Duration::from_millis(u64::from(connect.keep_alive) * 1500));
    Ok(Admitted {
        presence,
        link,
        keep_alive,
        session_present: arrived.session_present,
        offer,
    })
}
