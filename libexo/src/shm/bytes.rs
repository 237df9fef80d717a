//! Bytes that another domain can write at any moment.

use std::ptr::NonNull;

use super::Mapping;
use crate::error::{Error, Result};

/// From this size on a copy by wider instructions gains more than the call costs.
#[cfg(target_arch = "x86_64")]
const LONG_MIN: usize = 512;

/// Longest header that [`PeerBytes::head`] copies.
pub const HEAD_MAX: usize = 256;

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
        let mut head = [0; N];
        // SAFETY: `N` bytes are there, checked above, and `head` has room for them.
        unsafe { copy_once(self.first.as_ptr(), head.as_mut_ptr(), N) };
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

    /// Folds `f` over the bytes as lines of eight little-endian words, without a copy in memory.
    /// `f` also gets how many bytes of its line there are: 64, but for the last, which is padded
    /// with zeroes.
    #[inline(always)]
    pub fn fold_lines<A>(&self, init: A, mut f: impl FnMut(A, [u64; 8], usize) -> A) -> Result<A> {
        let mut acc = init;
        let (mut at, end) = (0, self.len);
        while end - at >= 64 {
            // SAFETY: 64 bytes remain at `at`.
            acc = f(acc, unsafe { load_line(self.first.as_ptr().add(at)) }, 64);
            at += 64;
        }
        if at < end {
            let mut line = [0u64; 8];
            // SAFETY: fewer than 64 bytes remain at `at`, and `line` has room for 64.
            unsafe {
                let to = line.as_mut_ptr().cast();
                copy_once(self.first.as_ptr().add(at), to, end - at);
            }
            acc = f(acc, line.map(u64::from_le), end - at);
        }
        self.still_there(acc)
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
        use std::arch::x86_64::__m128i;
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

/// Copies `count` bytes that may change meanwhile, reading each once.
///
/// # Safety
/// `count` readable bytes at `from`, and as many writable ones of our own at `to`.
#[inline]
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
        let mut at = 0;
        while count - at >= 64 {
            // SAFETY: 64 bytes remain on both sides.
            unsafe {
                let line = load_line(from.add(at));
                to.add(at).cast::<[u64; 8]>().write_unaligned(line);
            }
            at += 64;
        }
        while count - at >= 8 {
            // SAFETY: eight bytes remain on both sides; a volatile read happens exactly once.
            unsafe {
                let word = from.add(at).cast::<Unaligned>().read_volatile();
                to.add(at).cast::<Unaligned>().write(word);
            }
            at += 8;
        }
        while at < count {
            // SAFETY: a byte remains on both sides.
            unsafe { to.add(at).write(from.add(at).read_volatile()) };
            at += 1;
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    for at in 0..count {
        // SAFETY: a byte remains on both sides.
        unsafe { to.add(at).write(from.add(at).read_volatile()) };
    }
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

/// A word at any address.
#[cfg(target_arch = "x86_64")]
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Unaligned(u64);
