//! Memory that two domains see: the one room where libexo touches it through pointers.
//!
//! A [`Mapping`] is one unit of frames mapped here, writable when this domain owns it and read-only
//! when a peer does. Three things are built on it, and everything else in libexo is built on those
//! without `unsafe`:
//! - [`Words`], 8-byte slots that are read and written atomically, for rings and flags;
//! - [`PeerBytes`], bytes that another domain may be writing right now;
//! - [`Buffers`], memory that this domain alone writes, cut into equal buffers for packets.
//!
//! The invariant: no reference to plain bytes is ever made over memory that another domain can
//! write. What the peer wrote is copied out, each byte once, and then looked at.

use std::cell::{Cell, OnceCell};
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering, compiler_fence, fence};

use memmap2::{MmapOptions, MmapRaw};

use crate::abi::CACHE_LINE;
use crate::abi::port::{Descriptor, SEGMENTS_MAX};
use crate::abi::status::Status;
use crate::abi::wire::PageKind;
use crate::client::{Call, Client, UnitGrant};
use crate::error::{Error, Result};
use crate::ring::Slots;
use crate::status::StatusWord;

mod bytes;
pub use bytes::{LineReader, PeerBytes};

/// Who may write a mapping from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// This domain: its own unit.
    ReadWrite,
    /// Nobody here: a peer's unit.
    ReadOnly,
    /// Nobody here, and the policy declares that the peer writes no byte while we look at it.
    Trusted,
}

/// A unit of frames, mapped whole and populated, so that the packet path never faults.
#[derive(Debug)]
pub struct Mapping {
    /// Before `map`, since fields are dropped in this order. None when the registry is full: a
    /// loss kills then, as it does without the guard.
    #[expect(dead_code, reason = "held for its drop")]
    guard: Option<crate::guard::Registration>,
    /// What the guard counts, or nothing for ever: looked at after every look at the bytes.
    losses: &'static AtomicU64,
    map: MmapRaw,
    access: Access,
    /// The capability on it, where exod may take it while we look: what is taken can turn into
    /// zeroes without a fault, and exod says so first.
    capability: Option<StatusWord>,
    /// After `map`: what is ours goes back once it is not mapped any more.
    #[expect(dead_code, reason = "held for its drop")]
    unit: Option<GivenBack>,
}

/// The count of a mapping that is not guarded.
static NO_LOSSES: AtomicU64 = AtomicU64::new(0);

/// A unit that is given back when this is dropped. It keeps the session, without which there would
/// be no memory either.
#[derive(Debug)]
struct GivenBack {
    client: Client,
    handle: u64,
}

impl Drop for GivenBack {
    fn drop(&mut self) {
        // Nobody waits for the answer: exod may be stopped.
        let _ = self.client.submit(Call::drop_handle(self.handle));
    }
}

impl Mapping {
    /// Maps a unit of our own, and gives it back to exod when it is not used any more.
    pub fn own(client: &Client, unit: &UnitGrant) -> Result<Rc<Mapping>> {
        let given_back = GivenBack {
            client: client.clone(),
            handle: unit.handle,
        };
        let map = Mapping::map(&unit.fd, unit.bytes, Access::ReadWrite, unit.page_kind)?;
        Ok(Rc::new(Mapping {
            unit: Some(given_back),
            ..map
        }))
    }

    /// Maps `bytes` of `fd`, a unit of a peer's. `capability` is ours on it.
    pub fn peers(
        fd: impl AsFd,
        bytes: usize,
        access: Access,
        page: PageKind,
        capability: StatusWord,
    ) -> Result<Rc<Mapping>> {
        Ok(Rc::new(Mapping {
            capability: Some(capability),
            ..Mapping::map(fd, bytes, access, page)?
        }))
    }

