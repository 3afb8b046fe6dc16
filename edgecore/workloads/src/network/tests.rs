use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use super::table::tests::{service, slice};
use super::testing::{Machine, NEIGHBOUR, OUTSIDE, PATIENCE, Pod, line, until};
use super::*;

/// Address of the Service `web`.
const WEB: &str = "10.43.0.5:80";

fn web(extra: serde_json::Value) -> serde_json::Value {
    let mut spec = json!({"clusterIP": "10.43.0.5", "type": "NodePort",
        "ports": [{"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080}]});
    for (field, value) in extra.as_object().unwrap() {
        spec[field] = value.clone();
    }
    service("web", spec)
}

fn ends(endpoints: &[&str]) -> serde_json::Value {
    let mut slice = slice(
        "web",
        json!({"name": "http", "port": 8080, "protocol": "TCP"}),
        endpoints,
    );
    for endpoint in slice["endpoints"].as_array_mut().unwrap() {
        endpoint["conditions"]["serving"] = true.into();
    }
    slice
}

/// Who answers, over some tries.
async fn answering(pod: &Pod, at: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for _ in 0..20 {
        all.insert(pod.ask(at).await.unwrap());
    }
    all
}

fn set<const N: usize>(items: [&str; N]) -> BTreeSet<String> {
    items.map(str::to_owned).into()
}

async fn leads(services: Services) {
    let userspace = services == Services::Userspace;
    let mut machine = Machine::new(services).await;
    let (a, b, c, neighbour) = (machine.pod(), machine.pod(), machine.pod(), machine.neighbour());
    let _served = (a.serve(8080), b.serve(8080));
    machine.put(web(json!({}))).await;
    machine.put(ends(&["10.42.0.2", "10.42.0.3"])).await;
    let (_network, agent) = machine.start();
    until("the Service leads somewhere", async || c.ask(WEB).await.is_ok()).await;
    // An endpoint sees who asked, where the kernel leads.
    if userspace {
        assert_eq!(answering(&c, WEB).await.len(), 2);
    } else {
        let seen = set(["10.42.0.2 to 10.42.0.4", "10.42.0.3 to 10.42.0.4"]);
        assert_eq!(answering(&c, WEB).await, seen);
        let seen = set([
            &format!("10.42.0.2 to {NEIGHBOUR}"),
            &format!("10.42.0.3 to {NEIGHBOUR}"),
        ]);
        assert_eq!(answering(&neighbour, &format!("{OUTSIDE}:30080")).await, seen);
    }
    assert_eq!(answering(&neighbour, &format!("{OUTSIDE}:30080")).await.len(), 2);
    // The machine itself.
    let host = tokio::task::spawn_blocking(|| line(&std::net::TcpStream::connect(WEB).unwrap()));
    host.await.unwrap().unwrap();
    // A pod that reaches itself.
    machine.put(ends(&["10.42.0.2"])).await;
    let alone = async || {
        answering(&a, WEB)
            .await
            .iter()
            .all(|line| line.starts_with("10.42.0.2 to "))
    };
    until("only one answers", alone).await;
    // Nobody answers: refused, and at once.
    machine.put(ends(&[])).await;
    let refused = async |at: &str| {
        c.ask(at)
            .await
            .is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
    };
    until("nobody is refused", async || refused(WEB).await).await;
    let from_host = std::net::TcpStream::connect_timeout(&WEB.parse().unwrap(), PATIENCE);
    assert_eq!(from_host.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    if !userspace {
        assert!(refused("10.43.0.99:80").await, "an address that no Service has");
        assert!(refused("10.43.0.5:81").await, "a port that the Service has not");
    }
    agent.kill().await;
}

#[tokio::test]
async fn services_lead_to_pods_by_the_kernel() {
    leads(Services::Nftables).await;
}

#[tokio::test]
async fn services_lead_to_pods_through_this_process() {
    leads(Services::Userspace).await;
}

#[tokio::test]
async fn a_killed_agent_is_not_missed() {
    let mut machine = Machine::new(Services::Auto).await;
    let (a, c) = (machine.pod(), machine.pod());
    let _served = a.serve(8080);
    machine.put(web(json!({}))).await;
    machine.put(ends(&["10.42.0.2"])).await;
    let (_network, agent) = machine.start();
    until("the Service leads somewhere", async || c.ask(WEB).await.is_ok()).await;
    let mut held = c.connect(WEB).await;
    agent.kill().await;
    let mut talks = |word: &str| {
        writeln!(held, "{word}").unwrap();
        assert_eq!(line(&held).unwrap(), word);
    };
    talks("without");
    c.ask(WEB).await.unwrap();
    // While it is away, the world changes; when it is back, the rules do, and who talks goes on talking.
    let b = machine.pod();
    let _served = b.serve(8080);
    machine.put(ends(&[&b.ip.to_string()])).await;
    let (network, agent) = machine.start();
    tokio::time::timeout(PATIENCE, network.left(a.ip)).await.unwrap();
    until("the new one answers", async || {
        c.ask(WEB).await.unwrap().starts_with("10.42.0.4")
    })
    .await;
    talks("again");
    agent.kill().await;
}

#[tokio::test]
async fn clients_stay_with_their_endpoint_whatever_else_changes() {
    let mut machine = Machine::new(Services::Nftables).await;
    let (a, b, c) = (machine.pod(), machine.pod(), machine.pod());
    let _served = (a.serve(8080), b.serve(8080), c.serve(8080));
    machine.put(web(json!({"sessionAffinity": "ClientIP"}))).await;
    machine.put(ends(&["10.42.0.2", "10.42.0.3"])).await;
    let (_network, agent) = machine.start();
    let client = machine.pod();
    until("the Service leads somewhere", async || client.ask(WEB).await.is_ok()).await;
    let one = answering(&client, WEB).await;
    assert_eq!(one.len(), 1);
    machine.put(ends(&["10.42.0.2", "10.42.0.3", "10.42.0.4"])).await;
    until("the third answers somebody", async || {
        let ask = a.ask("10.43.0.5:80").await.unwrap();
        drop(ask);
        super::nft::listing().await.contains("10.42.0.4:8080")
    })
    .await;
    assert_eq!(answering(&client, WEB).await, one);
    agent.kill().await;
}

async fn rolls(services: Services) {
    let mut machine = Machine::new(services).await;
    let client = machine.pod();
    let first = machine.pod();
    let mut served = first.serve(8080);
    machine.put(web(json!({}))).await;
    machine.put(ends(&[&first.ip.to_string()])).await;
    let (network, agent) = machine.start();
    until("the Service leads somewhere", async || client.ask(WEB).await.is_ok()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (asks, stopped) = (client.clone(), Arc::clone(&stop));
    let load = tokio::spawn(async move {
        let mut asked = 0;
        while !stopped.load(Ordering::Relaxed) {
            asks.ask(WEB).await.unwrap_or_else(|e| panic!("after {asked}: {e}"));
            asked += 1;
        }
        asked
    });
    let mut old = first;
    for _ in 0..6 {
        let new = machine.pod();
        let serves = new.serve(8080);
        machine.put(ends(&[&old.ip.to_string(), &new.ip.to_string()])).await;
        machine
            .put(ends(&[&format!("{}!t", old.ip), &new.ip.to_string()]))
            .await;
        // What ends a pod waits for this.
        tokio::time::timeout(PATIENCE, network.left(old.ip)).await.unwrap();
        drop(std::mem::replace(&mut served, serves));
        old = new;
    }
    stop.store(true, Ordering::Relaxed);
    assert!(load.await.unwrap() > 6);
    agent.kill().await;
}

#[tokio::test]
async fn a_rolling_set_of_pods_misses_no_request_by_the_kernel() {
    rolls(Services::Nftables).await;
}

#[tokio::test]
async fn a_rolling_set_of_pods_misses_no_request_through_this_process() {
    rolls(Services::Userspace).await;
}

/// A client that sends from the same port on and on.
async fn udp_moves(services: Services) {
    let mut machine = Machine::new(services).await;
    let (a, b, c) = (machine.pod(), machine.pod(), machine.pod());
    let echo = |pod: &Pod| {
        let ip = pod.ip;
        let socket = pod.inside(|| std::net::UdpSocket::bind((ip, 5353)).unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                drop(socket.send_to(ip.to_string().as_bytes(), from));
            }
        });
    };
    echo(&a);
    echo(&b);
    let port = json!({"name": "echo", "port": 7, "targetPort": 5353, "protocol": "UDP"});
    machine
        .put(service("echo", json!({"clusterIP": "10.43.0.7", "ports": [port]})))
        .await;
    let end = |ip: &str| slice("echo", json!({"name": "echo", "port": 5353, "protocol": "UDP"}), &[ip]);
    machine.put(end("10.42.0.2")).await;
    let (_network, agent) = machine.start();
    let client = c.inside(|| std::net::UdpSocket::bind("0.0.0.0:0").unwrap());
    client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let client = Arc::new(client);
    let ask = async || {
        let client = Arc::clone(&client);
        let asked = tokio::task::spawn_blocking(move || {
            let mut buffer = [0; 64];
            client.send_to(b"?", "10.43.0.7:7").ok()?;
            let len = client.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..len]).into_owned())
        });
        asked.await.unwrap()
    };
    until("the first answers", async || {
        ask().await.as_deref() == Some("10.42.0.2")
    })
    .await;
    machine.put(end("10.42.0.3")).await;
    until("the other answers", async || {
        ask().await.as_deref() == Some("10.42.0.3")
    })
    .await;
    agent.kill().await;
}

#[tokio::test]
async fn udp_follows_its_service_by_the_kernel() {
    udp_moves(Services::Nftables).await;
}

#[tokio::test]
async fn udp_follows_its_service_through_this_process() {
    udp_moves(Services::Userspace).await;
}

#[tokio::test]
async fn the_api_is_reached_from_pods_and_from_nobody_else() {
    let mut machine = Machine::new(Services::Auto).await;
    let (pod, neighbour) = (machine.pod(), machine.neighbour());
    let (network, agent) = machine.start();
    let listener = network.listen().await.unwrap();
    let at = listener.local_addr().unwrap();
    assert_eq!(at.to_string(), "10.43.0.1:443");
    // The neighbour knows a way here; whom the connection is from is what tells.
    for (client, inside) in [(&pod, true), (&neighbour, false)] {
        let client = client.clone();
        let connected = tokio::task::spawn_blocking(move || {
            client
                .inside(|| std::net::TcpStream::connect_timeout(&at, PATIENCE))
                .unwrap()
        });
        let (_, from) = listener.accept().await.unwrap();
        assert_eq!(network.is_inside(from.ip()), inside, "{from}");
        drop(connected.await.unwrap());
    }
    assert!(network.is_inside(at.ip()) && network.is_inside("127.0.0.1".parse().unwrap()));
    agent.kill().await;
}

#[tokio::test]
async fn names_are_answered_to_pods() {
    let mut machine = Machine::new(Services::Auto).await;
    let (pod, neighbour) = (machine.pod(), machine.neighbour());
    machine.put(web(json!({}))).await;
    let (network, agent) = machine.start();
    let lookup = async |who: &Pod, name: &str| {
        let (who, name) = (who.clone(), name.to_owned());
        let output = tokio::task::spawn_blocking(move || {
            let arguments = ["nslookup", &name, "10.43.0.10"];
            let run = || std::process::Command::new("busybox").args(arguments).output();
            who.inside(run).unwrap().stdout
        });
        String::from_utf8_lossy(&output.await.unwrap()).into_owned()
    };
    let name = "web.line.svc.cluster.local";
    let known = async || lookup(&pod, name).await.contains("Address: 10.43.0.5");
    until("the name is known", known).await;
    assert!(!lookup(&neighbour, name).await.contains("10.43.0.5"));
    assert!(lookup(&pod, "no.line.svc.cluster.local").await.contains("NXDOMAIN"));
    // Its own Service leads where it is answered.
    let own = "kube-dns.kube-system.svc.cluster.local";
    let known = async || lookup(&pod, own).await.contains("Address: 10.43.0.10");
    until("kube-dns is there", known).await;
    let faults = network.ready().unwrap_err();
    assert!(
        faults.contains("/nonexistent/runtime.sock") && !faults.contains("names"),
        "{faults}"
    );
    agent.kill().await;
}

#[tokio::test]
async fn nothing_is_left_when_services_are_somebody_elses_business() {
    let mut machine = Machine::new(Services::Auto).await;
    let pod = machine.pod();
    machine.put(web(json!({}))).await;
    machine.put(ends(&["10.42.0.2"])).await;
    let _served = pod.serve(8080);
    let (_network, agent) = machine.start();
    until("the Service leads somewhere", async || pod.ask(WEB).await.is_ok()).await;
    agent.kill().await;
    machine.settings.services = Services::None;
    let (_network, agent) = machine.start();
    until("the link is gone", async || link::Link::find().unwrap().is_none()).await;
    assert_eq!(nft::listing().await, "");
    agent.kill().await;
}

#[tokio::test]
async fn pods_are_connected_by_the_configuration_that_is_written() {
    let mut machine = Machine::new(Services::Nftables).await;
    let neighbour = machine.neighbour();
    let (config, leases) = (machine.folder.path().join("net.d"), machine.folder.path().join(LEASES));
    let places = cni::Places {
        config: config.clone(),
        plugins: vec![super::testing::PLUGINS.into()],
    };
    let wanted = cni::Wanted {
        range: machine.settings.pod_cidr.parse().unwrap(),
        masquerades: masquerades(),
        leases: &leases,
    };
    let cni::Found::Ours(path) = cni::ensure(&places, wanted).unwrap() else {
        panic!("nothing else is there");
    };
    let list = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let pod = machine.connected(&list);
    let _served = (pod.serve(8080), neighbour.serve(8080));
    machine.put(web(json!({}))).await;
    machine.put(ends(&[&pod.ip.to_string()])).await;
    let (_network, agent) = machine.start();
    // By the Service also itself; by the machine's port; and out into the world under the machine's address.
    until("the Service leads somewhere", async || pod.ask(WEB).await.is_ok()).await;
    neighbour.ask(&format!("{OUTSIDE}:8088")).await.unwrap();
    let seen = pod.ask(&format!("{NEIGHBOUR}:8080")).await.unwrap();
    assert_eq!(seen, format!("{NEIGHBOUR} to {OUTSIDE}"));
    // A power cut: the runtime knows of no sandbox any more.
    let held = cni::held(&leases).unwrap();
    assert_eq!(held.values().collect::<Vec<_>>(), ["sandbox-1"]);
    assert_eq!(cni::give_back(&held, &BTreeSet::new()).unwrap(), 1);
    agent.kill().await;
}

#[tokio::test]
async fn rules_that_somebody_took_out_are_put_back() {
    let mut machine = Machine::new(Services::Nftables).await;
    let pod = machine.pod();
    machine.put(web(json!({}))).await;
    machine.put(ends(&["10.42.0.2"])).await;
    let table = super::table::tests::table(&[web(json!({})), ends(&["10.42.0.2"])]);
    let plain = super::rules::Machine {
        ipv6: false,
        deaf: None,
        services: None,
    };
    let rules = super::rules::ruleset(&table.routes(false), plain);
    let mut kernel = nft::Kernel::default();
    assert!(kernel.apply(false, &rules, true).await.unwrap());
    assert!(!kernel.apply(false, &rules, true).await.unwrap());
    kernel.look().await;
    assert!(
        !kernel.apply(false, &rules, true).await.unwrap(),
        "nobody changed anything"
    );
    nft::remove().await;
    kernel.look().await;
    assert!(kernel.apply(false, &rules, true).await.unwrap());
    assert!(nft::listing().await.contains("10.42.0.2"));
    drop(pod);
}

#[test]
fn the_agents_own_addresses_follow_the_settings() {
    let of = |cidr: &str, domain: &str| {
        ClusterAddresses::of(&Settings {
            service_cidr: cidr.to_owned(),
            cluster_domain: domain.to_owned(),
            ..Settings::default()
        })
    };
    let own = of("10.43.0.0/16", "plant.local").unwrap().unwrap();
    assert_eq!(
        (own.api.to_string(), own.dns.to_string()),
        ("10.43.0.1".into(), "10.43.0.10".into())
    );
    assert!(own.names.contains(&"kubernetes.default.svc.plant.local".to_owned()));
    assert_eq!(of("", "cluster.local"), Ok(None));
    for (cidr, domain, word) in [
        ("10.43.0.0/29", "a", "too few"),
        ("x", "a", "serviceCidr"),
        ("10.43.0.0/16", "a b", "clusterDomain"),
    ] {
        assert!(of(cidr, domain).unwrap_err().contains(word));
    }
}
