//! `/clusters/<site>/…`: a request to what several gateways are together, answered by one of them or by all.
//!
//! | asked for | answered by |
//! |---|---|
//! | discovery, version, health | the first member that is connected, by name |
//! | a list | every member that is connected, put together ([`super::merge`]); who is missing is said in a warning |
//! | an object, a pod's log, exec, port-forward, deletion, eviction | the first member that has the object |
//! | a watch | nobody: 405 |
//! | any other write | nobody: 405, the templates of the site are what is written |
//!
//! Each gateway decides about the caller's rights itself, as for a request of its own; what is asked here on the way (does it have the
//! object?) is asked under the caller's identity too. Nothing is kept between requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT, WARNING};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Frame, Incoming};
use link::tunnel;
use metastore::api::{Peer, Status, User};
use tokio::time::timeout;

use super::super::{Body, full};
use super::merge::{Unmergeable, merge};
use super::path::{Object, Route, accepted, route, unpaged};
use super::{carry, forwarded_for, rewrite};
use crate::fleet::{Fleet, Live};

/// Members that are asked at the same time for one request: a site may have hundreds.
const AT_ONCE: usize = 16;
/// How long one member may take, to the last byte: somebody waits for the list, and the others are in it without this one.
const DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of all answers that are put together: they are held here meanwhile.
const MOST_BYTES: usize = 32 << 20;
/// Members named in a message; a header has room for few.
const NAMED: usize = 20;

/// A site that somebody asks.
#[derive(Debug)]
pub(super) struct Site<'a> {
    fleet: &'a Arc<Fleet>,
    /// As the caller has it.
    name: String,
    /// By name.
    connected: Vec<Arc<Live>>,
    away: Vec<Arc<str>>,
}

/// What a member said.
#[derive(Debug)]
enum Said {
    Yes(Bytes),
    No(Refusal),
    /// Nothing, and why.
    Nothing(String),
    /// More than there was room for.
    TooMuch,
}

/// A member's own refusal.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    form: Option<HeaderValue>,
    body: Bytes,
}

impl From<Refusal> for Response<Body> {
    fn from(refusal: Refusal) -> Self {
        let mut response = Self::new(full(refusal.body));
        *response.status_mut() = refusal.status;
        if let Some(form) = refusal.form {
            response.headers_mut().insert(CONTENT_TYPE, form);
        }
        response
    }
}

/// Some names, and how many more.
fn named<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let all: Vec<&str> = names.collect();
    let more = all.len().saturating_sub(NAMED);
    let shown = all[..all.len() - more].join(", ");
    if more == 0 {
        shown
    } else {
        format!("{shown} and {more} more")
    }
}

/// A warning that kubectl shows.
fn warning(text: &str) -> Option<HeaderValue> {
    let plain: String = text
        .chars()
        .map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' })
        .collect();
    let quoted = plain.replace('\\', "\\\\").replace('"', "\\\"");
    HeaderValue::from_str(&format!("299 - \"{quoted}\"")).ok()
}

impl<'a> Site<'a> {
    pub(super) fn new(fleet: &'a Arc<Fleet>, name: String, mut members: Vec<Arc<str>>) -> Self {
        members.sort_unstable();
        let (mut connected, mut away) = (Vec::new(), Vec::new());
        for member in members {
            match fleet.registry.get(&member) {
                Some(live) => connected.push(live),
                None => away.push(member),
            }
        }
        Self {
            fleet,
            name,
            connected,
            away,
        }
    }

