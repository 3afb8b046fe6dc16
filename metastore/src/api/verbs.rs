//! The writing verbs of a request: POST, PUT, PATCH, DELETE, on objects, collections and subresources. Each reads its options and body and
//! ends in the write path.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::apply::{self, Manager};
use super::auth::Attributes;
use super::body::ApiBody;
use super::codec::{self, Parsed};
use super::delete::{DeleteOptions, Deleted, Propagation};
use super::kinds::{Act, Deletion};
use super::patch::{self, Operations, Patch};
use super::request::{Form, ListQuery, WriteQuery, accept};
use super::schema::shape;
use super::server::{Call, Core, json_response, with_warnings};
use super::status::{Cause, Details, Status, success};
use super::write::{Owner, Part, Writing, Written, encode, parse};
use super::{meta, read, table};

/// Deletes of a collection that are on their way at once.
const AT_ONCE: usize = 64;

impl Core {
    /// POST, PUT, PATCH, DELETE on a resource.
    pub(crate) async fn write_request(self: &Arc<Self>, call: Call, body: Bytes) -> Result<Response<ApiBody>, Status> {
        let form = accept(&call.parts.headers, |f| !matches!(f, Form::Aggregated(_)))?;
        if call.kind.review.is_some() {
            return self.review_request(&call, &body);
        }
        let method = call.parts.method.clone();
        match (method, call.subresource.as_str()) {
            (Method::POST, sub) if call.name.is_some() && call.kind.gives_tokens(Some(sub)) => {
                let parsed = read_body(&call, &body)?;
                self.token_request(&call, parsed).await
            }
            (Method::POST, "") if call.name.is_none() => self.post(&call, &body, form).await,
            (Method::POST, action) if call.name.is_some() && !action.is_empty() => self.action(&call, &body).await,
            (Method::PUT | Method::PATCH, "scale") if call.kind.scale.is_some() => self.set_scale(&call, &body).await,
            (Method::PUT, "finalize") if matches!(call.kind.deletion, Deletion::EmptiesNamespace) => {
                self.finalize(&call, &body).await
            }
            (Method::PUT, _) if call.name.is_some() => self.put(&call, &body, form).await,
            (Method::PATCH, _) if call.name.is_some() => self.patch(&call, &body, form).await,
            (Method::DELETE, "") if call.name.is_some() => self.delete_request(&call, &body).await,
            (Method::DELETE, "") if call.kind.verbs().contains(&"deletecollection") => {
                self.delete_collection(&call, &body).await
            }
            (_, "") => Err(Status::method_not_allowed()),
            _ => Err(Status::no_such_resource()),
        }
    }

    fn review_request(self: &Arc<Self>, call: &Call, body: &[u8]) -> Result<Response<ApiBody>, Status> {
        if call.parts.method != Method::POST || call.name.is_some() {
            return Err(Status::method_not_allowed());
        }
        let parsed = read_body(call, body)?;
        let (answer, warnings) = self.review(call, parsed)?;
        let response = json_response(StatusCode::CREATED, encode(&answer)?);
        Ok(with_warnings(response, &warnings))
    }

    async fn post(self: &Arc<Self>, call: &Call, body: &[u8], form: Form) -> Result<Response<ApiBody>, Status> {
        let options = WriteQuery::parse(&call.query, "CreateOptions")?;
        let parsed = read_body(call, body)?;
        let written = self.create(call.writing(Part::Main, options), parsed).await?;
        answer(call, StatusCode::CREATED, &written, form)
    }

    async fn put(self: &Arc<Self>, call: &Call, body: &[u8], form: Form) -> Result<Response<ApiBody>, Status> {
        let options = WriteQuery::parse(&call.query, "UpdateOptions")?;
        let part = self.part(call)?;
        let parsed = read_body(call, body)?;
        let name = call.name.as_deref().unwrap_or_default();
        let version = meta::text(&parsed.value, "resourceVersion").to_owned();
        if call.kind.update_names_version && version.is_empty() {
            let kind = &call.kind;
            if self
                .read(&kind.key(call.namespace.as_deref().unwrap_or_default(), name))?
                .is_some()
            {
                let cause = Cause::invalid("metadata.resourceVersion", "0", "must be specified for an update");
                let said = if kind.custom { &kind.kind } else { &kind.plural };
                return Err(Status::invalid(&kind.group, said, name, vec![cause]));
            }
        }
        let writing = call.writing(part, options);
        let written = self
            .update(writing, name, !version.is_empty(), &mut |_| {
                Ok(Parsed {
                    value: parsed.value.clone(),
                    duplicates: parsed.duplicates.clone(),
                })
            })
            .await;
        match written {
            Err(s) if s.code == 404 && matches!(part, Part::Main) && call.kind.create_on_update => {
                self.put_new(call, writing, parsed, name, form).await
            }
            other => answer(call, StatusCode::OK, &other?, form),
        }
    }

