//! Requests through exod's socket: the empty one, and memory from the asking to the first byte.
//!
//! The floors do the same without exod: another thread that echoes a record of the same size over
//! the same kind of socket, and a memory file of the same size and pages.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use libexo::Client;
use libexo::shm::Mapping;
use memmap2::MmapOptions;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use serde_json::{Map, Value, json};

use super::SIZE;
use super::daemon::Daemon;
use super::rows::{Found, Measure, Programs, Unit, spread};
use crate::interrupt;
use crate::row::{Kind, Plan};

/// Bytes of a frame.
const FRAME: usize = 2 << 20;
/// Calls between two looks at the clock and at Ctrl-C.
const BATCH: usize = 64;
/// After an allocation exod makes a new ready unit; the next one is asked for when it has.
const REFILL: Duration = Duration::from_millis(5);
/// This thread.
const SELF: Pid = Pid::from_raw(0);

pub(super) const ROWS: [Measure; 6] = [
    Measure {
        name: "request",
        about: "an empty request through exod's socket and back, exod on another core",
        kind: Kind::Ours,
        run: |programs, plan| request(programs, plan, plan.cores),
    },
    Measure {
        name: "request-same-core",
        about: "the same, exod on the client's core",
        kind: Kind::Ours,
        run: |programs, plan| request(programs, plan, [plan.cores[0]; 2]),
    },
    Measure {
        name: "socket",
        about: "a record of the same size echoed by a thread on another core",
        kind: Kind::Floor,
        run: |_, plan| socket(plan, plan.cores),
    },
    Measure {
        name: "socket-same-core",
        about: "the same, the thread on the client's core",
        kind: Kind::Floor,
        run: |_, plan| socket(plan, [plan.cores[0]; 2]),
    },
    Measure {
        name: "alloc-map",
        about: "a unit of one frame from exod: asked for, mapped, its first byte written",
        kind: Kind::Ours,
        run: alloc,
    },
    Measure {
        name: "mmap",
        about: "a memory file of 2 MiB: made, mapped, all its pages there",
        kind: Kind::Floor,
        run: map,
    },
];

/// Binds a thread to one core until drop.
struct Pin {
    before: CpuSet,
}

impl Pin {
    fn this(core: usize) -> Result<Pin> {
        let before = sched_getaffinity(SELF)?;
        pin(SELF, core)?;
        Ok(Pin { before })
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        // It was allowed before; if it is not any more, the thread stays where it is.
        let _ = sched_setaffinity(SELF, &self.before);
    }
}

fn pin(thread: Pid, core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    sched_setaffinity(thread, &set).with_context(|| format!("cannot use core {core}"))
}

/// Times single calls as long as the window is, after a warm-up.
fn calls(plan: &Plan, mut call: impl FnMut() -> Result<()>) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    let warm = Instant::now() + plan.warm_up;
    let end = warm + plan.duration;
    loop {
        for _ in 0..BATCH {
            let start = Instant::now();
            call()?;
            times.push(start.elapsed());
        }
        interrupt::check()?;
        let now = Instant::now();
        if now < warm {
            times.clear();
        }
        if now >= end {
            return Ok(times);
        }
    }
}

/// What calls of a client of a fresh exod, which has come to rest, took.
fn asked(
    programs: &Programs,
    calls: impl FnOnce(&Daemon, &Client) -> Result<Vec<Duration>>,
) -> Result<Found> {
    let daemon = Daemon::start(programs)?;
    daemon.settle()?;
    let client = daemon.connect()?;
    let times = calls(&daemon, &client)?;
    let details = daemon.details();
    drop(client);
    daemon.stop()?;
    Ok(Found {
        figures: spread(times, Unit::Us),
        details,
    })
}

fn request(programs: &Programs, plan: &Plan, [own, other]: [usize; 2]) -> Result<Found> {
    asked(programs, |daemon, client| {
        // Its loop is its first thread.
        pin(daemon.pid(), other)?;
        let _pinned = Pin::this(own)?;
        calls(plan, || Ok(client.ping()?))
    })
}

fn socket(plan: &Plan, [own, other]: [usize; 2]) -> Result<Found> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let echo = thread::spawn(move || {
        pin(SELF, other)?;
        let mut record = [0; SIZE];
        while recv(&theirs, &mut record, RecvFlags::empty())?.0 == SIZE {
            send(&theirs, &record, SendFlags::NOSIGNAL)?;
        }
        anyhow::Ok(())
    });
    let pinned = Pin::this(own)?;
    let times = calls(plan, || echoed(&ours));
    drop(pinned);
    // The echo ends with our end.
    drop(ours);
    echo.join().ok().context("the echo panicked")??;
    Ok(Found {
        figures: spread(times?, Unit::Us),
        details: kernel("seqpacket", "4K"),
    })
}

fn echoed(socket: &OwnedFd) -> Result<()> {
    let mut record = [1; SIZE];
    send(socket, &record, SendFlags::NOSIGNAL)?;
    recv(socket, &mut record, RecvFlags::empty())?;
    Ok(())
}

fn kernel(mode: &str, page: &str) -> Map<String, Value> {
    let details = json!({ "device": "none", "driver": "kernel", "mode": mode, "page": page });
    details.as_object().cloned().unwrap_or_default()
}

/// Times calls that need a rest between them, at least `BATCH`.
fn rested(plan: &Plan, mut call: impl FnMut() -> Result<Duration>) -> Result<Vec<Duration>> {
    let end = Instant::now() + plan.duration;
    let mut times = Vec::new();
    while times.len() < BATCH || Instant::now() < end {
        times.push(call()?);
        interrupt::sleep(REFILL)?;
    }
    Ok(times)
}

fn alloc(programs: &Programs, plan: &Plan) -> Result<Found> {
    asked(programs, |_, client| rested(plan, || allocated(client)))
}

fn allocated(client: &Client) -> Result<Duration> {
    let start = Instant::now();
    let unit = client.alloc_unit(1, None)?;
    let mapping = Mapping::own(client, &unit)?;
    let words = mapping.words(0, 1).context("a unit has a word")?;
    words.clear();
    Ok(start.elapsed())
}

fn map(_: &Programs, plan: &Plan) -> Result<Found> {
    let huge = MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB | MemfdFlags::CLOEXEC;
    let (flags, page) = match mapped(huge) {
        Ok(_) => (huge, "2M"),
        Err(_) => (MemfdFlags::CLOEXEC, "4K"),
    };
    let times = rested(plan, || mapped(flags))?;
    Ok(Found {
        figures: spread(times, Unit::Us),
        details: kernel("memfd", page),
    })
}

fn mapped(flags: MemfdFlags) -> Result<Duration> {
    let start = Instant::now();
    let file = memfd_create("exobench", flags)?;
    ftruncate(&file, FRAME as u64)?;
    let map = MmapOptions::new().len(FRAME).populate().map_raw(&file)?;
    let elapsed = start.elapsed();
    drop(map);
    Ok(elapsed)
}
