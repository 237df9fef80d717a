//! What is taken out of a burst and what is sent on: a source, a forwarder and a sink, three
//! domains that do not trust each other, with the payload in the source's memory alone.

use std::time::{Duration, Instant};

use exod::Embedded;
use exod::config::Config;
use exod::frames::PageChoice;
use libexo::abi::port::{CHAIN_MAX, Descriptor, PortFlags};
use libexo::abi::wire::ErrorCode;
use libexo::port::{Forwarded, Port, PortConfig, RxPacket};
use libexo::{Client, Error};

mod raw_peer;
use raw_peer::{RawPeer, SOON};

fn exod() -> Embedded {
    let mut config = Config::embedded();
    config.give_back_ms = 50;
    config.pool.pages = PageChoice::Small4K;
    Embedded::start(config).expect("an embedded exod needs no privilege")
}

fn connect(exod: &Embedded) -> Client {
    Client::over(exod.connect().expect("a socket")).expect("a session")
}

fn config(ring_log2: u32) -> PortConfig {
    PortConfig {
        ring_log2,
        share: true,
        ..PortConfig::default()
    }
}

/// The two ends of a port of `from` and `to`.
fn port(from: &Client, to: &Client, name: &str, ring_log2: u32) -> (Port, Port) {
    let waiting = Port::create(from, name, config(ring_log2)).expect("a port");
    let joined = Port::join(to, name, config(ring_log2)).expect("it waits");
    (waiting.ready(SOON).expect("joined"), joined)
}

fn take(port: &mut Port, max: usize) -> Vec<RxPacket> {
    let mut burst = port.receive_burst(max).expect("alive");
    std::iter::from_fn(|| burst.take_next()).collect()
}

fn bytes_of(packet: &RxPacket) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.view().append_to(&mut bytes).expect("alive");
    bytes
}

fn all_home(port: &mut Port, what: &str) {
    port.flush().expect("alive");
    assert_eq!(port.outstanding(), 0, "{what}");
    assert_eq!(port.pool().available(), port.pool().capacity(), "{what}");
}

/// Taken and dropped before the burst ends: returned once, not twice.
#[test]
fn a_packet_that_is_taken_and_dropped_at_once_comes_home_once() {
    let exod = exod();
    let (one, two) = (connect(&exod), connect(&exod));
    for ring_log2 in [4, 12] {
        let (mut source, mut sink) = port(&one, &two, "once", ring_log2);
        for round in 0..200 {
            assert_eq!(
                source.send_with(7, 64, |_, b| b.fill(1)).expect("credit"),
                7
            );
            let mut burst = sink.receive_burst(16).expect("alive");
            let mut held = None;
            for k in 0..7 {
                match (k + round) % 3 {
                    0 => drop(burst.take_next().expect("a packet")),
                    1 => held = burst.take_next(),
                    _ => drop(burst.next().expect("a packet")),
                }
            }
            assert!(burst.next().is_none());
            drop(held);
            sink.flush().expect("returns go out");
            all_home(&mut source, "a round");
        }
    }
}

/// More laps than a slot's number has values, in bursts of every length.
#[test]
fn a_small_ring_goes_round_for_long() {
    const LAPS: u32 = (1 << 16) + 100;
    let exod = exod();
    let (one, two) = (connect(&exod), connect(&exod));
    let (mut one, mut two) = port(&one, &two, "laps", 4);
    let (mut next, mut expected) = (0u64, 0u64);
    while expected < u64::from(LAPS) << 4 {
        let wanted = 1 + (next % 16) as usize;
        let sent = one.send_with(wanted, 8, |k, bytes| {
            bytes.copy_from_slice(&(next + u64::from(k)).to_le_bytes());
        });
        next += sent.expect("alive") as u64;
        for packet in two.receive_burst(16).expect("alive") {
            let head = packet.bytes().head().expect("alive");
            assert_eq!(u64::from_le_bytes(head), expected);
            expected += 1;
        }
    }
    two.flush().expect("alive");
    all_home(&mut one, "after all laps");
}

