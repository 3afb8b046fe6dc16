//! Request bodies: read with a cap, parsed with every field that came twice remembered, JSON or YAML.

use std::fmt;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt as _;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::budget::{Budget, LONG, Place};
use super::protobuf;
use super::status::Status;

/// Most bytes of a request body, as in a kube-apiserver.
pub const MAX_BODY: usize = 3 * 1024 * 1024;
/// What is read and thrown away of a larger one, so that a client that writes before it reads finds the refusal.
const MAX_DISCARDED: usize = 4 * MAX_BODY;
/// How long a body may take to arrive.
const BODY_DEADLINE: std::time::Duration = std::time::Duration::from_secs(30);
/// Duplicates beyond this are not named.
const MAX_DUPLICATES: usize = 100;

/// Reads a body up to the cap, within a deadline. A long one has a place of its own, which the caller holds as long as it works on it.
pub(crate) async fn read<B>(body: B, budget: &Budget) -> Result<(Bytes, Option<Place>), Status>
where
    B: Body<Data = Bytes>,
{
    let mut body = std::pin::pin!(body);
    let announced = body.size_hint().lower();
    if announced > (MAX_BODY + MAX_DISCARDED) as u64 {
        return Err(Status::too_large(MAX_BODY));
    }
    let mut place = None;
    let collect = async {
        let mut first: Option<Bytes> = None;
        let mut rest = BytesMut::new();
        let (mut over, mut discarded) = (announced > MAX_BODY as u64, 0);
        loop {
            let data = match body.frame().await {
                None => break,
                Some(Err(_)) => return Err(Status::bad_request("the body ended before its end")),
                Some(Ok(frame)) => frame.into_data(),
            };
            let Ok(data) = data else { continue };
            let length = first.as_ref().map_or(0, Bytes::len) + rest.len() + data.len();
            over |= length > MAX_BODY;
            if over {
                (first, rest) = (None, BytesMut::new());
                discarded += data.len();
                if discarded > MAX_DISCARDED {
                    break;
                }
                continue;
            }
            if length > LONG && place.is_none() {
                place = Some(budget.long_body().await?);
            }
            match &first {
                None => first = Some(data),
                Some(_) => rest.extend_from_slice(&data),
            }
        }
        if over {
            return Err(Status::too_large(MAX_BODY));
        }
        Ok(match first {
            Some(only) if rest.is_empty() => only,
            Some(head) => {
                let mut all = BytesMut::with_capacity(head.len() + rest.len());
                all.extend_from_slice(&head);
                all.extend_from_slice(&rest);
                all.freeze()
            }
            None => Bytes::new(),
        })
    };
    let bytes = tokio::time::timeout(BODY_DEADLINE, collect)
        .await
        .map_err(|_| Status::bad_request("the body took too long"))??;
    Ok((bytes, place))
}

/// A parsed body.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) value: Value,
    /// Paths of fields that stood twice; the last one counts.
    pub(crate) duplicates: Vec<String>,
}

/// Says which built-in type a kind has, for bodies in protobuf.
pub(crate) type TypeOf<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Parses a body by its content type.
pub(crate) fn parse(body: &[u8], content_type: &str, type_of: TypeOf<'_>) -> Result<Parsed, Status> {
    let media = content_type.split(';').next().unwrap_or_default().trim();
    match media {
        "application/json" | "" => json(body).map(or_empty),
        "application/yaml" | "application/x-yaml" | "text/yaml" => yaml_noted(body)
            .map(or_empty)
            .map_err(|why| Status::bad_request(format!("error converting YAML to JSON: {why}"))),
        protobuf::MEDIA => protobuf::read(body, type_of)
            .map(|value| Parsed {
                value,
                duplicates: Vec::new(),
            })
            .map_err(|why| Status::bad_request(format!("the body cannot be read: {why}"))),
        other => Err(Status::unsupported_media(format!(
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf (got {other:?})"
        ))),
    }
}

/// Nothing at all is an object of which nothing is said.
fn or_empty(mut parsed: Parsed) -> Parsed {
    if parsed.value.is_null() {
        parsed.value = Value::Object(Map::new());
    }
    parsed
}

/// Parses JSON.
pub(crate) fn json(body: &[u8]) -> Result<Parsed, Status> {
    let mut duplicates = Vec::new();
    let mut path = String::new();
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = Node {
        path: &mut path,
        duplicates: &mut duplicates,
    }
    .deserialize(&mut reader)
    .and_then(|v| reader.end().map(|()| v))
    .map_err(|e| Status::bad_request(format!("couldn't get version/kind; json parse error: {e}")))?;
    Ok(Parsed { value, duplicates })
}

/// Parses YAML as the API does: to JSON, with the words of YAML 1.1 for booleans. Aliases and depth are bounded by the parser.
///
/// # Errors
/// What is wrong with it, on one line.
pub fn yaml(body: &[u8]) -> Result<Value, String> {
    yaml_noted(body).map(|p| p.value)
}

