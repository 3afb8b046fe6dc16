//! Tables: what `kubectl get` prints. Columns are data of the kind; a cell is a path, an age, or a function for the few that count or combine.

use serde_json::{Value, json};

use super::jsonpath::Path;

/// A printer column.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) name: Box<str>,
    pub(crate) ty: Box<str>,
    pub(crate) format: Box<str>,
    pub(crate) description: Box<str>,
    pub(crate) priority: i64,
    pub(crate) cell: Cell,
}

/// Where a cell's value comes from.
#[derive(Clone, Debug)]
pub(crate) enum Cell {
    /// The first value at a path, as it is.
    Value(Path),
    /// The text at a path, empty when there is none.
    Word(Path),
    /// The time since the timestamp at a path.
    Age(Path),
    /// The time since the first timestamp that there is at one of these paths.
    Ages(Vec<Path>),
    /// The time since the timestamp at a path, and nothing where there is none.
    Since(Path),
    /// Computed.
    Of(fn(&Value) -> Value),
    /// Computed by the time (milliseconds since 1970).
    Now(fn(&Value, u64) -> Value),
}

const ABOUT_NAME: &str = "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
const ABOUT_AGE: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

impl Column {
    /// The first column of every table.
    pub(crate) fn name() -> Self {
        Self {
            name: "Name".into(),
            ty: "string".into(),
            format: "name".into(),
            description: ABOUT_NAME.into(),
            priority: 0,
            cell: Cell::Of(|o| o.pointer("/metadata/name").cloned().unwrap_or(Value::Null)),
        }
    }

    /// The last column of most.
    pub(crate) fn age() -> Self {
        let mut out = Self::new("Age", "string", ABOUT_AGE, Cell::Of(|_| Value::Null));
        out.cell = path(".metadata.creationTimestamp").map_or(out.cell, Cell::Age);
        out
    }

    /// When it was created, for kinds whose table has nothing else to say.
    pub(crate) fn created() -> Self {
        let at = path(".metadata.creationTimestamp").map_or(Cell::Of(|_| Value::Null), Cell::Value);
        Self::new("Created At", "date", ABOUT_AGE, at)
    }

    /// A column.
    pub(crate) fn new(name: &str, ty: &str, description: &str, cell: Cell) -> Self {
        Self {
            name: name.into(),
            ty: ty.into(),
            format: "".into(),
            description: description.into(),
            priority: 0,
            cell,
        }
    }

    /// The same, shown only with `-o wide`.
    #[must_use]
    pub(crate) fn wide(mut self) -> Self {
        self.priority = 1;
        self
    }

    fn definition(&self) -> Value {
        json!({"name": self.name, "type": self.ty, "format": self.format, "description": self.description, "priority": self.priority})
    }

    fn cell(&self, object: &Value, now_ms: u64) -> Value {
        match &self.cell {
            Cell::Value(p) => match p.first(object) {
                Some(Value::Null) if &*self.ty == "string" => json!("<no value>"),
                None | Some(Value::Null) => Value::Null,
                Some(v) => self.coerce(v),
            },
            Cell::Word(p) => p
                .first(object)
                .filter(|v| v.is_string())
                .cloned()
                .unwrap_or_else(|| json!("")),
            Cell::Age(p) => match p.first(object).and_then(Value::as_str) {
                None => json!("<unknown>"),
                Some(text) => json!(age(text, now_ms)),
            },
            Cell::Since(p) => match p.first(object).and_then(Value::as_str) {
                None => Value::Null,
                Some(text) => json!(age(text, now_ms)),
            },
            Cell::Ages(paths) => match paths.iter().find_map(|p| p.first(object)?.as_str()) {
                None => json!("<unknown>"),
                Some(text) => json!(age(text, now_ms)),
            },
            Cell::Of(f) => f(object),
            Cell::Now(f) => f(object, now_ms),
        }
    }

    /// What clients expect in a column of this type; a value of another type is left out, as other servers do.
    fn coerce(&self, value: &Value) -> Value {
        match (&*self.ty, value) {
            ("integer", Value::Number(n)) if n.is_i64() || n.is_u64() => value.clone(),
            ("integer", Value::Number(n)) => n.as_f64().map_or(Value::Null, |f| {
                #[allow(clippy::cast_possible_truncation)]
                let whole = f as i64;
                json!(whole)
            }),
            ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
            ("integer" | "number" | "boolean", _) => Value::Null,
            (_, Value::String(_)) => value.clone(),
            (_, other) => json!(other.to_string()),
        }
    }
}

