//! Writing a kubeconfig: one cluster, one user, one context, certificates inside, 0600.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::PkiError;
use super::ca::Credential;
use super::files::write_atomic;

/// What a kubeconfig says.
#[derive(Clone, Debug)]
pub struct Kubeconfig<'a> {
    /// Name of cluster, user and context.
    pub name: &'a str,
    /// `https://host:port`.
    pub server: &'a str,
    /// The CA that signed the server's certificate, PEM.
    pub ca_pem: &'a str,
    /// Who one is there.
    pub client: &'a Credential,
}

impl Kubeconfig<'_> {
    /// The YAML text. It holds a private key.
    pub fn to_yaml(&self) -> String {
        // Quoted as JSON strings, which YAML reads too: a name is never able to change the document's shape.
        let name = quote(self.name);
        format!(
            "apiVersion: v1\n\
             kind: Config\n\
             current-context: {name}\n\
             clusters:\n\
             - name: {name}\n\
             \x20 cluster:\n\
             \x20   server: {server}\n\
             \x20   certificate-authority-data: {ca}\n\
             contexts:\n\
             - name: {name}\n\
             \x20 context:\n\
             \x20   cluster: {name}\n\
             \x20   user: {name}\n\
             users:\n\
             - name: {name}\n\
             \x20 user:\n\
             \x20   client-certificate-data: {cert}\n\
             \x20   client-key-data: {key}\n",
            server = quote(self.server),
            ca = STANDARD.encode(self.ca_pem),
            cert = STANDARD.encode(&self.client.chain_pem),
            key = STANDARD.encode(&self.client.key_pem),
        )
    }
}

/// Writes the kubeconfig to `path`, readable by its owner only, whole or not at all.
///
/// # Errors
/// When the file cannot be written.
pub fn write_kubeconfig(path: &Path, config: &Kubeconfig<'_>) -> Result<(), PkiError> {
    write_atomic(path, config.to_yaml().as_bytes(), 0o600)
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
