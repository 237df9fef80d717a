//! Manual pages and shell completions, made by the very program that they describe.
//!
//! `exod --generate DIR` and `exo --generate DIR` write theirs and exit. The package is built with
//! it. It is no option of either program: nobody who uses them needs it, so neither their help, nor
//! the pages and completions themselves, mention it.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Command;
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;

/// The only argument before the directory.
const FLAG: &str = "--generate";

/// Shells that get completions: those that Debian has.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// Writes the pages of `command` where the command line asks for it; then `main` returns this.
///
/// `section` is the manual's: 1 for what a user runs, 8 for a daemon.
pub fn asked(command: impl FnOnce() -> Command, section: u8) -> Option<ExitCode> {
    let directory = directory(std::env::args_os().skip(1))?;
    let command = command();
    let name = command.get_name().to_owned();
    match write(command, section, &directory) {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("{name}: cannot write to {}: {error}", directory.display());
            Some(ExitCode::FAILURE)
        }
    }
}

fn directory(mut args: impl Iterator<Item = OsString>) -> Option<PathBuf> {
    let flag = args.next()?;
    let directory = args.next()?;
    (flag == FLAG && args.next().is_none()).then(|| directory.into())
}

/// Writes `NAME.8`, a page for each subcommand (`NAME-SUB.8`), and completions under the names that
/// the shells look for.
fn write(command: Command, section: u8, directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let mut command = command.disable_help_subcommand(true);
    let name = command.get_name().to_owned();
    for shell in SHELLS {
        generate_to(shell, &mut command, &name, directory)?;
    }
    command.build();
    manual(&command, section, directory)
}

fn manual(command: &Command, section: u8, directory: &Path) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let man = Man::new(command.clone())
        .section(section.to_string())
        .manual("exo")
        .title(name.to_uppercase());
    let mut text = Vec::new();
    man.render(&mut text)?;
    std::fs::write(directory.join(format!("{name}.{section}")), text)?;
    let below = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    for sub in below {
        manual(sub, section, directory)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked_for(args: &[&str]) -> Option<PathBuf> {
        directory(args.iter().map(OsString::from))
    }

    #[test]
    fn only_the_whole_command_line_asks() {
        assert_eq!(asked_for(&["--generate", "x"]), Some("x".into()));
        for other in [
            &[][..],
            &["--generate"],
            &["--generate", "x", "y"],
            &["status", "--generate", "x"],
        ] {
            assert_eq!(asked_for(other), None, "{other:?}");
        }
    }

    #[test]
    fn each_command_has_its_page_and_each_shell_its_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let sub = Command::new("look").about("Looks around");
        let command = Command::new("tool").about("Does things").subcommand(sub);
        write(command, 1, dir.path()).expect("written");
        let mut found: Vec<_> = std::fs::read_dir(dir.path())
            .expect("the directory")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        found.sort();
        let expected = ["_tool", "tool-look.1", "tool.1", "tool.bash", "tool.fish"];
        assert_eq!(found, expected);
        let page = std::fs::read_to_string(dir.path().join("tool-look.1")).expect("a page");
        assert!(page.contains("Looks around"), "{page}");
    }
}
