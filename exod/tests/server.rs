//! The daemon from outside: operations over a real socket, the ends of peers, policy, a held job.

#[path = "common/client.rs"]
mod client;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use client::{Client, PATIENCE, config, embedded, port_args, ready, watcher};
use exod::config::Config;
use exod::embedded::Embedded;
use exod::frames::FRAME_BYTES;
use libexo::abi::port::PortFlags;
use libexo::abi::status::Status;
use libexo::abi::wire::{ErrorCode, ObjectKind, Op, PIPELINE_MAX, Request, Rights, StatsPage};
use zerocopy::IntoBytes;

const SHARE: u64 = PortFlags::SHARE.bits() as u64;
const TRUSTED: u64 = PortFlags::TRUSTED.bits() as u64;

fn write(fd: &OwnedFd, text: &[u8], at: u64) {
    // A hugepage file has no write; a mapping works for every kind.
    let map = memmap2::MmapOptions::new()
        .len(FRAME_BYTES)
        .map_raw(fd)
        .expect("a mapping");
    // SAFETY: the mapping is one frame long, and only this statement uses it.
    unsafe {
        map.as_mut_ptr()
            .add(at as usize)
            .copy_from(text.as_ptr(), text.len())
    };
}

fn read(fd: &OwnedFd, len: usize, at: u64) -> Vec<u8> {
    let map = memmap2::MmapOptions::new()
        .len(FRAME_BYTES)
        .map_raw_read_only(fd);
    let map = map.expect("a read-only mapping");
    let mut text = vec![0; len];
    // SAFETY: the mapping is one frame long, and only this statement uses it.
    unsafe {
        map.as_ptr()
            .add(at as usize)
            .copy_to(text.as_mut_ptr(), len)
    };
    text
}

/// One side of a port.
struct Side {
    client: Client,
    port: u64,
    unit: u64,
    fd: OwnedFd,
}

/// Two sessions on the port `demo`: its creator, and who joined.
fn joined(exod: &Embedded, flags: [u64; 2]) -> (Side, Side) {
    let (mut a, mut b) = (Client::of(exod), Client::of(exod));
    let (unit_a, fd_a) = a.alloc(1);
    let (unit_b, fd_b) = b.alloc(1);
    let port_a = a.create(unit_a, "demo", flags[0]);
    assert_eq!(port_a.error(), None);
    let port_b = b.join(unit_b, "demo", flags[1]);
    assert_eq!(port_b.error(), None);
    let side = |client, port: client::Got, unit, fd| Side {
        client,
        port: port.reply.handle,
        unit,
        fd,
    };
    (side(a, port_a, unit_a, fd_a), side(b, port_b, unit_b, fd_b))
}

#[test]
fn memory_is_granted_listed_and_given_back() {
    let exod = embedded();
    let (mut watch, ledger, work) = watcher(&exod);
    let mut client = Client::of(&exod);
    let (one, fd) = client.alloc(1);
    let (three, big) = client.alloc(3);
    write(&fd, b"hello", 0);
    assert_eq!(read(&fd, 5, 0), b"hello");
    assert_eq!(client.status(one), Status::LIVE);
    let seen = client.ok(Op::Inspect, three, [0; 6]).reply;
    assert_eq!(seen.vals[0], ObjectKind::Unit as u64);
    assert_eq!(seen.vals[3], 3 * FRAME_BYTES as u64);
    let mut listed = Vec::new();
    let mut last = client.ok(Op::List, 0, [0; 6]).reply.handle;
    while last != 0 {
        listed.push(last);
        last = client.ok(Op::List, last, [0; 6]).reply.handle;
    }
    listed.sort_unstable();
    let mut all = [one, three];
    all.sort_unstable();
    assert_eq!(listed, all);
    assert_eq!(watch.stats(StatsPage::Ledger)[4], ledger[4] + 4);
    client.ok(Op::Drop, one, [0; 6]);
    assert_eq!((client.status(one), client.losses()), (Status::empty(), 0));
    let stale = client.refused(Op::Inspect, one, [0; 6]);
    assert_eq!(stale, Some(ErrorCode::NoSuchHandle));
    drop((fd, big, client));
    watch.wait_for(ledger, work);
}

