//! Bytes that another domain can write at any moment.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::__m128i;
use std::ptr::NonNull;

use super::Mapping;
use crate::error::{Error, Result};

/// From this size on a copy by wider instructions gains more than the call costs.
#[cfg(target_arch = "x86_64")]
const LONG_MIN: usize = 512;

/// Longest header that [`PeerBytes::head`] copies.
pub const HEAD_MAX: usize = 256;

/// Takes a peer's bytes as lines of eight little-endian words: sums, compares or filters them in
/// registers. What it has gathered counts only when [`PeerBytes::read_lines`] gives it back.
pub trait LineReader {
    /// The next line. `len` says how many of its bytes there are: 64, but for the last line, which
    /// is padded with zeroes. Mark it `#[inline(always)]` where speed counts.
    fn line(&mut self, words: [u64; 8], len: usize);
}

/// Bytes that another domain may be writing while they are read.
///
/// They are never a `&[u8]`: the compiler may read a slice twice and trust that both reads agree.
/// Here each byte is read once, into memory of our own, and every reading function checks before it
/// answers that nothing of the mapping was lost so far, so zeroes that stand for lost memory are
/// never taken for data: not those that the [guard](crate::guard) put there, and not those that
/// exod did.
#[derive(Clone, Copy)]
pub struct PeerBytes<'a> {
    first: NonNull<u8>,
    len: usize,
    map: &'a Mapping,
}

impl<'a> PeerBytes<'a> {
    /// # Safety
    /// `first..first + len` must lie in `map`.
    #[inline]
    pub(super) unsafe fn new(map: &'a Mapping, first: NonNull<u8>, len: usize) -> PeerBytes<'a> {
        PeerBytes { first, len, map }
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes from `from` on; none past the end.
    #[inline]
    pub fn skip(&self, from: usize) -> PeerBytes<'a> {
        let from = from.min(self.len);
        // SAFETY: `from` is at most `len`, so the rest lies inside the same bytes.
        let first = unsafe { self.first.add(from) };
        PeerBytes {
            first,
            len: self.len - from,
            ..*self
        }
    }

    /// The first `N` bytes, at most `HEAD_MAX`, copied: what a parser of headers starts from.
    /// Shorter packets are [`Error::WrongSize`].
    #[inline]
    pub fn head<const N: usize>(&self) -> Result<[u8; N]> {
        const { assert!(N <= HEAD_MAX) };
        if self.len < N {
            return Err(Error::WrongSize {
                what: "a header's length",
                got: N as u64,
                limit: self.len as u64,
            });
        }
        // SAFETY: `N` bytes are there, checked above.
        let head = unsafe { load_head(self.first.as_ptr()) };
        self.still_there(head)
    }

    /// Copies as many bytes as fit into `to`; how many.
    #[inline]
    pub fn copy_to(&self, to: &mut [u8]) -> Result<usize> {
        let count = self.len.min(to.len());
        // SAFETY: `count` bytes are on both sides.
        unsafe { copy_once(self.first.as_ptr(), to.as_mut_ptr(), count) };
        self.still_there(count)
    }

    /// Copies the bytes behind `to`; how many.
    pub fn append_to(&self, to: &mut Vec<u8>) -> Result<usize> {
        let at = to.len();
        to.resize(at + self.len, 0);
        self.copy_to(&mut to[at..])
    }

    /// Hands the bytes to `reader` as lines, without a copy in memory, and gives it back.
    #[inline(always)]
    pub fn read_lines<R: LineReader>(&self, reader: R) -> Result<R> {
        let (mut reader, mut at) = (reader, 0);
        while at < self.len {
            let left = self.len - at;
            // SAFETY: 64 bytes, or fewer where `left` says so, remain at `at`.
            let line = unsafe {
                let from = self.first.as_ptr().add(at);
                if left < 64 {
                    let mut line = [0u64; 8];
                    copy_once(from, line.as_mut_ptr().cast(), left);
                    line.map(u64::from_le)
                } else {
                    load_line(from)
                }
            };
            reader.line(line, left.min(64));
            at += 64;
        }
        self.still_there(reader)
    }

    /// Brings the first line near.
    #[inline]
    pub fn prefetch(&self) {
        super::prefetch_read(self.first.as_ptr());
    }

    #[inline]
    fn still_there<T>(&self, value: T) -> Result<T> {
        if self.map.is_intact() {
            Ok(value)
        } else {
            Err(Error::Revoked)
        }
    }
}

impl std::fmt::Debug for PeerBytes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PeerBytes({} bytes)", self.len)
    }
}

