//! `metrics.k8s.io`: what nodes and pods use. Nothing of it is stored: who reaches running programs is asked each time, and here the answer is selected,
//! listed and shown as any other kind's.

use std::sync::Arc;

use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::body::ApiBody;
use super::builtin::measured as kinds;
use super::kinds::Review;
use super::read::{Filter, other_list};
use super::request::{Form, ListQuery, accept};
use super::server::{Call, Core, json_response};
use super::status::Status;
use super::write::encode;
use crate::store::{Object, ObjectKey};

pub(crate) use kinds::kinds;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measured {
    /// `NodeMetrics`.
    Nodes,
    /// `PodMetrics`, of all namespaces.
    Pods,
}

impl Core {
    /// GET on what is measured, by name or as a list.
    pub(crate) async fn measured(&self, call: Call) -> Result<Response<ApiBody>, Status> {
        if !matches!(call.parts.method, Method::GET | Method::HEAD) {
            return Err(Status::method_not_allowed());
        }
        if !call.subresource.is_empty() {
            return Err(Status::no_such_resource());
        }
        let options = ListQuery::parse(&call.query)?;
        if options.watch {
            return Err(Status::method_not_allowed());
        }
        let kind = call.kind;
        // Of one thing there is no more to leave out.
        let allowed = match call.name {
            Some(_) => |f| matches!(f, Form::Json | Form::Table),
            None => |f| matches!(f, Form::Json | Form::Table | Form::PartialList),
        };
        let form = accept(&call.parts.headers, allowed)?;
        let filter = Filter::new(&kind, options.labels, options.fields)?;
        let of = match kind.review {
            Some(Review::Nodes) => Measured::Nodes,
            _ => Measured::Pods,
        };
        let Some(connector) = &self.connector else {
            return Err(Status::unavailable("nothing that could be measured runs here"));
        };
        let mut items = Vec::new();
        for value in connector.measure(of).await? {
            let text = |field: &str| -> Arc<str> { value["metadata"][field].as_str().unwrap_or_default().into() };
            let (namespace, name) = (text("namespace"), text("name"));
            if call.namespace.as_deref().is_some_and(|wanted| wanted != &*namespace)
                || call.name.as_deref().is_some_and(|wanted| wanted != &*name)
            {
                continue;
            }
            let object = Object {
                key: ObjectKey::new(&*kind.group, &*kind.plural, namespace, name),
                revision: 0,
                json: encode(&shown(&kind.api_version(), &kind.kind, value))?,
            };
            if filter.selects(&kind, &object) {
                items.push(object);
            }
        }
        if let (Some(name), true) = (&call.name, items.is_empty()) {
            return Err(Status::not_found(&kind.group, &kind.plural, name));
        }
        if form != Form::Json {
            let body = other_list(&kind, &items, &json!({}), form, options.include)?;
            return Ok(json_response(StatusCode::OK, body));
        }
        if call.name.is_some()
            && let Some(one) = items.pop()
        {
            return Ok(json_response(StatusCode::OK, one.json));
        }
        let values: Result<Vec<Value>, _> = items.iter().map(Object::value).collect();
        let values = values.map_err(|e| Status::internal(e.to_string()))?;
        let all = json!({"kind": &*kind.list_kind, "apiVersion": kind.api_version(), "metadata": {}, "items": values});
        Ok(json_response(StatusCode::OK, encode(&all)?))
    }
}

fn shown(api_version: &str, kind: &str, mut value: Value) -> Value {
    value["kind"] = kind.into();
    value["apiVersion"] = api_version.into();
    value
}
