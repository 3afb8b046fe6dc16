//! The cluster's names: a question to what the table says, and nothing else. The form of the names is Kubernetes' (its DNS specification 1.1.0).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::message::{A, AAAA, ANY, CNAME, NS, Name, PTR, SOA, SRV, TXT};
use crate::cluster::Key;
use crate::network::cidr::Cidr;
use crate::network::table::{Endpoint, Protocol, Service, Table};

/// The version of that specification.
const VERSION: &str = "1.1.0";
/// Records of one answer; more do not help a client choose.
const MOST: usize = 500;

/// The cluster's domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Domain(String);

impl Domain {
    /// `cluster.local`; `None` when it is no domain.
    pub(crate) fn new(text: &str) -> Option<Self> {
        let text = text.trim_matches('.').to_ascii_lowercase();
        // The longest names below it have a port, a protocol, a Service and a namespace before it.
        const LONGEST: usize = 100;
        let plain = |label: &str| {
            !label.is_empty() && label.len() < 64 && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        (text.len() <= LONGEST && text.split('.').all(plain)).then_some(Self(text))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Data {
    Address(IpAddr),
    /// Where a port is: port, and the name of its place.
    Place(u16, String),
    Pointer(String),
    Alias(String),
    Text(&'static str),
    Server(String),
    Authority,
}

impl Data {
    /// Type and wire form; `None` when a name in it is none.
    pub(super) fn wire(&self, domain: &Domain) -> Option<(u16, Vec<u8>)> {
        let name = |text: &str| Name::new(text).map(|name| name.wire().to_vec());
        Some(match self {
            Self::Address(IpAddr::V4(v4)) => (A, v4.octets().to_vec()),
            Self::Address(IpAddr::V6(v6)) => (AAAA, v6.octets().to_vec()),
            Self::Place(port, target) => {
                let [p0, p1] = port.to_be_bytes();
                // Priority and weight are the same for all.
                (SRV, [&[0, 0, 0, 100, p0, p1][..], &name(target)?].concat())
            }
            Self::Pointer(to) => (PTR, name(to)?),
            Self::Alias(to) => (CNAME, name(to)?),
            Self::Server(to) => (NS, name(to)?),
            Self::Text(text) => {
                let len = u8::try_from(text.len()).ok()?;
                (TXT, [&[len][..], text.as_bytes()].concat())
            }
            Self::Authority => {
                let mut out = name(&format!("ns.dns.{}", domain.0))?;
                out.extend(name(&format!("hostmaster.{}", domain.0))?);
                // Serial, refresh, retry, expire, and for how long "there is none" holds.
                for word in [1, 7200, 1800, 86_400, super::TTL] {
                    out.extend_from_slice(&word.to_be_bytes());
                }
                (SOA, out)
            }
        })
    }
}

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// These records; and addresses of names in them.
    Records(Vec<Data>, Vec<(String, IpAddr)>),
    /// There is such a name, but nothing of this type.
    Nothing,
    NoName,
    /// Not ours.
    Elsewhere,
}

/// The cluster's names at one moment.
pub(super) struct Zone<'a> {
    pub(super) domain: &'a Domain,
    pub(super) table: &'a Table,
    /// Ranges whose addresses nobody else has names for.
    pub(super) ranges: [Option<Cidr>; 2],
    /// Where names are answered.
    pub(super) server: IpAddr,
}

impl Zone<'_> {
    /// What there is of a type at a name.
    pub(super) fn find(&self, name: &Name, ty: u16) -> Found {
        let Some(labels) = name.labels() else {
            // Nobody in the cluster is called so; elsewhere, perhaps.
            return Found::Elsewhere;
        };
        if let Some(ip) = reverse(&labels) {
            return self.pointer(ip, ty);
        }
        let suffix: Vec<_> = self.domain.0.split('.').collect();
        let Some(own) = labels.strip_suffix(&*suffix) else {
            return Found::Elsewhere;
        };
        match own {
            [] => match ty {
                SOA => Found::Records(vec![Data::Authority], Vec::new()),
                NS => {
                    let server = format!("ns.dns.{}", self.domain.0);
                    Found::Records(vec![Data::Server(server.clone())], vec![(server, self.server)])
                }
                _ => Found::Nothing,
            },
            ["dns-version"] => match ty {
                TXT | ANY => Found::Records(vec![Data::Text(VERSION)], Vec::new()),
                _ => Found::Nothing,
            },
            ["ns", "dns"] => of_family(vec![self.server], ty),
            ["svc" | "pod" | "dns"] => Found::Nothing,
            [namespace, "svc"] => {
                let mut all = self.table.services();
                if all.any(|(key, _)| *key.namespace == **namespace) {
                    Found::Nothing
                } else {
                    Found::NoName
                }
            }
            [name, namespace, "svc"] => self.service(&Key::new(*namespace, *name), ty),
            [host, name, namespace, "svc"] => self.endpoint(&Key::new(*namespace, *name), host, ty),
            [port, protocol, name, namespace, "svc"] => self.place(&Key::new(*namespace, *name), port, protocol, ty),
            [address, _, "pod"] => match dashed(address) {
                Some(ip) => of_family(vec![ip], ty),
                None => Found::NoName,
            },
            _ => Found::NoName,
        }
    }

    fn name_of(&self, key: &Key) -> String {
        format!("{}.{}.svc.{}", key.name, key.namespace, self.domain.0)
    }

    /// Those that can be spoken to, and their ports.
    fn ready<'a>(&'a self, key: &'a Key) -> impl Iterator<Item = (&'a Endpoint, &'a [(String, Protocol, u16)])> {
        self.table.endpoints(key).filter(|(e, _)| e.ready).take(MOST)
    }

