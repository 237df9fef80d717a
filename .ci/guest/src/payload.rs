//! What guests of one run are given beside their root: the project's programs as they are released,
//! the libraries that these need, test binaries, scripts, and files of the project.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use crate::apt::output;
use crate::plan::Plan;
use crate::test::{Binary, Root, Test};
use crate::tree::Tree;

/// Where test binaries are, in the guest; those that are called by name are beside them.
const TEST_BINARIES: &str = "guest/lib";

/// Programs that cargo built.
#[derive(Debug)]
pub struct Programs {
    project: PathBuf,
    /// Released programs.
    released: Vec<Artifact>,
    /// Test binaries, and programs that these start by the path they were built at.
    tested: Vec<Artifact>,
}

/// One executable.
#[derive(Clone, Debug)]
struct Artifact {
    name: String,
    /// The directory of its package.
    package: PathBuf,
    is_test: bool,
    path: PathBuf,
}

/// What is read of cargo's messages.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

impl Programs {
    /// Builds programs and what tests need.
    pub fn build(project: &Path, tests: &[Test], debug: bool) -> anyhow::Result<Programs> {
        let profile: &[&str] = if debug { &[] } else { &["--release"] };
        let bins = ["build", "--bins", "--workspace", "--exclude", "guest"];
        let released = cargo(project, &[&bins[..], profile].concat())?;
        let wanted: BTreeSet<&Binary> = tests.iter().flat_map(|test| &test.binaries).collect();
        let mut tested = Vec::new();
        if !wanted.is_empty() {
            // The whole workspace, so that features and builds are those of a plain `cargo test`.
            let mut arguments = vec!["test", "--no-run", "--workspace"];
            arguments.extend(wanted.iter().flat_map(|binary| ["--test", &*binary.test]));
            tested = cargo(project, &arguments)?;
        }
        let programs = Programs {
            project: project.to_owned(),
            released,
            tested,
        };
        for binary in wanted {
            programs.test_binary(binary)?;
        }
        Ok(programs)
    }

    fn test_binary(&self, binary: &Binary) -> anyhow::Result<&Artifact> {
        let found = self.tested.iter().find(|artifact| {
            let package = artifact.package.file_name();
            artifact.is_test
                && artifact.name == binary.test
                && package.is_some_and(|package| *package == *binary.package)
        });
        let (package, test) = (&binary.package, &binary.test);
        found.with_context(|| format!("cargo built no {package}/tests/{test}.rs"))
    }

    /// The payload of one boot.
    pub fn payload(&self, root: Root, plan: &Plan, tests: &[Test]) -> anyhow::Result<Tree> {
        let mut tree = Tree::default();
        let mut binaries = vec![env::current_exe()?];
        self.add_program(&mut tree, "guest/bin/guest", &binaries[0])?;
        for program in self.released.iter().filter(|program| !program.is_test) {
            let path = format!("guest/bin/{}", program.name);
            self.add_program(&mut tree, &path, &program.path)?;
            binaries.push(program.path.clone());
        }
        let wanted: BTreeSet<&Binary> = tests.iter().flat_map(|test| &test.binaries).collect();
        for binary in wanted {
            let artifact = self.test_binary(binary)?;
            self.add_test_binary(&mut tree, binary, artifact)?;
            binaries.push(artifact.path.clone());
        }
        for test in tests {
            let path = format!("guest/tests/{}.sh", test.name);
            tree.file(&path, 0o755, test.script.as_bytes());
            for pattern in &test.files {
                for file in expand(&self.project, pattern)? {
                    let path = format!("guest/files/{}", file.display());
                    tree.copy_all(&path, &self.project.join(&file))?;
                }
            }
        }
        match root {
            Root::Lean => add_libraries(&mut tree, &binaries)?,
            Root::Systemd => {}
        }
        let plan = serde_json::to_vec(plan)?;
        tree.file("guest/plan.json", 0o644, &plan);
        Ok(tree)
    }

