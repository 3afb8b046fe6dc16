//! Ranges of addresses, as settings name them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range of addresses: `10.43.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: IpAddr,
    length: u8,
}

/// The text is no range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no range of addresses like 10.42.0.0/24")]
pub struct CidrError(String);

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let refused = || CidrError(text.chars().take(64).collect());
        let (address, length) = text.split_once('/').ok_or_else(refused)?;
        let address: IpAddr = address.parse().map_err(|_| refused())?;
        let length: u8 = length.parse().map_err(|_| refused())?;
        if length > bits(address) {
            return Err(refused());
        }
        Ok(Self {
            base: masked(address, length),
            length,
        })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.length)
    }
}

impl Cidr {
    /// Its first address, which names the range itself.
    pub const fn base(self) -> IpAddr {
        self.base
    }

    /// Bits of its prefix.
    pub const fn length(self) -> u8 {
        self.length
    }

    /// Whether an address is in it.
    pub fn contains(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.base.is_ipv4() && masked(ip, self.length) == self.base
    }

    /// The address at a place, if there is one.
    pub fn nth(self, place: u32) -> Option<IpAddr> {
        let ip = match self.base {
            IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits().checked_add(place)?).into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().checked_add(place.into())?).into(),
        };
        self.contains(ip).then_some(ip)
    }
}

const fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn masked(ip: IpAddr, length: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_know_their_addresses() {
        let range: Cidr = "10.43.7.9/16".parse().unwrap();
        assert_eq!(range.to_string(), "10.43.0.0/16");
        assert!(range.contains("10.43.255.255".parse().unwrap()));
        assert!(!range.contains("10.44.0.0".parse().unwrap()) && !range.contains("fd00::1".parse().unwrap()));
        assert_eq!(range.nth(10), "10.43.0.10".parse().ok());
        let all: Cidr = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("1.2.3.4".parse().unwrap()));
        let small: Cidr = "fd00::/125".parse().unwrap();
        assert_eq!((small.nth(7).is_some(), small.nth(8)), (true, None));
        for wrong in ["", "10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/-1"] {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
        }
    }
}
