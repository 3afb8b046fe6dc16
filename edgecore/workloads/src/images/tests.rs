//! Against the scripted runtime, in virtual time.

use std::time::Duration;

use cri::fake::{Act, Code, Fake, Rule};
use serde_json::{Value, json};

use super::garbage::Freed;
use super::*;
use crate::cluster::EVENTS;
use crate::pod::Pod;
use crate::setup::testing;

struct Stage {
    _dir: tempfile::TempDir,
    cluster: Cluster,
    fake: Fake,
    images: Images,
}

impl Stage {
    async fn new() -> Self {
        let (dir, cluster) = testing::cluster().await;
        let fake = Fake::start(dir.path());
        let (events, writer) = Recorder::new(cluster.clone(), "gw-1".into(), "kubelet");
        drop(tokio::spawn(writer));
        let images = Images::new(fake.client(), cluster.clone(), events);
        let stage = Self {
            _dir: dir,
            cluster,
            fake,
            images,
        };
        stage.make("Namespace", "", "plant", json!({})).await;
        stage
    }

    async fn make(&self, kind: &str, namespace: &str, name: &str, rest: Value) {
        let mut object = rest;
        object["apiVersion"] = match kind {
            "CronJob" => "batch/v1",
            _ => "v1",
        }
        .into();
        object["kind"] = kind.into();
        object["metadata"]["name"] = name.into();
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = namespace.into();
        }
        self.cluster.create(object).await.unwrap();
    }

    async fn ensure(&self, image: &str, policy: &str) -> Result<ImageRef, (&'static str, String, Option<u64>)> {
        self.ensure_for("u", image, policy).await
    }

    async fn ensure_for(
        &self,
        uid: &str,
        image: &str,
        policy: &str,
    ) -> Result<ImageRef, (&'static str, String, Option<u64>)> {
        let pod = Pod::read(
            json!({"metadata": {"name": "press", "namespace": "plant", "uid": uid}, "spec": {
            "serviceAccountName": "robot",
            "containers": [{"name": "app", "image": image, "imagePullPolicy": policy}]}}),
        )
        .unwrap();
        let found = self.images.ensure(&pod, &pod.spec.containers[0], None).await;
        found.map_err(|e| (e.reason, e.message, e.after.map(|a| a.as_secs())))
    }

    fn pulls(&self) -> usize {
        self.fake.calls().iter().filter(|c| c.name == "pull_image").count()
    }

    /// Waits for an Event.
    async fn told(&self, reason: &str, message: &str) {
        let begun = daemon::clock::now();
        while begun.elapsed() < Duration::from_secs(30) {
            let events = self.cluster.list(EVENTS, Some("plant")).unwrap();
            let so = |e: &Value| e["reason"] == reason && e["message"].as_str().unwrap().starts_with(message);
            if events.iter().any(so) {
                return;
            }
            // The store's thread writes it; meanwhile no time passes for anybody here.
            let pause = || std::thread::sleep(Duration::from_millis(1));
            tokio::task::spawn_blocking(pause).await.unwrap();
        }
        let events = self.cluster.list(EVENTS, Some("plant")).unwrap();
        let events: Vec<_> = events
            .iter()
            .map(|e| format!("{}: {}", e["reason"], e["message"]))
            .collect();
        panic!("{reason}: {message} was not told, but {events:#?}");
    }
}

fn refusal(why: &str) -> Act {
    Act::Refuse(Code::Unknown, why.to_owned())
}

#[tokio::test(start_paused = true)]
async fn images_come_as_their_policy_says() {
    let stage = Stage::new().await;
    let image = stage.ensure("q.io/app", "IfNotPresent").await.unwrap();
    assert!(
        image.id.starts_with("sha256:") && image.shown.starts_with("q.io/app:latest@"),
        "{image:?}"
    );
    assert_eq!(
        (image.user, image.user_name.as_str()),
        (Some(0), ""),
        "who says nothing runs as root"
    );
    stage.told("Pulling", "Pulling image \"q.io/app\"").await;
    stage.told("Pulled", "Successfully pulled image \"q.io/app\" in ").await;
    assert_eq!(stage.ensure("q.io/app", "IfNotPresent").await, Ok(image.clone()));
    stage
        .told("Pulled", "Container image \"q.io/app\" already present on machine")
        .await;
    assert_eq!(stage.ensure("q.io/app:latest", "Never").await, Ok(image.clone()));
    assert_eq!(stage.pulls(), 1);
    assert_eq!(stage.ensure("q.io/app", "Always").await, Ok(image));
    assert_eq!(stage.pulls(), 2);

    let never = stage.ensure("q.io/none", "Never").await.unwrap_err();
    let text = "Container image \"q.io/none\" is not present with pull policy of Never";
    assert_eq!(never, ("ErrImageNeverPull", text.to_owned(), Some(60)));
    stage.told("ErrImageNeverPull", text).await;
    stage.told("Failed", "Error: ErrImageNeverPull").await;
    let text =
        "Failed to apply default image tag \"Q\": couldn't parse image name \"Q\": repository name must be lowercase";
    assert_eq!(
        stage.ensure("Q", "Always").await.unwrap_err(),
        ("InvalidImageName", text.to_owned(), None)
    );
    stage.told("InspectFailed", text).await;
    stage.fake.rule(Rule::next("image_status", refusal("disk")));
    let broken = stage.ensure("q.io/app", "IfNotPresent").await.unwrap_err();
    assert_eq!(broken.0, "ImageInspectError");
}

