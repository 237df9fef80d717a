//! The tutorial's part without systemd, command by command, as its reader types it.
//!
//! The other part is run in a guest, by `.ci/guest/tests/tutorial.sh`.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Words of headings whose commands the guest runs, as its script has them.
const GUEST: &str = "systemd|service of your own|Gone again";

/// What the packages are built with has the tutorial's first command; here cargo has built already.
const BUILD: &str = "cargo build --release --locked -p exod -p examples";

fn text(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::fs::read_to_string(root.join(path)).expect("a file of the project")
}

/// A fenced block: the heading above it, its language, its lines.
struct Block {
    heading: String,
    language: String,
    lines: Vec<String>,
}

fn blocks(page: &str) -> Vec<Block> {
    let (mut heading, mut open) = (String::new(), None::<Block>);
    let mut found = Vec::new();
    for line in page.lines() {
        if let Some(mut block) = open.take() {
            if line == "```" {
                found.push(block);
            } else {
                block.lines.push(line.to_owned());
                open = Some(block);
            }
        } else if let Some(language) = line.strip_prefix("```") {
            open = Some(Block {
                heading: heading.clone(),
                language: language.to_owned(),
                lines: Vec::new(),
            });
        } else if line.starts_with('#') {
            heading = line.to_owned();
        }
    }
    assert!(open.is_none(), "a block has no end");
    found
}

fn in_guest(block: &Block) -> bool {
    GUEST.split('|').any(|word| block.heading.contains(word))
}

/// The directory with the programs under test; exod and exo lie in it when they were built.
fn programs() -> PathBuf {
    let hello = Path::new(env!("CARGO_BIN_EXE_hello"));
    hello.parent().expect("a directory").to_owned()
}

/// Numbers differ from run to run.
fn without_numbers(line: &str) -> String {
    let letters = line.chars().filter(|c| !c.is_ascii_digit());
    letters.collect()
}

#[test]
fn the_tutorial_does_what_it_says() {
    let programs = programs();
    if !programs.join("exod").exists() || !programs.join("exo").exists() {
        println!("skipped: exod and exo were not built: cargo build -p exod");
        return;
    }
    let page = text("docs/tutorial.md");
    let blocks = blocks(&page);
    let mut script = "set -eu\n".to_owned();
    for block in blocks.iter().filter(|block| !in_guest(block)) {
        let build = block.lines.iter().any(|line| line == BUILD);
        if block.language == "sh" && !build {
            script += &(block.lines.join("\n") + "\n");
        }
    }
    let dir = tempfile::tempdir().expect("a directory");
    let mut path = programs.into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let output = Command::new("sh")
        .args(["-c", &script])
        .current_dir(dir.path())
        .env("PATH", path)
        .env_remove("EXO_SOCKET_FD")
        // An exod of the machine's own is no part of it.
        .env("EXO_SOCKET", dir.path().join("exod.sock"))
        .stdin(Stdio::null())
        .output()
        .expect("a shell");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\n{said}\n{errors}");
    let said: Vec<String> = said.lines().map(without_numbers).collect();
    let shown = blocks
        .iter()
        .filter(|b| !in_guest(b) && b.language == "text");
    for line in shown.flat_map(|block| &block.lines) {
        assert!(said.contains(&without_numbers(line)), "{line}: {said:?}");
    }
    let left: Vec<_> = std::fs::read_dir(dir.path())
        .expect("the directory")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(left, ["exod.toml"], "something was left behind");
}

#[test]
fn every_command_is_run_somewhere() {
    let page = text("docs/tutorial.md");
    let guest = text(".ci/guest/tests/tutorial.sh");
    assert!(guest.contains(&format!("/{GUEST}/")), "other headings");
    let package = text(".ci/package");
    assert!(package.contains(BUILD), "the packages are built otherwise");
    let blocks = blocks(&page);
    let commands: Vec<&Block> = blocks.iter().filter(|b| b.language == "sh").collect();
    assert!(commands.iter().any(|block| in_guest(block)));
    assert!(commands.iter().any(|block| !in_guest(block)));
    let odd = blocks
        .iter()
        .find(|b| b.language != "sh" && b.language != "text");
    assert!(odd.is_none(), "a block is neither commands nor text");
}
