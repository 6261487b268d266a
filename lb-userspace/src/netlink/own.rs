//! This host's own addresses.

use std::net::IpAddr;

use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};

/// An address of an interface of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnAddress {
    /// Index of the interface.
    pub(super) ifindex: u32,
    /// The address.
    pub(crate) address: IpAddr,
    /// Known to the whole network, and not still (or in vain) being checked for duplicates: others may be told of it.
    pub(super) is_global: bool,
    /// The kernel would rather use another one: secondary (IPv4), temporary (IPv6), or deprecated.
    pub(super) is_second_choice: bool,
}

impl OwnAddress {
    /// `None` for a message without an address.
    pub(crate) fn from_message(message: &AddressMessage) -> Option<Self> {
        let (mut local, mut address) = (None, None);
        let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(ip) => local = Some(*ip),
                // Of the peer, if the two differ.
                AddressAttribute::Address(ip) => address = Some(*ip),
                AddressAttribute::Flags(all) => flags = *all,
                _ => {}
            }
        }
        let is_unchecked = flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed);
        Some(Self {
            ifindex: message.header.index,
            address: local.or(address)?,
            is_global: message.header.scope == AddressScope::Universe && !is_unchecked,
            is_second_choice: flags.intersects(AddressFlags::Secondary | AddressFlags::Deprecated),
        })
    }
}

/// The address of an interface to show others, of those in the kernel's order that satisfy `family`.
pub(super) fn primary(own: &[OwnAddress], ifindex: u32, family: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
    own.iter()
        .filter(|own| own.ifindex == ifindex && own.is_global && family(&own.address))
        .min_by_key(|own| own.is_second_choice)
        .map(|own| own.address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(scope: AddressScope, attributes: Vec<AddressAttribute>) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.index = 3;
        message.header.scope = scope;
        message.attributes = attributes;
        message
    }

    fn own(address: &str, is_second_choice: bool) -> OwnAddress {
        OwnAddress {
            ifindex: 3,
            address: address.parse().unwrap(),
            is_global: true,
            is_second_choice,
        }
    }

    #[test]
    fn own_address_is_not_that_of_the_peer() {
        let (local, peer) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let attributes = vec![AddressAttribute::Address(peer), AddressAttribute::Local(local)];
        let own = OwnAddress::from_message(&message(AddressScope::Universe, attributes)).unwrap();
        assert_eq!((own.address, own.is_global), (local, true));
    }

    #[test]
    fn addresses_of_a_link_and_unchecked_ones_are_not_global() {
        let address = AddressAttribute::Address("2001:db8::1".parse().unwrap());
        for (scope, flags, expected) in [
            (AddressScope::Universe, AddressFlags::Permanent, true),
            (AddressScope::Link, AddressFlags::Permanent, false),
            (AddressScope::Host, AddressFlags::Permanent, false),
            (AddressScope::Universe, AddressFlags::Tentative, false),
            (AddressScope::Universe, AddressFlags::Dadfailed, false),
        ] {
            let attributes = vec![address.clone(), AddressAttribute::Flags(flags)];
            let own = OwnAddress::from_message(&message(scope, attributes)).unwrap();
            assert_eq!(own.is_global, expected, "{scope:?} {flags:?}");
        }
    }

    #[test]
    fn first_primary_address_of_the_family_is_shown() {
        let all = [
            own("10.0.0.9", true),
            own("10.0.0.1", false),
            own("10.0.0.2", false),
            own("2001:db8::9", true),
        ];
        assert_eq!(primary(&all, 3, IpAddr::is_ipv4), Some("10.0.0.1".parse().unwrap()));
        assert_eq!(primary(&all, 3, IpAddr::is_ipv6), Some("2001:db8::9".parse().unwrap()));
        assert_eq!(primary(&all, 4, IpAddr::is_ipv4), None);
    }
}
