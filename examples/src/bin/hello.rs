//! Two sessions of an exod in this process, one port between them, one packet.

use std::time::Duration;

use exod::{Embedded, config::Config};
use libexo::Client;
use libexo::port::{Port, PortConfig};

fn main() -> anyhow::Result<()> {
    // A peer may go away with its memory while we read it: that is an error then, and no SIGBUS.
    libexo::guard::install()?;
    let exod = Embedded::start(Config::embedded())?;
    let alice = Client::over(exod.connect()?)?;
    let bob = Client::over(exod.connect()?)?;

    let waiting = Port::create(&alice, "hello", PortConfig::default())?;
    let mut inbox = Port::join(&bob, "hello", PortConfig::default())?;
    let mut outbox = waiting.ready(Duration::from_secs(1))?;

    outbox.send_with(1, 5, |_, bytes| bytes.copy_from_slice(b"hello"))?;
    for packet in inbox.receive_burst(32)? {
        // Alice could still write these bytes: each is read once, into an array of our own.
        let bytes: [u8; 5] = packet.bytes().head()?;
        println!("{}", String::from_utf8_lossy(&bytes));
    }
    Ok(())
}
