//! Putting mirrored packets together. The parts are a tapped side's bytes, so they may say
//! anything: what does not fit is dropped, and no length is believed before its bytes are there.

#![forbid(unsafe_code)]

use std::time::SystemTime;

use anyhow::bail;
use libexo::abi::port::{CHAIN_MAX, PIECE_LEN_MAX};
use libexo::abi::tap::Part;
use zerocopy::FromBytes;

/// Longest packet that a port carries.
const PACKET_MAX: u32 = (CHAIN_MAX * PIECE_LEN_MAX) as u32;

/// One packet of the tapped port.
pub struct Captured {
    /// When its last part arrived here.
    pub at: SystemTime,
    /// Bytes that it had.
    pub len: u32,
    /// Those of them that are kept.
    pub bytes: Vec<u8>,
    /// Packets of the same side that were dropped before it.
    pub dropped: u64,
}

/// Parts of one side.
pub struct Assembler {
    snap: usize,
    /// The number after the last whole packet's.
    next: u64,
    /// The packet at hand: what its first part said, how much of it came, and what is kept.
    at_hand: Option<(Part, u32, Vec<u8>)>,
    /// Packets dropped after the last whole one, known when the side said how many there were.
    dropped_after: u64,
    ended: bool,
}

impl Assembler {
    pub fn new(snap: u32) -> Assembler {
        Assembler {
            snap: snap as usize,
            next: 0,
            at_hand: None,
            dropped_after: 0,
            ended: false,
        }
    }

    /// Whether the side said that it mirrors no more.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Packets dropped at the end; asked once.
    pub fn take_dropped_after(&mut self) -> u64 {
        std::mem::take(&mut self.dropped_after)
    }

    /// Takes in one part; the packet that it completes.
    pub fn add(&mut self, bytes: &[u8], at: SystemTime) -> anyhow::Result<Option<Captured>> {
        let Ok((part, bytes)) = Part::read_from_prefix(bytes) else {
            bail!(
                "the tapped side sent {} bytes that are no part of a packet",
                bytes.len()
            );
        };
        if part.len == 0 {
            self.ended = true;
            self.dropped_after += part.number.saturating_sub(self.next);
            return Ok(None);
        }
        if part.len > PACKET_MAX {
            bail!(
                "the tapped side sent a packet of {} bytes; no port carries that",
                part.len
            );
        }
        if part.offset == 0 {
            let room = self.snap.min(part.len as usize);
            self.at_hand = Some((part, 0, Vec::with_capacity(room)));
        }
        let Some((first, got, kept)) = &mut self.at_hand else {
            return Ok(None);
        };
        let follows = (part.number, part.len, part.offset) == (first.number, first.len, *got);
        if !follows || bytes.len() > (part.len - *got) as usize {
            self.at_hand = None;
            return Ok(None);
        }
        *got += bytes.len() as u32;
        let room = self.snap.saturating_sub(kept.len()).min(bytes.len());
        kept.extend_from_slice(&bytes[..room]);
        if *got < first.len {
            return Ok(None);
        }
        let bytes = std::mem::take(kept);
        self.at_hand = None;
        // A number that went back is a side that began anew.
        let dropped = part.number.saturating_sub(self.next);
        self.next = part.number.wrapping_add(1);
        Ok(Some(Captured {
            at,
            len: part.len,
            bytes,
            dropped,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    fn part(number: u64, len: u32, offset: u32, bytes: &[u8]) -> Vec<u8> {
        let part = Part {
            number,
            len,
            offset,
        };
        [part.as_bytes(), bytes].concat()
    }

    fn all(snap: u32, parts: &[Vec<u8>]) -> (Vec<(Vec<u8>, u32, u64)>, u64) {
        let mut assembler = Assembler::new(snap);
        let mut packets = Vec::new();
        for part in parts {
            let whole = assembler.add(part, SystemTime::UNIX_EPOCH).expect("sane");
            packets.extend(whole.map(|p| (p.bytes, p.len, p.dropped)));
        }
        (packets, assembler.take_dropped_after())
    }

    #[test]
    fn parts_become_packets_and_gaps_become_drops() {
        let parts = [
            part(0, 3, 0, b"abc"),
            part(2, 4, 0, b"de"),
            part(2, 4, 2, b"fg"),
            // Begun, but its rest never came.
            part(3, 4, 0, b"hi"),
            part(5, 1, 0, b"j"),
            part(9, 0, 0, b""),
        ];
        let expected = vec![
            (b"abc".to_vec(), 3, 0),
            (b"defg".to_vec(), 4, 1),
            (b"j".to_vec(), 1, 2),
        ];
        assert_eq!(all(u32::MAX, &parts), (expected, 3));
    }

    #[test]
    fn long_packets_are_cut() {
        let parts = [part(0, 4, 0, b"ab"), part(0, 4, 2, b"cd")];
        assert_eq!(all(3, &parts).0, [(b"abc".to_vec(), 4, 0)]);
        assert_eq!(all(1, &parts).0, [(b"a".to_vec(), 4, 0)]);
    }

    #[test]
    fn nonsense_is_refused_or_dropped() {
        let mut assembler = Assembler::new(u32::MAX);
        let now = SystemTime::UNIX_EPOCH;
        for refused in [b"short".to_vec(), part(0, u32::MAX, 0, b"x")] {
            assert!(assembler.add(&refused, now).is_err());
        }
        let dropped = [
            part(0, 4, 2, b"no beginning"),
            part(0, 2, 0, b"too long"),
            part(1, 8, 0, b"ab"),
            part(1, 9, 2, b"another length"),
            part(2, 4, 0, b"a"),
            part(2, 4, 3, b"a hole"),
        ];
        for part in &dropped {
            assert!(assembler.add(part, now).expect("no error").is_none());
        }
        let next = assembler.add(&part(3, 1, 0, b"x"), now).expect("sane");
        assert_eq!(next.expect("whole").dropped, 3);
    }
}
