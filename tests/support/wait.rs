//! Waiting for a condition instead of for a time.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// How often a condition is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Calls `condition` until it returns a value, and returns that.
///
/// An error of `condition` counts as "not yet".
///
/// # Errors
///
/// After `limit`: names `what` and holds the last error of `condition`.
pub fn until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let last = match condition() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if Instant::now() >= deadline {
            let message = format!("waited {limit:?} in vain: {what}");
            match last {
                Some(error) => return Err(error).context(message),
                None => bail!(message),
            }
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// As [`until`], for a condition that is just true or false.
///
/// # Errors
///
/// After `limit`: names `what`.
pub fn until_true(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    until(what, limit, || Ok(condition().then_some(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_is_returned_as_soon_as_there_is_one() {
        let mut calls = 0;
        let value = until("third call", Duration::from_secs(10), || {
            calls += 1;
            Ok((calls == 3).then_some(calls))
        });
        assert_eq!(value.unwrap(), 3);
    }

    #[test]
    fn timeout_names_the_condition_and_the_last_error() {
        let error = until::<()>("the moon", Duration::ZERO, || bail!("new moon")).unwrap_err();
        assert_eq!(format!("{error:#}"), "waited 0ns in vain: the moon: new moon");
        assert!(until_true("the sun", Duration::ZERO, || false).is_err());
    }
}
