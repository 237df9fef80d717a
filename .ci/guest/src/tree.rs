//! A file system in memory, and its form as a cpio archive that the kernel unpacks at boot.
//!
//! Roots are put together here and never on the host's disk: owners, modes and device nodes are
//! then what the packages say, and nobody needs to be root for it.
//!
//! Paths are relative, without `.` and `..`. A path whose directory is a symbolic link of this tree
//! means what it means on a real one, so packages that ship `/lib/x` land in `/usr/lib/x`.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};

/// File types, as they stand in a mode.
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// Symbolic links that one lookup follows, as in the kernel.
const LINKS_MAX: usize = 40;

/// One file: its type and permissions, owner, and contents (of a link: where it leads).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    mode: u32,
    uid: u32,
    gid: u32,
    device: (u32, u32),
    data: Arc<[u8]>,
}

impl Node {
    fn new(mode: u32, data: &[u8]) -> Node {
        Node {
            mode,
            uid: 0,
            gid: 0,
            device: (0, 0),
            data: data.into(),
        }
    }

    fn is(&self, kind: u32) -> bool {
        self.mode & 0o170_000 == kind
    }
}

/// The file system.
#[derive(Debug, Default)]
pub struct Tree {
    /// Sorted, so that a directory comes before what lies in it.
    nodes: BTreeMap<String, Node>,
}

impl Tree {
    /// Makes a directory and those above it. One that is there keeps its mode.
    pub fn directory(&mut self, path: &str) {
        let path = self.resolve(path);
        let mut at = 0;
        while let Some(end) = path[at..].find('/').map(|slash| at + slash) {
            self.directory_alone(&path[..end]);
            at = end + 1;
        }
        self.directory_alone(&path);
    }

    fn directory_alone(&mut self, path: &str) {
        if !path.is_empty() {
            let node = Node::new(DIRECTORY | 0o755, b"");
            self.nodes.entry(path.to_owned()).or_insert(node);
        }
    }

    /// Writes a file, replacing what was there.
    pub fn file(&mut self, path: &str, permissions: u32, data: &[u8]) {
        self.insert(path, Node::new(REGULAR | permissions, data));
    }

