//! Get and list. A single object in its stored form is answered with the stored bytes.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::body::ApiBody;
use super::kinds::{Deletion, KindSpec, Selector};
use super::request::{Form, ListQuery, Version, VersionMatch, accept};
use super::selector::{Fields, Labels, Selectable};
use super::server::{Call, Core, json_response};
use super::status::Status;
use super::table::{self, RowObject};
use super::write::{encode, parse, store_status};
use super::{builtin, meta};
use crate::store::{ListOptions, Object, ObjectKey};

/// Objects are taken from the store in pages of this size where a selector may pass over many.
const PAGE: usize = 500;

/// What selects objects of a list or watch.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    labels: Labels,
    fields: Fields,
    /// Fields that need the object parsed.
    deep: bool,
}

impl Filter {
    /// Checks that the kind has the fields that the selector names.
    pub(crate) fn new(kind: &KindSpec, labels: Labels, fields: Fields) -> Result<Self, Status> {
        let mut deep = false;
        for (field, _, _) in &fields.0 {
            match field.as_str() {
                "metadata.name" | "metadata.namespace" => {}
                other if kind.fields.iter().any(|f| &*f.name == other) => deep = true,
                other => {
                    return Err(Status::bad_request(format!("field label not supported: {other}")));
                }
            }
        }
        Ok(Self { labels, fields, deep })
    }

    /// Whether it selects everything.
    pub(crate) const fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether it selects an object, looking at as little of it as possible.
    pub(crate) fn selects(&self, kind: &KindSpec, object: &Object) -> bool {
        for (field, equal, value) in &self.fields.0 {
            let have = match field.as_str() {
                "metadata.name" => &*object.key.name,
                "metadata.namespace" => &*object.key.namespace,
                _ => continue,
            };
            if (have == value) != *equal {
                return false;
            }
        }
        if !self.labels.is_empty() && !self.labels.selects(&Selectable::read(&object.json)) {
            return false;
        }
        !self.deep || self.selects_deep(kind, object)
    }

    fn selects_deep(&self, kind: &KindSpec, object: &Object) -> bool {
        let Ok(mut value) = object.value() else { return false };
        kind.show(&mut value);
        self.fields.0.iter().all(|(field, equal, wanted)| {
            let Some(selected) = kind.fields.iter().find(|f| *f.name == **field) else {
                return true;
            };
            let have = match selected.path.first(&value) {
                None | Some(Value::Null) => selected.zero.to_owned(),
                Some(Value::String(s)) => s.clone(),
                Some(other) => other.to_string(),
            };
            (have == *wanted) == *equal
        })
    }
}

/// Where a continued list goes on. Clients carry it unread.
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    v: String,
    rv: u64,
    start: String,
}

const TOKEN: &str = "meta.k8s.io/v1";

impl Token {
    fn encode(revision: u64, last: &ObjectKey) -> String {
        let token = Self {
            v: TOKEN.to_owned(),
            rv: revision,
            start: format!("{}/{}", last.namespace, last.name),
        };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).expect("three plain fields"))
    }

    fn decode(text: &str, kind: &KindSpec) -> Result<(u64, ObjectKey), Status> {
        let bad = || Status::bad_request("continue key is not valid");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad())?;
        let token: Self = serde_json::from_slice(&bytes).map_err(|_| bad())?;
        let (namespace, name) = token.start.split_once('/').ok_or_else(bad)?;
        if token.v != TOKEN || token.start.len() > 1024 {
            return Err(bad());
        }
        let mut key = kind.key(namespace, name);
        key.namespace = namespace.into();
        Ok((token.rv, key))
    }
}

/// A page of a list.
pub(crate) struct Page {
    pub(crate) revision: u64,
    pub(crate) items: Vec<Object>,
    next: Option<String>,
    remaining: Option<u64>,
}

