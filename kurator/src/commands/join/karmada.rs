//! `kurator join karmada`: looks whether a Karmada control plane can work with a hub, gives the hub an account there that may do what a hub
//! does and nothing else, and writes the kubeconfig that the hub starts with.
//!
//! Everything is asked for before anything is written, and everything can be done again: what is there as it should be stays untouched.
//! With `--dry-run` the control plane itself judges every write and keeps none.

mod account;
mod checks;
mod kubeconfig;

use std::path::PathBuf;
use std::time::Duration;

use daemon::exit::{BAD_CONFIG, FAILED, Failure, NOT_ALLOWED};
use http::{Method, StatusCode};
use serde_json::Value;

use self::account::{Account, Object};
use crate::cli::{Global, JoinKarmadaArgs};
use crate::client::{self, Api};
use crate::say;

/// Where Karmada's own installer leaves the administrator's kubeconfig.
const INSTALLED: &str = "/etc/karmada/karmada-apiserver.config";
/// How long the control plane may take to make a token, and then to let it in.
const TOKEN_DEADLINE: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Whoever writes is named in an object's managed fields.
const MANAGER: &str = "kurator";

pub(crate) async fn run(global: &Global, arguments: JoinKarmadaArgs) -> Result<(), Failure> {
    let admin = administrator(global)?;
    let config = client::configuration(&admin, arguments.context.as_deref()).await?;
    if config.accept_invalid_certs {
        return Err(Failure::new(
            BAD_CONFIG,
            format!("{}: insecure-skip-tls-verify is set", admin.display()),
        )
        .hint("put Karmada's CA in as certificate-authority-data: a hub must know whom it gives its credential to"));
    }
    if config.cluster_url.scheme_str() != Some("https") {
        return Err(Failure::new(
            BAD_CONFIG,
            format!("{}: {} is not https", admin.display(), config.cluster_url),
        )
        .hint("a credential is not sent in the clear; name the API server's https address"));
    }
    let account = Account {
        hub: &arguments.hub,
        proxy: !arguments.no_proxy,
    };
    let out = arguments
        .hub_kubeconfig
        .unwrap_or_else(|| PathBuf::from(format!("{}.kubeconfig", account.name())));
    let place = kubeconfig::Place::new(&out, &admin, &account.name())?;
    let api = Api::with(config.clone()).map_err(|e| Failure::new(BAD_CONFIG, format!("{}: {e}", admin.display())))?;

    checks::look(&api).await?;
    let writer = Writer {
        api: &api,
        dry_run: arguments.dry_run,
    };
    for object in account.objects() {
        writer.ensure(&object).await?;
    }
    if arguments.dry_run {
        told("would write", &out.display().to_string());
        return Ok(());
    }
    let token = token(&api, &account).await?;
    let text = kubeconfig::text(&config, &account.name(), &token)?;
    proven(&text, &account.name()).await?;
    told(place.put(&text)?, &out.display().to_string());
    say::remark(&format!(
        "start the hub with: cloudhub --upstream karmada --kubeconfig {}",
        out.display()
    ));
    Ok(())
}

/// One line of what was found or done.
fn told(word: &str, what: &str) {
    say::line(&format!("{word:<13}{what}"));
}

/// The administrator's kubeconfig. That of this machine's hub or gateway, which other commands take, is never Karmada's.
fn administrator(global: &Global) -> Result<PathBuf, Failure> {
    if let Some(path) = client::named(global.kubeconfig.as_deref())? {
        return Ok(path);
    }
    let installed = PathBuf::from(INSTALLED);
    if installed.exists() {
        return Ok(installed);
    }
    Err(Failure::new(BAD_CONFIG, "no kubeconfig of Karmada's administrator")
        .hint(format!("name it with --kubeconfig; karmadactl init writes {INSTALLED}")))
}

/// Brings objects to what they should be.
struct Writer<'a> {
    api: &'a Api,
    dry_run: bool,
}

