//! Programs of the system that the tests need, and the Debian packages they come in.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};

use crate::{bpf, cargo, privilege::Root};

/// A program and the package it comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    name: &'static str,
    package: &'static str,
}

/// What every test with network namespaces needs; a plain Debian server has it.
pub(crate) const LABORATORY: [Program; 2] = [
    Program {
        name: "ip",
        package: "iproute2",
    },
    Program {
        name: "nsenter",
        package: "util-linux",
    },
];

/// What `cargo xtask test real` needs.
pub(crate) const REAL: [Program; 5] = [
    Program {
        name: "nginx",
        package: "nginx",
    },
    Program {
        name: "curl",
        package: "curl",
    },
    Program {
        name: "iperf3",
        package: "iperf3",
    },
    Program {
        name: "ping",
        package: "iputils-ping",
    },
    Program {
        name: "traceroute",
        package: "traceroute",
    },
];

/// What `cargo xtask test kernels` needs of this machine; what the guests need is unpacked for them alone.
pub(crate) const KERNELS: [Program; 3] = [
    Program {
        name: "qemu-system-x86_64",
        package: "qemu-system-x86",
    },
    Program {
        name: "strip",
        package: "binutils",
    },
    Program {
        name: "tc",
        package: "iproute2",
    },
];

/// Installs packages without starting their services: the tests start what they need inside namespaces, and nothing shall listen
/// on this host because of them.
const INSTALL: &str = r#"
set -e
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
fi
apt-get update -qq
apt-get install -qq --yes --no-install-recommends "$@"
if command -v systemctl > /dev/null; then
    for package in "$@"; do
        systemctl disable --quiet "$package" 2>/dev/null || true
    done
fi
"#;

/// The programs that are not installed.
pub(crate) fn missing(programs: &[Program]) -> Vec<Program> {
    programs
        .iter()
        .copied()
        .filter(|program| find(program.name).is_none())
        .collect()
}

/// How to get programs that are missing.
pub(crate) fn advice(missing: &[Program]) -> String {
    let names: Vec<_> = missing.iter().map(|program| program.name).collect();
    let packages: Vec<_> = missing.iter().map(|program| program.package).collect();
    format!(
        "missing {}; run `apt-get install {}`",
        names.join(", "),
        packages.join(" ")
    )
}

/// Makes sure of programs, installing what is absent.
///
/// # Errors
///
/// When something is missing and cannot be installed.
pub(crate) fn make_sure_of(programs: &[Program], root: Root) -> Result<()> {
    let absent = missing(programs);
    if absent.is_empty() {
        return Ok(());
    }
    ensure!(
        find("apt-get").is_some(),
        "{} or the like: there is no apt-get here",
        advice(&absent)
    );
    let packages: Vec<_> = absent.iter().map(|program| program.package).collect();
    eprintln!(
        "installing from Debian: {} (their services are not started)",
        packages.join(", ")
    );
    let mut install = root.command(Path::new("sh"), &[]);
    // The chatter of package managers is of no use, their errors are.
    install
        .args(["-c", INSTALL, "sh"])
        .args(packages)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    cargo::succeed(&mut install).with_context(|| advice(&absent))
}

/// A program on `PATH` or among those of the administrator, which not every user has on `PATH`.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let administrator = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(|directory| Path::new(directory).join(name));
    bpf::on_path(name).or_else(|| administrator.into_iter().find(|file| file.is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_names_programs_and_packages() {
        let advice = advice(&LABORATORY);
        assert_eq!(advice, "missing ip, nsenter; run `apt-get install iproute2 util-linux`");
    }

    #[test]
    fn only_absent_programs_are_missing() {
        let absent = Program {
            name: "xlb-no-such-program",
            package: "none",
        };
        let present = Program {
            name: "sh",
            package: "dash",
        };
        assert_eq!(missing(&[present, absent]), [absent]);
    }
}
