//! Living on after memory was taken back: a SIGBUS handler that maps zeroes over the hole.
//!
//! A lost mapping raises SIGBUS on the next touch. Where [`install`] was called (nothing does so on
//! its own) and the address lies in a registered range, the handler counts the loss, maps zeroes
//! over the page and lets the access go on. So **a function that touched revocable or peer memory
//! compares [`losses`] after its last access and before it returns `Ok`**: zeroes that were made up
//! here are never delivered as data. The counter rises before the zeroes appear, so whichever
//! thread reads them finds it risen.
//!
//! Any other SIGBUS goes to the handler that was there before, or kills as it always did. System
//! calls on lost memory see EFAULT and never come here. Two threads that touch the same hole at
//! once may each map zeroes, so what is stored into lost memory may be lost again.
//!
//! Not every loss comes this way: see [`crate::status`].
//!
//! ```
//! use std::ptr::NonNull;
//! use libexo::guard;
//! use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
//!
//! guard::install()?;
//! let file = memfd_create("unit", MemfdFlags::CLOEXEC)?;
//! ftruncate(&file, 4096)?;
//! let map = memmap2::MmapOptions::new().len(4096).map_raw(&file)?;
//! let start = NonNull::new(map.as_mut_ptr()).expect("not at 0");
//! // SAFETY: the mapping is ours until the end, and only read volatile.
//! let _guarded = unsafe { guard::register(start, 4096, 4096)? };
//!
//! ftruncate(&file, 0)?; // exod takes it back
//! let before = guard::losses();
//! // SAFETY: in the mapping.
//! let byte = unsafe { start.read_volatile() };
//! assert_eq!((byte, guard::losses()), (0, before + 1)); // zero, and no data
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The handler takes no lock, allocates nothing and makes raw system calls only. It knows the
//! ranges from a fixed array in which each slot is *one* word, so it can never see half of a
//! change.

use std::cell::OnceCell;
use std::ffi::{c_int, c_void};
use std::io;
use std::mem::{transmute, zeroed};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, OnceLock, PoisonError};

use memmap2::MmapMut;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

use crate::{Error, Result};

/// Ranges that can be registered at once: every segment of a hundred busy ports.
pub const RANGES_MAX: usize = 4096;

/// Bytes of a thread's alternate stack: the kernel's frame with the widest vector state is 11 KiB,
/// and a handler that was there before needs some too.
const STACK_BYTES: usize = 64 << 10;

static RANGES: [AtomicU64; RANGES_MAX] = [const { AtomicU64::new(0) }; RANGES_MAX];

/// By slot: losses in the range.
static RANGE_LOSSES: [AtomicU64; RANGES_MAX] = [const { AtomicU64::new(0) }; RANGES_MAX];

/// Slots that were ever used: how far the handler looks.
static RANGES_USED: AtomicUsize = AtomicUsize::new(0);

static LOSSES: AtomicU64 = AtomicU64::new(0);

/// The handler that was there before ours; set before ours can run.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

static INSTALLED: Mutex<bool> = Mutex::new(false);

/// A registered range in one word; zero is none.
///
/// | bits | field |
/// |---|---|
/// | 0..36 | first 4 KiB page |
/// | 36..63 | length in 4 KiB pages |
/// | 63 | pages are 2 MiB |
#[derive(Clone, Copy)]
struct Range(u64);

impl Range {
    const SMALL_LOG2: u32 = 12;
    const HUGE_LOG2: u32 = 21;
    const LEN_SHIFT: u32 = 36;
    const HUGE: u64 = 1 << 63;

