//! The log files of one container: which there are, in which order, and where the last lines begin. Reads blocks from the end, never a whole file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::line::{Head, MAX_HEAD};

/// Most files of one container that are read: its log and what was rotated away.
const MAX_FILES: usize = 32;
/// Most entries of a folder that are looked at.
const MAX_ENTRIES: usize = 4096;
/// What is read at a time when lines are counted from the end.
const BLOCK: usize = 32 * 1024;

/// The attempts of which there is a log, in order. None when there is no folder.
pub(crate) fn attempts(folder: &Path) -> io::Result<Vec<u32>> {
    let mut found: Vec<u32> = names(folder)?
        .iter()
        .filter_map(|name| name.split_once(".log").filter(|(_, rest)| is_plain(rest)))
        .filter_map(|(attempt, _)| attempt.parse().ok())
        .collect();
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Opens the files of one attempt, what was rotated away first.
pub(crate) fn open(folder: &Path, attempt: u32) -> io::Result<Vec<File>> {
    let current = format!("{attempt}.log");
    let mut of_attempt: Vec<String> = names(folder)?
        .into_iter()
        .filter(|name| name.strip_prefix(&current).is_some_and(is_plain))
        .collect();
    // What was rotated has its time in its name, and the file that is written has none: it comes last.
    of_attempt.sort_by(|a, b| (a.len() == current.len(), a).cmp(&(b.len() == current.len(), b)));
    let skipped = of_attempt.len().saturating_sub(MAX_FILES);
    let mut files: Vec<File> = Vec::new();
    for name in of_attempt.into_iter().skip(skipped) {
        match File::open(folder.join(name)) {
            Ok(file) => files.push(file),
            // Taken away since.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(files)
}

/// Whether what follows `N.log` names a file that holds lines: nothing, or when it was rotated.
fn is_plain(rest: &str) -> bool {
    rest.is_empty()
        || (rest.starts_with('.') && rest[1..].bytes().all(|b| b.is_ascii_digit() || b == b'-') && rest.len() > 1)
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    entries
        .take(MAX_ENTRIES)
        .map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()))
        .collect()
}

/// Where the last `lines` lines begin: the index of a file and the place in it. A line that goes over several raw lines counts once.
pub(crate) fn tail(files: &[File], lines: u64) -> io::Result<(usize, u64)> {
    if lines == 0 {
        return Ok(match files.last() {
            Some(last) => (files.len() - 1, last.metadata()?.len()),
            None => (0, 0),
        });
    }
    let mut back = Back { left: lines };
    for (index, file) in files.iter().enumerate().rev() {
        if let Some(at) = back.through(file)? {
            return Ok((index, at));
        }
    }
    Ok((0, 0))
}

/// Counting lines backwards, over several files.
struct Back {
    left: u64,
}

impl Back {
    /// The place in this file where the wanted lines begin, if they begin in it.
    fn through(&mut self, file: &File) -> io::Result<Option<u64>> {
        let len = file.metadata()?.len();
        let mut block = vec![0; BLOCK];
        // A raw line ends at `end` (behind its newline); its beginning is looked for.
        let mut end = len;
        let mut upto = len;
        while upto > 0 {
            let size = upto.min(BLOCK as u64);
            let from = upto - size;
            let bytes = &mut block[..usize::try_from(size).unwrap_or(BLOCK)];
            file.read_exact_at(bytes, from)?;
            for at in (0..bytes.len()).rev().filter(|at| bytes[*at] == b'\n') {
                let begins = from + at as u64 + 1;
                if begins < end && self.enough(file, begins)? {
                    return Ok(Some(end));
                }
                end = begins;
            }
            upto = from;
        }
        Ok(if end > 0 && self.enough(file, 0)? {
            Some(end)
        } else {
            None
        })
    }

    /// Takes the raw line that begins here into account; whether it is one too many.
    fn enough(&mut self, file: &File, begins: u64) -> io::Result<bool> {
        let mut head = [0; MAX_HEAD];
        let mut filled = 0;
        while filled < head.len() {
            match file.read_at(&mut head[filled..], begins + filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        // What continues in the next raw line belongs to the line that was counted there.
        let counts = Head::parse(&head[..filled]).is_some_and(|head| !head.partial);
        if counts && self.left == 0 {
            return Ok(true);
        }
        self.left -= u64::from(counts);
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{Read as _, Seek as _, SeekFrom};

    fn line(tag: &str, text: &str) -> String {
        format!("2026-11-21T03:11:10.25Z stdout {tag} {text}\n")
    }

    fn text_from(files: &mut [File], (index, at): (usize, u64)) -> String {
        let mut out = String::new();
        for (i, file) in files.iter_mut().enumerate().skip(index) {
            file.seek(SeekFrom::Start(if i == index { at } else { 0 })).unwrap();
            file.read_to_string(&mut out).unwrap();
        }
        out
    }

    #[test]
    fn files_are_found_in_the_order_in_which_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| std::fs::write(folder.path().join(name), name).unwrap();
        for name in [
            "3.log",
            "3.log.20261121-031110",
            "3.log.20261120-235959",
            "3.log.20261119-000000.gz",
            "3.log.tmp",
            "13.log",
            "2.log.20261101-000000",
            "x.log",
        ] {
            write(name);
        }
        assert_eq!(attempts(folder.path()).unwrap(), [2, 3, 13]);
        let read = |mut f: File| {
            let mut text = String::new();
            f.read_to_string(&mut text).unwrap();
            text
        };
        let names: Vec<String> = open(folder.path(), 3).unwrap().into_iter().map(read).collect();
        assert_eq!(names, ["3.log.20261120-235959", "3.log.20261121-031110", "3.log"]);
        assert_eq!(attempts(&folder.path().join("gone")).unwrap(), [0_u32; 0]);
        assert!(open(folder.path(), 7).unwrap().is_empty());
    }

    #[test]
    fn the_last_lines_are_found_whatever_their_form() {
        let folder = tempfile::tempdir().unwrap();
        let old = line("F", "1") + &line("F", "2");
        let new = line("P", "3a") + &line("F", "3b") + "garbage\n" + &line("F", "4") + &line("P", "5a");
        std::fs::write(folder.path().join("0.log.20260101-000000"), &old).unwrap();
        std::fs::write(folder.path().join("0.log"), &new).unwrap();
        let mut files = open(folder.path(), 0).unwrap();
        let mut from = |n| {
            let at = tail(&files, n).unwrap();
            text_from(&mut files, at)
        };
        assert_eq!(from(0), "");
        // A line that is not finished is none yet.
        // What is no line goes with the one behind it; nobody sees it.
        assert_eq!(from(1), "garbage\n".to_owned() + &line("F", "4") + &line("P", "5a"));
        assert_eq!(
            from(2),
            line("P", "3a") + &line("F", "3b") + "garbage\n" + &line("F", "4") + &line("P", "5a")
        );
        assert_eq!(from(3), line("F", "2") + &new);
        assert_eq!(from(4), old.clone() + &new);
        assert_eq!(from(1000), old + &new);
    }

    proptest! {
        #[test]
        fn as_many_lines_as_asked_for_come_from_the_end(
            lines in prop::collection::vec("[a-z]{0,3000}", 0..60), wanted in 0_u64..70, split in 0_usize..60
        ) {
            let folder = tempfile::tempdir().unwrap();
            let split = split.min(lines.len());
            let text = |lines: &[String]| lines.iter().map(|l| line("F", l)).collect::<String>();
            std::fs::write(folder.path().join("0.log.20260101-000000"), text(&lines[..split])).unwrap();
            std::fs::write(folder.path().join("0.log"), text(&lines[split..])).unwrap();
            let mut files = open(folder.path(), 0).unwrap();
            let at = tail(&files, wanted).unwrap();
            let skipped = lines.len().saturating_sub(usize::try_from(wanted).unwrap());
            prop_assert_eq!(text_from(&mut files, at), text(&lines[skipped..]));
        }
    }
}
