//! Where every field of the table is, and nothing else.
//!
//! The table is one array of 64-bit words: a header, the intent area, then three arrays of records
//! whose slot 0 is never used, so that 0 means "none" in every link. A record that was never used
//! is all zeroes, so a new table is a hole in its file and costs no memory.
//!
//! Every record begins with a word of generation, state and small numbers, and goes on in
//! [`Field`]s: bits of one word, by name. Changing anything here changes [`VERSION`].

#![forbid(unsafe_code)]

/// First word of a table: "exo" and the name of this layout.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"exo-caps");

/// Version of this layout.
pub(super) const VERSION: u64 = 1;

/// Most slots of one array: a status table of one word per slot then stays at 128 MiB.
pub(super) const SLOTS_MAX: u32 = 1 << 24;

/// Most word writes of one transaction. The largest (a drop that splices a ghost out, takes the
/// object's last capability and removes a dead domain) writes fewer than 64.
pub(super) const TX_WRITES_MAX: usize = 96;

/// Slots of each array of a table. Slot 0 is never used: an index is at least 1 and below the
/// limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Capabilities: 64 bytes each.
    pub capabilities: u32,
    /// Objects: 64 bytes each.
    pub objects: u32,
    /// Domains: 128 bytes each.
    pub domains: u32,
}

impl Default for Limits {
    /// Room for 1,024 clients with 64 capabilities and 16 objects each, in 5 MiB when full.
    fn default() -> Self {
        Limits {
            capabilities: 65_536,
            objects: 16_384,
            domains: 1_024,
        }
    }
}

/// Some bits of one word of a record (or of the header).
#[derive(Clone, Copy)]
pub(super) struct Field {
    pub(super) word: usize,
    pub(super) shift: u32,
    pub(super) bits: u32,
}

impl Field {
    const fn whole(word: usize) -> Field {
        Field {
            word,
            shift: 0,
            bits: 64,
        }
    }

    const fn low(word: usize) -> Field {
        Field {
            word,
            shift: 0,
            bits: 32,
        }
    }

    const fn high(word: usize) -> Field {
        Field {
            word,
            shift: 32,
            bits: 32,
        }
    }

    const fn part(word: usize, shift: u32, bits: u32) -> Field {
        Field { word, shift, bits }
    }

    pub(super) fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits) << self.shift
    }

    pub(super) fn of(self, word: u64) -> u64 {
        (word & self.mask()) >> self.shift
    }

    pub(super) fn with(self, word: u64, value: u64) -> u64 {
        (word & !self.mask()) | (value << self.shift & self.mask())
    }
}

/// Which array a record is in. The number is its place in the header's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Array {
    Caps = 0,
    Objects = 1,
    Domains = 2,
}

/// First word of every record.
pub(super) const GENERATION: Field = Field::high(0);
/// First word of every record: one of `FREE`, `RETIRED`, or the array's own states.
pub(super) const STATE: Field = Field::part(0, 24, 8);
/// A free slot's next free slot.
pub(super) const NEXT_FREE: Field = Field::whole(1);

/// State of a slot that can be used.
pub(super) const FREE: u64 = 0;
/// State of a slot whose generations are used up.
pub(super) const RETIRED: u64 = 255;

/// Fields of a capability: 8 words, a cache line.
pub(super) mod cap {
    use super::Field;

    pub(crate) const WORDS: usize = 8;
    /// State: somebody holds it.
    pub(crate) const LIVE: u64 = 1;
    /// State: nobody holds it, but two or more others were derived from it.
    pub(crate) const GHOST: u64 = 2;
    pub(crate) const RIGHTS: Field = Field::part(0, 0, 24);
    pub(crate) const OBJECT: Field = Field::high(1);
    pub(crate) const HOLDER: Field = Field::low(1);
    pub(crate) const PARENT: Field = Field::high(2);
    pub(crate) const FIRST_CHILD: Field = Field::low(2);
    pub(crate) const NEXT_SIBLING: Field = Field::high(3);
    pub(crate) const PREV_SIBLING: Field = Field::low(3);
    pub(crate) const NEXT_HELD: Field = Field::high(4);
    pub(crate) const PREV_HELD: Field = Field::low(4);
    pub(crate) const NEXT_OF_OBJECT: Field = Field::high(5);
    pub(crate) const PREV_OF_OBJECT: Field = Field::low(5);
    /// Reserved for 128 bits of the hash of a token's secret; zero.
    pub(crate) const TOKEN_WORDS: std::ops::Range<usize> = 6..8;
}

/// Fields of an object: 8 words.
pub(super) mod object {
    use super::Field;

    pub(crate) const WORDS: usize = 8;
    pub(crate) const KIND: Field = Field::part(0, 0, 12);
    pub(crate) const PAGE: Field = Field::part(0, 12, 12);
    pub(crate) const FRAMES: Field = Field::high(1);
    pub(crate) const CAPS: Field = Field::low(1);
    pub(crate) const FIRST_CAP: Field = Field::high(2);
    pub(crate) const OWNER: Field = Field::low(2);
    pub(crate) const NEXT_OWNED: Field = Field::high(3);
    pub(crate) const PREV_OWNED: Field = Field::low(3);
    pub(crate) const TAG: Field = Field::whole(4);
    /// Zero.
    pub(crate) const RESERVED_WORDS: std::ops::Range<usize> = 5..8;
}

