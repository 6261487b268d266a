//! The TCP probe: the backend accepts a connection.

use std::{net::SocketAddr, time::Duration};

use socket2::SockRef;
use tokio::net::TcpStream;

use super::ProbeError;

/// Opens a connection to `target` and closes it.
///
/// # Errors
/// When the connection can't be made. There is no timeout here: drop the future.
pub async fn probe(target: SocketAddr) -> Result<(), ProbeError> {
    connect(target).await?;
    Ok(())
}

/// A connection to `target` that is reset when it is dropped: thousands of probes a minute, closed in order, would each leave a
/// socket in TIME_WAIT.
pub(super) async fn connect(target: SocketAddr) -> Result<TcpStream, ProbeError> {
    let stream = TcpStream::connect(target).await?;
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    Ok(stream)
}