    fn service(&self, key: &Key, ty: u16) -> Found {
        let Some(service) = self.table.get(key) else {
            return Found::NoName;
        };
        if let Some(alias) = &service.alias {
            return Found::Records(vec![Data::Alias(alias.clone())], Vec::new());
        }
        if ty == SRV {
            return self.places(key, service, |_, _| true);
        }
        if !service.headless {
            return of_family(service.ips.clone(), ty);
        }
        let mut ips: Vec<_> = self.ready(key).map(|(e, _)| e.ip).collect();
        ips.sort_unstable();
        ips.dedup();
        of_family(ips, ty)
    }

    fn endpoint(&self, key: &Key, host: &str, ty: u16) -> Found {
        if self.table.get(key).is_none() {
            return Found::NoName;
        }
        let named = self.table.endpoints(key).filter(|(e, _)| e.ready && called(e) == host);
        let ips: Vec<_> = named.map(|(e, _)| e.ip).collect();
        match host {
            "_tcp" | "_udp" | "_sctp" => Found::Nothing,
            _ if ips.is_empty() => Found::NoName,
            _ => of_family(ips, ty),
        }
    }

    fn place(&self, key: &Key, port: &str, protocol: &str, ty: u16) -> Found {
        let Some(service) = self.table.get(key) else {
            return Found::NoName;
        };
        let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_')) else {
            return Found::NoName;
        };
        let is = |name: &str, speaks: Protocol| name == port && speaks.name() == protocol;
        match self.places(key, service, is) {
            Found::Records(..) if ty != SRV && ty != ANY => Found::Nothing,
            Found::Nothing => Found::NoName,
            found => found,
        }
    }

    /// Ports by name and protocol, with where they are.
    fn places(&self, key: &Key, service: &Service, wanted: impl Fn(&str, Protocol) -> bool) -> Found {
        let (mut places, mut addresses) = (Vec::new(), Vec::new());
        let name = self.name_of(key);
        if service.headless {
            for (endpoint, ports) in self.ready(key) {
                let host = format!("{}.{name}", called(endpoint));
                let of: Vec<_> = ports.iter().filter(|(n, p, _)| wanted(n, *p)).collect();
                places.extend(of.iter().map(|(_, _, port)| Data::Place(*port, host.clone())));
                if !of.is_empty() {
                    addresses.push((host, endpoint.ip));
                }
            }
        } else {
            let of = service.ports.iter().filter(|p| wanted(&p.name, p.protocol));
            places.extend(of.map(|p| Data::Place(p.port, name.clone())));
            addresses.extend(service.ips.iter().map(|ip| (name.clone(), *ip)));
        }
        if places.is_empty() {
            Found::Nothing
        } else {
            Found::Records(places, addresses)
        }
    }

    fn pointer(&self, ip: IpAddr, ty: u16) -> Found {
        let mut names: Vec<_> = self
            .table
            .services()
            .filter(|(_, service)| service.ips.contains(&ip))
            .map(|(key, _)| self.name_of(key))
            .collect();
        for (key, _) in self.table.services().filter(|(_, service)| service.headless) {
            let of = self.ready(key).filter(|(e, _)| e.ip == ip);
            names.extend(of.map(|(e, _)| format!("{}.{}", called(e), self.name_of(key))));
        }
        names.sort_unstable();
        names.dedup();
        let ours = self.ranges.iter().flatten().any(|range| range.contains(ip));
        match (names.is_empty(), ty) {
            (false, PTR | ANY) => Found::Records(names.into_iter().map(Data::Pointer).collect(), Vec::new()),
            (false, _) => Found::Nothing,
            (true, _) if ours => Found::NoName,
            (true, _) => Found::Elsewhere,
        }
    }
}

