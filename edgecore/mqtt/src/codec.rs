//! Bytes to packets and back, for both protocol versions: the one file that touches rumqttc.
//!
//! Each connection has a [`Codec`], made from its CONNECT, whose protocol level is read before a decoder is chosen. The
//! order for every frame is: length against the cap (before anything is allocated for it), wait until it is complete,
//! walk it (`check`), decode it. Decoding is also guarded against panics: a bug there costs one connection.
//!
//! Known traps of the decoder below, and what is done about them here:
//! - a v5 DISCONNECT of length 0 or 1 is an error for it: read here instead;
//! - a property list cut short reads as "need more bytes" after the packet was already taken: `check` comes first;
//! - a v5 DISCONNECT without properties is written with a wrong length, and with an empty list as a normal one: always
//!   written with a reason string;
//! - client ids, flags, duplicate properties, reserved bits are not checked: `check` does;
//! - passwords must be UTF-8 for it: stated at [`crate::LoginRequest`].

mod check;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bytes::{Buf, Bytes, BytesMut};
use rumqttc::{mqttbytes as m4, mqttbytes::v4, v5::mqttbytes as m5, v5::mqttbytes::v5};

use self::check::Walk;
use crate::packet::{
    AckKind, Connect, Delivery, Incoming, Password, Properties, Protocol, Publish, QoS, Reason, RetainHandling,
    SubscribeCode, SubscriptionOptions, Will,
};

/// The bytes are not what the standard allows; says what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed packet: {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Why bytes could not be turned into a packet. All end the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("a packet of {len} bytes is larger than the {max} allowed")]
    TooLarge { len: usize, max: usize },
    #[error("not an MQTT CONNECT")]
    NotConnect,
    #[error("MQTT protocol level {0} is not spoken here")]
    ProtocolLevel(u8),
}

/// A complete frame at the start of a buffer.
struct Frame {
    header: usize,
    total: usize,
}

/// Looks for a complete frame; `None` if more bytes are needed.
fn frame(buf: &[u8], max: usize) -> Result<Option<Frame>, DecodeError> {
    let mut remaining = 0usize;
    for (index, shift) in [0u32, 7, 14, 21].into_iter().enumerate() {
        let Some(byte) = buf.get(1 + index) else {
            return Ok(None);
        };
        remaining |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let (header, total) = (2 + index, 2 + index + remaining);
            if total > max {
                return Err(DecodeError::TooLarge { len: total, max });
            }
            return Ok((buf.len() >= total).then_some(Frame { header, total }));
        }
    }
    Err(Malformed("remaining length").into())
}

/// Reads the CONNECT at the start of the buffer; `None` if more bytes are needed.
///
/// What cannot become a CONNECT is refused from its first bytes, without waiting for the rest.
pub(crate) fn connect(buf: &mut BytesMut, max: usize) -> Result<Option<Connect>, DecodeError> {
    if buf.first().is_some_and(|b| *b != 0x10) {
        return Err(DecodeError::NotConnect);
    }
    let Some(Frame { header, total }) = frame(buf, max)? else {
        return Ok(None);
    };
    let mut body = Walk(&buf[header..total]);
    if body.string()? != "MQTT" {
        return Err(DecodeError::NotConnect);
    }
    let level = body.u8()?;
    let protocol = match level {
        4 => Protocol::V4,
        5 => Protocol::V5,
        other => return Err(DecodeError::ProtocolLevel(other)),
    };
    check::connect(protocol, &mut body)?;
    let mut packet = buf.split_to(total);
    let connect = guarded(|| match protocol {
        Protocol::V4 => match v4::Packet::read(&mut packet, max) {
            Ok(v4::Packet::Connect(connect)) => Some(from_v4_connect(connect)),
            _ => None,
        },
        Protocol::V5 => match v5::Packet::read(&mut packet, u32::try_from(max).ok()) {
            Ok(v5::Packet::Connect(connect, will, login)) => from_v5_connect(connect, will, login),
            _ => None,
        },
    })?;
    Ok(Some(connect))
}