impl Core {
    /// GET on a resource.
    pub(crate) async fn read_request(self: &Arc<Self>, call: Call) -> Result<Response<ApiBody>, Status> {
        if call.kind.review.is_some() {
            return Err(Status::method_not_allowed());
        }
        let single = |f| matches!(f, Form::Json | Form::Table | Form::Partial);
        if call.name.is_some() {
            let form = accept(&call.parts.headers, single)?;
            return self.get(&call, form);
        }
        let options = ListQuery::parse(&call.query)?;
        if options.watch {
            let form = accept(&call.parts.headers, single)?;
            self.watch_request(call, options, form).await
        } else {
            let listed = |f| matches!(f, Form::Json | Form::Table | Form::PartialList);
            let form = accept(&call.parts.headers, listed)?;
            self.list_request(call, options, form).await
        }
    }

    fn get(&self, call: &Call, form: Form) -> Result<Response<ApiBody>, Status> {
        let kind = &call.kind;
        let name = call.name.as_deref().unwrap_or_default();
        let include = RowObject::parse(call.query.get("includeObject")).map_err(Status::bad_request)?;
        if let Some(text) = call.query.get("resourceVersion").filter(|t| !t.is_empty()) {
            let asked = text
                .parse()
                .map_err(|_| Status::unsorted(format!("invalid resource version {text:?}: it is not a number")))?;
            if asked > self.store.revision() {
                return Err(too_new(asked, self.store.revision()));
            }
        }
        match call.subresource.as_str() {
            "" => {}
            "status" if kind.has_status() => {}
            other if kind.part(other).is_some() => {}
            "scale" if kind.scale.is_some() => {
                let scale = self.scale(kind, call.namespace.as_deref().unwrap_or_default(), name)?.0;
                return Ok(json_response(StatusCode::OK, encode(&scale)?));
            }
            "finalize" if matches!(kind.deletion, Deletion::EmptiesNamespace) => {
                return Err(Status::method_not_allowed());
            }
            action if kind.actions.iter().any(|a| a.name == action) => return Err(Status::method_not_allowed()),
            _ => return Err(Status::no_such_resource()),
        }
        let key = kind.key(call.namespace.as_deref().unwrap_or_default(), name);
        let Some(object) = self.read(&key)? else {
            return Err(Status::not_found(&kind.storage.group, &kind.plural, name));
        };
        if form == Form::Json {
            return Ok(json_response(StatusCode::OK, self.shown(kind, &object)?));
        }
        let mut value = parse(&object)?;
        kind.show(&mut value);
        let body = match form {
            Form::Table => {
                let row = table::row(&kind.columns, &value, include, daemon::clock::wall_ms());
                let metadata = json!({"resourceVersion": object.revision.to_string()});
                table::table(&kind.columns, vec![row], &metadata, true)
            }
            _ => table::partial(&value),
        };
        Ok(json_response(StatusCode::OK, encode(&body)?))
    }

    async fn list_request(
        self: &Arc<Self>,
        call: Call,
        options: ListQuery,
        form: Form,
    ) -> Result<Response<ApiBody>, Status> {
        let kind = call.kind.clone();
        let page = self.list(&kind, call.namespace.clone(), options).await?;
        let mut metadata = json!({"resourceVersion": page.1.revision.to_string()});
        if let Value::Object(map) = &mut metadata {
            if let Some(next) = &page.1.next {
                map.insert("continue".to_owned(), json!(next));
            }
            if let Some(n) = page.1.remaining {
                map.insert("remainingItemCount".to_owned(), json!(n));
            }
        }
        let include = page.0.include;
        let page = page.1;
        if form == Form::Json {
            let head = list_head(&kind.list_kind, &kind.api_version(), &metadata)?;
            let items = if page.items.iter().all(|o| kind.is_stored_form(o.revision)) {
                page.items
            } else {
                page.items
                    .into_iter()
                    .map(|o| {
                        Ok(Object {
                            json: self.shown(&kind, &o)?,
                            ..o
                        })
                    })
                    .collect::<Result<_, Status>>()?
            };
            let bytes = items.iter().map(|o| o.json.len()).sum();
            let place = self.budget.answer(bytes).await?;
            return Ok(response(ApiBody::list(head, items, place)));
        }
        tokio::task::spawn_blocking(move || other_list(&kind, &page.items, &metadata, form, include))
            .await
            .map_err(|_| Status::internal("the list could not be made"))?
            .map(|bytes| json_response(StatusCode::OK, bytes))
    }

