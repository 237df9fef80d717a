//! Hostile clients over a real socket. Each gets a clear error or loses its session; exod and
//! another client do not notice, and the ledger returns to what it was.

#[path = "common/client.rs"]
mod client;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use client::{Client, PATIENCE, config, embedded, port_args, ready, watcher};
use exod::embedded::Embedded;
use libexo::abi::ABI_VERSION;
use libexo::abi::status::{handle, split_handle};
use libexo::abi::wire::{ErrorCode, HELLO_MAGIC, Op, PIPELINE_MAX, Request, StatsPage};
use rustix::fs::MemfdFlags;
use zerocopy::IntoBytes;

/// Runs an attack beside another client, and sees that nothing is left of it.
fn beside_another(attack: impl FnOnce(&Embedded)) {
    let exod = embedded();
    let (mut watch, ledger, work) = watcher(&exod);
    attack(&exod);
    let (unit, fd) = watch.alloc(1);
    watch.ok(Op::Drop, unit, [0; 6]);
    drop(fd);
    watch.wait_for(ledger, work);
}

fn ping() -> Request {
    Request {
        op: Op::Ping as u16,
        ..Request::default()
    }
}

fn memory_file() -> OwnedFd {
    rustix::fs::memfd_create("gift", MemfdFlags::CLOEXEC).expect("a memfd")
}

#[test]
fn records_of_any_other_length_end_the_session() {
    beside_another(|exod| {
        let bytes = [0; 4096];
        for len in [1, 8, 63, 65, 128, 4096] {
            let client = Client::of(exod);
            client.send_bytes(&bytes[..len], &[]).expect("sent");
            assert!(client.ended(), "{len}");
        }
        // An empty record reads as an end.
        let client = Client::of(exod);
        client.send_bytes(&[], &[]).expect("sent");
        assert!(client.ended());
    });
}

#[test]
fn order_and_numbers_are_checked() {
    beside_another(|exod| {
        let mut client = Client::raw(exod.connect().expect("a connection"));
        for op in Op::ALL.into_iter().filter(|op| *op != Op::Hello) {
            let mut args = [0; 6];
            if matches!(op, Op::PortCreate | Op::PortJoin | Op::PortTap) {
                args = port_args("demo", if op == Op::PortCreate { 6 } else { 0 }, 0);
            } else if op == Op::AllocUnit {
                args[0] = 1;
            }
            assert_eq!(
                client.refused(op, 0, args),
                Some(ErrorCode::OutOfOrder),
                "{op:?}"
            );
        }
        let hello = [HELLO_MAGIC, u64::from(ABI_VERSION), 0, 0, 0, 0];
        let newer = [HELLO_MAGIC, u64::from(ABI_VERSION) + 1, 0, 0, 0, 0];
        assert_eq!(
            client.refused(Op::Hello, 0, newer),
            Some(ErrorCode::BadVersion)
        );
        client.hello();
        assert_eq!(
            client.refused(Op::Hello, 0, hello),
            Some(ErrorCode::OutOfOrder)
        );
        for unknown in [0, Op::ALL.len() as u16 + 1, 999, u16::MAX] {
            client.send(unknown, 0, [0; 6]);
            let got = client.receive().expect("a reply");
            assert_eq!(got.error(), Some(ErrorCode::Malformed));
        }
        let odd = Request {
            reserved: 7,
            ..ping()
        };
        client.send_bytes(odd.as_bytes(), &[]).expect("sent");
        let got = client.receive().expect("a reply");
        assert_eq!(got.error(), Some(ErrorCode::Malformed));
        client.ok(Op::Ping, 0, [0; 6]);
    });
}

