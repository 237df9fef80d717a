//! The receiving half of a port: descriptors in, checked once; packets lent or taken; slots back.
//!
//! Every descriptor is read once from the peer's ring, checked, and kept in private memory. The
//! packets of one turn are lent as a [`RxBurst`]; the next use of the port gives their slots back,
//! as one run.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::abi::port::{CHAIN_MAX, Descriptor};
use crate::error::{Error, Result};
use crate::ring::Consumer;
use crate::shm::{PeerBytes, Piece, Segments, Words};

use super::burst::RxBurst;
use super::returns::Returns;

/// Packets that one burst can bring.
pub const BURST_MAX: usize = 256;

/// Slots that one burst can bring: a full burst of packets of two pieces.
const SLOTS_MAX: usize = 2 * BURST_MAX;

/// What a burst and the packets taken out of it share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) segments: Segments,
    returns: RefCell<Returns<Words>>,
    /// By slot: a packet that was taken holds it.
    held: Box<[Cell<bool>]>,
    held_count: Cell<u32>,
    /// First slot and number of slots of the burst that was lent last. They go back with the next
    /// use of the port, when nobody can look at its packets any more.
    lent: Cell<(u32, u32)>,
    /// The port itself is gone; packets that were taken from it may not be.
    pub(crate) gone: Cell<bool>,
}

impl Shared {
    pub(crate) fn new(slots: usize, returns: Returns<Words>) -> Shared {
        Shared {
            segments: Segments::default(),
            returns: RefCell::new(returns),
            held: vec![Cell::new(false); slots].into_boxed_slice(),
            held_count: Cell::new(0),
            lent: Cell::new((0, 0)),
            gone: Cell::new(false),
        }
    }

    /// Writes all returns, those too that were held back to merge them.
    #[inline]
    pub(crate) fn flush(&self) {
        self.settle();
        self.returns.borrow_mut().flush();
    }

    /// Gives back what the last burst lent and nobody took.
    #[inline]
    fn settle(&self) {
        let (first, count) = self.lent.take();
        if count == 0 {
            return;
        }
        if self.held_count.get() == 0 {
            return self.give(first, count);
        }
        for position in first..first + count {
            if !self.is_held(position) {
                self.give(position, 1);
            }
        }
    }

    /// Packets that were taken are not needed any more. Their burst gives them back where that is
    /// still lent.
    #[inline]
    pub(crate) fn give_taken(&self, first: u32, count: u32) {
        self.hold(first, count, false);
        let (lent, lent_count) = self.lent.get();
        if lent_count == 0 {
            return self.give(first, count);
        }
        for position in first..first + count {
            if position.wrapping_sub(lent) & (self.held.len() as u32 - 1) >= lent_count {
                self.give(position, 1);
            }
        }
    }

    /// Whether no packet that was taken holds a slot.
    pub(crate) fn nothing_is_held(&self) -> bool {
        self.held_count.get() == 0
    }

    /// Slots in the ring, which names them.
    #[inline]
    pub(crate) fn slots(&self) -> u32 {
        self.held.len() as u32
    }

    /// Whether returns were written since this was last asked: then a sleeping peer must hear it.
    #[inline]
    pub(crate) fn take_news(&self) -> bool {
        self.returns.borrow_mut().take_news()
    }

    /// Gives back `count` slots.
    #[inline]
    pub(crate) fn give(&self, first: u32, count: u32) {
        let first = first & (self.held.len() as u32 - 1);
        self.returns.borrow_mut().give(first, count);
    }

    #[inline]
    pub(crate) fn hold(&self, first: u32, count: u32, held: bool) {
        for position in first..first + count {
            self.held[position as usize & (self.held.len() - 1)].set(held);
        }
        let all = self.held_count.get();
        self.held_count
            .set(if held { all + count } else { all - count });
    }

    #[inline]
    fn is_held(&self, position: u32) -> bool {
        self.held_count.get() != 0 && self.held[position as usize & (self.held.len() - 1)].get()
    }

