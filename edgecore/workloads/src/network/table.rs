//! The network's view of the store: each Service and each EndpointSlice in the few words that rules, proxies and names are made of; and what
//! follows from them, a [`Route`] for each port of a Service.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde_json::Value;

use super::cidr::Cidr;
use crate::cluster::Key;

/// Label of a slice: the Service it belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// A client stays with its endpoint for so long when nobody says, in seconds.
const AFFINITY: u32 = 10_800;

/// What a port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    fn of(value: &Value) -> Option<Self> {
        match value.as_str().unwrap_or("TCP") {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    /// Empty for a headless one.
    pub(super) ips: Vec<IpAddr>,
    pub(super) headless: bool,
    /// The name it is another name of.
    pub(super) alias: Option<String>,
    pub(super) ports: Vec<Port>,
    external: Vec<IpAddr>,
    ingress: Vec<IpAddr>,
    /// Who may come by `ingress`; empty: everybody.
    sources: Vec<Cidr>,
    /// Seconds.
    affinity: Option<u32>,
    local_inside: bool,
    local_outside: bool,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    node_port: Option<u16>,
}

/// Endpoints of one Service, of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    service: Key,
    ports: Vec<(String, Protocol, u16)>,
    endpoints: Vec<Endpoint>,
}

/// Where something answers for a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) ip: IpAddr,
    pub(super) ready: bool,
    /// It still answers while it goes.
    draining: bool,
    local: bool,
    pub(super) hostname: Option<String>,
}

impl Service {
    pub(super) fn read(object: &Value) -> Self {
        let (spec, status) = (&object["spec"], &object["status"]);
        let kind = spec["type"].as_str().unwrap_or("ClusterIP");
        let alias = (kind == "ExternalName").then(|| text(&spec["externalName"]).to_owned());
        let mut ips = ips(&spec["clusterIPs"]);
        if ips.is_empty() {
            ips.extend(spec["clusterIP"].as_str().and_then(|ip| ip.parse::<IpAddr>().ok()));
        }
        let ports = list(&spec["ports"]).filter_map(|p| {
            Some(Port {
                name: text(&p["name"]).to_owned(),
                protocol: Protocol::of(&p["protocol"])?,
                port: port(&p["port"])?,
                node_port: port(&p["nodePort"]),
            })
        });
        let ingress = list(&status["loadBalancer"]["ingress"]).filter(|i| text(&i["ipMode"]) != "Proxy");
        let affinity = &spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
        let affinity = affinity
            .as_u64()
            .and_then(|s| u32::try_from(s).ok())
            .unwrap_or(AFFINITY);
        Self {
            headless: spec["clusterIP"] == "None",
            ports: ports.collect(),
            external: self::ips(&spec["externalIPs"]),
            ingress: ingress.filter_map(|i| text(&i["ip"]).parse().ok()).collect(),
            sources: list(&spec["loadBalancerSourceRanges"])
                .filter_map(|range| text(range).trim().parse().ok())
                .collect(),
            affinity: (spec["sessionAffinity"] == "ClientIP").then_some(affinity.max(1)),
            local_inside: spec["internalTrafficPolicy"] == "Local",
            local_outside: spec["externalTrafficPolicy"] == "Local",
            ips: if alias.is_some() { Vec::new() } else { ips },
            alias,
        }
    }
}

impl Slice {
    /// `None` for one that leads nowhere: of names, or of no Service.
    pub(super) fn read(object: &Value, node: &str) -> Option<Self> {
        let metadata = &object["metadata"];
        if object["addressType"] == "FQDN" {
            return None;
        }
        let ports = list(&object["ports"]).filter_map(|p| {
            Some((
                text(&p["name"]).to_owned(),
                Protocol::of(&p["protocol"])?,
                port(&p["port"])?,
            ))
        });
        let endpoints = list(&object["endpoints"]).filter_map(|e| {
            let conditions = &e["conditions"];
            let ready = conditions["ready"].as_bool().unwrap_or(true);
            let serving = conditions["serving"].as_bool().unwrap_or(ready);
            Some(Endpoint {
                // All addresses of one endpoint lead to the same.
                ip: text(e["addresses"].get(0)?).parse().ok()?,
                ready,
                draining: serving && conditions["terminating"] == true,
                local: e["nodeName"] == node,
                hostname: e["hostname"].as_str().map(str::to_owned),
            })
        });
        Some(Self {
            service: Key::new(text(&metadata["namespace"]), metadata["labels"][SERVICE_NAME].as_str()?),
            ports: ports.collect(),
            endpoints: endpoints.collect(),
        })
    }
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    services: BTreeMap<Key, Arc<Service>>,
    slices: BTreeMap<Key, Arc<Slice>>,
    pods: BTreeMap<Key, Arc<Vec<IpAddr>>>,
}

