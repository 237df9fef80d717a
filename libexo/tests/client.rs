//! The client against an exod that answers well, late, never, or nonsense.

mod liar;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use liar::{Liar, STATUS_BYTES, bell, memory, read_only};
use libexo::abi::port::PortFlags;
use libexo::abi::status::{LOSS_COUNTER_WORD, Status, handle, word, word_index};
use libexo::abi::wire::{ErrorCode, ObjectKind, Op, PIPELINE_MAX, PageKind, PortName};
use libexo::abi::wire::{Protection, Reply, Request, Rights};
use libexo::client::Call;
use libexo::{Client, Error, Result};
use zerocopy::IntoBytes;

/// Long enough for any machine, short enough to be told from a hang.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));

/// Tests count the process's descriptors: they take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("procfs").count()
}

/// A session whose other end runs `script` after an honest hello; nothing of it stays open.
fn session<R>(script: impl FnOnce(&Liar) + Send, test: impl FnOnce(&Client) -> R) -> R {
    let before = open_descriptors();
    let result = thread::scope(|scope| {
        let (liar, socket) = Liar::new();
        let other = scope.spawn(move || {
            liar.greet();
            script(&liar);
        });
        let client = Client::over_with(socket, PATIENCE).expect("an honest hello");
        let result = test(&client);
        drop(client);
        other.join().expect("the script ran");
        result
    });
    assert_eq!(open_descriptors(), before, "descriptors leaked");
    result
}

/// Answers every request with an empty success.
fn agree(liar: &Liar) {
    while let Some(request) = liar.request() {
        liar.answer(&request, Reply::default(), &[]);
    }
}

