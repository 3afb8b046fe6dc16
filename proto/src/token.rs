//! Join tokens: what an operator carries from the hub to a gateway.
//!
//! Text form: `kj1.` and base64url of (protobuf of addresses, pin, id, secret) and 4 bytes of its SHA-256. The checksum makes a token
//! that lost a character in a terminal or a chat tell so, before anything is sent to anyone. The secret is in no `Debug` output;
//! `Display` is the token itself and belongs on `token create`'s stdout only.

use crate::limits;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use core::fmt;
use core::str::FromStr;
use prost::Message;
use ring::digest::{SHA256, digest};
use ring::rand::SecureRandom;

const PREFIX: &str = "kj1.";
const CHECKSUM: usize = 4;
/// Bytes of a generated secret: 192 bits.
const SECRET: usize = 24;
/// Shortest and longest secret taken.
const SECRET_RANGE: core::ops::RangeInclusive<usize> = 16..=64;
/// Longest id.
const MAX_ID: usize = 64;

/// Why a text is no usable join token. No variant repeats the text: it may hold a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Nothing there.
    #[error("the token is empty")]
    Empty,
    /// Does not begin like one.
    #[error("this is no join token: one begins with \"{PREFIX}\"")]
    NotAToken,
    /// Of another version.
    #[error("the token is of version {0}, this program reads version 1; use the kurator of the hub's release")]
    Version(u32),
    /// Cut or changed on its way: the checksum does not match.
    #[error("the token is damaged, a part of it is missing or changed; copy the whole line again")]
    Garbled,
    /// Longer than any token.
    #[error("the token has {len} characters; a token has at most {}", limits::MAX_TOKEN)]
    TooLong {
        /// Characters.
        len: usize,
    },
    /// Intact, and made with content that no hub makes.
    #[error("the token is intact and its {0} is not valid")]
    Invalid(&'static str),
}

/// Bytes that `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes the bytes as they are.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes, to be sent to the hub and nowhere else.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A join token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// The hub's addresses, `host:port`, tried in order.
    pub addrs: Vec<String>,
    /// SHA-256 of the public key (SPKI) of the hub's CA.
    pub pin: [u8; 32],
    /// Names the token in the hub's list; no secret.
    pub id: String,
    /// What admits the bearer.
    pub secret: Secret,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct Body {
    #[prost(string, repeated, tag = "1")]
    addrs: Vec<String>,
    #[prost(bytes = "vec", tag = "2")]
    pin: Vec<u8>,
    #[prost(string, tag = "3")]
    id: String,
    #[prost(bytes = "vec", tag = "4")]
    secret: Vec<u8>,
}

// prost's Message asks for Debug; this one shows nothing.
impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Body(…)")
    }
}

/// The hub's side of a secret: what it stores, and what it compares an offered secret with.
pub fn secret_hash(id: &str, secret: &[u8]) -> [u8; 32] {
    let mut hash = ring::digest::Context::new(&SHA256);
    hash.update(b"kurator join token 1\0");
    hash.update(&(id.len() as u64).to_be_bytes());
    hash.update(id.as_bytes());
    hash.update(secret);
    let mut out = [0; 32];
    out.copy_from_slice(hash.finish().as_ref());
    out
}

impl JoinToken {
    /// A new token with a random id and secret.
    ///
    /// # Errors
    /// [`TokenError::Invalid`] for addresses a token cannot hold, or (`"secret"`) when the system has no randomness.
    pub fn generate(addrs: Vec<String>, pin: [u8; 32]) -> Result<Self, TokenError> {
        let mut random = [0; 5 + SECRET];
        ring::rand::SystemRandom::new()
            .fill(&mut random)
            .map_err(|_| TokenError::Invalid("secret"))?;
        let (id, secret) = random.split_at(5);
        let id = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let token = Self {
            addrs,
            pin,
            id,
            secret: Secret::new(secret),
        };
        token.check()?;
        Ok(token)
    }

    /// What the hub keeps in place of the secret.
    pub fn secret_hash(&self) -> [u8; 32] {
        secret_hash(&self.id, self.secret.expose())
    }

    fn check(&self) -> Result<(), TokenError> {
        if self.addrs.is_empty() || self.addrs.len() > limits::MAX_ADDRS || !self.addrs.iter().all(|a| addr_is_good(a))
        {
            return Err(TokenError::Invalid("list of hub addresses"));
        }
        if self.id.is_empty()
            || self.id.len() > MAX_ID
            || !self.id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        {
            return Err(TokenError::Invalid("id"));
        }
        if !SECRET_RANGE.contains(&self.secret.0.len()) {
            return Err(TokenError::Invalid("secret"));
        }
        Ok(())
    }
}

