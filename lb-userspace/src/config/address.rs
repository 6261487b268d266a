//! Addresses with ports, as listeners and backends have them, and prefixes.

use std::{fmt, net::IpAddr, ops::RangeInclusive};

use lb_common::{
    Address as _,
    address::{V4, V6},
};

use super::{
    error::Invalid,
    shape::Scalar,
    values::{self, Parsed},
};

/// An IP family. A service has one, since no packet changes it on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(super) const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// An address with its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) ip: IpAddr,
    pub(super) ports: Ports,
}

/// What may stand behind the colon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ports {
    /// `203.0.113.10`
    Unspecified,
    /// `203.0.113.10:80`
    One(u16),
    /// `203.0.113.10:8000-8099`
    Range(RangeInclusive<u16>),
    /// `203.0.113.10:*`
    Any,
}

/// `203.0.113.10:80`, `[2001:db8::10]:443`, with a range of ports or `*`; without a port also `2001:db8::10`.
pub(super) fn endpoint(value: &Scalar) -> Parsed<Endpoint> {
    const EXPECTED: &str = "expected address:port, like 10.0.0.1:80 or \"[2001:db8::10]:80\"";
    let text = values::text(value).map_err(|_| Invalid::new(format!("{value} is not an address"), EXPECTED))?;
    // All of `2001:db8::10:443` is an address: only brackets tell a port from its last group.
    if let Ok(ip) = text.parse() {
        let ports = Ports::Unspecified;
        return Ok(Endpoint { ip, ports });
    }
    if text.matches(':').count() > 1 && !text.starts_with('[') {
        let remedy = "write IPv6 addresses in brackets and quotes, like \"[2001:db8::10]:443\"";
        return Err(Invalid::new(format!("{value} has more than one colon"), remedy));
    }
    let (host, ports) = match text.rsplit_once(':') {
        // The colon of `[2001:db8::10]`, without a port.
        Some((_, after)) if after.ends_with(']') => (text, Ports::Unspecified),
        Some((host, "*")) => (host, Ports::Any),
        Some((host, ports)) => (host, parse_ports(ports, value)?),
        None => (text, Ports::Unspecified),
    };
    let address = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.parse().ok().filter(IpAddr::is_ipv6),
        None => host.parse().ok().filter(IpAddr::is_ipv4),
    };
    match address {
        Some(ip) => Ok(Endpoint { ip, ports }),
        None => Err(Invalid::new(format!("{host:?} is not an IP address"), EXPECTED)),
    }
}

/// One port or a range. Errors speak of `whole`, of which it is a part.
fn parse_ports(text: &str, whole: &Scalar) -> Parsed<Ports> {
    let of_whole = |Invalid { message, remedy }| Invalid::new(format!("{whole}: port {message}"), remedy);
    let ports = values::range(1..=u16::MAX)(&Scalar::Text(text.to_owned())).map_err(of_whole)?;
    Ok(if ports.start() == ports.end() && !text.contains('-') {
        Ports::One(*ports.start())
    } else {
        Ports::Range(ports)
    })
}

/// An address without a port.
pub(super) fn ip(value: &Scalar) -> Parsed<IpAddr> {
    let address = match value {
        Scalar::Text(text) => text.parse().ok(),
        _ => None,
    };
    address.ok_or_else(|| {
        Invalid::new(
            format!("{value} is not an IP address"),
            "expected an address without port, like 192.0.2.10",
        )
    })
}

/// A prefix, `10.0.0.0/8`, or a single address.
pub(super) fn prefix(value: &Scalar) -> Parsed<(IpAddr, u8)> {
    let parsed = match value {
        Scalar::Text(text) => match text.split_once('/') {
            Some((ip, length)) => ip.parse().ok().zip(length.parse().ok()),
            None => text
                .parse()
                .ok()
                .map(|ip: IpAddr| (ip, if ip.is_ipv4() { 32 } else { 128 })),
        },
        _ => None,
    };
    parsed
        .filter(|(ip, length): &(IpAddr, u8)| *length <= if ip.is_ipv4() { 32 } else { 128 })
        .ok_or_else(|| {
            Invalid::new(
                format!("{value} is not a prefix"),
                "expected address/length, like 10.0.0.0/8",
            )
        })
}

