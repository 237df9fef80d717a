//! Packets of our own, and the mempool that they come from.
//!
//! A [`Packet`] owns one buffer, linearly: filling, sending and dropping move it, so a packet that
//! was sent can't be touched (it does not compile). A [`Mempool`] is a first-in first-out list of
//! free buffers: buffers are used in the order of their addresses, which is what the hardware
//! prefetcher of both cores bets on, and a buffer rests as long as possible before it is written
//! again, which gives the receiver's copies of its lines time to leave.
//!
//! Pools and packets stay in the thread that made them; no lock and no atomic is on their path. A
//! pool lives until its handle is dropped *and* its last buffer has come back.

use std::cell::Cell;
use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::abi::CACHE_LINE;
use crate::error::{Error, Result};
use crate::shm::Buffers;

/// Pools that a process may make in its life: far from where their numbers would wrap.
const POOLS_MAX: u32 = 1 << 31;

struct Inner {
    buffers: Buffers,
    id: u32,
    /// A ring of free buffers, as long as the next power of two; each named by the cache line of
    /// its unit that it begins at, which is what a descriptor needs too.
    free: Box<[Cell<u32>]>,
    head: Cell<u32>,
    tail: Cell<u32>,
    /// The handle is gone: the last buffer to come back frees the pool.
    orphan: Cell<bool>,
}

impl Inner {
    #[inline]
    fn available(&self) -> u32 {
        self.tail.get().wrapping_sub(self.head.get())
    }

    #[inline]
    fn take(&self) -> Option<u32> {
        let head = self.head.get();
        if head == self.tail.get() {
            return None;
        }
        self.head.set(head.wrapping_add(1));
        Some(self.entry(head).get())
    }

    #[inline]
    fn put(&self, line: u32) {
        let tail = self.tail.get();
        self.tail.set(tail.wrapping_add(1));
        self.entry(tail).set(line);
    }

    /// The place in the list of a position that runs freely.
    #[inline]
    fn entry(&self, position: u32) -> &Cell<u32> {
        // SAFETY: the mask keeps the index in the list, whose length is a power of two.
        unsafe {
            self.free
                .get_unchecked(position as usize & (self.free.len() - 1))
        }
    }
}

/// Buffers of one size in memory that this domain alone writes.
pub struct Mempool {
    inner: NonNull<Inner>,
    /// Not `Send`: see the module's text.
    thread: PhantomData<*const ()>,
}

impl Mempool {
    /// A pool over all of `buffers`.
    pub fn new(buffers: Buffers) -> Result<Mempool> {
        static NEXT_ID: AtomicU32 = AtomicU32::new(1);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        if id >= POOLS_MAX {
            return Err(Error::WrongSize {
                what: "the number of mempools made by this process",
                got: u64::from(id),
                limit: u64::from(POOLS_MAX),
            });
        }
        let count = buffers.count();
        let mut free: Vec<u32> = (0..count).map(|index| buffers.line(index)).collect();
        free.resize(count.next_power_of_two() as usize, free[0]);
        let inner = Inner {
            buffers,
            id,
            free: free.into_iter().map(Cell::new).collect(),
            head: Cell::new(0),
            tail: Cell::new(count),
            orphan: Cell::new(false),
        };
        let inner = NonNull::from(Box::leak(Box::new(inner)));
        Ok(Mempool {
            inner,
            thread: PhantomData,
        })
    }

    /// A packet of `len` bytes whose contents are those of its buffer's last use; none when every
    /// buffer is in use, or `len` exceeds a buffer.
    #[inline]
    pub fn alloc(&self, len: usize) -> Option<Packet> {
        let inner = self.inner();
        if len > inner.buffers.stride() {
            return None;
        }
        let line = inner.take()?;
        let first = inner.buffers.pointer(line);
        Some(Packet {
            first,
            len: len as u32,
            line,
            inner: self.inner,
        })
    }

    /// Up to `count` packets of `len` bytes, put behind `to`; how many.
    pub fn alloc_burst(&self, count: usize, len: usize, to: &mut Vec<Packet>) -> usize {
        let before = to.len();
        to.extend((0..count).map_while(|_| self.alloc(len)));
        to.len() - before
    }

