//! Tokens and identities: one way in, a distinct refusal for everything else, and out within a second.

use http::Method;
use serde_json::json;
use tests::{Edge, Hub, Pair, Relay, Weather, eventually, kurator, program, run};
use tokio::process::Command;

async fn hub(folder: &std::path::Path) -> Hub {
    daemon::tls::install_provider();
    Hub::start(&folder.join("hub"), &["--heartbeat", "1s"]).await
}

#[tokio::test]
async fn every_bad_token_has_its_own_refusal() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let at = |name: &str| folder.path().join(name);
    let mut seen = std::collections::BTreeSet::new();
    let mut refused = |what: &str, ended: &tests::Ended, code: i32, word: &str| {
        assert_eq!(ended.code(), code, "{what}: {ended:?}");
        let line = ended
            .err
            .lines()
            .find(|l| l.starts_with("error:"))
            .unwrap_or_default()
            .to_owned();
        assert!(
            line.to_lowercase().contains(word) && ended.err.contains("hint:"),
            "{what}: {}",
            ended.err
        );
        assert!(seen.insert(line), "{what} is not told apart from another refusal");
    };

    let used = hub.token(&[]).await;
    Edge::join(&at("one"), "one", &used).await.good();
    refused("used", &Edge::join(&at("two"), "two", &used).await, 77, "used");

    let revoked = hub.token(&[]).await;
    let list = kurator(&hub.kubeconfig(), &["token", "list"]).await.good();
    let id = list
        .lines()
        .find(|l| l.contains("active"))
        .and_then(|l| l.split_whitespace().next())
        .unwrap()
        .to_owned();
    kurator(&hub.kubeconfig(), &["token", "revoke", &id]).await.good();
    refused(
        "revoked",
        &Edge::join(&at("three"), "three", &revoked).await,
        77,
        "revoked",
    );

    let short = hub.token(&["--ttl", "1s"]).await;
    eventually("the token to expire", async || {
        let list = kurator(&hub.kubeconfig(), &["token", "list"]).await.good();
        list.contains("expired").then_some(())
    })
    .await;
    refused("expired", &Edge::join(&at("four"), "four", &short).await, 77, "expired");

    let bound = hub.token(&["--node", "gw-5"]).await;
    refused("wrong node", &Edge::join(&at("six"), "gw-6", &bound).await, 77, "gw-5");
    Edge::join(&at("five"), "gw-5", &bound).await.good();

    let good = hub.token(&[]).await;
    let mut garbled = good.clone();
    let middle = garbled.len() / 2;
    garbled.replace_range(middle..=middle, if &good[middle..=middle] == "A" { "B" } else { "A" });
    refused(
        "garbled",
        &Edge::join(&at("seven"), "seven", &garbled).await,
        65,
        "damaged",
    );

    // A token of another hub, whose address now leads to ours: the pin does not match, nothing is sent.
    let relay = Relay::start().await.unwrap();
    let other = Hub::start(&at("other-hub"), &["--advertise", &relay.address().to_string()]).await;
    let foreign = other.token(&[]).await;
    relay.lead_to(hub.listen());
    refused(
        "wrong hub",
        &Edge::join(&at("eight"), "eight", &foreign).await,
        77,
        "pin",
    );

    drop(relay);
    let unreachable = Edge::join(&at("nine"), "nine", &foreign).await;
    assert_eq!(unreachable.code(), 69, "{unreachable:?}");

    // None of the refusals left a key or a configuration behind.
    for name in ["two", "three", "four", "six", "seven", "eight", "nine"] {
        assert!(
            !at(name).join("etc/edgecore.yaml").exists() && !at(name).join("etc/pki/node.crt").exists(),
            "{name}"
        );
    }
}

