//! The built-in types as [`Schema`]s, made from the table once.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};

use super::table::{self, Declaration, Field, Kind};
use super::{Additional, ListType, Schema, Type, quantity, times};

type Types = BTreeMap<&'static str, Arc<Schema>>;
/// By name, and by whether a zero is left out.
type Scalars = BTreeMap<(&'static str, bool), Arc<Schema>>;

static TYPES: LazyLock<Types> =
    LazyLock::new(|| read(table::TABLE).expect("the table of built-in types is read by a test"));

/// A built-in type by its short name (`core.v1.ConfigMap`).
pub(crate) fn named(name: &str) -> Option<Arc<Schema>> {
    TYPES.get(name).cloned()
}

/// A built-in type by the name that OpenAPI documents know it by.
pub(crate) fn by_public_name(public: &str) -> Option<Arc<Schema>> {
    let packages = [
        "io.k8s.apimachinery.pkg.apis.",
        "io.k8s.apiextensions-apiserver.pkg.apis.",
        "io.k8s.api.",
    ];
    packages.iter().find_map(|p| public.strip_prefix(p)).and_then(named)
}

/// The metadata of every object.
pub(crate) fn object_meta() -> Arc<Schema> {
    static META: LazyLock<Arc<Schema>> = LazyLock::new(|| named("meta.v1.ObjectMeta").expect("stands in the table"));
    META.clone()
}

/// The schema of a custom resource with the parts that every object has.
pub(crate) fn with_object_fields(mut schema: Schema) -> Schema {
    add_object_fields(&mut schema, object_meta());
    schema
}

fn add_object_fields(schema: &mut Schema, metadata: Arc<Schema>) {
    static IDENTITY: LazyLock<[Arc<Schema>; 2]> = LazyLock::new(|| {
        let text = |about: &str| {
            Arc::new(Schema {
                description: Some(about.into()),
                ..Schema::of(Type::String)
            })
        };
        [
            text("The versioned schema of this representation of an object."),
            text("The kind of this object. Cannot be changed."),
        ]
    });
    let [api_version, kind] = &*IDENTITY;
    schema.properties.insert("apiVersion".into(), api_version.clone());
    schema.properties.insert("kind".into(), kind.clone());
    schema.properties.insert("metadata".into(), metadata);
}

/// The name under which OpenAPI documents know a type, as other servers name it.
fn public_name(short: &str) -> String {
    let (package, rest) = match short.split_once('.') {
        Some(("meta", rest)) => ("io.k8s.apimachinery.pkg.apis.meta", rest),
        Some(("apiextensions", rest)) => ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions", rest),
        Some((group, rest)) => return format!("io.k8s.api.{group}.{rest}"),
        None => return short.to_owned(),
    };
    format!("{package}.{rest}")
}

fn read(text: &'static str) -> Result<Types, String> {
    let mut done = Types::new();
    let mut scalars = Scalars::new();
    for declaration in table::read(text)? {
        let schema = schema(&declaration, &done, &mut scalars).map_err(|e| format!("{}: {e}", declaration.name))?;
        done.insert(declaration.name, Arc::new(schema));
    }
    Ok(done)
}

fn schema(declaration: &Declaration, done: &Types, scalars: &mut Scalars) -> Result<Schema, String> {
    let mut out = Schema {
        name: Some(public_name(declaration.name).into()),
        description: declaration.note.map(Into::into),
        atomic: declaration.atomic,
        ..Schema::of(Type::Object)
    };
    if declaration.object {
        let metadata = done.get("meta.v1.ObjectMeta").ok_or("ObjectMeta must stand first")?;
        add_object_fields(&mut out, metadata.clone());
    }
    for field in &declaration.fields {
        let schema = member(field, done, scalars)?;
        out.limited |= schema.limited;
        if field.name == "+" {
            for (name, inner) in &schema.properties {
                out.properties.insert(name.clone(), inner.clone());
            }
            continue;
        }
        if field.required {
            out.required.push(field.name.into());
        }
        out.properties.insert(field.name.into(), schema);
    }
    Ok(out)
}

fn member(field: &Field, done: &Types, scalars: &mut Scalars) -> Result<Arc<Schema>, String> {
    let omit = !field.required && !field.optional && !field.always;
    let schema = of(&field.kind, omit, done, scalars)?;
    let default = match field.default {
        Some(text) => Some(serde_json::from_str(text).map_err(|e| e.to_string())?),
        // Where zero and absent differ, nothing said is a null.
        None if field.always && field.optional => Some(Value::Null),
        // Absent and zero differ, and what is absent is written as null.
        None if field.always && field.optional => Some(Value::Null),
        None if field.always => Some(nothing(&field.kind)),
        None if field.required && !field.optional => zero(&field.kind),
        None => None,
    };
    let list = matches!(field.kind, Kind::List(_) | Kind::Set(_) | Kind::Keyed(..));
    let always = field.always || (field.required && !field.optional && (list || default.is_some()));
    if !always && default.is_none() && !field.retain_keys && field.note.is_none() && field.limits.is_empty() {
        return Ok(schema);
    }
    let mut own = (*schema).clone();
    own.nullable |= field.always && field.default.is_none() && default == Some(Value::Null);
    own.default = default;
    own.always = always;
    own.limits = field.limits.clone().into();
    own.limited |= !own.limits.is_empty();
    own.retain_keys = field.retain_keys;
    if let Some(items) = own.items.as_ref().filter(|_| field.retain_keys) {
        let mut inner = (**items).clone();
        inner.retain_keys = true;
        own.items = Some(Arc::new(inner));
    }
    if let Some(note) = field.note {
        own.description = Some(note.into());
    }
    Ok(Arc::new(own))
}

/// What stands where a required value is not given: the reference encoder writes the zero of its type.
fn zero(kind: &Kind) -> Option<Value> {
    match kind {
        Kind::Scalar("string") => Some(json!("")),
        Kind::Scalar("bool") => Some(json!(false)),
        Kind::Scalar("int32" | "int64") => Some(json!(0)),
        _ => None,
    }
}

/// What is written of a part of which nothing was said.
fn nothing(kind: &Kind) -> Value {
    match kind {
        Kind::Scalar("quantity") => json!("0"),
        Kind::Scalar("intstr" | "int32" | "int64") => json!(0),
        Kind::Scalar("string") => json!(""),
        Kind::Scalar("bool") => json!(false),
        Kind::Named(_) => json!({}),
        _ => Value::Null,
    }
}

fn of(kind: &Kind, omit: bool, done: &Types, scalars: &mut Scalars) -> Result<Arc<Schema>, String> {
    let list = |inner: Arc<Schema>, list: ListType| {
        Arc::new(Schema {
            limited: inner.limited,
            items: Some(inner),
            list,
            omit,
            ..Schema::of(Type::Array)
        })
    };
    Ok(match kind {
        Kind::Scalar(name) => scalars
            .entry((name, omit))
            .or_insert_with(|| Arc::new(scalar(name, omit)))
            .clone(),
        Kind::Named(name) => done.get(name).cloned().ok_or_else(|| format!("unknown type {name}"))?,
        Kind::Map(inner) | Kind::Whole(inner) => {
            let inner = of(inner, false, done, scalars)?;
            Arc::new(Schema {
                limited: inner.limited,
                additional: Additional::Of(inner),
                atomic: matches!(kind, Kind::Whole(_)),
                omit,
                ..Schema::of(Type::Object)
            })
        }
        Kind::List(inner) => list(of(inner, false, done, scalars)?, ListType::Atomic),
        Kind::Set(inner) => list(of(inner, false, done, scalars)?, ListType::Set),
        Kind::Keyed(inner, keys) => {
            let keys = keys.iter().map(|k| (*k).to_owned()).collect();
            list(of(inner, false, done, scalars)?, ListType::Map(keys))
        }
    })
}

fn scalar(name: &str, omit: bool) -> Schema {
    let of = |ty: Type, format: Option<&str>| Schema {
        format: format.map(Into::into),
        omit,
        ..Schema::of(ty)
    };
    match name {
        "bool" => of(Type::Boolean, None),
        "int32" => of(Type::Integer, Some("int32")),
        "int64" => of(Type::Integer, Some("int64")),
        "number" => of(Type::Number, Some("double")),
        "date" => of(Type::String, Some(times::TIME)),
        "microtime" => of(Type::String, Some(times::MICRO)),
        "bytes" => of(Type::String, Some("byte")),
        "any" => Schema::anything(),
        "intstr" | "quantity" => Schema {
            int_or_string: true,
            format: (name == "quantity").then(|| quantity::FORMAT.into()),
            ..Schema::default()
        },
        _ => of(Type::String, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_readable_and_has_what_the_kinds_need() {
        let types = read(table::TABLE).unwrap();
        assert!(types.len() > 150);
        let spec = &types["core.v1.Pod"].properties["spec"];
        assert_eq!(spec.properties["containers"].list, ListType::Map(vec!["name".into()]));
        assert!(types["core.v1.Pod"].properties.contains_key("metadata"));
        let volume = spec.properties["volumes"].items.as_ref().unwrap();
        assert!(volume.properties.contains_key("configMap") && volume.properties.contains_key("name"));
        assert!(volume.retain_keys);
    }

    #[test]
    fn a_type_must_stand_before_its_users() {
        assert!(read("T\n  f nosuch\n").unwrap_err().contains("unknown type"));
    }
}