fn guarded<T>(decode: impl FnOnce() -> Option<T>) -> Result<T, DecodeError> {
    match catch_unwind(AssertUnwindSafe(decode)) {
        Ok(Some(packet)) => Ok(packet),
        Ok(None) => Err(Malformed("not decodable").into()),
        Err(_) => Err(Malformed(DECODER_PANICKED).into()),
    }
}

const DECODER_PANICKED: &str = "the decoder failed on it";

/// The codec of one connection.
#[derive(Debug)]
pub(crate) struct Codec {
    pub(crate) protocol: Protocol,
    max_in: usize,
    max_out: usize,
}

impl Codec {
    pub(crate) fn new(protocol: Protocol, max_in: usize, max_out: Option<u32>) -> Self {
        let max_out = max_out.map_or(usize::MAX, |max| max as usize);
        Self {
            protocol,
            max_in,
            max_out,
        }
    }

    /// Takes the next packet off the buffer; `None` if more bytes are needed.
    pub(crate) fn decode(&self, buf: &mut BytesMut) -> Result<Option<Incoming>, DecodeError> {
        let Some(Frame { header, total }) = frame(buf, self.max_in)? else {
            return Ok(None);
        };
        check::packet(self.protocol, buf[0], &buf[header..total])?;
        let mut packet = buf.split_to(total);
        if packet[0] == 0xc0 {
            return Ok(Some(Incoming::PingReq));
        }
        if packet[0] == 0xe0 && total - header <= 1 {
            let with_will = packet.get(header) == Some(&4);
            return Ok(Some(Incoming::Disconnect {
                with_will,
                session_expiry: None,
            }));
        }
        let max = self.max_in;
        let incoming = match self.protocol {
            Protocol::V4 => guarded(|| v4::Packet::read(&mut packet, max).ok().and_then(from_v4))?,
            Protocol::V5 => {
                let max = u32::try_from(max).ok();
                guarded(|| v5::Packet::read(&mut packet, max).ok().and_then(from_v5))?
            }
        };
        Ok(Some(incoming))
    }

    /// CONNACK. For v5 with what the broker offers.
    pub(crate) fn connack(&self, session_present: bool, reason: Reason, offer: Option<&Offer>, out: &mut BytesMut) {
        match self.protocol {
            Protocol::V4 => written(v4::ConnAck::new(v4_connect_code(reason), session_present).write(out)),
            Protocol::V5 => {
                let properties = offer.map(|offer| v5::ConnAckProperties {
                    session_expiry_interval: offer.session_expiry,
                    receive_max: Some(offer.receive_maximum),
                    max_qos: None,
                    retain_available: None,
                    max_packet_size: u32::try_from(offer.max_packet).ok(),
                    assigned_client_identifier: offer.assigned_client_id.clone(),
                    topic_alias_max: Some(offer.topic_alias_maximum),
                    reason_string: None,
                    user_properties: vec![],
                    wildcard_subscription_available: None,
                    subscription_identifiers_available: None,
                    shared_subscription_available: None,
                    server_keep_alive: None,
                    response_information: None,
                    server_reference: None,
                    authentication_method: None,
                    authentication_data: None,
                });
                written(
                    v5::ConnAck {
                        session_present,
                        code: v5_connect_code(reason),
                        properties,
                    }
                    .write(out),
                );
            }
        }
    }

    /// One of the four acknowledgements; 3.1.1 has no room for the reason.
    pub(crate) fn ack(&self, kind: AckKind, pid: u16, reason: Reason, out: &mut BytesMut) {
        match (self.protocol, kind) {
            (Protocol::V4, AckKind::Ack) => written(v4::PubAck::new(pid).write(out)),
            (Protocol::V4, AckKind::Rec) => written(v4::PubRec::new(pid).write(out)),
            (Protocol::V4, AckKind::Rel) => written(v4::PubRel::new(pid).write(out)),
            (Protocol::V4, AckKind::Comp) => written(v4::PubComp::new(pid).write(out)),
            (Protocol::V5, AckKind::Ack) => {
                written(
                    v5::PubAck {
                        pkid: pid,
                        reason: puback_code(reason),
                        properties: None,
                    }
                    .write(out),
                );
            }
            (Protocol::V5, AckKind::Rec) => {
                written(
                    v5::PubRec {
                        pkid: pid,
                        reason: pubrec_code(reason),
                        properties: None,
                    }
                    .write(out),
                );
            }
            (Protocol::V5, AckKind::Rel) => {
                let reason = match reason {
                    Reason::PidNotFound => v5::PubRelReason::PacketIdentifierNotFound,
                    _ => v5::PubRelReason::Success,
                };
                written(
                    v5::PubRel {
                        pkid: pid,
                        reason,
                        properties: None,
                    }
                    .write(out),
                );
            }
            (Protocol::V5, AckKind::Comp) => {
                let reason = match reason {
                    Reason::PidNotFound => v5::PubCompReason::PacketIdentifierNotFound,
                    _ => v5::PubCompReason::Success,
                };
                written(
                    v5::PubComp {
                        pkid: pid,
                        reason,
                        properties: None,
                    }
                    .write(out),
                );
            }
        }
    }

