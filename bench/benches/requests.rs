//! What exod's part costs: a capability check in its table, what it writes down about a request,
//! and a request through its socket.
//!
//! The round trip runs twice: with exod's loop on the same core as the client, where one sleeps and
//! the other is switched to, and on another core, which has to be woken from its sleep.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use exod::Embedded;
use exod::book::{Answered, Book, Tally};
use exod::captable::{DomainId, DomainInfo, Limits, NewObject, Quota, Table};
use exod::config::Config;
use exod::counters::Counters;
use exod::decode::Head;
use exod::identity::identify;
use libexo::Client;
use libexo::abi::wire::{ObjectKind, Op, PageKind, Rights};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Capabilities in the table that is searched: all that an exod has room for, but for one in eight.
const CAPABILITIES: u32 = 57_344;
/// Handles that are asked for in turn: more than a cache holds the records of.
const ASKED: usize = 1 << 15;

fn filled() -> (Table, DomainId, Vec<u64>) {
    let mut table = Table::create(Limits::default()).expect("a memory file");
    let quota = Quota {
        frames: u64::MAX,
        capabilities: u32::MAX,
        ports: u32::MAX,
    };
    let domain = table.add_domain(DomainInfo {
        uid: 1000,
        gid: 1000,
        pid: 1,
        pid_start: 1,
        quota,
    });
    let domain = domain.expect("room for one");
    let unit = NewObject {
        kind: ObjectKind::Unit,
        frames: 1,
        page: Some(PageKind::Huge2M),
        tag: 0,
        bound: true,
    };
    let (_, root) = table
        .add_object(domain, unit, Rights::all())
        .expect("room for one");
    let derived = (1..CAPABILITIES).map(|_| {
        table
            .derive(domain, root, domain, Rights::READ)
            .expect("room for all")
    });
    let handles = std::iter::once(root).chain(derived).collect();
    (table, domain, handles)
}

fn check(c: &mut Criterion) {
    let (table, domain, handles) = filled();
    let mut dice = fastrand::Rng::with_seed(7);
    let asked: Vec<u64> = (0..ASKED)
        .map(|_| handles[dice.usize(..handles.len())])
        .collect();
    let mut group = c.benchmark_group("capability-check");
    let mut turn = 0;
    let mut next = || {
        turn = (turn + 1) % ASKED;
        asked[turn]
    };
    group.bench_function("random", |b| {
        b.iter(|| {
            let found = table.check(domain, next(), Rights::READ, Some(ObjectKind::Unit));
            assert!(black_box(found).is_ok());
        });
    });
    group.bench_function("stale", |b| {
        b.iter(|| {
            // The generation is another one.
            let found = table.check(domain, next() ^ 1 << 40, Rights::READ, None);
            assert!(black_box(found).is_err());
        });
    });
    group.finish();
}

/// Cores that this process may use.
fn cores() -> Vec<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("the kernel tells");
    let cores = 0..CpuSet::count();
    cores
        .filter(|core| allowed.is_set(*core).unwrap_or(false))
        .collect()
}

/// Binds this thread, and the threads that it starts.
fn pin(cores: &[usize]) {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core).expect("a core that the kernel named");
    }
    sched_setaffinity(Pid::from_raw(0), &set).expect("cores that were allowed before");
}

fn round_trip(c: &mut Criterion) {
    let all = cores();
    let mut group = c.benchmark_group("request-round-trip");
    let (client_core, other) = (all[0], all.last().copied().unwrap_or(all[0]));
    for (name, exod_core) in [("same-core", client_core), ("other-core", other)] {
        if name == "other-core" && other == client_core {
            println!("skipped: request-round-trip/other-core: one core is allowed here");
            continue;
        }
        pin(&[exod_core]);
        let exod = Embedded::start(Config::embedded()).expect("an embedded exod");
        pin(&[client_core]);
        let client = Client::over(exod.connect().expect("a session")).expect("a hello");
        group.bench_function(name, |b| b.iter(|| client.ping().expect("an answer")));
        drop(client);
    }
    pin(&all);
    group.finish();
}

/// What exod does about a request beside answering it: two looks at the clock, its counters, its
/// histogram. It has no line in any log, as most requests have none.
fn bookkeeping(c: &mut Criterion) {
    let (socket, _other) = std::os::unix::net::UnixDatagram::pair().expect("a pair");
    let (who, _) = identify(std::os::fd::AsFd::as_fd(&socket)).expect("this process");
    let book = Book::new(Arc::new(Counters::create().expect("a page")), None);
    let tally = Tally::new(1, who);
    let mut request = 0;
    c.bench_function("request-bookkeeping", |b| {
        b.iter(|| {
            request += 1;
            let began = Instant::now();
            let head = Head {
                op: Op::Ping as u16,
                seq: request as u32,
            };
            let about = Answered {
                domain: 1,
                request,
                head: black_box(head),
                port: None,
                took: began.elapsed(),
            };
            book.answered(&tally, &about, Ok(0));
        });
    });
}

criterion_group!(benches, check, bookkeeping, round_trip);
criterion_main!(benches);
