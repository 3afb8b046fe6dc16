//! `Status`: how the Kubernetes API says no. Reasons, codes, causes and details are those a kube-apiserver uses, because clients branch on them.
//!
//! Every refusal of this module tree is one of these; it never carries object contents, so it may be logged.

use http::StatusCode;
use serde::{Deserialize, Serialize};

/// A refusal, as it goes over the wire inside `{"kind":"Status",…}`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// The HTTP status.
    pub code: u16,
    /// The machine-readable reason; empty when the API has none for this case.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// What it is about; boxed, as most results are `Ok`.
    pub details: Option<Box<Details>>,
}

/// What a refusal is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Details {
    /// The object's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The API group; empty for core.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The resource, or the kind where the API says the kind.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The object's uid.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// One entry for each field that is wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// When to try again.
    #[serde(rename = "retryAfterSeconds", skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u32>,
}

/// One field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Machine-readable, like `FieldValueInvalid`.
    pub reason: String,
    /// For people.
    pub message: String,
    /// The path, like `spec.ports[0].port`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

impl Cause {
    fn new(reason: &str, field: impl Into<String>, message: String) -> Self {
        Self {
            reason: reason.to_owned(),
            message,
            field: field.into(),
        }
    }

    /// A value that may not be.
    pub fn invalid(field: impl Into<String>, value: &str, why: &str) -> Self {
        Self::new(
            "FieldValueInvalid",
            field,
            format!("Invalid value: {}: {why}", shown(value)),
        )
    }

    /// A value of the wrong type.
    pub fn type_invalid(field: impl Into<String>, value: &str, why: &str) -> Self {
        Self::new(
            "FieldValueTypeInvalid",
            field,
            format!("Invalid value: {}: {why}", shown(value)),
        )
    }

    /// A value that is missing.
    pub fn required(field: impl Into<String>, why: &str) -> Self {
        let tail = if why.is_empty() {
            String::new()
        } else {
            format!(": {why}")
        };
        Self::new("FieldValueRequired", field, format!("Required value{tail}"))
    }

    /// A value outside its list.
    pub fn not_supported(field: impl Into<String>, value: &str, supported: &[&str]) -> Self {
        let list: Vec<String> = supported.iter().map(|s| format!("\"{s}\"")).collect();
        Self::new(
            "FieldValueNotSupported",
            field,
            format!(
                "Unsupported value: {}: supported values: {}",
                shown(value),
                list.join(", ")
            ),
        )
    }

    /// Something named that is not there.
    pub fn not_found(field: impl Into<String>, value: &str) -> Self {
        Self::new("FieldValueNotFound", field, format!("Not found: {}", shown(value)))
    }

    /// A change that is not allowed.
    pub fn forbidden(field: impl Into<String>, why: &str) -> Self {
        Self::new("FieldValueForbidden", field, format!("Forbidden: {why}"))
    }

    /// What the server could not find out.
    pub fn internal(field: impl Into<String>, why: &str) -> Self {
        Self::new("InternalError", field, format!("Internal error: {why}"))
    }

    /// Two of what may be there once.
    pub fn duplicate(field: impl Into<String>, value: &str) -> Self {
        Self::new(
            "FieldValueDuplicate",
            field,
            format!("Duplicate value: {}", shown(value)),
        )
    }

    /// More bytes than allowed.
    pub fn too_long(field: impl Into<String>, limit: u64) -> Self {
        Self::new(
            "FieldValueTooLong",
            field,
            format!("Too long: may not be more than {limit} bytes"),
        )
    }

    /// More items than allowed.
    pub fn too_many(field: impl Into<String>, actual: usize, limit: u64) -> Self {
        Self::new(
            "FieldValueTooMany",
            field,
            format!("Too many: {actual}: must have at most {limit} items"),
        )
    }
}

/// A value in a message: quoted, and cut where it would make the message long.
fn shown(value: &str) -> String {
    const MOST: usize = 120;
    if value.len() <= MOST {
        return value.to_owned();
    }
    let cut = (0..=MOST).rev().find(|i| value.is_char_boundary(*i)).unwrap_or(0);
    format!("{}…", &value[..cut])
}

/// The name of a kind or resource in messages: `deployments.apps`, `configmaps`.
fn qualified(group: &str, name: &str) -> String {
    if group.is_empty() {
        name.to_owned()
    } else {
        format!("{name}.{group}")
    }
}

fn about(group: &str, kind: &str, name: &str) -> Option<Box<Details>> {
    Some(Box::new(Details {
        name: name.to_owned(),
        group: group.to_owned(),
        kind: kind.to_owned(),
        ..Details::default()
    }))
}