    /// Writes a delivery. `false`: the packet is larger than the client takes, nothing was written.
    pub(crate) fn delivery(&self, delivery: &Delivery, out: &mut BytesMut) -> bool {
        let (message, qos, pid, dup, retain, ids, expiry_left_s) = match delivery {
            Delivery::PubRel { pid } => {
                self.ack(AckKind::Rel, *pid, Reason::Success, out);
                return true;
            }
            Delivery::Publish {
                message,
                qos,
                pid,
                dup,
                retain,
                ids,
                expiry_left_s,
            } => (message, *qos, *pid, *dup, *retain, ids, *expiry_left_s),
        };
        match self.protocol {
            Protocol::V4 => {
                let mut publish = v4::Publish::from_bytes(message.topic.as_ref(), v4_qos(qos), message.payload.clone());
                (publish.dup, publish.retain, publish.pkid) = (dup, retain, pid);
                written(publish.write(out));
            }
            Protocol::V5 => {
                let publish = v5::Publish {
                    dup,
                    qos: v5_qos(qos),
                    retain,
                    topic: Bytes::copy_from_slice(message.topic.as_bytes()),
                    pkid: pid,
                    payload: message.payload.clone(),
                    properties: v5_properties(message.properties.as_deref(), ids, expiry_left_s),
                };
                if publish.size() > self.max_out {
                    return false;
                }
                written(publish.write(out));
            }
        }
        true
    }

    pub(crate) fn suback(&self, pid: u16, codes: &[SubscribeCode], out: &mut BytesMut) {
        match self.protocol {
            Protocol::V4 => {
                let codes = codes.iter().map(|code| match code {
                    SubscribeCode::Granted(qos) => v4::SubscribeReasonCode::Success(v4_qos(*qos)),
                    SubscribeCode::Refused(_) => v4::SubscribeReasonCode::Failure,
                });
                written(v4::SubAck::new(pid, codes.collect()).write(out));
            }
            Protocol::V5 => {
                let codes = codes.iter().map(|code| match code {
                    SubscribeCode::Granted(qos) => v5::SubscribeReasonCode::Success(v5_qos(*qos)),
                    SubscribeCode::Refused(Reason::NotAuthorized) => v5::SubscribeReasonCode::NotAuthorized,
                    SubscribeCode::Refused(Reason::FilterInvalid) => v5::SubscribeReasonCode::TopicFilterInvalid,
                    SubscribeCode::Refused(Reason::QuotaExceeded) => v5::SubscribeReasonCode::QuotaExceeded,
                    SubscribeCode::Refused(_) => v5::SubscribeReasonCode::Unspecified,
                });
                written(
                    v5::SubAck {
                        pkid: pid,
                        return_codes: codes.collect(),
                        properties: None,
                    }
                    .write(out),
                );
            }
        }
    }

    pub(crate) fn unsuback(&self, pid: u16, reasons: &[Reason], out: &mut BytesMut) {
        match self.protocol {
            Protocol::V4 => written(v4::UnsubAck::new(pid).write(out)),
            Protocol::V5 => {
                let reasons = reasons.iter().map(|reason| match reason {
                    Reason::Success => v5::UnsubAckReason::Success,
                    Reason::NoSubscription => v5::UnsubAckReason::NoSubscriptionExisted,
                    Reason::FilterInvalid => v5::UnsubAckReason::TopicFilterInvalid,
                    _ => v5::UnsubAckReason::UnspecifiedError,
                });
                written(
                    v5::UnsubAck {
                        pkid: pid,
                        reasons: reasons.collect(),
                        properties: None,
                    }
                    .write(out),
                );
            }
        }
    }

