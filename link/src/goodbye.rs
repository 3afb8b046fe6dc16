//! Why one end leaves the other, in a form that fits into a QUIC close frame and into the first bytes of a TCP link.

use std::fmt;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The longest message that travels with a close, in bytes.
const MAX_MESSAGE: usize = 200;

/// Why a connection is closed or refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// Nothing is wrong.
    Normal,
    /// This end is stopping or restarting.
    GoingAway,
    /// A newer session of the same node took over.
    Fenced,
    /// The node's certificate was revoked.
    Revoked,
    /// No capacity now; come back later.
    Busy,
    /// The peer broke the protocol.
    Protocol,
    /// The peer showed no certificate, or one that is not for this.
    NotAllowed,
    /// The other transport is used from now on.
    Superseded,
    /// A code of a later version.
    Other(u32),
}

impl CloseCode {
    pub(crate) const fn to_u32(self) -> u32 {
        match self {
            Self::Normal => 0,
            Self::GoingAway => 1,
            Self::Fenced => 2,
            Self::Revoked => 3,
            Self::Busy => 4,
            Self::Protocol => 5,
            Self::NotAllowed => 6,
            Self::Superseded => 7,
            Self::Other(code) => code,
        }
    }

    pub(crate) const fn from_u32(code: u32) -> Self {
        match code {
            0 => Self::Normal,
            1 => Self::GoingAway,
            2 => Self::Fenced,
            3 => Self::Revoked,
            4 => Self::Busy,
            5 => Self::Protocol,
            6 => Self::NotAllowed,
            7 => Self::Superseded,
            other => Self::Other(other),
        }
    }
}

/// A close as told to the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goodbye {
    /// Why.
    pub code: CloseCode,
    /// When to come back, if the hub says so.
    pub retry_after: Option<Duration>,
    /// For people; at most 200 bytes travel.
    pub message: String,
}

impl Goodbye {
    /// A close without a time to come back.
    pub fn new(code: CloseCode, message: impl Into<String>) -> Self {
        Self {
            code,
            retry_after: None,
            message: message.into(),
        }
    }

    /// No capacity now: come back after `retry_after`.
    pub fn busy(retry_after: Duration) -> Self {
        Self {
            code: CloseCode::Busy,
            retry_after: Some(retry_after),
            message: "the hub takes no more at the moment".to_owned(),
        }
    }

    /// Four bytes of milliseconds (0: none), then the message.
    pub(crate) fn reason(&self) -> Bytes {
        let ms = self
            .retry_after
            .map_or(0, |d| u32::try_from(d.as_millis()).unwrap_or(u32::MAX).max(1));
        let end = (0..=self.message.len().min(MAX_MESSAGE))
            .rev()
            .find(|n| self.message.is_char_boundary(*n));
        let mut out = BytesMut::with_capacity(4 + MAX_MESSAGE);
        out.put_u32(ms);
        out.put_slice(&self.message.as_bytes()[..end.unwrap_or(0)]);
        out.freeze()
    }

    /// Reads what [`Self::reason`] wrote; anything else reads as no reason.
    pub(crate) fn read(code: u32, mut reason: &[u8]) -> Self {
        let ms = if reason.len() >= 4 { reason.get_u32() } else { 0 };
        let message = String::from_utf8_lossy(&reason[..reason.len().min(MAX_MESSAGE)])
            .chars()
            .filter(|c| !c.is_control())
            .collect();
        Self {
            code: CloseCode::from_u32(code),
            retry_after: (ms > 0).then(|| Duration::from_millis(u64::from(ms))),
            message,
        }
    }
}

impl fmt::Display for Goodbye {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.code)?;
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        match self.retry_after {
            Some(after) => write!(f, " (again after {:.1} s)", after.as_secs_f32()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn travels_and_comes_back() {
        for code in [
            CloseCode::Normal,
            CloseCode::Fenced,
            CloseCode::Busy,
            CloseCode::Other(4711),
        ] {
            for retry_after in [None, Some(Duration::from_millis(1500))] {
                let sent = Goodbye {
                    code,
                    retry_after,
                    message: "größer".to_owned(),
                };
                assert_eq!(Goodbye::read(code.to_u32(), &sent.reason()), sent);
            }
        }
    }

    #[test]
    fn a_long_or_hostile_reason_is_cut_and_cleaned() {
        let sent = Goodbye::new(CloseCode::Protocol, "ü".repeat(500));
        assert_eq!(Goodbye::read(5, &sent.reason()).message, "ü".repeat(100));
        let read = Goodbye::read(5, b"\0\0\0\0\x1b[31mred\xff\n");
        assert!(!read.message.contains('\x1b') && !read.message.contains('\n'), "{read}");
        assert_eq!(Goodbye::read(1, b"ab").retry_after, None);
    }
}
