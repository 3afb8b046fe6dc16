//! Bringing an image: as the policy says, one pull of an image at a time, later and later after failures, and told as it goes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cri::v1::{Image, ImageSpec, ImageStatusRequest, PodSandboxConfig, PullImageRequest};
use cri::{CriError, Runtime};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::keyring::Keyring;
use super::reference::spoken;
use super::{ImageError, ImageRef, Images, Reference};
use crate::cluster::{Cluster, Key, Kind, SECRETS};
use crate::events::{Recorder, Tone};
use crate::pod::{Container, Pod};

const ACCOUNTS: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ServiceAccount",
    plural: "serviceaccounts",
};
/// Pulls at a time: more would only make each slower on a gateway's line.
const PARALLEL: usize = 2;
/// How long after a failed pull the next is tried: at first, and at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));
/// Failures older than this count no more.
const FORGET: Duration = Duration::from_secs(600);
/// An image may come by another way, such as an import: that is looked for this often.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// How long a failed pull is shown as such, before it is shown as a wait for the next.
const SHOWN: Duration = Duration::from_secs(2);
/// Progress is told after this time, then after twice as long each time.
const PROGRESS: Duration = Duration::from_secs(30);
/// Failures that are remembered.
const MAX_FAILURES: usize = 1024;

/// What is known of pulls.
#[derive(Debug)]
pub(super) struct Pulls {
    slots: Semaphore,
    /// By image: one pulls, the others wait for it.
    turns: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// By pod (uid) and image.
    failures: Mutex<BTreeMap<(String, String), Failure>>,
}

#[derive(Clone, Debug)]
struct Failure {
    /// When it is tried again.
    next: Instant,
    /// How long that was from the failure.
    delay: Duration,
    /// What it was.
    text: String,
}

impl Default for Pulls {
    fn default() -> Self {
        Self {
            slots: Semaphore::new(PARALLEL),
            turns: Mutex::default(),
            failures: Mutex::default(),
        }
    }
}

impl Pulls {
    fn turn(&self, image: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(image.to_owned()).or_default())
    }

    fn failure(&self, uid: &str, image: &str) -> Option<Failure> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.get(&(uid.to_owned(), image.to_owned())).cloned()
    }

    /// Notes a failure. When to try again.
    fn failed(&self, uid: &str, image: &str, text: String) -> Duration {
        let now = Instant::now();
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.retain(|_, f| now < f.next + FORGET);
        while failures.len() >= MAX_FAILURES {
            failures.pop_first();
        }
        let key = (uid.to_owned(), image.to_owned());
        let delay = failures.get(&key).map_or(BACK_OFF.0, |f| (f.delay * 2).min(BACK_OFF.1));
        let next = now + delay;
        failures.insert(key, Failure { next, delay, text });
        delay
    }

    fn succeeded(&self, uid: &str, image: &str) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.remove(&(uid.to_owned(), image.to_owned()));
    }

    pub(super) fn forget(&self, uid: &str) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.retain(|(of, _), _| of != uid);
    }
}

/// For whom an image is brought, and whom that is told.
struct Told<'a> {
    events: &'a Recorder,
    about: Value,
    field: String,
}

impl<'a> Told<'a> {
    fn new(events: &'a Recorder, pod: &Pod, container: &Container) -> Self {
        let meta = &pod.metadata;
        let has = |list: &[Container]| list.iter().any(|c| c.name == container.name);
        let list = if has(&pod.spec.init_containers) {
            "initContainers"
        } else if has(&pod.spec.ephemeral_containers) {
            "ephemeralContainers"
        } else {
            "containers"
        };
        Self {
            events,
            about: json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid}}),
            field: format!("spec.{list}{{{}}}", container.name),
        }
    }

    fn tell(&self, tone: Tone, reason: &'static str, message: impl Into<String>) {
        self.events.tell_field(&self.about, &self.field, tone, reason, message);
    }

    /// A failure as it is told and as the waiting container's status has it.
    fn error(&self, reason: &'static str, message: String, after: Option<Duration>) -> ImageError {
        self.tell(Tone::Warning, "Failed", format!("Error: {reason}"));
        ImageError { reason, message, after }
    }
}