    /// The size was told by exod, whose word counts for it.
    fn map(fd: impl AsFd, bytes: usize, access: Access, page: PageKind) -> Result<Mapping> {
        use std::os::fd::AsRawFd;
        let raw = fd.as_fd().as_raw_fd();
        let page_bytes = if page == PageKind::Huge2M {
            2 << 20
        } else {
            4096
        };
        let mut options = MmapOptions::new();
        options.len(bytes);
        if page != PageKind::Thp {
            options.populate();
        }
        let map = match access {
            Access::ReadWrite => options.map_raw(raw),
            Access::ReadOnly | Access::Trusted => options.map_raw_read_only(raw),
        }
        .map_err(|source| Error::System {
            call: "mmap",
            source,
        })?;
        if page == PageKind::Thp {
            // The wish for large pages must precede the first touch; a refusal costs speed alone.
            let _ = map.advise(memmap2::Advice::HugePage);
            let populate = match access {
                Access::ReadWrite => memmap2::Advice::PopulateWrite,
                Access::ReadOnly | Access::Trusted => memmap2::Advice::PopulateRead,
            };
            let _ = map.advise(populate);
        }
        let first = NonNull::new(map.as_mut_ptr()).expect("a mapping is never at zero");
        // SAFETY: the range was just mapped and is unmapped after its registration is dropped (the
        // order of fields). What a peer writes is only read as `PeerBytes` and atomics, and what
        // is ours alone is lost only when exod revokes it: the port's next call reports that.
        let guard = unsafe { crate::guard::register(first, bytes, page_bytes) }.ok();
        let losses = guard.as_ref().map_or(&NO_LOSSES, |guard| guard.count());
        Ok(Mapping {
            guard,
            losses,
            map,
            access,
            capability: None,
            unit: None,
        })
    }

    /// Whether everything that was read so far was data, and not the zeroes that stand for what was
    /// lost. Once false, always false: lost pages stay zeroes.
    #[inline]
    pub fn is_intact(&self) -> bool {
        // Both are read after whatever was read before: each begins with, or is, an acquire.
        fence(Ordering::Acquire);
        self.losses.load(Ordering::Relaxed) == 0
            && self
                .capability
                .as_ref()
                .is_none_or(|capability| capability.load().contains(Status::LIVE))
    }

    /// Bytes mapped.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether nothing is mapped: never, since a unit has at least one frame.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `count` (a power of two) 8-byte words from `offset`, or none where they do not fit.
    pub fn words(self: &Rc<Self>, offset: usize, count: usize) -> Option<Words> {
        let end = offset.checked_add(count.checked_mul(8)?)?;
        if end > self.len() || !offset.is_multiple_of(8) || !count.is_power_of_two() {
            return None;
        }
        // SAFETY: `offset` lies inside the mapping, checked above.
        let first = unsafe { self.base().add(offset) };
        Some(Words {
            first: first.cast(),
            mask: count - 1,
            map: Rc::clone(self),
        })
    }

    /// `len` bytes at `offset` as bytes of a peer; none where they do not fit.
    #[inline]
    pub fn peer_bytes(&self, offset: usize, len: usize) -> Option<PeerBytes<'_>> {
        let end = offset.checked_add(len)?;
        if end > self.len() {
            return None;
        }
        // SAFETY: `offset..end` lies inside the mapping, which outlives the borrow of `self`.
        Some(unsafe { PeerBytes::new(self, self.base().add(offset), len) })
    }

    /// The bytes as a plain slice, where the mapping is [`Access::Trusted`].
    #[inline]
    pub fn trusted_slice(&self, offset: usize, len: usize) -> Option<&[u8]> {
        let end = offset.checked_add(len)?;
        if self.access != Access::Trusted || end > self.len() {
            return None;
        }
        // SAFETY: in bounds; both sides and the policy declared that nobody writes these bytes
        // while they are lent, which is what a trusted port means.
        Some(unsafe { std::slice::from_raw_parts(self.base().add(offset).as_ptr(), len) })
    }

    fn base(&self) -> NonNull<u8> {
        NonNull::new(self.map.as_mut_ptr()).expect("a mapping is never at zero")
    }
}

/// 8-byte slots in a mapping.
#[derive(Clone, Debug)]
pub struct Words {
    first: NonNull<AtomicU64>,
    /// Words less one.
    mask: usize,
    map: Rc<Mapping>,
}

impl Words {
    #[inline]
    fn word(&self, index: usize) -> &AtomicU64 {
        // SAFETY: the mask keeps the index among the words, which lie inside the mapping that `map`
        // keeps alive; they are aligned, and both domains access them by atomic operations alone.
        // A read-only mapping is only loaded from.
        unsafe { self.first.add(index & self.mask).as_ref() }
    }

    /// Brings the line of `index` near, to be written.
    #[inline]
    pub fn prefetch_write(&self, index: usize) {
        prefetch_write(std::ptr::from_ref(self.word(index)).cast());
    }

