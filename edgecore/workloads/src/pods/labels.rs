//! What sandboxes and containers carry so that they are known again: the kubelet's labels and annotations, and whose node they belong to.

use std::collections::BTreeMap;

use cri::v1;

use crate::pod::{Container, Pod};

/// The pod's name.
pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
/// The pod's namespace.
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// The pod's uid.
pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
/// The container's name.
pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// The node: what does not carry this label is somebody else's.
pub(crate) const NODE: &str = "dev.kurator.node";
/// Annotation: a hash of what the container was made from.
pub(crate) const HASH: &str = "io.kubernetes.container.hash";
/// Annotation: how often the container had been started before.
pub(crate) const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Annotation: where in the container its last words are.
pub(crate) const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// Annotation: `File` or `FallbackToLogsOnError`.
pub(crate) const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Annotation: seconds.
pub(crate) const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// Labels of a pod's sandbox: its own and those above.
pub(crate) fn of_sandbox(pod: &Pod, node: &str) -> BTreeMap<String, String> {
    let mut labels = pod.metadata.labels.clone();
    labels.extend(ours(pod, node));
    labels
}

/// Labels of a container.
pub(crate) fn of_container(pod: &Pod, container: &str, node: &str) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<_, _> = ours(pod, node).into_iter().collect();
    labels.insert(CONTAINER_NAME.to_owned(), container.to_owned());
    labels
}

/// Annotations of a container.
pub(crate) fn annotations(pod: &Pod, container: &Container, attempt: u32) -> BTreeMap<String, String> {
    let grace = pod.spec.termination_grace_period_seconds.unwrap_or(30);
    [
        (
            HASH,
            format!("{:08x}", crate::time::fingerprint(&(&container.name, &container.image))),
        ),
        (RESTART_COUNT, attempt.to_string()),
        (MESSAGE_PATH, container.termination_message_path.clone()),
        (MESSAGE_POLICY, container.termination_message_policy.clone()),
        (GRACE, grace.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

fn ours(pod: &Pod, node: &str) -> [(String, String); 4] {
    [
        (POD_NAME, pod.metadata.name.as_str()),
        (POD_NAMESPACE, pod.metadata.namespace.as_str()),
        (POD_UID, pod.uid()),
        (NODE, node),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
}

/// The labels to list a node's things by, or those of one of its pods.
pub(crate) fn selector(node: &str, uid: Option<&str>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([(NODE.to_owned(), node.to_owned())]);
    if let Some(uid) = uid {
        labels.insert(POD_UID.to_owned(), uid.to_owned());
    }
    labels
}

/// The filters for the two lists.
pub(crate) fn filters(node: &str, uid: Option<&str>) -> (v1::PodSandboxFilter, v1::ContainerFilter) {
    let label_selector = selector(node, uid);
    let sandboxes = v1::PodSandboxFilter {
        label_selector: label_selector.clone(),
        ..v1::PodSandboxFilter::default()
    };
    let containers = v1::ContainerFilter {
        label_selector,
        ..v1::ContainerFilter::default()
    };
    (sandboxes, containers)
}
