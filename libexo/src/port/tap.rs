//! Mirroring what a side sends, for as long as an admin taps the port.
//!
//! exod says in the side's status word that the port is tapped. Then the side joins the port
//! `tap:NAME/SIDE` like any other and sends a copy of each packet there ([`crate::abi::tap`]). The
//! tap gets copies, never the packets, and nobody waits for it: what finds no room there is counted
//! and dropped. Joining is the one thing that takes time, a few requests to exod.
//!
//! The copy is charged to the tapped side: one frame and a port. A side that may not have them is
//! not mirrored, and notices nothing.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use zerocopy::IntoBytes;

use crate::abi::port::PortFlags;
use crate::abi::tap::{PART_LEN, Part, tap_name};
use crate::abi::wire::PortName;
use crate::client::Client;
use crate::error::Result;
use crate::packet::Packet;

use super::burst::PeerPacket;
use super::{Port, PortConfig, setup};

/// Between two attempts to join a tap that could not be joined: each is a request to exod.
const RETRY: Duration = Duration::from_millis(100);

/// Buffers of a mirror: standard frames in one part, jumbo frames in a few.
const CONFIG: PortConfig = PortConfig {
    // Who created the tap decides; this is not used.
    ring_log2: 10,
    frames: 1,
    buffer_len: 2048,
    buffers_max: u32::MAX,
    share: false,
    trusted: false,
};

/// What a port's side knows of its tap.
pub(super) struct Tap {
    /// Where to mirror to; none where the name is too long for exod to allow a tap.
    name: Option<PortName>,
    /// What the status word said when it was last looked at.
    on: bool,
    /// Packets sent since then, mirrored or not.
    number: u64,
    mirror: Option<Box<Mirror>>,
    retry_at: Option<Instant>,
}

/// This side of the tap port, and the unit behind it.
struct Mirror {
    /// None only while it is dropped: the port must go before its unit.
    port: Option<Port>,
    client: Client,
    unit: u64,
    /// Where the pieces of forwarded packets are put together.
    scratch: Vec<u8>,
}

impl Tap {
    pub(super) fn new(name: &PortName, side: u8) -> Tap {
        Tap {
            name: tap_name(name, side),
            on: false,
            number: 0,
            mirror: None,
            retry_at: None,
        }
    }

    /// Whether packets are to be mirrored, as far as this side knows.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        self.on
    }

    /// Takes in what the status word says.
    #[cold]
    pub(super) fn set(&mut self, on: bool, client: &Client) {
        self.on = on;
        self.retry_at = None;
        if on {
            self.number = 0;
            self.ready(client);
        } else if let Some(mut mirror) = self.mirror.take() {
            mirror.end(self.number);
        }
    }

    /// Mirrors packets of our own before they are sent.
    #[cold]
    pub(super) fn packets(&mut self, client: &Client, packets: &[Packet]) {
        self.ready(client);
        for packet in packets {
            self.copy(packet);
        }
    }

    /// Mirrors bytes that are being sent, after [`Tap::ready`].
    #[cold]
    pub(super) fn copy(&mut self, packet: &[u8]) {
        let number = self.next();
        let sent = self.mirror.as_mut().map(|m| m.send(number, packet));
        self.keep_if(sent);
    }

    /// Mirrors a packet that is forwarded under a header of our own.
    #[cold]
    pub(super) fn forwarded(
        &mut self,
        client: &Client,
        head: &[u8],
        body: &PeerPacket<'_>,
        skip: usize,
    ) {
        self.ready(client);
        let number = self.next();
        let sent = self.mirror.as_mut().map(|mirror| {
            let mut bytes = std::mem::take(&mut mirror.scratch);
            bytes.clear();
            bytes.extend_from_slice(head);
            let mut skip = skip;
            for piece in body.pieces() {
                piece.skip(skip).append_to(&mut bytes)?;
                skip = skip.saturating_sub(piece.len());
            }
            let sent = mirror.send(number, &bytes);
            mirror.scratch = bytes;
            sent
        });
        self.keep_if(sent);
    }

    fn next(&mut self) -> u64 {
        let number = self.number;
        self.number += 1;
        number
    }

    /// A mirror that failed is over; it is joined again, if it is there again.
    fn keep_if(&mut self, sent: Option<Result<()>>) {
        if matches!(sent, Some(Err(_))) {
            self.mirror = None;
            self.number = 0;
        }
    }

    /// Joins the tap if that was not done yet, or if whoever tapped has gone and another came.
    pub(super) fn ready(&mut self, client: &Client) {
        if self.mirror.as_ref().is_some_and(|m| m.is_connected()) {
            return;
        }
        if self.mirror.take().is_some() {
            // Another one taps now, who counts from its own beginning.
            self.number = 0;
        }
        let now = Instant::now();
        if let Some(name) = self.name
            && self.retry_at.is_none_or(|at| at <= now)
        {
            self.mirror = Mirror::join(client, &name).ok().map(Box::new);
            self.retry_at = Some(now + RETRY);
        }
    }
}

impl Mirror {
    fn join(client: &Client, name: &PortName) -> Result<Mirror> {
        let (unit, own) = setup::own_unit(client, CONFIG.frames)?;
        let mut mirror = Mirror {
            port: None,
            client: client.clone(),
            unit,
            scratch: Vec::new(),
        };
        let joined = client.port_join(name, unit, PortFlags::empty())?;
        let bells = (joined.own_bell, joined.peer_bell);
        let client = client.clone();
        let port = setup::assemble(client, joined.handle, name, CONFIG, own, bells, joined.peer)?;
        mirror.port = Some(port);
        Ok(mirror)
    }

    fn is_connected(&self) -> bool {
        self.port.as_ref().is_some_and(Port::is_connected)
    }

    /// Sends a packet in parts, or drops it whole.
    fn send(&mut self, number: u64, packet: &[u8]) -> Result<()> {
        let Some(port) = &mut self.port else {
            return Ok(());
        };
        let most = port.pool().buffer_len() - PART_LEN;
        if !room(port, packet.len().div_ceil(most))? {
            return Ok(());
        }
        for (index, bytes) in packet.chunks(most).enumerate() {
            let part = Part {
                number,
                len: packet.len() as u32,
                offset: (index * most) as u32,
            };
            port.send_with(1, PART_LEN + bytes.len(), |_, to| {
                let (head, rest) = to.split_at_mut(PART_LEN);
                head.copy_from_slice(part.as_bytes());
                rest.copy_from_slice(bytes);
            })?;
        }
        Ok(())
    }

    /// Tells whoever taps how many packets there were, if there is room to.
    fn end(&mut self, number: u64) {
        let part = Part {
            number,
            ..Part::default()
        };
        // Who taps may be gone by now: then nobody asks, and its memory may be gone too.
        if let Some(port) = self.port.as_mut().filter(|port| port.is_connected()) {
            let _ = port.send_with(1, PART_LEN, |_, to| to.copy_from_slice(part.as_bytes()));
        }
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        // Closes the mapping too: no packet of its pool is anywhere else.
        self.port = None;
        let _ = self.client.drop_handle(self.unit);
    }
}

/// Whether `parts` packets can be sent now, and one more: the last words must find room.
fn room(port: &mut Port, parts: usize) -> Result<bool> {
    let parts = parts + 1;
    if port.pool().available() < parts {
        port.flush()?;
    }
    let credit = port.tx.credit(parts as u32);
    let credit = port.check(credit)? as usize;
    Ok(credit >= parts && port.pool().available() >= parts)
}
