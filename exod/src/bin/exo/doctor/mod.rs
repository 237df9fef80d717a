//! `exo doctor`: what this machine can do for exo, what is missing, and the command that fixes it.
//!
//! It reads `/proc` and `/sys`, makes a memory file and a few sockets, and asks exod if there is
//! one. It needs no privilege, changes nothing, and waits for nobody.

#![forbid(unsafe_code)]

mod cpu;
mod daemon;
mod kernel;
mod memory;
mod read;

use std::io::Write;
use std::process::ExitCode;

use serde_json::json;

use crate::Exod;
use crate::shape::{Ink, Paint, harmless};

/// Something that exo needs is missing.
const EXIT_MISSING: u8 = 3;

/// Says what this machine can do for exo, and how to fix what is missing
///
/// Works without exod and without privileges. `need` marks what exo cannot do without, `look` what
/// makes it slower or less safe than it could be, and a dash what is merely told.
#[derive(clap::Args)]
pub struct Args {
    /// Exit with 3 also when something should be looked at
    #[arg(long)]
    strict: bool,

    /// One JSON object per line and finding
    #[arg(long)]
    json: bool,
}

/// How a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// As it should be.
    Good,
    /// A fact.
    Told,
    /// Slower or less safe than it could be.
    Look,
    /// exo does not work so.
    Need,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Good => "ok",
            Level::Told => "-",
            Level::Look => "look",
            Level::Need => "need",
        }
    }

    fn ink(self) -> Ink {
        match self {
            Level::Good => Ink::Green,
            Level::Told => Ink::Dim,
            Level::Look => Ink::Yellow,
            Level::Need => Ink::Red,
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug)]
pub struct Finding {
    part: &'static str,
    name: &'static str,
    level: Level,
    found: String,
    fix: Option<String>,
}

impl Finding {
    /// A fact.
    pub fn told(part: &'static str, name: &'static str, found: impl Into<String>) -> Finding {
        Finding {
            part,
            name,
            level: Level::Told,
            found: found.into(),
            fix: None,
        }
    }

    /// As it should be.
    pub fn good(part: &'static str, name: &'static str, found: impl Into<String>) -> Finding {
        Finding {
            level: Level::Good,
            ..Finding::told(part, name, found)
        }
    }

    /// Good, or worth a look, with what to do about it.
    pub fn should(self, good: bool, fix: impl Into<String>) -> Finding {
        self.judged(good, Level::Look, fix.into())
    }

    /// Good, or a reason that exo does not work, with what to do about it.
    pub fn must(self, good: bool, fix: impl Into<String>) -> Finding {
        self.judged(good, Level::Need, fix.into())
    }

    fn judged(self, good: bool, otherwise: Level, fix: String) -> Finding {
        let (level, fix) = if good {
            (Level::Good, None)
        } else {
            (otherwise, Some(fix))
        };
        Finding { level, fix, ..self }
    }
}

pub fn run(exod: &Exod, args: &Args) -> anyhow::Result<ExitCode> {
    let mut findings = kernel::look();
    findings.extend(memory::look());
    findings.extend(cpu::look());
    findings.extend(daemon::look(exod));
    let mut out = std::io::stdout().lock();
    if args.json {
        as_json(&findings, &mut out)?;
    } else {
        as_text(&findings, &mut out)?;
    }
    out.flush()?;
    let count = |level| findings.iter().filter(|f| f.level == level).count();
    let (needs, looks) = (count(Level::Need), count(Level::Look));
    if !args.json {
        let all_well = needs + looks == 0;
        let verdict = if all_well {
            "all is as it should be".to_owned()
        } else {
            format!("{needs} needed, {looks} to look at")
        };
        writeln!(out, "\n{verdict}")?;
    }
    Ok(if needs > 0 || args.strict && looks > 0 {
        ExitCode::from(EXIT_MISSING)
    } else {
        ExitCode::SUCCESS
    })
}

fn as_json(findings: &[Finding], out: &mut impl Write) -> std::io::Result<()> {
    for finding in findings {
        let level = match finding.level {
            Level::Told => "told",
            other => other.name(),
        };
        let object = json!({
            "part": finding.part,
            "name": finding.name,
            "level": level,
            "found": finding.found,
            "fix": finding.fix,
        });
        writeln!(out, "{object}")?;
    }
    Ok(())
}

fn as_text(findings: &[Finding], out: &mut impl Write) -> std::io::Result<()> {
    let paint = Paint::stdout();
    let mut part = "";
    for finding in findings {
        if finding.part != part {
            let gap = if part.is_empty() { "" } else { "\n" };
            part = finding.part;
            writeln!(out, "{gap}{}", paint.ink(Ink::Dim, part))?;
        }
        let level = paint.ink(finding.level.ink(), &format!("{:<4}", finding.level.name()));
        let found = harmless(&finding.found);
        writeln!(out, "  {level} {:<16} {found}", finding.name)?;
        if let Some(fix) = &finding.fix {
            writeln!(out, "       {:<16} fix: {}", "", harmless(fix))?;
        }
    }
    Ok(())
}
