//! Who may do what, through requests: roles, tokens, questions, and the journal of what was done.

use http::Request;
use http_body_util::{BodyExt as _, Full};
use metastore::api::{AUDIT_STREAM, ApiServer, Attributes, TokenOptions, User};
use serde_json::{Value, json};

use super::support::{Api, admin};

const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const WHOAMI: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const JSON: &str = "application/json";

async fn start() -> Api {
    let keys = std::sync::OnceLock::new();
    let api = Api::with(
        |options| drop(keys.set(options.path.with_file_name("sa"))),
        |b| {
            b.tokens(TokenOptions::new(keys.get().unwrap(), "https://here:1"))
                .root_ca("CERTIFICATE\n")
        },
    )
    .await;
    // Who asks for tokens needs whom they are for.
    assert_eq!(there(&api, ACCOUNTS, "default").await["metadata"]["name"], "default");
    api
}

/// An object, once it is there.
async fn there(api: &Api, list: &str, name: &str) -> Value {
    let mut watch = api
        .watch(&format!(
            "{list}?watch=1&resourceVersion=0&fieldSelector=metadata.name%3D{name}"
        ))
        .await;
    watch.next().await.unwrap()["object"].clone()
}

fn bob() -> User {
    User::new("bob", ["dev"])
}

async fn as_bob(api: &Api, method: &str, path: &str, body: Value) -> (u16, Value) {
    let kind = if method == "PATCH" {
        "application/merge-patch+json"
    } else {
        JSON
    };
    api.call_as(Some(bob()), method, path, kind, body).await
}

/// A call that shows a token.
async fn with_token(api: &Api, token: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", JSON)
        .header("authorization", format!("Bearer {token}"))
        .body(Full::from(body.to_string()))
        .unwrap();
    let response = api.send(request).await;
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

async fn role(api: &Api, kind: &str, name: &str, rules: Value) {
    let plural = format!("{}s", kind.to_lowercase());
    let place = if kind == "Role" { "/namespaces/default" } else { "" };
    let object = json!({"metadata": {"name": name}, "rules": rules});
    let (status, body) = api.call("POST", &format!("{ROLES}{place}/{plural}"), object).await;
    assert_eq!(status, 201, "{body}");
}

async fn bind(api: &Api, name: &str, of: (&str, &str), subject: Value) {
    let object = json!({"metadata": {"name": name}, "subjects": [subject],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": of.0, "name": of.1}});
    let path = format!("{ROLES}/namespaces/default/rolebindings");
    let (status, body) = api.call("POST", &path, object).await;
    assert_eq!(status, 201, "{body}");
}

#[tokio::test]
async fn the_default_roles_are_there_and_a_second_start_writes_nothing() {
    let api = start().await;
    let (_, admin_role) = api.get(&format!("{ROLES}/clusterroles/admin")).await;
    let rules = admin_role["rules"].to_string();
    // What it gathers through `edit` from `view`, too.
    assert!(rules.contains("rolebindings") && rules.contains("pods/exec") && rules.contains("pods/log"));
    assert_eq!(api.call_as(None, "GET", "/healthz", "", Value::Null).await.0, 200);
    assert_eq!(api.call_as(None, "GET", "/apis", "", Value::Null).await.0, 403);
    assert_eq!(as_bob(&api, "GET", "/apis/apps/v1", Value::Null).await.0, 200);
    assert_eq!(as_bob(&api, "GET", "/nope", Value::Null).await.0, 403);
    let all = async || {
        let roles = api.get(&format!("{ROLES}/clusterroles")).await.1;
        let bindings = api.get(&format!("{ROLES}/clusterrolebindings")).await.1;
        (roles["items"].clone(), bindings["items"].clone())
    };
    let before = all().await;
    drop(ApiServer::builder(api.server.store().clone()).build().await.unwrap());
    assert_eq!(all().await, before);
    // What somebody took away is there again, unless they said that it is theirs.
    let discovery = format!("{ROLES}/clusterrolebindings/system:discovery");
    assert_eq!(api.call("DELETE", &discovery, Value::Null).await.0, 200);
    assert_eq!(as_bob(&api, "GET", "/apis", Value::Null).await.0, 403);
    let basic = format!("{ROLES}/clusterrolebindings/system:basic-user");
    let theirs =
        json!({"metadata": {"annotations": {"rbac.authorization.kubernetes.io/autoupdate": "false"}}, "subjects": []});
    assert_eq!(api.patch(&basic, theirs).await.0, 200);
    drop(ApiServer::builder(api.server.store().clone()).build().await.unwrap());
    assert_eq!(as_bob(&api, "GET", "/apis", Value::Null).await.0, 200);
    assert_eq!(as_bob(&api, "POST", WHOAMI, json!({})).await.0, 403);
}

#[tokio::test]
async fn a_binding_holds_for_the_next_request_and_its_removal_too() {
    let api = start().await;
    role(
        &api,
        "Role",
        "maps",
        json!([{"verbs": ["get", "create"], "apiGroups": [""], "resources": ["configmaps"]}]),
    )
    .await;
    let binding = format!("{ROLES}/namespaces/default/rolebindings/b");
    for n in 0..20 {
        assert_eq!(as_bob(&api, "GET", &format!("{MAPS}/x"), Value::Null).await.0, 403);
        bind(&api, "b", ("Role", "maps"), json!({"kind": "Group", "name": "dev"})).await;
        let made = as_bob(&api, "POST", MAPS, json!({"metadata": {"name": format!("m{n}")}})).await;
        assert_eq!(made.0, 201);
        let (status, body) = as_bob(&api, "DELETE", &format!("{MAPS}/m{n}"), Value::Null).await;
        assert_eq!(status, 403);
        assert_eq!(
            body["message"],
            format!(
                "configmaps \"m{n}\" is forbidden: User \"bob\" cannot delete resource \"configmaps\" in API group \"\" in the namespace \"default\""
            )
        );
        assert_eq!(body["details"], json!({"name": format!("m{n}"), "kind": "configmaps"}));
        assert_eq!(api.call("DELETE", &binding, Value::Null).await.0, 200);
    }
    // A change that would make the object needs the right to make it.
    role(
        &api,
        "Role",
        "patcher",
        json!([{"verbs": ["patch"], "apiGroups": [""], "resources": ["configmaps"]}]),
    )
    .await;
    bind(&api, "p", ("Role", "patcher"), json!({"kind": "User", "name": "bob"})).await;
    let apply = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "new"}});
    let path = format!("{MAPS}/new?fieldManager=x");
    let applied = api
        .call_as(Some(bob()), "PATCH", &path, "application/apply-patch+yaml", apply)
        .await;
    assert_eq!(applied.0, 403);
}

