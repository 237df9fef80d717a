//! Two samples become rows with rates, in the order that somebody wants.
//!
//! What a client says of itself (its name, its counts) can be anything, and differences of it too:
//! a count that falls is shown as no rate, never as an error.

#![forbid(unsafe_code)]

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;

use super::cores::{self, Core};
use crate::shape;
use crate::view::{Domain, Port, View};

/// What was seen at one moment.
pub struct Sample {
    pub at: Instant,
    pub view: View,
    pub cores: Vec<Core>,
}

/// The tables of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Domains,
    Ports,
    Cores,
}

impl Table {
    pub const ALL: [Table; 3] = [Table::Domains, Table::Ports, Table::Cores];

    pub fn title(self) -> &'static str {
        match self {
            Table::Domains => "domains",
            Table::Ports => "ports",
            Table::Cores => "cores",
        }
    }

    /// Names of its columns, and how wide each is.
    pub fn columns(self) -> &'static [(&'static str, u16)] {
        match self {
            Table::Domains => &[
                ("name", 16),
                ("pid", 8),
                ("user", 10),
                ("frames", 8),
                ("caps", 6),
                ("ports", 6),
                ("req/s", 8),
                ("refused", 8),
                ("lost", 6),
                ("since", 14),
            ],
            Table::Ports => &[
                ("name", 24),
                ("sides", 17),
                ("ring", 7),
                ("0>1 /s", 9),
                ("1>0 /s", 9),
                ("0>1 all", 9),
                ("1>0 all", 9),
                ("state", 12),
            ],
            Table::Cores => &[("core", 6), ("busy %", 8), ("stolen %", 9), ("isolated", 9)],
        }
    }
}

/// A cell: what is shown, and what it is ordered by.
#[derive(Clone, Debug)]
pub struct Cell {
    pub text: String,
    key: Option<f64>,
}

impl Cell {
    fn text(text: impl Into<String>) -> Cell {
        Cell {
            text: text.into(),
            key: None,
        }
    }

    fn number(text: impl Into<String>, key: f64) -> Cell {
        Cell {
            text: text.into(),
            key: Some(key),
        }
    }

    fn count(count: u64) -> Cell {
        Cell::number(count.to_string(), count as f64)
    }

    /// Names rise, numbers fall: the largest first.
    fn order(&self, other: &Cell) -> Ordering {
        match (self.key, other.key) {
            (Some(one), Some(other)) => other.total_cmp(&one),
            _ => self.text.cmp(&other.text),
        }
    }
}

/// Everything that a frame shows.
pub struct Model {
    pub head: Vec<String>,
    pub domains: Vec<Vec<Cell>>,
    pub ports: Vec<Vec<Cell>>,
    pub cores: Vec<Vec<Cell>>,
    json: serde_json::Value,
}

impl Model {
    /// Of the time between two samples.
    pub fn new(before: &Sample, now: &Sample) -> Model {
        let spent = now
            .at
            .duration_since(before.at)
            .max(Duration::from_millis(1));
        let per_second = |new: u64, old: Option<u64>| {
            old.map_or(0.0, |old| {
                new.saturating_sub(old) as f64 / spent.as_secs_f64()
            })
        };
        let domains: Vec<(&Domain, f64)> = now
            .view
            .domains
            .iter()
            .map(|domain| {
                let same = |old: &&Domain| old.info.domain == domain.info.domain;
                let old = before.view.domains.iter().find(same);
                let requests = old.map(|old| old.activity.requests);
                (domain, per_second(domain.activity.requests, requests))
            })
            .collect();
        let ports: Vec<(&Port, [f64; 2])> = now
            .view
            .ports
            .iter()
            .map(|port| (port, rates(before, port)))
            .collect();
        let cores: Vec<(u32, f64, f64)> = now
            .cores
            .iter()
            .filter_map(|core| load(before, core))
            .collect();
        let isolated = cores::isolated();
        Model {
            head: head(&now.view),
            domains: domains
                .iter()
                .map(|(domain, rate)| domain_row(domain, *rate))
                .collect(),
            ports: ports
                .iter()
                .map(|(port, rates)| port_row(port, *rates))
                .collect(),
            cores: cores
                .iter()
                .map(|core| core_row(*core, &isolated))
                .collect(),
            json: as_json(&now.view, &domains, &ports, &cores),
        }
    }

    /// One line for a program.
    pub fn as_json(&self) -> &serde_json::Value {
        &self.json
    }

    /// A table's rows, ordered by a column.
    pub fn rows(&self, table: Table, column: usize, reverse: bool) -> Vec<&Vec<Cell>> {
        let rows = match table {
            Table::Domains => &self.domains,
            Table::Ports => &self.ports,
            Table::Cores => &self.cores,
        };
        let mut rows: Vec<&Vec<Cell>> = rows.iter().collect();
        rows.sort_by(|one, other| {
            let order = one[column].order(&other[column]);
            if reverse { order.reverse() } else { order }
        });
        rows
    }
}

fn head(view: &View) -> Vec<String> {
    let View {
        ledger,
        work,
        counters,
        ..
    } = view;
    let up = shape::span(shape::seconds_since(counters.started_ms()));
    vec![
        format!(
            "exod up {up}   {} domains, {} sessions, {} capabilities, {} port sides",
            ledger.domains, work.sessions, ledger.capabilities, work.port_sides
        ),
        format!(
            "frames {} owned, {} free, {} pinned   jobs {}, closes {}, being taken back {}",
            ledger.frames_owned,
            ledger.frames_free,
            ledger.frames_pinned,
            work.jobs,
            work.closes,
            work.unbinding
        ),
    ]
}