impl Images {
    /// Makes the image of a container be on the machine, as its policy says. `sandbox`: the pod's, by which a runtime may choose.
    ///
    /// # Errors
    /// With the waiting container's reason, and when to try again. All of it is told in Events.
    pub(crate) async fn ensure(
        &self,
        pod: &Pod,
        container: &Container,
        sandbox: Option<&PodSandboxConfig>,
    ) -> Result<ImageRef, ImageError> {
        let said = container.image.as_str();
        let told = Told::new(&self.events, pod, container);
        let (name, reference) = spoken(said).map_err(|why| {
            let text = format!("Failed to apply default image tag {said:?}: couldn't parse image name {said:?}: {why}");
            told.tell(Tone::Warning, "InspectFailed", text.as_str());
            told.error("InvalidImageName", text, None)
        })?;
        let policy = container.image_pull_policy.as_str();
        if policy != "Always"
            && let Some(image) = self.present(pod, &name, said, &told).await?
        {
            return Ok(image);
        }
        let turn = self.pulls.turn(&name);
        let _mine = turn.lock().await;
        // Who waited finds what the one before brought, or is itself the next to try.
        if policy != "Always" {
            if let Some(image) = self.present(pod, &name, said, &told).await? {
                return Ok(image);
            }
            if policy == "Never" {
                let text = format!("Container image {said:?} is not present with pull policy of Never");
                told.tell(Tone::Warning, "ErrImageNeverPull", text.as_str());
                return Err(told.error("ErrImageNeverPull", text, Some(LOOK_AGAIN)));
            }
        }
        let now = Instant::now();
        if let Some(failure) = self.pulls.failure(pod.uid(), &name).filter(|f| now < f.next) {
            let text = format!("Back-off pulling image {said:?}");
            told.tell(Tone::Normal, "BackOff", text.as_str());
            let after = (failure.next - now).min(LOOK_AGAIN);
            return Err(told.error("ImagePullBackOff", format!("{text}: {}", failure.text), Some(after)));
        }
        self.pull(pod, (name, &reference), said, sandbox, &told).await
    }

    /// The image if it is on the machine already.
    async fn present(
        &self,
        pod: &Pod,
        name: &str,
        said: &str,
        told: &Told<'_>,
    ) -> Result<Option<ImageRef>, ImageError> {
        let found = self.find(name).await.map_err(|e| {
            let text = format!("Failed to inspect image {said:?}: {e}");
            told.tell(Tone::Warning, "InspectFailed", text.as_str());
            told.error("ImageInspectError", text, None)
        })?;
        let Some(image) = found else { return Ok(None) };
        told.tell(
            Tone::Normal,
            "Pulled",
            format!("Container image {said:?} already present on machine"),
        );
        self.pulls.succeeded(pod.uid(), name);
        Ok(Some(self.used(&image)))
    }

