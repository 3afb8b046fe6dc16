//! What a name may be, and how the server makes one from `generateName`.

/// Which rule the names of a kind follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameRule {
    /// RFC 1123 subdomain: most kinds.
    Subdomain,
    /// RFC 1123 label: namespaces.
    Label,
    /// RFC 1035 label: services.
    Label1035,
    /// Anything that can be a part of a path: roles.
    PathSegment,
}

/// Longest name of any kind.
const MAX_NAME: usize = 253;
/// A generated name has this many random characters at its end.
const RANDOM: usize = 5;
/// Consonants and digits only, so that no word comes out.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// An RFC 1123 label.
pub(crate) fn is_label(text: &str) -> bool {
    let b = text.as_bytes();
    (1..=63).contains(&b.len())
        && b.iter()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-')
        && b[0] != b'-'
        && b[b.len() - 1] != b'-'
}

/// An RFC 1123 subdomain.
pub(crate) fn is_subdomain(text: &str) -> bool {
    let ok = |part: &str| {
        let b = part.as_bytes();
        !b.is_empty()
            && b.iter()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-')
            && b[0] != b'-'
            && b[b.len() - 1] != b'-'
    };
    text.len() <= MAX_NAME && text.split('.').all(ok)
}

impl NameRule {
    /// Checks a name; the error says what a name of this kind is.
    pub(crate) fn check(self, name: &str) -> Result<(), &'static str> {
        match self {
            Self::Subdomain if is_subdomain(name) => Ok(()),
            Self::Subdomain => Err(
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            ),
            Self::Label if is_label(name) => Ok(()),
            Self::Label => Err(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', must start and end with an alphanumeric character, and have at most 63 characters",
            ),
            Self::Label1035 if is_label(name) && name.as_bytes()[0].is_ascii_lowercase() => Ok(()),
            Self::Label1035 => Err(
                "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            ),
            Self::PathSegment if matches!(name, "." | "..") => Err("may not be '.' or '..'"),
            Self::PathSegment if name.contains(['/', '%']) => Err("may not contain '/' or '%'"),
            Self::PathSegment => Ok(()),
        }
    }
}

impl NameRule {
    /// Checks the beginning of a name, which may end where a name may not.
    pub(crate) fn check_prefix(self, prefix: &str) -> Result<(), &'static str> {
        match prefix.strip_suffix('-') {
            Some(rest) if !rest.is_empty() => self.check(&format!("{rest}a")),
            _ => self.check(prefix),
        }
    }
}

/// A name for `generateName`.
pub(crate) fn generate(prefix: &str) -> String {
    let keep = prefix.len().min(63 - RANDOM);
    let keep = (0..=keep).rev().find(|i| prefix.is_char_boundary(*i)).unwrap_or(0);
    let mut out = prefix[..keep].to_owned();
    for _ in 0..RANDOM {
        out.push(char::from(ALPHABET[fastrand::usize(..ALPHABET.len())]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        assert!(NameRule::Subdomain.check("a.b-1").is_ok());
        for bad in ["", "A", "a_b", "-a", "a-", "a..b", ".a", &"a".repeat(254)] {
            assert!(NameRule::Subdomain.check(bad).is_err(), "{bad}");
        }
        assert!(NameRule::Label.check("a.b").is_err());
        assert!(NameRule::Label1035.check("1a").is_err());
        assert!(NameRule::PathSegment.check("system:A b").is_ok());
        for bad in [".", "..", "a/b", "50%"] {
            assert!(NameRule::PathSegment.check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn generated_names_are_names_whatever_the_prefix() {
        assert!(is_label(&generate("web-")));
        assert_eq!(generate(&"x".repeat(100)).len(), 63);
        assert!(generate(&"ä".repeat(60)).len() <= 63);
        assert_ne!(generate("a"), generate("a"));
    }
}
