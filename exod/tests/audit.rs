//! The audit trail of a real exod: what it says, that it survives, and what `exo log` makes of it.

#[path = "common/exo.rs"]
mod exo;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use exo::{Daemon, text, wait_until};
use libexo::Client;
use libexo::port::PortConfig;
use rustix::process::Signal;
use serde_json::Value;

const NOBODY: u32 = 65534;

fn daemon() -> Daemon {
    Daemon::with(true, "audit = \"DIR/trail\"\naudit_kept = 2\n")
}

fn trail(daemon: &Daemon) -> PathBuf {
    daemon.dir.path().join("trail")
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// Waits until some line of the trail is like that.
fn wait_for(path: &Path, what: &str, like: impl Fn(&Value) -> bool) {
    wait_until(what, || {
        let text = fs::read_to_string(path).unwrap_or_default();
        // The last line may be half written.
        text.lines()
            .any(|line| serde_json::from_str(line).is_ok_and(|line| like(&line)))
    });
}

/// Every number from the first to the last is there, or a line says how many are not.
fn assert_whole(lines: &[Value]) -> u64 {
    let (mut last, mut lost) = (0, 0);
    for line in lines {
        let seq = line["seq"].as_u64().expect("a number");
        let gap = if line["event"] == "lost" {
            line["lines"].as_u64().expect("it")
        } else {
            1
        };
        assert_eq!(seq, last + gap, "{line}");
        lost += if line["event"] == "lost" { gap } else { 0 };
        assert!(
            line["time_us"].as_u64().is_some_and(|at| at > 1 << 50),
            "{line}"
        );
        last = seq;
    }
    lost
}

/// What `exo log` shows, line by line.
fn log(daemon: &Daemon, args: &[&str]) -> Vec<Value> {
    let path = trail(daemon);
    let file = ["log", "--json", "--file", path.to_str().expect("a path")];
    let out = daemon.exo(&[&file[..], args].concat()).finish();
    assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    let text = text(&out.stdout);
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

fn is(line: &Value, event: &str) -> bool {
    line["event"] == event
}

#[test]
fn grants_refusals_losses_and_sessions_have_their_lines() {
    let daemon = daemon();
    let path = trail(&daemon);
    let pair = daemon.pair("traced", PortConfig::default());
    let domain = pair[0].0.session().domain;
    let holder = daemon.client();
    let denied = holder
        .port_peer(pair[0].1.handle())
        .expect_err("another domain's");
    assert!(denied.code().is_some());
    let watcher = daemon.client();
    let session_of = |domain| {
        let mut all = watcher.domains().map(|one| one.expect("listed"));
        all.find(|one| one.domain == domain).expect("it").session
    };
    let (session, holders) = (session_of(domain), session_of(holder.session().domain));
    // The survivor keeps its peer's memory until it is taken.
    let [one, two] = pair;
    drop(one);
    wait_for(&path, "the loss", |line| is(line, "loss"));
    drop((two, holder));
    wait_for(&path, "the end", |line| {
        is(line, "end") && line["session"] == holders
    });
    let all = lines(&path);
    assert_eq!(assert_whole(&all), 0);
    let has = |what: &str, like: &dyn Fn(&Value) -> bool| {
        assert!(all.iter().any(like), "{what}: {all:#?}");
    };
    let uid = rustix::process::getuid().as_raw();
    let mine = |line: &Value| {
        line["session"] == session
            && line["domain"] == domain
            && line["uid"] == uid
            && line["pid"] == std::process::id()
    };
    has("start", &|line| is(line, "start") && line["seq"] == 1);
    has("begin", &|line| {
        is(line, "begin") && mine(line) && line["comm"].is_string()
    });
    has("unit", &|line| {
        is(line, "grant") && mine(line) && line["op"] == "AllocUnit"
    });
    has("port", &|line| {
        let named = line["port"] == "traced" && line["handle"].is_u64();
        is(line, "grant") && mine(line) && line["op"] == "PortCreate" && named
    });
    has("peer", &|line| {
        is(line, "grant") && mine(line) && line["op"] == "PortPeer" && line["port"] == "traced"
    });
    has("left", &|line| {
        is(line, "left") && mine(line) && line["port"] == "traced"
    });
    has("refusal", &|line| {
        // Its hello was the first.
        let request = line["request"] == 2 && line["session"] == holders;
        is(line, "refusal") && request && line["code"] == "NoSuchHandle"
    });
    has("end", &|line| {
        is(line, "end") && mine(line) && line["why"] == "hung_up"
    });
    let ended = all
        .iter()
        .find(|line| is(line, "end") && line["session"] == holders);
    assert_eq!(ended.expect("it")["refused"], 1);
}

#[test]
fn numbers_go_on_over_restarts_and_a_crash_shows() {
    let mut daemon = daemon();
    let path = trail(&daemon);
    daemon.restart(Signal::TERM, |_| {
        assert!(is(lines(&path).last().expect("lines"), "stop"));
    });
    wait_for(&path, "a second start", |line| {
        is(line, "start") && line["seq"] != 1
    });
    daemon.restart(Signal::KILL, |_| {
        // As a crash in the middle of a line.
        let mut file = fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .expect("the trail");
        file.write_all(b"{\"seq\":7,\"time_us\":17")
            .expect("written");
    });
    let client = daemon.client();
    client.alloc_unit(1, None).expect("a unit");
    wait_for(&path, "the unit", |line| is(line, "grant"));
    let all = lines(&path);
    assert_eq!(assert_whole(&all), 1, "the torn line: {all:#?}");
    let starts: Vec<usize> = (0..all.len()).filter(|at| is(&all[*at], "start")).collect();
    let stops = all.iter().filter(|line| is(line, "stop")).count();
    assert_eq!((starts.len(), stops), (3, 1), "{all:#?}");
    assert!(is(&all[starts[1] - 1], "stop") && is(&all[starts[2] - 1], "lost"));
}

#[test]
fn log_shows_what_is_asked_for() {
    let daemon = daemon();
    let path = trail(&daemon);
    let [one, two] = daemon.pair("seen", PortConfig::default());
    let domain = one.0.session().domain;
    let _other = daemon.pair("other", PortConfig::default());
    wait_for(&path, "the last of it", |line| {
        line["port"] == "other" && line["op"] == "PortPeer"
    });
    let all = log(&daemon, &[]);
    assert_eq!(all, lines(&path)[..all.len()]);
    let ports = log(&daemon, &["--port", "seen"]);
    assert!(ports.len() >= 3 && ports.iter().all(|line| line["port"] == "seen"));
    let of_domain = log(&daemon, &["--domain", &domain.to_string()]);
    assert!(!of_domain.is_empty() && of_domain.iter().all(|line| line["domain"] == domain));
    let grants = log(&daemon, &["--event", "grant", "-n", "2"]);
    let expected: Vec<_> = all.iter().filter(|line| is(line, "grant")).collect();
    assert!(
        grants
            .iter()
            .eq(expected[expected.len() - 2..].iter().copied())
    );
    let session = of_domain[0]["session"].as_u64().expect("a session");
    let one_request = log(&daemon, &["--session", &format!("{session}.2")]);
    assert_eq!(one_request.len(), 1, "{one_request:?}");
    let uid = rustix::process::getuid().as_raw().to_string();
    assert!(!log(&daemon, &["--user", &uid]).is_empty());
    assert!(log(&daemon, &["--user", "4294967294"]).is_empty());
    assert_eq!(
        log(&daemon, &["--since", "1h"]).len(),
        log(&daemon, &[]).len()
    );
    assert!(log(&daemon, &["--since", "2100-01-01T00:00:00Z"]).is_empty());
    for bad in [
        ["--since", "yesterday"],
        ["--session", "x"],
        ["--user", "no such user"],
    ] {
        let file = path.to_str().expect("a path");
        let out = daemon
            .exo(&["log", "--file", file, bad[0], bad[1]])
            .finish();
        assert_eq!(out.status.code(), Some(1), "{bad:?}");
        assert!(text(&out.stderr).contains(bad[1]), "{}", text(&out.stderr));
    }
    drop((one, two));
}

#[test]
fn log_follows_also_over_a_file_that_is_set_aside() {
    let daemon = daemon();
    let path = trail(&daemon);
    wait_for(&path, "the start", |line| is(line, "start"));
    let file = path.to_str().expect("a path");
    let args = ["log", "-f", "--json", "--event", "grant", "--file", file];
    let mut exo = daemon.exo(&args);
    let child = exo.0.as_mut().expect("running");
    let mut said = BufReader::new(child.stdout.take().expect("piped"));
    let mut next = || {
        let mut line = String::new();
        assert!(said.read_line(&mut line).expect("text") > 0, "it ended");
        serde_json::from_str::<Value>(&line).expect("JSON")
    };
    let client = daemon.client();
    let first = client.alloc_unit(1, None).expect("a unit");
    assert_eq!(next()["handle"], first.handle);
    fs::rename(&path, path.with_extension("1")).expect("moved");
    let second = client.alloc_unit(1, None).expect("a unit");
    assert_eq!(next()["handle"], second.handle);
    exo.interrupt();
}

#[test]
fn a_trail_is_not_for_everybody() {
    let daemon = daemon();
    let path = trail(&daemon);
    wait_for(&path, "the start", |line| is(line, "start"));
    let mode = fs::metadata(&path).expect("it").permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    let missing = daemon
        .exo(&["log", "--file", "/nonexistent/trail"])
        .finish();
    assert_eq!(missing.status.code(), Some(1));
    assert!(
        text(&missing.stderr).contains("set `audit`"),
        "{}",
        text(&missing.stderr)
    );
    if !rustix::process::geteuid().is_root() {
        println!("skipped: no other user to be without root");
        return;
    }
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(daemon.dir.path(), open).expect("its mode");
    // Where only root may enter the build's directory, another user gets the program by a link.
    let program = fs::File::open(env!("CARGO_BIN_EXE_exo")).expect("the program");
    rustix::io::fcntl_setfd(&program, rustix::io::FdFlags::empty()).expect("kept");
    let number = std::os::fd::AsRawFd::as_raw_fd(&program);
    let out = Command::new(format!("/proc/self/fd/{number}"))
        .args(["log", "--file"])
        .arg(&path)
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .expect("exo");
    assert_eq!(out.status.code(), Some(1));
    assert!(
        text(&out.stderr).contains("usermod -aG"),
        "{}",
        text(&out.stderr)
    );
}

#[test]
fn a_trail_that_cannot_be_had_stops_exod_with_a_reason() {
    let daemon = daemon();
    let refused = |audit: &str, words: &str| {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("exod.toml"), format!("audit = {audit:?}\n")).expect("written");
        let out = exo::exod(&dir).output().expect("exod");
        assert_eq!(out.status.code(), Some(1), "{audit}");
        assert!(
            text(&out.stderr).contains(words),
            "{audit}: {}",
            text(&out.stderr)
        );
        assert!(!dir.path().join("sock").exists());
    };
    refused(
        trail(&daemon).to_str().expect("a path"),
        "another exod writes",
    );
    refused("/nonexistent/deep/trail", "make its directory");
    refused("/proc", "cannot open the audit trail");
}

/// A process that does not outlive a test that fails.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A disk that is full, and then is not: exod goes on all the while, and the trail says what it
/// lost.
#[test]
fn a_full_disk_costs_lines_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = dir.path().join("disk");
    fs::create_dir(&disk).expect("a directory");
    let uid = rustix::process::getuid().as_raw();
    let config = format!(
        "audit = \"{}/trail\"\n[[rule]]\nuser = {uid}\nmax_frames = 4\nmax_capabilities = 64\n",
        disk.display()
    );
    fs::write(dir.path().join("exod.toml"), config).expect("written");
    // In a mount namespace of its own, so that nothing is left whatever happens.
    let script = "mount -t tmpfs -o size=64k,mode=755 none \"$1\" && shift && exec \"$@\"";
    let child = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(&disk)
        .arg(env!("CARGO_BIN_EXE_exod"))
        .args(["--log", "warn", "--config"])
        .arg(dir.path().join("exod.toml"))
        .arg("--socket")
        .arg(dir.path().join("sock"))
        .stderr(Stdio::piped())
        .spawn()
        .expect("unshare");
    let mut child = Killed(child);
    let child = &mut child.0;
    let mut said = BufReader::new(child.stderr.take().expect("piped"));
    let socket = dir.path().join("sock");
    let mut ended = false;
    wait_until("exod listens", || {
        ended = child.try_wait().expect("it").is_some();
        ended || Client::connect(&socket).is_ok()
    });
    if ended {
        println!("skipped: no mount can be made here");
        return;
    }
    let inside = PathBuf::from(format!("/proc/{}/root{}", child.id(), disk.display()));
    let (path, ballast) = (inside.join("trail"), inside.join("ballast"));
    let client = Client::connect(&socket).expect("a session");
    // What was dropped is taken back by and by.
    let grant = || {
        let mut unit = None;
        wait_until("a unit", || {
            unit = client.alloc_unit(1, None).ok();
            unit.is_some()
        });
        let handle = unit.expect("a unit").handle;
        client.drop_handle(handle).expect("dropped");
    };
    grant();
    wait_for(&path, "the first grant", |line| is(line, "grant"));
    // Fill the disk, down to its last byte.
    let mut file = fs::File::create(&ballast).expect("a file");
    while file.write_all(&[1; 512]).is_ok() {}
    let until = |words: &str, said: &mut BufReader<_>| loop {
        let mut line = String::new();
        assert!(said.read_line(&mut line).expect("text") > 0, "exod ended");
        if line.contains(words) {
            break line;
        }
    };
    // Enough to fill the page that the trail has begun, and more.
    (0..100).for_each(|_| grant());
    let message = until("the audit trail loses lines", &mut said);
    assert!(message.contains("make room on its disk"), "{message}");
    grant();
    drop(file);
    fs::remove_file(&ballast).expect("removed");
    wait_until("the trail goes on", || {
        grant();
        fs::read_to_string(&path).is_ok_and(|text| text.contains("\"event\":\"lost\""))
    });
    until("the audit trail goes on", &mut said);
    // Before it ends, since its disk goes with it.
    let all = lines(&path);
    assert!(assert_whole(&all) > 0, "{all:#?}");
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, Signal::TERM).expect("a signal");
    assert!(child.wait().expect("its end").success());
}