/// A port of a Service in one family: who is spoken to, and who answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// `namespace/name/protocol/port`.
    pub(super) name: String,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    /// Addresses inside the cluster.
    pub(super) inside: Vec<IpAddr>,
    /// Addresses that outsiders use.
    pub(super) external: Vec<IpAddr>,
    /// The same, for those from `sources` only where it names some.
    pub(super) ingress: Vec<IpAddr>,
    pub(super) sources: Vec<Cidr>,
    pub(super) node_port: Option<u16>,
    /// Who answers those from inside, and from outside.
    pub(super) to: Targets,
    pub(super) to_outside: Targets,
    /// Seconds for which a client stays with its endpoint.
    pub(super) affinity: Option<u32>,
    /// Endpoints on other machines.
    pub(super) elsewhere: Vec<IpAddr>,
}

/// Who answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Targets {
    /// In order, each once.
    pub(super) ends: Vec<SocketAddr>,
    /// There are some, but not where the policy allows: what is sent gets lost, so that whoever balances tries another machine.
    pub(super) not_here: bool,
}

impl Table {
    /// Takes in a Service; `None`: it is gone. Whether that changed anything.
    pub(super) fn service(&mut self, key: Key, service: Option<Service>) -> bool {
        replace(&mut self.services, key, service)
    }

    /// Takes in a slice.
    pub(super) fn slice(&mut self, key: Key, slice: Option<Slice>) -> bool {
        replace(&mut self.slices, key, slice)
    }

    /// Takes in a Pod's addresses; those of the machine's own network are none of its own.
    pub(super) fn pod(&mut self, key: Key, object: Option<&Value>) -> bool {
        let own = object.filter(|pod| pod["spec"]["hostNetwork"] != true);
        let ips = own.map(|pod| {
            list(&pod["status"]["podIPs"])
                .filter_map(|ip| text(&ip["ip"]).parse().ok())
                .collect()
        });
        replace(&mut self.pods, key, ips.filter(|ips: &Vec<_>| !ips.is_empty()))
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Service> {
        self.services.get(key).map(Arc::as_ref)
    }

    pub(super) fn services(&self) -> impl Iterator<Item = (&Key, &Service)> {
        self.services.iter().map(|(key, service)| (key, &**service))
    }

    /// Endpoints of a Service with the ports of their slice.
    pub(super) fn endpoints<'a>(
        &'a self,
        service: &'a Key,
    ) -> impl Iterator<Item = (&'a Endpoint, &'a [(String, Protocol, u16)])> {
        // A slice is named after its Service by most who make them, but need not be.
        self.slices
            .values()
            .filter(move |slice| slice.service == *service)
            .flat_map(|slice| slice.endpoints.iter().map(|e| (e, &*slice.ports)))
    }

    /// Whether an address is that of a pod.
    pub(super) fn has_pod(&self, ip: IpAddr) -> bool {
        self.pods.values().any(|ips| ips.contains(&ip))
    }

    /// Whether a Service leads new connections to an address.
    pub(super) fn leads_to(&self, ip: IpAddr) -> bool {
        let mut slices = self.slices.values();
        slices.any(|slice| slice.endpoints.iter().any(|e| e.ip == ip && e.ready))
    }

    /// What packets of one family are to be done with.
    pub(super) fn routes(&self, ipv6: bool) -> Vec<Route> {
        let mut of: BTreeMap<&Key, Vec<&Slice>> = BTreeMap::new();
        for slice in self.slices.values() {
            of.entry(&slice.service).or_default().push(slice);
        }
        let family =
            |ips: &[IpAddr]| -> Vec<IpAddr> { ips.iter().copied().filter(|ip| ip.is_ipv6() == ipv6).collect() };
        let mut routes = Vec::new();
        for (key, service) in &self.services {
            let inside = family(&service.ips);
            if inside.is_empty() {
                continue;
            }
            let slices = of.get(key).map_or(&[][..], Vec::as_slice);
            for port in &service.ports {
                let ends = ends(slices, port, ipv6);
                let mut elsewhere: Vec<_> = ends.iter().filter(|(e, _)| !e.local).map(|(e, _)| e.ip).collect();
                elsewhere.sort_unstable();
                elsewhere.dedup();
                routes.push(Route {
                    // A chain's name must not begin with a digit, as a namespace may.
                    name: format!("svc/{key}/{}/{}", port.protocol.name(), port.port),
                    protocol: port.protocol,
                    port: port.port,
                    inside: inside.clone(),
                    external: family(&service.external),
                    ingress: family(&service.ingress),
                    sources: service
                        .sources
                        .iter()
                        .copied()
                        .filter(|s| s.base().is_ipv6() == ipv6)
                        .collect(),
                    node_port: port.node_port,
                    to: targets(&ends, service.local_inside),
                    to_outside: targets(&ends, service.local_outside),
                    affinity: service.affinity,
                    elsewhere,
                });
            }
        }
        routes
    }
}

