//! The command line: what to measure, how, and in which form to say it.
#![forbid(unsafe_code)]

mod args;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

use args::{Cli, Command, Compare, REPEATS, SECONDS, Targets};

use crate::host::{self, Host};
use crate::interrupt::{self, Interrupted};
use crate::record::{Record, missing_line, records};
use crate::row::{Kind, Row};
use crate::runner::{self, Cell, Outcome, Settings, What};
use crate::table::{Ink, paint};
use crate::targets::TARGETS;
use crate::{catalog, doctor, report, table, verify, worker};

/// Packet sizes of the comparison: the smallest, a medium one, a full Ethernet frame, a jumbo one.
const SIZES: [usize; 4] = [64, 512, 1518, 9000];
/// Bursts of our own rows; the others run at the middle one.
const BURSTS: [usize; 3] = [1, 32, 256];
const BURST: usize = 32;
/// Sizes at which round trips are measured.
const RTT_SIZES: [usize; 2] = [64, 1518];
/// What --quick does: a look, not a measurement.
const QUICK_SECONDS: f64 = 0.2;
const QUICK_SIZES: [usize; 2] = [64, 1518];
/// The exit code of a program that Ctrl-C stopped.
const EXIT_INTERRUPTED: u8 = 130;

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("netbench: interrupted");
            ExitCode::from(EXIT_INTERRUPTED)
        }
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netbench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whoever read our output had enough, as `head` does.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}

fn run(cli: Cli) -> Result<ExitCode> {
    if let Some(Command::Worker { fds }) = cli.command {
        return worker::child_main(&fds).map(|()| ExitCode::SUCCESS);
    }
    interrupt::install()?;
    match cli.command {
        None => compare(&cli.compare),
        Some(Command::List) => list(),
        Some(Command::Doctor) => {
            let cores = host::choose_cores()?;
            doctor::run(&Host::look(cores), &catalog::rows())?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Targets(args)) => targets(&args),
        Some(Command::Replay(args)) => crate::replay::run(&args).map(|()| ExitCode::SUCCESS),
        Some(Command::Worker { .. }) => Ok(ExitCode::SUCCESS),
    }
}

