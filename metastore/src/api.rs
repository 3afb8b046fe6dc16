//! The Kubernetes API over the store.
//!
//! Owns the Kubernetes meaning of objects: which kinds there are (rows of [`builtin_kinds`] and of definitions that people create), paths and
//! verbs, patches, selectors, tables, watches, validation, discovery. Never touches SQLite, never knows a device or a gateway: what those need
//! beyond the table is an [`Admission`] given by the daemon. Called by the daemons (over TLS, over tunnels, in process as a tower service) and by
//! their controllers through [`ApiServer::apply_internal`] and its sisters.
//!
//! How a request goes: `request` reads path, query and accepted forms; `token` and `auth` say who asks and
//! whether they may, by roles (`rbac`); `read` and `watch` answer from stored bytes; `verbs` reads bodies and ends in `write`, the one place where objects change; `apply` knows who owns which of their fields. What takes
//! longer than a request (`lifecycle`, `garbage`) follows the store. Errors are [`Status`]es all the way.
//!
//! Invariants: a 2xx to a write follows its commit; every object stored has passed its schema; a body, a selector, a patch and a schema are
//! bounded before they are worked on; a stored object is not encoded again to be shown in its stored form.

mod accounts;
mod addresses;
mod apply;
mod audit;
mod auth;
mod body;
mod budget;
mod builtin;
mod codec;
mod connect;
mod custom;
mod definitions;
mod delete;
mod discovery;
mod evict;
mod faults;
mod fuzz;
mod garbage;
mod internal;
mod jsonpath;
mod kinds;
mod lifecycle;
mod measured;
mod meta;
mod names;
mod openapi;
mod own_service;
mod patch;
mod priority;
mod protobuf;
mod rbac;
mod read;
mod request;
mod review;
mod rules;
mod schema;
mod selector;
mod serve;
mod server;
mod status;
mod table;
mod token;
mod verbs;
mod watch;
mod write;

pub use addresses::{RangeError, ServiceRange};
pub use audit::STREAM as AUDIT_STREAM;
pub use auth::{ANONYMOUS, Admission, AdmitContext, Attributes, Authorizer, Decision, MASTERS, Operation, User};
pub use body::ApiBody;
pub use builtin::{builtin_kinds, cron, selects as selector_selects};
pub use codec::{MAX_BODY, yaml as read_yaml};
pub use connect::{Connect, Connected, Connector, Measurement, ProxyPort};
pub use delete::{DeleteOptions, Propagation};
pub use fuzz::{TARGETS as FUZZ_TARGETS, Target as FuzzTarget};
pub use garbage::Collects;
pub use internal::{Applied, Parts};
pub use kinds::KindSpec;
pub use measured::Measured;
pub use request::Query;
pub use rules::{RuleEngine, Rules, Spent, Verdict};
pub use schema::quantity_nanos;
pub use serve::{Identify, Peer, serve, serve_stream};
pub use server::{ApiServer, BuildError, Builder, OwnProgram, ResourceId, refusal};
pub use status::{Cause, Details, Status};
pub use token::{IssuedToken, KeyError, TokenOptions};
