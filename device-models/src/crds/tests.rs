use serde_json::Value;

use super::*;

fn definitions() -> Vec<Value> {
    CRDS.iter().map(|text| serde_saphyr::from_str(text).unwrap()).collect()
}

/// Every schema below one, with its path.
fn walk<'a>(schema: &'a Value, path: String, visit: &mut dyn FnMut(&str, &'a Value)) {
    visit(&path, schema);
    for (name, property) in schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        walk(property, format!("{path}.{name}"), visit);
    }
    for (key, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
        if let Some(inner) = schema.get(key) {
            walk(inner, format!("{path}{mark}"), visit);
        }
    }
}

#[test]
fn schemas_are_structural() {
    const ALLOWED: [&str; 12] = [
        "additionalProperties",
        "default",
        "description",
        "enum",
        "format",
        "items",
        "properties",
        "required",
        "type",
        "x-kubernetes-map-type",
        "x-kubernetes-preserve-unknown-fields",
        "maximum",
    ];
    for definition in definitions() {
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        walk(schema, String::new(), &mut |path, schema| {
            let fields = schema.as_object().unwrap_or_else(|| panic!("{path} is no schema"));
            for key in fields.keys() {
                assert!(ALLOWED.contains(&key.as_str()), "{path}: {key}");
            }
            assert!(fields.get("type").is_some_and(Value::is_string), "{path} has no type");
            let both = fields.contains_key("properties") && fields.contains_key("additionalProperties");
            assert!(!both, "{path} has properties and additionalProperties");
            if path.ends_with(".metadata") && path.matches('.').count() == 1 {
                assert!(
                    fields.keys().eq(["type"]),
                    "{path} may not say anything of what is in it"
                );
            }
        });
    }
}

#[test]
fn every_field_is_described() {
    for definition in definitions() {
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        walk(schema, String::new(), &mut |path, schema| {
            // Nothing may be said of what every object has.
            let described = schema.get("description").is_some()
                || path == ".metadata"
                || path.ends_with("[]")
                || path.ends_with("{}");
            assert!(described, "{path}");
        });
    }
}

#[test]
fn names_are_as_the_api_server_wants_them() {
    for definition in definitions() {
        let spec = &definition["spec"];
        let name = format!(
            "{}.{}",
            spec["names"]["plural"].as_str().unwrap(),
            spec["group"].as_str().unwrap()
        );
        assert_eq!(definition["metadata"]["name"], *name);
        for column in spec["versions"][0]["additionalPrinterColumns"].as_array().unwrap() {
            let path = column["jsonPath"].as_str().unwrap();
            let schema = &spec["versions"][0]["schema"]["openAPIV3Schema"];
            let pointer = path.trim_start_matches('.').replace('.', "/properties/");
            let exists = path.starts_with(".metadata.") || schema.pointer(&format!("/properties/{pointer}")).is_some();
            assert!(exists, "{name}: column {path}");
        }
    }
}

#[cfg(feature = "schema")]
#[test]
fn committed_definitions_are_the_generated_ones() {
    let generated = generate();
    assert_eq!(generated.len(), CRDS.len());
    for ((file, definition), committed) in generated.iter().zip(CRDS) {
        let text = serde_saphyr::to_string(definition).unwrap();
        assert!(
            text == **committed,
            "crds/{file} is out of date: run the example crds-generate"
        );
    }
}
