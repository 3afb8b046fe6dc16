//! Topic names and filters: what is valid, and what matches what.
//!
//! Pure functions. The trie in `router` answers the same question for many filters at once; `matches` is for one.

/// More levels than this in a filter are refused: the trie is walked recursively, one frame per level.
pub(crate) const MAX_LEVELS: usize = 64;

/// A topic name a client may publish to: not empty, no wildcard, no NUL, at most `max` bytes.
pub fn valid_topic(topic: &str, max: usize) -> bool {
    !topic.is_empty() && topic.len() <= max && !topic.bytes().any(|b| matches!(b, b'+' | b'#' | 0))
}

/// A filter taken apart: `$share/<group>/<path>` or just `<path>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Filter<'a> {
    pub(crate) group: Option<&'a str>,
    pub(crate) path: &'a str,
}

/// Checks a filter and takes it apart; `None` if it is not valid.
pub(crate) fn parse_filter(filter: &str, max: usize) -> Option<Filter<'_>> {
    if filter.len() > max {
        return None;
    }
    let Some(shared) = filter.strip_prefix("$share/") else {
        return valid_path(filter).then_some(Filter {
            group: None,
            path: filter,
        });
    };
    let (group, path) = shared.split_once('/')?;
    let group_ok = !group.is_empty() && !group.bytes().any(|b| matches!(b, b'+' | b'#' | 0));
    (group_ok && valid_path(path)).then_some(Filter {
        group: Some(group),
        path,
    })
}

fn valid_path(path: &str) -> bool {
    if path.is_empty() || path.as_bytes().contains(&0) {
        return false;
    }
    let mut levels = path.split('/');
    let mut count = 0;
    while let Some(level) = levels.next() {
        count += 1;
        match level {
            "+" => {}
            // Only as the very last level.
            "#" => return levels.next().is_none() && count <= MAX_LEVELS,
            _ if level.contains(['+', '#']) => return false,
            _ => {}
        }
    }
    count <= MAX_LEVELS
}

/// Does a valid filter path match a valid topic? A wildcard in the first level does not match a topic that starts with `$`.
pub fn matches(path: &str, topic: &str) -> bool {
    if topic.starts_with('$') && path.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = topic.split('/');
    for wanted in path.split('/') {
        if wanted == "#" {
            return true;
        }
        match levels.next() {
            Some(_) if wanted == "+" => {}
            Some(level) if level == wanted => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

/// The part of a filter before its first wildcard: every topic it matches starts with this, less a closing slash
/// (`a/#` matches `a` as well).
pub(crate) fn literal_prefix(path: &str) -> &str {
    let literal = &path[..path.find(['+', '#']).unwrap_or(path.len())];
    match literal.strip_suffix('/') {
        Some(shorter) if literal.len() < path.len() => shorter,
        _ => literal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_checked() {
        for good in ["a", "/", "a/+/b", "+", "#", "a/#", "$hw/#", "+/+", "a//b", "a b/ü"] {
            assert_eq!(
                parse_filter(good, 100),
                Some(Filter {
                    group: None,
                    path: good
                }),
                "{good}"
            );
        }
        assert_eq!(
            parse_filter("$share/g/a/+", 100),
            Some(Filter {
                group: Some("g"),
                path: "a/+"
            })
        );
        for bad in [
            "",
            "a#",
            "a/#/b",
            "#/a",
            "a+",
            "+a/b",
            "a\0b",
            "$share/g",
            "$share//a",
            "$share/g/",
            "$share/+/a",
            "##",
        ] {
            assert_eq!(parse_filter(bad, 100), None, "{bad}");
        }
        assert_eq!(parse_filter("abcd", 3), None);
        assert!(parse_filter(&vec!["a"; 64].join("/"), 1000).is_some());
        assert!(parse_filter(&vec!["a"; 65].join("/"), 1000).is_none());
        assert!(parse_filter(&(vec!["a"; 64].join("/") + "/#"), 1000).is_none());
    }

    #[test]
    fn topics_are_checked() {
        assert!(valid_topic("a/b", 3));
        for bad in ["", "a/+", "#", "a\0", "four"] {
            assert!(!valid_topic(bad, 3), "{bad}");
        }
    }

    #[test]
    fn matching_follows_the_standard() {
        let table = [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
            ("sport/#", "sport", true),
            ("#", "a/b/c", true),
            ("+", "finance", true),
            ("+", "/finance", false),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("#", "$SYS/x", false),
            ("+/monitor", "$SYS/monitor", false),
            ("$SYS/#", "$SYS/x", true),
            ("$hw/+/x", "$hw/a/x", true),
            ("a/b", "a/b/c", false),
            ("a/b/c", "a/b", false),
            ("a/$x", "a/$x", true),
            ("a/#", "a/$x", true),
        ];
        for (filter, topic, expected) in table {
            assert_eq!(matches(filter, topic), expected, "{filter} on {topic}");
        }
    }

    #[test]
    fn prefix_covers_all_that_matches() {
        for (filter, prefix) in [
            ("a/#", "a"),
            ("a/+/c", "a"),
            ("#", ""),
            ("a/b", "a/b"),
            ("a/", "a/"),
            ("/#", ""),
        ] {
            assert_eq!(literal_prefix(filter), prefix, "{filter}");
        }
    }
}
