//! Reading requests.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::{BadRequest, Entry, MAX_EVENT_ID, MAX_PAYLOAD, StateUpdate, TwinUpdate};
use crate::values::{MAX_PROPERTIES, MAX_PROPERTY_NAME};

/// Reads a `twin/update` request.
pub fn parse_twin_update(payload: &[u8]) -> Result<TwinUpdate<'_>, BadRequest> {
    let mut request = read("twin/update", payload)?;
    match request.twin.take() {
        Some(entries) if !entries.is_empty() => Ok(TwinUpdate {
            identified: request.identified() || request.timed_values,
            event_id: request.event_id(),
            entries,
        }),
        Some(_) => Err(request.refuse("twin/update: \"twin\" names no property")),
        None => Err(request.refuse("twin/update: \"twin\" is missing")),
    }
}

/// Reads a `twin/get` or `membership/get` request, which is nothing but an `event_id`.
pub fn parse_get(payload: &[u8]) -> Result<Cow<'_, str>, BadRequest> {
    Ok(read("get", payload)?.event_id())
}

/// Reads a `state/update` request.
pub fn parse_state_update(payload: &[u8]) -> Result<StateUpdate<'_>, BadRequest> {
    let mut request = read("state/update", payload)?;
    match request.state.take() {
        Some(state) => Ok(StateUpdate {
            identified: request.identified(),
            event_id: request.event_id(),
            state,
        }),
        None => Err(request.refuse("state/update: \"state\" is missing")),
    }
}

fn read<'a>(what: &str, payload: &'a [u8]) -> Result<Body<'a>, BadRequest> {
    if payload.len() > MAX_PAYLOAD {
        let reason = format!(
            "{what}: the payload has {} bytes, at most {MAX_PAYLOAD} are allowed",
            payload.len()
        );
        return Err(BadRequest {
            event_id: String::new(),
            reason,
        });
    }
    let mut body = Body::default();
    let mut deserializer = serde_json::Deserializer::from_slice(payload);
    let read = BodySeed(&mut body)
        .deserialize(&mut deserializer)
        .and_then(|()| deserializer.end());
    match read {
        Ok(()) => Ok(body),
        Err(error) => Err(body.refuse(format!("{what}: the payload cannot be read: {error}"))),
    }
}

type Entries<'a> = Vec<(Cow<'a, str>, Entry<'a>)>;

/// All that a request can hold. Filled while reading, so that after an error there is what came before it.
#[derive(Default)]
struct Body<'a> {
    event_id: Option<Cow<'a, str>>,
    /// It says when it was made.
    timed: bool,
    twin: Option<Entries<'a>>,
    /// Each value of `twin` says when it was made.
    timed_values: bool,
    state: Option<Cow<'a, str>>,
}

impl<'a> Body<'a> {
    fn event_id(&mut self) -> Cow<'a, str> {
        self.event_id.take().unwrap_or_default()
    }

    fn identified(&self) -> bool {
        self.timed || self.event_id.as_ref().is_some_and(|id| !id.is_empty())
    }

    fn refuse(mut self, reason: impl Into<String>) -> BadRequest {
        BadRequest {
            event_id: self.event_id().into_owned(),
            reason: reason.into(),
        }
    }
}

struct BodySeed<'s, 'a>(&'s mut Body<'a>);

impl<'de> DeserializeSeed<'de> for BodySeed<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for BodySeed<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let body = self.0;
        while let Some(key) = map.next_key::<Text<'de>>()? {
            match &*key.0 {
                "event_id" => {
                    if body.event_id.is_some() {
                        return Err(de::Error::duplicate_field("event_id"));
                    }
                    let text = map
                        .next_value::<Option<Text<'de>>>()?
                        .map(|text| text.0)
                        .unwrap_or_default();
                    if text.len() > MAX_EVENT_ID {
                        return Err(de::Error::custom(format_args!(
                            "event_id is longer than {MAX_EVENT_ID} bytes"
                        )));
                    }
                    body.event_id = Some(text);
                }
                "twin" => {
                    if body.twin.is_some() {
                        return Err(de::Error::duplicate_field("twin"));
                    }
                    if let Some(Twin { entries, timed }) = map.next_value()? {
                        (body.twin, body.timed_values) = (Some(entries), timed);
                    }
                }
                "state" => {
                    if body.state.is_some() {
                        return Err(de::Error::duplicate_field("state"));
                    }
                    body.state = map.next_value::<Option<Text<'de>>>()?.map(|text| text.0);
                }
                "timestamp" => body.timed = map.next_value::<Moment>()?.0,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

struct Twin<'a> {
    entries: Entries<'a>,
    /// Each of them says when it was made.
    timed: bool,
}

