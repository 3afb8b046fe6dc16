//! What a container may do: the pod's word where the container has none of its own.

use std::path::{Component, Path};

use cri::v1::security_profile::ProfileType;
use cri::v1::{
    Capability, Int64Value, LinuxContainerSecurityContext, NamespaceMode, NamespaceOption, SeLinuxOption,
    SecurityProfile, SupplementalGroupsPolicy,
};

use super::{Host, SetupError, shown};
use crate::images::ImageRef;
use crate::pod::{Container, Pod, SeLinuxOptions, SeccompProfile};

/// What no container sees of the machine unless it says `procMount: Unmasked`.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// What none writes to.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A container's security context. `target`: the container whose processes it sees.
///
/// # Errors
/// When it would run as root and must not, or names a profile wrongly.
pub(super) fn context(
    pod: &Pod,
    container: &Container,
    image: &ImageRef,
    target: Option<&str>,
    host: &Host,
) -> Result<LinuxContainerSecurityContext, SetupError> {
    let (of_pod, own) = (&pod.spec.security_context, &container.security_context);
    check_user(pod, container, image)?;
    let user = own.run_as_user.or(of_pod.run_as_user);
    let mut namespaces = namespaces(pod);
    if let Some(target) = target
        && namespaces.pid() == NamespaceMode::Container
    {
        namespaces.set_pid(NamespaceMode::Target);
        target.clone_into(&mut namespaces.target_id);
    }
    let seccomp = own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref());
    let seccomp = match seccomp {
        Some(profile) => seccomp_profile(profile, host)?,
        None => profile(ProfileType::Unconfined, String::new()),
    };
    let apparmor = own.app_armor_profile.as_ref().or(of_pod.app_armor_profile.as_ref());
    let selinux = own.se_linux_options.as_ref().or(of_pod.se_linux_options.as_ref());
    let masked = own.proc_mount.as_deref() != Some("Unmasked");
    let paths = |list: &[&str]| list.iter().filter(|_| masked).map(|p| (*p).to_owned()).collect();
    Ok(LinuxContainerSecurityContext {
        capabilities: Some(Capability {
            add_capabilities: own.capabilities.add.clone(),
            drop_capabilities: own.capabilities.drop.clone(),
            ..Capability::default()
        }),
        privileged: own.privileged.unwrap_or(false),
        namespace_options: Some(namespaces),
        selinux_options: selinux.map(self::selinux),
        run_as_user: number(user.or(image.user)),
        run_as_group: number(own.run_as_group.or(of_pod.run_as_group)),
        run_as_username: match user {
            Some(_) => String::new(),
            None => image.user_name.clone(),
        },
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: groups(pod),
        supplemental_groups_policy: groups_policy(pod).into(),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(seccomp),
        apparmor: apparmor.map(apparmor_profile),
        ..LinuxContainerSecurityContext::default()
    })
}

/// That a container which must not run as root does not.
fn check_user(pod: &Pod, container: &Container, image: &ImageRef) -> Result<(), SetupError> {
    let (of_pod, own) = (&pod.spec.security_context, &container.security_context);
    if own.run_as_non_root.or(of_pod.run_as_non_root) != Some(true) {
        return Ok(());
    }
    let whose = || format!("(pod: {:?}, container: {})", shown(pod), container.name);
    let refused = match (own.run_as_user.or(of_pod.run_as_user), image.user) {
        (Some(0), _) => format!("container's runAsUser breaks non-root policy {}", whose()),
        (Some(_), _) => return Ok(()),
        (None, None) if !image.user_name.is_empty() => format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {}",
            image.user_name,
            whose()
        ),
        (None, Some(0)) => format!("container has runAsNonRoot and image will run as root {}", whose()),
        (None, Some(user)) if i32::try_from(user).is_err() || user < 0 => format!(
            "container has runAsNonRoot and image has an invalid user id ({user}). (Must be 1-({})): must be between 0 and {}, inclusive {}",
            i32::MAX,
            i32::MAX,
            whose()
        ),
        (None, _) => return Ok(()),
    };
    Err(SetupError::container(refused))
}

/// Which of the machine's namespaces a pod is in.
pub(super) fn namespaces(pod: &Pod) -> NamespaceOption {
    let spec = &pod.spec;
    let node_or_pod = |node: bool| if node { NamespaceMode::Node } else { NamespaceMode::Pod };
    let pid = if spec.host_pid {
        NamespaceMode::Node
    } else if spec.share_process_namespace {
        NamespaceMode::Pod
    } else {
        NamespaceMode::Container
    };
    NamespaceOption {
        network: node_or_pod(spec.host_network).into(),
        pid: pid.into(),
        ipc: node_or_pod(spec.host_ipc).into(),
        ..NamespaceOption::default()
    }
}

/// The groups that a pod's programs are in beside their own.
pub(super) fn groups(pod: &Pod) -> Vec<i64> {
    let context = &pod.spec.security_context;
    context
        .fs_group
        .into_iter()
        .chain(context.supplemental_groups.iter().copied())
        .collect()
}

pub(super) fn groups_policy(pod: &Pod) -> SupplementalGroupsPolicy {
    match pod.spec.security_context.supplemental_groups_policy.as_str() {
        "Strict" => SupplementalGroupsPolicy::Strict,
        _ => SupplementalGroupsPolicy::Merge,
    }
}

pub(super) fn number(value: Option<i64>) -> Option<Int64Value> {
    value.map(|value| Int64Value { value })
}

pub(super) fn selinux(options: &SeLinuxOptions) -> SeLinuxOption {
    SeLinuxOption {
        user: options.user.clone(),
        role: options.role.clone(),
        r#type: options.ty.clone(),
        level: options.level.clone(),
    }
}

/// The profile that the runtime has for those who name none.
pub(super) fn runtime_default() -> SecurityProfile {
    profile(ProfileType::RuntimeDefault, String::new())
}

fn profile(ty: ProfileType, localhost_ref: String) -> SecurityProfile {
    SecurityProfile {
        profile_type: ty.into(),
        localhost_ref,
    }
}

fn seccomp_profile(said: &SeccompProfile, host: &Host) -> Result<SecurityProfile, SetupError> {
    Ok(match said.ty.as_str() {
        "RuntimeDefault" => runtime_default(),
        "Localhost" if said.localhost_profile.is_empty() => {
            let missing = "localhostProfile must be set if seccompProfile type is Localhost.";
            return Err(SetupError::container(missing));
        }
        // Whoever makes a pod has no say in what else is on the machine.
        "Localhost" if !is_inside(&said.localhost_profile) => {
            let wrong = "localhostProfile must be a relative path without '..'";
            return Err(SetupError::container(wrong));
        }
        "Localhost" => {
            let path = host.seccomp.join(&said.localhost_profile);
            profile(ProfileType::Localhost, path.to_string_lossy().into_owned())
        }
        _ => profile(ProfileType::Unconfined, String::new()),
    })
}

/// Whether a path stays in the folder that it is joined to.
fn is_inside(path: &str) -> bool {
    Path::new(path).components().all(|c| matches!(c, Component::Normal(_)))
}

fn apparmor_profile(said: &SeccompProfile) -> SecurityProfile {
    match said.ty.as_str() {
        "RuntimeDefault" => runtime_default(),
        "Localhost" => profile(ProfileType::Localhost, said.localhost_profile.clone()),
        _ => profile(ProfileType::Unconfined, String::new()),
    }
}
