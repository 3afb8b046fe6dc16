use serde_json::json;

use super::testing::{authority, put};
use super::*;
use crate::api::auth::Authority;
use crate::store::{Expect, ObjectKey, Tx};

fn role(kind: &str, namespace: &str, name: &str, verb: &str, resource: &str) -> Value {
    json!({"kind": kind, "metadata": {"name": name, "namespace": namespace},
        "rules": [{"verbs": [verb], "apiGroups": [""], "resources": [resource]}]})
}

fn binding(kind: &str, namespace: &str, name: &str, of: (&str, &str), subjects: Value) -> Value {
    json!({"kind": kind, "metadata": {"name": name, "namespace": namespace},
        "roleRef": {"kind": of.0, "name": of.1}, "subjects": subjects})
}

fn ask(authority: &Authority, user: &User, verb: &str, resource: &str, namespace: &str) -> Verdict {
    let attributes = Attributes {
        verb,
        resource,
        namespace,
        ..Attributes::default()
    };
    authority.decide(user, &attributes)
}

#[tokio::test]
async fn bindings_give_roles_to_users_groups_and_accounts_where_they_are() {
    let (authority, _dir) = authority(&[
        role("ClusterRole", "", "reader", "get", "pods"),
        role("Role", "a", "writer", "create", "pods"),
        binding(
            "ClusterRoleBinding",
            "",
            "everywhere",
            ("ClusterRole", "reader"),
            json!([{"kind": "Group", "name": "dev"}]),
        ),
        binding(
            "RoleBinding",
            "a",
            "here",
            ("Role", "writer"),
            json!([{"kind": "User", "name": "bob"}, {"kind": "ServiceAccount", "name": "app"},
                {"kind": "ServiceAccount", "name": "app", "namespace": "b"}]),
        ),
    ])
    .await;
    let bob = User::new("bob", ["dev"]);
    let got = ask(&authority, &bob, "get", "pods", "x");
    assert_eq!(
        got.reason(),
        "RBAC: allowed by ClusterRoleBinding \"everywhere\" of ClusterRole \"reader\" to Group \"dev\""
    );
    let got = ask(&authority, &bob, "create", "pods", "a");
    assert_eq!(
        got.reason(),
        "RBAC: allowed by RoleBinding \"here/a\" of Role \"writer\" to User \"bob\""
    );
    assert!(!ask(&authority, &bob, "create", "pods", "b").is_allowed());
    assert!(!ask(&authority, &bob, "create", "pods", "").is_allowed());
    for space in ["a", "b"] {
        let app = User::service_account(space, "app", "u");
        assert!(ask(&authority, &app, "create", "pods", "a").is_allowed(), "{space}");
    }
    let got = ask(
        &authority,
        &User::service_account("b", "app", "u"),
        "create",
        "pods",
        "a",
    );
    assert!(
        got.reason().ends_with("to ServiceAccount \"app/b\""),
        "{}",
        got.reason()
    );
    let other = User::service_account("c", "app", "u");
    assert!(!ask(&authority, &other, "create", "pods", "a").is_allowed());
}

#[tokio::test]
async fn a_write_holds_for_the_next_question() {
    let (authority, _dir) = authority(&[role("ClusterRole", "", "reader", "get", "pods")]).await;
    let store = authority.rbac().store.clone();
    let bob = User::new("bob", ["dev"]);
    let may = |verb: &str| ask(&authority, &bob, verb, "pods", "x").is_allowed();
    let subjects = |name: &str| json!([{"kind": "User", "name": name}]);
    for _ in 0..50 {
        assert!(!may("get"));
        let of = ("ClusterRole", "reader");
        put(&store, &binding("RoleBinding", "x", "b", of, subjects("bob"))).await;
        assert!(may("get"));
        put(&store, &role("ClusterRole", "", "reader", "list", "pods")).await;
        assert!(!may("get") && may("list"));
        put(&store, &role("ClusterRole", "", "reader", "get", "pods")).await;
        put(&store, &binding("RoleBinding", "x", "b", of, subjects("eve"))).await;
        assert!(!may("get"));
        put(&store, &binding("RoleBinding", "x", "b", of, subjects("bob"))).await;
        let key = ObjectKey::new(GROUP, "rolebindings", "x", "b");
        store.commit(Tx::new().delete(key, Expect::Present)).await.unwrap();
    }
}

#[tokio::test]
async fn more_changes_than_the_queue_holds_are_read_anew() {
    let (authority, _dir) = authority(&[]).await;
    let store = authority.rbac().store.clone();
    let mut tx = Tx::new();
    for n in 0..5000 {
        let object = role("ClusterRole", "", &format!("r{n}"), "get", "pods");
        let key = ObjectKey::new(GROUP, CLUSTER_ROLES, "", format!("r{n}"));
        tx = tx.put(key, object, Expect::Any);
        if n % 500 == 499 {
            store.commit(std::mem::take(&mut tx)).await.unwrap();
        }
    }
    let of = ("ClusterRole", "r4999");
    let bound = binding(
        "ClusterRoleBinding",
        "",
        "b",
        of,
        json!([{"kind": "User", "name": "bob"}]),
    );
    put(&store, &bound).await;
    let bob = User::new("bob", ["dev"]);
    assert!(ask(&authority, &bob, "get", "pods", "x").is_allowed());
}

#[tokio::test]
async fn a_binding_without_its_role_says_so() {
    let (authority, _dir) = authority(&[binding(
        "ClusterRoleBinding",
        "",
        "b",
        ("ClusterRole", "none"),
        json!([{"kind": "User", "name": "bob"}]),
    )])
    .await;
    let bob = User::new("bob", ["dev"]);
    let got = ask(&authority, &bob, "get", "pods", "");
    assert_eq!(
        got.reason(),
        "RBAC: clusterrole.rbac.authorization.k8s.io \"none\" not found"
    );
    assert!(!got.is_allowed());
}

#[tokio::test]
async fn roles_gather_the_rules_of_those_they_select_also_in_circles() {
    let gathers = |name: &str, from: &str, label: &str| {
        json!({"kind": "ClusterRole", "metadata": {"name": name, "labels": {label: "true"}}, "rules": null,
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {from: "true"}}]}})
    };
    let mut part = role("ClusterRole", "", "part", "get", "pods");
    part["metadata"]["labels"] = json!({"to-a": "true"});
    let (authority, _dir) = authority(&[
        gathers("a", "to-a", "to-b"),
        gathers("b", "to-b", "to-a"),
        part.clone(),
        binding(
            "ClusterRoleBinding",
            "",
            "x",
            ("ClusterRole", "b"),
            json!([{"kind": "User", "name": "bob"}]),
        ),
    ])
    .await;
    let store = authority.rbac().store.clone();
    let bob = User::new("bob", ["dev"]);
    assert!(ask(&authority, &bob, "get", "pods", "").is_allowed());
    let ungathered: Vec<String> = authority
        .rbac()
        .ungathered()
        .unwrap()
        .into_iter()
        .map(|(name, _)| name.to_string())
        .collect();
    assert_eq!(ungathered, ["a", "b"]);
    part["metadata"]["labels"] = json!({});
    put(&store, &part).await;
    assert!(!ask(&authority, &bob, "get", "pods", "").is_allowed());
}
