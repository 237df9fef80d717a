//! What a packet carries: bytes that the sender writes and the receiver can check.
//!
//! The whole definition: a packet of `n` bytes is the first `n` bytes of the little-endian 64-bit
//! words `word(i) = seq + i * STEP` (modulo 2^64), i = 0, 1, 2, ... So the first word is the
//! sequence number, and every other word depends on it and on its own position: a flipped bit, a
//! moved word or half of an older packet is found. In C:
//!
//! ```c
//! for (i = 0; i < n / 8; i++) word[i] = seq + i * 0x9E3779B97F4A7C15ull;
//! // and the first n % 8 bytes of one word more
//! ```
//!
//! One addition and one comparison per word run near memory speed. The widest instructions that the
//! processor has are chosen at run time; short packets stay inline, where a call would cost more.
//!
//! The `_raw` functions take pointers because a receiver also checks memory that another process
//! may write meanwhile, which must not become a slice. Such a race changes the answer, never the
//! safety: each byte is read once, and nothing is derived from it but a comparison.

/// Distance of two neighbouring words: odd, and with bits everywhere.
pub const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// Up to this size the portable code is used inline: a call costs more than wide instructions save.
const INLINE_BYTES: usize = 128;

const WORD: usize = 8;

/// Writes packet `seq` over all of `buf`.
#[inline]
pub fn fill(buf: &mut [u8], seq: u64) {
    // SAFETY: the pointer and length are those of an exclusive slice.
    unsafe { fill_raw(buf.as_mut_ptr(), buf.len(), seq) }
}

/// Whether all of `buf` is packet `seq`.
#[inline]
pub fn check(buf: &[u8], seq: u64) -> bool {
    // SAFETY: the pointer and length are those of a slice.
    unsafe { check_raw(buf.as_ptr(), buf.len(), seq) }
}

/// The sequence number that `buf` claims, when all its bytes agree with it.
///
/// For links that lose packets, where the receiver cannot know which one comes next. With fewer
/// than 16 bytes there is nothing that a damaged sequence number could disagree with.
#[inline]
pub fn sequence(buf: &[u8]) -> Option<u64> {
    let seq = u64::from_le_bytes(*buf.first_chunk()?);
    check(buf, seq).then_some(seq)
}

/// Whether `words`, read as little-endian, are the words of packet `seq`, for a receiver that reads
/// words.
#[inline]
pub fn check_words(words: impl IntoIterator<Item = u64>, seq: u64) -> bool {
    let mut checker = Checker::new(seq);
    words.into_iter().for_each(|word| checker.word(word));
    checker.matches()
}

/// Compares words one after the other with those of one packet.
#[derive(Debug, Clone, Copy)]
pub struct Checker {
    expected: u64,
    difference: u64,
}

impl Checker {
    /// Starts at the first word of packet `seq`.
    #[inline(always)]
    pub fn new(seq: u64) -> Self {
        Self {
            expected: seq,
            difference: 0,
        }
    }

    /// Takes the next word.
    #[inline(always)]
    pub fn word(&mut self, word: u64) {
        self.difference |= word ^ self.expected;
        self.expected = self.expected.wrapping_add(STEP);
    }

    /// Takes the last `len` (at most 8) bytes, in the low bytes of `word`.
    #[inline(always)]
    pub fn tail(&mut self, word: u64, len: usize) {
        let mask = if len >= WORD {
            u64::MAX
        } else {
            (1 << (8 * len)) - 1
        };
        self.difference |= (word ^ self.expected) & mask;
    }

    /// Whether every word so far was as expected.
    #[inline(always)]
    pub fn matches(&self) -> bool {
        self.difference == 0
    }
}

/// Writes packet `seq` over `len` bytes at `ptr`.
///
/// # Safety
/// `ptr` is valid for writes of `len` bytes; any alignment.
#[inline]
pub unsafe fn fill_raw(ptr: *mut u8, len: usize, seq: u64) {
    // SAFETY: the caller's promise is the callee's condition; the features were detected.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if len > INLINE_BYTES {
            if is_x86_feature_detected!("avx512f") {
                return x86::fill_avx512(ptr, len, seq);
            }
            if is_x86_feature_detected!("avx2") {
                return x86::fill_avx2(ptr, len, seq);
            }
        }
        fill_words(ptr, len, seq)
    }
}

/// Whether the `len` bytes at `ptr` are packet `seq`; each byte is read once.
///
/// # Safety
/// `ptr` is valid for reads of `len` bytes; any alignment. Another process may write them
/// meanwhile.
#[inline]
pub unsafe fn check_raw(ptr: *const u8, len: usize, seq: u64) -> bool {
    // SAFETY: the caller's promise is the callee's condition; the features were detected.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if len > INLINE_BYTES {
            if is_x86_feature_detected!("avx512f") {
                return x86::check_avx512(ptr, len, seq);
            }
            if is_x86_feature_detected!("avx2") {
                return x86::check_avx2(ptr, len, seq);
            }
        }
        check_portable(ptr, len, seq)
    }
}

