//! Files the agent writes for people and scripts, whole or not at all.

use std::net::SocketAddr;
use std::path::Path;

use link::pki::{PkiError, write_atomic};
use serde_json::json;

/// Where the agent really listens; scripts and tests read it from `<data-dir>/edge.json`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Addresses {
    /// Local Kubernetes API.
    pub api: Option<SocketAddr>,
    /// Health listener.
    pub health: Option<SocketAddr>,
    /// Embedded broker.
    pub mqtt: Option<SocketAddr>,
}

/// Writes `<data-dir>/edge.json`.
///
/// # Errors
/// When the folder cannot be written.
pub(crate) fn write_addresses(data_dir: &Path, node: &str, at: &Addresses) -> Result<(), PkiError> {
    let text = json!({
        "node": node,
        "pid": std::process::id(),
        "api": at.api.map(|a| format!("https://{a}")),
        "health": at.health.map(|a| format!("http://{a}")),
        "mqtt": at.mqtt.map(|a| a.to_string()),
    })
    .to_string();
    write_atomic(&data_dir.join("edge.json"), text.as_bytes(), 0o644)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_readable_json() {
        let dir = tempfile::tempdir().unwrap();
        let at = Addresses {
            api: "127.0.0.1:10550".parse().ok(),
            ..Addresses::default()
        };
        write_addresses(dir.path(), "gw-1", &at).unwrap();
        let read: serde_json::Value =
            serde_json::from_slice(&std::fs::read(dir.path().join("edge.json")).unwrap()).unwrap();
        assert_eq!(read["api"], "https://127.0.0.1:10550");
        assert_eq!(read["mqtt"], serde_json::Value::Null);
        assert_eq!(read["node"], "gw-1");
    }
}
