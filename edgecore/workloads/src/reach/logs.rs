//! A container's log: from the files that the runtime writes, as long as they are there, whether the container runs, has ended, or the runtime is gone.
//!
//! What is asked for and what is refused is the API's and the kubelet's; which attempt is meant is read from the Pod's status. A reader that follows is
//! woken by the kernel and by changes of the Pod, ends with the container, and holds a few pieces of text in memory, however long the log is.

mod files;
mod line;
mod read;
mod wake;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use metastore::api::{ApiBody, Cause, Connect, Query, Status};
use metastore::store::{Event, Store, Tapped};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use self::line::{Stream, Wanted};
use self::read::{Read, Reader};
use self::wake::Wake;
use crate::cluster::{Key, PODS};

/// Pieces of a log that wait for a slow reader.
const WAITING: usize = 2;

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    follow: bool,
    previous: bool,
    tail: Option<u64>,
    wanted: Wanted,
}

impl Options {
    /// Reads `PodLogOptions` out of a query.
    fn read(query: &Query, pod: &str, now: Timestamp) -> Result<Self, Status> {
        let number = |name: &str| -> Result<Option<i64>, Status> {
            let Some(text) = query.get(name) else { return Ok(None) };
            let number = text
                .parse()
                .map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")));
            number.map(Some)
        };
        let (tail, limit, seconds) = (number("tailLines")?, number("limitBytes")?, number("sinceSeconds")?);
        let time = match query.get("sinceTime").filter(|text| !text.is_empty()) {
            Some(text) => Some(
                text.parse::<Timestamp>()
                    .map_err(|e| Status::bad_request(e.to_string()))?,
            ),
            None => None,
        };
        let mut wrong = Vec::new();
        if let Some(tail) = tail.filter(|tail| *tail < 0) {
            wrong.push(Cause::invalid(
                "tailLines",
                &tail.to_string(),
                "must be greater than or equal to 0",
            ));
        }
        if let Some(limit) = limit.filter(|limit| *limit < 1) {
            wrong.push(Cause::invalid(
                "limitBytes",
                &limit.to_string(),
                "must be greater than 0",
            ));
        }
        match seconds {
            Some(_) if time.is_some() => {
                wrong.push(Cause::forbidden(
                    "",
                    "at most one of `sinceTime` or `sinceSeconds` may be specified",
                ));
            }
            Some(seconds) if seconds < 1 => {
                wrong.push(Cause::invalid(
                    "sinceSeconds",
                    &seconds.to_string(),
                    "must be greater than 0",
                ));
            }
            _ => {}
        }
        let stream = match query.get("stream").unwrap_or("All") {
            "All" => None,
            "Stdout" => Some(Stream::Stdout),
            "Stderr" => Some(Stream::Stderr),
            other => {
                wrong.push(Cause::not_supported("stream", other, &["All", "Stderr", "Stdout"]));
                None
            }
        };
        if stream.is_some() && tail.is_some() {
            wrong.push(Cause::forbidden(
                "",
                "`tailLines` and specific `stream` are mutually exclusive for now",
            ));
        }
        if !wrong.is_empty() {
            return Err(Status::invalid("", "PodLogOptions", pod, wrong));
        }
        // As far back as there is time.
        let ago = |seconds| {
            now.checked_sub(SignedDuration::from_secs(seconds))
                .unwrap_or(Timestamp::MIN)
        };
        Ok(Self {
            follow: query.flag("follow"),
            previous: query.flag("previous"),
            tail: tail.and_then(|tail| u64::try_from(tail).ok()),
            wanted: Wanted {
                timestamps: query.flag("timestamps"),
                since: time.or_else(|| seconds.map(ago)),
                stream,
                limit: limit.and_then(|limit| u64::try_from(limit).ok()),
            },
        })
    }
}

/// What a Pod's status says about one of its containers.
#[derive(Clone, Copy, Debug)]
struct Standing<'a>(&'a Value);

impl<'a> Standing<'a> {
    fn of(pod: &'a Value, container: &str) -> Option<Self> {
        [
            "containerStatuses",
            "initContainerStatuses",
            "ephemeralContainerStatuses",
        ]
        .iter()
        .filter_map(|list| pod["status"][list].as_array())
        .flatten()
        .find(|status| status["name"] == container)
        .map(Self)
    }