impl Writer<'_> {
    /// The path of a write, which the control plane may have to only judge.
    fn write(&self, path: &str) -> String {
        let dry_run = if self.dry_run { "&dryRun=All" } else { "" };
        format!("{path}?fieldManager={MANAGER}{dry_run}")
    }

    async fn ensure(&self, object: &Object) -> Result<(), Failure> {
        let path = object.path();
        let done = match self.api.try_json(Method::GET, &path, None).await? {
            Ok(there) => self.update(object, &there).await?,
            Err(refusal) if refusal.status == StatusCode::NOT_FOUND => self.create(object).await?,
            Err(refusal) => return Err(refusal.into()),
        };
        told(done, &object.label());
        Ok(())
    }

    async fn create(&self, object: &Object) -> Result<&'static str, Failure> {
        let path = self.write(&object.collection());
        let word = if self.dry_run { "would create" } else { "created" };
        match self.api.try_json(Method::POST, &path, Some(&object.value)).await? {
            Ok(_) => Ok(word),
            // Its namespace would be there by now, had it not been judged only.
            Err(refusal) if self.dry_run && refusal.status == StatusCode::NOT_FOUND => Ok(word),
            // Somebody was faster.
            Err(refusal) if refusal.reason == "AlreadyExists" => {
                let there = self.api.get(&object.path()).await?;
                self.update(object, &there).await
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    async fn update(&self, object: &Object, there: &Value) -> Result<&'static str, Failure> {
        let Some(patch) = object.change(there)? else {
            return Ok("unchanged");
        };
        let body = serde_json::to_vec(&patch).expect("a JSON value can always be written");
        let headers = [
            ("accept", "application/json"),
            ("content-type", "application/merge-patch+json"),
        ];
        let path = self.write(&object.path());
        let answer = self.api.call(Method::PATCH, &path, &headers, Some(body)).await?;
        answer.map_err(Failure::from)?;
        Ok(if self.dry_run { "would update" } else { "updated" })
    }
}

/// The token that Karmada's kube-controller-manager puts into the account's Secret.
async fn token(api: &Api, account: &Account<'_>) -> Result<String, Failure> {
    let path = account.token_path();
    let began = daemon::clock::since_start();
    loop {
        let secret = api.get(&path).await?;
        if let Some(token) = account::token(&secret) {
            return Ok(token);
        }
        if daemon::clock::since_start().saturating_sub(began) > TOKEN_DEADLINE {
            return Err(Failure::new(
                FAILED,
                format!("Karmada has put no token into {path} for {} s", TOKEN_DEADLINE.as_secs()),
            )
            .hint(
                "is its kube-controller-manager running, with serviceaccount-token among its --controllers? then run this again",
            ));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whether the credential opens what a hub asks for first. What was just written may take a moment to be known everywhere.
async fn proven(kubeconfig: &str, name: &str) -> Result<(), Failure> {
    let api = kubeconfig::open(kubeconfig).await?;
    let began = daemon::clock::since_start();
    for path in [
        "/api/v1/namespaces/kube-system",
        "/apis/cluster.karmada.io/v1alpha1/clusters?limit=1",
        "/apis/work.karmada.io/v1alpha1/works?limit=1",
        "/apis/coordination.k8s.io/v1/namespaces/karmada-cluster/leases/kurator",
    ] {
        loop {
            let refusal = match api.try_json(Method::GET, path, None).await? {
                Ok(_) => break,
                // That it may be asked for is all that matters.
                Err(refusal) if refusal.status == StatusCode::NOT_FOUND => break,
                Err(refusal) => refusal,
            };
            if daemon::clock::since_start().saturating_sub(began) > TOKEN_DEADLINE {
                return Err(
                    Failure::new(NOT_ALLOWED, format!("{name} is still not let in: {}", refusal.message)).hint(
                        "does Karmada's API server authorize by RBAC, and does it take service accounts' tokens?",
                    ),
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    told("ok", &format!("{name} is let in"));
    Ok(())
}