    /// PUT of an object that is not there, where the kind makes it then: by those who may create it.
    async fn put_new(
        self: &Arc<Self>,
        call: &Call,
        writing: Writing<'_>,
        parsed: Parsed,
        name: &str,
        form: Form,
    ) -> Result<Response<ApiBody>, Status> {
        self.may_create(call)?;
        let said = meta::text(&parsed.value, "name");
        if said != name {
            return Err(Status::bad_request(format!(
                "the name of the object ({said}) does not match the name on the URL ({name})"
            )));
        }
        let mut parsed = parsed;
        meta::of_mut(&mut parsed.value)?.remove("resourceVersion");
        let written = self.create(writing, parsed).await?;
        answer(call, StatusCode::CREATED, &written, form)
    }

    /// PUT of a namespace's `/finalize`: who still has something to do before it may go.
    async fn finalize(self: &Arc<Self>, call: &Call, body: &[u8]) -> Result<Response<ApiBody>, Status> {
        let options = WriteQuery::parse(&call.query, "UpdateOptions")?;
        let parsed = read_body(call, body)?;
        let name = call.name.as_deref().unwrap_or_default();
        let wanted = parsed.value.pointer("/spec/finalizers").cloned();
        let version = meta::text(&parsed.value, "resourceVersion").to_owned();
        let writing = call.writing(Part::Whole, options);
        let written = self
            .update(writing, name, !version.is_empty(), &mut |current| {
                if !version.is_empty() && version != meta::text(current, "resourceVersion") {
                    return Err(Status::modified(&call.kind.group, &call.kind.plural, name));
                }
                let mut value = current.clone();
                if let Some(Value::Object(spec)) = value.get_mut("spec") {
                    match &wanted {
                        Some(Value::Array(list)) if !list.is_empty() => {
                            spec.insert("finalizers".to_owned(), json!(list));
                        }
                        _ => drop(spec.remove("finalizers")),
                    }
                }
                Ok(Parsed {
                    value,
                    duplicates: Vec::new(),
                })
            })
            .await?;
        self.after_delete(&call.kind, name);
        answer(call, StatusCode::OK, &written, Form::Json)
    }

    async fn patch(self: &Arc<Self>, call: &Call, body: &[u8], form: Form) -> Result<Response<ApiBody>, Status> {
        let options = WriteQuery::parse(&call.query, "PatchOptions")?;
        let part = self.part(call)?;
        if is_apply(call) {
            return self.apply_request(call, body, form, options, part).await;
        }
        if call.query.get("force").is_some() {
            let cause = Cause::forbidden("force", "may not be specified for non-apply patch");
            return Err(Status::invalid_option("PatchOptions", cause));
        }
        let (patch, duplicates) = read_patch(call, body)?;
        let name = call.name.as_deref().unwrap_or_default();
        let schema = call.kind.schema.clone();
        let writing = call.writing(part, options);
        let written = self
            .update(writing, name, patch.names_version(), &mut |current| {
                let mut value = current.clone();
                patch.apply(&mut value, &schema)?;
                patch::check_patched(&mut value, current, &call.kind, options.strictness, &duplicates)?;
                Ok(Parsed {
                    value,
                    duplicates: duplicates.clone(),
                })
            })
            .await?;
        answer(call, StatusCode::OK, &written, form)
    }