#[test]
fn descriptors_end_the_session_however_many() {
    beside_another(|exod| {
        let gift = memory_file();
        let (end, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        for count in [1, 4, 5, 100, 253] {
            for fd in [gift.as_fd(), end.as_fd()] {
                let client = Client::of(exod);
                let fds: Vec<BorrowedFd<'_>> = std::iter::repeat_n(fd, count).collect();
                client.send_bytes(ping().as_bytes(), &fds).expect("sent");
                assert!(client.ended(), "{count}");
            }
        }
        // Sent before the hello, before exod even accepted, and with no bytes that make sense.
        let client = Client::raw(exod.connect().expect("a connection"));
        client
            .send_bytes(&[1], &[gift.as_fd(), end.as_fd()])
            .expect("sent");
        assert!(client.ended());
    });
}

#[test]
fn files_in_messages_that_are_never_read_are_closed_too() {
    beside_another(|exod| {
        let (end, other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let client = Client::of(exod);
        client.send_bytes(&[1], &[]).expect("a violation");
        // Behind the violation: exod closes the socket with this still in it. It may be gone by
        // now.
        let _ = client.send_bytes(ping().as_bytes(), &[end.as_fd()]);
        drop(end);
        assert!(client.ended());
        drop(client);
        assert!(
            ready(other.as_fd(), PATIENCE),
            "somebody still holds the other end"
        );
    });
}

#[test]
fn handles_are_nobody_elses() {
    beside_another(|exod| {
        let mut owner = Client::of(exod);
        let mut thief = Client::of(exod);
        let (unit, _fd) = owner.alloc(1);
        let (own, _own_fd) = thief.alloc(1);
        let (index, generation) = split_handle(unit);
        let mut guesses = vec![unit, 0, u64::MAX, handle(u32::MAX, 1), handle(0, 0)];
        guesses.extend((0..64).map(|n| handle(index, generation.wrapping_add(n))));
        guesses.extend(
            (0..200)
                .map(|n| handle(n, generation))
                .filter(|guess| *guess != own),
        );
        for guess in guesses {
            for op in [Op::Drop, Op::Inspect, Op::PortPeer] {
                let refused = thief.refused(op, guess, [0; 6]);
                assert_eq!(refused, Some(ErrorCode::NoSuchHandle), "{op:?} {guess:x}");
            }
            let create = thief.create(guess, "stolen", 0).error();
            assert_eq!(create, Some(ErrorCode::NoSuchHandle));
            if guess != 0 {
                let list = thief.refused(Op::List, guess, [0; 6]);
                assert_eq!(list, Some(ErrorCode::NoSuchHandle));
            }
        }
        // Its own, where it does not fit.
        let wrong = thief.refused(Op::PortPeer, own, [0; 6]);
        assert_eq!(wrong, Some(ErrorCode::WrongKind));
        let huge = thief.refused(Op::PortCreate, own, port_args("big", 17, 0));
        assert_eq!(huge, Some(ErrorCode::Malformed));
        thief.ok(Op::Drop, own, [0; 6]);
        let stale = thief.refused(Op::Drop, own, [0; 6]);
        assert_eq!(stale, Some(ErrorCode::NoSuchHandle));
        owner.ok(Op::Inspect, unit, [0; 6]);
    });
}

#[test]
fn a_flooder_gets_its_share_and_no_more() {
    beside_another(|exod| {
        let flooder = Client::of(exod);
        let mut other = Client::of(exod);
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    for _ in 0..PIPELINE_MAX {
                        flooder.send_bytes(ping().as_bytes(), &[]).expect("sent");
                    }
                    for _ in 0..PIPELINE_MAX {
                        flooder.receive().expect("a reply");
                    }
                }
            });
            for _ in 0..1000 {
                other.ok(Op::Ping, 0, [0; 6]);
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    });
}

#[test]
fn one_that_never_reads_is_not_read_from_either() {
    beside_another(|exod| {
        let client = Client::of(exod);
        rustix::io::ioctl_fionbio(&client.socket, true).expect("non-blocking");
        let end = Instant::now() + Duration::from_secs(10);
        let mut sent: u32 = 0;
        let mut full_since = None;
        // Full for a while: exod does not read on.
        while full_since.is_none_or(|at: Instant| at.elapsed() < Duration::from_millis(100)) {
            assert!(
                Instant::now() < end,
                "{sent} requests, and exod still reads"
            );
            let mut request = ping();
            request.seq = sent;
            match client.send_bytes(request.as_bytes(), &[]) {
                Ok(_) => (sent, full_since) = (sent + 1, None),
                Err(rustix::io::Errno::AGAIN) => {
                    full_since.get_or_insert_with(Instant::now);
                    std::thread::yield_now();
                }
                Err(e) => panic!("{e}"),
            }
        }
        // When it reads after all, every reply is there, in order.
        for seq in 0..sent {
            assert_eq!(client.receive().expect("a reply").reply.seq, seq);
        }
    });
}

