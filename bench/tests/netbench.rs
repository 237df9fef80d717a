//! The program as a user starts it: what it prints, how it refuses, how it stops.

use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

mod common;
use common::{
    COUNTS, DETAILS, NUMBERS, TEXTS, good_lines, has_numbers, has_texts, two_cores, verdict,
};

fn netbench() -> Command {
    Command::new(env!("CARGO_BIN_EXE_netbench"))
}

/// One measurement at a time: two of them on the same cores starve each other's short windows.
static MEASURING: Mutex<()> = Mutex::new(());

fn run(args: &[&str]) -> Output {
    let _alone = MEASURING.lock().unwrap_or_else(PoisonError::into_inner);
    netbench().args(args).output().expect("netbench starts")
}

/// A short real run of one row; every line has what design and readers rely on.
fn short_run(row: &str) -> Vec<Value> {
    let only = format!("^{row}$");
    let args = [
        "--only",
        &only,
        "--size",
        "1518",
        "--seconds",
        "0.2",
        "--repeats",
        "2",
        "--json",
    ];
    let output = run(&args);
    let lines = good_lines(&output);
    for line in lines.iter().filter(|line| line["metric"] != "unavailable") {
        assert_eq!(
            (&line["bench"], &line["row"]),
            (&"netbench".into(), &row.into())
        );
        has_numbers(line, &NUMBERS);
        has_texts(line, &["metric"]);
        has_texts(line, &TEXTS);
        assert!(line["value"].as_f64() > Some(0.0), "{line}");
        if line["metric"] == "rate" {
            has_texts(line, &DETAILS);
            has_numbers(line, &COUNTS);
            assert_eq!(line["corrupt"], 0, "{line}");
            assert!(line["received"].as_u64() > Some(0), "{line}");
        }
    }
    lines
}

fn metrics(lines: &[Value]) -> Vec<&str> {
    lines
        .iter()
        .filter_map(|line| line["metric"].as_str())
        .collect()
}

const BOTH: [&str; 5] = ["rate", "bandwidth", "rtt-p50", "rtt-p99", "rtt-p999"];

#[test]
fn rows_that_every_machine_has_run_without_damage() {
    if !two_cores() {
        return;
    }
    assert_eq!(metrics(&short_run("udp")), BOTH);
    assert_eq!(metrics(&short_run("pipe")), BOTH);
    assert_eq!(metrics(&short_run("unix-seqpacket")), BOTH);
    assert_eq!(metrics(&short_run("udp-mmsg")), BOTH[..2]);
    assert_eq!(metrics(&short_run("udp-gso")), BOTH[..2]);
}

#[test]
fn rows_that_need_more_run_or_say_what_is_missing() {
    if !two_cores() {
        return;
    }
    for row in ["io-uring", "af-packet"] {
        let lines = short_run(row);
        if metrics(&lines) == ["unavailable"] {
            println!("skipped: {row}: {}", lines[0]["reason"]);
            assert!(
                lines[0]["reason"]
                    .as_str()
                    .is_some_and(|reason| !reason.is_empty())
            );
        } else {
            assert_eq!(metrics(&lines), BOTH);
        }
    }
}

#[test]
fn a_reliable_link_loses_nothing() {
    if !two_cores() {
        return;
    }
    for row in ["pipe", "unix-seqpacket"] {
        let lines = short_run(row);
        assert_eq!(lines[0]["lost"], 0, "{row}");
    }
}

#[test]
fn people_get_a_table_and_a_page() {
    if !two_cores() {
        return;
    }
    let page = std::env::temp_dir().join(format!("netbench-test-{}.html", std::process::id()));
    let mut command = netbench();
    command
        .args(["--only", "^pipe$", "--size", "64", "--quick", "--report"])
        .arg(&page);
    let output = command.output().expect("netbench starts");
    let html = std::fs::read_to_string(&page).expect("a page");
    std::fs::remove_file(&page).expect("the page can be removed");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success());
    assert!(text.contains("mitigations") && text.contains("Gbit/s") && text.contains("p99.9"));
    assert!(!text.contains('\x1b'), "colours belong on a terminal");
    assert!(html.contains("<svg") && html.contains("pipe (burst") && html.ends_with("</html>\n"));
    assert!(
        !html.contains("src=") && !html.contains("href="),
        "one file is all there is"
    );
}

