//! A port whose other side writes whatever it likes into its own segment: the honest side answers
//! with an error or goes on. It never panics, hangs, or looks outside of what it was given, and
//! exod tells the liar that the port is over.

use std::time::{Duration, Instant};

use exod::Embedded;
use exod::config::Config;
use exod::frames::PageChoice;
use fastrand::Rng;
use libexo::abi::port::{CHAIN_MAX, Descriptor, PIECE_LEN_MAX, PortFlags, Return, SLEEP_WORD};
use libexo::abi::status::Status;
use libexo::port::{Port, PortConfig, RxPacket};
use libexo::shm::LineReader;
use libexo::{Client, Error, Result};

mod raw_peer;
use raw_peer::{RawPeer, SOON};

/// Smallest ring, so that everything wraps soon.
const RING_LOG2: u32 = 4;
const SLOTS: u32 = 1 << RING_LOG2;

/// Time for the random part.
const RANDOM_FOR: Duration = Duration::from_secs(5);

fn exod() -> Embedded {
    let mut config = Config::embedded();
    // Segments are as good in small pages, and other tests need the large ones.
    config.pool.pages = PageChoice::Small4K;
    Embedded::start(config).expect("an embedded exod needs no privilege")
}

fn connect(exod: &Embedded) -> Client {
    Client::over(exod.connect().expect("a socket")).expect("a session")
}

/// An honest side and a liar on one port. The liar has `liar_frames` frames.
fn pair_with(exod: &Embedded, config: PortConfig, liar_frames: u64) -> (Port, RawPeer) {
    let waiting = Port::create(&connect(exod), "lies", config).expect("a port");
    let liar = RawPeer::join(connect(exod), "lies", liar_frames, PortFlags::SHARE);
    let liar = liar.expect("frames, and a port that waits");
    (waiting.ready(SOON).expect("the liar joined"), liar)
}

fn config() -> PortConfig {
    PortConfig {
        ring_log2: RING_LOG2,
        buffers_max: 64,
        ..PortConfig::default()
    }
}

fn pair(exod: &Embedded) -> (Port, RawPeer) {
    pair_with(exod, config(), 1)
}

fn send(port: &mut Port, count: usize) -> usize {
    port.send_with(count, 64, |_, bytes| bytes.fill(7))
        .expect("an honest send")
}

/// Counts bytes, and words whose bytes are not all the same.
#[derive(Default)]
struct Lines {
    bytes: usize,
    torn: usize,
}

impl LineReader for Lines {
    fn line(&mut self, words: [u64; 8], len: usize) {
        let torn = |word: &&u64| **word != (**word & 0xff) * 0x0101_0101_0101_0101;
        self.bytes += len;
        self.torn += words.iter().filter(torn).count();
    }
}

/// Receives once and reads every byte of every packet: how many packets.
fn receive(port: &mut Port) -> Result<usize> {
    let mut bytes = Vec::new();
    let mut seen = 0;
    for packet in port.receive_burst(256)? {
        bytes.clear();
        let len = packet.append_to(&mut bytes)?;
        assert!(len == packet.len() && len == bytes.len() && len > 0);
        let lines = packet.bytes().read_lines(Lines::default())?;
        assert_eq!(lines.bytes, packet.bytes().len());
        seen += 1;
    }
    Ok(seen)
}

fn is_violation(error: &Error) -> bool {
    matches!(error, Error::PeerViolation(_))
}

