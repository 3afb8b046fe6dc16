//! Lists of resources, counted: what a machine has, what a pod asks for, and their sums.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::quantity::Unit;

/// Resources in the smallest unit that is counted of each: thousandths of a processor, bytes, whole ones of anything else.
pub type Resources = BTreeMap<String, i64>;

/// Adds a list of quantities. What is no quantity is passed over.
pub fn add_resources(sums: &mut Resources, list: &Map<String, Value>) {
    for (name, quantity) in list {
        let Some(count) = count(unit(name).unwrap_or(Unit::Whole), quantity) else {
            continue;
        };
        let sum = sums.entry(name.clone()).or_default();
        *sum = sum.saturating_add(count);
    }
}

/// The list as a server writes it.
pub fn written_resources(sums: &Resources) -> Map<String, Value> {
    let write = |(name, count): (&String, &i64)| {
        let unit = unit(name).unwrap_or(Unit::Whole);
        (name.clone(), unit.write(*count).into())
    };
    sums.iter().map(write).collect()
}

/// What is counted of a list of what pods ask for.
pub(super) fn counted(list: &Map<String, Value>) -> Resources {
    list.iter()
        .filter_map(|(name, quantity)| Some((name.clone(), count(unit(name)?, quantity)?)))
        .collect()
}

fn count(unit: Unit, quantity: &Value) -> Option<i64> {
    match quantity {
        Value::String(quantity) => unit.read(quantity),
        Value::Number(quantity) => unit.read(&quantity.to_string()),
        _ => None,
    }
}

/// How a resource is counted; nothing for a name that no scheduler counts.
pub(super) fn unit(name: &str) -> Option<Unit> {
    match name {
        "cpu" => Some(Unit::Milli),
        "memory" | "ephemeral-storage" => Some(Unit::Bytes),
        "pods" => Some(Unit::Whole),
        _ if name.starts_with("hugepages-") => Some(Unit::Bytes),
        // A quota's name for it, not a pod's.
        _ if name.starts_with("requests.") => None,
        _ if name.contains('/') || name.starts_with("attachable-volumes-") => Some(Unit::Whole),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_add_up() {
        let mut sums = Resources::new();
        for list in [
            json!({"cpu": "1500m", "memory": "4028476Ki", "pods": "110", "odd": 2}),
            json!({"cpu": 4, "memory": "1Gi", "pods": "110", "bad": "x", "no": null}),
        ] {
            add_resources(&mut sums, list.as_object().expect("an object"));
        }
        assert_eq!(
            Value::Object(written_resources(&sums)),
            json!({"cpu": "5500m", "memory": "5077052Ki", "pods": "220", "odd": "2"})
        );
    }
}
