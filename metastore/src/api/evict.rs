//! Evictions: a pod is asked to leave its node, as far as the budget of those it belongs to allows it. Whoever keeps budgets counts; here they are
//! only read, and what was granted is noted in them.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::builtin;
use super::codec::Parsed;
use super::delete::DeleteOptions;
use super::kinds::KindSpec;
use super::meta;
use super::request::WriteQuery;
use super::server::{Call, Core};
use super::status::{Cause, Details, Status};
use super::write::{Part, Writing, parse, store_status};
use crate::store::ListOptions;

/// Most evictions that a budget grants before its keeper has counted them.
const MOST_GRANTED: usize = 2000;
/// When to try again while a budget is being counted.
const RETRY_SECONDS: u32 = 10;

impl Core {
    /// Deletes an object of which `say` tells why, if its budget allows it.
    pub(crate) async fn evict(
        self: &Arc<Self>,
        call: &Call,
        options: WriteQuery,
        mut conditions: DeleteOptions,
        say: fn(&mut Value, &str),
    ) -> Result<(), Status> {
        let (kind, name) = (&call.kind, call.name.as_deref().unwrap_or_default());
        let namespace = call.namespace.as_deref().unwrap_or_default();
        let Some(stored) = self.read(&kind.key(namespace, name))? else {
            return Err(Status::not_found(&kind.group, &kind.plural, name));
        };
        let pod = parse(&stored)?;
        if conditions
            .version
            .take()
            .is_some_and(|wanted| wanted != stored.revision.to_string())
        {
            return Err(Status::modified(&kind.group, &kind.plural, name));
        }
        if !is_no_loss(&pod) {
            self.take_from_budget(call, options, &pod, name).await?;
        }
        self.update(call.writing(Part::Whole, options), name, false, &mut |current| {
            let mut value = current.clone();
            say(&mut value, &meta::now());
            Ok(Parsed {
                value,
                duplicates: Vec::new(),
            })
        })
        .await?;
        self.delete(call.writing(Part::Main, options), name, &conditions)
            .await?;
        Ok(())
    }

    async fn take_from_budget(
        self: &Arc<Self>,
        call: &Call,
        options: WriteQuery,
        pod: &Value,
        name: &str,
    ) -> Result<(), Status> {
        let Some(kind) = self.registry().get("policy", "v1", "poddisruptionbudgets").cloned() else {
            return Ok(());
        };
        let namespace = call.namespace.as_deref().unwrap_or_default();
        let budgets = self.budgets_of(&kind, namespace, pod)?;
        let budget = match budgets.as_slice() {
            [] => return Ok(()),
            [one] => meta::text(one, "name").to_owned(),
            _ => {
                let why =
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(Status::internal(why));
            }
        };
        let ready = builtin::is_condition(pod, "Ready");
        let writing = Writing {
            kind: &kind,
            part: Part::Status,
            subresource: "status",
            ..call.writing(Part::Status, options)
        };
        self.update(writing, &budget, false, &mut |current| {
            let mut value = current.clone();
            if !is_free(current, ready) {
                grant(&mut value, name, &meta::now())?;
            }
            Ok(Parsed {
                value,
                duplicates: Vec::new(),
            })
        })
        .await?;
        Ok(())
    }

    /// The budgets that count a pod.
    fn budgets_of(&self, kind: &KindSpec, namespace: &str, pod: &Value) -> Result<Vec<Value>, Status> {
        let listed = self
            .store
            .list(&kind.scope(Some(namespace)), ListOptions::default())
            .map_err(store_status)?;
        let mut out = Vec::new();
        for object in &listed.items {
            let budget = parse(object)?;
            let counts = budget.pointer("/spec/selector").is_some_and(|selector| {
                selector.as_object().is_some_and(Map::is_empty)
                    || builtin::selects(selector, pod.pointer("/metadata/labels"))
            });
            if counts {
                out.push(budget);
            }
        }
        Ok(out)
    }
}

