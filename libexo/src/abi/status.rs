//! The status table: shared memory that exod writes and its one client maps read-only.
//!
//! One 64-bit word per handle, at the handle's index, after [`HEADER_WORDS`] words of header. It is
//! information, never protection: the client that ignores it is stopped by the MMU or by exod.
//!
//! A word is `generation (32 bits) << 32 | deadline in ms (16 bits) << 16 | flags (16 bits)`, so
//! one load tells a holder whether *its* capability is live.

/// Words before the first handle's.
pub const HEADER_WORDS: usize = 8;

/// Header word: counts every loss that exod inflicted on this domain.
pub const LOSS_COUNTER_WORD: usize = 0;

/// Header word: changes when exod was started anew.
pub const EPOCH_WORD: usize = 1;

bitflags::bitflags! {
    /// The low half of a status word.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Status: u16 {
        /// The capability exists.
        const LIVE = 1;
        /// exod asks for it back; the deadline says when it will be taken.
        const ASKED_BACK = 2;
        /// It was taken.
        const LOST = 4;
        /// A port's other side has joined.
        const PEER_JOINED = 8;
        /// A port's other side has left or died.
        const PEER_GONE = 16;
        /// A port's senders are asked to mirror into its taps.
        const TAP = 32;
    }
}

/// A handle: `generation << 32 | index`.
pub fn handle(index: u32, generation: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(index)
}

/// Index and generation of a handle.
pub fn split_handle(handle: u64) -> (u32, u32) {
    (handle as u32, (handle >> 32) as u32)
}

/// The word that tells `generation`'s holder its status.
pub fn word(generation: u32, deadline_ms: u16, status: Status) -> u64 {
    u64::from(generation) << 32 | u64::from(deadline_ms) << 16 | u64::from(status.bits())
}

/// Status and deadline as `generation`'s holder reads them; nothing when the word is another's.
pub fn read(word: u64, generation: u32) -> Option<(Status, u16)> {
    let mine = (word >> 32) as u32 == generation;
    mine.then(|| (Status::from_bits_truncate(word as u16), (word >> 16) as u16))
}

/// Where a handle's word is, in words from the table's start.
pub fn word_index(index: u32) -> usize {
    HEADER_WORDS + index as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_read_by_its_own_generation_alone() {
        let word = word(7, 1000, Status::LIVE | Status::ASKED_BACK);
        let seen = read(word, 7);
        assert_eq!(seen, Some((Status::LIVE | Status::ASKED_BACK, 1000)));
        assert_eq!(read(word, 8), None);
        assert_eq!(split_handle(handle(3, 9)), (3, 9));
    }
}
