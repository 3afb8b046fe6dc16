//! Reads a container's log from where a reader wants it to its end, a piece at a time, and goes on when there is more.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use super::files;
use super::line::{Shaper, Wanted};

/// What is read at a time. What goes out of it is not much longer.
const PIECE: usize = 32 * 1024;

/// Where in a log somebody reads.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// The file that is written.
    path: PathBuf,
    /// What is still to be read, the one that is read first.
    files: VecDeque<File>,
    shaper: Shaper,
}

/// What a look at the log brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// There is more at once.
    More,
    /// All that is written has been read.
    End,
    /// As much as was asked for has been read.
    Full,
}

impl Reader {
    /// A reader of one attempt's log, of its last lines if so many are wanted. `None` when there is no file.
    pub(crate) fn open(
        folder: &std::path::Path,
        attempt: u32,
        wanted: Wanted,
        tail: Option<u64>,
    ) -> io::Result<Option<Self>> {
        let mut files = files::open(folder, attempt)?;
        if files.is_empty() {
            return Ok(None);
        }
        if let Some(lines) = tail {
            let (index, at) = files::tail(&files, lines)?;
            files.drain(..index);
            if let Some(first) = files.first_mut() {
                first.seek(SeekFrom::Start(at))?;
            }
        }
        Ok(Some(Self {
            path: folder.join(format!("{attempt}.log")),
            files: files.into(),
            shaper: Shaper::new(wanted),
        }))
    }

    /// Reads a piece and puts what is to be seen of it behind `out`.
    pub(crate) fn read(&mut self, out: &mut Vec<u8>) -> io::Result<Read> {
        if self.shaper.is_full() {
            return Ok(Read::Full);
        }
        let mut piece = vec![0; PIECE];
        while let Some(file) = self.files.front_mut() {
            let read = file.read(&mut piece)?;
            if read > 0 {
                self.shaper.push(&piece[..read], out);
                return Ok(if self.shaper.is_full() { Read::Full } else { Read::More });
            }
            if self.files.len() == 1 {
                if !self.was_rotated()? {
                    return Ok(Read::End);
                }
                // Once more the old one: it was written to until the new one was there.
                continue;
            }
            self.shaper.finish(out);
            self.files.pop_front();
        }
        Ok(Read::End)
    }

    /// The log is over: the line that has no end is shown as far as it goes.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        self.shaper.finish(out);
    }

    /// Whether another file has taken the place of the last one; it is opened then.
    fn was_rotated(&mut self) -> io::Result<bool> {
        let Some(last) = self.files.back() else {
            return Ok(false);
        };
        let next = match File::open(&self.path) {
            Ok(next) => next,
            // Renamed, and not made again yet.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        let (old, new) = (last.metadata()?, next.metadata()?);
        if (old.dev(), old.ino()) == (new.dev(), new.ino()) {
            return Ok(false);
        }
        self.files.push_back(next);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn line(text: &str) -> String {
        format!("2026-11-21T03:11:10.25Z stdout F {text}\n")
    }

    fn rest(reader: &mut Reader) -> String {
        let mut out = Vec::new();
        while reader.read(&mut out).unwrap() == Read::More {}
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_reader_follows_its_log_through_rotations_and_misses_no_line() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("0.log");
        let mut file = File::create(&log).unwrap();
        file.write_all((line("a") + &line("b")).as_bytes()).unwrap();
        let mut reader = Reader::open(folder.path(), 0, Wanted::default(), Some(1))
            .unwrap()
            .unwrap();
        assert_eq!(rest(&mut reader), "b\n");
        assert_eq!(rest(&mut reader), "");
        let cut = line("cut in two");
        let (begin, end) = cut.split_at(40);
        file.write_all(begin.as_bytes()).unwrap();
        assert_eq!(rest(&mut reader), "");
        file.write_all(end.as_bytes()).unwrap();
        assert_eq!(rest(&mut reader), "cut in two\n");
        std::fs::rename(&log, folder.path().join("0.log.20261121-031110")).unwrap();
        file.write_all(line("still to the old one").as_bytes()).unwrap();
        assert_eq!(rest(&mut reader), "still to the old one\n");
        file.write_all(line("and again").as_bytes()).unwrap();
        std::fs::write(&log, line("to the new one")).unwrap();
        assert_eq!(rest(&mut reader), "and again\nto the new one\n");
        // Somebody who comes later sees all of it.
        let mut reader = Reader::open(folder.path(), 0, Wanted::default(), None)
            .unwrap()
            .unwrap();
        assert_eq!(rest(&mut reader).lines().count(), 6);
    }

    #[test]
    fn no_more_than_asked_for_is_read() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("0.log"), line("abcdef").repeat(100_000)).unwrap();
        let wanted = Wanted {
            limit: Some(10),
            ..Wanted::default()
        };
        let mut reader = Reader::open(folder.path(), 0, wanted, None).unwrap().unwrap();
        let mut out = Vec::new();
        assert_eq!(reader.read(&mut out).unwrap(), Read::Full);
        assert_eq!(out, b"abcdef\nabc");
        assert!(
            Reader::open(folder.path(), 1, Wanted::default(), None)
                .unwrap()
                .is_none()
        );
    }
}
