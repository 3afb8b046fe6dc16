//! `kurator reset edge`: takes this machine out again; says what it removes and removes nothing without `--yes`.

use std::path::{Path, PathBuf};

use daemon::exit::{FAILED, Failure, USAGE};

use crate::cli::ResetArgs;
use crate::say;

/// What a join and a running agent leave behind; nothing else in these folders is touched.
fn belongings(config: &Path, data: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = ["edgecore.yaml", "edge.kubeconfig", "pki"]
        .iter()
        .map(|name| config.join(name))
        .collect();
    for name in [
        "edgecore.db",
        "edgecore.db-wal",
        "edgecore.db-shm",
        "edgecore.db.lock",
        "edge.json",
        "snapshots",
    ] {
        found.push(data.join(name));
    }
    found.retain(|p| p.symlink_metadata().is_ok());
    found
}

pub(crate) fn run(arguments: &ResetArgs) -> Result<(), Failure> {
    let found = belongings(&arguments.config_dir, &arguments.data_dir);
    if found.is_empty() {
        say::line("nothing to reset: this machine has not joined");
        return Ok(());
    }
    if let Some(pid) = running(&arguments.data_dir) {
        return Err(Failure::new(FAILED, format!("edgecore is still running (pid {pid})")).hint("stop it first"));
    }
    if !arguments.yes {
        for path in &found {
            say::line(&format!("would remove {}", path.display()));
        }
        return Err(Failure::new(USAGE, "nothing removed").hint("add --yes to remove these"));
    }
    for path in &found {
        let is_folder = path.symlink_metadata().is_ok_and(|m| m.is_dir());
        let removed = if is_folder {
            std::fs::remove_dir_all(path)
        } else {
            std::fs::remove_file(path)
        };
        removed.map_err(|e| Failure::new(FAILED, format!("cannot remove {}: {e}", path.display())))?;
        say::line(&format!("removed {}", path.display()));
    }
    Ok(())
}

/// The agent's pid, if the one in its run file is alive and is an `edgecore`.
fn running(data: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(data.join("edge.json")).ok()?;
    let pid = serde_json::from_str::<serde_json::Value>(&text).ok()?["pid"].as_u64()?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (name.trim() == "edgecore").then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removes_only_what_is_ours_and_only_when_told() {
        let dir = tempfile::tempdir().unwrap();
        let (config, data) = (dir.path().join("c"), dir.path().join("d"));
        std::fs::create_dir_all(config.join("pki")).unwrap();
        std::fs::create_dir_all(&data).unwrap();
        for file in [
            config.join("edgecore.yaml"),
            config.join("mine.txt"),
            data.join("edgecore.db"),
        ] {
            std::fs::write(file, "x").unwrap();
        }
        let mut arguments = ResetArgs {
            config_dir: config.clone(),
            data_dir: data.clone(),
            yes: false,
        };
        assert_eq!(run(&arguments).unwrap_err().code, USAGE);
        assert!(data.join("edgecore.db").exists());
        arguments.yes = true;
        run(&arguments).unwrap();
        assert!(!data.join("edgecore.db").exists() && !config.join("pki").exists() && config.join("mine.txt").exists());
        run(&arguments).unwrap();
    }
}
