//! What tests of the benchmark programs have in common: their output, and the fields that readers
//! of it rely on.

#![forbid(unsafe_code)]
// Each test program uses its own part of this.
#![allow(dead_code)]

use std::process::Output;

use serde_json::Value;

/// In every figure: numbers and texts.
pub const NUMBERS: [&str; 8] = [
    "size",
    "burst",
    "value",
    "min",
    "max",
    "n",
    "steal_percent",
    "waiting_percent",
];
pub const TEXTS: [&str; 6] = ["unit", "kind", "cpu", "kernel", "pages", "mitigations"];

/// In every figure of a rate: numbers and texts.
pub const COUNTS: [&str; 6] = [
    "ns_per_packet",
    "cycles_per_packet",
    "sent",
    "received",
    "lost",
    "corrupt",
];
pub const DETAILS: [&str; 4] = ["device", "driver", "mode", "page"];

/// The objects that a program printed.
pub fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .map(|line| serde_json::from_str(line).expect("a JSON object per line"))
        .collect()
}

/// The objects that a program printed which did not fail.
pub fn good_lines(output: &Output) -> Vec<Value> {
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    lines(output)
}

/// The one line of a program that was asked for one of its promises.
pub fn verdict(output: &Output, bench: &str, target: &str) -> Value {
    let mut lines = lines(output);
    assert_eq!(lines.len(), 1);
    let verdict = lines.remove(0);
    assert_eq!(verdict["bench"], bench);
    assert_eq!(verdict["target"], target);
    assert_eq!(output.status.success(), verdict["met"] == true, "{verdict}");
    verdict
}

pub fn has_numbers(line: &Value, keys: &[&str]) {
    for key in keys {
        assert!(line[key].is_number(), "{key} in {line}");
    }
}

pub fn has_texts(line: &Value, keys: &[&str]) {
    for key in keys {
        assert!(line[key].is_string(), "{key} in {line}");
    }
}

/// Whether anything can be measured; says why not.
pub fn two_cores() -> bool {
    let enough = bench::host::choose_cores().is_ok();
    if !enough {
        println!("skipped: this machine allows fewer than two cores");
    }
    enough
}