    #[inline]
    pub(super) fn piece(&self, piece: Piece) -> PeerBytes<'_> {
        self.segments
            .bytes(piece)
            .expect("checked when it was received")
    }
}

/// The reading end of the peer's ring.
#[derive(Debug)]
pub(crate) struct Rx {
    ring: Consumer<Words>,
    pub(crate) shared: Rc<Shared>,
    /// The pieces of this turn, as they were checked.
    staged: Box<[Piece; SLOTS_MAX]>,
    /// Where the last packet lay, and how far from the one before: a guess at the next.
    last: Piece,
    step: isize,
    /// Slots of the last turn that brought any.
    last_slots: u32,
    /// Turns without a packet, one after the other.
    empty_turns: u32,
}

/// After a turn of so few slots packets come one by one, each waited for.
const GUESS_MAX: u32 = 2;

/// Turns without a packet, of which one does all that a turn should, such as writing the returns
/// that were held back. Those between look at the ring and the port's status alone, so that a
/// packet is seen at once and a burst's returns cross as one run.
const EMPTY_TURNS: u32 = 32;

/// Bits of an entry that are zero when it is new and a packet of one piece in segment 0.
const NOT_PLAIN: u64 = Descriptor::LAP | Descriptor::MORE | !0 << 48;

/// What there is room for where packets are to go.
#[derive(Clone, Copy)]
pub(crate) struct Room {
    /// Slots.
    pub(crate) slots: u32,
    /// Slots that each packet takes beyond those of its pieces.
    pub(crate) heads: u32,
}

impl Room {
    /// What one burst can bring.
    pub(crate) const ALL: Room = Room {
        slots: SLOTS_MAX as u32,
        heads: 0,
    };
}

/// What a look at the ring found.
pub(crate) enum Staged {
    /// This many slots holding this many packets are ready.
    Ready { slots: u32, packets: u32 },
    /// A descriptor names a segment of the peer's that is not mapped yet.
    UnknownSegment(usize),
}

impl Rx {
    pub(crate) fn new(ring: Consumer<Words>, shared: Rc<Shared>) -> Rx {
        let staged = Box::new([Piece::NONE; SLOTS_MAX]);
        Rx {
            ring,
            shared,
            staged,
            last: Piece::NONE,
            step: 0,
            last_slots: 0,
            empty_turns: 0,
        }
    }

    /// Whether nothing has come since the last turn, which found nothing either: then there is no
    /// more to do than to guess.
    #[inline]
    pub(crate) fn still_nothing(&mut self) -> bool {
        let still = !self.empty_turns.is_multiple_of(EMPTY_TURNS) && self.ring.peek(0).is_none();
        if still {
            self.empty_turns += 1;
            self.guess();
        }
        still
    }

    /// Whether a packet waits. A chain that is not whole yet is none, or its sender could keep us
    /// awake for ever, beyond its own death; one that is too long is news all the same.
    pub(crate) fn has_packets(&self) -> bool {
        let mut pieces = (0..CHAIN_MAX as u32).map(|ahead| self.ring.peek(ahead).map(Descriptor));
        loop {
            match pieces.next() {
                Some(Some(piece)) if piece.more() => {}
                Some(Some(_)) | None => return true,
                Some(None) => return false,
            }
        }
    }