/// An endpoint's name within its Service: its host name, else its address.
fn called(endpoint: &Endpoint) -> String {
    match &endpoint.hostname {
        Some(hostname) => hostname.clone(),
        None => endpoint.ip.to_string().replace(['.', ':'], "-"),
    }
}

fn of_family(mut ips: Vec<IpAddr>, ty: u16) -> Found {
    ips.retain(|ip| match ty {
        A => ip.is_ipv4(),
        AAAA => ip.is_ipv6(),
        _ => ty == ANY,
    });
    if ips.is_empty() {
        return Found::Nothing;
    }
    // Most clients take the first.
    fastrand::shuffle(&mut ips);
    Found::Records(ips.into_iter().map(Data::Address).collect(), Vec::new())
}

/// `10-42-0-7`, or an address of the other family so.
fn dashed(text: &str) -> Option<IpAddr> {
    let four = text.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    let six = || text.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6);
    four.or_else(|_| six()).ok()
}

/// The address whose name is asked for.
fn reverse(labels: &[&str]) -> Option<IpAddr> {
    match labels {
        [d, c, b, a, "in-addr", "arpa"] => format!("{a}.{b}.{c}.{d}").parse().ok().map(IpAddr::V4),
        [nibbles @ .., "ip6", "arpa"] if nibbles.len() == 32 => {
            let mut bits = 0_u128;
            for nibble in nibbles.iter().rev() {
                let digit = u8::from_str_radix(nibble, 16).ok().filter(|_| nibble.len() == 1)?;
                bits = bits << 4 | u128::from(digit);
            }
            Some(Ipv6Addr::from_bits(bits).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::network::table::tests::{service, slice, table};

    fn find(name: &str, ty: u16) -> Vec<String> {
        let mut stateful = slice(
            "db",
            json!({"name": "sql", "port": 5432}),
            &["10.42.0.7", "10.42.0.8", "10.42.0.9!n"],
        );
        stateful["endpoints"][0]["hostname"] = "db-0".into();
        let table = table(&[
            service(
                "web",
                json!({"clusterIP": "10.43.0.5", "clusterIPs": ["10.43.0.5", "fd00::5"],
                "ports": [{"port": 80, "name": "http"}]}),
            ),
            service(
                "db",
                json!({"clusterIP": "None", "ports": [{"port": 5432, "name": "sql"}]}),
            ),
            stateful,
            service(
                "cloud",
                json!({"type": "ExternalName", "externalName": "api.example.com"}),
            ),
        ]);
        let domain = Domain::new("cluster.local.").unwrap();
        let zone = Zone {
            domain: &domain,
            table: &table,
            ranges: ["10.43.0.0/16".parse().ok(), "10.42.0.0/24".parse().ok()],
            server: "10.43.0.10".parse().unwrap(),
        };
        let mut found = match zone.find(&Name::new(name).unwrap(), ty) {
            Found::Records(records, more) => records
                .iter()
                .map(|r| format!("{r:?}"))
                .chain(more.iter().map(|(name, ip)| format!("+{name} {ip}")))
                .collect(),
            other => vec![format!("{other:?}")],
        };
        found.sort();
        found
    }

    #[test]
    fn services_have_addresses_and_places() {
        assert_eq!(find("web.line.svc.cluster.local", A), ["Address(10.43.0.5)"]);
        assert_eq!(find("WEB.line.svc.Cluster.local", AAAA), ["Address(fd00::5)"]);
        assert_eq!(find("web.line.svc.cluster.local", TXT), ["Nothing"]);
        assert_eq!(
            find("_http._tcp.web.line.svc.cluster.local", SRV),
            [
                "+web.line.svc.cluster.local 10.43.0.5",
                "+web.line.svc.cluster.local fd00::5",
                "Place(80, \"web.line.svc.cluster.local\")",
            ]
        );
        assert_eq!(find("_http._udp.web.line.svc.cluster.local", SRV), ["NoName"]);
        assert_eq!(find("_http._tcp.web.line.svc.cluster.local", A), ["Nothing"]);
    }

    #[test]
    fn headless_services_are_their_ready_endpoints() {
        let both = ["Address(10.42.0.7)", "Address(10.42.0.8)"];
        assert_eq!(find("db.line.svc.cluster.local", A), both);
        assert_eq!(find("db-0.db.line.svc.cluster.local", A), both[..1]);
        assert_eq!(find("10-42-0-8.db.line.svc.cluster.local", A), both[1..]);
        assert_eq!(find("db-1.db.line.svc.cluster.local", A), ["NoName"]);
        assert_eq!(
            find("_sql._tcp.db.line.svc.cluster.local", SRV),
            [
                "+10-42-0-8.db.line.svc.cluster.local 10.42.0.8",
                "+db-0.db.line.svc.cluster.local 10.42.0.7",
                "Place(5432, \"10-42-0-8.db.line.svc.cluster.local\")",
                "Place(5432, \"db-0.db.line.svc.cluster.local\")",
            ]
        );
    }

    #[test]
    fn addresses_have_names() {
        assert_eq!(
            find("5.0.43.10.in-addr.arpa", PTR),
            ["Pointer(\"web.line.svc.cluster.local\")"]
        );
        assert_eq!(
            find("7.0.42.10.in-addr.arpa", PTR),
            ["Pointer(\"db-0.db.line.svc.cluster.local\")"]
        );
        assert_eq!(find("99.0.42.10.in-addr.arpa", PTR), ["NoName"]);
        assert_eq!(find("1.1.1.1.in-addr.arpa", PTR), ["Elsewhere"]);
        let six = format!("5.{}0.0.d.f.ip6.arpa", "0.".repeat(27));
        assert_eq!(find(&six, PTR), ["Pointer(\"web.line.svc.cluster.local\")"]);
        assert_eq!(find("10-42-0-7.line.pod.cluster.local", A), ["Address(10.42.0.7)"]);
        assert_eq!(find("press.line.pod.cluster.local", A), ["NoName"]);
    }

    #[test]
    fn what_is_not_there_is_told_from_what_is_not_ours() {
        assert_eq!(find("cloud.line.svc.cluster.local", A), ["Alias(\"api.example.com\")"]);
        assert_eq!(find("dns-version.cluster.local", TXT), ["Text(\"1.1.0\")"]);
        assert_eq!(find("cluster.local", SOA), ["Authority"]);
        for name in ["cluster.local", "svc.cluster.local", "line.svc.cluster.local"] {
            assert_eq!(find(name, A), ["Nothing"], "{name}");
        }
        for name in [
            "no.svc.cluster.local",
            "no.line.svc.cluster.local",
            "example.com.line.svc.cluster.local",
            "x.cluster.local",
        ] {
            assert_eq!(find(name, A), ["NoName"], "{name}");
        }
        for name in ["example.com", "local", "web", "xcluster.local"] {
            assert_eq!(find(name, A), ["Elsewhere"], "{name}");
        }
        for wrong in ["", ".", "a..b", "a b", &"x".repeat(101)] {
            assert_eq!(Domain::new(wrong), None, "{wrong}");
        }
    }
}