    /// Packs a range; none if it is empty, not of whole pages, or beyond what the fields hold.
    fn new(start: usize, len: usize, page_bytes: usize) -> Option<Range> {
        let huge = match page_bytes.trailing_zeros() {
            _ if !page_bytes.is_power_of_two() => return None,
            Self::SMALL_LOG2 => 0,
            Self::HUGE_LOG2 => Self::HUGE,
            _ => return None,
        };
        let first = start as u64 >> Self::SMALL_LOG2;
        let count = len as u64 >> Self::SMALL_LOG2;
        let whole = start.is_multiple_of(page_bytes) && len.is_multiple_of(page_bytes);
        let fits = first < 1 << Self::LEN_SHIFT && (1..1 << 27).contains(&count);
        (whole && fits).then_some(Range(first | count << Self::LEN_SHIFT | huge))
    }

    /// The page of this range, as start and length in bytes, that `addr` lies in.
    fn page_at(self, addr: usize) -> Option<(usize, usize)> {
        let (start, len) = self.extent();
        let inside = addr.wrapping_sub(start) < len;
        let huge = self.0 & Self::HUGE != 0;
        let page = 1
            << if huge {
                Self::HUGE_LOG2
            } else {
                Self::SMALL_LOG2
            };
        inside.then_some((addr & !(page - 1), page))
    }

    /// Start and length in bytes.
    fn extent(self) -> (usize, usize) {
        let first = self.0 & ((1 << Self::LEN_SHIFT) - 1);
        let count = (self.0 & !Self::HUGE) >> Self::LEN_SHIFT;
        let bytes = |pages| (pages as usize) << Self::SMALL_LOG2;
        (bytes(first), bytes(count))
    }
}

/// A range that the handler patches; dropping it ends that. Unmap only afterwards.
#[derive(Debug)]
pub struct Registration {
    slot: usize,
    /// The slot's own count: found once, since it is read after every look at a peer's bytes.
    losses: &'static AtomicU64,
}

/// Registers a mapping of whole pages of `page_bytes`: 4 KiB, or 2 MiB for hugetlb.
///
/// # Safety
/// The range is mapped, in pages of that size, belongs to the caller, and stays so until the
/// registration is dropped; nobody touches it while it is being dropped. What is in it is only used
/// in ways that allow it to turn into zeroes at any time.
pub unsafe fn register(addr: NonNull<u8>, len: usize, page_bytes: usize) -> Result<Registration> {
    let Some(range) = Range::new(addr.as_ptr() as usize, len, page_bytes) else {
        return Err(Error::WrongSize {
            what: "a guarded range that must be of whole pages",
            got: len as u64,
            limit: page_bytes as u64,
        });
    };
    for (slot, word) in RANGES.iter().enumerate() {
        let free = word.compare_exchange(0, range.0, Ordering::SeqCst, Ordering::Relaxed);
        if free.is_ok() {
            RANGES_USED.fetch_max(slot + 1, Ordering::SeqCst);
            let losses = &RANGE_LOSSES[slot];
            return Ok(Registration { slot, losses });
        }
    }
    Err(Error::WrongSize {
        what: "the number of guarded ranges",
        got: RANGES_MAX as u64 + 1,
        limit: RANGES_MAX as u64,
    })
}

impl Registration {
    /// Losses in this range that the process has touched so far; none means that everything read
    /// from it before this call was data. A lost page stays zeroes, so this never falls back.
    #[inline]
    pub fn losses(&self) -> u64 {
        fence(Ordering::Acquire);
        self.losses.load(Ordering::Relaxed)
    }
}

impl Registration {
    /// The counter behind [`Registration::losses`], for those who look often. It is the range's own
    /// for as long as the registration is.
    pub(crate) fn count(&self) -> &'static AtomicU64 {
        self.losses
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // First, so that the slot's next range begins without losses.
        self.losses.store(0, Ordering::SeqCst);
        RANGES[self.slot].store(0, Ordering::SeqCst);
    }
}

/// Losses that this process has touched so far, over all ranges. Whatever was read before this call
/// was read before the counter.
#[inline]
pub fn losses() -> u64 {
    fence(Ordering::Acquire);
    LOSSES.load(Ordering::Relaxed)
}

