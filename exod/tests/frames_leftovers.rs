//! Frames come zeroed, and nothing stays behind: pages, mounts, descriptors or threads. One test to
//! a process at a time, since it counts what the process has.

#[path = "common/frames.rs"]
#[expect(dead_code, reason = "no hostile process here")]
mod common;

use std::cell::Cell;
use std::fs;
use std::sync::Mutex;

use common::{hugepages, maker, wait_returned};
use exod::frames::{Error, FRAME_BYTES, FRAMES_MAX, Hugepages, Maker, PageKind, Protection};
use memmap2::{MmapOptions, MmapRaw};

/// Rounds for counts that other programs on the machine change too. A leak shows in every round, a
/// stranger's pages only in some.
const ROUNDS: usize = 20;

static ALONE: Mutex<()> = Mutex::new(());

#[derive(Debug, PartialEq, Eq)]
struct Counts {
    descriptors: usize,
    threads: usize,
    mounts: usize,
    hugepages: String,
}

fn count() -> Counts {
    let entries = |dir| fs::read_dir(dir).expect("proc").count();
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("proc");
    let meminfo = fs::read_to_string("/proc/meminfo").expect("proc");
    let hugepages = meminfo.lines().filter(|l| l.starts_with("HugePages_"));
    Counts {
        descriptors: entries("/proc/self/fd"),
        threads: entries("/proc/self/task"),
        mounts: mounts.lines().count(),
        hugepages: hugepages.collect::<Vec<_>>().join(", "),
    }
}

/// Asserts that `act` leaves nothing behind.
fn leaves_nothing(what: &str, act: impl Fn()) {
    let mut seen = Vec::new();
    for _ in 0..ROUNDS {
        let before = count();
        act();
        let after = count();
        if before == after {
            return;
        }
        seen.push((before, after));
    }
    panic!("{what} leaves something behind every time: {seen:?}");
}

/// Every byte of a unit, through a mapping of the test's own.
fn map(fd: std::os::fd::BorrowedFd<'_>) -> MmapRaw {
    MmapOptions::new()
        .map_raw(&fd)
        .expect("exod may map its own unit")
}

fn bytes_set(map: &MmapRaw) -> usize {
    // SAFETY: nobody else has this unit, so the bytes do not change while they are borrowed.
    let bytes = unsafe { std::slice::from_raw_parts(map.as_ptr(), map.len()) };
    bytes.iter().filter(|b| **b != 0).count()
}

/// Writes all of a unit, takes it back, and looks at what the next ones bring.
fn comes_zeroed(maker: &Maker, kind: PageKind) {
    let mut unit = maker.make(2, Some(kind)).expect("a unit");
    for _ in 0..4 {
        assert_eq!((unit.frames(), unit.bytes()), (2, 2 * FRAME_BYTES));
        assert_eq!(unit.page_kind(), kind);
        let writable = map(unit.client_fd());
        assert_eq!(writable.len(), unit.bytes());
        assert_eq!(
            bytes_set(&writable),
            0,
            "{} frames come zeroed",
            kind.name()
        );
        // SAFETY: the mapping is writable, of this length, and nobody else's.
        unsafe { writable.as_mut_ptr().write_bytes(0xa5, writable.len()) };
        drop(writable);
        let mut revoked = unit.revoke();
        assert!(revoked.returned().expect("told"), "nobody else had it");
        unit = maker.make(2, Some(kind)).expect("a unit");
    }
    wait_returned(&mut unit.revoke());
}

#[test]
fn small_pages_come_zeroed_and_go() {
    let _alone = ALONE.lock();
    let Some(maker) = maker(PageKind::Small4K, Protection::Seals) else {
        return;
    };
    leaves_nothing("a life of small pages", || {
        comes_zeroed(&maker, PageKind::Small4K)
    });
}