    /// PATCH with a configuration: server-side apply. Makes the object when there is none.
    async fn apply_request(
        self: &Arc<Self>,
        call: &Call,
        body: &[u8],
        form: Form,
        options: WriteQuery,
        part: Part,
    ) -> Result<Response<ApiBody>, Status> {
        let kind = &call.kind;
        let manager_name = applier(call)?;
        let config = codec::yaml(body)
            .map_err(|why| Status::bad_request(format!("error decoding YAML: {why}")))
            .and_then(|config| configuration(config, call))?;
        let name = call.name.as_deref().unwrap_or_default();
        let now = meta::now();
        let manager = Manager {
            name: manager_name,
            api_version: &kind.api_version(),
            subresource: &call.subresource,
            now: &now,
        };
        // The parts that this path does not write are nobody's by it.
        let foreign = |field: &str| match part {
            Part::Status => !matches!(field, "apiVersion" | "kind" | "metadata" | "status"),
            Part::Main | Part::Sub(_) => field == "status" && kind.has_status(),
            Part::Whole => false,
        };
        let compute = |current: Option<&Value>, config: &Value| {
            let value = apply::apply(current, config, foreign, manager, options.force, &kind.schema)
                .map_err(|e| apply::refusal(&e, name))?;
            Ok(Parsed {
                value,
                duplicates: Vec::new(),
            })
        };
        let mut writing = call.writing(part, options);
        writing.owner = Owner::Applied;
        // A version to create from is none: there is no object that could have it.
        let mut fresh = config.clone();
        meta::of_mut(&mut fresh)?.remove("resourceVersion");
        // Once more for an object that came or went in between.
        for _ in 0..4 {
            let conditional = !meta::text(&config, "resourceVersion").is_empty();
            let written = self
                .update(writing, name, conditional, &mut |current| {
                    compute(Some(current), &config)
                })
                .await;
            match written {
                Err(s) if s.code == 404 && matches!(part, Part::Main) => {}
                other => return answer(call, StatusCode::OK, &other?, form),
            }
            if !meta::text(&config, "uid").is_empty() {
                let why = "uid mismatch: the provided object specified a uid, and no object of that name was found";
                return Err(Status::conflict(&kind.group, &kind.plural, name, why));
            }
            self.may_create(call)?;
            match self.create(writing, compute(None, &fresh)?).await {
                Err(s) if s.reason == "AlreadyExists" => {}
                other => return answer(call, StatusCode::CREATED, &other?, form),
            }
        }
        Err(Status::modified(&kind.group, &kind.plural, name))
    }

    /// Whether the user may make the object that a change is about, which is not there.
    fn may_create(&self, call: &Call) -> Result<(), Status> {
        let attributes = Attributes {
            verb: "create",
            group: &call.kind.group,
            resource: &call.kind.plural,
            namespace: call.namespace.as_deref().unwrap_or_default(),
            name: call.name.as_deref().unwrap_or_default(),
            ..Attributes::default()
        };
        self.authority.check(&call.user, &attributes)
    }

    fn part(&self, call: &Call) -> Result<Part, Status> {
        match call.subresource.as_str() {
            "" => Ok(Part::Main),
            "status" if call.kind.has_status() => Ok(Part::Status),
            other => call
                .kind
                .part(other)
                .map(Part::Sub)
                .ok_or_else(Status::no_such_resource),
        }
    }

    /// PUT and PATCH of `/scale`: the change is made to the scale as clients see it, and only its replicas go into the object.
    async fn set_scale(self: &Arc<Self>, call: &Call, body: &[u8]) -> Result<Response<ApiBody>, Status> {
        let options = WriteQuery::parse(&call.query, "UpdateOptions")?;
        let kind = call.kind.clone();
        let Some(scale) = &kind.scale else {
            return Err(Status::no_such_resource());
        };
        if call.parts.method == Method::PATCH && is_apply(call) {
            return self.apply_scale(call, body, options).await;
        }
        let change = if call.parts.method == Method::PATCH {
            let (patch, _) = read_patch_of(call, body, true)?;
            ScaleChange::Patch(patch)
        } else {
            ScaleChange::Replace(read_body(call, body)?.value)
        };
        let name = call.name.as_deref().unwrap_or_default();
        let schema = super::schema::types::named("autoscaling.v1.Scale").ok_or_else(Status::no_such_resource)?;
        let mut after = Value::Null;
        let writing = call.writing(Part::Main, options);
        let written = self
            .update(writing, name, false, &mut |current| {
                let have = read::scale_of(&kind, current);
                let wanted = match &change {
                    ScaleChange::Patch(patch) => {
                        let mut s = have.clone();
                        patch.apply(&mut s, &schema)?;
                        s
                    }
                    ScaleChange::Replace(value) => value.clone(),
                };
                let version = meta::text(&wanted, "resourceVersion");
                if !version.is_empty() && version != meta::text(&have, "resourceVersion") {
                    return Err(Status::modified(&kind.group, &kind.plural, name));
                }
                let replicas = wanted.pointer("/spec/replicas").cloned().unwrap_or_else(|| json!(0));
                if replicas
                    .as_i64()
                    .is_none_or(|n| !(0..=i64::from(i32::MAX)).contains(&n))
                {
                    let cause = Cause::invalid(
                        "spec.replicas",
                        &replicas.to_string(),
                        "must be greater than or equal to 0",
                    );
                    return Err(Status::invalid("autoscaling", "Scale", name, vec![cause]));
                }
                let mut value = current.clone();
                scale.spec.put(&mut value, replicas);
                after = value.clone();
                Ok(Parsed {
                    value,
                    duplicates: Vec::new(),
                })
            })
            .await?;
        if let Ok(stored) = serde_json::from_slice::<Value>(&written.json) {
            after = stored;
        }
        Ok(json_response(StatusCode::OK, encode(&read::scale_of(&kind, &after))?))
    }