/// Installs the handler for this process, and an alternate stack for this thread if it has none.
///
/// Again is harmless. Threads of Rust's standard library have an alternate stack; in others the
/// handler runs on the thread's own unless they call this too.
pub fn install() -> Result<()> {
    STACK.with(AlternateStack::give)?;
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if *installed {
        return Ok(());
    }
    // Looked up first and replaced after, so that our handler never runs without it.
    let previous = *PREVIOUS.get_or_init(current_action);
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_sigbus;
    let mut ours = previous;
    ours.sa_sigaction = handler as usize;
    ours.sa_flags = libc::SA_SIGINFO
        | libc::SA_ONSTACK
        | previous.sa_flags & (libc::SA_RESTART | libc::SA_NODEFER);
    // SAFETY: the action is whole, and its handler keeps to what a handler may do.
    if unsafe { libc::sigaction(libc::SIGBUS, &ours, null_mut()) } != 0 {
        return Err(Error::system("sigaction")(io::Error::last_os_error()));
    }
    *installed = true;
    Ok(())
}

extern "C" fn on_sigbus(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a siginfo that is valid while the handler runs.
    let (code, addr) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    let lost = code == libc::BUS_ADRERR || code == libc::BUS_MCEERR_AR;
    if !(lost && patch(addr)) {
        pass_on(signal, info, context);
    }
}

/// Maps zeroes over the hole at `addr`, if it is in a registered range.
fn patch(addr: usize) -> bool {
    let used = RANGES_USED.load(Ordering::SeqCst);
    let ranges = RANGES[..used]
        .iter()
        .map(|word| Range(word.load(Ordering::SeqCst)));
    for (range, lost) in ranges.zip(&RANGE_LOSSES) {
        if let Some((start, len)) = range.page_at(addr) {
            // Before the zeroes: who reads them must find both risen.
            LOSSES.fetch_add(1, Ordering::SeqCst);
            lost.fetch_add(1, Ordering::SeqCst);
            // All of it, when the process has no mapping left for one page more.
            let (all, all_len) = range.extent();
            return map_zeroes(start, len) || map_zeroes(all, all_len);
        }
    }
    false
}

fn map_zeroes(start: usize, len: usize) -> bool {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
    // SAFETY: whole pages of a registered range, whose owner let us replace them; rustix makes the
    // system call itself and leaves errno alone.
    unsafe { mmap_anonymous(start as *mut c_void, len, protection, flags) }.is_ok()
}

/// Does with a signal that is not ours what would have been done without us.
fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let Some(previous) = PREVIOUS.get() else {
        return default_action();
    };
    // SAFETY: as in the handler.
    let sent = unsafe { (*info).si_code } <= 0;
    match previous.sa_sigaction {
        libc::SIG_IGN if sent => return,
        // The access that faulted is tried again, and kills.
        libc::SIG_IGN | libc::SIG_DFL => default_action(),
        handler => {
            if previous.sa_flags & libc::SA_RESETHAND != 0 {
                default_action();
            }
            call(handler, previous.sa_flags, signal, info, context);
        }
    }
    // Nothing tries a signal again that was merely sent. (The standard library's handler puts the
    // default back and relies on that.)
    if sent && current_action().sa_sigaction == libc::SIG_DFL {
        // SAFETY: async-signal-safe; takes effect when this handler returns.
        unsafe { libc::raise(signal) };
    }
}

fn call(
    handler: usize,
    flags: c_int,
    signal: c_int,
    info: *mut libc::siginfo_t,
    context: *mut c_void,
) {
    // SAFETY: the address was a handler of the kind that its flags tell, and gets what the kernel
    // gave us.
    unsafe {
        if flags & libc::SA_SIGINFO != 0 {
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                transmute(handler);
            handler(signal, info, context);
        } else {
            let handler: extern "C" fn(c_int) = transmute(handler);
            handler(signal);
        }
    }
}

