//! Our table in the kernel: what it has, and the transactions that change it, by the program `nft`.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::rules::{Names, Ruleset, TABLE, names};

/// A transaction takes milliseconds; on a machine that is busy a little longer.
const DEADLINE: Duration = Duration::from_secs(20);
/// A listing without elements, and what it complains about.
const MAX_OUTPUT: u64 = 4 * 1024 * 1024;
const MAX_COMPLAINT: usize = 400;
/// Where it stands when the search path does not say.
const PROGRAMS: [&str; 3] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"];

/// Why rules are not in the kernel.
#[derive(Debug, thiserror::Error)]
pub(super) enum NftError {
    #[error("nft cannot be started: {0}: install nftables, or set services: userspace")]
    Program(std::io::Error),
    #[error("nft did not end within {} s", DEADLINE.as_secs())]
    Late,
    #[error("nft: {0}")]
    Refused(String),
}

/// Our table in both families.
#[derive(Debug, Default)]
pub(super) struct Kernel([Family; 2]);

#[derive(Debug, Default)]
struct Family {
    /// What the table has; not known before it was looked at.
    has: Option<Names>,
    /// Fingerprint of what was applied.
    applied: Option<u64>,
}

impl Kernel {
    /// Brings the rules of a family into the kernel, if they are others than those there. Whether they were.
    pub(super) async fn apply(&mut self, ipv6: bool, ruleset: &Ruleset, used: bool) -> Result<bool, NftError> {
        let family = &mut self.0[usize::from(ipv6)];
        let ip = if ipv6 { "ip6" } else { "ip" };
        if !used {
            // What an earlier run left.
            if family.has.take().is_some() || family.applied != Some(0) {
                drop(nft(&["delete", "table", ip, TABLE], "").await);
            }
            family.applied = Some(0);
            return Ok(false);
        }
        let print = crate::time::fingerprint(&ruleset.transaction(&Names::default(), false));
        if family.applied == Some(print) {
            return Ok(false);
        }
        let has = match family.has.take() {
            Some(has) => has,
            None => listed(ip).await,
        };
        family.applied = None;
        if let Err(e) = nft(&["-f", "-"], &ruleset.transaction(&has, false)).await {
            // Somebody changed our table, or an older agent made it differently.
            tracing::debug!(error = %e, "The table of rules is made anew.");
            nft(&["-f", "-"], &ruleset.transaction(&has, true)).await?;
        }
        family.has = Some(ruleset.names.clone());
        family.applied = Some(print);
        Ok(true)
    }
}

impl Kernel {
    /// Looks whether the tables are as they were left: who reloads a firewall may take out all there are.
    pub(super) async fn look(&mut self) {
        for (ip, family) in ["ip", "ip6"].into_iter().zip(&mut self.0) {
            let Some(has) = &family.has else { continue };
            if listed(ip).await != *has {
                tracing::warn!(ip, "Somebody changed the rules of Services; they are put right.");
                *family = Family::default();
            }
        }
    }
}

/// Takes our tables out of the kernel, where they are.
pub(super) async fn remove() {
    for ip in ["ip", "ip6"] {
        drop(nft(&["delete", "table", ip, TABLE], "").await);
    }
}

async fn listed(ip: &str) -> Names {
    // There is no table yet, most likely.
    let listing = nft(&["-t", "list", "table", ip, TABLE], "").await;
    listing.map(|text| names(&text)).unwrap_or_default()
}

/// Our IPv4 table as it is; empty when it is not there.
#[cfg(test)]
pub(super) async fn listing() -> String {
    nft(&["list", "table", "ip", TABLE], "").await.unwrap_or_default()
}

/// Runs `nft`.
async fn nft(arguments: &[&str], input: &str) -> Result<String, NftError> {
    let program = PROGRAMS.iter().find(|p| std::path::Path::new(p).exists());
    let mut child = Command::new(program.unwrap_or(&"nft"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(NftError::Program)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let talk = async {
        let write = async {
            if let Some(mut stdin) = stdin {
                // It says itself why it reads no further.
                drop(stdin.write_all(input.as_bytes()).await);
            }
        };
        let (mut out, mut complaint) = (Vec::new(), Vec::new());
        let read = async {
            match stdout {
                Some(stdout) => stdout.take(MAX_OUTPUT).read_to_end(&mut out).await,
                None => Ok(0),
            }
        };
        let hear = async {
            match stderr {
                Some(stderr) => stderr.take(MAX_OUTPUT).read_to_end(&mut complaint).await,
                None => Ok(0),
            }
        };
        let ((), read, heard) = tokio::join!(write, read, hear);
        read.and(heard).map_err(NftError::Program)?;
        let status = child.wait().await.map_err(NftError::Program)?;
        if status.success() {
            return Ok(String::from_utf8_lossy(&out).into_owned());
        }
        let complaint = String::from_utf8_lossy(&complaint);
        Err(NftError::Refused(
            complaint.trim().chars().take(MAX_COMPLAINT).collect(),
        ))
    };
    tokio::time::timeout(DEADLINE, talk).await.map_err(|_| NftError::Late)?
}
