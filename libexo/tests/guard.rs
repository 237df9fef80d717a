//! Memory that is really taken away under real loads and stores, and SIGBUS that is not ours.

use std::ffi::{c_int, c_void};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::ptr::{NonNull, null_mut};
use std::sync::{Barrier, Mutex, MutexGuard, PoisonError};

use libexo::guard::{self, RANGES_MAX, Registration};
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::process::{Resource, Rlimit, setrlimit};

const SMALL: usize = 4096;
const HUGE: usize = 2 << 20;

/// Tests share one process, so one counter: they take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file mapped whole, registered or not, whose owner can truncate it.
struct Memory {
    guarded: Option<Registration>,
    map: MmapRaw,
    fd: OwnedFd,
}

impl Memory {
    fn new(pages: usize, page: usize, guarded: bool) -> std::io::Result<Memory> {
        let hugetlb = MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        let kind = if page == HUGE {
            hugetlb
        } else {
            MemfdFlags::empty()
        };
        let fd = memfd_create("guard-test", MemfdFlags::CLOEXEC | kind)?;
        ftruncate(&fd, (pages * page) as u64)?;
        let map = MmapOptions::new().len(pages * page).map_raw(&fd)?;
        let start = NonNull::new(map.as_mut_ptr()).expect("a mapping is not at 0");
        // SAFETY: the mapping is ours, outlives the registration (field order), and is only read
        // and written volatile.
        let register = || unsafe { guard::register(start, pages * page, page) };
        let memory = Memory {
            guarded: guarded.then(|| register().expect("a free slot")),
            map,
            fd,
        };
        (0..pages).for_each(|i| memory.store(i * page, 7));
        Ok(memory)
    }

    fn lose_from(&self, offset: usize) {
        ftruncate(&self.fd, offset as u64).expect("our own file");
    }

    fn load(&self, offset: usize) -> u8 {
        assert!(offset < self.map.len());
        // SAFETY: in the mapping.
        unsafe { self.map.as_ptr().add(offset).read_volatile() }
    }

    fn store(&self, offset: usize, value: u8) {
        assert!(offset < self.map.len());
        // SAFETY: in the mapping.
        unsafe { self.map.as_mut_ptr().add(offset).write_volatile(value) }
    }
}

/// Loads and stores on a half-lost file: zeroes on the lost half, data on the other.
fn lose_half(page: usize) {
    let memory = Memory::new(8, page, true).expect("pages");
    let before = guard::losses();
    memory.lose_from(4 * page);
    assert_eq!(guard::losses(), before, "nothing was touched yet");

    assert_eq!(memory.load(4 * page + 5), 0);
    assert_eq!(guard::losses(), before + 1);
    memory.store(6 * page - 1, 9);
    assert_eq!(memory.load(6 * page - 1), 9);
    assert_eq!(
        guard::losses(),
        before + 2,
        "one for each page, not for each touch"
    );
    memory.store(4 * page, 9);
    assert_eq!(guard::losses(), before + 2);
    assert_eq!((memory.load(7 * page), memory.load(8 * page - 1)), (0, 0));
    assert_eq!(guard::losses(), before + 3);
    for live in 0..4 {
        assert_eq!(memory.load(live * page), 7, "page {live} was not lost");
    }
    assert_eq!(guard::losses(), before + 3);
}

#[test]
fn lost_small_pages_read_as_zeroes_and_are_counted() {
    let _turn = turn();
    guard::install().expect("a handler");
    lose_half(SMALL);
}

#[test]
fn lost_huge_pages_read_as_zeroes_and_are_counted() {
    let _turn = turn();
    guard::install().expect("a handler");
    let free = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    let free = free.ok().and_then(|free| free.trim().parse::<u32>().ok());
    if free.is_none_or(|free| free < 16) {
        println!("skipped: fewer than 16 free 2 MiB hugepages (vm.nr_hugepages)");
        return;
    }
    lose_half(HUGE);
}

