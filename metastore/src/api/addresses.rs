//! What Services are given: addresses inside the cluster, and ports of the nodes. What is taken is read from the Services in the store when
//! something has to be given, and kept nowhere else; whoever gives holds the turn from that look to the commit.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::Deserialize;

use super::faults::{masked, parse_cidr};
use super::status::Status;
use super::write::store_status;
use crate::store::{ListOptions, ObjectKey, Scope, Store};

/// The ports of nodes that are given to Services.
const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;
/// So many of them at the low end are left for those who ask for a certain one.
const ASKED_PORTS: u16 = 86;

/// The addresses that Services of one family are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceRange {
    base: IpAddr,
    length: u8,
}

/// Why a range cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Not of the form `10.96.0.0/16`.
    #[error("a range of addresses is an address and the length of its prefix, like 10.96.0.0/16")]
    Form,
    /// Fewer than a handful of addresses.
    #[error("the range has too few addresses: its prefix may leave no fewer than 3 bits")]
    Small,
}

impl FromStr for ServiceRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let (address, length) = parse_cidr(text).ok_or(RangeError::Form)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        if bits - length < 3 {
            return Err(RangeError::Small);
        }
        Ok(Self {
            base: masked(address, length),
            length,
        })
    }
}

impl Default for ServiceRange {
    fn default() -> Self {
        Self {
            base: Ipv4Addr::new(10, 96, 0, 0).into(),
            length: 16,
        }
    }
}

impl ServiceRange {
    /// The family of its addresses, as Services say it.
    pub(crate) const fn family(self) -> &'static str {
        family(self.base)
    }

    /// Its first address, which is the API's own.
    pub(crate) fn first(self) -> IpAddr {
        self.nth(1)
    }

    /// How many addresses it has, in so far as they are counted.
    fn size(self) -> u128 {
        const MOST: u32 = 64;
        let bits = if self.base.is_ipv4() { 32 } else { 128 };
        1 << (bits - u32::from(self.length)).min(MOST)
    }

    /// The places of addresses that can be given: not the network itself, nor what means everybody.
    fn places(self) -> RangeInclusive<u128> {
        let last = self.size() - 1;
        1..=if self.base.is_ipv4() { last - 1 } else { last }
    }

    fn nth(self, place: u128) -> IpAddr {
        match self.base {
            IpAddr::V4(v4) => {
                let place = u32::try_from(place).unwrap_or(0);
                Ipv4Addr::from_bits(v4.to_bits().wrapping_add(place)).into()
            }
            IpAddr::V6(v6) => std::net::Ipv6Addr::from_bits(v6.to_bits().wrapping_add(place)).into(),
        }
    }

    /// Whether an address is one that it gives.
    fn gives(self, ip: IpAddr) -> bool {
        if ip.is_ipv4() != self.base.is_ipv4() || masked(ip, self.length) != self.base {
            return false;
        }
        ip != self.nth(0) && (ip.is_ipv6() || ip != self.nth(self.size() - 1))
    }

    /// So many at the low end are left for those who ask for a certain one.
    fn asked(self) -> u128 {
        (self.size() / 16).clamp(16, 256).min(self.size() / 2)
    }
}

/// The family of an address, as Services say it.
pub(crate) const fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Why something asked for is not given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Not of those that are given.
    Outside,
    /// Another Service has it.
    Taken,
}

impl Refusal {
    pub(crate) const fn why(&self) -> &'static str {
        match self {
            Self::Outside => "the provided value is not in the valid range",
            Self::Taken => "the provided value is already allocated",
        }
    }
}

/// Gives to one Service.
pub(crate) struct Giver<'a> {
    store: &'a Store,
    ranges: &'a [ServiceRange],
    /// Who it is for: what it has is not taken.
    who: ObjectKey,
    taken: Option<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    ips: BTreeSet<IpAddr>,
    ports: BTreeSet<u16>,
}