    /// A page of objects of a kind; gives the options back.
    pub(crate) async fn list(
        self: &Arc<Self>,
        kind: &Arc<KindSpec>,
        namespace: Option<String>,
        options: ListQuery,
    ) -> Result<(ListQuery, Page), Status> {
        let (core, kind) = (self.clone(), kind.clone());
        let place = self.budget.list().await?;
        tokio::task::spawn_blocking(move || {
            let _place = place;
            let page = core.list_now(&kind, namespace.as_deref(), &options)?;
            Ok((options, page))
        })
        .await
        .map_err(|_| Status::internal("the list could not be read"))?
    }

    fn list_now(&self, kind: &KindSpec, namespace: Option<&str>, options: &ListQuery) -> Result<Page, Status> {
        let filter = Filter::new(kind, options.labels.clone(), options.fields.clone())?;
        let mut at = match (options.version, options.version_match) {
            (Version::Exactly(n), Some(VersionMatch::Exact)) => Some(n),
            // With a limit, a bare version means that very version; without, "not older than".
            (Version::Exactly(n), None) if options.limit.is_some() => Some(n),
            (Version::Exactly(n), _) if n > self.store.revision() => {
                return Err(too_new(n, self.store.revision()));
            }
            _ => None,
        };
        let mut after = None;
        if let Some(token) = &options.token {
            let (revision, key) = Token::decode(token, kind)?;
            at = Some(revision);
            after = Some(key);
        }
        // A selector that names one namespace narrows the scope; one that names one object is a get.
        let namespace = namespace.or_else(|| options.fields.only_namespace());
        if let (Some(name), None, None) = (options.fields.only_name(), at, &after)
            && (namespace.is_some() || !kind.namespaced)
        {
            let revision = self.store.revision();
            let found = self.read(&kind.key(namespace.unwrap_or_default(), name))?;
            return Ok(Page {
                revision: found.as_ref().map_or(revision, |o| revision.max(o.revision)),
                items: found.into_iter().filter(|o| filter.selects(kind, o)).collect(),
                next: None,
                remaining: None,
            });
        }
        self.collect(kind, namespace, options.limit, &filter, at, after)
    }

    fn collect(
        &self,
        kind: &KindSpec,
        namespace: Option<&str>,
        limit: Option<usize>,
        filter: &Filter,
        mut at: Option<u64>,
        mut after: Option<ObjectKey>,
    ) -> Result<Page, Status> {
        let scope = kind.scope(namespace);
        let mut items = Vec::new();
        loop {
            let page = if filter.is_empty() {
                limit
            } else {
                limit.map(|l| l.max(PAGE))
            };
            let continued = after.is_some();
            let asked = ListOptions {
                limit: page,
                after: after.take(),
                at,
            };
            let listed = self.store.list(&scope, asked).map_err(|e| match store_status(e) {
                gone if gone.code == 410 && continued => Status::expired(
                    "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.",
                ),
                other => other,
            })?;
            at = Some(listed.revision);
            let mut taken = None;
            let total = listed.items.len();
            for (i, object) in listed.items.into_iter().enumerate() {
                after = Some(object.key.clone());
                if filter.selects(kind, &object) {
                    items.push(object);
                    if limit.is_some_and(|l| items.len() >= l) {
                        taken = Some(i + 1);
                        break;
                    }
                }
            }
            let full = taken.is_some();
            let rest_of_page = taken.is_some_and(|n| n < total);
            if full || !listed.more {
                let more = rest_of_page || listed.more;
                let next = after
                    .as_ref()
                    .filter(|_| full && more)
                    .map(|k| Token::encode(listed.revision, k));
                let remaining = match &after {
                    Some(last) if next.is_some() && filter.is_empty() => {
                        self.count_after(kind, namespace, last, listed.revision)
                    }
                    _ => None,
                };
                return Ok(Page {
                    revision: listed.revision,
                    items,
                    next,
                    remaining,
                });
            }
        }
    }

