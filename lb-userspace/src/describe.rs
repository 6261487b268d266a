//! Values as people write and read them.

#![forbid(unsafe_code)]

use std::net::SocketAddr;

/// A backend as the configuration writes it: without a port when it has the one that the client dialled.
pub fn backend_address(address: SocketAddr) -> String {
    if address.port() == 0 {
        address.ip().to_string()
    } else {
        address.to_string()
    }
}

/// An error with its causes, each named once: many say their cause in their own text.
pub fn describe(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;

    #[test]
    fn backends_are_written_as_in_the_file() {
        for written in ["10.0.0.12:80", "10.0.0.12", "[2001:db8::12]:80", "2001:db8::12"] {
            let without_port = || written.parse().map(|ip| SocketAddr::new(ip, 0));
            let address = written.parse().or_else(|_| without_port()).unwrap();
            assert_eq!(backend_address(address), written);
        }
    }

    #[test]
    fn causes_are_named_once() {
        let error = anyhow!("permission denied")
            .context("cannot open x: permission denied")
            .context("start failed");
        assert_eq!(describe(&error), "start failed: cannot open x: permission denied");
        assert_eq!(describe(&Err::<(), _>(anyhow!("b")).context("a").unwrap_err()), "a: b");
    }
}