    /// Free buffers.
    #[inline]
    pub fn available(&self) -> usize {
        self.inner().available() as usize
    }

    /// All buffers.
    pub fn capacity(&self) -> usize {
        self.inner().buffers.count() as usize
    }

    /// Bytes in each buffer.
    #[inline]
    pub fn buffer_len(&self) -> usize {
        self.inner().buffers.stride()
    }

    /// What the pool is cut from.
    pub fn buffers(&self) -> &Buffers {
        &self.inner().buffers
    }

    /// Brings the lines of the buffer after next near, to be written.
    #[inline]
    pub fn prefetch_next(&self, ahead: u32) {
        let inner = self.inner();
        // Every entry names a buffer, free or not, and a prefetch is a hint.
        let line = inner.entry(inner.head.get().wrapping_add(ahead)).get();
        crate::shm::prefetch_write(inner.buffers.pointer(line).as_ptr());
    }

    /// Tells this pool from every other one of the process.
    #[inline]
    pub(crate) fn id(&self) -> u32 {
        self.inner().id
    }

    /// Takes `count` buffers at once, which the caller saw to be free, for packets of `len` bytes:
    /// hands each to `fill` and then, in flight, to `sent`.
    #[inline]
    pub(crate) fn fill_burst(
        &self,
        count: u32,
        len: usize,
        mut fill: impl FnMut(u32, &mut [u8]),
        mut sent: impl FnMut(u32, InFlight),
    ) {
        let inner = self.inner();
        assert!(count <= inner.available() && len <= inner.buffers.stride());
        let head = inner.head.get();
        inner.head.set(head.wrapping_add(count));
        for k in 0..count {
            // `fill` and `sent` may use the pool: the entries from `head` on are out of the list
            // now, and nobody writes them before a whole lap.
            let line = inner.entry(head.wrapping_add(k)).get();
            let buffer = inner.buffers.pointer(line).as_ptr();
            // SAFETY: the buffer was free, so it is nobody else's; `len` bytes fit, as asserted.
            fill(k, unsafe { std::slice::from_raw_parts_mut(buffer, len) });
            sent(k, InFlight::new(line));
        }
    }

    /// Takes the next buffer for a packet of `len` bytes and lets `fill` write it: in flight when
    /// that says true, else free again. None as well when there is no buffer.
    #[inline]
    pub(crate) fn fill_next(
        &self,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<bool>,
    ) -> Result<Option<InFlight>> {
        let inner = self.inner();
        assert!(len <= inner.buffers.stride());
        let Some(line) = inner.take() else {
            return Ok(None);
        };
        // Free again unless it is sent, also when `fill` panics.
        let taken = Taken { inner, line };
        let buffer = inner.buffers.pointer(line).as_ptr();
        // SAFETY: the buffer was free, so it is nobody else's; `len` bytes fit, as asserted.
        let sent = fill(unsafe { std::slice::from_raw_parts_mut(buffer, len) })?;
        Ok(sent.then(|| taken.into_flight()))
    }

    /// Takes back buffers of this pool that came home, as long as `next` gives some. The port keeps
    /// them by pool; what can't be this one's is left to leak: better lost than shared.
    #[inline]
    pub(crate) fn reclaim_burst(&self, mut next: impl FnMut() -> Option<InFlight>) {
        let inner = self.inner();
        let mut tail = inner.tail.get();
        while let Some(flight) = next() {
            debug_assert!(inner.buffers.contains(flight.line()));
            inner.entry(tail).set(flight.line());
            tail = tail.wrapping_add(1);
        }
        inner.tail.set(tail);
    }

    #[inline]
    fn inner(&self) -> &Inner {
        // SAFETY: the pool is freed by the last of its handle and its buffers, and this is the
        // handle.
        unsafe { self.inner.as_ref() }
    }
}

impl Drop for Mempool {
    fn drop(&mut self) {
        self.inner().orphan.set(true);
        free_if_last(self.inner);
    }
}

