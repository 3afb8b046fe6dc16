//! The JSON of an object as the store keeps it: sorted keys, `metadata.resourceVersion` spliced in.
//!
//! An object is serialised once, on its submitter's thread, with a gap where the revision goes. The writer thread, which alone
//! knows the revision, fills the gap by copying bytes.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::types::MAX_OBJECT;

const FIELD: &[u8] = b"\"resourceVersion\":\"";

/// Canonical JSON of an object without its revision, and where the revision goes.
#[derive(Clone)]
pub(super) struct Body {
    json: Vec<u8>,
    gap: usize,
}

/// Why a value cannot be the body of an object.
pub(super) type BadBody = &'static str;

impl Body {
    /// Serialises an object. What it says of its own revision is left out.
    pub(super) fn new(value: &Value) -> Result<Self, BadBody> {
        let Value::Object(fields) = value else {
            return Err("it is not a JSON object");
        };
        let empty = Map::new();
        let metadata = match fields.get("metadata") {
            None => &empty,
            Some(Value::Object(metadata)) => metadata,
            Some(_) => return Err("its metadata is not a JSON object"),
        };
        let mut json = Vec::with_capacity(512);
        let mut gap = 0;
        json.push(b'{');
        let mut done = false;
        for (name, field) in fields {
            if !done && name.as_str() >= "metadata" {
                separate(&mut json);
                gap = write_metadata(&mut json, metadata);
                done = true;
            }
            if name != "metadata" {
                separate(&mut json);
                write_entry(&mut json, name, field);
            }
            if json.len() > MAX_OBJECT {
                return Err("it is larger than an object may be");
            }
        }
        if !done {
            separate(&mut json);
            gap = write_metadata(&mut json, metadata);
        }
        json.push(b'}');
        if json.len() > MAX_OBJECT {
            return Err("it is larger than an object may be");
        }
        Ok(Self { json, gap })
    }

    /// Where in the JSON the field `resourceVersion` starts.
    pub(super) fn gap(&self) -> usize {
        self.gap
    }

    /// Bytes without the revision.
    pub(super) fn len(&self) -> usize {
        self.json.len()
    }

    /// The complete JSON at a revision.
    pub(super) fn at(&self, revision: u64) -> Bytes {
        join(&self.json[..self.gap], revision, &self.json[self.gap..])
    }

    /// Whether `stored`, complete JSON at `revision` with its gap at `gap`, says the same as this.
    pub(super) fn same_as(&self, stored: &[u8], gap: usize, revision: u64) -> bool {
        let end = gap + field_len(revision);
        gap == self.gap
            && stored.len() == self.json.len() + field_len(revision)
            && stored[..gap] == self.json[..gap]
            && stored[end..] == self.json[gap..]
    }
}

/// The same JSON with another revision in it; `None` when the stored gap does not fit the stored bytes.
pub(super) fn replace_revision(stored: &[u8], gap: usize, from: u64, to: u64) -> Option<Bytes> {
    let end = gap.checked_add(field_len(from))?;
    stored
        .get(gap..end)?
        .starts_with(FIELD)
        .then(|| join(&stored[..gap], to, &stored[end..]))
}

fn join(before: &[u8], revision: u64, after: &[u8]) -> Bytes {
    let digits = revision.to_string();
    let mut json = Vec::with_capacity(before.len() + FIELD.len() + digits.len() + 1 + after.len());
    json.extend_from_slice(before);
    json.extend_from_slice(FIELD);
    json.extend_from_slice(digits.as_bytes());
    json.push(b'"');
    json.extend_from_slice(after);
    json.into()
}

fn field_len(revision: u64) -> usize {
    FIELD.len() + revision.checked_ilog10().unwrap_or(0) as usize + 2
}

/// Writes `"metadata":{…}` and returns where the revision goes, commas around it already right.
fn write_metadata(json: &mut Vec<u8>, metadata: &Map<String, Value>) -> usize {
    json.extend_from_slice(b"\"metadata\":{");
    for (name, field) in metadata
        .iter()
        .take_while(|(name, _)| name.as_str() < "resourceVersion")
    {
        separate(json);
        write_entry(json, name, field);
    }
    separate(json);
    let gap = json.len();
    for (name, field) in metadata
        .iter()
        .skip_while(|(name, _)| name.as_str() <= "resourceVersion")
    {
        json.push(b',');
        write_entry(json, name, field);
    }
    json.push(b'}');
    gap
}

fn write_entry(json: &mut Vec<u8>, name: &str, field: &Value) {
    serde_json::to_writer(&mut *json, name).expect("a string into memory cannot fail");
    json.push(b':');
    serde_json::to_writer(json, field).expect("a Value into memory cannot fail");
}

fn separate(json: &mut Vec<u8>) {
    if json.last() != Some(&b'{') {
        json.push(b',');
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn check(mut value: Value) {
        let body = Body::new(&value).unwrap();
        for revision in [1, 9, 10, 18_446_744_073_709_551_615] {
            value["metadata"]["resourceVersion"] = json!(revision.to_string());
            let stored = body.at(revision);
            assert_eq!(
                stored,
                serde_json::to_vec(&value).unwrap(),
                "canonical bytes with the revision in place"
            );
            assert!(body.same_as(&stored, body.gap(), revision));
            assert_eq!(
                replace_revision(&stored, body.gap(), revision, 77).unwrap(),
                body.at(77)
            );
        }
    }

    #[test]
    fn revision_lands_between_its_neighbours() {
        check(json!({}));
        check(json!({"metadata": {}}));
        check(json!({"metadata": {"name": "a"}}));
        check(json!({"metadata": {"uid": "u"}, "spec": {"metadata": {"resourceVersion": "no"}}}));
        check(json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "a", "resourceVersion": "5", "uid": "u"}}));
        check(json!({"zeta": 1}));
        check(json!({"a": {"}": "{\""}, "metadata": {"a": [], "z": {}}, "n": 1.5e300}));
    }

    #[test]
    fn another_body_is_not_the_same() {
        let a = Body::new(&json!({"metadata": {"name": "a"}, "spec": 1})).unwrap();
        let b = Body::new(&json!({"metadata": {"name": "a"}, "spec": 2})).unwrap();
        assert!(!a.same_as(&b.at(5), b.gap(), 5));
        assert!(!a.same_as(&a.at(5), a.gap(), 55), "another revision is another length");
    }

    #[test]
    fn what_is_no_object_is_refused() {
        assert!(Body::new(&json!([1])).is_err());
        assert!(Body::new(&json!({"metadata": "x"})).is_err());
        assert!(Body::new(&json!({"data": "x".repeat(MAX_OBJECT)})).is_err());
    }

    #[test]
    fn a_gap_that_does_not_fit_is_noticed() {
        assert_eq!(replace_revision(b"{}", 1, 5, 6), None);
        assert_eq!(replace_revision(b"{}", usize::MAX, 5, 6), None);
        assert_eq!(replace_revision(&[b'x'; 64], 1, 5, 6), None);
    }

    proptest! {
        #[test]
        fn any_metadata_round_trips(names in prop::collection::btree_map("[a-zA-Z\"]{0,18}", any::<i32>(), 0..8),
                                    others in prop::collection::btree_map("[a-z]{0,10}", any::<bool>(), 0..4)) {
            let mut value = json!(others);
            value["metadata"] = json!(names);
            check(value);
        }
    }
}