#[test]
fn transparent_hugepages_come_zeroed_and_go() {
    let _alone = ALONE.lock();
    let Some(maker) = maker(PageKind::Thp, Protection::Seals) else {
        return;
    };
    leaves_nothing("a life of transparent pages", || {
        comes_zeroed(&maker, PageKind::Thp)
    });
}

#[test]
fn sealed_hugepages_come_zeroed_and_go() {
    let _alone = ALONE.lock();
    let Some(_turn) = hugepages(8) else { return };
    let Some(maker) = maker(PageKind::Huge2M, Protection::Seals) else {
        return;
    };
    leaves_nothing("a life of sealed hugepages", || {
        comes_zeroed(&maker, PageKind::Huge2M)
    });
}

#[test]
fn mounted_hugepages_come_zeroed_and_go() {
    let _alone = ALONE.lock();
    let Some(_turn) = hugepages(8) else { return };
    if maker(PageKind::Huge2M, Protection::Mount).is_none() {
        return;
    }
    leaves_nothing("a maker with its thread", || {
        let maker = maker(PageKind::Huge2M, Protection::Mount).expect("it was here before");
        std::thread::scope(|jobs| {
            for _ in 0..2 {
                jobs.spawn(|| comes_zeroed(&maker, PageKind::Huge2M));
            }
        });
        drop(maker.make(3, None).expect("a unit that nobody saw"));
    });
}

#[test]
fn a_unit_that_the_pool_cannot_back_leaves_nothing() {
    let _alone = ALONE.lock();
    let Some(_turn) = hugepages(4) else { return };
    for protection in [Protection::Mount, Protection::Seals] {
        let Some(maker) = maker(PageKind::Huge2M, protection) else {
            continue;
        };
        let Some(too_many) = u32::try_from(Hugepages::free() + 1)
            .ok()
            .filter(|n| *n <= 512)
        else {
            println!("skipped: the pool has more than the largest unit");
            return;
        };
        leaves_nothing("a failure", || match maker.make(too_many, None) {
            Err(Error::NoPages {
                kind: PageKind::Huge2M,
                ..
            }) => {}
            // Somebody else gave pages back meanwhile.
            Ok(unit) => drop(unit),
            Err(e) => panic!("{e}"),
        });
    }
}

#[test]
fn a_raised_pool_is_put_back() {
    let _alone = ALONE.lock();
    if !common::is_root() {
        println!("skipped: only root may raise the pool");
        return;
    }
    let grew = Cell::new(false);
    leaves_nothing("raising the pool", || {
        let raised =
            Hugepages::raise(Hugepages::free() + 3).expect("root may, and memory is there");
        grew.set(grew.get() || raised.added() == 3);
        assert_eq!(Hugepages::raise(0).expect("nothing to do").added(), 0);
    });
    assert!(grew.get(), "nothing was there to put back");
}

#[test]
fn a_pool_is_put_back_around_pages_in_use() {
    let _alone = ALONE.lock();
    if !common::is_root() {
        println!("skipped: only root may raise the pool");
        return;
    }
    let Some(turn) = hugepages(1) else { return };
    let Some(maker) = maker(PageKind::Huge2M, Protection::Mount) else {
        return;
    };
    drop(turn);
    let used = Cell::new(false);
    leaves_nothing("a pool that is put back under a unit", || {
        let all = Hugepages::free() + 3;
        let Ok(frames) = u32::try_from(all.min(u64::from(FRAMES_MAX))) else {
            return;
        };
        let raised = Hugepages::raise(all).expect("root may, and memory is there");
        // Somebody else may have taken some meanwhile.
        let Ok(unit) = maker.make(frames, None) else {
            return;
        };
        let writable = map(unit.client_fd());
        // SAFETY: the mapping is writable and nobody else's.
        unsafe { writable.as_mut_ptr().write(7) };
        drop(raised);
        // SAFETY: the unit is neither revoked nor shared.
        assert_eq!(unsafe { writable.as_ptr().read() }, 7);
        used.set(true);
    });
    assert!(used.get(), "no unit was made in any round");
}
