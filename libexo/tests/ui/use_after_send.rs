//! A packet that was sent is the peer's to read: it can't be touched any more.

use libexo::packet::Packet;
use libexo::port::Port;

fn send(port: &mut Port, mut packet: Packet) -> libexo::Result<()> {
    let mut burst = vec![packet];
    port.send_burst(&mut burst)?;
    packet[0] = 1;
    Ok(())
}

fn main() {}