    /// Answers; that the caller may ask was seen to.
    pub(super) async fn answer(
        self,
        user: User,
        target: PathAndQuery,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Status> {
        match route(request.method(), target.path(), target.query().unwrap_or_default()) {
            Route::Watch => Err(self.refused(
                "cannot be watched: their revisions have nothing to do with each other. List again instead, or watch one of them",
            )),
            Route::Write => Err(self.refused(
                "are not written to through their site: change the template that the site gets this from, or write to one of them",
            )),
            Route::NotAllowed => Err(Status::method_not_allowed()),
            _ if self.connected.is_empty() => Err(self.away()),
            Route::First => {
                let first = &self.connected[0];
                carry(self.fleet, first, &self.name, target, &user, request).await
            }
            Route::Every => self.list(&user, &target, &request).await,
            Route::Holder(object) => match self.holder(&user, &object, &request).await? {
                Ok(live) => carry(self.fleet, &live, &self.name, target, &user, request).await,
                Err(refusal) => Ok(refusal.into()),
            },
        }
    }

    fn refused(&self, why: &str) -> Status {
        let text = format!(
            "the gateways of site {} {why} at /clusters/<gateway>/ ({})",
            self.name,
            named(self.members()),
        );
        Status::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", text).with_empty_details()
    }

    fn members(&self) -> impl Iterator<Item = &str> {
        let mut all: Vec<&str> = self.connected.iter().map(|live| &*live.node).collect();
        all.extend(self.away.iter().map(|name| &**name));
        all.sort_unstable();
        all.into_iter()
    }

    fn away(&self) -> Status {
        let name = &self.name;
        Status::unavailable(if self.away.is_empty() {
            format!("no gateway stands behind site {name}")
        } else {
            let names = named(self.away.iter().map(|name| &**name));
            format!("no gateway of site {name} is connected: {names}")
        })
    }

    /// The head of a question that the hub asks for the caller.
    fn head(user: &User, request: &Request<Incoming>, accept: HeaderValue) -> Result<HeaderMap, Status> {
        let mut headers = HeaderMap::from_iter([(ACCEPT, accept)]);
        if let Some(agent) = request.headers().get(USER_AGENT) {
            headers.insert(USER_AGENT, agent.clone());
        }
        rewrite(&mut headers, user)?;
        forwarded_for(&mut headers, request.extensions().get::<Peer>().copied());
        Ok(headers)
    }

    /// The member that has an object; a member's refusal when that is all there is.
    async fn holder(
        &self,
        user: &User,
        object: &Object,
        request: &Request<Incoming>,
    ) -> Result<Result<Arc<Live>, Refusal>, Status> {
        let json = HeaderValue::from_static("application/json");
        let head = Self::head(user, request, json)?;
        let target = parsed(object.path.clone())?;
        let room = Arc::new(AtomicUsize::new(MOST_BYTES));
        let mut answers = stream::iter(self.questions(&target, &head, &room, false)).buffered(AT_ONCE);
        let (mut refusal, mut silent) = (None, Vec::new());
        while let Some((live, said)) = answers.next().await {
            match said {
                Said::Yes(_) => return Ok(Ok(live)),
                Said::No(no) if no.status == StatusCode::NOT_FOUND => {}
                Said::No(no) => drop(refusal.get_or_insert(no)),
                Said::Nothing(_) | Said::TooMuch => silent.push(Arc::clone(&live.node)),
            }
        }
        if let Some(refusal) = refusal {
            return Ok(Err(refusal));
        }
        let Object {
            group, resource, name, ..
        } = object;
        Err(match named(self.away.iter().chain(&silent).map(|name| &**name)) {
            none if none.is_empty() => Status::not_found(group, resource, name),
            names => Status::unavailable(format!(
                "{resource} \"{name}\" is on no gateway of site {} that answers; not connected: {names}",
                self.name
            )),
        })
    }

    /// What all members have.
    async fn list(
        &self,
        user: &User,
        target: &PathAndQuery,
        request: &Request<Incoming>,
    ) -> Result<Response<Body>, Status> {
        let accept = accepted(request.headers()).ok_or_else(Status::not_acceptable)?;
        let head = Self::head(user, request, accept)?;
        let query = unpaged(target.query().unwrap_or_default());
        let mark = if query.is_empty() { "" } else { "?" };
        let target = parsed(format!("{}{mark}{query}", target.path()))?;
        self.fleet.metrics.proxied_requests.add(1);
        let room = Arc::new(AtomicUsize::new(MOST_BYTES));
        let mut answers = stream::iter(self.questions(&target, &head, &room, true)).buffered(AT_ONCE);
        let (mut lists, mut refused, mut silent) = (Vec::new(), Vec::new(), Vec::new());
        while let Some((live, said)) = answers.next().await {
            let node = Arc::clone(&live.node);
            match said {
                Said::Yes(body) => lists.push((node, body)),
                Said::No(no) => refused.push((node, no)),
                Said::Nothing(why) => silent.push((node, why)),
                Said::TooMuch => {
                    return Err(Status::bad_request(format!(
                        "the gateways of site {} answer with more than {} MiB: ask for one namespace, or with a selector",
                        self.name,
                        MOST_BYTES >> 20
                    )));
                }
            }
        }
        if lists.is_empty() {
            // That one does not serve it says less than that another did not want to.
            refused.sort_by_key(|(_, no)| no.status == StatusCode::NOT_FOUND);
            let not_served = |(_, no): &(Arc<str>, Refusal)| no.status == StatusCode::NOT_FOUND;
            return match refused.into_iter().next() {
                Some(first) if silent.is_empty() || !not_served(&first) => Ok(first.1.into()),
                _ => Err(Status::unavailable(format!(
                    "no gateway of site {} answers: {}",
                    self.name,
                    named(silent.iter().map(|(_, why)| &**why))
                ))),
            };
        }
        // Reading and writing this much would hold up everybody else on this thread.
        let merged = tokio::task::spawn_blocking(move || merge(&lists)).await;
        let merged = merged.map_err(|e| Status::internal(format!("the lists could not be merged: {e}")))?;
        let merged = merged.map_err(|e| match e {
            Unmergeable::TooMany => Status::bad_request(e.to_string()),
            e => Status::new(StatusCode::BAD_GATEWAY, "InternalError", e.to_string()),
        })?;
        let mut response = Response::new(full(merged));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let missing = |what: &str, names: String| {
            let text = format!("not in this list of site {}, {what}: {names}", self.name);
            warning(&text).filter(|_| !names.is_empty())
        };
        // A gateway that does not serve a kind has none of it.
        let denied = refused.iter().filter(|(_, no)| no.status != StatusCode::NOT_FOUND);
        let denied = denied.map(|(name, no)| format!("{name} ({})", no.status.as_u16()));
        let denied: Vec<String> = denied.collect();
        let warnings = [
            missing("not connected", named(self.away.iter().map(|name| &**name))),
            missing("no answer in time", named(silent.iter().map(|(name, _)| &**name))),
            missing("refused", named(denied.iter().map(String::as_str))),
        ];
        for warning in warnings.into_iter().flatten() {
            headers.append(WARNING, warning);
        }
        Ok(response)
    }

    /// The same question to all that are connected.
    fn questions(
        &self,
        target: &PathAndQuery,
        head: &HeaderMap,
        room: &Arc<AtomicUsize>,
        whole: bool,
    ) -> Vec<impl Future<Output = (Arc<Live>, Said)> + Send + use<>> {
        let question = |live: &Arc<Live>| {
            let mut request = Request::new(Empty::<Bytes>::new());
            *request.uri_mut() = target.clone().into();
            *request.headers_mut() = head.clone();
            let (live, room) = (Arc::clone(live), Arc::clone(room));
            async move {
                let said = timeout(DEADLINE, hear(&live, request, &room, whole)).await;
                let late = |_| Said::Nothing(format!("gateway {} does not answer in time", live.node));
                let said = said.unwrap_or_else(late);
                (live, said)
            }
        };
        self.connected.iter().map(question).collect()
    }
}

/// Asks one member. Where it is enough to know that the answer is a good one, its body is left with the member.
async fn hear(live: &Live, request: Request<Empty<Bytes>>, room: &AtomicUsize, whole: bool) -> Said {
    let nothing = |e: &dyn std::error::Error| Said::Nothing(format!("gateway {} does not answer: {e}", live.node));
    let answer = match tunnel::request(&live.connection, request, DEADLINE).await {
        Ok(answer) => answer,
        Err(e) => return nothing(&e),
    };
    let (head, mut body) = answer.into_parts();
    let good = head.status.is_success();
    if good && !whole {
        return Said::Yes(Bytes::new());
    }
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let piece = match frame.map(Frame::into_data) {
            Ok(Ok(piece)) => piece,
            Ok(Err(_)) => continue,
            Err(e) => return nothing(&e),
        };
        let taken = room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(piece.len())
        });
        if taken.is_err() {
            return Said::TooMuch;
        }
        read.extend_from_slice(&piece);
    }
    if good {
        return Said::Yes(read.freeze());
    }
    Said::No(Refusal {
        status: head.status,
        form: head.headers.get(CONTENT_TYPE).cloned(),
        body: read.freeze(),
    })
}

fn parsed(target: String) -> Result<PathAndQuery, Status> {
    PathAndQuery::try_from(target).map_err(|_| Status::bad_request("this cannot be asked of a gateway"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_some_and_counts_the_rest() {
        assert_eq!(named(["a", "b"].into_iter()), "a, b");
        assert_eq!(named(std::iter::empty()), "");
        let many = vec!["x"; NAMED + 2];
        assert!(named(many.into_iter()).ends_with("x and 2 more"));
    }

    #[test]
    fn a_warning_is_one_quoted_text() {
        let text = warning("not \"here\"\n: gw-1").unwrap();
        assert_eq!(text, "299 - \"not \\\"here\\\"?: gw-1\"");
    }
}
