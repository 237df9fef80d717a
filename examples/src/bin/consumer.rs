//! A service that takes packets from `producer`, checks each, and says once a second what it saw.
//!
//! It runs until SIGTERM, under systemd or in a terminal. A producer that leaves may come back.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use examples::family::Stop;
use examples::numbers::{self, Tally};
use libexo::abi::wire::ErrorCode;
use libexo::port::{Port, PortConfig};
use libexo::{Client, Error};
use libos::idle::{Idle, Policy};

/// Between two lines.
const PERIOD: Duration = Duration::from_secs(1);

/// Packets that are taken at once.
const BURST: usize = 32;

/// Takes numbered packets from a producer and checks them
#[derive(Parser)]
#[command(name = "consumer")]
struct Options {
    /// The port's name
    #[arg(long, default_value = numbers::PORT)]
    name: String,
    /// Stop after so many packets
    #[arg(long)]
    count: Option<u64>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    // The other side may go away with its memory while we read it: an error then, and no SIGBUS.
    libexo::guard::install()?;
    let stop = Stop::install()?;
    let exod = Client::connect_default()?;
    let all = options.count.unwrap_or(u64::MAX);
    let mut seen = Tally::default();
    while seen.packets < all && !stop.asked() {
        let Some(mut port) = producer(&exod, &options.name, &stop)? else {
            break;
        };
        println!("a producer is here");
        match consume(&mut port, all, &mut seen, &stop) {
            Ok(()) => break,
            Err(Error::PeerGone | Error::Revoked) => println!("the producer left"),
            Err(error) => return Err(error.into()),
        }
    }
    println!("{seen}");
    ensure!(seen.damaged == 0, "packets were damaged");
    Ok(())
}

/// A producer's port; none when it is time to stop.
fn producer(exod: &Client, name: &str, stop: &Stop) -> Result<Option<Port>> {
    while !stop.asked() {
        match Port::join_when_there(exod, name, PortConfig::default(), PERIOD) {
            Ok(port) => return Ok(Some(port)),
            Err(Error::Refused {
                code: ErrorCode::NotFound,
                ..
            }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// Takes packets until there are `all`, or it is time to stop.
fn consume(port: &mut Port, all: u64, seen: &mut Tally, stop: &Stop) -> libexo::Result<()> {
    let mut idle = Idle::new(Policy::Sleep);
    let mut said = Instant::now();
    while seen.packets < all && !stop.asked() {
        let mut some = false;
        for packet in port.receive_burst(BURST)? {
            // The producer could still write these bytes: each is read once, into our own.
            let bytes: [u8; numbers::LEN] = packet.bytes().head()?;
            seen.take(&bytes);
            some = true;
        }
        idle.turn(some, &mut [port])?;
        if said.elapsed() >= PERIOD {
            println!("{seen}");
            said = Instant::now();
        }
    }
    Ok(())
}
