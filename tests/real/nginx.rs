//! nginx as a backend.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use lb_tests::namespace::Namespace;

use crate::server::Server;

/// An nginx in a backend's namespace, with everything it writes below a directory of its own.
#[derive(Debug)]
pub(crate) struct Nginx {
    directory: PathBuf,
    _server: Server,
}

impl Nginx {
    /// Starts one that listens on `port`, calls itself `name`, and hands out the files of the directory `files`.
    ///
    /// - `GET /who` answers with its name and the address that it saw the client at.
    /// - `GET /files/NAME` hands out a file, with `sendfile`: the packets hold pages of the file itself.
    /// - `PUT /uploads/NAME` stores one, see [`Nginx::uploaded`].
    ///
    /// # Errors
    ///
    /// When it is not installed. Whether it is ready shows in the health of the backend.
    pub(crate) fn start(namespace: &Namespace, name: &str, port: u16, files: &Path, parent: &Path) -> Result<Self> {
        let directory = parent.join(name);
        fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let path = directory.join("nginx.conf");
        fs::write(&path, configuration(name, port, files, &directory)).context("cannot write nginx.conf")?;
        let (prefix, path) = (directory.display().to_string(), path.display().to_string());
        let arguments = ["-p", &prefix, "-c", &path, "-e", "stderr"];
        let server = Server::start(namespace, "nginx", &arguments, directory.join("log"))?;
        Ok(Self {
            directory,
            _server: server,
        })
    }

    /// Where a file that was put lies, if this backend got it.
    pub(crate) fn uploaded(&self, name: &str) -> Option<PathBuf> {
        let path = self.directory.join("uploads").join(name);
        path.is_file().then_some(path)
    }
}

fn configuration(name: &str, port: u16, files: &Path, directory: &Path) -> String {
    let (files, directory) = (files.display(), directory.display());
    format!(
        r#"
daemon off;
user root;
worker_processes 1;
pid {directory}/pid;
error_log stderr;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    client_max_body_size 0;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen {port} backlog=4096;
        listen [::]:{port} backlog=4096;
        location = /who {{ default_type text/plain; return 200 "{name} $remote_addr\n"; }}
        location /files/ {{ alias {files}/; }}
        location /uploads/ {{ root {directory}; dav_methods PUT; create_full_put_path on; }}
    }}
}}
"#
    )
}
