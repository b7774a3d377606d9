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
use crate::catalog::step::{compatible, is_shapeless};

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
        let Some(host) = url.host().map(|host| host.to_owned()) else { return Err(Unclear("the argument is a URL without a host")) };
        let port = url.port_or_known_default();
        let is_port = self.ports.is_empty() || port.is_some_and(|port| self.ports.contains(&port));
        let covers = |host: &Host<String>| Ok(self.hosts.iter().any(|pattern| pattern.covers(host)) && is_port);
        agreed(led_to(plain(host))?.iter().map(covers))
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
                None => {
                    let covers = |host: &Host<String>| match host {
                        Host::Ipv4(address) => Ok(self.covers((*address).into())),
                        Host::Ipv6(address) => Ok(self.covers((*address).into())),
                        Host::Domain(_) => unknown(),
                    };
                    agreed(led_to(Host::Ipv6(address))?.iter().map(covers))
                }
            },
        }
    }

    fn covers(&self, address: IpAddr) -> bool {
        self.nets.iter().any(|net| net.contains(&address))
    }
}

/// The hosts that a packet for this one may end at: tunnels and translators, where they are in use, lead from an address to the one inside.
fn led_to(host: Host<String>) -> Result<Vec<Host<String>>, Unclear> {
    let Host::Ipv6(address) = host else { return Ok(vec![host]) };
    match inside(address)? {
        Some(inside) => Ok(vec![Host::Ipv6(address), Host::Ipv4(inside)]),
        None => Ok(vec![Host::Ipv6(address)]),
    }
}

/// The IPv4 address within an IPv6 address of 6to4 (RFC 3056), NAT64 (RFC 6052) or the old compatible form (RFC 4291, 2.5.5.1).
///
/// # Errors
/// For forms whose inner address hangs on the network: local NAT64 (RFC 8215), SIIT (RFC 2765), Teredo (RFC 4380), ISATAP (RFC 5214, 6.1).
fn inside(address: Ipv6Addr) -> Result<Option<Ipv4Addr>, Unclear> {
    let octets = address.octets();
    let four = |at: usize| octets.get(at..at + 4).and_then(|four| <[u8; 4]>::try_from(four).ok()).map(Ipv4Addr::from);
    Ok(match address.segments() {
        [0x64, 0xff9b, 1, ..] | [0, 0, 0, 0, 0xffff, 0, _, _] | [0x2001, 0, ..] | [_, _, _, _, 0 | 0x200, 0x5efe, _, _] => {
            return Err(Unclear("the argument is an address of a tunnel or a translator"));
        }
        [0x2002, ..] => four(2),
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] => four(12),
        // `::` and `::1` are themselves.
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 || low > 1 => four(12),
        _ => None,
    })
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
    let host = Host::parse(text).map_err(|_| Unclear("the argument is neither an address nor a host"))?;
    if is_name(&host) { Ok(host) } else { Err(Unclear("the argument is neither an address nor a host")) }
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
    let is_name = url.host().is_some_and(|host| is_name(&host));
    if same && is_name && !is_read_otherwise(host) { Ok(url) } else { Err(Unclear("the argument can be read in more than one way")) }
}

/// Whether a host that is no address is made of labels of letters, digits, `-` and `_` (RFC 952, RFC 2181 section 11): what else the library lets
/// stand ends the host for other readers, or means something to a shell.
fn is_name<S: AsRef<str>>(host: &Host<S>) -> bool {
    let Host::Domain(domain) = host else { return true };
    let domain = domain.as_ref();
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    domain.strip_suffix('.').unwrap_or(domain).split('.').all(is_label)
}

