//! Follows the store, and brings what is spoken to (rules or proxies, and names) in step with it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use daemon::drain::Drain;
use metastore::api::{DeleteOptions, Status};
use metastore::store::{Event, EventKind, Tapped};
use serde_json::{Value, json};
use tokio::net::{TcpListener, UdpSocket};

use super::conntrack::forget_udp;
use super::nft::{Kernel, NftError};
use super::rules::{Answering, Machine, ruleset};
use super::table::{Service, Slice, Table};
use super::userspace::Proxies;
use super::{LOOK_AGAIN, Network, Part, RETRY, SYS, dns, host, link, nft, resolv};
use crate::cluster::{Cluster, ENDPOINT_SLICES, Key, Kind, PODS, SERVICES};
use crate::settings::Services;

/// Between two changes, so that a burst of them is one.
const REST: Duration = Duration::from_millis(25);
/// Where names are asked for; and where, when a program on this machine has that port on all addresses.
const DNS_PORTS: [u16; 2] = [53, 10_053];
/// The Service of the names, and who says where it leads.
const NAMES: (&str, &str) = ("kube-system", "kube-dns");
const MANAGER: &str = "network.kurator.dev";

/// What concerns it.
const FOLLOWED: [Kind; 3] = [SERVICES, ENDPOINT_SLICES, PODS];

/// Who leads packets.
enum Way {
    Kernel(Kernel),
    Userspace(Proxies),
}

/// Serves Services until the drain begins.
pub(super) async fn services(network: Network, cluster: Cluster, drain: Drain) {
    let setting = network.0.settings.services;
    let mut way = match setting {
        Services::Userspace => Way::Userspace(Proxies::new(drain.clone())),
        _ => Way::Kernel(Kernel::default()),
    };
    if matches!(way, Way::Userspace(_)) {
        nft::remove().await;
    }
    let mut tap = cluster
        .store()
        .tap(|event| FOLLOWED.iter().any(|kind| kind.is_of(&event.object.key)));
    let mut table = all(&network, &cluster);
    let mut answering = None;
    loop {
        let applied = apply(&network, &mut way, &table, &mut answering).await;
        if let (Err(Why::Kernel(e)), Services::Auto, Way::Kernel(_)) = (&applied, setting, &way) {
            tracing::warn!(error = %e, "The kernel takes no rules: Services go through this process.");
            nft::remove().await;
            way = Way::Userspace(Proxies::new(drain.clone()));
            continue;
        }
        let wait = if applied.is_ok() { LOOK_AGAIN } else { RETRY };
        let now = Arc::new(table.clone());
        network.0.table.send_replace(Arc::clone(&now));
        if applied.is_ok() {
            network.0.in_force.send_replace(now);
        }
        network.fault(Part::Services, applied.map_err(|e| e.to_string()));
        let look = tokio::time::sleep(wait);
        tokio::pin!(look);
        let mut changed = false;
        while !changed {
            let mut next = tokio::select! {
                biased;
                () = drain.stopping() => return,
                tapped = tap.next() => Some(tapped),
                () = &mut look => {
                    if let Way::Kernel(kernel) = &mut way {
                        kernel.look().await;
                    }
                    break;
                }
            };
            while let Some(tapped) = next {
                let before = changed;
                match tapped {
                    Tapped::Event(event) => changed |= note(&network, &mut table, &event),
                    Tapped::Missed => {
                        table = all(&network, &cluster);
                        changed = true;
                    }
                    Tapped::Closed => return,
                }
                if changed && !before {
                    tokio::time::sleep(REST).await;
                }
                next = tap.try_next();
            }
        }
    }
}

