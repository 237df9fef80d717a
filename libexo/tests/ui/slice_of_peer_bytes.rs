//! What a peer can write at any moment is never a slice.

use libexo::port::PeerPacket;

fn slice<'a>(packet: &PeerPacket<'a>) -> &'a [u8] {
    packet.bytes()
}

fn main() {}
