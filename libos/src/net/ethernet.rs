//! Ethernet headers of packets that are passed on: read once, rewritten in front of a payload that
//! stays where it is.
//!
//! Addresses and the header's layout are smoltcp's; a header that was received is copied out of the
//! peer's memory first ([`libexo::shm::PeerBytes::head`]), and only the copy is looked at.

#![forbid(unsafe_code)]

use smoltcp::wire::EthernetRepr;
pub use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol};

/// Bytes of an Ethernet header without tags.
pub const HEADER_LEN: usize = EthernetFrame::<&[u8]>::header_len();

/// Shortest and longest frame that an Ethernet carries, without its checksum.
pub const FRAME_LEN: std::ops::RangeInclusive<usize> = 60..=1514;

/// Who sends a frame to whom, and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where it comes from.
    pub source: EthernetAddress,
    /// Where it goes.
    pub destination: EthernetAddress,
    /// What the payload is.
    pub protocol: EthernetProtocol,
}

impl Header {
    /// Reads a header out of our own copy of it.
    #[inline]
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Header {
        let frame = EthernetFrame::new_unchecked(bytes);
        Header {
            source: frame.src_addr(),
            destination: frame.dst_addr(),
            protocol: frame.ethertype(),
        }
    }

    /// The same frame, sent on by `via` to `to`.
    #[inline]
    pub fn passed_on(&self, via: EthernetAddress, to: EthernetAddress) -> Header {
        Header {
            source: via,
            destination: to,
            protocol: self.protocol,
        }
    }

    /// Writes the header to the front of a packet.
    ///
    /// # Panics
    /// When `packet` is shorter than [`HEADER_LEN`].
    #[inline]
    pub fn emit(&self, packet: &mut [u8]) {
        let repr = EthernetRepr {
            src_addr: self.source,
            dst_addr: self.destination,
            ethertype: self.protocol,
        };
        repr.emit(&mut EthernetFrame::new_unchecked(packet));
    }
}

/// A locally administered unicast address that ends in `number`: for hosts that have none of their
/// own.
pub const fn local(number: u16) -> EthernetAddress {
    let [high, low] = number.to_be_bytes();
    EthernetAddress([0x02, 0, 0, 0, high, low])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_are_what_was_emitted(bytes: [u8; HEADER_LEN]) {
            let header = Header::parse(&bytes);
            let mut out = [0; HEADER_LEN];
            header.emit(&mut out);
            prop_assert_eq!(out, bytes);
        }
    }

    #[test]
    fn passing_on_keeps_the_protocol() {
        let mut bytes = [0; HEADER_LEN];
        let first = Header {
            source: local(1),
            destination: local(2),
            protocol: EthernetProtocol::Ipv4,
        };
        first.passed_on(local(2), local(3)).emit(&mut bytes);
        assert_eq!(bytes, *b"\x02\0\0\0\0\x03\x02\0\0\0\0\x02\x08\0");
        assert!(local(0xffff).is_unicast());
    }
}
