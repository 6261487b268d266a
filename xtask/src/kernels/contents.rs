//! What is in a guest beside its kernel: the test programs of this build, `xlb`, and what they call.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::{guest::Library, packages::Release};
use crate::{
    cargo::{self, Workspace},
    debian,
};

/// The release whose small tools are used; any would do.
const RELEASE: &str = "bookworm";
/// A shell for the guest, the rival, and the libraries of the latter.
const PACKAGES: [&str; 5] = [
    "busybox-static",
    "ipvsadm",
    "libnl-3-200",
    "libnl-genl-3-200",
    "libpopt0",
];
/// What the tests call of this machine.
const SYSTEM: [&str; 3] = ["ip", "tc", "nsenter"];
/// The test programs of `lb-tests` that run in a guest.
const TESTS: [&str; 3] = ["packet", "netns", "guest"];

/// Programs of Debian, unpacked.
pub(super) struct Tools(PathBuf);

impl Tools {
    /// From the cache; fetched if they are not there.
    ///
    /// # Errors
    ///
    /// When they can't be fetched.
    pub(super) fn open(cache: &Path) -> Result<Self> {
        let directory = cache.join("tools");
        if !directory.exists() {
            Release::open(cache, RELEASE)?.unpack(&PACKAGES, &directory)?;
        }
        Ok(Self(directory))
    }

    /// Many small programs in one, without any library.
    pub(super) fn busybox(&self) -> PathBuf {
        self.0.join("bin/busybox")
    }

    fn ipvsadm(&self) -> PathBuf {
        self.0.join("sbin/ipvsadm")
    }

    /// Where its libraries are, as the dynamic linker takes it.
    fn library_path(&self) -> String {
        let directories = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
        directories
            .map(|directory| self.0.join(directory).display().to_string())
            .join(":")
    }
}

/// The executables of a guest, by name, and their libraries.
pub(super) struct Contents {
    /// Name below `/bin`, and file.
    pub(super) programs: Vec<(String, PathBuf)>,
    /// Libraries and the dynamic linker.
    pub(super) libraries: Vec<Library>,
    /// The test program that can run on this machine as it is.
    pub(super) guest_tests: PathBuf,
}

impl Contents {
    /// Builds the tests, the very files that the other layers run, and leaves out their debug information, which is most of them.
    ///
    /// # Errors
    ///
    /// When something does not build or is missing.
    pub(super) fn gather(workspace: &Workspace, tools: &Tools, directory: &Path) -> Result<Self> {
        let mut built = tests(workspace)?;
        built.push(("xlb".to_owned(), workspace.release_xlb()?));
        let guest_tests = built.iter().find(|(name, _)| name == "guest");
        let guest_tests = guest_tests
            .map(|(_, file)| file.clone())
            .context("no test program `guest`")?;

        let stripped = directory.join("bin");
        fs::create_dir_all(&stripped).with_context(|| format!("cannot make {}", stripped.display()))?;
        let mut programs = Vec::new();
        for (name, file) in built {
            let small = stripped.join(&name);
            cargo::succeed(
                Command::new("strip")
                    .args(["--strip-debug", "-o"])
                    .arg(&small)
                    .arg(&file),
            )?;
            programs.push((name, small));
        }
        for name in SYSTEM {
            let file =
                debian::find(name).with_context(|| format!("{name} is missing; run `apt-get install iproute2`"))?;
            programs.push((name.to_owned(), file));
        }
        programs.push(("ipvsadm".to_owned(), tools.ipvsadm()));
        let libraries = libraries(&programs, tools)?;
        programs.push(("busybox".to_owned(), tools.busybox()));
        Ok(Self {
            programs,
            libraries,
            guest_tests,
        })
    }
}

/// The test programs by name, with the `lab` that comes along.
fn tests(workspace: &Workspace) -> Result<Vec<(String, PathBuf)>> {
    let mut build = workspace.cargo("test");
    build.args(["--no-run", "--package=lb-tests"]);
    for test in TESTS {
        build.args(["--test", test]);
    }
    // Asked for its tests, cargo builds the binaries of the package as well.
    let executables =
        cargo::build_executables(build, |artifact| artifact.profile.test || artifact.target.name == "lab")?;
    let named = executables.into_iter().map(|file| Ok((program_name(&file)?, file)));
    named.collect()
}

/// A program's name: cargo adds `-0123456789abcdef` to that of a test program.
fn program_name(file: &Path) -> Result<String> {
    let stem = file.file_stem().and_then(|stem| stem.to_str());
    let stem = stem.with_context(|| format!("{} has no name", file.display()))?;
    Ok(stem.rsplit_once('-').map_or(stem, |(name, _)| name).to_owned())
}

/// The libraries of programs, as the dynamic linker finds them.
fn libraries(programs: &[(String, PathBuf)], tools: &Tools) -> Result<Vec<Library>> {
    let mut libraries = BTreeSet::new();
    for (name, file) in programs {
        let output = Command::new("ldd")
            .arg(file)
            .env("LD_LIBRARY_PATH", tools.library_path())
            .output()
            .context("cannot run ldd")?;
        ensure!(output.status.success(), "ldd can't tell the libraries of {name}");
        for library in parse_libraries(&String::from_utf8_lossy(&output.stdout)) {
            libraries.insert(library.with_context(|| format!("a library of {name} is missing"))?);
        }
    }
    Ok(libraries.into_iter().collect())
}

/// The files in what `ldd` prints: `name => file (address)`, or the dynamic linker's file alone. What the kernel provides has none.
fn parse_libraries(text: &str) -> impl Iterator<Item = Result<Library>> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        match (words.next(), words.next()) {
            (Some("=>"), Some("not")) => Some(Err(anyhow::anyhow!("{name} is not installed"))),
            // `/lib` is searched everywhere.
            (Some("=>"), Some(file)) => Some(Ok(Library {
                place: format!("lib/{name}"),
                file: file.into(),
            })),
            // The programs name their dynamic linker with its path.
            _ => name.strip_prefix('/').map(|place| {
                Ok(Library {
                    place: place.to_owned(),
                    file: name.into(),
                })
            }),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_go_where_every_program_looks_for_them() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007fa5)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007fa5)\n";
        let libraries: Vec<_> = parse_libraries(text).map(Result::unwrap).collect();
        let places: Vec<_> = libraries.iter().map(|library| library.place.as_str()).collect();
        assert_eq!(places, ["lib/libc.so.6", "lib64/ld-linux-x86-64.so.2"]);
        assert_eq!(libraries[0].file, Path::new("/lib/x86_64-linux-gnu/libc.so.6"));
    }

    #[test]
    fn missing_library_is_an_error() {
        let mut libraries = parse_libraries("\tlibpopt.so.0 => not found\n");
        assert!(libraries.next().is_some_and(|library| library.is_err()));
    }

    #[test]
    fn programs_are_known_by_name() {
        for (path, expected) in [
            ("/target/debug/deps/packet-1bf5b93808a263a8", "packet"),
            ("/target/debug/lab", "lab"),
        ] {
            assert_eq!(program_name(Path::new(path)).ok().as_deref(), Some(expected));
        }
    }
}