    async fn pull(
        &self,
        pod: &Pod,
        (name, reference): (String, &Reference),
        said: &str,
        sandbox: Option<&PodSandboxConfig>,
        told: &Told<'_>,
    ) -> Result<ImageRef, ImageError> {
        let keyring = self.keyring(pod, told);
        told.tell(Tone::Normal, "Pulling", format!("Pulling image {said:?}"));
        let asked = Instant::now();
        let slot = self.pulls.slots.acquire().await;
        let began = Instant::now();
        let spec = ImageSpec {
            image: name.clone(),
            user_specified_image: said.to_owned(),
            annotations: pod.metadata.annotations.clone(),
            ..ImageSpec::default()
        };
        let mut auths: Vec<_> = keyring.for_image(reference).into_iter().map(Some).collect();
        if auths.is_empty() {
            auths.push(None);
        }
        let mut outcome = Ok(String::new());
        for auth in auths {
            let request = PullImageRequest {
                image: Some(spec.clone()),
                auth,
                sandbox_config: sandbox.cloned(),
            };
            let pulled = tell_progress(&self.runtime, told, said, self.runtime.pull_image(request)).await;
            outcome = pulled.map(|answer| answer.image_ref);
            if outcome.is_ok() {
                break;
            }
        }
        drop(slot);
        let found = match outcome {
            Ok(id) => match self.find(&id).await {
                Ok(Some(image)) => Ok(image),
                Ok(None) => Err(format!("the runtime pulled {id:?} and does not have it")),
                Err(e) => Err(e.to_string()),
            },
            Err(e) => Err(e.to_string()),
        };
        match found {
            Ok(image) => {
                self.pulls.succeeded(pod.uid(), &name);
                told.tell(
                    Tone::Normal,
                    "Pulled",
                    format!(
                        "Successfully pulled image {said:?} in {} ({} including waiting). Image size: {} bytes.",
                        shown(began.elapsed()),
                        shown(asked.elapsed()),
                        image.size
                    ),
                );
                Ok(self.used(&image))
            }
            Err(why) => {
                // A gateway that starts without its line runs what it has: the registry did not say no.
                if is_out_of_reach(&why)
                    && let Ok(Some(image)) = self.find(&name).await
                {
                    let text = format!("Container image {said:?} is present on machine and used as it is: {why}");
                    told.tell(Tone::Warning, "RegistryOutOfReach", text);
                    return Ok(self.used(&image));
                }
                told.tell(Tone::Warning, "Failed", format!("Failed to pull image {said:?}: {why}"));
                let (reason, text) = told_apart(said, &why);
                let after = self.pulls.failed(pod.uid(), &name, format!("{reason}: {text}"));
                // Asked again before that, it says how it waits.
                Err(told.error(reason, text, Some(after.min(SHOWN))))
            }
        }
    }

    /// An image by any of its names.
    async fn find(&self, name: &str) -> Result<Option<Image>, CriError> {
        let spec = ImageSpec {
            image: name.to_owned(),
            ..ImageSpec::default()
        };
        let request = ImageStatusRequest {
            image: Some(spec),
            verbose: false,
        };
        Ok(self.runtime.image_status(request).await?.image)
    }

    /// The credentials of a pod: its pull secrets, or its ServiceAccount's where it has none.
    fn keyring(&self, pod: &Pod, told: &Told<'_>) -> Keyring {
        let namespace = pod.metadata.namespace.as_str();
        let mut names: Vec<String> = pod.spec.image_pull_secrets.iter().map(|s| s.name.clone()).collect();
        if names.is_empty() {
            names = of_account(&self.cluster, pod);
        }
        let mut keyring = Keyring::default();
        let mut missing = Vec::new();
        for name in names {
            match self.cluster.get(SECRETS, &Key::new(namespace, name.as_str())) {
                Ok(Some(secret)) => drop(keyring.add(&secret)),
                _ => missing.push(name),
            }
        }
        if !missing.is_empty() {
            let text = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            told.events
                .tell(&told.about, Tone::Warning, "FailedToRetrieveImagePullSecret", text);
        }
        keyring
    }
}

fn of_account(cluster: &Cluster, pod: &Pod) -> Vec<String> {
    let key = Key::new(pod.metadata.namespace.as_str(), pod.spec.service_account_name.as_str());
    let account = cluster.get(ACCOUNTS, &key).ok().flatten().unwrap_or_default();
    let secrets = account["imagePullSecrets"].as_array().into_iter().flatten();
    secrets.filter_map(|s| s["name"].as_str()).map(str::to_owned).collect()
}