#[test]
fn every_operation_asks_and_answers_as_the_protocol_says() {
    let _turn = turn();
    let name = PortName::new("demo").expect("a good name");
    let [a, b, c] = name.words();
    let unit = memory(8192);
    let seen = read_only(&unit);
    let (hear, ring) = bell();
    let (unit, seen, hear, ring) = (unit.as_fd(), seen.as_fd(), hear.as_fd(), ring.as_fd());
    let peer = [5, 8192, 1, 3, 1, 77];
    let found = [2, 3, 0, 32, 2, 0];
    let found = Reply {
        handle: 8,
        vals: found,
        ..Reply::default()
    };
    let of = |handle, vals| Reply {
        handle,
        vals,
        ..Reply::default()
    };
    let none = Reply::default();
    // Operation, handle and arguments that must be asked; the answer.
    type Exchange<'a> = (Op, u64, [u64; 6], Reply, Vec<std::os::fd::BorrowedFd<'a>>);
    let exchanges: Vec<Exchange<'_>> = vec![
        (Op::Ping, 0, [0; 6], none, vec![]),
        (
            Op::AllocUnit,
            0,
            [2, 3, 0, 0, 0, 0],
            of(7, [8192, 3, 2, 0, 0, 0]),
            vec![unit],
        ),
        (Op::Inspect, 8, [0; 6], found, vec![]),
        (Op::List, 0, [0; 6], found, vec![]),
        (Op::List, 8, [0; 6], none, vec![]),
        (
            Op::PortCreate,
            7,
            [a, b, c, 5, 1, 0],
            of(9, [0; 6]),
            vec![hear, ring],
        ),
        (
            Op::PortJoin,
            7,
            [a, b, c, 0, 1, 0],
            of(9, peer),
            vec![seen, hear, ring],
        ),
        (
            Op::PortPeer,
            9,
            [0; 6],
            Reply { status: 13, ..none },
            vec![],
        ),
        (Op::PortPeer, 9, [0; 6], of(77, peer), vec![seen]),
        (
            Op::PortAttach,
            9,
            [7, 0, 0, 0, 0, 0],
            of(0, [31, 0, 0, 0, 0, 0]),
            vec![],
        ),
        (
            Op::PortSegment,
            9,
            [4, 0, 0, 0, 0, 0],
            of(6, [4096, 1, 0, 0, 0, 0]),
            vec![seen],
        ),
        (Op::PortLeave, 9, [2, 0, 0, 0, 0, 0], none, vec![]),
        (Op::PortTap, 0, [a, b, c, 0, 1, 0], none, vec![]),
        (
            Op::Stats,
            0,
            [3, 0, 0, 0, 0, 0],
            of(0, [1, 2, 3, 4, 5, 6]),
            vec![],
        ),
        (
            Op::Stats,
            0,
            [0, 1, 0, 0, 0, 0],
            of(0, [1, 2, 3, 4, 5, 6]),
            vec![],
        ),
        (Op::Drop, 7, [0; 6], none, vec![]),
    ];
    let script = |liar: &Liar| {
        for (op, handle, args, reply, fds) in &exchanges {
            let request = liar.request().expect("one more request");
            assert_eq!((request.op, request.handle), (*op as u16, *handle));
            assert_eq!(request.args, *args, "{op:?}");
            liar.answer(&request, *reply, fds);
        }
    };
    session(script, |exod| {
        let info = exod.session();
        assert_eq!(
            (info.domain, info.frame_bytes, info.frames_left),
            (3, 4096, 100)
        );
        exod.ping().expect("a ping");
        let unit = exod.alloc_unit(2, Some(PageKind::Small4K)).expect("a unit");
        assert_eq!((unit.handle, unit.bytes), (7, 8192));
        assert_eq!(
            (unit.page_kind, unit.protection),
            (PageKind::Small4K, Protection::Seals)
        );
        let port = exod.inspect(8).expect("a port");
        assert_eq!(
            (port.handle, port.kind, port.size),
            (8, ObjectKind::Port, 32)
        );
        assert_eq!(
            (port.rights, port.page_kind),
            (Rights::READ | Rights::WRITE, None)
        );
        let all: Result<Vec<_>> = exod.list().collect();
        assert_eq!(all.expect("a list"), [port]);
        let flags = PortFlags::SHARE;
        assert_eq!(
            exod.port_create(&name, 7, 5, flags).expect("a port").handle,
            9
        );
        let joined = exod.port_join(&name, 7, flags).expect("a port");
        assert_eq!((joined.handle, joined.peer.unit_handle), (9, 77));
        assert!(exod.port_peer(9).expect("an answer").is_none());
        let peer = exod.port_peer(9).expect("an answer").expect("a peer");
        assert_eq!(
            (peer.unit_handle, peer.bytes, peer.ring_log2, peer.side),
            (77, 8192, 5, 1)
        );
        assert_eq!((peer.flags, peer.page_kind), (flags, PageKind::Small4K));
        assert_eq!(exod.port_attach(9, 7).expect("an index"), 31);
        let segment = exod.port_segment(9, 4).expect("a segment");
        assert_eq!(
            (segment.handle, segment.bytes, segment.page_kind),
            (6, 4096, PageKind::Huge2M)
        );
        exod.port_leave(9, 2).expect("no refusal");
        exod.port_tap(&name, true).expect("no refusal");
        let ledger = exod.stats(3).expect("a ledger");
        assert_eq!(
            (ledger.domains, ledger.frames_free, ledger.frames_pinned),
            (1, 4, 6)
        );
        let work = exod.work().expect("what exod does");
        assert_eq!((work.sessions, work.jobs, work.pinned), (1, 3, 6));
        exod.drop_handle(7).expect("no refusal");
    });
}

#[test]
fn requests_are_pipelined_and_answers_collected_in_any_order() {
    let _turn = turn();
    let unit = memory(4096);
    let script = |liar: &Liar| {
        // Nothing is answered before all are there.
        let requests: Vec<_> = (0..10).map_while(|_| liar.request()).collect();
        for (i, request) in requests.iter().enumerate() {
            let granted = Reply {
                handle: i as u64 + 1,
                vals: [4096, 3, 2, 0, 0, 0],
                ..Reply::default()
            };
            liar.answer(request, granted, &[unit.as_fd()]);
        }
        agree(liar);
    };
    session(script, |exod| {
        let mut pending: Vec<_> = (0..10)
            .map(|_| exod.submit(Call::alloc_unit(1, None)).expect("sent"))
            .collect();
        let last = pending.pop().expect("ten").wait().expect("a unit");
        let first = pending.remove(0).wait().expect("a unit");
        assert_eq!((first.handle, last.handle), (1, 10));
        // The other eight are dropped unread, and the session goes on.
        drop(pending);
        exod.ping().expect("order was kept");
    });
}