    /// PATCH of `/scale` with a configuration: the replicas are its manager's, through the scale.
    async fn apply_scale(
        self: &Arc<Self>,
        call: &Call,
        body: &[u8],
        options: WriteQuery,
    ) -> Result<Response<ApiBody>, Status> {
        let kind = &call.kind;
        let name = call.name.as_deref().unwrap_or_default();
        let Some(scale) = &kind.scale else {
            return Err(Status::no_such_resource());
        };
        let manager_name = applier(call)?;
        let given = codec::yaml(body).map_err(|why| Status::bad_request(format!("error decoding YAML: {why}")))?;
        if given.get("kind").is_some_and(|k| k != "Scale") {
            return Err(Status::bad_request("the applied configuration must be a Scale"));
        }
        let mut config = json!({"apiVersion": kind.api_version(), "kind": &*kind.kind, "metadata": {"name": name}});
        match given.pointer("/spec/replicas") {
            Some(n) if n.as_i64().is_some_and(|n| (0..=i64::from(i32::MAX)).contains(&n)) => {
                scale.spec.put(&mut config, n.clone());
            }
            Some(n) => {
                let why = "must be greater than or equal to 0";
                let cause = Cause::invalid("spec.replicas", &n.to_string(), why);
                return Err(Status::invalid("autoscaling", "Scale", name, vec![cause]));
            }
            None => {}
        }
        let now = meta::now();
        let api_version = kind.api_version();
        let manager = Manager {
            name: manager_name,
            api_version: &api_version,
            subresource: &call.subresource,
            now: &now,
        };
        let mut writing = call.writing(Part::Main, options);
        writing.owner = Owner::Applied;
        let mut after = Value::Null;
        let written = self
            .update(writing, name, false, &mut |current| {
                let value = apply::apply(Some(current), &config, |_| false, manager, options.force, &kind.schema)
                    .map_err(|e| apply::refusal(&e, name))?;
                after = value.clone();
                Ok(Parsed {
                    value,
                    duplicates: Vec::new(),
                })
            })
            .await?;
        if let Ok(stored) = serde_json::from_slice::<Value>(&written.json) {
            after = stored;
        }
        Ok(json_response(StatusCode::OK, encode(&read::scale_of(kind, &after))?))
    }

