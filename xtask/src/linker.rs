//! A `bpf-linker` that reads what the pinned compiler writes.
//!
//! The two exchange LLVM bitcode, so their LLVM must be of one version. The surest LLVM is the compiler's own shared library:
//! building the linker against it needs no package of the system.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{self, Write as _},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{bpf, tool::Tool};

/// The release of `bpf-linker` that is installed.
const VERSION: &str = "0.13.0";

/// A program without `core`, with a parameter whose attributes an older LLVM does not know.
const PROBE: &str = r#"
#![feature(no_core, lang_items)]
#![no_core]
#[lang = "pointee_sized"]
trait PointeeSized {}
#[lang = "meta_sized"]
trait MetaSized: PointeeSized {}
#[lang = "sized"]
trait Sized: MetaSized {}
#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp")]
extern "C" fn probe(_: &u64) {}
"#;

/// Finds a linker that works, or builds one, and tells where it is.
///
/// # Errors
///
/// When `BPF_LINKER` names one that does not work, or none can be built.
pub(crate) fn make_sure() -> Result<PathBuf> {
    let tools = bpf::tools_directory()?;
    let bitcode = Bitcode::compile()?;
    let found = bpf::find_linker(&tools);
    if let Some(linker) = &found {
        match bitcode.link(linker) {
            Ok(()) => return Ok(linker.clone()),
            Err(error) if env::var_os("BPF_LINKER").is_some() => {
                return Err(error.context("the linker named by BPF_LINKER does not work; unset it or name another"));
            }
            Err(error) => eprintln!("not using {}: {error:#}", linker.display()),
        }
    }
    let linker = install(&tools)?;
    bitcode
        .link(&linker)
        .context("the bpf-linker just built does not work")?;
    Ok(linker)
}

/// Folder of the compiler's libraries and sources.
///
/// # Errors
///
/// When the compiler cannot be run.
pub(crate) fn sysroot() -> Result<PathBuf> {
    let output = Command::new(rustc())
        .args(["--print", "sysroot"])
        .output()
        .context("cannot run rustc; install Rust by https://rustup.rs")?;
    let sysroot = String::from_utf8(output.stdout).context("`rustc --print sysroot` printed no text")?;
    Ok(PathBuf::from(sysroot.trim()))
}

fn rustc() -> OsString {
    env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())
}

/// Builds the linker against the compiler's LLVM.
fn install(tools: &Path) -> Result<PathBuf> {
    let version = bpf::compiler_version()?;
    let llvm = bpf::version_field(&version, "LLVM version").context("`rustc -vV` names no LLVM version")?;
    let feature = llvm_feature(llvm).with_context(|| format!("cannot read the LLVM version `{llvm}` of rustc"))?;
    offer_llvm(&sysroot()?.join("lib"), &tools.join("lib"))?;
    Tool {
        name: "bpf-linker",
        version: VERSION,
        duration: "about a minute",
        options: &["--no-default-features", "--features", &feature],
    }
    .install(tools, |cargo| {
        // Ends up as the search path in the linker, so the folder stays.
        cargo.env("LLVM_PREFIX", tools);
    })
}

/// The feature of `bpf-linker` for an LLVM version such as `22.1.2`.
fn llvm_feature(version: &str) -> Option<String> {
    let major: u32 = version.split('.').next()?.parse().ok()?;
    Some(format!("llvm-{major}"))
}

/// Links the compiler's LLVM into `library`, by the name that a build looks for and by the one that the loader looks for.
fn offer_llvm(compiler: &Path, library: &Path) -> Result<()> {
    let names = fs::read_dir(compiler)
        .with_context(|| format!("cannot list {}", compiler.display()))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let Some(name) = names.into_iter().find(|name| is_llvm(name)) else {
        bail!(
            "no shared LLVM in {}; use the toolchain of rustup, or name a bpf-linker in BPF_LINKER",
            compiler.display()
        );
    };
    fs::create_dir_all(library).with_context(|| format!("cannot create {}", library.display()))?;
    for link in ["libLLVM.so", name.as_str()] {
        let link = library.join(link);
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot replace {}", link.display()));
            }
            _ => {}
        }
        symlink(compiler.join(&name), &link).with_context(|| format!("cannot create {}", link.display()))?;
    }
    Ok(())
}