#[test]
fn without_a_word_an_embedded_exod_takes_what_the_machine_has() {
    let exod = Embedded::start(Config::embedded()).expect("an embedded exod");
    for reason in &exod.offer().reasons {
        println!("{reason}");
    }
    let (mut watch, ledger, work) = watcher(&exod);
    let mut client = Client::of(&exod);
    let mut got = client.ok(Op::AllocUnit, 0, [1, 0, 0, 0, 0, 0]);
    assert_eq!(got.reply.vals[1], exod.offer().page_kind as u64);
    assert_eq!(got.reply.vals[2], exod.offer().protection as u64);
    let fd = got.fds.pop_front().expect("the unit");
    write(&fd, b"big", FRAME_BYTES as u64 - 3);
    drop((client, fd));
    watch.wait_for(ledger, work);
}

#[test]
fn a_port_carries_bytes_one_way_each() {
    let exod = embedded();
    let (mut watch, ledger, work) = watcher(&exod);
    let (mut a, mut b) = (Client::of(&exod), Client::of(&exod));
    let (unit_a, fd_a) = a.alloc(1);
    let (unit_b, fd_b) = b.alloc(2);
    let mut created = a.create(unit_a, "demo", SHARE);
    let port_a = created.reply.handle;
    let early = a.refused(Op::PortPeer, port_a, [0; 6]);
    assert_eq!(early, Some(ErrorCode::NotReady));
    let mut joined = b.join(unit_b, "demo", 0);
    assert_eq!(joined.error(), None);
    let [log2, bytes, flags, _, side, handle] = joined.reply.vals;
    assert_eq!(
        (log2, bytes, flags, side),
        (6, FRAME_BYTES as u64, SHARE, 1)
    );
    a.wait_status(port_a, Status::LIVE | Status::PEER_JOINED);
    let mut peer = a.ok(Op::PortPeer, port_a, [0; 6]);
    assert_eq!(peer.reply.vals[..3], [6, 2 * FRAME_BYTES as u64, 0]);
    assert_eq!(peer.reply.vals[4], 0);

    let rights = |got: client::Got| Rights::from_bits_truncate(got.reply.vals[1] as u32);
    let both = Rights::READ | Rights::SHARE;
    assert_eq!(rights(b.ok(Op::Inspect, handle, [0; 6])), both);
    let theirs = a.ok(Op::Inspect, peer.reply.handle, [0; 6]);
    assert_eq!(rights(theirs), Rights::READ);

    // Each reads what the other writes, and cannot write it.
    let a_seen = joined.fds.pop_front().expect("a's segment");
    let b_seen = peer.fds.pop_front().expect("b's segment");
    write(&fd_a, b"to b", 8192);
    assert_eq!(read(&a_seen, 4, 8192), b"to b");
    write(&fd_b, b"to a", 8192);
    assert_eq!(read(&b_seen, 4, 8192), b"to a");
    let mut writable = memmap2::MmapOptions::new();
    assert!(writable.len(FRAME_BYTES).map_raw(&a_seen).is_err());

    // Bells: own first, then the peer's.
    let (own_a, ring_b) = (created.fds.pop_front(), created.fds.pop_front());
    let (own_b, ring_a) = (joined.fds.pop_front(), joined.fds.pop_front());
    for (ringer, sleeper) in [(ring_b, own_b), (ring_a, own_a)] {
        let (ringer, sleeper) = (ringer.expect("a bell"), sleeper.expect("a bell"));
        assert!(!ready(sleeper.as_fd(), Duration::ZERO));
        rustix::io::write(&ringer, &1u64.to_ne_bytes()).expect("rung");
        assert!(ready(sleeper.as_fd(), PATIENCE));
    }
    // Asking twice gives the same capability, not another.
    let again = a.ok(Op::PortPeer, port_a, [0; 6]).reply.handle;
    assert_eq!(again, peer.reply.handle);
    drop((a, b, fd_a, fd_b, a_seen, b_seen));
    watch.wait_for(ledger, work);
}

