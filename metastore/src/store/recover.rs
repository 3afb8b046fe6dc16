//! From a file on disk to an open store: the lock, the check after an unclean stop, damage set aside, the last good snapshot.
//!
//! A file found damaged is renamed, never served and never deleted. In its place comes the last good snapshot, or an empty file,
//! always under a new incarnation and with revisions far beyond the old ones: nobody who remembers a revision or a journal
//! number of the damaged file can mistake the new file for it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OptionalExtension as _};

use super::{
    Opened, SealKey, StoreError, StoreOptions,
    error::Fault,
    files::{self, Lock, beside},
    schema::{self, Role},
};

/// How far revisions jump when a file is replaced: more than could have been written since the snapshot.
const REVISION_JUMP: u64 = 1 << 32;

/// A file ready to be used.
pub(super) struct Ready {
    pub(super) db: Connection,
    pub(super) lock: Lock,
    pub(super) opened: Opened,
}

/// Opens the file, or what takes its place.
pub(super) fn open(options: &StoreOptions) -> Result<Ready, StoreError> {
    let path = &options.path;
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        fs::create_dir_all(dir).map_err(Fault::from)?;
    }
    let lock = Lock::take(path)?;
    let mut opened = Opened {
        damaged: None,
        restored: false,
        incarnation: 0,
        unclean: false,
    };
    let first = if beside(path, SUSPECT).exists() {
        opened.unclean = true;
        Err(StoreError::Corrupt("damage was met while it was in use".into()))
    } else {
        open_file(path, &mut opened.unclean)
    };
    let db = match first {
        Ok(db) => db,
        Err(StoreError::Corrupt(why)) => {
            let aside = set_aside(path).map_err(Fault::from)?;
            tracing::error!(file = %path.display(), aside = %aside.display(), %why, "The store file is damaged and was set aside.");
            opened.damaged = Some(aside);
            let (db, restored) = replace(options)?;
            opened.restored = restored;
            db
        }
        Err(other) => return Err(other),
    };
    check_seal(&db, options.seal_key.as_ref())?;
    if let Some(pages) = options.max_bytes.map(|bytes| bytes / 4096) {
        db.execute_batch(&format!("PRAGMA max_page_count = {}", pages.max(16)))?;
    }
    opened.incarnation = schema::meta(&db, "incarnation")?;
    Ok(Ready { db, lock, opened })
}

/// Beside a file that was found damaged while in use.
const SUSPECT: &str = ".suspect";

/// Leaves word for the next start that the file is not to be served.
pub(super) fn mark_suspect(path: &Path) {
    let marked = files::create_private(&beside(path, SUSPECT)).and_then(|()| files::sync_dir(path));
    if let Err(error) = marked {
        tracing::error!(file = %path.display(), %error, "The damaged store file could not be marked.");
    }
}

/// Opens a file as it is. `unclean` says whether its last user did not close it; it was then read through for damage.
fn open_file(path: &Path, unclean: &mut bool) -> Result<Connection, StoreError> {
    files::create_private(path).map_err(Fault::from)?;
    let mut db = schema::connect(path, Role::Writer)?;
    schema::lay_out(&mut db)?;
    *unclean = schema::meta(&db, "clean")? == 0;
    if *unclean {
        schema::quick_check(&db)?;
    }
    Ok(db)
}

/// Renames the file and what belongs to it, and returns the new name.
fn set_aside(path: &Path) -> std::io::Result<PathBuf> {
    let aside = (1..)
        .map(|n| beside(path, &format!(".damaged-{n}")))
        .find(|name| !name.exists())
        .expect("some number is free");
    // The log first: a file without its log must not be opened as if it were whole.
    for suffix in ["-wal", "-shm"] {
        match fs::rename(beside(path, suffix), beside(&aside, suffix)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    files::rename(path, &aside)?;
    files::remove(&beside(path, SUSPECT))?;
    files::sync_dir(path)?;
    Ok(aside)
}

/// Puts the last good snapshot in the place of the file, or an empty file.
fn replace(options: &StoreOptions) -> Result<(Connection, bool), StoreError> {
    let restored = match options.snapshot_path().filter(|s| s.exists()) {
        None => false,
        Some(snapshot) => match restore(&snapshot, &options.path) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(snapshot = %snapshot.display(), %error, "The snapshot cannot be used; the store starts empty.");
                false
            }
        },
    };
    let db = open_file(&options.path, &mut false)?;
    let tx = db.unchecked_transaction()?;
    let (compacted, revision) = (schema::meta(&tx, "compacted")?, schema::revision(&tx)?);
    schema::compact(&tx, compacted, revision)?;
    schema::set_meta(&tx, "compacted", revision.saturating_add(REVISION_JUMP))?;
    schema::renew_incarnation(&tx)?;
    tx.commit()?;
    Ok((db, restored))
}

fn restore(snapshot: &Path, path: &Path) -> Result<(), StoreError> {
    let part = beside(path, ".restoring");
    for suffix in ["", "-wal", "-shm"] {
        files::remove(&beside(&part, suffix)).map_err(Fault::from)?;
    }
    files::create_private(&part).map_err(Fault::from)?;
    fs::copy(snapshot, &part).map_err(Fault::from)?;
    let checked = schema::connect(&part, Role::Reader)
        .map_err(StoreError::from)
        .and_then(|db| {
            schema::quick_check(&db)?;
            schema::meta(&db, "incarnation")?;
            Ok(())
        });
    if checked.is_err() {
        files::remove(&part).map_err(Fault::from)?;
        return checked;
    }
    File::open(&part)
        .and_then(|file| file.sync_all())
        .map_err(Fault::from)?;
    Ok(files::rename(&part, path).map_err(Fault::from)?)
}

/// Writes a checked, self-contained copy of the database under `target`; whole or not at all.
pub(super) fn snapshot(db: &Connection, target: &Path) -> Result<(), StoreError> {
    if let Some(dir) = target.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        fs::create_dir_all(dir).map_err(Fault::from)?;
    }
    let part = beside(target, ".part");
    files::remove(&part).map_err(Fault::from)?;
    files::create_private(&part).map_err(Fault::from)?;
    let name = part
        .to_str()
        .ok_or_else(|| Fault::Io("the snapshot's name is not UTF-8".into()))?;
    let made = db
        .execute("VACUUM INTO ?1", [name])
        .map_err(StoreError::from)
        .and_then(|_| {
            schema::quick_check(&schema::connect(&part, Role::Reader)?)?;
            File::open(&part)
                .and_then(|file| file.sync_all())
                .map_err(Fault::from)?;
            Ok(files::rename(&part, target).map_err(Fault::from)?)
        });
    if made.is_err() {
        files::remove(&part).map_err(Fault::from)?;
    }
    made
}

/// Notices at the start that the key is not the file's, and gives a file its first key.
fn check_seal(db: &Connection, seal: Option<&SealKey>) -> Result<(), StoreError> {
    let Some(seal) = seal else { return Ok(()) };
    let find = "SELECT value FROM meta WHERE name = 'seal'";
    let token: Option<Vec<u8>> = db.query_row(find, [], |row| row.get(0)).optional()?;
    match token {
        Some(token) if seal.made(&token) => Ok(()),
        Some(_) => Err(StoreError::WrongSealKey),
        None => {
            db.execute("INSERT INTO meta VALUES ('seal', ?1)", [seal.check_token()])?;
            Ok(())
        }
    }
}
