//! The pin directory: where maps and links live on when the agent does not.
//!
//! bpffs is writable for everybody by default, so a directory that somebody else made, or may write to, is not trusted.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use crate::model::XdpMode;

/// Where the pins are unless `--pins` says otherwise.
pub const DEFAULT_DIRECTORY: &str = "/sys/fs/bpf/xlb";

/// Why a pin directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PinsError {
    /// The parent is not bpffs.
    #[error(
        "{directory} is not on a bpf file system; mount one: mount -t bpf bpf /sys/fs/bpf (inside a network namespace \
         enter with `nsenter --net=`: `ip netns exec` hides it)"
    )]
    NotBpffs {
        /// The directory.
        directory: PathBuf,
    },
    /// Somebody else could change it.
    #[error("{directory} is not to be trusted: {reason}; if nobody else uses it, remove it: rm -r {directory}")]
    Untrusted {
        /// The directory.
        directory: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An agent runs with it.
    #[error("{directory} is in use by a running xlb; stop that one first, its data plane goes on forwarding")]
    InUse {
        /// The directory.
        directory: PathBuf,
    },
    /// A file operation failed.
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

/// The right to change what is pinned, which one process at a time has. It ends with the process, however that ends.
#[derive(Debug)]
pub struct PinsLock {
    _directory: Flock<fs::File>,
}

/// A pin directory that belongs to this user and nobody else can write to.
#[derive(Clone, Debug)]
pub struct Pins {
    directory: PathBuf,
    made: bool,
}

impl Pins {
    /// Opens the directory, making it with mode 0700 if it is not there.
    pub fn create(directory: &Path) -> Result<Self, PinsError> {
        let parent = directory.parent().unwrap_or(directory);
        if !is_bpffs(parent) {
            return Err(PinsError::NotBpffs {
                directory: directory.to_owned(),
            });
        }
        let made = match fs::DirBuilder::new().mode(0o700).create(directory) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(source) => {
                return Err(PinsError::Io {
                    operation: "create",
                    path: directory.to_owned(),
                    source,
                });
            }
        };
        let pins = Self {
            directory: directory.to_owned(),
            made,
        };
        pins.check_owner()?;
        Ok(pins)
    }

    /// Opens the directory if it is there.
    pub fn open(directory: &Path) -> Result<Option<Self>, PinsError> {
        let parent = directory.parent().unwrap_or(directory);
        if parent.exists() && !is_bpffs(parent) {
            // What is pinned may well be there, out of sight.
            return Err(PinsError::NotBpffs {
                directory: directory.to_owned(),
            });
        }
        let pins = Self {
            directory: directory.to_owned(),
            made: false,
        };
        match fs::symlink_metadata(directory) {
            Ok(_) => {
                pins.check_owner()?;
                Ok(Some(pins))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(PinsError::Io {
                operation: "read",
                path: directory.to_owned(),
                source,
            }),
        }
    }

    fn check_owner(&self) -> Result<(), PinsError> {
        let untrusted = |reason: String| PinsError::Untrusted {
            directory: self.directory.clone(),
            reason,
        };
        let metadata = fs::symlink_metadata(&self.directory).map_err(|source| PinsError::Io {
            operation: "read",
            path: self.directory.clone(),
            source,
        })?;
        let user = nix::unistd::geteuid().as_raw();
        if !metadata.is_dir() {
            return Err(untrusted("it is not a directory".to_owned()));
        }
        if metadata.uid() != user {
            return Err(untrusted(format!(
                "it belongs to user {}, not to {user}",
                metadata.uid()
            )));
        }
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(untrusted(format!("its mode is {mode:04o}, expected 0700")));
        }
        Ok(())
    }

    /// Makes sure that no other process changes what is pinned while the result is held.
    ///
    /// # Errors
    ///
    /// [`PinsError::InUse`] when another one holds it.
    pub fn lock(&self) -> Result<PinsLock, PinsError> {
        let error = |source| PinsError::Io {
            operation: "lock",
            path: self.directory.clone(),
            source,
        };
        let directory = fs::File::open(&self.directory).map_err(error)?;
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(PinsLock { _directory: lock }),
            Err((_, Errno::EWOULDBLOCK)) => Err(PinsError::InUse {
                directory: self.directory.clone(),
            }),
            Err((_, errno)) => Err(error(errno.into())),
        }
    }

    /// Whether [`Self::create`] made the directory, rather than finding it.
    pub const fn is_new(&self) -> bool {
        self.made
    }

    /// The directory itself.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where a map is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Where the XDP link of an interface is pinned. By index, since a name may hold a dot, which bpffs refuses. The mode is part of
    /// the name, since asking the kernel for it takes more privileges than the agent needs otherwise.
    pub fn link(&self, ifindex: u32, mode: XdpMode) -> PathBuf {
        let prefix = match mode {
            XdpMode::Generic => GENERIC_LINK,
            XdpMode::Native | XdpMode::Auto => NATIVE_LINK,
        };
        self.directory.join(format!("{prefix}{ifindex}"))
    }

    /// Where the tc link of an interface in generic mode is pinned.
    pub fn tc_link(&self, ifindex: u32) -> PathBuf {
        self.directory.join(format!("tc-{ifindex}"))
    }

    /// Where the slots of a service are pinned, for a later agent to read.
    pub fn slots(&self, service: u32) -> PathBuf {
        self.directory.join(format!("{SLOTS}{service}"))
    }

    /// Where slots are pinned that are about to come into force.
    pub fn coming_slots(&self, service: u32) -> PathBuf {
        self.directory.join(format!("{COMING_SLOTS}{service}"))
    }

    /// Indices of the interfaces that have a pinned XDP link.
    pub fn links(&self) -> Result<Vec<u32>, PinsError> {
        let index = |name: &str| {
            let prefixes = [NATIVE_LINK, GENERIC_LINK];
            prefixes
                .iter()
                .find_map(|prefix| name.strip_prefix(prefix)?.parse().ok())
        };
        Ok(self.names()?.iter().filter_map(|name| index(name)).collect())
    }

    /// Removes the slots of all services.
    pub fn remove_slots(&self) -> Result<(), PinsError> {
        let slots = |name: &&String| [SLOTS, COMING_SLOTS].iter().any(|prefix| name.starts_with(prefix));
        self.names()?
            .iter()
            .filter(slots)
            .try_for_each(|name| self.remove(&self.directory.join(name)))
    }

    /// Names of everything that is pinned.
    fn names(&self) -> Result<Vec<String>, PinsError> {
        let error = |source| PinsError::Io {
            operation: "list",
            path: self.directory.clone(),
            source,
        };
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(error)? {
            names.extend(entry.map_err(error)?.file_name().into_string());
        }
        Ok(names)
    }

    /// Gives a pin another name, in place of what has that name.
    pub fn rename(&self, from: &Path, to: &Path) -> Result<(), PinsError> {
        fs::rename(from, to).map_err(|source| PinsError::Io {
            operation: "rename",
            path: from.to_owned(),
            source,
        })
    }

    /// Removes a pin; one that is not there is fine.
    pub fn remove(&self, path: &Path) -> Result<(), PinsError> {
        match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(PinsError::Io {
                operation: "remove",
                path: path.to_owned(),
                source,
            }),
            _ => Ok(()),
        }
    }

    /// Removes the directory, which must be empty.
    pub fn remove_directory(self) -> Result<(), PinsError> {
        fs::remove_dir(&self.directory).map_err(|source| PinsError::Io {
            operation: "remove",
            path: self.directory,
            source,
        })
    }
}

const NATIVE_LINK: &str = "xdp-native-";
const GENERIC_LINK: &str = "xdp-generic-";
const SLOTS: &str = "slots-";
const COMING_SLOTS: &str = "coming-slots-";

fn is_bpffs(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|stat| stat.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC)
}