    /// How many objects stand behind a key; none when it cannot be said cheaply.
    fn count_after(&self, kind: &KindSpec, namespace: Option<&str>, last: &ObjectKey, at: u64) -> Option<u64> {
        /// Counting reads objects: past this many a client is told nothing, which the API allows, and a long list costs no more.
        const MOST: usize = 200;
        let options = ListOptions {
            limit: Some(MOST),
            after: Some(last.clone()),
            at: Some(at),
        };
        let rest = self.store.list(&kind.scope(namespace), options).ok()?;
        (!rest.more).then_some(rest.items.len() as u64)
    }

    /// The scale of an object, and the object.
    pub(crate) fn scale(&self, kind: &KindSpec, namespace: &str, name: &str) -> Result<(Value, Value), Status> {
        let Some(object) = self.read(&kind.key(namespace, name))? else {
            return Err(Status::not_found(&kind.storage.group, &kind.plural, name));
        };
        let mut value = parse(&object)?;
        kind.show(&mut value);
        Ok((scale_of(kind, &value), value))
    }
}

/// The scale of an object in its row's form.
pub(crate) fn scale_of(kind: &KindSpec, object: &Value) -> Value {
    let Some(scale) = &kind.scale else { return Value::Null };
    let whole = |p: &super::jsonpath::Path| p.first(object).and_then(Value::as_i64).unwrap_or(0);
    let mut status = json!({"replicas": whole(&scale.status)});
    let selector = match &scale.selector {
        Selector::None => None,
        Selector::Text(p) => p.first(object).and_then(Value::as_str).map(str::to_owned),
        Selector::Labels(p) => p.first(object).map(builtin::selector_text),
        Selector::Map(p) => p
            .first(object)
            .map(|labels| builtin::selector_text(&json!({"matchLabels": labels}))),
    };
    if let (Some(text), Value::Object(map)) = (selector, &mut status) {
        map.insert("selector".to_owned(), json!(text));
    }
    let mut metadata = serde_json::Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(v) = meta::of(object).and_then(|m| m.get(field)) {
            metadata.insert(field.to_owned(), v.clone());
        }
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": {"replicas": whole(&scale.spec)}, "status": status})
}

/// The beginning of a list, up to its items.
fn list_head(kind: &str, api_version: &str, metadata: &Value) -> Result<Bytes, Status> {
    let mut head = encode(&json!({"kind": kind, "apiVersion": api_version, "metadata": metadata}))?.to_vec();
    head.pop();
    head.extend_from_slice(b",\"items\":[");
    Ok(head.into())
}

fn response(body: ApiBody) -> Response<ApiBody> {
    let mut out = json_response(StatusCode::OK, Bytes::new());
    *out.body_mut() = body;
    out
}

/// A list as a table, or of metadata only.
pub(crate) fn other_list(
    kind: &KindSpec,
    items: &[Object],
    metadata: &Value,
    form: Form,
    include: RowObject,
) -> Result<Bytes, Status> {
    let now = daemon::clock::wall_ms();
    let mut rows = Vec::with_capacity(items.len());
    for object in items {
        let mut value = parse(object)?;
        kind.show(&mut value);
        rows.push(if form == Form::Table {
            table::row(&kind.columns, &value, include, now)
        } else {
            table::partial(&value)
        });
    }
    encode(&if form == Form::Table {
        table::table(&kind.columns, rows, metadata, true)
    } else {
        json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": rows})
    })
}

/// The client has seen a version that this server has not.
pub(crate) fn too_new(asked: u64, newest: u64) -> Status {
    let mut status = Status::new(
        StatusCode::GATEWAY_TIMEOUT,
        "Timeout",
        format!("Timeout: Too large resource version: {asked}, current: {newest}"),
    );
    status.details = Some(Box::new(super::status::Details {
        causes: vec![super::status::Cause {
            reason: "ResourceVersionTooLarge".to_owned(),
            message: "Too large resource version".to_owned(),
            field: String::new(),
        }],
        retry_after: Some(1),
        ..super::status::Details::default()
    }));
    status
}
