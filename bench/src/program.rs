//! What the programs of this crate have in common: they run rows, list them, hold them against
//! promises, and say so to people or, with `--json`, to programs.
#![forbid(unsafe_code)]

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use regex::Regex;

use crate::host::{self, Host};
use crate::interrupt::Interrupted;
use crate::record::{Record, missing_line};
use crate::row::Row;
use crate::runner::{self, Cell, Outcome, Settings};
use crate::table::{Ink, paint};
use crate::targets::Target;
use crate::{table, verify};

/// Window and rounds of comparison and targets; netbench's whole table takes a few minutes.
pub(crate) const SECONDS: f64 = 0.4;
/// See [`SECONDS`].
pub(crate) const REPEATS: u32 = 3;
/// Longest window that may be asked for.
const SECONDS_MAX: f64 = 600.0;
/// The exit code of a program that Ctrl-C stopped.
const EXIT_INTERRUPTED: u8 = 130;

/// Arguments of `targets`.
#[derive(Debug, Args)]
pub struct Targets {
    /// Only promises whose name matches this regular expression.
    #[arg(long, value_name = "REGEX")]
    pub only: Option<Regex>,
    /// Length of one window.
    #[arg(long, value_parser = parse_seconds, default_value_t = SECONDS)]
    pub seconds: f64,
    /// Rounds.
    #[arg(long, default_value_t = REPEATS, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeats: u32,
    /// Cores of the sender and of the receiver.
    #[arg(long, value_name = "A,B", value_parser = parse_cores)]
    pub cores: Option<[usize; 2]>,
    /// One JSON object per line.
    #[arg(long)]
    pub json: bool,
}

/// A window's length.
pub(crate) fn parse_seconds(text: &str) -> Result<f64, String> {
    let value = text
        .parse::<f64>()
        .map_err(|_| format!("`{text}` is not a number"))?;
    let within = (0.01..=SECONDS_MAX).contains(&value);
    within
        .then_some(value)
        .ok_or_else(|| format!("must be 0.01 to {SECONDS_MAX}"))
}

/// Two cores, `A,B`.
pub(crate) fn parse_cores(text: &str) -> Result<[usize; 2], String> {
    let usage = || format!("`{text}` is not two cores: write --cores 0,1");
    let (a, b) = text.split_once(',').ok_or_else(usage)?;
    let cores = [a, b].map(|core| core.trim().parse::<usize>());
    let [Ok(a), Ok(b)] = cores else {
        return Err(usage());
    };
    if a == b {
        Err("sender and receiver need a core each".into())
    } else {
        Ok([a, b])
    }
}

/// What a program's run means to whoever started it; an error is said first.
pub(crate) fn exit_code(name: &str, result: Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("{name}: interrupted");
            ExitCode::from(EXIT_INTERRUPTED)
        }
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whoever read our output had enough, as `head` does.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}

