//! Images from a registry: with a password, once for all who want it, with words on how far it is.

use serde_json::json;
use tests::eventually;
use tests::gateway::Gateway;
use tests::objects::{idle, pod};
use tests::registry::Registry;

#[tokio::test]
async fn images_are_pulled_once_and_with_the_secrets_that_pods_and_accounts_name() {
    let gateway = Gateway::alone().await;
    let at = &gateway.at;
    let registry = Registry::start(true).await;
    let image = registry.image("line/press");
    at.create(&registry.secret("door")).await;
    let wants = |name: &str| {
        let mut container = idle();
        container["image"] = json!(image);
        pod(name, container)
    };
    at.create(&wants("stranger")).await;
    let told = at.until_event("stranger", "Failed").await;
    assert!(
        told.starts_with(&format!("Failed to pull image \"{image}\"")) && told.contains("401"),
        "{told}"
    );

    let mut known = wants("known");
    known["spec"]["imagePullSecrets"] = json!([{"name": "door"}]);
    at.create(&known).await;
    at.create(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}, "imagePullSecrets": [{"name": "door"}]}))
        .await;
    let mut account = wants("account");
    account["spec"]["serviceAccountName"] = json!("robot");
    at.create(&account).await;
    // One of them pulls, the other waits for it.
    eventually("the layer to be asked for", async || {
        (registry.layers() > 0).then_some(())
    })
    .await;
    registry.allow(10_000);
    at.until_ready("known", 1).await;
    at.until_ready("account", 1).await;
    assert_eq!(registry.layers(), 1, "one pull for both");
    let events = [at.events("known").await, at.events("account").await].concat();
    let told = |reason: &str, text: &str| {
        events
            .iter()
            .any(|(r, message)| r == reason && message.starts_with(text))
    };
    assert!(told("Pulling", &format!("Pulling image \"{image}\"")), "{events:?}");
    assert!(
        told("Pulled", &format!("Successfully pulled image \"{image}\" in ")),
        "{events:?}"
    );

    // It is here now, and needs no password.
    at.until_ready("stranger", 1).await;
    assert_eq!(registry.layers(), 1);
}
