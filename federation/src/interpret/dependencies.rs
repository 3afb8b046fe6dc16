//! What an object needs beside it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::kind::Kind;
use super::look::{list, text};

/// An object by its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// Group and version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Namespace; empty for what is in none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// Kinds of volumes with a secret in them, and where its name is.
const SECRETS_OF_VOLUMES: [&str; 10] = [
    "/azureFile/secretName",
    "/cephfs/secretRef/name",
    "/cinder/secretRef/name",
    "/csi/nodePublishSecretRef/name",
    "/flexVolume/secretRef/name",
    "/iscsi/secretRef/name",
    "/rbd/secretRef/name",
    "/scaleIO/secretRef/name",
    "/secret/secretName",
    "/storageos/secretRef/name",
];

/// The ConfigMaps, Secrets, ServiceAccounts and claims that an object's pods name, the certificates of an Ingress, the Service behind a
/// ServiceImport: each once, in order. Not the account that every namespace has, and not the claims that a StatefulSet makes itself.
pub fn dependencies(object: &Value) -> Vec<ObjectRef> {
    let Some(kind) = Kind::of(object) else {
        return Vec::new();
    };
    let mut found = Found::default();
    if let Some(pod) = kind.pod_spec(object) {
        found.pod(pod);
    }
    match kind {
        Kind::StatefulSet => {
            let own = list(object, "/spec/volumeClaimTemplates").iter();
            let own: BTreeSet<&str> = own.map(|claim| text(claim, "/metadata/name")).collect();
            found
                .0
                .retain(|(kind, name)| *kind != CLAIM || !own.contains(name.as_str()));
        }
        Kind::Ingress => {
            for tls in list(object, "/spec/tls") {
                found.add("Secret", tls, "/secretName");
            }
        }
        Kind::ServiceImport => {
            let name = text(object, "/metadata/name");
            if !name.is_empty() {
                found.0.insert(("Service", format!("derived-{name}")));
            }
        }
        _ => {}
    }
    let namespace = text(object, "/metadata/namespace");
    let reference = |(kind, name): (&str, String)| ObjectRef {
        api_version: "v1".to_owned(),
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name,
    };
    found.0.into_iter().map(reference).collect()
}

const CLAIM: &str = "PersistentVolumeClaim";

/// Kinds and names.
#[derive(Default)]
struct Found(BTreeSet<(&'static str, String)>);

impl Found {
    fn add(&mut self, kind: &'static str, value: &Value, pointer: &str) {
        let name = text(value, pointer);
        if !name.is_empty() {
            self.0.insert((kind, name.to_owned()));
        }
    }

    fn pod(&mut self, pod: &Value) {
        if text(pod, "/serviceAccountName") != "default" {
            self.add("ServiceAccount", pod, "/serviceAccountName");
        }
        for secret in list(pod, "/imagePullSecrets") {
            self.add("Secret", secret, "/name");
        }
        for container in ["/containers", "/initContainers", "/ephemeralContainers"]
            .into_iter()
            .flat_map(|containers| list(pod, containers))
        {
            for from in list(container, "/envFrom") {
                self.add("ConfigMap", from, "/configMapRef/name");
                self.add("Secret", from, "/secretRef/name");
            }
            for variable in list(container, "/env") {
                self.add("ConfigMap", variable, "/valueFrom/configMapKeyRef/name");
                self.add("Secret", variable, "/valueFrom/secretKeyRef/name");
            }
        }
        for volume in list(pod, "/volumes") {
            self.volume(volume);
        }
    }

    fn volume(&mut self, volume: &Value) {
        self.add("ConfigMap", volume, "/configMap/name");
        self.add(CLAIM, volume, "/persistentVolumeClaim/claimName");
        for pointer in SECRETS_OF_VOLUMES {
            self.add("Secret", volume, pointer);
        }
        for source in list(volume, "/projected/sources") {
            self.add("ConfigMap", source, "/configMap/name");
            self.add("Secret", source, "/secret/name");
        }
    }
}