    pub(crate) fn pingresp(&self, out: &mut BytesMut) {
        written(v4::PingResp.write(out));
    }

    /// DISCONNECT from the server, which only MQTT 5 knows; nothing for 3.1.1.
    pub(crate) fn disconnect(&self, reason: Reason, out: &mut BytesMut) {
        if self.protocol == Protocol::V5 {
            let properties = v5::DisconnectProperties {
                session_expiry_interval: None,
                reason_string: Some(format!("{reason:?}")),
                user_properties: vec![],
                server_reference: None,
            };
            let packet = v5::Disconnect {
                reason_code: disconnect_code(reason),
                properties: Some(properties),
            };
            written(packet.write(out));
        }
    }
}

/// What a v5 CONNACK tells the client.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) session_expiry: Option<u32>,
    pub(crate) receive_maximum: u16,
    pub(crate) max_packet: usize,
    pub(crate) topic_alias_maximum: u16,
    pub(crate) assigned_client_id: Option<String>,
}

/// Writing fails only for a packet id of 0 or a packet beyond 256 MiB; neither leaves the session.
fn written<E: std::fmt::Display>(result: Result<usize, E>) {
    if let Err(error) = result {
        tracing::error!(%error, "an outgoing packet could not be encoded");
        debug_assert!(false, "an outgoing packet could not be encoded: {error}");
    }
}

fn v4_qos(qos: QoS) -> m4::QoS {
    match qos {
        QoS::AtMostOnce => m4::QoS::AtMostOnce,
        QoS::AtLeastOnce => m4::QoS::AtLeastOnce,
        QoS::ExactlyOnce => m4::QoS::ExactlyOnce,
    }
}

fn v5_qos(qos: QoS) -> m5::QoS {
    match qos {
        QoS::AtMostOnce => m5::QoS::AtMostOnce,
        QoS::AtLeastOnce => m5::QoS::AtLeastOnce,
        QoS::ExactlyOnce => m5::QoS::ExactlyOnce,
    }
}

fn from_v4_qos(qos: m4::QoS) -> QoS {
    match qos {
        m4::QoS::AtMostOnce => QoS::AtMostOnce,
        m4::QoS::AtLeastOnce => QoS::AtLeastOnce,
        m4::QoS::ExactlyOnce => QoS::ExactlyOnce,
    }
}

fn from_v5_qos(qos: m5::QoS) -> QoS {
    match qos {
        m5::QoS::AtMostOnce => QoS::AtMostOnce,
        m5::QoS::AtLeastOnce => QoS::AtLeastOnce,
        m5::QoS::ExactlyOnce => QoS::ExactlyOnce,
    }
}

fn from_v4_connect(connect: v4::Connect) -> Connect {
    let (username, password) = connect
        .login
        .map_or((None, None), |l| credentials(l.username, l.password));
    Connect {
        protocol: Protocol::V4,
        client_id: connect.client_id,
        clean_start: connect.clean_session,
        keep_alive: connect.keep_alive,
        session_expiry: if connect.clean_session { 0 } else { u32::MAX },
        receive_maximum: None,
        max_packet: None,
        extended_auth: false,
        will: connect.last_will.map(|will| Will {
            message: Publish {
                topic: Arc::from(will.topic),
                payload: Bytes::copy_from_slice(&will.message),
                qos: from_v4_qos(will.qos),
                retain: will.retain,
                dup: false,
                properties: None,
            },
            delay_s: 0,
        }),
        username,
        password,
    }
}

fn credentials(username: String, password: String) -> (Option<String>, Option<Password>) {
    let username = (!username.is_empty()).then_some(username);
    let password = (!password.is_empty()).then_some(Password(password));
    (username, password)
}

