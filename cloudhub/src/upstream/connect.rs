//! The way to a control plane above the hub: the client, which control plane it is, and what it needs to reach gateways through the hub.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use daemon::exit::{BAD_CONFIG, FAILED, Failure};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};

use super::clusters::{CLUSTER_NAMESPACE, Endpoint};
use super::objects::{ApiError, NAMESPACE, Objects, SECRET};

/// How long one request may take; watches are longer and end by themselves.
const READ_DEADLINE: Duration = Duration::from_secs(330);
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// How long the control plane may be away while the hub starts.
const WAIT_AT_MOST: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A control plane that answers.
pub(crate) struct Karmada {
    pub(crate) client: kube::Client,
    /// Which one it is, whatever its address: the uid of its namespace kube-system.
    pub(crate) plane: Arc<str>,
    pub(crate) endpoint: Option<Endpoint>,
    /// By which its cluster proxy is known here.
    pub(crate) token: Option<String>,
}

impl std::fmt::Debug for Karmada {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Karmada")
            .field("plane", &self.plane)
            .finish_non_exhaustive()
    }
}

/// Connects to the Karmada that a kubeconfig names, where this hub has a name. With `url`, under which Karmada reaches the hub, and the certificate to verify it by, it
/// is given what its cluster proxy needs.
///
/// # Errors
/// A kubeconfig that is none, a control plane that does not answer or does not let the hub in, with what to do about it.
pub(crate) async fn karmada(kubeconfig: &Path, hub: &str, proxy: Option<(String, &str)>) -> Result<Karmada, Failure> {
    let client = client(kubeconfig).await?;
    let objects = Objects::new(client.clone());
    let plane = plane(&objects, kubeconfig).await?;
    let (endpoint, token) = match proxy {
        Some((url, ca_pem)) => {
            let endpoint = Endpoint {
                url,
                // With what Karmada verifies the hub by, and with the token it comes with.
                secret: format!("kurator-{hub}"),
                impersonator: format!("kurator-{hub}-impersonator"),
            };
            let token = secrets(&objects, &endpoint, ca_pem).await.map_err(|e| {
                Failure::new(
                    FAILED,
                    format!("the Secrets of Karmada's cluster proxy in {CLUSTER_NAMESPACE}: {e}"),
                )
                .hint("`kurator join karmada` gives the hub what it needs; or set upstream.proxy to false")
            })?;
            (Some(endpoint), Some(token))
        }
        None => (None, None),
    };
    Ok(Karmada {
        client,
        plane,
        endpoint,
        token,
    })
}

async fn client(kubeconfig: &Path) -> Result<kube::Client, Failure> {
    let bad = |e: &dyn std::fmt::Display| {
        Failure::new(BAD_CONFIG, format!("{}: {e}", kubeconfig.display()))
            .hint("name a kubeconfig for Karmada with --kubeconfig; `kurator join karmada` makes one")
    };
    let read = kube::config::Kubeconfig::read_from(kubeconfig).map_err(|e| bad(&e))?;
    let options = kube::config::KubeConfigOptions::default();
    let mut config = kube::Config::from_custom_kubeconfig(read, &options)
        .await
        .map_err(|e| bad(&e))?;
    if config.accept_invalid_certs {
        return Err(bad(&"insecure-skip-tls-verify is set, which the hub does not do"));
    }
    config.connect_timeout = Some(CONNECT_DEADLINE);
    config.read_timeout = Some(READ_DEADLINE);
    kube::Client::try_from(config).map_err(|e| bad(&e))
}

/// Waits until the control plane answers, for a while.
async fn plane(objects: &Objects, kubeconfig: &Path) -> Result<Arc<str>, Failure> {
    let began = daemon::clock::since_start();
    loop {
        let error = match objects.get(NAMESPACE, "", "kube-system").await {
            Ok(namespace) => {
                let uid = namespace["metadata"]["uid"].as_str().unwrap_or_default();
                return Ok(Arc::from(uid));
            }
            Err(e) => e,
        };
        let failed = || Failure::new(FAILED, format!("Karmada does not answer as it should: {error}"));
        match &error {
            ApiError::Unavailable(_) if daemon::clock::since_start().saturating_sub(began) < WAIT_AT_MOST => {
                tracing::warn!(%error, kubeconfig = %kubeconfig.display(), "Karmada cannot be asked; it is tried again.");
                tokio::time::sleep(LOOK_EVERY).await;
            }
            ApiError::Refused(_) => {
                return Err(failed().hint("is this kubeconfig still good? `kurator join karmada` makes a new one"));
            }
            _ => return Err(failed().hint("is its API server running, and reachable from here?")),
        }
    }
}

/// Makes or brings up to date the two Secrets; the token in them.
async fn secrets(objects: &Objects, endpoint: &Endpoint, ca_pem: &str) -> Result<String, ApiError> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    let encoded = |text: &str| Value::from(STANDARD.encode(text));
    let there = match objects.get(SECRET, CLUSTER_NAMESPACE, &endpoint.impersonator).await {
        Ok(secret) => secret["data"]["token"].as_str().and_then(|t| STANDARD.decode(t).ok()),
        Err(ApiError::NotFound) => None,
        Err(e) => return Err(e),
    };
    let token = there
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .filter(|t| t.len() >= 32);
    let token = match token {
        Some(token) => token,
        None => {
            let mut random = [0; 32];
            let made = SystemRandom::new().fill(&mut random);
            made.map_err(|_| ApiError::Unavailable("the system gives no random numbers".to_owned()))?;
            crate::enroll::hex(&random)
        }
    };
    let data = json!({"token": encoded(&token)});
    put_secret(objects, &endpoint.impersonator, data).await?;
    let data = json!({"token": encoded(&token), "caBundle": encoded(ca_pem)});
    put_secret(objects, &endpoint.secret, data).await?;
    // Another hub may have been faster.
    let won = objects.get(SECRET, CLUSTER_NAMESPACE, &endpoint.impersonator).await?;
    let won = won["data"]["token"].as_str().and_then(|t| STANDARD.decode(t).ok());
    Ok(won.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or(token))
}

async fn put_secret(objects: &Objects, name: &str, data: Value) -> Result<(), ApiError> {
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {"name": name, "namespace": CLUSTER_NAMESPACE, "labels": {"karmada.io/system": "true"}},
        "data": data,
    });
    match objects.create(SECRET, CLUSTER_NAMESPACE, &secret).await {
        Err(ApiError::Conflict) => {
            let there = objects.get(SECRET, CLUSTER_NAMESPACE, name).await?;
            if there["data"] == secret["data"] {
                return Ok(());
            }
            let patch = json!({"data": secret["data"]});
            objects
                .merge_patch(SECRET, CLUSTER_NAMESPACE, name, &patch)
                .await
                .map(drop)
        }
        other => other.map(drop),
    }
}
