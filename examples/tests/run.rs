//! The examples as a user starts them, briefly; what they print is checked, and how they end.

#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(30);

/// A command that finds no exod: so it embeds one, whatever runs on this machine.
fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(args)
        .env("EXO_SOCKET", "/nonexistent/exod.sock");
    command
}

fn run(program: &str, args: &[&str]) -> String {
    let out = command(program, args).output().expect("it starts");
    assert!(out.status.success(), "{args:?}: {}", both(&out));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn both(out: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    text(&out.stdout) + &text(&out.stderr)
}

#[test]
fn hello_arrives() {
    let out = run(env!("CARGO_BIN_EXE_hello"), &[]);
    assert_eq!(out, "hello\n");
}

#[test]
fn echo_answers_every_packet() {
    for size in ["8", "64", "2048"] {
        let out = run(
            env!("CARGO_BIN_EXE_echo"),
            &["--count", "200", "--size", size],
        );
        let expected = format!("client: 200 answers of {size} bytes, all as sent");
        assert!(out.contains(&expected), "{out}");
        assert!(out.contains("server: 200 packets answered"), "{out}");
    }
}

#[test]
fn l2fwd_loses_and_damages_nothing() {
    for size in ["60", "1514", "9000"] {
        let out = run(
            env!("CARGO_BIN_EXE_l2fwd"),
            &["--packets", "3000", "--size", size],
        );
        for expected in [
            format!("source: 3000 frames of {size} bytes sent"),
            "forwarder: 3000 frames of 64 stations forwarded, 0 dropped".to_owned(),
            "sink: 3000 frames, 0 bad, 0 lost".to_owned(),
        ] {
            assert!(out.contains(&expected), "{expected}: {out}");
        }
    }
}

/// `l2fwd` for ever, in a process group of its own, its sink at work.
fn l2fwd_at_work() -> (Child, BufReader<ChildStdout>) {
    let mut child = command(env!("CARGO_BIN_EXE_l2fwd"), &["--seconds", "600"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("Mpps") {
        line.clear();
        let read = lines.read_line(&mut line).expect("text");
        assert!(read > 0, "it ended before its first rate");
    }
    (child, lines)
}

fn kill(signal: &str, whom: &str) {
    let script = format!("kill -s {signal} -- {whom}");
    let status = Command::new("sh").args(["-c", &script]).status();
    assert!(status.expect("a shell").success(), "{script}");
}

fn ends(child: &mut Child) -> bool {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status.success();
        }
        if Instant::now() > deadline {
            kill("KILL", &format!("-{}", child.id()));
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn ctrl_c_ends_l2fwd_cleanly() {
    let (mut child, lines) = l2fwd_at_work();
    kill("INT", &format!("-{}", child.id()));
    let rest: Vec<String> = lines.lines().map_while(Result::ok).collect();
    assert!(ends(&mut child), "{rest:?}");
    let clean = |line: &String| line.contains("sink:") && line.contains(" 0 bad, 0 lost");
    assert!(rest.iter().any(clean), "{rest:?}");
}

#[test]
fn a_role_that_dies_ends_the_others() {
    for role in ["source", "forwarder", "sink"] {
        let (mut child, lines) = l2fwd_at_work();
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let Ok(children) = std::fs::read_to_string(children) else {
            kill("KILL", &format!("-{}", child.id()));
            let _ = child.wait();
            println!("skipped: this kernel does not list a process's children");
            return;
        };
        let is_it = |pid: &&str| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0)
                .any(|arg| arg == role.as_bytes())
        };
        let pid = children
            .split_whitespace()
            .find(is_it)
            .expect("it is there");
        kill("KILL", pid);
        let rest: Vec<String> = lines.lines().map_while(Result::ok).collect();
        assert!(!ends(&mut child), "{role}: {rest:?}");
    }
}
