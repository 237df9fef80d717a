//! A port between two processes, of which one is another user and tries on what it was granted
//! whatever the kernel lets it try. Root only: nobody else can be two users.

use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use exod::config::Config;
use exod::frames::PageChoice;
use exod::policy::{Grant, Rule, Who};
use exod::server::{Listener, Remote, Server};
use libexo::abi::port::PortFlags;
use libexo::client::Ledger;
use libexo::port::{Port, PortConfig, RxPacket};
use libexo::{Client, Error, guard};
use memmap2::MmapOptions;
use rustix::fs::{
    FallocateFlags, Mode, OFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate, open,
};
use rustix::io::Errno;

mod raw_peer;
use raw_peer::{RawPeer, SOON};

/// What the other process does, and where exod is.
const ROLE: &str = "EXO_TEST_PORT_ROLE";
const SOCKET: &str = "EXO_TEST_PORT_SOCKET";
const NOBODY: u32 = 65534;
const NAME: &str = "hostile";

/// An exod with a socket in a directory of its own, which goes with it.
struct Daemon {
    running: Option<(Remote, JoinHandle<()>)>,
    dir: PathBuf,
}

impl Daemon {
    /// One with these pages; says why not.
    fn start(pages: PageChoice) -> Option<Daemon> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root can run a process as another user");
            return None;
        }
        static DAEMONS: AtomicU32 = AtomicU32::new(0);
        let number = DAEMONS.fetch_add(1, Ordering::Relaxed);
        let name = format!("exo-port-hostile-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir(&dir).expect("a directory");
        std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o755)).expect("our own");
        let mut config = Config::embedded();
        config.give_back_ms = 50;
        config.pool.pages = pages;
        config.pool.ready.0.clear();
        let nobody = Grant {
            max_frames: 4,
            admin: false,
            trusted: false,
            ..Grant::everything()
        };
        config.policy.rules.push(Rule {
            who: Who::User(NOBODY),
            grant: Arc::new(nobody),
        });
        let mut daemon = Daemon { running: None, dir };
        let mut server = match Server::new(&config, None) {
            Ok(server) => server,
            Err(error) => {
                println!("skipped: {pages:?}: {error}");
                return None;
            }
        };
        let listener = Listener::open(&daemon.socket(), Some(NOBODY)).expect("a socket");
        server.listen(listener).expect("it listens");
        let remote = server.remote();
        let thread = std::thread::spawn(move || {
            server.serve().expect("it serves");
            server.stop();
        });
        daemon.running = Some((remote, thread));
        let frames = daemon.connect().alloc_unit(3, None);
        if let Err(error) = frames {
            println!("skipped: {pages:?}: {error}");
            return None;
        }
        Some(daemon)
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("exod.sock")
    }

    fn connect(&self) -> Client {
        Client::connect(self.socket()).expect("a session")
    }

    /// This program again, as another user, in the role of the port's other side.
    fn peer(&self, role: &str) -> Peer {
        let mut child = Command::new("/proc/self/exe")
            .args([
                "--exact",
                "the_other_side",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(ROLE, role)
            .env(SOCKET, self.socket())
            .stdout(Stdio::piped())
            .uid(NOBODY)
            .gid(NOBODY)
            .spawn()
            .expect("this binary starts");
        let says = BufReader::new(child.stdout.take().expect("a pipe"));
        Peer { child, says }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some((remote, thread)) = self.running.take() {
            let _ = remote.stop();
            let _ = thread.join();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The other process. Killed when dropped.
struct Peer {
    child: Child,
    says: BufReader<ChildStdout>,
}

impl Peer {
    /// Reads what it says up to a word; what it said before, one line each.
    fn until(&mut self, word: &str) -> Vec<String> {
        let mut said = Vec::new();
        let mut line = String::new();
        while self.says.read_line(&mut line).expect("text") > 0 {
            // The harness writes its own words before ours.
            if line.contains(word) {
                return said;
            }
            said.push(std::mem::take(&mut line).trim().to_owned());
        }
        panic!("it ended without saying {word:?}: {said:#?}");
    }

    fn kill(&mut self) {
        self.child.kill().expect("kill -9");
        self.child.wait().expect("its end");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn each_kind(test: impl Fn(&Daemon)) {
    guard::install().expect("a handler");
    for pages in [PageChoice::Huge2M, PageChoice::Small4K] {
        if let Some(daemon) = Daemon::start(pages) {
            test(&daemon);
        }
    }
}

fn config() -> PortConfig {
    PortConfig {
        ring_log2: 6,
        ..PortConfig::default()
    }
}

/// Not a test of its own: what the other process does.
#[test]
fn the_other_side() {
    let (Ok(role), Ok(socket)) = (std::env::var(ROLE), std::env::var(SOCKET)) else {
        return;
    };
    assert_eq!(rustix::process::geteuid().as_raw(), NOBODY);
    match role.as_str() {
        "thief" => be_thief(Path::new(&socket)),
        "puncher" => be_puncher(Path::new(&socket)),
        "flood" => be_flood(Path::new(&socket)),
        other => panic!("no role {other}"),
    }
}

fn join(socket: &Path) -> RawPeer {
    let client = Client::connect(socket).expect("a session");
    RawPeer::join(client, NAME, 1, PortFlags::empty()).expect("a port that waits")
}

/// Whether a try was refused, whatever the reason.
fn refused<T>(what: &str, result: Result<T, Errno>) {
    println!(
        "\ntried {what}: {}",
        result.map_or_else(|e| format!("{e:?}"), |_| "it worked".into())
    );
}

fn reopen(fd: &OwnedFd) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    open(path, OFlags::RDWR, Mode::empty())
}

fn map_writable(fd: &OwnedFd, bytes: usize) -> Result<(), Errno> {
    let map = MmapOptions::new().len(bytes).map_raw(fd);
    map.map(|_| ())
        .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::INVAL))
}

/// Tries to get more out of both descriptors than was granted.
fn be_thief(socket: &Path) {
    let raw = join(socket);
    let (own, peer) = (&raw.unit_fd, &raw.peer_fd);
    let (own_bytes, peer_bytes) = (raw.memory.map.len(), raw.peer.map.len());
    refused("map writable", map_writable(peer, peer_bytes));
    // SAFETY: the mapping is the peer's segment, which is used as atomics alone; should it become
    // writable, nothing is written.
    let protected = unsafe {
        let protection = rustix::mm::MprotectFlags::READ | rustix::mm::MprotectFlags::WRITE;
        rustix::mm::mprotect(raw.peer.map.as_mut_ptr().cast(), peer_bytes, protection)
    };
    refused("mprotect", protected);
    refused("reopen", reopen(peer));
    refused("write", rustix::io::pwrite(peer, b"mine", 0));
    refused("truncate the peer's", ftruncate(peer, 0));
    refused("grow the peer's", ftruncate(peer, 2 * peer_bytes as u64));
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    refused(
        "punch the peer's",
        fallocate(peer, punch, 0, peer_bytes as u64),
    );
    refused("truncate our own", ftruncate(own, 0));
    refused("shrink our own", ftruncate(own, own_bytes as u64 / 2));
    refused("grow our own", ftruncate(own, 2 * own_bytes as u64));
    // What is sealed already may be sealed again; more must not be.
    refused("seal our own", fcntl_add_seals(own, SealFlags::WRITE));
    println!("\nserving");
    be_honest(&raw, Duration::from_secs(20));
}

/// Sends and returns by the rules until the port is over.
fn be_honest(raw: &RawPeer, time: Duration) {
    let deadline = Instant::now() + time;
    let (mut sent, mut given) = (0, 0);
    while Instant::now() < deadline && !gone(raw) {
        let run = raw.returned(given);
        if let Some(run) = run {
            given += 1;
            assert!(run.count() <= raw.slots());
        }
        if sent == 0 || run.is_some() {
            raw.memory.store(raw.layout.packets, 0x0101_0101_0101_0101);
            raw.send(sent, raw.good(8));
            sent += 1;
        }
        std::thread::yield_now();
    }
}

fn gone(raw: &RawPeer) -> bool {
    let status = raw.client.status(raw.handle);
    status.contains(libexo::abi::status::Status::PEER_GONE)
}

#[test]
fn a_peer_gets_no_more_than_it_was_granted() {
    each_kind(|daemon| {
        let client = daemon.connect();
        let waiting = Port::create(&client, NAME, config()).expect("a port");
        let mut thief = daemon.peer("thief");
        let mut port = waiting.ready(SOON).expect("joined");
        let said = thief.until("serving");
        let tries: Vec<_> = said
            .iter()
            .filter(|line| line.starts_with("tried"))
            .collect();
        assert_eq!(tries.len(), 11, "{said:#?}");
        for line in tries {
            assert!(!line.ends_with("it worked"), "{line}");
        }
        // And the port goes on as if nothing had been.
        let mut seen = 0;
        let deadline = Instant::now() + SOON;
        while seen < 100 {
            assert!(Instant::now() < deadline, "{seen} packets came");
            for packet in port.receive_burst(8).expect("alive") {
                assert_eq!(packet.bytes().head::<8>().expect("alive"), [1; 8]);
                seen += 1;
            }
            port.flush().expect("alive");
        }
    });
}

/// Takes pages of its own away while the other side reads them.
fn be_puncher(socket: &Path) {
    let raw = join(socket);
    let packets = raw.layout.packets as u64;
    let rest = raw.memory.map.len() as u64 - packets;
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let mut position = 0;
    while !gone(&raw) {
        for word in 0..512 {
            raw.memory
                .store(raw.layout.packets + 8 * word, 0x0101_0101_0101_0101);
        }
        raw.send(position, raw.good(4096));
        position += 1;
        // Of a hugepage nothing goes unless all of it does, the rings among it.
        let _ = fallocate(&raw.unit_fd, punch, packets, rest);
        if position.is_multiple_of(64) {
            let _ = fallocate(&raw.unit_fd, punch, 0, packets + rest);
        }
    }
}

#[test]
fn a_peer_punches_its_own_segment_while_it_is_read() {
    each_kind(|daemon| {
        let client = daemon.connect();
        let waiting = Port::create(&client, NAME, config()).expect("a port");
        let _peer = daemon.peer("puncher");
        let mut port = waiting.ready(SOON).expect("joined");
        let deadline = Instant::now() + Duration::from_secs(1);
        let mut seen = 0;
        let end = 'reading: loop {
            if Instant::now() > deadline {
                break None;
            }
            let burst = match port.receive_burst(16) {
                Ok(burst) => burst,
                Err(error) => break Some(error),
            };
            for packet in burst {
                let mut bytes = [9; 4096];
                match packet.bytes().copy_to(&mut bytes) {
                    // Its own zeroes or ones, whichever were there: it owns them.
                    Ok(_) => assert!(bytes.iter().all(|b| *b <= 1)),
                    Err(error) => break 'reading Some(error),
                }
                seen += 1;
            }
        };
        assert!(seen > 0 || end.is_some());
        match end {
            None | Some(Error::Revoked | Error::PeerViolation(_)) => {}
            Some(error) => panic!("{error}"),
        }
    });
}

/// An honest sender without end, in bursts.
fn be_flood(socket: &Path) {
    let client = Client::connect(socket).expect("a session");
    let mut port = Port::join(&client, NAME, config()).expect("a port that waits");
    loop {
        let sent = port
            .send_with(32, 1000, |_, bytes| bytes.fill(1))
            .expect("alive");
        // What it gets it keeps until the other side has none left, then all at once.
        let got = port.receive_burst(64).expect("alive").count();
        if sent + got == 0 {
            port.wait(Some(Duration::from_millis(10))).expect("alive");
        }
    }
}

/// Waits for the ledger, since exod takes memory back in the background.
fn balances(client: &Client, wanted: impl Fn(Ledger) -> bool) {
    let deadline = Instant::now() + SOON;
    while !wanted(ledger(client)) {
        assert!(Instant::now() < deadline, "{:?}", ledger(client));
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn ledger(client: &Client) -> Ledger {
    client.stats(0).expect("an admin")
}

#[test]
fn a_peer_is_killed_in_the_middle_of_bursts() {
    each_kind(|daemon| {
        let client = daemon.connect();
        // What looked for pages before is gone.
        balances(&client, |now| now.objects == 0 && now.domains == 1);
        let before = ledger(&client);
        for packets in [1, 1000, 5000] {
            let waiting = Port::create(&client, NAME, config()).expect("a port");
            let mut peer = daemon.peer("flood");
            let mut port = waiting.ready(SOON).expect("joined");
            let (mut seen, mut held, mut killed) = (0, Vec::<RxPacket>::new(), false);
            let deadline = Instant::now() + SOON;
            let error = loop {
                assert!(Instant::now() < deadline, "{seen} packets came, and no end");
                if seen >= packets && !std::mem::replace(&mut killed, true) {
                    peer.kill();
                }
                // A slot that is held stops its sender a lap later: only the last ones are.
                let keep = if killed {
                    3
                } else {
                    usize::from(seen + 1 >= packets)
                };
                match turn(&mut port, &mut held, keep) {
                    Ok(count) => seen += count,
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, Error::PeerGone | Error::Revoked), "{error}");
            // What was held is data until it is lost, and never zeroes.
            let lost = Instant::now() + Duration::from_millis(300);
            while Instant::now() < lost {
                for packet in &held {
                    let mut bytes = [9; 1000];
                    match packet.view().bytes().copy_to(&mut bytes) {
                        Ok(_) => assert_eq!(bytes, [1; 1000]),
                        Err(error) => assert!(matches!(error, Error::Revoked), "{error}"),
                    }
                }
            }
            drop((held, port));
            balances(&client, |now| now == before);
        }
    });
}

/// One turn of a side that sends, receives and keeps up to `keep` packets: how many came.
fn turn(port: &mut Port, held: &mut Vec<RxPacket>, keep: usize) -> libexo::Result<usize> {
    port.send_with(4, 100, |_, bytes| bytes.fill(2))?;
    let mut burst = port.receive_burst(32)?;
    let mut seen = 0;
    while let Some(packet) = burst.take_next() {
        seen += 1;
        let mut bytes = [9; 1000];
        packet.view().bytes().copy_to(&mut bytes)?;
        assert_eq!(bytes, [1; 1000]);
        if held.len() < keep {
            held.push(packet);
        }
    }
    port.flush()?;
    Ok(seen)
}
