//! The library of URLs: absolute ones and paths, as HTTP requests name them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kube_cel::cel::Value;
use kube_cel::cel::objects::{Key, Map, Opaque};

use super::value::text;

#[derive(Debug, PartialEq, Eq)]
struct Url {
    scheme: String,
    host: String,
    path: String,
    query: String,
}

impl Opaque for Url {
    fn runtime_type_name(&self) -> &str {
        "kubernetes.URL"
    }
}

/// Calls a function of this library; none if it is another one's.
pub(super) fn call(name: &str, target: Option<&Value>, arguments: &[Value]) -> Option<Result<Value, String>> {
    if let (None, [Value::String(s)]) = (target, arguments) {
        return match name {
            "url" => Some(
                parse(s)
                    .map(|u| Value::Opaque(Arc::new(u)))
                    .ok_or_else(|| "URL parse error during conversion from string".to_owned()),
            ),
            "isURL" => Some(Ok(Value::Bool(parse(s).is_some()))),
            _ => None,
        };
    }
    let Some(Value::Opaque(o)) = target else { return None };
    let url = o.downcast_ref::<Url>()?;
    let (name_of_host, port) = split_host(&url.host);
    Some(Ok(match name {
        "getScheme" => text(url.scheme.clone()),
        "getHost" => text(url.host.clone()),
        "getHostname" => text(name_of_host),
        "getPort" => text(port),
        "getEscapedPath" => text(url.path.clone()),
        "getQuery" => query(&url.query),
        _ => return None,
    }))
}

fn parse(source: &str) -> Option<Url> {
    if source.is_empty() || source.bytes().any(|b| b < b' ' || b == 0x7f) {
        return None;
    }
    let whole = source.split_once('#').map_or(source, |(before, _)| before);
    let (scheme, rest) = match whole.split_once(':') {
        Some((scheme, rest)) if is_scheme(scheme) => (scheme.to_ascii_lowercase(), rest),
        _ if whole.starts_with('/') => (String::new(), whole),
        _ => return None,
    };
    let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (host, path) = match before.strip_prefix("//") {
        Some(after) if !scheme.is_empty() => {
            let end = after.find('/').unwrap_or(after.len());
            let host = after[..end].rsplit_once('@').map_or(&after[..end], |(_, host)| host);
            (host.to_owned(), after[end..].to_owned())
        }
        // `mailto:` and the like: neither host nor path.
        _ if !scheme.is_empty() && !before.starts_with('/') => (String::new(), String::new()),
        _ => (String::new(), before.to_owned()),
    };
    let (_, port) = split_host(&host);
    let bad_port = !port.bytes().all(|b| b.is_ascii_digit());
    if bad_port || host.contains([' ', '<', '>', '"']) || !is_escaped(&path) {
        return None;
    }
    let path = path.replace(' ', "%20");
    Some(Url {
        scheme,
        host,
        path,
        query: query.to_owned(),
    })
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
}

/// Whether each `%` begins two hexadecimal digits.
fn is_escaped(text: &str) -> bool {
    text.split('%').skip(1).all(|part| {
        let bytes = part.as_bytes();
        bytes.len() >= 2 && bytes[..2].iter().all(u8::is_ascii_hexdigit)
    })
}

fn split_host(host: &str) -> (&str, &str) {
    if let Some(inner) = host.strip_prefix('[') {
        return match inner.split_once(']') {
            Some((address, port)) => (address, port.strip_prefix(':').unwrap_or(port)),
            None => (host, ""),
        };
    }
    host.rsplit_once(':').unwrap_or((host, ""))
}

fn decoded(part: &str) -> Option<String> {
    let mut out = Vec::with_capacity(part.len());
    let mut bytes = part.bytes();
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'+' => b' ',
            b'%' => {
                let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
                let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

fn query(source: &str) -> Value {
    let mut all: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for part in source.split('&').filter(|p| !p.is_empty() && !p.contains(';')) {
        let (k, v) = part.split_once('=').unwrap_or((part, ""));
        if let (Some(k), Some(v)) = (decoded(k), decoded(v)) {
            all.entry(k).or_default().push(text(v));
        }
    }
    let map: HashMap<Key, Value> = all
        .into_iter()
        .map(|(k, v)| (Key::from(k), Value::List(Arc::new(v))))
        .collect();
    Value::Map(Map { map: Arc::new(map) })
}
