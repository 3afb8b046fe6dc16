//! Enrolment: the one question and one answer on a `kurator-join/1` connection, checked and typed. Owns no policy: who is admitted is
//! the hub's decision, this makes sure that both read the same.

use crate::limits;
use crate::token::{Secret, addr_is_good};
use crate::wire::{self, Frame, frame::Kind};
use bytes::Bytes;
use core::time::Duration;
use std::collections::BTreeMap;

/// Why a hub does not admit.
pub use crate::wire::JoinCode;

/// A gateway asks for a certificate. `Debug` hides the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinRequest {
    /// Protocol version, [`limits::VERSIONS`].
    pub version: u32,
    /// From the token.
    pub token_id: String,
    /// From the token.
    pub token_secret: Secret,
    /// PKCS#10; the hub takes only the public key out of it.
    pub csr_der: Bytes,
    /// Empty: the name the token is bound to.
    pub node_name: String,
    /// Labels the gateway wishes for.
    pub labels: BTreeMap<String, String>,
    /// For the hub's records.
    pub agent_version: String,
    /// `x86_64`, `aarch64`, `arm`.
    pub arch: String,
    /// 16 to 64 random bytes: a request repeated after a lost answer is known as the same.
    pub nonce: Bytes,
}

/// The hub's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinResponse {
    /// Welcome.
    Admitted(Admitted),
    /// Not admitted.
    Refused(JoinRefusal),
}

/// What a gateway gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// Its name from now on.
    pub node_name: String,
    /// DER, leaf first.
    pub cert_chain: Vec<Bytes>,
    /// DER of the hub's CA certificate.
    pub ca: Bytes,
    /// Where the hub is, `host:port`.
    pub hub_addrs: Vec<String>,
    /// Idle heartbeat interval.
    pub heartbeat: Duration,
    /// Labels the hub gave it.
    pub labels: BTreeMap<String, String>,
    /// Of its SPIFFE id.
    pub trust_domain: String,
}

/// Why not, in a form for programs (`code`) and for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct JoinRefusal {
    /// For programs.
    pub code: JoinCode,
    /// One line what.
    pub message: String,
    /// One line what to do; may be empty.
    pub hint: String,
    /// When to come back, for [`JoinCode::Busy`].
    pub retry_after: Option<Duration>,
}

/// A join message that breaks the rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// Another kind of frame.
    #[error("the peer sends something else than a join message")]
    Unexpected,
    /// A field outside its bounds.
    #[error("the join message's {0} is missing, too long or not valid")]
    Field(&'static str),
}

impl JoinRequest {
    /// Reads it from a frame, every field held to its cap.
    ///
    /// # Errors
    /// [`JoinError`]: answer with [`JoinCode::BadRequest`] and close.
    pub fn from_frame(frame: Frame) -> Result<Self, JoinError> {
        let Some(Kind::JoinRequest(asked)) = frame.kind else {
            return Err(JoinError::Unexpected);
        };
        need(
            "token id",
            !asked.token_id.is_empty() && text_is_good(&asked.token_id, 64),
        )?;
        need(
            "token secret",
            !asked.token_secret.is_empty() && asked.token_secret.len() <= 64,
        )?;
        need(
            "certificate request",
            !asked.csr_der.is_empty() && asked.csr_der.len() <= limits::MAX_CSR,
        )?;
        need(
            "node name",
            asked.node_name.is_empty() || node_is_good(&asked.node_name),
        )?;
        need("labels", labels_are_good(&asked.labels))?;
        need("agent version", text_is_good(&asked.agent_version, limits::MAX_TEXT))?;
        need("arch", text_is_good(&asked.arch, limits::MAX_TEXT))?;
        need("nonce", (16..=64).contains(&asked.nonce.len()))?;
        Ok(Self {
            version: asked.version,
            token_id: asked.token_id,
            token_secret: Secret::new(asked.token_secret),
            csr_der: asked.csr_der,
            node_name: asked.node_name,
            labels: asked.labels,
            agent_version: asked.agent_version,
            arch: asked.arch,
            nonce: asked.nonce,
        })
    }

