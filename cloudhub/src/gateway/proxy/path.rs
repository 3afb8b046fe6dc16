//! What a request to a site asks for, read off its method, path and query. Pure.

use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue, Method};

/// Subresources of pods that are used by writing, though nothing that somebody declared is changed.
const USED_BY_POST: [&str; 4] = ["exec", "attach", "portforward", "eviction"];
/// What follows `namespaces/<name>/` without being a resource in that namespace.
const OF_NAMESPACES: [&str; 2] = ["status", "finalize"];

/// Who answers a request to a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Any member: what they all serve alike.
    First,
    /// All members: a list.
    Every,
    /// The member that has this object.
    Holder(Object),
    /// Nobody: events of several members have no order that a client could go on from.
    Watch,
    /// Nobody: what is written to one member is not the site's.
    Write,
    /// Nobody: no such request.
    NotAllowed,
}

/// An object that one of the members may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) group: String,
    pub(super) resource: String,
    pub(super) name: String,
    /// Its own path, without that of a subresource.
    pub(super) path: String,
}

/// A path of the Kubernetes API.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    /// Discovery, version, health.
    Elsewhere,
    /// `…/watch/…`, as it was asked before `watch=1`.
    OldWatch,
    Collection,
    Object(Object, Option<&'a str>),
}

fn place(path: &str) -> Place<'_> {
    let all: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, from) = match *all {
        ["api", _, _, ..] => ("", 2),
        ["apis", group, _, _, ..] => (group, 3),
        _ => return Place::Elsewhere,
    };
    let mut at = from;
    match all[from..] {
        ["watch", _, ..] => return Place::OldWatch,
        ["namespaces", _, third, ..] if !OF_NAMESPACES.contains(&third) => at += 2,
        _ => {}
    }
    let Some(name) = all.get(at + 1) else {
        return Place::Collection;
    };
    let object = Object {
        group: group.to_owned(),
        resource: all[at].to_owned(),
        name: (*name).to_owned(),
        path: format!("/{}", all[..at + 2].join("/")),
    };
    Place::Object(object, all.get(at + 2).copied())
}

/// Whether a list is to be followed by what happens. As an API server reads it: everything but a plain no is a yes.
fn watches(query: &str) -> bool {
    let mut values = query.split('&').filter_map(|pair| match pair.split_once('=') {
        Some(("watch", value)) => Some(value),
        None if pair == "watch" => Some(""),
        _ => None,
    });
    values
        .next()
        .is_some_and(|v| v != "0" && !v.eq_ignore_ascii_case("false"))
}

/// Who answers.
pub(super) fn route(method: &Method, path: &str, query: &str) -> Route {
    let (get, head) = (method == Method::GET, method == Method::HEAD);
    let reads = get || head || method == Method::OPTIONS;
    match place(path) {
        Place::Elsewhere if reads => Route::First,
        Place::OldWatch if get => Route::Watch,
        Place::Collection if get && watches(query) => Route::Watch,
        Place::Collection if get => Route::Every,
        Place::Object(object, _) if get || head => Route::Holder(object),
        _ if reads => Route::NotAllowed,
        Place::Object(object, sub) if object.group.is_empty() && object.resource == "pods" => match sub {
            None if method == Method::DELETE => Route::Holder(object),
            Some(sub) if method == Method::POST && USED_BY_POST.contains(&sub) => Route::Holder(object),
            _ => Route::Write,
        },
        _ => Route::Write,
    }
}

/// The query as each member is asked. A list of several members has no pages and no revision: tokens and revisions are one member's own.
pub(super) fn unpaged(query: &str) -> String {
    const NOT_SHARED: [&str; 5] = ["limit", "continue", "resourceVersion", "resourceVersionMatch", "watch"];
    let kept = query.split('&').filter(|pair| {
        let name = pair.split_once('=').map_or(*pair, |(name, _)| name);
        !name.is_empty() && !NOT_SHARED.contains(&name)
    });
    kept.collect::<Vec<_>>().join("&")
}

