//! Files that change together: a container sees all of the old ones or all of the new ones.
//!
//! The files are in a folder of their own (`..2026_11_21_14_38_39.123`), which a link `..data` names; what a container opens are links through
//! `..data`. A change makes a new folder and turns the one link. Killed between any two of these steps, the next call goes on from there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Component, Path};
use std::time::SystemTime;

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";
/// Deepest folder in a volume.
const MAX_DEPTH: usize = 32;

/// A file of a volume. Its content may be secret: it is not shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct File {
    pub(super) data: Vec<u8>,
    pub(super) mode: u32,
    pub(super) owner: Option<u32>,
    /// When it was made, where it is older than this call.
    pub(super) made: Option<SystemTime>,
}

/// Files by their path in the volume.
pub(super) type Files = BTreeMap<String, File>;

/// Makes a volume's folder hold these files and no others. `group`: whose they are to be read by. True when something changed.
pub(super) fn write(folder: &Path, files: &Files, group: Option<u32>) -> io::Result<bool> {
    for path in files.keys() {
        check(path)?;
    }
    let current = fs::read_link(folder.join(DATA)).ok();
    let same = current.is_some() && holds(&folder.join(DATA), files)?;
    if !same {
        let name = format!("..{}", stamp());
        let new = folder.join(&name);
        make_folder(&new, group)?;
        for (path, file) in files {
            make_file(&new, path, file, group)?;
        }
        let link = folder.join(NEW_DATA);
        absent_is_fine(fs::remove_file(&link))?;
        symlink(&name, &link)?;
        fs::rename(&link, folder.join(DATA))?;
    }
    tidy(folder, files)?;
    Ok(!same)
}

/// Whether a volume's folder was made.
pub(super) fn is_made(folder: &Path) -> bool {
    fs::symlink_metadata(folder.join(DATA)).is_ok()
}

/// Paths come from objects that anybody may have written.
fn check(path: &str) -> io::Result<()> {
    let parts: Vec<_> = Path::new(path).components().collect();
    let good = !parts.is_empty()
        && parts.len() <= MAX_DEPTH
        && parts.iter().all(|p| matches!(p, Component::Normal(_)))
        && !path.starts_with("..");
    if good {
        Ok(())
    } else {
        Err(io::Error::other(format!("invalid path: {path:?}")))
    }
}

/// `2026_11_21_14_38_39.123`
fn stamp() -> String {
    let now = crate::time::now().trim_end_matches('Z').replace(['-', 'T', ':'], "_");
    format!("{now}.{}", fastrand::u32(..))
}

fn make_folder(path: &Path, group: Option<u32>) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o755).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let mut mode = 0o755;
    if group.is_some() {
        chown(path, None, group)?;
        mode |= 0o2550;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn make_file(folder: &Path, path: &str, file: &File, group: Option<u32>) -> io::Result<()> {
    let parts: Vec<_> = Path::new(path).components().collect();
    let mut at = folder.to_owned();
    for part in &parts[..parts.len() - 1] {
        at.push(part);
        make_folder(&at, group)?;
    }
    let at = folder.join(path);
    // Nobody may read it before it has its mode.
    let mut out = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&at)?;
    out.write_all(&file.data)?;
    let mut mode = file.mode & 0o777;
    if file.owner.is_some() || group.is_some() {
        chown(&at, file.owner, group)?;
    }
    if group.is_some() {
        mode |= 0o440;
    }
    out.set_permissions(fs::Permissions::from_mode(mode))?;
    match file.made {
        Some(made) => out.set_modified(made),
        None => Ok(()),
    }
}

/// Whether a folder holds these files with this content, and no others.
fn holds(folder: &Path, files: &Files) -> io::Result<bool> {
    for (path, file) in files {
        let path = folder.join(path);
        let there = match fs::symlink_metadata(&path) {
            Ok(there) if there.is_file() => there,
            _ => return Ok(false),
        };
        if there.len() != file.data.len() as u64 || fs::read(&path)? != file.data {
            return Ok(false);
        }
    }
    Ok(count(folder, MAX_DEPTH, files.len())? == files.len())
}

/// How many files there are, counted a little beyond the limit.
fn count(folder: &Path, depth: usize, limit: usize) -> io::Result<usize> {
    let mut sum = 0;
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        sum += match entry.file_type()?.is_dir() {
            true if depth > 0 => count(&entry.path(), depth - 1, limit)?,
            _ => 1,
        };
        if sum > limit {
            break;
        }
    }
    Ok(sum)
}

