//! Kernels: from a Debian package to what QEMU starts, and the few modules that guests need.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

use crate::apt::{Packages, output};
use crate::cache::{Cache, key};
use crate::qemu::Qemu;
use crate::tree::Tree;

/// Modules that every guest loads at boot; what they need comes along. What a kernel has built in
/// is left out.
const MODULES: [&str; 6] = [
    // The way out: events and files.
    "virtio_pci",
    "virtio_console",
    // Hostile files for exod's tests.
    "fuse",
    // Links to the kernel's own network.
    "veth",
    "tun",
    "overlay",
];

/// How packed kernels begin, and what unpacks them.
const PACKERS: [(&[u8], &str); 2] = [(b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd")];

/// Grows with each change of what the files below hold.
const FORM: &str = "kernel 1";

/// A kernel that is ready to start.
#[derive(Debug)]
pub struct Kernel {
    /// What QEMU starts: an ELF file, since unpacking under emulation costs a second.
    pub image: PathBuf,
    /// A cpio archive with its modules.
    pub modules: PathBuf,
}

impl Kernel {
    /// Takes a kernel out of its package.
    pub fn prepare(cache: &Cache, package: &str, qemu: &Qemu) -> anyhow::Result<Kernel> {
        let name = package.trim_end_matches(".deb");
        let made_of = [FORM].into_iter().chain(MODULES);
        let directory = format!("kernel-{name}-{}", key(made_of));
        let path = cache.get(&directory, |path| {
            fs::create_dir(path)?;
            let unpacked = path.join("unpacked");
            let package = Packages::path(cache, package);
            output(
                Command::new("dpkg-deb")
                    .arg("-x")
                    .arg(package)
                    .arg(&unpacked),
            )?;
            let image = image(&unpacked.join("boot"), qemu)?;
            fs::write(path.join("vmlinux"), image)?;
            let modules = collect(&unpacked.join("lib/modules"), qemu)?;
            modules.write_cpio(File::create(path.join("modules.cpio"))?)?;
            fs::remove_dir_all(unpacked)?;
            Ok(())
        })?;
        Ok(Kernel {
            image: path.join("vmlinux"),
            modules: path.join("modules.cpio"),
        })
    }
}

/// The ELF file inside of `boot/vmlinuz-*`.
fn image(boot: &Path, qemu: &Qemu) -> anyhow::Result<Vec<u8>> {
    let entries = fs::read_dir(boot).context("the package has no /boot")?;
    let mut entries = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let packed = entries.find(|path| path.to_string_lossy().contains("/vmlinuz-"));
    let packed = fs::read(packed.context("the package has no vmlinuz")?)?;
    for (magic, program) in PACKERS {
        for at in starts(&packed, magic) {
            if let Some(image) = unpacked(&packed[at..], qemu.program(program))? {
                return Ok(image);
            }
        }
    }
    bail!("the kernel is packed in a way that is not known here")
}

/// Where the data that begins so may begin.
fn starts<'a>(bytes: &'a [u8], magic: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let windows = bytes.windows(magic.len()).enumerate();
    windows.filter_map(move |(at, window)| (window == magic).then_some(at))
}

/// What data with anything behind it unpacks to, if that is an ELF file.
fn unpacked(bytes: &[u8], mut program: Command) -> anyhow::Result<Option<Vec<u8>>> {
    let mut scratch = tempfile::NamedTempFile::new()?;
    scratch.write_all(bytes)?;
    let out = program
        .arg("-dc")
        .stdin(File::open(scratch.path())?)
        .stderr(Stdio::null())
        .output()?;
    Ok(out.stdout.starts_with(b"\x7fELF").then_some(out.stdout))
}

/// The modules that are wanted and what they need, in `guest/modules`, with a list in the order of
/// loading.
fn collect(modules: &Path, qemu: &Qemu) -> anyhow::Result<Tree> {
    let mut entries = fs::read_dir(modules).context("the package has no modules")?;
    let release = entries.next().context("the package has no modules")??;
    let mut found = BTreeMap::new();
    find(&release.path().join("kernel"), &mut found)?;
    let builtin = fs::read_to_string(release.path().join("modules.builtin"))?;
    let builtin: HashSet<String> = builtin.lines().map(module_name).collect();
    let read = |name: &str| match found.get(name) {
        Some(path) => read_module(path, qemu).map(Some),
        None if builtin.contains(name) => Ok(None),
        None => bail!("{} has no module {name}", release.path().display()),
    };
    let mut tree = Tree::default();
    let mut order = String::new();
    for (name, data) in closure(&MODULES, read)? {
        tree.file(&format!("guest/modules/{name}.ko"), 0o644, &data);
        order += &format!("{name}\n");
    }
    tree.file("guest/modules/order", 0o644, order.as_bytes());
    Ok(tree)
}

fn find(directory: &Path, found: &mut BTreeMap<String, PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, found)?;
        } else {
            found.insert(module_name(&path.to_string_lossy()), path);
        }
    }
    Ok(())
}

