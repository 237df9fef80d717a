//! Debian packages by name, without installing them: an apt root of our own in the cache, with the
//! machine's mirror and proxy, and an empty list of installed packages, so that every resolution
//! brings all that is needed and nothing depends on what this machine happens to have.

#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::cache::{Cache, key};
use crate::test::KERNELS;

/// How long what was fetched counts as the newest.
const FRESH: Duration = Duration::from_secs(7 * 24 * 3600);

/// The release whose user space and kernels guests have.
const RELEASE: &str = "bookworm";
/// Where QEMU comes from: the release's own lacks devices that drivers are tested against.
const BACKPORTS: &str = "bookworm-backports";
const QEMU: [&str; 3] = [
    "qemu-system-x86",
    // Kernels and their modules are packed with these, in ways that busybox does not know.
    "xz-utils",
    "zstd",
];

/// The systemd root: what every Debian has, systemd, and what tests and people look around with.
const SYSTEMD: [&str; 10] = [
    // apt counts itself in, and brings a quarter more. Nothing is fetched in a guest: dpkg will do.
    "?and(?essential,?not(?name(^apt$)))",
    // Instead of a program that merges directories, and its Perl.
    "usr-is-merged",
    "systemd-sysv",
    // systemd-run and systemctl talk through it for anything but the simplest.
    "dbus",
    "kmod",
    "iproute2",
    "procps",
    // Also the whole lean root.
    "busybox-static",
    "strace",
    "libpam-runtime",
];

/// Keys of Debian's archive.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const MIRROR: &str = "http://deb.debian.org";
/// How names of manifests begin, in the cache. There may be several, for several states of the
/// project.
const MANIFEST: &str = "packages-";
/// Where packages are, in the cache. apt puts them there by that name.
const ARCHIVES: &str = "apt/archives";

/// File names of the packages that everything is made of.
#[derive(Debug, Serialize, Deserialize)]
pub struct Packages {
    /// QEMU and all it needs.
    pub qemu: Vec<String>,
    /// The systemd root.
    pub systemd: Vec<String>,
    /// Version and package of each kernel.
    pub kernels: Vec<(String, String)>,
}

