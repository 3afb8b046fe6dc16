//! A gateway's identity as one thing: key, certificate and the hub's CA change together or not at all.
//!
//! They stand in three files whose names people know (`node.key`, `node.crt`, `hub-ca.crt`), and three files cannot be replaced at
//! once. So a new identity is first written whole into one file beside them, [`STAGED`]. Its appearance is the change: while it is
//! there it is the identity, whatever the three say. They follow, then it goes:
//!
//! ```text
//!   old --STAGED appears--> new (staged) --three files follow--> new (both) --STAGED goes--> new
//! ```
//!
//! A power cut at any moment leaves the old identity or the new one. [`recover_identity`] finishes what was interrupted; readers
//! ([`load_identity`]) need not wait for it. A lock on the folder keeps writers (an agent that renews, a person who joins again)
//! apart and readers out of the middle; it ends with the process that holds it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::files::{make_folder, read};
use super::{Cert, Credential, NodeKey, PkiError, write_atomic};

/// The identity on its way: key, chain and, when it changes too, the hub's CA.
const STAGED: &str = "identity.new";
const KEY: &str = "node.key";
const CHAIN: &str = "node.crt";
const CA: &str = "hub-ca.crt";
/// Where the parts of [`STAGED`] begin. PEM readers take such lines for remarks.
const CHAIN_FOLLOWS: &str = "# node.crt\n";
const CA_FOLLOWS: &str = "# hub-ca.crt\n";

/// What a gateway is known by, and what it knows its hub by.
#[derive(Debug)]
pub struct Identity {
    /// Certificate chain and key, which belong together.
    pub credential: Credential,
    /// The hub's CA, PEM.
    pub ca_pem: String,
}

/// The identity in `pki` at this moment, whole: the old one or the new one, also in the middle of a change and after an interrupted one.
///
/// # Errors
/// When there is none, or its files cannot be read or do not belong together.
pub fn load_identity(pki: &Path) -> Result<Identity, PkiError> {
    let _lock = lock(pki, Access::Read)?;
    let need = |name: &str| {
        let path = pki.join(name);
        read(&path)?.ok_or_else(|| PkiError::Io {
            path,
            source: io::Error::new(io::ErrorKind::NotFound, "it is not there"),
        })
    };
    if let Some(staged) = staged(pki)? {
        return Ok(Identity {
            credential: staged.credential,
            ca_pem: staged.ca_pem.map_or_else(|| need(CA), Ok)?,
        });
    }
    let credential = Credential {
        chain_pem: need(CHAIN)?,
        key_pem: need(KEY)?,
    };
    if !belongs_together(&credential) {
        return Err(PkiError::Damaged {
            path: pki.join(KEY),
            what: "it is not the key of node.crt: join again",
        });
    }
    Ok(Identity {
        credential,
        ca_pem: need(CA)?,
    })
}

/// Makes `credential` the identity in `pki`, and `ca_pem` the hub's CA if given (a renewal keeps the one that is there).
///
/// # Errors
/// When key and certificate do not belong together, or a file cannot be written. Once the new identity is staged it holds, also when
/// an error comes later: the next call here or in [`recover_identity`] goes on from there.
pub fn install_identity(pki: &Path, credential: &Credential, ca_pem: Option<&str>) -> Result<(), PkiError> {
    if !belongs_together(credential) {
        return Err(PkiError::Parse("the certificate is of another key"));
    }
    make_folder(pki)?;
    let _lock = lock(pki, Access::Write)?;
    let mut staged = Staged {
        credential: credential.clone(),
        ca_pem: ca_pem.map(str::to_owned),
    };
    // An interrupted change that is overtaken by this one may have brought a CA that is not in its place yet.
    if staged.ca_pem.is_none() {
        staged.ca_pem = self::staged(pki)?.and_then(|before| before.ca_pem);
    }
    staged.steps(pki).iter().try_for_each(Step::take)
}

/// Finishes an interrupted change and clears away what else it left. Without a folder there is nothing to do.
///
/// # Errors
/// When a file cannot be written.
pub fn recover_identity(pki: &Path) -> Result<(), PkiError> {
    if !pki.is_dir() {
        return Ok(());
    }
    let _lock = lock(pki, Access::Write)?;
    if let Some(staged) = staged(pki)? {
        staged.finishing(pki).iter().try_for_each(Step::take)?;
    } else {
        // Not whole, so it never held.
        Step::Remove(pki.join(STAGED)).take()?;
    }
    sweep(pki)
}

/// A change on its way.
struct Staged {
    credential: Credential,
    ca_pem: Option<String>,
}

