//! What is taken out of a burst and what is sent on: a source, a forwarder and a sink, three
//! domains that do not trust each other, with the payload in the source's memory alone.

use std::time::{Duration, Instant};

use libexo::Error;
use libexo::abi::port::{CHAIN_MAX, Descriptor};
use libexo::port::Port;

mod line;
mod raw_peer;
use line::{Line, all_home, bytes_of, connect, exod, port, raw_port, take};
use raw_peer::SOON;

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
    let (raw, mut sink) = raw_port(&exod, &connect(&exod), "chains");
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