#[test]
fn two_threads_that_lose_the_same_pages_at_once_both_live() {
    const PAGES: usize = 512;
    let _turn = turn();
    guard::install().expect("a handler");
    let memory = Memory::new(PAGES, SMALL, true).expect("pages");
    let before = guard::losses();
    memory.lose_from(0);
    let together = Barrier::new(2);
    // Judged at the end: a thread that panicked would leave the other at the barrier.
    let touch = |store: bool| {
        let mut sane = true;
        for page in 0..PAGES {
            together.wait();
            match store {
                true => memory.store(page * SMALL, 1),
                false => sane &= memory.load(page * SMALL) <= 1,
            }
            sane &= guard::losses() - before > page as u64;
        }
        sane
    };
    std::thread::scope(|scope| {
        let storer = scope.spawn(|| touch(true));
        let loader = scope.spawn(|| touch(false));
        assert!(storer.join().expect("no panic"), "counted too late");
        assert!(
            loader.join().expect("no panic"),
            "lost data seen, or counted too late"
        );
    });
    let counted = (guard::losses() - before) as usize;
    assert!((PAGES..=2 * PAGES).contains(&counted), "{counted}");
}

#[test]
fn a_system_call_on_lost_memory_fails_and_counts_nothing() {
    let _turn = turn();
    guard::install().expect("a handler");
    let memory = Memory::new(1, SMALL, true).expect("a page");
    memory.lose_from(0);
    let before = guard::losses();
    let (_reader, writer) = std::io::pipe().expect("a pipe");
    // SAFETY: write reads from any address or fails.
    let written = unsafe { libc::write(writer.as_raw_fd(), memory.map.as_ptr().cast(), 1) };
    let error = std::io::Error::last_os_error();
    assert_eq!((written, error.raw_os_error()), (-1, Some(libc::EFAULT)));
    assert_eq!(guard::losses(), before);
}

#[test]
fn a_thread_without_an_alternate_stack_is_given_one() {
    let _turn = turn();
    let stack_flags = || {
        // SAFETY: a stack_t of zeroes is valid; asking changes nothing.
        unsafe {
            let mut stack: libc::stack_t = std::mem::zeroed();
            libc::sigaltstack(null_mut(), &mut stack);
            stack.ss_flags
        }
    };
    let thread = std::thread::spawn(move || {
        // SAFETY: disabling names no memory.
        unsafe {
            let mut off: libc::stack_t = std::mem::zeroed();
            off.ss_flags = libc::SS_DISABLE;
            libc::sigaltstack(&off, null_mut());
        }
        guard::install().expect("a handler");
        assert_eq!(stack_flags() & libc::SS_DISABLE, 0);
        let memory = Memory::new(1, SMALL, true).expect("a page");
        memory.lose_from(0);
        memory.load(0)
    });
    assert_eq!(thread.join().expect("no panic"), 0);
}

#[test]
fn the_registry_is_bounded_and_slots_come_back() {
    let _turn = turn();
    let memory = Memory::new(1, SMALL, false).expect("a page");
    let start = NonNull::new(memory.map.as_mut_ptr()).expect("not at 0");
    // SAFETY: as in Memory::new.
    let register = || unsafe { guard::register(start, SMALL, SMALL) };
    let all: Vec<_> = (0..RANGES_MAX)
        .map(|_| register().expect("a slot"))
        .collect();
    let error = register().expect_err("no slot is left").to_string();
    assert!(error.contains("guarded ranges"), "{error}");
    drop(all);
    register().expect("slots came back");
    // SAFETY: it is refused.
    let error = unsafe { guard::register(start, SMALL, HUGE) }.expect_err("not whole pages");
    assert!(error.to_string().contains("whole pages"), "{error}");
}

/// Set in a child that a test runs itself in, to do what ends a process.
const CHILD: &str = "EXO_GUARD_TEST_CHILD";

/// Runs `test` again in a process of its own, or says that this is that process.
fn in_child(test: &str) -> Option<ExitStatus> {
    if std::env::var_os(CHILD).is_some() {
        let none = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        setrlimit(Resource::Core, none).expect("no core file");
        return None;
    }
    let mut child = Command::new(std::env::current_exe().expect("our own path"));
    let child = child.args(["--exact", test, "--nocapture"]).env(CHILD, "1");
    Some(child.output().expect("a child").status)
}

/// Touches a lost page that is not registered.
fn foreign_loss() {
    let memory = Memory::new(1, SMALL, false).expect("a page");
    memory.lose_from(0);
    memory.load(0);
}

