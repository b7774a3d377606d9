//! Hosts and addresses: whether a URL leads to one of some hosts, and whether an address is within some networks.
//!
//! A URL is read as browsers read it (WHATWG, by `url`), and refused an answer where other readers differ: user names, backslashes, spaces,
//! control characters, percent codes in the host. Names are compared in ASCII (IDNA), addresses in any of their odd forms (`0x7f.1`,
//! `2130706433`, IPv6 with an IPv4 address inside).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use url::{Host, Url};

use super::value::agreed;
use super::{Truth, Unclear};

/// Longest URL, in bytes.
const MAX_BYTES: usize = 8 << 10;

/// Hosts that a URL may lead to.
#[derive(Debug)]
pub(super) struct Hosts {
    hosts: Box<[HostPattern]>,
    schemes: Box<[Box<str>]>,
    /// Any where there are none.
    ports: Box<[u16]>,
}

#[derive(Debug)]
enum HostPattern {
    /// This host.
    One(Host<String>),
    /// `*.NAME`: every host under this name, and not the name itself. With the dot.
    Under(String),
}

impl Hosts {
    /// The hosts of a file; without schemes, `http` and `https`.
    ///
    /// # Errors
    /// What is wrong with one.
    pub fn new(hosts: &[String], schemes: Option<&[String]>, ports: &[u16]) -> Result<Self, String> {
        let pattern = |text: &String| {
            let told = || {
                format!("`{}` is not a host: write `api.example.com`, `*.example.com` or an address, without a port", text.escape_default())
            };
            let (name, under) = text.strip_prefix("*.").map_or((text.as_str(), false), |name| (name, true));
            match (Host::parse(name).map_err(|_| told())?, under) {
                (Host::Domain(domain), _) if domain.contains('*') || domain.ends_with('.') || domain.is_empty() => Err(told()),
                (Host::Domain(domain), true) => Ok(HostPattern::Under(format!(".{domain}"))),
                (_, true) => Err(told()),
                (host, false) => Ok(HostPattern::One(plain(host))),
            }
        };
        let schemes = schemes.map_or_else(|| vec!["http".to_owned(), "https".to_owned()], <[String]>::to_vec);
        if let Some(odd) = schemes.iter().find(|scheme| !matches!(scheme.as_str(), "http" | "https" | "ws" | "wss" | "ftp")) {
            return Err(format!("`{}` is not a scheme with a host: write `https`, `http`, `wss`, `ws` or `ftp`", odd.escape_default()));
        }
        Ok(Self {
            hosts: hosts.iter().map(pattern).collect::<Result<_, _>>()?,
            schemes: schemes.iter().map(|scheme| scheme.as_str().into()).collect(),
            ports: ports.into(),
        })
    }

    /// Whether the URL leads to one of them.
    pub fn contain(&self, url: &str) -> Truth {
        let url = read(url)?;
        if !self.schemes.iter().any(|scheme| **scheme == *url.scheme()) {
            return Err(Unclear("the argument is a URL of another scheme"));
        }
        let Some(host) = url.host().map(|host| plain(host.to_owned())) else { return Err(Unclear("the argument is a URL without a host")) };
        let port = url.port_or_known_default();
        Ok(self.hosts.iter().any(|pattern| pattern.covers(&host))
            && (self.ports.is_empty() || port.is_some_and(|port| self.ports.contains(&port))))
    }
}

impl HostPattern {
    fn covers(&self, host: &Host<String>) -> bool {
        match (self, host) {
            (Self::One(one), host) => one == host,
            (Self::Under(name), Host::Domain(domain)) => domain.len() > name.len() && domain.ends_with(name.as_str()),
            (Self::Under(_), _) => false,
        }
    }
}

/// A host in one form only: without the dot at its end, and an IPv4 address out of its IPv6 form.
fn plain(host: Host<String>) -> Host<String> {
    match host {
        Host::Domain(domain) => Host::Domain(domain.strip_suffix('.').map_or(domain.clone(), str::to_owned)),
        Host::Ipv6(address) => address.to_ipv4_mapped().map_or(Host::Ipv6(address), Host::Ipv4),
        other => other,
    }
}

/// Networks that an address may be within.
#[derive(Debug)]
pub(super) struct Nets {
    nets: Box<[IpNet]>,
    /// The answer for a name, whose address nobody here knows; without one there is no answer.
    names: Option<bool>,
}

