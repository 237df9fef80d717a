//! What a person waits for: `exo status` and `exo doctor`, each a process from start to end.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::daemon::Daemon;
use super::rows::{Found, Measure, Programs, Unit, spread};
use crate::interrupt;
use crate::row::{Kind, Plan};

/// Fewest runs of a program, and most.
const RUNS: std::ops::Range<usize> = 10..1000;
/// The exit code of a command line that a program does not understand.
const EXIT_USAGE: i32 = 2;

pub(super) const ROWS: [Measure; 3] = [
    Measure {
        name: "exo-status",
        about: "`exo status` against an idle exod, as a process, from start to end",
        kind: Kind::Ours,
        run: |programs, plan| ask(programs, plan, "status"),
    },
    Measure {
        name: "exo-doctor",
        about: "`exo doctor`, likewise",
        kind: Kind::Ours,
        run: |programs, plan| ask(programs, plan, "doctor"),
    },
    Measure {
        name: "true",
        about: "`true`, a process that does nothing, from start to end",
        kind: Kind::Floor,
        run: nothing,
    },
];

fn ask(programs: &Programs, plan: &Plan, verb: &str) -> Result<Found> {
    let daemon = Daemon::start(programs)?;
    daemon.settle()?;
    let times = runs(plan, || {
        let mut command = Command::new(&programs.exo);
        command.arg("--socket").arg(daemon.socket()).arg(verb);
        command
    })?;
    let details = daemon.details();
    daemon.stop()?;
    Ok(Found {
        figures: spread(times, Unit::Ms),
        details,
    })
}

fn nothing(_: &Programs, plan: &Plan) -> Result<Found> {
    let times = runs(plan, || Command::new(Path::new("/bin/true")))?;
    let details = json!({ "device": "none", "driver": "kernel", "mode": "process", "page": "4K" });
    Ok(Found {
        figures: spread(times, Unit::Ms),
        details: details.as_object().cloned().unwrap_or_default(),
    })
}

/// Runs a program again and again, as long as the window is.
fn runs(plan: &Plan, command: impl Fn() -> Command) -> Result<Vec<Duration>> {
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < RUNS.start || (begin.elapsed() < plan.duration && times.len() < RUNS.end) {
        interrupt::check()?;
        let mut command = command();
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let start = Instant::now();
        let output = command.output().context("it cannot be started")?;
        times.push(start.elapsed());
        // A doctor that found something to cure says so with another code, and did its work.
        if output.status.code().is_none_or(|code| code == EXIT_USAGE) {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("it failed: {}", said.lines().next().unwrap_or_default());
        }
    }
    Ok(times)
}
