//! Questions: may I, may they, what may I, who am I, whose is this token. Answered at once, stored nowhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::auth::{Attributes, User, Verdict};
use super::codec::Parsed;
use super::kinds::Review;
use super::request::WriteQuery;
use super::selector;
use super::server::{Call, Core};
use super::status::{Cause, Status};
use super::write::{Part, check_namespace, note_owner};
use super::{apply, meta};

const AUTHORIZATION: &str = "authorization.k8s.io";

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Question {
    resource_attributes: Option<OnResource>,
    non_resource_attributes: Option<OnPath>,
    user: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct OnResource {
    namespace: String,
    verb: String,
    group: String,
    resource: String,
    subresource: String,
    name: String,
    field_selector: Option<Selecting>,
    label_selector: Option<Selecting>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OnPath {
    path: String,
    verb: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Selecting {
    raw_selector: String,
    requirements: Vec<Requirement>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Requirement {
    key: String,
    operator: String,
    values: Vec<String>,
}

impl Core {
    /// Answers one, with warnings for the client.
    pub(crate) fn review(self: &Arc<Self>, call: &Call, body: Parsed) -> Result<(Value, Vec<String>), Status> {
        let kind = &call.kind;
        let question = kind.review.ok_or_else(Status::no_such_resource)?;
        let options = WriteQuery::parse(&call.query, "CreateOptions")?;
        let writing = call.writing(Part::Main, options);
        let Parsed { mut value, duplicates } = body;
        drop(apply::take_managed_fields(&mut value));
        self.check_type(&mut value, kind)?;
        let warnings = self.bring_into_shape(&mut value, &writing, duplicates)?;
        let metadata = meta::of_mut(&mut value)?;
        if kind.namespaced {
            check_namespace(&value, kind, writing.namespace)?;
            meta::of_mut(&mut value)?.insert("namespace".to_owned(), writing.namespace.into());
        } else {
            metadata.remove("namespace");
        }
        let status = match question {
            Review::SelfSubject => {
                value = json!({"metadata": {"creationTimestamp": meta::now()}});
                json!({"userInfo": info(&call.user)})
            }
            Review::SelfRules => {
                let namespace = value
                    .pointer("/spec/namespace")
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                if namespace.is_empty() {
                    return Err(Status::bad_request("no namespace on request"));
                }
                let status = self.rules_for(&call.user, namespace)?;
                value = json!({"metadata": {}, "spec": {}});
                status
            }
            Review::SelfAccess | Review::Access | Review::LocalAccess => {
                let spec = value.get("spec").cloned().unwrap_or_else(|| json!({}));
                let asked = Question::deserialize(spec).unwrap_or_default();
                let causes = wrong(question, &value, &asked, writing.namespace);
                if !causes.is_empty() {
                    return Err(Status::invalid(AUTHORIZATION, "", "", causes));
                }
                note_owner(&writing, None, &mut value, None)?;
                if question == Review::SelfAccess {
                    self.decided(&call.user, &asked)
                } else {
                    self.decided(&asked.about(), &asked)
                }
            }
            Review::Nodes | Review::Pods => return Err(Status::method_not_allowed()),
            Review::Token => {
                note_owner(&writing, None, &mut value, None)?;
                self.review_token(value.get("spec").unwrap_or(&Value::Null))?
            }
        };
        if let Value::Object(map) = &mut value {
            map.insert("apiVersion".to_owned(), kind.api_version().into());
            map.insert("kind".to_owned(), (&*kind.kind).into());
            map.insert("status".to_owned(), status);
        }
        Ok((value, warnings))
    }

    fn decided(&self, user: &User, asked: &Question) -> Value {
        let attributes = match (&asked.resource_attributes, &asked.non_resource_attributes) {
            (Some(r), _) => Attributes {
                verb: &r.verb,
                group: &r.group,
                resource: &r.resource,
                subresource: &r.subresource,
                namespace: &r.namespace,
                name: &r.name,
                path: "",
            },
            (None, Some(p)) => Attributes {
                verb: &p.verb,
                path: &p.path,
                ..Attributes::default()
            },
            (None, None) => Attributes::default(),
        };
        let verdict = self.authority.decide(user, &attributes);
        let mut out = json!({"allowed": verdict.is_allowed()});
        let reason = verdict.reason();
        if let Value::Object(map) = &mut out {
            if matches!(verdict, Verdict::Denied(_)) {
                map.insert("denied".to_owned(), true.into());
            }
            if !reason.is_empty() {
                map.insert("reason".to_owned(), reason.into());
            }
        }
        out
    }

    /// What the roles allow somebody. What the daemon allows besides decides request by request and cannot be listed.
    fn rules_for(&self, user: &User, namespace: &str) -> Result<Value, Status> {
        let (all, complaint) = self.authority.rbac().rules_of(user, namespace)?;
        let (mut resources, mut paths) = (Vec::new(), Vec::new());
        for rule in all.iter().flat_map(|rules| rules.iter()) {
            if rule.urls.is_empty() {
                resources.push(json!(rule));
            } else {
                paths.push(json!(rule));
            }
        }
        let mut out =
            json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": !complaint.is_empty()});
        if let Value::Object(map) = &mut out
            && !complaint.is_empty()
        {
            map.insert("evaluationError".to_owned(), complaint.into());
        }
        Ok(out)
    }
}

impl Question {
    /// Whom it is about.
    fn about(&self) -> User {
        User {
            name: self.user.clone(),
            uid: self.uid.clone(),
            groups: self.groups.clone(),
            extra: self.extra.clone(),
        }
    }
}

/// A user as answers show them.
pub(crate) fn info(user: &User) -> Value {
    let mut out = Map::new();
    let mut put = |field: &str, value: Value, empty: bool| {
        if !empty {
            out.insert(field.to_owned(), value);
        }
    };
    put("username", json!(user.name), user.name.is_empty());
    put("uid", json!(user.uid), user.uid.is_empty());
    put("groups", json!(user.groups), user.groups.is_empty());
    put("extra", json!(user.extra), user.extra.is_empty());
    Value::Object(out)
}

/// What is wrong with a question about rights.
fn wrong(question: Review, value: &Value, asked: &Question, namespace: &str) -> Vec<Cause> {
    let mut causes = Vec::new();
    let shown = |field: &str| {
        value
            .pointer(&format!("/spec/{field}"))
            .map_or("null".to_owned(), Value::to_string)
    };
    let both = "cannot be specified in combination with resourceAttributes";
    let neither = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
    match (&asked.resource_attributes, &asked.non_resource_attributes) {
        (Some(_), Some(_)) => causes.push(Cause::invalid(
            "spec.nonResourceAttributes",
            &shown("nonResourceAttributes"),
            both,
        )),
        (None, None) => causes.push(Cause::invalid("spec.resourceAttributes", "null", neither)),
        _ => {}
    }
    if question != Review::SelfAccess && asked.user.is_empty() && asked.groups.is_empty() {
        let why = "at least one of user or group must be specified";
        causes.push(Cause::invalid("spec.user", "\"\"", why));
    }
    if let Some(r) = &asked.resource_attributes {
        for (field, selecting) in [
            ("fieldSelector", &r.field_selector),
            ("labelSelector", &r.label_selector),
        ] {
            if let Some(s) = selecting {
                wrong_selector(&format!("spec.resourceAttributes.{field}"), s, &mut causes);
            }
        }
    }
    let stray = meta::of(value).is_some_and(|m| m.keys().any(|k| k != "namespace"));
    if stray {
        let why = if question == Review::LocalAccess {
            "must be empty except for namespace"
        } else {
            "must be empty"
        };
        let metadata = value.get("metadata").map_or_else(String::new, Value::to_string);
        causes.push(Cause::invalid("metadata", &metadata, why));
    }
    if question == Review::LocalAccess {
        if let Some(r) = asked.resource_attributes.as_ref().filter(|r| r.namespace != namespace) {
            causes.push(Cause::invalid(
                "spec.resourceAttributes.namespace",
                &format!("{:?}", r.namespace),
                "must match metadata.namespace",
            ));
        }
        if asked.non_resource_attributes.is_some() {
            causes.push(Cause::invalid(
                "spec.nonResourceAttributes",
                &shown("nonResourceAttributes"),
                "disallowed on this kind of request",
            ));
        }
    }
    causes
}

fn wrong_selector(at: &str, s: &Selecting, causes: &mut Vec<Cause>) {
    if !s.raw_selector.is_empty() && !s.requirements.is_empty() {
        causes.push(Cause::invalid(
            format!("{at}.rawSelector"),
            &format!("{:?}", s.raw_selector),
            "may not specified at the same time as requirements",
        ));
    }
    if s.raw_selector.is_empty() && s.requirements.is_empty() {
        causes.push(Cause::required(
            format!("{at}.requirements"),
            &format!("when {at} is specified, requirements or rawSelector is required"),
        ));
    }
    for (i, r) in s.requirements.iter().enumerate() {
        let at = format!("{at}.requirements[{i}]");
        match r.operator.as_str() {
            "In" | "NotIn" if r.values.is_empty() => causes.push(Cause::required(
                format!("{at}.values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if !r.values.is_empty() => causes.push(Cause::forbidden(
                format!("{at}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            // Operators of newer clients are not refused.
            _ => {}
        }
        if at.contains("labelSelector") {
            for why in selector::key_problems(&r.key) {
                causes.push(Cause::invalid(format!("{at}.key"), &format!("{:?}", r.key), &why));
            }
        } else if r.key.is_empty() {
            causes.push(Cause::required(format!("{at}.key"), "must be specified"));
        }
    }
}
