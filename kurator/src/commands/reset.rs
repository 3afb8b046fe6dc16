//! `kurator reset edge`: takes this machine out again; says what it removes and removes nothing without `--yes`.

use std::path::{Path, PathBuf};

use daemon::exit::{FAILED, Failure, USAGE};

use super::join::unit;
use crate::cli::{DATA_DIR, ResetArgs};
use crate::say;

/// What a join and a running agent leave behind; nothing else in these folders is touched.
fn belongings(config: &Path, data: &Path) -> Vec<PathBuf> {
    let store = [
        "edgecore.db",
        "edgecore.db-wal",
        "edgecore.db-shm",
        "edgecore.db.lock",
        "edge.json",
        "snapshots",
    ];
    // The configuration last: it knows where the store is.
    let mine = ["pki", "edge.kubeconfig", "edgecore.yaml"];
    let store = store.iter().map(|name| data.join(name));
    let mut found: Vec<PathBuf> = store.chain(mine.iter().map(|name| config.join(name))).collect();
    found.retain(|p| p.symlink_metadata().is_ok());
    found
}

pub(crate) fn run(arguments: &ResetArgs) -> Result<(), Failure> {
    let config = std::path::absolute(&arguments.config_dir).unwrap_or_else(|_| arguments.config_dir.clone());
    let data = arguments.data_dir.clone().unwrap_or_else(|| configured(&config));
    let found = belongings(&config, &data);
    let service = std::fs::read_to_string(unit::path()).is_ok_and(|text| unit::is_for(&text, &config));
    if found.is_empty() && !service {
        say::line("nothing to reset: this machine has not joined");
        return Ok(());
    }
    if !arguments.yes {
        let service = service.then(unit::path);
        for path in service.iter().chain(&found) {
            say::line(&format!("would remove {}", path.display()));
        }
        return Err(Failure::new(USAGE, "nothing removed").hint("add --yes to remove these"));
    }
    if service {
        unit::remove()?;
    }
    if let Some(pid) = running(&data) {
        return Err(Failure::new(FAILED, format!("edgecore is still running (pid {pid})"))
            .hint(format!("kill {pid}, then again")));
    }
    for path in &found {
        let is_folder = path.symlink_metadata().is_ok_and(|m| m.is_dir());
        let removed = if is_folder {
            std::fs::remove_dir_all(path)
        } else {
            std::fs::remove_file(path)
        };
        removed
            .map_err(|e| Failure::new(FAILED, format!("cannot remove {}: {e}", path.display())).hint("run as root"))?;
        say::line(&format!("removed {}", path.display()));
    }
    Ok(())
}

/// Where the agent's configuration says that its store is.
fn configured(config: &Path) -> PathBuf {
    let file = config.join("edgecore.yaml");
    let said = daemon::config::load::<serde_json::Value>(Some(&file), "", std::iter::empty()).unwrap_or_default();
    let said = said["dataDir"].as_str().filter(|d| !d.is_empty());
    said.map_or_else(|| PathBuf::from(DATA_DIR), PathBuf::from)
}

/// The agent's pid, if the one in its run file is alive and is an `edgecore`.
pub(super) fn running(data: &Path) -> Option<u64> {
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
        // Where the data is, the configuration knows.
        std::fs::write(config.join("edgecore.yaml"), format!("dataDir: {}\n", data.display())).unwrap();
        let mut arguments = ResetArgs {
            config_dir: config.clone(),
            data_dir: None,
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
