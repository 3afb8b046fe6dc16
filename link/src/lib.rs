//! The link between a gateway and its hub.
//!
//! It carries `proto`'s session over QUIC, or over TLS on TCP where UDP does not get through, on one port number; it makes and
//! checks the certificates both sides are known by; it offers streams for HTTP beside the session. It knows nothing of objects,
//! devices or stores: `edgecore` and `cloudhub` call it.
//!
//! - [`pki`]: keys, certificates, kubeconfigs.
//! - [`Dialer`] (gateway) and [`HubEndpoint`] (hub) make a [`Connection`]: mutual TLS 1.3, one peer, many [`Stream`]s.
//! - [`driver`]: the one task that drives a session over a stream.
//! - [`tunnel`]: HTTP/1.1 on a stream. [`join`]: the exchange that turns a token into a certificate.
//! - [`Admission`]: how fast a hub takes gateways back.
//!
//! Whatever comes from the network has a cap before it is stored and a deadline while it is awaited.

mod admission;
mod connection;
mod der;
mod dial;
pub mod driver;
mod endpoint;
mod goodbye;
mod greeting;
pub mod join;
mod knock;
pub mod pki;
mod quic;
mod tls;
pub mod tunnel;

pub use admission::Admission;
pub use connection::{Closed, Connection, MAX_STREAMS, PeerIdentity, Stream, StreamKind, Transport};
pub use dial::{DialError, DialTimes, Dialer, QuicAvailable, SharedSocket, Transports, shared_socket};
pub use endpoint::{Accepted, BindError, Gate, HubConfig, HubEndpoint, HubLimits, OpenGate};
pub use goodbye::{CloseCode, Goodbye};
pub use tls::{TimeFloor, Trust};