#[test]
fn more_than_the_pipeline_holds_can_be_submitted() {
    let _turn = turn();
    session(agree, |exod| {
        let sent: Result<Vec<_>> = (0..3 * PIPELINE_MAX)
            .map(|_| exod.submit(Call::ping()))
            .collect();
        for pending in sent.expect("all sent") {
            pending.wait().expect("an answer");
        }
    });
}

#[test]
fn a_refusal_keeps_its_reason() {
    let _turn = turn();
    let script = |liar: &Liar| {
        for status in 1..=17 {
            let request = liar.request().expect("a ping");
            liar.answer(
                &request,
                Reply {
                    status,
                    ..Reply::default()
                },
                &[],
            );
        }
    };
    session(script, |exod| {
        for raw in 1..=17 {
            let error = exod.ping().expect_err("a refusal");
            assert_eq!(error.code(), ErrorCode::from_raw(raw), "{error}");
        }
    });
}

#[test]
fn a_silent_exod_times_out_and_its_late_answer_is_dropped() {
    let _turn = turn();
    let file = memory(4096);
    let unit = &file;
    let (go, wait) = std::sync::mpsc::channel();
    let script = move |liar: &Liar| {
        let late = liar.request().expect("a request");
        wait.recv().expect("the client gave up");
        let granted = Reply {
            handle: 1,
            vals: [4096, 3, 2, 0, 0, 0],
            ..Reply::default()
        };
        liar.answer(&late, granted, &[unit.as_fd()]);
        agree(liar);
    };
    session(script, |exod| {
        exod.set_timeout(Some(Duration::from_millis(20)));
        let error = exod.alloc_unit(1, None).expect_err("silence");
        assert!(
            matches!(error, Error::TimedOut { op: Op::AllocUnit }),
            "{error}"
        );
        exod.set_timeout(PATIENCE);
        go.send(()).expect("the script waits");
        exod.ping().expect("the session goes on");
    });
}

