//! Questions to the kernel.

use std::{collections::HashMap, net::IpAddr};

use futures_util::TryStreamExt;
use netlink_packet_route::{
    neighbour::{NeighbourFlags, NeighbourState},
    route::{RouteFlags, RouteMessage, RouteType},
};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::{
    Error, Unresolved,
    link::Link,
    own::OwnAddress,
    table::{Neighbour, NeighbourKey, Route, bits},
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

    /// This host's own addresses, in the kernel's order.
    pub(super) async fn own_addresses(&self) -> Result<Vec<OwnAddress>, Error> {
        let request = self.0.address().get();
        let messages: Vec<_> = (request.execute().try_collect().await).map_err(failed("addresses"))?;
        Ok(messages.iter().filter_map(OwnAddress::from_message).collect())
    }

    /// The route that a packet to `target` would take, as `ip route get` prints it.
    pub(super) async fn route(&self, target: IpAddr) -> Result<Result<Route, Unresolved>, Error> {
        let Some(message) = self.ask_for_route(target, RouteFlags::empty()).await? else {
            return Ok(Err(Unresolved::NoRoute(target)));
        };
        if message.header.kind == RouteType::Local {
            return Ok(Err(Unresolved::Local(target)));
        }
        let Some(mut route) = Route::from_message(&message, target) else {
            return Ok(Err(Unresolved::NoRoute(target)));
        };
        if route.is_on_link() {
            // Now the entry of the routing table itself (Linux 4.13), which names the network.
            let entry = self.ask_for_route(target, RouteFlags::FibMatch).await?;
            route.set_network(entry.map_or(0, |entry| entry.header.destination_prefix_length));
        }
        Ok(Ok(route))
    }

    /// `None` for whatever leads nowhere: unreachable, prohibited, black hole, nothing at all. The kernel has an error number for
    /// each.
    async fn ask_for_route(&self, target: IpAddr, flags: RouteFlags) -> Result<Option<RouteMessage>, Error> {
        let builder = RouteMessageBuilder::<IpAddr>::new().destination_prefix(target, bits(target));
        let Ok(builder) = builder else {
            return Ok(None);
        };
        let mut question = builder.build();
        question.header.flags = flags;
        match self.0.route().get(question).execute().try_next().await {
            Ok(answer) => Ok(answer),
            Err(rtnetlink::Error::NetlinkError(_)) => Ok(None),
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
