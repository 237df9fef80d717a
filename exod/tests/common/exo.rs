//! A daemon of one's own, and `exo` against it.

#![allow(dead_code)] // Each test file uses its part.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use libexo::Client;
use libexo::port::{Port, PortConfig};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub const SOON: Duration = Duration::from_secs(20);

/// A daemon of our own, stopped and gone when dropped.
pub struct Daemon {
    pub child: Child,
    pub dir: TempDir,
}

impl Daemon {
    pub fn start(admin: bool) -> Daemon {
        Daemon::with(admin, "")
    }

    /// With more keys in its configuration; `DIR` stands for its directory. On small pages, since
    /// others may use up the hugepages, and a tap without frames is waited for.
    pub fn with(admin: bool, more: &str) -> Daemon {
        let dir = tempfile::tempdir().expect("a directory");
        let more = more.replace("DIR", dir.path().to_str().expect("a path"));
        let uid = rustix::process::getuid().as_raw();
        let config = dir.path().join("exod.toml");
        let rule = format!(
            "{more}\n[pool]\npages = \"4K\"\n[[rule]]\nuser = {uid}\nmax_frames = 32\nmax_capabilities = 64\nmax_ports = 16\n\
             create = [\"*\"]\njoin = [\"*\"]\nadmin = {admin}\n"
        );
        std::fs::write(&config, rule).expect("a file");
        let child = exod(&dir).spawn().expect("exod starts");
        let daemon = Daemon { child, dir };
        daemon.wait_for_it();
        daemon
    }

    fn wait_for_it(&self) {
        wait_until("exod listens", || Client::connect(self.socket()).is_ok());
    }

    /// Ends it so, and starts it anew after `meanwhile`.
    pub fn restart(&mut self, how: Signal, meanwhile: impl FnOnce(&Daemon)) {
        signal(&self.child, how);
        self.child.wait().expect("it ends");
        meanwhile(self);
        self.child = exod(&self.dir).spawn().expect("exod starts");
        self.wait_for_it();
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    pub fn file(&self) -> PathBuf {
        self.dir.path().join("out.pcapng")
    }

    pub fn client(&self) -> Client {
        Client::connect(self.socket()).expect("a session")
    }

    pub fn exo(&self, args: &[&str]) -> Exo {
        let child = Command::new(env!("CARGO_BIN_EXE_exo"))
            .args(args)
            .env("EXO_SOCKET", self.socket())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("exo starts");
        Exo(Some(child))
    }

    /// Both sides of a port, in this thread.
    pub fn pair(&self, name: &str, config: PortConfig) -> [(Client, Port); 2] {
        let (one, two) = (self.client(), self.client());
        let mut waiting = Port::create(&one, name, config).expect("created");
        let joined = Port::join(&two, name, config).expect("joined");
        let created = waiting.try_ready().expect("no error").expect("joined");
        [(one, created), (two, joined)]
    }
}

/// The command that starts an exod in a directory with its configuration.
pub fn exod(dir: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_exod"));
    command
        .env("RUST_LOG", "warn")
        .arg("--config")
        .arg(dir.path().join("exod.toml"))
        .arg("--socket")
        .arg(dir.path().join("sock"));
    command
}

impl Drop for Daemon {
    fn drop(&mut self) {
        signal(&self.child, Signal::TERM);
        let _ = self.child.wait();
    }
}

/// A running `exo`, killed if a test fails before its end.
pub struct Exo(pub Option<Child>);

impl Exo {
    pub fn signal(&self, what: Signal) {
        signal(self.0.as_ref().expect("running"), what);
    }

    pub fn finish(mut self) -> Output {
        let child = self.0.take().expect("running");
        child.wait_with_output().expect("exo ends")
    }

    /// Ctrl-C, and a clean end.
    pub fn interrupt(self) -> (String, String) {
        self.signal(Signal::INT);
        let out = self.finish();
        let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
        assert!(out.status.success(), "{:?}: {stderr}", out.status);
        (stdout, stderr)
    }
}

impl Drop for Exo {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn signal(child: &Child, what: Signal) {
    let _ = kill_process(Pid::from_child(child), what);
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    const TURN: Duration = Duration::from_millis(2);
    // Turns are counted, not time: these processes may be stopped for a while.
    for _ in 0..SOON.as_millis() / TURN.as_millis() {
        if done() {
            return;
        }
        std::thread::sleep(TURN);
    }
    panic!("{what}: not in time");
}
