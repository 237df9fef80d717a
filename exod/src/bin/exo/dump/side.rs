//! One side's tap: a port of our own, that the tapped side joins and mirrors into.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crossbeam::channel::Sender;
use libexo::abi::tap::tap_name;
use libexo::abi::wire::{ErrorCode, PortName};
use libexo::port::{Port, PortConfig, Waiting};
use libexo::{Client, Error};

use super::Event;
use super::part::Assembler;
use crate::{Exod, explain};

/// Packets that are taken at once.
const BURST: usize = 256;

/// How often to look at the flag while nothing comes.
const TURN: Duration = Duration::from_millis(50);

/// How long a side that was told to stop may take to say how many packets there were.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Receives until `closing`, or until the tapped side goes.
pub fn run(
    exod: &Exod,
    name: &PortName,
    side: u8,
    snap: u32,
    closing: &AtomicBool,
    report: &Sender<Event>,
) -> anyhow::Result<()> {
    let client = exod.connect()?;
    let config = PortConfig {
        // As many slots as a frame of the mirror's has buffers.
        ring_log2: 10,
        ..PortConfig::default()
    };
    let Some(name) = tap_name(name, side) else {
        return Ok(());
    };
    let waiting = explain(Port::create(&client, name.as_str(), config))?;
    // The receiver of reports outlives this thread.
    let _ = report.send(Event::Waits);
    let Some(mut port) = joined(&client, waiting, closing)? else {
        return Ok(());
    };
    let _ = report.send(Event::Joined(side));
    let mut assembler = Assembler::new(snap);
    let mut deadline = None;
    while !assembler.ended() {
        let closing = closing.load(Ordering::Acquire);
        let mut packets = Vec::new();
        let gone = receive(&mut port, &mut assembler, &mut packets)?;
        let idle = packets.is_empty();
        let dropped_after = assembler.take_dropped_after();
        if !idle || dropped_after > 0 {
            let _ = report.send(Event::Burst(side, packets, dropped_after));
        }
        if gone {
            break;
        }
        if closing && Instant::now() > *deadline.get_or_insert_with(|| Instant::now() + LAST_WORDS)
        {
            break;
        }
        if idle && !assembler.ended() {
            match port.wait(Some(TURN)) {
                Ok(_) | Err(Error::PeerGone) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Waits for the tapped side; none when it did not come before `closing`.
fn joined(
    client: &Client,
    mut waiting: Waiting,
    closing: &AtomicBool,
) -> anyhow::Result<Option<Port>> {
    while !closing.load(Ordering::Acquire) {
        match waiting.try_ready() {
            Ok(Some(port)) => return Ok(Some(port)),
            Ok(None) => {}
            // It came and went again before we looked.
            Err(error) if error.code() == Some(ErrorCode::Revoked) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        client.wait_event(Some(TURN))?;
    }
    Ok(None)
}

/// One burst. True when the tapped side has gone and everything of it was received.
fn receive(
    port: &mut Port,
    assembler: &mut Assembler,
    packets: &mut Vec<super::Captured>,
) -> anyhow::Result<bool> {
    let burst = match port.receive_burst(BURST) {
        Ok(burst) => burst,
        Err(Error::PeerGone) => return Ok(true),
        Err(error) => return Err(error.into()),
    };
    let now = SystemTime::now();
    let mut bytes = Vec::new();
    for packet in burst {
        bytes.clear();
        packet.append_to(&mut bytes)?;
        packets.extend(assembler.add(&bytes, now)?);
    }
    Ok(false)
}
