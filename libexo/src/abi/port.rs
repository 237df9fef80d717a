//! A port's shared memory: what one side writes into its own segment for the other to read.
//!
//! Each side has one segment (a unit of frames) that it alone writes. The segment begins with a
//! control line, then the ring of descriptors that this side sends, then the ring of returns for
//! the packets that it received, then packet memory. Ring sizes come from exod, never from here.
//!
//! A descriptor is 8 bytes, so eight packets share a cache line, and it carries its own validity:
//! [`Descriptor::lap`] flips each time the ring wraps, so a receiver polls the very line that it
//! needs and no index is moved between cores. A return is a *run* of descriptor slots, so a burst
//! consumed in order costs 8 bytes to give back, however long it is.

use super::CACHE_LINE;

/// Smallest and largest ring, as log2 of slots.
pub const RING_LOG2: std::ops::RangeInclusive<u32> = 4..=16;

/// Ring used where nothing else is asked for: 4,096 slots, 32 KiB, so that ring and packets of a
/// busy port stay in the second-level cache.
pub const RING_LOG2_DEFAULT: u32 = 12;

/// Segments that one side may lay open to the other, its own port segment included.
pub const SEGMENTS_MAX: usize = 32;

/// Packets longer than this many pieces are a violation.
pub const CHAIN_MAX: usize = 16;

/// Longest piece of a packet in bytes.
pub const PIECE_LEN_MAX: usize = u16::MAX as usize;

/// Word of the control line that is 1 while this side's receiver sleeps on its bell.
pub const SLEEP_WORD: usize = 0;

/// Word of the control page that says how many descriptors this side has sent: at least once for
/// each ring that it sends. Only exod reads it, for statistics: with the laps of the ring it gives
/// the exact number, and no packet pays for it. Two lines away from the word that the peer reads,
/// since processors fetch lines in pairs.
pub const SENT_WORD: usize = 16;

/// Where things are in a segment, in bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The ring of descriptors.
    pub descriptors: usize,
    /// The ring of returns.
    pub returns: usize,
    /// Packet memory, to the segment's end.
    pub packets: usize,
}

impl Layout {
    /// The layout of a segment with rings of `1 << ring_log2` slots.
    pub fn new(ring_log2: u32) -> Layout {
        let ring = size_of::<u64>() << ring_log2;
        // A page of control, so that rings begin on pages and never share a line with the flag.
        let descriptors = 4096;
        let returns = descriptors + ring;
        let packets = (returns + ring).next_multiple_of(4096);
        Layout {
            descriptors,
            returns,
            packets,
        }
    }
}

bitflags::bitflags! {
    /// Flags of [`super::wire::Op::PortCreate`] and [`super::wire::Op::PortJoin`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PortFlags: u32 {
        /// The peer may attach this side's segments to its own ports (zero-copy forwarding).
        const SHARE = 1;
        /// Both sides trust each other's bytes: receivers may take slices. The policy must allow it
        /// to both, and both must ask.
        const TRUSTED = 2;
    }
}

/// One piece of a packet, in 8 bytes.
///
/// | bits | field |
/// |---|---|
/// | 0..24 | offset in cache lines from the segment's start |
/// | 24..30 | bytes to skip in the first line |
/// | 30 | more: the packet goes on in the next slot |
/// | 31 | lap |
/// | 32..48 | length in bytes |
/// | 48..53 | segment |
/// | 53..64 | must be zero |
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Descriptor(pub u64);

impl Descriptor {
    /// The bit that tells this lap of the ring from the last.
    pub const LAP: u64 = 1 << Self::LAP_BIT;
    /// Its number.
    pub const LAP_BIT: u32 = 31;
    /// The bit that says that the packet goes on.
    pub const MORE: u64 = 1 << 30;
    const RESERVED: u64 = !0 << 53;

    /// A descriptor without its lap. `offset` is in bytes and below 1 GiB; `len` at most 65,535.
    #[inline]
    pub fn new(segment: u8, offset: usize, len: usize, more: bool) -> Descriptor {
        debug_assert!(offset < CACHE_LINE << 24 && len <= PIECE_LEN_MAX);
        debug_assert!((segment as usize) < SEGMENTS_MAX);
        let line = (offset / CACHE_LINE) as u64;
        let skip = (offset % CACHE_LINE) as u64;
        let more = if more { Self::MORE } else { 0 };
        Descriptor(line | skip << 24 | more | (len as u64) << 32 | u64::from(segment) << 48)
    }

    /// The same with the lap bit set as asked.
    #[inline]
    pub fn with_lap(self, lap: bool) -> u64 {
        self.0 & !Self::LAP | if lap { Self::LAP } else { 0 }
    }

