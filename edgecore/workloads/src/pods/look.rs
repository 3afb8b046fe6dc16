//! Looking at what the runtime has of one pod: all of it by label, or one container; full statuses only of what changed.

use cri::{CriError, v1};

use super::observed::{Observed, Sandbox, Seen, State};
use super::{Shared, labels};

/// Brings everything up to date. Nothing is changed when an answer is missing.
///
/// # Errors
/// [`CriError`] of the first call that failed.
pub(super) async fn all(shared: &Shared, uid: &str, known: &Observed) -> Result<Observed, CriError> {
    shared.name_runtime().await?;
    let (sandboxes, containers) = labels::filters(&shared.options.node, Some(uid));
    let sandboxes = shared.runtime.list_pod_sandboxes(sandboxes).await?;
    let containers = shared.runtime.list_containers(containers).await?;
    let mut observed = Observed::default();
    for listed in sandboxes {
        let ready = listed.state == v1::PodSandboxState::SandboxReady as i32;
        let before = known.sandboxes.iter().find(|s| s.id == listed.id);
        let same = before.filter(|s| s.ready == ready && (!ready || !s.ips.is_empty()));
        let sandbox = match same {
            Some(before) => before.clone(),
            None if ready => match sandbox(shared, &listed.id).await? {
                Some(sandbox) => sandbox,
                None => continue,
            },
            None => Sandbox {
                id: listed.id,
                attempt: listed.metadata.map_or(0, |m| m.attempt),
                ready,
                created: listed.created_at,
                ips: Vec::new(),
            },
        };
        observed.put_sandbox(sandbox);
    }
    for listed in containers {
        let state = State::of(listed.state);
        let before = known
            .container(&listed.id)
            .filter(|c| c.state == state && state != State::Unknown);
        let seen = match before {
            Some(before) => before.clone(),
            None => match container(shared, &listed.id, &listed.pod_sandbox_id).await? {
                Some(seen) => seen,
                None => continue,
            },
        };
        observed.put(seen);
    }
    Ok(observed)
}

/// One container, `None` when the runtime has none of this id.
///
/// # Errors
/// [`CriError`].
pub(super) async fn container(shared: &Shared, id: &str, sandbox: &str) -> Result<Option<Seen>, CriError> {
    let request = v1::ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose: false,
    };
    let status = match shared.runtime.container_status(request).await {
        Ok(answer) => answer.status,
        Err(e) if e.is_not_found() => None,
        Err(e) => return Err(e),
    };
    Ok(status.map(|status| {
        let annotations = status.annotations.clone();
        let mounts = status.mounts.clone();
        let mut seen = Seen::of(status, sandbox);
        if seen.state == State::Exited {
            super::words::add(&mut seen, &annotations, &mounts);
        }
        seen
    }))
}

/// One sandbox, `None` when the runtime has none of this id.
///
/// # Errors
/// [`CriError`].
pub(super) async fn sandbox(shared: &Shared, id: &str) -> Result<Option<Sandbox>, CriError> {
    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: id.to_owned(),
        verbose: false,
    };
    match shared.runtime.pod_sandbox_status(request).await {
        Ok(answer) => Ok(answer.status.map(Sandbox::of)),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e),
    }
}