/// A server's name with a port, `app.internal:8080`.
pub(super) fn host_name(value: &Scalar) -> Parsed<()> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    let text = values::text(value)?;
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    if !port.is_empty() {
        parse_ports(port, value)?;
    }
    if host.len() <= 253 && host.trim_end_matches('.').split('.').all(label) {
        return Ok(());
    }
    Err(Invalid::new(
        format!("{value} is not a DNS name with a port"),
        "expected name:port, like app.internal:8080",
    ))
}

/// An endpoint as the file would have it.
pub(super) fn show_endpoint(ip: IpAddr, ports: impl fmt::Display) -> String {
    match ip {
        IpAddr::V4(ip) => format!("{ip}:{ports}"),
        IpAddr::V6(ip) => format!("\"[{ip}]:{ports}\""),
    }
}

/// Accepts what can be the address of one host: no loopback, multicast or broadcast, nor "this network", nor what is an address on
/// one link of a host only.
pub(super) fn unicast(ip: IpAddr) -> Parsed<IpAddr> {
    let valid = match ip {
        IpAddr::V4(v4) => V4::from(v4).is_valid_source(),
        IpAddr::V6(v6) => V6::from(v6).is_valid_source() && v6.to_ipv4_mapped().is_none(),
    };
    if valid {
        return Ok(ip);
    }
    Err(Invalid::new(
        format!("{ip} is {}", kind(ip)),
        "expected the unicast address of a host, like 10.0.0.1 or 2001:db8::1",
    ))
}

/// Accepts what clients anywhere can dial: unicast, and not confined to a link (RFC 3927, section 2.7).
pub(super) fn vip(ip: IpAddr) -> Parsed<IpAddr> {
    match unicast(ip)? {
        IpAddr::V4(v4) if v4.is_link_local() => Err(Invalid::new(
            format!("{ip} is {}", kind(ip)),
            "expected an address that routers forward to, like 203.0.113.10",
        )),
        ip => Ok(ip),
    }
}

