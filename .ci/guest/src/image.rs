//! The two user spaces of guests, as cpio archives.
//!
//! Both come from unpacked packages alone: no maintainer script runs, so nobody needs to be root or
//! to enter the root that is being made. What those scripts would have written and guests need is
//! written here, and the package database says that all is installed: tests can install, upgrade
//! and remove packages on top of it.

#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::BufWriter;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::apt::{Packages, output};
use crate::cache::{Cache, key};
use crate::test::Root;
use crate::tree::Tree;

/// Grows with each change of what this module makes.
const FORM: &str = "image 1";

const INIT: &str = include_str!("../root/init");
const SERVICE: &str = include_str!("../root/guest.service");
const TARGET: &str = include_str!("../root/guest.target");

/// Directories that every root has, whether or not anything is in them.
const DIRECTORIES: [&str; 12] = [
    "dev", "etc", "guest", "mnt", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/sbin", "var",
];

/// Directories that are one with those in `/usr`.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// What takes room in every boot and nobody reads there.
const UNWANTED: [&str; 14] = [
    "usr/share/doc/",
    "usr/share/man/",
    "usr/share/locale/",
    "usr/share/i18n/",
    "usr/share/info/",
    "usr/share/zoneinfo/",
    "usr/share/common-licenses/",
    "usr/share/bash-completion/",
    "usr/share/lintian/",
    "usr/lib/x86_64-linux-gnu/gconv/",
    "usr/lib/udev/hwdb.d/",
    "usr/lib/systemd/catalog/",
    "usr/share/bug/",
    "usr/share/gcc/",
];

/// What a machine that lives for a minute does not need, and what would wait for it.
const MASKED: [&str; 16] = [
    "console-getty.service",
    "dpkg-db-backup.timer",
    "getty-static.service",
    "getty@tty1.service",
    "ldconfig.service",
    "serial-getty@ttyS0.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service",
    "systemd-journal-flush.service",
    "systemd-machine-id-commit.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-update-done.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-update-utmp.service",
];

const LEAN_USERS: &str = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/sh\n\
    nobody:x:65534:65534:nobody:/:/bin/sh\n";
const LEAN_GROUPS: &str = "root:x:0:\ndaemon:x:1:\nnogroup:x:65534:\n";

/// The static busybox, which is the lean root. It runs here, too, to say what it can do.
pub fn busybox(cache: &Cache, packages: &Packages) -> anyhow::Result<PathBuf> {
    let package = packages.systemd_package("busybox-static")?;
    cache.get(&format!("busybox-{}", key([package])), |path| {
        let mut tree = skeleton();
        unpack(cache, package, &mut tree)?;
        let program = tree.read("usr/bin/busybox").context("not in its package")?;
        fs::write(path, program)?;
        Ok(fs::set_permissions(
            path,
            fs::Permissions::from_mode(0o755),
        )?)
    })
}

/// The archive of a root.
pub fn prepare(
    cache: &Cache,
    packages: &Packages,
    root: Root,
    busybox: &Path,
) -> anyhow::Result<PathBuf> {
    let name = match root {
        Root::Lean => "lean",
        Root::Systemd => "systemd",
    };
    let own = [FORM, name, INIT, SERVICE, TARGET, LEAN_USERS];
    let made_of = own
        .into_iter()
        .chain(packages.systemd.iter().map(String::as_str));
    cache.get(&format!("{name}-{}.cpio", key(made_of)), |path| {
        let tree = match root {
            Root::Lean => lean(busybox)?,
            Root::Systemd => systemd(cache, &packages.systemd)?,
        };
        Ok(tree.write_cpio(BufWriter::new(File::create(path)?))?)
    })
}

/// What both have.
fn skeleton() -> Tree {
    let mut tree = Tree::default();
    for name in MERGED {
        tree.directory(&format!("usr/{name}"));
        tree.symlink(name, &format!("usr/{name}"));
    }
    for name in DIRECTORIES {
        tree.directory(name);
    }
    tree.device("dev/console", 0o600, 5, 1);
    tree.device("dev/null", 0o666, 1, 3);
    tree.file("init", 0o755, INIT.as_bytes());
    tree.file("etc/hostname", 0o644, b"guest\n");
    tree.file(
        "etc/hosts",
        0o644,
        b"127.0.0.1 localhost guest\n::1 localhost\n",
    );
    tree
}

fn lean(busybox: &Path) -> anyhow::Result<Tree> {
    let mut tree = skeleton();
    tree.copy("usr/bin/busybox", busybox)?;
    let applets = output(Command::new(busybox).arg("--list"))?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        tree.symlink(&format!("usr/bin/{applet}"), "busybox");
    }
    tree.file("etc/passwd", 0o644, LEAN_USERS.as_bytes());
    tree.file("etc/group", 0o644, LEAN_GROUPS.as_bytes());
    Ok(tree)
}

fn systemd(cache: &Cache, packages: &[String]) -> anyhow::Result<Tree> {
    let mut tree = skeleton();
    let mut installed = String::new();
    for package in packages {
        let paths = unpack(cache, package, &mut tree)?;
        installed += &register(cache, package, &paths, &mut tree)?;
    }
    tree.file("var/lib/dpkg/status", 0o644, installed.as_bytes());
    configure(&mut tree)?;
    for unit in MASKED {
        tree.symlink(&format!("etc/systemd/system/{unit}"), "/dev/null");
    }
    tree.file(
        "etc/systemd/system/guest.service",
        0o644,
        SERVICE.as_bytes(),
    );
    tree.file("etc/systemd/system/guest.target", 0o644, TARGET.as_bytes());
    tree.symlink("etc/systemd/system/default.target", "guest.target");
    Ok(tree)
}

