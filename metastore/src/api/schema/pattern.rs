//! `pattern` of a schema: a regular expression searched in linear time, compiled once, small by a cap.

use std::sync::Arc;

use regex_automata::nfa::thompson::{self, pikevm::PikeVM};

/// Most bytes of compiled program for one pattern; real ones take a few thousand.
const MAX_PROGRAM: usize = 1 << 20;

/// A compiled pattern, cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    source: Arc<str>,
    program: Arc<PikeVM>,
}

impl Pattern {
    /// Compiles, or says why not.
    pub(crate) fn compile(source: &str) -> Result<Self, String> {
        if let Some(count) = oversized_repeat(source) {
            return Err(format!("invalid repeat count: {{{count}}}"));
        }
        let program = PikeVM::builder()
            .thompson(thompson::Config::new().nfa_size_limit(Some(MAX_PROGRAM)))
            .build(source)
            .map_err(|e| {
                let mut text = e.to_string();
                let mut cause = std::error::Error::source(&e);
                while let Some(c) = cause {
                    text = c.to_string();
                    cause = c.source();
                }
                text
            })?;
        Ok(Self {
            source: source.into(),
            program: Arc::new(program),
        })
    }

    /// As written.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// Bytes of the compiled program.
    pub(crate) fn memory(&self) -> usize {
        self.program.get_nfa().memory_usage()
    }

    /// Whether it is found anywhere in `text`.
    pub(crate) fn found_in(&self, text: &str) -> bool {
        self.program.is_match(&mut self.program.create_cache(), text)
    }
}

/// Most repetitions of one part, as other servers have it.
const MAX_REPEAT: u32 = 1000;

/// A repetition (`{2,5000}`) that is too long.
fn oversized_repeat(source: &str) -> Option<&str> {
    let mut rest = source;
    while let Some(at) = rest.find(['{', '\\']) {
        if rest[at..].starts_with('\\') {
            // What is escaped is no repetition.
            rest = rest[at + 1..]
                .chars()
                .next()
                .map_or("", |c| &rest[at + 1 + c.len_utf8()..]);
            continue;
        }
        rest = &rest[at + 1..];
        let inner = &rest[..rest.find('}')?];
        let large = |n: &str| {
            !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) && n.parse().map_or(true, |n: u32| n > MAX_REPEAT)
        };
        if inner.split(',').any(large) {
            return Some(inner);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn searches_unanchored_like_the_api() {
        let p = Pattern::compile("b+").unwrap();
        assert!(p.found_in("abc") && !p.found_in("ac"));
        let p = Pattern::compile("^[a-z]+$").unwrap();
        assert!(p.found_in("abc") && !p.found_in("aBc"));
        assert!(Pattern::compile(r"^\d{3}-\w+$").unwrap().found_in("123-ab_c"));
    }

    #[test]
    fn bad_and_oversized_patterns_are_refused() {
        assert!(Pattern::compile("a(").is_err());
        assert!(Pattern::compile("(?:a{1000}){1000}").is_err());
        assert!(Pattern::compile("a{1001}").is_err() && Pattern::compile("a{1,99999999999}").is_err());
        assert!(Pattern::compile(r"a\{1001}").is_ok() && Pattern::compile("a{1000}").is_ok());
    }
}