    /// As a frame.
    pub fn into_frame(self) -> Frame {
        Kind::JoinRequest(wire::JoinRequest {
            version: self.version,
            token_id: self.token_id,
            token_secret: Bytes::copy_from_slice(self.token_secret.expose()),
            csr_der: self.csr_der,
            node_name: self.node_name,
            labels: self.labels,
            agent_version: self.agent_version,
            arch: self.arch,
            nonce: self.nonce,
        })
        .into()
    }
}

impl JoinResponse {
    /// Reads it from a frame, every field held to its cap.
    ///
    /// # Errors
    /// [`JoinError`]: the hub answered with something that cannot be used.
    pub fn from_frame(frame: Frame) -> Result<Self, JoinError> {
        let Some(Kind::JoinResponse(answer)) = frame.kind else {
            return Err(JoinError::Unexpected);
        };
        if answer.code != JoinCode::Ok as i32 {
            return Ok(Self::Refused(JoinRefusal {
                code: JoinCode::try_from(answer.code).unwrap_or(JoinCode::Internal),
                message: shown(&answer.message),
                hint: shown(&answer.hint),
                retry_after: retry_after(answer.retry_after_ms),
            }));
        }
        need("node name", node_is_good(&answer.node_name))?;
        need("certificate chain", chain_is_good(&answer.cert_chain))?;
        need("CA", !answer.ca.is_empty() && answer.ca.len() <= limits::MAX_CERT)?;
        let addrs = &answer.hub_addrs;
        need(
            "hub addresses",
            (1..=limits::MAX_ADDRS).contains(&addrs.len()) && addrs.iter().all(|a| addr_is_good(a)),
        )?;
        need("labels", labels_are_good(&answer.labels))?;
        need("trust domain", text_is_good(&answer.trust_domain, limits::MAX_TEXT))?;
        let (low, high) = limits::HEARTBEAT_RANGE;
        Ok(Self::Admitted(Admitted {
            node_name: answer.node_name,
            cert_chain: answer.cert_chain,
            ca: answer.ca,
            hub_addrs: answer.hub_addrs,
            heartbeat: Duration::from_millis(answer.heartbeat_ms.into()).clamp(low, high),
            labels: answer.labels,
            trust_domain: answer.trust_domain,
        }))
    }

    /// As a frame.
    pub fn into_frame(self) -> Frame {
        let answer = match self {
            Self::Admitted(admitted) => wire::JoinResponse {
                code: JoinCode::Ok as i32,
                node_name: admitted.node_name,
                cert_chain: admitted.cert_chain,
                ca: admitted.ca,
                hub_addrs: admitted.hub_addrs,
                heartbeat_ms: millis(admitted.heartbeat),
                labels: admitted.labels,
                trust_domain: admitted.trust_domain,
                ..Default::default()
            },
            Self::Refused(refused) => wire::JoinResponse {
                // A refusal that says "ok" would read as an admission without a certificate.
                code: if refused.code == JoinCode::Ok {
                    JoinCode::Internal
                } else {
                    refused.code
                } as i32,
                message: refused.message,
                hint: refused.hint,
                retry_after_ms: refused.retry_after.map_or(0, millis),
                ..Default::default()
            },
        };
        Kind::JoinResponse(answer).into()
    }
}

fn need(what: &'static str, good: bool) -> Result<(), JoinError> {
    if good { Ok(()) } else { Err(JoinError::Field(what)) }
}

pub(crate) fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

pub(crate) fn retry_after(ms: u32) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms.into()).min(limits::MAX_RETRY_AFTER))
}

pub(crate) fn text_is_good(text: &str, max: usize) -> bool {
    text.len() <= max && !text.chars().any(char::is_control)
}

/// A text of the peer's made fit to show or log: cut, and without control characters.
pub(crate) fn shown(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if out.len() + c.len_utf8() > limits::MAX_REASON {
            break;
        }
        out.push(c);
    }
    out
}