/// Unpacks a package and returns the paths of its files.
fn unpack(cache: &Cache, package: &str, tree: &mut Tree) -> anyhow::Result<Vec<String>> {
    let what = || format!("cannot unpack {package}");
    let mut child = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(Packages::path(cache, package))
        .stdout(Stdio::piped())
        .spawn()
        .with_context(what)?;
    let archive = child.stdout.take().context("no pipe")?;
    let keep = |path: &str| !UNWANTED.iter().any(|unwanted| path.starts_with(unwanted));
    let paths = tree.unpack(archive, keep).with_context(what)?;
    ensure!(child.wait()?.success(), what());
    Ok(paths)
}

/// Enters a package into dpkg's database as installed, and returns its paragraph there.
fn register(
    cache: &Cache,
    package: &str,
    paths: &[String],
    tree: &mut Tree,
) -> anyhow::Result<String> {
    let mut child = Command::new("dpkg-deb")
        .arg("--ctrl-tarfile")
        .arg(Packages::path(cache, package))
        .stdout(Stdio::piped())
        .spawn()?;
    let mut control = Tree::default();
    let archive = child.stdout.take().context("no pipe")?;
    let files = control.unpack(archive, |_| true)?;
    ensure!(child.wait()?.success(), "cannot read {package}");
    let paragraph = control
        .read("control")
        .context("a package without control")?;
    let paragraph = String::from_utf8_lossy(paragraph);
    let field = |name: &str| {
        let mut lines = paragraph.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    };
    let name = field("Package").context("a package without a name")?;
    // dpkg names the files of libraries that may be there twice by their architecture.
    let name = match field("Multi-Arch") {
        Some("same") => format!("{name}:{}", field("Architecture").unwrap_or("amd64")),
        _ => name.to_owned(),
    };
    for file in files
        .iter()
        .filter(|file| !file.is_empty() && *file != "control")
    {
        let data = control.read(file).unwrap_or_default();
        let scripts = ["preinst", "postinst", "prerm", "postrm", "config"];
        let mode = if scripts.contains(&&**file) {
            0o755
        } else {
            0o644
        };
        tree.file(&format!("var/lib/dpkg/info/{name}.{file}"), mode, data);
    }
    let mut list = String::new();
    for path in paths {
        let path = if path.is_empty() { "." } else { path };
        writeln!(list, "/{path}")?;
    }
    tree.file(
        &format!("var/lib/dpkg/info/{name}.list"),
        0o644,
        list.as_bytes(),
    );
    Ok(format!(
        "{}\nStatus: install ok installed\n\n",
        paragraph.trim_end()
    ))
}

/// What maintainer scripts would have written.
fn configure(tree: &mut Tree) -> anyhow::Result<()> {
    for (from, to) in [
        ("usr/share/base-passwd/passwd.master", "etc/passwd"),
        ("usr/share/base-passwd/group.master", "etc/group"),
        ("usr/share/libc-bin/nsswitch.conf", "etc/nsswitch.conf"),
    ] {
        let data = tree
            .read(from)
            .with_context(|| format!("no {from}"))?
            .to_owned();
        tree.file(to, 0o644, &data);
    }
    let users = String::from_utf8_lossy(tree.read("etc/passwd").unwrap_or_default()).into_owned();
    tree.file("etc/shadow", 0o640, locked(&users).as_bytes());
    tree.file("etc/gshadow", 0o640, b"");
    for (name, program) in [("awk", "mawk"), ("which", "which.debianutils")] {
        tree.symlink(
            &format!("etc/alternatives/{name}"),
            &format!("/usr/bin/{program}"),
        );
        tree.symlink(
            &format!("usr/bin/{name}"),
            &format!("/etc/alternatives/{name}"),
        );
    }
    // Whoever may become another user here is root already.
    for kind in ["account", "auth", "password", "session"] {
        let rule = format!("{kind} required pam_permit.so\n");
        tree.file(&format!("etc/pam.d/common-{kind}"), 0o644, rule.as_bytes());
    }
    tree.symlink("etc/pam.d/common-session-noninteractive", "common-session");
    // A machine that has one does not treat each boot as its first.
    tree.file(
        "etc/machine-id",
        0o444,
        b"6775657374677565737467756573740a\n",
    );
    tree.file("etc/fstab", 0o644, b"");
    for name in ["info/format", "diversions", "statoverride", "available"] {
        let data: &[u8] = if name == "info/format" { b"1\n" } else { b"" };
        tree.file(&format!("var/lib/dpkg/{name}"), 0o644, data);
    }
    if tree.read("usr/bin/sh").is_none() {
        tree.symlink("usr/bin/sh", "dash");
    }
    Ok(())
}

/// Users without a password that opens anything.
fn locked(users: &str) -> String {
    let names = users.lines().filter_map(|line| line.split(':').next());
    names
        .map(|name| format!("{name}:*:19000:0:99999:7:::\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_root_can_start() {
        let tree = skeleton();
        let script = tree.read("init").expect("process 1");
        assert!(script.starts_with(b"#!/bin/sh\n"));
        let mut bytes = Vec::new();
        tree.write_cpio(&mut bytes).expect("in memory");
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("dev/console") && text.contains("usr/lib64"));
    }

    #[test]
    fn nobody_has_a_password() {
        let users = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n";
        let shadow = locked(users);
        assert_eq!(shadow.lines().count(), 2);
        assert!(
            shadow
                .lines()
                .all(|line| line.split(':').nth(1) == Some("*"))
        );
    }

    #[test]
    fn the_agent_is_started_by_both() {
        assert!(INIT.contains("/guest/bin/guest --agent"));
        assert!(SERVICE.contains("ExecStart=/guest/bin/guest --agent"));
        assert!(TARGET.contains("Wants=guest.service"));
    }
}
