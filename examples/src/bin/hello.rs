//! Two domains that need not trust each other: a packet there, an answer back.

use std::thread;
use std::time::Duration;

use exod::{Embedded, config::Config};
use libexo::port::{Port, PortConfig};
use libexo::{Client, Result};

const SOON: Duration = Duration::from_secs(10);

fn main() -> anyhow::Result<()> {
    let exod = Embedded::start(Config::embedded())?;
    let (ours, theirs) = (exod.connect()?, exod.connect()?);
    let peer = thread::spawn(move || answer(Client::over(theirs)?));

    let waiting = Port::create(&Client::over(ours)?, "hello", PortConfig::default())?;
    let mut port = waiting.ready(SOON)?;
    say(&mut port, "Hello, world!")?;
    println!("{}", hear(&mut port)?);
    Ok(peer.join().expect("the peer does not panic")?)
}

fn answer(client: Client) -> Result<()> {
    let mut port = Port::join_when_there(&client, "hello", PortConfig::default(), SOON)?;
    let heard = hear(&mut port)?;
    say(&mut port, &format!("You said {heard:?}."))
}

fn say(port: &mut Port, text: &str) -> Result<()> {
    // Written in place, in memory that only this side can write.
    port.send_with(1, text.len(), |_, packet| {
        packet.copy_from_slice(text.as_bytes())
    })?;
    Ok(())
}

fn hear(port: &mut Port) -> Result<String> {
    loop {
        if let Some(packet) = port.receive_burst(1)?.next() {
            let mut text = Vec::new(); // The peer can still write its bytes: copy, then look.
            packet.append_to(&mut text)?;
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
        port.wait(None)?;
    }
}
