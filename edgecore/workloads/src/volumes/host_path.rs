//! Paths of the machine itself.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _};

use crate::pod::HostPath;

/// Checks that a path is what it should be, and makes it where it may be made.
pub(super) fn prepare(said: &HostPath) -> Result<(), String> {
    let path = said.path.as_str();
    let there = match fs::metadata(path) {
        Ok(there) => Some(there.file_type()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e.to_string()),
    };
    let made = match (said.ty.as_str(), there) {
        ("", _) => return Ok(()),
        ("DirectoryOrCreate", None) => fs::DirBuilder::new().recursive(true).mode(0o755).create(path),
        ("FileOrCreate", None) => {
            let file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o644)
                .open(path);
            file.map(drop)
        }
        (ty, there) => {
            let is = |check: fn(&fs::FileType) -> bool| there.as_ref().is_some_and(check);
            let (good, what) = match ty {
                "Directory" | "DirectoryOrCreate" => (is(fs::FileType::is_dir), "directory"),
                "File" | "FileOrCreate" => (is(fs::FileType::is_file), "file"),
                "Socket" => (is(|t| t.is_socket()), "socket file"),
                "CharDevice" => (is(|t| t.is_char_device()), "character device"),
                "BlockDevice" => (is(|t| t.is_block_device()), "block device"),
                _ => return Err(format!("{ty} is an invalid volume type")),
            };
            if good {
                return Ok(());
            }
            return Err(format!("hostPath type check failed: {path} is not a {what}"));
        }
    };
    made.map_err(|e| e.to_string())
}
