//! Questions: may I, may they, who am I, what may I. Answered from the authorizer, stored nowhere.

use serde_json::{Value, json};

use super::auth::{Attributes, Authorizer, Decision, User};
use super::kinds::Review;
use super::status::Status;

/// Answers one.
pub(crate) fn answer(
    question: Review,
    mut body: Value,
    user: &User,
    authorizer: &dyn Authorizer,
) -> Result<Value, Status> {
    if !body.is_object() {
        return Err(Status::bad_request("the body must be an object"));
    }
    let status = match question {
        Review::SelfSubject => json!({"userInfo": {"username": user.name, "groups": user.groups}}),
        Review::SelfAccess => decide(&body, user, authorizer),
        Review::Access => {
            let groups = body.pointer("/spec/groups").and_then(Value::as_array);
            let them = User {
                name: body
                    .pointer("/spec/user")
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned(),
                groups: groups
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect(),
            };
            decide(&body, &them, authorizer)
        }
        Review::SelfRules => rules(user, authorizer),
    };
    let (group, kind) = match question {
        Review::SelfSubject => ("authentication.k8s.io/v1", "SelfSubjectReview"),
        Review::SelfAccess => ("authorization.k8s.io/v1", "SelfSubjectAccessReview"),
        Review::Access => ("authorization.k8s.io/v1", "SubjectAccessReview"),
        Review::SelfRules => ("authorization.k8s.io/v1", "SelfSubjectRulesReview"),
    };
    if let Value::Object(map) = &mut body {
        map.insert("apiVersion".to_owned(), json!(group));
        map.insert("kind".to_owned(), json!(kind));
        map.insert("metadata".to_owned(), json!({"creationTimestamp": super::meta::now()}));
        map.insert("status".to_owned(), status);
    }
    Ok(body)
}

fn decide(body: &Value, user: &User, authorizer: &dyn Authorizer) -> Value {
    let word = |part: &str, field: &str| {
        body.pointer(&format!("/spec/{part}/{field}"))
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let asks_resource = body.pointer("/spec/resourceAttributes").is_some_and(Value::is_object);
    let part = if asks_resource {
        "resourceAttributes"
    } else {
        "nonResourceAttributes"
    };
    let (verb, group, resource) = (word(part, "verb"), word(part, "group"), word(part, "resource"));
    let (subresource, namespace, name, path) = (
        word(part, "subresource"),
        word(part, "namespace"),
        word(part, "name"),
        word(part, "path"),
    );
    let attributes = Attributes {
        verb: &verb,
        group: &group,
        resource: &resource,
        subresource: &subresource,
        namespace: &namespace,
        name: &name,
        path: &path,
    };
    match authorizer.allow(user, &attributes) {
        Decision::Allow => json!({"allowed": true}),
        Decision::Deny(why) => json!({"allowed": false, "reason": why}),
    }
}

/// What somebody may do, as far as it can be listed: an authorizer answers questions, it does not enumerate.
fn rules(user: &User, authorizer: &dyn Authorizer) -> Value {
    let everything = Attributes {
        verb: "*",
        group: "*",
        resource: "*",
        ..Attributes::default()
    };
    if user.is_master() || authorizer.allow(user, &everything) == Decision::Allow {
        json!({"resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}], "incomplete": false})
    } else {
        json!({"resourceRules": [], "nonResourceRules": [], "incomplete": true,
            "evaluationError": "this server decides request by request and cannot list rules"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::auth::MastersOnly;

    #[test]
    fn answers_come_from_the_authorizer() {
        let ask = json!({"spec":{"resourceAttributes":{"verb":"get","resource":"pods"}}});
        let got = answer(
            Review::SelfAccess,
            ask.clone(),
            &User::new("bob", ["dev"]),
            &MastersOnly,
        )
        .unwrap();
        assert_eq!(got["status"]["allowed"], false);
        let got = answer(Review::SelfAccess, ask.clone(), &User::internal(), &MastersOnly).unwrap();
        assert_eq!(got["status"]["allowed"], true);
        let mut about = ask;
        about["spec"]["user"] = json!("root");
        about["spec"]["groups"] = json!(["system:masters"]);
        let got = answer(Review::Access, about, &User::new("bob", ["dev"]), &MastersOnly).unwrap();
        assert_eq!(got["status"]["allowed"], true);
        let me = answer(Review::SelfSubject, json!({}), &User::new("bob", ["dev"]), &MastersOnly).unwrap();
        assert_eq!(me["status"]["userInfo"]["username"], "bob");
        assert!(answer(Review::SelfSubject, json!(3), &User::anonymous(), &MastersOnly).is_err());
    }
}
