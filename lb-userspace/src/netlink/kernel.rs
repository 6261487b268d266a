//! Questions to the kernel.

use std::{collections::HashMap, net::IpAddr};

use futures_util::TryStreamExt;
use netlink_packet_route::{
    neighbour::{NeighbourFlags, NeighbourState},
    route::{RouteMessage, RouteType},
};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::{
    Error, Unresolved,
    table::{Link, Neighbour, NeighbourKey, Route},
};

/// A netlink socket for questions.
pub(super) struct Kernel(Handle);

impl Kernel {
    pub(super) const fn new(handle: Handle) -> Self {
        Self(handle)
    }

    pub(super) async fn links(&self) -> Result<HashMap<u32, Link>, Error> {
        let messages: Vec<_> = (self.0.link().get().execute().try_collect().await).map_err(failed("links"))?;
        Ok(messages.iter().map(Link::from_message).collect())
    }

    pub(super) async fn neighbours(&self) -> Result<HashMap<NeighbourKey, Neighbour>, Error> {
        let request = self.0.neighbours().get();
        let messages: Vec<_> = (request.execute().try_collect().await).map_err(failed("neighbours"))?;
        Ok(messages.iter().filter_map(Neighbour::from_message).collect())
    }

    /// The route that a packet to `target` would take, as `ip route get` prints it.
    pub(super) async fn route(&self, target: IpAddr) -> Result<Result<Route, Unresolved>, Error> {
        let bits = if target.is_ipv4() { 32 } else { 128 };
        let Ok(builder) = RouteMessageBuilder::<IpAddr>::new().destination_prefix(target, bits) else {
            return Ok(Err(Unresolved::NoRoute(target)));
        };
        let answer: Result<Option<RouteMessage>, _> = self.0.route().get(builder.build()).execute().try_next().await;
        match answer {
            Ok(Some(message)) if message.header.kind == RouteType::Local => Ok(Err(Unresolved::Local(target))),
            Ok(Some(message)) => Ok(Route::from_message(&message, target).ok_or(Unresolved::NoRoute(target))),
            // Unreachable, prohibited, black hole, nothing at all: the kernel has an error number for each.
            Ok(None) | Err(rtnetlink::Error::NetlinkError(_)) => Ok(Err(Unresolved::NoRoute(target))),
            Err(error) => Err(failed("routes")(error)),
        }
    }

    /// Tells the kernel that a neighbour is in use (`NTF_USE`): it resolves one that is missing and confirms one that is stale, as
    /// it does for packets of its own.
    pub(super) async fn use_neighbour(&self, key: NeighbourKey) -> Result<(), Error> {
        let request = self.0.neighbours().add(key.ifindex, key.address);
        request
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace()
            .execute()
            .await
            .map_err(failed("neighbour in use"))
    }
}

fn failed(what: &'static str) -> impl Fn(rtnetlink::Error) -> Error {
    move |source| match source {
        rtnetlink::Error::RequestFailed => Error::Closed,
        source => Error::Read { what, source },
    }
}