    /// POST of a subresource that does one thing.
    async fn action(self: &Arc<Self>, call: &Call, body: &[u8]) -> Result<Response<ApiBody>, Status> {
        let Some(action) = call.kind.actions.iter().find(|a| a.name == call.subresource) else {
            return Err(Status::no_such_resource());
        };
        let options = WriteQuery::parse(&call.query, "CreateOptions")?;
        let parsed = read_body(call, body)?;
        let said = parsed.value.get("kind").and_then(Value::as_str).unwrap_or(action.kind);
        if said != action.kind {
            return Err(Status::bad_request(format!(
                "expected a {}, found a {said}",
                action.kind
            )));
        }
        let name = call.name.as_deref().unwrap_or_default();
        let named = meta::text(&parsed.value, "name");
        if named != name && (!named.is_empty() || action.of.is_some()) {
            return Err(Status::bad_request(format!(
                "name in URL does not match name in {} object",
                action.kind
            )));
        }
        let kind = call.kind.clone();
        let change = match action.act {
            Act::Change(change) => change,
            Act::Delete(say) => {
                let (mut options, mut conditions) = (options, DeleteOptions::default());
                if let Some(said) = parsed.value.get("deleteOptions") {
                    read_delete_options(said, &mut options, &mut conditions)?;
                }
                self.evict(call, options, conditions, say).await?;
                return Ok(json_response(StatusCode::CREATED, success(None, Some(201))));
            }
        };
        let about = format!("{}/{}", kind.plural, action.name);
        self.update(call.writing(Part::Whole, options), name, false, &mut |current| {
            let mut value = current.clone();
            change(&mut value, &parsed.value, &meta::now())
                .map_err(|why| Status::conflict(&kind.group, &about, name, &why))?;
            Ok(Parsed {
                value,
                duplicates: Vec::new(),
            })
        })
        .await?;
        Ok(json_response(StatusCode::CREATED, success(None, Some(201))))
    }

    async fn delete_request(self: &Arc<Self>, call: &Call, body: &[u8]) -> Result<Response<ApiBody>, Status> {
        let (options, conditions) = delete_options(call, body)?;
        let name = call.name.as_deref().unwrap_or_default();
        let kind = &call.kind;
        match self
            .delete(call.writing(Part::Main, options), name, &conditions)
            .await?
        {
            Deleted::Waits(json) => Ok(json_response(StatusCode::OK, json)),
            Deleted::Gone(object) if kind.special.returns_deleted => {
                Ok(json_response(StatusCode::OK, self.shown(kind, &object)?))
            }
            Deleted::Gone(object) => {
                let value = parse(&object)?;
                let details = Details {
                    name: name.to_owned(),
                    group: kind.group.to_string(),
                    kind: kind.plural.to_string(),
                    uid: meta::text(&value, "uid").to_owned(),
                    ..Details::default()
                };
                Ok(json_response(StatusCode::OK, success(Some(&details), None)))
            }
        }
    }

    async fn delete_collection(self: &Arc<Self>, call: &Call, body: &[u8]) -> Result<Response<ApiBody>, Status> {
        let (options, conditions) = delete_options(call, body)?;
        let kind = call.kind.clone();
        let selected = ListQuery::parse(&call.query)?;
        let (_, page) = self.list(&kind, call.namespace.clone(), selected).await?;
        let deleted: Vec<Result<Value, Status>> = stream::iter(page.items)
            .map(|object| {
                let conditions = &conditions;
                async move {
                    let mut writing = call.writing(Part::Main, options);
                    writing.namespace = &object.key.namespace;
                    match self.delete(writing, &object.key.name, conditions).await {
                        // Somebody else deleted it meanwhile: it is gone all the same.
                        Ok(_) => parse(&object),
                        Err(s) if s.code == 404 => parse(&object),
                        Err(s) => Err(s),
                    }
                }
            })
            .buffered(AT_ONCE)
            .collect()
            .await;
        let mut items = deleted.into_iter().collect::<Result<Vec<_>, _>>()?;
        for item in &mut items {
            kind.show(item);
        }
        let list = json!({
            "kind": &*kind.list_kind,
            "apiVersion": kind.api_version(),
            "metadata": {"resourceVersion": self.store.revision().to_string()},
            "items": items,
        });
        Ok(json_response(StatusCode::OK, encode(&list)?))
    }
}

/// Who applies: an apply without a name would own nothing that could be told apart.
fn applier(call: &Call) -> Result<&str, Status> {
    call.query.get("fieldManager").filter(|m| !m.is_empty()).ok_or_else(|| {
        let cause = Cause::required("fieldManager", "is required for apply patch");
        Status::invalid_option("PatchOptions", cause)
    })
}

fn is_apply(call: &Call) -> bool {
    let media = call.content_type().split(';').next().unwrap_or_default().trim();
    media == "application/apply-patch+yaml"
}

