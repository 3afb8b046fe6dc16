//! The agent's service: the text of its systemd unit, and putting it to work.
//!
//! The agent says `READY=1` once devices are answered and `STOPPING=1` at its end, so the unit is of type `notify`. It does not wait for
//! the network: a gateway serves its devices without. It runs as root, in a sandbox: the container runtime's socket is root's, and
//! connecting to one needs neither a capability nor a writable file system.

use std::path::{Component, Path};
use std::process::Command;

use daemon::exit::{BAD_INPUT, FAILED, Failure};
use link::pki::write_atomic;

use crate::say;

/// The unit's name.
pub(crate) const UNIT: &str = "kurator-edgecore.service";
/// Where an administrator's units stand.
const UNITS: &str = "/etc/systemd/system";
/// A folder that is there exactly where systemd is the service manager.
const MANAGER: &str = "/run/systemd/system";

/// Whether this machine's service manager is systemd.
pub(crate) fn manager_runs() -> bool {
    Path::new(MANAGER).is_dir()
}

/// Where the unit stands.
pub(crate) fn path() -> std::path::PathBuf {
    Path::new(UNITS).join(UNIT)
}

/// Whether `unit` is the text of a unit for the agent of this configuration folder.
pub(crate) fn is_for(unit: &str, config: &Path) -> bool {
    let wanted = quoted(config).unwrap_or_default();
    unit.lines()
        .filter_map(|line| line.strip_prefix("ExecStart="))
        .any(|line| line.contains(&format!("--config-dir {wanted}")))
}

/// Installs the unit and (re)starts the agent.
pub(super) fn start(program: &Path, config: &Path, data: &Path) -> Result<(), Failure> {
    let unit = path();
    write_atomic(&unit, text(program, config, data)?.as_bytes(), 0o644)
        .map_err(|e| Failure::new(FAILED, e.to_string()).hint("run as root, or use --no-service"))?;
    // An agent that runs already is started anew: it may have another unit, or wait long after a refusal.
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", UNIT])?;
    systemctl(&["restart", UNIT])
}

/// Stops the agent and takes its unit away.
pub(crate) fn remove() -> Result<(), Failure> {
    let unit = path();
    if manager_runs() {
        systemctl(&["disable", "--now", UNIT])?;
    }
    std::fs::remove_file(&unit).map_err(|e| Failure::new(FAILED, format!("cannot remove {}: {e}", unit.display())))?;
    if manager_runs() {
        systemctl(&["daemon-reload"])?;
    }
    say::line(&format!("removed {}", unit.display()));
    Ok(())
}

fn systemctl(arguments: &[&str]) -> Result<(), Failure> {
    let status = Command::new("systemctl").args(arguments).status();
    if status.as_ref().is_ok_and(std::process::ExitStatus::success) {
        return Ok(());
    }
    let why = status.map_or_else(|e| e.to_string(), |status| status.to_string());
    Err(
        Failure::new(FAILED, format!("`systemctl {}` failed: {why}", arguments.join(" ")))
            .hint(format!("journalctl -u {UNIT} -n 50")),
    )
}