#[tokio::test(start_paused = true)]
async fn a_failed_pull_waits_before_the_next_unless_the_image_comes_otherwise() {
    let stage = Stage::new().await;
    stage.fake.rule(Rule::every("pull_image", refusal("manifest unknown")));
    // Asked again soon, it says how it waits.
    let failed = ("ErrImagePull", "manifest unknown".to_owned(), Some(2));
    assert_eq!(stage.ensure("q.io/app", "IfNotPresent").await, Err(failed));
    stage
        .told("Failed", "Failed to pull image \"q.io/app\": manifest unknown")
        .await;
    stage.told("Failed", "Error: ErrImagePull").await;
    tokio::time::advance(Duration::from_secs(4)).await;
    let waiting = stage.ensure("q.io/app", "IfNotPresent").await.unwrap_err();
    let text = "Back-off pulling image \"q.io/app\": ErrImagePull: manifest unknown";
    assert_eq!((waiting.0, waiting.1.as_str()), ("ImagePullBackOff", text));
    assert!(waiting.2.is_some_and(|after| after <= 6), "{waiting:?}");
    stage.told("BackOff", "Back-off pulling image \"q.io/app\"").await;
    assert_eq!(stage.pulls(), 1);
    // Another pod has its own patience.
    assert_eq!(
        stage.ensure_for("v", "q.io/app", "Always").await.unwrap_err().0,
        "ErrImagePull"
    );
    tokio::time::advance(Duration::from_secs(7)).await;
    assert_eq!(
        stage.ensure("q.io/app", "IfNotPresent").await.unwrap_err().0,
        "ErrImagePull"
    );
    assert_eq!(stage.pulls(), 3);
    // The second wait is twice the first.
    tokio::time::advance(Duration::from_secs(15)).await;
    let waiting = stage.ensure("q.io/app", "IfNotPresent").await.unwrap_err();
    assert_eq!((waiting.0, stage.pulls()), ("ImagePullBackOff", 3));
    assert!(waiting.2.is_some_and(|after| after <= 5), "{waiting:?}");

    // Somebody imports it.
    stage.fake.image("q.io/app:latest");
    stage.ensure("q.io/app", "IfNotPresent").await.unwrap();
    stage.images.forget("v");
    stage.fake.no_rules();
    stage.ensure_for("v", "q.io/app", "Always").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_pull_of_an_image_at_a_time_and_two_in_all() {
    let stage = Stage::new().await;
    stage
        .fake
        .rule(Rule::every("pull_image", Act::Delay(Duration::from_secs(100))));
    let began = Instant::now();
    let of = |uid: &'static str, image: &'static str| stage.ensure_for(uid, image, "IfNotPresent");
    let all = tokio::join!(
        of("a", "q.io/a"),
        of("b", "q.io/a"),
        of("c", "q.io/b"),
        of("d", "q.io/c"),
        of("e", "q.io/d")
    );
    assert!(
        all.0.is_ok() && all.1.is_ok() && all.2.is_ok() && all.3.is_ok() && all.4.is_ok(),
        "{all:?}"
    );
    assert_eq!(stage.pulls(), 4);
    let took = began.elapsed().as_secs();
    assert!(
        (200..300).contains(&took),
        "four pulls in two lanes of 100 s each: {took}"
    );
    stage.told("Pulling", "Pulling image \"q.io/a\" for 30").await;
    stage.told("Pulling", "Pulling image \"q.io/a\" for 1m30").await;
}

#[tokio::test(start_paused = true)]
async fn a_gateway_without_its_line_runs_what_it_has() {
    let stage = Stage::new().await;
    stage.fake.image("q.io/app:latest");
    let offline = "failed to do request: dial tcp: lookup q.io: no such host";
    stage.fake.rule(Rule::every("pull_image", refusal(offline)));
    stage.ensure("q.io/app", "Always").await.unwrap();
    stage
        .told(
            "RegistryOutOfReach",
            "Container image \"q.io/app\" is present on machine and used as it is",
        )
        .await;
    assert_eq!(
        stage.ensure("q.io/other", "Always").await.unwrap_err().0,
        "ErrImagePull"
    );
    stage.fake.no_rules();
    stage.fake.rule(Rule::every("pull_image", refusal("401 Unauthorized")));
    assert_eq!(
        stage.ensure("q.io/app", "Always").await.unwrap_err().0,
        "ErrImagePull",
        "who is refused is refused"
    );
}

#[tokio::test(start_paused = true)]
async fn missing_pull_secrets_are_told() {
    let stage = Stage::new().await;
    let secrets = json!({"imagePullSecrets": [{"name": "registry"}]});
    stage.make("ServiceAccount", "plant", "robot", secrets).await;
    stage.ensure("q.io/app", "IfNotPresent").await.unwrap();
    let text = "Unable to retrieve some image pull secrets (registry); attempting to pull the image may not succeed.";
    stage.told("FailedToRetrieveImagePullSecret", text).await;
}

#[tokio::test(start_paused = true)]
async fn what_nobody_needs_goes_first_and_what_a_pod_needs_never() {
    let stage = Stage::new().await;
    for name in [
        "docker.io/library/of-pod:latest",
        "q.io/of-cron:1",
        "q.io/old:1",
        "q.io/older:1",
        "q.io/running:1",
    ] {
        stage.fake.image(name);
    }
    stage.make("ServiceAccount", "plant", "robot", json!({})).await;
    let pod = json!({"spec": {"nodeName": "gw-1", "serviceAccountName": "robot", "containers": [{"name": "a", "image": "of-pod"}]}});
    stage.make("Pod", "plant", "p", pod).await;
    let template =
        json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "q.io/of-cron:1"}]}});
    let cron = json!({"spec": {"schedule": "0 0 * * *", "jobTemplate": {"spec": {"template": template}}}});
    stage.make("CronJob", "plant", "c", cron).await;
    let sandbox = cri::v1::PodSandboxConfig {
        metadata: Some(cri::v1::PodSandboxMetadata::default()),
        ..cri::v1::PodSandboxConfig::default()
    };
    let id = stage.fake.plant_sandbox(sandbox.clone());
    let spec = cri::v1::ImageSpec {
        image: "q.io/running:1".to_owned(),
        ..cri::v1::ImageSpec::default()
    };
    let config = cri::v1::ContainerConfig {
        metadata: Some(cri::v1::ContainerMetadata::default()),
        image: Some(spec),
        ..cri::v1::ContainerConfig::default()
    };
    let request = cri::v1::CreateContainerRequest {
        pod_sandbox_id: id,
        config: Some(config),
        sandbox_config: Some(sandbox),
    };
    stage.fake.client().create_container(request).await.unwrap();

    assert_eq!(stage.images.collect_garbage(0, true).await.unwrap(), Freed::default());
    // Used since, a while ago.
    stage.ensure("q.io/old:1", "Never").await.unwrap();
    tokio::time::advance(Duration::from_secs(60)).await;
    stage.fake.image("q.io/new:1");
    let mut gone = Vec::new();
    let mut before = stage.tags().await;
    for (seconds, spare) in [
        (0, true),
        (0, true),
        (0, false),
        (100, true),
        (0, true),
        (100, true),
        (0, true),
    ] {
        tokio::time::advance(Duration::from_secs(seconds)).await;
        let freed = stage.images.collect_garbage(1, spare).await.unwrap();
        let after = stage.tags().await;
        let lost: Vec<_> = before.iter().filter(|t| !after.contains(t)).cloned().collect();
        assert_eq!(freed.images as usize, lost.len());
        gone.push(lost.join(" "));
        before = after;
    }
    assert_eq!(
        gone,
        ["q.io/older:1", "", "q.io/of-cron:1", "q.io/old:1", "", "q.io/new:1", ""]
    );
    assert_eq!(before, ["docker.io/library/of-pod:latest", "q.io/running:1"]);
}

impl Stage {
    async fn tags(&self) -> Vec<String> {
        let images = self.fake.client().list_images().await.unwrap();
        images.into_iter().flat_map(|i| i.repo_tags).collect()
    }
}
