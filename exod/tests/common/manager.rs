//! A service manager for tests: starts exod, hands it a socket, reads what it says.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};

use super::client::PATIENCE;

const NOBODY: u32 = 65534;

pub fn exod() -> Command {
    let mut exod = Command::new(env!("CARGO_BIN_EXE_exod"));
    quiet(&mut exod);
    exod
}

fn quiet(exod: &mut Command) {
    for name in [
        "JOURNAL_STREAM",
        "RUST_LOG",
        "WATCHDOG_USEC",
        "RUNTIME_DIRECTORY",
    ] {
        exod.env_remove(name);
    }
}

/// A running exod, its directory, and the manager's ear.
pub struct Service {
    pub child: Child,
    dir: tempfile::TempDir,
    ear: UnixDatagram,
}

impl Service {
    pub fn start(config: &str) -> Service {
        Service::started_with(config, |_| ())
    }

    pub fn started_with(config: &str, change: impl FnOnce(&mut Command)) -> Service {
        Service::spawn(config, exod(), Stdio::null(), change)
    }

    /// Started for a socket, of which `LISTEN_FDS` says that there are so many.
    pub fn activated(socket: OwnedFd, count: &str, config: &str) -> Service {
        // The shell knows the number that its successor will have.
        let mut shell = Command::new("sh");
        let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ exec \"$0\" \"$@\"";
        shell.args(["-c", script, env!("CARGO_BIN_EXE_exod")]);
        quiet(&mut shell);
        Service::spawn(config, shell, socket.into(), |exod| {
            exod.env("LISTEN_FDS", count).env_remove("LISTEN_FDNAMES");
        })
    }

    fn spawn(
        config: &str,
        mut exod: Command,
        stdin: Stdio,
        change: impl FnOnce(&mut Command),
    ) -> Service {
        let dir = tempfile::tempdir().expect("a directory");
        let ear = UnixDatagram::bind(dir.path().join("notify")).expect("a socket");
        std::fs::create_dir(dir.path().join("records")).expect("a directory");
        std::fs::write(dir.path().join("exod.toml"), config).expect("written");
        // Also for a test that runs exod as another user.
        for name in ["", "notify", "exod.toml", "records"] {
            let open = std::fs::Permissions::from_mode(0o777);
            std::fs::set_permissions(dir.path().join(name), open).expect("its mode");
        }
        exod.arg("--config")
            .arg(dir.path().join("exod.toml"))
            .arg("--socket")
            .arg(dir.path().join("exod.sock"))
            .env("NOTIFY_SOCKET", dir.path().join("notify"))
            .env("RUNTIME_DIRECTORY", dir.path().join("records"))
            .stdin(stdin)
            .stderr(File::create(dir.path().join("log")).expect("a log"));
        change(&mut exod);
        let child = exod.spawn().expect("exod");
        Service { child, dir, ear }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("exod.sock")
    }

    pub fn records(&self) -> PathBuf {
        self.dir.path().join("records")
    }

    pub fn try_hear(&self, patience: Duration) -> Option<String> {
        let patience = patience.max(Duration::from_micros(1));
        self.ear
            .set_read_timeout(Some(patience))
            .expect("a timeout");
        let mut bytes = [0; 4096];
        let len = self.ear.recv(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..len]).into_owned())
    }

    /// The next message that has this in it.
    pub fn hear(&self, word: &str) -> String {
        let mut heard = Vec::new();
        while let Some(message) = self.try_hear(PATIENCE) {
            if message.contains(word) {
                return message;
            }
            heard.push(message);
        }
        panic!("no {word}: {heard:?}\n{}", self.log());
    }

    pub fn reload(&self, config: &str) {
        let (new, path) = (
            self.dir.path().join("new"),
            self.dir.path().join("exod.toml"),
        );
        std::fs::write(&new, config).expect("written");
        std::fs::rename(new, path).expect("in place");
        self.signal(Signal::SIGHUP);
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("a signal");
    }

    pub fn kill(&mut self, signal: Signal) {
        self.signal(signal);
        self.child.wait().expect("its end");
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).expect("the log")
    }

    /// How it ends by itself, and its log.
    pub fn end(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().expect("its end");
        (status.code(), self.log())
    }

    /// Stops it: nothing is left. Its log.
    pub fn stop(mut self) -> String {
        self.signal(Signal::SIGTERM);
        self.hear("STOPPING=1");
        let log = self.log();
        assert!(self.child.wait().expect("its end").success(), "{log}");
        let log = self.log();
        assert!(log.contains("stopped"), "{log}");
        assert!(!self.socket().exists());
        let records = std::fs::read_dir(self.records()).expect("the directory");
        assert_eq!(records.count(), 0, "records are left");
        log
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // What a test that failed would leave on the machine.
        let mut put_back = exod();
        put_back
            .arg("--put-back")
            .env("RUNTIME_DIRECTORY", self.records());
        let _ = put_back.stderr(Stdio::null()).status();
    }
}

/// A socket such as exod's, at a file that only its user may write.
pub fn seqpacket(path: &Path, listens: bool) -> OwnedFd {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None).expect("a socket");
    bind(socket.as_fd(), &SocketAddrUnix::new(path).expect("short")).expect("bound");
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o660)).expect("its mode");
    if listens {
        listen(&socket, 8).expect("listening");
    }
    socket
}

/// A number of a file such as `/proc/PID/status`.
pub fn field(path: &Path, name: &str) -> u64 {
    let text = std::fs::read_to_string(path).expect("a file of /proc");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|n| n.parse().ok()).expect("a number")
}

/// The program may lie where only root looks: as root, nobody gets it by an open descriptor.
pub fn as_nobody(exod: &mut Command) {
    exod.uid(NOBODY).gid(NOBODY);
}
