//! Records on exod's `SOCK_SEQPACKET` socket.
//!
//! A request is one fixed-size record, like the registers of a system call, and so is a reply; one
//! message carries one record. Descriptors travel as ancillary data of the record that names them.
//! Requests may be pipelined; replies to one session come in the order of its requests.
//!
//! No operation takes descriptors: a record that brings any ends its session, and so does one that
//! has not 64 bytes.
//!
//! A *bell* is a pair of descriptors: eight bytes written to the one that rings make the one that
//! sleeps readable; reading takes eight bytes, one ring, and rings that find it full are merged.
//! Both are non-blocking. exod makes them as pipes: the two ends of an eventfd are one open file,
//! so that whoever holds it can make the other side's write sleep for ever.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::port::{PortFlags, RING_LOG2};
pub use super::process::ProcessName;

/// First argument of [`Op::Hello`]: "exo" and a version of the framing itself.
pub const HELLO_MAGIC: u64 = u64::from_le_bytes(*b"exo-seq1");

/// Requests that a session may have unanswered before exod stops reading from it.
pub const PIPELINE_MAX: usize = 64;

/// Descriptors that one record may carry.
pub const FDS_MAX: usize = 4;

/// Bytes of a port's name, padded with zeroes. Names are ASCII letters, digits and `-_.:/`.
pub const NAME_LEN: usize = 24;

/// A request: 64 bytes, little endian.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Request {
    /// An [`Op`].
    pub op: u16,
    /// Must be zero.
    pub reserved: u16,
    /// Chosen by the client, returned in the reply. exod does not interpret it.
    pub seq: u32,
    /// The capability that the operation is invoked on; zero where the operation names none.
    pub handle: u64,
    /// Arguments, by operation. Those that an operation does not use must be zero.
    pub args: [u64; 6],
}

/// A reply: 64 bytes, little endian.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Reply {
    /// The request's operation.
    pub op: u16,
    /// Zero, or an [`ErrorCode`].
    pub status: u16,
    /// The request's sequence number.
    pub seq: u32,
    /// A handle that the operation made or found.
    pub handle: u64,
    /// Values, by operation.
    pub vals: [u64; 6],
}

const _: () = assert!(size_of::<Request>() == 64 && size_of::<Reply>() == 64);

/// Operations. The comments give arguments, then the reply, then the descriptors that come with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum Op {
    /// First on every session. `magic, version`; `version, domain, status table bytes, page kind,
    /// frame bytes, frames left in quota`; fds: status table (read-only), event bell (to sleep on).
    Hello = 1,
    /// Nothing; nothing. What an empty request costs.
    Ping = 2,
    /// `frames, page kind (0: what the pool has)`; handle, `bytes, page kind, protection`; fd: the
    /// unit, readable and writable.
    AllocUnit = 3,
    /// On any capability: give it back; of a port: leave it. A unit's frames are reclaimed with its
    /// last capability; when its owner gives it back, others who hold it are asked to, and have
    /// until the deadline in their status word. [`ErrorCode::Busy`] while a port of ours has it as
    /// a segment.
    Drop = 4,
    /// On any capability; handle, `object kind, rights, state, bytes or ring size, holders, page
    /// kind`. States: 1 being made, 2 usable, 3 being taken back, 4 taken back but still pinned.
    Inspect = 5,
    /// `handle` is zero or the last answer; handle: the next capability of this session, or zero;
    /// values as [`Op::Inspect`].
    List = 6,
    /// On a unit of our own, that becomes this side's segment: segment 0. `name (3 words), log2 of
    /// ring slots, flags`; handle: the port; fds: own bell (this side sleeps on it), peer's bell
    /// (this side rings it). [`ErrorCode::Busy`] when the unit ever was a port's segment: a former
    /// peer may have it mapped for ever. [`ErrorCode::Malformed`] when it is smaller than the rings
    /// and a page.
    PortCreate = 7,
    /// On a unit, likewise. `name (3 words), 0, flags`; handle: the port, values as
    /// [`Op::PortPeer`] and then the handle of the peer's segment unit; fds: peer's segment
    /// (read-only), own bell, peer's bell.
    PortJoin = 8,
    /// On a port. handle: the peer's segment unit as a capability of ours (read, and share where
    /// the peer granted it); `log2 of ring slots, peer's segment bytes, flags, page kind, this side
    /// (0 or 1)`; fd: the peer's segment (read-only). Flags: `SHARE` as the peer asked, `TRUSTED`
    /// when both did. Asked again, the answer is the same. [`ErrorCode::NotReady`] before the peer
    /// joined, [`ErrorCode::Revoked`] after it left.
    PortPeer = 9,
    /// On a port. `unit handle`: lets the peer read that unit as one more segment of ours;
    /// `segment index`. Needs the right to share it. Attached twice, it has one index.
    PortAttach = 10,
    /// On a port. `segment index` of the peer's; handle: that unit as a capability of ours; `bytes,
    /// page kind`; fd: that segment (read-only). [`ErrorCode::NotFound`] when there is none.
    PortSegment = 11,
    /// On a port. `reason`: this side ends the port; the peer sees `PEER_GONE`. What this side got
    /// of the peer's segments goes with it, and the name is free again.
    PortLeave = 12,
    /// Needs the policy's `admin`. `name (3 words), 0, 1 to set and 0 to clear`: asks both sides
    /// of a port to mirror what they send into the ports `tap:NAME/0` and `tap:NAME/1`. The tapper
    /// creates those first; only the side that is tapped may join one. A tap ends with the session
    /// that set it.
    PortTap = 13,
    /// Needs the policy's `admin`. `domain (0: all), counter page` (a [`StatsPage`]); that page. Of
    /// one domain: its own share; [`ErrorCode::NotFound`] when there is no such domain.
    Stats = 14,
    /// Needs the policy's `admin`. `domain (0: begin)`; in place of a handle the next domain's
    /// number, or zero; `process, user | group << 32, name of the process (2 words), since when in
    /// ms from 1970, session`. Names of processes are printable ASCII, padded with zeroes; a domain
    /// chose its own.
    DomainNext = 15,
    /// Needs the policy's `admin`. `port (0: begin)`; in place of a handle the next port's number,
    /// or zero; `name (3 words), a [`PortBrief`], domain of side 0, domain of side 1`, zero for a
    /// side that is not there.
    PortNext = 16,
    /// Needs the policy's `admin`. `port`; `descriptors sent by side 0, by side 1, ns of
    /// CLOCK_MONOTONIC when that was so`. A side's own word: it counts for nobody else. Takes a
    /// job, since a page that a client has swapped out makes whoever reads it wait.
    PortCounts = 17,
    /// Needs the policy's `admin`. Nothing; `bytes`; fd: the page of [`super::counters`],
    /// read-only.
    Counters = 18,
}