fn from_v5_connect(connect: v5::Connect, will: Option<v5::LastWill>, login: Option<v5::Login>) -> Option<Connect> {
    let (username, password) = login.map_or((None, None), |l| credentials(l.username, l.password));
    let p = connect.properties.unwrap_or_default();
    let will = match will {
        None => None,
        Some(will) => {
            let p = will.properties;
            let delay_s = p.as_ref().and_then(|p| p.delay_interval).unwrap_or(0);
            let properties = p.map(|p| Properties {
                payload_format: p.payload_format_indicator,
                expiry_s: p.message_expiry_interval,
                content_type: p.content_type,
                response_topic: p.response_topic,
                correlation: p.correlation_data.map(|data| Bytes::copy_from_slice(&data)),
                user: p.user_properties,
            });
            let message = Publish {
                topic: Arc::from(std::str::from_utf8(&will.topic).ok()?),
                payload: Bytes::copy_from_slice(&will.message),
                qos: from_v5_qos(will.qos),
                retain: will.retain,
                dup: false,
                properties: properties.filter(|p| !p.is_empty()).map(Arc::new),
            };
            Some(Will { message, delay_s })
        }
    };
    Some(Connect {
        protocol: Protocol::V5,
        client_id: connect.client_id,
        clean_start: connect.clean_start,
        keep_alive: connect.keep_alive,
        session_expiry: p.session_expiry_interval.unwrap_or(0),
        receive_maximum: p.receive_maximum,
        max_packet: p.max_packet_size,
        extended_auth: p.authentication_method.is_some(),
        will,
        username,
        password,
    })
}

fn from_v4(packet: v4::Packet) -> Option<Incoming> {
    Some(match packet {
        v4::Packet::Publish(p) => Incoming::Publish {
            publish: Publish {
                topic: Arc::from(p.topic),
                payload: p.payload,
                qos: from_v4_qos(p.qos),
                retain: p.retain,
                dup: p.dup,
                properties: None,
            },
            pid: p.pkid,
            alias: None,
        },
        v4::Packet::PubAck(p) => Incoming::PubAck { pid: p.pkid },
        v4::Packet::PubRec(p) => Incoming::PubRec {
            pid: p.pkid,
            failed: false,
        },
        v4::Packet::PubRel(p) => Incoming::PubRel { pid: p.pkid },
        v4::Packet::PubComp(p) => Incoming::PubComp { pid: p.pkid },
        v4::Packet::Subscribe(p) => {
            let filters = p
                .filters
                .into_iter()
                .map(|f| (f.path, SubscriptionOptions::plain(from_v4_qos(f.qos))));
            Incoming::Subscribe {
                pid: p.pkid,
                filters: filters.collect(),
            }
        }
        v4::Packet::Unsubscribe(p) => Incoming::Unsubscribe {
            pid: p.pkid,
            filters: p.topics,
        },
        _ => return None,
    })
}

