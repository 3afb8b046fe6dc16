//! How important a new Pod is: the number behind the name of its PriorityClass, and the class of Pods that name none. Asked of every Pod where
//! pods run; a server that runs none leaves them as they come.

use serde_json::{Value, json};

use super::auth::{Admission, AdmitContext, Operation};
use super::status::Status;
use super::write::{parse, store_status};
use crate::store::{ListOptions, ObjectKey, Scope};

const GROUP: &str = "scheduling.k8s.io";
const PLURAL: &str = "priorityclasses";

/// Gives Pods their priority.
#[derive(Debug)]
pub(crate) struct Ranks;

impl Admission for Ranks {
    fn admit(&self, context: &AdmitContext<'_>, _: Option<&Value>, new: &mut Value) -> Result<(), Status> {
        let kind = context.kind;
        let is_pod = kind.group.is_empty() && &*kind.plural == "pods";
        if !is_pod || context.op != Operation::Create || !context.subresource.is_empty() {
            return Ok(());
        }
        let name = new["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
        let class = if name.is_empty() {
            usual(context)?
        } else {
            let key = ObjectKey::new(GROUP, PLURAL, "", name.as_str());
            let found = context.store.get(&key).map_err(store_status)?;
            found.map(|object| parse(&object)).transpose()?
        };
        let said = new["spec"]["priority"].as_i64();
        let Some(class) = class else {
            // With its number it comes from a cluster that knows the class.
            if name.is_empty() || said.is_some() {
                return Ok(());
            }
            let why = format!("no PriorityClass with name {name} was found");
            return Err(Status::forbidden("", "pods", context.name, &why));
        };
        let value = class["value"].as_i64().unwrap_or(0);
        if let Some(said) = said.filter(|said| !name.is_empty() && *said != value) {
            let why = format!(
                "the integer value of priority ({said}) must not be provided in pod spec; priority admission controller computed {value} \
                 from the given PriorityClass name"
            );
            return Err(Status::forbidden("", "pods", context.name, &why));
        }
        let spec = &mut new["spec"];
        spec["priorityClassName"] = class["metadata"]["name"].clone();
        spec["priority"] = json!(value);
        // Without a class of its own it began with what every new pod begins with.
        if name.is_empty() || spec.get("preemptionPolicy").is_none() {
            let policy = class["preemptionPolicy"].as_str().unwrap_or("PreemptLowerPriority");
            spec["preemptionPolicy"] = policy.into();
        }
        Ok(())
    }
}

/// The class of Pods that name none; of several the least important.
fn usual(context: &AdmitContext<'_>) -> Result<Option<Value>, Status> {
    let listed = context.store.list(&Scope::all(GROUP, PLURAL), ListOptions::default());
    let mut least: Option<Value> = None;
    for object in listed.map_err(store_status)?.items {
        let class: Value = parse(&object)?;
        let less = |than: &Value| class["value"].as_i64() < than["value"].as_i64();
        if class["globalDefault"] == true && least.as_ref().is_none_or(less) {
            least = Some(class);
        }
    }
    Ok(least)
}
