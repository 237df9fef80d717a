//! `exo top` on a terminal and off it, and `exo doctor` with and without an exod.

#[path = "common/exo.rs"]
mod exo;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use exo::{Daemon, signal, text, wait_until};
use libexo::port::PortConfig;
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::Value;

const NOBODY: u32 = 65534;

#[test]
fn frames_show_who_is_there_and_what_passes() {
    let daemon = Daemon::start(true);
    let [mut one, mut two] = daemon.pair("watched", PortConfig::default());
    let exo = daemon.exo(&["top", "--json", "-i", "0.3", "-n", "2"]);
    // Between its looks something passes.
    let mut sent = 0;
    let end = Instant::now() + Duration::from_millis(700);
    while Instant::now() < end {
        sent += one
            .1
            .send_with(1, 60, |_, bytes| bytes.fill(1))
            .expect("sent") as u64;
        while !two.1.receive_burst(64).expect("received").is_empty() {}
        two.1.flush().expect("returned");
        std::thread::sleep(Duration::from_millis(1));
    }
    let out = exo.finish();
    assert!(out.status.success(), "{}", text(&out.stderr));
    let lines = text(&out.stdout);
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 2);
    let port = &lines[1]["ports"][0];
    assert_eq!(
        (&port["name"], &port["tapped"]),
        (&"watched".into(), &false.into())
    );
    let rate = port["sent_per_s"][0].as_f64().expect("a number");
    let counted = port["sent"][0].as_u64().expect("a number");
    assert!(counted > 0 && counted <= sent && rate > 0.0, "{port}");
    assert_eq!(port["sent"][1], 0);
    let domains = lines[1]["domains"].as_array().expect("domains");
    let pid = std::process::id();
    assert_eq!(domains.len(), 2, "not exo itself: {domains:?}");
    assert!(
        domains
            .iter()
            .all(|domain| domain["pid"] == pid && domain["frames"] == 1)
    );

    let out = daemon.exo(&["top", "--once", "-i", "0.05"]).finish();
    assert!(out.status.success(), "{}", text(&out.stderr));
    let frame = text(&out.stdout);
    for words in [
        "2 domains",
        "domains (2)",
        "ports (1)",
        "watched",
        "linked",
        &pid.to_string(),
    ] {
        assert!(frame.contains(words), "{words}: {frame}");
    }
    assert!(!frame.contains('\u{1b}') && frame.lines().all(|line| line.chars().count() <= 100));
    for bad in ["0", "-1", "x", "1e9"] {
        let interval = format!("--interval={bad}");
        let out = daemon.exo(&["top", "--once", &interval]).finish();
        assert_eq!(out.status.code(), Some(2), "{bad}");
    }
}

/// A terminal with a program in it.
struct Terminal {
    ours: File,
    theirs: OwnedFd,
}

impl Terminal {
    fn new() -> Terminal {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&ours).expect("ours");
        unlockpt(&ours).expect("ours");
        let name = ptsname(&ours, Vec::new()).expect("its name");
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
        let theirs = rustix::fs::open(&name, flags, rustix::fs::Mode::empty()).expect("it");
        let size = Winsize {
            ws_row: 30,
            ws_col: 100,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&theirs, size).expect("a size");
        Terminal {
            ours: File::from(ours),
            theirs,
        }
    }

    fn run(&self, daemon: &Daemon) -> Child {
        let end = || self.theirs.try_clone().expect("another one");
        Command::new(env!("CARGO_BIN_EXE_exo"))
            .args(["top", "-i", "0.1"])
            .env("EXO_SOCKET", daemon.socket())
            .env("TERM", "xterm")
            .stdin(end())
            .stdout(end())
            .stderr(Stdio::null())
            .spawn()
            .expect("exo")
    }

    fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.theirs).expect("its modes").local_modes;
        !modes.contains(LocalModes::ICANON)
    }

    /// Reads until these words came.
    fn until(&mut self, words: &str) {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(words) {
            let mut part = [0; 4096];
            let count = self.ours.read(&mut part).expect("output");
            seen.extend_from_slice(&part[..count]);
        }
    }
}

