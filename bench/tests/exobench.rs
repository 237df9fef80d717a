//! exobench as a user starts it, briefly: its rows run against the real exod, and what they say has
//! the form that readers rely on. No figure is judged here.

#![forbid(unsafe_code)]

use std::path::Path;
use std::process::{Command, Output};

mod common;
use common::{
    DETAILS, NUMBERS, TEXTS, good_lines, has_numbers, has_texts, lines, two_cores, verdict,
};

const EXOBENCH: &str = env!("CARGO_BIN_EXE_exobench");

fn run(args: &[&str]) -> Output {
    Command::new(EXOBENCH)
        .args(args)
        .output()
        .expect("exobench starts")
}

/// Whether the programs that are measured lie beside exobench, and there are two cores.
fn can_run() -> bool {
    let beside = Path::new(EXOBENCH).parent().expect("a directory");
    if !beside.join("exod").exists() || !beside.join("exo").exists() {
        println!("skipped: exod and exo were not built: cargo build -p exod");
        return false;
    }
    two_cores()
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
    let mut found = Vec::new();
    for line in good_lines(&output) {
        assert_eq!(line["bench"], "exobench");
        has_numbers(&line, &NUMBERS);
        has_texts(&line, &["row", "metric"]);
        has_texts(&line, &TEXTS);
        has_texts(&line, &DETAILS);
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
    let verdict = verdict(&output, "exobench", "start-idle-rss");
    assert_eq!(verdict["theirs"], 16.0);
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
    if !two_cores() {
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