    /// The same, pointing at the start of cache line `line` of its segment.
    #[inline]
    pub fn at_line(self, line: u32) -> Descriptor {
        debug_assert!(line < 1 << 24);
        Descriptor(self.0 & !0x3fff_ffff | u64::from(line))
    }

    /// Which lap wrote it.
    #[inline]
    pub fn lap(self) -> bool {
        self.0 & Self::LAP != 0
    }

    /// Whether the packet goes on in the next slot.
    #[inline]
    pub fn more(self) -> bool {
        self.0 & Self::MORE != 0
    }

    /// The same as the last piece of its packet.
    #[inline]
    pub fn without_more(self) -> Descriptor {
        Descriptor(self.0 & !Self::MORE)
    }

    /// First byte, from the segment's start.
    #[inline]
    pub fn offset(self) -> usize {
        (self.0 & 0xff_ffff) as usize * CACHE_LINE + (self.0 >> 24 & 0x3f) as usize
    }

    /// Length in bytes.
    #[inline]
    pub fn len(self) -> usize {
        (self.0 >> 32 & 0xffff) as usize
    }

    /// Whether there is no byte in it.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The sender's segment that it points into.
    #[inline]
    pub fn segment(self) -> usize {
        (self.0 >> 48 & 0x1f) as usize
    }

    /// The same in another segment.
    #[inline]
    pub fn in_segment(self, segment: u8) -> Descriptor {
        debug_assert!((segment as usize) < SEGMENTS_MAX);
        Descriptor(self.0 & !(0x1f << 48) | u64::from(segment) << 48)
    }

    /// Whether the bits that must be zero are.
    #[inline]
    pub fn well_formed(self) -> bool {
        self.0 & Self::RESERVED == 0
    }
}

impl std::fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let more = if self.more() { "+" } else { "" };
        write!(
            f,
            "{}:{}+{}{more} lap {}",
            self.segment(),
            self.offset(),
            self.len(),
            self.lap()
        )
    }
}

/// A run of descriptor slots that a receiver gives back, in 8 bytes.
///
/// | bits | field |
/// |---|---|
/// | 0..16 | first slot |
/// | 16..31 | must be zero |
/// | 31 | lap of the return ring |
/// | 32..49 | slots in the run, 1 to the ring's size |
/// | 49..64 | must be zero |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Return(pub u64);

impl Return {
    const RESERVED: u64 = 0x7fff << 16 | !0 << 49;

    /// A run without its lap.
    #[inline]
    pub fn new(first: u32, count: u32) -> Return {
        debug_assert!(first < 1 << 16 && (1..=1 << 16).contains(&count));
        Return(u64::from(first) | u64::from(count) << 32)
    }

    /// The same with the lap bit set as asked.
    #[inline]
    pub fn with_lap(self, lap: bool) -> u64 {
        self.0 & !Descriptor::LAP | if lap { Descriptor::LAP } else { 0 }
    }

    /// First slot of the run.
    #[inline]
    pub fn first(self) -> u32 {
        self.0 as u32 & 0xffff
    }

    /// Slots in the run.
    #[inline]
    pub fn count(self) -> u32 {
        (self.0 >> 32) as u32 & 0x1_ffff
    }

    /// Whether the bits that must be zero are.
    #[inline]
    pub fn well_formed(self) -> bool {
        self.0 & Self::RESERVED == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn descriptors_keep_their_fields(
            segment in 0u8..SEGMENTS_MAX as u8, offset in 0usize..(CACHE_LINE << 24),
            len in 0usize..=PIECE_LEN_MAX, more: bool, lap: bool,
        ) {
            let d = Descriptor(Descriptor::new(segment, offset, len, more).with_lap(lap));
            prop_assert!(d.well_formed());
            prop_assert_eq!(
                (d.segment(), d.offset(), d.len(), d.more(), d.lap()),
                (usize::from(segment), offset, len, more, lap)
            );
        }

        #[test]
        fn returns_keep_their_fields(first in 0u32..1 << 16, count in 1u32..=1 << 16, lap: bool) {
            let r = Return(Return::new(first, count).with_lap(lap));
            prop_assert!(r.well_formed());
            prop_assert_eq!((r.first(), r.count()), (first, count));
            prop_assert_eq!(r.0 & Descriptor::LAP != 0, lap);
        }
    }

    #[test]
    fn parts_of_a_segment_do_not_overlap() {
        for log2 in RING_LOG2 {
            let l = Layout::new(log2);
            assert_eq!(l.returns - l.descriptors, 8 << log2);
            assert!(l.packets >= l.returns + (8 << log2));
            assert_eq!(l.packets % 4096, 0);
        }
    }
}