/// Loads one line of eight words, each once.
///
/// # Safety
/// 64 readable bytes at `from`.
#[inline(always)]
unsafe fn load_line(from: *const u8) -> [u64; 8] {
    #[cfg(target_arch = "x86_64")]
    {
        let (a, b, c, d): (__m128i, __m128i, __m128i, __m128i);
        // SAFETY: the caller promises the bytes. Assembly, because what a load by the compiler may
        // assume (nobody writes meanwhile) is just what does not hold here.
        unsafe {
            std::arch::asm!(
                "movdqu {a}, [{p}]",
                "movdqu {b}, [{p} + 16]",
                "movdqu {c}, [{p} + 32]",
                "movdqu {d}, [{p} + 48]",
                p = in(reg) from,
                a = out(xmm_reg) a, b = out(xmm_reg) b, c = out(xmm_reg) c, d = out(xmm_reg) d,
                options(nostack, preserves_flags, readonly),
            );
            std::mem::transmute([a, b, c, d])
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let mut line = [0u64; 8];
        // SAFETY: the caller promises the bytes; `line` is as long.
        unsafe { copy_once(from, line.as_mut_ptr().cast(), 64) };
        line
    }
}

/// Loads the first `N` bytes, each once. A short header is put together in registers: what parses
/// it looks at fields that lie across the words that it was read in.
///
/// # Safety
/// `N` readable bytes at `from`.
#[inline(always)]
unsafe fn load_head<const N: usize>(from: *const u8) -> [u8; N] {
    let mut head = [0; N];
    // SAFETY: the caller promises `N` bytes, and `head` has room for them.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if N > 8 && N < 16 {
            let low = from.cast::<Unaligned<u64>>().read_volatile().0;
            let mut high = [0; 8];
            copy_once(from.add(8), high.as_mut_ptr(), N - 8);
            let all = u128::from(low) | u128::from(u64::from_le_bytes(high)) << 64;
            head.copy_from_slice(&all.to_le_bytes()[..N]);
            return head;
        }
        copy_once(from, head.as_mut_ptr(), N);
    }
    head
}

/// Copies `count` bytes that may change meanwhile, reading each once. In pieces as wide as can be,
/// none over another: what is read from `to` next waits for every store that it meets in part.
///
/// # Safety
/// `count` readable bytes at `from`, and as many writable ones of our own at `to`.
#[inline(always)]
unsafe fn copy_once(from: *const u8, to: *mut u8, count: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        if count >= LONG_MIN {
            // SAFETY: the caller promises both sides, and the feature was detected.
            unsafe {
                if std::is_x86_feature_detected!("avx512f") {
                    copy_once_avx512(from, to, count);
                } else {
                    copy_once_string(from, to, count);
                }
            }
            return;
        }
        // SAFETY: each piece lies inside the `count` bytes that the caller promises on both sides.
        unsafe {
            let mut at = 0;
            while count - at >= 64 {
                let line = load_line(from.add(at));
                to.add(at).cast::<[u64; 8]>().write_unaligned(line);
                at += 64;
            }
            while count - at >= 16 {
                let part = load_part(from.add(at));
                to.add(at).cast::<__m128i>().write_unaligned(part);
                at += 16;
            }
            if count & 8 != 0 {
                copy_word::<u64>(from, to, &mut at);
            }
            if count & 4 != 0 {
                copy_word::<u32>(from, to, &mut at);
            }
            if count & 2 != 0 {
                copy_word::<u16>(from, to, &mut at);
            }
            if count & 1 != 0 {
                copy_word::<u8>(from, to, &mut at);
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    for at in 0..count {
        // SAFETY: a byte remains on both sides.
        unsafe { to.add(at).write(from.add(at).read_volatile()) };
    }
}

/// Copies one word at `at` and steps over it.
///
/// # Safety
/// A word's bytes on both sides, as in [`copy_once`].
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn copy_word<T: Copy>(from: *const u8, to: *mut u8, at: &mut usize) {
    // SAFETY: the caller promises the bytes; a volatile read happens once, and packed needs no
    // alignment.
    unsafe {
        let word = from.add(*at).cast::<Unaligned<T>>().read_volatile();
        to.add(*at).cast::<Unaligned<T>>().write(word);
    }
    *at += size_of::<T>();
}

/// As [`copy_once`], 64 bytes at a time; `count` is at least 64. The last 64 bytes overlap those
/// before them, which then are read twice and stored twice: what counts is what was stored last.
///
/// # Safety
/// As [`copy_once`], with AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn copy_once_avx512(from: *const u8, to: *mut u8, count: usize) {
    // SAFETY: the loop goes over whole lines from the start, and then over the last 64 bytes.
    unsafe {
        std::arch::asm!(
            "2:",
            "vmovdqu64 {line}, [{from} + {at}]",
            "vmovdqu64 [{to} + {at}], {line}",
            "add {at}, 64",
            "cmp {at}, {last}",
            "jb 2b",
            "vmovdqu64 {line}, [{from} + {last}]",
            "vmovdqu64 [{to} + {last}], {line}",
            from = in(reg) from,
            to = in(reg) to,
            last = in(reg) count - 64,
            at = inout(reg) 0usize => _,
            line = out(zmm_reg) _,
            options(nostack),
        );
    }
}

/// As [`copy_once`], by the processor's own string copy.
///
/// # Safety
/// As [`copy_once`].
#[cfg(target_arch = "x86_64")]
unsafe fn copy_once_string(from: *const u8, to: *mut u8, count: usize) {
    // SAFETY: the caller promises both sides; the direction flag is clear, as always.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") count => _, inout("rsi") from => _, inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
}

/// Loads 16 bytes.
///
/// # Safety
/// 16 readable bytes at `from`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn load_part(from: *const u8) -> __m128i {
    let part: __m128i;
    // SAFETY: the caller promises the bytes; assembly for the reason that `load_line` gives.
    unsafe {
        std::arch::asm!(
            "movdqu {part}, [{p}]",
            p = in(reg) from, part = out(xmm_reg) part,
            options(nostack, preserves_flags, readonly),
        );
    }
    part
}

/// A word at any address.
#[cfg(target_arch = "x86_64")]
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Unaligned<T>(T);
