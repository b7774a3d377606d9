//! How far out an address lies: whoever names a place to us must not lead us further in than it stands itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// From where an address can be reached, the narrowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// This machine, or what is plugged into the same wire; where clouds keep the machine's own credentials too.
    Machine,
    /// The networks of an organisation.
    Network,
    /// Everywhere.
    World,
}

impl Reach {
    /// Of an address, an IPv4 one in the clothes of IPv6 too.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::of_v4(address),
            IpAddr::V6(address) => embedded(address).map_or_else(|| Self::of_v6(address), Self::of_v4),
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        let [one, two, three, _] = address.octets();
        match (one, two, three) {
            (0 | 127, ..) | (169, 254, _) | (224..=255, ..) => Self::Machine,
            // RFC 1918; shared by carriers (RFC 6598); special and for benchmarks (RFC 6890).
            (10, ..) | (172, 16..=31, _) | (192, 168, _) | (100, 64..=127, _) | (192, 0, 0) | (198, 18 | 19, _) => Self::Network,
            _ => Self::World,
        }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        match address.segments() {
            [0, 0, 0, 0, 0, 0, 0, 0 | 1] | [0xfe80..=0xfebf, ..] | [0xff00..=0xffff, ..] => Self::Machine,
            // Unique local (RFC 4193), and the site-local ones of before.
            [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Self::Network,
            _ => Self::World,
        }
    }
}

/// The IPv4 address that an IPv6 one stands for: mapped, translated (RFC 6052), or by a tunnel (RFC 3056).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let of = |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => of(high, low),
        // Compatible ones, long given up; `::` and `::1` are none.
        [0, 0, 0, 0, 0, 0, high, low] if high > 0 => of(high, low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lie_where_their_ranges_are_assigned() {
        let of = |address: &str| Reach::of(address.parse().unwrap());
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "::127.0.0.1",
        ] {
            assert_eq!(of(address), Reach::Machine, "{address}");
        }
        for address in [
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "198.18.0.1",
            "192.0.0.8",
            "fd00::1",
            "fec0::1",
            "::ffff:10.1.2.3",
        ] {
            assert_eq!(of(address), Reach::Network, "{address}");
        }
        for address in ["1.1.1.1", "172.32.0.1", "100.63.0.1", "192.0.2.1", "198.20.0.1", "2606:4700::1111", "::ffff:8.8.8.8"] {
            assert_eq!(of(address), Reach::World, "{address}");
        }
        assert!(Reach::Machine < Reach::Network && Reach::Network < Reach::World);
    }
}