impl Route {
    /// Every place where it is spoken to, but ports of the machine: address, who answers, and who may come (empty: everybody).
    pub(super) fn fronts(&self) -> impl Iterator<Item = (IpAddr, &Targets, &[Cidr])> {
        let inside = self.inside.iter().map(|ip| (*ip, &self.to, &[][..]));
        let external = self.external.iter().map(|ip| (*ip, &self.to_outside, &[][..]));
        let ingress = self.ingress.iter().map(|ip| (*ip, &self.to_outside, &*self.sources));
        inside.chain(external).chain(ingress)
    }

    /// Whether what is spoken to is what answers: an address of this machine, where nothing needs to be done.
    pub(super) fn is_itself(&self, ip: IpAddr, targets: &Targets) -> bool {
        targets.ends == [SocketAddr::new(ip, self.port)]
    }
}

fn replace<T: PartialEq>(map: &mut BTreeMap<Key, Arc<T>>, key: Key, value: Option<T>) -> bool {
    match value {
        Some(value) if map.get(&key).is_some_and(|have| **have == value) => false,
        Some(value) => {
            map.insert(key, Arc::new(value));
            true
        }
        None => map.remove(&key).is_some(),
    }
}

/// The endpoints of a port.
fn ends<'a>(slices: &[&'a Slice], port: &Port, ipv6: bool) -> Vec<(&'a Endpoint, SocketAddr)> {
    let mut found = Vec::new();
    for slice in slices {
        let at = slice
            .ports
            .iter()
            .find(|(name, protocol, _)| *name == port.name && *protocol == port.protocol);
        let Some((_, _, at)) = at else { continue };
        let endpoints = slice.endpoints.iter().filter(|e| e.ip.is_ipv6() == ipv6);
        found.extend(endpoints.map(|e| (e, SocketAddr::new(e.ip, *at))));
    }
    found
}

