//! The command line as a stranger meets it: wrong words, missing files, nobody there. Every failure is one line of what, one line of what
//! to do, and an exit code that scripts may rely on.

use std::path::Path;

use tests::{Ended, Hub, Pair, kurator, program, run};
use tokio::process::Command;

/// Runs `kurator` with this line and environment, and no home to find anything in.
async fn say(folder: &Path, line: &str, environment: &[(&str, &str)]) -> Ended {
    run(Command::new(program("kurator"))
        .args(line.split_whitespace())
        .current_dir(folder)
        .env_remove("KUBECONFIG")
        .env("HOME", folder)
        .envs(environment.iter().copied()))
    .await
}

fn told(ended: &Ended, code: i32, word: &str) {
    assert_eq!(ended.code(), code, "{ended:?}");
    let lines: Vec<&str> = ended.err.lines().collect();
    let [.., what, hint] = lines.as_slice() else {
        panic!("{ended:?}")
    };
    assert!(what.starts_with("error: ") && what.contains(word), "{ended:?}");
    assert!(hint.starts_with("hint: ") && hint.len() > "hint: ".len(), "{ended:?}");
    assert!(ended.out.is_empty() && !ended.err.contains("panicked"), "{ended:?}");
}

#[tokio::test]
async fn without_a_hub_every_failure_says_what_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("garbage"), "garbage\n{{").unwrap();
    std::fs::write(at.join("empty"), "{}").unwrap();
    std::fs::write(
        at.join("nobody"),
        "apiVersion: v1\nkind: Config\ncurrent-context: x\nclusters: [{name: x, cluster: {server: 'https://127.0.0.1:1'}}]\n\
         contexts: [{name: x, context: {cluster: x, user: x}}]\nusers: [{name: x, user: {}}]\n",
    )
    .unwrap();
    for (line, code, word) in [
        ("frob", 64, "frob"),
        ("get", 64, "WHAT"),
        ("get nodes -o xml", 64, "xml"),
        ("get nodes a b", 64, "b"),
        ("get devices a/b", 64, "name"),
        ("token create --ttl 0", 64, "duration"),
        ("token create --uses 0", 64, "--uses"),
        ("token create --labels x", 64, "label"),
        ("token revoke ../nodes/gw-1", 64, "name"),
        ("twin set press-01 x", 64, "property=value"),
        ("completion tcsh", 64, "tcsh"),
        ("--log ]] version --kubeconfig nobody", 64, "--log"),
        ("--kubeconfig missing get nodes", 78, "missing"),
        ("--kubeconfig . get nodes", 78, "file"),
        ("--kubeconfig garbage get nodes", 78, "garbage"),
        ("--kubeconfig empty get nodes", 78, "empty"),
        ("--kubeconfig nobody get nodes", 69, "127.0.0.1:1"),
        ("--kubeconfig nobody token create", 69, "refused"),
        ("--kubeconfig nobody twin watch press-01", 69, "refused"),
        ("join edge --token-file missing", 65, "missing"),
        ("join edge --token-file garbage", 65, "token"),
        ("join edge kj1.x --node-name GW", 65, "token"),
    ] {
        told(&say(at, line, &[]).await, code, word);
    }
    // A kubeconfig that was named and is not there is not replaced by one that was not named.
    told(
        &say(at, "get nodes", &[("KUBECONFIG", "/nowhere")]).await,
        78,
        "/nowhere",
    );
    told(
        &say(at, "get nodes", &[("KUBECONFIG", "missing:nobody")]).await,
        69,
        "127.0.0.1:1",
    );
    let help = say(at, "token create --help", &[]).await;
    assert!(help.code() == 0 && help.err.is_empty(), "{help:?}");
    let daemon = run(Command::new(program("edgecore")).arg("--bogus")).await;
    assert_eq!(daemon.code(), 64, "{daemon:?}");
}

#[tokio::test]
async fn another_hub_behind_the_address_is_not_spoken_to() {
    daemon::tls::install_provider();
    let folder = tempfile::tempdir().unwrap();
    let one = Hub::start(&folder.path().join("one"), &[]).await;
    let other = Hub::start(&folder.path().join("other"), &[]).await;
    let text = std::fs::read_to_string(one.kubeconfig()).unwrap();
    let file = folder.path().join("mixed");
    std::fs::write(&file, text.replace(one.api_url(), other.api_url())).unwrap();
    told(&kurator(&file, &["get", "nodes"]).await, 77, "certificate");
}

#[tokio::test]
async fn results_come_in_every_form_and_a_reader_may_leave() {
    let pair = Pair::start().await;
    pair.with_press("press-01").await;
    let hub = pair.hub.kubeconfig();
    for line in [
        "get nodes",
        "get nodes gw-1",
        "get devices",
        "get device press-01",
        "token list",
        "twin get press-01",
        "twin set press-01 setpoint=90",
        "why node gw-1",
        "why device press-01.setpoint",
    ] {
        for form in ["table", "wide", "name"] {
            let arguments: Vec<&str> = line.split(' ').chain(["-o", form]).collect();
            kurator(&hub, &arguments).await.good();
        }
        let arguments: Vec<&str> = line.split(' ').chain(["-o", "json"]).collect();
        let json = kurator(&hub, &arguments).await.good();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap_or_else(|e| panic!("{line}: {e}: {json}"));
        let arguments: Vec<&str> = line.split(' ').chain(["-o", "yaml"]).collect();
        let yaml = kurator(&hub, &arguments).await.good();
        let same: serde_json::Value = serde_saphyr::from_str(&yaml).unwrap_or_else(|e| panic!("{line}: {e}: {yaml}"));
        // What moves between two looks is not compared.
        assert_eq!(value.is_array(), same.is_array(), "{line}");
    }
    for (line, code, word) in [
        ("get frobs", 65, "frobs"),
        ("get devices nope", 65, "nope"),
        ("get nodes nope", 65, "nope"),
        ("get devices -l ((", 65, "requirement"),
        ("node revoke nope", 65, "nope"),
        ("token revoke nope", 65, "nope"),
        ("twin get nope", 65, "nope"),
        ("twin get press-01 nope", 65, "nope"),
        ("twin set press-01 setpoint=9999", 65, "maximum"),
        ("twin set press-01 temperature=1", 65, "ReadOnly"),
        ("why device press-01.nope", 65, "nope"),
        ("why device a.b.c", 65, "not found"),
        ("--gateway nope get nodes", 65, "nope"),
    ] {
        let arguments: Vec<&str> = line.split(' ').collect();
        told(&kurator(&hub, &arguments).await, code, word);
    }
    // The gateway's own API is no hub.
    told(
        &kurator(&pair.edge.kubeconfig(), &["token", "list"]).await,
        65,
        "does not know",
    );
    // Nobody takes what it says: an exit code and no panic.
    let left = run(Command::new("sh")
        .arg("-c")
        .arg("\"$0\" --kubeconfig \"$1\" get frobs 2>/dev/full; echo $?")
        .arg(program("kurator"))
        .arg(&hub))
    .await;
    assert_eq!(left.out.trim(), "65", "{left:?}");
}
