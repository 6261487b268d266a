//! curl against nginx.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use lb_tests::{leftovers::Instance, names::Family, topology::Lab};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tempfile::{Builder, TempDir};

use crate::{
    nginx::Nginx,
    scene::{Cell, MATRIX, Scene, Service},
    server::client,
};

/// Port of every nginx.
const PORT: u16 = 8080;
/// Size of the large file in bytes.
const SIZE: usize = 200_000_000;
/// Name of the large file.
const FILE: &str = "large";
/// Any number will do; the same one gives the same file again.
const SEED: u64 = 0x0a2;

fn service(family: Family) -> Service {
    Service {
        port: 80,
        backends: [1, 2, 3]
            .map(|number| SocketAddr::new(family.backend(number), PORT))
            .to_vec(),
        health_check: "{type: http, path: /who, interval: 300ms, timeout: 200ms, rise: 1}",
    }
}

/// A scene with an nginx on every backend.
pub(crate) fn start(cell: Cell, files: &Path) -> Scene<Vec<Nginx>> {
    let servers = |lab: &Lab| {
        let directory = lab.instance().directory()?;
        let nginx =
            |(namespace, number)| Nginx::start(namespace, &format!("backend-{number}"), PORT, files, &directory);
        lab.backends.iter().zip(1..).map(nginx).collect()
    };
    Scene::start(cell, &service(cell.family), servers)
}

/// Where the service has this.
fn url(cell: Cell, path: &str) -> String {
    format!("http://{}/{path}", SocketAddr::new(cell.family.vip(), 80))
}

/// A `curl` of the first client that fails on every error, of HTTP too.
fn curl(scene: &Scene<Vec<Nginx>>) -> Command {
    let mut command = scene.lab.clients[0].command("curl");
    command.args([
        "--silent",
        "--show-error",
        "--fail",
        "--fail-early",
        "--connect-timeout",
        "3",
        "--max-time",
        "60",
    ]);
    command
}

#[test]
fn large_files_arrive_unchanged_both_ways() {
    let files = directory().expect("a directory");
    let large = files.path().join(FILE);
    write_random(&large).expect("a large file");
    let sent = sha256_of(&large).expect("its digest");
    for cell in MATRIX {
        let scene = start(cell, files.path());

        let downloaded = download(cell, &scene).unwrap_or_else(|error| panic!("{cell}, download: {error:#}"));
        assert_eq!(downloaded, sent, "{cell}, download");

        upload(cell, &scene, &large).unwrap_or_else(|error| panic!("{cell}, upload: {error:#}"));
        let stored: Vec<_> = scene
            .servers
            .iter()
            .filter_map(|backend| backend.uploaded(FILE))
            .collect();
        assert_eq!(stored.len(), 1, "{cell}: backends that stored the upload: {stored:?}");
        assert_eq!(sha256_of(&stored[0]).expect("a digest"), sent, "{cell}, upload");
        fs::remove_file(&stored[0]).expect("the upload is there");

        scene.assert_nothing_went_wrong();
    }
}

#[test]
fn short_connections_reach_every_backend_from_the_right_address() {
    const REQUESTS: u32 = 500;
    let files = directory().expect("a directory");
    for cell in MATRIX {
        let scene = start(cell, files.path());
        let answers = client(
            curl(&scene)
                .args(["--parallel", "--parallel-max", "20", "--header", "Connection: close"])
                .arg(url(cell, &format!("who?[1-{REQUESTS}]"))),
        );
        let answers = answers.unwrap_or_else(|error| panic!("{cell}: {error:#}"));

        let mut shares = BTreeMap::new();
        let expected = if cell.forwarding == "nat" {
            cell.family.client(1)
        } else {
            cell.family.gateway_to_backends()
        };
        for answer in answers.lines() {
            let (backend, seen) = answer.split_once(' ').expect("a backend and an address");
            assert_eq!(seen, expected.to_string(), "{cell}: client as {backend} saw it");
            *shares.entry(backend).or_insert(0) += 1;
        }
        assert_eq!(shares.values().sum::<u32>(), REQUESTS, "{cell}: {shares:?}");
        // A port that the client's kernel gives out again may go where it went before, so the shares are not exact.
        let even = shares.len() == 3 && shares.values().all(|share| (130..=205).contains(share));
        assert!(even, "{cell}: {shares:?}");
        scene.assert_nothing_went_wrong();
    }
}

/// Downloads the large file and returns the digest of what arrived.
fn download(cell: Cell, scene: &Scene<Vec<Nginx>>) -> Result<String> {
    let mut curl = curl(scene)
        .arg(url(cell, &format!("files/{FILE}")))
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run curl")?;
    let body = curl.stdout.take().context("curl has no output")?;
    let digest = sha256(Command::new("sha256sum").stdin(body));
    let status = curl.wait()?;
    anyhow::ensure!(status.success(), "curl: {status}");
    digest
}

/// Puts the large file on a backend.
fn upload(cell: Cell, scene: &Scene<Vec<Nginx>>, file: &Path) -> Result<String> {
    let url = url(cell, &format!("uploads/{FILE}"));
    client(curl(scene).arg("--upload-file").arg(file).arg(url))
}

/// A directory for files to hand out, named so that the next laboratory removes what a killed run leaves.
pub(crate) fn directory() -> io::Result<TempDir> {
    Builder::new().prefix(&format!("{}-", Instance::next())).tempdir()
}

fn write_random(path: &Path) -> Result<()> {
    let mut random = SmallRng::seed_from_u64(SEED);
    let mut file = BufWriter::new(File::create(path)?);
    let mut block = vec![0; 1_000_000];
    for _ in 0..SIZE / block.len() {
        random.fill_bytes(&mut block);
        file.write_all(&block)?;
    }
    Ok(file.flush()?)
}

fn sha256_of(path: &Path) -> Result<String> {
    sha256(Command::new("sha256sum").stdin(File::open(path)?))
}

/// The digest of a `sha256sum` of its standard input.
fn sha256(command: &mut Command) -> Result<String> {
    let text = client(command)?;
    let digest = text.split_whitespace().next().context("sha256sum printed nothing")?;
    Ok(digest.to_owned())
}
