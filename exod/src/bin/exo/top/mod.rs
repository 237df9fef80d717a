//! `exo top`: domains, ports and cores as they change.
//!
//! On a terminal it is live until `q`; the terminal is put back however it ends, by a key, an
//! error, a panic or a signal. Elsewhere it prints frames of text, or lines of JSON.

#![forbid(unsafe_code)]

mod cores;
mod live;
mod model;
mod screen;

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;

use self::model::{Model, Sample};
use crate::view::Watch;
use crate::{Exod, explain};

/// Width of a frame that nobody says the width of.
const COLUMNS: u16 = 100;

/// Between two looks at the stop flag.
const TURN: Duration = Duration::from_millis(50);

/// Shows domains, ports with their rates, and cores, as they change
///
/// Keys: q or Esc ends; Tab chooses a table, s its order, r turns that round; the arrows scroll;
/// space holds still. A port's rate is in descriptors: most packets are one.
#[derive(clap::Args)]
pub struct Args {
    /// Seconds between two looks
    #[arg(short, long, value_name = "SECONDS", default_value_t = 1.0, value_parser = interval)]
    interval: f64,

    /// Frames of text instead of a live screen, as where the output is no terminal
    #[arg(short, long)]
    batch: bool,

    /// One frame of text
    #[arg(long, conflicts_with = "count")]
    once: bool,

    /// Stop after COUNT frames
    #[arg(short = 'n', long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// A JSON object per look, on a line
    #[arg(long)]
    json: bool,
}

fn interval(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.05..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("use 0.05 to 3600 seconds".to_owned()),
    }
}

pub fn run(exod: &Exod, args: &Args) -> anyhow::Result<()> {
    let client = exod.connect()?;
    explain(client.work())?;
    let watch = Watch::new(client)?;
    let pause = Duration::from_secs_f64(args.interval);
    let text = args.batch || args.once || args.json || !std::io::stdout().is_terminal();
    if text {
        let count = if args.once { Some(1) } else { args.count };
        let stop = crate::stop_flag()?;
        return frames(&watch, pause, count.unwrap_or(u64::MAX), args.json, &stop);
    }
    live::run(&watch, pause, args.count)
}

/// What exod says now.
fn look(watch: &Watch) -> anyhow::Result<Sample> {
    let view = watch.all().context("exod does not answer any more")?;
    Ok(Sample {
        at: Instant::now(),
        view,
        cores: cores::read(),
    })
}

/// Frame after frame of text: rates take two looks, so the first one comes after a pause.
fn frames(
    watch: &Watch,
    pause: Duration,
    count: u64,
    json: bool,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let mut before = look(watch)?;
    for number in 0..count {
        if !rest(pause, stop) {
            break;
        }
        let now = look(watch)?;
        let model = Model::new(&before, &now);
        if json {
            writeln!(out, "{}", model.as_json())?;
        } else {
            let gap = if number == 0 { "" } else { "\n" };
            let columns = std::env::var("COLUMNS").ok();
            let columns = columns.and_then(|text| text.parse().ok());
            let columns = columns.unwrap_or(COLUMNS).clamp(40, 500);
            writeln!(out, "{gap}{}", screen::text(&model, columns))?;
        }
        out.flush()?;
        before = now;
    }
    Ok(())
}

/// Sleeps; false when it is time to stop.
fn rest(pause: Duration, stop: &AtomicBool) -> bool {
    let end = Instant::now() + pause;
    loop {
        if stop.load(Ordering::Acquire) {
            return false;
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(TURN));
    }
}
