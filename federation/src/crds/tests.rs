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
    const ALLOWED: [&str; 20] = [
        "additionalProperties",
        "anyOf",
        "default",
        "description",
        "enum",
        "format",
        "items",
        "maxLength",
        "minItems",
        "minLength",
        "minimum",
        "pattern",
        "properties",
        "required",
        "type",
        "x-kubernetes-int-or-string",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-list-type",
        "x-kubernetes-map-type",
        "x-kubernetes-preserve-unknown-fields",
    ];
    for definition in definitions() {
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        walk(schema, String::new(), &mut |path, schema| {
            let fields = schema.as_object().unwrap_or_else(|| panic!("{path} is no schema"));
            for key in fields.keys() {
                let rules = path.is_empty() && key == "x-kubernetes-validations";
                assert!(rules || ALLOWED.contains(&key.as_str()), "{path}: {key}");
            }
            let either = fields.contains_key("x-kubernetes-int-or-string");
            let anything = fields.contains_key("x-kubernetes-preserve-unknown-fields");
            let typed = fields.get("type").is_some_and(Value::is_string);
            assert!(typed != either || anything, "{path} has no type, or two");
            assert_eq!(fields.contains_key("anyOf"), either, "{path}");
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
        let columns = spec["versions"][0]["additionalPrinterColumns"].as_array();
        for column in columns.into_iter().flatten() {
            let schema = &spec["versions"][0]["schema"]["openAPIV3Schema"];
            let path = column["jsonPath"].as_str().unwrap();
            // As far as the schema says what is there.
            let plain = path.split('[').next().unwrap();
            let pointer = plain.trim_start_matches('.').replace('.', "/properties/");
            let exists = path.starts_with(".metadata.") || schema.pointer(&format!("/properties/{pointer}")).is_some();
            assert!(exists, "{name}: column {path}");
        }
    }
}

#[test]
fn a_gateway_serves_one_of_the_hubs_definitions() {
    assert!(CRDS.contains(&WORK_CRD));
    let work: Value = serde_saphyr::from_str(WORK_CRD).unwrap();
    assert_eq!(work["metadata"]["name"], "works.work.karmada.io");
}

#[test]
fn roles_name_kinds_that_are_defined() {
    let defined: Vec<String> = definitions()
        .iter()
        .map(|definition| definition["metadata"]["name"].as_str().unwrap().to_owned())
        .collect();
    for line in ROLES.lines().filter(|line| line.starts_with(' ')) {
        let mut parts = line.split('|').map(str::trim);
        let (verbs, group, resources) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
        assert!(["read", "write"].contains(&verbs), "{line}");
        for resource in resources.split_whitespace() {
            let plural = resource.trim_end_matches("/status");
            assert!(defined.contains(&format!("{plural}.{group}")), "{line}");
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
