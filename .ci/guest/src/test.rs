//! What a test script says about itself, and which tests may share a boot.
//!
//! A script in `.ci/guest/tests` opens with comments:
//!
//! ```text
//! #!/bin/sh
//! # guest: systemd kernels=6.1,6.12 cpus=2 memory_mib=1024 hugepages=64 timeout_s=60 alone
//! # files: systemd docs/operations.md
//! # tests: exod:frames libexo:port_hostile
//! # host: cargo deb --package exod
//! # One line that says what holds when it passes.
//! ```
//!
//! Only the line `guest:` with the root must be there. Tests that ask for the same machine share
//! one boot, in the order of their names, unless one wants to be alone.

#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, bail, ensure};
use serde::Serialize;

/// Kernels that tests run on, and the Debian packages that depend on the newest of each: the oldest
/// that the project supports, and the newest with long support.
pub const KERNELS: [(&str, &str); 2] = [
    ("6.1", "linux-image-amd64"),
    ("6.12", "linux-image-6.12-amd64"),
];

/// Limits of a test that names none. Emulation is slow, and the machine may be busy.
const TIMEOUT_S: u64 = 60;
/// A guest has two processors: one for each side of a port.
const CPUS: u32 = 2;
/// Enough for the root, which lies in memory, the hugepages, and what tests use.
const MEMORY_MIB: u32 = 1280;
/// 2 MiB each.
const HUGEPAGES: u32 = 128;

/// The user space that a test needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Root {
    /// busybox; boots in two or three seconds.
    Lean,
    /// Debian with systemd as process 1; boots in about six.
    Systemd,
}

/// The machine that a test needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Machine {
    /// Its user space.
    pub root: Root,
    /// Virtual processors.
    pub cpus: u32,
    /// Its memory.
    pub memory_mib: u32,
    /// Hugepages of 2 MiB that the kernel reserves at boot.
    pub hugepages: u32,
}

impl Machine {
    /// The machine of a test that wants nothing special.
    pub fn usual(root: Root) -> Machine {
        Machine {
            root,
            cpus: CPUS,
            memory_mib: MEMORY_MIB,
            hugepages: HUGEPAGES,
        }
    }
}

/// A test binary of the workspace: a package, and a file in its `tests` directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Binary {
    /// The package.
    pub package: String,
    /// The test.
    pub test: String,
}

/// A test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// The script's file name without `.sh`.
    pub name: String,
    /// The first comment that is no setting.
    pub about: String,
    /// The machine that it needs.
    pub machine: Machine,
    /// Versions of [`KERNELS`] that it runs on.
    pub kernels: Vec<String>,
    /// When it is killed.
    pub timeout_s: u64,
    /// Whether nothing else may run in its guest.
    pub alone: bool,
    /// Files and directories of the project that it needs; the last part may have a `*`.
    pub files: Vec<String>,
    /// Test binaries that it runs.
    pub binaries: Vec<Binary>,
    /// A command that must have run on the host before.
    pub host: Option<String>,
    /// The script.
    pub script: String,
}

impl Test {
    /// Reads what a script says about itself.
    pub fn parse(name: &str, script: &str) -> anyhow::Result<Test> {
        let mut test = Test::command(name, Root::Lean, script);
        let mut root = None;
        for line in script.lines().skip_while(|line| line.starts_with("#!")) {
            let Some(comment) = line.strip_prefix('#') else {
                break;
            };
            let comment = comment.trim();
            let words = |rest: &str| rest.split_whitespace().map(str::to_owned).collect();
            if let Some(rest) = comment.strip_prefix("guest:") {
                root = Some(test.read_machine(rest)?);
            } else if let Some(rest) = comment.strip_prefix("files:") {
                test.files = words(rest);
            } else if let Some(rest) = comment.strip_prefix("tests:") {
                let binaries = rest.split_whitespace().map(Binary::from_str);
                test.binaries = binaries.collect::<Result<_, _>>()?;
            } else if let Some(rest) = comment.strip_prefix("host:") {
                test.host = Some(rest.trim().to_owned());
            } else if test.about.is_empty() {
                test.about = comment.to_owned();
            }
        }
        test.machine.root = root.context("no line `# guest: lean` or `# guest: systemd`")?;
        Ok(test)
    }

    /// A script that says nothing about itself.
    pub fn command(name: &str, root: Root, script: &str) -> Test {
        Test {
            name: name.to_owned(),
            about: String::new(),
            machine: Machine::usual(root),
            kernels: KERNELS.map(|(version, _)| version.to_owned()).to_vec(),
            timeout_s: TIMEOUT_S,
            alone: false,
            files: Vec::new(),
            binaries: Vec::new(),
            host: None,
            script: script.to_owned(),
        }
    }

    fn read_machine(&mut self, settings: &str) -> anyhow::Result<Root> {
        let mut root = None;
        for word in settings.split_whitespace() {
            match word.split_once('=') {
                None if word == "lean" => root = Some(Root::Lean),
                None if word == "systemd" => root = Some(Root::Systemd),
                None if word == "alone" => self.alone = true,
                Some(("kernels", list)) => self.kernels = read_kernels(list)?,
                Some(("cpus", value)) => self.machine.cpus = read_number(word, value)?,
                Some(("memory_mib", value)) => self.machine.memory_mib = read_number(word, value)?,
                Some(("hugepages", value)) => self.machine.hugepages = read_number(word, value)?,
                Some(("timeout_s", value)) => self.timeout_s = read_number(word, value)?,
                _ => bail!(
                    "`{word}`: neither lean, systemd or alone, nor kernels=, cpus=, memory_mib=, \
                     hugepages= or timeout_s="
                ),
            }
        }
        root.context("the line `guest:` says neither lean nor systemd")
    }
}

