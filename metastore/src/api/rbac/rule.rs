//! One rule of a role: what it allows, and whether it covers another.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::api::auth::Attributes;

const ALL: &str = "*";

type Words = Vec<Box<str>>;

/// One rule, in the form that objects and answers have.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Rule {
    pub(crate) verbs: Words,
    #[serde(rename = "apiGroups", skip_serializing_if = "Vec::is_empty")]
    pub(crate) groups: Words,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) resources: Words,
    #[serde(rename = "resourceNames", skip_serializing_if = "Vec::is_empty")]
    pub(crate) names: Words,
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub(crate) urls: Words,
}

fn has(list: &[Box<str>], word: &str) -> bool {
    list.iter().any(|w| **w == *word)
}

fn has_or_all(list: &[Box<str>], word: &str) -> bool {
    list.iter().any(|w| **w == *word || **w == *ALL)
}

/// Whether a list of resources has `pods`, or `pods/log` by that name or as `*/log`.
fn has_resource(list: &[Box<str>], resource: &str, subresource: &str) -> bool {
    list.iter().any(|word| {
        if **word == *ALL {
            return true;
        }
        let (of, sub) = word.split_once('/').unwrap_or((word, ""));
        sub == subresource && (of == resource || (of == ALL && !subresource.is_empty()))
    })
}

/// Whether a path that may end in `*` takes in another.
fn url_covers(own: &str, path: &str) -> bool {
    own == path || (own.ends_with('*') && path.starts_with(own.trim_end_matches('*')))
}

impl Rule {
    /// Whether it allows what somebody wants to do.
    pub(crate) fn allows(&self, a: &Attributes<'_>) -> bool {
        if !has_or_all(&self.verbs, a.verb) {
            return false;
        }
        if a.resource.is_empty() {
            return self.urls.iter().any(|url| url_covers(url, a.path));
        }
        has_or_all(&self.groups, a.group)
            && has_resource(&self.resources, a.resource, a.subresource)
            && (self.names.is_empty() || has(&self.names, a.name))
    }

    /// The rule that allows everything that is a resource.
    pub(crate) fn everything() -> [Self; 2] {
        let all = || vec![ALL.into()];
        let resources = Self {
            verbs: all(),
            groups: all(),
            resources: all(),
            ..Self::default()
        };
        let urls = Self {
            verbs: all(),
            urls: all(),
            ..Self::default()
        };
        [resources, urls]
    }

    /// How many [`Part`]s it has.
    pub(crate) fn size(&self) -> usize {
        let resources = self
            .groups
            .len()
            .saturating_mul(self.resources.len())
            .saturating_mul(self.names.len().max(1));
        resources
            .saturating_add(self.urls.len())
            .saturating_mul(self.verbs.len())
    }

    /// It as a list of what cannot be divided further.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let names = move || {
            let none = self.names.is_empty().then_some(None);
            none.into_iter().chain(self.names.iter().map(|n| Some(&**n)))
        };
        let resources = self.groups.iter().flat_map(move |group| {
            self.resources.iter().flat_map(move |resource| {
                self.verbs.iter().flat_map(move |verb| {
                    names().map(move |name| Part {
                        verb,
                        what: What::Resource { group, resource, name },
                    })
                })
            })
        });
        let urls = self.urls.iter().flat_map(move |url| {
            self.verbs.iter().map(move |verb| Part {
                verb,
                what: What::Url(url),
            })
        });
        resources.chain(urls)
    }

    /// Whether it grants a part.
    pub(crate) fn covers(&self, part: &Part<'_>) -> bool {
        if !has_or_all(&self.verbs, part.verb) {
            return false;
        }
        match part.what {
            What::Url(url) => self.urls.iter().any(|own| url_covers(own, url)),
            What::Resource { group, resource, name } => {
                let (of, sub) = resource.split_once('/').unwrap_or((resource, ""));
                let resource = has(&self.resources, resource) || has_resource(&self.resources, of, sub);
                // What is granted for all names is covered only by what is held for all names.
                let name = self.names.is_empty() || name.is_some_and(|n| has(&self.names, n));
                has_or_all(&self.groups, group) && resource && name
            }
        }
    }
}

