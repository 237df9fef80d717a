//! An event as a line of JSON.
//!
//! The keys `seq`, `time_us` and `event` are in every line. Names of processes and ports are
//! printable ASCII by the time they come here, and are escaped nevertheless.

#![forbid(unsafe_code)]

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use libexo::abi::wire::Op;
use serde_json::{Map, Value, json};

use super::{Entry, What};

/// Appends one line.
pub(super) fn write(entry: &Entry, out: &mut Vec<u8>) {
    let mut object = head(entry.seq, entry.at, event(&entry.what));
    let subject = &entry.subject;
    if subject.session != 0 {
        object.insert("session".into(), json!(subject.session));
        if subject.request != 0 {
            object.insert("request".into(), json!(subject.request));
        }
    }
    if subject.domain != 0 {
        object.insert("domain".into(), json!(subject.domain));
    }
    if subject.pid != 0 {
        object.insert("uid".into(), json!(subject.uid));
        object.insert("pid".into(), json!(subject.pid));
    }
    if let Some(port) = entry.port {
        object.insert("port".into(), json!(port.as_str()));
    }
    object.extend(details(&entry.what));
    end(object, out);
}

/// Appends the line that stands for `lines` lost ones, the last of which had the number `seq`.
pub(super) fn write_lost(seq: u64, at: SystemTime, lines: u64, out: &mut Vec<u8>) {
    let mut object = head(seq, at, "lost");
    object.insert("lines".into(), json!(lines));
    end(object, out);
}

/// The number of a line.
pub(super) fn seq_of(line: &[u8]) -> Option<u64> {
    let value: Value = serde_json::from_slice(line).ok()?;
    value.get("seq")?.as_u64()
}

fn head(seq: u64, at: SystemTime, event: &str) -> Map<String, Value> {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let time_us = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
    let mut object = Map::new();
    object.insert("seq".into(), json!(seq));
    object.insert("time_us".into(), json!(time_us));
    object.insert("event".into(), json!(event));
    object
}

fn end(object: Map<String, Value>, out: &mut Vec<u8>) {
    // Memory takes everything.
    let _ = writeln!(out, "{}", Value::Object(object));
}

fn event(what: &What) -> &'static str {
    match what {
        What::Start => "start",
        What::Stop => "stop",
        What::Begin { .. } => "begin",
        What::End { .. } => "end",
        What::TurnedAway { .. } => "turned-away",
        What::Grant { .. } => "grant",
        What::Refusal { .. } => "refusal",
        What::Left { .. } => "left",
        What::Loss { .. } => "loss",
        What::Pinned { .. } => "pinned",
    }
}

fn details(what: &What) -> Vec<(String, Value)> {
    let named = |pairs: &[(&str, Value)]| {
        let owned = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.clone()));
        owned.collect()
    };
    match what {
        What::Start => named(&[("version", json!(env!("CARGO_PKG_VERSION")))]),
        What::Stop => Vec::new(),
        What::Begin { gid, name } => named(&[("gid", json!(gid)), ("comm", json!(name.as_str()))]),
        What::End { why, refused } => named(&[("why", json!(why)), ("refused", json!(refused))]),
        What::TurnedAway { why } => named(&[("why", json!(why))]),
        What::Grant { op, handle } => {
            named(&[("op", json!(format!("{op:?}"))), ("handle", json!(handle))])
        }
        What::Refusal { op, code } => {
            let known = Op::from_raw(*op).map_or_else(|| json!(op), |op| json!(format!("{op:?}")));
            named(&[("op", known), ("code", json!(format!("{code:?}")))])
        }
        What::Left { handle, reason } => {
            named(&[("handle", json!(handle)), ("reason", json!(reason))])
        }
        What::Loss { handle } => named(&[("handle", json!(handle))]),
        What::Pinned { object, frames } => {
            named(&[("object", json!(object)), ("frames", json!(frames))])
        }
    }
}