impl Packages {
    /// The newest packages: those of the cache when they are a few days old at most, else fetched.
    /// `say` is told what takes time.
    pub fn fetch(cache: &Cache, update: bool, say: &dyn Fn(&str)) -> anyhow::Result<Packages> {
        let manifest = manifest();
        let fresh = cache.age(&manifest).is_some_and(|age| age < FRESH);
        let cached = Packages::cached(cache);
        if fresh
            && !update
            && let Some(packages) = cached
        {
            return Ok(packages);
        }
        say("fetching QEMU, kernels and a systemd root from the Debian mirror");
        match (Packages::resolve(cache), cached) {
            (Ok(packages), _) => {
                let text = serde_json::to_string_pretty(&packages)?;
                fs::write(cache.path(&manifest), text)?;
                cache.prune_forgotten()?;
                let wanted = wanted(cache)?;
                cache.prune(ARCHIVES, |file| wanted.contains(file))?;
                Ok(packages)
            }
            (Err(error), Some(packages)) if !update => {
                say(&format!(
                    "warning: the mirror has no answer, going on with packages from the cache: {error:#}"
                ));
                Ok(packages)
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Where a package is.
    pub fn path(cache: &Cache, file: &str) -> PathBuf {
        cache.path(ARCHIVES).join(file)
    }

    /// The file of one package of the systemd root.
    pub fn systemd_package(&self, name: &str) -> anyhow::Result<&str> {
        let mut files = self.systemd.iter();
        let found = files.find(|file| file.split('_').next() == Some(name));
        let found = found.with_context(|| format!("the systemd root lacks {name}"))?;
        Ok(found)
    }

    fn cached(cache: &Cache) -> Option<Packages> {
        let packages = Packages::read(cache, &manifest())?;
        let files = packages.files();
        let complete = files.iter().all(|f| Packages::path(cache, f).is_file());
        complete.then_some(packages)
    }

    fn read(cache: &Cache, manifest: &str) -> Option<Packages> {
        let text = fs::read_to_string(cache.path(manifest)).ok()?;
        serde_json::from_str(&text).ok()
    }

    fn files(&self) -> Vec<String> {
        let kernels = self.kernels.iter().map(|(_, file)| file);
        let all = self.qemu.iter().chain(&self.systemd).chain(kernels);
        all.cloned().collect()
    }

    fn resolve(cache: &Cache) -> anyhow::Result<Packages> {
        let apt = Apt::prepare(cache)?;
        apt.run("apt-get", &["update", "-qq"])?;
        let backports = ["--target-release", BACKPORTS];
        let qemu = apt.install(&[&backports[..], &QEMU[..]].concat())?;
        let systemd = apt.install(&SYSTEMD)?;
        let kernels = KERNELS.map(|(version, meta)| {
            let file = apt.kernel(version, meta);
            file.map(|file| (version.to_owned(), file))
        });
        Ok(Packages {
            qemu,
            systemd,
            kernels: kernels.into_iter().collect::<Result<_, _>>()?,
        })
    }
}

/// The manifest of all that is asked for.
fn manifest() -> String {
    let kernels = KERNELS.iter().map(|(_, meta)| meta);
    let asked = QEMU.iter().chain(&SYSTEMD).chain(kernels).copied();
    format!("{MANIFEST}{}.json", key(asked))
}

/// Files of all manifests.
fn wanted(cache: &Cache) -> anyhow::Result<HashSet<String>> {
    let manifests = cache.names(MANIFEST)?;
    let packages = manifests
        .iter()
        .filter_map(|name| Packages::read(cache, name));
    Ok(packages.flat_map(|packages| packages.files()).collect())
}

/// Why guests cannot be made on this machine; `None` if they can.
pub fn missing() -> Option<String> {
    if env::consts::ARCH != "x86_64" {
        return Some("guests are x86-64, and so must this machine be".to_owned());
    }
    for program in ["apt-get", "apt-cache", "apt-config", "dpkg-deb", "setpriv"] {
        let found = Command::new(program)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if found.is_err() {
            return Some(format!(
                "guests are made of Debian packages, and this machine has no {program}"
            ));
        }
    }
    (!Path::new(KEYRING).is_file())
        .then(|| format!("no {KEYRING}: install the package debian-archive-keyring"))
}

struct Apt {
    config: PathBuf,
    archives: PathBuf,
    /// A directory that stays empty.
    nothing: PathBuf,
}

impl Apt {
    fn prepare(cache: &Cache) -> anyhow::Result<Apt> {
        let root = cache.path("apt");
        for part in ["etc/apt.conf.d", "etc/preferences.d", "lists/partial"] {
            fs::create_dir_all(root.join(part))?;
        }
        let archives = cache.path(ARCHIVES);
        let nothing = root.join("nothing");
        fs::create_dir_all(archives.join("partial"))?;
        fs::create_dir_all(nothing.join("partial"))?;
        fs::write(root.join("status"), b"")?;
        let targets = output(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(REPO_URI)",
            "Created-By: Packages",
        ]));
        let mirror = env::var("EXO_GUEST_MIRROR").ok();
        let sources = sources(mirror.as_deref(), &targets.unwrap_or_default());
        fs::write(root.join("etc/sources.list"), sources)?;
        let acquire = output(Command::new("apt-config").arg("dump"))?;
        let config = root.join("apt.conf");
        fs::write(&config, configuration(&root, &archives, &acquire))?;
        Ok(Apt {
            config,
            archives,
            nothing,
        })
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).env("APT_CONFIG", &self.config);
        command.env("LC_ALL", "C").current_dir(&self.archives);
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let hint = "is the mirror reachable? EXO_GUEST_MIRROR=http://HOST names another one";
        output(&mut self.command(program, arguments)).context(hint)
    }

    /// Fetches packages with all they need, and returns their files.
    fn install(&self, names: &[&str]) -> anyhow::Result<Vec<String>> {
        let install = ["install", "-qq", "-y", "--no-install-recommends"];
        // What is in the cache already would have no address, so this asks with an empty one.
        let nothing = format!("Dir::Cache::archives={}", self.nothing.display());
        let uris = [&install[..], &["--print-uris", "-o", &nothing], names].concat();
        let files = files_of(&self.run("apt-get", &uris)?);
        ensure!(!files.is_empty(), "apt finds nothing for {names:?}");
        let download = [&install[..], &["--download-only"], names].concat();
        self.run("apt-get", &download)?;
        self.all_there(&files)?;
        Ok(files)
    }

    /// Fetches the kernel that a meta package stands for today.
    fn kernel(&self, version: &str, meta: &str) -> anyhow::Result<String> {
        let depends = self.run("apt-cache", &["depends", meta])?;
        let image = image_of(&depends);
        let image = image.with_context(|| format!("{meta} depends on no kernel"))?;
        ensure!(
            image.starts_with(&format!("linux-image-{version}.")),
            "{meta} is {image}, and not the {version} that tests ask for"
        );
        let mut uris = self.command("apt-get", &["download", "--print-uris", "-qq", image]);
        let uris = output(uris.current_dir(&self.nothing))?;
        let file = files_of(&uris).pop().context("apt finds no such kernel")?;
        self.run("apt-get", &["download", "-qq", image])?;
        self.all_there(std::slice::from_ref(&file))?;
        Ok(file)
    }

    fn all_there(&self, files: &[String]) -> anyhow::Result<()> {
        for file in files {
            let there = self.archives.join(file).is_file();
            ensure!(there, "apt said nothing, and did not fetch {file}");
        }
        Ok(())
    }
}

