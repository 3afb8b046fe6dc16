//! What sandboxes and containers are known again by: the labels and annotations that `setup` gave them.

use std::collections::BTreeMap;

use cri::v1;

pub(super) use crate::setup::label::{
    CONTAINER_NAME, GRACE, HASH, MESSAGE_PATH, MESSAGE_POLICY, NODE, POD_NAME, POD_NAMESPACE, POD_UID,
};

/// The labels to list a node's things by, or those of one of its pods.
fn selector(node: &str, uid: Option<&str>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([(NODE.to_owned(), node.to_owned())]);
    if let Some(uid) = uid {
        labels.insert(POD_UID.to_owned(), uid.to_owned());
    }
    labels
}

/// The filters for the two lists.
pub(super) fn filters(node: &str, uid: Option<&str>) -> (v1::PodSandboxFilter, v1::ContainerFilter) {
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
