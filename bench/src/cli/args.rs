//! The arguments of netbench, and what of them is refused.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use regex::Regex;

use crate::program::{Targets, parse_cores, parse_seconds};

/// Bounds of what may be asked.
const SIZE_MAX: usize = 65_507;
const BURST_MAX: usize = 4096;
/// Packet rates of exo ports beside what else moves packets between two processes.
#[derive(Debug, Parser)]
#[command(name = "netbench", version, args_conflicts_with_subcommands = true)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) compare: Compare,
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the rows, and say why one cannot run here.
    List,
    /// Look at the machine: what is missing, and how to get it.
    Doctor,
    /// Measure what the promises need; exit code 1 when one is not met.
    Targets(Targets),
    /// Send a capture file through a port and check every packet on the other side.
    Replay(crate::replay::Args),
    /// One side of a row; started by netbench itself.
    #[command(hide = true)]
    Worker {
        /// Inherited descriptors.
        fds: Vec<i32>,
    },
}

#[derive(Debug, Args)]
pub(super) struct Compare {
    /// Only rows whose name matches this regular expression.
    #[arg(long, value_name = "REGEX")]
    pub(super) only: Option<Regex>,
    /// Bytes of a packet: one or several, separated by commas.
    #[arg(long, value_delimiter = ',', value_parser = parse_size)]
    pub(super) size: Vec<usize>,
    /// Packets handed over at once: one or several, separated by commas.
    #[arg(long, value_delimiter = ',', value_parser = parse_burst)]
    pub(super) burst: Vec<usize>,
    /// Length of one window.
    #[arg(long, value_parser = parse_seconds)]
    pub(super) seconds: Option<f64>,
    /// Rounds; the table shows median, smallest and largest.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) repeats: Option<u32>,
    /// Cores of the sender and of the receiver.
    #[arg(long, value_name = "A,B", value_parser = parse_cores)]
    pub(super) cores: Option<[usize; 2]>,
    /// One JSON object per line instead of tables.
    #[arg(long)]
    pub(super) json: bool,
    /// Also write a page with charts.
    #[arg(long, value_name = "FILE.html")]
    pub(super) report: Option<PathBuf>,
    /// A first look in seconds: two sizes, one short round.
    #[arg(long)]
    pub(super) quick: bool,
}

fn parse_within(text: &str, min: usize, max: usize) -> Result<usize, String> {
    let value = text
        .parse::<usize>()
        .map_err(|_| format!("`{text}` is not a number"))?;
    let within = (min..=max).contains(&value);
    within
        .then_some(value)
        .ok_or_else(|| format!("must be {min} to {max}"))
}

fn parse_size(text: &str) -> Result<usize, String> {
    parse_within(text, 1, SIZE_MAX)
}

fn parse_burst(text: &str) -> Result<usize, String> {
    parse_within(text, 1, BURST_MAX)
}