/// Descriptors a second that each side sends, between two looks of exod's own.
fn rates(before: &Sample, port: &Port) -> [f64; 2] {
    let same = |old: &&Port| old.info.port == port.info.port;
    let Some(old) = before.view.ports.iter().find(same) else {
        return [0.0; 2];
    };
    let spent_ns = port.counts.at_ns.saturating_sub(old.counts.at_ns).max(1);
    [0, 1].map(|side| {
        let more = port.counts.sent[side].saturating_sub(old.counts.sent[side]);
        more as f64 * 1e9 / spent_ns as f64
    })
}

/// Shares of a core's time, in percent: busy, stolen.
fn load(before: &Sample, core: &Core) -> Option<(u32, f64, f64)> {
    let old = before.cores.iter().find(|old| old.number == core.number)?;
    let busy = core.busy.saturating_sub(old.busy);
    let stolen = core.stolen.saturating_sub(old.stolen);
    let idle = core.idle.saturating_sub(old.idle);
    let all = (busy + stolen + idle).max(1) as f64;
    Some((
        core.number,
        100.0 * busy as f64 / all,
        100.0 * stolen as f64 / all,
    ))
}

fn domain_row(domain: &Domain, rate: f64) -> Vec<Cell> {
    let Domain {
        info,
        ledger,
        activity,
    } = domain;
    let age = shape::seconds_since(info.since_ms);
    let name = match activity.state {
        1 => info.name.as_str().to_owned(),
        _ => format!("({})", info.name.as_str()),
    };
    vec![
        Cell::text(name),
        Cell::count(u64::from(info.pid)),
        Cell::text(shape::user(info.uid)),
        Cell::count(ledger.frames_owned),
        Cell::count(ledger.capabilities),
        Cell::count(activity.port_sides),
        Cell::number(shape::amount(rate), rate),
        Cell::count(activity.refused),
        Cell::count(activity.lost),
        Cell::number(shape::span(age), age as f64),
    ]
}

fn port_row(port: &Port, rates: [f64; 2]) -> Vec<Cell> {
    let Port { info, counts } = port;
    let side = |number: usize| match (info.sides[number], info.brief.gone[number]) {
        // The slot alone: generations are long, and logs have them.
        (Some(domain), _) => format!("d{}", domain as u32),
        (None, true) => "gone".to_owned(),
        (None, false) => "-".to_owned(),
    };
    let state = match (info.brief.tapped, info.sides, info.brief.gone) {
        (true, ..) => "tapped",
        (_, _, [true, _] | [_, true]) => "half gone",
        (_, [Some(_), Some(_)], _) => "linked",
        _ => "waits",
    };
    let all = |number: usize| {
        let sent = counts.sent[number] as f64;
        Cell::number(shape::amount(sent), sent)
    };
    vec![
        Cell::text(info.name.as_str()),
        Cell::text(format!("{} {}", side(0), side(1))),
        Cell::count(1 << info.brief.ring_log2),
        Cell::number(shape::amount(rates[0]), rates[0]),
        Cell::number(shape::amount(rates[1]), rates[1]),
        all(0),
        all(1),
        Cell::text(state),
    ]
}

fn core_row((number, busy, stolen): (u32, f64, f64), isolated: &[u32]) -> Vec<Cell> {
    let alone = if isolated.contains(&number) {
        "yes"
    } else {
        ""
    };
    vec![
        // So that they stand in their own order.
        Cell::number(number.to_string(), -f64::from(number)),
        Cell::number(format!("{busy:.0}"), busy),
        Cell::number(format!("{stolen:.0}"), stolen),
        Cell::text(alone),
    ]
}

fn as_json(
    view: &View,
    domains: &[(&Domain, f64)],
    ports: &[(&Port, [f64; 2])],
    cores: &[(u32, f64, f64)],
) -> serde_json::Value {
    let domains = domains.iter().map(|(domain, rate)| {
        json!({
            "domain": domain.info.domain,
            "session": domain.info.session,
            "name": domain.info.name.as_str(),
            "pid": domain.info.pid,
            "uid": domain.info.uid,
            "since_ms": domain.info.since_ms,
            "state": domain.activity.state,
            "frames": domain.ledger.frames_owned,
            "capabilities": domain.ledger.capabilities,
            "port_sides": domain.activity.port_sides,
            "requests": domain.activity.requests,
            "requests_per_s": rate,
            "refused": domain.activity.refused,
            "lost": domain.activity.lost,
        })
    });
    let ports = ports.iter().map(|(port, rates)| {
        json!({
            "port": port.info.port,
            "name": port.info.name.as_str(),
            "domains": port.info.sides,
            "ring": 1u64 << port.info.brief.ring_log2,
            "tapped": port.info.brief.tapped,
            "gone": port.info.brief.gone,
            "sent": port.counts.sent,
            "sent_per_s": rates,
        })
    });
    let cores = cores.iter().map(|(core, busy, stolen)| {
        json!({"core": core, "busy_percent": busy, "stolen_percent": stolen})
    });
    json!({
        "time_ms": shape::now_ms(),
        "frames_free": view.ledger.frames_free,
        "frames_owned": view.ledger.frames_owned,
        "frames_pinned": view.ledger.frames_pinned,
        "sessions": view.work.sessions,
        "jobs": view.work.jobs,
        "domains": domains.collect::<Vec<_>>(),
        "ports": ports.collect::<Vec<_>>(),
        "cores": cores.collect::<Vec<_>>(),
    })
}
