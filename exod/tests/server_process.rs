//! exod as a process, and clients as processes that are killed: identity, signals, leftovers.
//!
//! A client process is this test binary again, running [`client_process`] in the role that
//! [`ROLE`] names, against the socket that [`SOCKET`] names.

#[path = "common/client.rs"]
mod client;

use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::assert::OutputAssertExt;
use client::{Client, PATIENCE};
use libexo::abi::wire::{ErrorCode, Op, StatsPage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::io::{FdFlags, fcntl_setfd};

const ROLE: &str = "EXO_TEST_ROLE";
const SOCKET: &str = "EXO_TEST_SOCKET";
const NOBODY: u32 = 65534;

/// A running exod in a directory of its own.
struct Daemon {
    child: Child,
    dir: tempfile::TempDir,
}

fn exod() -> Command {
    Command::new(env!("CARGO_BIN_EXE_exod"))
}

impl Daemon {
    fn start(more_rules: &str) -> Daemon {
        let dir = tempfile::tempdir().expect("a directory");
        // Other users pass through; the socket's own mode decides.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).expect("its mode");
        let uid = rustix::process::geteuid().as_raw();
        let group = if uid == 0 {
            NOBODY
        } else {
            rustix::process::getegid().as_raw()
        };
        let config = format!(
            "group = {group}\ngive_back_ms = 100\n[pool]\npages = \"4K\"\n{more_rules}\n\
             [[rule]]\nuser = {uid}\nmax_frames = 64\nmax_ports = 64\nmax_capabilities = 1000\n\
             create = [\"*\"]\njoin = [\"*\"]\nadmin = true\n"
        );
        std::fs::write(dir.path().join("exod.toml"), config).expect("written");
        let child = exod()
            .arg("--config")
            .arg(dir.path().join("exod.toml"))
            .arg("--socket")
            .arg(dir.path().join("exod.sock"))
            .env("RUST_LOG", "warn")
            .env_remove("JOURNAL_STREAM")
            .spawn()
            .expect("exod");
        let daemon = Daemon { child, dir };
        let end = Instant::now() + PATIENCE;
        while Client::at(&daemon.socket()).is_err() {
            assert!(Instant::now() < end, "exod does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        daemon
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("exod.sock")
    }

    fn connect(&self) -> Client {
        let mut client = Client::at(&self.socket()).expect("a connection");
        client.hello();
        client
    }

    /// A session that watches, and what it sees while nothing happens.
    fn watch(&self) -> (Client, [u64; 6], [u64; 6]) {
        let mut watch = self.connect();
        let mut work = watch.stats(StatsPage::Work);
        while work[0] != 1 || work[2] != 0 || work[3] != 0 {
            std::thread::sleep(Duration::from_millis(2));
            work = watch.stats(StatsPage::Work);
        }
        let ledger = watch.stats(StatsPage::Ledger);
        (watch, ledger, work)
    }

    /// Another process in a role.
    fn client(&self, role: &str) -> Child {
        Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "client_process", "--nocapture"])
            .env(ROLE, role)
            .env(SOCKET, self.socket())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a client process")
    }

    fn stop(mut self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("a signal");
        assert!(self.child.wait().expect("its end").success());
        let left: Vec<_> = std::fs::read_dir(self.dir.path())
            .expect("the directory")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        assert_eq!(left, ["exod.toml"]);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The number that a client process says after `word`, and the rest of what it will say.
fn told(child: &mut Child, word: &str) -> (i32, BufReader<ChildStdout>) {
    let mut said = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    while said.read_line(&mut line).expect("text") > 0 {
        if let Some(at) = line.find(word) {
            let number = line[at + word.len()..].trim().parse();
            return (number.expect("a number"), said);
        }
        line.clear();
    }
    panic!("the client ended without saying {word}");
}

/// Not a test of its own: what a client process does.
#[test]
fn client_process() {
    let (Ok(role), Ok(socket)) = (std::env::var(ROLE), std::env::var(SOCKET)) else {
        return;
    };
    let socket = Path::new(&socket);
    match role.as_str() {
        "holder" => be_holder(socket),
        "storm" => be_storm(socket),
        "nobody" => be_nobody(socket),
        other => panic!("no role {other}"),
    }
}

/// Holds a port and memory, and leaves a child that has them all open, then waits to be killed.
fn be_holder(socket: &Path) {
    let mut client = Client::at(socket).expect("a connection");
    client.hello();
    let (unit, fd) = client.alloc(2);
    assert_eq!(client.create(unit, "held", 0).error(), None);
    for fd in [&client.socket, &fd] {
        fcntl_setfd(fd, FdFlags::empty()).expect("inherited");
    }
    let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
    println!("accomplice {}", child.id());
    let _ = child.wait();
}

/// Requests of every kind without end.
fn be_storm(socket: &Path) {
    let mut client = Client::at(socket).expect("a connection");
    client.hello();
    println!("storming 1");
    let name = format!("storm-{}", std::process::id());
    loop {
        let mut pieces = Vec::new();
        for frames in [1, 3] {
            pieces.push(alloc_when_there(&mut client, frames));
        }
        let port = client.create(pieces[0].0, &name, 0).reply.handle;
        client.ok(Op::PortAttach, port, [pieces[1].0, 0, 0, 0, 0, 0]);
        let joined = client.join(pieces[1].0, &name, 0).reply.handle;
        client.ok(Op::PortSegment, joined, [1, 0, 0, 0, 0, 0]);
        client.ok(Op::PortLeave, port, [0; 6]);
        client.ok(Op::PortLeave, joined, [0; 6]);
        for (unit, _fd) in pieces {
            client.ok(Op::Drop, unit, [0; 6]);
        }
    }
}

/// Memory, as soon as the quota has it: what was dropped comes back in the background, and what
/// the storms before this one held, too.
fn alloc_when_there(client: &mut Client, frames: u64) -> (u64, OwnedFd) {
    loop {
        let mut got = client.call(Op::AllocUnit, 0, [frames, 0, 0, 0, 0, 0]);
        match got.error() {
            None => return (got.reply.handle, got.fds.pop_front().expect("the unit")),
            Some(ErrorCode::Quota) => std::thread::sleep(Duration::from_millis(1)),
            Some(error) => panic!("{error}"),
        }
    }
}

/// Another user, with a small grant.
fn be_nobody(socket: &Path) {
    nix::unistd::setgroups(&[]).expect("no groups");
    nix::unistd::setgid(NOBODY.into()).expect("another group");
    nix::unistd::setuid(NOBODY.into()).expect("another user");
    let mut client = Client::at(socket).expect("a connection");
    client.hello();
    let over = client.refused(Op::AllocUnit, 0, [2, 0, 0, 0, 0, 0]);
    assert_eq!(over, Some(ErrorCode::Quota));
    assert_eq!(
        client.refused(Op::Stats, 0, [0; 6]),
        Some(ErrorCode::Denied)
    );
    let (unit, _fd) = client.alloc(1);
    client.ok(Op::Inspect, unit, [0; 6]);
    // The status table stays exod's, also by way of its name.
    let table = client.status.as_ref().expect("said hello").as_raw_fd();
    let again = std::fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/self/fd/{table}"));
    assert!(again.is_err());
    println!("fine {}", i32::from(unit != 0));
}

#[test]
fn a_killed_client_is_reclaimed_whoever_else_holds_its_socket() {
    let exod = Daemon::start("");
    let (mut watch, ledger, work) = exod.watch();
    let mut holder = exod.client("holder");
    let accomplice = Pid::from_raw(told(&mut holder, "accomplice ").0);
    assert!(watch.stats(StatsPage::Ledger)[4] >= 2);
    let (unit, fd) = watch.alloc(1);
    let joined = watch.join(unit, "held", 0);
    assert_eq!(joined.error(), None);
    holder.kill().expect("killed");
    holder.wait().expect("its end");
    // The process ended: the session does, though the accomplice has its socket.
    let port = joined.reply.handle;
    watch.wait_status(port, libexo::abi::status::Status::PEER_GONE);
    watch.wait_status(joined.reply.vals[5], libexo::abi::status::Status::LOST);
    let work_now = watch.stats(StatsPage::Work);
    assert_eq!(work_now[0], work[0], "sessions");
    // What the accomplice holds open is broken and charged until it lets go.
    kill(accomplice, Signal::SIGKILL).expect("killed");
    watch.ok(Op::PortLeave, port, [0; 6]);
    watch.ok(Op::Drop, unit, [0; 6]);
    drop((fd, joined));
    watch.wait_for(ledger, work);
    drop(watch);
    exod.stop(Signal::SIGTERM);
}

#[test]
fn the_ledger_balances_after_any_number_of_kills() {
    const KILLS: u64 = 25;
    let exod = Daemon::start("");
    let (mut watch, ledger, work) = exod.watch();
    let mut rng = fastrand::Rng::with_seed(9);
    for _ in 0..KILLS {
        let mut storms = [exod.client("storm"), exod.client("storm")];
        for storm in &mut storms {
            told(storm, "storming ");
        }
        std::thread::sleep(Duration::from_micros(rng.u64(..20_000)));
        for storm in &mut storms {
            storm.kill().expect("killed");
            storm.wait().expect("its end");
        }
        watch.ok(Op::Ping, 0, [0; 6]);
    }
    watch.wait_for(ledger, work);
    drop(watch);
    exod.stop(Signal::SIGINT);
}

#[test]
fn another_user_gets_what_its_rule_says() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: being another user takes root");
        return;
    }
    let exod = Daemon::start("[[rule]]\nuser = 65534\nmax_frames = 1");
    let (mut watch, ledger, work) = exod.watch();
    let mut nobody = exod.client("nobody");
    let (fine, mut rest) = told(&mut nobody, "fine ");
    assert_eq!(fine, 1);
    std::io::copy(&mut rest, &mut std::io::sink()).expect("its output");
    assert!(nobody.wait().expect("its end").success());
    watch.wait_for(ledger, work);
    drop(watch);
    exod.stop(Signal::SIGTERM);
}

/// What systemd reads: readiness and the stop; and what an auditor reads.
#[test]
fn systemd_and_the_auditor_are_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let (config, log) = (dir.path().join("exod.toml"), dir.path().join("log"));
    let uid = rustix::process::geteuid().as_raw();
    let text = format!("[pool]\npages = \"4K\"\n[[rule]]\nuser = {uid}\nmax_frames = 1");
    std::fs::write(&config, text).expect("written");
    let notified = UnixDatagram::bind(dir.path().join("notify")).expect("a socket");
    notified
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout");
    let hear = || {
        let mut bytes = [0; 256];
        let len = notified.recv(&mut bytes).expect("a notification");
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    };
    let mut child = exod()
        .arg("--config")
        .arg(&config)
        .arg("--socket")
        .arg(dir.path().join("exod.sock"))
        .env("NOTIFY_SOCKET", dir.path().join("notify"))
        .env_remove("JOURNAL_STREAM")
        .env_remove("RUST_LOG")
        .stderr(std::fs::File::create(&log).expect("a log"))
        .spawn()
        .expect("exod");
    assert!(hear().contains("READY=1"));
    // Ready means that a connection is taken at once.
    let mut client = Client::at(&dir.path().join("exod.sock")).expect("a connection");
    client.hello();
    let (_unit, _fd) = client.alloc(1);
    assert_eq!(
        client.refused(Op::Stats, 0, [0; 6]),
        Some(ErrorCode::Denied)
    );
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("a signal");
    // Lines of status may come before.
    while !hear().contains("STOPPING=1") {}
    assert!(child.wait().expect("its end").success());
    let log = std::fs::read_to_string(log).expect("the log");
    for line in [
        "ready",
        "granted",
        "refused",
        "taken back",
        "session ended",
        "stopped",
    ] {
        assert!(log.contains(line), "{line}: {log}");
    }
}

