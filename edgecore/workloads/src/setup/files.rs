//! Files that every pod has: its `/etc/hosts`, and where a container leaves its last words. Written again the same whenever a container is made.

use std::fs;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use cri::v1::Mount;

use super::{Host, SetupError, host_name};
use crate::pod::{Container, Pod};

const HOSTS: &str = "/etc/hosts";
/// Longest hosts file of the machine that is passed on.
pub(super) const MAX_HOSTS: u64 = 1024 * 1024;
/// Last words are kept of this many runs of a container.
const KEPT_RUNS: u32 = 2;

/// Where on the machine the last words of a container's run are.
pub(crate) fn termination_path(host: &Host, uid: &str, container: &str, attempt: u32) -> PathBuf {
    host.pod_dir(uid)
        .join("containers")
        .join(container)
        .join(attempt.to_string())
}

/// Makes the files for a container's run. `mounts`: what it mounts already, which goes before the hosts file.
///
/// # Errors
/// When one cannot be written.
pub(crate) fn own_files(
    host: &Host,
    pod: &Pod,
    container: &Container,
    attempt: u32,
    ips: &[IpAddr],
    mounts: &[Mount],
) -> Result<Vec<Mount>, SetupError> {
    let mut files = Vec::new();
    let failed = |what: &str, e: io::Error| SetupError::container(format!("{what} of the pod cannot be written: {e}"));
    let has_own = mounts.iter().any(|m| m.container_path == HOSTS);
    if !has_own && (pod.spec.host_network || !ips.is_empty()) {
        let path = host.pod_dir(pod.uid()).join("etc-hosts");
        let text = hosts(host, pod, ips).map_err(|e| failed(HOSTS, e))?;
        write(&path, &text, 0o644).map_err(|e| failed(HOSTS, e))?;
        files.push(mount(HOSTS, &path));
    }
    if !container.termination_message_path.is_empty() {
        let path = termination_path(host, pod.uid(), &container.name, attempt);
        // The program appends as whoever it runs as.
        write(&path, "", 0o666).map_err(|e| failed("the termination message file", e))?;
        forget_old_runs(host, pod, container, attempt);
        files.push(mount(&container.termination_message_path, &path));
    }
    Ok(files)
}

fn mount(container_path: &str, host_path: &Path) -> Mount {
    let absolute = container_path.starts_with('/');
    Mount {
        container_path: if absolute {
            container_path.to_owned()
        } else {
            format!("/{container_path}")
        },
        host_path: host_path.to_string_lossy().into_owned(),
        ..Mount::default()
    }
}

/// Writes in place: containers that run have this very file mounted.
fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o750).create(folder)?;
    }
    // What is the same already is not written. A pod's containers may have made it long: such a file is not read.
    let length = fs::metadata(path).map(|m| m.len()).ok();
    let same = || fs::read(path).is_ok_and(|there| there == text.as_bytes());
    if length != u64::try_from(text.len()).ok() || !same() {
        fs::write(path, text)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn forget_old_runs(host: &Host, pod: &Pod, container: &Container, attempt: u32) {
    let Some(first) = attempt.checked_sub(KEPT_RUNS) else {
        return;
    };
    // One new run at a time makes one old; those left by a killed agent go with the pod.
    let path = termination_path(host, pod.uid(), &container.name, first);
    if let Err(error) = fs::remove_file(&path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(path = %path.display(), %error, "An old termination message cannot be removed.");
    }
}

/// The machine's own hosts file; empty when it has none. Its comments may be in any encoding, and a long file is cut anywhere.
pub(super) fn machine_hosts(path: &Path) -> io::Result<String> {
    let file = match fs::File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        other => other?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_HOSTS).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The hosts file: the machine's own for a pod in its network, else one with the pod's addresses.
fn hosts(host: &Host, pod: &Pod, ips: &[IpAddr]) -> io::Result<String> {
    let mut text = String::new();
    if pod.spec.host_network {
        text.push_str("# Kubernetes-managed hosts file (host network).\n");
        text.push_str(&machine_hosts(Path::new(HOSTS))?);
    } else {
        text.push_str(
            "# Kubernetes-managed hosts file.\n\
             127.0.0.1\tlocalhost\n\
             ::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\n\
             fe00::0\tip6-mcastprefix\n\
             fe00::1\tip6-allnodes\n\
             fe00::2\tip6-allrouters\n",
        );
        let (name, domain) = host_name(pod, &host.cluster_domain);
        for ip in ips {
            if domain.is_empty() {
                text.push_str(&format!("{ip}\t{name}\n"));
            } else {
                text.push_str(&format!("{ip}\t{name}.{domain}\t{name}\n"));
            }
        }
    }
    if !pod.spec.host_aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in &pod.spec.host_aliases {
        text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.join("\t")));
    }
    Ok(text)
}
