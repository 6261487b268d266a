//! Kernels of Debian, and the modules that a laboratory needs of them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::packages::Release;
use crate::cargo;

/// What the laboratory and its rival are made of, as far as Debian builds it as modules.
const MODULES: [&str; 8] = [
    "veth",
    "bridge",
    "dummy",
    "8021q",
    // The tc hook and its programs, before there was tcx.
    "sch_ingress",
    "cls_bpf",
    "ip_vs",
    "ip_vs_rr",
];

/// A kernel that Debian has built.
pub(super) struct Source {
    /// Its series, and the name it has here.
    pub(super) series: &'static str,
    /// Code name of the release it comes with.
    release: &'static str,
    /// The package that depends on the newest one of the series. The kernels for virtual machines are the smallest.
    package: &'static str,
    /// Whether xlb is made for it.
    pub(super) is_supported: bool,
}

/// The kernels to test on, oldest first.
pub(super) const SOURCES: [Source; 3] = [
    Source {
        series: "5.10",
        release: "bullseye",
        package: "linux-image-cloud-amd64",
        is_supported: false,
    },
    Source {
        series: "6.1",
        release: "bookworm",
        package: "linux-image-cloud-amd64",
        is_supported: true,
    },
    Source {
        series: "6.12",
        release: "bookworm",
        package: "linux-image-6.12-cloud-amd64",
        is_supported: true,
    },
];

/// A kernel in the cache.
#[derive(Debug)]
pub(super) struct Image {
    /// What boots.
    pub(super) file: PathBuf,
    /// [`MODULES`] and what they need, in the order to load them.
    pub(super) modules: Vec<PathBuf>,
}

impl Source {
    /// The kernel from the cache; fetched if it is not there.
    ///
    /// # Errors
    ///
    /// When it can't be fetched, or its package is not made as expected.
    pub(super) fn image(&self, cache: &Path, busybox: &Path) -> Result<Image> {
        let directory = cache.join(self.series);
        if !directory.exists() {
            let release = Release::open(cache, self.release)?;
            let package = release.resolve(self.package, &format!("linux-image-{}.", self.series))?;
            release.unpack(&[&package], &directory)?;
        }
        Image::open(&directory, busybox).with_context(|| {
            format!(
                "Linux {} in {} is not usable; remove it to fetch it again",
                self.series,
                directory.display()
            )
        })
    }
}

impl Image {
    /// An unpacked package.
    fn open(directory: &Path, busybox: &Path) -> Result<Self> {
        let modules = only_entry(&directory.join("lib/modules"), "")?;
        let list = modules.join("modules.dep");
        if !list.exists() {
            let version = modules.file_name().context("a version")?;
            cargo::succeed(Command::new(busybox).args(["depmod", "-b"]).arg(directory).arg(version))?;
        }
        let dependencies = fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
        let order = load_order(&dependencies, &MODULES)?;
        Ok(Self {
            file: only_entry(&directory.join("boot"), "vmlinuz-")?,
            modules: order.into_iter().map(|path| modules.join(path)).collect(),
        })
    }
}

/// The one entry of a directory whose name begins so.
fn only_entry(directory: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut matching = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    });
    match (matching.next(), matching.next()) {
        (Some(path), None) => Ok(path),
        _ => bail!("{} should hold one {prefix}*", directory.display()),
    }
}

/// The files of modules and of all that they depend on, each after what it needs. `list` is a `modules.dep`: `a.ko: b.ko c.ko`, where
/// the last has to be loaded first.
fn load_order<'a>(list: &'a str, modules: &[&str]) -> Result<Vec<&'a str>> {
    let mut order = Vec::new();
    for module in modules {
        let line = list.lines().find_map(|line| {
            let (file, needs) = line.split_once(':')?;
            let name = file.rsplit('/').next()?.split('.').next()?;
            (name == *module).then_some((file, needs))
        });
        let (file, needs) = line.with_context(|| format!("this kernel has no module {module}"))?;
        for file in needs.split_whitespace().rev().chain([file]) {
            if !order.contains(&file) {
                order.push(file);
            }
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "kernel/net/bridge/bridge.ko: kernel/net/802/stp.ko kernel/net/llc/llc.ko\n\
        kernel/net/llc/llc.ko:\n\
        kernel/net/802/stp.ko: kernel/net/llc/llc.ko\n\
        kernel/drivers/net/veth.ko.xz:\n";

    #[test]
    fn modules_come_after_what_they_need_and_once() {
        let order = load_order(LIST, &["bridge", "veth", "stp"]).expect("an order");
        let names: Vec<_> = order.iter().filter_map(|path| path.rsplit('/').next()).collect();
        assert_eq!(names, ["llc.ko", "stp.ko", "bridge.ko", "veth.ko.xz"]);
    }

    #[test]
    fn module_that_the_kernel_lacks_is_named() {
        let error = load_order(LIST, &["ip_vs"]).expect_err("no such module");
        assert!(error.to_string().contains("ip_vs"), "{error}");
    }
}
