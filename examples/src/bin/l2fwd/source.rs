//! The source: writes frames and lets the forwarder pass them on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use examples::family::Stop;
use libexo::Client;
use libexo::port::{Port, PortConfig};
use libos::idle::{Idle, Policy};

use crate::frame::{self, LAST};
use crate::{BURST, CONFIG, IN, Options, PATIENCE};

pub fn run(options: &Options, stop: &Stop) -> Result<()> {
    let exod = Client::connect_default()?;
    let size = usize::from(options.size);
    let buffer_len = size.next_multiple_of(64);
    let config = PortConfig {
        // The forwarder may let its own peer read our frames.
        share: true,
        buffer_len,
        frames: (CONFIG.buffers_max as usize * buffer_len).div_ceil(exod.session().frame_bytes)
            as u64,
        ..CONFIG
    };
    let mut port =
        Port::join_when_there(&exod, IN, config, PATIENCE).context("no forwarder came")?;
    let pattern = frame::pattern(size);
    let mut idle = Idle::new(Policy::Adaptive);
    let until = options
        .seconds
        .map(|s| Instant::now() + Duration::from_secs(s));
    let all = options.packets.unwrap_or(u64::MAX) - 1;
    let mut number = 0;
    let over = |number| stop.asked() || until.is_some_and(|at| number > 0 && Instant::now() >= at);
    while number < all && !over(number) {
        let count = BURST.min((all - number) as usize);
        let first = number;
        let sent = port.send_with(count, size, |k, bytes| {
            frame::write(bytes, first + u64::from(k), &pattern);
        })?;
        number += sent as u64;
        idle.turn(sent > 0, &mut [&mut port])?;
    }
    while port.send_with(1, size, |_, bytes| {
        frame::write(bytes, number | LAST, &pattern)
    })? == 0
    {
        idle.turn(false, &mut [&mut port])?;
    }
    // Whoever leaves takes its memory along: not before the sink has read all of it.
    while port.outstanding() > 0 {
        port.flush()?;
        idle.turn(false, &mut [&mut port])?;
    }
    println!("source: {} frames of {size} bytes sent", number + 1);
    Ok(())
}
