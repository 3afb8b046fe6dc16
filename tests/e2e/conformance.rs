//! The Kubernetes API held against transcripts of a real kube-apiserver, at the hub and at the gateway.

use std::path::Path;

use tests::{Pair, checkout, run};
use tokio::process::Command;

/// Scenarios replayed by one process.
const AT_ONCE: usize = 16;

/// What a gateway declares that it does not do: validation rules of definitions (CEL), which the hub evaluates. It refuses a definition that has
/// some.
const EDGE_DECLARES: [&str; 2] = ["crd-rules", "crd-rules-refused"];

async fn replay(kubeconfig: &Path, but: &[&str]) {
    let folder = checkout().join("tests/apiconf");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder.join("scenarios")).expect("the scenarios are in the checkout") {
        let name = entry
            .expect("the folder can be read")
            .file_name()
            .to_string_lossy()
            .into_owned();
        if let Some(name) = name.strip_suffix(".json").filter(|n| !but.contains(n)) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    // A part at a time, so that each ends in the time that any program has here.
    for names in names.chunks(AT_ONCE) {
        let ended = run(Command::new("python3")
            .arg(folder.join("apiconf.py"))
            .arg("replay")
            .args(names)
            .arg("--in")
            .arg(folder.join("scenarios"))
            .arg("--kubeconfig")
            .arg(kubeconfig))
        .await;
        assert!(ended.status.success(), "{}{}", ended.out, ended.err);
        assert!(
            ended.out.contains(&format!("{} passed, 0 failed", names.len())),
            "{}",
            ended.out
        );
    }
}

#[tokio::test]
async fn the_hub_and_the_gateway_answer_as_a_kube_apiserver_does() {
    let pair = Pair::start().await;
    replay(&pair.hub.kubeconfig(), &[]).await;
    replay(&pair.edge.kubeconfig(), &EDGE_DECLARES).await;
}
