//! Files that outlive their pods: logs.

use std::path::Path;

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