#[test]
fn a_socket_is_narrow_and_a_second_exod_gives_way() {
    let first = Daemon::start("");
    let mode = std::fs::metadata(first.socket())
        .expect("the socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
    let config = first.dir.path().join("exod.toml");
    let second = exod()
        .arg("--config")
        .arg(config)
        .arg("--socket")
        .arg(first.socket())
        .output();
    let text = second
        .expect("its output")
        .assert()
        .code(1)
        .get_output()
        .stderr
        .clone();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(text.contains("another exod answers"), "{text}");
    first.connect().ok(Op::Ping, 0, [0; 6]);
    first.stop(Signal::SIGTERM);
}

#[test]
fn a_stale_socket_of_a_killed_exod_is_replaced() {
    let mut first = Daemon::start("");
    first.child.kill().expect("killed");
    first.child.wait().expect("its end");
    assert!(first.socket().exists());
    let mut second = exod()
        .arg("--config")
        .arg(first.dir.path().join("exod.toml"))
        .arg("--socket")
        .arg(first.socket())
        .env("RUST_LOG", "warn")
        .spawn()
        .expect("exod");
    let end = Instant::now() + PATIENCE;
    while Client::at(&first.socket()).is_err() {
        assert!(Instant::now() < end, "it does not listen");
        std::thread::sleep(Duration::from_millis(5));
    }
    kill(Pid::from_raw(second.id() as i32), Signal::SIGTERM).expect("a signal");
    assert!(second.wait().expect("its end").success());
    assert!(!first.socket().exists());
}

#[test]
fn the_command_line_teaches() {
    let help = exod().arg("--help").output().expect("help");
    let help = String::from_utf8_lossy(&help.assert().success().get_output().stdout).into_owned();
    for word in [
        "--config",
        "--socket",
        "--check-config",
        "First steps",
        "Exit codes",
    ] {
        assert!(help.contains(word), "{word}");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("exod.toml");
    let check = || {
        let output = exod()
            .arg("--check-config")
            .arg("--config")
            .arg(&path)
            .output();
        output.expect("its output").assert()
    };
    let missing = check().code(3).get_output().stderr.clone();
    assert!(String::from_utf8_lossy(&missing).contains("cannot read"));
    std::fs::write(&path, "workers = 2\nworker = 3\n").expect("written");
    let wrong = check().code(3).get_output().stderr.clone();
    assert!(String::from_utf8_lossy(&wrong).contains("line 2"));
    std::fs::write(&path, "workers = 2\n").expect("written");
    check().success();
    exod()
        .arg("--nonsense")
        .output()
        .expect("its output")
        .assert()
        .code(2);
}
