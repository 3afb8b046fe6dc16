//! What a Job says about pods that fail, and about which successes are enough. Pure.

use serde_json::Value;

use super::super::look::{list, name, namespace, text, whole};
use super::indexes::Indexes;

/// What is to be done about a pod that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It counts, as any that no rule is about.
    Counts,
    /// It does not count.
    Ignored,
    /// Its index has failed.
    FailsIndex,
    /// The Job has failed; the message of its condition.
    FailsJob(String),
}

/// What a policy makes of a pod that failed: its first rule that is about it.
pub(super) fn judge(policy: Option<&Value>, pod: &Value) -> Verdict {
    let rules = policy.map_or(&[][..], |p| list(p, "/rules"));
    for (at, rule) in rules.iter().enumerate() {
        let action = text(rule, "/action");
        let what = match (rule.get("onExitCodes"), rule.get("onPodConditions")) {
            (Some(codes), _) => exited(pod, codes).map(|(container, code)| {
                format!(
                    "Container {container} for pod {}/{} failed with exit code {code} matching {action} rule at index {at}",
                    namespace(pod),
                    name(pod)
                )
            }),
            (None, Some(conditions)) => has_condition(pod, conditions).map(|ty| {
                format!(
                    "Pod {}/{} has condition {ty} matching {action} rule at index {at}",
                    namespace(pod),
                    name(pod)
                )
            }),
            (None, None) => None,
        };
        match (what, action) {
            (Some(message), "FailJob") => return Verdict::FailsJob(message),
            (Some(_), "FailIndex") => return Verdict::FailsIndex,
            (Some(_), "Ignore") => return Verdict::Ignored,
            (Some(_), "Count") => return Verdict::Counts,
            _ => {}
        }
    }
    Verdict::Counts
}

/// A container that ended with a code that is asked about: main ones first.
fn exited<'p>(pod: &'p Value, asked: &Value) -> Option<(&'p str, i64)> {
    let (operator, values) = (text(asked, "/operator"), list(asked, "/values"));
    let statuses = list(pod, "/status/containerStatuses")
        .iter()
        .chain(list(pod, "/status/initContainerStatuses"));
    statuses
        .filter(|s| {
            asked
                .get("containerName")
                .is_none_or(|n| n.is_null() || *n == s["name"])
        })
        .filter_map(|s| Some((text(s, "/name"), whole(s, "/state/terminated/exitCode")?)))
        .find(|(_, code)| {
            let among = values.iter().any(|v| v.as_i64() == Some(*code));
            *code != 0 && (operator == "In" && among || operator == "NotIn" && !among)
        })
}

fn has_condition<'p>(pod: &'p Value, asked: &Value) -> Option<&'p str> {
    let asked = asked.as_array()?;
    let is_asked = |c: &&Value| {
        asked
            .iter()
            .any(|a| a["type"] == c["type"] && text(a, "/status") == text(c, "/status"))
    };
    let found = list(pod, "/status/conditions").iter().find(is_asked)?;
    Some(text(found, "/type"))
}

/// The message when the indexes that succeeded are enough.
pub(super) fn is_enough(policy: Option<&Value>, succeeded: &Indexes, completions: i64) -> Option<String> {
    if succeeded.is_empty() {
        return None;
    }
    let met = |rule: &Value| {
        let count = whole(rule, "/succeededCount");
        match rule.get("succeededIndexes").and_then(Value::as_str) {
            Some(named) => {
                let named = Indexes::parse(named, completions);
                let have = named.shared(succeeded);
                !named.is_empty() && (have == named.len() || count.is_some_and(|c| have >= c))
            }
            None => count.is_some_and(|c| succeeded.len() >= c),
        }
    };
    let at = list(policy?, "/rules").iter().position(met)?;
    Some(format!("Matched rules at index {at}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_rule_that_is_about_a_pod_decides() {
        let pod = |code: i64| {
            json!({"metadata": {"name": "p", "namespace": "plant"}, "status": {
                "conditions": [{"type": "DisruptionTarget", "status": "True"}],
                "containerStatuses": [{"name": "main", "state": {"terminated": {"exitCode": code}}}],
                "initContainerStatuses": [{"name": "init", "state": {"terminated": {"exitCode": 0}}}]}})
        };
        let codes = |operator: &str, values: Value, action: &str| json!({"action": action, "onExitCodes": {"operator": operator, "values": values}});
        let disrupted =
            json!({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]});
        let other =
            json!({"action": "FailJob", "onExitCodes": {"containerName": "other", "operator": "In", "values": [42]}});
        for (rules, code, verdict) in [
            (json!([]), 1, Verdict::Counts),
            (
                json!([codes("In", json!([42]), "FailJob")]),
                42,
                Verdict::FailsJob(
                    "Container main for pod plant/p failed with exit code 42 matching FailJob rule at index 0".into(),
                ),
            ),
            (json!([codes("In", json!([42]), "FailJob")]), 1, Verdict::Counts),
            (
                json!([codes("NotIn", json!([42]), "FailIndex")]),
                1,
                Verdict::FailsIndex,
            ),
            (json!([codes("NotIn", json!([1]), "FailIndex")]), 0, Verdict::Counts),
            (
                json!([disrupted, codes("In", json!([42]), "FailJob")]),
                42,
                Verdict::Ignored,
            ),
            (
                json!([codes("In", json!([42]), "Count"), disrupted]),
                42,
                Verdict::Counts,
            ),
            (json!([other]), 42, Verdict::Counts),
            (
                json!([{"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]),
                1,
                Verdict::FailsJob("Pod plant/p has condition DisruptionTarget matching FailJob rule at index 0".into()),
            ),
        ] {
            assert_eq!(
                judge(Some(&json!({ "rules": rules })), &pod(code)),
                verdict,
                "{rules} {code}"
            );
        }
        assert_eq!(judge(None, &pod(1)), Verdict::Counts);
    }

    #[test]
    fn some_successes_may_be_enough() {
        for (rules, succeeded, at) in [
            (json!([{"succeededCount": 2}]), "0", None),
            (json!([{"succeededCount": 2}]), "0,3", Some(0)),
            (json!([{"succeededIndexes": "0,2"}]), "0,1,3", None),
            (json!([{"succeededIndexes": "0,2"}]), "0-2", Some(0)),
            (
                json!([{"succeededIndexes": "4"}, {"succeededIndexes": "0-3", "succeededCount": 1}]),
                "2",
                Some(1),
            ),
            (json!([{"succeededIndexes": "0-9"}]), "0-4", Some(0)),
            (json!([{"succeededCount": 0}]), "", None),
        ] {
            let met = is_enough(Some(&json!({ "rules": rules })), &Indexes::parse(succeeded, 5), 5);
            assert_eq!(
                met,
                at.map(|at: i32| format!("Matched rules at index {at}")),
                "{rules} {succeeded}"
            );
        }
    }
}
