//! Serving the Unix socket.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse as _, routing::get};
use tokio::net::{UnixListener, UnixStream};
use tracing::info;

use super::status::Status;

/// What the interface asks of the agent.
pub trait Source: Send + Sync + 'static {
    /// The state now.
    ///
    /// # Errors
    ///
    /// A sentence on what can't be read.
    fn status(&self) -> Result<Status, String>;
}

/// Why the socket can't be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another agent answers on it.
    #[error("{socket} is in use: another xlb runs with this socket; stop it, or set api.socket to another path")]
    InUse {
        /// The socket.
        socket: PathBuf,
    },
    /// A system call failed.
    #[error("cannot {operation} {path}: {source}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A socket with mode 0600, which is removed again when this is dropped.
pub struct Socket {
    listener: UnixListener,
    removal: Removal,
}

/// Removes a file when it is dropped.
struct Removal(PathBuf);

impl Drop for Removal {
    fn drop(&mut self) {
        // Who finds it there anyhow replaces it.
        let _gone_already = fs::remove_file(&self.0);
    }
}

impl Socket {
    /// Whether nobody answers on the socket.
    ///
    /// # Errors
    ///
    /// [`ServerError::InUse`] when another agent does.
    pub async fn check_free(path: &Path) -> Result<(), ServerError> {
        match UnixStream::connect(path).await {
            Ok(_) => Err(ServerError::InUse {
                socket: path.to_owned(),
            }),
            Err(_) => Ok(()),
        }
    }

    /// Binds the socket, in place of one that a dead agent left behind.
    ///
    /// # Errors
    ///
    /// See [`ServerError`].
    pub async fn bind(path: &Path) -> Result<Self, ServerError> {
        let error = |operation| {
            move |source| ServerError::Io {
                operation,
                path: path.to_owned(),
                source,
            }
        };
        Self::check_free(path).await?;
        if let Some(directory) = path.parent().filter(|directory| !directory.exists()) {
            let mut builder = fs::DirBuilder::new();
            builder
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(error("create the directory of"))?;
        }
        match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(error("replace")(source)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(error("listen on"))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(error("restrict"))?;
        Ok(Self {
            listener,
            removal: Removal(path.to_owned()),
        })
    }

    /// Serves until the task is dropped.
    ///
    /// # Errors
    ///
    /// When the socket can't accept any more.
    pub async fn serve(self, source: Arc<dyn Source>) -> io::Result<()> {
        info!(socket = %self.removal.0.display(), "serving the control socket");
        let router = Router::new().route("/api/v1/status", get(status)).with_state(source);
        let Self {
            listener,
            removal: _removal,
        } = self;
        axum::serve(listener, router).await
    }
}

async fn status(State(source): State<Arc<dyn Source>>) -> axum::response::Response {
    // Reading counters is a few thousand system calls: not on a thread that serves timers.
    let status = tokio::task::spawn_blocking(move || source.status()).await;
    match status {
        Ok(Ok(status)) => Json(status).into_response(),
        Ok(Err(reason)) => (StatusCode::INTERNAL_SERVER_ERROR, reason).into_response(),
        Err(_panicked) => (StatusCode::INTERNAL_SERVER_ERROR, "the agent failed to read its state").into_response(),
    }
}