impl<'de> Deserialize<'de> for Twin<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Properties;

        impl<'de> Visitor<'de> for Properties {
            type Value = Twin<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of properties")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries: Entries<'de> = Vec::new();
                let mut timed = true;
                let mut names = BTreeSet::new();
                while let Some(Text(name)) = map.next_key()? {
                    if name.len() > MAX_PROPERTY_NAME {
                        return Err(de::Error::custom(format_args!(
                            "a property's name is longer than {MAX_PROPERTY_NAME} bytes"
                        )));
                    }
                    if entries.len() == MAX_PROPERTIES {
                        return Err(de::Error::custom(format_args!("more than {MAX_PROPERTIES} properties")));
                    }
                    // One property is the usual case and needs no set.
                    let twice = match entries.as_slice() {
                        [] => false,
                        [(only, _)] => *only == name,
                        _ => names.contains(&name),
                    };
                    if twice {
                        return Err(de::Error::custom(format_args!("property {name} stands there twice")));
                    }
                    if let [(first, _)] = entries.as_slice() {
                        names.insert(first.clone());
                    }
                    if !entries.is_empty() {
                        names.insert(name.clone());
                    }
                    let entry = map
                        .next_value::<Option<RawEntry<'de>>>()
                        .map_err(|error| de::Error::custom(format_args!("property {name}: {error}")))?;
                    timed &= entry.as_ref().is_some_and(RawEntry::timed);
                    entries.push((name, entry.map_or(Entry::Delete, RawEntry::entry)));
                }
                Ok(Twin { entries, timed })
            }
        }

        deserializer.deserialize_map(Properties)
    }
}

/// A property as it stands in the message. Versions are ignored, as KubeEdge does; of the client's times it counts only that they
/// are there.
#[derive(Deserialize)]
struct RawEntry<'a> {
    #[serde(borrow, default)]
    expected: Option<RawValue<'a>>,
    #[serde(borrow, default)]
    actual: Option<RawValue<'a>>,
    #[serde(borrow, default)]
    metadata: Option<RawType<'a>>,
}

#[derive(Deserialize)]
struct RawValue<'a> {
    #[serde(borrow, default)]
    value: Option<Text<'a>>,
    #[serde(default)]
    metadata: Times,
}

#[derive(Deserialize)]
struct RawType<'a> {
    #[serde(borrow, default, rename = "type")]
    value_type: Option<Text<'a>>,
}

impl<'a> RawEntry<'a> {
    /// Every value in it says when it was made, and there is one.
    fn timed(&self) -> bool {
        let values = [&self.expected, &self.actual];
        let mut values = values
            .into_iter()
            .flatten()
            .filter(|raw| raw.value.is_some())
            .peekable();
        values.peek().is_some() && values.all(|raw| raw.metadata.0)
    }

    fn entry(self) -> Entry<'a> {
        let value_type = self
            .metadata
            .and_then(|metadata| metadata.value_type)
            .map(|text| text.0);
        // The other way in which KubeEdge's clients say that a property is gone.
        if value_type.as_deref() == Some("deleted") {
            return Entry::Delete;
        }
        let value = |raw: Option<RawValue<'a>>| raw.and_then(|raw| raw.value).map(|text| text.0);
        Entry::Set {
            expected: value(self.expected),
            actual: value(self.actual),
            value_type,
            metadata: BTreeMap::new(),
        }
    }
}

/// A text, borrowed from the payload unless it has escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text in quotes")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text)))
            }
        }

        deserializer.deserialize_str(TextVisitor)
    }
}

/// Whether there is a time: a number or a text that says something. Anything else in its place is none.
struct Moment(bool);

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TimeVisitor { inside: false }).map(Self)
    }
}

/// Whether an object has a `timestamp` that is one. Anything else in its place has none.
#[derive(Default)]
struct Times(bool);

impl<'de> Deserialize<'de> for Times {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TimeVisitor { inside: true }).map(Self)
    }
}

/// Takes any JSON. `inside`: the time is the member `timestamp` of an object.
struct TimeVisitor {
    inside: bool,
}

impl<'de> Visitor<'de> for TimeVisitor {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<bool, E> {
        Ok(!self.inside && number != 0)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<bool, E> {
        Ok(!self.inside && number != 0)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<bool, E> {
        Ok(!self.inside && number != 0.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<bool, E> {
        Ok(!self.inside && !text.is_empty())
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_unit<E: de::Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<bool, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(false)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<bool, A::Error> {
        let mut found = false;
        while let Some(name) = members.next_key::<Text<'de>>()? {
            if self.inside && &*name.0 == "timestamp" {
                found = members.next_value::<Moment>()?.0;
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}
