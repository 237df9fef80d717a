//! The sending half of a port: credits, descriptors out, buffers home.
//!
//! A slot of the ring is out until the peer returns it, and [`Tx::flight`] remembers for each what
//! is to come home with it. A return for a slot that is not out (twice, foreign, early) is a
//! violation and ends the port. The credit limit is the ring: a slot that is still out blocks the
//! ring when its turn comes again, so a peer that hoards starves itself alone.

#![forbid(unsafe_code)]

use std::rc::Rc;

use crate::abi::port::{Descriptor, PIECE_LEN_MAX, Return};
use crate::error::{Error, Result};
use crate::packet::{InFlight, Mempool, Packet};
use crate::ring::{Consumer, Producer, Slots};

use super::rx::RxPacket;

/// What can be out beside buffers of the port's own pool.
#[derive(Debug)]
enum Elsewhere {
    /// A buffer of the pool with this place among `more_pools`.
    Pool(usize, InFlight),
    /// A packet that was received elsewhere: its sender gets it back with the slot.
    Received(#[expect(dead_code, reason = "held for its drop")] RxPacket),
}

#[derive(Debug)]
pub(crate) struct Tx<S> {
    ring: Producer<S>,
    returns: Consumer<S>,
    pool: Rc<Mempool>,
    /// By slot: the buffer of `pool` that is out in it.
    flight: Box<[Option<InFlight>]>,
    /// By slot, where that says "elsewhere". Empty until something else is sent for the first time.
    elsewhere: Vec<Option<Elsewhere>>,
    /// Further pools of ours, and the segment that each lies in.
    more_pools: Vec<(Rc<Mempool>, u8)>,
    /// Position of the oldest slot that is out, or of the next one when none is. Slots from the
    /// next position to one lap after this one are free.
    oldest: u32,
    outstanding: u32,
    tally: Tally<S>,
}

/// The word that tells exod how much was sent. Written when returns come home, which is at least
/// once a ring: the ring's laps tell the rest, so that no packet pays for being counted.
#[derive(Debug)]
pub(crate) struct Tally<S> {
    word: S,
    /// All descriptors up to `position`.
    sent: u64,
    position: u32,
}

impl<S: Slots> Tally<S> {
    /// Over one word of our own segment.
    pub(crate) fn new(word: S) -> Tally<S> {
        Tally {
            word,
            sent: 0,
            position: 0,
        }
    }

    fn publish(&mut self, position: u32) {
        self.sent += u64::from(position.wrapping_sub(self.position));
        self.position = position;
        self.word.store(0, self.sent);
    }
}

impl<S: Slots> Tx<S> {
    pub(crate) fn new(
        ring: Producer<S>,
        returns: Consumer<S>,
        own: Rc<Mempool>,
        tally: Tally<S>,
    ) -> Tx<S> {
        let flight = (0..ring.capacity()).map(|_| None).collect();
        let oldest = ring.position();
        Tx {
            ring,
            returns,
            pool: own,
            flight,
            elsewhere: Vec::new(),
            more_pools: Vec::new(),
            oldest,
            outstanding: 0,
            tally,
        }
    }

    /// Lets packets of one more pool be sent from a segment.
    pub(crate) fn add_pool(&mut self, pool: Rc<Mempool>, segment: u8) {
        self.more_pools.push((pool, segment));
    }

    pub(crate) fn pool(&self) -> &Rc<Mempool> {
        &self.pool
    }

    /// Slots in the ring.
    pub(crate) fn capacity(&self) -> u32 {
        self.ring.capacity()
    }

    /// Descriptors that are out.
    pub(crate) fn outstanding(&self) -> u32 {
        self.outstanding
    }

    /// Whether a return waits to be read.
    pub(crate) fn has_returns(&self) -> bool {
        self.returns.peek(0).is_some()
    }

    /// How many of the next `want` slots are free; asks the peer's returns only when it must, so
    /// that a line of returns crosses once and full.
    #[inline]
    pub(crate) fn credit(&mut self, want: u32) -> Result<u32> {
        if self.free_slots() < want {
            self.reap()?;
        }
        Ok(self.free_slots().min(want))
    }