fn from_v5(packet: v5::Packet) -> Option<Incoming> {
    Some(match packet {
        v5::Packet::Publish(p) => {
            let alias = p.properties.as_ref().and_then(|p| p.topic_alias);
            let properties = p.properties.map(|p| Properties {
                payload_format: p.payload_format_indicator,
                expiry_s: p.message_expiry_interval,
                content_type: p.content_type,
                response_topic: p.response_topic,
                correlation: p.correlation_data.map(|data| Bytes::copy_from_slice(&data)),
                user: p.user_properties,
            });
            let publish = Publish {
                topic: Arc::from(std::str::from_utf8(&p.topic).ok()?),
                payload: p.payload,
                qos: from_v5_qos(p.qos),
                retain: p.retain,
                dup: p.dup,
                properties: properties.filter(|p| !p.is_empty()).map(Arc::new),
            };
            Incoming::Publish {
                publish,
                pid: p.pkid,
                alias,
            }
        }
        v5::Packet::PubAck(p) => Incoming::PubAck { pid: p.pkid },
        v5::Packet::PubRec(p) => {
            let taken = matches!(
                p.reason,
                v5::PubRecReason::Success | v5::PubRecReason::NoMatchingSubscribers
            );
            Incoming::PubRec {
                pid: p.pkid,
                failed: !taken,
            }
        }
        v5::Packet::PubRel(p) => Incoming::PubRel { pid: p.pkid },
        v5::Packet::PubComp(p) => Incoming::PubComp { pid: p.pkid },
        v5::Packet::Subscribe(p) => {
            let id = p.properties.and_then(|p| p.id).and_then(|id| u32::try_from(id).ok());
            let filters = p.filters.into_iter().map(|f| {
                let options = SubscriptionOptions {
                    qos: from_v5_qos(f.qos),
                    no_local: f.nolocal,
                    retain_as_published: f.preserve_retain,
                    retain_handling: match f.retain_forward_rule {
                        v5::RetainForwardRule::OnEverySubscribe => RetainHandling::EverySubscribe,
                        v5::RetainForwardRule::OnNewSubscribe => RetainHandling::NewSubscribe,
                        v5::RetainForwardRule::Never => RetainHandling::Never,
                    },
                    id,
                };
                (f.path, options)
            });
            Incoming::Subscribe {
                pid: p.pkid,
                filters: filters.collect(),
            }
        }
        v5::Packet::Unsubscribe(p) => Incoming::Unsubscribe {
            pid: p.pkid,
            filters: p.filters,
        },
        v5::Packet::Disconnect(p) => Incoming::Disconnect {
            with_will: p.reason_code == v5::DisconnectReasonCode::DisconnectWithWillMessage,
            session_expiry: p.properties.and_then(|p| p.session_expiry_interval),
        },
        _ => return None,
    })
}

fn v5_properties(p: Option<&Properties>, ids: &[u32], expiry_left_s: Option<u32>) -> Option<v5::PublishProperties> {
    if p.is_none() && ids.is_empty() {
        return None;
    }
    let p = p.cloned().unwrap_or_default();
    Some(v5::PublishProperties {
        payload_format_indicator: p.payload_format,
        message_expiry_interval: expiry_left_s,
        topic_alias: None,
        response_topic: p.response_topic,
        correlation_data: p.correlation,
        user_properties: p.user,
        subscription_identifiers: ids.iter().map(|id| *id as usize).collect(),
        content_type: p.content_type,
    })
}

fn v4_connect_code(reason: Reason) -> v4::ConnectReturnCode {
    match reason {
        Reason::Success => v4::ConnectReturnCode::Success,
        Reason::UnsupportedProtocol => v4::ConnectReturnCode::RefusedProtocolVersion,
        Reason::ClientIdInvalid => v4::ConnectReturnCode::BadClientId,
        Reason::BadCredentials => v4::ConnectReturnCode::BadUserNamePassword,
        Reason::NotAuthorized | Reason::BadAuthMethod => v4::ConnectReturnCode::NotAuthorized,
        _ => v4::ConnectReturnCode::ServiceUnavailable,
    }
}

fn v5_connect_code(reason: Reason) -> v5::ConnectReturnCode {
    match reason {
        Reason::Success => v5::ConnectReturnCode::Success,
        Reason::Malformed => v5::ConnectReturnCode::MalformedPacket,
        Reason::ProtocolError => v5::ConnectReturnCode::ProtocolError,
        Reason::UnsupportedProtocol => v5::ConnectReturnCode::UnsupportedProtocolVersion,
        Reason::ClientIdInvalid => v5::ConnectReturnCode::ClientIdentifierNotValid,
        Reason::BadCredentials => v5::ConnectReturnCode::BadUserNamePassword,
        Reason::NotAuthorized => v5::ConnectReturnCode::NotAuthorized,
        Reason::ServerUnavailable | Reason::ShuttingDown => v5::ConnectReturnCode::ServerUnavailable,
        Reason::BadAuthMethod => v5::ConnectReturnCode::BadAuthenticationMethod,
        Reason::TopicInvalid => v5::ConnectReturnCode::TopicNameInvalid,
        Reason::PacketTooLarge => v5::ConnectReturnCode::PacketTooLarge,
        Reason::QuotaExceeded => v5::ConnectReturnCode::QuotaExceeded,
        _ => v5::ConnectReturnCode::UnspecifiedError,
    }
}

