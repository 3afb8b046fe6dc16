//! Reads the protobuf form of built-in objects, which Go clients send unless told otherwise. Answers stay JSON: every such client also accepts
//! that.
//!
//! The envelope is `k8s\0` and a message of apiVersion, kind and body; the body is read by the numbers in the table of types. A number that the
//! table does not know is refused: dropping it would lose what somebody wrote.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::schema::table::{self, Declaration, Field, Kind};

/// Content type of the form.
pub(crate) const MEDIA: &str = "application/vnd.kubernetes.protobuf";
const MAGIC: &[u8] = b"k8s\0";
/// Deepest nesting of messages; a Pod reaches 12.
const MAX_DEPTH: usize = 48;
/// Most values in one object: two bytes of protobuf can be a whole value in memory.
const MAX_VALUES: usize = 200_000;

static TYPES: LazyLock<BTreeMap<&'static str, Declaration>> = LazyLock::new(|| {
    table::read(table::TABLE)
        .expect("the table of built-in types is read by a test")
        .into_iter()
        .map(|d| (d.name, d))
        .collect()
});

/// Reads an object; `type_of` says which type of the table a kind has, none when it cannot be sent in this form.
pub(crate) fn read(body: &[u8], type_of: &dyn Fn(&str) -> Option<String>) -> Result<Value, String> {
    let envelope = body
        .strip_prefix(MAGIC)
        .ok_or("the body does not begin like Kubernetes protobuf")?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for part in Parts(envelope) {
        match part? {
            (1, Wire::Bytes(meta)) => {
                for field in Parts(meta) {
                    match field? {
                        (1, Wire::Bytes(b)) => api_version = text(b)?,
                        (2, Wire::Bytes(b)) => kind = text(b)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(b)) => raw = b,
            (3, Wire::Bytes(b)) if !b.is_empty() => return Err("an encoded body is not read".to_owned()),
            _ => {}
        }
    }
    let name =
        type_of(&kind).ok_or_else(|| format!("{kind:?} is not read from protobuf here: send application/json"))?;
    let declaration = TYPES
        .get(name.as_str())
        .ok_or_else(|| format!("{kind:?} is not read from protobuf: send application/json"))?;
    let mut out = Map::new();
    let mut left = MAX_VALUES;
    message(raw, declaration, &mut out, 0, &mut left)?;
    out.insert("apiVersion".to_owned(), json!(api_version));
    out.insert("kind".to_owned(), json!(kind));
    Ok(Value::Object(out))
}

/// A field of a message as it stands on the wire.
#[derive(Clone, Copy, Debug)]
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    /// 32 bits: no type of the table has such.
    Fixed32,
}

/// The fields of a message, one after another.
struct Parts<'a>(&'a [u8]);

impl<'a> Iterator for Parts<'a> {
    type Item = Result<(u32, Wire<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let part = self.part();
        if part.is_err() {
            self.0 = &[];
        }
        Some(part)
    }
}

impl<'a> Parts<'a> {
    fn part(&mut self) -> Result<(u32, Wire<'a>), String> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| "a field number is too large")?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                let bytes = self.take(8)?;
                Wire::Fixed64(u64::from_le_bytes(bytes.try_into().map_err(|_| "truncated")?))
            }
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| "a length is too large")?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            other => return Err(format!("wire type {other} is not used")),
        };
        Ok((number, wire))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        if length > self.0.len() {
            return Err("the body ends inside a field".to_owned());
        }
        let (head, tail) = self.0.split_at(length);
        self.0 = tail;
        Ok(head)
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.0.first().ok_or("the body ends inside a number")?;
            self.0 = &self.0[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number is too long".to_owned())
    }
}

fn text(bytes: &[u8]) -> Result<String, String> {
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| "text that is not UTF-8".to_owned())
}

/// Reads a message into `out`.
fn message(
    bytes: &[u8],
    declaration: &Declaration,
    out: &mut Map<String, Value>,
    depth: usize,
    left: &mut usize,
) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err("messages are nested too deep".to_owned());
    }
    for part in Parts(bytes) {
        let (number, wire) = part?;
        *left = left.checked_sub(1).ok_or("the object has too many values")?;
        if declaration.object && number == 1 {
            let slot = out.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
            if let (Wire::Bytes(b), Value::Object(map)) = (wire, slot) {
                message(b, find("meta.v1.ObjectMeta")?, map, depth + 1, left)?;
            }
            continue;
        }
        let field = declaration
            .fields
            .iter()
            .find(|f| f.number == Some(number))
            .ok_or_else(|| {
                format!(
                    "field {number} of {} is not known in protobuf: send application/json",
                    declaration.name
                )
            })?;
        if let (true, Kind::Named(inner), Wire::Bytes(b)) = (field.name == "+", &field.kind, wire) {
            message(b, find(inner)?, out, depth + 1, left)?;
            continue;
        }
        member(field, wire, out, depth, left).map_err(|why| format!("{}: {why}", field.name))?;
    }
    Ok(())
}

