//! The forwarder: reads a header, writes another one, and sends it on before a payload that it
//! never touches.

use anyhow::{Context, Result};
use libexo::port::{Port, PortConfig};
use libexo::{Client, Error};
use libos::idle::{Idle, Policy};
use libos::net::ethernet::{HEADER_LEN, Header};
use libos::net::fdb::Fdb;

use crate::frame::{FORWARDER, SINK};
use crate::{BURST, CONFIG, IN, OUT, PATIENCE};

/// Where the database says that a station is.
const PORT_IN: u16 = 0;
const PORT_OUT: u16 = 1;

/// Stations that the database has room for: 64 KiB of it.
const STATIONS_MAX: usize = 4096;

/// Turns after which a station that was not heard is forgotten.
const AGE_MAX_TURNS: u64 = 1 << 40;

/// What the forwarder knows and has counted.
struct Forwarder {
    stations: Fdb,
    turn: u64,
    forwarded: u64,
    dropped: u64,
    learned: u64,
}

pub fn run() -> Result<()> {
    let exod = Client::connect_default()?;
    let heads = PortConfig {
        // Headers only.
        buffer_len: 64,
        ..CONFIG
    };
    let inside = Port::create(&exod, IN, heads)?;
    let outside = Port::create(&exod, OUT, heads)?;
    let mut inside = inside.ready(PATIENCE).context("no source came")?;
    let mut outside = outside.ready(PATIENCE).context("no sink came")?;
    let mut forwarder = Forwarder {
        stations: Fdb::new(STATIONS_MAX, AGE_MAX_TURNS),
        turn: 0,
        forwarded: 0,
        dropped: 0,
        learned: 0,
    };
    let mut idle = Idle::new(Policy::Adaptive);
    loop {
        let worked = match forwarder.turn(&mut inside, &mut outside) {
            Ok(worked) => worked,
            Err(Error::PeerGone) => break,
            Err(error) => return Err(error.into()),
        };
        match idle.turn(worked, &mut [&mut inside, &mut outside]) {
            Ok(()) | Err(Error::PeerGone) => {}
            Err(error) => return Err(error.into()),
        }
    }
    println!(
        "forwarder: {} frames of {} stations forwarded, {} dropped",
        forwarder.forwarded, forwarder.learned, forwarder.dropped
    );
    Ok(())
}

impl Forwarder {
    /// Sends on what there is credit for. Whether anything came.
    fn turn(&mut self, inside: &mut Port, outside: &mut Port) -> libexo::Result<bool> {
        self.turn += 1;
        let done =
            outside.forward_burst(inside, BURST, HEADER_LEN, HEADER_LEN, |frame, head| {
                // A header must lie in one piece.
                let Ok(bytes) = frame.bytes().head::<HEADER_LEN>() else {
                    return Ok(false);
                };
                Ok(self.pass_on(Header::parse(&bytes), head))
            })?;
        self.forwarded += done.sent as u64;
        self.dropped += (done.received - done.sent) as u64;
        Ok(done.received > 0)
    }

    /// Writes the header that a frame is sent on with; false where it should not be.
    fn pass_on(&mut self, header: Header, head: &mut [u8]) -> bool {
        if self.stations.find(header.destination, self.turn) == Some(PORT_IN) {
            return false;
        }
        header.passed_on(FORWARDER, SINK).emit(head);
        self.learned += u64::from(self.stations.learn(header.source, PORT_IN, self.turn));
        self.stations.learn(header.destination, PORT_OUT, self.turn);
        true
    }
}
