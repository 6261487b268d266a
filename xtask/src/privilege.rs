//! What loading a BPF program takes: root, a kernel that is new enough, and a mounted BPF file system.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::{bpf, cargo, debian};

/// The oldest kernel that the data plane is made for.
const KERNEL: (u32, u32) = (6, 1);

/// Where BPF objects are pinned.
const BPFFS: &str = "/sys/fs/bpf";

/// The way to root: none needed, or `sudo`.
#[derive(Clone, Copy)]
pub(crate) enum Root {
    /// This process is root.
    Already,
    /// `sudo` gave its consent.
    Sudo,
}

impl Root {
    /// Becomes able to run programs as root, asking for a password if `sudo` wants one.
    ///
    /// # Errors
    ///
    /// When this process is not root and `sudo` is missing or refuses.
    pub(crate) fn obtain() -> Result<Self> {
        if nix::unistd::geteuid().is_root() {
            return Ok(Self::Already);
        }
        ensure!(
            bpf::on_path("sudo").is_some(),
            "this needs root and sudo is missing; run it as root"
        );
        cargo::succeed(Command::new("sudo").arg("--validate"))
            .context("this needs root; run it as root or allow sudo")?;
        Ok(Self::Sudo)
    }

    /// A command that runs as root with these variables, which `sudo` would not hand on by itself.
    pub(crate) fn command(self, program: &Path, variables: &[(&str, &Path)]) -> Command {
        match self {
            Self::Already => {
                let mut command = Command::new(program);
                command.envs(variables.iter().copied());
                command
            }
            Self::Sudo => {
                let mut command = Command::new("sudo");
                command.args(["--", "env"]);
                for (name, value) in variables {
                    command.arg(format!("{name}={}", value.display()));
                }
                command.arg(program);
                command
            }
        }
    }
}

/// Makes sure that BPF programs can be loaded and namespaces made here.
///
/// # Errors
///
/// When the kernel is too old, there is no way to root, or a program of the laboratory is missing.
pub(crate) fn for_kernel() -> Result<Root> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")
        .context("cannot read the kernel's version; xlb needs Linux")?;
    ensure!(
        kernel_version(&release).is_some_and(|version| version >= KERNEL),
        "the kernel is {}, xlb needs {}.{} or newer; boot a newer one",
        release.trim(),
        KERNEL.0,
        KERNEL.1
    );
    let missing = debian::missing(&debian::LABORATORY);
    ensure!(missing.is_empty(), "{}", debian::advice(&missing));
    let root = Root::obtain()?;
    mount_bpffs(root)?;
    Ok(root)
}

/// Mounts the BPF file system unless it is.
fn mount_bpffs(root: Root) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the list of mounts")?;
    if is_bpffs_mounted(&mounts) {
        return Ok(());
    }
    eprintln!("mounting the BPF file system at {BPFFS}");
    cargo::succeed(root.command(Path::new("mount"), &[]).args(["-t", "bpf", "bpf", BPFFS]))
        .context("cannot mount the BPF file system; see `mount -t bpf bpf /sys/fs/bpf`")
}

/// Whether the list of mounts has a BPF file system at its usual place.
fn is_bpffs_mounted(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(BPFFS) && fields.next() == Some("bpf")
    })
}

/// Major and minor version of a kernel release such as `6.12.9-amd64`.
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.trim().split(|other: char| !other.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_version_is_major_and_minor() {
        assert_eq!(kernel_version("6.12.9-amd64\n"), Some((6, 12)));
        assert_eq!(kernel_version("5.10.0"), Some((5, 10)));
        assert_eq!(kernel_version("6.1-rc3"), Some((6, 1)));
        assert_eq!(kernel_version("unknown"), None);
    }

    #[test]
    fn kernel_versions_compare_as_numbers() {
        assert!(kernel_version("6.12.0") > Some((6, 2)), "12 is newer than 2");
        assert!(kernel_version("5.19.0") < Some(KERNEL));
    }

    #[test]
    fn sudo_hands_variables_on() {
        let command = Root::Sudo.command(Path::new("/lab/netns"), &[("XLB_BIN", Path::new("/lab/xlb"))]);
        assert_eq!(command.get_program(), "sudo");
        let arguments: Vec<_> = command.get_args().collect();
        assert_eq!(arguments, ["--", "env", "XLB_BIN=/lab/xlb", "/lab/netns"]);
    }

    #[test]
    fn bpffs_is_found_by_place_and_type() {
        assert!(is_bpffs_mounted(
            "proc /proc proc rw 0 0\nbpf /sys/fs/bpf bpf rw,nosuid 0 0\n"
        ));
        assert!(!is_bpffs_mounted(
            "tmpfs /sys/fs/bpf tmpfs rw 0 0\nbpf /run/other bpf rw 0 0\n"
        ));
    }
}