#[test]
fn trust_takes_both_sides() {
    let exod = embedded();
    for (flags, agreed) in [
        ([TRUSTED, TRUSTED], TRUSTED),
        ([TRUSTED, 0], 0),
        ([0, TRUSTED], 0),
    ] {
        let (mut a, mut b) = joined(&exod, flags);
        for side in [&mut a, &mut b] {
            let peer = side.client.ok(Op::PortPeer, side.port, [0; 6]);
            assert_eq!(peer.reply.vals[2], agreed);
        }
        a.client.ok(Op::PortLeave, a.port, [7, 0, 0, 0, 0, 0]);
        b.client.wait_status(b.port, Status::PEER_GONE);
    }
}

#[test]
fn a_forwarder_shares_on_what_it_may_and_no_more() {
    let exod = embedded();
    for share in [SHARE, 0] {
        let (source, mut forwarder) = joined(&exod, [share, 0]);
        let f = &mut forwarder.client;
        let foreign = f.ok(Op::PortPeer, forwarder.port, [0; 6]).reply.handle;
        let (unit, _fd) = f.alloc(1);
        let out = f.create(unit, "out", 0).reply.handle;
        let attached = f.call(Op::PortAttach, out, [foreign, 0, 0, 0, 0, 0]);
        if share == 0 {
            assert_eq!(attached.error(), Some(ErrorCode::Rights));
            continue;
        }
        assert_eq!((attached.error(), attached.reply.vals[0]), (None, 1));
        let in_use = f.refused(Op::Drop, foreign, [0; 6]);
        assert_eq!(in_use, Some(ErrorCode::Busy));
        let mut sink = Client::of(&exod);
        let (unit, _fd) = sink.alloc(1);
        let port = sink.join(unit, "out", 0).reply.handle;
        let mut segment = sink.ok(Op::PortSegment, port, [1, 0, 0, 0, 0, 0]);
        let seen = segment.fds.pop_front().expect("the source's segment");
        write(&source.fd, b"far", 4096);
        assert_eq!(read(&seen, 3, 4096), b"far");
        let beyond = sink.refused(Op::PortSegment, port, [2, 0, 0, 0, 0, 0]);
        assert_eq!(beyond, Some(ErrorCode::NotFound));
        // The source dies: what came from it is taken from both, the ports between them stay.
        drop(source);
        sink.wait_status(segment.reply.handle, Status::ASKED_BACK);
        sink.wait_status(segment.reply.handle, Status::LOST);
        f.wait_status(foreign, Status::LOST);
        assert_eq!((sink.losses(), f.losses()), (1, 1));
        // It was said to be lost before it was broken. Seals: broken reads as zeroes.
        let end = Instant::now() + PATIENCE;
        while read(&seen, 3, 4096) != [0; 3] {
            assert!(Instant::now() < end, "the memory was not taken");
        }
        assert_eq!(sink.status(port), Status::LIVE | Status::PEER_JOINED);
        let gone = sink.refused(Op::PortSegment, port, [1, 0, 0, 0, 0, 0]);
        assert_eq!(gone, Some(ErrorCode::Revoked));
    }
}

#[test]
fn a_unit_is_one_ports_segment_once() {
    let exod = embedded();
    let (mut a, mut b) = joined(&exod, [0, 0]);
    let twice = a.client.create(a.unit, "other", 0).error();
    assert_eq!(twice, Some(ErrorCode::Busy));
    let dropped = a.client.refused(Op::Drop, a.unit, [0; 6]);
    assert_eq!(dropped, Some(ErrorCode::Busy));
    a.client.ok(Op::PortLeave, a.port, [0; 6]);
    // Its former peer may have it mapped for ever.
    let later = a.client.create(a.unit, "other", 0).error();
    assert_eq!(later, Some(ErrorCode::Busy));
    let peer = b.client.refused(Op::PortPeer, b.port, [0; 6]);
    assert_eq!(peer, Some(ErrorCode::Revoked));
    a.client.ok(Op::Drop, a.unit, [0; 6]);
    // The name is free at once.
    let (unit, _fd) = a.client.alloc(1);
    assert_eq!(a.client.create(unit, "demo", 0).error(), None);
    assert_eq!(
        a.client.create(unit, "demo", 0).error(),
        Some(ErrorCode::Busy)
    );
    let (more, _fd) = a.client.alloc(1);
    assert_eq!(
        a.client.create(more, "demo", 0).error(),
        Some(ErrorCode::Exists)
    );
    assert_eq!(
        b.client.join(b.unit, "no-such", 0).error(),
        Some(ErrorCode::NotFound)
    );
}

