//! How a port comes to be: a unit of our own, a name, a peer.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::abi::CACHE_LINE;
use crate::abi::port::{Layout, PortFlags, RING_LOG2, RING_LOG2_DEFAULT, SEGMENTS_MAX, SENT_WORD};
use crate::abi::status::Status;
use crate::abi::wire::{ErrorCode, Op, PortName};
use crate::client::{Client, PeerSide};
use crate::error::{Error, Result};
use crate::packet::Mempool;
use crate::ring::{Consumer, Producer};
use crate::shm::{Access, Buffers, Mapping, Words};

use super::Port;
use super::bell::Bells;
use super::returns::Returns;
use super::rx::{Rx, Shared};
use super::tap::Tap;
use super::tx::{Tally, Tx};

/// Words of a control line.
const CONTROL_WORDS: usize = CACHE_LINE / 8;

/// What a side asks of its port.
#[derive(Clone, Copy, Debug)]
pub struct PortConfig {
    /// Log2 of the slots in each ring, 4 to 16. Who creates decides.
    pub ring_log2: u32,
    /// Frames of this side's segment (2 MiB each with hugepages).
    pub frames: u64,
    /// Bytes of a packet buffer, a multiple of 64. Buffers no larger than the packets need keep
    /// more of them in cache.
    pub buffer_len: usize,
    /// Buffers in the pool, at most what fits: fewer keep more of them in cache.
    pub buffers_max: u32,
    /// Let the peer send our packets on to its own peers without copying them.
    pub share: bool,
    /// Let both sides take slices of each other's packets, where the policy allows it to both.
    pub trusted: bool,
}

impl Default for PortConfig {
    /// One frame, 4,096 slots, buffers of 2 KiB: any packet of an Ethernet with standard frames.
    fn default() -> PortConfig {
        PortConfig {
            ring_log2: RING_LOG2_DEFAULT,
            frames: 1,
            buffer_len: 2048,
            buffers_max: u32::MAX,
            share: false,
            trusted: false,
        }
    }
}

impl PortConfig {
    fn flags(&self) -> PortFlags {
        let mut flags = PortFlags::empty();
        flags.set(PortFlags::SHARE, self.share);
        flags.set(PortFlags::TRUSTED, self.trusted);
        flags
    }
}

/// A port that this side created and nobody has joined yet.
pub struct Waiting {
    client: Client,
    handle: u64,
    name: PortName,
    config: PortConfig,
    own: Rc<Mapping>,
    bells: Option<(OwnedFd, OwnedFd)>,
}

impl Port {
    /// Creates a port under a name that another domain can join.
    pub fn create(client: &Client, name: &str, config: PortConfig) -> Result<Waiting> {
        let name = parse(name)?;
        check_ring(config.ring_log2)?;
        let (unit, own) = own_unit(client, config.frames)?;
        let made = client.port_create(&name, unit, config.ring_log2, config.flags())?;
        Ok(Waiting {
            client: client.clone(),
            handle: made.handle,
            name,
            config,
            own,
            bells: Some((made.own_bell, made.peer_bell)),
        })
    }

    /// Joins a port that another domain created.
    pub fn join(client: &Client, name: &str, config: PortConfig) -> Result<Port> {
        let name = parse(name)?;
        let (unit, own) = own_unit(client, config.frames)?;
        let joined = client.port_join(&name, unit, config.flags())?;
        let bells = (joined.own_bell, joined.peer_bell);
        assemble(
            client.clone(),
            joined.handle,
            &name,
            config,
            own,
            bells,
            joined.peer,
        )
    }

