//! Names, from a pod's side: which servers it asks, and what it adds to a name that is not whole; and the machine's own such file.

use std::net::IpAddr;
use std::path::Path;

use super::Domain;
use crate::pod::Pod;

/// The machine's own.
pub(super) const HOST_FILE: &str = "/etc/resolv.conf";
/// What systemd's resolver forwards to: its own address in [`HOST_FILE`] is of no use in a pod.
const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";
/// Such a file is a few lines.
const MAX_FILE: u64 = 64 * 1024;
/// Domains tried in turn; resolvers take no more.
const MAX_SEARCHES: usize = 32;
/// Servers asked in turn; resolvers take no more.
const MAX_SERVERS: usize = 3;

/// What stands in a pod's `/etc/resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DnsFor {
    pub(crate) servers: Vec<String>,
    pub(crate) searches: Vec<String>,
    pub(crate) options: Vec<String>,
}

/// Names for a pod. `cluster`: where the cluster's names are answered, if they are.
pub(super) fn dns_for(pod: &Pod, cluster: Option<(IpAddr, &Domain)>, host: &DnsFor) -> DnsFor {
    let spec = &pod.spec;
    let by_cluster = match spec.dns_policy.as_str() {
        "None" => None,
        "Default" => Some(false),
        "ClusterFirstWithHostNet" => Some(true),
        _ => Some(!spec.host_network),
    };
    let mut dns = match (by_cluster, cluster) {
        (None, _) => DnsFor::default(),
        (Some(true), Some((server, domain))) => {
            let domain = domain.as_str();
            let namespace = &pod.metadata.namespace;
            let mut searches = vec![
                format!("{namespace}.svc.{domain}"),
                format!("svc.{domain}"),
                domain.to_owned(),
            ];
            searches.extend(host.searches.iter().cloned());
            DnsFor {
                servers: vec![server.to_string()],
                searches,
                options: vec!["ndots:5".to_owned()],
            }
        }
        (Some(_), _) => host.clone(),
    };
    let wanted = &spec.dns_config;
    dns.servers.extend(wanted.nameservers.iter().cloned());
    dns.searches.extend(wanted.searches.iter().cloned());
    for option in &wanted.options {
        dns.options.retain(|o| o.split(':').next() != Some(&*option.name));
        dns.options.push(match &option.value {
            Some(value) => format!("{}:{value}", option.name),
            None => option.name.clone(),
        });
    }
    once(&mut dns.servers, MAX_SERVERS);
    once(&mut dns.searches, MAX_SEARCHES);
    dns
}

fn once(list: &mut Vec<String>, most: usize) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|item| seen.insert(item.clone()));
    list.truncate(most);
}

/// The machine's own, as a pod can use it.
pub(super) fn host_for_pods() -> DnsFor {
    let host = read(Path::new(HOST_FILE));
    let stub = |dns: &DnsFor| dns.servers.iter().all(|s| s.starts_with("127.") || s == "::1");
    if !stub(&host) {
        return host;
    }
    let behind = read(Path::new(BEHIND_STUB));
    if stub(&behind) { host } else { behind }
}

/// A resolver's file; what cannot be read says nothing.
pub(super) fn read(path: &Path) -> DnsFor {
    use std::io::Read as _;
    let mut text = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut text));
    if let Err(e) = read {
        tracing::debug!(path = %path.display(), error = %e, "The resolver's file cannot be read.");
    }
    parse(&String::from_utf8_lossy(&text))
}

fn parse(text: &str) -> DnsFor {
    let mut dns = DnsFor::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => dns.servers.extend(words.next()),
            // The last one counts.
            Some("search" | "domain") => dns.searches = words.collect(),
            Some("options") => dns.options.extend(words),
            _ => {}
        }
    }
    once(&mut dns.servers, MAX_SERVERS);
    dns.searches.retain(|s| s != ".");
    once(&mut dns.searches, MAX_SEARCHES);
    once(&mut dns.options, MAX_SEARCHES);
    dns
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn host() -> DnsFor {
        parse(
            "# by hand\nnameserver 192.168.7.1\nnameserver fe80::1%eth0 \nsearch plant.example .\noptions rotate edns0\n",
        )
    }

    fn dns(spec: Value, cluster: bool) -> DnsFor {
        let pod = Pod::read(json!({"metadata": {"namespace": "line"}, "spec": spec})).unwrap();
        let domain = Domain::new("cluster.local").unwrap();
        let server = "10.43.0.10".parse().unwrap();
        dns_for(&pod, cluster.then_some((server, &domain)), &host())
    }

    #[test]
    fn the_machines_file_is_read() {
        let host = host();
        assert_eq!(host.servers, ["192.168.7.1", "fe80::1%eth0"]);
        assert_eq!(host.searches, ["plant.example"]);
        assert_eq!(host.options, ["rotate", "edns0"]);
        assert_eq!(parse("nameserver\nsearch\n\0;"), DnsFor::default());
    }

    #[test]
    fn policies_are_the_kubelets() {
        let first = dns(json!({"dnsPolicy": "ClusterFirst"}), true);
        assert_eq!(first.servers, ["10.43.0.10"]);
        let searches = [
            "line.svc.cluster.local",
            "svc.cluster.local",
            "cluster.local",
            "plant.example",
        ];
        assert_eq!(first.searches, searches);
        assert_eq!(first.options, ["ndots:5"]);
        assert_eq!(
            dns(json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}), true),
            host()
        );
        let with = json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true});
        assert_eq!(dns(with, true), first);
        assert_eq!(dns(json!({"dnsPolicy": "Default"}), true), host());
        assert_eq!(dns(json!({"dnsPolicy": "ClusterFirst"}), false), host());
    }

    #[test]
    fn what_the_pod_wants_is_laid_over() {
        let config = json!({"nameservers": ["1.1.1.1", "10.43.0.10"], "searches": ["svc.cluster.local", "own.example"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]});
        let mixed = dns(json!({"dnsPolicy": "ClusterFirst", "dnsConfig": config}), true);
        assert_eq!(mixed.servers, ["10.43.0.10", "1.1.1.1"]);
        assert_eq!(mixed.searches.len(), 5);
        assert_eq!(mixed.options, ["ndots:2", "edns0"]);
        let alone = dns(json!({"dnsPolicy": "None", "dnsConfig": config}), true);
        assert_eq!(alone.servers, ["1.1.1.1", "10.43.0.10"]);
        assert_eq!(alone.searches, ["svc.cluster.local", "own.example"]);
    }
}