#[test]
fn a_survivor_keeps_packets_for_a_while_and_then_loses_them() {
    let exod = embedded();
    let (mut watch, ledger, work) = watcher(&exod);
    let (a, mut b) = joined(&exod, [0, 0]);
    let mut peer = b.client.ok(Op::PortPeer, b.port, [0; 6]);
    let (handle, seen) = (peer.reply.handle, peer.fds.pop_front().expect("a segment"));
    write(&a.fd, b"last words", 4096);
    drop(a);
    b.client.wait_status(b.port, Status::PEER_GONE);
    b.client.wait_status(handle, Status::ASKED_BACK);
    b.client.wait_status(handle, Status::LOST);
    assert_eq!(b.client.losses(), 1);
    let stale = b.client.refused(Op::Inspect, handle, [0; 6]);
    assert_eq!(stale, Some(ErrorCode::NoSuchHandle));
    drop((seen, b));
    watch.wait_for(ledger, work);
}

#[test]
fn a_survivor_that_gives_back_loses_nothing() {
    let mut config = config();
    config.give_back_ms = u16::MAX;
    let exod = Embedded::start(config).expect("an embedded exod");
    let (mut watch, ledger, work) = watcher(&exod);
    let (a, mut b) = joined(&exod, [0, 0]);
    let mut peer = b.client.ok(Op::PortPeer, b.port, [0; 6]);
    let (handle, seen) = (peer.reply.handle, peer.fds.pop_front().expect("a segment"));
    write(&a.fd, b"last words", 4096);
    drop(a);
    b.client.wait_status(handle, Status::ASKED_BACK);
    assert_eq!(read(&seen, 10, 4096), b"last words");
    drop(seen);
    b.client.ok(Op::PortLeave, b.port, [0; 6]);
    assert_eq!(b.client.losses(), 0);
    drop(b);
    watch.wait_for(ledger, work);
}

#[test]
fn taps_are_for_admins_and_for_the_tapped() {
    let exod = embedded();
    let (mut a, mut b) = joined(&exod, [0, 0]);
    let mut admin = Client::of(&exod);
    let (unit, _fd) = admin.alloc(1);
    assert_eq!(admin.create(unit, "tap:demo/0", 0).error(), None);
    let (early, _fd) = a.client.alloc(1);
    let denied = a.client.join(early, "tap:demo/0", 0).error();
    assert_eq!(denied, Some(ErrorCode::Denied));
    admin.ok(Op::PortTap, 0, port_args("demo", 0, 1));
    a.client.wait_status(a.port, Status::TAP);
    b.client.wait_status(b.port, Status::TAP);
    let (other, _fd) = b.client.alloc(1);
    let foreign = b.client.join(other, "tap:demo/0", 0).error();
    assert_eq!(foreign, Some(ErrorCode::Denied));
    assert_eq!(a.client.join(early, "tap:demo/0", 0).error(), None);
    // The tap ends with whoever set it.
    drop(admin);
    while a.client.status(a.port).contains(Status::TAP) {
        let bell = a.client.bell.as_ref().expect("a bell");
        assert!(ready(bell.as_fd(), PATIENCE));
        let _ = rustix::io::read(bell, &mut [0; 8]);
    }
}

/// An embedded exod with this policy for the user of the tests.
fn with_rule(text: &str) -> Embedded {
    let uid = rustix::process::geteuid().as_raw();
    let rule = format!("[[rule]]\nuser = {uid}\n{text}");
    let parsed = Config::parse(&rule).expect("a rule");
    let config = Config {
        policy: parsed.policy,
        ..config()
    };
    Embedded::start(config).expect("an embedded exod")
}