impl Op {
    /// Every operation, in the order of their numbers.
    pub const ALL: [Op; 18] = [
        Op::Hello,
        Op::Ping,
        Op::AllocUnit,
        Op::Drop,
        Op::Inspect,
        Op::List,
        Op::PortCreate,
        Op::PortJoin,
        Op::PortPeer,
        Op::PortAttach,
        Op::PortSegment,
        Op::PortLeave,
        Op::PortTap,
        Op::Stats,
        Op::DomainNext,
        Op::PortNext,
        Op::PortCounts,
        Op::Counters,
    ];

    /// The operation with this number.
    pub fn from_raw(raw: u16) -> Option<Op> {
        Self::ALL.into_iter().find(|op| *op as u16 == raw)
    }
}

/// Why a request was refused. The text says what a user can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u16)]
pub enum ErrorCode {
    /// A field that must be zero is not, a number is out of its range, or descriptors are missing
    /// or unexpected.
    #[error(
        "malformed request: a reserved field is set, an argument is out of range, or descriptors do not match"
    )]
    Malformed = 1,
    /// Not the version of [`super::ABI_VERSION`].
    #[error("exod speaks another protocol version: install matching versions of exod and libexo")]
    BadVersion = 2,
    /// No hello yet, or a second one.
    #[error("operation out of order: a session begins with exactly one hello")]
    OutOfOrder = 3,
    /// The handle never existed, was dropped or revoked, or belongs to another domain.
    #[error("no such handle: it is stale, was never granted, or belongs to another domain")]
    NoSuchHandle = 4,
    /// The capability lacks a right that the operation needs.
    #[error("the capability lacks the right that this operation needs")]
    Rights = 5,
    /// The handle names an object of another kind.
    #[error("the handle names an object of another kind")]
    WrongKind = 6,
    /// The policy does not let this user hold more.
    #[error("quota exceeded: drop something, or raise the limit in exod's policy file")]
    Quota = 7,
    /// The pool is empty.
    #[error("out of frames: raise `pool.frames` in exod's configuration, or the hugepage pool")]
    NoFrames = 8,
    /// The policy forbids it.
    #[error("denied by policy: add a rule for this user in exod's policy file")]
    Denied = 9,
    /// No port of that name.
    #[error("no port of that name waits for a peer")]
    NotFound = 10,
    /// The name is taken.
    #[error("a port of that name exists already")]
    Exists = 11,
    /// The object is in use: a segment of another port, or the port has both sides.
    #[error("the object is in use")]
    Busy = 12,
    /// The peer has not joined yet: wait for the event bell.
    #[error("the peer is not there yet: wait for the event bell and ask again")]
    NotReady = 13,
    /// The object was lost: its owner died, or it was revoked.
    #[error("revoked: the object was taken back or its owner died")]
    Revoked = 14,
    /// A limit of the table itself.
    #[error("a table of exod is full")]
    TableFull = 15,
    /// The kernel refused.
    #[error("the kernel refused: see exod's log for the system call and its error")]
    Kernel = 16,
    /// Not on this machine, or not in this version.
    #[error(
        "not supported on this machine, or not by this exod: its first log lines say what it has"
    )]
    Unsupported = 17,
}

