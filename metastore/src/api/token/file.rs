//! Fixed tokens from a file: `token,user,uid,"group,group"`, a line each, as CSV has it.
//!
//! For bootstrap: whoever has such a token has it until the file changes. Only keyed hashes of the tokens are kept in memory.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Print, Prints};
use crate::api::auth::User;

/// Largest file.
const MAX_FILE: u64 = 1024 * 1024;
/// A change is noticed this long after the last look.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The file as it was read last.
pub(super) struct TokenFile {
    path: PathBuf,
    prints: Prints,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    users: BTreeMap<Print, User>,
    stamp: Option<Stamp>,
    looked: Option<Duration>,
}

/// What shows that a file is another than before: its number, length and time.
type Stamp = (u64, u64, i64, i64);

impl TokenFile {
    pub(super) fn new(path: PathBuf, prints: Prints) -> Self {
        let file = Self {
            path,
            prints,
            seen: Mutex::default(),
        };
        file.seen().look(&file);
        file
    }

    /// Whose a token is.
    pub(super) fn user(&self, print: &Print) -> Option<User> {
        let mut seen = self.seen();
        let now = daemon::clock::since_start();
        if seen.looked.is_none_or(|at| now.saturating_sub(at) >= LOOK_EVERY) {
            seen.look(self);
        }
        seen.users.get(print).cloned()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// Reads the file when it is another than before. One that cannot be read has no tokens.
    fn look(&mut self, file: &TokenFile) {
        let first = self.looked.is_none();
        self.looked = Some(daemon::clock::since_start());
        let found = fs::metadata(&file.path);
        let stamp = found
            .as_ref()
            .ok()
            .map(|m| (m.ino(), m.len(), m.mtime(), m.mtime_nsec()));
        if stamp == self.stamp && !first {
            return;
        }
        self.stamp = stamp;
        let path = file.path.display();
        let read = found.and_then(|metadata| {
            if metadata.permissions().mode() & 0o077 != 0 {
                tracing::warn!(file = %path, "Others than its owner can read the file of tokens; make it 0600.");
            }
            let mut text = String::new();
            fs::File::open(&file.path)?.take(MAX_FILE).read_to_string(&mut text)?;
            Ok(text)
        });
        self.users = match read {
            Ok(text) => parse(&text, &file.prints),
            Err(error) => {
                tracing::error!(file = %path, %error, "The file of tokens cannot be read; none of it is taken.");
                BTreeMap::new()
            }
        };
        tracing::info!(file = %path, tokens = self.users.len(), "The file of tokens was read.");
    }
}

fn parse(text: &str, prints: &Prints) -> BTreeMap<Print, User> {
    let mut users = BTreeMap::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut fields = fields(line).into_iter();
        let mut next = || fields.next().unwrap_or_default();
        let (token, name, uid, groups) = (next(), next(), next(), next());
        if token.is_empty() || name.is_empty() {
            tracing::warn!(
                line = at + 1,
                "A line of the file of tokens lacks its token or its user; it is passed over."
            );
            continue;
        }
        let groups = groups.split(',').map(str::trim).filter(|g| !g.is_empty());
        let user = User {
            uid,
            ..User::new(name, groups)
        };
        users.insert(prints.of(&token), user);
    }
    users
}

/// The fields of a line; one in quotes may have commas in it, and quotes twice.
fn fields(line: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut field = String::new();
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => out.push(std::mem::take(&mut field).trim().to_owned()),
            other => field.push(other),
        }
    }
    out.push(field.trim().to_owned());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_csv() {
        let prints = Prints::new();
        let text = "abc,bob,7,\"dev, ops\"\n\n# no\nx y,al,\nonly,\n,nobody,1\nq,\"a \"\"b\"\"\",2,system:masters\n";
        let users = parse(text, &prints);
        assert_eq!(users.len(), 3);
        let bob = &users[&prints.of("abc")];
        assert_eq!((bob.name.as_str(), bob.uid.as_str()), ("bob", "7"));
        assert_eq!(bob.groups, ["dev", "ops", "system:authenticated"]);
        assert_eq!(users[&prints.of("x y")].groups, ["system:authenticated"]);
        let quoted = &users[&prints.of("q")];
        assert_eq!(quoted.name, "a \"b\"");
        assert!(quoted.is_master());
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_missing_one_has_no_tokens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.csv");
        let file = TokenFile::new(path.clone(), Prints::new());
        let name = |token: &str| {
            file.seen().look(&file);
            file.user(&file.prints.of(token)).map(|u| u.name)
        };
        assert_eq!(name("t"), None);
        fs::write(&path, "t,bob,1\n").unwrap();
        assert_eq!(name("t").as_deref(), Some("bob"));
        fs::write(&path, "t2,alice,1\n").unwrap();
        assert_eq!(name("t"), None);
        assert_eq!(name("t2").as_deref(), Some("alice"));
        fs::remove_file(&path).unwrap();
        assert_eq!(name("t2"), None);
    }
}
