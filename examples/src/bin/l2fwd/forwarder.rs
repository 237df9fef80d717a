//! The forwarder: reads a header, writes another one, and sends it on before a payload that it
//! never touches.

use std::collections::VecDeque;

use anyhow::{Context, Result};
use libexo::port::{Port, PortConfig, RxPacket};
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

struct Forwarder {
    inside: Port,
    outside: Port,
    stations: Fdb,
    /// Frames that were received and not sent yet.
    line: VecDeque<RxPacket>,
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
    outside.share_from(&mut inside)?;
    let mut forwarder = Forwarder {
        inside,
        outside,
        stations: Fdb::new(STATIONS_MAX, AGE_MAX_TURNS),
        line: VecDeque::with_capacity(BURST),
        turn: 0,
        forwarded: 0,
        dropped: 0,
        learned: 0,
    };
    let mut idle = Idle::new(Policy::Adaptive);
    loop {
        let worked = match forwarder.turn() {
            Ok(worked) => worked,
            Err(Error::PeerGone) if forwarder.line.is_empty() => break,
            Err(error) => return Err(error.into()),
        };
        let ports = &mut [&mut forwarder.inside, &mut forwarder.outside];
        match idle.turn(worked, ports) {
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
    /// Receives when the line is empty, then sends what there is credit for. Whether anything moved.
    fn turn(&mut self) -> libexo::Result<bool> {
        self.turn += 1;
        // What came home outside goes home inside.
        self.outside.flush()?;
        if self.line.is_empty() {
            let mut burst = self.inside.receive_burst(BURST)?;
            self.line.extend(std::iter::from_fn(|| burst.take_next()));
        }
        let before = self.line.len();
        while let Some(frame) = self.line.pop_front() {
            if let Some(back) = self.pass_on(frame)? {
                self.line.push_front(back);
                break;
            }
        }
        self.outside.announce();
        Ok(self.line.len() < before)
    }

    /// Sends one frame on; gives it back when there is no room yet.
    fn pass_on(&mut self, frame: RxPacket) -> libexo::Result<Option<RxPacket>> {
        let view = frame.view();
        // A header must lie in one piece, and something must follow it.
        let Ok(bytes) = view.bytes().head::<HEADER_LEN>() else {
            self.dropped += 1;
            return Ok(None);
        };
        let header = Header::parse(&bytes);
        let here = self.stations.find(header.destination, self.turn) == Some(PORT_IN);
        if here || view.len() == HEADER_LEN {
            self.dropped += 1;
            return Ok(None);
        }
        let Some(mut head) = self.outside.alloc(HEADER_LEN) else {
            return Ok(Some(frame));
        };
        header.passed_on(FORWARDER, SINK).emit(&mut head);
        if let Some((_, frame)) = self.outside.forward(head, frame, HEADER_LEN)? {
            return Ok(Some(frame));
        }
        self.forwarded += 1;
        self.learned += u64::from(self.stations.learn(header.source, PORT_IN, self.turn));
        self.stations.learn(header.destination, PORT_OUT, self.turn);
        Ok(None)
    }
}
