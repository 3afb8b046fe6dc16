//! The JSON of the twin protocol: strict reading of requests, and the messages the gateway publishes, byte for byte as
//! KubeEdge writes them (field order included; texts are escaped as JSON demands, not as HTML).
//!
//! Reading is capped before anything is allocated and borrows from the payload. An error carries the request's `event_id`
//! when that could be read, so it can be answered to whoever asked.

mod encode;
mod parse;

use std::borrow::Cow;
use std::collections::BTreeMap;

pub use encode::{MemberDevice, error_result, membership_result, membership_updated, state_result};
pub(crate) use encode::{TwinEntry, TwinValue, twin_delta, twin_document, twin_get_result, twin_update_result};
pub use parse::{parse_get, parse_state_update, parse_twin_update};

/// The longest payload that is read, in bytes: sixteen values of full length.
pub const MAX_PAYLOAD: usize = 1024 * 1024;
/// The longest `event_id`, in bytes.
pub const MAX_EVENT_ID: usize = 256;

/// A `twin/update` request: what to change in a twin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TwinUpdate<'a> {
    /// The client's name for the request, echoed in the answers; may be empty.
    pub event_id: Cow<'a, str>,
    /// The request has a name of its own, or says when it, or each of its values, was made: one that reads the same is this one
    /// sent again.
    pub identified: bool,
    /// The properties, each once.
    pub entries: Vec<(Cow<'a, str>, Entry<'a>)>,
}

/// What to change in one property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// Take the property out of the twin.
    Delete,
    /// Set the reported value, the desired one, or both.
    Set {
        /// The desired value.
        expected: Option<Cow<'a, str>>,
        /// The reported value.
        actual: Option<Cow<'a, str>>,
        /// The type as the message has it; counts only while there is no model.
        value_type: Option<Cow<'a, str>>,
        /// More about the reported value (its quality, the device's own time), kept with it. Empty for MQTT.
        metadata: BTreeMap<String, String>,
    },
}

impl<'a> Entry<'a> {
    /// A reported value.
    pub fn actual(value: impl Into<Cow<'a, str>>) -> Self {
        Self::Set {
            expected: None,
            actual: Some(value.into()),
            value_type: None,
            metadata: BTreeMap::new(),
        }
    }

    /// A desired value.
    pub fn expected(value: impl Into<Cow<'a, str>>) -> Self {
        Self::Set {
            expected: Some(value.into()),
            actual: None,
            value_type: None,
            metadata: BTreeMap::new(),
        }
    }
}

/// A `state/update` request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateUpdate<'a> {
    /// The client's name for the request; may be empty.
    pub event_id: Cow<'a, str>,
    /// As in [`TwinUpdate`].
    pub identified: bool,
    /// The state of the device.
    pub state: Cow<'a, str>,
}

/// A request that could not be read. Answer it with [`error_result`] and code 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct BadRequest {
    /// The request's `event_id`, as far as it could be read; empty otherwise.
    pub event_id: String,
    /// What is wrong.
    pub reason: String,
}

#[cfg(test)]
mod tests;
