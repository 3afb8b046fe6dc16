//! Who may connect: join tokens, the certificates given for them, their renewal and their end.
//!
//! [`directory`] keeps the records; [`token`] and [`identity`] are what they mean; [`join`] answers a gateway that wants in.

mod directory;
mod identity;
mod join;
mod token;

pub(crate) use directory::Directory;
pub(crate) use identity::{Certificate, ClusterRecord, IdentityRefusal};
pub(crate) use join::{answer, hex};
pub(crate) use token::{MAX_TTL_SECONDS, MAX_USES, TokenRecord, good_label};
