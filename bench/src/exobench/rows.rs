//! A row of exobench: a function that runs once over a window, and what it needs.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Map, Value};

use super::{SIZE, ask, requests, start};
use crate::row::{Figure, Kind, Plan, Row, Throughput};

/// The programs that are measured.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    pub(super) exod: PathBuf,
    pub(super) exo: PathBuf,
}

impl Programs {
    /// Those that were named, else those that were built beside this program.
    pub(super) fn find(exod: Option<PathBuf>, exo: Option<PathBuf>) -> Programs {
        let own = std::env::current_exe().unwrap_or_default();
        let beside = own.parent().unwrap_or(Path::new(""));
        // Tests lie one directory deeper.
        let beside = if beside.ends_with("deps") {
            beside.parent().unwrap_or(beside)
        } else {
            beside
        };
        Programs {
            exod: exod.unwrap_or_else(|| beside.join("exod")),
            exo: exo.unwrap_or_else(|| beside.join("exo")),
        }
    }
}

/// What one run found.
pub(super) struct Found {
    pub(super) figures: Vec<Figure>,
    pub(super) details: Map<String, Value>,
}

/// One row.
pub(super) struct Measure {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) kind: Kind,
    pub(super) run: fn(&Programs, &Plan) -> Result<Found>,
}

struct Ready {
    measure: Measure,
    programs: Programs,
    /// Of the last run.
    details: Mutex<Map<String, Value>>,
}

/// Every row, whether or not it can run here.
pub(super) fn all(programs: &Programs) -> Vec<Box<dyn Row>> {
    let measures = start::ROWS
        .into_iter()
        .chain(ask::ROWS)
        .chain(requests::ROWS);
    measures
        .map(|measure| {
            Box::new(Ready {
                measure,
                programs: programs.clone(),
                details: Mutex::default(),
            }) as Box<dyn Row>
        })
        .collect()
}

impl Row for Ready {
    fn name(&self) -> &str {
        self.measure.name
    }

    fn about(&self) -> &str {
        self.measure.about
    }

    fn kind(&self) -> Kind {
        self.measure.kind
    }

    fn unavailable(&self) -> Option<String> {
        if self.measure.kind == Kind::Floor {
            return None;
        }
        let Programs { exod, exo } = &self.programs;
        let missing = [exod, exo].into_iter().find(|file| !file.is_file())?;
        Some(format!(
            "no {}: cargo build --release -p exod, or name it with --exod and --exo",
            missing.display()
        ))
    }

    fn supports(&self, size: usize) -> bool {
        size == SIZE
    }

    fn has_throughput(&self) -> bool {
        false
    }

    fn throughput(&self, _: &Plan) -> Result<Throughput> {
        bail!("`{}` moves no packets", self.measure.name)
    }

    fn figures(&self, plan: &Plan) -> Result<Vec<Figure>> {
        let found = (self.measure.run)(&self.programs, plan)?;
        if let Ok(mut details) = self.details.lock() {
            *details = found.details;
        }
        Ok(found.figures)
    }

    fn details(&self) -> Map<String, Value> {
        self.details.lock().map(|d| d.clone()).unwrap_or_default()
    }
}

/// A unit of time that a row's figures are in.
#[derive(Clone, Copy)]
pub(super) enum Unit {
    Ms,
    Us,
}

/// Median, 99th percentile and worst case; none of nothing.
pub(super) fn spread(mut times: Vec<Duration>, unit: Unit) -> Vec<Figure> {
    times.sort_unstable();
    let (name, per_second) = match unit {
        Unit::Ms => ("ms", 1e3),
        Unit::Us => ("us", 1e6),
    };
    let at = |share: f64| {
        let index = (times.len() as f64 * share) as usize;
        times.get(index.min(times.len().saturating_sub(1)))
    };
    let shares = [("p50", 0.5), ("p99", 0.99), ("max", 1.0)];
    let figures = shares.into_iter().filter_map(|(metric, share)| {
        Some(Figure {
            metric,
            value: at(share)?.as_secs_f64() * per_second,
            unit: name,
        })
    });
    figures.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_of_what_was_measured() {
        let times = (1..=100).rev().map(Duration::from_millis).collect();
        let figures = spread(times, Unit::Ms);
        let values: Vec<f64> = figures.iter().map(|f| (f.value * 1e3).round()).collect();
        assert_eq!(values, [51e3, 100e3, 100e3]);
        assert!(spread(Vec::new(), Unit::Us).is_empty());
    }
}