/// Fields of a domain: 16 words.
pub(super) mod domain {
    use super::Field;

    pub(crate) const WORDS: usize = 16;
    pub(crate) const UID: Field = Field::high(1);
    pub(crate) const GID: Field = Field::low(1);
    pub(crate) const PID: Field = Field::low(2);
    pub(crate) const PID_START: Field = Field::whole(3);
    pub(crate) const QUOTA_FRAMES: Field = Field::whole(4);
    pub(crate) const QUOTA_CAPS: Field = Field::high(5);
    pub(crate) const QUOTA_PORTS: Field = Field::low(5);
    pub(crate) const FRAMES: Field = Field::whole(6);
    pub(crate) const CAPS: Field = Field::high(7);
    pub(crate) const PORTS: Field = Field::low(7);
    pub(crate) const FIRST_CAP: Field = Field::high(8);
    pub(crate) const FIRST_OBJECT: Field = Field::low(8);
    pub(crate) const OBJECTS: Field = Field::low(9);
    /// Zero.
    pub(crate) const RESERVED_WORDS: std::ops::Range<usize> = 10..16;
}

/// Fields of the header.
pub(super) mod header {
    use super::{Array, Field};

    pub(crate) const WORDS: usize = 64;
    pub(crate) const MAGIC: usize = 0;
    pub(crate) const VERSION: usize = 1;
    pub(crate) const TOTAL_WORDS: usize = 2;
    pub(crate) const EPOCH: usize = 3;
    /// Three words: slots of each array.
    pub(crate) const LIMITS: usize = 4;
    pub(crate) const GHOSTS: Field = Field::whole(8);
    /// Words before this one never change after creation, but for the epoch.
    pub(crate) const FIRST_MUTABLE: usize = 8;

    /// First free slot of an array, or zero.
    pub(crate) const fn free_head(array: Array) -> Field {
        Field::whole(16 + 4 * array as usize)
    }

    /// Highest slot of an array that was ever used.
    pub(crate) const fn used_max(array: Array) -> Field {
        Field::whole(17 + 4 * array as usize)
    }

    /// Slots of an array that are neither free nor retired.
    pub(crate) const fn count(array: Array) -> Field {
        Field::whole(18 + 4 * array as usize)
    }

    /// Slots of an array that are retired.
    pub(crate) const fn retired(array: Array) -> Field {
        Field::whole(19 + 4 * array as usize)
    }

    /// Objects in a state (1 to 4).
    pub(crate) const fn objects(state: u64) -> Field {
        Field::whole(31 + state as usize)
    }

    /// Frames of the objects in a state (1 to 4).
    pub(crate) const fn frames(state: u64) -> Field {
        Field::whole(35 + state as usize)
    }
}

/// The intent area: a commit word, then pairs of word index and value.
pub(super) const COMMIT_WORD: usize = header::WORDS;
/// First pair of the intent area. The area begins a cache line of its own.
pub(super) const INTENT_FIRST: usize = COMMIT_WORD + 8;
/// First word of the arrays.
pub(super) const ARRAYS_FIRST: usize = INTENT_FIRST + 2 * TX_WRITES_MAX;

/// Where the arrays of a table with these limits are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) limits: Limits,
    bases: [usize; 3],
    pub(super) total_words: usize,
}

impl Layout {
    /// Nothing, when a limit is below 2 or above [`SLOTS_MAX`].
    pub(super) fn new(limits: Limits) -> Option<Layout> {
        let slots = [limits.capabilities, limits.objects, limits.domains];
        if slots.iter().any(|n| !(2..=SLOTS_MAX).contains(n)) {
            return None;
        }
        let mut bases = [0; 3];
        let mut next = ARRAYS_FIRST;
        for array in [Array::Caps, Array::Objects, Array::Domains] {
            bases[array as usize] = next;
            next += slots[array as usize] as usize * record_words(array);
        }
        Some(Layout {
            limits,
            bases,
            total_words: next,
        })
    }

    /// Slots of an array.
    pub(super) fn slots(&self, array: Array) -> u32 {
        match array {
            Array::Caps => self.limits.capabilities,
            Array::Objects => self.limits.objects,
            Array::Domains => self.limits.domains,
        }
    }

    /// First word of a record.
    pub(super) fn record(&self, array: Array, index: u32) -> usize {
        self.bases[array as usize] + index as usize * record_words(array)
    }
}

/// Words of one record of an array.
pub(super) fn record_words(array: Array) -> usize {
    match array {
        Array::Caps => cap::WORDS,
        Array::Objects => object::WORDS,
        Array::Domains => domain::WORDS,
    }
}