#[test]
fn the_policy_is_kept() {
    let exod = with_rule(
        "max_frames = 3\nmax_capabilities = 4\nmax_ports = 1\ncreate = [\"my-*\"]\njoin = [\"x\"]",
    );
    let mut one = Client::of(&exod);
    let mut two = Client::of(&exod);
    let over = |client: &mut Client| client.refused(Op::AllocUnit, 0, [2, 0, 0, 0, 0, 0]);
    let (unit, _fd) = one.alloc(2);
    assert_eq!(over(&mut one), Some(ErrorCode::Quota));
    assert_eq!(
        over(&mut two),
        Some(ErrorCode::Quota),
        "limits are the user's"
    );
    assert_eq!(
        one.create(unit, "other", 0).error(),
        Some(ErrorCode::Denied)
    );
    assert_eq!(one.join(unit, "my-a", 0).error(), Some(ErrorCode::Denied));
    assert_eq!(
        one.create(unit, "my-a", TRUSTED).error(),
        Some(ErrorCode::Denied)
    );
    assert_eq!(
        one.create(unit, "tap:my-a/0", 0).error(),
        Some(ErrorCode::Denied)
    );
    assert_eq!(one.create(unit, "my-a", 0).error(), None);
    let (more, _fd) = two.alloc(1);
    assert_eq!(two.create(more, "my-b", 0).error(), Some(ErrorCode::Quota));
    let stats = one.refused(Op::Stats, 0, [0; 6]);
    assert_eq!(stats, Some(ErrorCode::Denied));
    let tap = one.refused(Op::PortTap, 0, port_args("my-a", 0, 1));
    assert_eq!(tap, Some(ErrorCode::Denied));
}

#[test]
fn nobody_gets_in_without_a_rule() {
    let config = Config {
        policy: Config::parse("").expect("empty").policy,
        ..config()
    };
    let exod = Embedded::start(config).expect("an embedded exod");
    let mut client = Client::raw(exod.connect().expect("a connection"));
    let args = [libexo::abi::wire::HELLO_MAGIC, 1, 0, 0, 0, 0];
    assert_eq!(client.refused(Op::Hello, 0, args), Some(ErrorCode::Denied));
    assert!(client.ended());
}

#[test]
fn sessions_of_one_user_are_limited() {
    let mut config = config();
    config.sessions_per_user = exod::config::Sessions(2);
    let exod = Embedded::start(config).expect("an embedded exod");
    let first = Client::of(&exod);
    let _second = Client::of(&exod);
    let third = Client::raw(exod.connect().expect("a connection"));
    assert!(third.ended());
    drop(first);
    let end = Instant::now() + PATIENCE;
    loop {
        let next = Client::raw(exod.connect().expect("a connection"));
        let ping = Request {
            op: Op::Ping as u16,
            ..Request::default()
        };
        // Out of order, but answered: it is in. One that is not may be gone before it asks.
        if next.send_bytes(ping.as_bytes(), &[]).is_ok() && next.receive().is_some() {
            break;
        }
        assert!(
            Instant::now() < end,
            "the first one's place is not free again"
        );
    }
}

/// A gate at which one job waits, each time that it is closed.
#[derive(Default)]
struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
    reached: AtomicBool,
}

impl Gate {
    fn set(&self, closed: bool) {
        *self.closed.lock().expect("no panic holds it") = closed;
        self.reached.fetch_and(!closed, Ordering::AcqRel);
        self.opened.notify_all();
    }

    fn pass(&self, patience: Duration) {
        let closed = self.closed.lock().expect("no panic holds it");
        if !*closed || self.reached.swap(true, Ordering::AcqRel) {
            return;
        }
        let wait = self
            .opened
            .wait_timeout_while(closed, patience, |closed| *closed);
        drop(wait.expect("no panic holds it"));
    }
}

fn gated(label: &'static str, patience: Duration) -> (Embedded, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let mut config = config();
    let inside = gate.clone();
    config.before_job = Some(Arc::new(move |job: &str| {
        if job == label {
            inside.pass(patience);
        }
    }));
    let exod = Embedded::start(config).expect("an embedded exod");
    (exod, gate)
}

