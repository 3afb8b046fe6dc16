//! TLS of the hub's side of a QUIC connection.
//!
//! rustls runs the handshake. When it is over, nothing of it is needed any more but the secrets that the next keys come from, and who
//! the peer is until somebody has asked: the rest, some five kilobytes for each gateway, is given back. What a client may say in TLS
//! after its handshake is nothing (no resumption, no later authentication, keys are updated by QUIC), so anything it says is an error.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use quinn_proto::crypto::rustls::{HandshakeData, NoInitialCipherSuite, QuicServerConfig};
use quinn_proto::crypto::{
    self, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig as _, UnsupportedVersion,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectionId, Side, TransportError, TransportErrorCode};
use rustls::AlertDescription;
use rustls::pki_types::CertificateDer;
use rustls::quic::{KeyChange, Secrets, ServerConnection, Version};

/// The hub's TLS configuration as QUIC takes it.
pub(crate) struct HubTls {
    /// For what comes before a session.
    before: Arc<QuicServerConfig>,
    config: Arc<rustls::ServerConfig>,
}

impl HubTls {
    /// # Errors
    /// When the provider lacks the cipher that every QUIC handshake begins with.
    pub(crate) fn new(config: rustls::ServerConfig) -> Result<Self, NoInitialCipherSuite> {
        let config = Arc::new(config);
        Ok(Self {
            before: Arc::new(QuicServerConfig::try_from(Arc::clone(&config))?),
            config,
        })
    }
}

impl crypto::ServerConfig for HubTls {
    fn initial_keys(&self, version: u32, dst_cid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.before.initial_keys(version, dst_cid)
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.before.retry_tag(version, orig_dst_cid, packet)
    }

    fn start_session(self: Arc<Self>, version: u32, params: &TransportParameters) -> Box<dyn crypto::Session> {
        let mut ours = Vec::new();
        params.write(&mut ours);
        let draft = (0xff00_001d..=0xff00_0020).contains(&version);
        let labels = if draft { Version::V1Draft } else { Version::V1 };
        let connection = ServerConnection::new(Arc::clone(&self.config), labels, ours)
            .expect("the configuration has TLS 1.3, a QUIC cipher and no early data");
        Box::new(HubSession {
            tls: self,
            version,
            stage: Stage::Handshake(Box::new(connection)),
            told: false,
            next: None,
        })
    }
}

/// One connection's TLS.
struct HubSession {
    tls: Arc<HubTls>,
    version: u32,
    stage: Stage,
    /// Whether it was said that the protocol is chosen.
    told: bool,
    /// Where the next keys come from.
    next: Option<Secrets>,
}

enum Stage {
    Handshake(Box<ServerConnection>),
    Done {
        protocol: Option<Vec<u8>>,
        /// Until it was asked for.
        peer: Mutex<Option<Vec<CertificateDer<'static>>>>,
    },
}

fn certificates(connection: &ServerConnection) -> Option<Vec<CertificateDer<'static>>> {
    let shown = connection.peer_certificates()?;
    Some(shown.iter().map(|c| c.clone().into_owned()).collect())
}

fn refused(alert: AlertDescription, reason: String) -> TransportError {
    TransportError {
        code: TransportErrorCode::crypto(alert.into()),
        frame: None,
        reason,
    }
}

impl crypto::Session for HubSession {
    fn initial_keys(&self, dst_cid: &ConnectionId, _side: Side) -> Keys {
        self.tls
            .initial_keys(self.version, dst_cid)
            .unwrap_or_else(|_| unreachable!("a session is started for a version that has keys"))
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        let protocol = match &self.stage {
            Stage::Handshake(_) if !self.told => return None,
            Stage::Handshake(connection) => connection.alpn_protocol().map(<[u8]>::to_vec),
            Stage::Done { protocol, .. } => protocol.clone(),
        };
        Some(Box::new(HandshakeData {
            protocol,
            server_name: None,
        }))
    }

    /// After the handshake it answers once.
    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        let chain = match &self.stage {
            Stage::Handshake(connection) => certificates(connection),
            Stage::Done { peer, .. } => peer.lock().unwrap_or_else(PoisonError::into_inner).take(),
        };
        chain.map(|chain| Box::new(chain) as Box<dyn Any>)
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        None
    }

    fn is_handshaking(&self) -> bool {
        match &self.stage {
            Stage::Handshake(connection) => connection.is_handshaking(),
            Stage::Done { .. } => false,
        }
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        let Stage::Handshake(connection) = &mut self.stage else {
            return Err(refused(
                AlertDescription::UnexpectedMessage,
                "TLS after the handshake".to_owned(),
            ));
        };
        if let Err(e) = connection.read_hs(buf) {
            let alert = connection.alert().unwrap_or(AlertDescription::InternalError);
            return Err(refused(alert, e.to_string()));
        }
        let told = connection.alpn_protocol().is_some() || !connection.is_handshaking();
        Ok(told && !std::mem::replace(&mut self.told, told))
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let Stage::Handshake(connection) = &self.stage else {
            return Ok(None);
        };
        match connection.quic_transport_parameters() {
            None => Ok(None),
            Some(mut said) => Ok(Some(TransportParameters::read(Side::Server, &mut said)?)),
        }
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let Stage::Handshake(connection) = &mut self.stage else {
            return None;
        };
        let before = buf.len();
        let keys = match connection.write_hs(buf) {
            Some(KeyChange::Handshake { keys }) => Some(keys),
            Some(KeyChange::OneRtt { keys, next }) => {
                self.next = Some(next);
                Some(keys)
            }
            None => None,
        };
        if keys.is_none() && buf.len() == before && self.next.is_some() && !connection.is_handshaking() {
            // Both sides are through and everything was said.
            self.stage = Stage::Done {
                protocol: connection.alpn_protocol().map(<[u8]>::to_vec),
                peer: Mutex::new(certificates(connection)),
            };
        }
        let keys = keys?;
        Some(Keys {
            header: KeyPair {
                local: Box::new(keys.local.header),
                remote: Box::new(keys.remote.header),
            },
            packet: KeyPair {
                local: Box::new(keys.local.packet),
                remote: Box::new(keys.remote.packet),
            },
        })
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let keys = self.next.as_mut()?.next_packet_keys();
        Some(KeyPair {
            local: Box::new(keys.local),
            remote: Box::new(keys.remote),
        })
    }

    fn is_valid_retry(&self, _orig_dst_cid: &ConnectionId, _header: &[u8], _payload: &[u8]) -> bool {
        // Only clients are asked to come again.
        false
    }

    fn export_keying_material(
        &self,
        _output: &mut [u8],
        _label: &[u8],
        _context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        Err(ExportKeyingMaterialError)
    }
}

#[cfg(test)]
mod tests;
