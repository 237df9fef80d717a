//! The sink: reads every byte of every frame, and says how fast they came.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use libexo::port::Port;
use libexo::{Client, Error};
use libos::idle::{Idle, Policy};

use crate::frame::{self, LAST};
use crate::{BURST, CONFIG, OUT, Options, PATIENCE};

#[derive(Default)]
struct Seen {
    frames: u64,
    bytes: u64,
    bad: u64,
    lost: u64,
    /// The number that comes next.
    next: u64,
    last: bool,
}

pub fn run(options: &Options) -> Result<()> {
    let exod = Client::connect_default()?;
    let mut port =
        Port::join_when_there(&exod, OUT, CONFIG, PATIENCE).context("no forwarder came")?;
    let pattern = frame::pattern(usize::from(options.size));
    let mut idle = Idle::new(Policy::Adaptive);
    let (mut seen, mut bytes) = (Seen::default(), Vec::new());
    let (mut began, mut told) = (None, (Instant::now(), 0));
    loop {
        let burst = match port.receive_burst(BURST) {
            Ok(burst) => burst,
            Err(Error::PeerGone) => break,
            Err(error) => return Err(error.into()),
        };
        let worked = !burst.is_empty();
        for packet in burst {
            bytes.clear();
            packet.append_to(&mut bytes)?;
            seen.frame(&bytes, &pattern);
        }
        if worked {
            began.get_or_insert_with(Instant::now);
            if seen.last {
                port.flush()?;
                break;
            }
        }
        if told.0.elapsed() >= Duration::from_secs(1) {
            println!("{}", rate(seen.frames - told.1, &seen, told.0.elapsed()));
            told = (Instant::now(), seen.frames);
        }
        match idle.turn(worked, &mut [&mut port]) {
            Ok(()) | Err(Error::PeerGone) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let took = began.map_or(Duration::ZERO, |at: Instant| at.elapsed());
    println!("sink: all: {}", rate(seen.frames, &seen, took));
    println!(
        "sink: {} frames, {} bad, {} lost",
        seen.frames, seen.bad, seen.lost
    );
    if seen.bad > 0 || seen.lost > 0 || !seen.last {
        bail!("not everything arrived as it was sent");
    }
    Ok(())
}

fn rate(frames: u64, seen: &Seen, took: Duration) -> String {
    let per_us = frames as f64 / (took.as_secs_f64() * 1e6).max(1.0);
    let bits = 8.0 * seen.bytes as f64 / seen.frames.max(1) as f64;
    format!("{per_us:.3} Mpps, {:.3} Gbit/s", per_us * bits / 1e3)
}

impl Seen {
    fn frame(&mut self, bytes: &[u8], pattern: &[u8]) {
        self.frames += 1;
        self.bytes += bytes.len() as u64;
        match frame::check(bytes, pattern) {
            Some(number) => {
                self.last |= number & LAST != 0;
                let number = number & !LAST;
                self.lost += number.saturating_sub(self.next);
                self.bad += u64::from(number < self.next);
                self.next = number + 1;
            }
            None => {
                self.bad += 1;
                self.next += 1;
            }
        }
    }
}