/// The part of a Service that says what it was given.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Held {
    spec: HeldSpec,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct HeldSpec {
    #[serde(rename = "clusterIPs")]
    ips: Vec<String>,
    #[serde(rename = "clusterIP")]
    ip: String,
    ports: Vec<HeldPort>,
    health_check_node_port: u32,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct HeldPort {
    node_port: u32,
}

impl<'a> Giver<'a> {
    pub(crate) const fn new(store: &'a Store, ranges: &'a [ServiceRange], who: ObjectKey) -> Self {
        Self {
            store,
            ranges,
            who,
            taken: None,
        }
    }

    /// The families that are given, the preferred one first.
    pub(crate) fn families(&self) -> impl Iterator<Item = &'static str> {
        self.ranges.iter().map(|r| r.family())
    }

    fn range(&self, family: &str) -> Option<ServiceRange> {
        self.ranges.iter().find(|r| r.family() == family).copied()
    }

    /// What the other Services have.
    fn taken(&mut self) -> Result<&mut Taken, Status> {
        if self.taken.is_none() {
            let mut taken = Taken::default();
            let scope = Scope::all(self.who.group.clone(), self.who.resource.clone());
            let listed = self.store.list(&scope, ListOptions::default()).map_err(store_status)?;
            for object in listed.items.iter().filter(|o| o.key != self.who) {
                let Ok(held) = serde_json::from_slice::<Held>(&object.json) else {
                    continue;
                };
                let spec = held.spec;
                let ips = spec.ips.iter().chain([&spec.ip]);
                taken.ips.extend(ips.filter_map(|ip| ip.parse::<IpAddr>().ok()));
                let ports = spec.ports.iter().map(|p| p.node_port);
                let ports = ports.chain([spec.health_check_node_port]);
                taken
                    .ports
                    .extend(ports.filter(|p| *p != 0).filter_map(|p| u16::try_from(p).ok()));
            }
            self.taken = Some(taken);
        }
        self.taken
            .as_mut()
            .ok_or_else(|| Status::internal("what Services have is not known"))
    }

    /// Gives a certain address.
    pub(crate) fn this_ip(&mut self, ip: IpAddr) -> Result<Result<(), Refusal>, Status> {
        if !self.range(family(ip)).is_some_and(|r| r.gives(ip)) {
            return Ok(Err(Refusal::Outside));
        }
        Ok(if self.taken()?.ips.insert(ip) {
            Ok(())
        } else {
            Err(Refusal::Taken)
        })
    }

    /// Gives any address of a family.
    pub(crate) fn any_ip(&mut self, family: &str) -> Result<IpAddr, Status> {
        let full = || Status::internal("failed to allocate a serviceIP: range is full");
        let range = self.range(family).ok_or_else(full)?;
        let taken = &mut self.taken()?.ips;
        let (first, last) = range.places().into_inner();
        let low = range.asked().clamp(first, last);
        let start = low + u128::from(fastrand::u64(..)) % (last - low + 1);
        // Every step but the last meets an address that is taken.
        let found = (start..=last)
            .chain(low..start)
            .chain(first..low)
            .map(|place| range.nth(place))
            .find(|ip| !taken.contains(ip))
            .ok_or_else(full)?;
        taken.insert(found);
        Ok(found)
    }

    /// Gives a certain port.
    pub(crate) fn this_port(&mut self, port: i64) -> Result<Result<(), Refusal>, Status> {
        let Some(port) = u16::try_from(port).ok().filter(|p| NODE_PORTS.contains(p)) else {
            return Ok(Err(Refusal::Outside));
        };
        Ok(if self.taken()?.ports.insert(port) {
            Ok(())
        } else {
            Err(Refusal::Taken)
        })
    }

    /// Gives any port. `own`: ports that this Service asks for or has.
    pub(crate) fn any_port(&mut self, own: &BTreeSet<i64>) -> Result<u16, Status> {
        let taken = &mut self.taken()?.ports;
        let (first, last) = NODE_PORTS.into_inner();
        let low = first + ASKED_PORTS;
        let start = fastrand::u16(low..=last);
        let found = (start..=last)
            .chain(low..start)
            .chain(first..low)
            .find(|p| !taken.contains(p) && !own.contains(&i64::from(*p)))
            .ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))?;
        taken.insert(found);
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> ServiceRange {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_gives_what_is_in_it_but_its_ends() {
        let small = range("10.0.0.9/29");
        assert_eq!(small.first().to_string(), "10.0.0.9");
        for (ip, gives) in [
            ("10.0.0.8", false),
            ("10.0.0.9", true),
            ("10.0.0.14", true),
            ("10.0.0.15", false),
            ("10.0.0.16", false),
            ("fd00::1", false),
        ] {
            assert_eq!(small.gives(ip.parse().unwrap()), gives, "{ip}");
        }
        let six = range("fd00::/108");
        assert_eq!(six.family(), "IPv6");
        assert!(six.gives("fd00::f:ffff".parse().unwrap()) && !six.gives("fd00::".parse().unwrap()));
        assert_eq!(range("::/0").places(), 1..=u128::from(u64::MAX));
        assert_eq!("10.0.0.0/30".parse::<ServiceRange>(), Err(RangeError::Small));
        assert_eq!("10.0.0.0".parse::<ServiceRange>(), Err(RangeError::Form));
        assert_eq!(ServiceRange::default().first().to_string(), "10.96.0.1");
    }
}