fn number(budget: &Value, field: &str) -> i64 {
    budget
        .pointer(&format!("/status/{field}"))
        .and_then(Value::as_i64)
        .unwrap_or(0)
}

/// A pod that does nothing, or goes already.
fn is_no_loss(pod: &Value) -> bool {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    matches!(phase, "Succeeded" | "Failed" | "Pending") || meta::is_terminating(pod)
}

/// Whether a pod that is not ready may go without being counted.
fn is_free(budget: &Value, ready: bool) -> bool {
    let policy = budget
        .pointer("/spec/unhealthyPodEvictionPolicy")
        .and_then(Value::as_str);
    let wanted = number(budget, "desiredHealthy");
    !ready && (policy == Some("AlwaysAllow") || (wanted > 0 && number(budget, "currentHealthy") >= wanted))
}

/// Takes one from what a budget allows, and notes for whom.
fn grant(budget: &mut Value, pod: &str, now: &str) -> Result<(), Status> {
    let name = meta::text(budget, "name").to_owned();
    let allowed = number(budget, "disruptionsAllowed");
    if number(budget, "observedGeneration") < i64::try_from(meta::generation(budget)).unwrap_or(0) {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return Err(refused(Some(RETRY_SECONDS), why));
    }
    let granted = budget.pointer("/status/disruptedPods").and_then(Value::as_object);
    if allowed < 0 || granted.is_some_and(|g| g.len() > MOST_GRANTED) {
        let why = "the budget grants no more before it has been counted";
        return Err(Status::forbidden("policy", "poddisruptionbudget", &name, why));
    }
    if allowed == 0 {
        let why = format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            number(budget, "desiredHealthy"),
            number(budget, "currentHealthy")
        );
        return Err(refused(None, why));
    }
    if let Some(Value::Object(status)) = budget.get_mut("status") {
        status.insert("disruptionsAllowed".to_owned(), json!(allowed - 1));
        let granted = status
            .entry("disruptedPods".to_owned())
            .or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(granted) = granted {
            granted.insert(pod.to_owned(), json!(now));
        }
    }
    Ok(())
}

fn refused(retry_after: Option<u32>, why: String) -> Status {
    let mut status = Status::too_many_requests(0);
    "Cannot evict pod as it would violate the pod's disruption budget.".clone_into(&mut status.message);
    let cause = Cause {
        reason: "DisruptionBudget".to_owned(),
        message: why,
        field: String::new(),
    };
    status.details = Some(Box::new(Details {
        causes: vec![cause],
        retry_after,
        ..Details::default()
    }));
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(allowed: i64, observed: i64) -> Value {
        json!({"metadata": {"name": "b", "generation": 2}, "status": {"disruptionsAllowed": allowed, "observedGeneration": observed,
            "desiredHealthy": 2, "currentHealthy": 2}})
    }

    #[test]
    fn a_budget_grants_what_it_has_and_notes_it() {
        let mut one = budget(1, 2);
        grant(&mut one, "p", "now").unwrap();
        assert_eq!(
            (&one["status"]["disruptionsAllowed"], &one["status"]["disruptedPods"]),
            (&json!(0), &json!({"p": "now"}))
        );
        let refused = grant(&mut one, "q", "now").unwrap_err();
        assert_eq!((refused.code, refused.reason), (429, "TooManyRequests"));
        assert_eq!(refused.details.unwrap().causes[0].reason, "DisruptionBudget");
        let late = grant(&mut budget(1, 1), "p", "now").unwrap_err();
        assert_eq!(late.details.unwrap().retry_after, Some(RETRY_SECONDS));
        assert_eq!(grant(&mut budget(-1, 2), "p", "now").unwrap_err().code, 403);
    }

    #[test]
    fn who_does_nothing_is_not_counted() {
        assert!(is_no_loss(&json!({"status": {"phase": "Pending"}})));
        assert!(!is_no_loss(&json!({"status": {"phase": "Running"}})));
        assert!(is_free(&budget(0, 2), false));
        assert!(!is_free(&budget(0, 2), true));
    }
}
