//! What an address is to the balancer.

use lb_common::role::Roles;

use crate::family::Family;

/// The roles of an address; none for most.
#[inline(always)]
pub(crate) fn of<F: Family>(address: F) -> Roles {
    // SAFETY: the value is one word, copied at once.
    unsafe { F::addresses().get(address) }.copied().unwrap_or_default()
}
