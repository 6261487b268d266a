//! Asking a running agent.

use std::{io, path::Path, time::Duration};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, body::Bytes, header};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::status::Status;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Largest answer, in bytes: 10,000 services with their backends fit ten times.
const MAX_ANSWER: usize = 256 << 20;

/// Why the agent gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no xlb answers on {socket} ({source}); start one with `xlb run`, or name its socket with --socket")]
    Connect {
        /// The socket.
        socket: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The answer took too long.
    #[error("the agent did not answer within {} s; see its log", TIMEOUT.as_secs())]
    Timeout,
    /// HTTP broke.
    #[error("the agent's answer broke off: {0}")]
    Http(Box<dyn std::error::Error + Send + Sync>),
    /// The agent refused.
    #[error("the agent answered {status}: {reason}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// Its words.
        reason: String,
    },
    /// The answer is not what this version understands.
    #[error("the agent's answer is not understood ({0}); it may be of another version: compare `xlb --version`")]
    Format(#[from] serde_json::Error),
}

/// The state of the agent behind a socket.
///
/// # Errors
///
/// See [`ClientError`].
pub async fn status(socket: &Path) -> Result<Status, ClientError> {
    let answer = tokio::time::timeout(TIMEOUT, get(socket, "/api/v1/status"))
        .await
        .map_err(|_elapsed| ClientError::Timeout)??;
    Ok(serde_json::from_slice(&answer)?)
}

async fn get(socket: &Path, path: &str) -> Result<Bytes, ClientError> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|source| ClientError::Connect {
            socket: socket.display().to_string(),
            source,
        })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(http)?;
    let request = Request::get(path)
        .header(header::HOST, "xlb")
        .body(Empty::<Bytes>::new())
        .map_err(http)?;
    // Drives the exchange; ends with it.
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(http)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await
        .map_err(ClientError::Http)?
        .to_bytes();
    driver.abort();
    if status.is_success() {
        return Ok(body);
    }
    Err(ClientError::Refused {
        status,
        reason: String::from_utf8_lossy(&body).into_owned(),
    })
}

fn http(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
    ClientError::Http(error.into())
}
