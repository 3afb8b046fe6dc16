//! The CustomResourceDefinitions of our kinds: the committed files, and with feature `schema` their making from the types.

/// The definitions that a hub without Karmada above it serves, as committed in `crds/`, one YAML document each.
pub const CRDS: &[&str] = &[
    include_str!("../crds/policy.karmada.io_propagationpolicies.yaml"),
    include_str!("../crds/policy.karmada.io_clusterpropagationpolicies.yaml"),
    include_str!("../crds/policy.karmada.io_overridepolicies.yaml"),
    include_str!("../crds/policy.karmada.io_clusteroverridepolicies.yaml"),
    include_str!("../crds/work.karmada.io_resourcebindings.yaml"),
    include_str!("../crds/work.karmada.io_clusterresourcebindings.yaml"),
    WORK_CRD,
    include_str!("../crds/cluster.karmada.io_clusters.yaml"),
    include_str!("../crds/apps.kurator.dev_federateddeployments.yaml"),
];

/// The definition of Work: all that a gateway serves of them.
pub const WORK_CRD: &str = include_str!("../crds/work.karmada.io_works.yaml");

/// What the default roles of a server may do with our kinds, in the form of its table of default roles.
pub const ROLES: &str = include_str!("../crds/roles.txt");

#[cfg(feature = "schema")]
mod generate;
#[cfg(feature = "schema")]
pub use generate::generate;

#[cfg(test)]
mod tests;