/// The honest side finds out, and the liar is told.
fn expect_violation<T: std::fmt::Debug>(result: Result<T>, liar: &RawPeer, what: &str) {
    match result {
        Err(error) if is_violation(&error) => liar.until_peer_gone(),
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn the_raw_side_speaks_the_protocol_when_it_does_not_lie() {
    let exod = exod();
    let (mut port, liar) = pair(&exod);
    for position in 0..5 * SLOTS {
        liar.send(position, liar.good(100));
        assert_eq!(receive(&mut port).expect("an honest packet"), 1);
        port.flush().expect("returns go out");
        let run = liar
            .returned(position)
            .expect("each burst returns its slots");
        assert_eq!((run.first(), run.count()), (position % SLOTS, 1));

        assert_eq!(send(&mut port, 1), 1);
        let seen = Descriptor(liar.received(position));
        assert_eq!((seen.lap(), seen.len()), (liar.lap(position), 64));
        liar.give(position, Return::new(position % SLOTS, 1));
    }
    port.flush().expect("honest returns");
    assert_eq!(port.pool().available(), port.pool().capacity());
    assert!(!liar.client.status(liar.handle).contains(Status::PEER_GONE));
}

#[test]
fn descriptors_that_point_where_they_must_not() {
    let exod = exod();
    let segment = 2 << 20;
    let at = |offset, len| Descriptor::new(0, offset, len, false);
    let cases: &[(&str, Descriptor)] = &[
        ("a byte beyond the end", at(segment - 64, 65)),
        ("begins at the end", at(segment, 1)),
        ("far outside", at((64 << 24) - 64, 64)),
        ("as far as can be said", at((64 << 24) - 1, PIECE_LEN_MAX)),
        ("longest from the last byte", at(segment - 1, PIECE_LEN_MAX)),
        ("empty", at(4096 * 4, 0)),
        ("empty at the end", at(segment, 0)),
        ("a segment never attached", Descriptor::new(1, 0, 64, false)),
        ("the last segment", Descriptor::new(31, 0, 64, false)),
        (
            "empty in a segment never attached",
            Descriptor::new(7, 0, 0, false),
        ),
        ("bit 53", Descriptor(at(4096 * 4, 64).0 | 1 << 53)),
        ("bit 63", Descriptor(at(4096 * 4, 64).0 | 1 << 63)),
        ("all ones", Descriptor(!0)),
        ("all zeroes", Descriptor(0)),
    ];
    for (what, descriptor) in cases {
        let (mut port, liar) = pair(&exod);
        liar.send(0, *descriptor);
        expect_violation(receive(&mut port), &liar, what);

        let (mut port, liar) = pair(&exod);
        liar.send(0, liar.good(64));
        liar.send(1, Descriptor::new(0, liar.layout.packets, 64, true));
        liar.send(2, *descriptor);
        expect_violation(receive(&mut port), &liar, what);
    }
}

/// The liar may lend any of its bytes, its rings and control line included: they are its own.
#[test]
fn the_liars_own_rings_are_bytes_like_others() {
    let exod = exod();
    let (mut port, liar) = pair(&exod);
    let all = liar.memory.map.len();
    let places = [
        (0, 64),
        (4096, 8),
        (all - 1, 1),
        (all - PIECE_LEN_MAX, PIECE_LEN_MAX),
    ];
    for (position, (offset, len)) in (0..).zip(places) {
        liar.send(position, Descriptor::new(0, offset, len, false));
    }
    assert_eq!(receive(&mut port).expect("inside"), places.len());
}

#[test]
fn chains_that_are_too_long() {
    let exod = exod();
    for log2 in [4, 6] {
        let config = PortConfig {
            ring_log2: log2,
            ..config()
        };
        let (mut port, liar) = pair_with(&exod, config, 1);
        let piece = |more| Descriptor::new(0, liar.layout.packets, 1, more);
        let most = CHAIN_MAX as u32;
        (0..most).for_each(|k| liar.send(k, piece(k + 1 < most)));
        let mut burst = port.receive_burst(1).expect("as long as may be");
        assert_eq!(burst.next().expect("a packet").piece_count(), CHAIN_MAX);
        (most..2 * most).for_each(|k| liar.send(k, piece(true)));
        expect_violation(receive(&mut port), &liar, "a chain without end");
    }
}

/// An unfinished chain is not a packet: the receiver may sleep on it, and learns that its sender
/// died.
#[test]
fn an_unfinished_chain_keeps_nobody_awake() {
    let exod = exod();
    let (mut port, liar) = pair(&exod);
    for position in 0..3 {
        liar.send(position, Descriptor::new(0, liar.layout.packets, 64, true));
    }
    assert_eq!(receive(&mut port).expect("no packet yet"), 0);
    // Exod has news for a fresh port; whoever waits takes it in.
    let mut woken = 0;
    while port.wait(Some(Duration::from_millis(20))).expect("alive") {
        woken += 1;
        assert!(woken < 10, "awake without a packet");
    }
    drop(liar);
    let deadline = Instant::now() + SOON;
    let error = loop {
        assert!(
            Instant::now() < deadline,
            "the sender's death went unnoticed"
        );
        match receive(&mut port) {
            Ok(0) => {}
            Ok(_) => panic!("half a packet was received"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::PeerGone | Error::Revoked), "{error}");
}

#[test]
fn a_chain_is_read_again_until_it_is_whole() {
    let exod = exod();
    let (mut port, liar) = pair(&exod);
    liar.send(0, Descriptor::new(0, liar.layout.packets, 64, true));
    assert_eq!(receive(&mut port).expect("no packet yet"), 0);
    // What was seen before is not trusted now.
    liar.send(0, Descriptor::new(3, 0, 64, true));
    expect_violation(receive(&mut port), &liar, "a piece that changed");

    let (mut port, liar) = pair(&exod);
    liar.send(0, Descriptor::new(0, liar.layout.packets, 64, true));
    assert_eq!(receive(&mut port).expect("no packet yet"), 0);
    liar.send(1, liar.good(32));
    let mut burst = port.receive_burst(8).expect("a packet");
    let packet = burst.next().expect("whole");
    assert_eq!((packet.len(), packet.piece_count()), (96, 2));
}

fn take(port: &mut Port, max: usize) -> Vec<RxPacket> {
    let mut burst = port.receive_burst(max).expect("packets");
    std::iter::from_fn(|| burst.take_next()).collect()
}

#[test]
fn a_slot_that_is_held_is_sent_again() {
    let exod = exod();
    for kept in [0, 3, SLOTS as usize - 1] {
        let (mut port, liar) = pair(&exod);
        (0..SLOTS).for_each(|k| liar.send(k, liar.good(64)));
        let mut held = take(&mut port, SLOTS as usize);
        assert_eq!(held.len(), SLOTS as usize);
        let held = held.swap_remove(kept);
        assert_eq!(held.view().len(), 64);
        (SLOTS..2 * SLOTS).for_each(|k| liar.send(k, liar.good(64)));
        expect_violation(receive(&mut port), &liar, "a held slot");
        assert_eq!(
            held.view().len(),
            64,
            "what is held stays as it was checked"
        );
    }
}

/// While a burst is staged the liar flips the first slots to the next lap: the burst must not go
/// round the ring.
#[test]
fn one_burst_is_never_longer_than_the_ring() {
    let exod = exod();
    let (mut port, liar) = pair(&exod);
    let word = |k| liar.good(64).with_lap(liar.lap(k));
    let deadline = Instant::now() + Duration::from_millis(300);
    std::thread::scope(|scope| {
        let base = liar.memory.map.as_mut_ptr() as usize + liar.layout.descriptors;
        let (first, second) = (word(0), word(SLOTS));
        scope.spawn(move || {
            while Instant::now() < deadline {
                for lap in [first, second] {
                    for slot in 0..SLOTS as usize {
                        // SAFETY: the slot lies in the liar's segment, which outlives the scope.
                        let slot =
                            unsafe { &*((base + 8 * slot) as *const std::sync::atomic::AtomicU64) };
                        slot.store(lap, std::sync::atomic::Ordering::Release);
                    }
                }
            }
        });
        while Instant::now() < deadline {
            match port.receive_burst(256) {
                Ok(burst) => assert!(burst.len() <= SLOTS as usize, "{} packets", burst.len()),
                Err(error) => panic!("nothing that is held was sent again: {error}"),
            }
        }
    });
}

/// Each run is given while slots 0 to 3 and 6 of sixteen are out.
#[test]
fn returns_of_what_is_not_out() {
    let exod = exod();
    let ok: &[(&str, &[Return])] = &[
        ("in order", &[Return::new(0, 4), Return::new(4, 3)]),
        (
            "backwards",
            &[Return::new(6, 1), Return::new(5, 1), Return::new(0, 5)],
        ),
        ("all at once", &[Return::new(0, 7)]),
    ];
    for (what, runs) in ok {
        let (mut port, liar) = pair(&exod);
        assert_eq!(send(&mut port, 7), 7);
        (0..).zip(*runs).for_each(|(k, run)| liar.give(k, *run));
        port.flush()
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!((port.outstanding(), port.pool().available()), (0, 64));
    }
    let raw = |first: u64, count: u64| Return(first | count << 32);
    let bad: &[(&str, &[Return])] = &[
        ("twice", &[Return::new(2, 1), Return::new(2, 1)]),
        ("twice in order", &[Return::new(0, 1), Return::new(0, 1)]),
        ("overlapping", &[Return::new(0, 3), Return::new(2, 2)]),
        (
            "around one that is home",
            &[Return::new(3, 1), Return::new(2, 3)],
        ),
        ("early", &[Return::new(7, 1)]),
        ("one too many", &[Return::new(4, 4)]),
        ("wrapped", &[Return::new(15, 3)]),
        ("more than all", &[Return::new(0, 8)]),
        ("the whole ring", &[Return::new(0, 16)]),
        ("more than the ring", &[Return::new(0, 17)]),
        ("the most that can be said", &[raw(0, 0x1_ffff)]),
        ("none", &[raw(0, 0)]),
        ("a slot outside of the ring", &[raw(16, 1)]),
        ("the last slot that can be said", &[raw(0xffff, 1)]),
        ("bit 16", &[Return(raw(0, 1).0 | 1 << 16)]),
        ("bit 49", &[Return(raw(0, 1).0 | 1 << 49)]),
        ("all ones", &[Return(!0)]),
    ];
    for (what, runs) in bad {
        let (mut port, liar) = pair(&exod);
        assert_eq!(send(&mut port, 7), 7);
        (0..).zip(*runs).for_each(|(k, run)| liar.give(k, *run));
        expect_violation(port.flush(), &liar, what);
        let held: Vec<_> = std::iter::from_fn(|| port.alloc(64)).collect();
        assert!(held.len() <= 64);
        let mut places: Vec<_> = held.iter().map(|packet| packet.as_ptr()).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), held.len(), "{what}: one buffer, two packets");
    }
}

#[test]
fn returns_before_anything_was_sent() {
    let exod = exod();
    for run in [Return::new(0, 1), Return::new(5, 2), Return::new(0, SLOTS)] {
        let (mut port, liar) = pair(&exod);
        liar.give(0, run);
        expect_violation(port.flush(), &liar, "nothing was out");
    }
}

/// Words of the wrong lap are not there, whatever else they say.
#[test]
fn wrong_laps_are_not_seen() {
    let exod = exod();
    let (mut port, liar) = pair(&exod);
    assert_eq!(send(&mut port, 3), 3);
    for position in 0..SLOTS {
        liar.raw_descriptor(position, liar.good(64).with_lap(false));
        liar.raw_return(position, Return::new(0, 3).with_lap(false));
    }
    assert_eq!(receive(&mut port).expect("nothing new"), 0);
    port.flush().expect("nothing new");
    assert_eq!(port.outstanding(), 3);
    // Later slots of this lap are not looked at before their turn.
    liar.send(5, liar.good(64));
    assert_eq!(receive(&mut port).expect("nothing new"), 0);
}

/// After a violation the port is over, also when the liar takes its words back.
#[test]
fn a_violation_is_the_end() {
    let exod = exod();
    let (mut port, liar) = pair(&exod);
    assert_eq!(send(&mut port, 2), 2);
    liar.send(0, Descriptor(0));
    expect_violation(receive(&mut port), &liar, "an empty piece");
    liar.send(0, liar.good(64));
    liar.give(0, Return::new(0, 2));
    let over = |result: Result<usize>, what| match result {
        Err(Error::PeerViolation(_) | Error::Revoked | Error::PeerGone) => {}
        other => panic!("{what} after the end: {other:?}"),
    };
    over(receive(&mut port), "received");
    over(port.send_with(1, 64, |_, _| {}), "sent");
    over(port.wait(Some(Duration::ZERO)).map(usize::from), "waited");
}

/// A sleep word that is never the same costs a ring each time and nothing else.
#[test]
fn a_sleep_word_that_says_anything() {
    let exod = exod();
    let (mut port, liar) = pair(&exod);
    let mut sent = 0;
    for word in (0..2000u64).map(|k| k.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1) {
        liar.memory.store(8 * SLEEP_WORD, word);
        if send(&mut port, 1) == 1 {
            liar.give(sent, Return::new(sent % SLOTS, 1));
            sent += 1;
        }
        let _ = receive(&mut port).expect("nothing is wrong");
    }
    assert!(sent > 1000);
    // A full bell of the liar's, and one of ours that it rang until it was full.
    while rustix::io::write(&liar.peer_bell, &1u64.to_ne_bytes()).is_ok() {}
    let deadline = Instant::now() + SOON;
    while port.wait(Some(Duration::from_millis(10))).expect("alive") {
        assert!(Instant::now() < deadline, "rings without end");
    }
}

/// Bytes that change while they are read are read once each; no more can be said of them.
#[test]
fn bytes_that_change_while_they_are_read() {
    let exod = exod();
    let (mut port, liar) = pair(&exod);
    let until = Instant::now() + Duration::from_millis(300);
    std::thread::scope(|scope| {
        let base = liar.memory.map.as_mut_ptr() as usize + liar.layout.packets;
        scope.spawn(move || {
            let mut value = 0u64;
            while Instant::now() < until {
                value = (value + 1) & 0xff;
                for word in 0..512 {
                    // SAFETY: the word lies in the liar's segment, which outlives the scope.
                    let word =
                        unsafe { &*((base + 8 * word) as *const std::sync::atomic::AtomicU64) };
                    word.store(
                        value * 0x0101_0101_0101_0101,
                        std::sync::atomic::Ordering::Relaxed,
                    );
                }
            }
        });
        let mut position = 0;
        while Instant::now() < until {
            liar.send(position, liar.good(4096));
            position += 1;
            let mut burst = port.receive_burst(1).expect("a good packet");
            let packet = burst.next().expect("it was sent");
            // Aligned words are not torn: all bytes of one are the same.
            let lines = packet.bytes().read_lines(Lines::default()).expect("alive");
            assert_eq!(lines.torn, 0);
            let [head] = packet.bytes().head::<1>().expect("long enough");
            std::hint::black_box(head);
        }
    });
}

/// What the liar may write, told in a word: `d`escriptor, `r`eturn, `c`ontrol.
#[derive(Clone, Copy, Debug)]
enum Lie {
    Descriptor(u32, u64),
    Return(u32, u64),
    Control(usize, u64),
    /// The honest side takes its turn.
    Turn,
}

fn tell(liar: &RawPeer, lie: Lie) {
    match lie {
        Lie::Descriptor(slot, word) => liar.raw_descriptor(slot, word),
        Lie::Return(slot, word) => liar.raw_return(slot, word),
        Lie::Control(word, value) => liar.memory.store(8 * (word % 8), value),
        Lie::Turn => {}
    }
}

/// What an honest side does in its turn, with everything that it got.
struct Honest {
    port: Port,
    held: Vec<RxPacket>,
    turns: u64,
}

impl Honest {
    fn turn(&mut self, rng: &mut Rng) -> Result<()> {
        self.turns += 1;
        let port = &mut self.port;
        port.send_with(rng.usize(0..4), 64, |_, bytes| bytes.fill(1))?;
        if rng.u8(..) < 128 {
            let mut burst = port.receive_burst(rng.usize(0..20))?;
            while let Some(packet) = burst.take_next() {
                if rng.bool() {
                    self.held.push(packet);
                }
            }
        } else {
            receive(port)?;
        }
        while self.held.len() > rng.usize(0..12) {
            let packet = self.held.swap_remove(rng.usize(..self.held.len()));
            let mut bytes = Vec::new();
            assert_eq!(packet.view().append_to(&mut bytes)?, packet.view().len());
        }
        if rng.u8(..) < 16 {
            port.wait(Some(Duration::ZERO))?;
        }
        port.flush()
    }

    /// Lets lies pass until one is found out or there are no more. True when it was found out.
    fn hear(&mut self, liar: &RawPeer, lies: impl IntoIterator<Item = Lie>, rng: &mut Rng) -> bool {
        for lie in lies {
            tell(liar, lie);
            if !matches!(lie, Lie::Turn) && rng.u8(..) < 128 {
                continue;
            }
            match self.turn(rng) {
                Ok(()) => {}
                Err(error) if is_violation(&error) => {
                    liar.until_peer_gone();
                    return true;
                }
                Err(error) => panic!("{error}"),
            }
        }
        false
    }
}

fn any_lie(rng: &mut Rng, liar: &RawPeer) -> Lie {
    let slot = rng.u32(..SLOTS);
    let near = rng.u64(..64);
    match rng.u32(..10) {
        0 => Lie::Descriptor(slot, rng.u64(..)),
        1 => Lie::Return(slot, rng.u64(..)),
        2 => Lie::Control(rng.usize(..8), rng.u64(..)),
        // Words that are nearly right get further.
        3..=6 => {
            let offset = rng.usize(..liar.memory.map.len() + 128);
            let segment = if rng.u8(..) < 8 { rng.u8(..32) } else { 0 };
            let len = [1, 64, 1500, rng.usize(..=PIECE_LEN_MAX)][rng.usize(..4)];
            let descriptor = Descriptor::new(segment, offset, len, rng.u8(..) < 64);
            Lie::Descriptor(slot, descriptor.with_lap(rng.bool()))
        }
        7 | 8 => {
            let run = Return(u64::from(slot) | (near % 4) << 32);
            Lie::Return(slot, run.with_lap(rng.bool()))
        }
        _ => Lie::Turn,
    }
}

#[test]
fn random_words() {
    let exod = exod();
    let start = Instant::now();
    let (mut found, mut passed, mut turns) = (0u32, 0u32, 0);
    for seed in 0.. {
        if start.elapsed() > RANDOM_FOR {
            break;
        }
        let mut rng = Rng::with_seed(seed);
        let (port, liar) = pair(&exod);
        let held = Vec::new();
        let mut honest = Honest {
            port,
            held,
            turns: 0,
        };
        let lies: Vec<_> = (0..400).map(|_| any_lie(&mut rng, &liar)).collect();
        match honest.hear(&liar, lies, &mut rng) {
            true => found += 1,
            false => passed += 1,
        }
        turns += honest.turns;
        // Whatever was believed, each buffer is one packet's.
        let Honest { port, held, .. } = honest;
        drop(held);
        let packets: Vec<_> = std::iter::from_fn(|| port.alloc(64)).collect();
        let mut places: Vec<_> = packets.iter().map(|packet| packet.as_ptr()).collect();
        let all = places.len();
        places.sort_unstable();
        places.dedup();
        assert!(
            places.len() == all && all <= port.pool().capacity(),
            "seed {seed}"
        );
    }
    println!("{found} liars found out, {passed} passed, in {turns} turns");
    assert!(found > 0);
}

/// Lies that were interesting once, one file each: a line is a ring (`d`, `r`), a control word
/// (`c`), its slot and its word, or `turn`. A `#` begins a comment.
#[test]
fn the_corpus() {
    let exod = exod();
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut files: Vec<_> = std::fs::read_dir(&corpus)
        .expect("the corpus")
        .map(|file| file.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|end| end == "lies"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    for path in files {
        let text = std::fs::read_to_string(&path).expect("text");
        for seed in 0..16 {
            let (port, liar) = pair(&exod);
            let held = Vec::new();
            let mut honest = Honest {
                port,
                held,
                turns: 0,
            };
            honest.hear(
                &liar,
                text.lines().filter_map(parse),
                &mut Rng::with_seed(seed),
            );
        }
    }
}

fn parse(line: &str) -> Option<Lie> {
    let line = line.split('#').next()?;
    let words: Vec<_> = line.split_whitespace().collect();
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).expect("a number"),
        None => text.parse().expect("a number"),
    };
    match *words.as_slice() {
        [] => None,
        ["turn"] => Some(Lie::Turn),
        ["d", slot, word] => Some(Lie::Descriptor(number(slot) as u32, number(word))),
        ["r", slot, word] => Some(Lie::Return(number(slot) as u32, number(word))),
        ["c", slot, word] => Some(Lie::Control(number(slot) as usize, number(word))),
        _ => panic!("not a lie: {line:?}"),
    }
}