#[test]
fn the_terminal_is_put_back_however_it_ends() {
    /// Leave the other screen, show the cursor.
    const BACK: &str = "\u{1b}[?1049l";
    let daemon = Daemon::start(true);
    type End = dyn Fn(&mut Terminal, &Child);
    let ends: [&End; 5] = [
        &|terminal, _| terminal.ours.write_all(b"s\tr q").expect("a key"),
        &|terminal, _| terminal.ours.write_all(b"\x03").expect("Ctrl-C"),
        &|_, exo| signal(exo, Signal::TERM),
        &|_, exo| signal(exo, Signal::HUP),
        &|_, exo| {
            signal(exo, Signal::INT);
            signal(exo, Signal::INT);
        },
    ];
    for (number, end) in ends.into_iter().enumerate() {
        let mut terminal = Terminal::new();
        let mut exo = terminal.run(&daemon);
        terminal.until("q end");
        assert!(terminal.is_raw(), "{number}");
        end(&mut terminal, &exo);
        terminal.until(BACK);
        let code = exo.wait().expect("its end").code();
        assert_eq!(code, Some(0), "{number}");
        assert!(!terminal.is_raw(), "{number}");
    }
    // And when exod goes away under it.
    let mut terminal = Terminal::new();
    let mut exo = terminal.run(&daemon);
    terminal.until("q end");
    drop(daemon);
    terminal.until(BACK);
    assert_eq!(exo.wait().expect("its end").code(), Some(1));
    assert!(!terminal.is_raw());
}

fn doctor(socket: &str, args: &[&str], other_user: bool) -> Output {
    // Where only root may enter the build's directory, another user gets the program by a link.
    let program = File::open(env!("CARGO_BIN_EXE_exo")).expect("the program");
    rustix::io::fcntl_setfd(&program, rustix::io::FdFlags::empty()).expect("kept");
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command.arg("doctor").args(args).env("EXO_SOCKET", socket);
    if other_user {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.output().expect("exo")
}

fn findings(out: &Output) -> Vec<Value> {
    let text = text(&out.stdout);
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

#[test]
fn doctor_works_without_exod_and_without_root() {
    for other_user in [false, rustix::process::geteuid().is_root()] {
        let out = doctor("/nonexistent/sock", &["--json"], other_user);
        let all = findings(&out);
        let finding = |name: &str| {
            let mut found = all.iter().filter(|finding| finding["name"] == name);
            found
                .next()
                .unwrap_or_else(|| panic!("no {name}: {all:#?}"))
        };
        for name in [
            "version",
            "Landlock",
            "io_uring",
            "XDP",
            "BTF",
            "IOMMU",
            "VFIO",
            "userfaultfd",
            "cgroups",
            "controllers",
            "pages",
            "hugepages 2M",
            "hugepages 1G",
            "transparent",
            "descriptors",
            "locked memory",
            "isolated",
            "frequency",
            "mitigations",
            "daemon",
        ] {
            assert!(finding(name)["found"].is_string());
        }
        assert_eq!(finding("daemon")["level"], "look");
        let needs = all
            .iter()
            .filter(|finding| finding["level"] == "need")
            .count();
        let code = if needs == 0 { 0 } else { 3 };
        assert_eq!(out.status.code(), Some(code), "{all:#?}");
        let unfixed = |finding: &&Value| {
            let bad = finding["level"] == "look" || finding["level"] == "need";
            bad != finding["fix"].is_string()
        };
        assert!(all.iter().find(unfixed).is_none(), "{all:#?}");
        // Without exod there is something to look at.
        let strict = doctor("/nonexistent/sock", &["--strict"], other_user);
        assert_eq!(strict.status.code(), Some(3));
        assert!(text(&strict.stdout).contains("fix: systemctl start exod"));
        assert!(!text(&strict.stdout).contains('\u{1b}'));
    }
}

#[test]
fn doctor_tells_an_exod_that_answers_from_one_that_does_not() {
    let daemon = Daemon::start(false);
    let socket = daemon.socket();
    let socket = socket.to_str().expect("a path");
    let of_daemon = |out: &Output| {
        let all = findings(out);
        let mut found = all
            .into_iter()
            .filter(|finding| finding["name"] == "daemon");
        found.next().expect("it was looked at")
    };
    let out = doctor(socket, &["--json"], false);
    assert_eq!(of_daemon(&out)["level"], "ok", "no admin is needed");
    signal(&daemon.child, Signal::STOP);
    let out = doctor(socket, &["--json"], false);
    signal(&daemon.child, Signal::CONT);
    assert_eq!(of_daemon(&out)["level"], "need");
    assert_eq!(out.status.code(), Some(3));
    if rustix::process::geteuid().is_root() {
        let out = doctor(socket, &["--json"], true);
        assert_eq!(
            of_daemon(&out)["level"],
            "need",
            "the socket is not for everybody"
        );
    }
}

/// What was promised, as the best of some runs: others may be busy.
#[test]
fn status_and_doctor_are_quick() {
    let daemon = Daemon::start(true);
    wait_until("both", || {
        let best = |args: &[&str]| {
            let runs = (0..5).map(|_| {
                let began = Instant::now();
                assert_eq!(daemon.exo(args).finish().status.code(), Some(0));
                began.elapsed()
            });
            runs.min().expect("some runs")
        };
        let (status, doctor) = (best(&["status"]), best(&["doctor"]));
        println!("status {status:?}, doctor {doctor:?}");
        status < Duration::from_millis(20) && doctor < Duration::from_millis(200)
    });
}
