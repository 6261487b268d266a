//! Interfaces, and where the frames of VLAN devices leave.

use std::collections::HashMap;

use lb_common::backend::{MacAddress, Tag, Tags};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage, VlanProtocol,
};

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) name: String,
    /// `None` when it does not carry Ethernet frames.
    pub(super) mac: Option<MacAddress>,
    pub(super) mtu: u32,
    /// Set for a VLAN device.
    pub(super) vlan: Option<Vlan>,
}

/// What a VLAN device does to frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vlan {
    /// Index of the interface that it stands on.
    pub(super) lower: u32,
    /// The tag that it adds.
    pub(super) tag: Tag,
}

/// Where frames of an interface leave this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exit {
    /// Index of the interface below all VLAN devices.
    pub(super) ifindex: u32,
    /// The tags that they add.
    pub(super) tags: Tags,
}

impl Link {
    pub(super) fn from_message(message: &LinkMessage) -> (u32, Self) {
        let mut link = Self {
            name: String::new(),
            mac: None,
            mtu: 0,
            vlan: None,
        };
        let (mut lower, mut tag, mut is_elsewhere) = (None, None, false);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Address(address) if message.header.link_layer_type == LinkLayerType::Ether => {
                    link.mac = address.as_slice().try_into().ok();
                }
                LinkAttribute::Link(index) => lower = Some(*index),
                // The index is one of another network namespace.
                LinkAttribute::LinkNetNsId(_) => is_elsewhere = true,
                LinkAttribute::LinkInfo(infos) => tag = vlan_tag(infos),
                _ => {}
            }
        }
        if let (Some(lower), Some(tag), false) = (lower, tag, is_elsewhere) {
            link.vlan = Some(Vlan { lower, tag });
        }
        (message.header.index, link)
    }
}

/// The tag that a VLAN device adds; `None` for any other kind.
fn vlan_tag(infos: &[LinkInfo]) -> Option<Tag> {
    if !infos.contains(&LinkInfo::Kind(InfoKind::Vlan)) {
        return None;
    }
    let vlan = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vlan(vlan)) => Some(vlan),
        _ => None,
    })?;
    let id = vlan.iter().find_map(|attribute| match attribute {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })?;
    let is_service = vlan.contains(&InfoVlan::Protocol(VlanProtocol::Ieee8021Ad));
    Some(if is_service {
        Tag::service(id)
    } else {
        Tag::customer(id)
    })
}

/// Where frames of an interface leave. One that adds more tags than a frame is given here leaves them to the kernel: then its frames
/// leave at itself.
pub(super) fn exit(links: &HashMap<u32, Link>, ifindex: u32) -> Exit {
    let mut below = Exit {
        ifindex,
        tags: Tags::NONE,
    };
    while let Some(vlan) = links.get(&below.ifindex).and_then(|link| link.vlan) {
        if below.tags.count() == 2 || !links.contains_key(&vlan.lower) {
            return Exit {
                ifindex,
                tags: Tags::NONE,
            };
        }
        // The tag of a lower device stands before those of the devices above.
        below = Exit {
            ifindex: vlan.lower,
            tags: Tags {
                outer: vlan.tag,
                inner: below.tags.outer,
            },
        };
    }
    below
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(vlan: Option<(u32, Tag)>) -> Link {
        Link {
            name: String::new(),
            mac: Some([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            vlan: vlan.map(|(lower, tag)| Vlan { lower, tag }),
        }
    }

    #[test]
    fn frames_of_vlan_devices_leave_below_with_the_lower_tag_first() {
        let (customer, service, third) = (Tag::customer(200), Tag::service(100), Tag::customer(300));
        let links = HashMap::from([
            (1, link(None)),
            (2, link(Some((1, service)))),
            (3, link(Some((2, customer)))),
            (4, link(Some((3, third)))),
            (5, link(Some((77, customer)))),
        ]);
        let tags = |outer, inner| Tags { outer, inner };
        for (ifindex, target, expected) in [
            (1, 1, Tags::NONE),
            (2, 1, tags(service, Tag::NONE)),
            (3, 1, tags(service, customer)),
            // Three tags, and a lower device that is gone: not ours.
            (4, 4, Tags::NONE),
            (5, 5, Tags::NONE),
        ] {
            let found = exit(&links, ifindex);
            assert_eq!((found.ifindex, found.tags), (target, expected), "interface {ifindex}");
        }
    }

    #[test]
    fn vlan_devices_tell_tag_and_lower_device() {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.attributes = vec![
            LinkAttribute::IfName("eth0.100".to_owned()),
            LinkAttribute::Link(2),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vlan),
                LinkInfo::Data(InfoData::Vlan(vec![
                    InfoVlan::Protocol(VlanProtocol::Ieee8021Ad),
                    InfoVlan::Id(100),
                ])),
            ]),
        ];
        let vlan = Vlan {
            lower: 2,
            tag: Tag::service(100),
        };
        assert_eq!(Link::from_message(&message).1.vlan, Some(vlan));
        // Its lower device is in another namespace: the index means nothing here.
        message.attributes.push(LinkAttribute::LinkNetNsId(0));
        assert_eq!(Link::from_message(&message).1.vlan, None);
        // Other devices stand on something as well.
        message.attributes = vec![
            LinkAttribute::Link(2),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::MacVlan)]),
        ];
        assert_eq!(Link::from_message(&message).1.vlan, None);
    }
}