/// One verb on one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Part<'r> {
    pub(crate) what: What<'r>,
    pub(crate) verb: &'r str,
}

/// What a part is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What<'r> {
    Resource {
        group: &'r str,
        resource: &'r str,
        name: Option<&'r str>,
    },
    Url(&'r str),
}

/// As refusals list what is not held.
impl fmt::Display for What<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => write!(f, "NonResourceURLs:[{url:?}]"),
            Self::Resource { group, resource, name } => {
                write!(f, "APIGroups:[{group:?}], Resources:[{resource:?}]")?;
                name.map_or(Ok(()), |name| write!(f, ", ResourceNames:[{name:?}]"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rule(value: serde_json::Value) -> Rule {
        serde_json::from_value(value).unwrap()
    }

    fn on<'a>(verb: &'a str, group: &'a str, resource: &'a str, subresource: &'a str, name: &'a str) -> Attributes<'a> {
        Attributes {
            verb,
            group,
            resource,
            subresource,
            name,
            ..Attributes::default()
        }
    }

    #[test]
    fn resources_match_by_name_subresource_and_star() {
        let r =
            rule(json!({"verbs": ["get"], "apiGroups": ["", "apps"], "resources": ["pods", "pods/log", "*/scale"]}));
        for (a, want) in [
            (on("get", "", "pods", "", "x"), true),
            (on("list", "", "pods", "", ""), false),
            (on("get", "batch", "pods", "", "x"), false),
            (on("get", "", "pods", "log", "x"), true),
            (on("get", "", "pods", "exec", "x"), false),
            (on("get", "apps", "deployments", "scale", "x"), true),
            (on("get", "apps", "deployments", "", "x"), false),
        ] {
            assert_eq!(r.allows(&a), want, "{a:?}");
        }
        let star = rule(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        assert!(star.allows(&on("patch", "x.io", "things", "status", "a")));
        let path = Attributes {
            verb: "get",
            path: "/x",
            ..Attributes::default()
        };
        assert!(!star.allows(&path));
    }

    #[test]
    fn names_bind_what_has_a_name() {
        let r = rule(json!({"verbs": ["*"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"]}));
        assert!(r.allows(&on("get", "", "secrets", "", "a")));
        assert!(!r.allows(&on("get", "", "secrets", "", "b")));
        assert!(!r.allows(&on("list", "", "secrets", "", "")));
    }

    #[test]
    fn paths_match_whole_or_by_a_star_at_their_end() {
        let r = rule(json!({"verbs": ["get"], "nonResourceURLs": ["/version", "/apis/*"]}));
        for (path, want) in [
            ("/version", true),
            ("/version/", false),
            ("/apis", false),
            ("/apis/", true),
            ("/apis/apps/v1", true),
        ] {
            let a = Attributes {
                verb: "get",
                path,
                ..Attributes::default()
            };
            assert_eq!(r.allows(&a), want, "{path}");
        }
    }

    #[test]
    fn a_rule_covers_the_parts_it_grants() {
        let own = rule(json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "*/scale"]}));
        let covered = |value| {
            let wanted = rule(value);
            assert_eq!(wanted.parts().count(), wanted.size());
            wanted.parts().all(|p| own.covers(&p))
        };
        assert!(covered(
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "deployments/scale"], "resourceNames": ["x"]})
        ));
        assert!(!covered(
            json!({"verbs": ["*"], "apiGroups": [""], "resources": ["pods"]})
        ));
        assert!(!covered(
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["*"]})
        ));
        assert!(!covered(
            json!({"verbs": ["get"], "apiGroups": ["apps"], "resources": ["pods"]})
        ));
        assert!(!covered(json!({"verbs": ["get"], "nonResourceURLs": ["/x"]})));
        let named = rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"]}));
        let all = rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}));
        assert!(!all.parts().all(|p| named.covers(&p)));
        let [resources, urls] = Rule::everything();
        assert!(all.parts().all(|p| resources.covers(&p)));
        assert!(!all.parts().any(|p| urls.covers(&p)));
    }
}