/// # Safety
/// As `fill_raw`.
#[inline(always)]
unsafe fn fill_words(ptr: *mut u8, len: usize, seq: u64) {
    let mut value = seq;
    for i in 0..len / WORD {
        // SAFETY: word i lies wholly inside the `len` bytes.
        unsafe {
            ptr.add(i * WORD)
                .cast::<u64>()
                .write_unaligned(value.to_le())
        };
        value = value.wrapping_add(STEP);
    }
    if len.is_multiple_of(WORD) {
        return;
    }
    let tail = value.to_le_bytes();
    // SAFETY: the last len % 8 bytes lie inside the `len` bytes, and `tail` has 8.
    unsafe {
        ptr.add(len / WORD * WORD)
            .copy_from_nonoverlapping(tail.as_ptr(), len % WORD)
    };
}

/// # Safety
/// As `check_raw`.
#[inline(always)]
unsafe fn check_portable(ptr: *const u8, len: usize, seq: u64) -> bool {
    let mut checker = Checker::new(seq);
    for i in 0..len / WORD {
        // SAFETY: word i lies wholly inside the `len` bytes.
        checker.word(u64::from_le(unsafe {
            ptr.add(i * WORD).cast::<u64>().read_unaligned()
        }));
    }
    let mut tail = [0; WORD];
    // SAFETY: the last len % 8 bytes lie inside the `len` bytes, and `tail` has 8.
    unsafe {
        tail.as_mut_ptr()
            .copy_from_nonoverlapping(ptr.add(len / WORD * WORD), len % WORD)
    };
    checker.tail(u64::from_le_bytes(tail), len % WORD);
    checker.matches()
}