fn puback_code(reason: Reason) -> v5::PubAckReason {
    match reason {
        Reason::Success => v5::PubAckReason::Success,
        Reason::NotAuthorized => v5::PubAckReason::NotAuthorized,
        Reason::TopicInvalid => v5::PubAckReason::TopicNameInvalid,
        Reason::QuotaExceeded => v5::PubAckReason::QuotaExceeded,
        Reason::PayloadInvalid => v5::PubAckReason::PayloadFormatInvalid,
        _ => v5::PubAckReason::UnspecifiedError,
    }
}

fn pubrec_code(reason: Reason) -> v5::PubRecReason {
    match reason {
        Reason::Success => v5::PubRecReason::Success,
        Reason::NotAuthorized => v5::PubRecReason::NotAuthorized,
        Reason::TopicInvalid => v5::PubRecReason::TopicNameInvalid,
        Reason::QuotaExceeded => v5::PubRecReason::QuotaExceeded,
        Reason::PayloadInvalid => v5::PubRecReason::PayloadFormatInvalid,
        _ => v5::PubRecReason::UnspecifiedError,
    }
}

fn disconnect_code(reason: Reason) -> v5::DisconnectReasonCode {
    use v5::DisconnectReasonCode as Code;
    match reason {
        Reason::Success => Code::NormalDisconnection,
        Reason::Malformed => Code::MalformedPacket,
        Reason::ProtocolError => Code::ProtocolError,
        Reason::NotAuthorized => Code::NotAuthorized,
        Reason::ShuttingDown => Code::ServerShuttingDown,
        Reason::KeepAliveTimeout => Code::KeepAliveTimeout,
        Reason::TakenOver => Code::SessionTakenOver,
        Reason::FilterInvalid => Code::TopicFilterInvalid,
        Reason::TopicInvalid => Code::TopicNameInvalid,
        Reason::ReceiveMaximumExceeded => Code::ReceiveMaximumExceeded,
        Reason::AliasInvalid => Code::TopicAliasInvalid,
        Reason::PacketTooLarge => Code::PacketTooLarge,
        Reason::QuotaExceeded => Code::QuotaExceeded,
        Reason::Administrative => Code::AdministrativeAction,
        Reason::PayloadInvalid => Code::PayloadFormatInvalid,
        _ => Code::UnspecifiedError,
    }
}

/// Feeds bytes to everything that parses bytes from clients. A panic of the decoder that the guard caught counts too.
pub(crate) fn fuzz(data: &[u8]) {
    let max = 64 * 1024;
    let mut buf = BytesMut::from(data);
    match connect(&mut buf, max) {
        // After a CONNECT, what follows is in its protocol.
        Ok(Some(connect)) => fuzz_stream(connect.protocol, buf, max),
        Ok(None) => {}
        Err(error) => assert_ne!(error, DecodeError::Malformed(Malformed(DECODER_PANICKED))),
    }
    for protocol in [Protocol::V4, Protocol::V5] {
        fuzz_stream(protocol, BytesMut::from(data), max);
    }
}

fn fuzz_stream(protocol: Protocol, mut buf: BytesMut, max: usize) {
    let codec = Codec::new(protocol, max, None);
    let mut out = BytesMut::new();
    loop {
        let before = buf.len();
        match codec.decode(&mut buf) {
            Ok(Some(Incoming::Publish { publish, pid, .. })) => {
                assert!(
                    publish.qos == QoS::AtMostOnce || pid != 0,
                    "a packet id of 0 came through"
                );
                let delivery = Delivery::Publish {
                    qos: publish.qos,
                    expiry_left_s: publish.expiry_s(),
                    message: Arc::new(publish),
                    pid,
                    dup: false,
                    retain: false,
                    ids: vec![],
                };
                assert!(codec.delivery(&delivery, &mut out), "what was read can be written");
                // And what was written can be read.
                assert!(matches!(codec.decode(&mut out), Ok(Some(Incoming::Publish { .. }))));
                assert!(!out.has_remaining());
            }
            Ok(Some(_)) => assert!(buf.len() < before, "a packet takes bytes"),
            Ok(None) => return,
            Err(error) => {
                assert_ne!(error, DecodeError::Malformed(Malformed(DECODER_PANICKED)));
                return;
            }
        }
    }
}