/// One lie: how a request for a unit is answered, and what the error must say.
type Lie = (&'static str, fn(&Liar, &Request));

/// A good answer to a request for one unit, to spoil.
const GRANT: Reply = Reply {
    op: Op::AllocUnit as u16,
    status: 0,
    seq: 0,
    handle: 5,
    vals: [4096, 3, 2, 0, 0, 0],
};

/// Answers with `reply` and so many good memory files.
fn with_units(liar: &Liar, request: &Request, reply: Reply, count: usize) {
    let units: Vec<OwnedFd> = (0..count).map(|_| memory(4096)).collect();
    let units: Vec<_> = units.iter().map(AsFd::as_fd).collect();
    liar.answer(request, reply, &units);
}

/// Answers well, but with another descriptor.
fn with_fd(liar: &Liar, request: &Request, fd: impl AsFd) {
    liar.answer(request, GRANT, &[fd.as_fd()]);
}

/// Answers well, but for one value.
fn with_val(liar: &Liar, request: &Request, index: usize, value: u64) {
    let mut reply = GRANT;
    reply.vals[index] = value;
    with_units(liar, request, reply, 1);
}

/// Lies about one answer: the session goes on.
const LIES: &[Lie] = &[
    ("unknown error code", |l, r| {
        l.answer(
            r,
            Reply {
                status: 18,
                ..GRANT
            },
            &[],
        )
    }),
    ("unknown error code", |l, r| {
        l.answer(
            r,
            Reply {
                status: u16::MAX,
                ..GRANT
            },
            &[],
        )
    }),
    ("refusal with descriptors", |l, r| {
        with_units(l, r, Reply { status: 8, ..GRANT }, 1)
    }),
    ("number of descriptors", |l, r| with_units(l, r, GRANT, 0)),
    ("number of descriptors", |l, r| with_units(l, r, GRANT, 2)),
    ("number of descriptors", |l, r| with_units(l, r, GRANT, 4)),
    ("no handle", |l, r| {
        with_units(l, r, Reply { handle: 0, ..GRANT }, 1)
    }),
    ("length of memory", |l, r| with_val(l, r, 0, 0)),
    ("length of memory", |l, r| with_val(l, r, 0, 4095)),
    ("length of memory", |l, r| with_val(l, r, 0, u64::MAX)),
    ("length of memory", |l, r| with_val(l, r, 0, 1 << 63)),
    ("shorter than announced", |l, r| with_val(l, r, 0, 1 << 40)),
    ("page kind", |l, r| with_val(l, r, 1, 4)),
    ("page kind", |l, r| with_val(l, r, 1, u64::MAX)),
    ("no such protection", |l, r| with_val(l, r, 2, 0)),
    ("other access", |l, r| {
        with_fd(l, r, read_only(memory(4096)))
    }),
    ("no memory", |l, r| with_fd(l, r, bell().0)),
    ("no memory", |l, r| with_fd(l, r, &l.ringer)),
    ("no memory", |l, r| with_fd(l, r, Liar::new().1)),
    ("no memory", |l, r| {
        with_fd(l, r, std::fs::File::open("/").expect("the root"))
    }),
    ("no memory", |l, r| {
        with_fd(l, r, std::fs::File::open("/dev/null").expect("null"))
    }),
];

/// Lies that leave it open which answer is whose: the session is over.
const FATAL_LIES: &[Lie] = &[
    ("answers something else", |l, r| {
        let other = Request {
            seq: r.seq + 1,
            ..*r
        };
        with_units(l, &other, GRANT, 1);
    }),
    ("answers something else", |l, r| {
        let other = Request {
            op: Op::Ping as u16,
            ..*r
        };
        with_units(l, &other, GRANT, 1);
    }),
    ("answers something else", |l, r| {
        let other = Request { op: 999, ..*r };
        with_units(l, &other, GRANT, 1);
    }),
    ("another length", |l, _| {
        l.say(&[7], &[memory(4096).as_fd()])
    }),
    ("another length", |l, _| l.say(&GRANT.as_bytes()[..63], &[])),
    ("another length", |l, _| l.say(&[0; 65], &[])),
    ("another length", |l, _| {
        l.say(&[0; 4096], &[memory(4096).as_fd()])
    }),
    ("cut off", |l, r| with_units(l, r, GRANT, 9)),
    ("cut off", |l, r| with_units(l, r, GRANT, 16)),
];

#[test]
fn a_lie_in_an_answer_is_an_error_and_leaks_nothing() {
    let _turn = turn();
    for (expected, lie) in LIES {
        let script = |liar: &Liar| {
            lie(liar, &liar.request().expect("a request"));
            agree(liar);
        };
        session(script, |exod| {
            let error = exod.alloc_unit(1, None).expect_err(expected);
            assert!(
                matches!(
                    error,
                    Error::BadReply {
                        op: Op::AllocUnit,
                        ..
                    }
                ),
                "{error}"
            );
            assert!(
                error.to_string().contains(expected),
                "{error}, not {expected}"
            );
            exod.ping().expect("the session goes on");
        });
    }
}

#[test]
fn a_lie_about_the_order_of_answers_ends_the_session() {
    let _turn = turn();
    for (expected, lie) in FATAL_LIES {
        let script = |liar: &Liar| {
            lie(liar, &liar.request().expect("a request"));
            agree(liar);
        };
        session(script, |exod| {
            let error = exod.alloc_unit(1, None).expect_err(expected);
            assert!(matches!(error, Error::BadReply { .. }), "{error}");
            assert!(
                error.to_string().contains(expected),
                "{error}, not {expected}"
            );
            assert!(matches!(exod.ping(), Err(Error::Disconnected)));
        });
    }
}

#[test]
fn other_pages_than_asked_for_are_refused() {
    let _turn = turn();
    let script = |liar: &Liar| with_units(liar, &liar.request().expect("a request"), GRANT, 1);
    session(script, |exod| {
        let error = exod
            .alloc_unit(1, Some(PageKind::Huge2M))
            .expect_err("4 KiB pages");
        assert!(error.to_string().contains("another kind"), "{error}");
    });
}

#[test]
fn a_list_that_never_ends_does() {
    let _turn = turn();
    for circle in [1, 2] {
        let script = |liar: &Liar| {
            let mut handles = (0..circle).cycle();
            while let Some(request) = liar.request() {
                let reply = Reply {
                    handle: handle(4, 1 + handles.next().expect("a cycle")),
                    vals: [1, 1, 2, 4096, 1, 3],
                    ..Reply::default()
                };
                liar.answer(&request, reply, &[]);
            }
        };
        session(script, |exod| {
            let listed: Vec<_> = exod.list().collect();
            if circle == 1 {
                let lied = Err(Op::List);
                let ends = listed.into_iter().map(|found| match found {
                    Err(Error::BadReply { op, .. }) => Err(op),
                    other => Ok(other.is_ok()),
                });
                assert_eq!(ends.collect::<Vec<_>>(), [Ok(true), lied]);
            } else {
                assert_eq!(listed.len(), exod.status_table().handles());
            }
        });
    }
}

#[test]
fn an_exod_that_goes_away_is_told_apart() {
    let _turn = turn();
    // Before the request, and with the request unread or unanswered.
    session(
        |_| {},
        |exod| assert!(matches!(exod.ping(), Err(Error::Disconnected))),
    );
    let unanswered = |liar: &Liar| assert!(liar.request().is_some());
    session(unanswered, |exod| {
        assert!(matches!(exod.ping(), Err(Error::Disconnected)));
        assert!(matches!(
            exod.submit(Call::ping()).map(drop),
            Err(Error::Disconnected)
        ));
    });
    // Answers that were sent before are still heard.
    let last_words = |liar: &Liar| {
        let request = liar.request().expect("a ping");
        liar.request().expect("another");
        liar.answer(&request, Reply::default(), &[]);
    };
    session(last_words, |exod| {
        let first = exod.submit(Call::ping()).expect("sent");
        let second = exod.submit(Call::ping()).expect("sent");
        assert!(matches!(second.wait(), Err(Error::Disconnected)));
        first.wait().expect("it was answered");
    });
}

/// Greets with `reply` and descriptors; the client must say `expected`.
fn greeted(expected: &str, reply: Reply, fds: &[&OwnedFd]) {
    let before = open_descriptors();
    thread::scope(|scope| {
        let (liar, socket) = Liar::new();
        scope.spawn(move || {
            let hello = liar.request().expect("a hello");
            let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
            liar.answer(&hello, reply, &fds);
            // Hangs up only after the client did.
            assert!(liar.request().is_none());
        });
        let error = Client::over_with(socket, PATIENCE).expect_err(expected);
        assert!(
            error.to_string().contains(expected),
            "{error}, not {expected}"
        );
    });
    assert_eq!(
        open_descriptors(),
        before,
        "descriptors leaked after {expected}"
    );
}

#[test]
fn a_lie_in_the_hello_is_an_error_and_leaks_nothing() {
    let _turn = turn();
    let (status, (hear, ring)) = (read_only(memory(STATUS_BYTES)), bell());
    let with = |index: usize, value: u64| {
        let mut reply = Liar::greeting();
        reply.vals[index] = value;
        reply
    };
    let good = Liar::greeting();
    let fds = [&status, &hear];
    greeted("protocol version", with(0, 2), &fds);
    greeted("matching versions", Reply { status: 2, ..good }, &[]);
    for bytes in [0, 64, 71, 75, u64::MAX] {
        greeted("status table size", with(2, bytes), &fds);
    }
    greeted(
        "shorter than announced",
        with(2, 2 * STATUS_BYTES as u64),
        &fds,
    );
    greeted("page kind", with(3, 9), &fds);
    for bytes in [0, 1, 5000, 1 << 40] {
        greeted("frame size", with(4, bytes), &fds);
    }
    greeted("number of descriptors", good, &[]);
    greeted("number of descriptors", good, &[&status]);
    greeted("number of descriptors", good, &[&status, &hear, &hear]);
    greeted("no memory", good, &[&hear, &status]);
    greeted("no bell", good, &[&status, &status]);
    greeted("wrong end of a bell", good, &[&status, &ring]);
    greeted("other access", good, &[&memory(STATUS_BYTES), &hear]);
    rustix::fs::fcntl_setfl(&hear, rustix::fs::OFlags::empty()).expect("our own pipe");
    greeted("makes its holder wait", good, &fds);
}

#[test]
fn random_answers_are_survived() {
    let _turn = turn();
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..300 {
        let seed = random.u64(..);
        let script = move |liar: &Liar| {
            let mut random = fastrand::Rng::with_seed(seed);
            let (unit, (hear, ring)) = (memory(8192), bell());
            let seen = read_only(&unit);
            while let Some(request) = liar.request() {
                let all = [unit.as_fd(), seen.as_fd(), hear.as_fd(), ring.as_fd()];
                let fds: Vec<_> = (0..random.usize(..5))
                    .map(|_| all[random.usize(..4)])
                    .collect();
                let mut small = || random.u64(..) >> random.u32(40..64);
                let reply = Reply {
                    handle: small(),
                    vals: std::array::from_fn(|_| small()),
                    status: small() as u16 & 1,
                    ..Reply::default()
                };
                liar.answer(&request, reply, &fds);
            }
        };
        session(script, |exod| {
            let name = PortName::new("x").expect("a good name");
            let _ = exod.alloc_unit(1, None);
            let _ = exod.inspect(1);
            let _ = exod.list().take(20).count();
            let _ = exod.port_create(&name, 1, 4, PortFlags::empty());
            let _ = exod.port_join(&name, 1, PortFlags::empty());
            let _ = exod.port_peer(1);
            let _ = exod.port_attach(1, 1);
            let _ = exod.port_segment(1, 1);
            let _ = exod.stats(0);
            // Order is never lost by what an answer says.
            assert!(!matches!(exod.ping(), Err(Error::Disconnected)));
        });
    }
}

#[test]
fn status_words_are_read_as_exod_writes_them() {
    let _turn = turn();
    let (to_client, events) = std::sync::mpsc::channel();
    let (go, next) = std::sync::mpsc::channel::<()>();
    let store = |liar: &Liar, index: usize, word: u64| {
        let offset = 8 * index as u64;
        liar.status
            .write_all_at(&word.to_ne_bytes(), offset)
            .expect("our own file");
    };
    let script = move |liar: &Liar| {
        store(liar, word_index(3), word(9, 0, Status::LIVE));
        to_client.send(()).expect("the client listens");
        next.recv().expect("the client goes on");
        store(
            liar,
            word_index(3),
            word(9, 250, Status::LIVE | Status::ASKED_BACK),
        );
        store(liar, LOSS_COUNTER_WORD, 1);
        rustix::io::write(&liar.ringer, &1u64.to_ne_bytes()).expect("room for a ring");
        rustix::io::write(&liar.ringer, &1u64.to_ne_bytes()).expect("room for a ring");
        to_client.send(()).expect("the client listens");
        next.recv().expect("the client goes on");
    };
    session(script, |exod| {
        let mine = handle(3, 9);
        events.recv().expect("a word was written");
        let kept = exod.status_word(mine).expect("in the table");
        assert_eq!(
            (exod.status(mine), kept.load()),
            (Status::LIVE, Status::LIVE)
        );
        assert_eq!(exod.status(handle(3, 8)), Status::empty(), "stale");
        assert_eq!(
            exod.status(handle(u32::MAX, 9)),
            Status::empty(),
            "out of the table"
        );
        assert!(matches!(
            exod.status_word(handle(504, 0)),
            Err(Error::BadHandle(_))
        ));
        assert_eq!((exod.loss_counter(), exod.status_table().epoch()), (0, 0));
        assert!(!exod.wait_event(Some(Duration::ZERO)).expect("a bell"));

        go.send(()).expect("the script waits");
        assert!(exod.wait_event(PATIENCE).expect("a bell"));
        let both = Status::LIVE | Status::ASKED_BACK;
        assert_eq!(kept.load_deadline(), (both, 250));
        assert_eq!(exod.loss_counter(), 1);
        // Two rings may be heard as one or as two, then there is silence.
        events.recv().expect("both were rung");
        while exod.take_event().expect("a bell") {}
        assert!(!exod.wait_event(Some(Duration::ZERO)).expect("a bell"));

        go.send(()).expect("the script waits");
        assert!(matches!(
            exod.wait_event(PATIENCE),
            Err(Error::Disconnected)
        ));
        assert_eq!(kept.load_deadline(), (both, 250), "the table outlives exod");
    });
}