    /// Reads, checks and stages up to `max` whole packets that there is room for.
    #[inline]
    pub(crate) fn stage(&mut self, max: usize, place: Room) -> Result<Staged> {
        self.shared.settle();
        let max = max.min(BURST_MAX) as u32;
        let (segments, staged) = (&self.shared.segments, &mut self.staged);
        // Most packets are one piece in the port's own segment: those at the front go by quickly.
        let (view, most) = (segments.view(0), max.min(place.slots / (1 + place.heads)));
        let plain = self.ring.skim(0, most, |ahead, entry| {
            let piece = view.admit(Descriptor(entry));
            piece.is_some_and(|piece| {
                staged[ahead as usize] = piece;
                entry & NOT_PLAIN == 0
            })
        });
        let (mut slots, mut packets, mut fault) = (plain, plain, None);
        let mut needed = plain * (1 + place.heads);
        // Never more than the ring has: a writer that goes on writing while we read would lap us.
        let room = if plain == max {
            plain
        } else {
            SLOTS_MAX as u32
        };
        self.ring.scan(plain, room, |ahead, entry| {
            let descriptor = Descriptor(entry);
            let Some(piece) = segments.admit(descriptor) else {
                fault = Some(descriptor);
                return false;
            };
            staged[ahead as usize] = piece;
            if piece.more() {
                return ahead + 1 - slots < CHAIN_MAX as u32 || {
                    fault = Some(descriptor);
                    false
                };
            }
            // More pieces than a chain may have are not sent on, and so take no room.
            let cost = (ahead + 1 - slots + place.heads).min(CHAIN_MAX as u32);
            let fits = needed + cost <= place.slots;
            if fits {
                slots = ahead + 1;
                packets += 1;
                needed += cost;
            }
            fits && packets < max
        });
        if let Some(descriptor) = fault {
            return self.refuse(descriptor);
        }
        self.empty_turns = if slots == 0 {
            self.empty_turns.wrapping_add(1)
        } else {
            0
        };
        if slots == 0 {
            self.guess();
        } else {
            self.remember(slots)?;
        }
        Ok(Staged::Ready { slots, packets })
    }

    #[cold]
    fn refuse(&self, descriptor: Descriptor) -> Result<Staged> {
        let segment = descriptor.segment();
        if descriptor.well_formed() && self.shared.segments.get(segment).is_none() {
            return Ok(Staged::UnknownSegment(segment));
        }
        Err(Error::PeerViolation(
            if self.shared.segments.admit(descriptor).is_some() {
                "a chain that is too long"
            } else {
                "a descriptor outside its segment"
            },
        ))
    }

    /// Keeps what the next [`Rx::guess`] needs; refuses slots that are still held.
    #[inline]
    fn remember(&mut self, slots: u32) -> Result<()> {
        let newest = self.staged[slots as usize - 1];
        let before = match slots {
            1 => self.last,
            _ => self.staged[slots as usize - 2],
        };
        self.step = newest.offset() as isize - before.offset() as isize;
        self.last = newest;
        self.last_slots = slots;
        let first = self.ring.slot(0) as u32;
        if self.shared.held_count.get() != 0
            && (first..first + slots).any(|s| self.shared.is_held(s))
        {
            return Err(Error::PeerViolation(
                "a slot sent again before it was returned",
            ));
        }
        Ok(())
    }

    /// Nothing there: brings the line near where the next packet probably will be, so that it
    /// arrives in the same turn as its descriptor. Not after a burst: its sender writes the next
    /// one now, and would have to fetch the line back.
    #[inline]
    fn guess(&self) {
        if self.last_slots > GUESS_MAX {
            return;
        }
        let at = self.last.offset().wrapping_add_signed(self.step);
        if let Some(map) = self.shared.segments.get(self.last.segment())
            && let Some(bytes) = map.peer_bytes(at, 1)
        {
            bytes.prefetch();
        }
    }

    /// Lends the packets that were staged.
    #[inline]
    pub(crate) fn lend(&mut self, slots: u32, packets: u32) -> RxBurst<'_> {
        self.shared.lent.set((self.ring.slot(0) as u32, slots));
        self.hand_over(slots, packets)
    }

    /// The packets that were staged, for a caller that holds or gives back each of them by itself.
    #[inline]
    pub(crate) fn hand_over(&mut self, slots: u32, packets: u32) -> RxBurst<'_> {
        let first = self.ring.slot(0) as u32;
        self.ring.advance(slots);
        RxBurst {
            shared: &self.shared,
            staged: &self.staged[..slots as usize],
            first,
            packets,
        }
    }
}