/// A DNS subdomain, as Kubernetes wants the name of a Node.
pub(crate) fn node_is_good(name: &str) -> bool {
    name.len() <= limits::MAX_NODE
        && name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}

fn labels_are_good(labels: &BTreeMap<String, String>) -> bool {
    labels.len() <= limits::MAX_LABELS && labels.iter().all(|(k, v)| text_is_good(k, 317) && text_is_good(v, 63))
}

pub(crate) fn chain_is_good(chain: &[Bytes]) -> bool {
    (1..=limits::MAX_CHAIN).contains(&chain.len()) && chain.iter().all(|c| !c.is_empty() && c.len() <= limits::MAX_CERT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> JoinRequest {
        JoinRequest {
            version: 1,
            token_id: "ab".into(),
            token_secret: Secret::new(*b"super secret bytes"),
            csr_der: Bytes::from_static(b"csr"),
            node_name: "gw-1.site-a".into(),
            labels: BTreeMap::from([("zone".into(), "a".into())]),
            agent_version: "0.1.0".into(),
            arch: "aarch64".into(),
            nonce: Bytes::from_static(&[1; 16]),
        }
    }

    #[test]
    fn question_and_answers_come_back() {
        assert_eq!(JoinRequest::from_frame(request().into_frame()), Ok(request()));
        let admitted = JoinResponse::Admitted(Admitted {
            node_name: "gw-1".into(),
            cert_chain: vec![Bytes::from_static(b"leaf")],
            ca: Bytes::from_static(b"ca"),
            hub_addrs: vec!["hub:10443".into()],
            heartbeat: Duration::from_secs(60),
            labels: BTreeMap::new(),
            trust_domain: "kurator.local".into(),
        });
        assert_eq!(JoinResponse::from_frame(admitted.clone().into_frame()), Ok(admitted));
        let refused = JoinResponse::Refused(JoinRefusal {
            code: JoinCode::Busy,
            message: "too many join at once".into(),
            hint: "it comes back by itself".into(),
            retry_after: Some(Duration::from_secs(2)),
        });
        assert_eq!(JoinResponse::from_frame(refused.clone().into_frame()), Ok(refused));
    }

    #[test]
    fn every_field_is_held_to_its_bounds() {
        let field = |change: fn(&mut JoinRequest)| {
            let mut request = request();
            change(&mut request);
            JoinRequest::from_frame(request.into_frame()).unwrap_err()
        };
        assert_eq!(field(|r| r.node_name = "Gw_1".into()), JoinError::Field("node name"));
        assert_eq!(field(|r| r.node_name = "a..b".into()), JoinError::Field("node name"));
        assert_eq!(
            field(|r| r.csr_der = vec![0; limits::MAX_CSR + 1].into()),
            JoinError::Field("certificate request")
        );
        assert_eq!(field(|r| r.nonce = Bytes::new()), JoinError::Field("nonce"));
        assert_eq!(field(|r| r.arch = "a\u{1b}[2J".into()), JoinError::Field("arch"));
        assert_eq!(JoinRequest::from_frame(Frame::default()), Err(JoinError::Unexpected));
        assert_eq!(
            JoinResponse::from_frame(Kind::JoinResponse(Default::default()).into()),
            Err(JoinError::Field("node name"))
        );
    }

    #[test]
    fn an_unknown_code_is_still_a_refusal() {
        let answer = wire::JoinResponse {
            code: 99,
            message: "later\x07 version".into(),
            ..Default::default()
        };
        let Ok(JoinResponse::Refused(refused)) = JoinResponse::from_frame(Kind::JoinResponse(answer).into()) else {
            panic!("admitted by an unknown code");
        };
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (JoinCode::Internal, "later  version")
        );
    }

    #[test]
    fn debug_shows_no_secret_typed_or_raw() {
        let shown = format!("{:?} {:?}", request(), request().into_frame());
        assert!(!shown.contains("super"), "{shown}");
    }
}
