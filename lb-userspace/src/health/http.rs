//! The HTTP probe: the backend answers a `GET` with an expected status.

use std::{net::SocketAddr, ops::RangeInclusive, pin::pin};

use http_body_util::Empty;
use hyper::{
    Request,
    body::Bytes,
    client::conn::http1,
    header::{CONNECTION, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;

use super::{ProbeError, tcp};

/// Bound on status line and headers. The body is not read at all.
const MAX_HEAD: usize = 16 * 1024;

/// Sends `GET path` to `target` over a connection of its own.
///
/// # Errors
/// When there is no connection, no HTTP response, or one with a status that is not in `expect`. There is no timeout here: drop
/// the future.
pub async fn probe(target: SocketAddr, path: &str, expect: &RangeInclusive<u16>) -> Result<(), ProbeError> {
    let stream = TokioIo::new(tcp::connect(target).await?);
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(stream)
        .await
        .map_err(|error| ProbeError::Http(error.to_string()))?;
    let request = Request::get(path)
        .header(HOST, target.to_string())
        .header(USER_AGENT, concat!("xlb/", env!("CARGO_PKG_VERSION"), " health check"))
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| ProbeError::Http(error.to_string()))?;

    let mut response = pin!(sender.send_request(request));
    let mut connection = pin!(connection);
    let response = tokio::select! {
        biased;
        response = &mut response => response,
        // The connection ended: what came of the request is known now.
        _ = &mut connection => response.await,
    };
    let status = response
        .map_err(|error| ProbeError::Http(reason(&error)))?
        .status()
        .as_u16();
    if expect.contains(&status) {
        Ok(())
    } else {
        Err(ProbeError::Status {
            status,
            expected: expect.clone(),
        })
    }
}

/// The error and its cause, since the first often only says where it happened.
fn reason(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
