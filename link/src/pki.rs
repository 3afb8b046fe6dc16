//! Certificates: who signs what, where it lies on disk, and what a peer's certificate says.
//!
//! - The hub's CA ([`HubCa`]) is made at the hub's first start and signs three kinds of leaf: the hub's own server certificate,
//!   one client certificate per gateway, and administrators' client certificates. Its public key's hash is the pin in join tokens.
//! - A gateway makes its own key ([`NodeKey`]), which never leaves it, and sends a request for it. From that request the hub takes
//!   the public key and nothing else: name, groups, identifiers, life and uses are the hub's decision.
//!   Key and certificate change together ([`install_identity`]), also when the power goes in between.
//! - A gateway also has a CA of its own ([`LocalCa`]) for its local API; it has nothing to do with the hub's.
//!
//! All keys are P-256. Nothing here opens a socket or reads a clock: "now" is an argument, in milliseconds since 1970.

mod ca;
mod cert;
mod csr;
mod files;
mod identity;
mod kubeconfig;
mod local;
#[cfg(test)]
mod tests;

pub use ca::{
    ADMIN_GROUP, ADMIN_VALID, Credential, HUB_SERVER_NAME, HubCa, NODE_GROUP, NODE_PREFIX, NODE_VALID, NodeCert,
    NodeProfile, SERVER_VALID, ServerCert, certificate_pem, parse_chain,
};
pub use cert::{Cert, Pin, San};
pub use csr::{MAX_CSR, NodeKey};
pub use files::write_atomic;
pub use identity::{Identity, install_identity, load_identity, recover_identity};
pub use kubeconfig::{Kubeconfig, write_kubeconfig};
pub use local::LocalCa;

use std::io;
use std::path::PathBuf;

/// No certificate can have been made before this program was: 2026-11-01. A clock that stands earlier is wrong, and every
/// judgement of time here begins at this moment. Seconds since 1970.
pub const BUILD_FLOOR_SECS: u64 = 1_793_491_200;

/// What can go wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A certificate request is refused.
    #[error("certificate request refused: {0}")]
    Request(&'static str),
    /// A name cannot stand in a certificate.
    #[error("{0:?} cannot be a name in a certificate")]
    Name(String),
    /// The certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Make(String),
    /// A certificate or chain could not be read.
    #[error("cannot read a certificate: {0}")]
    Parse(&'static str),
}

impl From<rcgen::Error> for PkiError {
    fn from(e: rcgen::Error) -> Self {
        Self::Make(e.to_string())
    }
}

/// Whether `name` can be a gateway's name: a DNS-1123 subdomain, as Kubernetes asks of a Node.
pub fn is_node_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}