impl Status {
    /// Any refusal.
    pub fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code: code.as_u16(),
            reason,
            message: message.into(),
            details: None,
        }
    }

    /// The same with an empty `details` object, which the API sends where a real server does.
    #[must_use]
    pub fn with_empty_details(mut self) -> Self {
        self.details = Some(Box::default());
        self
    }

    /// 400: the request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// 401: nobody known.
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    /// 403 for a request on a resource.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let named = if name.is_empty() {
            String::new()
        } else {
            format!(" \"{name}\"")
        };
        Self {
            code: 403,
            reason: "Forbidden",
            message: format!("{}{named} is forbidden: {why}", qualified(group, resource)),
            details: about(group, resource, name),
        }
    }

    /// 403 for a path that is no resource.
    pub fn forbidden_path(why: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", format!("forbidden: {why}")).with_empty_details()
    }

    /// 404 for an object.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        Self {
            code: 404,
            reason: "NotFound",
            message: format!("{} \"{name}\" not found", qualified(group, resource)),
            details: about(group, resource, name),
        }
    }

    /// 404 for a resource that is not served.
    pub fn no_such_resource() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            "the server could not find the requested resource",
        )
        .with_empty_details()
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
        .with_empty_details()
    }

    /// 406: no form that the client accepts.
    pub fn not_acceptable() -> Self {
        Self::new(
            StatusCode::NOT_ACCEPTABLE,
            "NotAcceptable",
            "only the following media types are accepted: application/json",
        )
        .with_empty_details()
    }

    /// 409: there is one already.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        Self {
            code: 409,
            reason: "AlreadyExists",
            message: format!("{} \"{name}\" already exists", qualified(group, resource)),
            details: about(group, resource, name),
        }
    }

    /// 409: somebody else was first. `resource` is the plural, or the kind where the API says the kind.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        Self {
            code: 409,
            reason: "Conflict",
            message: format!(
                "Operation cannot be fulfilled on {} \"{name}\": {why}",
                qualified(group, resource)
            ),
            details: about(group, resource, name),
        }
    }

    /// 409: an applied configuration changes what others own.
    pub(crate) fn apply_conflict(message: String, causes: Vec<Cause>) -> Self {
        Self {
            code: 409,
            reason: "Conflict",
            message,
            details: Some(Box::new(Details {
                causes,
                ..Details::default()
            })),
        }
    }

    /// 409: the object was changed between read and write.
    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        Self::conflict(
            group,
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 410: the version asked for is gone.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// 413: more than the server takes.
    pub fn too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {limit}"),
        )
    }

    /// 415.
    pub fn unsupported_media(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    }

    /// 422 with one cause for each field that is wrong.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let lines: Vec<String> = causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        let said = match lines.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        Self {
            code: 422,
            reason: "Invalid",
            message: format!("{} \"{name}\" is invalid: {said}", qualified(group, kind)),
            details: Some(Box::new(Details {
                name: name.to_owned(),
                group: group.to_owned(),
                kind: kind.to_owned(),
                causes,
                ..Details::default()
            })),
        }
    }

    /// 422 for request options, like `dryRun`.
    pub fn invalid_option(kind: &str, cause: Cause) -> Self {
        Self::invalid("meta.k8s.io", kind, "", vec![cause])
    }

    /// 429 with a time to come back.
    pub fn too_many_requests(seconds: u32) -> Self {
        let mut status = Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "TooManyRequests",
            "the server is busy, please try again later",
        );
        status.details = Some(Box::new(Details {
            retry_after: Some(seconds),
            ..Details::default()
        }));
        status
    }

    /// 500: our fault.
    pub fn internal(message: impl Into<String>) -> Self {
        let message = message.into();
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalError",
            format!("Internal error occurred: {message}"),
        )
    }

    /// 500 without a reason: what other servers answer where a parser of theirs fails.
    pub(crate) fn unsorted(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "", message)
    }

    /// 503: the store is closing or its disk is full.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
    }

    /// 507: the disk is full; nothing was written.
    pub fn disk_full() -> Self {
        Self::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "InsufficientStorage",
            "the disk is full: nothing was written",
        )
    }

    /// The HTTP status.
    pub fn http(&self) -> StatusCode {
        StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The body, one line.
    pub fn to_json(&self) -> Vec<u8> {
        let wire = Wire {
            kind: "Status",
            api_version: "v1",
            metadata: Empty {},
            status: "Failure",
            message: &self.message,
            reason: self.reason,
            details: self.details.as_deref(),
            code: Some(self.code),
        };
        serde_json::to_vec(&wire).expect("a Status has string keys only")
    }
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct Wire<'a> {
    kind: &'static str,
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    metadata: Empty,
    status: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a Details>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

/// The `Success` status that a delete answers with; `code` where the API says it.
pub(crate) fn success(details: Option<&Details>, code: Option<u16>) -> Vec<u8> {
    let wire = Wire {
        kind: "Status",
        api_version: "v1",
        metadata: Empty {},
        status: "Success",
        message: "",
        reason: "",
        details,
        code,
    };
    serde_json::to_vec(&wire).expect("a Status has string keys only")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn wire(s: &Status) -> Value {
        serde_json::from_slice(&s.to_json()).unwrap()
    }

    #[test]
    fn not_found_names_resource_and_group() {
        let got = wire(&Status::not_found("apps", "deployments", "web"));
        assert_eq!(
            got,
            json!({"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","reason":"NotFound","code":404,
                "message":"deployments.apps \"web\" not found","details":{"name":"web","group":"apps","kind":"deployments"}})
        );
    }

    #[test]
    fn one_cause_stands_alone_and_several_stand_in_brackets() {
        let a = Cause::required("spec.x", "");
        let b = Cause::invalid("spec.y", "-1", "must be positive");
        assert_eq!(
            Status::invalid("", "Thing", "t", vec![a.clone()]).message,
            "Thing \"t\" is invalid: spec.x: Required value"
        );
        assert_eq!(
            Status::invalid("", "Thing", "t", vec![a, b]).message,
            "Thing \"t\" is invalid: [spec.x: Required value, spec.y: Invalid value: -1: must be positive]"
        );
    }

    #[test]
    fn long_values_are_cut_on_a_character() {
        let c = Cause::invalid("f", &"ä".repeat(500), "no");
        assert!(c.message.len() < 200 && c.message.contains('…'));
    }

    #[test]
    fn empty_details_are_an_object_and_absent_ones_are_absent() {
        assert_eq!(wire(&Status::no_such_resource())["details"], json!({}));
        assert!(wire(&Status::bad_request("x")).get("details").is_none());
    }
}