impl Staged {
    fn text(&self) -> String {
        let mut text = format!(
            "{}{CHAIN_FOLLOWS}{}",
            self.credential.key_pem, self.credential.chain_pem
        );
        if let Some(ca) = &self.ca_pem {
            text.push_str(CA_FOLLOWS);
            text.push_str(ca);
        }
        text
    }

    fn parse(text: &str) -> Option<Self> {
        let (key, rest) = text.split_once(CHAIN_FOLLOWS)?;
        let (chain, ca) = match rest.split_once(CA_FOLLOWS) {
            Some((chain, ca)) => (chain, Some(ca.to_owned())),
            None => (rest, None),
        };
        if ca.as_deref().is_some_and(|ca| Cert::parse_pem(ca).is_err()) {
            return None;
        }
        let credential = Credential {
            chain_pem: chain.to_owned(),
            key_pem: key.to_owned(),
        };
        belongs_together(&credential).then_some(Self { credential, ca_pem: ca })
    }

    /// The whole change. It has happened once the first step is done.
    fn steps(&self, pki: &Path) -> Vec<Step> {
        let mut steps = vec![Step::Write(pki.join(STAGED), self.text(), 0o600)];
        steps.extend(self.finishing(pki));
        steps
    }

    fn finishing(&self, pki: &Path) -> Vec<Step> {
        let ca = self.ca_pem.clone().map(|ca| Step::Write(pki.join(CA), ca, 0o644));
        let mut steps = Vec::from_iter(ca);
        steps.push(Step::Write(pki.join(KEY), self.credential.key_pem.clone(), 0o600));
        steps.push(Step::Write(pki.join(CHAIN), self.credential.chain_pem.clone(), 0o644));
        steps.push(Step::Remove(pki.join(STAGED)));
        steps
    }
}

/// One thing done to one file, durable when it returns.
enum Step {
    Write(PathBuf, String, u32),
    Remove(PathBuf),
}

impl Step {
    fn take(&self) -> Result<(), PkiError> {
        match self {
            Self::Write(path, text, mode) => write_atomic(path, text.as_bytes(), *mode),
            Self::Remove(path) => {
                let removed = match fs::remove_file(path) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                    Err(e) => Err(e),
                    Ok(()) => path
                        .parent()
                        .map_or(Ok(()), |folder| File::open(folder).and_then(|f| f.sync_all())),
                };
                removed.map_err(|source| PkiError::Io {
                    path: path.clone(),
                    source,
                })
            }
        }
    }
}

/// The change on its way, if there is one and it is whole. It was synced before it got its name, so that half a one means a damaged
/// disk, not an interrupted change.
fn staged(pki: &Path) -> Result<Option<Staged>, PkiError> {
    Ok(read(&pki.join(STAGED))?.as_deref().and_then(Staged::parse))
}

fn belongs_together(credential: &Credential) -> bool {
    NodeKey::from_pem(&credential.key_pem)
        .ok()
        .zip(Cert::parse_pem(&credential.chain_pem).ok())
        .is_some_and(|(key, cert)| key.pin() == cert.pin)
}

/// Removes what a cut in the middle of a write left: keys that nobody uses should not lie about.
fn sweep(pki: &Path) -> Result<(), PkiError> {
    let failed = |path: PathBuf| move |source| PkiError::Io { path, source };
    for entry in fs::read_dir(pki).map_err(failed(pki.to_owned()))? {
        let entry = entry.map_err(failed(pki.to_owned()))?;
        let name = entry.file_name();
        let left = name
            .to_str()
            .and_then(|name| name.strip_prefix('.'))
            .is_some_and(|name| {
                [STAGED, KEY, CHAIN, CA]
                    .iter()
                    .any(|ours| name.strip_prefix(ours).is_some_and(|rest| rest.starts_with('.')))
            });
        if left {
            fs::remove_file(entry.path()).map_err(failed(entry.path()))?;
        }
    }
    Ok(())
}

enum Access {
    Read,
    Write,
}

/// Held until dropped. A file system without locks is used without.
fn lock(pki: &Path, access: Access) -> Result<File, PkiError> {
    let locked = File::open(pki).and_then(|folder| {
        let done = match access {
            Access::Read => folder.lock_shared(),
            Access::Write => folder.lock(),
        };
        match done {
            Err(e) if e.kind() != io::ErrorKind::Unsupported => Err(e),
            _ => Ok(folder),
        }
    });
    locked.map_err(|source| PkiError::Io {
        path: pki.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests;
