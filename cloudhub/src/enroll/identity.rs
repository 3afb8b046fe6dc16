//! Who a node name belongs to: the certificates it may show, and whether it was thrown out. Pure records; the directory that
//! keeps them in memory and in the store is [`super::directory`].

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Certificates remembered per node: the current one, its predecessor, and one in the making when a rotation's answer was lost.
const MAX_CERTIFICATES: usize = 3;

/// One issued certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Certificate {
    /// Lower-case hex of the serial number.
    pub(crate) serial: String,
    /// Wall clock, ms.
    pub(crate) not_after: u64,
    /// Wall clock, ms.
    pub(crate) issued: u64,
}

/// One node as stored in the bucket `identities` under its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Identity {
    /// The node's name.
    pub(crate) node: String,
    /// Certificates it may show, newest last.
    pub(crate) certificates: Vec<Certificate>,
    /// Thrown out: no certificate of it is accepted until it joins again with a token bound to it.
    #[serde(default)]
    pub(crate) revoked: bool,
    /// Wall clock, ms, of the last join.
    pub(crate) joined: u64,
    /// The token of the last join.
    pub(crate) token: String,
    /// What makes a repeated join request the same one: its nonce, and the key it is for.
    #[serde(default)]
    pub(crate) request: String,
    /// Labels given at the join.
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// Of the agent at the join.
    #[serde(default)]
    pub(crate) agent_version: String,
    /// Of the gateway.
    #[serde(default)]
    pub(crate) arch: String,
    /// The Cluster that stands for it above, since the last join.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cluster: Option<ClusterRecord>,
}

/// A Cluster that was made for a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClusterRecord {
    /// The control plane it is in.
    pub(crate) plane: Arc<str>,
    /// Its uid.
    pub(crate) uid: Arc<str>,
    /// The site that it stands for; the node itself when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) site: Option<Arc<str>>,
    /// Somebody removed it.
    #[serde(default)]
    pub(crate) withdrawn: bool,
}

/// Why a certificate is not accepted on the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IdentityRefusal {
    /// The hub never enrolled this node.
    Unknown,
    /// The node was revoked.
    Revoked,
    /// The certificate was replaced by a later join or rotation.
    Replaced,
}

impl Identity {
    /// Whether a certificate with `serial` still speaks for the node. Its dates were checked by TLS.
    ///
    /// # Errors
    /// Revoked, or no longer one of its certificates.
    pub(crate) fn accepts(&self, serial: &str) -> Result<(), IdentityRefusal> {
        if self.revoked {
            return Err(IdentityRefusal::Revoked);
        }
        if self.certificates.iter().any(|c| c.serial == serial) {
            Ok(())
        } else {
            Err(IdentityRefusal::Replaced)
        }
    }

    /// Whether the name is taken at `now`: enrolled, not thrown out, and with a certificate still in time.
    pub(crate) fn taken(&self, now: u64) -> bool {
        !self.revoked && self.certificates.iter().any(|c| c.not_after > now)
    }

    /// The record after a rotation shown with `current`: that certificate and the new one are accepted, so that an answer lost
    /// on the way strands nobody; anything older is not.
    #[must_use]
    pub(crate) fn rotated(mut self, current: &str, new: Certificate) -> Self {
        let keep_from = self.certificates.iter().position(|c| c.serial == current).unwrap_or(0);
        self.certificates.drain(..keep_from);
        self.certificates.push(new);
        if self.certificates.len() > MAX_CERTIFICATES {
            // The one in use stays; the oldest answer that never arrived goes.
            self.certificates.remove(1);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cert(serial: &str) -> Certificate {
        Certificate {
            serial: serial.into(),
            not_after: 5000,
            issued: 0,
        }
    }

    fn identity() -> Identity {
        Identity {
            node: "gw-1".into(),
            certificates: vec![cert("01")],
            revoked: false,
            joined: 0,
            token: "t".into(),
            request: String::new(),
            labels: BTreeMap::new(),
            agent_version: String::new(),
            arch: String::new(),
            cluster: None,
        }
    }

    #[test]
    fn rotation_accepts_old_and_new_until_the_new_one_is_shown() {
        let id = identity().rotated("01", cert("02"));
        assert_eq!((id.accepts("01"), id.accepts("02")), (Ok(()), Ok(())));
        let id = id.rotated("02", cert("03"));
        assert_eq!(id.accepts("01"), Err(IdentityRefusal::Replaced));
        assert_eq!((id.accepts("02"), id.accepts("03")), (Ok(()), Ok(())));
    }

    #[test]
    fn answers_lost_over_and_over_keep_the_certificate_in_use() {
        let mut id = identity();
        for n in 2..20 {
            id = id.rotated("01", cert(&format!("{n:02}")));
            assert!(id.certificates.len() <= MAX_CERTIFICATES);
            assert_eq!(id.accepts("01"), Ok(()));
            assert_eq!(id.accepts(&format!("{n:02}")), Ok(()));
        }
    }

    #[test]
    fn revocation_covers_every_certificate() {
        let id = Identity {
            revoked: true,
            ..identity()
        };
        assert_eq!(id.accepts("01"), Err(IdentityRefusal::Revoked));
        assert!(!id.taken(1));
        assert!(identity().taken(4999) && !identity().taken(5000));
    }
}
