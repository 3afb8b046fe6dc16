//! Names of images: `host[:port]/path[:tag][@digest]`, with what people leave out filled in.

use std::fmt;

/// The registry of names without one.
const HUB: &str = "docker.io";
const LATEST: &str = "latest";
/// Longest name without tag and digest.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// A name that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadReference {
    #[error("invalid reference format")]
    Format,
    #[error("repository name must be lowercase")]
    Upper,
    #[error("repository name must not be more than {MAX_NAME} characters")]
    Long,
    #[error("unsupported digest algorithm")]
    Algorithm,
    #[error("invalid checksum digest length")]
    Length,
}

/// A name in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// `docker.io`, `registry.local:5000`.
    pub(crate) host: String,
    /// `library/busybox`.
    pub(crate) path: String,
    pub(crate) tag: Option<String>,
    /// `sha256:…`.
    pub(crate) digest: Option<String>,
}

impl Reference {
    /// Reads a name as people write it.
    ///
    /// # Errors
    /// [`BadReference`].
    pub(crate) fn parse(text: &str) -> Result<Self, BadReference> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        // A colon after the last slash begins a tag; one before belongs to the host.
        let (name, tag) = match rest.rfind(':') {
            Some(at) if !rest[at..].contains('/') => (&rest[..at], Some(&rest[at + 1..])),
            _ => (rest, None),
        };
        let (host, path) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" || has_upper(first) => {
                (first.to_owned(), rest.to_owned())
            }
            Some(_) => (HUB.to_owned(), name.to_owned()),
            None => (HUB.to_owned(), format!("library/{name}")),
        };
        let host = if host == "index.docker.io" {
            HUB.to_owned()
        } else {
            host
        };
        if has_upper(&path) {
            return Err(BadReference::Upper);
        }
        let good = is_host(&host) && path.split('/').all(is_component) && tag.is_none_or(is_tag);
        if !good {
            return Err(BadReference::Format);
        }
        if host.len() + 1 + path.len() > MAX_NAME {
            return Err(BadReference::Long);
        }
        digest.map(check_digest).transpose()?;
        Ok(Self {
            host,
            path,
            tag: match (tag, digest) {
                (None, None) => Some(LATEST.to_owned()),
                (tag, _) => tag.map(str::to_owned),
            },
            digest: digest.map(str::to_owned),
        })
    }
}

/// A name as the runtime is told: as people wrote it, with the tag that they left out. What host is meant by none is the runtime's to know.
pub(super) fn spoken(said: &str) -> Result<(String, Reference), BadReference> {
    let reference = Reference::parse(said)?;
    let (name, _) = said.split_once('@').unwrap_or((said, ""));
    let has_tag = name.rsplit('/').next().is_some_and(|last| last.contains(':'));
    let spoken = match reference.digest {
        None if !has_tag => format!("{said}:{LATEST}"),
        _ => said.to_owned(),
    };
    Ok((spoken, reference))
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn has_upper(text: &str) -> bool {
    text.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_host(text: &str) -> bool {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !text.ends_with(']') => (name, Some(port)),
        _ => (text, None),
    };
    let is_name = |part: &str| {
        let ends = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        ends(part.bytes().next())
            && ends(part.bytes().last())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let name_is_good = match name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.split('.').all(is_name),
    };
    name_is_good && port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
}

/// Lower-case words between `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut rest = text;
    loop {
        let end = rest.bytes().position(|b| !word(b)).unwrap_or(rest.len());
        if end == 0 {
            return false;
        }
        rest = &rest[end..];
        if rest.is_empty() {
            return true;
        }
        let end = rest.bytes().position(word).unwrap_or(rest.len());
        let between = &rest[..end];
        let good = matches!(between, "." | "_" | "__") || between.bytes().all(|b| b == b'-');
        if !good {
            return false;
        }
        rest = &rest[end..];
    }
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= MAX_TAG
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn check_digest(text: &str) -> Result<(), BadReference> {
    let (algorithm, hex) = text.split_once(':').ok_or(BadReference::Format)?;
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ if hex.len() < 32 => return Err(BadReference::Format),
        _ => return Err(BadReference::Algorithm),
    };
    if !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Err(BadReference::Format);
    }
    if hex.len() == length {
        Ok(())
    } else {
        Err(BadReference::Length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_leave_out_is_filled_in() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (said, full) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("library/busybox:1.36", "docker.io/library/busybox:1.36".to_owned()),
            ("team/app", "docker.io/team/app:latest".to_owned()),
            ("registry.local:5000/app", "registry.local:5000/app:latest".to_owned()),
            ("localhost/app:v1", "localhost/app:v1".to_owned()),
            ("[fd00::1]:5000/a/b:t", "[fd00::1]:5000/a/b:t".to_owned()),
            ("index.docker.io/a/b", "docker.io/a/b:latest".to_owned()),
            (&format!("app@{digest}"), format!("docker.io/library/app@{digest}")),
            (&format!("q.io/a:1@{digest}"), format!("q.io/a:1@{digest}")),
            ("a/b__c/d---e.f", "docker.io/a/b__c/d---e.f:latest".to_owned()),
        ] {
            assert_eq!(Reference::parse(said).map(|r| r.to_string()), Ok(full), "{said}");
        }
    }

    #[test]
    fn the_runtime_is_told_what_was_written() {
        let digest = format!("a@sha256:{}", "a".repeat(64));
        for (said, told) in [
            ("busybox", "busybox:latest"),
            ("busybox:1", "busybox:1"),
            ("h:5000/a", "h:5000/a:latest"),
            (&digest, &digest),
        ] {
            assert_eq!(spoken(said).unwrap().0, told);
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for (said, why) in [
            ("", BadReference::Format),
            ("Busybox", BadReference::Upper),
            ("a/B", BadReference::Upper),
            ("busybox:", BadReference::Format),
            ("a//b", BadReference::Format),
            ("a..b", BadReference::Format),
            ("a/-b", BadReference::Format),
            ("-a.b/c", BadReference::Format),
            ("a b", BadReference::Format),
            ("https://a/b", BadReference::Format),
            ("a@sha256:abc", BadReference::Length),
            ("a@sha256:xyz", BadReference::Format),
            (&format!("a@md5:{}", "a".repeat(32)), BadReference::Algorithm),
            (&"a".repeat(300), BadReference::Long),
            (&format!("a:{}", "t".repeat(129)), BadReference::Format),
        ] {
            assert_eq!(Reference::parse(said), Err(why), "{said}");
        }
    }
}
