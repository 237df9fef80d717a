//! exobench as a user starts it, briefly: its rows run against the real exod, and what they say has
//! the form that readers rely on. No figure is judged here.

#![forbid(unsafe_code)]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const EXOBENCH: &str = env!("CARGO_BIN_EXE_exobench");

fn run(args: &[&str]) -> Output {
    Command::new(EXOBENCH)
        .args(args)
        .output()
        .expect("exobench starts")
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .map(|line| serde_json::from_str(line).expect("a JSON object per line"))
        .collect()
}

/// Whether the programs that are measured lie beside exobench, and there are two cores.
fn can_run() -> bool {
    let beside = Path::new(EXOBENCH).parent().expect("a directory");
    if !beside.join("exod").exists() || !beside.join("exo").exists() {
        println!("skipped: exod and exo were not built: cargo build -p exod");
        return false;
    }
    if bench::host::choose_cores().is_err() {
        println!("skipped: this machine allows fewer than two cores");
        return false;
    }
    true
}

/// A short run of some rows; every line has what readers rely on.
fn figures(only: &str) -> Vec<(String, String)> {
    let output = run(&[
        "--only",
        only,
        "--seconds",
        "0.05",
        "--repeats",
        "1",
        "--json",
    ]);
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    let mut found = Vec::new();
    for line in lines(&output) {
        assert_eq!(line["bench"], "exobench");
        for key in [
            "value",
            "min",
            "max",
            "n",
            "steal_percent",
            "waiting_percent",
        ] {
            assert!(line[key].is_number(), "{key} in {line}");
        }
        for key in [
            "row", "metric", "unit", "kind", "cpu", "kernel", "pages", "device", "driver", "mode",
            "page",
        ] {
            assert!(line[key].is_string(), "{key} in {line}");
        }
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        found.push((text("row"), text("metric")));
    }
    found
}

fn of(row: &str, metrics: &[&str]) -> Vec<(String, String)> {
    let pair = |metric: &&str| (row.to_owned(), (*metric).to_owned());
    metrics.iter().map(pair).collect()
}

#[test]
fn requests_and_memory_are_measured_beside_their_floors() {
    if !can_run() {
        return;
    }
    let found = figures("^(request|socket)-same-core$|^alloc-map$|^mmap$");
    for row in ["request-same-core", "socket-same-core", "alloc-map", "mmap"] {
        for figure in of(row, &["p50", "p99", "max"]) {
            assert!(found.contains(&figure), "{figure:?}: {found:?}");
        }
    }
}

#[test]
fn the_daemon_is_started_and_watched_and_asked() {
    if !can_run() {
        return;
    }
    assert_eq!(figures("^start$"), of("start", &["p50", "p99", "max"]));
    assert_eq!(figures("^idle$"), of("idle", &["wakeups", "rss"]));
    assert_eq!(
        figures("^exo-status$"),
        of("exo-status", &["p50", "p99", "max"])
    );
}

#[test]
fn a_promise_has_its_line() {
    if !can_run() {
        return;
    }
    let args = [
        "targets",
        "--only",
        "^start-idle-rss$",
        "--seconds",
        "0.05",
        "--repeats",
        "1",
        "--json",
    ];
    let output = run(&args);
    let lines = lines(&output);
    assert_eq!(lines.len(), 1);
    let verdict = &lines[0];
    assert_eq!(verdict["bench"], "exobench");
    assert_eq!(verdict["target"], "start-idle-rss");
    assert_eq!(verdict["theirs"], 16.0);
    assert_eq!(output.status.success(), verdict["met"] == true, "{verdict}");
}

#[test]
fn what_cannot_be_measured_is_not_met_and_says_why() {
    let missing = ["--exod", "/nonexistent/exod"];
    let list = run(&[&["list"], &missing[..]].concat());
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(
        list.contains("cannot run here: no /nonexistent/exod"),
        "{list}"
    );
    if bench::host::choose_cores().is_err() {
        println!("skipped: this machine allows fewer than two cores");
        return;
    }
    let args = [
        &["targets", "--only", "^start-ready$", "--json"],
        &missing[..],
    ]
    .concat();
    let output = run(&args);
    assert!(!output.status.success());
    let verdict = &lines(&output)[0];
    assert_eq!(verdict["met"], false);
    let reason = verdict["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("cargo build"), "{verdict}");
}

#[test]
fn the_help_teaches() {
    let help = run(&["--help"]);
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    for word in [
        "First steps",
        "How to read it",
        "Exit codes",
        "targets",
        "--only",
    ] {
        assert!(help.contains(word), "{word}");
    }
    assert_eq!(run(&["--nonsense"]).status.code(), Some(2));
    let none = run(&["--only", "no such row"]);
    assert!(String::from_utf8_lossy(&none.stderr).contains("see `exobench list`"));
}
