//! A line of the trail for people.

#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Map, Value};

use crate::shape::harmless;

/// Keys that have a place of their own.
const PLACED: [&str; 8] = [
    "seq", "time_us", "event", "session", "request", "domain", "uid", "pid",
];

/// When years get a fifth digit, which the format of times has no place for.
const YEARS_END_US: u64 = 253_402_300_800_000_000;

/// `2026-11-22T17:04:33.123456Z     12 grant    3.5   uid 1000 pid 77 op PortCreate ...`
pub fn line(object: &Map<String, Value>) -> String {
    let number = |key: &str| object.get(key).and_then(Value::as_u64);
    let time = number("time_us").filter(|us| *us < YEARS_END_US);
    let time = time.and_then(|us| UNIX_EPOCH.checked_add(Duration::from_micros(us)));
    let time = time.map_or(String::from("-"), |time| {
        humantime::format_rfc3339_micros(time).to_string()
    });
    let seq = number("seq").unwrap_or(0);
    let event = object.get("event").and_then(Value::as_str).unwrap_or("-");
    let request = match (number("session"), number("request")) {
        (Some(session), Some(request)) => format!("{session}.{request}"),
        (Some(session), None) => session.to_string(),
        _ => "-".to_owned(),
    };
    let mut text = format!("{time} {seq:>6} {:<11} {request:<8}", harmless(event));
    for key in ["uid", "pid", "domain"] {
        if let Some(value) = number(key) {
            let _ = write!(text, " {key} {value}");
        }
    }
    for (key, value) in object {
        if PLACED.contains(&key.as_str()) {
            continue;
        }
        let value = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let _ = write!(text, " {} {}", harmless(key), harmless(&value));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_object_makes_one_harmless_line() {
        let text = r#"{"seq":3,"time_us":1700000000000001,"event":"grant\u001b[2J","session":7,
            "request":2,"uid":5,"pid":6,"port":"a\nb","more":[1,{"x":null}]}"#;
        let object: Map<String, Value> = serde_json::from_str(text).expect("an object");
        let line = line(&object);
        assert!(
            line.starts_with("2023-11-14T22:13:20.000001Z      3 grant?[2J"),
            "{line}"
        );
        assert!(
            line.contains(" 7.2 ") && line.contains(" uid 5 pid 6"),
            "{line}"
        );
        assert!(
            line.contains("port a?b") && !line.chars().any(char::is_control),
            "{line}"
        );
        let odd: Map<String, Value> =
            serde_json::from_str(r#"{"seq":"x","time_us":18446744073709551615}"#).expect("JSON");
        assert!(!super::line(&odd).is_empty());
    }
}