fn say(line: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

fn list() -> Result<ExitCode> {
    for row in catalog::rows() {
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

/// The cores that were asked for, if this process may use them, or a good pair.
fn cores(asked: Option<[usize; 2]>) -> Result<[usize; 2]> {
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

fn warn_of_debug_build() {
    if cfg!(debug_assertions) {
        eprintln!("netbench: warning: built without optimisation: use cargo run --release");
    }
}

/// What to measure on one row.
fn cells_of(index: usize, row: &dyn Row, args: &Compare) -> Vec<Cell> {
    let sizes: &[usize] = match (&args.size[..], args.quick) {
        ([], true) => &QUICK_SIZES,
        ([], false) => &SIZES,
        (sizes, _) => sizes,
    };
    let bursts: &[usize] = match (&args.burst[..], row.kind()) {
        ([], Kind::Ours) if !args.quick => &BURSTS,
        ([], _) => &[BURST],
        (bursts, _) => bursts,
    };
    let mut cells: Vec<Cell> = Vec::new();
    for &size in sizes.iter().filter(|&&size| row.supports(size)) {
        for &burst in bursts.iter().filter(|_| row.has_throughput()) {
            let burst = row.burst(burst, size);
            let cell = Cell {
                row: index,
                what: What::Throughput,
                size,
                burst,
            };
            if !cells.contains(&cell) {
                cells.push(cell);
            }
        }
        let wanted = !args.size.is_empty() || RTT_SIZES.contains(&size);
        if row.has_round_trip() && wanted {
            cells.push(Cell {
                row: index,
                what: What::RoundTrip,
                size,
                burst: 1,
            });
        }
    }
    cells
}

/// Runs with a progress bar, when somebody watches.
fn measure(
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

fn compare(args: &Compare) -> Result<ExitCode> {
    let mut rows = catalog::rows();
    if let Some(only) = &args.only {
        rows.retain(|row| only.is_match(row.name()));
        if rows.is_empty() {
            bail!("no row's name matches `{only}`: see `netbench list`");
        }
    }
    let (seconds, repeats) = if args.quick {
        (QUICK_SECONDS, 1)
    } else {
        (SECONDS, REPEATS)
    };
    let settings = Settings {
        window: Duration::from_secs_f64(args.seconds.unwrap_or(seconds)),
        repeats: args.repeats.unwrap_or(repeats),
        cores: cores(args.cores)?,
    };
    warn_of_debug_build();
    let host = Host::look(settings.cores);
    let reasons: Vec<Option<String>> = rows.iter().map(|row| row.unavailable()).collect();
    let runnable = (0..rows.len()).filter(|&index| reasons[index].is_none());
    let cells: Vec<Cell> = runnable
        .flat_map(|index| cells_of(index, rows[index].as_ref(), args))
        .collect();
    // Opened first: an answer that cannot be written is known before minutes of work.
    let page = args.report.as_ref().map(|path| {
        std::fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))
    });
    let mut page = page.transpose()?;
    let (outcomes, ended) = measure(&rows, &cells, &settings);
    let found: Vec<Record> = outcomes
        .iter()
        .flat_map(|outcome| records(outcome, rows[outcome.cell.row].as_ref(), &host))
        .collect();
    let warnings = warnings(&found);
    if let Some(page) = &mut page {
        page.write_all(report::html(&host, &found, &warnings)?.as_bytes())?;
    }
    let missing: Vec<(&str, &str, bool)> = missing(&rows, &reasons, &outcomes);
    if args.json {
        print_json(&found, &missing)?;
    } else {
        print_tables(&host, &found, &missing)?;
    }
    warnings
        .iter()
        .for_each(|warning| eprintln!("netbench: warning: {warning}"));
    ended?;
    let failed = outcomes.iter().any(|outcome| outcome.error.is_some());
    let corrupt = found
        .iter()
        .filter_map(|record| record.counts.as_ref())
        .any(|c| c.corrupt > 0);
    Ok(if failed || corrupt {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Rows that did not run and cells that failed: name, reason, whether it failed.
fn missing<'a>(
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

fn print_json(found: &[Record], missing: &[(&str, &str, bool)]) -> Result<()> {
    for record in found {
        say(&record.line())?;
    }
    for (row, reason, failed) in missing {
        say(&missing_line(row, reason, *failed))?;
    }
    Ok(())
}

fn print_tables(host: &Host, found: &[Record], missing: &[(&str, &str, bool)]) -> Result<()> {
    say(&table::host(host))?;
    let parts = [
        ("Throughput", table::throughputs(found)),
        ("Round trip", table::round_trips(found)),
        ("More", table::figures(found)),
    ];
    for (title, text) in parts {
        if let Some(text) = text {
            say(&format!("{}\n{text}\n", paint(Ink::Bold, title)))?;
        }
    }
    for (row, reason, failed) in missing {
        let word = if *failed { "failed" } else { "cannot run here" };
        say(&paint(Ink::Yellow, &format!("{row}: {word}: {reason}")))?;
    }
    Ok(())
}

/// Doubts, the worst first; the same doubt once.
fn warnings(found: &[Record]) -> Vec<String> {
    let doubted = |record: &&Record| record.metric == "rate" || record.metric == "rtt-p50";
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

fn targets(args: &Targets) -> Result<ExitCode> {
    let mut chosen = TARGETS.to_vec();
    if let Some(only) = &args.only {
        chosen.retain(|target| only.is_match(target.name));
        if chosen.is_empty() {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
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
    warn_of_debug_build();
    let host = Host::look(settings.cores);
    let rows = catalog::rows();
    let cells = verify::cells(&chosen, &rows);
    let (outcomes, ended) = measure(&rows, &cells, &settings);
    ended?;
    let mut met = true;
    for target in &chosen {
        let verdict = verify::verdict(target, &rows, &outcomes, &host);
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
