//! Ports: packets between two domains that do not trust each other, without a copy or a switch.
//!
//! Each side has a *segment*, a unit of frames that it alone writes and the other maps read-only.
//! In it lie the ring of descriptors that this side sends, the ring of returns for what it
//! received, and its packets ([`crate::abi::port`]). So neither side can corrupt the other; what it
//! reads from the peer it reads once, checks, and only then uses.
//!
//! ```text
//!       side 0's segment (side 1 reads)              side 1's segment (side 0 reads)
//!   control | descriptors | returns | packets    control | descriptors | returns | packets
//!                 |             ^        |             ^        |
//!   send_burst ---+-------------|--------+--> receive  |        |
//!                               +----------------------|--------+-- returns (runs of slots)
//! ```
//!
//! A port is used by one thread. While both sides are busy it makes no system call; a side that has
//! nothing to do may [`Port::wait`], and only then is a doorbell rung for it.
//!
//! exod takes a peer's memory back some time after the peer has gone (`give_back_ms` in its
//! configuration). A side that uses its port meanwhile hears [`Error::PeerGone`] once it has
//! received everything, and does not look at that memory from then on; it should drop the port,
//! which returns the peer's frames. A side that was stopped, or holds packets for so long, meets
//! memory that is gone: SIGBUS kills it, unless the program called [`crate::guard::install`]. So
//! programs with peers that they do not trust call that first.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

use crate::abi::port::SEGMENTS_MAX;
use crate::abi::status::Status;
use crate::abi::wire::ErrorCode;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::packet::{Mempool, Packet};
use crate::shm::{Access, Mapping, Words};
use crate::status::StatusWord;

mod bell;
mod burst;
mod foreign;
mod forward;
mod returns;
mod rx;
mod setup;
mod tap;
mod tx;

pub use burst::{PeerPacket, RxBurst, RxPacket};
pub use forward::Forwarded;
pub use rx::BURST_MAX;
pub use setup::{PortConfig, Waiting};

use bell::Bells;
use rx::{Room, Rx, Staged};
use tap::Tap;
use tx::Tx;

/// Why a side ends a port, as it tells exod.
const LEAVE_DONE: u64 = 0;
const LEAVE_VIOLATION: u64 = 1;

/// How a port ended.
#[derive(Clone, Copy, Debug)]
enum End {
    PeerGone,
    Revoked,
    Violation(&'static str),
}

impl End {
    #[cold]
    fn error(self) -> Error {
        match self {
            End::PeerGone => Error::PeerGone,
            End::Revoked => Error::Revoked,
            End::Violation(what) => Error::PeerViolation(what),
        }
    }
}

/// One side of a port whose peer has joined.
pub struct Port {
    client: Client,
    handle: u64,
    status: StatusWord,
    side: u8,
    tx: Tx<Words>,
    rx: Rx,
    bells: Bells,
    own: Rc<Mapping>,
    peer_access: Access,
    /// The peer's segment units as capabilities of ours, by segment.
    peer_units: [u64; SEGMENTS_MAX],
    /// Why nothing can be sent or received any more.
    over: Cell<Option<End>>,
    /// Losses of this session when the port began.
    losses: u64,
    tap: Tap,
}

impl Port {
    /// The mempool in this side's own segment.
    pub fn pool(&self) -> &Rc<Mempool> {
        self.tx.pool()
    }

    /// 0 for who created the port, 1 for who joined it.
    pub fn side(&self) -> u8 {
        self.side
    }

    /// The port as a capability.
    pub fn handle(&self) -> u64 {
        self.handle
    }

    /// Slots in each ring.
    pub fn ring_slots(&self) -> u32 {
        self.tx.capacity()
    }

    /// Allocates a packet of `len` bytes from [`Port::pool`].
    #[inline]
    pub fn alloc(&self, len: usize) -> Option<Packet> {
        self.tx.pool().alloc(len)
    }

    /// Sends as many of `burst` as there is credit for, from its front, and removes them; how many.
    /// Fewer than all means that the peer has not returned enough yet, or that the next packet
    /// can't be sent (it is empty, too long for a descriptor, or of a pool that is not this
    /// port's): call again, and hear which.
    pub fn send_burst(&mut self, burst: &mut Vec<Packet>) -> Result<usize> {
        self.open()?;
        let credit = self.tx.credit(burst.len() as u32);
        let credit = self.check(credit)? as usize;
        if credit == 0 {
            return self.starved().map(|()| 0);
        }
        let accepts = |packet: &&Packet| self.tx.accepts(packet);
        let count = burst[..credit].iter().take_while(accepts).count();
        if count == 0 {
            return Err(Tx::<Words>::refusal(&burst[0]));
        }
        if self.tapped() {
            self.tap.packets(&self.client, &burst[..count]);
        }
        for packet in burst.drain(..count) {
            self.tx.draft_own(packet, false)?;
        }
        self.tx.publish();
        self.bells.ring_if_asleep();
        Ok(count)
    }