/// A configuration that may be applied at the path of a call, in the shape of its kind.
fn configuration(mut config: Value, call: &Call) -> Result<Value, Status> {
    let kind = &call.kind;
    let name = call.name.as_deref().unwrap_or_default();
    let said = |field: &str| config.get(field).and_then(Value::as_str).unwrap_or_default();
    if said("apiVersion").is_empty() || said("kind").is_empty() {
        return Err(Status::bad_request(
            "Object 'Kind' or 'apiVersion' is missing in the applied configuration",
        ));
    }
    if meta::of(&config).is_some_and(|m| m.get("managedFields").is_some_and(|v| !v.is_null())) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let named = meta::text(&config, "name");
    if !named.is_empty() && named != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({named}) does not match the name on the URL ({name})"
        )));
    }
    shape::drop_nulls(&mut config, &kind.schema);
    if let Some((path, wanted, found)) = shape::mistyped(&config, &kind.schema) {
        return Err(Status::unsorted(format!(
            "failed to create typed patch object ({name}; {}, Kind={}): .{path}: expected {wanted}, got {found}",
            kind.api_version(),
            kind.kind
        )));
    }
    let mut unknown = Vec::new();
    shape::prune(&mut config.clone(), &kind.schema, true, &mut unknown);
    if let Some(first) = unknown.first() {
        return Err(Status::unsorted(format!(
            "failed to create typed patch object ({name}; {}, Kind={}): .{first}: field not declared in schema",
            kind.api_version(),
            kind.kind
        )));
    }
    meta::of_mut(&mut config)?.entry("name").or_insert_with(|| name.into());
    Ok(config)
}

/// The body of a call. In protobuf it may be the call's own kind, or one of those that go with any kind.
fn read_body(call: &Call, body: &[u8]) -> Result<Parsed, Status> {
    codec::parse(body, call.content_type(), &|kind| match kind {
        "DeleteOptions" => Some("meta.v1.DeleteOptions".to_owned()),
        "TokenRequest" => Some("authentication.v1.TokenRequest".to_owned()),
        "Scale" => Some("autoscaling.v1.Scale".to_owned()),
        "Binding" => Some("core.v1.Binding".to_owned()),
        "Eviction" => Some("policy.v1.Eviction".to_owned()),
        own if own == &*call.kind.kind => call.kind.table_type.as_deref().map(str::to_owned),
        _ => None,
    })
}

enum ScaleChange {
    Patch(Patch),
    Replace(Value),
}

fn read_patch(call: &Call, body: &[u8]) -> Result<(Patch, Vec<String>), Status> {
    read_patch_of(call, body, !call.kind.custom)
}

/// Reads a patch by its content type.
fn read_patch_of(call: &Call, body: &[u8], strategic: bool) -> Result<(Patch, Vec<String>), Status> {
    const ALL: &str = "application/json-patch+json, application/merge-patch+json";
    const APPLY: &str = "application/apply-patch+yaml";
    let media = call.content_type().split(';').next().unwrap_or_default().trim();
    let object = || {
        let parsed = codec::json(body)?;
        if parsed.value.is_object() {
            Ok(parsed)
        } else {
            Err(Status::bad_request("error decoding patch: the patch must be an object"))
        }
    };
    match media {
        "application/json-patch+json" => Ok((Patch::Json(Operations::read(body)?), Vec::new())),
        "application/merge-patch+json" => object().map(|p| (Patch::Merge(p.value), p.duplicates)),
        // Null is a patch that changes nothing.
        "application/strategic-merge-patch+json" if strategic && body.trim_ascii() == b"null" => {
            Ok((Patch::Strategic(json!({})), Vec::new()))
        }
        "application/strategic-merge-patch+json" if strategic => {
            object().map(|p| (Patch::Strategic(p.value), p.duplicates))
        }
        "application/strategic-merge-patch+json" => Err(Status::unsupported_media(format!(
            "the body of the request was in an unknown format - accepted media types include: {ALL}, {APPLY}"
        ))),
        _ => Err(Status::unsupported_media(format!(
            "the body of the request was in an unknown format - accepted media types include: {ALL}, application/strategic-merge-patch+json, {APPLY}"
        ))
        .with_empty_details()),
    }
}