    /// Sets every word to zero.
    pub fn clear(&self) {
        for index in 0..self.len() {
            self.store(index, 0);
        }
    }
}

impl Slots for Words {
    fn len(&self) -> usize {
        self.mask + 1
    }

    #[inline]
    fn load(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Acquire)
    }

    #[inline]
    fn glance(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Relaxed)
    }

    #[inline]
    fn settle(&self) {
        fence(Ordering::Acquire);
    }

    #[inline]
    fn store(&self, index: usize, value: u64) {
        debug_assert_eq!(self.map.access, Access::ReadWrite);
        self.word(index).store(value, Ordering::Release);
    }
}

/// Equal buffers in memory that this domain alone writes.
#[derive(Clone, Debug)]
pub struct Buffers {
    map: Rc<Mapping>,
    base: NonNull<u8>,
    /// Where the first buffer is, in bytes from the unit's start.
    offset: usize,
    stride: usize,
    count: u32,
}

impl Buffers {
    /// As many buffers of `stride` bytes (a multiple of a cache line) as fit from `offset` on.
    pub fn new(map: Rc<Mapping>, offset: usize, stride: usize, limit: u32) -> Result<Buffers> {
        let room = map.len().saturating_sub(offset);
        let count = (room / stride.max(1)).min(limit as usize);
        let aligned = stride.is_multiple_of(CACHE_LINE) && offset.is_multiple_of(CACHE_LINE);
        if map.access != Access::ReadWrite || !aligned || stride == 0 || count == 0 {
            return Err(Error::WrongSize {
                what: "a mempool's buffer size (a multiple of 64 that fits the unit)",
                got: stride as u64,
                limit: room as u64,
            });
        }
        let base = map.base();
        Ok(Buffers {
            map,
            base,
            offset,
            stride,
            count: count as u32,
        })
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes in each.
    #[inline]
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The cache line of the unit that buffer `index` begins at.
    pub fn line(&self, index: u32) -> u32 {
        ((self.offset + index as usize * self.stride) / CACHE_LINE) as u32
    }

    /// Whether a buffer begins at `line`.
    pub(crate) fn contains(&self, line: u32) -> bool {
        let lines = (self.stride / CACHE_LINE) as u32;
        let from = line.wrapping_sub(self.line(0));
        from.is_multiple_of(lines) && from / lines < self.count
    }

    /// The mapping that they are cut from.
    pub fn mapping(&self) -> &Rc<Mapping> {
        &self.map
    }

    /// Where the buffer that begins at `line` of the unit is in memory.
    #[inline]
    pub(crate) fn pointer(&self, line: u32) -> NonNull<u8> {
        debug_assert!((line as usize) < self.map.len() / CACHE_LINE);
        // SAFETY: pools hand out the lines of their buffers alone, which lie inside the mapping.
        unsafe { self.base.add(line as usize * CACHE_LINE) }
    }
}

/// The segments of one peer, by number: what its descriptors point into.
#[derive(Debug)]
pub struct Segments {
    /// Base and length, zero where nothing is mapped.
    views: [Cell<(NonNull<u8>, usize)>; SEGMENTS_MAX],
    maps: [OnceCell<Rc<Mapping>>; SEGMENTS_MAX],
    count: Cell<usize>,
}

impl Default for Segments {
    fn default() -> Segments {
        Segments {
            views: [const { Cell::new((NonNull::dangling(), 0)) }; SEGMENTS_MAX],
            maps: [const { OnceCell::new() }; SEGMENTS_MAX],
            count: Cell::new(0),
        }
    }
}

impl Segments {
    /// Makes a mapping segment `index`. The first one stays.
    pub fn set(&self, index: usize, map: Rc<Mapping>) {
        let view = (map.base(), map.len());
        if self.maps[index].set(map).is_ok() {
            self.views[index].set(view);
            self.count.set(self.count.get() + 1);
        }
    }

    /// How many there are.
    #[inline]
    pub fn count(&self) -> usize {
        self.count.get()
    }

    /// The mapping of a segment.
    pub fn get(&self, index: usize) -> Option<&Rc<Mapping>> {
        self.maps.get(index).and_then(OnceCell::get)
    }