/// Both are full of packets that the other has read: neither waits for the other for ever.
#[test]
fn two_full_sides_do_not_starve_each_other() {
    let exod = exod();
    let (one, two) = (connect(&exod), connect(&exod));
    let (mut one, mut two) = port(&one, &two, "full", 4);
    for side in [&mut one, &mut two] {
        assert_eq!(
            side.send_with(16, 64, |_, b| b.fill(1)).expect("credit"),
            16
        );
    }
    for side in [&mut one, &mut two] {
        assert_eq!(side.receive_burst(16).expect("alive").count(), 16);
    }
    // From here on both only send.
    let mut sent = [0; 2];
    for _ in 0..3 {
        sent[0] += one.send_with(16, 64, |_, b| b.fill(2)).expect("alive");
        sent[1] += two.send_with(16, 64, |_, b| b.fill(2)).expect("alive");
    }
    assert_eq!(sent, [16, 16]);
}

/// Packets of any number of pieces can be taken, kept and looked at.
#[test]
fn chains_of_every_length_are_taken_whole() {
    let exod = exod();
    let waiting = Port::create(&connect(&exod), "chains", config(6)).expect("a port");
    let raw = RawPeer::join(connect(&exod), "chains", 1, PortFlags::SHARE);
    let raw = raw.expect("a frame, and a port that waits");
    let mut sink = waiting.ready(SOON).expect("joined");
    let base = raw.layout.packets;
    let mut position = 0;
    for count in 1..=CHAIN_MAX {
        for k in 0..count {
            raw.send(
                position,
                Descriptor::new(0, base + 64 * k, k + 1, k + 1 < count),
            );
            position += 1;
        }
        let taken = take(&mut sink, 1);
        assert_eq!(taken.len(), 1);
        let len = count * (count + 1) / 2;
        assert_eq!(
            (taken[0].view().piece_count(), taken[0].view().len()),
            (count, len)
        );
        assert_eq!(bytes_of(&taken[0]).len(), len);
        drop(taken);
        sink.flush().expect("alive");
    }
}

/// Source, forwarder and sink, each with a session of its own.
struct Line {
    source: Port,
    inward: Port,
    outward: Port,
    sink: Port,
}

