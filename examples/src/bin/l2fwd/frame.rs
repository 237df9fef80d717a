//! The frames that pass: an Ethernet header, a number, and bytes that follow from nothing but their
//! place, so that whoever checks them needs no copy of what was sent.

use libos::net::ethernet::{EthernetAddress, EthernetProtocol, HEADER_LEN, Header, local};

/// The forwarder, as the sink sees it.
pub const FORWARDER: EthernetAddress = local(1);

/// The sink.
pub const SINK: EthernetAddress = local(2);

/// Stations that the source speaks for.
pub const STATIONS: u64 = 64;

/// An experimental protocol's number (IEEE 802: local experiments).
pub const PROTOCOL: EthernetProtocol = EthernetProtocol::Unknown(0x88b5);

/// Set in the number of the last frame.
pub const LAST: u64 = 1 << 63;

/// Where the pattern begins.
pub const PATTERN_AT: usize = HEADER_LEN + size_of::<u64>();

/// The bytes from [`PATTERN_AT`] on.
pub fn pattern(size: usize) -> Vec<u8> {
    (PATTERN_AT..size).map(|at| (at * 7) as u8).collect()
}

/// Writes frame `number`, all of it.
pub fn write(frame: &mut [u8], number: u64, pattern: &[u8]) {
    let header = Header {
        source: local(0x100 + (number % STATIONS) as u16),
        destination: SINK,
        protocol: PROTOCOL,
    };
    header.emit(frame);
    frame[HEADER_LEN..PATTERN_AT].copy_from_slice(&number.to_le_bytes());
    frame[PATTERN_AT..].copy_from_slice(pattern);
}

/// The number of a frame that left the forwarder; none when anything in it is not as it must be.
pub fn check(frame: &[u8], pattern: &[u8]) -> Option<u64> {
    let (header, rest) = frame.split_first_chunk::<HEADER_LEN>()?;
    let (number, body) = rest.split_first_chunk()?;
    let expected = Header {
        source: FORWARDER,
        destination: SINK,
        protocol: PROTOCOL,
    };
    let good = Header::parse(header) == expected && body == pattern;
    good.then_some(u64::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_anywhere_shows() {
        let pattern = pattern(64);
        let mut frame = [0; 64];
        write(&mut frame, 5 | LAST, &pattern);
        assert_eq!(check(&frame, &pattern), None, "not from the forwarder");
        let head = frame.first_chunk().expect("a header");
        Header::parse(head)
            .passed_on(FORWARDER, SINK)
            .emit(&mut frame);
        assert_eq!(check(&frame, &pattern), Some(5 | LAST));
        for at in (0..HEADER_LEN).chain(PATTERN_AT..frame.len()) {
            frame[at] ^= 1;
            assert_eq!(check(&frame, &pattern), None, "byte {at}");
            frame[at] ^= 1;
        }
        assert_eq!(check(&frame[..63], &pattern), None);
        assert_eq!(check(&frame[..10], &pattern), None);
    }
}
