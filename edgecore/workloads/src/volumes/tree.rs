//! Trees of files that containers made, which may be hostile: deeper than a stack, with links to anywhere. Never followed out of themselves,
//! by a link or by a mount.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RawMode, ResolveFlags, Stat, fchmod, fchown, fstat, open, openat,
    openat2, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::Gid;

/// Deepest folder that is looked into, for use and ownership.
const MAX_DEPTH: usize = 128;
/// Files that are looked at in one count.
const MAX_FILES: u64 = 1_000_000;

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A folder of a folder, if it is one and nothing is mounted on it.
fn inner(folder: impl AsFd, name: &std::ffi::CStr) -> rustix::io::Result<OwnedFd> {
    let stay = ResolveFlags::NO_XDEV | ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match openat2(&folder, name, FOLDER, Mode::empty(), stay) {
        // A kernel from before the call: at least not to another file system.
        Err(Errno::NOSYS) => {
            let inner = openat(&folder, name, FOLDER, Mode::empty())?;
            if fstat(&inner)?.st_dev == fstat(&folder)?.st_dev {
                Ok(inner)
            } else {
                Err(Errno::XDEV)
            }
        }
        other => other,
    }
}

/// Removes a folder and all that is in it. Stops at what is mounted below it, which is an error.
///
/// Folders in folders are brought up to the first one before they are emptied, so that no depth is too deep; a call that did not end is
/// taken up by the next.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let root = match open(path, FOLDER, Mode::empty()) {
        Ok(root) => root,
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let mut number = 0_u64;
    loop {
        let mut any = false;
        for entry in Dir::read_from(&root)? {
            let entry = entry?;
            let name = entry.file_name();
            if is_dots(name) {
                continue;
            }
            any = true;
            match unlinkat(&root, name, AtFlags::empty()) {
                Err(Errno::ISDIR | Errno::PERM) => {}
                other => {
                    gone_is_fine(other)?;
                    continue;
                }
            }
            let folder = inner(&root, name)?;
            for child in Dir::read_from(&folder)? {
                let child = child?;
                let child = child.file_name();
                if is_dots(child) {
                    continue;
                }
                match unlinkat(&folder, child, AtFlags::empty()) {
                    Err(Errno::ISDIR | Errno::PERM) => loop {
                        number += 1;
                        match renameat(&folder, child, &root, format!(".removed-{number}")) {
                            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                            other => break gone_is_fine(other)?,
                        }
                    },
                    other => gone_is_fine(other)?,
                }
            }
            gone_is_fine(unlinkat(&root, name, AtFlags::REMOVEDIR))?;
        }
        if !any {
            break;
        }
    }
    Ok(gone_is_fine(unlinkat(CWD, path, AtFlags::REMOVEDIR))?)
}

fn is_dots(name: &std::ffi::CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

fn gone_is_fine(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Goes through a tree, a folder before what is in it, not into what is mounted below. Stops at the depth and the number of files that a
/// machine can bear, which is no error.
fn walk(
    root: OwnedFd,
    mut visit: impl FnMut(&OwnedFd, Option<&std::ffi::CStr>, &Stat) -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    visit(&root, None, &fstat(&root)?)?;
    let mut open_folders = vec![(Dir::read_from(&root)?, root)];
    let mut seen = 0;
    while let Some((entries, folder)) = open_folders.last_mut() {
        let Some(entry) = entries.read() else {
            open_folders.pop();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if is_dots(name) {
            continue;
        }
        seen += 1;
        if seen > MAX_FILES {
            break;
        }
        // What goes while we look is not there.
        let Ok(stat) = statat(&*folder, name, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            visit(folder, Some(name), &stat)?;
            continue;
        }
        let Ok(next) = inner(&*folder, name) else { continue };
        visit(&next, None, &stat)?;
        if open_folders.len() < MAX_DEPTH {
            open_folders.push((Dir::read_from(&next)?, next));
        }
    }
    Ok(())
}

/// What a tree takes on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Space {
    /// Bytes.
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

impl std::ops::AddAssign for Space {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.inodes += other.inodes;
    }
}

/// What a folder and all in it take.
pub(super) fn space(path: &Path) -> io::Result<Space> {
    let mut space = Space::default();
    let root = match open(path, FOLDER, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(space),
        other => other?,
    };
    walk(root, |_, _, stat| {
        space.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        space.inodes += 1;
        Ok(())
    })?;
    Ok(space)
}

/// Makes a folder and all in it a group's to read and write (`only_root`: the folder alone).
pub(super) fn give(path: &Path, group: u32, only_root: bool) -> io::Result<()> {
    let gid = Gid::from_raw(group);
    let root = open(path, FOLDER, Mode::empty())?;
    let folder_mode = |stat: &Stat| Mode::from_raw_mode((stat.st_mode & 0o7777) | 0o2770);
    if only_root {
        let stat = fstat(&root)?;
        fchown(&root, None, Some(gid))?;
        return Ok(fchmod(&root, folder_mode(&stat))?);
    }
    walk(root, |folder, name, stat| {
        let Some(name) = name else {
            fchown(folder, None, Some(gid))?;
            return fchmod(folder, folder_mode(stat));
        };
        rustix::fs::chownat(folder, name, None, Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        // Through a descriptor, so that no link that took its place is followed.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = openat(folder, name, flags, Mode::empty())?;
        fchmod(&file, Mode::from_raw_mode((stat.st_mode & 0o7777) | 0o660))
    })?;
    Ok(())
}

/// Whether a folder is already a group's, as [`give`] would make it.
pub(super) fn is_given(path: &Path, group: u32) -> io::Result<bool> {
    let stat = fstat(open(path, FOLDER, Mode::empty())?)?;
    let wanted: RawMode = 0o2770;
    Ok(stat.st_gid == group && stat.st_mode & wanted == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn no_depth_is_too_deep_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "x").unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("link")).unwrap();
        fs::create_dir(root.join(".removed-1")).unwrap();
        fs::write(root.join(".removed-1/full"), "x").unwrap();
        let mut at = open(&root, FOLDER, Mode::empty()).unwrap();
        for _ in 0..2100 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            rustix::fs::symlinkat("..", &at, "up").unwrap();
            at = openat(&at, "d", FOLDER, Mode::empty()).unwrap();
        }
        drop(at);
        let seen = space(&root).unwrap();
        assert!(seen.inodes > 128, "{seen:?}");
        remove(&root).unwrap();
        assert!(!root.exists());
        assert!(outside.join("kept").exists());
        remove(&root).unwrap();
    }

    #[test]
    fn space_is_what_files_take() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), vec![1; 100_000]).unwrap();
        let space = super::space(dir.path()).unwrap();
        assert!((98_304..200_000).contains(&space.bytes), "{space:?}");
        assert_eq!(space.inodes, 2);
        assert_eq!(super::space(&dir.path().join("none")).unwrap(), Space::default());
    }
}