#[test]
fn replies_keep_their_order_around_a_slow_job() {
    let (exod, gate) = gated("make", PATIENCE);
    let mut client = Client::of(&exod);
    gate.set(true);
    let mut sent = vec![client.send(Op::Ping as u16, 0, [0; 6])];
    // A size that is not kept ready.
    sent.push(client.send(Op::AllocUnit as u16, 0, [5, 0, 0, 0, 0, 0]));
    while sent.len() < PIPELINE_MAX {
        sent.push(client.send(Op::Ping as u16, 0, [0; 6]));
    }
    assert_eq!(client.receive().expect("the ping").reply.seq, sent[0]);
    let mut other = Client::of(&exod);
    other.ok(Op::Ping, 0, [0; 6]);
    assert!(!ready(client.socket.as_fd(), Duration::from_millis(20)));
    gate.set(false);
    for seq in &sent[1..] {
        let got = client.receive().expect("a reply");
        assert_eq!((got.reply.seq, got.error()), (*seq, None));
    }
}

#[test]
fn a_client_that_dies_while_its_unit_is_made_leaves_nothing() {
    let (exod, gate) = gated("make", PATIENCE);
    let (mut watch, ledger, work) = watcher(&exod);
    for die in [true, false] {
        gate.set(true);
        let mut client = Client::of(&exod);
        client.send(Op::AllocUnit as u16, 0, [5, 0, 0, 0, 0, 0]);
        while !gate.reached.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        if die {
            drop(client);
            // It is gone for good before its unit is there.
            while watch.stats(StatsPage::Work)[0] != work[0] {
                std::thread::yield_now();
            }
            gate.set(false);
        } else {
            gate.set(false);
            assert_eq!(client.receive().expect("a reply").error(), None);
            drop(client);
        }
        watch.wait_for(ledger, work);
    }
}

/// A promise about time, so it is timed: a job that is held for 10 s changes nobody else's latency.
#[test]
fn a_job_held_for_ten_seconds_delays_nobody_else() {
    const HELD: Duration = Duration::from_secs(10);
    let (exod, gate) = gated("make", HELD);
    let mut other = Client::of(&exod);
    let mut p99_of = |time: Duration| {
        let end = Instant::now() + time;
        let mut laps = Vec::new();
        while Instant::now() < end {
            let begin = Instant::now();
            other.ok(Op::Ping, 0, [0; 6]);
            let (unit, fd) = other.alloc(1);
            drop(fd);
            other.ok(Op::Drop, unit, [0; 6]);
            laps.push(begin.elapsed());
        }
        laps.sort_unstable();
        laps[laps.len() * 99 / 100]
    };
    let idle = p99_of(Duration::from_secs(1));
    gate.set(true);
    let mut held = Client::of(&exod);
    let begin = Instant::now();
    held.send(Op::AllocUnit as u16, 0, [5, 0, 0, 0, 0, 0]);
    let busy = p99_of(HELD - Duration::from_secs(1));
    assert!(
        !ready(held.socket.as_fd(), Duration::ZERO),
        "it is still held"
    );
    assert_eq!(held.receive().expect("its reply").error(), None);
    assert!(begin.elapsed() >= HELD);
    // Generous: this machine may be doing other things. A loop that waits would show seconds.
    let limit = (idle * 20).max(Duration::from_millis(50));
    assert!(
        busy <= limit,
        "p99 {busy:?} while a job is held, {idle:?} idle"
    );
}

/// Leaves no session in the middle: an exod that stops takes back what it granted.
#[test]
fn a_stopping_exod_takes_everything_back() {
    let exod = embedded();
    let mut client = Client::of(&exod);
    let (unit, fd) = client.alloc(1);
    write(&fd, b"mine", 0);
    drop(exod);
    assert_eq!(client.status(unit), Status::LOST);
    assert_eq!(client.losses(), 1);
    assert_eq!(read(&fd, 4, 0), [0; 4]);
    assert!(client.ended());
}
