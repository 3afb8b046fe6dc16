//! What makes a pod the one of its ordinal: name, labels, host name, volumes.

use metastore::api::Status;
use serde_json::{Value, json};

use super::claims::claim_name;
use super::{Round, UPDATE};
use crate::cluster::{Key, PODS};
use crate::controllers::shared::{list, name, pod_of, same_object, text};

/// Label of a pod: name of the revision that it was made of.
pub(super) const REVISION: &str = "controller-revision-hash";
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The ordinal of a pod, if its name is that of a pod of the set.
pub(super) fn ordinal(set: &Value, pod: &Value) -> Option<i64> {
    let digits = name(pod).strip_prefix(name(set))?.strip_prefix('-')?;
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let ordinal: i32 = digits.parse().ok().filter(|_| plain)?;
    Some(i64::from(ordinal))
}

/// The pod of an ordinal, to be made of a template.
pub(super) fn new_pod(set: &Value, template: &Value, revision: &str, ordinal: i64) -> Value {
    let named = format!("{}-{ordinal}", name(set));
    let mut pod = pod_of(set, template);
    pod["metadata"]["name"] = named.as_str().into();
    // Of no use beside a name, but there elsewhere too.
    pod["metadata"]["generateName"] = format!("{}-", name(set)).into();
    set_labels(&mut pod, &named, ordinal);
    pod["metadata"]["labels"][REVISION] = revision.into();
    pod["spec"]["hostname"] = named.as_str().into();
    pod["spec"]["subdomain"] = text(set, "/spec/serviceName").into();
    let templates = list(set, "/spec/volumeClaimTemplates");
    if !templates.is_empty() {
        let mut volumes: Vec<Value> = templates
            .iter()
            .map(|claim| {
                let named = claim_name(set, claim, ordinal);
                json!({"name": name(claim), "persistentVolumeClaim": {"claimName": named}})
            })
            .collect();
        let others = list(&pod, "/spec/volumes").iter();
        volumes.extend(
            others
                .filter(|v| !templates.iter().any(|t| v["name"] == name(t)))
                .cloned(),
        );
        pod["spec"]["volumes"] = volumes.into();
    }
    pod
}

fn set_labels(pod: &mut Value, named: &str, ordinal: i64) {
    pod["metadata"]["labels"][POD_NAME] = named.into();
    pod["metadata"]["labels"][POD_INDEX] = ordinal.to_string().into();
}

impl Round<'_> {
    /// Gives a pod back the labels of its ordinal, where somebody took them away.
    pub(super) async fn keep_identity(&mut self, at: usize) -> Result<(), Status> {
        let pod = &self.slots[at].pod;
        let named = name(pod).to_owned();
        let Some(ordinal) = ordinal(&self.set, pod).filter(|_| pod["metadata"]["labels"][POD_NAME] != *named) else {
            return Ok(());
        };
        let key = Key::of(pod);
        let changed = self.cluster.modify(PODS, &key, |current| {
            same_object(PODS, pod, current)?;
            set_labels(current, &named, ordinal);
            Ok(())
        });
        let changed = changed.await;
        self.tell(&UPDATE, &named, changed.as_ref().err());
        self.slots[at].pod = changed?;
        Ok(())
    }
}
