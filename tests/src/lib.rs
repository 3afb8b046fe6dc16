//! What the end-to-end tests and the bench stand on: real daemons as processes, strangers' clients as processes, a relay between.
//!
//! Nothing here knows the inside of a daemon: it starts programs, reads the files they document, and talks to their ports.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

pub use kurator::client::Api;
pub use kurator::relay::{Relay, Weather};

pub mod bridge;
mod daemons;
pub mod federation;
pub mod fleet;
pub mod gateway;
pub mod mqtt_wire;
pub mod objects;
pub mod registry;
pub mod runtime;
mod strangers;

pub use daemons::{Edge, Hub, Pair, device, press};
pub use strangers::{Kubectl, Subscriber, kubectl, kubectl_with_input, mosquitto_pub, mosquitto_pub_lines};

/// How long anything that should happen may take before a test calls it lost. Far above what it takes: a bound against hanging,
/// never a measurement.
pub const PATIENCE: Duration = Duration::from_secs(40);
/// How often a condition is looked at.
pub const LOOK: Duration = Duration::from_millis(20);

/// A program of this build: they stand two folders above the test's own.
///
/// # Panics
/// When it was not built.
pub fn program(name: &str) -> PathBuf {
    let me = std::env::current_exe().expect("a running test has a path");
    let folder = me.parent().expect("a file stands in a folder");
    let folder = if folder.ends_with("deps") {
        folder.parent().expect("deps stands in a profile's folder")
    } else {
        folder
    };
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is missing: `make test` builds the programs first",
        path.display()
    );
    path
}

/// The folder of clients that `tests/setup.sh` fetched: it stands beside the profile's folder.
///
/// # Panics
/// When they are not there.
pub fn clients() -> PathBuf {
    let hub = program("cloudhub");
    let profile = hub.parent().expect("a program stands in a folder");
    let path = profile.parent().expect("a profile stands in a folder").join("clients");
    assert!(path.exists(), "{} is missing: tests/setup.sh makes it", path.display());
    path
}

/// The checkout's folder.
pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace is the folder above")
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ended {
    /// The exit code; -1 after a signal.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// Standard output, when it ended well.
    ///
    /// # Panics
    /// When it did not.
    pub fn good(self) -> String {
        assert!(
            self.status.success(),
            "ended with {}:\n{}{}",
            self.status,
            self.out,
            self.err
        );
        self.out
    }
}

/// Runs a program to its end.
///
/// # Panics
/// When it cannot be started or does not end in [`PATIENCE`].
pub async fn run(command: &mut Command) -> Ended {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let shown = format!("{:?}", command.as_std());
    let output = tokio::time::timeout(PATIENCE, command.output()).await;
    let output = output
        .unwrap_or_else(|_| panic!("{shown} did not end"))
        .unwrap_or_else(|e| panic!("{shown}: {e}"));
    Ended {
        status: output.status,
        out: String::from_utf8_lossy(&output.stdout).into(),
        err: String::from_utf8_lossy(&output.stderr).into(),
    }
}

/// `kurator …` with this kubeconfig.
pub async fn kurator(kubeconfig: &Path, arguments: &[&str]) -> Ended {
    run(Command::new(program("kurator"))
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(arguments))
    .await
}

/// Waits until `look` gives something.
///
/// # Panics
/// After [`PATIENCE`], with what was waited for.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = daemon::clock::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(daemon::clock::now() < deadline, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// GET that gives `None` for anything but a success.
pub async fn get(api: &Api, path: &str) -> Option<Value> {
    api.try_json(http::Method::GET, path, None).await.ok()?.ok()
}

/// Reads a child's standard error line by line into a file, so that it never blocks and can be shown.
pub(crate) fn keep_log(child: &mut Child, path: PathBuf) {
    use std::io::Write;
    let stderr = child.stderr.take().expect("standard error is piped");
    drop(tokio::spawn(async move {
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .expect("the log can be written");
        let mut lines = BufReader::new(stderr).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if writeln!(file, "{line}").is_err() {
                return;
            }
        }
    }));
}

/// Copies a folder with everything in it.
///
/// # Panics
/// When something cannot be copied.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("the folder can be made");
    for entry in std::fs::read_dir(from).expect("the folder can be read") {
        let entry = entry.expect("the entry can be read");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("the file can be copied");
        }
    }
}

/// The environment that makes a program believe it is that time (libfaketime, a Debian package).
///
/// # Panics
/// When the library is not installed.
pub fn clock_at(time: &str) -> Vec<(String, String)> {
    let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
    let library = PathBuf::from(format!("/usr/lib/{triple}/faketime/libfaketime.so.1"));
    assert!(
        library.exists(),
        "{} is missing: tests/setup.sh installs the package libfaketime",
        library.display()
    );
    vec![
        ("LD_PRELOAD".to_owned(), library.display().to_string()),
        ("FAKETIME".to_owned(), format!("@{time}")),
        // Only the wall clock lies; timers must go on as they are.
        ("FAKETIME_DONT_FAKE_MONOTONIC".to_owned(), "1".to_owned()),
    ]
}
