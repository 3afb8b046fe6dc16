//! x
pub const CRDS: &[&str] = &[];
pub const ROLES: &str = "";
