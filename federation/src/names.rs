//! The labels, annotations, finalizers and names that Karmada's parts know each other's objects by.

/// On everything that was delivered through a Work: it may be changed and deleted through one.
pub const MANAGED: &str = "karmada.io/managed";
/// Finalizer of a Work that delivers to a member: its objects there go first.
pub const EXECUTION_FINALIZER: &str = "karmada.io/execution-controller";
/// Finalizer of a Cluster: what was made for it goes first.
pub const CLUSTER_FINALIZER: &str = "karmada.io/cluster-controller";
/// Label of namespaces that are Karmada's own.
pub const SYSTEM: &str = "karmada.io/system";
/// Annotation of a manifest: the namespace of its Work.
pub const WORK_NAMESPACE: &str = "work.karmada.io/namespace";
/// Annotation of a manifest: the name of its Work.
pub const WORK_NAME: &str = "work.karmada.io/name";
/// Annotation of a Work and of its manifests: `abort` or `overwrite`, when an object of the name is there that no Work delivered.
pub const CONFLICT_RESOLUTION: &str = "work.karmada.io/conflict-resolution";
/// Label of a Work and of its manifests: which Work it is, whatever its name.
pub const WORK_ID: &str = "work.karmada.io/permanent-id";
/// Label of the binding's id on Works and manifests.
pub const BINDING_ID: &str = "resourcebinding.karmada.io/permanent-id";
/// The same of a ClusterResourceBinding.
pub const CLUSTER_BINDING_ID: &str = "clusterresourcebinding.karmada.io/permanent-id";
/// Annotation: the namespace of the binding.
pub const BINDING_NAMESPACE: &str = "resourcebinding.karmada.io/namespace";
/// Annotation: the name of the binding.
pub const BINDING_NAME: &str = "resourcebinding.karmada.io/name";
/// Annotation: the name of the ClusterResourceBinding.
pub const CLUSTER_BINDING_NAME: &str = "clusterresourcebinding.karmada.io/name";
/// Label of the policy's id on templates, bindings and manifests.
pub const POLICY_ID: &str = "propagationpolicy.karmada.io/permanent-id";
/// The same of a ClusterPropagationPolicy.
pub const CLUSTER_POLICY_ID: &str = "clusterpropagationpolicy.karmada.io/permanent-id";
/// Annotation: the namespace of the policy that claimed a template.
pub const POLICY_NAMESPACE: &str = "propagationpolicy.karmada.io/namespace";
/// Annotation: its name.
pub const POLICY_NAME: &str = "propagationpolicy.karmada.io/name";
/// Annotation: the name of the ClusterPropagationPolicy that claimed a template.
pub const CLUSTER_POLICY_NAME: &str = "clusterpropagationpolicy.karmada.io/name";
/// Annotation: the template's uid.
pub const TEMPLATE_UID: &str = "resourcetemplate.karmada.io/uid";
/// Annotation: the template's generation, where it has one.
pub const TEMPLATE_GENERATION: &str = "resourcetemplate.karmada.io/generation";
/// Annotation: the labels that the manifest carries, sorted, with commas between: one that is gone from the list goes at the member.
pub const MANAGED_LABELS: &str = "resourcetemplate.karmada.io/managed-labels";
/// Annotation: the same of annotations.
pub const MANAGED_ANNOTATIONS: &str = "resourcetemplate.karmada.io/managed-annotations";
/// Label: the member's number of replicas stays (an autoscaler there has a say in it).
pub const RETAIN_REPLICAS: &str = "resourcetemplate.karmada.io/retain-replicas";
/// Annotation of a Work: the OverridePolicies that had a part in it.
pub const APPLIED_OVERRIDES: &str = "policy.karmada.io/applied-overrides";
/// The same of ClusterOverridePolicies.
pub const APPLIED_CLUSTER_OVERRIDES: &str = "policy.karmada.io/applied-cluster-overrides";
/// Label of a namespace that stays out of all members.
pub const SKIP_AUTO_PROPAGATION: &str = "namespace.karmada.io/skip-auto-propagation";
/// Taint of a Cluster that is not ready.
pub const TAINT_NOT_READY: &str = "cluster.karmada.io/not-ready";
/// Taint of a Cluster that nobody speaks for.
pub const TAINT_UNREACHABLE: &str = "cluster.karmada.io/unreachable";
/// In the body that a gateway gets of a Work that is being deleted above.
pub const DELETING: &str = "kurator.dev/deleting";

