//! Files that are either the old or the new one, never half: written beside, synced, renamed, and the folder synced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::PkiError;

/// A PEM file of ours is a few kilobytes; what is larger is not ours.
const MAX_FILE: u64 = 256 * 1024;

/// Replaces `path` with `contents` under `mode` (0o600 for a key), so that after a power cut it is the old file or the new one.
/// Missing folders are made, readable by their owner only.
///
/// # Errors
/// What the system says, with the path.
pub fn write_atomic(path: &Path, contents: &[u8], mode: u32) -> Result<(), PkiError> {
    let wrap = |source| PkiError::Io {
        path: path.to_owned(),
        source,
    };
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    let name = path
        .file_name()
        .ok_or_else(|| wrap(io::Error::new(io::ErrorKind::InvalidInput, "not a file name")))?;
    make_folder(folder)?;
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(format!(".{:016x}", fastrand::u64(..)));
    let beside = folder.join(beside);
    let written = (|| {
        // The mode is set at creation: the contents are never readable by others, not even for a moment.
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&beside)?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(folder)?.sync_all()
    })();
    written.map_err(|e| {
        drop(fs::remove_file(&beside));
        wrap(e)
    })
}

pub(super) fn make_folder(folder: &Path) -> Result<(), PkiError> {
    use std::os::unix::fs::DirBuilderExt;
    if folder.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| PkiError::Io {
            path: folder.to_owned(),
            source,
        })
}

/// The text of a file of ours; `None` when there is none.
pub(super) fn read(path: &Path) -> Result<Option<String>, PkiError> {
    use std::io::Read;
    let wrap = |source| PkiError::Io {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(wrap(e)),
    };
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).map_err(wrap)?;
    Ok(Some(text))
}