    /// Makes a symbolic link, replacing what was there.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.insert(path, Node::new(SYMLINK | 0o777, target.as_bytes()));
    }

    /// Makes a character device.
    pub fn device(&mut self, path: &str, permissions: u32, major: u32, minor: u32) {
        let mut node = Node::new(CHARACTER | permissions, b"");
        node.device = (major, minor);
        self.insert(path, node);
    }

    /// Copies a file of the host, executable or not as it is there.
    pub fn copy(&mut self, path: &str, from: &Path) -> anyhow::Result<()> {
        let what = || format!("cannot read {}", from.display());
        let permissions = fs::metadata(from).with_context(what)?.permissions();
        let mode = if permissions.mode() & 0o111 == 0 {
            0o644
        } else {
            0o755
        };
        let data = fs::read(from).with_context(what)?;
        self.file(path, mode, &data);
        Ok(())
    }

    /// Copies a file of the host, or a directory with everything in it.
    pub fn copy_all(&mut self, path: &str, from: &Path) -> anyhow::Result<()> {
        if !from.is_dir() {
            return self.copy(path, from);
        }
        self.directory(path);
        let entries = fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()));
        for entry in entries? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().context("a file name that is not UTF-8")?;
            self.copy_all(&format!("{path}/{name}"), &entry.path())?;
        }
        Ok(())
    }

    /// The contents of a file, followed through links.
    pub fn read(&self, path: &str) -> Option<&[u8]> {
        let mut path = self.resolve(path);
        for _ in 0..LINKS_MAX {
            let node = self.nodes.get(&path)?;
            if !node.is(SYMLINK) {
                return Some(&node.data);
            }
            let target = String::from_utf8_lossy(&node.data).into_owned();
            path = self.resolve(&joined(&path, &target));
        }
        None
    }

    /// Unpacks a tar archive into the tree; `keep` sees each path and says whether it is wanted.
    /// Returns all paths of the archive, wanted or not.
    pub fn unpack(
        &mut self,
        archive: impl Read,
        keep: impl Fn(&str) -> bool,
    ) -> anyhow::Result<Vec<String>> {
        let mut paths = Vec::new();
        let mut archive = tar::Archive::new(archive);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = cleaned(&String::from_utf8_lossy(&entry.path_bytes()));
            if !path.is_empty() && keep(&path) {
                self.unpack_one(&path, &mut entry)?;
            }
            paths.push(path);
        }
        Ok(paths)
    }

    fn unpack_one(&mut self, path: &str, entry: &mut tar::Entry<impl Read>) -> anyhow::Result<()> {
        let header = entry.header();
        let permissions = header.mode()? & 0o7777;
        let (uid, gid) = (header.uid()? as u32, header.gid()? as u32);
        let kind = header.entry_type();
        let link = entry.link_name_bytes().unwrap_or_default();
        let link = String::from_utf8_lossy(&link).into_owned();
        let mut node = match kind {
            tar::EntryType::Directory => {
                // One behind a link, such as /lib, keeps what it has.
                self.directory(path);
                Node::new(DIRECTORY | permissions, b"")
            }
            tar::EntryType::Symlink => Node::new(SYMLINK | 0o777, link.as_bytes()),
            tar::EntryType::Link => {
                let target = self.resolve(&cleaned(&link));
                let node = self.nodes.get(&target);
                let node = node.with_context(|| format!("{path}: hard link to nothing: {link}"))?;
                node.clone()
            }
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                let mut data = Vec::new();
                entry.read_to_end(&mut data)?;
                Node::new(REGULAR | permissions, &data)
            }
            other => bail!("{path}: a file of the kind {other:?}"),
        };
        (node.uid, node.gid) = (uid, gid);
        if kind == tar::EntryType::Directory && self.is_link(path) {
            return Ok(());
        }
        self.insert(path, node);
        Ok(())
    }

    fn is_link(&self, path: &str) -> bool {
        self.nodes.get(path).is_some_and(|node| node.is(SYMLINK))
    }

    fn insert(&mut self, path: &str, node: Node) {
        let path = self.resolve(path);
        if let Some((above, _)) = path.rsplit_once('/') {
            self.directory(above);
        }
        self.nodes.insert(path, node);
    }

    /// The path with links on the way to it followed, but not the last part.
    fn resolve(&self, path: &str) -> String {
        let mut path = cleaned(path);
        for _ in 0..LINKS_MAX {
            let mut above = path.match_indices('/').map(|(at, _)| &path[..at]);
            let Some(link) = above.find(|above| self.is_link(above)) else {
                break;
            };
            let target = String::from_utf8_lossy(&self.nodes[link].data).into_owned();
            path = joined(link, &target) + &path[link.len()..];
        }
        path
    }

    /// Writes the tree as a "newc" archive, as the kernel takes it. Several may follow each other
    /// in one file; the later ones add to and replace what the earlier ones brought.
    pub fn write_cpio(&self, mut out: impl Write) -> io::Result<()> {
        for (number, (path, node)) in (1..).zip(&self.nodes) {
            write_member(&mut out, number, path, node)?;
        }
        write_member(&mut out, 0, "TRAILER!!!", &Node::new(0, b""))?;
        out.flush()
    }
}

/// One member: a header of hexadecimal numbers, the name, the contents, each padded to 4 bytes.
fn write_member(out: &mut impl Write, number: u32, path: &str, node: &Node) -> io::Result<()> {
    let links = 1;
    let (modified, major, minor, check) = (0, 0, 0, 0);
    let size = u32::try_from(node.data.len()).map_err(io::Error::other)?;
    let name_size = path.len() as u32 + 1;
    let (device_major, device_minor) = node.device;
    let fields = [
        number,
        node.mode,
        node.uid,
        node.gid,
        links,
        modified,
        size,
        major,
        minor,
        device_major,
        device_minor,
        name_size,
        check,
    ];
    out.write_all(b"070701")?;
    for field in fields {
        write!(out, "{field:08x}")?;
    }
    let header = 6 + 8 * fields.len();
    out.write_all(path.as_bytes())?;
    out.write_all(&[0])?;
    out.write_all(padding(header + path.len() + 1))?;
    out.write_all(&node.data)?;
    out.write_all(padding(node.data.len()))
}

/// What is missing to a multiple of 4.
fn padding(size: usize) -> &'static [u8] {
    &[0; 3][..size.wrapping_neg() % 4]
}

/// Where a link at `path` leads.
fn joined(path: &str, target: &str) -> String {
    if target.starts_with('/') {
        return cleaned(target);
    }
    let above = path.rsplit_once('/').map_or("", |(above, _)| above);
    cleaned(&format!("{above}/{target}"))
}

/// Without `/` at either end, `.` and `..`.
fn cleaned(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
#[path = "tree/tests.rs"]
mod tests;
