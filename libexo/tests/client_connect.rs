//! Finding exod: paths, inherited sockets, what is said when there is none, and signals meanwhile.

#[allow(dead_code)]
mod liar;

use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use liar::Liar;
use libexo::abi::wire::Reply;
use libexo::{Client, Error};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
};

/// A directory of our own that goes away again.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("libexo-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).expect("a directory");
        Directory(path)
    }

    /// A listening socket in it.
    fn listener(&self) -> (OwnedFd, PathBuf) {
        let path = self.0.join("exod.sock");
        let address = SocketAddrUnix::new(&path).expect("a short path");
        let kind = SocketType::SEQPACKET;
        let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
        let socket = socket.expect("a socket");
        bind(&socket, &address).expect("a name");
        listen(&socket, 4).expect("a queue");
        (socket, path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Accepts one client, greets it and answers one ping.
fn serve_one(listener: &OwnedFd) {
    let socket = accept_with(listener, SocketFlags::CLOEXEC).expect("a client");
    serve(&Liar::on(socket));
}

fn serve(liar: &Liar) {
    liar.greet();
    let ping = liar.request().expect("a ping");
    liar.answer(&ping, Reply::default(), &[]);
}

#[test]
fn a_client_connects_to_a_path() {
    let directory = Directory::new("path");
    let (listener, path) = directory.listener();
    thread::scope(|scope| {
        scope.spawn(|| serve_one(&listener));
        let exod = Client::connect(&path).expect("somebody listens");
        exod.clone().ping().expect("an answer");
    });
}

#[test]
fn what_cannot_be_reached_says_why_and_what_to_do() {
    let directory = Directory::new("unreachable");
    let (listener, path) = directory.listener();
    let told = |path: &Path| {
        let error = Client::connect(path).expect_err("nobody listens");
        assert!(matches!(error, Error::Connect { .. }));
        error.to_string()
    };
    let missing = told(&directory.0.join("none.sock"));
    assert!(
        missing.contains("none.sock") && missing.contains("systemctl start exod"),
        "{missing}"
    );
    drop(listener);
    let dead = told(&path);
    assert!(dead.contains("is exod running?"), "{dead}");
    let file = directory.0.join("file");
    std::fs::write(&file, "").expect("a file");
    assert!(told(&file).contains("is exod running?"));
    let stream = directory.0.join("stream.sock");
    let _other = std::os::unix::net::UnixListener::bind(&stream).expect("a name");
    let stream = told(&stream);
    assert!(stream.contains("SOCK_SEQPACKET"), "{stream}");
    let long = told(Path::new(&"x".repeat(200)));
    assert!(long.contains("xxx"), "{long}");
}

/// Runs `test` again as a child with this environment, which connects and pings, or tells why not.
fn child(test: &str, variable: &str, value: &str) -> Output {
    let mut child = Command::new(std::env::current_exe().expect("our own path"));
    child.args(["--exact", test, "--nocapture"]);
    child.env_remove("EXO_SOCKET").env_remove("EXO_SOCKET_FD");
    child.env(CHILD, "1").env(variable, value);
    child.output().expect("a child")
}

const CHILD: &str = "EXO_CONNECT_TEST_CHILD";

/// In the child: connects as the environment says. True when this is the child.
fn is_child() -> bool {
    if std::env::var_os(CHILD).is_none() {
        return false;
    }
    match Client::connect_default().and_then(|exod| exod.ping()) {
        Ok(()) => println!("connected"),
        Err(error) => println!("{error}"),
    }
    true
}

fn said(output: &Output, expected: &str) {
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(expected), "{said:?}, not {expected}");
}

#[test]
fn the_environment_names_a_path() {
    let test = "the_environment_names_a_path";
    if is_child() {
        return;
    }
    let directory = Directory::new("environment");
    let (listener, path) = directory.listener();
    thread::scope(|scope| {
        scope.spawn(|| serve_one(&listener));
        let path = path.to_str().expect("a plain path");
        said(&child(test, "EXO_SOCKET", path), "connected");
    });
}

#[test]
fn the_environment_names_an_inherited_socket() {
    let test = "the_environment_names_an_inherited_socket";
    if is_child() {
        return;
    }
    let (liar, socket) = Liar::new();
    thread::scope(|scope| {
        scope.spawn(|| serve(&liar));
        fcntl_setfd(&socket, FdFlags::empty()).expect("our own socket");
        let number = socket.as_fd().as_raw_fd().to_string();
        said(&child(test, "EXO_SOCKET_FD", &number), "connected");
    });
    for (value, expected) in [
        ("", "EXO_SOCKET_FD="),
        ("seven", "EXO_SOCKET_FD=seven: Invalid argument"),
        ("-1", "EXO_SOCKET_FD=-1: Invalid argument"),
        ("999", "EXO_SOCKET_FD=999: Bad file"),
        ("1", "EXO_SOCKET_FD=1: Socket operation on non-socket"),
    ] {
        said(&child(test, "EXO_SOCKET_FD", value), expected);
    }
}

#[test]
fn a_user_outside_the_group_is_told_so() {
    let test = "a_user_outside_the_group_is_told_so";
    if is_child() {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can become another user");
        return;
    }
    let directory = Directory::new("permission");
    let (_listener, path) = directory.listener();
    let mode = |path: &Path, mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, mode).expect("our own file");
    };
    mode(&directory.0, 0o755);
    mode(&path, 0o660);
    // The other user must be able to run us.
    let program = directory.0.join("test");
    std::fs::copy(std::env::current_exe().expect("our own path"), &program).expect("a copy");
    mode(&program, 0o755);
    let mut child = Command::new(&program);
    child.args(["--exact", test, "--nocapture"]).env(CHILD, "1");
    child.env("EXO_SOCKET", &path).uid(65534).gid(65534);
    // A child that another test forks meanwhile has our copy open for writing until it executes.
    let output = loop {
        match child.output() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(5));
            }
            other => break other.expect("a child"),
        }
    };
    said(&output, "add this user to it");
}

static SIGNALS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_signal: c_int) {
    SIGNALS.fetch_add(1, Ordering::SeqCst);
}

#[test]
fn signals_do_not_disturb_a_call_that_waits() {
    let handler: extern "C" fn(c_int) = count;
    // SAFETY: the handler only adds to an atomic. No SA_RESTART: system calls return EINTR.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as usize;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &action, null_mut()), 0);
    }
    // SAFETY: always succeeds.
    let caller = unsafe { libc::pthread_self() };
    let (liar, socket) = Liar::new();
    thread::scope(|scope| {
        scope.spawn(move || {
            liar.greet();
            let ping = liar.request().expect("a ping");
            for sent in 1..=20 {
                // SAFETY: the calling thread waits for this one's answer, so it lives.
                unsafe { libc::pthread_kill(caller, libc::SIGUSR1) };
                while SIGNALS.load(Ordering::SeqCst) < sent {
                    thread::sleep(Duration::from_micros(100));
                }
            }
            liar.answer(&ping, Reply::default(), &[]);
        });
        let exod = Client::over(socket).expect("an honest hello");
        exod.ping().expect("an answer");
        assert_eq!(SIGNALS.load(Ordering::SeqCst), 20);
    });
}
