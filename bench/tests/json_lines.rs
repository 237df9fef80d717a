//! Whether a run's JSON lines have the shape that readers rely on, and no packet was lost or
//! damaged.
//!
//! The rules are tried on lines that break them. Where `NETBENCH_JSON` names a file with the output
//! of a run that compared all rows (`netbench --json`), that file is held against them too.

use bench::catalog;
use serde_json::{Value, json};

mod common;
use common::{COUNTS, DETAILS, NUMBERS, TEXTS};

/// Names the file.
const FILE: &str = "NETBENCH_JSON";

/// Rows of ours that every machine can run, with a metric that a comparison must have of each.
const REQUIRED: [(&str, &str); 4] = [
    ("port", "rate"),
    ("port", "rtt-p50"),
    ("port-trusted", "rate"),
    ("port-descriptors", "rate"),
];

/// What is wrong with a line that should be a figure or say why there is none.
fn faults(line: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    let mut expect = |holds: bool, what: &str| {
        if !holds {
            faults.push(what.to_owned());
        }
    };
    let text = |key: &str| line[key].as_str().filter(|text| !text.is_empty());
    expect(line["bench"] == "netbench", "bench is not netbench");
    let known = text("row").is_some_and(|row| catalog::find(row).is_some());
    expect(known, "row is none of this program's");
    match text("metric") {
        None => expect(false, "no metric"),
        Some("failed") => expect(false, "the row failed"),
        Some("unavailable") => expect(text("reason").is_some(), "no reason"),
        Some(metric) => {
            for key in NUMBERS {
                expect(line[key].is_number(), &format!("{key} is no number"));
            }
            for key in TEXTS {
                expect(text(key).is_some(), &format!("{key} is no text"));
            }
            let [min, value, max] = ["min", "value", "max"].map(|key| line[key].as_f64());
            expect(min <= value && value <= max, "the value is out of its span");
            let cores = line["cores"].as_array().map_or(0, Vec::len);
            expect(cores == 2, "cores are not two");
            if metric == "rate" {
                rate_faults(line, &mut expect);
            }
        }
    }
    faults
}

fn rate_faults(line: &Value, expect: &mut impl FnMut(bool, &str)) {
    for key in COUNTS {
        expect(line[key].is_number(), &format!("{key} is no number"));
    }
    for key in DETAILS {
        expect(line[key].is_string(), &format!("{key} is no text"));
    }
    expect(line["corrupt"] == 0, "packets were damaged");
    expect(line["received"].as_u64() > Some(0), "nothing was received");
    // A datagram socket of the kernel may drop; what we hand over must arrive.
    if line["kind"] == "ours" || line["kind"] == "floor" {
        expect(line["lost"] == 0, "packets were lost");
    }
}

/// What is wrong with the output of a run over all rows.
fn faults_of(output: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = Vec::new();
    for (number, text) in output.lines().enumerate() {
        match serde_json::from_str::<Value>(text) {
            Ok(line) => lines.push(line),
            Err(error) => found.push(format!("line {}: {error}", number + 1)),
        }
    }
    for line in &lines {
        let faults = faults(line).into_iter();
        found.extend(faults.map(|fault| format!("{fault}: {line}")));
    }
    for (row, metric) in REQUIRED {
        if !lines
            .iter()
            .any(|line| line["row"] == row && line["metric"] == metric)
        {
            found.push(format!("no {metric} of {row}"));
        }
    }
    found
}

fn figure(row: &str, metric: &str) -> Value {
    json!({
        "bench": "netbench", "row": row, "metric": metric, "size": 64, "burst": 32, "value": 2.0,
        "unit": "Mpps", "min": 1.0, "max": 3.0, "n": 3, "kind": "ours", "ns_per_packet": 1.0,
        "cycles_per_packet": 2.0, "sent": 9, "received": 9, "lost": 0, "corrupt": 0, "cpu": "c",
        "kernel": "k", "pages": "p", "mitigations": "m", "cores": [0, 1], "steal_percent": 0.0,
        "waiting_percent": 0.0, "device": "d", "driver": "d", "mode": "m", "page": "2M",
    })
}

fn good() -> Vec<Value> {
    let mut lines: Vec<Value> = REQUIRED
        .iter()
        .map(|(row, metric)| figure(row, metric))
        .collect();
    lines.push(json!({
        "bench": "netbench", "row": "udp", "metric": "unavailable", "value": null, "reason": "no"
    }));
    lines
}

fn text(lines: &[Value]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn good_lines_are_accepted() {
    assert_eq!(faults_of(&text(&good())), [""; 0]);
}

#[test]
fn every_fault_is_found() {
    let broken: [(&str, Value); 14] = [
        ("bench", json!("other")),
        ("row", json!("no such row")),
        ("metric", Value::Null),
        ("metric", json!("failed")),
        ("value", json!("2.0")),
        ("value", json!(9.0)),
        ("unit", Value::Null),
        ("cores", json!([0])),
        ("lost", json!(1)),
        ("corrupt", json!(1)),
        ("received", json!(0)),
        ("cycles_per_packet", Value::Null),
        ("page", Value::Null),
        ("steal_percent", Value::Null),
    ];
    for (key, value) in broken {
        let mut line = figure("port", "rate");
        line[key] = value;
        assert_ne!(faults(&line), [""; 0], "{line}");
    }
    let mut silent = good().pop().expect("a line");
    silent["reason"] = json!("");
    assert_eq!(faults(&silent), ["no reason"]);
    let mut dropping = figure("udp", "rate");
    (dropping["kind"], dropping["lost"]) = (json!("kernel"), json!(5));
    assert_eq!(faults(&dropping), [""; 0], "a socket may drop");
    assert_ne!(faults_of(&text(&good()[1..])), [""; 0], "a row is missing");
    assert_ne!(faults_of(&format!("{}not json\n", text(&good()))), [""; 0]);
}

#[test]
fn a_run_that_is_named_is_good() {
    let Some(path) = std::env::var_os(FILE) else {
        println!("skipped: {FILE} names no file");
        return;
    };
    let output = std::fs::read_to_string(path).expect("a readable file");
    let found = faults_of(&output);
    assert!(found.is_empty(), "{}", found.join("\n"));
    println!("{} lines are good", output.lines().count());
}
