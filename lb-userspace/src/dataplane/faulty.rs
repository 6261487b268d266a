//! A data plane whose writes fail on demand, for tests of what is left behind and of the next attempt.

#![forbid(unsafe_code)]

use std::net::IpAddr;

use lb_common::{counters::Traffic, interface::Interface, role::Roles, service::Service, settings::Settings};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::{
    BackendEntry, BackendId, ConnectionEntry, Dataplane, DataplaneError, Family, ListenerEntry, Result, ServiceId,
    Tuple,
};

/// Passes everything on to another data plane, but for the writes that are to fail: those change nothing.
#[derive(Debug)]
pub struct FaultyDataplane<D> {
    inner: D,
    plan: Plan,
    writes: usize,
    failed: usize,
}

#[derive(Debug)]
enum Plan {
    Nth(usize),
    Random { probability: f64, rng: Box<SmallRng> },
}

/// What a planned failure says.
#[derive(Debug, thiserror::Error)]
#[error("write {0} fails as planned")]
struct Planned(usize);

impl<D: Dataplane> FaultyDataplane<D> {
    /// Fails write number `n`, counted from 1; 0 fails none.
    pub const fn failing_nth(inner: D, n: usize) -> Self {
        Self::new(inner, Plan::Nth(n))
    }

    /// Fails each write with this probability, from 0 to 1. The same `seed` fails the same writes.
    pub fn failing_randomly(inner: D, probability: f64, seed: u64) -> Self {
        let rng = Box::new(SmallRng::seed_from_u64(seed));
        Self::new(inner, Plan::Random { probability, rng })
    }

    const fn new(inner: D, plan: Plan) -> Self {
        Self {
            inner,
            plan,
            writes: 0,
            failed: 0,
        }
    }

    /// How many writes failed so far.
    pub const fn failed(&self) -> usize {
        self.failed
    }

    /// The data plane behind it.
    pub const fn inner(&self) -> &D {
        &self.inner
    }

    /// Takes the data plane behind it out.
    pub fn into_inner(self) -> D {
        self.inner
    }

    /// The inner data plane for a write, or the failure planned for it.
    fn write(&mut self, operation: &str) -> Result<&mut D> {
        self.writes += 1;
        let fails = match &mut self.plan {
            Plan::Nth(n) => self.writes == *n,
            Plan::Random { probability, rng } => rng.random_bool(*probability),
        };
        if fails {
            self.failed += 1;
            return Err(DataplaneError {
                operation: operation.to_owned(),
                source: Box::new(Planned(self.writes)),
            });
        }
        Ok(&mut self.inner)
    }
}

impl<D: Dataplane> Dataplane for FaultyDataplane<D> {
    fn listeners(&self) -> Result<Vec<(ListenerEntry, ServiceId)>> {
        self.inner.listeners()
    }

    fn set_listener(&mut self, listener: ListenerEntry, service: ServiceId) -> Result<()> {
        self.write("set a listener")?.set_listener(listener, service)
    }

    fn remove_listener(&mut self, listener: ListenerEntry) -> Result<()> {
        self.write("remove a listener")?.remove_listener(listener)
    }

    fn services(&self) -> Result<Vec<(ServiceId, Service)>> {
        self.inner.services()
    }

    fn set_service(&mut self, id: ServiceId, service: Service) -> Result<()> {
        self.write("set a service")?.set_service(id, service)
    }

    fn remove_service(&mut self, id: ServiceId) -> Result<()> {
        self.write("remove a service")?.remove_service(id)
    }

    fn slots(&self, id: ServiceId) -> Result<Vec<BackendId>> {
        self.inner.slots(id)
    }

    fn set_slots(&mut self, id: ServiceId, slots: &[BackendId]) -> Result<()> {
        self.write("set slots")?.set_slots(id, slots)
    }

    fn backends(&self) -> Result<Vec<(BackendId, BackendEntry)>> {
        self.inner.backends()
    }

    fn set_backend(&mut self, id: BackendId, backend: &BackendEntry) -> Result<()> {
        self.write("set a backend")?.set_backend(id, backend)
    }

    fn remove_backend(&mut self, id: BackendId) -> Result<()> {
        self.write("remove a backend")?.remove_backend(id)
    }

    fn snat_addresses(&self, family: Family) -> Result<Vec<IpAddr>> {
        self.inner.snat_addresses(family)
    }

    fn set_snat_addresses(&mut self, family: Family, addresses: &[IpAddr]) -> Result<()> {
        self.write("set snat addresses")?.set_snat_addresses(family, addresses)
    }

    fn roles(&self) -> Result<Vec<(IpAddr, Roles)>> {
        self.inner.roles()
    }

    fn set_roles(&mut self, address: IpAddr, roles: Roles) -> Result<()> {
        self.write("set roles")?.set_roles(address, roles)
    }

    fn remove_roles(&mut self, address: IpAddr) -> Result<()> {
        self.write("remove roles")?.remove_roles(address)
    }

    fn interfaces(&self) -> Result<Vec<(u32, Interface)>> {
        self.inner.interfaces()
    }

    fn set_interface(&mut self, ifindex: u32, interface: Interface) -> Result<()> {
        self.write("set an interface")?.set_interface(ifindex, interface)
    }

    fn remove_interface(&mut self, ifindex: u32) -> Result<()> {
        self.write("remove an interface")?.remove_interface(ifindex)
    }

    fn settings(&self) -> Result<Option<Settings>> {
        self.inner.settings()
    }

    fn set_settings(&mut self, settings: Settings) -> Result<()> {
        self.write("set the settings")?.set_settings(settings)
    }

    fn for_each_connection(&self, visit: &mut dyn FnMut(ConnectionEntry)) -> Result<()> {
        self.inner.for_each_connection(visit)
    }

    fn connection(&self, key: &Tuple) -> Result<Option<ConnectionEntry>> {
        self.inner.connection(key)
    }

    fn remove_connection(&mut self, key: &Tuple) -> Result<()> {
        self.write("remove a connection")?.remove_connection(key)
    }

    fn set_half_open(&mut self, count: u32) -> Result<()> {
        self.write("set the half-open count")?.set_half_open(count)
    }

    fn verdicts(&self) -> Result<Vec<u64>> {
        self.inner.verdicts()
    }

    fn service_traffic(&self, id: ServiceId) -> Result<Traffic> {
        self.inner.service_traffic(id)
    }

    fn backend_traffic(&self, id: BackendId) -> Result<Traffic> {
        self.inner.backend_traffic(id)
    }
}
