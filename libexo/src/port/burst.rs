//! The packets of one turn, and those that are taken out of it.
//!
//! A [`RxBurst`] lends packets for as long as the port is not used otherwise. A packet that must
//! live longer is *taken* out of the burst: an [`RxPacket`] holds its slots until it is dropped, in
//! any order.
//!
//! A held packet's slot blocks the sender's ring when its turn comes again. Copy out what you mean
//! to keep for long.

#![forbid(unsafe_code)]

use std::rc::Rc;

use crate::abi::port::Descriptor;
use crate::error::Result;
use crate::shm::{PeerBytes, Piece};

use super::rx::Shared;

/// Pieces that a taken packet keeps without an allocation: a header of one domain and a payload of
/// another.
const PIECES_INLINE: usize = 2;

/// Of a packet as long as this the rest is brought near while the one before it is read: fewer of
/// its lines are under way at once than the caches could have under way.
const LONG_MIN: usize = 512;
/// So many of its lines; the processor sees by itself that more follow.
const LONG_LINES: usize = 32;

/// The packets of one turn, lent until the port is used again.
///
/// A slice of a peer's bytes does not exist, so this does not compile:
///
/// ```compile_fail
/// # fn f(mut burst: libexo::port::RxBurst<'_>) {
/// let packet = burst.next().unwrap();
/// let bytes: &[u8] = packet.bytes(); // PeerBytes, not a slice
/// # }
/// ```
#[derive(Debug)]
pub struct RxBurst<'p> {
    pub(super) shared: &'p Rc<Shared>,
    /// Pieces of the packets that are still to come.
    pub(super) staged: &'p [Piece],
    /// Position of the first of them.
    pub(super) first: u32,
    pub(super) packets: u32,
}

impl<'p> RxBurst<'p> {
    /// What it shares with its port.
    pub(crate) fn shared(&self) -> &'p Rc<Shared> {
        self.shared
    }

    /// Packets that are still to come.
    #[inline]
    pub fn len(&self) -> usize {
        self.packets as usize
    }

    /// Whether none is.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.packets == 0
    }

    /// Takes the next packet out of the burst, to be kept beyond it.
    pub fn take_next(&mut self) -> Option<RxPacket> {
        let (packet, first) = self.next_at()?;
        let PeerPacket { pieces, len, .. } = packet;
        let count = pieces.len() as u32;
        let shared = Rc::clone(self.shared);
        shared.hold(first, count, true);
        let mut inline = [Piece::NONE; PIECES_INLINE];
        let mut many = None;
        match inline.get_mut(..pieces.len()) {
            Some(inline) => inline.copy_from_slice(pieces),
            None => many = Some(pieces.into()),
        }
        Some(RxPacket {
            shared: Some(shared),
            first,
            count,
            len,
            inline,
            many,
        })
    }

    /// The next packet, and the position of its first slot.
    #[inline]
    pub(crate) fn next_at(&mut self) -> Option<(PeerPacket<'p>, u32)> {
        let first = self.first & (self.shared.slots() - 1);
        self.next().map(|packet| (packet, first))
    }
}

impl<'p> Iterator for RxBurst<'p> {
    type Item = PeerPacket<'p>;

    #[inline]
    fn next(&mut self) -> Option<PeerPacket<'p>> {
        let first = *self.staged.first()?;
        let (mut count, mut len) = (1, first.len());
        if first.more() {
            for piece in &self.staged[1..] {
                count += 1;
                len += piece.len();
                if !piece.more() {
                    break;
                }
            }
        }
        let (pieces, rest) = self.staged.split_at(count);
        if let Some(next) = rest.first()
            && next.len() >= LONG_MIN
        {
            self.shared.segments.prefetch(*next, LONG_LINES);
        }
        self.staged = rest;
        self.first += count as u32;
        self.packets -= 1;
        Some(PeerPacket {
            shared: self.shared,
            pieces,
            len,
        })
    }
}

/// A received packet, lent by its burst: one or more pieces of bytes that the peer can still write.
#[derive(Clone, Copy, Debug)]
pub struct PeerPacket<'p> {
    shared: &'p Shared,
    pieces: &'p [Piece],
    len: usize,
}

impl<'p> PeerPacket<'p> {
    /// Bytes in all pieces.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none: never, an empty piece is a violation.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first piece: the whole packet where it has only one.
    #[inline]
    pub fn bytes(&self) -> PeerBytes<'p> {
        self.shared.piece(self.pieces[0])
    }

    /// Its pieces as they were checked.
    #[inline]
    pub(crate) fn raw_pieces(&self) -> &'p [Piece] {
        self.pieces
    }

    /// Its pieces from byte `skip` on, as if each had another behind it.
    #[inline]
    pub(crate) fn rest(&self, skip: usize) -> impl Iterator<Item = Descriptor> + use<'p> {
        let mut skip = skip;
        self.pieces.iter().filter_map(move |piece| {
            let cut = skip.min(piece.len());
            skip -= cut;
            let (offset, len) = (piece.offset() + cut, piece.len() - cut);
            (len > 0).then(|| Descriptor::new(piece.segment() as u8, offset, len, true))
        })
    }

    /// How many pieces.
    #[inline]
    pub fn piece_count(&self) -> usize {
        self.pieces.len()
    }

    /// All pieces in order.
    #[inline]
    pub fn pieces(&self) -> impl Iterator<Item = PeerBytes<'p>> + use<'p> {
        let shared = self.shared;
        self.pieces.iter().map(|piece| shared.piece(*piece))
    }

    /// Copies the whole packet behind `to`; how many bytes.
    pub fn append_to(&self, to: &mut Vec<u8>) -> Result<usize> {
        self.pieces().map(|piece| piece.append_to(to)).sum()
    }

    /// The bytes as a slice, on a port that policy opened as trusted and both sides asked to be;
    /// none elsewhere, or when the packet has several pieces.
    #[inline]
    pub fn as_trusted_slice(&self) -> Option<&'p [u8]> {
        let [piece] = self.pieces else {
            return None;
        };
        let map = self.shared.segments.get(piece.segment())?;
        map.trusted_slice(piece.offset(), piece.len())
    }
}

/// A received packet that was taken out of its burst: holds its slots until it is dropped.
#[derive(Debug)]
pub struct RxPacket {
    /// None when its slots belong to somebody else now.
    shared: Option<Rc<Shared>>,
    first: u32,
    count: u32,
    len: usize,
    inline: [Piece; PIECES_INLINE],
    many: Option<Box<[Piece]>>,
}

impl RxPacket {
    /// A look at it, as in its burst.
    #[inline]
    pub fn view(&self) -> PeerPacket<'_> {
        let pieces = match &self.many {
            Some(many) => many,
            None => &self.inline[..self.count as usize],
        };
        PeerPacket {
            shared: self.shared.as_ref().expect("there until it is dropped"),
            pieces,
            len: self.len,
        }
    }

    /// The port that it came from.
    pub(crate) fn shared(&self) -> Option<&Rc<Shared>> {
        self.shared.as_ref()
    }

    /// Its slots: the first of them, and how many.
    pub(crate) fn slots(&self) -> (u32, u32) {
        (self.first, self.count)
    }

    /// Hands its slots over: whoever has them gives them back.
    pub(crate) fn into_held(mut self) {
        self.shared = None;
    }
}

impl Drop for RxPacket {
    #[inline]
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.give_taken(self.first, self.count);
        }
    }
}