fn find(name: &str) -> Result<&'static Declaration, String> {
    TYPES.get(name).ok_or_else(|| format!("type {name} is not known"))
}

/// Reads one occurrence of a field into its object.
fn member(
    field: &Field,
    wire: Wire<'_>,
    out: &mut Map<String, Value>,
    depth: usize,
    left: &mut usize,
) -> Result<(), String> {
    match &field.kind {
        Kind::List(inner) | Kind::Set(inner) | Kind::Keyed(inner, _) => {
            let item = value(inner, wire, depth, left)?;
            let slot = out.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
            if let (Value::Array(list), Some(item)) = (slot, item) {
                list.push(item);
            }
        }
        Kind::Map(inner) | Kind::Whole(inner) => {
            let Wire::Bytes(entry) = wire else {
                return Err("not a map".to_owned());
            };
            let (mut key, mut item) = (String::new(), None);
            for part in Parts(entry) {
                match part? {
                    (1, Wire::Bytes(b)) => key = text(b)?,
                    (2, w) => item = value(inner, w, depth, left)?,
                    _ => return Err("not a map entry".to_owned()),
                }
            }
            let item = item.unwrap_or_else(|| empty(inner));
            let slot = out.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(map) = slot {
                map.insert(key, item);
            }
        }
        Kind::Named(inner) => {
            // A message may come in pieces, which are merged.
            let Wire::Bytes(b) = wire else {
                return Err("not a message".to_owned());
            };
            let slot = out.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(map) = slot {
                message(b, find(inner)?, map, depth + 1, left)?;
            }
        }
        Kind::Scalar(_) => {
            if let Some(v) = value(&field.kind, wire, depth, left)? {
                // Go writes zeros where nothing was said; only where the two differ does a zero say something.
                let nothing = v == json!("") || v == json!(0) || v == json!(false);
                if !nothing || field.optional || field.required {
                    out.insert(field.name.to_owned(), v);
                }
            }
        }
    }
    Ok(())
}

/// What an entry of a map without a value means.
fn empty(kind: &Kind) -> Value {
    match kind {
        Kind::Scalar("bool") => json!(false),
        Kind::Scalar("int32" | "int64" | "number") => json!(0),
        Kind::Scalar(_) => json!(""),
        Kind::List(_) | Kind::Set(_) | Kind::Keyed(..) => json!([]),
        Kind::Map(_) | Kind::Whole(_) | Kind::Named(_) => json!({}),
    }
}

/// One value; none for a time that is not set.
fn value(kind: &Kind, wire: Wire<'_>, depth: usize, left: &mut usize) -> Result<Option<Value>, String> {
    Ok(Some(match (kind, wire) {
        (Kind::Scalar("string"), Wire::Bytes(b)) => json!(text(b)?),
        (Kind::Scalar("bytes"), Wire::Bytes(b)) => json!(STANDARD.encode(b)),
        (Kind::Scalar("bool"), Wire::Varint(n)) => json!(n != 0),
        (Kind::Scalar("int32" | "int64"), Wire::Varint(n)) => json!(n.cast_signed()),
        (Kind::Scalar("number"), Wire::Fixed64(n)) => json!(f64::from_bits(n)),
        (Kind::Scalar("date"), Wire::Bytes(b)) => return time(b, false),
        (Kind::Scalar("microtime"), Wire::Bytes(b)) => return time(b, true),
        (Kind::Scalar("quantity"), Wire::Bytes(b)) => {
            let mut out = String::from("0");
            for part in Parts(b) {
                if let (1, Wire::Bytes(t)) = part? {
                    out = text(t)?;
                }
            }
            json!(out)
        }
        (Kind::Scalar("intstr"), Wire::Bytes(b)) => int_or_string(b)?,
        (Kind::Scalar("any"), Wire::Bytes(b)) => {
            let mut out = Value::Null;
            for part in Parts(b) {
                if let (1, Wire::Bytes(raw)) = part? {
                    out = serde_json::from_slice(raw).map_err(|e| e.to_string())?;
                }
            }
            out
        }
        (Kind::Named(name), Wire::Bytes(b)) => {
            let mut map = Map::new();
            message(b, find(name)?, &mut map, depth + 1, left)?;
            Value::Object(map)
        }
        // A list as the value of a map is a message with the list in its first field.
        (Kind::List(inner), Wire::Bytes(b)) => {
            let mut list = Vec::new();
            for part in Parts(b) {
                *left = left.checked_sub(1).ok_or("the object has too many values")?;
                if let (1, w) = part? {
                    list.extend(value(inner, w, depth + 1, left)?);
                }
            }
            Value::Array(list)
        }
        _ => return Err("has another type on the wire".to_owned()),
    }))
}

