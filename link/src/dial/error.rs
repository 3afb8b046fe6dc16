//! Why the hub was not reached, in terms of what a person would do next.

use std::io;

use crate::connection::Closed;
use crate::goodbye::Goodbye;
use crate::pki::Pin;
use crate::tls::{HubVerifier, Verdict};

/// Why a dial failed. Of several attempts the most telling error is reported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// Whoever answered is another hub (or an impostor). Nothing was sent to it.
    #[error("the peer is not the expected hub{}", .seen.map(|p| format!(" (its CA is {p})")).unwrap_or_default())]
    PinMismatch {
        /// The pin that was expected.
        expected: Option<Pin>,
        /// The pin of the CA that was shown.
        seen: Option<Pin>,
    },
    /// The hub's certificate has run out by this machine's time. Mostly this machine's clock stands in the future. Seconds since 1970.
    #[error(
        "the hub's certificate ended at {until} and this machine says it is {now} (seconds since 1970): check the clock"
    )]
    Clock {
        /// End of the hub's certificate.
        until: u64,
        /// What this machine takes for now.
        now: u64,
    },
    /// The hub's certificate is wrong in another way.
    #[error("the hub's certificate is not acceptable: {0}")]
    BadCertificate(String),
    /// The hub said no, and why.
    #[error("the hub refused: {0}")]
    Refused(Goodbye),
    /// The hub's TLS said no: this gateway's certificate was refused (run out, of another CA), or it speaks another protocol.
    #[error("the hub's TLS refused (alert {alert}: {})", alert_text(*alert))]
    Tls {
        /// The alert's number.
        alert: u8,
    },
    /// Nobody answered in time.
    #[error("no answer in time")]
    Timeout,
    /// Nobody there.
    #[error("not reachable: {0}")]
    Unreachable(String),
    /// This side cannot even try.
    #[error("cannot dial: {0}")]
    Setup(String),
}

impl DialError {
    /// Whether the answer came from a hub, so that another transport to the same address would get the same.
    pub const fn is_final(&self) -> bool {
        match self {
            Self::PinMismatch { .. }
            | Self::Clock { .. }
            | Self::BadCertificate(_)
            | Self::Refused(_)
            | Self::Tls { .. }
            | Self::Setup(_) => true,
            Self::Timeout | Self::Unreachable(_) => false,
        }
    }

    /// How much it tells; the greater is reported.
    const fn weight(&self) -> u8 {
        match self {
            Self::Refused(_) => 7,
            Self::Tls { .. } => 6,
            Self::Clock { .. } => 5,
            Self::PinMismatch { .. } => 4,
            Self::BadCertificate(_) => 3,
            Self::Setup(_) => 2,
            Self::Unreachable(_) => 1,
            Self::Timeout => 0,
        }
    }

    pub(super) fn worse(self, other: Option<Self>) -> Self {
        match other {
            Some(other) if other.weight() >= self.weight() => other,
            _ => self,
        }
    }

    pub(super) fn from_io(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::TimedOut => Self::Timeout,
            _ => Self::Unreachable(e.to_string()),
        }
    }

    fn from_verdict(verdict: Verdict) -> Self {
        match verdict {
            Verdict::OtherCa { expected, seen } => Self::PinMismatch { expected, seen },
            Verdict::Ended { until, now } => Self::Clock { until, now },
            Verdict::Bad(what) => Self::BadCertificate(what),
        }
    }

    pub(super) fn from_closed(closed: Closed, verifier: &HubVerifier) -> Self {
        if let Some(verdict) = verifier.verdict() {
            return Self::from_verdict(verdict);
        }
        match closed {
            Closed::Peer(goodbye) => Self::Refused(goodbye),
            Closed::Tls(alert) => Self::Tls { alert },
            Closed::TimedOut => Self::Timeout,
            Closed::Local => Self::Timeout,
            Closed::Lost(what) => Self::Unreachable(what),
        }
    }

    pub(super) fn from_tls(e: &io::Error, verifier: &HubVerifier) -> Self {
        if let Some(verdict) = verifier.verdict() {
            return Self::from_verdict(verdict);
        }
        match e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(alert)) => Self::Tls {
                alert: u8::from(*alert),
            },
            Some(other) => Self::BadCertificate(other.to_string()),
            None => Self::Unreachable(e.to_string()),
        }
    }
}

/// The alerts a gateway may meet, in words.
const fn alert_text(alert: u8) -> &'static str {
    match alert {
        42 => "bad certificate",
        43 => "unsupported certificate",
        44 => "certificate revoked",
        45 => "certificate expired",
        46 => "certificate unknown",
        48 => "certificate of an unknown CA",
        51 => "decryption failed",
        70 => "other protocol version",
        116 => "certificate required",
        120 => "no common protocol",
        _ => "see RFC 8446",
    }
}
