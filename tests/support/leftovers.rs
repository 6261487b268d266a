//! Removing laboratories: one's own at its end, and what an earlier run left when it was killed.
//!
//! All that a laboratory makes outside its process carries its [`Instance`] in the name: namespaces, pin directories, directories
//! below `/run`. So whoever finds one whose process is gone can remove it.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{namespace::NAMESPACES, wait::until_true};

/// Where the BPF file system is mounted.
pub const BPF_FILE_SYSTEM: &str = "/sys/fs/bpf";

/// Where configuration, socket and logs are: writable for root alone, unlike `/tmp`.
const RUN: &str = "/run";

/// Everywhere a laboratory leaves names.
const PLACES: [&str; 3] = [NAMESPACES, BPF_FILE_SYSTEM, RUN];

const PREFIX: &str = "xlb-lab-";

/// One laboratory of one process. Its display form starts every name: `xlb-lab-4711-0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instance {
    process: i32,
    number: u32,
}

impl Instance {
    /// A new one for this process.
    pub fn next() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self {
            process: Pid::this().as_raw(),
            number: NEXT.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// The instance that a namespace or directory of this name belongs to, if any.
    pub fn of_name(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix(PREFIX)?.split('-');
        Some(Self {
            process: parts.next()?.parse().ok()?,
            number: parts.next()?.parse().ok()?,
        })
    }

    /// Name of its namespace for this role.
    pub fn namespace_name(self, role: &str) -> String {
        format!("{self}-{role}")
    }

    /// Its pin directory; the agent makes it.
    pub fn pins(self) -> PathBuf {
        Path::new(BPF_FILE_SYSTEM).join(self.to_string())
    }

    /// Its directory for configuration, socket and logs; made on demand.
    ///
    /// # Errors
    ///
    /// When it can't be made.
    pub fn directory(self) -> Result<PathBuf> {
        let path = Path::new(RUN).join(self.to_string());
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// What there is of it: namespaces, pins, directory. Empty once it is removed.
    pub fn traces(self) -> Vec<PathBuf> {
        let all = PLACES.iter().flat_map(|place| entries(Path::new(place)));
        all.filter(|path| instance_of(path) == Some(self)).collect()
    }

    /// Whether its process still runs: one that ended and that nobody waited for yet does not. A number that the kernel has given to
    /// another process meanwhile only delays the removal.
    fn is_alive(self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/stat", self.process)).unwrap_or_default();
        // The state follows the program's name, which may hold parentheses itself.
        let state = status.rsplit_once(')').map_or("", |(_, rest)| rest.trim_start());
        !state.is_empty() && !state.starts_with(['Z', 'X'])
    }

    /// Ends the processes in its namespaces, then removes namespaces, pins and directory. What is gone is fine.
    ///
    /// # Errors
    ///
    /// The first of them; the rest is removed nevertheless.
    pub fn remove(self) -> Result<()> {
        let belongs = |path: &PathBuf| instance_of(path) == Some(self);
        let mut result = Ok(());
        for namespace in entries(Path::new(NAMESPACES)).filter(belongs) {
            result = result.and(remove_namespace(&namespace));
        }
        for parent in [BPF_FILE_SYSTEM, RUN] {
            for directory in entries(Path::new(parent)).filter(belongs) {
                let removed = ignore_missing(fs::remove_dir_all(&directory));
                result = result.and(removed.with_context(|| format!("cannot remove {}", directory.display())));
            }
        }
        result
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}-{}", self.process, self.number)
    }
}

/// Removes every laboratory whose process is gone, and returns them.
///
/// # Errors
///
/// As of [`Instance::remove`].
pub fn remove_leftovers() -> Result<Vec<Instance>> {
    let mut dead: Vec<Instance> = PLACES
        .iter()
        .flat_map(|place| entries(Path::new(place)))
        .filter_map(|path| instance_of(&path))
        .filter(|instance| !instance.is_alive())
        .collect();
    dead.sort_unstable();
    dead.dedup();
    dead.iter().try_for_each(|instance| instance.remove())?;
    Ok(dead)
}

fn instance_of(path: &Path) -> Option<Instance> {
    Instance::of_name(path.file_name()?.to_str()?)
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

fn remove_namespace(path: &Path) -> Result<()> {
    end_processes(path)?;
    // Fails when somebody else was faster, or on a file that an interrupted start never mounted anything on.
    let _ = umount2(path, MntFlags::MNT_DETACH);
    ignore_missing(fs::remove_file(path)).with_context(|| format!("cannot remove {}", path.display()))
}

/// Kills the processes of a namespace one by one and waits until none is left.
fn end_processes(namespace: &Path) -> Result<()> {
    let Some(own) = inode(Path::new("/proc/self/ns/net")) else {
        return Ok(());
    };
    // Only while this really is a namespace, and not the one everything else runs in.
    let Some(identity) = inode(namespace).filter(|identity| *identity != own && identity.0 == own.0) else {
        return Ok(());
    };
    let what = format!("end of the processes in {}", namespace.display());
    until_true(&what, Duration::from_secs(10), || {
        let processes = processes_in(identity);
        for process in &processes {
            // It may have ended by itself meanwhile.
            let _ = kill(*process, Signal::SIGKILL);
        }
        processes.is_empty()
    })
}

/// The processes of a network namespace, given by device and inode. Ended ones that nobody waited for have no namespace anymore.
fn processes_in(namespace: (u64, u64)) -> Vec<Pid> {
    entries(Path::new("/proc"))
        .filter(|process| inode(&process.join("ns/net")) == Some(namespace))
        .filter_map(|process| process.file_name()?.to_str()?.parse().ok())
        .map(Pid::from_raw)
        .collect()
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_that_nobody_waited_for_is_dead() {
        let number = 0;
        let of = |process: i32| Instance { process, number };
        assert!(of(Pid::this().as_raw()).is_alive());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dead = of(child.id().try_into().unwrap());
        until_true("end of true", Duration::from_secs(10), || !dead.is_alive()).unwrap();
        child.wait().unwrap();
        assert!(!dead.is_alive());
    }

    #[test]
    fn names_lead_back_to_their_instance() {
        let instance = Instance::next();
        assert_eq!(Instance::of_name(&instance.to_string()), Some(instance));
        assert_eq!(Instance::of_name(&instance.namespace_name("backend1")), Some(instance));
        assert_ne!(Instance::next(), instance);
        for foreign in ["xlb", "xlb-lab", "xlb-lab-", "xlb-lab-one-2", "client-1-2"] {
            assert_eq!(Instance::of_name(foreign), None, "{foreign}");
        }
    }
}
