//! Image references taken apart and put together again: registry, repository, tag, digest.

use super::patch::Op;

/// The part of an image that is overridden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Registry,
    Repository,
    Tag,
}

/// `registry.example:5000/team/app:v1@sha256:...`
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reference {
    registry: String,
    repository: String,
    tag: String,
    digest: String,
}

/// The image with one part of it added to, removed or replaced.
///
/// # Errors
/// The image, or what becomes of it, is no reference to an image.
pub(super) fn changed(image: &str, part: Part, op: Op, value: &str) -> Result<String, String> {
    let mut reference = Reference::parse(image).ok_or_else(|| format!("{image:?} is no image reference"))?;
    let put = |old: &str| match op {
        Op::Add => format!("{old}{value}"),
        Op::Replace => value.to_owned(),
        Op::Remove => String::new(),
    };
    match part {
        Part::Registry => reference.registry = put(&reference.registry),
        Part::Repository => reference.repository = put(&reference.repository),
        Part::Tag => {
            let old = if reference.tag.is_empty() {
                &reference.digest
            } else {
                &reference.tag
            };
            let new = put(old);
            // Another tag is another image: the digest of the old one would pin the old one.
            (reference.tag, reference.digest) = if is_digest(&new) {
                (String::new(), new)
            } else {
                (new, String::new())
            };
        }
    }
    let text = reference.shown();
    if Reference::parse(&text).is_none() {
        return Err(format!("{image:?} would become {text:?}, which is no image reference"));
    }
    Ok(text)
}

impl Reference {
    fn parse(image: &str) -> Option<Self> {
        let (rest, digest) = image
            .split_once('@')
            .map_or((image, ""), |(rest, digest)| (rest, digest));
        let name_start = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[name_start..].find(':') {
            Some(colon) => (&rest[..name_start + colon], &rest[name_start + colon + 1..]),
            None => (rest, ""),
        };
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
            _ => ("", name),
        };
        let has_separator = |text: &str, sign: char| text.contains(sign);
        let whole = (digest.is_empty() && !has_separator(image, '@') || is_digest(digest))
            && (tag.is_empty() && !has_separator(&rest[name_start..], ':') || is_tag(tag))
            && is_repository(repository)
            && (registry.is_empty() || is_registry(registry));
        whole.then(|| Self {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            tag: tag.to_owned(),
            digest: digest.to_owned(),
        })
    }

    fn shown(&self) -> String {
        let mut text = String::new();
        if !self.registry.is_empty() {
            text.push_str(&self.registry);
            text.push('/');
        }
        text.push_str(&self.repository);
        if !self.tag.is_empty() {
            text.push(':');
            text.push_str(&self.tag);
        }
        if !self.digest.is_empty() {
            text.push('@');
            text.push_str(&self.digest);
        }
        text
    }
}

/// Lower-case names with slashes between; dots, dashes and underscores only inside a name.
fn is_repository(text: &str) -> bool {
    text.split('/').all(|name| {
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        edge(name.as_bytes().first())
            && edge(name.as_bytes().last())
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
    })
}

/// A host with an optional port.
fn is_registry(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b))
}

/// At most 128 letters, digits, underscores, dots and dashes; the first is no dot and no dash.
fn is_tag(text: &str) -> bool {
    const LONGEST: usize = 128;
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= LONGEST
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

/// An algorithm, a colon and at least 32 hexadecimal digits.
fn is_digest(text: &str) -> bool {
    const SHORTEST: usize = 32;
    text.split_once(':').is_some_and(|(algorithm, hash)| {
        algorithm.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
            && algorithm
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_+.".contains(&b))
            && hash.len() >= SHORTEST
            && hash.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:50d858e0985ecc7f60418aaf0cc5ab587f42c2570a884095a9e8ccacd0f6545c";

    #[test]
    fn references_come_apart_and_together() {
        for (image, registry, repository, tag, digest) in [
            ("pause", "", "pause", "", ""),
            ("library/nginx:1.21", "", "library/nginx", "1.21", ""),
            ("registry.example/app:v1", "registry.example", "app", "v1", ""),
            (
                "registry.example:5000/team/app:v1",
                "registry.example:5000",
                "team/app",
                "v1",
                "",
            ),
            ("[::1]:5000/app", "[::1]:5000", "app", "", ""),
            ("localhost/app", "localhost", "app", "", ""),
            (&format!("gcr.io/a/b@{DIGEST}"), "gcr.io", "a/b", "", DIGEST),
            (&format!("gcr.io/a/b:v1@{DIGEST}"), "gcr.io", "a/b", "v1", DIGEST),
        ] {
            let parsed = Reference::parse(image).unwrap();
            assert_eq!(
                (&*parsed.registry, &*parsed.repository, &*parsed.tag, &*parsed.digest),
                (registry, repository, tag, digest)
            );
            assert_eq!(parsed.shown(), image);
        }
        for image in [
            "",
            ":v1",
            "a:",
            "a@",
            "a@sha256:12",
            "A",
            "a//b",
            "a/-b",
            "a b",
            "x.io/",
            "a:v1:v2",
            "ä",
            "a:ä",
        ] {
            assert_eq!(Reference::parse(image), None, "{image}");
        }
    }

    #[test]
    fn parts_are_added_replaced_and_removed() {
        let of = |image: &str, part, op, value| changed(image, part, op, value).unwrap();
        assert_eq!(
            of("nginx:1.21", Part::Registry, Op::Add, "mirror.edge.local"),
            "mirror.edge.local/nginx:1.21"
        );
        assert_eq!(
            of("gcr.io/nginx", Part::Registry, Op::Add, ":5000"),
            "gcr.io:5000/nginx"
        );
        assert_eq!(
            of("gcr.io/nginx", Part::Registry, Op::Replace, "quay.io"),
            "quay.io/nginx"
        );
        assert_eq!(
            of("gcr.io/nginx", Part::Registry, Op::Replace, "hub.lan/proxy"),
            "hub.lan/proxy/nginx"
        );
        assert_eq!(of("gcr.io/nginx", Part::Registry, Op::Remove, ""), "nginx");
        assert_eq!(
            of("gcr.io/web:1", Part::Repository, Op::Add, "-arm64"),
            "gcr.io/web-arm64:1"
        );
        assert_eq!(of("gcr.io/web:1", Part::Repository, Op::Replace, "b/c"), "gcr.io/b/c:1");
        assert_eq!(of("web:1", Part::Tag, Op::Add, "-arm64"), "web:1-arm64");
        assert_eq!(of("web:1", Part::Tag, Op::Replace, DIGEST), format!("web@{DIGEST}"));
        assert_eq!(of(&format!("web:1@{DIGEST}"), Part::Tag, Op::Replace, "2"), "web:2");
        assert_eq!(of(&format!("web@{DIGEST}"), Part::Tag, Op::Remove, ""), "web");
        assert_eq!(
            of(&format!("web:1@{DIGEST}"), Part::Registry, Op::Replace, "x.io"),
            format!("x.io/web:1@{DIGEST}"),
            "another place of the same image keeps what pins it"
        );
    }

    #[test]
    fn what_would_be_no_image_is_refused() {
        for (part, op, value) in [
            (Part::Registry, Op::Replace, "https://x.io"),
            (Part::Repository, Op::Remove, ""),
            (Part::Repository, Op::Replace, "Upper"),
            (Part::Tag, Op::Replace, "-x"),
            (Part::Tag, Op::Replace, "a b"),
        ] {
            assert!(changed("x.io/app:v1", part, op, value).is_err(), "{value}");
        }
    }
}
