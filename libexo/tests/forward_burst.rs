//! Bursts that are sent on: as single packets are, whatever the source and the sink do.

use std::time::Instant;

use libexo::Error;
use libexo::abi::port::{CHAIN_MAX, Descriptor};
use libexo::abi::wire::ErrorCode;
use libexo::port::{Forwarded, PeerPacket, Port, PortConfig};

mod line;
mod raw_peer;
use line::{Line, all_home, config, connect, exod, port, raw_port, take};
use raw_peer::SOON;

/// Sends everything on.
fn under_head(_: &PeerPacket<'_>, head: &mut [u8]) -> libexo::Result<bool> {
    head.copy_from_slice(b"head");
    Ok(true)
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
        line.all_home("a round");
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
    line.all_home("after the error");
}

/// The source sends from memory that it does not share: the forwarder drops it and goes on.
#[test]
fn what_can_not_be_sent_on_is_dropped() {
    let exod = exod();
    let (first, third) = (connect(&exod), connect(&exod));
    let (raw, mut inward) = raw_port(&exod, &first, "in");
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
    let done = outward.forward_burst(&mut inward, 64, 4, 10, under_head);
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
    drop(taken);
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
            let (raw, mut inward) = raw_port(&exod, &first, "in");
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
                let done = outward.forward_burst(&mut inward, max, 4, 10, under_head);
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
    line.all_home("after the panic");
}

/// The sink dies while the next chain finds no room: the forwarder hears it.
#[test]
fn a_sink_that_dies_is_heard_of_though_nothing_fits() {
    let exod = exod();
    let (first, third) = (connect(&exod), connect(&exod));
    let (raw, mut inward) = raw_port(&exod, &first, "in");
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
