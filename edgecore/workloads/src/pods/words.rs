//! A container's last words: the file it may write, or the end of its log. Read from the machine's disk, capped.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use cri::v1;

use super::labels;
use super::observed::Seen;

/// Longest message from a file, in bytes.
const MAX_FILE: u64 = 4096;
/// Longest message from a log, in bytes, and its most lines.
const MAX_LOG: usize = 2048;
const MAX_LINES: usize = 80;
/// How much of a log's end is looked at, in bytes: every line carries its time and stream.
const LOG_END: u64 = 32 * 1024;

/// Adds the last words to the message of a container that ended.
pub(super) fn add(seen: &mut Seen, annotations: &BTreeMap<String, String>, mounts: &[v1::Mount]) {
    let said = |key: &str| annotations.get(key).map_or("", String::as_str);
    let by_log = said(labels::MESSAGE_POLICY) == "FallbackToLogsOnError"
        && seen.exit_code != 0
        && seen.reason != "ContainerCannotRun";
    let path = said(labels::MESSAGE_PATH);
    let mount = mounts.iter().find(|m| !path.is_empty() && m.container_path == path);
    let mut words = mount.and_then(|m| file(&m.host_path)).unwrap_or_default();
    if words.is_empty() && by_log {
        words = log(&seen.log_path).unwrap_or_default();
    }
    if words.is_empty() {
        return;
    }
    if !seen.message.is_empty() {
        seen.message.push_str(": ");
    }
    seen.message.push_str(&words);
}

fn file(path: &str) -> Option<String> {
    // A container can put anything there; only a file is read.
    if !std::fs::symlink_metadata(path).ok()?.is_file() {
        return None;
    }
    end_of(path, MAX_FILE).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn end_of(path: &str, most: u64) -> Option<Vec<u8>> {
    let mut file = File::open(path).ok()?;
    let size = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(most))).ok()?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The text of the last lines of a log in the runtime's format: `<time> <stream> <F|P> <text>`.
fn log(path: &str) -> Option<String> {
    let bytes = end_of(path, LOG_END)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| line.splitn(4, ' ').count() == 4).collect();
    let mut out = String::new();
    for line in &lines[lines.len().saturating_sub(MAX_LINES)..] {
        let mut parts = line.splitn(4, ' ').skip(2);
        let whole = parts.next() == Some("F");
        out.push_str(parts.next().unwrap_or_default());
        if whole {
            out.push('\n');
        }
    }
    let start = out.len().saturating_sub(MAX_LOG);
    let start = (start..=out.len()).find(|at| out.is_char_boundary(*at)).unwrap_or(0);
    Some(out.split_off(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(code: i32, log_path: &str) -> Seen {
        Seen {
            exit_code: code,
            log_path: log_path.to_owned(),
            ..Seen::default()
        }
    }

    #[test]
    fn the_file_comes_first_and_the_log_only_after_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(path("words"), "x".repeat(5000)).unwrap();
        std::fs::write(path("empty"), "").unwrap();
        std::fs::write(
            path("log"),
            "2026-11-21T00:00:00.1Z stdout F one\n2026-11-21T00:00:00.2Z stderr P tw\n2026-11-21T00:00:00.3Z stderr F o\n",
        )
        .unwrap();
        let told = |code: i32, file: &str, policy: &str| {
            let mut seen = seen(code, &path("log"));
            let annotations = [
                (labels::MESSAGE_PATH, "/dev/termination-log"),
                (labels::MESSAGE_POLICY, policy),
            ];
            let annotations = annotations.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
            let mount = v1::Mount {
                container_path: "/dev/termination-log".to_owned(),
                host_path: path(file),
                ..v1::Mount::default()
            };
            add(&mut seen, &annotations, &[mount]);
            seen.message
        };
        assert_eq!(told(1, "words", "File").len(), 4096);
        assert_eq!(told(1, "empty", "File"), "");
        assert_eq!(told(1, "empty", "FallbackToLogsOnError"), "one\ntwo\n");
        assert_eq!(told(0, "empty", "FallbackToLogsOnError"), "");
        assert_eq!(told(1, "words", "FallbackToLogsOnError").len(), 4096);
        assert_eq!(told(1, "nowhere", "FallbackToLogsOnError"), "one\ntwo\n");
    }
}