/// The same with wide instructions; whole vectors first, the rest as words.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use core::arch::x86_64::*;

    use super::{STEP, check_portable, fill_words};

    /// Multiples of STEP for the lanes of one vector.
    static LANES: [u64; 8] = {
        let mut lanes = [0; 8];
        let mut i = 0;
        while i < 8 {
            lanes[i] = STEP.wrapping_mul(i as u64);
            i += 1;
        }
        lanes
    };

    /// # Safety
    /// As `fill_raw`, on a processor with AVX-512F.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn fill_avx512(ptr: *mut u8, len: usize, seq: u64) {
        let whole = len / 64 * 64;
        // SAFETY: LANES has 64 bytes; every vector lies inside the first `whole` of `len` bytes.
        unsafe {
            let lanes = _mm512_loadu_si512(LANES.as_ptr().cast());
            let mut value = _mm512_add_epi64(_mm512_set1_epi64(seq as i64), lanes);
            let step = _mm512_set1_epi64(STEP.wrapping_mul(8) as i64);
            for at in (0..whole).step_by(64) {
                _mm512_storeu_si512(ptr.add(at).cast(), value);
                value = _mm512_add_epi64(value, step);
            }
            let next = seq.wrapping_add(STEP.wrapping_mul(whole as u64 / 8));
            fill_words(ptr.add(whole), len - whole, next)
        }
    }

    /// # Safety
    /// As `check_raw`, on a processor with AVX-512F.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn check_avx512(ptr: *const u8, len: usize, seq: u64) -> bool {
        let whole = len / 64 * 64;
        // SAFETY: LANES has 64 bytes; every vector lies inside the first `whole` of `len` bytes.
        unsafe {
            let lanes = _mm512_loadu_si512(LANES.as_ptr().cast());
            let mut value = _mm512_add_epi64(_mm512_set1_epi64(seq as i64), lanes);
            let step = _mm512_set1_epi64(STEP.wrapping_mul(8) as i64);
            let mut difference = _mm512_setzero_si512();
            for at in (0..whole).step_by(64) {
                let word = _mm512_loadu_si512(ptr.add(at).cast());
                // 0xF6 is A | (B ^ C).
                difference = _mm512_ternarylogic_epi64(difference, word, value, 0xF6);
                value = _mm512_add_epi64(value, step);
            }
            let next = seq.wrapping_add(STEP.wrapping_mul(whole as u64 / 8));
            _mm512_test_epi64_mask(difference, difference) == 0
                && check_portable(ptr.add(whole), len - whole, next)
        }
    }

    /// # Safety
    /// As `fill_raw`, on a processor with AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn fill_avx2(ptr: *mut u8, len: usize, seq: u64) {
        let whole = len / 32 * 32;
        // SAFETY: LANES has at least 32 bytes; every vector lies inside the first `whole` of `len`
        // bytes.
        unsafe {
            let lanes = _mm256_loadu_si256(LANES.as_ptr().cast());
            let mut value = _mm256_add_epi64(_mm256_set1_epi64x(seq as i64), lanes);
            let step = _mm256_set1_epi64x(STEP.wrapping_mul(4) as i64);
            for at in (0..whole).step_by(32) {
                _mm256_storeu_si256(ptr.add(at).cast(), value);
                value = _mm256_add_epi64(value, step);
            }
            let next = seq.wrapping_add(STEP.wrapping_mul(whole as u64 / 8));
            fill_words(ptr.add(whole), len - whole, next)
        }
    }

    /// # Safety
    /// As `check_raw`, on a processor with AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn check_avx2(ptr: *const u8, len: usize, seq: u64) -> bool {
        let whole = len / 32 * 32;
        // SAFETY: LANES has at least 32 bytes; every vector lies inside the first `whole` of `len`
        // bytes.
        unsafe {
            let lanes = _mm256_loadu_si256(LANES.as_ptr().cast());
            let mut value = _mm256_add_epi64(_mm256_set1_epi64x(seq as i64), lanes);
            let step = _mm256_set1_epi64x(STEP.wrapping_mul(4) as i64);
            let mut difference = _mm256_setzero_si256();
            for at in (0..whole).step_by(32) {
                let word = _mm256_loadu_si256(ptr.add(at).cast());
                difference = _mm256_or_si256(difference, _mm256_xor_si256(word, value));
                value = _mm256_add_epi64(value, step);
            }
            let next = seq.wrapping_add(STEP.wrapping_mul(whole as u64 / 8));
            _mm256_testz_si256(difference, difference) == 1
                && check_portable(ptr.add(whole), len - whole, next)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [usize; 14] = [0, 1, 7, 8, 9, 31, 64, 65, 127, 129, 255, 1518, 4099, 9000];

    fn portable(len: usize, seq: u64) -> Vec<u8> {
        let mut buf = vec![0xA5; len];
        // SAFETY: the pointer and length are those of `buf`.
        unsafe { fill_words(buf.as_mut_ptr(), len, seq) };
        buf
    }

    #[test]
    fn the_definition_holds() {
        let buf = portable(21, 5);
        assert_eq!(buf[..8], 5u64.to_le_bytes());
        assert_eq!(buf[8..16], 5u64.wrapping_add(STEP).to_le_bytes());
        assert_eq!(
            buf[16..],
            5u64.wrapping_add(STEP.wrapping_mul(2)).to_le_bytes()[..5]
        );
    }

    #[test]
    fn the_dispatched_paths_agree_with_the_portable_one() {
        for len in SIZES {
            for seq in [0, 1, u64::MAX, 0x0123_4567_89AB_CDEF] {
                let mut buf = vec![0; len + 2];
                fill(&mut buf[1..=len], seq);
                assert_eq!(buf[1..=len], portable(len, seq), "{len} bytes");
                assert_eq!((buf[0], buf[len + 1]), (0, 0), "wrote outside {len} bytes");
                assert!(check(&buf[1..=len], seq), "{len} bytes");
            }
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn every_vector_path_agrees() {
        for len in SIZES {
            let good = portable(len, 77);
            let mut buf = vec![0; len];
            let ptr = buf.as_mut_ptr();
            if is_x86_feature_detected!("avx2") {
                // SAFETY: the feature is there and the pointer has `len` bytes.
                unsafe { x86::fill_avx2(ptr, len, 77) };
                assert_eq!(buf, good);
                // SAFETY: as above.
                assert!(unsafe { x86::check_avx2(good.as_ptr(), len, 77) });
            }
            buf.fill(0);
            let ptr = buf.as_mut_ptr();
            if is_x86_feature_detected!("avx512f") {
                // SAFETY: the feature is there and the pointer has `len` bytes.
                unsafe { x86::fill_avx512(ptr, len, 77) };
                assert_eq!(buf, good);
                // SAFETY: as above.
                assert!(unsafe { x86::check_avx512(good.as_ptr(), len, 77) });
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_found_by_every_path() {
        for len in [16, 64, 65, 300, 1518] {
            let mut buf = portable(len, 99);
            for bit in 0..len * 8 {
                buf[bit / 8] ^= 1 << (bit % 8);
                assert!(!check(&buf, 99), "bit {bit} of {len} bytes");
                assert_eq!(sequence(&buf), None, "bit {bit} of {len} bytes");
                // SAFETY: the pointers and lengths are those of `buf`, and the features were
                // detected.
                unsafe {
                    assert!(!check_portable(buf.as_ptr(), len, 99));
                    #[cfg(target_arch = "x86_64")]
                    {
                        assert!(
                            !is_x86_feature_detected!("avx2")
                                || !x86::check_avx2(buf.as_ptr(), len, 99)
                        );
                        assert!(
                            !is_x86_feature_detected!("avx512f")
                                || !x86::check_avx512(buf.as_ptr(), len, 99)
                        );
                    }
                }
                buf[bit / 8] ^= 1 << (bit % 8);
            }
            assert_eq!(sequence(&buf), Some(99));
        }
    }

    #[test]
    fn words_can_be_checked_one_by_one() {
        let words = (0..9u64).map(|i| 3u64.wrapping_add(STEP.wrapping_mul(i)));
        assert!(check_words(words.clone(), 3));
        assert!(!check_words(words.map(|w| w ^ 1 << 63), 3));
    }
}
