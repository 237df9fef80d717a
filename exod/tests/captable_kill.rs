//! A real process that works on a table in a sealed memfd, and a real `kill -9` in the middle of
//! it, again and again: the next one finds a balanced ledger, and goes on in the next epoch.
//!
//! The worker is this same test binary, started with [`WORKER`] set. It takes the memfd over
//! through `/proc`, which only its own user can.

use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use exod::captable::{
    DomainInfo, DomainState, Event, Limits, NewObject, ObjectState, Progress, Quota, Table,
};
use libexo::abi::wire::{ObjectKind, PageKind, Rights};
use rustix::process::Signal;

/// Set for the worker: where the memfd is.
const WORKER: &str = "EXO_CAPTABLE_KILL_WORKER";

const LIMITS: Limits = Limits {
    capabilities: 4096,
    objects: 256,
    domains: 32,
};

/// Lives that are ended at a random point.
const LIVES: u64 = 40;

/// Started by the test below, and otherwise nothing to do.
#[test]
fn worker() {
    let Ok(path) = std::env::var(WORKER) else {
        return;
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("the parent's memfd");
    // Should the parent be interrupted, nothing is left behind.
    let killed = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    killed.expect("a signal that exists");
    let mut table = Table::recover(OwnedFd::from(file)).expect("a sound table");
    let mut random = fastrand::Rng::with_seed(table.epoch());
    let mut events = Vec::new();
    loop {
        work(&mut table, &mut random, &mut events);
        // As the server would: whatever has no holder is taken apart and released.
        for event in std::mem::take(&mut events) {
            if let Event::Unbind { object, .. } = event {
                table
                    .object_released(object.id, &mut events)
                    .expect("unbinding");
            }
        }
    }
}

/// One random operation, which the table may refuse.
fn work(table: &mut Table, random: &mut fastrand::Rng, events: &mut Vec<Event>) {
    let nth = random.usize(..LIMITS.domains as usize);
    let mut at = table.next_domain(None);
    for _ in 0..nth {
        at = at.and_then(|domain| table.next_domain(Some(domain.id)));
    }
    let quota = Quota {
        frames: 500,
        capabilities: 500,
        ports: 5,
    };
    let info = DomainInfo {
        uid: 1,
        gid: 2,
        pid: 3,
        pid_start: 4,
        quota,
    };
    let Some(domain) = at.map(|domain| domain.id) else {
        let _ = table.add_domain(info);
        return;
    };
    let other = table
        .next_domain(Some(domain))
        .map_or(domain, |other| other.id);
    let held = table
        .next_cap(domain, 0)
        .expect("there")
        .map_or(0, |cap| cap.handle);
    let page = Some(PageKind::Small4K);
    let unit = NewObject {
        kind: ObjectKind::Unit,
        frames: 3,
        page,
        tag: 0,
        bound: random.bool(),
    };
    let _ = match random.u32(..100) {
        0..10 => table.add_object(domain, unit, Rights::all()).map(|_| ()),
        10..70 => table.derive(domain, held, other, Rights::READ).map(|_| ()),
        70..90 => table.drop_cap(domain, held, events),
        90..98 => table.revoke_step(domain, held, 8, events).map(|_| ()),
        _ => {
            table.begin_death(domain, events).expect("there");
            while table.death_step(domain, 8, events) == Ok(Progress::More) {}
            Ok(())
        }
    };
}

/// A worker, which is killed wherever it is.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_killed_process_leaves_a_balanced_table() {
    let mut table = Table::create(LIMITS).expect("a memfd");
    let mut busy = 0;
    for life in 0..LIVES {
        let path = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            table.as_fd().as_raw_fd()
        );
        let before = table.epoch();
        let mut worker = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "worker", "--nocapture"])
            .env(WORKER, &path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map(Worker)
            .expect("the worker starts");
        while table.epoch() == before {
            assert_eq!(
                worker.0.try_wait().expect("our child"),
                None,
                "the worker ended early"
            );
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_micros(fastrand::u64(..20_000)));
        assert_eq!(
            worker.0.try_wait().expect("our child"),
            None,
            "the worker ended early"
        );
        drop(worker);
        let fd = table.as_fd().try_clone_to_owned().expect("a descriptor");
        table = Table::recover(fd).unwrap_or_else(|e| panic!("life {life}: {e}"));
        assert_eq!(table.epoch(), before + 2, "the worker's and ours");
        busy += table.ledger().capabilities;
        finish(&mut table);
    }
    assert!(busy > 0, "no worker did anything");
}

/// What a restarted exod does first: domains that were dying go on, objects that were being taken
/// apart are released.
fn finish(table: &mut Table) {
    let mut events = Vec::new();
    let mut at = table.next_domain(None);
    while let Some(domain) = at {
        if domain.state == DomainState::Dying {
            while table.death_step(domain.id, 100, &mut events) == Ok(Progress::More) {}
        }
        at = table.next_domain(Some(domain.id));
    }
    let mut at = table.next_object(None);
    while let Some(object) = at {
        if object.state == ObjectState::Unbinding {
            table
                .object_released(object.id, &mut events)
                .expect("unbinding");
        }
        at = table.next_object(Some(object.id));
    }
    table.audit().expect("sound");
}
