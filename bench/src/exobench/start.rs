//! exod's start, and what it costs when nobody asks for anything.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::unistd::Pid;

use super::daemon::{Daemon, hugepages};
use super::rows::{Found, Measure, Programs, Unit, spread};
use crate::interrupt;
use crate::row::{Figure, Kind, Plan};

/// Fewest starts of one run, and most.
const STARTS: std::ops::Range<usize> = 5..100;
/// Shortest time in which wake-ups are counted: below a second, a timer of a second is missed.
const IDLE_MIN: Duration = Duration::from_secs(2);
/// What the session that waited for idleness leaves behind is done by then.
const REST: Duration = Duration::from_millis(300);

pub(super) const ROWS: [Measure; 2] = [
    Measure {
        name: "start",
        about: "exod with 1,024 frames of 2 MiB, from the start of its process to READY=1",
        kind: Kind::Ours,
        run: start,
    },
    Measure {
        name: "idle",
        about: "wake-ups a second of all threads of an exod that nobody uses, and its memory",
        kind: Kind::Ours,
        run: idle,
    },
];

fn start(programs: &Programs, plan: &Plan) -> Result<Found> {
    let _lease = hugepages();
    let begin = Instant::now();
    let mut times = Vec::new();
    let mut details = Default::default();
    while times.len() < STARTS.start
        || (begin.elapsed() < plan.duration && times.len() < STARTS.end)
    {
        interrupt::check()?;
        let daemon = Daemon::start(programs)?;
        times.push(daemon.ready_after);
        details = daemon.details();
        daemon.stop()?;
    }
    Ok(Found {
        figures: spread(times, Unit::Ms),
        details,
    })
}

fn idle(programs: &Programs, plan: &Plan) -> Result<Found> {
    let _lease = hugepages();
    let daemon = Daemon::start(programs)?;
    daemon.settle()?;
    interrupt::sleep(REST)?;
    let (before, begin) = (switches(daemon.pid())?, Instant::now());
    interrupt::sleep(plan.duration.max(IDLE_MIN))?;
    let (after, elapsed) = (switches(daemon.pid())?, begin.elapsed());
    let woken: u64 = after
        .iter()
        .map(|(thread, count)| count - before.get(thread).unwrap_or(&0).min(count))
        .sum();
    let figures = vec![
        Figure {
            metric: "wakeups",
            value: woken as f64 / elapsed.as_secs_f64(),
            unit: "1/s",
        },
        Figure {
            metric: "rss",
            value: resident_kib(daemon.pid())? as f64 / 1024.0,
            unit: "MiB",
        },
    ];
    let details = daemon.details();
    daemon.stop()?;
    Ok(Found { figures, details })
}

/// How often each thread was given a core: a thread that sleeps was woken once for each.
fn switches(pid: Pid) -> Result<BTreeMap<String, u64>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        // A thread may end between the two looks.
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else {
            continue;
        };
        let count = field(&status, "voluntary_ctxt_switches").unwrap_or(0);
        found.insert(entry.file_name().to_string_lossy().into_owned(), count);
    }
    Ok(found)
}

fn resident_kib(pid: Pid) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    field(&status, "VmRSS").context("/proc says no VmRSS")
}

/// A number in a `status` file of /proc.
fn field(status: &str, name: &str) -> Option<u64> {
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_sleeps_often_is_seen() {
        let own = Pid::from_raw(std::process::id() as i32);
        let before: u64 = switches(own).unwrap().values().sum();
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let after: u64 = switches(own).unwrap().values().sum();
        assert!(after >= before + 10, "{before} {after}");
        assert!(resident_kib(own).unwrap() > 100);
    }
}
