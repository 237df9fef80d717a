//! Runs cells (row, size, burst) round by round: every cell once, then every cell again.
//!
//! Rounds rather than repeats in a row, because machines drift over minutes: what is compared was
//! measured at nearly the same time, and the spread shows what drift there was.
#![forbid(unsafe_code)]

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::host::{Noise, Watch};
use crate::interrupt::{self, Interrupted};
use crate::row::{Figure, Plan, Row, Throughput};

/// Share of the window that both sides run before it opens, within bounds.
const WARM_UP_SHARE: f64 = 0.2;
const WARM_UP_MIN: Duration = Duration::from_millis(30);
const WARM_UP_MAX: Duration = Duration::from_millis(300);

/// What a cell measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Packets per second.
    Throughput,
    /// Nanoseconds there and back.
    RoundTrip,
    /// The row's own figures.
    Figures,
}

/// One thing to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// Index of the row.
    pub row: usize,
    /// What to measure.
    pub what: What,
    /// Bytes of a packet.
    pub size: usize,
    /// Packets handed over at once.
    pub burst: usize,
}

/// How to measure it.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Length of one window.
    pub window: Duration,
    /// Rounds.
    pub repeats: u32,
    /// Cores of the sender and of the receiver.
    pub cores: [usize; 2],
}

impl Settings {
    fn plan(&self, cell: &Cell) -> Plan {
        let warm_up = self
            .window
            .mul_f64(WARM_UP_SHARE)
            .clamp(WARM_UP_MIN, WARM_UP_MAX);
        let (size, burst, duration) = (cell.size, cell.burst, self.window);
        Plan {
            size,
            burst,
            duration,
            warm_up,
            cores: self.cores,
            repeats: self.repeats,
        }
    }
}

/// The runs of one cell.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What was measured.
    pub cell: Cell,
    /// Runs, when it is a throughput.
    pub throughputs: Vec<Throughput>,
    /// Runs, when it is a round trip.
    pub round_trips: Vec<Histogram<u64>>,
    /// Runs, when it is the row's own figures.
    pub figures: Vec<Vec<Figure>>,
    /// The worst noise of its runs.
    pub noise: Noise,
    /// Why it was given up.
    pub error: Option<String>,
}

impl Outcome {
    fn new(cell: Cell) -> Self {
        Self {
            cell,
            throughputs: Vec::new(),
            round_trips: Vec::new(),
            figures: Vec::new(),
            noise: Noise::default(),
            error: None,
        }
    }

    fn run(&mut self, row: &dyn Row, plan: &Plan) -> anyhow::Result<()> {
        let watch = Watch::start();
        match self.cell.what {
            What::Throughput => self.throughputs.push(row.throughput(plan)?),
            What::RoundTrip => self.round_trips.extend(row.round_trip(plan)?),
            What::Figures => self.figures.push(row.figures(plan)?),
        }
        self.noise = self.noise.worse(watch.stop());
        Ok(())
    }
}

/// Measures all cells; after Ctrl-C what was measured so far comes back with the interruption.
pub fn run(
    rows: &[Box<dyn Row>],
    cells: &[Cell],
    settings: &Settings,
    mut progress: impl FnMut(&Cell),
) -> (Vec<Outcome>, Result<(), Interrupted>) {
    let mut outcomes: Vec<Outcome> = cells.iter().map(|&cell| Outcome::new(cell)).collect();
    for _ in 0..settings.repeats {
        for outcome in &mut outcomes {
            progress(&outcome.cell);
            if outcome.error.is_some() {
                continue;
            }
            let plan = settings.plan(&outcome.cell);
            let result = outcome.run(rows[outcome.cell.row].as_ref(), &plan);
            if let Err(interrupted) = interrupt::check() {
                return (outcomes, Err(interrupted));
            }
            outcome.error = result.err().map(|error| format!("{error:#}"));
        }
    }
    (outcomes, Ok(()))
}