/// `host:port` as far as it can be told without resolving it.
pub(crate) fn addr_is_good(addr: &str) -> bool {
    addr.len() <= limits::MAX_TEXT
        && addr.bytes().all(|b| b.is_ascii_graphic())
        && addr
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0))
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = Body {
            addrs: self.addrs.clone(),
            pin: self.pin.to_vec(),
            id: self.id.clone(),
            secret: self.secret.0.clone(),
        };
        let mut bytes = body.encode_to_vec();
        let sum = digest(&SHA256, &bytes);
        bytes.extend_from_slice(&sum.as_ref()[..CHECKSUM]);
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    /// Reads a token. White space anywhere is ignored, as terminals break long lines.
    fn from_str(text: &str) -> Result<Self, TokenError> {
        if text.len() > limits::MAX_TOKEN {
            return Err(TokenError::TooLong { len: text.len() });
        }
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        let Some(encoded) = text.strip_prefix(PREFIX) else {
            let version = text
                .strip_prefix("kj")
                .and_then(|rest| rest.split_once('.')?.0.parse().ok());
            return Err(version.map_or(TokenError::NotAToken, TokenError::Version));
        };
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| TokenError::Garbled)?;
        let (body, sum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(TokenError::Garbled)?;
        if digest(&SHA256, body).as_ref()[..CHECKSUM] != sum[..] {
            return Err(TokenError::Garbled);
        }
        let body = Body::decode(body).map_err(|_| TokenError::Invalid("content"))?;
        let pin = body.pin.try_into().map_err(|_| TokenError::Invalid("pin"))?;
        let token = Self {
            addrs: body.addrs,
            pin,
            id: body.id,
            secret: Secret(body.secret),
        };
        token.check()?;
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token() -> JoinToken {
        JoinToken {
            addrs: vec!["hub.example:10443".into(), "[2001:db8::1]:10443".into()],
            pin: [7; 32],
            id: "0a1b2c3d4e".into(),
            secret: Secret::new([9; 24]),
        }
    }

    #[test]
    fn comes_back_also_when_a_terminal_broke_it() {
        let text = token().to_string();
        assert_eq!(text.parse(), Ok(token()));
        assert_eq!(format!("  {}\r\n {}\n", &text[..40], &text[40..]).parse(), Ok(token()));
    }

    #[test]
    fn each_mistake_has_its_error() {
        let text = token().to_string();
        assert_eq!(" \n".parse::<JoinToken>(), Err(TokenError::Empty));
        assert_eq!("eyJhbGciOi".parse::<JoinToken>(), Err(TokenError::NotAToken));
        assert_eq!(
            text.replacen("kj1", "kj2", 1).parse::<JoinToken>(),
            Err(TokenError::Version(2))
        );
        assert_eq!(text[..text.len() - 1].parse::<JoinToken>(), Err(TokenError::Garbled));
        assert_eq!("kj1.".parse::<JoinToken>(), Err(TokenError::Garbled));
        assert_eq!(
            "x".repeat(5000).parse::<JoinToken>(),
            Err(TokenError::TooLong { len: 5000 })
        );
        let invalid = |change: fn(&mut JoinToken)| {
            let mut token = token();
            change(&mut token);
            token.to_string().parse::<JoinToken>()
        };
        assert_eq!(
            invalid(|t| t.addrs.clear()),
            Err(TokenError::Invalid("list of hub addresses"))
        );
        assert_eq!(
            invalid(|t| t.addrs[0] = "no port".into()),
            Err(TokenError::Invalid("list of hub addresses"))
        );
        assert_eq!(invalid(|t| t.id.clear()), Err(TokenError::Invalid("id")));
        assert_eq!(
            invalid(|t| t.secret = Secret::new([1; 3])),
            Err(TokenError::Invalid("secret"))
        );
    }

    #[test]
    fn debug_shows_no_secret() {
        let token = JoinToken {
            secret: Secret::new(*b"super secret bytes here!"),
            ..token()
        };
        let shown = format!("{token:?} {:#?}", token.secret);
        assert!(!shown.contains("super") && !shown.contains("115, 117"), "{shown}");
    }

    #[test]
    fn generated_tokens_differ_and_hash_by_id() {
        let make = || JoinToken::generate(vec!["127.0.0.1:10443".into()], [1; 32]).unwrap();
        let (one, two) = (make(), make());
        assert_ne!(one.secret, two.secret);
        assert_ne!(one.secret_hash(), two.secret_hash());
        assert_eq!(one.secret_hash(), secret_hash(&one.id, one.secret.expose()));
        assert_ne!(secret_hash("a", b"bc"), secret_hash("ab", b"c"));
        assert!(one.to_string().len() < 200, "fits two terminal lines");
    }

    proptest! {
        #[test]
        fn a_changed_character_is_noticed(at in 4usize..150, with in "[A-Za-z0-9_-]") {
            let text = token().to_string();
            let at = at.min(text.len() - 1);
            prop_assume!(text[at..=at] != with);
            let changed = format!("{}{}{}", &text[..at], with, &text[at + 1..]);
            prop_assert_eq!(changed.parse::<JoinToken>(), Err(TokenError::Garbled));
        }

        #[test]
        fn any_text_is_answered(text in ".{0,300}") {
            prop_assert!(text.parse::<JoinToken>().is_err());
            let _error = format!("kj1.{text}").parse::<JoinToken>().unwrap_err();
        }
    }
}
