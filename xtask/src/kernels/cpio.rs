//! An archive that the kernel unpacks as its first file system: cpio in its `newc` form, see `buffer-format` in the kernel's
//! documentation of early user space.
//!
//! Written here because it is one header, and neither `cpio` nor root is needed then.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};

/// File type bits of `stat`.
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;

/// The kernel stops reading at an entry of this name.
const END: &str = "TRAILER!!!";

/// An archive that is being written.
pub(super) struct Archive<W> {
    output: W,
    /// Inode numbers tell the kernel which entries are one file; here each is its own.
    inode: u32,
    directories: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    /// An empty archive.
    pub(super) const fn new(output: W) -> Self {
        Self {
            output,
            inode: 0,
            directories: BTreeSet::new(),
        }
    }

    /// Adds an empty directory, and those above it. `path` is without a leading slash.
    ///
    /// # Errors
    ///
    /// When the output can't be written.
    pub(super) fn directory(&mut self, path: &str) -> Result<()> {
        if path.is_empty() || !self.directories.insert(path.to_owned()) {
            return Ok(());
        }
        self.directory(parent(path))?;
        self.entry(path, DIRECTORY | 0o755, &[])
    }

    /// Adds an executable file and the directories above it. `path` is without a leading slash.
    ///
    /// # Errors
    ///
    /// When the output can't be written.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) -> Result<()> {
        self.directory(parent(path))?;
        self.entry(path, REGULAR | 0o755, content)
    }

    /// Adds a file of this machine.
    ///
    /// # Errors
    ///
    /// When it can't be read, or the output can't be written.
    pub(super) fn copy(&mut self, path: &str, from: &Path) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.file(path, &content)
    }

    /// Ends the archive and returns the output.
    ///
    /// # Errors
    ///
    /// When the output can't be written.
    pub(super) fn finish(mut self) -> Result<W> {
        self.entry(END, 0, &[])?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        ensure!(!path.starts_with('/'), "{path} must be relative to the root");
        self.inode += 1;
        let links = 1;
        let size = u32::try_from(content.len()).with_context(|| format!("{path} is too large"))?;
        let name_size = u32::try_from(path.len() + 1)?;
        // inode, mode, user, group, links, time, size, device, device of a node, size of the name, checksum
        let fields = [self.inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
        let mut header = "070701".to_owned();
        header.extend(fields.map(|field| format!("{field:08x}")));
        write!(self.output, "{header}{path}\0")?;
        pad(&mut self.output, header.len() + path.len() + 1)?;
        self.output.write_all(content)?;
        pad(&mut self.output, content.len())?;
        Ok(())
    }
}

/// The path of the directory that something is in; empty at the top.
fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Header with name, and content, each end at a multiple of four.
fn pad(output: &mut impl Write, length: usize) -> io::Result<()> {
    output.write_all(&[0; 3][..length.next_multiple_of(4) - length])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_is_header_name_and_content_padded_to_four() {
        let mut archive = Archive::new(Vec::new());
        archive.file("init", b"#!x").expect("a file");
        let bytes = archive.finish().expect("an archive");
        // As `printf '#!x' > init; echo init | cpio -o -H newc` writes it, with inode, owner and time of its own.
        let expected =
            b"07070100000001000081ed00000000000000000000000100000000000000030000000000000000000000000000000000000005\
            00000000init\0\0#!x\0";
        assert_eq!(&bytes[..expected.len()], expected);
        assert!(bytes.len().is_multiple_of(4));
        assert!(String::from_utf8_lossy(&bytes).contains("TRAILER!!!"));
    }

    #[test]
    fn directories_stand_once_and_before_what_is_in_them() {
        let mut archive = Archive::new(Vec::new());
        archive.file("lib/modules/a", b"").expect("a file");
        archive.file("lib/b", b"").expect("a file");
        let bytes = archive.finish().expect("an archive");
        let text = String::from_utf8_lossy(&bytes);
        let position = |name: &str| text.find(&format!("{name}\0")).expect(name);
        assert!(position("lib") < position("lib/modules") && position("lib/modules") < position("lib/modules/a"));
        assert_eq!(text.matches("00000000lib\0").count(), 1);
    }

    #[test]
    fn absolute_paths_are_refused() {
        assert!(Archive::new(Vec::new()).file("/init", b"").is_err());
    }
}