/// A line on standard output, or an error that [`exit_code`] knows.
pub(crate) fn say(line: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

/// The rows, and why one cannot run here.
pub(crate) fn list(rows: &[Box<dyn Row>]) -> Result<ExitCode> {
    for row in rows {
        say(&format!("{:<20} {}", row.name(), row.about()))?;
        if let Some(reason) = row.unavailable() {
            say(&paint(
                Ink::Yellow,
                &format!("{:<20} cannot run here: {reason}", ""),
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Keeps the rows whose names match; none is an error.
pub(crate) fn choose(
    name: &str,
    mut rows: Vec<Box<dyn Row>>,
    only: Option<&Regex>,
) -> Result<Vec<Box<dyn Row>>> {
    if let Some(only) = only {
        rows.retain(|row| only.is_match(row.name()));
        if rows.is_empty() {
            bail!("no row's name matches `{only}`: see `{name} list`");
        }
    }
    Ok(rows)
}

/// The cores that were asked for, if this process may use them, or a good pair.
pub(crate) fn cores(asked: Option<[usize; 2]>) -> Result<[usize; 2]> {
    let Some(cores) = asked else {
        return host::choose_cores();
    };
    let allowed = host::allowed_cores()?;
    for core in cores {
        if !allowed.contains(&core) {
            bail!("core {core} does not exist or is not allowed; these are: {allowed:?}");
        }
    }
    Ok(cores)
}

/// Figures of such a build mean nothing.
pub(crate) fn warn_of_debug_build(name: &str) {
    if cfg!(debug_assertions) {
        eprintln!("{name}: warning: built without optimisation: use cargo run --release");
    }
}

/// Runs with a progress bar, when somebody watches.
pub(crate) fn measure(
    rows: &[Box<dyn Row>],
    cells: &[Cell],
    settings: &Settings,
) -> (Vec<Outcome>, Result<(), Interrupted>) {
    let bar = if std::io::stderr().is_terminal() {
        ProgressBar::new(cells.len() as u64 * u64::from(settings.repeats))
    } else {
        ProgressBar::hidden()
    };
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} (about {eta} left)")
    {
        bar.set_style(style);
    }
    let result = runner::run(rows, cells, settings, |cell| {
        bar.inc(1);
        bar.set_message(format!("{} {} B", rows[cell.row].name(), cell.size));
    });
    bar.finish_and_clear();
    result
}

/// Rows that did not run and cells that failed: name, reason, whether it failed.
pub(crate) fn missing<'a>(
    rows: &'a [Box<dyn Row>],
    reasons: &'a [Option<String>],
    outcomes: &'a [Outcome],
) -> Vec<(&'a str, &'a str, bool)> {
    let absent = rows
        .iter()
        .zip(reasons)
        .filter_map(|(row, reason)| Some((row.name(), reason.as_deref()?, false)));
    let failed = outcomes.iter().filter_map(|outcome| {
        Some((
            rows[outcome.cell.row].name(),
            outcome.error.as_deref()?,
            true,
        ))
    });
    absent.chain(failed).collect()
}

/// One object per line.
pub(crate) fn print_json(
    name: &str,
    found: &[Record],
    missing: &[(&str, &str, bool)],
) -> Result<()> {
    for record in found {
        say(&record.line())?;
    }
    for (row, reason, failed) in missing {
        say(&missing_line(name, row, reason, *failed))?;
    }
    Ok(())
}

/// The same for people.
pub(crate) fn say_missing(missing: &[(&str, &str, bool)]) -> Result<()> {
    for (row, reason, failed) in missing {
        let word = if *failed { "failed" } else { "cannot run here" };
        say(&paint(Ink::Yellow, &format!("{row}: {word}: {reason}")))?;
    }
    Ok(())
}

/// Doubts, the worst first; the same doubt once.
pub(crate) fn warnings(found: &[Record]) -> Vec<String> {
    let doubted = |record: &&Record| matches!(record.metric.as_str(), "rate" | "rtt-p50" | "p50");
    let all = found.iter().filter(doubted).filter_map(|record| {
        Some(format!(
            "{}, {} B: {}",
            record.row,
            record.size,
            record.warning()?
        ))
    });
    let all: Vec<String> = all.collect();
    match &all[..] {
        [] => Vec::new(),
        [first, ..] if all.len() > 3 => vec![format!(
            "the machine is too busy to trust {} of the figures, such as {first}",
            all.len()
        )],
        few => few.to_vec(),
    }
}

/// Measures what the promises need and says which are met.
pub(crate) fn targets(
    name: &'static str,
    rows: &[Box<dyn Row>],
    all: &[Target],
    args: &Targets,
) -> Result<ExitCode> {
    let mut chosen = all.to_vec();
    if let Some(only) = &args.only {
        chosen.retain(|target| only.is_match(target.name));
        if chosen.is_empty() {
            let names: Vec<&str> = all.iter().map(|target| target.name).collect();
            bail!(
                "no target's name matches `{only}`; these are: {}",
                names.join(" ")
            );
        }
    }
    let settings = Settings {
        window: Duration::from_secs_f64(args.seconds),
        repeats: args.repeats,
        cores: cores(args.cores)?,
    };
    warn_of_debug_build(name);
    let host = Host::look(name, settings.cores);
    let cells = verify::cells(&chosen, rows);
    let (outcomes, ended) = measure(rows, &cells, &settings);
    ended?;
    let mut met = true;
    for target in &chosen {
        let verdict = verify::verdict(target, rows, &outcomes, &host);
        met &= verdict.met;
        if args.json {
            say(&serde_json::to_string(&verdict)?)?;
        } else {
            say(&table::verdict(&verdict))?;
        }
    }
    Ok(if met {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
