//! `exo status`: exod in a dozen lines, or as one JSON object.

#![forbid(unsafe_code)]

use std::io::Write;

use libexo::abi::counters::Counter;
use libexo::abi::wire::{ErrorCode, Op};
use serde_json::json;

use crate::view::{View, Watch};
use crate::{Exod, explain, shape};

/// Shows what exod owns, what it has granted, and what it is busy with
#[derive(clap::Args)]
pub struct Args {
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

pub fn run(exod: &Exod, args: &Args) -> anyhow::Result<()> {
    let client = exod.connect()?;
    explain(client.work())?;
    let watch = Watch::new(client)?;
    let view = watch.totals()?;
    let session = watch.client().session();
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", as_json(&view, session))?;
        return Ok(());
    }
    for (key, value) in lines(exod, &view, session) {
        writeln!(out, "{key:<10}{value}")?;
    }
    Ok(())
}

/// Requests of all operations: how many, and what 99 of a hundred took at most.
fn requests(view: &View) -> (u64, Option<u64>) {
    let mut all = libexo::counters::Histogram::default();
    for op in Op::ALL.map(Some).into_iter().chain([None]) {
        let one = view.counters.requests(op);
        for (sum, more) in all.buckets.iter_mut().zip(one.buckets) {
            *sum += more;
        }
    }
    (all.count(), all.percentile_ns(99))
}

fn refused(view: &View) -> u64 {
    let codes = ErrorCode::ALL.iter();
    codes.map(|code| view.counters.refusals(*code)).sum()
}

fn as_json(view: &View, session: libexo::client::SessionInfo) -> serde_json::Value {
    let View {
        ledger,
        work,
        counters,
        ..
    } = view;
    let count = |counter| counters.counter(counter);
    let (requests, p99_ns) = requests(view);
    json!({
        "pages": session.page_kind.name(),
        "frame_bytes": session.frame_bytes,
        "started_ms": counters.started_ms(),
        "domains": ledger.domains,
        "sessions": work.sessions,
        "capabilities": ledger.capabilities,
        "objects": ledger.objects,
        "port_sides": work.port_sides,
        "frames_free": ledger.frames_free,
        "frames_owned": ledger.frames_owned,
        "frames_pinned": ledger.frames_pinned,
        "jobs": work.jobs,
        "closes": work.closes,
        "being_taken_back": work.unbinding,
        "objects_pinned": work.pinned,
        "requests": requests,
        "request_p99_ns": p99_ns,
        "refusals": refused(view),
        "grants": count(Counter::Grants),
        "losses": count(Counter::Losses),
        "audit_events": count(Counter::AuditEvents),
        "audit_lost": count(Counter::AuditLost),
    })
}

fn lines(
    exod: &Exod,
    view: &View,
    session: libexo::client::SessionInfo,
) -> Vec<(&'static str, String)> {
    let View {
        ledger,
        work,
        counters,
        ..
    } = view;
    let count = |counter| counters.counter(counter);
    let up = shape::span(shape::seconds_since(counters.started_ms()));
    let frame = session.frame_bytes as u64;
    let memory = |frames: u64| shape::bytes(frames.saturating_mul(frame));
    let (requests, p99) = requests(view);
    let p99 = p99.map_or(String::new(), |ns| {
        format!(", 99 % below {}", shape::latency(ns))
    });
    let mut lines = vec![
        ("exod", format!("answers at {}, up {up}", exod.place())),
        (
            "frames",
            format!(
                "{} owned ({}), {} free ({}), {} pinned",
                ledger.frames_owned,
                memory(ledger.frames_owned),
                ledger.frames_free,
                memory(ledger.frames_free),
                ledger.frames_pinned
            ),
        ),
        (
            "pages",
            format!(
                "{} ({} a frame)",
                session.page_kind.name(),
                shape::bytes(frame)
            ),
        ),
        (
            "domains",
            format!(
                "{} with {} sessions, {} capabilities, {} objects, {} port sides",
                ledger.domains, work.sessions, ledger.capabilities, ledger.objects, work.port_sides
            ),
        ),
        (
            "requests",
            format!("{requests}, {} refused{p99}", refused(view)),
        ),
        (
            "granted",
            format!(
                "{}, {} taken by force",
                count(Counter::Grants),
                count(Counter::Losses)
            ),
        ),
        (
            "busy",
            format!(
                "{} jobs, {} closes, {} objects being taken back, {} pinned",
                work.jobs, work.closes, work.unbinding, work.pinned
            ),
        ),
    ];
    let audit = match (count(Counter::AuditEvents), count(Counter::AuditLost)) {
        (0, _) => "off (`audit` in exod's configuration turns it on)".to_owned(),
        (events, 0) => format!("{events} events"),
        (events, lost) => format!("{events} events, {lost} lost: see exod's log for the reason"),
    };
    lines.push(("audit", audit));
    lines
}
