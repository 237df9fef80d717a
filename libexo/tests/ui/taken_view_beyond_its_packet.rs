//! Dropping a packet that was taken gives its slots back: a look at it ends before.

use libexo::port::RxPacket;

fn look(packet: RxPacket) -> usize {
    let view = packet.view();
    drop(packet);
    view.len()
}

fn main() {}