/// Whether readers of hosts differ: a number with a zero in front is octal to some and decimal to others, in digits of any script; the two
/// standards of IDNA have some letters for others, and one leaves out letters without a shape.
fn is_read_otherwise(host: &str) -> bool {
    let octal = |part: &str| part.len() > 1 && part.starts_with('0') && part.bytes().all(|byte| byte.is_ascii_digit());
    let digits = || if host.is_ascii() { host.to_owned() } else { compatible(host) };
    digits().split(['.', '。', '｡', '．']).any(octal) || host.contains(['ß', 'ẞ', 'ς']) || host.chars().any(is_shapeless)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::condition::word;

    fn hosts(hosts: &[&str]) -> Hosts {
        Hosts::new(&hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>(), None, &[]).unwrap()
    }

    #[test]
    fn an_address_within_another_gets_no_no() {
        let denied = hosts(&["169.254.169.254"]);
        let nets = Nets::new(&["169.254.0.0/16".to_owned()], Some(false)).unwrap();
        for address in [
            "169.254.169.254",
            "[::ffff:169.254.169.254]",
            "[::169.254.169.254]",
            "[64:ff9b::a9fe:a9fe]",
            "[2002:a9fe:a9fe::]",
            "[64:ff9b:1::a9fe:a9fe]",
            "[::ffff:0:a9fe:a9fe]",
            "[2001:0:0:0:0:0:5601:5601]",
            "[fe80::5efe:169.254.169.254]",
            "[fe80::200:5efe:169.254.169.254]",
            "2852039166",
            "0xa9fea9fe",
        ] {
            assert_ne!(denied.contain(&format!("http://{address}/latest")), Ok(false), "{address}");
            assert_ne!(nets.contain(&format!("http://{address}/latest")), Ok(false), "{address}");
            assert_ne!(nets.contain(address), Ok(false), "{address}");
        }
        for address in ["8.8.8.8", "[2606:2800:220:1::1]", "[fe80::1]", "[::1]"] {
            assert_eq!(denied.contain(&format!("http://{address}/")), Ok(false), "{address}");
            assert_eq!(nets.contain(address), Ok(false), "{address}");
        }
    }

    #[test]
    fn a_host_has_labels_of_letters_and_digits_only() {
        let files = hosts(&["api.example.com", "*.files.example.com"]);
        for mark in [
            "evil.com;",
            "evil.com,x",
            "evil.com&x",
            "$(id)",
            "`id`",
            "evil.com'",
            "evil.com!",
            "evil.com=",
            "evil.com*",
            "evil.com(",
            "evil.com{",
            "evil.com\"",
            "evil.com|",
            "a..b",
            "",
            "evil.com\u{2100}",
            "evil.com\u{37e}",
            "a\u{fe0f}",
            "a\u{34f}",
        ] {
            let url = format!("https://{mark}.files.example.com");
            assert_eq!(word(files.contain(&url)), "error", "{url}");
        }
        for url in ["https://api.example.com..", "https://api.example.com\u{fe0f}/", "https://ap\u{34f}i.example.com/"] {
            assert_eq!(word(files.contain(url)), "error", "{url}");
        }
        for url in [
            "https://a-b_c.files.example.com",
            "https://api.example.com.",
            "https://127.0.0.1.files.example.com",
            "https://Ä.files.example.com",
        ] {
            assert_eq!(files.contain(url), Ok(true), "{url}");
        }
    }

    #[test]
    fn a_zero_in_front_is_octal_in_every_script() {
        let nets = Nets::new(&["8.0.0.0/8".to_owned(), "177.0.0.0/8".to_owned()], Some(false)).unwrap();
        for address in
            ["0177.0.0.1", "177.0.0.08", "8.8.8.0\u{ff10}7", "8.8.8.0\u{ff17}", "\u{ff10}177.0.0.1", "8.8.8\u{3002}07", "127.0.0.1.."]
        {
            assert!(nets.contain(address).is_err(), "{address}");
        }
        for address in ["8.8.8.8", "\u{ff11}77.0.0.1", "8.8.8.8.", "8.8.8.0"] {
            assert_eq!(nets.contain(address), Ok(true), "{address}");
        }
    }
}