/// Makes the links that containers use, and removes those and the folders that are no longer for anything. Folders that are not ours stay: another
/// volume may be mounted there.
fn tidy(folder: &Path, files: &Files) -> io::Result<()> {
    let current = fs::read_link(folder.join(DATA))?;
    let first = |path: &String| Some(Path::new(path).components().next()?.as_os_str().to_owned());
    let wanted: BTreeSet<_> = files.keys().filter_map(first).collect();
    for name in &wanted {
        let (link, to) = (folder.join(name), Path::new(DATA).join(name));
        if fs::read_link(&link).is_ok_and(|there| there == to) {
            continue;
        }
        absent_is_fine(fs::remove_file(&link))?;
        symlink(&to, &link)?;
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let keep = name == DATA || name == current.as_os_str() || wanted.contains(&name);
        if keep {
            continue;
        }
        let (ty, hidden) = (entry.file_type()?, name.as_encoded_bytes().starts_with(b".."));
        if ty.is_symlink() {
            fs::remove_file(entry.path())?;
        } else if ty.is_dir() && hidden {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A file as it is, with when it was made.
pub(super) fn read(folder: &Path, path: &str, longest: u64) -> Option<(Vec<u8>, SystemTime)> {
    check(path).ok()?;
    let path = folder.join(DATA).join(path);
    let there = fs::symlink_metadata(&path).ok()?;
    if !there.is_file() || there.len() > longest {
        return None;
    }
    Some((fs::read(path).ok()?, there.modified().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        let file = |data: &str| File {
            data: data.into(),
            mode: 0o640,
            ..File::default()
        };
        list.iter()
            .map(|(path, data)| ((*path).to_owned(), file(data)))
            .collect()
    }

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn all_change_at_once_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        assert!(write(folder, &files(&[("a", "1"), ("sub/b", "2")]), None).unwrap());
        assert_eq!(fs::read_link(folder.join("sub")).unwrap(), Path::new("..data/sub"));
        assert_eq!(fs::read_to_string(folder.join("sub/b")).unwrap(), "2");
        let mode = fs::metadata(folder.join("a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        let first = fs::read_link(folder.join(DATA)).unwrap();
        assert!(!write(folder, &files(&[("a", "1"), ("sub/b", "2")]), None).unwrap());
        assert_eq!(fs::read_link(folder.join(DATA)).unwrap(), first);

        // Who has the folder open goes on seeing all of the old.
        let open = fs::File::open(folder.join("a")).unwrap();
        assert!(write(folder, &files(&[("a", "10"), ("c", "3")]), None).unwrap());
        assert_eq!(io::read_to_string(open).unwrap(), "1");
        assert_eq!(fs::read_to_string(folder.join("a")).unwrap(), "10");
        let second = fs::read_link(folder.join(DATA)).unwrap().to_str().unwrap().to_owned();
        assert_eq!(names(folder), [second.as_str(), "..data", "a", "c"]);
        assert!(write(folder, &files(&[("a", "10")]), None).unwrap(), "one is gone");
        assert!(write(folder, &Files::new(), None).unwrap());
        assert_eq!(names(folder).len(), 2);
    }

    #[test]
    fn what_a_killed_writer_left_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        write(folder, &files(&[("a", "1"), ("b", "2")]), None).unwrap();
        fs::remove_file(folder.join("b")).unwrap();
        fs::create_dir(folder.join("..2000_half")).unwrap();
        fs::write(folder.join("..2000_half/a"), "x").unwrap();
        symlink("..2000_half", folder.join(NEW_DATA)).unwrap();
        symlink("..data/gone", folder.join("gone")).unwrap();
        assert!(!write(folder, &files(&[("a", "1"), ("b", "2")]), None).unwrap());
        assert_eq!(names(folder)[1..], ["..data", "a", "b"]);
        // A power cut may leave files without their content.
        fs::write(folder.join("a"), "").unwrap();
        assert!(write(folder, &files(&[("a", "1"), ("b", "2")]), None).unwrap());
        assert_eq!(fs::read_to_string(folder.join("a")).unwrap(), "1");
    }

    #[test]
    fn paths_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["/a", "../a", "a/../../b", "", "..data", "..x", "."] {
            assert!(write(dir.path(), &files(&[(bad, "1")]), None).is_err(), "{bad:?}");
        }
        assert_eq!(names(dir.path()), [""; 0]);
    }
}