impl ErrorCode {
    /// Every error, in the order of their numbers.
    pub const ALL: [ErrorCode; 17] = {
        use ErrorCode::*;
        [
            Malformed,
            BadVersion,
            OutOfOrder,
            NoSuchHandle,
            Rights,
            WrongKind,
            Quota,
            NoFrames,
            Denied,
            NotFound,
            Exists,
            Busy,
            NotReady,
            Revoked,
            TableFull,
            Kernel,
            Unsupported,
        ]
    };

    /// The error with this number; zero is success, and none.
    pub fn from_raw(raw: u16) -> Option<ErrorCode> {
        Self::ALL.into_iter().find(|code| *code as u16 == raw)
    }
}

/// What a capability names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum ObjectKind {
    /// Frames in one file.
    Unit = 1,
    /// A packet link between two domains.
    Port = 2,
}

impl ObjectKind {
    /// The kind with this number.
    pub fn from_raw(raw: u64) -> Option<ObjectKind> {
        match raw {
            1 => Some(ObjectKind::Unit),
            2 => Some(ObjectKind::Port),
            _ => None,
        }
    }
}

/// What [`Op::Stats`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum StatsPage {
    /// Totals of the ledger: `domains, capabilities, objects, frames free, frames owned, frames
    /// pinned`. Owned frames are charged to somebody, pinned ones among them; free ones may still
    /// be granted.
    Ledger = 0,
    /// What the daemon is busy with, all zero when idle: `sessions, port sides, jobs, closes,
    /// objects being taken back, objects pinned`. One's own session is among the first.
    Work = 1,
    /// Of one domain, since its session began: `requests, refusals, grants, losses, port sides,
    /// state` (1 live, 2 ending, 3 ended, but something still pins its frames).
    Activity = 2,
}

/// A port in one word, for [`Op::PortNext`].
///
/// | bits | field |
/// |---|---|
/// | 0..8 | log2 of ring slots |
/// | 8..16 | flags that its creator asked for |
/// | 16 | it is tapped |
/// | 17, 18 | side 0, 1 has left or died |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortBrief {
    /// Log2 of ring slots.
    pub ring_log2: u32,
    /// What its creator asked for.
    pub flags: PortFlags,
    /// Somebody taps it.
    pub tapped: bool,
    /// Sides that were there and are not any more.
    pub gone: [bool; 2],
}

impl PortBrief {
    /// As one word.
    pub fn word(self) -> u64 {
        let bits = [self.tapped, self.gone[0], self.gone[1]];
        let bits = bits
            .iter()
            .rev()
            .fold(0, |all, bit| all << 1 | u64::from(*bit));
        u64::from(self.ring_log2) | u64::from(self.flags.bits()) << 8 | bits << 16
    }

    /// From one word; nothing when a bit is set that has no meaning.
    pub fn from_word(word: u64) -> Option<PortBrief> {
        let brief = PortBrief {
            ring_log2: word as u32 & 0xff,
            flags: PortFlags::from_bits(word as u32 >> 8 & 0xff)?,
            tapped: word >> 16 & 1 != 0,
            gone: [word >> 17 & 1 != 0, word >> 18 & 1 != 0],
        };
        (brief.word() == word && RING_LOG2.contains(&brief.ring_log2)).then_some(brief)
    }
}

impl StatsPage {
    /// The page with this number.
    pub fn from_raw(raw: u64) -> Option<StatsPage> {
        match raw {
            0 => Some(StatsPage::Ledger),
            1 => Some(StatsPage::Work),
            2 => Some(StatsPage::Activity),
            _ => None,
        }
    }
}

bitflags::bitflags! {
    /// What the holder of a capability may do. A derived capability has a subset of its parent's.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Rights: u32 {
        /// Map it readable.
        const READ = 1;
        /// Map it writable, send on it.
        const WRITE = 2;
        /// Attach it to a port, so that a third domain may read it.
        const SHARE = 4;
    }
}

/// Pages behind a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum PageKind {
    /// 2 MiB pages from the hugepage pool.
    Huge2M = 1,
    /// Shared memory for which 2 MiB pages were asked: the kernel gives them when it can.
    Thp = 2,
    /// 4 KiB pages.
    Small4K = 3,
}

