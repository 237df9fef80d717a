//! `targets`: measures what the promises need, holds one figure against the other, says
//! which promise is met. A missing peer is a promise that is not met, with the reason.
#![forbid(unsafe_code)]

use serde::Serialize;

use crate::host::Host;
use crate::record::{Record, records};
use crate::row::Row;
use crate::runner::{Cell, Outcome, What};
use crate::targets::{Against, BURST, Better, Target};

/// One line of the answer.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// The program.
    pub bench: &'static str,
    /// The promise.
    pub target: &'static str,
    /// Our figure.
    pub ours: Option<f64>,
    /// Theirs: the best of the rows that count, or the limit.
    pub theirs: Option<f64>,
    /// Ours / theirs.
    pub ratio: Option<f64>,
    /// The ratio that was promised.
    pub goal: f64,
    /// `higher` (at least the goal), `lower` (at most) or `below` (less than).
    pub better: &'static str,
    /// Whether it is kept.
    pub met: bool,
    /// Unit of ours and theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<&'static str>,
    /// The row that it was held against.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Why there is no ratio, or why it should not be trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

fn what(metric: &str) -> What {
    match metric {
        "rate" | "bandwidth" => What::Throughput,
        _ if metric.starts_with("rtt-") => What::RoundTrip,
        _ => What::Figures,
    }
}

/// The cells that these promises need, each once.
pub fn cells(targets: &[Target], rows: &[Box<dyn Row>]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for target in targets {
        let what = what(target.metric);
        for (index, row) in rows.iter().enumerate() {
            let wanted = row.name() == target.ours || target.against.names(row.name());
            if !wanted || obstacle(row.as_ref(), what, target.size).is_some() {
                continue;
            }
            let burst = match what {
                What::Throughput => row.burst(BURST, target.size),
                _ => 1,
            };
            let cell = Cell {
                row: index,
                what,
                size: target.size,
                burst,
            };
            if !cells.contains(&cell) {
                cells.push(cell);
            }
        }
    }
    cells
}

/// Why a row has no such figure.
fn obstacle(row: &dyn Row, what: What, size: usize) -> Option<String> {
    let can = match what {
        What::Throughput => row.has_throughput(),
        What::RoundTrip => row.has_round_trip(),
        What::Figures => true,
    };
    if !can {
        return Some("it has no such figure".into());
    }
    if !row.supports(size) {
        return Some(format!("it cannot carry {size} bytes"));
    }
    row.unavailable()
}

/// The best figure among the rows that `wanted` picks, or why there is none.
fn best(
    target: &Target,
    rows: &[Box<dyn Row>],
    outcomes: &[Outcome],
    host: &Host,
    wanted: impl Fn(&str) -> bool,
) -> Result<Record, String> {
    let mut best: Option<Record> = None;
    let mut reasons = Vec::new();
    for (index, row) in rows
        .iter()
        .enumerate()
        .filter(|(_, row)| wanted(row.name()))
    {
        let what = what(target.metric);
        let outcome = outcomes.iter().find(|outcome| {
            let cell = outcome.cell;
            cell.row == index && cell.what == what && cell.size == target.size
        });
        let found = outcome
            .filter(|outcome| outcome.error.is_none())
            .and_then(|outcome| {
                records(outcome, row.as_ref(), host)
                    .into_iter()
                    .find(|r| r.metric == target.metric)
            });
        let Some(record) = found else {
            let failed = outcome.and_then(|outcome| outcome.error.clone());
            let reason = failed.or_else(|| obstacle(row.as_ref(), what, target.size));
            let reason = reason.unwrap_or_else(|| format!("it gave no `{}`", target.metric));
            reasons.push(format!("{}: {reason}", row.name()));
            continue;
        };
        let better = best.as_ref().is_none_or(|best| match target.better {
            Better::Higher => record.value > best.value,
            Better::Lower | Better::Below => record.value < best.value,
        });
        if better {
            best = Some(record);
        }
    }
    reasons.sort();
    reasons.dedup();
    best.ok_or_else(|| {
        if reasons.is_empty() {
            "no such row".into()
        } else {
            reasons.join("; ")
        }
    })
}

/// Holds the measured figures against one promise.
pub fn verdict(
    target: &Target,
    rows: &[Box<dyn Row>],
    outcomes: &[Outcome],
    host: &Host,
) -> Verdict {
    let ours = best(target, rows, outcomes, host, |name| name == target.ours);
    let theirs = match target.against {
        Against::Limit(limit) => Ok((limit, None)),
        Against::Best(_) => best(target, rows, outcomes, host, |name| {
            target.against.names(name)
        })
        .map(|record| (record.value, Some(record))),
    };
    let mut reasons = Vec::new();
    reasons.extend(
        ours.as_ref()
            .err()
            .map(|reason| format!("ours missing: {reason}")),
    );
    reasons.extend(
        theirs
            .as_ref()
            .err()
            .map(|reason| format!("peer missing: {reason}")),
    );
    let (ours, theirs) = (ours.ok(), theirs.ok());
    // Wrong or lost packets are no throughput, whatever the rate.
    let damaged = ours.as_ref().and_then(|record| record.counts.as_ref());
    let damaged = damaged.is_some_and(|counts| counts.corrupt + counts.lost > 0);
    if damaged {
        reasons.push("packets were lost or corrupted".into());
    }
    let peer = theirs.as_ref().and_then(|(_, record)| record.as_ref());
    for record in ours.iter().chain(peer) {
        reasons.extend(
            record
                .warning()
                .map(|warning| format!("{}: {warning}", record.row)),
        );
    }
    let figures = ours.as_ref().zip(theirs.as_ref());
    let ratio = figures.map(|(ours, (theirs, _))| target.ratio(ours.value, *theirs));
    Verdict {
        bench: host.bench,
        target: target.name,
        ours: ours.as_ref().map(|record| record.value),
        theirs: theirs.as_ref().map(|(value, _)| *value),
        ratio,
        goal: target.goal,
        better: match target.better {
            Better::Higher => "higher",
            Better::Lower => "lower",
            Better::Below => "below",
        },
        met: !damaged && ratio.is_some_and(|ratio| target.met(ratio)),
        unit: ours.as_ref().map(|record| record.unit),
        peer: peer.map(|record| record.row.clone()),
        reason: (!reasons.is_empty()).then(|| reasons.join("; ")),
    }
}
