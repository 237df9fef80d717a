//! What people read: a table per kind of figure, and the machine above it. Colours only on a
//! terminal.
#![forbid(unsafe_code)]

use std::io::IsTerminal;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

use crate::host::Host;
use crate::record::Record;
use crate::verify::Verdict;

/// A colour that is there only when standard output is a terminal.
#[derive(Debug, Clone, Copy)]
pub enum Ink {
    /// Headings.
    Bold,
    /// Kept promises.
    Green,
    /// Broken promises.
    Red,
    /// Doubts.
    Yellow,
}

/// `text` in that colour.
pub fn paint(ink: Ink, text: &str) -> String {
    if !std::io::stdout().is_terminal() {
        return text.to_owned();
    }
    let code = match ink {
        Ink::Bold => 1,
        Ink::Green => 32,
        Ink::Red => 31,
        Ink::Yellow => 33,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// The machine, in a few lines.
pub fn host(host: &Host) -> String {
    format!(
        "cpu         {}\nkernel      {}\npages       {}\nmitigations {}\ncores       sender {}, receiver {}\n",
        host.cpu, host.kernel, host.pages, host.mitigations, host.cores[0], host.cores[1]
    )
}

fn table(header: &[&str], left: usize) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(header.iter().copied());
    for column in table.column_iter_mut().skip(left) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Three significant digits for small figures, whole numbers for large ones.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 100.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn spread(record: &Record) -> String {
    format!("{} to {}", number(record.min), number(record.max))
}

/// The throughputs, largest rate first within each size.
pub fn throughputs(records: &[Record]) -> Option<String> {
    let mut rates: Vec<&Record> = records.iter().filter(|r| r.metric == "rate").collect();
    rates.sort_by(|a, b| {
        (a.size, b.value)
            .partial_cmp(&(b.size, a.value))
            .unwrap_or(std::cmp::Ordering::Equal)
    });
    let header = [
        "size",
        "row",
        "burst",
        "Mpps",
        "Gbit/s",
        "ns",
        "cycles",
        "min to max",
        "lost",
        "corrupt",
    ];
    let mut table = table(&header, 2);
    for rate in &rates {
        let counts = rate.counts.as_ref()?;
        let gbit = rate.value * rate.size as f64 * 8.0 / 1e3;
        table.add_row([
            rate.size.to_string(),
            rate.row.clone(),
            rate.burst.to_string(),
            number(rate.value),
            number(gbit),
            number(counts.ns_per_packet),
            number(counts.cycles_per_packet),
            spread(rate),
            counts.lost.to_string(),
            counts.corrupt.to_string(),
        ]);
    }
    (!rates.is_empty()).then(|| table.to_string())
}

/// The round trips, shortest first within each size.
pub fn round_trips(records: &[Record]) -> Option<String> {
    let mut middle: Vec<&Record> = records.iter().filter(|r| r.metric == "rtt-p50").collect();
    middle.sort_by(|a, b| {
        (a.size, a.value)
            .partial_cmp(&(b.size, b.value))
            .unwrap_or(std::cmp::Ordering::Equal)
    });
    let header = [
        "size",
        "row",
        "p50 ns",
        "p99 ns",
        "p99.9 ns",
        "p50 min to max",
    ];
    let mut table = table(&header, 2);
    for p50 in &middle {
        let other = |metric: &str| {
            let same = |r: &&Record| r.row == p50.row && r.size == p50.size && r.metric == metric;
            records
                .iter()
                .find(same)
                .map_or_else(String::new, |r| number(r.value))
        };
        let (p99, p999) = (other("rtt-p99"), other("rtt-p999"));
        let (size, row) = (p50.size.to_string(), p50.row.clone());
        table.add_row([size, row, number(p50.value), p99, p999, spread(p50)]);
    }
    (!middle.is_empty()).then(|| table.to_string())
}

/// Times with their median, 99th percentile and worst case, and below them what else there is.
pub fn spreads(records: &[Record]) -> String {
    let header = ["row", "kind", "unit", "p50", "p99", "max", "p50 min to max"];
    let mut table = table(&header, 3);
    let of = |row: &str, metric: &str| {
        let same = |r: &&Record| r.row == row && r.metric == metric;
        records
            .iter()
            .find(same)
            .map_or_else(String::new, |r| number(r.value))
    };
    for p50 in records.iter().filter(|r| r.metric == "p50") {
        table.add_row([
            p50.row.clone(),
            format!("{:?}", p50.kind).to_lowercase(),
            p50.unit.to_owned(),
            number(p50.value),
            of(&p50.row, "p99"),
            of(&p50.row, "max"),
            spread(p50),
        ]);
    }
    let known = |r: &&Record| !matches!(r.metric.as_str(), "p50" | "p99" | "max");
    let rest = records
        .iter()
        .filter(known)
        .map(|r| format!("{} {}: {} {}", r.row, r.metric, number(r.value), r.unit));
    let rest: Vec<String> = rest.collect();
    format!("{table}\n\n{}\n", rest.join("\n"))
}

/// Figures that only some rows have.
pub fn figures(records: &[Record]) -> Option<String> {
    let known = |r: &&Record| {
        !matches!(r.metric.as_str(), "rate" | "bandwidth") && !r.metric.starts_with("rtt-")
    };
    let lines: Vec<String> = records
        .iter()
        .filter(known)
        .map(|r| {
            format!(
                "{:<24} {:<24} {} {}",
                r.row,
                r.metric,
                number(r.value),
                r.unit
            )
        })
        .collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// One line per promise.
pub fn verdict(verdict: &Verdict) -> String {
    let figure = |value: Option<f64>| value.map_or_else(|| "-".into(), number);
    let unit = verdict.unit.unwrap_or("");
    let peer = verdict
        .peer
        .as_deref()
        .map_or_else(String::new, |peer| format!(" ({peer})"));
    let sign = match verdict.better {
        "higher" => ">=",
        "below" => "<",
        _ => "<=",
    };
    let (ink, word) = if verdict.met {
        (Ink::Green, "met    ")
    } else {
        (Ink::Red, "NOT MET")
    };
    let ratio = verdict
        .ratio
        .map_or_else(|| "-".into(), |ratio| format!("{ratio:.3}"));
    let mut line = format!(
        "{} {:<30} ours {} {unit}, theirs {}{peer}, ratio {ratio} {sign} {}",
        paint(ink, word),
        verdict.target,
        figure(verdict.ours),
        figure(verdict.theirs),
        verdict.goal,
    );
    if let Some(reason) = &verdict.reason {
        line += &paint(Ink::Yellow, &format!("\n        {reason}"));
    }
    line
}
