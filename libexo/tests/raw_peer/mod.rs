//! The other side of a port, without libexo's port: it speaks to exod through the client, maps its
//! own segment, and writes any word anywhere in it.

// Each test program uses its own part of this.
#![allow(dead_code)]

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use libexo::abi::port::{Descriptor, Layout, PortFlags, Return};
use libexo::abi::status::Status;
use libexo::abi::wire::PortName;
use libexo::client::{PeerSide, UnitGrant};
use libexo::{Client, Result};
use memmap2::{MmapOptions, MmapRaw};

/// Longest wait for something that exod does by itself.
pub const SOON: Duration = Duration::from_secs(10);

/// A unit mapped whole, as words and bytes.
pub struct Memory {
    pub map: MmapRaw,
    pub handle: u64,
}

impl Memory {
    pub fn own(unit: &UnitGrant) -> Memory {
        let map = MmapOptions::new().len(unit.bytes).map_raw(&unit.fd);
        Memory {
            map: map.expect("our own unit"),
            handle: unit.handle,
        }
    }

    pub fn peers(side: &PeerSide) -> Memory {
        let map = MmapOptions::new()
            .len(side.bytes)
            .map_raw_read_only(&side.fd);
        Memory {
            map: map.expect("the peer's segment"),
            handle: side.unit_handle,
        }
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.map.len());
        // SAFETY: aligned and in the mapping, which the reference borrows; all of it is only ever
        // used as atomics here.
        unsafe { &*self.map.as_ptr().add(offset).cast() }
    }

    pub fn load(&self, offset: usize) -> u64 {
        self.word(offset).load(Ordering::Acquire)
    }

    /// Only on our own unit: a store to the peer's would kill us.
    pub fn store(&self, offset: usize, value: u64) {
        self.word(offset).store(value, Ordering::Release);
    }
}

/// A side that joined with nothing but requests and a mapping.
pub struct RawPeer {
    pub client: Client,
    pub handle: u64,
    pub memory: Memory,
    pub peer: Memory,
    pub layout: Layout,
    pub log2: u32,
    /// Our unit, readable and writable.
    pub unit_fd: OwnedFd,
    /// The other side's, to be read.
    pub peer_fd: OwnedFd,
    pub own_bell: OwnedFd,
    pub peer_bell: OwnedFd,
}

impl RawPeer {
    /// Joins the port `name` with a segment of `frames` frames.
    pub fn join(client: Client, name: &str, frames: u64, flags: PortFlags) -> Result<RawPeer> {
        let name = PortName::new(name).expect("a good name");
        let unit = client.alloc_unit(frames, None)?;
        let memory = Memory::own(&unit);
        let joined = client.port_join(&name, unit.handle, flags)?;
        Ok(RawPeer {
            handle: joined.handle,
            memory,
            peer: Memory::peers(&joined.peer),
            layout: Layout::new(joined.peer.ring_log2),
            log2: joined.peer.ring_log2,
            unit_fd: unit.fd,
            peer_fd: joined.peer.fd,
            own_bell: joined.own_bell,
            peer_bell: joined.peer_bell,
            client,
        })
    }

    pub fn slots(&self) -> u32 {
        1 << self.log2
    }

    /// The lap bit of a position, written down here once more, from the module's text.
    pub fn lap(&self, position: u32) -> bool {
        (position >> self.log2) & 1 == 0
    }

    fn slot(&self, ring: usize, position: u32) -> usize {
        ring + 8 * (position & (self.slots() - 1)) as usize
    }

    /// Writes any word into the slot of a position of our ring of descriptors.
    pub fn raw_descriptor(&self, position: u32, word: u64) {
        self.memory
            .store(self.slot(self.layout.descriptors, position), word);
    }

    /// Likewise, into the ring of returns.
    pub fn raw_return(&self, position: u32, word: u64) {
        self.memory
            .store(self.slot(self.layout.returns, position), word);
    }

    /// Writes a descriptor with the right lap.
    pub fn send(&self, position: u32, descriptor: Descriptor) {
        self.raw_descriptor(position, descriptor.with_lap(self.lap(position)));
    }

    /// Writes a return with the right lap.
    pub fn give(&self, position: u32, run: Return) {
        self.raw_return(position, run.with_lap(self.lap(position)));
    }

    /// A descriptor of `len` bytes of our packet memory that nothing is wrong with.
    pub fn good(&self, len: usize) -> Descriptor {
        Descriptor::new(0, self.layout.packets, len, false)
    }

    /// What the honest side wrote into the slot of a position of its descriptors.
    pub fn received(&self, position: u32) -> u64 {
        self.peer.load(self.slot(self.layout.descriptors, position))
    }

    /// Likewise, of its returns, if it has been written in this lap.
    pub fn returned(&self, position: u32) -> Option<Return> {
        let word = self.peer.load(self.slot(self.layout.returns, position));
        let run = Return(word & !Descriptor::LAP);
        ((word & Descriptor::LAP != 0) == self.lap(position)).then_some(run)
    }

    /// Waits until exod says that the honest side ended the port.
    pub fn until_peer_gone(&self) {
        let deadline = Instant::now() + SOON;
        while !self.client.status(self.handle).contains(Status::PEER_GONE) {
            assert!(Instant::now() < deadline, "exod never said PEER_GONE");
            self.client
                .wait_event(Some(Duration::from_millis(100)))
                .expect("a session");
        }
    }
}
