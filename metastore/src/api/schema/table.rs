//! The form of `types.txt`: our table of built-in types, read into [`Declaration`]s for whoever needs them: schemas, and the protobuf reader.
//!
//! A line at the margin names a type; an indented line is a field of it: `name[!][?][*][@NUMBER] TYPE [WORD ...] [=default]`, `!` for required,
//! `?` where zero and absent differ, `*` for a part that is on the wire even when nothing was said, the number in the protobuf form. A WORD is
//! `retainKeys` or a [`Limit`] of the value (`in(A,B)`, `min(0)`, `port`). A field named `+` is another type whose fields are this one's own.
//! TYPE is a scalar (`string bool int32 int64 number date microtime quantity intstr bytes any`), `{T}` for a map, `{T}atomic` for one that is replaced whole, `[T]` for a list that is
//! replaced whole, `[T]set` for a set, `[T]key(a,b)` for a list of objects merged by those keys, or the name of a type that stands
//! earlier in the file. After a type's name: `kind` where `apiVersion`, `kind` and `metadata` come by themselves, `atomic` where its
//! fields have one owner.

use super::limits::Limit;

/// The table.
pub(crate) const TABLE: &str = include_str!("types.txt");

/// One type of the table.
#[derive(Debug)]
pub(crate) struct Declaration {
    pub(crate) name: &'static str,
    /// Has `apiVersion`, `kind` and `metadata`.
    pub(crate) object: bool,
    /// Owned whole.
    pub(crate) atomic: bool,
    pub(crate) note: Option<&'static str>,
    pub(crate) fields: Vec<Field>,
}

/// One field of a type.
#[derive(Debug)]
pub(crate) struct Field {
    /// `+` for a type whose fields are the parent's.
    pub(crate) name: &'static str,
    pub(crate) number: Option<u32>,
    pub(crate) required: bool,
    /// Zero and absent differ.
    pub(crate) optional: bool,
    /// Written even when nothing was said.
    pub(crate) always: bool,
    pub(crate) kind: Kind,
    pub(crate) default: Option<&'static str>,
    pub(crate) retain_keys: bool,
    pub(crate) limits: Vec<Limit>,
    pub(crate) note: Option<&'static str>,
}