/// Those that are ready; where none is, those that still answer while they go.
fn targets(ends: &[(&Endpoint, SocketAddr)], here: bool) -> Targets {
    let pick = |here: bool| {
        let wanted = |e: &Endpoint| !here || e.local;
        let of = |is: fn(&Endpoint) -> bool| -> Vec<SocketAddr> {
            let mut of: Vec<_> = ends
                .iter()
                .filter(|(e, _)| wanted(e) && is(e))
                .map(|(_, at)| *at)
                .collect();
            of.sort_unstable();
            of.dedup();
            of
        };
        let ready = of(|e| e.ready);
        if ready.is_empty() { of(|e| e.draining) } else { ready }
    };
    let found = pick(here);
    let not_here = here && found.is_empty() && !pick(false).is_empty();
    Targets { ends: found, not_here }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn ips(value: &Value) -> Vec<IpAddr> {
    list(value).filter_map(|ip| text(ip).parse().ok()).collect()
}

fn port(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0)
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    pub(in crate::network) const NODE: &str = "press";

    /// A table of these objects.
    pub(in crate::network) fn table(objects: &[Value]) -> Table {
        let mut table = Table::default();
        for object in objects {
            if object["kind"] == "Service" {
                table.service(Key::of(object), Some(Service::read(object)));
            } else {
                table.slice(Key::of(object), Slice::read(object, NODE));
            }
        }
        table
    }

    pub(in crate::network) fn service(name: &str, spec: Value) -> Value {
        json!({"kind": "Service", "metadata": {"name": name, "namespace": "line"}, "spec": spec})
    }

    /// A slice of one port, with endpoints of the form `address` or `address!what`: n(ot ready), t(erminating), e(lsewhere).
    pub(in crate::network) fn slice(service: &str, port: Value, endpoints: &[&str]) -> Value {
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|text| {
                let (ip, how) = text.split_once('!').unwrap_or((text, ""));
                let terminating = how.contains('t');
                let ready = !how.contains('n') && !terminating;
                json!({"addresses": [ip], "nodeName": if how.contains('e') { "other" } else { NODE },
                    "conditions": {"ready": ready, "serving": !how.contains('n'), "terminating": terminating}})
            })
            .collect();
        json!({"kind": "EndpointSlice", "addressType": "IPv4", "ports": [port], "endpoints": endpoints,
            "metadata": {"name": format!("{service}-x"), "namespace": "line", "labels": {SERVICE_NAME: service}}})
    }

    fn ends(targets: &Targets) -> Vec<String> {
        targets.ends.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn ready_endpoints_answer_and_those_that_go_only_alone() {
        let spec = json!({"clusterIP": "10.43.0.5", "ports": [{"port": 80, "name": "http"}]});
        let route = |endpoints: &[&str]| {
            let table = table(&[
                service("web", spec.clone()),
                slice("web", json!({"name": "http", "port": 8080}), endpoints),
            ]);
            table.routes(false).remove(0)
        };
        let both = route(&["10.42.0.3", "10.42.0.2", "10.42.0.9!n", "10.42.0.4!t"]);
        assert_eq!(both.name, "svc/line/web/tcp/80");
        assert_eq!(ends(&both.to), ["10.42.0.2:8080", "10.42.0.3:8080"]);
        assert_eq!(ends(&route(&["10.42.0.9!n", "10.42.0.4!t"]).to), ["10.42.0.4:8080"]);
        assert_eq!(route(&["10.42.0.9!n"]).to, Targets::default());
        assert!(route(&["10.42.0.2", "10.42.0.3"]).elsewhere.is_empty());
    }

    #[test]
    fn local_policies_leave_out_other_machines() {
        let spec = json!({"clusterIP": "10.43.0.5", "type": "NodePort", "externalTrafficPolicy": "Local",
            "ports": [{"port": 80, "nodePort": 30080}]});
        let routes = |endpoints: &[&str]| {
            table(&[
                service("web", spec.clone()),
                slice("web", json!({"name": "", "port": 80}), endpoints),
            ])
            .routes(false)
        };
        let found = routes(&["10.42.0.2", "10.9.0.1!e"]);
        assert_eq!(ends(&found[0].to), ["10.9.0.1:80", "10.42.0.2:80"]);
        assert_eq!(ends(&found[0].to_outside), ["10.42.0.2:80"]);
        assert_eq!(found[0].elsewhere, ["10.9.0.1".parse::<IpAddr>().unwrap()]);
        assert!(routes(&["10.9.0.1!e"])[0].to_outside.not_here);
        assert!(!routes(&[])[0].to_outside.not_here);
    }

    #[test]
    fn families_ports_and_aliases_are_told_apart() {
        let spec = json!({"clusterIP": "10.43.0.5", "clusterIPs": ["10.43.0.5", "fd00::5"],
            "sessionAffinity": "ClientIP", "ports": [
            {"port": 53, "protocol": "UDP", "name": "dns"}, {"port": 53, "protocol": "TCP", "name": "dns-tcp"}]});
        let mut objects = vec![
            service("dns", spec),
            slice(
                "dns",
                json!({"name": "dns", "protocol": "UDP", "port": 53}),
                &["10.42.0.2"],
            ),
            service("none", json!({"clusterIP": "None", "ports": [{"port": 1}]})),
            service(
                "alias",
                json!({"type": "ExternalName", "externalName": "x.example", "clusterIP": "1.2.3.4"}),
            ),
        ];
        let table = table(&objects);
        let routes = table.routes(false);
        assert_eq!(routes.len(), 2);
        assert_eq!((routes[0].affinity, ends(&routes[0].to).len()), (Some(AFFINITY), 1));
        assert_eq!(routes[1].to, Targets::default());
        let six = table.routes(true);
        assert_eq!((six.len(), six[0].to.ends.len()), (2, 0));
        let alias = table.get(&Key::new("line", "alias")).unwrap();
        assert_eq!(alias.alias.as_deref(), Some("x.example"));
        // The same again changes nothing.
        let mut again = table.clone();
        let same = objects.remove(0);
        assert!(!again.service(Key::of(&same), Some(Service::read(&same))));
        assert!(again.service(Key::of(&same), None) && !again.service(Key::of(&same), None));
        let pod = json!({"metadata": {"name": "a", "namespace": "line"}, "status": {"podIPs": [{"ip": "10.9.0.1"}]}});
        assert!(again.pod(Key::of(&pod), Some(&pod)) && !again.pod(Key::of(&pod), Some(&pod)));
        assert!(again.has_pod("10.9.0.1".parse().unwrap()) && !again.has_pod("10.9.0.2".parse().unwrap()));
        let mut host = pod.clone();
        host["spec"]["hostNetwork"] = true.into();
        assert!(again.pod(Key::of(&host), Some(&host)) && !again.has_pod("10.9.0.1".parse().unwrap()));
    }
}