#[tokio::test]
async fn joining_twice_changes_nothing_and_no_secret_is_printed_or_kept() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let token = hub.token(&["--uses", "2"]).await;
    let at = folder.path().join("gw");
    let first = Edge::join(&at, "gw", &token).await;
    let before = std::fs::read(at.join("etc/pki/node.crt")).unwrap();
    let again = Edge::join(&at, "gw", &token).await;
    assert_eq!((first.code(), again.code()), (0, 0), "{first:?} {again:?}");
    assert_eq!(before, std::fs::read(at.join("etc/pki/node.crt")).unwrap());
    let list = kurator(&hub.kubeconfig(), &["token", "list", "-o", "json"])
        .await
        .good();
    assert!(list.contains("\"usesLeft\": 1"), "{list}");
    std::fs::remove_file(at.join("token")).unwrap();
    for text in [&first.out, &first.err, &list] {
        assert!(!text.contains(&token));
    }
    let kept = std::fs::read_to_string(at.join("etc/edgecore.yaml")).unwrap();
    assert!(!kept.contains("kj1."), "{kept}");
}

#[tokio::test]
async fn a_revoked_gateway_is_out_and_stays_out_after_a_hub_restart() {
    let mut pair = Pair::start().await;
    let ended = kurator(&pair.hub.kubeconfig(), &["node", "revoke", "gw-1"])
        .await
        .good();
    assert!(ended.contains("1 session(s) ended"), "{ended}");
    let offline = async |pair: &Pair| pair.hub.gateway("gw-1").await.filter(|n| n["connected"] == false);
    eventually("the session to end", async || offline(&pair).await).await;
    pair.hub.stop().await;
    pair.hub.start_again().await;
    // A refused agent comes back slowly; one that starts asks at once.
    let told = pair.edge.log().len();
    pair.edge.stop().await;
    pair.edge.start_again().await;
    eventually("the agent to have been refused again", async || {
        pair.edge.log()[told..].to_lowercase().contains("revoked").then_some(())
    })
    .await;
    assert!(offline(&pair).await.is_some());
    assert!(pair.edge.alive(), "a revoked gateway still serves its devices");
    // A new token brings it back.
    let token = pair.hub.token(&["--node", "gw-1"]).await;
    pair.edge.stop().await;
    let folder = pair.edge.folder().to_owned();
    Edge::join_with(&folder, "gw-1", &token, &["--again"]).await.good();
    pair.edge.start_again().await;
    pair.hub.until_in_sync("gw-1").await;
}

#[tokio::test]
async fn one_nodes_certificate_opens_one_nodes_door() {
    let pair = Pair::start().await;
    pair.with_press("press-01").await;
    let folder = tempfile::tempdir().unwrap();
    let other = Pair::gateway(&pair.hub, folder.path(), "gw-2").await;
    pair.hub.until_in_sync("gw-2").await;
    // gw-2's certificate at the people's port, as a stolen key would be used.
    let pki = other.folder().join("etc/pki");
    let read = |name: &str| std::fs::read_to_string(pki.join(name)).unwrap();
    let encode = |text: String| {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(text)
    };
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "x", "cluster": {"server": pair.hub.api_url(), "certificate-authority-data": encode(read("hub-ca.crt"))}}],
        "users": [{"name": "x", "user": {"client-certificate-data": encode(read("node.crt")), "client-key-data": encode(read("node.key"))}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}]});
    let file = folder.path().join("stolen.kubeconfig");
    std::fs::write(&file, config.to_string()).unwrap();
    let api = tests::Api::open(&file, None).await.unwrap();
    let base = "/apis/devices.kubeedge.io/v1beta1/namespaces/default";
    let status = async |method: Method, path: String, body: Option<serde_json::Value>| {
        api.try_json(method, &path, body.as_ref())
            .await
            .unwrap()
            .map_or_else(|r| r.status.as_u16(), |_| 200)
    };
    assert_eq!(status(Method::GET, "/api/v1/nodes/gw-2".into(), None).await, 200);
    for path in [
        "/api/v1/nodes/gw-1",
        "/apis/edge.kubeedge.io/v1/edgenodes/gw-1",
        &format!("{base}/devices/press-01"),
        "/api/v1/secrets",
        "/kurator/v1/tokens",
        "/kurator/v1/nodes",
        "/clusters/gw-1/api/v1/nodes",
    ] {
        assert_eq!(status(Method::GET, path.to_owned(), None).await, 403, "{path}");
    }
    assert_eq!(
        status(Method::DELETE, format!("{base}/devices/press-01"), None).await,
        403
    );
    assert_eq!(
        status(Method::POST, "/kurator/v1/nodes/gw-1/revoke".into(), None).await,
        403
    );
    assert_eq!(
        status(Method::POST, "/kurator/v1/tokens".into(), Some(json!({}))).await,
        403
    );
}

