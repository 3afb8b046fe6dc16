//! Devices: what a device is (kinds), which values it may take (values, models), how its twin's registers merge, and the
//! twin itself as a state machine without I/O.
//!
//! Owns the kinds `devices.kubeedge.io/v1beta1` DeviceModel, Device and DeviceStatus and `edge.kubeedge.io/v1` EdgeNode with
//! their CustomResourceDefinitions; the check of values; stamps, registers and merging; the payloads and topics of the MQTT
//! twin protocol. Never opens a socket, reads a clock or spawns a task: time comes as an argument. Called by the hub and the
//! gateway alike, so that both check and merge by the same code.

mod admit;
mod conflict;
mod crds;
mod desired;
#[doc(hidden)]
pub mod fuzzing;
pub mod hlc;
pub mod kinds;
mod models;
pub mod payload;
pub mod register;
mod rfc3339;
pub mod topic;
pub mod twin;
mod validate;
mod values;

pub use admit::{Who, admit_device};
pub use conflict::{Conflict, OVERRULED, Recorded, note_overruled, overruled};
#[cfg(feature = "schema")]
pub use crds::generate as generate_crds;
pub use crds::{CRDS, ROLES};
pub use desired::{
    CLEARED, Changed, MERGE_POLICY, Policies, check_twins, desired_registers, edge_registers, merge_device_desired,
};
pub use models::{MODELS, PRESS_01, ReadyMade};
pub use validate::{FieldError, FieldErrorKind, validate_device, validate_model};
pub use values::{
    MAX_PROPERTIES, MAX_PROPERTY_NAME, MAX_VALUE, Quoted, Rule, Rules, ValueError, check_desired, check_property_name,
    check_reported, check_value, same_value,
};