#[test]
fn a_foreign_sigbus_still_kills() {
    if let Some(status) = in_child("a_foreign_sigbus_still_kills") {
        return assert_eq!(status.signal(), Some(libc::SIGBUS), "{status}");
    }
    guard::install().expect("a handler");
    let beside = Memory::new(1, SMALL, true).expect("a page");
    beside.lose_from(0);
    assert_eq!(beside.load(0), 0);
    foreign_loss();
}

#[test]
fn a_range_is_foreign_again_once_its_registration_is_dropped() {
    if let Some(status) = in_child("a_range_is_foreign_again_once_its_registration_is_dropped") {
        return assert_eq!(status.signal(), Some(libc::SIGBUS), "{status}");
    }
    guard::install().expect("a handler");
    let mut memory = Memory::new(1, SMALL, true).expect("a page");
    memory.guarded = None;
    memory.lose_from(0);
    memory.load(0);
}

#[test]
fn a_sigbus_that_was_sent_still_kills() {
    if let Some(status) = in_child("a_sigbus_that_was_sent_still_kills") {
        return assert_eq!(status.signal(), Some(libc::SIGBUS), "{status}");
    }
    guard::install().expect("a handler");
    // SAFETY: sends a signal to ourselves.
    unsafe { libc::raise(libc::SIGBUS) };
}

/// Exit codes of the handlers that were there before.
const WITH_INFO: c_int = 41;
const WITHOUT_INFO: c_int = 42;

extern "C" fn with_info(signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel's siginfo, passed on; _exit is async-signal-safe.
    unsafe {
        let whole = signal == libc::SIGBUS && (*info).si_code == libc::BUS_ADRERR;
        libc::_exit(if whole { WITH_INFO } else { 1 })
    }
}

extern "C" fn without_info(signal: c_int) {
    let whole = signal == libc::SIGBUS;
    // SAFETY: async-signal-safe.
    unsafe { libc::_exit(if whole { WITHOUT_INFO } else { 1 }) }
}

fn handle_before(handler: usize, flags: c_int) {
    // SAFETY: the handler is of the kind that the flags tell.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        assert_eq!(libc::sigaction(libc::SIGBUS, &action, null_mut()), 0);
    }
    // Twice: the second must not take our own handler for the one before.
    guard::install().expect("a handler");
    guard::install().expect("a handler");
    foreign_loss();
}

#[test]
fn a_handler_that_was_there_before_gets_its_own() {
    if let Some(status) = in_child("a_handler_that_was_there_before_gets_its_own") {
        return assert_eq!(status.code(), Some(WITH_INFO), "{status}");
    }
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = with_info;
    handle_before(handler as usize, libc::SA_SIGINFO);
}

#[test]
fn so_does_one_that_takes_the_signal_alone() {
    if let Some(status) = in_child("so_does_one_that_takes_the_signal_alone") {
        return assert_eq!(status.code(), Some(WITHOUT_INFO), "{status}");
    }
    let handler: extern "C" fn(c_int) = without_info;
    handle_before(handler as usize, libc::SA_RESETHAND);
}

#[test]
fn an_ignored_sigbus_is_still_ignored_when_sent() {
    if let Some(status) = in_child("an_ignored_sigbus_is_still_ignored_when_sent") {
        return assert_eq!(status.code(), Some(WITH_INFO), "{status}");
    }
    ignore();
    // SAFETY: sends a signal to ourselves.
    unsafe { libc::raise(libc::SIGBUS) };
    let memory = Memory::new(1, SMALL, true).expect("a page");
    memory.lose_from(0);
    // Still guarded, and alive.
    std::process::exit(if memory.load(0) == 0 { WITH_INFO } else { 1 });
}

#[test]
fn an_ignored_sigbus_kills_when_real() {
    if let Some(status) = in_child("an_ignored_sigbus_kills_when_real") {
        return assert_eq!(status.signal(), Some(libc::SIGBUS), "{status}");
    }
    ignore();
    foreign_loss();
}

fn ignore() {
    // SAFETY: ignoring names no function.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_IGN) };
    guard::install().expect("a handler");
}
