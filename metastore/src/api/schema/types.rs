//! Our table of built-in types (`types.txt`), read once into [`Schema`]s.
//!
//! A line at the margin names a type; an indented line is a field of it: `name[!] TYPE [=default] [retainKeys]`, `!` for required.
//! TYPE is a scalar (`string bool int32 int64 number date microtime quantity intstr bytes any`), `{T}` for a map, `[T]` for a list that is
//! replaced whole, `[T]set` for a set, `[T]key(a,b)` for a list of objects merged by those keys, or the name of a type that stands
//! earlier in the file. `open` after a type's name: fields that the table does not name are kept. `kind` after it: `apiVersion`, `kind`
//! and `metadata` come by themselves.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use super::{Additional, ListType, Schema, Type};

const TABLE: &str = include_str!("types.txt");

static TYPES: LazyLock<BTreeMap<&'static str, Arc<Schema>>> =
    LazyLock::new(|| read(TABLE).expect("the table of built-in types is read by a test"));

/// A built-in type by its short name (`core.v1.ConfigMap`).
pub(crate) fn named(name: &str) -> Option<Arc<Schema>> {
    TYPES.get(name).cloned()
}

/// The metadata of every object.
pub(crate) fn object_meta() -> Arc<Schema> {
    static META: LazyLock<Arc<Schema>> = LazyLock::new(|| named("meta.v1.ObjectMeta").expect("stands in the table"));
    META.clone()
}

/// The schema of a custom resource with the parts that every object has.
pub(crate) fn with_object_fields(mut schema: Schema) -> Schema {
    schema.properties.insert("apiVersion".into(), Arc::new(api_version()));
    schema.properties.insert("kind".into(), Arc::new(kind()));
    schema.properties.insert("metadata".into(), object_meta());
    schema
}

fn api_version() -> Schema {
    Schema {
        description: Some("The versioned schema of this representation of an object.".into()),
        ..Schema::of(Type::String)
    }
}

