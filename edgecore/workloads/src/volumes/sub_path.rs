//! A part of a volume (`subPath`): found without leaving the volume, whatever links a container put into it, and mounted at a place of its own,
//! so that what the runtime is told cannot be changed under its hands.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, ResolveFlags, fchmod, fstat, mkdirat, open, openat, openat2};
use rustix::io::Errno;

use super::mounts;

const PATH: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// Why a path is none that may be used.
pub(super) fn check(path: &str) -> Result<(), String> {
    if path.starts_with('/') {
        return Err(format!("error SubPath `{path}` must not be an absolute path"));
    }
    if Path::new(path).components().any(|c| c == Component::ParentDir) {
        return Err(format!("unable to provision SubPath `{path}`: must not contain '..'"));
    }
    Ok(())
}

/// Mounts a part of a volume at a place; makes it, as a folder, when it is not there.
pub(super) fn mount(volume: &Path, part: &str, target: &Path) -> io::Result<()> {
    let root = open(volume, PATH | OFlags::DIRECTORY, Mode::empty())?;
    let found = match find(&root, Path::new(part)) {
        Err(Errno::NOENT) => make(&root, Path::new(part)),
        other => other,
    };
    mounts::bind(&found?, target)
}

/// Links are followed as long as they stay inside.
fn find(root: &OwnedFd, part: &Path) -> rustix::io::Result<OwnedFd> {
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match openat2(root, part, PATH, Mode::empty(), inside) {
        // A kernel from before the call: no link at all.
        Err(Errno::NOSYS) => {
            let mut at = openat(root, ".", PATH | OFlags::DIRECTORY, Mode::empty())?;
            for component in part.components() {
                if let Component::Normal(name) = component {
                    at = openat(&at, name, PATH | OFlags::NOFOLLOW, Mode::empty())?;
                    if rustix::fs::FileType::from_raw_mode(fstat(&at)?.st_mode).is_symlink() {
                        return Err(Errno::LOOP);
                    }
                }
            }
            Ok(at)
        }
        other => other,
    }
}

/// Makes the folders that are missing, with the mode of the volume itself.
fn make(root: &OwnedFd, part: &Path) -> rustix::io::Result<OwnedFd> {
    let mode = Mode::from_raw_mode(fstat(root)?.st_mode & 0o7777);
    let mut at = openat(root, ".", PATH | OFlags::DIRECTORY, Mode::empty())?;
    let mut so_far = std::path::PathBuf::new();
    for component in part.components() {
        let Component::Normal(name) = component else { continue };
        so_far.push(name);
        at = match find(root, &so_far) {
            Err(Errno::NOENT) => {
                match mkdirat(&at, name, mode) {
                    Err(Errno::EXIST) | Ok(()) => {}
                    Err(e) => return Err(e),
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = openat(&at, name, flags, Mode::empty())?;
                // The process's mask took its part.
                fchmod(&made, mode)?;
                made
            }
            other => other?,
        };
    }
    find(root, part)
}
