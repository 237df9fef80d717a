//! Ports between honest domains: a pair, and a line of source, forwarder and sink.

// Each test program uses its own part of this.
#![allow(dead_code)]

use exod::Embedded;
use exod::config::Config;
use exod::frames::PageChoice;
use libexo::Client;
use libexo::abi::port::PortFlags;
use libexo::port::{Port, PortConfig, RxPacket};

use crate::raw_peer::{RawPeer, SOON};

pub fn exod() -> Embedded {
    let mut config = Config::embedded();
    config.give_back_ms = 50;
    config.pool.pages = PageChoice::Small4K;
    Embedded::start(config).expect("an embedded exod needs no privilege")
}

pub fn connect(exod: &Embedded) -> Client {
    Client::over(exod.connect().expect("a socket")).expect("a session")
}

pub fn config(ring_log2: u32) -> PortConfig {
    PortConfig {
        ring_log2,
        share: true,
        ..PortConfig::default()
    }
}

/// The two ends of a port of `from` and `to`.
pub fn port(from: &Client, to: &Client, name: &str, ring_log2: u32) -> (Port, Port) {
    let waiting = Port::create(from, name, config(ring_log2)).expect("a port");
    let joined = Port::join(to, name, config(ring_log2)).expect("it waits");
    (waiting.ready(SOON).expect("joined"), joined)
}

pub fn take(port: &mut Port, max: usize) -> Vec<RxPacket> {
    let mut burst = port.receive_burst(max).expect("alive");
    std::iter::from_fn(|| burst.take_next()).collect()
}

pub fn bytes_of(packet: &RxPacket) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.view().append_to(&mut bytes).expect("alive");
    bytes
}

pub fn all_home(port: &mut Port, what: &str) {
    port.flush().expect("alive");
    assert_eq!(port.outstanding(), 0, "{what}");
    assert_eq!(port.pool().available(), port.pool().capacity(), "{what}");
}

/// A port of `to` whose other side, which shares, writes whatever it likes.
pub fn raw_port(exod: &Embedded, to: &Client, name: &str) -> (RawPeer, Port) {
    let waiting = Port::create(to, name, config(6)).expect("a port");
    let raw = RawPeer::join(connect(exod), name, 1, PortFlags::SHARE);
    let raw = raw.expect("a frame, and a port that waits");
    (raw, waiting.ready(SOON).expect("joined"))
}

/// Source, forwarder and sink, each with a session of its own.
pub struct Line {
    pub source: Port,
    pub inward: Port,
    pub outward: Port,
    pub sink: Port,
}

impl Line {
    pub fn new(exod: &Embedded, ring_log2: u32) -> Line {
        let (first, second, third) = (connect(exod), connect(exod), connect(exod));
        let (source, mut inward) = port(&first, &second, "in", ring_log2);
        let (mut outward, sink) = port(&second, &third, "out", ring_log2);
        outward.share_from(&mut inward).expect("the source shares");
        Line {
            source,
            inward,
            outward,
            sink,
        }
    }

    pub fn send(&mut self, count: u8) {
        let sent = self
            .source
            .send_with(count.into(), 100, |k, b| b.fill(k as u8));
        assert_eq!(sent.expect("credit"), usize::from(count));
    }

    /// Sends on what waits, with a header of four bytes in place of the first ten.
    pub fn forward(&mut self, max: usize) -> usize {
        let packets = take(&mut self.inward, max);
        let count = packets.len();
        for body in packets {
            let mut head = self.outward.alloc(4).expect("a header");
            head.copy_from_slice(b"head");
            let refused = self.outward.forward(head, body, 10).expect("alive");
            assert!(refused.is_none(), "credit was there");
        }
        self.outward.announce();
        count
    }

    /// Whatever is on its way home goes all the way.
    pub fn settle(&mut self) {
        for port in [
            &mut self.sink,
            &mut self.outward,
            &mut self.inward,
            &mut self.source,
        ] {
            port.flush().expect("alive");
        }
    }

    pub fn expect(packet: &RxPacket, k: u8) {
        assert_eq!(packet.view().piece_count(), 2);
        let bytes = bytes_of(packet);
        assert_eq!((&bytes[..4], bytes.len()), (&b"head"[..], 94));
        assert!(bytes[4..].iter().all(|b| *b == k), "packet {k}");
    }

    /// Everything has come home, to the source and to the forwarder.
    pub fn all_home(&mut self, what: &str) {
        self.settle();
        all_home(&mut self.source, what);
        all_home(&mut self.outward, what);
    }
}