/// Of what the caller understands, the forms that can be put together here: JSON, as a list or as a table. `None`: none of them.
pub(super) fn accepted(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut forms = Vec::new();
    let mut any = false;
    let values = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok());
    for form in values
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .filter(|f| !f.is_empty())
    {
        any = true;
        let (media, parameters) = form.split_once(';').map_or((form, ""), |(m, p)| (m.trim(), p));
        match media {
            "application/json" => forms.push(form),
            "*/*" | "application/*" if !parameters.contains("as=") => forms.push("application/json"),
            _ => {}
        }
    }
    if !any {
        return Some(HeaderValue::from_static("application/json"));
    }
    forms.dedup();
    let value = HeaderValue::from_str(&forms.join(",")).ok();
    value.filter(|v| !v.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(target: &str) -> Route {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        route(&Method::GET, path, query)
    }

    fn holder(route: Route) -> (String, String) {
        match route {
            Route::Holder(object) => (object.resource, object.path),
            other => panic!("{other:?}"),
        }
    }

    fn pair(resource: &str, path: &str) -> (String, String) {
        (resource.to_owned(), path.to_owned())
    }

    #[test]
    fn what_all_serve_alike_is_asked_of_one() {
        for path in [
            "/",
            "/api",
            "/api/v1",
            "/apis",
            "/apis/apps",
            "/apis/apps/v1",
            "/apis/apps/v1/",
            "/version",
            "/openapi/v3/apis/apps/v1",
            "/healthz",
        ] {
            assert_eq!(get(path), Route::First, "{path}");
            assert_eq!(route(&Method::POST, path, ""), Route::Write, "{path}");
        }
    }

    #[test]
    fn lists_are_asked_of_all_and_watches_of_nobody() {
        for path in [
            "/api/v1/pods",
            "/api/v1/nodes?limit=500",
            "/api/v1/namespaces",
            "/api/v1/namespaces/a/pods?watch=false",
            "/apis/apps/v1/deployments",
            "/apis/apps/v1/namespaces/a/deployments?labelSelector=watch%3Da",
            "/apis/metrics.k8s.io/v1beta1/namespaces/a/pods?watch=0",
        ] {
            assert_eq!(get(path), Route::Every, "{path}");
        }
        for path in [
            "/api/v1/pods?watch=1",
            "/api/v1/pods?a=b&watch=true",
            "/api/v1/pods?watch",
            "/api/v1/watch/pods",
            "/apis/apps/v1/watch/namespaces/a/deployments/d",
        ] {
            assert_eq!(get(path), Route::Watch, "{path}");
        }
    }

    #[test]
    fn an_object_and_what_is_below_it_is_asked_of_the_one_that_has_it() {
        let pod = "/api/v1/namespaces/a/pods/p";
        for below in ["", "/log?follow=true", "/exec?command=sh", "/proxy/x/y"] {
            assert_eq!(holder(get(&format!("{pod}{below}"))), pair("pods", pod), "{below}");
        }
        assert_eq!(
            holder(get("/api/v1/namespaces/a")),
            pair("namespaces", "/api/v1/namespaces/a")
        );
        assert_eq!(
            holder(get("/api/v1/namespaces/a/status")),
            pair("namespaces", "/api/v1/namespaces/a")
        );
        assert_eq!(
            holder(get("/api/v1/nodes/n/proxy/stats")),
            pair("nodes", "/api/v1/nodes/n")
        );
        let deployment = "/apis/apps/v1/namespaces/a/deployments/d";
        assert_eq!(
            holder(get(&format!("{deployment}/scale"))),
            pair("deployments", deployment)
        );
    }

    #[test]
    fn only_what_changes_nothing_declared_may_be_written() {
        let pod = "/api/v1/namespaces/a/pods/p";
        for below in ["/exec", "/attach", "/portforward", "/eviction"] {
            let asked = route(&Method::POST, &format!("{pod}{below}"), "");
            assert_eq!(holder(asked), pair("pods", pod), "{below}");
        }
        assert_eq!(holder(route(&Method::DELETE, pod, "")), pair("pods", pod));
        for (method, path) in [
            (Method::DELETE, "/api/v1/namespaces/a/pods"),
            (Method::DELETE, "/api/v1/namespaces/a/pods/p/eviction"),
            (Method::POST, "/api/v1/namespaces/a/pods"),
            (Method::PATCH, "/api/v1/namespaces/a/pods/p"),
            (Method::PUT, "/api/v1/namespaces/a/pods/p/status"),
            (Method::POST, "/api/v1/namespaces/a/pods/p/binding"),
            (Method::POST, "/apis/x.io/v1/namespaces/a/pods/p/exec"),
            (Method::DELETE, "/apis/apps/v1/namespaces/a/deployments/d"),
            (Method::POST, "/api/v1/namespaces"),
        ] {
            assert_eq!(route(&method, path, ""), Route::Write, "{method} {path}");
        }
        assert_eq!(route(&Method::HEAD, "/api/v1/pods", ""), Route::NotAllowed);
    }

    #[test]
    fn a_member_is_asked_for_all_it_has() {
        assert_eq!(
            unpaged("limit=500&labelSelector=a%3Db&continue=x&resourceVersion=0&resourceVersionMatch=Exact&&watch=0"),
            "labelSelector=a%3Db"
        );
        assert_eq!(unpaged(""), "");
    }

    #[test]
    fn what_is_merged_is_json() {
        let from = |values: &[&'static str]| {
            let all = values.iter().map(|v| (ACCEPT, HeaderValue::from_static(v)));
            accepted(&all.collect()).map(|v| v.to_str().unwrap().to_owned())
        };
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(from(&[table]).as_deref(), Some(table));
        assert_eq!(from(&[]).as_deref(), Some("application/json"));
        assert_eq!(from(&["*/*"]).as_deref(), Some("application/json"));
        assert_eq!(
            from(&["application/vnd.kubernetes.protobuf, application/json"]).as_deref(),
            Some("application/json")
        );
        assert_eq!(from(&["application/vnd.kubernetes.protobuf"]), None);
    }
}