#[test]
fn one_that_holds_everything_leaves_what_is_granted_to_others() {
    let mut config = config();
    config.pool.frames = exod::config::FrameCount(8);
    let exod = Embedded::start(config).expect("an embedded exod");
    let (mut watch, ledger, work) = watcher(&exod);
    let mut hog = Client::of(&exod);
    let mut fds = Vec::new();
    let refusal = loop {
        let mut got = hog.call(Op::AllocUnit, 0, [1, 0, 0, 0, 0, 0]);
        match got.error() {
            None => fds.extend(got.fds.pop_front()),
            Some(code) => break code,
        }
    };
    assert_eq!((refusal, fds.len()), (ErrorCode::NoFrames, 8));
    let ports = (0..).take_while(|n| {
        let Some(unit) = nth_unit(&mut hog, *n) else {
            return false;
        };
        hog.create(unit, &format!("hog-{n}"), 0).error().is_none()
    });
    assert_eq!(ports.count(), 8);
    watch.ok(Op::Ping, 0, [0; 6]);
    assert_eq!(watch.stats(StatsPage::Ledger)[3], 0);
    drop((hog, fds));
    watch.wait_for(ledger, work);
}

fn nth_unit(client: &mut Client, n: usize) -> Option<u64> {
    let mut units = Vec::new();
    let mut last = client.ok(Op::List, 0, [0; 6]).reply;
    while last.handle != 0 {
        if last.vals[0] == 1 {
            units.push(last.handle);
        }
        last = client.ok(Op::List, last.handle, [0; 6]).reply;
    }
    units.sort_unstable();
    units.get(n).copied()
}

#[test]
fn a_bell_cannot_be_jammed() {
    beside_another(|exod| {
        let mut hostile = Client::of(exod);
        let (unit, _fd) = hostile.alloc(1);
        assert_eq!(hostile.create(unit, "demo", 0).error(), None);
        let bell = hostile.bell.as_ref().expect("a bell");
        rustix::fs::fcntl_setfl(bell, rustix::fs::OFlags::empty()).expect("its own flags");
        let mut admin = Client::of(exod);
        // Many more rings than any bell holds, none of them heard.
        for on in (0..2000).map(|n| n % 2) {
            admin.ok(Op::PortTap, 0, port_args("demo", 0, on));
        }
        assert!(ready(bell.as_fd(), Duration::ZERO));
    });
}

/// Random requests, mostly well-formed, from several sessions that end at random.
#[test]
fn any_sequence_of_requests_leaves_a_balanced_ledger() {
    beside_another(|exod| {
        let mut rng = fastrand::Rng::with_seed(0x0e0d);
        let mut sessions: Vec<(Client, Vec<u64>)> = Vec::new();
        for _ in 0..4000 {
            if sessions.len() < 4 {
                sessions.push((Client::of(exod), vec![0]));
            }
            let chosen = rng.usize(..sessions.len());
            if rng.u8(..) == 0 {
                sessions.swap_remove(chosen);
                continue;
            }
            let (client, handles) = &mut sessions[chosen];
            let op = Op::ALL[rng.usize(1..Op::ALL.len())];
            let known = handles[rng.usize(..handles.len())];
            let name = ["a", "b", "tap:a/0", "tap:b/1"][rng.usize(..4)];
            let args = match op {
                Op::AllocUnit => [rng.u64(1..4), 0, 0, 0, 0, 0],
                Op::PortCreate => port_args(name, rng.u64(4..8), rng.u64(..4)),
                Op::PortJoin => port_args(name, 0, rng.u64(..4)),
                Op::PortTap => port_args(name, 0, rng.u64(..2)),
                Op::PortAttach => [handles[rng.usize(..handles.len())], 0, 0, 0, 0, 0],
                Op::PortSegment => [rng.u64(..3), 0, 0, 0, 0, 0],
                Op::PortCounts | Op::PortNext => [rng.u64(..99), 0, 0, 0, 0, 0],
                Op::DomainNext => [known, 0, 0, 0, 0, 0],
                _ => [0; 6],
            };
            let plain = [Op::AllocUnit, Op::PortTap, Op::Stats, Op::Ping];
            let watching = [Op::DomainNext, Op::PortNext, Op::PortCounts, Op::Counters];
            let takes_handle = !plain.contains(&op) && !watching.contains(&op);
            let got = client.call(op, if takes_handle { known } else { 0 }, args);
            assert_ne!(got.error(), Some(ErrorCode::Malformed), "{op:?}");
            handles.extend([got.reply.handle].into_iter().filter(|h| *h != 0));
            handles.dedup();
        }
    });
}
