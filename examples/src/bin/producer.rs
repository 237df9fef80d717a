//! A service that makes packets, numbered, for `consumer`, a service that trusts it in nothing.
//!
//! It runs until SIGTERM, under systemd or in a terminal. A consumer that leaves may come back, and
//! then the numbers go on where they were.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Parser, value_parser};
use examples::family::Stop;
use examples::numbers;
use libexo::port::{Port, PortConfig};
use libexo::{Client, Error};

/// How long one wait takes at most, so that a signal is seen soon.
const STEP: Duration = Duration::from_millis(50);

/// The highest rate, in packets a second: one core can still make them.
const RATE_MAX: i64 = 10_000_000;

/// Packets that fell due are sent together, so often.
const TICK: Duration = Duration::from_millis(10);

/// Sends numbered packets to a consumer, so many a second
#[derive(Parser)]
#[command(name = "producer")]
struct Options {
    /// The port's name
    #[arg(long, default_value = numbers::PORT)]
    name: String,
    /// Packets a second
    #[arg(long, default_value_t = 1000, value_parser = value_parser!(u32).range(1..=RATE_MAX))]
    rate: u32,
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
    let mut number = 0;
    while number < all && !stop.asked() {
        let Some(mut port) = consumer(&exod, &options.name, &stop)? else {
            break;
        };
        println!("a consumer is here; the next packet is number {number}");
        match produce(&mut port, &options, &mut number, &stop) {
            Ok(()) => break,
            Err(Error::PeerGone | Error::Revoked) => println!("the consumer left"),
            Err(error) => return Err(error.into()),
        }
    }
    println!("{number} packets sent");
    Ok(())
}

/// A port that a consumer has joined; none when it is time to stop.
fn consumer(exod: &Client, name: &str, stop: &Stop) -> Result<Option<Port>> {
    let mut waiting = Port::create(exod, name, PortConfig::default())?;
    while !stop.asked() {
        if let Some(port) = waiting.try_ready()? {
            return Ok(Some(port));
        }
        exod.wait_event(Some(STEP))?;
    }
    Ok(None)
}

/// Sends until all are sent and taken, or it is time to stop.
fn produce(
    port: &mut Port,
    options: &Options,
    number: &mut u64,
    stop: &Stop,
) -> libexo::Result<()> {
    let (start, first) = (Instant::now(), *number);
    let all = options.count.unwrap_or(u64::MAX);
    while *number < all && !stop.asked() {
        let due = first + (start.elapsed().as_secs_f64() * f64::from(options.rate)) as u64;
        let behind = due.min(all).saturating_sub(*number) as usize;
        let sent = port.send_with(behind, numbers::LEN, |k, bytes| {
            numbers::write(bytes, *number + u64::from(k));
        })?;
        *number += sent as u64;
        if sent == 0 {
            port.wait(Some(TICK))?;
        }
    }
    // Whoever leaves takes its memory along: not before the consumer has read all of it.
    while port.outstanding() > 0 && !stop.asked() {
        port.flush()?;
        port.wait(Some(Duration::from_millis(1)))?;
    }
    Ok(())
}