/// A point in time: seconds and nanoseconds; an empty message is no time.
fn time(bytes: &[u8], micro: bool) -> Result<Option<Value>, String> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanos) = (0_i64, 0_i64);
    for part in Parts(bytes) {
        match part? {
            (1, Wire::Varint(n)) => seconds = n.cast_signed(),
            (2, Wire::Varint(n)) => nanos = n.cast_signed(),
            _ => {}
        }
    }
    let nanos = i32::try_from(nanos).map_err(|_| "a time is out of range")?;
    let at = jiff::Timestamp::new(seconds, nanos).map_err(|e| e.to_string())?;
    let form = if micro {
        "%Y-%m-%dT%H:%M:%S.%6fZ"
    } else {
        "%Y-%m-%dT%H:%M:%SZ"
    };
    Ok(Some(json!(at.strftime(form).to_string())))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, String> {
    let (mut kind, mut number, mut word) = (0, 0_i64, String::new());
    for part in Parts(bytes) {
        match part? {
            (1, Wire::Varint(n)) => kind = n,
            (2, Wire::Varint(n)) => number = n.cast_signed(),
            (3, Wire::Bytes(b)) => word = text(b)?,
            _ => {}
        }
    }
    Ok(if kind == 0 { json!(number) } else { json!(word) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(number: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(body.len()).unwrap()];
        out.extend_from_slice(body);
        out
    }

    fn envelope(api_version: &str, kind: &str, body: &[u8]) -> Vec<u8> {
        let meta = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
        [
            MAGIC.to_vec(),
            bytes(1, &meta),
            bytes(2, body),
            bytes(3, b""),
            bytes(4, b""),
        ]
        .concat()
    }

    fn decode(kind: &str, body: &[u8]) -> Result<Value, String> {
        let known = |k: &str| match k {
            "ConfigMap" => Some("core.v1.ConfigMap".to_owned()),
            "Pod" => Some("core.v1.Pod".to_owned()),
            "Deployment" => Some("apps.v1.Deployment".to_owned()),
            "CustomResourceDefinition" => Some("apiextensions.v1.CustomResourceDefinition".to_owned()),
            _ => None,
        };
        read(&envelope("v1", kind, body), &known)
    }

    #[test]
    fn a_config_map_as_go_writes_it() {
        // metadata with the zeros that Go writes: an empty namespace, generation 0, an unset time.
        let metadata = [bytes(1, b"a"), bytes(3, b""), vec![7 << 3, 0], bytes(8, b"")].concat();
        let entry = [bytes(1, b"k"), bytes(2, b"v")].concat();
        let binary = [bytes(1, b"b"), bytes(2, &[0xff, 0x00])].concat();
        let body = [
            bytes(1, &metadata),
            bytes(2, &entry),
            bytes(3, &binary),
            vec![4 << 3, 0],
        ]
        .concat();
        assert_eq!(
            decode("ConfigMap", &body).unwrap(),
            json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":"v"},"binaryData":{"b":"/wA="},"immutable":false})
        );
    }

    #[test]
    fn times_quantities_and_numbers_that_are_words() {
        assert_eq!(
            time(&[0x08, 0x80, 0xf2, 0xd6, 0xca, 0x06], false).unwrap(),
            Some(json!("2026-01-01T00:00:00Z"))
        );
        assert_eq!(time(b"", true).unwrap(), None);
        assert_eq!(int_or_string(&[0x08, 0, 0x10, 80]).unwrap(), json!(80));
        assert_eq!(int_or_string(&[0x08, 1, 0x1a, 2, b'4', b'%']).unwrap(), json!("4%"));
        // A volume's source has its fields in the volume itself; replicas 0 is something said.
        let volume = [bytes(1, b"v"), bytes(2, &bytes(2, b""))].concat();
        let spec = bytes(1, &volume);
        let pod = decode("Pod", &bytes(2, &spec)).unwrap();
        assert_eq!(pod["spec"]["volumes"], json!([{"name":"v","emptyDir":{}}]));
        let deployment = decode("Deployment", &bytes(2, &[1 << 3, 0, 5 << 3, 0])).unwrap();
        assert_eq!(deployment["spec"], json!({"replicas":0}));
    }

    #[test]
    fn what_is_not_known_is_refused_and_not_dropped() {
        assert!(decode("ConfigMap", &bytes(15, b"x")).unwrap_err().contains("field 15"));
        assert!(decode("Strange", b"").unwrap_err().contains("application/json"));
        assert!(decode("CustomResourceDefinition", &bytes(2, b"")).is_err());
        assert!(read(b"{}", &|_| None).is_err());
        let truncated = envelope("v1", "ConfigMap", &bytes(1, &bytes(1, b"abc")));
        for end in 4..truncated.len() {
            drop(read(&truncated[..end], &|_| Some("core.v1.ConfigMap".to_owned())));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(body in prop::collection::vec(any::<u8>(), 0..100)) {
            drop(decode("Pod", &body));
            drop(read(&body, &|_| Some("core.v1.Pod".to_owned())));
        }
    }
}
