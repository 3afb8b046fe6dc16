//! Files beside the database: names, atomic renames, the lock.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::{StoreError, error::Fault};

/// The path with something appended to its file name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Renames and makes the new name survive a power cut.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_dir(to)
}

/// Makes what happened to names in the folder of `path` survive a power cut.
pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    let dir = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

/// Removes a file that may not be there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Creates a file only its owner can read, if it is not there. SQLite gives its log files the same mode.
pub(super) fn create_private(path: &Path) -> io::Result<()> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map(drop)
}

/// Held for as long as a store is open: the kernel lets go of it when the process dies, however it dies.
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock beside `path`, or says that somebody has it.
    pub(super) fn take(path: &Path) -> Result<Self, StoreError> {
        let name = beside(path, ".lock");
        let open = OpenOptions::new().append(true).create(true).mode(0o600).open(&name);
        let file = open.map_err(|e| StoreError::from(Fault::from(e)))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked(path.to_owned())),
            Err(TryLockError::Error(e)) => Err(Fault::from(e).into()),
        }
    }
}
