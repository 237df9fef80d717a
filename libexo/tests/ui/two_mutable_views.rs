//! A packet of our own is one buffer with one writer.

use libexo::packet::Packet;

fn twice(mut packet: Packet) {
    let one: &mut [u8] = &mut packet;
    let two: &mut [u8] = &mut packet;
    one[0] = two[0];
}

fn main() {}