/// Whether a file is LLVM itself and not a link-time stub: `libLLVM.so.22.1-rust-1.95.0-stable`.
fn is_llvm(name: &str) -> bool {
    name.strip_prefix("libLLVM.so.")
        .is_some_and(|version| version.starts_with(|first: char| first.is_ascii_digit()))
}

/// The probe as the compiler writes it.
struct Bitcode {
    directory: tempfile::TempDir,
}

impl Bitcode {
    fn compile() -> Result<Self> {
        let directory = tempfile::tempdir().context("cannot create a temporary folder")?;
        let mut child = Command::new(rustc())
            .args(["-", "--crate-name=probe", "--crate-type=lib", "--emit=llvm-bc", "-O"])
            .args([
                "--target",
                bpf::TARGET,
                "-Cpanic=abort",
                "-Ainternal_features",
                "--out-dir",
            ])
            .arg(directory.path())
            .env("RUSTC_BOOTSTRAP", "1")
            .stdin(Stdio::piped())
            .spawn()
            .context("cannot run rustc")?;
        let mut stdin = child.stdin.take().context("rustc has no input")?;
        stdin.write_all(PROBE.as_bytes()).context("cannot write to rustc")?;
        drop(stdin);
        let status = child.wait().context("cannot wait for rustc")?;
        ensure!(status.success(), "rustc cannot compile for {}", bpf::TARGET);
        Ok(Self { directory })
    }

    /// Links it, which shows that the linker starts and reads this compiler's bitcode.
    fn link(&self, linker: &Path) -> Result<()> {
        let output = Command::new(linker)
            .args(["--target", "bpfel", "--export", "probe", "--output"])
            .arg(self.directory.path().join("probe.o"))
            .arg(self.directory.path().join("probe.bc"))
            .output()
            .with_context(|| format!("cannot run {}", linker.display()))?;
        let message = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "it cannot link a trivial program ({}): {}",
            output.status,
            message.trim()
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_feature_is_the_major_version() {
        assert_eq!(llvm_feature("22.1.2").as_deref(), Some("llvm-22"));
        assert_eq!(llvm_feature("23").as_deref(), Some("llvm-23"));
        assert_eq!(llvm_feature("unknown"), None);
    }

    #[test]
    fn llvm_is_the_versioned_library_only() {
        assert!(is_llvm("libLLVM.so.22.1-rust-1.95.0-stable"));
        assert!(
            !is_llvm("libLLVM-22-rust-1.95.0-stable.so"),
            "a linker script that names the library"
        );
        assert!(!is_llvm("librustc_driver-9abd68f6cdfbd5a8.so"));
    }

    #[test]
    fn offered_llvm_has_both_names_and_replaces_stale_links() {
        let compiler = tempfile::tempdir().expect("temporary folder");
        let tools = tempfile::tempdir().expect("temporary folder");
        let name = "libLLVM.so.22.1-rust-1.95.0-stable";
        fs::write(compiler.path().join(name), "llvm").expect("library");
        symlink("/nowhere", tools.path().join("libLLVM.so")).expect("stale link");

        offer_llvm(compiler.path(), tools.path()).expect("links");

        for link in ["libLLVM.so", name] {
            let read = fs::read_to_string(tools.path().join(link)).expect(link);
            assert_eq!(read, "llvm", "{link} leads to the library");
        }
    }

    #[test]
    fn compiler_without_shared_llvm_is_an_error_with_a_remedy() {
        let empty = tempfile::tempdir().expect("temporary folder");
        let error = offer_llvm(empty.path(), empty.path()).expect_err("no library");
        assert!(error.to_string().contains("BPF_LINKER"), "{error}");
    }

    #[test]
    fn program_that_fails_is_no_linker() {
        let bitcode = Bitcode::compile().expect("probe compiles");
        assert!(bitcode.link(Path::new("/bin/false")).is_err());
        assert!(bitcode.link(Path::new("/nowhere/bpf-linker")).is_err());
    }
}