/// `kurator check` at a gateway, as the agent itself is run: its exit code, and each finding by its check's name.
async fn checked(edge: &Edge) -> (i32, Vec<(String, String, String)>) {
    let ended = run(Command::new(program("kurator"))
        .args(["check", "-o", "json", "--config-dir"])
        .arg(edge.folder().join("etc"))
        .envs(edge.environment().iter().cloned()))
    .await;
    let list: serde_json::Value = serde_json::from_str(&ended.out).unwrap_or_else(|e| panic!("{e}: {ended:?}"));
    let text = |v: &serde_json::Value| v.as_str().unwrap().to_owned();
    let findings = list.as_array().unwrap().iter();
    let findings = findings.map(|f| (text(&f["check"]), text(&f["state"]), text(&f["found"])));
    (ended.code(), findings.collect())
}

#[tokio::test]
async fn check_tells_udp_from_tcp_and_disturbs_nothing() {
    let pair = Pair::start().await;
    let epoch = |node: &serde_json::Value| node["sessionEpoch"].clone();
    let before = epoch(&pair.hub.until_in_sync("gw-1").await);
    assert!(before.is_number(), "{before}");
    let hub = async |weather: Weather| {
        pair.relay.set(weather);
        let (code, findings) = checked(&pair.edge).await;
        let (_, state, found) = findings
            .iter()
            .find(|f| f.0 == "hub")
            .expect("a line on the hub")
            .clone();
        (code, state, found, findings)
    };
    let (code, state, found, all) = hub(Weather::FAIR).await;
    assert_eq!((code, state.as_str()), (0, "ok"), "{all:?}");
    assert!(found.contains("UDP and TCP"), "{found}");
    assert!(all.iter().any(|f| f.0 == "agent" && f.2.contains("ready")), "{all:?}");
    assert!(all.iter().any(|f| f.0 == "identity" && f.2.contains("gw-1")), "{all:?}");
    // A running session is not fenced by the look.
    assert_eq!(epoch(&pair.hub.until_in_sync("gw-1").await), before);

    let (code, state, found, all) = hub(Weather::NO_UDP).await;
    assert_eq!((code, state.as_str()), (0, "warn"), "{all:?}");
    assert!(found.contains("UDP blocked, the agent will use TCP"), "{found}");

    let (code, state, found, all) = hub(Weather::CUT).await;
    assert_eq!((code, state.as_str()), (1, "fail"), "{all:?}");
    assert!(found.contains("not reached"), "{found}");

    pair.relay.set(Weather::FAIR);
    kurator(&pair.hub.kubeconfig(), &["node", "revoke", "gw-1"])
        .await
        .good();
    let (code, state, found, all) = hub(Weather::FAIR).await;
    assert_eq!((code, state.as_str()), (1, "fail"), "{all:?}");
    assert!(found.contains("revoked"), "{found}");
}

#[tokio::test]
async fn a_join_that_was_cut_is_finished_by_the_agents_next_start() {
    let mut pair = Pair::start().await;
    let pki = pair.edge.folder().join("etc/pki");
    let read = |name: &str| std::fs::read_to_string(pki.join(name)).unwrap();
    let old = [read("node.key"), read("node.crt")];
    let token = pair.hub.token(&["--node", "gw-1"]).await;
    pair.edge.stop().await;
    let folder = pair.edge.folder().to_owned();
    Edge::join_with(&folder, "gw-1", &token, &["--again"]).await.good();
    let new = [read("node.key"), read("node.crt")];
    assert_ne!(old, new);
    // As the power left it in the middle: the new identity is staged, of the three files one has followed.
    let staged = format!("{}# node.crt\n{}", new[0], new[1]);
    std::fs::write(pki.join("identity.new"), staged).unwrap();
    std::fs::write(pki.join("node.crt"), &old[1]).unwrap();
    pair.edge.start_again().await;
    pair.hub.until_in_sync("gw-1").await;
    assert_eq!([read("node.key"), read("node.crt")], new);
    assert!(!pki.join("identity.new").exists());
}
