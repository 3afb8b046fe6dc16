//! Files that outlive their pods: logs, and folders of pods that nobody knows any more.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Shared, lock};
use crate::cluster::PODS;

/// File in the folder of a pod's logs that tells whose pod it is: a kubelet beside us has its folders in the same place.
const MARK: &str = ".kurator";

/// Marks the folder of a pod's logs as ours. One without a mark stays when its pod is gone unseen.
pub(super) fn mark(folder: &Path, node: &str) {
    if let Err(e) = std::fs::write(folder.join(MARK), node) {
        tracing::debug!(folder = %folder.display(), error = %e, "A folder of logs cannot be marked.");
    }
}

fn is_ours(folder: &Path, node: &str) -> bool {
    std::fs::read(folder.join(MARK)).is_ok_and(|marked| marked == node.as_bytes())
}

/// Removes what is on the disk of pods that neither the store nor a task knows. A store that cannot be read is no reason to remove anything.
pub(super) async fn sweep(shared: &Shared) {
    // What is on the disk is listed first: who comes after that is not in the list.
    let folders = shared.means.on_disk();
    let logs: Vec<_> = std::fs::read_dir(&shared.options.logs)
        .into_iter()
        .flatten()
        .flatten()
        .collect();
    let Ok(pods) = shared.cluster.list(PODS, None) else {
        return;
    };
    let mut known: BTreeSet<String> = lock(&shared.tasks).by_uid.keys().map(ToString::to_string).collect();
    known.extend(
        pods.iter()
            .filter_map(|p| p["metadata"]["uid"].as_str().map(str::to_owned)),
    );
    for uid in folders.iter().filter(|uid| !known.contains(*uid)) {
        if shared.means.tear_down(uid).await {
            tracing::info!(uid, "The folder of a pod that is gone was removed.");
        }
    }
    for folder in logs {
        let name = folder.file_name();
        let uid = name
            .to_str()
            .filter(|n| n.matches('_').count() == 2)
            .and_then(|n| n.rsplit('_').next());
        if uid.is_some_and(|uid| !known.contains(uid)) && is_ours(&folder.path(), &shared.options.node) {
            log_folder(&folder.path());
        }
    }
}

/// Removes a container's log with its rotated parts. Only below the folder of logs.
pub(super) fn log_files(logs: &Path, log_path: &str) {
    let path = Path::new(log_path);
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return;
    };
    if !path.starts_with(logs) || path.components().any(|c| c == std::path::Component::ParentDir) {
        return;
    }
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let ours = entry
            .file_name()
            .to_str()
            .is_some_and(|n| n == name || n.strip_prefix(name).is_some_and(|r| r.starts_with('.')));
        if ours && let Err(e) = std::fs::remove_file(entry.path()) {
            tracing::debug!(error = %e, "A log cannot be removed.");
        }
    }
}

/// Removes the folder of a pod's logs.
pub(super) fn log_folder(folder: &Path) {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(folder = %folder.display(), error = %e, "The logs of a pod cannot be removed.");
        }
        _ => {}
    }
}
