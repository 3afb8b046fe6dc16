//! Logs that have grown too large get a new file: `0.log` becomes `0.log.20261121-150405`, the runtime begins a new `0.log`, and only so many
//! are kept. Killed at any step, the next look goes on: a running container without a log is told to begin one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cri::{Runtime, v1};

use super::household::Room;
use crate::settings::Settings;

/// What to do with a container's log.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Leave,
    /// Only have it begun anew: it is not there.
    Begin,
    /// Set it aside first.
    Turn,
}

/// Looks at the log of a running container, and turns it if it is too large.
///
/// # Errors
/// When files cannot be renamed or the runtime does not begin a new one; the log goes on as it was.
pub(super) async fn look(room: &Room, settings: &Settings, runtime: &Runtime, wall_ms: u64) -> io::Result<()> {
    let log = &room.log_path;
    let reopen = || async {
        let request = v1::ReopenContainerLogRequest {
            container_id: room.id.clone(),
        };
        runtime
            .reopen_container_log(request)
            .await
            .map(drop)
            .map_err(io::Error::other)
    };
    match step(fs::symlink_metadata(log), settings.log_max_bytes)? {
        Step::Leave => Ok(()),
        Step::Begin => reopen().await,
        Step::Turn => {
            let aside = set_aside(log, settings.log_max_files, wall_ms)?;
            let begun = reopen().await;
            // It goes on writing where it wrote. Unless it began a new one and only the answer was lost.
            if begun.is_err() && !log.exists() {
                fs::rename(&aside, log)?;
            }
            begun
        }
    }
}

fn step(log: io::Result<fs::Metadata>, most: u64) -> io::Result<Step> {
    match log {
        Ok(meta) if meta.is_file() && most > 0 && meta.len() >= most => Ok(Step::Turn),
        Ok(_) => Ok(Step::Leave),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Step::Begin),
        Err(e) => Err(e),
    }
}

/// Makes room among the older files and renames the newest; under which name.
fn set_aside(log: &Path, keep: u32, wall_ms: u64) -> io::Result<PathBuf> {
    // Beside those that are kept here there will be the one that is set aside and the new one.
    let mut older = older(log)?;
    let keep = usize::try_from(keep.saturating_sub(2)).unwrap_or(usize::MAX);
    let excess = older.len().saturating_sub(keep);
    for file in older.drain(..excess) {
        fs::remove_file(file)?;
    }
    let aside = PathBuf::from(format!("{}.{}", log.display(), stamp(wall_ms)));
    // A clock that was set back must not cost a log.
    if aside.exists() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("{} is there already", aside.display()),
        ));
    }
    fs::rename(log, &aside)?;
    Ok(aside)
}

/// The files that were set aside, oldest first.
fn older(log: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(folder), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut all: Vec<PathBuf> = fs::read_dir(folder)?
        .filter_map(|entry| {
            let file = entry.ok()?.file_name();
            let when = file.to_str()?.strip_prefix(name)?.strip_prefix('.')?;
            when.starts_with(|c: char| c.is_ascii_digit())
                .then(|| folder.join(&file))
        })
        .collect();
    all.sort_unstable();
    Ok(all)
}

/// `20261121-150405`, in UTC.
fn stamp(wall_ms: u64) -> String {
    crate::time::stamp(wall_ms)
        .replace(['-', ':'], "")
        .replace('T', "-")
        .replace('Z', "")
}

#[cfg(test)]
mod tests {
    use cri::fake::{Act, Fake, Rule};

    use super::*;

    const NOON: u64 = 1_795_262_400_000;

    struct Bench {
        folder: tempfile::TempDir,
        fake: Fake,
        settings: Settings,
        room: Room,
    }

    impl Bench {
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let fake = Fake::start(folder.path());
            let settings = Settings {
                log_max_bytes: 10,
                log_max_files: 3,
                ..Settings::default()
            };
            let id = crate::machine::testing::run(&fake, "press-01", folder.path()).await;
            let log_path = folder.path().join("app/0.log");
            let room = Room {
                name: "app".into(),
                id,
                runs: true,
                log_path,
            };
            fs::write(&room.log_path, "short").unwrap();
            Self {
                folder,
                fake,
                settings,
                room,
            }
        }

        fn write(&self, text: &str) {
            fs::write(&self.room.log_path, text).unwrap();
        }

        fn read(&self) -> String {
            fs::read_to_string(&self.room.log_path).unwrap()
        }

        async fn look(&self, after_seconds: u64) -> io::Result<()> {
            look(
                &self.room,
                &self.settings,
                &self.fake.client(),
                NOON + after_seconds * 1000,
            )
            .await
        }

        fn files(&self) -> Vec<String> {
            let all = fs::read_dir(self.folder.path().join("app")).unwrap();
            let mut names: Vec<_> = all.map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }

        fn reopened(&self) -> usize {
            let calls = self.fake.take_calls();
            calls.iter().filter(|c| c.name == "reopen_container_log").count()
        }
    }

    #[tokio::test]
    async fn a_large_log_is_set_aside_and_old_ones_go() {
        let bench = Bench::new().await;
        bench.look(0).await.unwrap();
        assert_eq!((bench.files(), bench.reopened()), (vec!["0.log".to_owned()], 0));
        fs::write(bench.folder.path().join("app/1.log"), "of another attempt").unwrap();
        for round in 0..4 {
            bench.write(&format!("long enough {round}"));
            bench.look(round * 10).await.unwrap();
            assert_eq!((bench.read(), bench.reopened()), (String::new(), 1));
        }
        assert_eq!(
            bench.files(),
            ["0.log", "0.log.20261121-120020", "0.log.20261121-120030", "1.log"]
        );
        let newest = bench.folder.path().join("app/0.log.20261121-120030");
        assert_eq!(fs::read_to_string(newest).unwrap(), "long enough 3");
        bench.write("long enough");
        let again = bench.look(30).await.unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists, "a clock that was set back");
        assert_eq!(bench.read(), "long enough");
    }

    #[tokio::test]
    async fn a_runtime_that_refuses_goes_on_where_it_was() {
        let bench = Bench::new().await;
        bench.write("long enough");
        bench.fake.vanish(&bench.room.id);
        assert!(bench.look(0).await.is_err());
        assert_eq!(
            (bench.files(), bench.read()),
            (vec!["0.log".to_owned()], "long enough".to_owned())
        );
    }

    #[tokio::test]
    async fn an_answer_that_is_lost_costs_no_log() {
        let bench = Bench::new().await;
        bench.write("long enough");
        bench.fake.rule(Rule::next("reopen_container_log", Act::LoseAnswer));
        assert!(bench.look(0).await.is_err());
        assert_eq!(
            (bench.files().len(), bench.read()),
            (2, String::new()),
            "it was begun all the same"
        );
    }

    #[tokio::test]
    async fn after_a_kill_between_the_steps_the_runtime_is_told_to_begin() {
        let bench = Bench::new().await;
        bench.write("long enough");
        drop(set_aside(&bench.room.log_path, 3, NOON).unwrap());
        assert_eq!(bench.files(), ["0.log.20261121-120000"]);
        bench.look(10).await.unwrap();
        assert_eq!((bench.files().len(), bench.reopened()), (2, 1));
    }
}