#[tokio::test]
async fn nobody_grants_what_they_do_not_have() {
    let api = start().await;
    let manage = json!([{"verbs": ["create", "update", "patch", "get"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["*"]},
        {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]);
    role(&api, "ClusterRole", "manage", manage).await;
    let (status, _) = api
        .call(
            "POST",
            &format!("{ROLES}/clusterrolebindings"),
            json!({"metadata": {"name": "m"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "manage"},
            "subjects": [{"kind": "User", "name": "bob"}]}),
        )
        .await;
    assert_eq!(status, 201);
    let roles = format!("{ROLES}/namespaces/default/roles");
    let bindings = format!("{ROLES}/namespaces/default/rolebindings");
    let rule = |verb: &str, resource: &str| json!([{"verbs": [verb], "apiGroups": [""], "resources": [resource]}]);
    let a = json!({"metadata": {"name": "a"}, "rules": rule("get", "pods")});
    assert_eq!(as_bob(&api, "POST", &roles, a).await.0, 201);
    let (status, body) = as_bob(
        &api,
        "POST",
        &roles,
        json!({"metadata": {"name": "b"}, "rules": [
            {"verbs": ["get", "watch"], "apiGroups": [""], "resources": ["pods", "secrets"]},
            {"verbs": ["get"], "apiGroups": [""], "resources": ["nodes"], "resourceNames": ["x", "y"]}]}),
    )
    .await;
    assert_eq!(status, 403);
    assert_eq!(
        body["message"],
        "roles.rbac.authorization.k8s.io \"b\" is forbidden: user \"bob\" (groups=[\"dev\" \"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n\
         {APIGroups:[\"\"], Resources:[\"nodes\"], ResourceNames:[\"x\"], Verbs:[\"get\"]}\n\
         {APIGroups:[\"\"], Resources:[\"nodes\"], ResourceNames:[\"y\"], Verbs:[\"get\"]}\n\
         {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"watch\"]}\n\
         {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"watch\"]}"
    );
    let more = json!({"rules": rule("get", "secrets")});
    assert_eq!(as_bob(&api, "PATCH", &format!("{roles}/a"), more).await.0, 403);
    let to = |name: &str, kind: &str, role: &str| {
        json!({"metadata": {"name": name}, "subjects": [{"kind": "User", "name": "bob"}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role}})
    };
    assert_eq!(as_bob(&api, "POST", &bindings, to("x", "Role", "a")).await.0, 201);
    assert_eq!(
        as_bob(&api, "POST", &bindings, to("y", "ClusterRole", "edit")).await.0,
        403
    );
    let (status, body) = as_bob(&api, "POST", &bindings, to("y", "Role", "nope")).await;
    assert_eq!((status, body["details"]["kind"].as_str()), (404, Some("rolebindings")));
    let gathering =
        json!({"metadata": {"name": "g"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}});
    assert_eq!(
        as_bob(&api, "POST", &format!("{ROLES}/clusterroles"), gathering)
            .await
            .0,
        403
    );
    // A role whose rules multiply beyond what can be compared.
    let many: Vec<String> = (0..400).map(|n| n.to_string()).collect();
    let huge = json!({"metadata": {"name": "h"}, "rules": [{"verbs": many, "apiGroups": many, "resources": many, "resourceNames": many}]});
    assert_eq!(as_bob(&api, "POST", &roles, huge).await.0, 403);
    // Who may bind or escalate may.
    let special = json!([{"verbs": ["bind"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "resourceNames": ["edit"]},
        {"verbs": ["escalate"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"]}]);
    role(&api, "Role", "special", special).await;
    bind(
        &api,
        "special",
        ("Role", "special"),
        json!({"kind": "User", "name": "bob"}),
    )
    .await;
    assert_eq!(
        as_bob(&api, "POST", &bindings, to("y", "ClusterRole", "edit")).await.0,
        201
    );
    assert_eq!(
        as_bob(&api, "POST", &bindings, to("z", "ClusterRole", "admin")).await.0,
        403
    );
    let b = json!({"metadata": {"name": "b"}, "rules": rule("get", "secrets")});
    assert_eq!(as_bob(&api, "POST", &roles, b).await.0, 201);
}

#[tokio::test]
async fn a_role_that_gathers_others_shows_their_rules() {
    let api = start().await;
    let path = format!("{ROLES}/clusterroles");
    let gathers = json!({"metadata": {"name": "g"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to-g": "yes"}}]}});
    let (_, made) = api.call("POST", &path, gathers).await;
    let version = made["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let rules = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]);
    let part = json!({"metadata": {"name": "part", "labels": {"to-g": "yes"}}, "rules": rules});
    assert_eq!(api.call("POST", &path, part).await.0, 201);
    let mut watch = api
        .watch(&format!(
            "{path}?watch=1&resourceVersion={version}&fieldSelector=metadata.name%3Dg"
        ))
        .await;
    assert_eq!(watch.next().await.unwrap()["object"]["rules"], rules);
}

#[tokio::test]
async fn questions_are_answered_from_the_roles() {
    let api = start().await;
    bind(
        &api,
        "v",
        ("ClusterRole", "view"),
        json!({"kind": "User", "name": "bob"}),
    )
    .await;
    let authorization = "/apis/authorization.k8s.io/v1";
    let may = async |verb: &str, resource: &str, namespace: &str| {
        let ask = json!({"spec": {"resourceAttributes": {"verb": verb, "resource": resource, "namespace": namespace}}});
        let (status, body) = as_bob(&api, "POST", &format!("{authorization}/selfsubjectaccessreviews"), ask).await;
        assert_eq!(status, 201);
        body["status"].clone()
    };
    assert_eq!(
        may("get", "pods", "default").await,
        json!({"allowed": true, "reason": "RBAC: allowed by RoleBinding \"v/default\" of ClusterRole \"view\" to User \"bob\""})
    );
    assert_eq!(may("get", "secrets", "default").await, json!({"allowed": false}));
    assert_eq!(may("get", "pods", "kube-system").await, json!({"allowed": false}));
    let rules = json!({"spec": {"namespace": "default"}});
    let (_, listed) = as_bob(&api, "POST", &format!("{authorization}/selfsubjectrulesreviews"), rules).await;
    let status = &listed["status"];
    assert_eq!(status["incomplete"], false);
    assert!(
        status["resourceRules"]
            .to_string()
            .contains("replicationcontrollers/scale")
    );
    assert!(status["nonResourceRules"].to_string().contains("/openapi/*"));
    let about = json!({"spec": {"user": "bob", "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "default"}}});
    for (path, body, code, field) in [
        ("/subjectaccessreviews", about.clone(), 201, ""),
        ("/namespaces/default/localsubjectaccessreviews", about.clone(), 201, ""),
        (
            "/namespaces/other/localsubjectaccessreviews",
            about,
            422,
            "spec.resourceAttributes.namespace",
        ),
        (
            "/subjectaccessreviews",
            json!({"spec": {"user": "bob"}}),
            422,
            "spec.resourceAttributes",
        ),
        (
            "/selfsubjectaccessreviews",
            json!({"metadata": {"name": "x"}, "spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}}),
            422,
            "metadata",
        ),
        ("/selfsubjectrulesreviews", json!({"spec": {}}), 400, ""),
    ] {
        let (status, answer) = api.call("POST", &format!("{authorization}{path}"), body).await;
        assert_eq!(status, code, "{path}: {answer}");
        if !field.is_empty() {
            assert_eq!(answer["details"]["causes"][0]["field"], field, "{answer}");
        }
    }
    let attributes = Attributes {
        verb: "get",
        resource: "pods",
        namespace: "default",
        ..Attributes::default()
    };
    assert!(api.server.check(&bob(), &attributes).is_ok());
}

#[tokio::test]
async fn tokens_of_accounts_are_good_until_what_they_name_is_gone() {
    let api = start().await;
    assert_eq!(
        api.call("POST", ACCOUNTS, json!({"metadata": {"name": "app"}})).await.0,
        201
    );
    let ask = json!({"spec": {"expirationSeconds": 1200}});
    let (status, answer) = api.call("POST", &format!("{ACCOUNTS}/app/token"), ask).await;
    assert_eq!(status, 201, "{answer}");
    assert_eq!(answer["spec"]["expirationSeconds"], 1200);
    assert_eq!(answer["spec"]["boundObjectRef"], Value::Null);
    let token = answer["status"]["token"].as_str().unwrap().to_owned();
    let (status, me) = with_token(&api, &token, "POST", WHOAMI, json!({})).await;
    assert_eq!(status, 201);
    let info = &me["status"]["userInfo"];
    assert_eq!(info["username"], "system:serviceaccount:default:app");
    assert_eq!(
        info["groups"],
        json!([
            "system:serviceaccounts",
            "system:serviceaccounts:default",
            "system:authenticated"
        ])
    );
    assert_eq!(with_token(&api, &token, "GET", MAPS, Value::Null).await.0, 403);
    bind(
        &api,
        "v",
        ("ClusterRole", "view"),
        json!({"kind": "ServiceAccount", "name": "app"}),
    )
    .await;
    assert_eq!(with_token(&api, &token, "GET", MAPS, Value::Null).await.0, 200);
    assert_eq!(
        with_token(&api, &token, "GET", "/openid/v1/jwks", Value::Null).await.0,
        200
    );
    let review = json!({"spec": {"token": token}});
    let (_, reviewed) = api
        .call("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review)
        .await;
    assert_eq!(
        reviewed["status"]["user"]["username"],
        "system:serviceaccount:default:app"
    );
    // A certificate says more than a token.
    let mut request = Request::get(MAPS)
        .header("authorization", "Bearer no")
        .body(Full::from(""))
        .unwrap();
    request.extensions_mut().insert(admin());
    assert_eq!(api.send(request).await.status(), 200);
    for bad in ["no", "a.b.c", &format!("{token}x")] {
        let (status, answer) = with_token(&api, bad, "GET", "/version", Value::Null).await;
        assert_eq!((status, answer["reason"].as_str()), (401, Some("Unauthorized")));
    }
    assert_eq!(api.call("DELETE", &format!("{ACCOUNTS}/app"), Value::Null).await.0, 200);
    assert_eq!(with_token(&api, &token, "GET", MAPS, Value::Null).await.0, 401);
    assert_eq!(
        api.call("POST", ACCOUNTS, json!({"metadata": {"name": "app"}})).await.0,
        201
    );
    assert_eq!(
        with_token(&api, &token, "GET", MAPS, Value::Null).await.0,
        401,
        "another of that name"
    );
}

#[tokio::test]
async fn a_secret_for_a_token_is_filled_and_goes_with_its_account() {
    let api = start().await;
    assert_eq!(
        api.call("POST", ACCOUNTS, json!({"metadata": {"name": "app"}})).await.0,
        201
    );
    let named = |account: &str| {
        json!({"metadata": {"name": "t", "annotations": {"kubernetes.io/service-account.name": account}},
        "type": "kubernetes.io/service-account-token"})
    };
    let (status, answer) = api.call("POST", SECRETS, named("")).await;
    assert_eq!(status, 422, "{answer}");
    let (_, made) = api.call("POST", SECRETS, named("app")).await;
    let version = made["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = api.watch(&format!("{SECRETS}?watch=1&resourceVersion={version}")).await;
    let filled = watch.next().await.unwrap()["object"].clone();
    let decode = |field: &str| {
        use base64::Engine as _;
        let text = filled["data"][field].as_str().unwrap_or_else(|| panic!("{field}"));
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    assert_eq!(decode("namespace"), "default");
    assert_eq!(decode("ca.crt"), "CERTIFICATE\n");
    let token = decode("token");
    let (status, me) = with_token(&api, &token, "POST", WHOAMI, json!({})).await;
    assert_eq!(
        (status, &me["status"]["userInfo"]["username"]),
        (201, &json!("system:serviceaccount:default:app"))
    );
    assert_eq!(api.call("DELETE", &format!("{ACCOUNTS}/app"), Value::Null).await.0, 200);
    assert_eq!(with_token(&api, &token, "POST", WHOAMI, json!({})).await.0, 401);
    let gone = watch.next().await.unwrap();
    assert_eq!(
        (&gone["type"], &gone["object"]["metadata"]["name"]),
        (&json!("DELETED"), &json!("t"))
    );
}

#[tokio::test]
async fn namespaces_get_an_account_and_those_that_run_something_the_certificates() {
    let api = start().await;
    assert_eq!(
        api.call("POST", "/api/v1/namespaces", json!({"metadata": {"name": "n"}}))
            .await
            .0,
        201
    );
    let accounts = "/api/v1/namespaces/n/serviceaccounts";
    let first = there(&api, accounts, "default").await;
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = api
        .watch(&format!("{accounts}?watch=1&resourceVersion={version}"))
        .await;
    assert_eq!(
        api.call("DELETE", &format!("{accounts}/default"), Value::Null).await.0,
        200
    );
    assert_eq!(watch.short().await.0, "DELETED");
    assert_eq!(watch.short().await, ("ADDED".to_owned(), "default".to_owned()));
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(api.call("POST", "/api/v1/namespaces/n/pods", pod).await.0, 201);
    let maps = "/api/v1/namespaces/n/configmaps";
    let bundle = there(&api, maps, "kube-root-ca.crt").await;
    assert_eq!(bundle["data"], json!({"ca.crt": "CERTIFICATE\n"}));
    let version = bundle["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = api.watch(&format!("{maps}?watch=1&resourceVersion={version}")).await;
    let spoiled = json!({"data": {"ca.crt": "x"}});
    assert_eq!(api.patch(&format!("{maps}/kube-root-ca.crt"), spoiled).await.0, 200);
    assert_eq!(watch.short().await.0, "MODIFIED");
    assert_eq!(watch.next().await.unwrap()["object"]["data"], bundle["data"]);
    // They do not keep a namespace from going.
    assert_eq!(api.call("DELETE", "/api/v1/namespaces/n", Value::Null).await.0, 200);
    let mut spaces = api
        .watch("/api/v1/namespaces?watch=1&resourceVersion=0&fieldSelector=metadata.name%3Dn")
        .await;
    while spaces.short().await.0 != "DELETED" {}
}

#[tokio::test]
async fn the_journal_says_who_changed_what_and_nothing_else() {
    let api = start().await;
    let records = |api: &Api| -> Vec<Value> {
        let all = api.server.store().journal_read(AUDIT_STREAM, 1, 1 << 20).unwrap();
        all.iter()
            .map(|(_, body)| serde_json::from_slice(body).unwrap())
            .collect()
    };
    assert!(records(&api).is_empty(), "what the program makes is not recorded");
    api.config_map("a", json!({})).await;
    assert_eq!(api.call("POST", MAPS, json!({"metadata": {"name": "a"}})).await.0, 409);
    assert_eq!(as_bob(&api, "DELETE", &format!("{MAPS}/a"), Value::Null).await.0, 403);
    assert_eq!(
        api.call(
            "POST",
            &format!("{MAPS}?dryRun=All"),
            json!({"metadata": {"name": "b"}})
        )
        .await
        .0,
        201
    );
    bind(
        &api,
        "e",
        ("ClusterRole", "edit"),
        json!({"kind": "User", "name": "bob"}),
    )
    .await;
    let request = Request::patch(format!("{MAPS}/a"))
        .header("content-type", "application/merge-patch+json")
        .header("user-agent", "tool/1")
        .header("x-forwarded-for", "192.0.2.7, nonsense")
        .header("impersonate-user", "bob");
    let mut request = request.body(Full::from(r#"{"data":{"password":"secret"}}"#)).unwrap();
    request.extensions_mut().insert(admin());
    assert_eq!(api.send(request).await.status(), 200);
    assert_eq!(api.call("DELETE", MAPS, Value::Null).await.0, 200);
    assert_eq!(
        api.call("POST", &format!("{ACCOUNTS}/default/token"), json!({}))
            .await
            .0,
        201
    );
    let all = records(&api);
    let short: Vec<_> = all
        .iter()
        .map(|r| {
            let of = &r["objectRef"];
            let word = |v: &Value| v.as_str().unwrap_or_default().to_owned();
            (
                word(&r["verb"]),
                word(&of["resource"]),
                word(&of["name"]),
                r["responseStatus"]["code"].as_u64().unwrap(),
            )
        })
        .collect();
    let want = |verb: &str, resource: &str, name: &str, code: u64| {
        (verb.to_owned(), resource.to_owned(), name.to_owned(), code)
    };
    assert_eq!(
        short[..3],
        [
            want("create", "configmaps", "a", 201),
            want("create", "rolebindings", "e", 201),
            want("patch", "configmaps", "a", 200),
        ]
    );
    assert!(short.contains(&want("deletecollection", "configmaps", "a", 200)));
    assert_eq!(short.last(), Some(&want("create", "serviceaccounts", "default", 201)));
    let patch = &all[2];
    assert_eq!(patch["user"]["username"], "admin");
    assert_eq!(patch["impersonatedUser"]["username"], "bob");
    assert_eq!(patch["userAgent"], "tool/1");
    assert_eq!(patch["sourceIPs"], json!(["192.0.2.7"]));
    assert_eq!(
        (&patch["kind"], &patch["level"], &patch["stage"]),
        (&json!("Event"), &json!("Metadata"), &json!("ResponseComplete"))
    );
    let text = all.iter().map(Value::to_string).collect::<String>();
    assert!(!text.contains("secret") && !text.contains("eyJ"), "{text}");
    let (status, page) = api.get("/kurator/v1/audit?limit=2&from=2").await;
    assert_eq!(status, 200);
    assert_eq!(page["items"].as_array().unwrap()[..], all[1..3]);
    assert_eq!(page["metadata"]["continue"], "4");
    assert_eq!(as_bob(&api, "GET", "/kurator/v1/audit", Value::Null).await.0, 403);
    assert_eq!(api.get("/kurator/v1/audit?from=x").await.0, 400);
    let quiet = Api::with(|_| (), |b| b.audit(false)).await;
    quiet.config_map("a", json!({})).await;
    assert!(records(&quiet).is_empty());
}
