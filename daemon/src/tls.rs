//! The one place that chooses a cryptography provider.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// The provider every TLS configuration is built with.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Makes it the process's default, for libraries that ask for one. Calling it again does nothing.
pub fn install_provider() {
    // An error says that one is installed already, by an earlier call.
    drop(rustls::crypto::ring::default_provider().install_default());
}