/// The unit's text.
fn text(program: &Path, config: &Path, data: &Path) -> Result<String, Failure> {
    let all = [program, config, data];
    let (program_text, config_text, data_text) = (quoted(program)?, quoted(config)?, quoted(data)?);
    // What hides a folder from the agent must not hide its own.
    let home = if all
        .iter()
        .any(|p| below(p, &["home", "root"]) || below(p, &["run", "user"]))
    {
        "read-only"
    } else {
        "yes"
    };
    let temporary = if all.iter().any(|p| below(p, &["tmp"]) || p.starts_with("/var/tmp")) {
        "no"
    } else {
        "yes"
    };
    Ok(format!(
        "# Written by `kurator join edge`; changes belong into a drop-in: systemctl edit {UNIT}\n\
         [Unit]\n\
         Description=Kurator Edge agent\n\
         # Not after network-online.target: devices are served without a network.\n\
         After=network.target\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         Type=notify\n\
         NotifyAccess=main\n\
         ExecStart={program_text} --config-dir {config_text} --data-dir {data_text}\n\
         Restart=always\n\
         RestartSec=2\n\
         # After a power cut a large store is checked before it serves.\n\
         TimeoutStartSec=5min\n\
         TimeoutStopSec=30\n\
         LimitNOFILE=65536\n\
         UMask=0077\n\
         \n\
         # The agent writes to its own folders only. It stays root because container runtimes' sockets are root's.\n\
         ProtectSystem=strict\n\
         ReadWritePaths={config_text} {data_text}\n\
         ProtectHome={home}\n\
         PrivateTmp={temporary}\n\
         PrivateDevices=yes\n\
         NoNewPrivileges=yes\n\
         CapabilityBoundingSet=CAP_NET_BIND_SERVICE CAP_DAC_OVERRIDE\n\
         ProtectKernelTunables=yes\n\
         ProtectKernelModules=yes\n\
         ProtectKernelLogs=yes\n\
         ProtectControlGroups=yes\n\
         ProtectClock=yes\n\
         ProtectHostname=yes\n\
         ProtectProc=invisible\n\
         RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK\n\
         RestrictNamespaces=yes\n\
         RestrictRealtime=yes\n\
         RestrictSUIDSGID=yes\n\
         LockPersonality=yes\n\
         MemoryDenyWriteExecute=yes\n\
         KeyringMode=private\n\
         SystemCallArchitectures=native\n\
         SystemCallFilter=@system-service\n\
         SystemCallErrorNumber=EPERM\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    ))
}

/// Whether `path` is `/<top>/…` for one of `tops`, or, with two of them, `/<first>/<second>/…`.
fn below(path: &Path, tops: &[&str]) -> bool {
    let mut parts = path.components().filter_map(|c| match c {
        Component::Normal(part) => part.to_str(),
        _ => None,
    });
    match tops {
        ["run", user] => parts.next() == Some("run") && parts.next() == Some(user),
        _ => parts.next().is_some_and(|first| tops.contains(&first)),
    }
}

/// A path as one word of a unit file. Quotes, backslashes and dollars mean different things in different settings; no folder of ours needs them.
fn quoted(path: &Path) -> Result<String, Failure> {
    let text = path
        .to_str()
        .filter(|t| !t.chars().any(|c| c.is_control() || "\"'\\$".contains(c)))
        .ok_or_else(|| {
            Failure::new(BAD_INPUT, format!("{path:?} cannot stand in a service's unit"))
                .hint("use --no-service, or folders with plain names")
        })?;
    let text = text.replace('%', "%%");
    let plain = text.chars().all(|c| c.is_alphanumeric() || "/._-+@%=".contains(c));
    Ok(if plain { text } else { format!("\"{text}\"") })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `systemd-analyze` on a unit in a folder of its own: what it says, and whether it is content.
    fn analyze(verb: &[&str], unit: &str) -> (bool, String) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(UNIT);
        std::fs::write(&file, unit).unwrap();
        let done = Command::new("systemd-analyze")
            .args(verb)
            .arg(&file)
            .env("SYSTEMD_LOG_LEVEL", "info")
            .output()
            .expect("tests/setup.sh installs the package systemd");
        let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        (done.status.success(), said)
    }

    fn plain() -> String {
        text(
            Path::new("/bin/true"),
            Path::new("/etc/kurator"),
            Path::new("/var/lib/kurator"),
        )
        .unwrap()
    }

    #[test]
    fn systemd_has_no_complaint() {
        let odd = Path::new("/opt/a b/50%h/etc");
        for unit in [
            plain(),
            text(Path::new("/bin/true"), odd, Path::new("/srv/ü;x")).unwrap(),
        ] {
            let (good, said) = analyze(&["verify", "--man=no", "--recursive-errors=no"], &unit);
            let ours: Vec<_> = said.lines().filter(|l| l.contains("kurator")).collect();
            assert!(good && ours.is_empty(), "{said}\n{unit}");
        }
        // It does complain when there is something to complain about.
        let bad = plain().replace("RestartSec=2", "RestartSecs=2");
        assert!(
            analyze(&["verify", "--man=no", "--recursive-errors=no"], &bad)
                .1
                .contains("RestartSecs")
        );
    }

    #[test]
    fn what_systemd_thinks_of_the_sandbox() {
        let (good, said) = analyze(
            &["security", "--offline=true", "--no-pager", "--threshold=25"],
            &plain(),
        );
        assert!(good, "{said}");
    }

    #[test]
    fn a_folder_of_the_agent_is_never_hidden_from_it() {
        let with = |config: &str| {
            text(
                Path::new("/usr/bin/edgecore"),
                Path::new(config),
                Path::new("/var/lib/k"),
            )
            .unwrap()
        };
        for (config, home, temporary) in [
            ("/etc/kurator", "yes", "yes"),
            ("/home/ann/etc", "read-only", "yes"),
            ("/root/etc", "read-only", "yes"),
            ("/run/user/1000/etc", "read-only", "yes"),
            ("/run/kurator", "yes", "yes"),
            ("/tmp/gw/etc", "yes", "no"),
            ("/var/tmp/gw", "yes", "no"),
            ("/srv/home/tmp", "yes", "yes"),
        ] {
            let unit = with(config);
            assert!(unit.contains(&format!("\nProtectHome={home}\n")), "{config}: {unit}");
            assert!(
                unit.contains(&format!("\nPrivateTmp={temporary}\n")),
                "{config}: {unit}"
            );
            assert!(unit.contains(&format!("\nReadWritePaths={config} /var/lib/k\n")));
            assert!(is_for(&unit, Path::new(config)));
            assert!(!is_for(&unit, Path::new("/elsewhere")));
        }
    }

    #[test]
    fn a_folder_that_cannot_stand_in_a_unit_is_refused() {
        for bad in ["/a\nExecStartPost=/b", "/a\"b", "/$HOME", "/a\\x20b", "/it's"] {
            assert_eq!(quoted(Path::new(bad)).unwrap_err().code, BAD_INPUT, "{bad}");
        }
        assert_eq!(quoted(Path::new("/a b")).unwrap(), "\"/a b\"");
        assert_eq!(quoted(Path::new("/a%h")).unwrap(), "/a%%h");
    }
}
