//! What is checked and stamped when somebody writes a Device or a DeviceModel.

use std::sync::{Mutex, PoisonError};

use device_models::hlc::Clock;
use device_models::{FieldError, Who, admit_device, validate_model};
use metastore::api::{Admission, AdmitContext, Cause, Operation, Status};
use metastore::store::ObjectKey;
use serde_json::Value;

use super::HUB_USER;

const GROUP: &str = "devices.kubeedge.io";

/// The admission, with the hub's clock.
#[derive(Debug)]
pub(crate) struct DeviceAdmission(Mutex<Clock>);

impl DeviceAdmission {
    /// The clock begins at nothing: a new stamp is later than the one it replaces in any case, because it is made after it.
    pub(crate) fn new(hub_id: &str) -> Self {
        Self(Mutex::new(Clock::hub(hub_id, None)))
    }
}

fn status(context: &AdmitContext<'_>, errors: &[FieldError]) -> Status {
    let cause = |e: &FieldError| Cause {
        reason: e.kind.reason().to_owned(),
        message: e.message.clone(),
        field: e.path.clone(),
    };
    Status::invalid(
        GROUP,
        context.kind.kind(),
        context.name,
        errors.iter().map(cause).collect(),
    )
}

impl Admission for DeviceAdmission {
    fn admit(&self, context: &AdmitContext<'_>, old: Option<&Value>, new: &mut Value) -> Result<(), Status> {
        if context.kind.group() != GROUP || context.op == Operation::Delete {
            return Ok(());
        }
        match context.kind.plural() {
            "devicemodels" => {
                let errors = validate_model(new);
                if errors.is_empty() {
                    Ok(())
                } else {
                    Err(status(context, &errors))
                }
            }
            "devices" => {
                let name = new.pointer("/spec/deviceModelRef/name").and_then(Value::as_str);
                let model = match name {
                    Some(name) => context
                        .store
                        .get(&ObjectKey::new(GROUP, "devicemodels", context.namespace, name))
                        .map_err(|e| Status::internal(e.to_string()))?,
                    None => None,
                };
                let model = model
                    .map(|m| m.value())
                    .transpose()
                    .map_err(|e| Status::internal(e.to_string()))?;
                let who = match context.user.name.as_str() {
                    HUB_USER => Who::System(HUB_USER),
                    name => Who::Person(name),
                };
                let wall = daemon::clock::wall_ms();
                let mut clock = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                let admitted = if context.dry_run {
                    admit_device(old, new, model.as_ref(), &mut clock.clone(), wall, who)
                } else {
                    admit_device(old, new, model.as_ref(), &mut clock, wall, who)
                };
                admitted.map_err(|errors| status(context, &errors))
            }
            _ => Ok(()),
        }
    }
}
