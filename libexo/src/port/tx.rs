//! The sending half of a port: credits, descriptors out, buffers home.
//!
//! A slot of the ring is out until the peer returns it, and [`Tx::flight`] remembers for each what
//! is to come home with it. A return for a slot that is not out (twice, foreign, early) is a
//! violation and ends the port. The credit limit is the ring: a slot that is still out blocks the
//! ring when its turn comes again, so a peer that hoards starves itself alone.

#![forbid(unsafe_code)]

use std::rc::Rc;

use crate::abi::port::{Descriptor, PIECE_LEN_MAX, Return, SEGMENTS_MAX};
use crate::error::{Error, Result};
use crate::packet::{InFlight, Mempool, Packet};
use crate::ring::{Consumer, Producer, Slots};

use super::burst::PeerPacket;
use super::foreign::{Foreign, Held};

#[derive(Debug)]
pub(crate) struct Tx<S> {
    ring: Producer<S>,
    returns: Consumer<S>,
    pool: Rc<Mempool>,
    /// By slot: the buffer of `pool` that is out in it.
    flight: Box<[Option<InFlight>]>,
    /// What is out where that says "elsewhere".
    foreign: Foreign,
    /// Descriptors of a burst that is being put together.
    draft: Vec<u64>,
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
            foreign: Foreign::default(),
            draft: Vec::new(),
            oldest,
            outstanding: 0,
            tally,
        }
    }

    /// Lets packets of one more pool be sent from a segment.
    pub(crate) fn add_pool(&mut self, pool: Rc<Mempool>, segment: u8) {
        self.foreign.add_pool(pool, segment, self.ring.capacity());
    }

    /// Whose packets can be sent on, and what is out of them.
    pub(crate) fn foreign(&mut self) -> &mut Foreign {
        &mut self.foreign
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
        fits(packet.len()) && self.knows(packet)
    }

    #[inline]
    fn knows(&self, packet: &Packet) -> bool {
        packet.pool_id() == self.pool.id() || self.foreign.pool_of(packet).is_some()
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

    /// Puts a packet of a pool of ours behind what is drafted. The caller has credit for it.
    #[inline]
    pub(crate) fn draft_own(&mut self, packet: Packet, more: bool) -> Result<()> {
        let len = packet.len();
        if packet.pool_id() == self.pool.id() {
            self.draft_buffer(packet.into_flight(), len, more);
            return Ok(());
        }
        let Some((index, segment)) = self.foreign.pool_of(&packet) else {
            return Err(unknown_pool(&packet));
        };
        let descriptor = Descriptor::new(segment, packet.offset(), len, more);
        let slot = self.next_slot();
        self.foreign.set_pool(slot, index, packet.into_flight());
        self.draft(descriptor, InFlight::ELSEWHERE);
        Ok(())
    }

    /// Drafts a piece of a packet that was received elsewhere. With its last piece go the slots
    /// that it held there.
    #[inline]
    fn draft_foreign(&mut self, descriptor: Descriptor, held: Option<Held>) {
        let slot = self.next_slot();
        self.foreign.set_received(slot, held);
        self.draft(descriptor, InFlight::ELSEWHERE);
    }

    #[inline]
    fn next_slot(&self) -> usize {
        self.ring.slot(self.draft.len() as u32)
    }

    #[inline]
    fn draft(&mut self, descriptor: Descriptor, flight: InFlight) {
        let slot = self.next_slot();
        debug_assert!(self.flight[slot].is_none());
        self.flight[slot] = Some(flight);
        self.draft.push(descriptor.0);
    }

    /// Drafts a buffer of our own pool.
    #[inline]
    pub(crate) fn draft_buffer(&mut self, buffer: InFlight, len: usize, more: bool) {
        let like = Descriptor::new(0, 0, len, more);
        self.draft(like.at_line(buffer.line()), buffer);
    }

    /// Drafts what is left behind byte `skip` of a packet that can go. `segments` are ours by those
    /// of its source.
    #[inline]
    pub(crate) fn draft_rest(
        &mut self,
        packet: &PeerPacket<'_>,
        skip: usize,
        segments: &[u8; SEGMENTS_MAX],
        held: Held,
    ) {
        if let [piece] = packet.raw_pieces() {
            let (offset, len) = (piece.offset() + skip, piece.len() - skip);
            let segment = segments[piece.segment()];
            self.draft_foreign(Descriptor::new(segment, offset, len, false), Some(held));
            return;
        }
        let mut rest = packet.rest(skip).peekable();
        while let Some(piece) = rest.next() {
            let ours = piece.in_segment(segments[piece.segment()]);
            if rest.peek().is_some() {
                self.draft_foreign(ours, None);
            } else {
                self.draft_foreign(ours.without_more(), Some(held));
            }
        }
    }

    /// Sends what is drafted.
    #[inline]
    pub(crate) fn publish(&mut self) {
        let count = self.draft.len() as u32;
        let draft = &self.draft;
        self.ring.push_burst(count, |k| draft[k as usize]);
        self.outstanding += count;
        self.draft.clear();
    }

    /// Sends `count` packets of `len` bytes, for which there are credit and buffers. All are filled
    /// before the first descriptor is written, so that a receiver on the heels of the sender does
    /// not pull the line of descriptors away between two packets.
    #[inline]
    pub(crate) fn push_filled(&mut self, count: u32, len: usize, fill: impl FnMut(u32, &mut [u8])) {
        debug_assert!(self.draft.is_empty());
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
        let (flight, foreign) = (&mut self.flight, &mut self.foreign);
        let (mut k, mut twice) = (0, false);
        let mut home = Held::default();
        self.pool.reclaim_burst(|| {
            while k < count {
                let slot = ((first + k) & mask) as usize;
                k += 1;
                match flight[slot].take() {
                    Some(buffer) if !buffer.is_elsewhere() => return Some(buffer),
                    Some(_) => foreign.take_home(slot, &mut home),
                    None => {
                        twice = true;
                        return None;
                    }
                }
            }
            None
        });
        foreign.give_back(home);
        if twice {
            return Err(Error::PeerViolation(
                "a slot returned twice or before it was sent",
            ));
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
        self.foreign.take_all_home();
    }
}
