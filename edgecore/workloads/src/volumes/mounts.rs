//! What is mounted below a pod's folder: made, found, and taken away again.

use std::ffi::CString;
use std::fs;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};

/// Longest table of mounts that is read.
const MAX_TABLE: u64 = 16 * 1024 * 1024;
/// Mounts may lie on each other; more than this nobody made.
const MAX_LAYERS: usize = 16;

/// A file system in memory at a folder that is there. `size`: bytes, half of the machine's memory when not said. Its pages are kept off the
/// disk where the kernel can.
pub(super) fn tmpfs(folder: &Path, size: Option<u64>) -> io::Result<()> {
    let size = size.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let with = |options: String| {
        let options = CString::new(options).expect("options hold no NUL: they are words and a number");
        mount("tmpfs", folder, "tmpfs", flags, options.as_c_str())
    };
    match with(format!("mode=0777{size},noswap")) {
        Err(Errno::INVAL) => with(format!("mode=0777{size}"))?,
        other => other?,
    }
    Ok(())
}

/// Whether a folder is where another file system begins.
pub(super) fn is_tmpfs(folder: &Path) -> io::Result<bool> {
    let parent = folder.parent().unwrap_or(folder);
    Ok(fs::symlink_metadata(folder)?.dev() != fs::metadata(parent)?.dev())
}

/// Mounts what a descriptor stands for at a place of its own. What is there already and the same stays; another goes.
pub(super) fn bind(source: &OwnedFd, target: &Path) -> io::Result<()> {
    let wanted = rustix::fs::fstat(source)?;
    let is_there = || -> io::Result<bool> {
        match fs::symlink_metadata(target) {
            Ok(there) => Ok(there.dev() == wanted.st_dev && there.ino() == wanted.st_ino),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    };
    if is_there()? {
        return Ok(());
    }
    unmount_at(target)?;
    let is_folder = rustix::fs::FileType::from_raw_mode(wanted.st_mode).is_dir();
    match fs::symlink_metadata(target) {
        Ok(there) if there.is_dir() && !is_folder => fs::remove_dir(target)?,
        Ok(there) if !there.is_dir() && is_folder => fs::remove_file(target)?,
        _ => {}
    }
    if is_folder {
        fs::create_dir_all(target)?;
    } else {
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        drop(fs::OpenOptions::new().create(true).append(true).open(target)?);
    }
    mount_bind(format!("/proc/self/fd/{}", source.as_raw_fd()), target)?;
    if is_there()? {
        Ok(())
    } else {
        Err(io::Error::other("another thing was mounted than was looked at"))
    }
}

/// Takes away what is mounted at a place, in all layers.
fn unmount_at(target: &Path) -> io::Result<()> {
    for _ in 0..MAX_LAYERS {
        match unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted there, or nothing is there.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
    Err(io::Error::other("too many mounts lie on each other"))
}

/// Takes away all that is mounted at or below a folder, the newest first. What a container still has open stays with it and goes with it.
pub(crate) fn unmount_below(folder: &Path) -> io::Result<()> {
    for point in below(folder)?.iter().rev() {
        unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    }
    match below(folder)?.first() {
        None => Ok(()),
        Some(left) => Err(io::Error::other(format!("{} is still mounted", left.display()))),
    }
}

/// What is mounted at or below a folder, in the order in which it was.
pub(super) fn below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut table = Vec::new();
    fs::File::open("/proc/self/mountinfo")?
        .take(MAX_TABLE)
        .read_to_end(&mut table)?;
    let lines = table.split(|b| *b == b'\n');
    let points = lines.filter_map(|line| line.split(|b| *b == b' ').nth(4));
    Ok(points.map(unescape).filter(|p| p.starts_with(folder)).collect())
}

/// The table writes blanks, tabs, line ends and backslashes as octal numbers.
fn unescape(text: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, behind)) = rest.split_first() {
        let octal = |b: &[u8]| {
            b.iter()
                .try_fold(0_u32, |n, d| Some(n * 8 + char::from(*d).to_digit(8)?))
        };
        match behind.get(..3).filter(|_| *first == b'\\').and_then(octal) {
            Some(code) => {
                out.push(u8::try_from(code).unwrap_or(b'?'));
                rest = &behind[3..];
            }
            None => {
                out.push(*first);
                rest = behind;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_spelling_of_paths() {
        assert_eq!(unescape(b"/a\\040b\\134c"), Path::new("/a b\\c"));
        assert_eq!(unescape(b"/a\\04"), Path::new("/a\\04"));
    }
}