    fn restarts(&self) -> u32 {
        self.0["restartCount"]
            .as_u64()
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(0)
    }

    fn state(&self, state: &str) -> bool {
        self.0["state"][state].is_object()
    }

    /// The end of the container before, or of this one while the next waits to start.
    fn ended_before(&self) -> bool {
        self.0["lastState"]["terminated"]["containerID"]
            .as_str()
            .is_some_and(|id| !id.is_empty())
    }

    /// Whether this attempt's program has ended, as far as the status knows.
    fn has_ended(&self, attempt: u32) -> bool {
        self.restarts() > attempt || !self.state("running") && (self.state("terminated") || self.ended_before())
    }

    /// The attempt whose log is meant; what a kubelet says when there can be none.
    fn attempt(&self, container: &str, pod: &str, previous: bool) -> Result<u32, Status> {
        let refuse = |text: String| Err(Status::bad_request(text));
        let waiting = !self.state("running") && !self.state("terminated");
        let restarts = self.restarts();
        if previous {
            return match self.ended_before() {
                false => refuse(format!(
                    "previous terminated container {container:?} in pod {pod:?} not found"
                )),
                true if waiting => Ok(restarts),
                true => Ok(restarts.saturating_sub(1)),
            };
        }
        if !waiting || self.ended_before() {
            return Ok(restarts);
        }
        let what = format!("container {container:?} in pod {pod:?} is waiting to start");
        match self.0["state"]["waiting"]["reason"].as_str().unwrap_or_default() {
            "ErrImagePull" => refuse(format!("{what}: image can't be pulled")),
            "ImagePullBackOff" => refuse(format!("{what}: trying and failing to pull image")),
            "" => refuse(format!("{what} - no logs yet")),
            reason => refuse(format!("{what}: {reason}")),
        }
    }
}

/// Folder of one container's log files.
fn folder(logs: &Path, pod: &Value, container: &str) -> PathBuf {
    let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
    logs.join(format!("{}_{}_{}", text("namespace"), text("name"), text("uid")))
        .join(container)
}

/// Answers a request for a container's log.
pub(super) async fn answer(
    logs: Arc<Path>,
    store: Store,
    to: Connect,
    place: OwnedSemaphorePermit,
) -> Result<Response<ApiBody>, Status> {
    let container = to.container.unwrap_or_default();
    let pod = to.object;
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let options = Options::read(&to.query, name, now())?;
    let Some(standing) = Standing::of(&pod, &container) else {
        return Err(Status::bad_request(format!(
            "container {container:?} in pod {name:?} is not available"
        )));
    };
    let attempt = standing.attempt(&container, name, options.previous)?;
    let folder = folder(&logs, &pod, &container);
    let opened = {
        let (folder, wanted) = (folder.clone(), options.wanted.clone());
        blocking(move || open(&folder, attempt, options.previous, &wanted, options.tail)).await
    };
    let (reader, attempt) = match opened {
        Ok(Some(opened)) => opened,
        // It has started a moment ago and written nothing; what comes is waited for.
        Ok(None) if options.follow && standing.state("running") => {
            return Err(Status::unavailable(format!(
                "the log of container {container:?} in pod {name:?} is not there yet"
            )));
        }
        Ok(None) => {
            return Err(Status::new(
                StatusCode::NOT_FOUND,
                "NotFound",
                format!("the log of container {container:?} in pod {name:?} is not on this machine any more"),
            ));
        }
        Err(e) => {
            return Err(Status::internal(format!(
                "the log of container {container:?} in pod {name:?}: {e}"
            )));
        }
    };
    let (pieces, body) = mpsc::channel(WAITING);
    let sending = Sending {
        reader,
        pieces,
        folder,
        store,
        pod: Key::of(&pod),
        uid: pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
        container,
        attempt,
    };
    // Ends with the log, or with the body when its reader is gone.
    tokio::spawn(async move {
        let _place = place;
        if let Err(e) = sending.run(options.follow).await {
            tracing::debug!(error = %e, "A log could not be read to its end.");
        }
    });
    let body = futures_util::stream::unfold(body, |mut body| async { Some((body.recv().await?, body)) });
    let response = Response::builder()
        .header(header::CONTENT_TYPE, "text/plain")
        .body(ApiBody::stream(body));
    response.map_err(|e| Status::internal(e.to_string()))
}

