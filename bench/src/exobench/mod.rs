//! exobench: what the daemon itself costs: its start, its idleness, its requests, its command line.
//!
//! Every row starts the real `exod` that was built beside this program, in a temporary directory of
//! its own, and stops it again. What is asked of it is held beside what the kernel alone would take
//! for the same. `daemon` starts and stops; `start`, `ask` and `requests` are the rows; `promises`
//! says what must hold. Running, tables and verdicts are those of netbench.
#![forbid(unsafe_code)]

mod ask;
mod daemon;
mod promises;
mod requests;
mod rows;
mod start;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use regex::Regex;

use crate::host::Host;
use crate::interrupt;
use crate::program::{self, REPEATS, SECONDS, Targets, parse_cores, parse_seconds};
use crate::record::{Record, records};
use crate::row::Row;
use crate::runner::{Cell, Settings, What};
use crate::table;

use rows::Programs;

/// The program.
const NAME: &str = "exobench";

/// Bytes of what every row is measured with: a request's.
const SIZE: usize = 64;

/// What exod and exo cost, beside what the kernel alone takes for the same.
#[derive(Debug, Parser)]
#[command(name = "exobench", version, args_conflicts_with_subcommands = true)]
#[command(after_long_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    compare: Compare,
    #[command(subcommand)]
    command: Option<Command>,
    /// The exod to measure [default: the one beside exobench]
    #[arg(long, global = true, value_name = "FILE")]
    exod: Option<PathBuf>,
    /// The exo to measure [default: the one beside exobench]
    #[arg(long, global = true, value_name = "FILE")]
    exo: Option<PathBuf>,
}

const AFTER_HELP: &str = "\
First steps:
  Build what is measured, then look at everything, about a minute:
      cargo build --release -p exod -p bench
      target/release/exobench
  Only requests through the socket, with a longer window:
      target/release/exobench --only request --seconds 2
  Does this machine keep the promises?
      target/release/exobench targets
  Options come after the command:
      target/release/exobench targets --exod /usr/sbin/exod --exo /usr/bin/exo

How to read it:
  Each row has its median, 99th percentile and worst case over a window, and of each the median over
  several rounds. Rows of the kind `floor` are what the kernel takes alone: a record echoed over a
  socketpair for a request, a fresh memory file for an allocation, a process that does nothing for
  exo. exod runs with 1,024 frames of 2 MiB where a row does not say otherwise; as root exobench
  lends the machine hugepages for them and takes them back.

Exit codes:
  0    done, and with `targets` every promise is kept
  1    a row failed, or a promise is not kept; the message says which
  2    wrong command line
  130  ended by Ctrl-C";

#[derive(Debug, Subcommand)]
enum Command {
    /// List the rows, and say why one cannot run here.
    List,
    /// Measure what the promises need; exit code 1 when one is not met.
    Targets(Targets),
}

#[derive(Debug, Args)]
struct Compare {
    /// Only rows whose name matches this regular expression.
    #[arg(long, value_name = "REGEX")]
    only: Option<Regex>,
    /// Length of one window.
    #[arg(long, value_parser = parse_seconds, default_value_t = SECONDS)]
    seconds: f64,
    /// Rounds; the table shows medians over them.
    #[arg(long, default_value_t = REPEATS, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeats: u32,
    /// Cores of the client and of exod, where a row keeps them apart.
    #[arg(long, value_name = "A,B", value_parser = parse_cores)]
    cores: Option<[usize; 2]>,
    /// One JSON object per line instead of tables.
    #[arg(long)]
    json: bool,
}

/// Runs the program.
pub fn main() -> ExitCode {
    program::exit_code(NAME, run(Cli::parse()))
}

fn run(cli: Cli) -> Result<ExitCode> {
    interrupt::install()?;
    let rows = rows::all(&Programs::find(cli.exod, cli.exo));
    match cli.command {
        None => compare(rows, &cli.compare),
        Some(Command::List) => program::list(&rows),
        Some(Command::Targets(args)) => program::targets(NAME, &rows, promises::TARGETS, &args),
    }
}

fn compare(rows: Vec<Box<dyn Row>>, args: &Compare) -> Result<ExitCode> {
    let rows = program::choose(NAME, rows, args.only.as_ref())?;
    let settings = Settings {
        window: Duration::from_secs_f64(args.seconds),
        repeats: args.repeats,
        cores: program::cores(args.cores)?,
    };
    program::warn_of_debug_build(NAME);
    let host = Host::look(NAME, settings.cores);
    let reasons: Vec<Option<String>> = rows.iter().map(|row| row.unavailable()).collect();
    let runnable = (0..rows.len()).filter(|&index| reasons[index].is_none());
    let cells: Vec<Cell> = runnable
        .map(|row| Cell {
            row,
            what: What::Figures,
            size: SIZE,
            burst: 1,
        })
        .collect();
    let (outcomes, ended) = program::measure(&rows, &cells, &settings);
    let found: Vec<Record> = outcomes
        .iter()
        .flat_map(|outcome| records(outcome, rows[outcome.cell.row].as_ref(), &host))
        .collect();
    let missing = program::missing(&rows, &reasons, &outcomes);
    if args.json {
        program::print_json(NAME, &found, &missing)?;
    } else {
        program::say(&table::host(&host))?;
        program::say(&table::spreads(&found))?;
        program::say_missing(&missing)?;
    }
    for warning in program::warnings(&found) {
        eprintln!("{NAME}: warning: {warning}");
    }
    ended?;
    let failed = outcomes.iter().any(|outcome| outcome.error.is_some());
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