    /// What a descriptor points at, if it is well formed, points at something, and does so inside a
    /// mapped segment. Brings its first line near.
    #[inline]
    pub fn admit(&self, descriptor: Descriptor) -> Option<Piece> {
        self.view(descriptor.segment()).admit(descriptor)
    }

    /// Where a segment is, for many descriptors that point into it.
    #[inline]
    pub(crate) fn view(&self, segment: usize) -> View {
        let (base, len) = self.views[segment % SEGMENTS_MAX].get();
        View { base, len }
    }

    /// Brings up to `lines` lines of a piece near.
    #[inline]
    pub fn prefetch(&self, piece: Piece, lines: usize) {
        let (base, _) = self.views[piece.segment() % SEGMENTS_MAX].get();
        let from = base.as_ptr().wrapping_add(piece.offset());
        for at in (0..piece.len()).step_by(CACHE_LINE).take(lines) {
            prefetch_read(from.wrapping_add(at));
        }
    }

    /// The bytes of a piece that was [admitted](Segments::admit) here.
    #[inline]
    pub fn bytes(&self, piece: Piece) -> Option<PeerBytes<'_>> {
        let index = piece.segment() % SEGMENTS_MAX;
        let map = self.maps[index].get()?;
        let (base, len) = self.views[index].get();
        if piece.offset() + piece.len() > len {
            return None;
        }
        // SAFETY: the piece lies inside the view, which is that of `map`: both are set once.
        Some(unsafe { PeerBytes::new(map, base.add(piece.offset()), piece.len()) })
    }
}

/// Where a segment is. Nothing is read through it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    base: NonNull<u8>,
    len: usize,
}

impl View {
    /// As [`Segments::admit`], for a descriptor of this segment.
    #[inline(always)]
    pub(crate) fn admit(self, descriptor: Descriptor) -> Option<Piece> {
        let (from, count) = (descriptor.offset(), descriptor.len());
        // A hint: it may name anything.
        prefetch_read(self.base.as_ptr().wrapping_add(from));
        let good = (count != 0) & (from + count <= self.len) & descriptor.well_formed();
        good.then_some(Piece::new(descriptor))
    }
}

/// Where a descriptor points, checked and decoded once: the descriptor with its offset in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Piece(u64);

impl Piece {
    const OFFSET: u64 = (1 << 30) - 1;

    /// Where no piece is yet.
    pub(crate) const NONE: Piece = Piece(0);

    #[inline(always)]
    fn new(descriptor: Descriptor) -> Piece {
        let fields = descriptor.0 & !Self::OFFSET & !Descriptor::LAP;
        Piece(fields | descriptor.offset() as u64)
    }

    /// First byte, from the segment's start.
    #[inline]
    pub fn offset(self) -> usize {
        (self.0 & Self::OFFSET) as usize
    }

    /// Length in bytes.
    #[inline]
    pub fn len(self) -> usize {
        Descriptor(self.0).len()
    }

    /// Whether there is no byte in it: never, once it was admitted.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The segment that it is in.
    #[inline]
    pub fn segment(self) -> usize {
        Descriptor(self.0).segment()
    }

    /// Whether its packet goes on with another.
    #[inline]
    pub fn more(self) -> bool {
        Descriptor(self.0).more()
    }
}

/// Brings the line at `at` near, to be read. Any address may be named: it is a hint.
#[inline]
pub(crate) fn prefetch_read(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults and has no effect but on caches.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Brings the line at `at` near, to be written. Any address may be named: it is a hint.
#[inline]
pub(crate) fn prefetch_write(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as above; processors without the instruction execute it as a no-op.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Makes every thread of every process that registered execute a full barrier, so that the packet
/// path itself needs none (`membarrier(2)`, GLOBAL_EXPEDITED). False where the kernel refuses.
pub(crate) fn barrier_everywhere() -> bool {
    membarrier(libc::MEMBARRIER_CMD_GLOBAL_EXPEDITED)
}

/// Lets [`barrier_everywhere`] of a peer reach this process. False where the kernel refuses.
pub(crate) fn barrier_register() -> bool {
    membarrier(libc::MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED)
}

fn membarrier(command: libc::c_int) -> bool {
    compiler_fence(Ordering::SeqCst);
    // SAFETY: membarrier takes no pointers.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 };
    compiler_fence(Ordering::SeqCst);
    done
}
