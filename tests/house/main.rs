//! The rules of the house that no compiler checks: which crate may know which, and what must never be linked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace is the folder above")
}

fn cargo(arguments: &[&str]) -> (bool, String, String) {
    let out = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(workspace())
        .output()
        .expect("cargo runs");
    (
        out.status.success(),
        String::from_utf8_lossy(&out.stdout).into(),
        String::from_utf8_lossy(&out.stderr).into(),
    )
}

/// Name -> names of the workspace members that its code (not its tests) depends on.
fn members() -> BTreeMap<String, BTreeSet<String>> {
    let (ok, out, err) = cargo(&["metadata", "--format-version", "1", "--no-deps"]);
    assert!(ok, "{err}");
    let metadata: Value = serde_json::from_str(&out).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let names: BTreeSet<&str> = packages.iter().map(|p| p["name"].as_str().expect("name")).collect();
    packages
        .iter()
        .map(|p| {
            let dependencies = p["dependencies"].as_array().expect("dependencies");
            let ours = dependencies
                .iter()
                .filter(|d| d["kind"].as_str() != Some("dev"))
                .filter_map(|d| d["name"].as_str().filter(|n| names.contains(n)).map(str::to_owned))
                .collect();
            (p["name"].as_str().expect("name").to_owned(), ours)
        })
        .collect()
}

/// Floors of the house: a crate may depend on floors below its own, and on `daemon`, which everything above the ground may use.
fn floor(name: &str) -> u8 {
    match name {
        "proto" | "device-models" | "federation" | "daemon" => 0,
        "metastore" | "link" | "mqtt" | "cri" => 1,
        "workloads" => 2,
        "edgecore" | "cloudhub" => 3,
        "kurator" => 4,
        "tests" => 5,
        other => panic!("{other} has no floor yet: give it one"),
    }
}

#[test]
fn dependencies_point_one_way() {
    for (name, dependencies) in members() {
        for dependency in dependencies {
            assert!(
                floor(&dependency) < floor(&name),
                "{name} (floor {}) must not depend on {dependency}",
                floor(&name)
            );
        }
    }
}

#[test]
fn sans_io_crates_know_no_runtime_and_no_sockets() {
    for name in ["proto", "device-models", "federation"] {
        for forbidden in ["tokio", "hyper", "quinn", "rustls", "rusqlite", "socket2", "mio"] {
            assert_absent(&["-p", name], forbidden);
        }
    }
}

#[test]
fn the_edge_links_no_kubernetes_client() {
    for forbidden in ["kube", "kube-client", "k8s-openapi"] {
        assert_absent(&["-p", "edgecore"], forbidden);
    }
}

#[test]
fn nothing_links_a_second_crypto_or_known_trouble() {
    for forbidden in [
        "aws-lc-sys",
        "aws-lc-rs",
        "openssl-sys",
        "rsa",
        "native-tls",
        "rustls-webpki@0.102.8",
        "serde_yaml",
    ] {
        assert_absent(&["--workspace"], forbidden);
    }
}

/// The package is not among what the scope links or builds with, on the machines we build for.
fn assert_absent(scope: &[&str], package: &str) {
    let mut arguments = vec!["tree", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"];
    arguments.extend(scope);
    let (ok, out, err) = cargo(&arguments);
    assert!(ok && !out.is_empty(), "{err}");
    let (name, version) = package.split_once('@').map_or((package, None), |(n, v)| (n, Some(v)));
    for line in out.lines() {
        let mut words = line.split_whitespace();
        let same = words.next() == Some(name) && version.is_none_or(|v| words.next() == Some(&format!("v{v}")));
        assert!(!same, "{scope:?} links {line}");
    }
}