#[test]
fn a_log_of_json_has_the_same_numbers_as_the_trail() {
    let dir = tempfile::tempdir().expect("a directory");
    let uid = rustix::process::getuid().as_raw();
    let path = dir.path().join("trail");
    let config = format!("audit = {path:?}\n[[rule]]\nuser = {uid}\nmax_frames = 4\n");
    fs::write(dir.path().join("exod.toml"), config).expect("written");
    let log = dir.path().join("log");
    let child = exo::exod(&dir)
        .args(["--log", "info", "--log-json"])
        .env_remove("JOURNAL_STREAM")
        .stderr(fs::File::create(&log).expect("a file"))
        .spawn();
    let mut child = Killed(child.expect("exod"));
    let socket = dir.path().join("sock");
    wait_until("exod listens", || Client::connect(&socket).is_ok());
    let client = Client::connect(&socket).expect("a session");
    let handle = client.alloc_unit(1, None).expect("a unit").handle;
    wait_for(&path, "the grant", |line| is(line, "grant"));
    exo::signal(&child.0, Signal::TERM);
    assert!(child.0.wait().expect("its end").success());
    let granted = |lines: Vec<Value>| {
        let mut found = lines.into_iter().filter(|line| line["handle"] == handle);
        let line = found.next().expect("a line about it");
        ["session", "request", "domain"].map(|key| line[key].as_u64().expect("a number"))
    };
    assert_eq!(granted(lines(&log)), granted(lines(&path)));
}