/// Why Services are not served.
#[derive(Debug, thiserror::Error)]
enum Why {
    #[error("Services: {0}")]
    Kernel(#[from] NftError),
    #[error("{0}")]
    Else(String),
}

/// Brings everything in step with the table.
async fn apply(
    network: &Network,
    way: &mut Way,
    table: &Table,
    answering: &mut Option<[Answering; 2]>,
) -> Result<(), Why> {
    let Some(own) = &network.0.own else { return Ok(()) };
    let routes = [table.routes(false), table.routes(true)];
    let mut held = BTreeSet::from([own.api, own.dns]);
    if matches!(way, Way::Userspace(_)) {
        held.extend(routes.iter().flatten().flat_map(|r| &r.inside).copied());
    }
    let linked = network.link(&held, true);
    network.fault(Part::Link, linked);
    match way {
        Way::Kernel(kernel) => {
            for (ipv6, routes) in [false, true].into_iter().zip(&routes) {
                let sees = host::see_bridged(Path::new(SYS), ipv6);
                let machine = Machine {
                    ipv6,
                    deaf: network.0.pods.filter(|_| !sees),
                    services: Some(own.services),
                };
                let used = !routes.is_empty() || own.services.base().is_ipv6() == ipv6;
                kernel.apply(ipv6, &ruleset(routes, machine), used).await?;
            }
            let now = [Answering::of(&routes[0]), Answering::of(&routes[1])];
            if answering.as_ref() != Some(&now) {
                forget(&now);
                *answering = Some(now);
            }
            Ok(())
        }
        Way::Userspace(proxies) => proxies.apply(&routes).await.map_err(Why::Else),
    }
}

/// Takes remembered UDP connections out that lead to nobody any more.
fn forget(answering: &[Answering; 2]) {
    let local = link::local_addresses().unwrap_or_default();
    for (ipv6, answering) in [false, true].into_iter().zip(answering) {
        if *answering == Answering::default() {
            continue;
        }
        match forget_udp(ipv6, |to, from| answering.is_stale(&local, to, from)) {
            Ok(count) => tracing::debug!(count, "UDP connections were forgotten."),
            Err(e) => tracing::warn!(error = %e, "UDP connections to endpoints that are gone cannot be forgotten."),
        }
    }
}

fn all(network: &Network, cluster: &Cluster) -> Table {
    let mut table = Table::default();
    let list = |kind| {
        cluster.list(kind, None).unwrap_or_else(|e| {
            tracing::warn!(error = %e, "The objects cannot be listed.");
            Vec::new()
        })
    };
    for object in list(SERVICES) {
        table.service(Key::of(&object), Some(Service::read(&object)));
    }
    for object in list(ENDPOINT_SLICES) {
        table.slice(Key::of(&object), Slice::read(&object, &network.0.node));
    }
    for object in list(PODS) {
        table.pod(Key::of(&object), Some(&object));
    }
    table
}

/// Takes a change in. Whether it was one for the network.
fn note(network: &Network, table: &mut Table, event: &Event) -> bool {
    let object = &event.object;
    let key = Key::new(object.key.namespace.clone(), object.key.name.clone());
    let there = event.kind != EventKind::Deleted;
    let value = || object.value().ok().filter(|_| there);
    if SERVICES.is_of(&object.key) {
        table.service(key, value().as_ref().map(Service::read))
    } else if PODS.is_of(&object.key) {
        table.pod(key, value().as_ref())
    } else {
        table.slice(key, value().and_then(|v| Slice::read(&v, &network.0.node)))
    }
}

/// Answers names until the drain begins.
pub(super) async fn names(network: Network, cluster: Cluster, drain: Drain) {
    let (Some(own), Some(domain)) = (&network.0.own, &network.0.domain) else {
        return;
    };
    loop {
        let made = match listen(&network, own.dns).await {
            Ok(bound) => {
                let port = bound.1.local_addr().map_or(DNS_PORTS[0], |at| at.port());
                match say_where(&cluster, own.dns, port).await {
                    Ok(()) => Ok(bound),
                    Err(e) => Err(format!("the Service kube-dns: {}", e.message)),
                }
            }
            Err(e) => Err(format!("names cannot be answered at {}: {e}", own.dns)),
        };
        match made {
            Ok((udp, tcp)) => {
                network.fault(Part::Names, Ok(()));
                let inside = network.clone();
                let server = dns::Server::new(
                    domain.clone(),
                    [Some(own.services), network.0.pods],
                    network.0.table.subscribe(),
                    Arc::new(move |ip| inside.is_inside(ip)),
                    dns::Forward::new(resolv::HOST_FILE.into(), own.dns, DNS_PORTS[0]),
                );
                return server.run(udp, tcp, drain).await;
            }
            Err(why) => network.fault(Part::Names, Err(why)),
        }
        tokio::select! {
            biased;
            () = drain.stopping() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

async fn listen(network: &Network, ip: IpAddr) -> std::io::Result<(UdpSocket, TcpListener)> {
    if let Err(why) = network.link(&BTreeSet::from([ip]), false) {
        return Err(std::io::Error::other(why));
    }
    let mut failed = std::io::ErrorKind::AddrInUse.into();
    for port in DNS_PORTS {
        let bound =
            async { std::io::Result::Ok((UdpSocket::bind((ip, port)).await?, TcpListener::bind((ip, port)).await?)) };
        match bound.await {
            Ok(bound) => return Ok(bound),
            Err(e) => failed = e,
        }
    }
    Err(failed)
}

/// Makes the Service of the names, and says where it leads: unless it is somebody else's, who has pods for it.
async fn say_where(cluster: &Cluster, ip: IpAddr, port: u16) -> Result<(), Status> {
    let (namespace, name) = NAMES;
    let ports = |port: u16, target: Option<u16>| {
        let port = |name: &str, protocol: &str| {
            let mut said = json!({"name": name, "protocol": protocol, "port": port});
            if let Some(target) = target {
                said["targetPort"] = target.into();
            }
            said
        };
        json!([port("dns", "UDP"), port("dns-tcp", "TCP")])
    };
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "labels": {
            "k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "kube-dns"}},
        "spec": {"clusterIP": ip, "ports": ports(DNS_PORTS[0], Some(port))},
    });
    let key = Key::new(namespace, name);
    if let Some(there) = cluster.get(SERVICES, &key)? {
        if there["spec"]["selector"].as_object().is_some_and(|s| !s.is_empty()) {
            return Ok(());
        }
        if there["spec"]["clusterIP"] != json!(ip) {
            // From before the range was another.
            cluster.delete(SERVICES, &key, &DeleteOptions::default()).await?;
        }
    }
    put(cluster, SERVICES, &key, service, &["/spec/ports"]).await?;
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    let key = Key::new(namespace, format!("{name}-{}", family.to_lowercase()));
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": &*key.name, "namespace": namespace, "labels": {
            "kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": MANAGER}},
        "addressType": family, "ports": ports(port, None),
        "endpoints": [{"addresses": [ip], "conditions": {"ready": true, "serving": true, "terminating": false}}],
    });
    put(cluster, ENDPOINT_SLICES, &key, slice, &["/ports", "/endpoints"]).await
}

/// Makes an object, or puts parts of the one that is there right.
async fn put(cluster: &Cluster, kind: Kind, key: &Key, object: Value, parts: &[&str]) -> Result<(), Status> {
    if cluster.get(kind, key)?.is_none() {
        return cluster.create(object).await.map(drop);
    }
    let changed = cluster.modify(kind, key, |there| {
        for part in parts {
            if let (Some(have), Some(want)) = (there.pointer_mut(part), object.pointer(part)) {
                *have = want.clone();
            }
        }
        Ok(())
    });
    changed.await.map(drop)
}