    /// Sends up to `count` packets of `len` bytes, each filled by `fill` from its number in the
    /// burst: allocation, filling and sending in one pass. How many; fewer than `count` means that
    /// buffers or credit ran out.
    #[inline]
    pub fn send_with(
        &mut self,
        count: usize,
        len: usize,
        fill: impl FnMut(u32, &mut [u8]),
    ) -> Result<usize> {
        self.open()?;
        let longest = self.tx.pool().buffer_len();
        if !tx::fits(len) || len > longest {
            return Err(tx::wrong_len(len, longest));
        }
        let credit = self.tx.credit(count.min(BURST_MAX) as u32);
        let mut credit = self.check(credit)? as usize;
        if self.tx.pool().available() < credit {
            let home = self.tx.reap();
            self.check(home)?;
            credit = credit.min(self.tx.pool().available());
        }
        if credit == 0 {
            return self.starved().map(|()| 0);
        }
        if self.tapped() {
            self.push_mirrored(credit as u32, len, fill);
        } else {
            self.tx.push_filled(credit as u32, len, fill);
        }
        self.bells.ring_if_asleep();
        Ok(credit)
    }

    /// Adds `frames` more frames of packet memory, in buffers of `buffer_len` bytes, whose packets
    /// may be sent on this port.
    pub fn add_pool(&mut self, frames: u64, buffer_len: usize) -> Result<Rc<Mempool>> {
        let (handle, map) = setup::own_unit(&self.client, frames)?;
        let index = self.client.port_attach(self.handle, handle)?;
        let pool = Rc::new(setup::pool(map, 0, buffer_len)?);
        self.tx.add_pool(Rc::clone(&pool), index as u8);
        Ok(pool)
    }

    /// Receives up to `max` packets (at most [`BURST_MAX`]). An empty burst means that there are
    /// none; [`Error::PeerGone`] that there never will be; [`Error::PeerViolation`] that the peer
    /// broke the rules and the port is over.
    #[inline]
    pub fn receive_burst(&mut self, max: usize) -> Result<RxBurst<'_>> {
        self.open()?;
        if self.rx.still_nothing() && self.is_connected() {
            return Ok(self.rx.lend(0, 0));
        }
        let (slots, packets) = self.stage(max, Room::ALL)?;
        if packets == 0 {
            self.rx.shared.flush();
            self.nothing()?;
        }
        self.tell_returns();
        Ok(self.rx.lend(slots, packets))
    }

    /// Checks what has come; how many slots and packets.
    #[inline]
    fn stage(&mut self, max: usize, room: Room) -> Result<(u32, u32)> {
        loop {
            let staged = self.rx.stage(max, room);
            match self.check(staged)? {
                Staged::Ready { slots, packets } => return Ok((slots, packets)),
                Staged::UnknownSegment(index) => self.map_segment(index)?,
            }
        }
    }

    /// Takes home buffers that the peer has returned and hands the peer what this side returns.
    /// Sending and receiving do both by themselves when they need to. Once [`Error::PeerGone`] was
    /// reported there is nothing to hand to anybody, and what is still out comes home with the
    /// port's drop.
    pub fn flush(&mut self) -> Result<()> {
        if matches!(self.over.get(), Some(End::PeerGone)) {
            return Ok(());
        }
        self.open()?;
        let home = self.tx.reap();
        self.check(home)?;
        self.tx.foreign().forget();
        self.rx.shared.flush();
        self.tell_returns();
        Ok(())
    }

    /// Announces packets that were [forwarded](Port::forward) one by one.
    #[inline]
    pub fn announce(&mut self) {
        if self.over.get().is_none() {
            self.bells.ring_if_asleep();
        }
    }

    /// Packets' slots that the peer has not returned yet, as far as this side has looked.
    pub fn outstanding(&self) -> u32 {
        self.tx.outstanding()
    }

