//! What `producer` and `consumer` must agree on: the port's name, and what a packet carries.

#![forbid(unsafe_code)]

use std::fmt;

/// The port's name where nothing else is said.
pub const PORT: &str = "example-numbers";

/// Bytes of a packet: its number, and the number's complement, so that a damaged one shows.
pub const LEN: usize = 16;

/// Fills a packet.
pub fn write(bytes: &mut [u8], number: u64) {
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes[8..].copy_from_slice(&(!number).to_le_bytes());
}

fn read(bytes: &[u8; LEN]) -> Option<u64> {
    let word = |at: usize| {
        let bytes = bytes[at..at + 8].try_into();
        bytes.map(u64::from_le_bytes).ok()
    };
    let (number, complement) = (word(0)?, word(8)?);
    (complement == !number).then_some(number)
}

/// What a consumer saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets taken, the damaged among them.
    pub packets: u64,
    /// Numbers that were left out.
    pub missing: u64,
    /// Packets whose bytes are not what a producer writes.
    pub damaged: u64,
    next: Option<u64>,
}

impl Tally {
    /// Counts one packet. A number below the last is a producer that started anew.
    pub fn take(&mut self, bytes: &[u8; LEN]) {
        self.packets += 1;
        let Some(number) = read(bytes) else {
            self.damaged += 1;
            return;
        };
        if let Some(next) = self.next {
            self.missing += number.saturating_sub(next);
        }
        self.next = Some(number.wrapping_add(1));
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} packets, {} missing, {} damaged",
            self.packets, self.missing, self.damaged
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_and_damage_are_counted() {
        let packet = |number| {
            let mut bytes = [0; LEN];
            write(&mut bytes, number);
            bytes
        };
        let mut seen = Tally::default();
        for number in [5, 6, 9, 10] {
            seen.take(&packet(number));
        }
        assert_eq!(seen.to_string(), "4 packets, 2 missing, 0 damaged");
        seen.take(&[0; LEN]);
        // A new producer begins at zero.
        seen.take(&packet(0));
        assert_eq!(seen.to_string(), "6 packets, 2 missing, 1 damaged");
    }
}
