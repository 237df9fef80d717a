//! What a run says to other programs: one JSON object per line.
#![forbid(unsafe_code)]

use serde::Serialize;
use serde_json::{Map, Value};

use crate::host::{Host, Noise};
use crate::row::{Kind, Row, Throughput};
use crate::runner::{Outcome, What};

/// Spread over repeats, relative to the median, above which a figure is doubted.
const SPREAD_MAX: f64 = 0.25;

/// One figure with its spread.
#[derive(Debug, Clone, Serialize)]
pub struct Record {
    /// Name of the row.
    pub row: String,
    /// `rate`, `bandwidth`, `rtt-p50`, `rtt-p99`, `rtt-p999`, or a name of the row's own.
    pub metric: String,
    /// Bytes of a packet.
    pub size: usize,
    /// Packets handed over at once.
    pub burst: usize,
    /// Median over the repeats.
    pub value: f64,
    /// Unit of value, min and max.
    pub unit: &'static str,
    /// Smallest of the repeats.
    pub min: f64,
    /// Largest of the repeats.
    pub max: f64,
    /// Number of repeats.
    pub n: usize,
    /// Whose row it is.
    pub kind: Kind,
    /// Sums over the repeats and prices per packet, for throughputs.
    #[serde(flatten)]
    pub counts: Option<Counts>,
    /// The machine.
    #[serde(flatten)]
    pub host: Host,
    /// How quiet it was, at the worst.
    #[serde(flatten)]
    pub noise: Noise,
    /// Device, driver, mode, page kind, ring sizes.
    #[serde(skip)]
    pub details: Map<String, Value>,
}

/// What a throughput counted over all repeats.
#[derive(Debug, Clone, Serialize)]
pub struct Counts {
    /// Median price of a packet at the receiver.
    pub ns_per_packet: f64,
    /// The same in timestamp-counter cycles.
    pub cycles_per_packet: f64,
    /// Packets that senders handed over.
    pub sent: u64,
    /// Packets that receivers took and found good.
    pub received: u64,
    /// Packets that never arrived.
    pub lost: u64,
    /// Packets that arrived damaged.
    pub corrupt: u64,
}

impl Record {
    /// One line, without its end. A detail never replaces a field of every line.
    pub fn line(&self) -> String {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        if let Value::Object(fields) = &mut value {
            for (key, detail) in &self.details {
                fields.entry(key).or_insert_with(|| detail.clone());
            }
        }
        value.to_string()
    }

    /// Why this figure should not be trusted.
    pub fn warning(&self) -> Option<String> {
        let spread = (self.max - self.min) / self.value;
        if spread > SPREAD_MAX {
            return Some(format!(
                "spread of {:.0} % over {} repeats",
                spread * 100.0,
                self.n
            ));
        }
        self.noise.warning()
    }
}

/// The line for a row that cannot run, or for a cell that failed.
pub fn missing_line(bench: &str, row: &str, reason: &str, failed: bool) -> String {
    let metric = if failed { "failed" } else { "unavailable" };
    serde_json::json!({
        "bench": bench, "row": row, "metric": metric, "value": null, "reason": reason
    })
    .to_string()
}

/// Median of a sorted, non-empty slice.
fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        (sorted[middle - 1] + sorted[middle]) / 2.0
    } else {
        sorted[middle]
    }
}

/// The records of one cell; none when it failed before its first run ended.
pub fn records(outcome: &Outcome, row: &dyn Row, host: &Host) -> Vec<Record> {
    let record = |metric: &str, unit, mut values: Vec<f64>, counts, details| {
        values.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (values.first(), values.last()) else {
            return None;
        };
        Some(Record {
            row: row.name().to_owned(),
            metric: metric.to_owned(),
            size: outcome.cell.size,
            burst: outcome.cell.burst,
            value: median(&values),
            unit,
            min,
            max,
            n: values.len(),
            kind: row.kind(),
            counts,
            host: host.clone(),
            noise: outcome.noise,
            details,
        })
    };
    let mut records = Vec::new();
    match outcome.cell.what {
        What::Throughput => {
            let runs = &outcome.throughputs;
            let (counts, details) = counts(runs);
            let of = |figure: fn(&Throughput) -> f64| runs.iter().map(figure).collect();
            let rate = of(Throughput::mpps);
            records.extend(record(
                "rate",
                "Mpps",
                rate,
                counts.clone(),
                details.clone(),
            ));
            let bandwidth = of(Throughput::gbit);
            records.extend(record("bandwidth", "Gbit/s", bandwidth, counts, details));
        }
        What::RoundTrip => {
            for (metric, quantile) in [("rtt-p50", 0.5), ("rtt-p99", 0.99), ("rtt-p999", 0.999)] {
                let runs = outcome.round_trips.iter();
                let values = runs
                    .map(|run| run.value_at_quantile(quantile) as f64)
                    .collect();
                records.extend(record(metric, "ns", values, None, Map::new()));
            }
        }
        What::Figures => {
            for figure in outcome.figures.first().into_iter().flatten() {
                let same = |other: &&crate::row::Figure| other.metric == figure.metric;
                let all = outcome.figures.iter().flatten().filter(same);
                let values = all.map(|figure| figure.value).collect();
                records.extend(record(
                    figure.metric,
                    figure.unit,
                    values,
                    None,
                    row.details(),
                ));
            }
        }
    }
    records
}

fn counts(runs: &[Throughput]) -> (Option<Counts>, Map<String, Value>) {
    let Some(last) = runs.last() else {
        return (None, Map::new());
    };
    let per_packet = |price: fn(&Throughput) -> f64| {
        let each = runs
            .iter()
            .map(|run| price(run) / run.packets.max(1) as f64);
        let mut values: Vec<f64> = each.collect();
        values.sort_by(f64::total_cmp);
        median(&values)
    };
    let sum = |count: fn(&Throughput) -> u64| runs.iter().map(count).sum();
    let counts = Counts {
        ns_per_packet: per_packet(|run| run.elapsed.as_nanos() as f64),
        cycles_per_packet: per_packet(|run| run.cycles as f64),
        sent: sum(|run| run.sent),
        received: sum(|run| run.packets),
        lost: sum(|run| run.lost),
        corrupt: sum(|run| run.corrupt),
    };
    (Some(counts), last.details.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[1.0, 2.0, 9.0]), 2.0);
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), 3.0);
    }
}