    #[inline]
    fn free_slots(&self) -> u32 {
        self.ring.capacity() - self.ring.position().wrapping_sub(self.oldest)
    }

    /// Whether a descriptor can say where a packet is and how long: that it is neither empty nor
    /// too long for one, and lies in memory that the peer sees.
    #[inline]
    pub(crate) fn accepts(&self, packet: &Packet) -> bool {
        fits(packet.len()) && (packet.pool_id() == self.pool.id() || self.pool_of(packet).is_some())
    }

    fn pool_of(&self, packet: &Packet) -> Option<usize> {
        let mut pools = self.more_pools.iter();
        pools.position(|(pool, _)| pool.id() == packet.pool_id())
    }

    /// Why not.
    #[cold]
    pub(crate) fn refusal(packet: &Packet) -> Error {
        if fits(packet.len()) {
            unknown_pool(packet)
        } else {
            wrong_len(packet.len(), PIECE_LEN_MAX)
        }
    }

    /// Sends one packet of a pool of ours. The caller has credit for it.
    #[inline]
    pub(crate) fn push(&mut self, packet: Packet, more: bool) -> Result<()> {
        let (offset, len) = (packet.offset(), packet.len());
        if packet.pool_id() == self.pool.id() {
            self.put(Descriptor::new(0, offset, len, more), packet.into_flight());
            return Ok(());
        }
        let Some(index) = self.pool_of(&packet) else {
            return Err(unknown_pool(&packet));
        };
        let segment = self.more_pools[index].1;
        self.set_elsewhere(0, Elsewhere::Pool(index, packet.into_flight()));
        self.put(
            Descriptor::new(segment, offset, len, more),
            InFlight::ELSEWHERE,
        );
        Ok(())
    }

    #[inline]
    fn put(&mut self, descriptor: Descriptor, flight: InFlight) {
        let slot = self.ring.slot(0);
        debug_assert!(self.flight[slot].is_none());
        self.flight[slot] = Some(flight);
        self.outstanding += 1;
        self.ring.push(descriptor.0);
    }

    fn set_elsewhere(&mut self, ahead: u32, what: Elsewhere) {
        if self.elsewhere.is_empty() {
            self.elsewhere.resize_with(self.flight.len(), || None);
        }
        let slot = self.ring.slot(ahead);
        self.elsewhere[slot] = Some(what);
    }

    /// Sends `count` packets of `len` bytes, for which there are credit and buffers. All are filled
    /// before the first descriptor is written, so that a receiver on the heels of the sender does
    /// not pull the line of descriptors away between two packets.
    #[inline]
    pub(crate) fn push_filled(&mut self, count: u32, len: usize, fill: impl FnMut(u32, &mut [u8])) {
        let (flight, mask) = (&mut self.flight, self.ring.capacity() - 1);
        let next = self.ring.position();
        self.pool.fill_burst(count, len, fill, |k, buffer| {
            flight[(next.wrapping_add(k) & mask) as usize] = Some(buffer);
        });
        self.outstanding += count;
        let like = Descriptor::new(0, 0, len, false);
        self.ring.push_burst(count, |k| {
            let buffer = &flight[(next.wrapping_add(k) & mask) as usize];
            like.at_line(buffer.as_ref().map_or(0, InFlight::line)).0
        });
    }

    /// Sends `head` and then pieces of `body`, of which the caller made the descriptors `rest` and
    /// has credit for them all. `body` goes home when its last piece was returned.
    pub(crate) fn push_chain(
        &mut self,
        head: Packet,
        rest: &[Descriptor],
        body: RxPacket,
    ) -> Result<()> {
        self.push(head, true)?;
        self.set_elsewhere(rest.len() as u32 - 1, Elsewhere::Received(body));
        for descriptor in rest {
            self.put(*descriptor, InFlight::ELSEWHERE);
        }
        Ok(())
    }

