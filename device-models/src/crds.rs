//! The CustomResourceDefinitions of our kinds: the committed files, and with feature `schema` their making from the types.

/// The definitions as committed in `crds/`, one YAML document each.
pub const CRDS: &[&str] = &[
    include_str!("../crds/devices.kubeedge.io_devicemodels.yaml"),
    include_str!("../crds/devices.kubeedge.io_devices.yaml"),
    include_str!("../crds/devices.kubeedge.io_devicestatuses.yaml"),
    include_str!("../crds/edge.kubeedge.io_edgenodes.yaml"),
];

/// What the default roles of a server may do with our kinds, in the form of its table of default roles.
pub const ROLES: &str = include_str!("../crds/roles.txt");

#[cfg(feature = "schema")]
mod generate;
#[cfg(feature = "schema")]
pub use generate::generate;

#[cfg(test)]
mod tests;