    /// Sleeps until there is a packet, a return, or news from exod. True unless the time ran out.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<bool> {
        self.open()?;
        self.flush()?;
        // Before the status is looked at: what exod changes from here on rings again.
        self.client.take_event()?;
        self.gone()?;
        self.heed_tap(self.status.load());
        let (tx, rx) = (&self.tx, &self.rx);
        let ready = || rx.has_packets() || tx.has_returns();
        let event = self.client.event_fd();
        let woken = self.bells.sleep(event, timeout, ready)?;
        if woken && !ready() {
            // What exod has to say is in the status. Its bell is quiet again, or the next wait
            // would not sleep.
            self.client.take_event()?;
            self.gone()?;
        }
        Ok(woken)
    }

    /// The bell that the peer rings for this side, for event loops of others.
    pub fn bell_fd(&self) -> BorrowedFd<'_> {
        self.bells.own_fd()
    }

    /// Brings near what the next packet will be written to: worth calling where there is time
    /// before it, as between a request and its answer.
    #[inline]
    pub fn warm_up(&self) {
        self.tx.warm_up();
    }

    /// Whether the peer is still there.
    pub fn is_connected(&self) -> bool {
        let status = self.status.load();
        status.contains(Status::LIVE) && !status.contains(Status::PEER_GONE)
    }

    /// What a side that found nothing asks: is it worth coming back?
    #[inline]
    fn nothing(&mut self) -> Result<()> {
        let status = self.status.load();
        self.heed_tap(status);
        if status.contains(Status::LIVE) && !status.intersects(Status::PEER_GONE) {
            return Ok(());
        }
        self.gone()
    }

    /// Wakes a sleeping peer where returns were written for it.
    #[inline]
    fn tell_returns(&mut self) {
        if self.rx.shared.take_news() {
            self.bells.ring_if_asleep();
        }
    }

    /// Nothing can be sent: what we owe goes out, in case that the peer waits for it likewise.
    #[cold]
    fn starved(&mut self) -> Result<()> {
        self.rx.shared.flush();
        self.tell_returns();
        self.nothing()
    }

    /// Says once for all that the peer has gone, when nothing of it is left to receive: from then
    /// on this side does not look at the peer's memory, which exod takes back.
    #[cold]
    fn gone(&mut self) -> Result<()> {
        let status = self.status.load();
        if !status.contains(Status::LIVE) {
            return Err(Error::Revoked);
        }
        if !status.contains(Status::PEER_GONE) || self.rx.has_packets() {
            return Ok(());
        }
        // What it returned before it went; a lie in it changes nothing any more.
        let _ = self.tx.reap();
        self.over.set(Some(End::PeerGone));
        Err(Error::PeerGone)
    }

    /// Whether what is sent now is to be mirrored.
    #[inline]
    fn tapped(&mut self) -> bool {
        let status = self.status.load();
        self.heed_tap(status);
        self.tap.is_on()
    }

    #[inline]
    fn heed_tap(&mut self, status: Status) {
        let on = status.contains(Status::TAP);
        if on != self.tap.is_on() {
            self.tap.set(on, &self.client);
        }
    }

    /// As [`Tx::push_filled`], with a copy of each packet for the tap.
    #[cold]
    fn push_mirrored(&mut self, count: u32, len: usize, mut fill: impl FnMut(u32, &mut [u8])) {
        let tap = &mut self.tap;
        tap.ready(&self.client);
        self.tx.push_filled(count, len, |k, packet| {
            fill(k, packet);
            tap.copy(packet);
        });
    }

    /// A violation by the peer ends the port, at exod too.
    #[inline]
    fn check<T>(&self, result: Result<T>) -> Result<T> {
        match result {
            Err(Error::PeerViolation(what)) => Err(self.end(what)),
            other => other,
        }
    }

    /// Ends the port for good: the peer can't take its words back.
    #[cold]
    fn end(&self, what: &'static str) -> Error {
        let status = self.status.load();
        // Where memory was lost, zeroes stand for the peer's words.
        let end = if status.contains(Status::PEER_GONE) {
            End::PeerGone
        } else if !status.contains(Status::LIVE) || self.client.losses() != self.losses {
            End::Revoked
        } else {
            End::Violation(what)
        };
        if self.over.replace(Some(end)).is_none() {
            let _ = self.client.port_leave(self.handle, LEAVE_VIOLATION);
        }
        end.error()
    }

    /// Nothing is sent or received after a violation.
    #[inline]
    fn open(&self) -> Result<()> {
        match self.over.get() {
            None => Ok(()),
            Some(end) => Err(end.error()),
        }
    }

    #[cold]
    fn map_segment(&mut self, index: usize) -> Result<()> {
        let refused = |error: Error| match error.code() {
            Some(ErrorCode::NotFound) => {
                Error::PeerViolation("a descriptor in a segment that it never attached")
            }
            _ => error,
        };
        let segment = self
            .client
            .port_segment(self.handle, index as u32)
            .map_err(refused);
        let segment = self.check(segment)?;
        let map = Mapping::peers(
            &segment.fd,
            segment.bytes,
            self.peer_access,
            segment.page_kind,
            self.client.status_word(segment.handle)?,
        )?;
        self.peer_units[index] = segment.handle;
        self.rx.shared.segments.set(index, map);
        Ok(())
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.rx.shared.flush();
        self.rx.shared.gone.set(true);
        let _ = self.client.port_leave(self.handle, LEAVE_DONE);
    }
}

impl std::fmt::Debug for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Port {
            handle, side, own, ..
        } = self;
        write!(
            f,
            "Port {handle:#x} side {side}, {} bytes, {:?}",
            own.len(),
            self.tx.pool()
        )
    }
}