impl Nets {
    /// The networks of a file.
    ///
    /// # Errors
    /// What is wrong with one.
    pub fn new(nets: &[String], names: Option<bool>) -> Result<Self, String> {
        let net = |text: &String| {
            let net = text.parse::<IpNet>().or_else(|error| text.parse::<IpAddr>().map(IpNet::from).map_err(|_| error));
            let told = || format!("`{}` is not a network: write `10.0.0.0/8` or `fd00::/8`", text.escape_default());
            let net = net.map_err(|_| told())?;
            if net.trunc() != net {
                return Err(format!("`{}` has bits behind its length: write `{}`", text.escape_default(), net.trunc()));
            }
            Ok(net)
        };
        Ok(Self { nets: nets.iter().map(net).collect::<Result<_, _>>()?, names })
    }

    /// Whether the address is within one of them, or the address of a URL.
    pub fn contain(&self, text: &str) -> Truth {
        let host = if text.contains("://") {
            read(text)?.host().map(|host| host.to_owned()).ok_or(Unclear("the argument is a URL without a host"))?
        } else {
            bare(text)?
        };
        let unknown = || self.names.ok_or(Unclear("the argument is a name, whose address is not known"));
        match host {
            Host::Domain(_) => unknown(),
            Host::Ipv4(address) => Ok(self.covers(address.into())),
            Host::Ipv6(address) => match address.to_ipv4_mapped() {
                Some(inside) => Ok(self.covers(inside.into()) || self.covers(address.into())),
                // Tunnels and translators lead from such an address to the one inside, where they are in use.
                None => agreed(
                    [Some(address.into()), inside(address).map(IpAddr::from)].into_iter().flatten().map(|address| Ok(self.covers(address))),
                ),
            },
        }
    }

    fn covers(&self, address: IpAddr) -> bool {
        self.nets.iter().any(|net| net.contains(&address))
    }
}

/// The IPv4 address within an IPv6 address of 6to4 (RFC 3056), NAT64 (RFC 6052) or the old compatible form (RFC 4291, 2.5.5.1).
fn inside(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let octets = address.octets();
    let four = |at: usize| octets.get(at..at + 4).and_then(|four| <[u8; 4]>::try_from(four).ok()).map(Ipv4Addr::from);
    match address.segments() {
        [0x2002, ..] => four(2),
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] => four(12),
        // `::` and `::1` are themselves.
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 || low > 1 => four(12),
        _ => None,
    }
}

/// A host that stands alone, an IPv6 address with or without its brackets.
fn bare(text: &str) -> Result<Host<String>, Unclear> {
    check(text)?;
    if let Ok(address) = text.parse::<Ipv6Addr>() {
        return Ok(Host::Ipv6(address));
    }
    if text.contains([':', '/', '?', '#', '@', '%']) && !text.starts_with('[') || is_read_otherwise(text) {
        return Err(Unclear("the argument is neither an address nor a host"));
    }
    Host::parse(text).map_err(|_| Unclear("the argument is neither an address nor a host"))
}

/// The URL, where all readers agree on it.
fn read(text: &str) -> Result<Url, Unclear> {
    check(text)?;
    let (_, rest) = text.split_once("://").ok_or(Unclear("the argument is no absolute URL"))?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() {
        return Err(Unclear("the argument is a URL without a host"));
    }
    if authority.contains('@') {
        return Err(Unclear("the argument is a URL with a user name"));
    }
    if authority.contains('%') {
        return Err(Unclear("the argument is a URL with percent codes in its host"));
    }
    let url = Url::parse(text).map_err(|_| Unclear("the argument is no URL"))?;
    // What the library took for the scheme must stand where every reader looks for it.
    let scheme = text.get(..url.scheme().len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(url.scheme()));
    let same = scheme && text.get(url.scheme().len()..).is_some_and(|rest| rest.starts_with("://"));
    let host = authority.rsplit_once(':').map_or(authority, |(host, port)| if port.ends_with(']') { authority } else { host });
    if same && !is_read_otherwise(host) { Ok(url) } else { Err(Unclear("the argument can be read in more than one way")) }
}

/// Whether readers of hosts differ: a number with a zero in front is octal to some and decimal to others, and the two standards of IDNA
/// have some letters for others.
fn is_read_otherwise(host: &str) -> bool {
    let octal = |part: &str| part.len() > 1 && part.starts_with('0') && part.bytes().all(|byte| byte.is_ascii_digit());
    host.split('.').any(octal) || host.contains(['ß', 'ẞ', 'ς'])
}

fn check(text: &str) -> Result<(), Unclear> {
    if text.len() > MAX_BYTES {
        return Err(Unclear("the argument is longer than a URL can be"));
    }
    let odd = |letter: char| {
        letter.is_control()
            || letter.is_whitespace()
            || matches!(letter, '\\' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{ad}')
    };
    if text.chars().any(odd) { Err(Unclear("the argument has a character that no URL should have")) } else { Ok(()) }
}