/// The options of a delete, from its body and its query.
fn delete_options(call: &Call, body: &[u8]) -> Result<(WriteQuery, DeleteOptions), Status> {
    let mut options = WriteQuery::parse(&call.query, "DeleteOptions")?;
    let mut conditions = DeleteOptions::default();
    if let Some(policy) = call.query.get("propagationPolicy").filter(|p| !p.is_empty()) {
        conditions.propagation = Some(propagation(policy)?);
    }
    if call.query.get("orphanDependents").is_some() {
        conditions.propagation = orphaned(conditions.propagation, call.query.flag("orphanDependents"))?;
    }
    if let Some(text) = call.query.get("gracePeriodSeconds").filter(|t| !t.is_empty()) {
        conditions.grace = Some(text.parse().map_err(|_| {
            Status::bad_request(format!("gracePeriodSeconds must be a number of seconds, not {text:?}"))
        })?);
    }
    if body.iter().any(|b| !b.is_ascii_whitespace()) {
        let parsed = read_body(call, body)?.value;
        if !parsed.is_object() {
            return Err(Status::bad_request("the body of a delete must be DeleteOptions"));
        }
        if parsed
            .get("kind")
            .and_then(Value::as_str)
            .is_some_and(|k| k != "DeleteOptions")
        {
            return Err(Status::bad_request("the body of a delete must be DeleteOptions"));
        }
        read_delete_options(&parsed, &mut options, &mut conditions)?;
    }
    Ok((options, conditions))
}

/// The options of a delete as an object.
fn read_delete_options(parsed: &Value, options: &mut WriteQuery, conditions: &mut DeleteOptions) -> Result<(), Status> {
    let text = |pointer: &str| {
        parsed
            .pointer(pointer)
            .and_then(Value::as_str)
            .filter(|s| !s.is_empty())
            .map(str::to_owned)
    };
    conditions.uid = text("/preconditions/uid");
    conditions.version = text("/preconditions/resourceVersion");
    if let Some(seconds) = parsed.get("gracePeriodSeconds").and_then(Value::as_i64) {
        conditions.grace = Some(seconds);
    }
    if let Some(policy) = text("/propagationPolicy") {
        conditions.propagation = Some(propagation(&policy)?);
    }
    if let Some(orphan) = parsed.get("orphanDependents").and_then(Value::as_bool) {
        conditions.propagation = orphaned(conditions.propagation, orphan)?;
    }
    for value in parsed.get("dryRun").and_then(Value::as_array).into_iter().flatten() {
        if value != "All" {
            let cause = Cause::not_supported("dryRun", &format!("[{value}]"), &["All"]);
            return Err(Status::invalid_option("DeleteOptions", cause));
        }
        options.dry_run = true;
    }
    Ok(())
}

fn propagation(text: &str) -> Result<Propagation, Status> {
    Ok(match text {
        "Orphan" => Propagation::Orphan,
        "Background" => Propagation::Background,
        "Foreground" => Propagation::Foreground,
        other => {
            let known = ["Foreground", "Background", "Orphan", "nil"];
            let cause = Cause::not_supported("propagationPolicy", &format!("{other:?}"), &known);
            return Err(Status::invalid_option("DeleteOptions", cause));
        }
    })
}

/// `orphanDependents`, the older word, which may not stand beside the newer one.
fn orphaned(said: Option<Propagation>, orphan: bool) -> Result<Option<Propagation>, Status> {
    if said.is_some() {
        let why = "orphanDependents and deletionPropagation cannot be both set";
        let cause = Cause::invalid("propagationPolicy", "", why);
        return Err(Status::invalid_option("DeleteOptions", cause));
    }
    Ok(Some(if orphan {
        Propagation::Orphan
    } else {
        Propagation::Background
    }))
}

/// The answer to a write.
fn answer(call: &Call, code: StatusCode, written: &Written, form: Form) -> Result<Response<ApiBody>, Status> {
    let body = if form == Form::Json {
        written.json.clone()
    } else {
        let value: Value =
            serde_json::from_slice(&written.json).map_err(|_| Status::internal("an object cannot be read"))?;
        encode(&if form == Form::Table {
            let include = table::RowObject::parse(call.query.get("includeObject")).map_err(Status::bad_request)?;
            let row = table::row(&call.kind.columns, &value, include, daemon::clock::wall_ms());
            let metadata = json!({"resourceVersion": meta::text(&value, "resourceVersion")});
            table::table(&call.kind.columns, vec![row], &metadata, true)
        } else {
            table::partial(&value)
        })?
    };
    Ok(with_warnings(json_response(code, body), &written.warnings))
}