fn yaml_noted(body: &[u8]) -> Result<Parsed, String> {
    if body.len() > MAX_BODY {
        return Err(format!("longer than {MAX_BODY} bytes"));
    }
    let text = first_document(std::str::from_utf8(body).map_err(|e| e.to_string())?);
    if text.trim().is_empty() {
        return Ok(Parsed {
            value: Value::Null,
            duplicates: Vec::new(),
        });
    }
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
    };
    let mut duplicates = Vec::new();
    let mut path = String::new();
    let node = Node {
        path: &mut path,
        duplicates: &mut duplicates,
    };
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |d| node.deserialize(d))
        .map(|value| Parsed { value, duplicates })
        .map_err(|e| e.to_string().lines().next().unwrap_or_default().to_owned())
}

/// Of several documents the first counts.
fn first_document(text: &str) -> &str {
    let mut from = 0;
    let mut said = false;
    for line in text.split_inclusive('\n') {
        let bare = line.trim_end();
        if said && (bare == "---" || bare == "..." || bare.starts_with("--- ")) {
            return &text[..from];
        }
        said |= !bare.is_empty() && !bare.starts_with('#') && bare != "---" && !bare.starts_with('%');
        from += line.len();
    }
    text
}

/// Builds a [`Value`] and notes duplicates on the way: serde_json alone would let them pass unseen.
struct Node<'a> {
    path: &'a mut String,
    duplicates: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        let before = self.path.len();
        loop {
            self.path.push_str(&format!("[{}]", list.len()));
            let item = items.next_element_seed(Node {
                path: &mut *self.path,
                duplicates: &mut *self.duplicates,
            })?;
            self.path.truncate(before);
            match item {
                Some(v) => list.push(v),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        let before = self.path.len();
        while let Some(key) = members.next_key::<String>()? {
            if !self.path.is_empty() {
                self.path.push('.');
            }
            self.path.push_str(&key);
            let value = members.next_value_seed(Node {
                path: &mut *self.path,
                duplicates: &mut *self.duplicates,
            })?;
            if map.insert(key, value).is_some() && self.duplicates.len() < MAX_DUPLICATES {
                self.duplicates.push(self.path.clone());
            }
            self.path.truncate(before);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn duplicates_are_named_and_the_last_counts() {
        let got = json(br#"{"a":{"b":1,"b":2},"l":[{"x":1,"x":{}}]}"#).unwrap();
        assert_eq!(got.value, json!({"a":{"b":2},"l":[{"x":{}}]}));
        assert_eq!(got.duplicates, ["a.b", "l[0].x"]);
    }

    #[test]
    fn hostile_json_is_an_error() {
        for bad in ["{not json", "", "{} {}", &"[".repeat(10_000), "{\"a\":1e999}x"] {
            assert_eq!(json(bad.as_bytes()).unwrap_err().code, 400);
        }
    }

    #[test]
    fn yaml_reads_like_the_api_reads_it() {
        let v = yaml(b"apiVersion: v1\nmetadata:\n  name: y\ndata:\n  a: \"1\"\n  b: yes\n  n: 012\n").unwrap();
        assert_eq!(v["metadata"]["name"], json!(true), "y is a boolean in YAML 1.1");
        assert_eq!(v["data"]["b"], json!(true));
        assert_eq!(v["data"]["a"], json!("1"));
        assert!(yaml(b"a: [").is_err());
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nh: [*g,*g,*g,*g,*g,*g,*g,*g,*g]\n";
        assert!(yaml(bomb.as_bytes()).is_err());
    }

    #[test]
    fn of_several_documents_the_first_counts_and_of_two_keys_the_last() {
        let read = |text: &str| yaml_noted(text.as_bytes()).unwrap();
        assert_eq!(read("---\na: 1\n---\na: 2\n").value, json!({"a": 1}));
        assert_eq!(read("# c\n--- \na: |\n  ---\n  x\n").value, json!({"a": "---\nx\n"}));
        let twice = read("a: {b: 1, b: 2}\na: {c: 3}\n");
        assert_eq!(twice.value, json!({"a": {"c": 3}}));
        assert_eq!(read("a: {b: 1, b: 2}\n").duplicates, ["a.b"]);
        assert_eq!(
            read("x: &x {a: \"1\"}\nd: {<<: *x, b: y}\n").value["d"],
            json!({"a": "1", "b": true})
        );
    }

    #[tokio::test]
    async fn bodies_past_the_cap_are_refused() {
        let big = http_body_util::Full::new(Bytes::from(vec![0; MAX_BODY + 1]));
        let budget = Budget::new(1024);
        assert_eq!(read(big, &budget).await.unwrap_err().code, 413);
        let fits = http_body_util::Full::new(Bytes::from_static(b"{}"));
        assert_eq!(read(fits, &budget).await.unwrap().0, "{}");
        let long = http_body_util::Full::new(Bytes::from(vec![b' '; LONG + 1]));
        assert!(
            read(long, &budget).await.unwrap().1.is_some(),
            "a long one has its place"
        );
    }

    #[test]
    fn content_types() {
        assert_eq!(parse(b"x", "text/csv", &|_| None).unwrap_err().code, 415);
        assert_eq!(parse(b"{}", "*/*", &|_| None).unwrap_err().code, 415);
        for nothing in [
            (&b"null"[..], "application/json"),
            (b"", "application/yaml"),
            (b"# x\n", "application/yaml"),
        ] {
            assert_eq!(parse(nothing.0, nothing.1, &|_| None).unwrap().value, json!({}));
        }
        assert!(parse(b"{}", "application/json; charset=utf-8", &|_| None).is_ok());
    }
}