/// Before a cluster's name in the namespace of its Works.
const EXECUTION_PREFIX: &str = "karmada-es-";
/// Longest name of a Cluster.
pub const MAX_CLUSTER_NAME: usize = 48;

/// The namespace of a cluster's Works.
pub fn execution_namespace(cluster: &str) -> String {
    format!("{EXECUTION_PREFIX}{cluster}")
}

/// The cluster whose Works are in this namespace.
pub fn cluster_of(namespace: &str) -> Option<&str> {
    namespace.strip_prefix(EXECUTION_PREFIX).filter(|name| !name.is_empty())
}

/// The name of the Cluster that stands for a gateway: the gateway's own, where that is a DNS label of at most 48 characters; else one made
/// of its beginning and a hash of all of it.
pub fn cluster_name(node: &str) -> String {
    let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let fits = node.len() <= MAX_CLUSTER_NAME
        && !node.is_empty()
        && node.chars().all(label)
        && !node.starts_with('-')
        && !node.ends_with('-');
    if fits {
        return node.to_owned();
    }
    let hash = format!("{:08x}", fnv1a(node.as_bytes()));
    let readable: String = node
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if label(c) { c } else { '-' })
        .take(MAX_CLUSTER_NAME - hash.len() - 1)
        .collect();
    match readable.trim_matches('-') {
        "" => format!("gateway-{hash}"),
        readable => format!("{readable}-{hash}"),
    }
}

/// The name of the Work that carries an object to a cluster: readable, and another for each object.
pub fn work_name(namespace: &str, name: &str, kind: &str) -> String {
    const LONGEST: usize = 253;
    let hash = format!("{:08x}", fnv1a(format!("{namespace}-{name}-{kind}").as_bytes()));
    let readable = name.to_ascii_lowercase().replace(':', ".");
    let mut end = readable.len().min(LONGEST - hash.len() - 1);
    while !readable.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}-{hash}", &readable[..end])
}

/// FNV-1a, 32 bits.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_have_names_that_karmada_takes() {
        assert_eq!(cluster_name("press-01"), "press-01");
        let dotted = cluster_name("press-01.hall7.example");
        assert!(dotted.starts_with("press-01-hall7-example-"), "{dotted}");
        assert_ne!(dotted, cluster_name("press-01-hall7.example"));
        for node in [&"x".repeat(253), "", "-a-", "A", "ä", "..."] {
            let name = cluster_name(node);
            assert!(name.len() <= MAX_CLUSTER_NAME, "{name}");
            assert_eq!(cluster_name(&name), name);
        }
    }

    #[test]
    fn works_are_found_by_their_namespace() {
        assert_eq!(cluster_of(&execution_namespace("gw-1")), Some("gw-1"));
        for other in ["default", "karmada-es-", "karmada-es"] {
            assert_eq!(cluster_of(other), None);
        }
    }

    #[test]
    fn each_object_has_a_work_of_its_own() {
        let name = work_name("fx", "web", "Deployment");
        assert!(name.starts_with("web-"));
        assert_ne!(name, work_name("fx", "web", "Service"));
        assert_eq!(
            work_name("", "system:a", "ClusterRole").split('-').next(),
            Some("system.a")
        );
        assert!(work_name("a", &"x".repeat(400), "B").len() <= 253);
    }
}
