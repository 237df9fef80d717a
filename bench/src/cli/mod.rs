//! The command line: what to measure, how, and in which form to say it.
#![forbid(unsafe_code)]

mod args;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;

use args::{Cli, Command, Compare};

use crate::host::{self, Host};
use crate::interrupt;
use crate::program::{self, REPEATS, SECONDS};
use crate::record::{Record, records};
use crate::row::{Kind, Row};
use crate::runner::{Cell, Settings, What};
use crate::table::{Ink, paint};
use crate::targets::TARGETS;
use crate::{catalog, doctor, report, table, worker};

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
/// The program.
const NAME: &str = "netbench";

/// Runs the program.
pub fn main() -> ExitCode {
    program::exit_code(NAME, run(Cli::parse()))
}

fn run(cli: Cli) -> Result<ExitCode> {
    if let Some(Command::Worker { fds }) = cli.command {
        return worker::child_main(&fds).map(|()| ExitCode::SUCCESS);
    }
    interrupt::install()?;
    match cli.command {
        None => compare(&cli.compare),
        Some(Command::List) => program::list(&catalog::rows()),
        Some(Command::Doctor) => {
            let cores = host::choose_cores()?;
            doctor::run(&Host::look(NAME, cores), &catalog::rows())?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Targets(args)) => program::targets(NAME, &catalog::rows(), TARGETS, &args),
        Some(Command::Replay(args)) => crate::replay::run(&args).map(|()| ExitCode::SUCCESS),
        Some(Command::Worker { .. }) => Ok(ExitCode::SUCCESS),
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

fn compare(args: &Compare) -> Result<ExitCode> {
    let rows = program::choose(NAME, catalog::rows(), args.only.as_ref())?;
    let (seconds, repeats) = if args.quick {
        (QUICK_SECONDS, 1)
    } else {
        (SECONDS, REPEATS)
    };
    let settings = Settings {
        window: Duration::from_secs_f64(args.seconds.unwrap_or(seconds)),
        repeats: args.repeats.unwrap_or(repeats),
        cores: program::cores(args.cores)?,
    };
    program::warn_of_debug_build(NAME);
    let host = Host::look(NAME, settings.cores);
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
    let (outcomes, ended) = program::measure(&rows, &cells, &settings);
    let found: Vec<Record> = outcomes
        .iter()
        .flat_map(|outcome| records(outcome, rows[outcome.cell.row].as_ref(), &host))
        .collect();
    let warnings = program::warnings(&found);
    if let Some(page) = &mut page {
        page.write_all(report::html(&host, &found, &warnings)?.as_bytes())?;
    }
    let missing: Vec<(&str, &str, bool)> = program::missing(&rows, &reasons, &outcomes);
    if args.json {
        program::print_json(NAME, &found, &missing)?;
    } else {
        print_tables(&host, &found, &missing)?;
    }
    warnings
        .iter()
        .for_each(|warning| eprintln!("{NAME}: warning: {warning}"));
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

fn print_tables(host: &Host, found: &[Record], missing: &[(&str, &str, bool)]) -> Result<()> {
    program::say(&table::host(host))?;
    let parts = [
        ("Throughput", table::throughputs(found)),
        ("Round trip", table::round_trips(found)),
        ("More", table::figures(found)),
    ];
    for (title, text) in parts {
        if let Some(text) = text {
            program::say(&format!("{}\n{text}\n", paint(Ink::Bold, title)))?;
        }
    }
    program::say_missing(missing)
}