    /// The newest C library that some program asks for.
    pub fn needs_libc(&self) -> anyhow::Result<(u32, u32)> {
        let own = env::current_exe()?;
        let all = self.released.iter().chain(&self.tested);
        let paths = all.map(|artifact| &artifact.path).chain([&own]);
        let mut newest = (0, 0);
        for path in paths {
            newest = newest.max(libc_of(&fs::read(path)?));
        }
        Ok(newest)
    }

    fn add_program(&self, tree: &mut Tree, path: &str, from: &Path) -> anyhow::Result<()> {
        let scratch = tempfile::NamedTempFile::new()?;
        let mut strip = Command::new("strip");
        let strip = strip.arg("-o").arg(scratch.path()).arg(from);
        // Without it everything is larger and slower, and still works.
        if output(strip).is_ok() {
            let data = fs::read(scratch.path())?;
            tree.file(path, 0o755, &data);
            return Ok(());
        }
        tree.copy(path, from)
    }

    /// A test binary finds what cargo gives it: its package's directory and data, and programs at
    /// the paths they were built at, which are the released ones here.
    fn add_test_binary(
        &self,
        tree: &mut Tree,
        binary: &Binary,
        artifact: &Artifact,
    ) -> anyhow::Result<()> {
        let Binary { package, test } = binary;
        let path = format!("{TEST_BINARIES}/{package}-{test}");
        self.add_program(tree, &path, &artifact.path)?;
        let directory = artifact.package.display();
        let script = format!("#!/bin/sh\ncd {directory} && exec /{path} \"$@\"\n");
        let name = format!("guest/test-binaries/{package}-{test}");
        tree.file(&name, 0o755, script.as_bytes());
        tree.directory(&directory.to_string());
        let corpus = artifact.package.join("tests/corpus");
        if corpus.is_dir() {
            tree.copy_all(&corpus.display().to_string(), &corpus)?;
        }
        for program in self.tested.iter().filter(|program| !program.is_test) {
            let path = program.path.display().to_string();
            tree.symlink(&path, &format!("/guest/bin/{}", program.name));
        }
        Ok(())
    }
}

/// Runs cargo and returns the executables that it names.
fn cargo(project: &Path, arguments: &[&str]) -> anyhow::Result<Vec<Artifact>> {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let out = Command::new(program)
        .args(arguments)
        .args([
            "--quiet",
            "--locked",
            "--message-format=json-render-diagnostics",
        ])
        .current_dir(project)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(out.status.success(), "cargo {} failed", arguments.join(" "));
    artifacts(&String::from_utf8_lossy(&out.stdout))
}

fn artifacts(messages: &str) -> anyhow::Result<Vec<Artifact>> {
    let mut found = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Message = serde_json::from_str(line)?;
        let parts = (message.executable, message.manifest_path, message.target);
        if let (Some(path), Some(manifest), Some(target)) = parts {
            found.push(Artifact {
                name: target.name,
                package: manifest.parent().unwrap_or(Path::new("/")).to_owned(),
                is_test: message.profile.is_some_and(|profile| profile.test),
                path,
            });
        }
    }
    Ok(found)
}

/// Copies the libraries of this machine that the programs need.
fn add_libraries(tree: &mut Tree, programs: &[PathBuf]) -> anyhow::Result<()> {
    let mut libraries = BTreeSet::new();
    for program in programs {
        libraries.extend(libraries_of(&output(Command::new("ldd").arg(program))?)?);
    }
    for library in libraries {
        // As in the packages, since directories in the root are links into /usr.
        let path = library.trim_start_matches('/');
        let path = match path.strip_prefix("usr/") {
            Some(path) => path,
            None => path,
        };
        tree.copy(&format!("usr/{path}"), Path::new(&library))?;
    }
    Ok(())
}

/// Paths in what `ldd` prints.
fn libraries_of(ldd: &str) -> anyhow::Result<BTreeSet<String>> {
    let mut paths = BTreeSet::new();
    for line in ldd.lines() {
        if line.contains("not found") {
            bail!("a library is missing on this machine: {}", line.trim());
        }
        let line = line.split("=> ").last().unwrap_or(line).trim();
        let path = line.split(" (").next().unwrap_or(line);
        if path.starts_with('/') {
            paths.insert(path.to_owned());
        }
    }
    Ok(paths)
}

