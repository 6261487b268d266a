//! The result of a subprogram in one register.
//!
//! Each way through the kernel (a flow's packet, a later fragment, an ICMP message) is a subprogram of its own, so that none pays for
//! the stack of another. What they return must fit a register.

use lb_common::verdict::Verdict;

/// An action of the hook, or a verdict.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Outcome(u64);

/// Set where it is a verdict.
const VERDICT: u64 = 1 << 32;

impl From<Result<u32, Verdict>> for Outcome {
    #[inline(always)]
    fn from(result: Result<u32, Verdict>) -> Self {
        match result {
            Ok(action) => Self(u64::from(action)),
            Err(verdict) => verdict.into(),
        }
    }
}

impl From<Verdict> for Outcome {
    #[inline(always)]
    fn from(verdict: Verdict) -> Self {
        Self(VERDICT | u64::from(verdict.to_bits()))
    }
}

impl Outcome {
    /// An action of the hook.
    #[inline(always)]
    pub(crate) const fn action(number: u32) -> Self {
        Self(number as u64)
    }

    /// The action, or else the verdict.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "put together from 32 bits above")]
    pub(crate) const fn result(self) -> Result<u32, Verdict> {
        if self.0 & VERDICT == 0 {
            Ok(self.0 as u32)
        } else {
            Err(Verdict::from_bits(self.0 as u32))
        }
    }
}
