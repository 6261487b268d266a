//! Debian packages that are unpacked into the cache and never installed: kernels of other releases, and what a guest needs beside
//! the tests.
//!
//! apt fetches them, from the mirrors that this machine is configured for and with the signatures of Debian's own keyring, but with
//! lists of its own: the machine's releases stay as they are, and nothing here needs root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::cargo;

/// Debian's keys for all its releases.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One release of Debian, as far as apt must know it to fetch from it.
pub(super) struct Release {
    /// Where apt's lists and the release's sources are.
    directory: PathBuf,
}

/// A package archive that this machine is configured for.
#[derive(Debug, PartialEq, Eq)]
struct Mirror {
    /// `Debian` or `Debian-Security`.
    label: String,
    /// As apt takes it.
    uri: String,
}

impl Release {
    /// Fetches the lists of the release with this code name.
    ///
    /// # Errors
    ///
    /// When this machine knows no mirror of Debian, or the mirror can't be reached or has no such release.
    pub(super) fn open(cache: &Path, code_name: &str) -> Result<Self> {
        let sources = sources(&mirrors()?, code_name)?;
        let directory = cache.join("apt").join(code_name);
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(directory.join(part)).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        fs::write(directory.join("sources.list"), sources)?;
        let release = Self { directory };
        cargo::succeed(release.apt("apt-get").args(["-qq", "update"]))
            .with_context(|| format!("cannot get the package lists of Debian {code_name}"))?;
        Ok(release)
    }

    /// The package that a package without content stands for: that of the newest kernel, for example.
    ///
    /// # Errors
    ///
    /// When the release has no such package, or it depends on nothing of this name.
    pub(super) fn resolve(&self, package: &str, prefix: &str) -> Result<String> {
        let output = self
            .apt("apt-cache")
            .args(["depends", "--important", package])
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let name = dependencies(&text).find(|name| name.starts_with(prefix));
        name.map(str::to_owned)
            .with_context(|| format!("package {package} depends on nothing that begins with {prefix}"))
    }

    /// Fetches packages and unpacks them into a directory, which exists afterwards whole or not at all.
    ///
    /// # Errors
    ///
    /// When a package does not exist, can't be fetched or its signature is wrong.
    pub(super) fn unpack(&self, packages: &[&str], into: &Path) -> Result<()> {
        eprintln!("fetching from Debian into {}: {}", into.display(), packages.join(", "));
        let mut partial = into.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let downloads = partial.join("download");
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        fs::create_dir_all(&downloads)?;
        let mut download = self.apt("apt-get");
        download
            .args(["-qq", "download"])
            .args(packages)
            .current_dir(&downloads);
        cargo::succeed(&mut download).with_context(|| format!("cannot fetch {}", packages.join(", ")))?;
        for file in fs::read_dir(&downloads)? {
            let mut unpack = Command::new("dpkg-deb");
            unpack.arg("--extract").arg(file?.path()).arg(&partial);
            cargo::succeed(&mut unpack)?;
        }
        fs::remove_dir_all(&downloads)?;
        fs::rename(&partial, into).with_context(|| format!("cannot make {}", into.display()))
    }

    /// A command of apt that knows this release and nothing else.
    fn apt(&self, program: &str) -> Command {
        let file = |name: &str| self.directory.join(name).display().to_string();
        let mut command = Command::new(program);
        for (option, value) in [
            ("Dir::Etc::SourceList", file("sources.list")),
            ("Dir::Etc::SourceParts", "/dev/null".to_owned()),
            ("Dir::State::Lists", file("lists")),
            ("Dir::Cache", file("cache")),
            ("Acquire::Languages", "none".to_owned()),
            // The unprivileged user that apt would become could not write here.
            ("APT::Sandbox::User", "root".to_owned()),
        ] {
            command.arg("-o").arg(format!("{option}={value}"));
        }
        command
    }
}

/// The archives of Debian that this machine is configured for.
fn mirrors() -> Result<Vec<Mirror>> {
    let output = Command::new("apt-get")
        .args([
            "indextargets",
            "--format",
            "$(ORIGIN) $(LABEL) $(REPO_URI)",
            "Created-By: Packages",
        ])
        .output()
        .context(
            "cannot run apt-get: this needs Debian, or a system made from it that has Debian's archives configured",
        )?;
    Ok(parse_mirrors(&String::from_utf8_lossy(&output.stdout)))
}

fn parse_mirrors(targets: &str) -> Vec<Mirror> {
    let mut mirrors = Vec::new();
    for line in targets.lines() {
        let mut words = line.split(' ');
        let (Some("Debian"), Some(label), Some(uri)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let mirror = Mirror {
            label: label.to_owned(),
            uri: uri.to_owned(),
        };
        if !mirrors.contains(&mirror) {
            mirrors.push(mirror);
        }
    }
    mirrors
}

/// The lines of `sources.list` for a release and its security updates.
fn sources(mirrors: &[Mirror], code_name: &str) -> Result<String> {
    let uri = |label: &str| {
        mirrors
            .iter()
            .find(|mirror| mirror.label == label)
            .map(|mirror| &mirror.uri)
    };
    let main = uri("Debian")
        .context("apt knows no archive of Debian; add one to /etc/apt/sources.list.d and run `apt-get update`")?;
    ensure!(
        Path::new(KEYRING).is_file(),
        "{KEYRING} is missing; run `apt-get install debian-archive-keyring`"
    );
    let mut lines = format!("deb [signed-by={KEYRING}] {main} {code_name} main\n");
    // Older kernels of a release leave its archive when a newer one enters; without updates there still is one.
    if let Some(security) = uri("Debian-Security") {
        lines += &format!("deb [signed-by={KEYRING}] {security} {code_name}-security main\n");
    }
    Ok(lines)
}

/// The names in what `apt-cache depends` prints.
fn dependencies(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: &str = "Debian Debian http://mirror.example/debian/\n\
        Debian Debian http://mirror.example/debian/\n\
        Debian Debian-Security http://mirror.example/debian-security/\n\
        Node\u{20}Source nodistro http://node.example/\n";

    #[test]
    fn mirrors_are_those_of_debian_each_once() {
        let labels: Vec<_> = parse_mirrors(TARGETS).into_iter().map(|mirror| mirror.label).collect();
        assert_eq!(labels, ["Debian", "Debian-Security"]);
    }

    #[test]
    fn sources_hold_the_release_and_its_updates() {
        let sources = sources(&parse_mirrors(TARGETS), "bullseye").unwrap_or_default();
        let suites: Vec<_> = sources.lines().filter_map(|line| line.split(' ').nth(3)).collect();
        assert_eq!(suites, ["bullseye", "bullseye-security"]);
    }

    #[test]
    fn machine_without_debian_gets_advice() {
        let error = sources(&[], "bookworm").expect_err("no mirror");
        assert!(error.to_string().contains("apt-get update"), "{error}");
    }

    #[test]
    fn dependencies_are_read() {
        let text = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(
            dependencies(text).collect::<Vec<_>>(),
            ["linux-image-6.1.0-56-cloud-amd64"]
        );
    }
}
