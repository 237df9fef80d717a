//! What exod hands out, as typed values. Plain data: only exod's table is authority, and dropping
//! one of these closes its descriptors but gives no capability back
//! ([`super::Client::drop_handle`]).

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;

use crate::abi::port::PortFlags;
use crate::abi::wire::{
    ObjectKind, PageKind, PortBrief, PortName, ProcessName, Protection, Rights,
};

/// What exod said in the hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// exod's number for this protection domain.
    pub domain: u64,
    /// Pages that the pool has.
    pub page_kind: PageKind,
    /// Bytes of one frame.
    pub frame_bytes: usize,
    /// Frames that this domain may still take.
    pub frames_left: u64,
}

/// A unit of frames, readable and writable.
#[derive(Debug)]
pub struct UnitGrant {
    /// The capability.
    pub handle: u64,
    /// Length of the file.
    pub bytes: usize,
    /// Pages behind it.
    pub page_kind: PageKind,
    /// What keeps its pages in place under those who share it.
    pub protection: Protection,
    /// The file to map.
    pub fd: OwnedFd,
}

/// This side of a fresh port.
#[derive(Debug)]
pub struct PortCreated {
    /// The capability.
    pub handle: u64,
    /// This side sleeps on it.
    pub own_bell: OwnedFd,
    /// This side rings it.
    pub peer_bell: OwnedFd,
}

/// A port that was joined, with its creator's side.
#[derive(Debug)]
pub struct PortJoined {
    /// The capability.
    pub handle: u64,
    /// The other side.
    pub peer: PeerSide,
    /// This side sleeps on it.
    pub own_bell: OwnedFd,
    /// This side rings it.
    pub peer_bell: OwnedFd,
}

/// The other side of a port: its segment, read-only.
#[derive(Debug)]
pub struct PeerSide {
    /// Its segment as a capability of ours.
    pub unit_handle: u64,
    /// Slots of its rings, as a power of two.
    pub ring_log2: u32,
    /// Length of its segment.
    pub bytes: usize,
    /// What it asked for.
    pub flags: PortFlags,
    /// Pages behind its segment.
    pub page_kind: PageKind,
    /// Which side *we* are, 0 for the creator.
    pub side: u8,
    /// Its segment, to be mapped read-only.
    pub fd: OwnedFd,
}

/// One more segment of a port's other side, read-only.
#[derive(Debug)]
pub struct Segment {
    /// That unit as a capability of ours.
    pub handle: u64,
    /// Length of the file.
    pub bytes: usize,
    /// Pages behind it.
    pub page_kind: PageKind,
    /// The file, to be mapped read-only.
    pub fd: OwnedFd,
}

/// What exod's table says about one capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The capability.
    pub handle: u64,
    /// What it names.
    pub kind: ObjectKind,
    /// What its holder may do.
    pub rights: Rights,
    /// State of the object: 1 being made, 2 usable, 3 being taken back, 4 pinned.
    pub state: u64,
    /// Bytes of a unit, slots of a port's ring.
    pub size: u64,
    /// Capabilities that name the object.
    pub holders: u64,
    /// Pages behind it; none for objects without memory.
    pub page_kind: Option<PageKind>,
}

/// exod's ledger, or one domain's share of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Domains that hold something.
    pub domains: u64,
    /// Capabilities in use.
    pub capabilities: u64,
    /// Objects in use.
    pub objects: u64,
    /// Frames that may still be granted.
    pub frames_free: u64,
    /// Frames that are charged to somebody, pinned ones among them.
    pub frames_owned: u64,
    /// Frames that were taken back and that something still pins.
    pub frames_pinned: u64,
}

/// What exod is busy with; all zero when it is idle, but for one's own session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Sessions, one's own among them.
    pub sessions: u64,
    /// Sides of ports.
    pub port_sides: u64,
    /// Slow kernel calls under way.
    pub jobs: u64,
    /// Foreign descriptors not closed yet.
    pub closes: u64,
    /// Objects being taken back.
    pub unbinding: u64,
    /// Objects that something still pins.
    pub pinned: u64,
}

/// Who is behind a domain, as exod saw it when it connected. Needs the policy's `admin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainInfo {
    /// Its number.
    pub domain: u64,
    /// Its process.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// What its process calls itself: its own choice.
    pub name: ProcessName,
    /// When it connected, in milliseconds since 1970.
    pub since_ms: u64,
    /// The number of its session, as logs have it.
    pub session: u64,
}

/// What a domain's session did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Requests that were answered.
    pub requests: u64,
    /// Of these, refused.
    pub refused: u64,
    /// Of these, granted a capability.
    pub granted: u64,
    /// Capabilities that were taken from it by force.
    pub lost: u64,
    /// Sides of ports that it has.
    pub port_sides: u64,
    /// 1 live, 2 ending, 3 ended, but something still pins its frames.
    pub state: u64,
}

/// A port as an admin sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// Its number, which is not used again.
    pub port: u64,
    /// Its name.
    pub name: PortName,
    /// Ring, flags, and what became of its sides.
    pub brief: PortBrief,
    /// The domains of its sides; none where a side is not there.
    pub sides: [Option<u64>; 2],
}

/// What passed a port, as its sides say of themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounts {
    /// Descriptors (pieces of packets; most packets are one) that each side has sent.
    pub sent: [u64; 2],
    /// When that was so, in nanoseconds of the monotonic clock.
    pub at_ns: u64,
}
