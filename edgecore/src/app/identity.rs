//! What this gateway is called: by its certificate, by its configuration, or by its machine.

use link::pki::{Cert, NODE_PREFIX, is_node_name};

use super::AgentError;
use crate::config::Config;

/// The node name. The certificate's word is the hub's; a configuration that says otherwise is a mistake worth stopping for.
///
/// # Errors
/// When they disagree, or nothing gives a name that can be one.
pub(super) fn node_name(config: &Config) -> Result<String, AgentError> {
    let path = config.pki.join("node.crt");
    let certified = match std::fs::read_to_string(&path) {
        Ok(pem) => Cert::parse_pem(&pem)?
            .common_name
            .strip_prefix(NODE_PREFIX)
            .map(str::to_owned),
        Err(_) => None,
    };
    match (config.node_name.as_str(), certified) {
        ("", Some(name)) => Ok(name),
        (said, Some(name)) if said == name => Ok(name),
        (said, Some(name)) => Err(AgentError::Identity(format!(
            "nodeName is {said:?}, but {} is the certificate of {name:?}: remove nodeName, or join again under the new name",
            path.display()
        ))),
        ("", None) => {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            let host = host.trim().to_ascii_lowercase();
            if is_node_name(&host) {
                Ok(host)
            } else {
                Err(AgentError::Identity(format!(
                    "nodeName is not set and the host name {host:?} cannot be one"
                )))
            }
        }
        (said, None) => Ok(said.to_owned()),
    }
}