/// What an address is that was refused.
const fn kind(ip: IpAddr) -> &'static str {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if ip.is_unspecified() {
        "the unspecified address"
    } else if ip.is_loopback() {
        "a loopback address"
    } else if ip.is_multicast() {
        "a multicast address"
    } else if link_local {
        "a link-local address"
    } else if matches!(ip, IpAddr::V4(v4) if v4.is_broadcast()) {
        "the broadcast address"
    } else if matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        "an IPv4 address in the form of an IPv6 one"
    } else {
        "a reserved address"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Parsed<Endpoint> {
        endpoint(&Scalar::Text(text.to_owned()))
    }

    fn parsed(ip: &str, ports: Ports) -> Parsed<Endpoint> {
        Ok(Endpoint {
            ip: ip.parse().unwrap(),
            ports,
        })
    }

    #[test]
    fn endpoints_of_both_families() {
        assert_eq!(parse("203.0.113.10:80"), parsed("203.0.113.10", Ports::One(80)));
        assert_eq!(parse("[2001:db8::10]:443"), parsed("2001:db8::10", Ports::One(443)));
        assert_eq!(parse("203.0.113.10"), parsed("203.0.113.10", Ports::Unspecified));
        assert_eq!(parse("[2001:db8::10]"), parsed("2001:db8::10", Ports::Unspecified));
        assert_eq!(parse("2001:db8::10"), parsed("2001:db8::10", Ports::Unspecified));
        assert_eq!(parse("[2001:db8::10]:*"), parsed("2001:db8::10", Ports::Any));
        assert_eq!(
            parse("[2001:db8::10]:1-65535"),
            parsed("2001:db8::10", Ports::Range(1..=65_535))
        );
        assert_eq!(parse("203.0.113.10:*"), parsed("203.0.113.10", Ports::Any));
        assert_eq!(
            parse("203.0.113.10:8000-8099"),
            parsed("203.0.113.10", Ports::Range(8000..=8099))
        );
    }

    #[test]
    fn malformed_endpoints_say_what_is_wrong() {
        for (text, message) in [
            ("2001:db8::10:8443-8444", "more than one colon"),
            ("2001:db8::10:*", "more than one colon"),
            ("[2001:db8::10]80", "is not a whole number"),
            ("[2001:db8::10", "is not an IP address"),
            ("[fe80::1%eth0]:80", "is not an IP address"),
            ("203.0.113.10:80:90", "more than one colon"),
            ("203.0.113.10:0", "out of range"),
            ("203.0.113.10:65536", "out of range"),
            ("203.0.113.10:", "not a whole number"),
            ("203.0.113.10:http", "not a whole number"),
            ("203.0.113.10:90-80", "begins above its end"),
            ("203.0.113.256:80", "\"203.0.113.256\" is not an IP address"),
            ("203.0.113.010:80", "is not an IP address"),
            ("80:80", "\"80\" is not an IP address"),
            ("[203.0.113.10]:80", "is not an IP address"),
            ("app.internal:80", "is not an IP address"),
            (":80", "\"\" is not an IP address"),
            ("", "is not an IP address"),
        ] {
            let invalid = parse(text).expect_err(text);
            assert!(invalid.message.contains(message), "{text}: {invalid:?}");
        }
        assert!(endpoint(&Scalar::Integer(80)).is_err());
    }

    #[test]
    fn only_hosts_are_unicast() {
        for (text, kind) in [
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "reserved"),
            ("127.0.0.1", "loopback"),
            ("224.0.0.1", "multicast"),
            ("240.0.0.1", "reserved"),
            ("255.255.255.255", "broadcast"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("ff02::1", "multicast"),
            ("fe80::1", "link-local"),
            ("::ffff:10.0.0.1", "IPv4 address in the form"),
        ] {
            let invalid = unicast(text.parse().unwrap()).expect_err(text);
            assert!(invalid.message.contains(kind), "{text}: {invalid:?}");
        }
        for text in ["10.0.0.1", "192.0.2.1", "169.254.169.253", "2001:db8::1", "fd00::1"] {
            assert!(unicast(text.parse().unwrap()).is_ok(), "{text}");
        }
    }

    #[test]
    fn vips_are_not_confined_to_a_link() {
        for text in ["169.254.0.1", "fe80::1"] {
            let invalid = vip(text.parse().unwrap()).expect_err(text);
            assert!(invalid.message.contains("link-local"), "{text}: {invalid:?}");
        }
        for text in ["203.0.113.10", "2001:db8::10"] {
            assert!(vip(text.parse().unwrap()).is_ok(), "{text}");
        }
    }

    #[test]
    fn prefixes_fit_their_family() {
        let prefix = |text: &str| prefix(&Scalar::Text(text.to_owned()));
        assert_eq!(prefix("0.0.0.0/0"), Ok(("0.0.0.0".parse().unwrap(), 0)));
        assert_eq!(prefix("2001:db8::/32"), Ok(("2001:db8::".parse().unwrap(), 32)));
        assert_eq!(prefix("10.0.0.1"), Ok(("10.0.0.1".parse().unwrap(), 32)));
        for text in ["10.0.0.0/33", "10.0.0.0/", "/8", "2001:db8::/129", "all"] {
            assert!(prefix(text).is_err(), "{text}");
        }
    }

    #[test]
    fn dns_names_carry_a_port() {
        let host_name = |text: &str| host_name(&Scalar::Text(text.to_owned()));
        for text in ["app.internal:8080", "app.internal.:8080", "app"] {
            assert!(host_name(text).is_ok(), "{text}");
        }
        for text in ["app.internal:0", "app..internal:80", "-app:80", "a b:80", ""] {
            assert!(host_name(text).is_err(), "{text}");
        }
    }
}
