//! Kubernetes objects in one SQLite file, served as the Kubernetes API.
//!
//! [`store`] owns the file: transactions, the revision counter, watches, the change log, journals and snapshots. It knows nothing of kinds.
//! [`api`] owns the Kubernetes meaning: kinds, discovery, verbs, patches, tables, definitions, admission. It never touches SQLite.

pub mod api;
pub mod store;