impl std::fmt::Debug for Mempool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (free, all) = (self.available(), self.capacity());
        write!(
            f,
            "Mempool({free} of {all} buffers of {} bytes free)",
            self.buffer_len()
        )
    }
}

/// Frees a pool whose handle is gone when all its buffers are back.
#[inline]
fn free_if_last(inner: NonNull<Inner>) {
    // SAFETY: the caller holds the handle or a buffer, so the pool is there.
    let pool = unsafe { inner.as_ref() };
    if pool.orphan.get() && pool.available() == pool.buffers.count() {
        // SAFETY: the handle is gone and every buffer is back, so this was the last pointer; the
        // box is the one that `Mempool::new` leaked.
        drop(unsafe { Box::from_raw(inner.as_ptr()) });
    }
}

/// A packet of our own: one buffer, and how much of it is used.
///
/// Sending moves it, so using it afterwards does not compile:
///
/// ```compile_fail
/// # fn f(port: &mut libexo::port::Port, mut packet: libexo::packet::Packet) {
/// let mut burst = vec![packet];
/// port.send_burst(&mut burst).unwrap();
/// packet[0] = 1; // moved into the burst, and then to the peer
/// # }
/// ```
pub struct Packet {
    first: NonNull<u8>,
    len: u32,
    line: u32,
    inner: NonNull<Inner>,
}

impl Packet {
    /// Makes it `len` bytes long; false, and no change, when the buffer is shorter.
    pub fn set_len(&mut self, len: usize) -> bool {
        let fits = len <= self.pool().buffers.stride();
        if fits {
            self.len = len as u32;
        }
        fits
    }

    /// Bytes that the buffer holds.
    pub fn capacity(&self) -> usize {
        self.pool().buffers.stride()
    }

    /// Where it begins, in bytes from its unit's start.
    #[inline]
    pub(crate) fn offset(&self) -> usize {
        self.line as usize * CACHE_LINE
    }

    /// The pool that it came from.
    #[inline]
    pub(crate) fn pool_id(&self) -> u32 {
        self.pool().id
    }

    /// Gives the buffer away until [`Mempool::reclaim`].
    #[inline]
    pub(crate) fn into_flight(self) -> InFlight {
        let flight = InFlight::new(self.line);
        std::mem::forget(self);
        flight
    }

    #[inline]
    fn pool(&self) -> &Inner {
        // SAFETY: a pool outlives its buffers.
        unsafe { self.inner.as_ref() }
    }
}

impl Deref for Packet {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the buffer is this packet's alone: peers map it read-only, and no other packet
        // begins at its line; `len` is at most its length.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len as usize) }
    }
}

impl DerefMut for Packet {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed for as long.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), self.len as usize) }
    }
}

impl Drop for Packet {
    #[inline]
    fn drop(&mut self) {
        self.pool().put(self.line);
        free_if_last(self.inner);
    }
}

impl std::fmt::Debug for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Packet({} bytes)", self.len)
    }
}

/// A buffer that is out of the list for a moment.
struct Taken<'p> {
    inner: &'p Inner,
    line: u32,
}

impl Taken<'_> {
    #[inline]
    fn into_flight(self) -> InFlight {
        let flight = InFlight::new(self.line);
        std::mem::forget(self);
        flight
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.inner.put(self.line);
    }
}

/// A buffer that is on its way, as the pool that it belongs to knows it: half a word that can't be
/// copied, so it comes home at most once.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InFlight(NonZeroU32);

impl InFlight {
    /// Lines are counted from one here, so that "nothing" needs no room of its own.
    #[inline]
    fn new(line: u32) -> InFlight {
        InFlight(NonZeroU32::MIN.saturating_add(line))
    }

    /// Marks what is out but is no buffer of the pool at hand.
    pub(crate) const ELSEWHERE: InFlight = InFlight(NonZeroU32::MAX);

    /// Whether it is that mark.
    #[inline]
    pub(crate) fn is_elsewhere(&self) -> bool {
        *self == Self::ELSEWHERE
    }

    /// The cache line of its unit that it begins at.
    #[inline]
    pub(crate) fn line(&self) -> u32 {
        self.0.get() - 1
    }
}
