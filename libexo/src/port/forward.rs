//! Forwarding: packets of one port sent on by another, their payload where it lies.
//!
//! What is sent is a header of this side's own and then the packet's pieces, or what is left of
//! them behind the header that they came with, in their sender's memory. The peer reads that memory
//! too, as a segment of this port: its sender must have opened its port with `share`. When the peer
//! has returned a packet, its sender gets it back.

#![forbid(unsafe_code)]

use std::rc::Rc;

use crate::abi::port::{CHAIN_MAX, SEGMENTS_MAX};
use crate::error::{Error, Result};
use crate::packet::Packet;
use crate::shm::Words;

use super::burst::{PeerPacket, RxBurst, RxPacket};
use super::foreign::Held;
use super::rx::{Room, Shared};
use super::tx::{self, Tx};
use super::{BURST_MAX, Port};

/// How many headers ahead the memory for the next one is brought near: the peer read it last, so it
/// must be taken away from there before it is written.
const AHEAD: u32 = 8;

/// What became of a burst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// Packets that were received.
    pub received: usize,
    /// Those of them that were sent on. The others went back to their sender.
    pub sent: usize,
}

impl Port {
    /// Receives up to `max` packets of `from` (at most [`BURST_MAX`]) and sends them on, each under
    /// a new header: `rewrite` sees the packet and writes all `head_len` bytes that take the place
    /// of its first `skip`. Where it says false, the packet is dropped; so is one that has nothing
    /// behind `skip`, that would become too long a chain, or that its sender does not share.
    ///
    /// Never receives more than can be sent at once, so nothing waits here; what the peer returned
    /// goes home to `from`'s peer in the same turn. An error of `rewrite` ends the turn: packets
    /// before the one that it was about are sent, it and those after it dropped.
    ///
    /// ```no_run
    /// # use libexo::port::Port;
    /// # fn turn(inside: &mut Port, outside: &mut Port) -> libexo::Result<()> {
    /// const MINE: [u8; 6] = [2, 0, 0, 0, 0, 1];
    /// const NEXT: [u8; 6] = [2, 0, 0, 0, 0, 2];
    /// let done = outside.forward_burst(inside, 64, 14, 14, |frame, head| {
    ///     let old: [u8; 14] = frame.bytes().head()?;
    ///     head[..6].copy_from_slice(&NEXT);
    ///     head[6..12].copy_from_slice(&MINE);
    ///     head[12..].copy_from_slice(&old[12..]);
    ///     Ok(true)
    /// })?;
    /// # let _ = done; Ok(()) }
    /// ```
    pub fn forward_burst(
        &mut self,
        from: &mut Port,
        max: usize,
        head_len: usize,
        skip: usize,
        mut rewrite: impl FnMut(&PeerPacket<'_>, &mut [u8]) -> Result<bool>,
    ) -> Result<Forwarded> {
        self.open()?;
        from.open()?;
        let longest = self.tx.pool().buffer_len();
        if !tx::fits(head_len) || head_len > longest {
            return Err(tx::wrong_len(head_len, longest));
        }
        let (max, slots) = self.room(max.min(BURST_MAX))?;
        if max == 0 {
            self.starved()?;
            from.starved()?;
            return Ok(Forwarded::default());
        }
        let (slots, packets) = from.stage(max, Room { slots, heads: 1 })?;
        if packets == 0 {
            self.rest_turn(from)?;
            return Ok(Forwarded::default());
        }
        // Now, since staging may have met a segment for the first time.
        let source = self.source(from)?;
        let tapped = self.tapped();
        let Port {
            tx, tap, client, ..
        } = self;
        let segments = tx.foreign().segments(source);
        let (pool, burst) = (Rc::clone(tx.pool()), from.rx.hand_over(slots, packets));
        let mut turn = Turn {
            tx,
            shared: burst.shared(),
            burst,
            current: None,
        };
        let (mut sent, mut outcome) = (0, Ok(()));
        while let Some((packet, first)) = turn.burst.next_at() {
            let count = packet.piece_count() as u32;
            turn.current = Some((first, count));
            pool.prefetch_next(AHEAD);
            let head = pool.fill_next(head_len, |head| {
                let go = can_go(&packet, skip, &segments) && rewrite(&packet, head)?;
                if tapped && go {
                    tap.forwarded(client, head, &packet, skip);
                }
                Ok(go)
            });
            match head {
                Ok(Some(head)) => {
                    let held = Held {
                        source,
                        first,
                        count,
                    };
                    turn.current = None;
                    turn.shared.hold(first, count, true);
                    turn.tx.draft_buffer(head, head_len, true);
                    turn.tx.draft_rest(&packet, skip, &segments, held);
                    sent += 1;
                }
                Ok(None) => turn.give_back(),
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        drop(turn);
        self.bells.ring_if_asleep();
        from.tell_returns();
        let received = packets as usize;
        outcome.map(|()| Forwarded { received, sent })
    }

    /// How many packets can be sent under a header of our own, and in how many slots.
    #[inline]
    fn room(&mut self, max: usize) -> Result<(usize, u32)> {
        // At least for the longest chain, or one would wait for ever behind short turns.
        let want = (2 * max).max(CHAIN_MAX) as u32;
        let want = want.min(self.ring_slots());
        let credit = self.tx.credit(want);
        let credit = self.check(credit)?;
        if self.tx.pool().available() < max {
            let home = self.tx.reap();
            self.check(home)?;
        }
        let most = max.min(self.tx.pool().available());
        // A packet of one piece is the least that there must be room for.
        Ok(if credit < 2 { (0, 0) } else { (most, credit) })
    }

    /// Nothing came: what the peer returned goes home, since nobody else asks for it as long as
    /// there is nothing to send.
    fn rest_turn(&mut self, from: &mut Port) -> Result<()> {
        self.flush()?;
        // Or a peer that is gone would never be heard of while what waits finds no room.
        self.nothing()?;
        from.starved()
    }

    /// The number of `from` among our sources, with all of its segments that it may have.
    #[inline]
    fn source(&mut self, from: &mut Port) -> Result<u16> {
        let found = self.tx.foreign().find(&from.rx.shared);
        match found {
            Some(index)
                if self.tx.foreign().source(index).known == from.rx.shared.segments.count() =>
            {
                Ok(index)
            }
            _ => self.share_what_may(from),
        }
    }

    /// What can't be shared is dropped packet by packet; a source of which nothing can be is an
    /// error.
    #[cold]
    fn share_what_may(&mut self, from: &mut Port) -> Result<u16> {
        let (index, outcome) = self.share(from);
        if self.tx.foreign().segments(index)[0] == 0 {
            outcome?;
        }
        Ok(index)
    }

    /// Forwards one packet that was taken from another port (or this one): as
    /// [`Port::forward_burst`], for those who choose between ports. Both come back where there is
    /// no credit yet. Its sender's port must have been [shared from](Port::share_from);
    /// [announce](Port::announce) what was forwarded so.
    pub fn forward(
        &mut self,
        head: Packet,
        body: RxPacket,
        skip: usize,
    ) -> Result<Option<(Packet, RxPacket)>> {
        self.open()?;
        if !self.tx.accepts(&head) {
            return Err(Tx::<Words>::refusal(&head));
        }
        let Some(source) = body.shared().and_then(|s| self.tx.foreign().find(s)) else {
            return Err(Error::WrongSize {
                what: "the port of a packet that this port may not forward from (share_from it \
                       first); segments shared",
                got: 1,
                limit: 0,
            });
        };
        let segments = self.tx.foreign().segments(source);
        let (view, count) = (body.view(), rest_count(&body.view(), skip));
        refuse_reason(&view, skip, &segments)?;
        let credit = self.tx.credit(count + 1);
        if self.check(credit)? <= count {
            self.starved()?;
            return Ok(Some((head, body)));
        }
        if self.tapped() {
            self.tap.forwarded(&self.client, &head, &view, skip);
        }
        let (first, count) = body.slots();
        let held = Held {
            source,
            first,
            count,
        };
        self.tx.draft_own(head, true)?;
        self.tx.draft_rest(&view, skip, &segments, held);
        self.tx.publish();
        body.into_held();
        Ok(None)
    }

    /// Lets the peer read the packets that `from` receives, so that they can be sent on. The peer
    /// of `from` must have opened it with `share`. Forwarding a burst does this by itself.
    ///
    /// Each unit that a port sends from takes one of its 32 segments for the port's life, also when
    /// the source that it belonged to has gone.
    pub fn share_from(&mut self, from: &mut Port) -> Result<()> {
        self.share(from).1
    }

    /// Shares what may be, and says why the first was refused that may not.
    fn share(&mut self, from: &mut Port) -> (u16, Result<()>) {
        let slots = self.ring_slots();
        let known = from.rx.shared.segments.count();
        let foreign = self.tx.foreign();
        let index = match foreign.find(&from.rx.shared) {
            Some(index) => index,
            None => foreign.add_source(&from.rx.shared, slots),
        };
        let mut outcome = Ok(());
        for segment in 0..SEGMENTS_MAX {
            let there = from.rx.shared.segments.get(segment).is_some();
            if !there || self.tx.foreign().source(index).segments[segment] != 0 {
                continue;
            }
            // One that its owner took away says nothing about the others.
            match self
                .client
                .port_attach(self.handle, from.peer_units[segment])
            {
                Ok(ours) => self.tx.foreign().source(index).segments[segment] = ours as u8,
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        if self.tx.foreign().segments(index)[0] != 0 {
            self.tx.foreign().source(index).known = known;
        }
        (index, outcome)
    }
}

/// A turn of forwarding. However it ends, also by a panic of the rewriter, what was drafted is sent
/// and what was received and not sent goes back.
struct Turn<'t> {
    tx: &'t mut Tx<Words>,
    shared: &'t Rc<Shared>,
    burst: RxBurst<'t>,
    /// Slots of the packet at hand, while they are neither held nor given back.
    current: Option<(u32, u32)>,
}

impl Turn<'_> {
    #[inline]
    fn give_back(&mut self) {
        if let Some((first, count)) = self.current.take() {
            self.shared.give(first, count);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.give_back();
        while let Some((packet, first)) = self.burst.next_at() {
            self.shared.give(first, packet.piece_count() as u32);
        }
        self.tx.publish();
    }
}

/// Pieces of a packet that have something behind byte `skip`.
fn rest_count(packet: &PeerPacket<'_>, skip: usize) -> u32 {
    packet.rest(skip).count() as u32
}

/// Whether a packet can be sent on without its first `skip` bytes.
#[inline]
fn can_go(packet: &PeerPacket<'_>, skip: usize, segments: &[u8; SEGMENTS_MAX]) -> bool {
    match packet.raw_pieces() {
        [piece] => packet.len() > skip && segments[piece.segment()] != 0,
        _ => refuse_reason(packet, skip, segments).is_ok(),
    }
}

/// Why not.
#[cold]
fn refuse_reason(
    packet: &PeerPacket<'_>,
    skip: usize,
    segments: &[u8; SEGMENTS_MAX],
) -> Result<()> {
    if packet.len() <= skip {
        return Err(Error::WrongSize {
            what: "the skipped part of a forwarded packet",
            got: skip as u64,
            limit: packet.len() as u64 - 1,
        });
    }
    let pieces = rest_count(packet, skip) as usize + 1;
    if pieces > CHAIN_MAX {
        return Err(Error::WrongSize {
            what: "the pieces of a forwarded packet",
            got: pieces as u64,
            limit: CHAIN_MAX as u64,
        });
    }
    let mut rest = packet.rest(skip);
    match rest.find(|piece| segments[piece.segment()] == 0) {
        None => Ok(()),
        Some(piece) => Err(Error::WrongSize {
            what: "a segment that this port may not forward from (share_from it first); its number",
            got: piece.segment() as u64,
            limit: 0,
        }),
    }
}