impl PageKind {
    /// The kind with this number.
    pub fn from_raw(raw: u64) -> Option<PageKind> {
        match raw {
            1 => Some(PageKind::Huge2M),
            2 => Some(PageKind::Thp),
            3 => Some(PageKind::Small4K),
            _ => None,
        }
    }

    /// As the benchmarks and `exo` print it.
    pub fn name(self) -> &'static str {
        match self {
            PageKind::Huge2M => "2M",
            PageKind::Thp => "thp",
            PageKind::Small4K => "4K",
        }
    }
}

/// What keeps a unit's pages in place under those who share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Protection {
    /// A private hugetlbfs mount of exactly the unit's size with its reservation, and a descriptor
    /// stripped of truncation by Landlock: a hole that a holder punches reads as zeroes. A hostile
    /// writer can still move its pages past its file's end, and its readers then meet SIGBUS.
    Mount = 1,
    /// A memfd with seals against growing and shrinking. Punched pages come back as zeroes as long
    /// as the kernel has memory to give.
    Seals = 2,
}

impl Protection {
    /// The protection with this number.
    pub fn from_raw(raw: u64) -> Option<Protection> {
        match raw {
            1 => Some(Protection::Mount),
            2 => Some(Protection::Seals),
            _ => None,
        }
    }
}

/// A port's name as it travels: three words.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortName([u8; NAME_LEN]);

impl PortName {
    /// Checks a name: 1 to [`NAME_LEN`] characters of ASCII letters, digits and `-_.:/`.
    pub fn new(name: &str) -> Option<PortName> {
        let bytes = name.as_bytes();
        let fits = (1..=NAME_LEN).contains(&bytes.len());
        if !fits || !bytes.iter().all(|b| Self::allowed(*b)) {
            return None;
        }
        let mut padded = [0; NAME_LEN];
        padded[..bytes.len()].copy_from_slice(bytes);
        Some(PortName(padded))
    }

    /// Checks a name that came from another domain.
    pub fn from_words(words: [u64; 3]) -> Option<PortName> {
        let mut padded = [0; NAME_LEN];
        for (chunk, word) in padded.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        let len = padded.iter().position(|b| *b == 0).unwrap_or(NAME_LEN);
        let clean = len > 0
            && padded[..len].iter().all(|b| Self::allowed(*b))
            && padded[len..].iter().all(|b| *b == 0);
        clean.then_some(PortName(padded))
    }

    /// The three words of a request.
    pub fn words(&self) -> [u64; 3] {
        let mut words = [0; 3];
        for (word, chunk) in words.iter_mut().zip(self.0.chunks_exact(8)) {
            *word = u64::from_le_bytes(chunk.try_into().expect("chunks of eight"));
        }
        words
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        let len = self.0.iter().position(|b| *b == 0).unwrap_or(NAME_LEN);
        std::str::from_utf8(&self.0[..len]).expect("checked to be ASCII")
    }

    fn allowed(byte: u8) -> bool {
        byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte)
    }
}

impl std::fmt::Debug for PortName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::fmt::Display for PortName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip() {
        for op in Op::ALL {
            assert_eq!(Op::from_raw(op as u16), Some(op));
        }
        assert_eq!(Op::from_raw(0), None);
        for raw in 1..=17 {
            assert_eq!(ErrorCode::from_raw(raw).map(|c| c as u16), Some(raw));
        }
        assert_eq!(ErrorCode::from_raw(0), None);
        assert_eq!(ErrorCode::from_raw(18), None);
    }

    #[test]
    fn a_port_in_a_word_is_checked() {
        for tapped in [false, true] {
            let brief = PortBrief {
                ring_log2: 12,
                flags: PortFlags::SHARE,
                tapped,
                gone: [!tapped, tapped],
            };
            assert_eq!(PortBrief::from_word(brief.word()), Some(brief));
            assert_eq!(PortBrief::from_word(brief.word() | 1 << 19), None);
        }
        assert_eq!(PortBrief::from_word(0), None);
        assert_eq!(PortBrief::from_word(12 | 4 << 8), None);
    }

    #[test]
    fn names_are_checked_both_ways() {
        for good in ["a", "demo-1", "tap:demo/0", "abcdefghijklmnopqrstuvwx"] {
            let name = PortName::new(good).expect(good);
            assert_eq!(PortName::from_words(name.words()), Some(name));
            assert_eq!(name.as_str(), good);
        }
        for bad in ["", "a b", "abcdefghijklmnopqrstuvwxy", "ä", "a\0b"] {
            assert_eq!(PortName::new(bad), None, "{bad:?}");
        }
        let mut words = PortName::new("ab").expect("a good name").words();
        words[2] = 1;
        assert_eq!(PortName::from_words(words), None, "bytes after the end");
        assert_eq!(PortName::from_words([0; 3]), None);
        assert_eq!(PortName::from_words([u64::MAX; 3]), None);
    }
}