    /// Joins a port, waiting up to `timeout` for somebody to create it.
    pub fn join_when_there(
        client: &Client,
        name: &str,
        config: PortConfig,
        timeout: Duration,
    ) -> Result<Port> {
        /// Between two looks: ports are made seldom, and each look is a request to exod.
        const PAUSE: Duration = Duration::from_millis(2);
        let parsed = parse(name)?;
        let deadline = Instant::now().checked_add(timeout);
        let (unit, own) = own_unit(client, config.frames)?;
        loop {
            match client.port_join(&parsed, unit, config.flags()) {
                Ok(joined) => {
                    let bells = (joined.own_bell, joined.peer_bell);
                    return assemble(
                        client.clone(),
                        joined.handle,
                        &parsed,
                        config,
                        own,
                        bells,
                        joined.peer,
                    );
                }
                Err(Error::Refused {
                    code: ErrorCode::NotFound,
                    ..
                }) if deadline.is_none_or(|deadline| Instant::now() < deadline) => {
                    std::thread::sleep(PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Waiting {
    /// The port, once the peer has joined; none before.
    pub fn try_ready(&mut self) -> Result<Option<Port>> {
        let status = self.client.status(self.handle);
        if !status.contains(Status::LIVE) {
            return Err(Error::Revoked);
        }
        if !status.contains(Status::PEER_JOINED) {
            return Ok(None);
        }
        let Some(peer) = self.client.port_peer(self.handle)? else {
            return Ok(None);
        };
        let Some(bells) = self.bells.take() else {
            return Err(Error::Disconnected);
        };
        let (client, own) = (self.client.clone(), Rc::clone(&self.own));
        assemble(
            client,
            self.handle,
            &self.name,
            self.config,
            own,
            bells,
            peer,
        )
        .map(Some)
    }

    /// Waits for the peer, up to `timeout`.
    pub fn ready(mut self, timeout: Duration) -> Result<Port> {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            if let Some(port) = self.try_ready()? {
                return Ok(port);
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Err(Error::TimedOut { op: Op::PortPeer });
            }
            self.client.wait_event(left)?;
        }
    }

    /// The port as a capability.
    pub fn handle(&self) -> u64 {
        self.handle
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.bells.is_some() {
            let _ = self.client.port_leave(self.handle, super::LEAVE_DONE);
        }
    }
}

/// A fresh unit of ours, mapped.
pub(super) fn own_unit(client: &Client, frames: u64) -> Result<(u64, Rc<Mapping>)> {
    let unit = client.alloc_unit(frames, None)?;
    let map = Mapping::own(client, &unit)?;
    Ok((unit.handle, map))
}

pub(super) fn pool(map: Rc<Mapping>, offset: usize, buffer_len: usize) -> Result<Mempool> {
    Mempool::new(Buffers::new(map, offset, buffer_len, u32::MAX)?)
}

fn parse(name: &str) -> Result<PortName> {
    PortName::new(name).ok_or(Error::WrongSize {
        what: "a port's name (1 to 24 letters, digits and -_.:/); its length",
        got: name.len() as u64,
        limit: crate::abi::wire::NAME_LEN as u64,
    })
}

fn check_ring(log2: u32) -> Result<()> {
    if RING_LOG2.contains(&log2) {
        return Ok(());
    }
    Err(Error::WrongSize {
        what: "the log2 of a port's ring (at least 4)",
        got: u64::from(log2),
        limit: u64::from(*RING_LOG2.end()),
    })
}

/// Both segments are there: makes the port, or leaves it.
pub(super) fn assemble(
    client: Client,
    handle: u64,
    name: &PortName,
    config: PortConfig,
    own: Rc<Mapping>,
    bells: (OwnedFd, OwnedFd),
    peer: PeerSide,
) -> Result<Port> {
    // Kept until the port is left: a unit that serves one can't be given back.
    let kept = Rc::clone(&own);
    let made = lay_out(client.clone(), handle, name, config, own, bells, peer);
    if made.is_err() {
        let _ = client.port_leave(handle, super::LEAVE_DONE);
    }
    drop(kept);
    made
}

/// Lays rings and a pool over both segments.
fn lay_out(
    client: Client,
    handle: u64,
    name: &PortName,
    config: PortConfig,
    own: Rc<Mapping>,
    bells: (OwnedFd, OwnedFd),
    peer: PeerSide,
) -> Result<Port> {
    let losses = client.losses();
    check_ring(peer.ring_log2)?;
    let layout = Layout::new(peer.ring_log2);
    let slots = 1usize << peer.ring_log2;
    let trusted = peer.flags.contains(PortFlags::TRUSTED);
    let peer_access = if trusted {
        Access::Trusted
    } else {
        Access::ReadOnly
    };
    let capability = client.status_word(peer.unit_handle)?;
    let (bytes, kind) = (peer.bytes, peer.page_kind);
    let theirs = Mapping::peers(&peer.fd, bytes, peer_access, kind, capability)?;

    let ring = |map: &Rc<Mapping>, offset| words(map, offset, slots);
    let sends = Producer::new(ring(&own, layout.descriptors)?);
    let gives = Returns::new(Producer::new(ring(&own, layout.returns)?));
    let receives = Consumer::new(ring(&theirs, layout.descriptors)?);
    let gets_back = Consumer::new(ring(&theirs, layout.returns)?);
    let (own_control, peer_control) = (
        words(&own, 0, CONTROL_WORDS)?,
        words(&theirs, 0, CONTROL_WORDS)?,
    );
    let tally = Tally::new(words(&own, 8 * SENT_WORD, 1)?);

    let buffers = Buffers::new(
        Rc::clone(&own),
        layout.packets,
        config.buffer_len,
        config.buffers_max,
    )?;
    let pool = Rc::new(Mempool::new(buffers)?);
    let shared = Rc::new(Shared::new(slots, gives));
    shared.segments.set(0, theirs);
    let mut peer_units = [0; SEGMENTS_MAX];
    peer_units[0] = peer.unit_handle;
    Ok(Port {
        status: client.status_word(handle)?,
        client,
        handle,
        side: peer.side,
        tx: Tx::new(sends, gets_back, pool, tally),
        rx: Rx::new(receives, shared),
        bells: Bells::new(bells.0, bells.1, own_control, peer_control),
        own,
        peer_access,
        peer_units,
        over: Cell::new(None),
        losses,
        tap: Tap::new(name, peer.side),
    })
}

fn words(map: &Rc<Mapping>, offset: usize, count: usize) -> Result<Words> {
    map.words(offset, count).ok_or(Error::WrongSize {
        what: "the end of a port's rings in its segment",
        got: (offset + count * 8) as u64,
        limit: map.len() as u64,
    })
}