fn kind() -> Schema {
    Schema {
        description: Some("The kind of this object. Cannot be changed.".into()),
        ..Schema::of(Type::String)
    }
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

fn read(table: &'static str) -> Result<BTreeMap<&'static str, Arc<Schema>>, String> {
    let mut done: BTreeMap<&'static str, Arc<Schema>> = BTreeMap::new();
    let mut current: Option<(&'static str, Schema)> = None;
    for (number, line) in table.lines().enumerate() {
        let fail = |why: &str| format!("types.txt line {}: {why}: {line}", number + 1);
        let (code, note) = line
            .split_once(" # ")
            .map_or((line, None), |(code, note)| (code, Some(note.trim())));
        if code.trim().is_empty() || code.starts_with('#') {
            continue;
        }
        if code.starts_with(' ') {
            let (_, schema) = current.as_mut().ok_or_else(|| fail("field without a type"))?;
            field(code.trim(), note, schema, &done).map_err(|why| fail(&why))?;
            continue;
        }
        if let Some((name, schema)) = current.take() {
            done.insert(name, Arc::new(schema));
        }
        let mut words = code.split_whitespace();
        let name = words.next().ok_or_else(|| fail("no name"))?;
        let mut schema = Schema {
            name: Some(public_name(name).into()),
            description: note.map(Into::into),
            ..Schema::of(Type::Object)
        };
        for word in words {
            match word {
                "open" => schema.preserve = true,
                "kind" => {
                    schema.properties.insert("apiVersion".into(), Arc::new(api_version()));
                    schema.properties.insert("kind".into(), Arc::new(kind()));
                    let meta = done
                        .get("meta.v1.ObjectMeta")
                        .ok_or_else(|| fail("ObjectMeta must stand first"))?;
                    schema.properties.insert("metadata".into(), meta.clone());
                }
                _ => return Err(fail("unknown word")),
            }
        }
        current = Some((name, schema));
    }
    if let Some((name, schema)) = current.take() {
        done.insert(name, Arc::new(schema));
    }
    Ok(done)
}

fn field(
    code: &str,
    note: Option<&str>,
    into: &mut Schema,
    done: &BTreeMap<&'static str, Arc<Schema>>,
) -> Result<(), String> {
    let (name, rest) = code.split_once(' ').ok_or("a field needs a type")?;
    let (kind, default) = match rest.split_once('=') {
        Some((kind, default)) => (
            kind.trim(),
            Some(serde_json::from_str(default.trim()).map_err(|e| e.to_string())?),
        ),
        None => (rest.trim(), None),
    };
    let (kind, retain) = kind
        .strip_suffix(" retainKeys")
        .map_or((kind, false), |k| (k.trim(), true));
    let mut schema = of(kind, done)?;
    if default.is_some() || retain || note.is_some() {
        let mut own = (*schema).clone();
        own.default = default;
        own.retain_keys = retain;
        if let Some(items) = own.items.as_ref().filter(|_| retain) {
            let mut inner = (**items).clone();
            inner.retain_keys = true;
            own.items = Some(Arc::new(inner));
        }
        if let Some(note) = note {
            own.description = Some(note.into());
        }
        schema = Arc::new(own);
    }
    let (name, required) = name.strip_suffix('!').map_or((name, false), |n| (n, true));
    if required {
        into.required.push(name.into());
    }
    into.properties.insert(name.into(), schema);
    Ok(())
}

fn of(kind: &str, done: &BTreeMap<&'static str, Arc<Schema>>) -> Result<Arc<Schema>, String> {
    if let Some(inner) = kind.strip_prefix('{').and_then(|k| k.strip_suffix('}')) {
        return Ok(Arc::new(Schema {
            additional: Additional::Of(of(inner, done)?),
            ..Schema::of(Type::Object)
        }));
    }
    if let Some(rest) = kind.strip_prefix('[') {
        let (inner, how) = rest.rsplit_once(']').ok_or("unclosed list")?;
        let list = if how.is_empty() {
            ListType::Atomic
        } else if how == "set" {
            ListType::Set
        } else {
            let keys = how
                .strip_prefix("key(")
                .and_then(|h| h.strip_suffix(')'))
                .ok_or("a list is plain, a set, or has key(…)")?;
            ListType::Map(keys.split(',').map(str::to_owned).collect())
        };
        return Ok(Arc::new(Schema {
            items: Some(of(inner, done)?),
            list,
            ..Schema::of(Type::Array)
        }));
    }
    let scalar = |ty: Type, format: Option<&str>| Schema {
        format: format.map(Into::into),
        ..Schema::of(ty)
    };
    Ok(Arc::new(match kind {
        "string" => scalar(Type::String, None),
        "bool" => scalar(Type::Boolean, None),
        "int32" => scalar(Type::Integer, Some("int32")),
        "int64" => scalar(Type::Integer, Some("int64")),
        "number" => scalar(Type::Number, Some("double")),
        "date" | "microtime" => scalar(Type::String, Some("date-time")),
        "bytes" => scalar(Type::String, Some("byte")),
        "any" => Schema::anything(),
        "intstr" | "quantity" => Schema {
            int_or_string: true,
            ..Schema::default()
        },
        name => return done.get(name).cloned().ok_or_else(|| format!("unknown type {name}")),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_readable_and_has_what_the_kinds_need() {
        let types = read(TABLE).unwrap();
        assert!(types.len() > 50);
        let pod = &types["core.v1.Pod"];
        let containers = &pod.properties["spec"].properties["containers"];
        assert_eq!(containers.list, ListType::Map(vec!["name".into()]));
        assert!(pod.properties.contains_key("metadata"));
    }

    #[test]
    fn a_wrong_line_is_named() {
        assert!(read("T\n  f nosuch\n").unwrap_err().contains("line 2"));
        assert!(read("  f string\n").unwrap_err().contains("line 1"));
        assert!(read("T strange\n").unwrap_err().contains("unknown word"));
    }
}
