//! Addresses that stayed taken when the machine lost power: the plugin that gives them writes a file for each and learns of an end only when
//! it is told. Those of sandboxes that the runtime does not know are given back.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::NETWORK;

/// A lease names a sandbox and an interface.
const MAX_LEASE: u64 = 4096;
/// Leases looked at; no machine runs so many pods.
const MOST: usize = 64 * 1024;

/// The leases that there are now: file, and sandbox that has it. Empty for what a power cut left of a lease: nobody can ever give that back.
pub(crate) fn held(leases: &Path) -> io::Result<BTreeMap<PathBuf, String>> {
    let mut held = BTreeMap::new();
    let entries = match std::fs::read_dir(leases.join(NETWORK)) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(held),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let entry = entry?;
        let is_lease = entry.file_name().to_str().is_some_and(|n| n.parse::<IpAddr>().is_ok());
        if is_lease && held.len() < MOST {
            let path = entry.path();
            held.insert(path.clone(), sandbox(&path)?);
        }
    }
    Ok(held)
}

/// Gives back those that were held, still are by the same sandbox, and whose sandbox is not among those that the runtime knows by now: a
/// sandbox that was being made at the first look has been made since. Returns how many.
pub(crate) fn give_back(held: &BTreeMap<PathBuf, String>, known: &BTreeSet<String>) -> io::Result<usize> {
    let mut orphans = held.iter().filter(|(_, sandbox)| !known.contains(*sandbox)).peekable();
    let Some(folder) = orphans.peek().and_then(|(path, _)| path.parent()) else {
        return Ok(0);
    };
    // As the plugin does while it gives and takes.
    let lock = std::fs::File::create(folder.join("lock"))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    let mut count = 0;
    for (path, was) in orphans {
        match sandbox(path) {
            Ok(is) if is == *was => std::fs::remove_file(path)?,
            Ok(_) => continue,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        }
        count += 1;
    }
    Ok(count)
}

fn sandbox(path: &Path) -> io::Result<String> {
    use std::io::Read as _;
    let mut lease = Vec::new();
    std::fs::File::open(path)?.take(MAX_LEASE).read_to_end(&mut lease)?;
    let lease = String::from_utf8_lossy(&lease);
    Ok(lease.lines().next().unwrap_or_default().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_vanished_sandboxes_are_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join(NETWORK);
        let known = BTreeSet::from(["a1".to_owned()]);
        assert_eq!(held(dir.path()).unwrap().len(), 0);
        std::fs::create_dir(&folder).unwrap();
        for (file, text) in [
            ("10.42.0.2", "a1\r\neth0"),
            ("10.42.0.3", "gone\r\neth0"),
            ("10.42.0.4", ""),
            ("fd00::5", "gone\neth0"),
            ("last_reserved_ip.0", "10.42.0.4"),
        ] {
            std::fs::write(folder.join(file), text).unwrap();
        }
        let before = held(dir.path()).unwrap();
        std::fs::write(folder.join("10.42.0.6"), "young\r\neth0").unwrap();
        std::fs::write(folder.join("fd00::5"), "young\r\neth0").unwrap();
        assert_eq!(give_back(&before, &known).unwrap(), 2);
        let mut left: Vec<_> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(
            left,
            ["10.42.0.2", "10.42.0.6", "fd00::5", "last_reserved_ip.0", "lock"]
        );
    }
}
