//! What tests of frames share: offers that this machine can keep, and a hostile process.
//!
//! A [`Hostile`] is this test binary again, as another user where the tests run as root, with a
//! unit's descriptors inherited as [`CLIENT`] and [`PEER`]. It does what it is told, one line a
//! command, and answers `ok`, a value, or the name of the error or signal that it met.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use exod::frames::{Hugepages, Maker, Offer, PageKind, Protection, Revoked, Unit};

/// The hostile process's descriptor of the unit that it may write. High, so that it cannot fall on
/// a descriptor that spawning uses.
pub const CLIENT: RawFd = 200;
/// The read-only one.
pub const PEER: RawFd = 201;
/// Set in the hostile process.
pub const ROLE: &str = "EXO_TEST_HOSTILE";
/// The test that is the hostile process's main function.
pub const CHILD_TEST: &str = "hostile_child";

const NOBODY: u32 = 65534;

/// Tests in one binary run in parallel, and the hugepage pool is one: whoever counts, raises or
/// drains it holds this.
static POOL: Mutex<()> = Mutex::new(());

/// A turn with the hugepage pool, which is as it was when this is dropped.
pub struct Turn {
    _raised: Option<Hugepages>,
    _lock: MutexGuard<'static, ()>,
}

/// Whether other users' processes can be made here.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A turn with at least `frames` free hugepages; says why not.
pub fn hugepages(frames: u64) -> Option<Turn> {
    let lock = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let raised = match Hugepages::raise(frames) {
        Ok(raised) => Some(raised),
        Err(e) => {
            println!("skipped: {e}");
            return None;
        }
    };
    Some(Turn {
        _raised: raised,
        _lock: lock,
    })
}

/// A maker of `kind` with `protection`; says why not.
pub fn maker(page_kind: PageKind, protection: Protection) -> Option<Maker> {
    let offer = Offer {
        page_kind,
        protection,
        reasons: Vec::new(),
    };
    let maker = Maker::new(&offer).and_then(|m| m.make(1, None).map(|_| m));
    match maker {
        Ok(maker) => Some(maker),
        // Small pages need nothing: without them the tests would prove nothing.
        Err(e) if page_kind == PageKind::Small4K => panic!("{e}"),
        Err(e) => {
            println!("skipped: {protection:?} with {}: {e}", page_kind.name());
            None
        }
    }
}

/// Waits until `revoked` is back. Others may hold copies for a moment (a fork before its exec).
pub fn wait_returned(revoked: &mut Revoked) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !revoked.returned().expect("the kernel tells") {
        assert!(Instant::now() < deadline, "frames did not come back");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sets `FD_CLOEXEC` aside for a copy at a fixed number.
fn inherit(command: &mut Command, fd: OwnedFd, at: RawFd) {
    // SAFETY: between fork and exec only dup2 runs, which is async-signal-safe; the closure owns
    // the descriptor.
    unsafe {
        command.pre_exec(move || match libc::dup2(fd.as_raw_fd(), at) {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
}

/// A process that tries what it must not be able to do. Killed when dropped.
pub struct Hostile {
    child: Child,
    to: UnixStream,
    from: BufReader<UnixStream>,
}

impl Hostile {
    /// Starts one that holds `unit`'s read-only descriptor and, if it is the `writer`, the
    /// client's.
    pub fn start(unit: &Unit, writer: bool) -> Hostile {
        let (ours, theirs) = UnixStream::pair().expect("socketpair");
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["--exact", CHILD_TEST, "--nocapture", "--test-threads=1"])
            .env(ROLE, "1")
            .env("RUST_BACKTRACE", "0")
            .stdin(OwnedFd::from(theirs))
            .stdout(std::process::Stdio::null());
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        let peer = unit.peer_fd().try_clone_to_owned().expect("dup");
        inherit(&mut command, peer, PEER);
        if writer {
            let client = unit.client_fd().try_clone_to_owned().expect("dup");
            inherit(&mut command, client, CLIENT);
        }
        let child = command.spawn().expect("this binary starts");
        // The command owns copies of the descriptors: it must not outlive this.
        drop(command);
        let to = ours.try_clone().expect("dup");
        ours.set_read_timeout(Some(Duration::from_secs(30)))
            .expect("a timeout");
        let mut hostile = Hostile {
            child,
            to,
            from: BufReader::new(ours),
        };
        assert_eq!(hostile.ask("hello"), "ok");
        hostile
    }

    /// Has one command done.
    pub fn ask(&mut self, command: &str) -> String {
        writeln!(self.to, "{command}").expect("the hostile process listens");
        let mut line = String::new();
        self.from.read_line(&mut line).expect("it answers");
        assert!(!line.is_empty(), "the hostile process died of {command:?}");
        line.trim().to_owned()
    }

    /// Has commands done that must meet these answers.
    pub fn expect(&mut self, script: &[(&str, &str)]) {
        for (command, answer) in script {
            assert_eq!(self.ask(command), *answer, "{command:?}");
        }
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