/// What SIGBUS does now. Async-signal-safe.
fn current_action() -> libc::sigaction {
    // SAFETY: a sigaction of zeroes is a valid one (the default action); asking changes nothing,
    // and cannot fail for a signal that exists.
    unsafe {
        let mut action = zeroed();
        libc::sigaction(libc::SIGBUS, null_mut(), &mut action);
        action
    }
}

/// Puts the default action back. Async-signal-safe.
fn default_action() {
    // SAFETY: a sigaction of zeroes is the default action.
    unsafe {
        let action: libc::sigaction = zeroed();
        libc::sigaction(libc::SIGBUS, &action, null_mut());
    }
}

thread_local! {
    static STACK: AlternateStack = const { AlternateStack(OnceCell::new()) };
}

/// This thread's alternate stack, if it needed one; taken down with the thread.
struct AlternateStack(OnceCell<MmapMut>);

impl AlternateStack {
    fn give(&self) -> Result<()> {
        if current_stack().ss_flags & libc::SS_DISABLE == 0 {
            return Ok(());
        }
        let memory = MmapMut::map_anon(STACK_BYTES).map_err(Error::system("mmap"))?;
        let memory = self.0.get_or_init(|| memory);
        let stack = libc::stack_t {
            ss_sp: memory.as_ptr() as *mut c_void,
            ss_flags: 0,
            ss_size: STACK_BYTES,
        };
        // SAFETY: the memory is kept until the stack is disabled, in drop.
        match unsafe { libc::sigaltstack(&stack, null_mut()) } {
            0 => Ok(()),
            _ => Err(Error::system("sigaltstack")(io::Error::last_os_error())),
        }
    }
}

impl Drop for AlternateStack {
    fn drop(&mut self) {
        let mut stack = current_stack();
        let ours = self.0.get().map(|memory| memory.as_ptr() as *mut c_void);
        if ours == Some(stack.ss_sp) {
            stack.ss_flags = libc::SS_DISABLE;
            // SAFETY: disabling names no memory. This thread is not in a handler.
            unsafe { libc::sigaltstack(&stack, null_mut()) };
        }
    }
}

fn current_stack() -> libc::stack_t {
    // SAFETY: a stack_t of zeroes is valid; asking changes nothing.
    unsafe {
        let mut stack = zeroed();
        libc::sigaltstack(null_mut(), &mut stack);
        stack
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_finds_its_pages_and_no_others() {
        let start = 0x7fff_0000_0000;
        let small = Range::new(start, 3 << 12, 1 << 12).expect("a good range");
        assert_eq!(small.page_at(start - 1), None);
        assert_eq!(small.page_at(start), Some((start, 1 << 12)));
        assert_eq!(
            small.page_at(start + 0x1fff),
            Some((start + 0x1000, 1 << 12))
        );
        assert_eq!(small.page_at(start + 0x3000), None);
        assert_eq!(small.extent(), (start, 3 << 12));
        let huge = Range::new(start, 4 << 20, 1 << 21).expect("a good range");
        assert_eq!(
            huge.page_at(start + (3 << 20)),
            Some((start + (2 << 20), 1 << 21))
        );
        assert_eq!(huge.extent(), (start, 4 << 20));
        assert_eq!(Range(0).page_at(0), None, "a free slot has no page");
    }

    #[test]
    fn ranges_that_a_slot_cannot_hold_are_refused() {
        for (start, len, page) in [
            (0x1000, 0, 0x1000),
            (0x1001, 0x1000, 0x1000),
            (0x1000, 0x1001, 0x1000),
            (0x1000, 2 << 20, 2 << 20),
            (0x1000, 0x1000, 0),
            (0x10000, 0x10000, 0x10000),
            (1 << 48, 0x1000, 0x1000),
            (0x1000, 1 << 39, 0x1000),
        ] {
            assert!(
                Range::new(start, len, page).is_none(),
                "{start:x} {len:x} {page:x}"
            );
        }
    }
}