/// A built-in column's path; all of them are covered by a test.
pub(crate) fn path(text: &str) -> Option<Path> {
    Path::parse(text).ok()
}

/// What rows carry beside the cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowObject {
    None,
    Metadata,
    Object,
}

impl RowObject {
    /// From `includeObject`.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, String> {
        match text {
            None | Some("" | "Metadata") => Ok(Self::Metadata),
            Some("None") => Ok(Self::None),
            Some("Object") => Ok(Self::Object),
            Some(other) => Err(format!("unrecognized includeObject value: {other:?}")),
        }
    }
}

/// One row.
pub(crate) fn row(columns: &[Column], object: &Value, carry: RowObject, now_ms: u64) -> Value {
    let cells: Vec<Value> = columns.iter().map(|c| c.cell(object, now_ms)).collect();
    match carry {
        RowObject::None => json!({"cells": cells, "object": null}),
        RowObject::Metadata => json!({"cells": cells, "object": partial(object)}),
        RowObject::Object => json!({"cells": cells, "object": object}),
    }
}

/// An object reduced to its metadata.
pub(crate) fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}

/// A table. `metadata` is that of the list, or of the object for a single row.
pub(crate) fn table(columns: &[Column], rows: Vec<Value>, metadata: &Value, with_definitions: bool) -> Value {
    let definitions: Vec<Value> = if with_definitions {
        columns.iter().map(Column::definition).collect()
    } else {
        Vec::new()
    };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": definitions, "rows": rows})
}

/// The time since an RFC 3339 timestamp, in words of kubectl.
pub(crate) fn age(timestamp: &str, now_ms: u64) -> String {
    let Ok(then) = timestamp.parse::<jiff::Timestamp>() else {
        return "<invalid>".to_owned();
    };
    let now = i64::try_from(now_ms / 1000).unwrap_or(i64::MAX);
    human(now.saturating_sub(then.as_second()))
}

/// A time span in words of kubectl.
pub(crate) fn human(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |big: i64, unit: &str, rest: i64, small: &str| {
        if rest == 0 {
            format!("{big}{unit}")
        } else {
            format!("{big}{unit}{rest}{small}")
        }
    };
    match seconds {
        i64::MIN..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(s / MINUTE, "m", s % MINUTE, "s"),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(s / HOUR, "h", s % HOUR / MINUTE, "m"),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(s / DAY, "d", s % DAY / HOUR, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s / YEAR, "y", s % YEAR / DAY, "d"),
        s => format!("{}y", s / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_kubectl_prints_them() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (3599, "59m"),
            (3 * 3600 + 60, "3h1m"),
            (9 * 3600, "9h"),
            (3 * 86_400 + 7200, "3d2h"),
            (30 * 86_400, "30d"),
            (800 * 86_400, "2y70d"),
        ] {
            assert_eq!(human(seconds), text);
        }
        assert_eq!(age("yesterday", 0), "<invalid>");
    }

    #[test]
    fn cells_have_the_type_of_their_column() {
        let o = json!({"spec":{"n":3,"f":2.5,"s":"x","list":["a","b"]},"metadata":{"name":"o","creationTimestamp":"1970-01-01T00:00:00Z"}});
        let column = |ty: &str, p: &str| Column::new("C", ty, "", Cell::Value(path(p).unwrap()));
        assert_eq!(column("integer", ".spec.n").cell(&o, 0), json!(3));
        assert_eq!(column("integer", ".spec.f").cell(&o, 0), json!(2));
        assert_eq!(column("integer", ".spec.s").cell(&o, 0), Value::Null);
        assert_eq!(column("string", ".spec.n").cell(&o, 0), json!("3"));
        assert_eq!(column("string", ".spec.nope").cell(&o, 0), Value::Null);
        assert_eq!(column("string", ".spec.list[*]").cell(&o, 0), json!("a"));
        assert_eq!(column("string", ".spec.list").cell(&o, 0), json!(r#"["a","b"]"#));
        let since = |p: &str| Column::new("C", "date", "", Cell::Since(path(p).unwrap())).cell(&o, 5000);
        assert_eq!(since(".metadata.creationTimestamp"), json!("5s"));
        assert_eq!(
            (since(".spec.s"), since(".spec.nope")),
            (json!("<invalid>"), Value::Null)
        );
        assert_eq!(Column::age().cell(&o, 5000), json!("5s"));
        let r = row(&[Column::name()], &o, RowObject::Metadata, 0);
        assert_eq!(r["cells"], json!(["o"]));
        assert!(r["object"].get("spec").is_none());
    }
}