impl Line {
    fn new(exod: &Embedded, ring_log2: u32) -> Line {
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

    fn send(&mut self, count: u8) {
        let sent = self
            .source
            .send_with(count.into(), 100, |k, b| b.fill(k as u8));
        assert_eq!(sent.expect("credit"), usize::from(count));
    }

    /// Sends on what waits, with a header of four bytes in place of the first ten.
    fn forward(&mut self, max: usize) -> usize {
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
    fn settle(&mut self) {
        for port in [
            &mut self.sink,
            &mut self.outward,
            &mut self.inward,
            &mut self.source,
        ] {
            port.flush().expect("alive");
        }
    }

    fn expect(packet: &RxPacket, k: u8) {
        assert_eq!(packet.view().piece_count(), 2);
        let bytes = bytes_of(packet);
        assert_eq!((&bytes[..4], bytes.len()), (&b"head"[..], 94));
        assert!(bytes[4..].iter().all(|b| *b == k), "packet {k}");
    }
}

#[test]
fn payload_is_sent_on_without_a_copy() {
    let exod = exod();
    let mut line = Line::new(&exod, 4);
    let mut packet = line.source.alloc(100).expect("a buffer");
    packet.fill(1);
    let place: *mut u8 = packet.as_mut_ptr();
    assert_eq!(
        line.source.send_burst(&mut vec![packet]).expect("credit"),
        1
    );
    assert_eq!(line.forward(1), 1);
    let taken = take(&mut line.sink, 1);
    Line::expect(&taken[0], 1);
    // The source writes once more into what it lent, which is its right: the sink sees it, so these
    // are the source's own bytes.
    // SAFETY: the buffer is the source's and out; nothing in this process refers to it.
    unsafe { place.add(99).write_volatile(9) };
    assert_eq!(bytes_of(&taken[0]).last(), Some(&9));
}

/// The source has its buffers back when the sink returned them, hop by hop and not before.
#[test]
fn buffers_come_home_hop_by_hop() {
    let exod = exod();
    let mut line = Line::new(&exod, 6);
    for _ in 0..50 {
        line.send(8);
        assert_eq!(line.forward(8), 8);
        let mut held = take(&mut line.sink, 8);
        (0..)
            .zip(&held)
            .for_each(|(k, packet)| Line::expect(packet, k));
        line.settle();
        assert_eq!(line.source.outstanding(), 8, "the sink holds them all");
        // Out of order: the third, then the last, then the rest from behind.
        held.remove(2);
        line.settle();
        assert_eq!(line.source.outstanding(), 7);
        assert_eq!(
            (line.outward.outstanding(), line.inward.outstanding()),
            (14, 0)
        );
        held.pop();
        line.settle();
        assert_eq!(line.source.outstanding(), 6);
        while held.pop().is_some() {}
        line.settle();
        all_home(&mut line.source, "the payload");
        all_home(&mut line.outward, "the headers");
    }
}

/// Without credit both parts come back, and go out later.
#[test]
fn a_forwarder_without_credit_keeps_the_packet() {
    let exod = exod();
    let mut line = Line::new(&exod, 4);
    line.send(9);
    let mut packets = take(&mut line.inward, 9);
    let last = packets.pop().expect("nine");
    for body in packets {
        let head = line.outward.alloc(4).expect("a header");
        assert!(
            line.outward
                .forward(head, body, 10)
                .expect("alive")
                .is_none()
        );
    }
    let mut head = line.outward.alloc(4).expect("a header");
    head.copy_from_slice(b"head");
    let back = line.outward.forward(head, last, 10).expect("alive");
    let (head, last) = back.expect("sixteen slots hold eight packets of two pieces");
    assert_eq!((&head[..], bytes_of(&last)), (&b"head"[..], vec![8; 100]));
    assert_eq!(line.sink.receive_burst(16).expect("alive").count(), 8);
    line.settle();
    assert!(
        line.outward
            .forward(head, last, 10)
            .expect("alive")
            .is_none()
    );
    let taken = take(&mut line.sink, 1);
    Line::expect(&taken[0], 8);
    drop(taken);
    line.settle();
    all_home(&mut line.source, "the payload");
}

/// All of a body but its last byte may be left out, and not that too.
#[test]
fn a_skip_leaves_something_to_forward() {
    let exod = exod();
    let (first, second) = (connect(&exod), connect(&exod));
    let (mut source, mut inward) = port(&first, &second, "in", 6);
    let (mut outward, mut sink) = port(&second, &first, "out", 6);
    outward.share_from(&mut inward).expect("the source shares");
    source.send_with(1, 10, |_, b| b.fill(1)).expect("credit");
    let body = take(&mut inward, 1).remove(0);
    let nothing = outward.forward(outward.alloc(4).expect("a header"), body, 10);
    assert!(
        matches!(nothing, Err(Error::WrongSize { .. })),
        "nothing of it is left"
    );
    source.send_with(1, 10, |_, b| b.fill(1)).expect("credit");
    let body = take(&mut inward, 1).remove(0);
    let head = outward.alloc(4).expect("a header");
    assert!(outward.forward(head, body, 9).expect("alive").is_none());
    assert_eq!(take(&mut sink, 1)[0].view().len(), 5);
}

/// The sink keeps reading what it was given: the forwarder's death takes the headers and gives the
/// payload back to its source.
#[test]
fn a_forwarder_dies_while_packets_are_in_flight() {
    let exod = exod();
    let mut line = Line::new(&exod, 6);
    line.send(8);
    assert_eq!(line.forward(5), 5);
    let held = take(&mut line.sink, 3);
    let Line {
        mut source,
        inward,
        outward,
        mut sink,
    } = line;
    drop((inward, outward));
    // The forwarder's session is gone with its last port.
    let deadline = Instant::now() + SOON;
    let until = |port: &mut Port| loop {
        assert!(Instant::now() < deadline, "its death went unnoticed");
        match port.receive_burst(8).map(|burst| burst.count()) {
            Ok(_) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => break error,
        }
    };
    for error in [until(&mut source), until(&mut sink)] {
        assert!(matches!(error, Error::PeerGone | Error::Revoked), "{error}");
    }
    // Held packets are bytes still, or lost: never a fault in this process.
    for packet in &held {
        let mut bytes = Vec::new();
        match packet.view().append_to(&mut bytes) {
            Ok(len) => assert_eq!(len, packet.view().len()),
            Err(error) => assert!(matches!(error, Error::Revoked), "{error}"),
        }
    }
    let pool = std::rc::Rc::clone(source.pool());
    drop((source, held, sink));
    assert_eq!(
        pool.available(),
        pool.capacity(),
        "the port's end brings all home"
    );
}

/// Segments that are added later are fetched when the first packet comes from them.
#[test]
fn segments_added_later_are_fetched_when_needed() {
    let exod = exod();
    let mut line = Line::new(&exod, 6);
    for round in 1..=3u8 {
        let pool = line.source.add_pool(1, 4096).expect("another segment");
        let mut packet = pool.alloc(4000).expect("a buffer");
        packet.fill(round);
        assert_eq!(
            line.source.send_burst(&mut vec![packet]).expect("credit"),
            1
        );
        let taken = take(&mut line.inward, 1);
        assert_eq!(bytes_of(&taken[0]), vec![round; 4000]);
        // Unknown to the next hop until it is shared on.
        let body = taken.into_iter().next().expect("one");
        let head = line.outward.alloc(4).expect("a header");
        let refused = line.outward.forward(head, body, 0);
        assert!(
            matches!(refused, Err(Error::WrongSize { .. })),
            "{refused:?}"
        );
        line.outward
            .share_from(&mut line.inward)
            .expect("the source shares");
        line.settle();

        let mut packet = pool.alloc(4000).expect("a buffer");
        packet.fill(round + 100);
        assert_eq!(
            line.source.send_burst(&mut vec![packet]).expect("credit"),
            1
        );
        let body = take(&mut line.inward, 1).remove(0);
        let head = line.outward.alloc(4).expect("a header");
        assert!(
            line.outward
                .forward(head, body, 3900)
                .expect("alive")
                .is_none()
        );
        let taken = take(&mut line.sink, 1);
        assert_eq!(bytes_of(&taken[0])[4..], [round + 100; 100]);
        drop(taken);
        line.settle();
        assert_eq!(pool.available(), pool.capacity(), "round {round}");
    }
    all_home(&mut line.source, "the first pool");
    all_home(&mut line.outward, "the headers");
}

/// Sends on a burst with a header of four bytes in place of the first ten.
fn relay(line: &mut Line, max: usize, keep: impl Fn(u8) -> bool) -> Forwarded {
    let done = line
        .outward
        .forward_burst(&mut line.inward, max, 4, 10, |packet, head| {
            let [first] = packet.bytes().head()?;
            head.copy_from_slice(b"head");
            Ok(keep(first))
        });
    done.expect("alive")
}

#[test]
fn bursts_are_sent_on_as_single_packets_are() {
    let exod = exod();
    let mut line = Line::new(&exod, 6);
    // More than the return ring's laps, so that slots of all three rings wrap.
    for round in 0..200usize {
        let count = 1 + (round % 20) as u8;
        line.send(count);
        let done = relay(&mut line, 64, |k| k % 3 != 2);
        let kept: Vec<u8> = (0..count).filter(|k| k % 3 != 2).collect();
        let (received, sent) = (usize::from(count), kept.len());
        assert_eq!(done, Forwarded { received, sent });
        let taken = take(&mut line.sink, 64);
        assert_eq!(taken.len(), kept.len());
        for (packet, k) in taken.iter().zip(kept) {
            Line::expect(packet, k);
        }
        drop(taken);
        line.settle();
        all_home(&mut line.source, "a round");
        all_home(&mut line.outward, "a round");
    }
    assert_eq!(relay(&mut line, 64, |_| true), Forwarded::default());
}

/// What can't be sent at once stays where it is: nothing is received that finds no room.
#[test]
fn a_burst_is_no_longer_than_what_there_is_room_for() {
    let exod = exod();
    let mut line = Line::new(&exod, 4);
    line.send(12);
    // Two slots each, of sixteen.
    assert_eq!(relay(&mut line, 64, |_| true).sent, 8);
    assert_eq!(relay(&mut line, 64, |_| true), Forwarded::default());
    let mut seen = take(&mut line.sink, 64);
    assert_eq!(seen.len(), 8);
    seen.clear();
    line.settle();
    assert_eq!(relay(&mut line, 64, |_| true).sent, 4);
    for (packet, k) in take(&mut line.sink, 64).iter().zip(8..) {
        Line::expect(packet, k);
    }
    line.settle();
    all_home(&mut line.source, "the rest");
}

#[test]
fn an_error_of_the_rewriter_ends_the_turn_and_loses_no_slot() {
    let exod = exod();
    let mut line = Line::new(&exod, 5);
    line.send(9);
    let mut seen = 0;
    let turn = line
        .outward
        .forward_burst(&mut line.inward, 64, 4, 10, |packet, head| {
            seen += 1;
            head.copy_from_slice(b"head");
            // Longer than the packet is.
            let long = packet.bytes().head::<200>();
            if seen == 4 {
                long.map(|_| true)
            } else {
                Ok(true)
            }
        });
    assert!(matches!(turn, Err(Error::WrongSize { .. })), "{turn:?}");
    assert_eq!(seen, 4, "nothing is asked after an error");
    let taken = take(&mut line.sink, 64);
    assert_eq!(taken.len(), 3);
    drop(taken);
    line.settle();
    all_home(&mut line.source, "after the error");
    all_home(&mut line.outward, "after the error");
}

/// The source sends from memory that it does not share: the forwarder drops it and goes on.
#[test]
fn what_can_not_be_sent_on_is_dropped() {
    let exod = exod();
    let (first, second, third) = (connect(&exod), connect(&exod), connect(&exod));
    let waiting = Port::create(&first, "in", config(6)).expect("a port");
    let raw = RawPeer::join(connect(&exod), "in", 1, PortFlags::SHARE);
    let raw = raw.expect("a frame, and a port that waits");
    let mut inward = waiting.ready(SOON).expect("joined");
    let (mut outward, mut sink) = port(&first, &third, "out", 6);
    let base = raw.layout.packets;
    // As many pieces as a packet may have, and no room for a header before them; then two pieces of
    // which the skipped bytes are the first; then one that is all header.
    let mut position = 0;
    let mut send = |len: usize, more: bool| {
        let d = Descriptor::new(0, base + 64 * position as usize, len, more);
        raw.send(position, d);
        position += 1;
    };
    (0..CHAIN_MAX).for_each(|k| send(20, k + 1 < CHAIN_MAX));
    send(10, true);
    send(7, false);
    send(10, false);
    let done = outward.forward_burst(&mut inward, 64, 4, 10, |_, head| {
        head.copy_from_slice(b"head");
        Ok(true)
    });
    let (received, sent) = (3, 1);
    assert_eq!(done.expect("alive"), Forwarded { received, sent });
    let taken = take(&mut sink, 64);
    assert_eq!(
        taken
            .iter()
            .map(|p| (p.view().piece_count(), p.view().len()))
            .collect::<Vec<_>>(),
        [(2, 11)]
    );
    drop((taken, second));
    // A source that does not share at all is told so.
    let plain = PortConfig {
        share: false,
        ..config(6)
    };
    let waiting = Port::create(&first, "closed", plain).expect("a port");
    let mut closed = Port::join(&third, "closed", plain).expect("it waits");
    let mut source = waiting.ready(SOON).expect("joined");
    source.send_with(1, 64, |_, b| b.fill(1)).expect("credit");
    let refused = sink.forward_burst(&mut closed, 64, 4, 10, |_, _| Ok(true));
    assert_eq!(
        refused.expect_err("not shared").code(),
        Some(ErrorCode::Rights)
    );
}

/// A chain of the most pieces that there may be, where it barely fits or never: it does not block
/// what comes behind it, whatever the ring's size and the turn's.
#[test]
fn the_longest_chain_blocks_nobody() {
    for (ring_log2, max) in [(6, 64), (6, 8), (6, 1), (4, 64), (4, 1)] {
        // With the first piece skipped whole, the header takes its place.
        for (first_len, fits) in [(20, false), (10, true)] {
            let exod = exod();
            let (first, third) = (connect(&exod), connect(&exod));
            let waiting = Port::create(&first, "in", config(6)).expect("a port");
            let raw = RawPeer::join(connect(&exod), "in", 1, PortFlags::SHARE);
            let raw = raw.expect("a frame, and a port that waits");
            let mut inward = waiting.ready(SOON).expect("joined");
            let (mut outward, mut sink) = port(&first, &third, "out", ring_log2);
            let base = raw.layout.packets;
            for k in 0..CHAIN_MAX {
                let len = if k == 0 { first_len } else { 20 };
                let d = Descriptor::new(0, base + 64 * k, len, k + 1 < CHAIN_MAX);
                raw.send(k as u32, d);
            }
            raw.send(CHAIN_MAX as u32, Descriptor::new(0, base, 64, false));
            let (mut received, mut sent) = (0, 0);
            for _ in 0..8 {
                let done = outward.forward_burst(&mut inward, max, 4, 10, |_, head| {
                    head.copy_from_slice(b"head");
                    Ok(true)
                });
                let done = done.expect("alive");
                (received, sent) = (received + done.received, sent + done.sent);
                drop(take(&mut sink, 64));
                sink.flush().expect("alive");
            }
            let case = format!("ring 2^{ring_log2}, {max} at a time, fits: {fits}");
            assert_eq!((received, sent), (2, 1 + usize::from(fits)), "{case}");
        }
    }
}

#[test]
fn a_burst_out_of_new_memory_is_sent_on_at_once() {
    let exod = exod();
    let mut line = Line::new(&exod, 6);
    let pool = line.source.add_pool(1, 4096).expect("another segment");
    let mut burst = Vec::new();
    assert_eq!(pool.alloc_burst(5, 100, &mut burst), 5);
    assert_eq!(line.source.send_burst(&mut burst).expect("credit"), 5);
    let (received, sent) = (5, 5);
    let done = line
        .outward
        .forward_burst(&mut line.inward, 64, 4, 10, |_, _| Ok(true));
    assert_eq!(done.expect("alive"), Forwarded { received, sent });
}

/// What a rewriter leaves when it panics: nothing that was received or allocated is lost.
#[test]
fn a_panic_of_the_rewriter_loses_no_slot() {
    let exod = exod();
    let mut line = Line::new(&exod, 5);
    line.send(9);
    let mut seen = 0;
    let turn = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        line.outward
            .forward_burst(&mut line.inward, 64, 4, 10, |_, head| {
                seen += 1;
                head.copy_from_slice(b"head");
                assert!(seen < 4, "the rewriter fails, as this test wants it to");
                Ok(true)
            })
    }));
    assert!(turn.is_err());
    let sent = line
        .outward
        .send_with(1, 4, |_, b| b.copy_from_slice(b"more"));
    assert_eq!(sent.expect("alive"), 1);
    let taken = take(&mut line.sink, 64);
    let lens: Vec<usize> = taken.iter().map(|packet| packet.view().len()).collect();
    assert_eq!(lens, [94, 94, 94, 4]);
    drop(taken);
    line.settle();
    all_home(&mut line.source, "after the panic");
    all_home(&mut line.outward, "after the panic");
}