#[test]
fn bad_arguments_are_refused_with_words() {
    let cases: [(&[&str], &str); 9] = [
        (&["--size", "0"], "must be 1 to"),
        (&["--size", "many"], "is not a number"),
        (&["--burst", "999999"], "must be 1 to"),
        (&["--seconds", "-1"], "unexpected argument"),
        (&["--seconds=nan"], "must be 0.01 to"),
        (&["--cores", "0"], "is not two cores"),
        (&["--cores", "1,1"], "a core each"),
        (&["--only", "("], "regex"),
        (&["--only", "no such row"], "see `netbench list`"),
    ];
    for (args, expected) in cases {
        let output = run(args);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && text.contains(expected),
            "{args:?}: {text}"
        );
    }
    let output = run(&["--cores", "0,1000", "--only", "^udp$"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("core 1000"));
    let output = run(&["targets", "--only", "no such target"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("port-64-vs-floor"));
}

#[test]
fn a_target_without_its_peer_is_not_met_and_says_why() {
    if !two_cores() {
        return;
    }
    let args = [
        "targets",
        "--only",
        "^l2fwd-64",
        "--seconds",
        "0.1",
        "--repeats",
        "1",
        "--json",
    ];
    let output = run(&args);
    let verdict = verdict(&output, "netbench", "l2fwd-64-vs-memif-macswap");
    assert_eq!(
        (&verdict["goal"], &verdict["better"]),
        (&1.5.into(), &"higher".into())
    );
    for key in ["ours", "theirs", "ratio", "met"] {
        assert!(verdict.get(key).is_some(), "{key}");
    }
    if verdict["ratio"].is_null() {
        assert_eq!(verdict["met"], false);
        assert!(
            verdict["reason"]
                .as_str()
                .is_some_and(|reason| !reason.is_empty())
        );
    }
}

/// Processes whose parent is `parent`.
fn children(parent: u32) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        after_name.split_whitespace().nth(1) == Some(&parent.to_string())
    })
    .collect()
}

/// A run that ends with the test, however the test ends.
struct Endless(
    Child,
    #[expect(dead_code, reason = "held until it ends")] MutexGuard<'static, ()>,
);

impl Drop for Endless {
    fn drop(&mut self) {
        // Both fail when it ended already, which is what most tests want.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts an endless run and waits for its two workers.
fn endless() -> (Endless, Vec<i32>) {
    let args = ["--only", "^pipe$", "--size", "64", "--seconds", "300"];
    let mut command = netbench();
    command
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let alone = MEASURING.lock().unwrap_or_else(PoisonError::into_inner);
    let run = Endless(command.spawn().expect("netbench starts"), alone);
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let workers = children(run.0.id());
        if workers.len() == 2 {
            return (run, workers);
        }
        assert!(Instant::now() < end, "no workers after 20 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn all_gone(workers: &[i32]) -> bool {
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        // A killed worker whose new parent has not looked yet is a zombie, which holds nothing.
        let left = workers.iter().any(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(')')
                .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
        });
        if !left {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

#[test]
fn ctrl_c_stops_the_workers_and_says_so() {
    if !two_cores() {
        return;
    }
    let (mut run, workers) = endless();
    kill(Pid::from_raw(run.0.id() as i32), Signal::SIGINT).expect("a signal to our own child");
    let status = run.0.wait().expect("netbench ends");
    assert_eq!(status.code(), Some(130));
    assert!(all_gone(&workers));
}

#[test]
fn workers_die_with_a_killed_parent() {
    if !two_cores() {
        return;
    }
    let (mut run, workers) = endless();
    run.0.kill().expect("a signal to our own child");
    run.0.wait().expect("netbench ends");
    assert!(all_gone(&workers));
}