    /// Takes home whatever the peer has returned; how many slots.
    #[inline]
    pub(crate) fn reap(&mut self) -> Result<u32> {
        let mut home = 0;
        while let Some(entry) = self.returns.peek(0) {
            home += self.take_run(Return(entry))?;
            self.returns.advance(1);
        }
        if home > 0 {
            self.tally.publish(self.ring.position());
        }
        Ok(home)
    }

    #[inline]
    fn take_run(&mut self, run: Return) -> Result<u32> {
        let mask = self.ring.capacity() - 1;
        let (first, count) = (run.first(), run.count());
        if !run.well_formed() || first > mask || count == 0 || count > self.outstanding {
            return Err(Error::PeerViolation("a return of slots that are not out"));
        }
        let mut k = 0;
        while k < count {
            k += self.take_own(first, k, count);
            if k < count {
                self.take_other(((first + k) & mask) as usize)?;
                k += 1;
            }
        }
        self.outstanding -= count;
        if self.oldest & mask == first {
            self.oldest = self.oldest.wrapping_add(count);
        }
        // Runs that came out of order before this one may have freed what is the oldest now.
        while self.oldest != self.ring.position()
            && self.flight[(self.oldest & mask) as usize].is_none()
        {
            self.oldest = self.oldest.wrapping_add(1);
        }
        Ok(count)
    }

    /// Takes home slots of a run from its `from`th on, as long as they hold buffers of our own
    /// pool; how many.
    #[inline]
    fn take_own(&mut self, first: u32, from: u32, count: u32) -> u32 {
        let flight = &mut self.flight;
        let (mask, mut k) = (flight.len() - 1, from);
        self.pool.reclaim_burst(|| {
            let slot = &mut flight[(first + k) as usize & mask];
            let ours = k < count && slot.as_ref().is_some_and(|buffer| !buffer.is_elsewhere());
            if !ours {
                return None;
            }
            k += 1;
            slot.take()
        });
        k - from
    }

    /// Takes home what one slot holds that is no buffer of our own pool.
    fn take_other(&mut self, slot: usize) -> Result<()> {
        if self.flight[slot].take().is_none() {
            return Err(Error::PeerViolation(
                "a slot returned twice or before it was sent",
            ));
        }
        if let Some(Elsewhere::Pool(index, buffer)) = self.elsewhere[slot].take() {
            let mut one = Some(buffer);
            self.more_pools[index].0.reclaim_burst(|| one.take());
        }
        Ok(())
    }

    /// Brings near what the next packet will be written to.
    #[inline]
    pub(crate) fn warm_up(&self)
    where
        S: Warm,
    {
        self.ring.slots().warm(self.ring.slot(0));
        self.pool.prefetch_next(0);
    }
}

/// Whether a packet of this length can be sent.
#[inline]
pub(crate) fn fits(len: usize) -> bool {
    (1..=PIECE_LEN_MAX).contains(&len)
}

#[cold]
pub(crate) fn wrong_len(len: usize, limit: usize) -> Error {
    Error::WrongSize {
        what: "the length of a packet to be sent (at least 1)",
        got: len as u64,
        limit: limit.min(PIECE_LEN_MAX) as u64,
    }
}

#[cold]
fn unknown_pool(packet: &Packet) -> Error {
    Error::WrongSize {
        what: "the mempool of a packet, which is not attached to this port; its number",
        got: u64::from(packet.pool_id()),
        limit: 0,
    }
}

/// Slots that can be brought near before they are written.
pub(crate) trait Warm {
    fn warm(&self, slot: usize);
}

impl Warm for crate::shm::Words {
    #[inline]
    fn warm(&self, slot: usize) {
        self.prefetch_write(slot);
    }
}

impl<S> Drop for Tx<S> {
    /// The port is over, so nothing is coming back any more: what is out is ours again.
    fn drop(&mut self) {
        let mut own = self.flight.iter_mut().filter_map(Option::take);
        self.pool
            .reclaim_burst(|| own.find(|buffer| !buffer.is_elsewhere()));
        for what in self.elsewhere.iter_mut().filter_map(Option::take) {
            if let Elsewhere::Pool(index, buffer) = what {
                let mut one = Some(buffer);
                self.more_pools[index].0.reclaim_burst(|| one.take());
            }
        }
    }
}