/// Opens the log that is meant: of this attempt, or of what there is instead when the status and the files are not of one moment.
fn open(
    folder: &Path,
    attempt: u32,
    previous: bool,
    wanted: &Wanted,
    tail: Option<u64>,
) -> std::io::Result<Option<(Reader, u32)>> {
    if let Some(reader) = Reader::open(folder, attempt, wanted.clone(), tail)? {
        return Ok(Some((reader, attempt)));
    }
    let there = files::attempts(folder)?;
    let other = if previous {
        there.iter().rev().find(|other| **other < attempt)
    } else {
        there.last()
    };
    let Some(other) = other.copied() else { return Ok(None) };
    Ok(Reader::open(folder, other, wanted.clone(), tail)?.map(|reader| (reader, other)))
}

/// A log on its way to its reader.
struct Sending {
    reader: Reader,
    pieces: mpsc::Sender<Bytes>,
    folder: PathBuf,
    store: Store,
    pod: Key,
    uid: String,
    container: String,
    attempt: u32,
}

impl Sending {
    async fn run(mut self, follow: bool) -> std::io::Result<()> {
        if !follow {
            self.send_rest(true).await?;
            return Ok(());
        }
        let wake = Wake::new(&self.folder);
        let mut changes = self.store.tap(is_pod);
        loop {
            // Before reading: what was written until then is read below.
            let ended = self.has_ended();
            if self.send_rest(ended).await? == Read::Full || ended {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = self.pieces.closed() => return Ok(()),
                () = wake.changed() => {}
                stopped = changed(&mut changes, &self.pod) => if stopped { return Ok(()) },
            }
        }
    }

    /// Sends what is there. A log that is `over` ends with what it has of its last line.
    async fn send_rest(&mut self, over: bool) -> std::io::Result<Read> {
        loop {
            // The reader goes to a thread that may wait for the disk, and comes back.
            let mut reader = std::mem::take(&mut self.reader);
            let (reader, out, read) = blocking(move || {
                let mut out = Vec::new();
                let mut read = reader.read(&mut out);
                // Small pieces go out together.
                while matches!(read, Ok(Read::More)) && out.is_empty() {
                    read = reader.read(&mut out);
                }
                if over && matches!(read, Ok(Read::End)) {
                    reader.finish(&mut out);
                }
                Ok((reader, out, read))
            })
            .await?;
            self.reader = reader;
            if !out.is_empty() && self.pieces.send(out.into()).await.is_err() {
                return Ok(Read::Full);
            }
            match read? {
                Read::More => {}
                end => return Ok(end),
            }
        }
    }

    /// Whether nothing more will be written, by the Pod's status.
    fn has_ended(&self) -> bool {
        let key = metastore::store::ObjectKey::new(PODS.group, PODS.plural, &*self.pod.namespace, &*self.pod.name);
        let pod = match self.store.get(&key) {
            Ok(Some(object)) => object.value().unwrap_or_default(),
            Ok(None) => return true,
            // What cannot be read now says nothing.
            Err(_) => return false,
        };
        pod["metadata"]["uid"] != *self.uid
            || Standing::of(&pod, &self.container).is_none_or(|standing| standing.has_ended(self.attempt))
    }
}

fn is_pod(event: &Event) -> bool {
    PODS.is_of(&event.object.key)
}

/// Until a Pod was changed, or all may have been. Whether the store has ended.
async fn changed(changes: &mut metastore::store::Tap, pod: &Key) -> bool {
    loop {
        match changes.next().await {
            Tapped::Event(event) => {
                let key = &event.object.key;
                if (&*key.namespace, &*key.name) == (&*pod.namespace, &*pod.name) {
                    return false;
                }
            }
            Tapped::Missed => return false,
            Tapped::Closed => return true,
        }
    }
}

fn now() -> Timestamp {
    let ms = i64::try_from(daemon::clock::wall_ms()).unwrap_or_default();
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

#[cfg(test)]
mod tests;
