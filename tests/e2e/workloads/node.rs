//! What the Node says of containers.

use tests::gateway::{Gateway, NODE};
use tests::get;

#[tokio::test]
async fn an_agent_beside_a_runtime_starts_alone_and_with_a_hub() {
    let alone = Gateway::alone().await;
    let path = format!("/api/v1/nodes/{NODE}");
    assert!(get(&alone.at.0, &path).await.is_some());
    drop(alone);
    let gateway = Gateway::with_hub().await;
    assert!(get(&gateway.above().through.0, &path).await.is_some());
}
