//! From nothing to the first packet: connect, allocate, create and join a port, send, receive.
//!
//! All steps of both sides one after the other, in one thread that exod's thread may share a core
//! with or not: what two applications that start together would pay at most.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use anyhow::Result;
use libexo::Client;
use libexo::port::{Port, PortConfig};

use super::Daemon;
use super::work::{NAME, PATIENCE, check_peer};
use crate::pattern;
use crate::row::{Figure, Plan};

/// Attempts, of which the median counts: each waits until the pool is full again.
const ATTEMPTS: usize = 15;
/// Time for exod to take back what the last attempt held and to make ready what it used.
const REST: Duration = Duration::from_millis(50);

pub(super) fn figure(plan: &Plan) -> Result<Figure> {
    let config = PortConfig::default();
    let daemon = Daemon::start(&config, 2)?;
    let mut times = Vec::new();
    for _ in 0..ATTEMPTS {
        std::thread::sleep(REST);
        times.push(attempt(&daemon, config, plan.size)?);
    }
    times.sort();
    let value = times[ATTEMPTS / 2].as_secs_f64() * 1e3;
    Ok(Figure {
        metric: "attach",
        value,
        unit: "ms",
    })
}

fn attempt(daemon: &Daemon, config: PortConfig, size: usize) -> Result<Duration> {
    let start = Instant::now();
    let one = Client::over(daemon.exod.connect()?)?;
    let waiting = Port::create(&one, NAME, config)?;
    let two = Client::over(daemon.exod.connect()?)?;
    let mut joiner = Port::join(&two, NAME, config)?;
    let mut creator = waiting.ready(PATIENCE)?;
    while creator.send_with(1, size, |_, packet| pattern::fill(packet, 1))? == 0 {}
    loop {
        if let Some(packet) = joiner.receive_burst(1)?.next() {
            anyhow::ensure!(
                check_peer(packet.bytes(), 1)?,
                "the first packet arrived damaged"
            );
            return Ok(start.elapsed());
        }
    }
}