/// What a command prints; its own words if it fails.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let name = format!("{command:?}");
    let out = command.stdin(Stdio::null()).output();
    let out = out.with_context(|| format!("cannot start {name}"))?;
    if !out.status.success() {
        let words = String::from_utf8_lossy(&out.stderr);
        bail!("{name}: {}\n{}", out.status, words.trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The private list of sources: the machine's own mirror where it has one.
fn sources(named: Option<&str>, machine: &str) -> String {
    let address = |archive: &str| {
        let own = machine.lines().map(|uri| uri.trim_end_matches('/'));
        let mut own = own.filter(|uri| uri.rsplit('/').next() == Some(archive));
        match (named, own.next()) {
            (Some(named), _) => format!("{}/{archive}", named.trim_end_matches('/')),
            (None, Some(own)) => own.to_owned(),
            (None, None) => format!("{MIRROR}/{archive}"),
        }
    };
    let debian = address("debian");
    let security = address("debian-security");
    let updates = format!("{RELEASE}-updates");
    let security_release = format!("{RELEASE}-security");
    let suites = [
        (&debian, RELEASE),
        (&debian, &updates),
        (&security, &security_release),
        (&debian, BACKPORTS),
    ];
    let lines =
        suites.map(|(uri, suite)| format!("deb [signed-by={KEYRING}] {uri} {suite} main\n"));
    lines.concat()
}

/// The private configuration. Of the machine's own it takes how to reach the network.
fn configuration(root: &Path, archives: &Path, machine: &str) -> String {
    let root = root.display();
    let mut lines: Vec<String> = machine
        .lines()
        .filter(|line| line.starts_with("Acquire::") && !line.starts_with("Acquire::Languages"))
        .map(str::to_owned)
        .collect();
    lines.extend([
        format!("Dir::Etc \"{root}/etc\";"),
        "Dir::Etc::sourceparts \"-\";".to_owned(),
        format!("Dir::State \"{root}\";"),
        format!("Dir::State::status \"{root}/status\";"),
        format!("Dir::Cache \"{root}\";"),
        format!("Dir::Cache::archives \"{}\";", archives.display()),
        "Acquire::Languages \"none\";".to_owned(),
        // apt's own user cannot enter a cache in somebody's home.
        "APT::Sandbox::User \"root\";".to_owned(),
        "APT::Architecture \"amd64\";".to_owned(),
        "APT::Architectures { \"amd64\"; };".to_owned(),
        "APT::Update::Error-Mode \"any\";".to_owned(),
    ]);
    lines.join("\n") + "\n"
}

/// File names in what `--print-uris` prints: `'ADDRESS' FILE SIZE HASH`.
fn files_of(uris: &str) -> Vec<String> {
    let lines = uris.lines().filter(|line| line.starts_with('\''));
    let names = lines.filter_map(|line| line.split_whitespace().nth(1));
    names.map(str::to_owned).collect()
}

/// The kernel in what `apt-cache depends` prints.
fn image_of(depends: &str) -> Option<&str> {
    let mut needs = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "));
    needs.find(|name| name.starts_with("linux-image-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_follow_the_machine_unless_told_otherwise() {
        let machine = "http://m.example/debian/\nhttp://m.example/debian-security\nhttp://x/node\n";
        let own = sources(None, machine);
        assert!(
            own.contains("] http://m.example/debian bookworm main"),
            "{own}"
        );
        assert!(own.contains("] http://m.example/debian-security bookworm-security main"));
        let other = sources(Some("http://n.example/"), machine);
        assert!(other.contains("http://n.example/debian bookworm-backports main"));
        assert!(!other.contains("m.example"));
        assert!(sources(None, "").contains("http://deb.debian.org/debian bookworm main"));
    }

    #[test]
    fn the_network_configuration_is_the_machines() {
        let machine = "APT::Get \"x\";\nAcquire::http::Proxy \"http://p\";\nDir \"/\";\n\
                       Acquire::Languages:: \"de\";\nDPkg::Post-Invoke \"rm\";\n";
        let text = configuration(Path::new("/c/apt"), Path::new("/c/apt/archives"), machine);
        assert!(text.starts_with("Acquire::http::Proxy \"http://p\";\nDir::Etc \"/c/apt/etc\";\n"));
        assert!(!text.contains("Post-Invoke") && !text.contains("\"de\""));
    }

    #[test]
    fn files_and_kernels_are_found_in_what_apt_prints() {
        let uris = "'http://m/p/a_1%3a2_amd64.deb' a_1%3a2_amd64.deb 12 SHA256:00\nnoise\n";
        assert_eq!(files_of(uris), ["a_1%3a2_amd64.deb"]);
        let depends = "linux-image-amd64\n  Depends: linux-image-6.1.0-9-amd64\n  Recommends: x\n";
        assert_eq!(image_of(depends), Some("linux-image-6.1.0-9-amd64"));
        assert_eq!(image_of("linux-image-amd64\n"), None);
    }
}