/// A TYPE of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Scalar(&'static str),
    Named(&'static str),
    Map(Box<Self>),
    /// A map that is owned whole.
    Whole(Box<Self>),
    List(Box<Self>),
    Set(Box<Self>),
    Keyed(Box<Self>, Vec<&'static str>),
}

const SCALARS: [&str; 11] = [
    "string",
    "bool",
    "int32",
    "int64",
    "number",
    "date",
    "microtime",
    "quantity",
    "intstr",
    "bytes",
    "any",
];

/// Reads a table; the error names the line.
pub(crate) fn read(table: &'static str) -> Result<Vec<Declaration>, String> {
    let mut out: Vec<Declaration> = Vec::new();
    for (number, line) in table.lines().enumerate() {
        let fail = |why: String| format!("types.txt line {}: {why}: {line}", number + 1);
        let (code, note) = line
            .split_once(" # ")
            .map_or((line, None), |(code, note)| (code, Some(note.trim())));
        if code.trim().is_empty() || code.starts_with('#') {
            continue;
        }
        if code.starts_with(' ') {
            let current = out.last_mut().ok_or_else(|| fail("field without a type".to_owned()))?;
            current.fields.push(field(code.trim(), note).map_err(fail)?);
            continue;
        }
        let (name, object, atomic) = match code.split_once(' ') {
            None => (code, false, false),
            Some((name, "kind")) => (name, true, false),
            Some((name, "atomic")) => (name, false, true),
            Some((_, word)) => return Err(fail(format!("unknown word {word}"))),
        };
        out.push(Declaration {
            name,
            object,
            atomic,
            note,
            fields: Vec::new(),
        });
    }
    Ok(out)
}

fn field(code: &'static str, note: Option<&'static str>) -> Result<Field, String> {
    let (name, rest) = code.split_once(' ').ok_or("a field needs a type")?;
    let (rest, default) = match rest.split_once(" =") {
        Some((rest, default)) => (rest, Some(default.trim())),
        None => (rest, None),
    };
    let mut words = rest.split_whitespace();
    let kind = parse(words.next().ok_or("a field needs a type")?)?;
    let (mut retain_keys, mut limits) = (false, Vec::new());
    for word in words {
        if word == "retainKeys" {
            retain_keys = true;
        } else {
            limits.push(Limit::parse(word).ok_or_else(|| format!("unknown word {word}"))?);
        }
    }
    let (name, number) = match name.split_once('@') {
        Some((name, number)) => (name, Some(number.parse().map_err(|_| "a number follows @")?)),
        None => (name, None),
    };
    let flag = |name: &'static str, mark: char| name.strip_suffix(mark).map_or((name, false), |n| (n, true));
    let (name, always) = flag(name, '*');
    let (name, optional) = flag(name, '?');
    let (name, required) = flag(name, '!');
    Ok(Field {
        name,
        number,
        required,
        optional,
        always,
        kind,
        default,
        retain_keys,
        limits,
        note,
    })
}

fn parse(kind: &'static str) -> Result<Kind, String> {
    if let Some(inner) = kind.strip_prefix('{').and_then(|k| k.strip_suffix('}')) {
        return Ok(Kind::Map(Box::new(parse(inner)?)));
    }
    if let Some(inner) = kind.strip_prefix('{').and_then(|k| k.strip_suffix("}atomic")) {
        return Ok(Kind::Whole(Box::new(parse(inner)?)));
    }
    if let Some(rest) = kind.strip_prefix('[') {
        let (inner, how) = rest.rsplit_once(']').ok_or("unclosed list")?;
        let inner = Box::new(parse(inner)?);
        if how.is_empty() {
            return Ok(Kind::List(inner));
        }
        if how == "set" {
            return Ok(Kind::Set(inner));
        }
        let keys = how
            .strip_prefix("key(")
            .and_then(|h| h.strip_suffix(')'))
            .ok_or("a list is plain, a set, or has key(…)")?;
        return Ok(Kind::Keyed(inner, keys.split(',').collect()));
    }
    Ok(if SCALARS.contains(&kind) {
        Kind::Scalar(kind)
    } else {
        Kind::Named(kind)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_line_is_named() {
        assert!(read("  f string\n").unwrap_err().contains("line 1"));
        assert!(read("T strange\n").unwrap_err().contains("unknown word"));
        assert!(read("T\n  f@x string\n").unwrap_err().contains("number"));
        assert!(read("T\n  f [string]odd\n").unwrap_err().contains("line 2"));
        assert!(read("T\n  f string odd\n").unwrap_err().contains("unknown word odd"));
    }

    #[test]
    fn fields_carry_what_they_say() {
        let all = read("T kind # note\n  a!?*@3 [string]key(x,y) retainKeys must ={\"b\":1} # doc\n").unwrap();
        let f = &all[0].fields[0];
        assert!(all[0].object && f.required && f.optional && f.always && f.retain_keys && f.limits.len() == 1);
        assert_eq!(
            (f.name, f.number, f.default, f.note),
            ("a", Some(3), Some("{\"b\":1}"), Some("doc"))
        );
        assert_eq!(f.kind, Kind::Keyed(Box::new(Kind::Scalar("string")), vec!["x", "y"]));
    }

    #[test]
    fn numbers_are_unique_in_each_type() {
        for d in read(TABLE).unwrap() {
            let mut seen = std::collections::BTreeSet::new();
            for f in &d.fields {
                if let Some(n) = f.number {
                    assert!(seen.insert(n), "{} has {n} twice", d.name);
                }
            }
        }
    }
}