/// The sink dies while the next chain finds no room: the forwarder hears it.
#[test]
fn a_sink_that_dies_is_heard_of_though_nothing_fits() {
    let exod = exod();
    let (first, third) = (connect(&exod), connect(&exod));
    let waiting = Port::create(&first, "in", config(6)).expect("a port");
    let raw = RawPeer::join(connect(&exod), "in", 1, PortFlags::SHARE);
    let raw = raw.expect("a frame, and a port that waits");
    let mut inward = waiting.ready(SOON).expect("joined");
    let (mut outward, sink) = port(&first, &third, "out", 4);
    assert_eq!(outward.send_with(13, 4, |_, _| {}).expect("credit"), 13);
    let base = raw.layout.packets;
    for k in 0..3 {
        raw.send(k, Descriptor::new(0, base + 64 * k as usize, 20, k < 2));
    }
    drop((sink, third));
    let end = Instant::now() + SOON;
    let heard = loop {
        let turn = outward.forward_burst(&mut inward, 64, 4, 10, |_, _| Ok(true));
        if let Err(error) = turn {
            break error;
        }
        assert!(Instant::now() < end, "nobody says that the sink has gone");
    };
    assert!(matches!(heard, Error::PeerGone), "{heard:?}");
}

/// Sources come and go on two ports at once: neither keeps what belonged to them.
#[test]
fn sources_that_went_are_let_go_by_every_port() {
    let exod = exod();
    let (middle, third) = (connect(&exod), connect(&exod));
    let (mut one, _sink_one) = port(&middle, &third, "one", 4);
    let (mut two, _sink_two) = port(&middle, &third, "two", 4);
    let maps = || std::fs::read_to_string("/proc/self/maps").map_or(0, |maps| maps.lines().count());
    let mut before = 0;
    for round in 0..12 {
        let first = connect(&exod);
        let (source, mut inward) = port(&first, &middle, &format!("in-{round}"), 4);
        one.share_from(&mut inward).expect("the source shares");
        two.share_from(&mut inward).expect("the source shares");
        drop((source, inward, first));
        one.flush().expect("alive");
        two.flush().expect("alive");
        if round == 1 {
            before = maps();
        }
    }
    assert!(maps() < before + 10, "{before} mappings became {}", maps());
}
