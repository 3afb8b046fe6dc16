//! The seam for validation rules (`x-kubernetes-validations`): whoever builds a server may give it an engine that compiles and evaluates
//! them. Without one a definition that has rules is refused, as its objects would be accepted unchecked.

use std::sync::Arc;

use serde_json::Value;

use super::status::Cause;

/// What the rules of one object may cost together.
pub(crate) const OBJECT_BUDGET: u64 = 10_000_000;
/// What may be spent before the evaluation moves off the threads that serve requests.
pub(crate) const INLINE_BUDGET: u64 = 50_000;

/// Compiles the rules of schemas.
pub trait RuleEngine: Send + Sync + std::fmt::Debug {
    /// Compiles the rules in an `openAPIV3Schema` that stands at `path`; none when there are none. May take long.
    ///
    /// # Errors
    /// One cause for each rule that cannot be.
    fn compile(&self, schema: &Value, path: &str) -> Result<Option<Arc<dyn Rules>>, Vec<Cause>>;
}

/// The rules of one schema.
pub trait Rules: Send + Sync + std::fmt::Debug {
    /// Evaluates them for an object, and its former state when it is updated, spending at most `budget`.
    ///
    /// # Errors
    /// The budget was spent before all rules were evaluated.
    fn check(&self, new: &Value, old: Option<&Value>, budget: u64) -> Result<Verdict, Spent>;
}

/// What rules say about an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What is wrong.
    pub causes: Vec<Cause>,
    /// What is wrong and was so before, in parts that did not change.
    pub warnings: Vec<String>,
}

/// A budget was not enough; what was found until then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spent(pub Verdict);

/// Where rules stand in a schema: the fields.
pub(crate) fn places(schema: &Value, path: &str, out: &mut Vec<String>) {
    let Some(map) = schema.as_object() else { return };
    if let Some(Value::Array(rules)) = map.get("x-kubernetes-validations")
        && !rules.is_empty()
    {
        out.push(format!("{path}.x-kubernetes-validations"));
    }
    if let Some(Value::Object(members)) = map.get("properties") {
        for (name, member) in members {
            places(member, &format!("{path}.properties[{name}]"), out);
        }
    }
    for field in ["items", "additionalProperties"] {
        if let Some(below) = map.get(field) {
            places(below, &format!("{path}.{field}"), out);
        }
    }
}