fn read_kernels(list: &str) -> anyhow::Result<Vec<String>> {
    let known = |version: &str| KERNELS.iter().any(|(known, _)| *known == version);
    let versions: Vec<String> = list.split(',').map(str::to_owned).collect();
    for version in &versions {
        ensure!(
            known(version),
            "kernel `{version}`: there are {}",
            KERNELS.map(|(version, _)| version).join(" and ")
        );
    }
    Ok(versions)
}

fn read_number<N: FromStr>(word: &str, value: &str) -> anyhow::Result<N> {
    let number = value.parse().ok();
    number.with_context(|| format!("`{word}`: not a number, or too large"))
}

impl FromStr for Binary {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> anyhow::Result<Binary> {
        let parts = word.split_once(':');
        let (package, test) = parts.with_context(|| format!("`{word}`: not PACKAGE:TEST"))?;
        Ok(Binary {
            package: package.to_owned(),
            test: test.to_owned(),
        })
    }
}

/// All tests of a directory, by name.
pub fn read_all(directory: &Path) -> anyhow::Result<Vec<Test>> {
    let mut tests = Vec::new();
    let what = || format!("cannot read {}", directory.display());
    for entry in fs::read_dir(directory).with_context(what)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "sh") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let script = fs::read_to_string(&path)?;
            let test = Test::parse(&name, &script);
            tests.push(test.with_context(|| path.display().to_string())?);
        }
    }
    tests.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tests)
}

/// Tests that run in one boot.
#[derive(Debug, PartialEq, Eq)]
pub struct Boot {
    /// A version of [`KERNELS`].
    pub kernel: String,
    /// What all of them asked for.
    pub machine: Machine,
    /// At least one.
    pub tests: Vec<Test>,
}

/// Arranges tests into as few boots as they allow; quick machines first.
pub fn boots(tests: &[Test], kernels: &[String]) -> Vec<Boot> {
    let mut boots: Vec<(bool, Boot)> = Vec::new();
    for kernel in kernels {
        for test in tests.iter().filter(|test| test.kernels.contains(kernel)) {
            let same = boots.iter_mut().find(|(shared, boot)| {
                *shared && !test.alone && boot.kernel == *kernel && boot.machine == test.machine
            });
            match same {
                Some((_, boot)) => boot.tests.push(test.clone()),
                None => boots.push((
                    !test.alone,
                    Boot {
                        kernel: kernel.clone(),
                        machine: test.machine,
                        tests: vec![test.clone()],
                    },
                )),
            }
        }
    }
    let mut boots: Vec<Boot> = boots.into_iter().map(|(_, boot)| boot).collect();
    boots.sort_by_key(|boot| boot.machine);
    boots
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernels() -> Vec<String> {
        KERNELS.map(|(version, _)| version.to_owned()).to_vec()
    }

    #[test]
    fn a_header_is_read() {
        let script = "#!/bin/sh\n# guest: systemd kernels=6.12 cpus=4 hugepages=0 timeout_s=9 alone\n\
                      # files: systemd docs/a.md\n# tests: exod:frames libexo:port_hostile\n\
                      # host: cargo deb\n# It works.\n# More.\nset -eu\n# guest: lean\n";
        let test = Test::parse("x", script).expect("a good header");
        assert_eq!(test.machine.root, Root::Systemd);
        assert_eq!((test.machine.cpus, test.machine.hugepages), (4, 0));
        assert_eq!(test.machine.memory_mib, MEMORY_MIB);
        assert_eq!((test.timeout_s, test.alone), (9, true));
        assert_eq!(test.kernels, ["6.12"]);
        assert_eq!(test.files, ["systemd", "docs/a.md"]);
        assert_eq!(test.binaries.len(), 2);
        assert_eq!(test.binaries[1].test, "port_hostile");
        assert_eq!(test.host.as_deref(), Some("cargo deb"));
        assert_eq!(test.about, "It works.");
    }

    #[test]
    fn a_wrong_header_says_what_is_wrong() {
        for (line, hint) in [
            ("echo hello", "no line"),
            ("# guest: alone", "neither lean nor systemd"),
            ("# guest: lean kernels=5.15", "6.1 and 6.12"),
            ("# guest: lean cpus=many", "cpus=many"),
            ("# guest: lean cpus=-1", "cpus=-1"),
            ("# guest: fat", "`fat`"),
            ("# guest: lean\n# tests: frames", "PACKAGE:TEST"),
        ] {
            let error = Test::parse("x", line).expect_err(line).to_string();
            assert!(error.contains(hint), "{line}: {error}");
        }
    }

    #[test]
    fn tests_share_a_boot_when_they_may() {
        let test = |name: &str, settings: &str| {
            Test::parse(name, &format!("# guest: {settings}\n")).expect("a good header")
        };
        let tests = [
            test("a", "systemd kernels=6.12"),
            test("b", "lean"),
            test("c", "lean kernels=6.12 alone"),
            test("d", "lean cpus=4 kernels=6.1"),
            test("e", "lean"),
        ];
        let boots = boots(&tests, &kernels());
        let names = |boot: &Boot| {
            let names: Vec<&str> = boot.tests.iter().map(|test| &*test.name).collect();
            format!("{}: {}", boot.kernel, names.join(" "))
        };
        let found: Vec<String> = boots.iter().map(names).collect();
        assert_eq!(
            found,
            ["6.1: b e", "6.12: b e", "6.12: c", "6.1: d", "6.12: a"]
        );
    }
}