fn read_module(path: &Path, qemu: &Qemu) -> anyhow::Result<Vec<u8>> {
    if path.extension().is_some_and(|extension| extension == "ko") {
        return Ok(fs::read(path)?);
    }
    let mut command = qemu.program("xz");
    let out = command.arg("-dc").stdin(File::open(path)?).output()?;
    ensure!(out.status.success(), "cannot unpack {}", path.display());
    Ok(out.stdout)
}

/// A module's name, from its path.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let name = file.split(".ko").next().unwrap_or(file);
    name.replace('-', "_")
}

/// The wanted modules and all that they need, each after those that it needs.
fn closure(
    wanted: &[&str],
    read: impl Fn(&str) -> anyhow::Result<Option<Vec<u8>>>,
) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut ordered = Vec::new();
    let mut seen = HashSet::new();
    for name in wanted {
        visit(&module_name(name), &read, &mut seen, &mut ordered)?;
    }
    Ok(ordered)
}

fn visit(
    name: &str,
    read: &impl Fn(&str) -> anyhow::Result<Option<Vec<u8>>>,
    seen: &mut HashSet<String>,
    ordered: &mut Vec<(String, Vec<u8>)>,
) -> anyhow::Result<()> {
    if !seen.insert(name.to_owned()) {
        return Ok(());
    }
    if let Some(data) = read(name)? {
        for needed in needs(&data) {
            visit(&needed, read, seen, ordered)?;
        }
        ordered.push((name.to_owned(), data));
    }
    Ok(())
}

/// What a module says that it needs: `depends=a,b` among the strings of its section `.modinfo`.
fn needs(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let at = module.windows(KEY.len()).position(|window| window == KEY);
    let value = at.map_or(&[][..], |at| &module[at + KEY.len()..]);
    let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value);
    let names = names.split(',').filter(|name| !name.is_empty());
    names.map(module_name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(depends: &str) -> Vec<u8> {
        format!("\x7fELF..\0license=GPL\0depends={depends}\0retpoline=Y\0").into_bytes()
    }

    #[test]
    fn modules_come_after_what_they_need() {
        let read = |name: &str| match name {
            "virtio_pci" => Ok(Some(module("virtio,virtio-ring,virtio_pci_modern_dev"))),
            "virtio_pci_modern_dev" => Ok(Some(module("virtio"))),
            "virtio" => Ok(Some(module(""))),
            "virtio_ring" => Ok(None),
            other => bail!("no module {other}"),
        };
        let found = closure(&["virtio-pci", "virtio"], read).expect("all there");
        let names: Vec<&str> = found.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["virtio", "virtio_pci_modern_dev", "virtio_pci"]);
        let error = closure(&["nvme"], read).expect_err("not there");
        assert!(error.to_string().contains("nvme"));
    }

    #[test]
    fn modules_that_need_each_other_do_not_hang_it() {
        let read = |name: &str| Ok(Some(module(if name == "a" { "b" } else { "a" })));
        assert_eq!(closure(&["a"], read).expect("both").len(), 2);
    }

    #[test]
    fn names_are_as_the_kernel_writes_them() {
        assert_eq!(module_name("kernel/drivers/x/vfio-pci.ko.xz"), "vfio_pci");
        assert_eq!(module_name("fuse"), "fuse");
        assert!(needs(b"no such string").is_empty());
    }

    #[test]
    fn packed_data_is_found_wherever_it_begins() {
        let bytes = b"MZ..\xfd7zXZ\0data\xfd7zXZ\0";
        assert_eq!(starts(bytes, PACKERS[0].0).collect::<Vec<_>>(), [4, 14]);
    }
}
