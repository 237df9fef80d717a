//! The two processes of a replay.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use libexo::abi::CACHE_LINE;
use libexo::abi::port::Layout;
use libexo::packet::Packet;
use libexo::port::{Port, PortConfig};
use libexo::{Client, Error};
use libos::idle::{Idle, Policy};
use serde::{Deserialize, Serialize};

use super::Capture;

const NAME: &str = "replay";

/// How long a side waits for the other to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Packets handed over at once.
const BURST: usize = 32;

/// Buffers that the sender wants: enough to stay ahead of the receiver, few enough to stay in cache.
const BUFFERS: usize = 512;

/// Which process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Side {
    /// Sends the file.
    Send,
    /// Compares what comes with the file.
    Receive,
}

impl Side {
    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Side::Send => "send",
            Side::Receive => "receive",
        }
    }
}

/// What the receiver saw.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Received {
    /// Packets that arrived.
    pub packets: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Packets that are not what was sent.
    pub mismatches: u64,
    /// From the first packet to the last.
    pub seconds: f64,
}

/// A session, and a config with buffers for the file's longest packet.
fn prepare(capture: &Capture) -> Result<(Client, PortConfig)> {
    // A peer that dies takes its memory along.
    libexo::guard::install()?;
    let client = Client::connect_default()?;
    let mut config = PortConfig {
        buffer_len: capture.lengths().end().next_multiple_of(CACHE_LINE),
        ..PortConfig::default()
    };
    let bytes = Layout::new(config.ring_log2).packets + BUFFERS * config.buffer_len;
    config.frames = bytes.div_ceil(client.session().frame_bytes) as u64;
    Ok((client, config))
}

/// Sends every packet of the file `loops` times and waits until all came back.
pub fn send(capture: &Capture, loops: u64) -> Result<()> {
    let (client, config) = prepare(capture)?;
    let waiting = Port::create(&client, NAME, config)?;
    let mut port = waiting.ready(PATIENCE).context("no receiver came")?;
    let all = capture.len() as u64 * loops;
    let mut idle = Idle::new(Policy::Adaptive);
    let (mut next, mut burst) = (0, Vec::with_capacity(BURST));
    while next < all || !burst.is_empty() {
        crate::interrupt::check()?;
        fill(&port, capture, &mut next, all, &mut burst);
        let sent = port.send_burst(&mut burst)?;
        if sent == 0 {
            port.flush()?;
        }
        idle.turn(sent > 0, &mut [&mut port])?;
    }
    while port.outstanding() > 0 {
        crate::interrupt::check()?;
        port.flush()?;
        idle.turn(false, &mut [&mut port])?;
    }
    Ok(())
}

fn fill(port: &Port, capture: &Capture, next: &mut u64, all: u64, burst: &mut Vec<Packet>) {
    while burst.len() < BURST && *next < all {
        let bytes = capture.packet(*next);
        let Some(mut packet) = port.alloc(bytes.len()) else {
            return;
        };
        packet.copy_from_slice(bytes);
        burst.push(packet);
        *next += 1;
    }
}

/// Compares all that comes with the file, and prints what it saw.
pub fn receive(capture: &Capture, loops: u64) -> Result<()> {
    let (client, config) = prepare(capture)?;
    let mut port = Port::join_when_there(
        &client,
        NAME,
        PortConfig {
            frames: 1,
            ..config
        },
        PATIENCE,
    )
    .context("no sender came")?;
    let all = capture.len() as u64 * loops;
    let mut check = Check::new(capture);
    let mut idle = Idle::new(Policy::Adaptive);
    let (mut bytes, mut began) = (Vec::new(), None);
    while check.seen.packets < all {
        crate::interrupt::check()?;
        let burst = match port.receive_burst(BURST) {
            Ok(burst) => burst,
            // What did not come is lost, and counted so.
            Err(Error::PeerGone) => break,
            Err(error) => return Err(error.into()),
        };
        let worked = !burst.is_empty();
        if worked {
            began.get_or_insert_with(Instant::now);
        }
        for packet in burst {
            bytes.clear();
            packet.append_to(&mut bytes)?;
            check.packet(&bytes);
        }
        match idle.turn(worked, &mut [&mut port]) {
            Ok(()) | Err(Error::PeerGone) => {}
            Err(error) => return Err(error.into()),
        }
    }
    port.flush()?;
    check.seen.seconds = began.map_or(0.0, |at| at.elapsed().as_secs_f64());
    println!("{}", serde_json::to_string(&check.seen)?);
    Ok(())
}

/// Compares packets with those of a file, in order.
struct Check<'c> {
    capture: &'c Capture,
    seen: Received,
}

impl Check<'_> {
    fn new(capture: &Capture) -> Check<'_> {
        Check {
            capture,
            seen: Received::default(),
        }
    }

    fn packet(&mut self, bytes: &[u8]) {
        let expected = self.capture.packet(self.seen.packets);
        self.seen.mismatches += u64::from(bytes != expected);
        self.seen.packets += 1;
        self.seen.bytes += bytes.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two packets as pcap: `ab` and `xyz`.
    fn capture() -> Capture {
        let mut file = Vec::new();
        for word in [0xa1b2_c3d4u32, 4 << 16 | 2, 0, 0, 65_535, 1] {
            file.extend(word.to_le_bytes());
        }
        for bytes in [&b"ab"[..], b"xyz"] {
            for word in [1, 0, bytes.len() as u32, bytes.len() as u32] {
                file.extend(word.to_le_bytes());
            }
            file.extend(bytes);
        }
        Capture::parse(&file).expect("a good file")
    }

    #[test]
    fn what_differs_is_counted() {
        let capture = capture();
        let mut check = Check::new(&capture);
        for bytes in [&b"ab"[..], b"xyz", b"ab", b"xyZ", b"a", b"xyz"] {
            check.packet(bytes);
        }
        let expected = Received {
            packets: 6,
            bytes: 14,
            mismatches: 2,
            seconds: 0.0,
        };
        assert_eq!(check.seen, expected);
    }
}