/// Waits for a pull, and tells now and then that it still goes on and what came.
async fn tell_progress<T>(
    runtime: &Runtime,
    told: &Told<'_>,
    said: &str,
    pull: impl Future<Output = Result<T, CriError>>,
) -> Result<T, CriError> {
    let began = Instant::now();
    let mut pull = std::pin::pin!(pull);
    let mut wait = PROGRESS;
    let mut before = None;
    loop {
        tokio::select! {
            biased;
            done = &mut pull => return done,
            () = tokio::time::sleep(wait) => {}
        }
        wait *= 2;
        let used = used(runtime).await;
        let came = match (before, used) {
            (Some(before), Some(used)) => format!(", {} MiB more unpacked", (used.saturating_sub(before)) >> 20),
            _ => String::new(),
        };
        before = used;
        let text = format!("Pulling image {said:?} for {} now{came}", shown(began.elapsed()));
        told.tell(Tone::Normal, "Pulling", text);
    }
}

/// Bytes that images take.
async fn used(runtime: &Runtime) -> Option<u64> {
    let answer = runtime.image_fs_info(cri::v1::ImageFsInfoRequest {}).await.ok()?;
    let used = answer.image_filesystems.iter().filter_map(|f| f.used_bytes);
    Some(used.map(|v| v.value).sum())
}

/// Whether a pull failed because nobody answered, and not because somebody refused.
fn is_out_of_reach(why: &str) -> bool {
    const NOBODY: [&str; 9] = [
        "RegistryUnavailable",
        "no such host",
        "connection refused",
        "network is unreachable",
        "no route to host",
        "i/o timeout",
        "TLS handshake timeout",
        "server misbehaving",
        "failure in name resolution",
    ];
    NOBODY.iter().any(|text| why.contains(text))
}

/// A failed pull's reason, and its text.
fn told_apart(image: &str, why: &str) -> (&'static str, String) {
    for (reason, what) in [
        ("RegistryUnavailable", "the registry is unavailable"),
        ("SignatureValidationFailed", "the signature validation failed"),
    ] {
        if let Some(rest) = why.strip_prefix(reason) {
            return (reason, format!("image pull failed for {image} because {what}{rest}"));
        }
    }
    ("ErrImagePull", why.to_owned())
}

/// `1m2.5s`, as times are written there.
fn shown(time: Duration) -> String {
    let ms = time.as_millis();
    if ms < 1000 {
        return if ms == 0 { "0s".to_owned() } else { format!("{ms}ms") };
    }
    let (minutes, rest) = (ms / 60_000, ms % 60_000);
    let fraction = format!("{:03}", rest % 1000);
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    let seconds = format!("{}{point}{fraction}s", rest / 1000);
    match (minutes / 60, minutes % 60) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_they_are_written_there() {
        for (ms, text) in [
            (0, "0s"),
            (7, "7ms"),
            (1000, "1s"),
            (1050, "1.05s"),
            (62_500, "1m2.5s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(shown(Duration::from_millis(ms)), text);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_and_longer_and_are_forgotten() {
        let pulls = Pulls::default();
        let fail = || pulls.failed("u", "i", "why".to_owned()).as_secs();
        assert_eq!(
            [fail(), fail(), fail(), fail(), fail(), fail(), fail()],
            [10, 20, 40, 80, 160, 300, 300]
        );
        assert!(pulls.failure("u", "i").is_some() && pulls.failure("v", "i").is_none());
        tokio::time::advance(Duration::from_secs(901)).await;
        assert_eq!(fail(), 10);
        pulls.succeeded("u", "i");
        assert!(pulls.failure("u", "i").is_none());
        for n in 0..2000 {
            pulls.failed(&format!("{n}"), "i", String::new());
        }
        assert!(pulls.failures.lock().unwrap().len() <= MAX_FAILURES);
        pulls.forget("1999");
        assert!(pulls.failure("1999", "i").is_none());
    }

    #[test]
    fn reasons_that_a_runtime_tells() {
        assert_eq!(
            told_apart("x", "RegistryUnavailable: no route"),
            (
                "RegistryUnavailable",
                "image pull failed for x because the registry is unavailable: no route".to_owned()
            )
        );
        assert_eq!(told_apart("x", "404"), ("ErrImagePull", "404".to_owned()));
    }
}