/// The newest version of the C library among the symbols of a program.
fn libc_of(program: &[u8]) -> (u32, u32) {
    const NAME: &[u8] = b"GLIBC_";
    let mut newest = (0, 0);
    for (at, window) in program.windows(NAME.len()).enumerate() {
        if window != NAME {
            continue;
        }
        let rest = &program[at + NAME.len()..];
        let version = rest.split(|byte| !byte.is_ascii_digit() && *byte != b'.');
        let version = version.into_iter().next().unwrap_or_default();
        newest = newest.max(version_of(&String::from_utf8_lossy(version)));
    }
    newest
}

/// The first two numbers of a version.
pub fn version_of(text: &str) -> (u32, u32) {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or_default();
    (next(), next())
}

/// Files of the project that a pattern names, relative to it.
fn expand(project: &Path, pattern: &str) -> anyhow::Result<Vec<PathBuf>> {
    let (directory, name) = pattern.rsplit_once('/').unwrap_or(("", pattern));
    let Some((start, end)) = name.split_once('*') else {
        ensure!(project.join(pattern).exists(), "no file {pattern}");
        return Ok(vec![PathBuf::from(pattern)]);
    };
    let what = || format!("no directory {directory}");
    let mut found = Vec::new();
    for entry in fs::read_dir(project.join(directory)).with_context(what)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let long_enough = name.len() >= start.len() + end.len();
        if long_enough && name.starts_with(start) && name.ends_with(end) {
            found.push(Path::new(directory).join(name));
        }
    }
    ensure!(!found.is_empty(), "no file {pattern}");
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_found_among_messages() {
        let messages = r#"{"reason":"compiler-artifact","manifest_path":"/p/exod/Cargo.toml","target":{"name":"frames"},"profile":{"test":true},"executable":"/p/t/frames-1"}
{"reason":"compiler-artifact","manifest_path":"/p/x/Cargo.toml","target":{"name":"lib"},"profile":{"test":false},"executable":null}
{"reason":"build-finished","success":true}
words of a build script"#;
        let found = artifacts(messages).expect("good messages");
        assert_eq!(found.len(), 1);
        assert_eq!((&*found[0].name, found[0].is_test), ("frames", true));
        assert_eq!(found[0].package, Path::new("/p/exod"));
    }

    #[test]
    fn libraries_are_found_and_missed() {
        let ldd = "\tlinux-vdso.so.1 (0x7f)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f)\n\
                   \t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        let found = libraries_of(ldd).expect("all there");
        let expected = [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(found.iter().collect::<Vec<_>>(), expected);
        let error = libraries_of("\tlibx.so => not found\n").expect_err("missing");
        assert!(error.to_string().contains("libx.so"));
        assert!(
            libraries_of("\tstatically linked\n")
                .expect("none")
                .is_empty()
        );
    }

    #[test]
    fn the_newest_c_library_counts() {
        let program = b"\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.9\0GLIBC_PRIVATE\0";
        assert_eq!(libc_of(program), (2, 34));
        assert_eq!(libc_of(b"static"), (0, 0));
        assert_eq!(version_of("2.36-9+deb12u14"), (2, 36));
    }

    #[test]
    fn patterns_name_files_or_fail() {
        let project = tempfile::tempdir().expect("a directory");
        for name in ["a_1.deb", "a_2.deb", "b.txt"] {
            fs::write(project.path().join(name), b"").expect("written");
        }
        let names = |pattern| expand(project.path(), pattern).map(|found| found.len());
        assert_eq!(names("a_*.deb").expect("two"), 2);
        assert_eq!(names("b.txt").expect("one"), 1);
        assert!(names("c*.deb").is_err() && names("c").is_err() && names("x/*").is_err());
    }
}
