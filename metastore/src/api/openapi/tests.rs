use super::*;
use crate::api::builtin::builtin_kinds;

fn registry() -> Registry {
    let mut out = Registry::default();
    for kind in builtin_kinds() {
        out.add(Arc::new(kind));
    }
    out
}

fn json_of(bytes: Vec<u8>) -> Value {
    serde_json::from_slice(&bytes).expect("a document is JSON")
}

/// Every `$ref` in a value.
fn references<'v>(value: &'v Value, out: &mut BTreeSet<&'v str>) {
    match value {
        Value::Object(map) => {
            out.extend(map.get("$ref").and_then(Value::as_str));
            map.values().for_each(|v| references(v, out));
        }
        Value::Array(list) => list.iter().for_each(|v| references(v, out)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_to_a_definition() {
    let registry = registry();
    let mut documents = vec![(json_of(whole(&registry)), "/definitions", Document::V2)];
    for (group, versions) in registry.groups() {
        for version in versions {
            documents.push((
                json_of(of_group(&registry, group, version)),
                "/components/schemas",
                Document::V3,
            ));
        }
    }
    for (shown, place, document) in documents {
        let definitions = shown.pointer(place).unwrap().as_object().unwrap();
        let mut all = BTreeSet::new();
        references(&shown, &mut all);
        assert!(all.len() > 1);
        for reference in all {
            let name = reference.strip_prefix(document.prefix()).unwrap();
            assert!(definitions.contains_key(name), "{reference}");
        }
    }
}

#[test]
fn clients_find_what_they_look_for() {
    let registry = registry();
    let v3 = json_of(of_group(&registry, "apps", "v1"));
    let schemas = &v3["components"]["schemas"];
    let spec = &schemas["io.k8s.api.apps.v1.DeploymentSpec"]["properties"];
    // kubectl's own merge drops what the other strategy had.
    assert_eq!(spec["strategy"]["x-kubernetes-patch-strategy"], "retainKeys");
    assert_eq!(
        spec["strategy"]["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.api.apps.v1.DeploymentStrategy"
    );
    assert!(
        schemas["io.k8s.api.apps.v1.DeploymentStrategy"]
            .get("x-kubernetes-patch-strategy")
            .is_none()
    );
    let pod = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"];
    assert_eq!(pod["volumes"]["x-kubernetes-patch-strategy"], "merge,retainKeys");
    assert_eq!(
        pod["volumes"]["items"]["$ref"],
        "#/components/schemas/io.k8s.api.core.v1.Volume"
    );
    let surge = &schemas["io.k8s.api.apps.v1.RollingUpdateDeployment"]["properties"]["maxSurge"];
    assert!(surge.to_string().contains("IntOrString"), "{surge}");
    let patch = &v3["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
    let names: Vec<&Value> = patch["parameters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| &p["name"])
        .collect();
    assert!(names.contains(&&json!("fieldValidation")) && names.contains(&&json!("dryRun")));
    let v2 = json_of(whole(&registry));
    let rules = v2["definitions"]["io.k8s.api.rbac.v1.Role"]["properties"]["rules"]["type"].clone();
    assert_eq!(rules, "array");
    let strategy = &v2["definitions"]["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["strategy"];
    assert_eq!(strategy["$ref"], "#/definitions/io.k8s.api.apps.v1.DeploymentStrategy");
    assert_eq!(strategy["x-kubernetes-patch-strategy"], "retainKeys");
}

fn headers(accept: &'static str) -> HeaderMap {
    let mut out = HeaderMap::new();
    out.insert(header::ACCEPT, HeaderValue::from_static(accept));
    out
}

#[test]
fn documents_are_named_by_what_is_in_them() {
    let (a, b) = (registry(), registry());
    let url = |registry: &Registry| index(registry)["paths"]["api/v1"]["serverRelativeURL"].to_string();
    assert_eq!(url(&a), url(&b), "another run names it the same");
    let group = Route::OpenApiGroup(String::new(), "v1".to_owned());
    let json = headers("application/json");
    let old = answer(&a, &group, &json, Some("0123")).unwrap();
    assert_eq!(old.status(), 301);
    let place = old.headers()[header::LOCATION].to_str().unwrap().to_owned();
    let hash = place.rsplit_once('=').unwrap().1;
    let new = answer(&a, &group, &json, Some(hash)).unwrap();
    assert_eq!(
        (new.status().as_u16(), &new.headers()[header::CACHE_CONTROL]),
        (200, &HeaderValue::from_static("public, immutable"))
    );
    let mut again = json.clone();
    again.insert(header::IF_NONE_MATCH, new.headers()[header::ETAG].clone());
    assert_eq!(answer(&a, &group, &again, None).unwrap().status(), 304);
    let nowhere = Route::OpenApiGroup("no.such".to_owned(), "v1".to_owned());
    assert_eq!(answer(&a, &nowhere, &json, None).unwrap().status(), 404);
}

#[test]
fn v2_comes_in_the_form_that_is_asked_first() {
    let registry = registry();
    for (accept, wanted) in [
        (
            "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
            Some(PROTOBUF),
        ),
        ("application/json, */*", Some("application/json")),
        ("application/json;as=Table;v=v1;g=meta.k8s.io", Some("application/json")),
        ("text/html,*/*;q=0.8", Some("application/json")),
        ("application/yaml", None),
    ] {
        let response = answer(&registry, &Route::OpenApiV2, &headers(accept), None).unwrap();
        match wanted {
            Some(wanted) => assert_eq!(response.headers()[header::CONTENT_TYPE], wanted, "{accept}"),
            None => assert_eq!(response.status(), 406, "{accept}"),
        }
    }
    assert_eq!(http_date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
}
