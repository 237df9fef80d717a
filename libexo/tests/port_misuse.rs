//! What an honest application does wrong with a port is told to it, and costs nobody anything.

use std::time::Duration;

use exod::Embedded;
use exod::config::Config;
use exod::frames::PageChoice;
use libexo::abi::port::PIECE_LEN_MAX;
use libexo::client::{Inspection, Ledger};
use libexo::port::{Port, PortConfig};
use libexo::{Client, Error};

const SOON: Duration = Duration::from_secs(10);

fn exod() -> Embedded {
    let mut config = Config::embedded();
    config.pool.pages = PageChoice::Small4K;
    Embedded::start(config).expect("an embedded exod needs no privilege")
}

fn connect(exod: &Embedded) -> Client {
    Client::over(exod.connect().expect("a socket")).expect("a session")
}

fn ports(one: &Client, two: &Client, config: PortConfig) -> (Port, Port) {
    let waiting = Port::create(one, "misuse", config).expect("a port");
    let joined = Port::join(two, "misuse", config).expect("it waits");
    (waiting.ready(SOON).expect("joined"), joined)
}

/// What the peer sees now: the lengths of all packets that wait.
fn lengths(port: &mut Port) -> Vec<usize> {
    let burst = port.receive_burst(256).expect("nothing wrong was sent");
    burst.map(|packet| packet.len()).collect()
}

#[test]
fn packets_that_cannot_be_sent_stay_with_their_sender() {
    let exod = exod();
    let (one, two) = (connect(&exod), connect(&exod));
    let config = PortConfig {
        buffer_len: 128 << 10,
        ..PortConfig::default()
    };
    let (mut source, mut sink) = ports(&one, &two, config);
    let foreign = Port::create(&one, "foreign", config).expect("a port");
    let other = Port::join(&two, "foreign", config).expect("it waits");
    let (empty, long) = (source.alloc(0), source.alloc(PIECE_LEN_MAX + 1));
    for bad in [empty, long, other.alloc(64)] {
        let good = || source.alloc(PIECE_LEN_MAX).expect("a buffer");
        let mut burst = vec![good(), good(), bad.expect("a buffer"), good()];
        assert_eq!(
            source
                .send_burst(&mut burst)
                .expect("the first two are good"),
            2
        );
        assert_eq!(lengths(&mut sink), [PIECE_LEN_MAX; 2]);
        let error = source.send_burst(&mut burst).expect_err("the next is not");
        assert!(matches!(error, Error::WrongSize { .. }), "{error}");
        assert_eq!(burst.len(), 2, "nothing is lost");
        burst.remove(0);
        assert_eq!(source.send_burst(&mut burst).expect("good again"), 1);
        assert_eq!(lengths(&mut sink), [PIECE_LEN_MAX]);
        sink.flush().expect("alive");
        source.flush().expect("alive");
    }
    for len in [0, PIECE_LEN_MAX + 1, 200 << 10, usize::MAX] {
        let error = source.send_with(1, len, |_, _| panic!("there is nothing to fill"));
        assert!(
            matches!(error, Err(Error::WrongSize { .. })),
            "{len}: {error:?}"
        );
    }
    assert!(lengths(&mut sink).is_empty());
    drop(foreign);
}

#[test]
fn a_head_that_cannot_be_sent_is_refused() {
    let exod = exod();
    let (one, two) = (connect(&exod), connect(&exod));
    let config = PortConfig {
        share: true,
        ..PortConfig::default()
    };
    let (mut port, mut back) = ports(&one, &two, config);
    let unshared = PortConfig {
        share: false,
        ..config
    };
    let waiting = Port::create(&one, "unshared", unshared).expect("a port");
    let mut joined = Port::join(&two, "unshared", unshared).expect("it waits");
    back.share_from(&mut joined)
        .expect_err("its peer did not share");
    drop((joined, waiting));
    assert_eq!(
        port.send_with(1, 64, |_, bytes| bytes.fill(1))
            .expect("credit"),
        1
    );
    let body = back
        .receive_burst(1)
        .expect("alive")
        .take_next()
        .expect("a packet");
    let head = back.alloc(0).expect("a buffer");
    assert!(back.forward(head, body, 0).is_err());
    assert!(lengths(&mut port).is_empty());
}

/// Timeouts longer than the clock are for ever.
#[test]
fn the_longest_timeouts_do_not_overflow() {
    let exod = exod();
    let (one, two) = (connect(&exod), connect(&exod));
    let waiting = Port::create(&one, "long", PortConfig::default()).expect("a port");
    let mut joined =
        Port::join_when_there(&two, "long", PortConfig::default(), Duration::MAX).expect("there");
    let mut port = waiting.ready(Duration::MAX).expect("joined");
    assert_eq!(
        port.send_with(1, 64, |_, bytes| bytes.fill(1))
            .expect("credit"),
        1
    );
    assert!(joined.wait(Some(Duration::MAX)).expect("alive"));
}

fn ledger(client: &Client) -> Ledger {
    client.stats(0).expect("an admin")
}

/// Waits for the ledger to be what it was, since exod takes memory back in the background.
fn balances(client: &Client, before: Ledger, what: &str) {
    let deadline = std::time::Instant::now() + SOON;
    while ledger(client) != before {
        assert!(
            std::time::Instant::now() < deadline,
            "{what}: {:?}, was {before:?}",
            ledger(client)
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A session may open and close as many ports as it likes: what each took goes with it.
#[test]
fn a_port_takes_everything_with_it() {
    let exod = exod();
    let (one, two) = (connect(&exod), connect(&exod));
    let before = ledger(&one);
    for _ in 0..3 {
        let (mut source, mut sink) = ports(&one, &two, PortConfig::default());
        let pool = source.add_pool(1, 2048).expect("another segment");
        let packet = pool.alloc(64).expect("a buffer");
        source.send_burst(&mut vec![packet]).expect("credit");
        assert_eq!(lengths(&mut sink), [64]);
        drop((pool, source, sink));
        balances(&one, before, "both left");
    }
    // Packets outlive their port, and so does their memory.
    let (source, sink) = ports(&one, &two, PortConfig::default());
    let mut packet = source.alloc(64).expect("a buffer");
    drop((source, sink));
    packet.fill(7);
    assert_eq!(packet[63], 7);
    drop(packet);
    balances(&one, before, "the last packet went");
}

#[test]
fn a_port_that_cannot_be_made_leaves_nothing() {
    let exod = exod();
    let (one, two) = (connect(&exod), connect(&exod));
    let before = ledger(&one);
    let good = PortConfig::default();
    let bad = PortConfig {
        buffer_len: 100,
        ..good
    };
    let waiting = Port::create(&one, "bad", good).expect("a port");
    Port::join(&two, "bad", bad)
        .map(|_| ())
        .expect_err("no multiple of a cache line");
    drop(waiting);
    balances(&one, before, "a joiner's buffers");
    Port::join(&two, "bad", good)
        .map(|_| ())
        .expect_err("it is not there");
    balances(&one, before, "nothing to join");
    drop(Port::create(&one, "bad", good).expect("a port"));
    balances(&one, before, "nobody came");
    Port::create(
        &one,
        "bad",
        PortConfig {
            ring_log2: 3,
            ..good
        },
    )
    .map(|_| ())
    .expect_err("small");
    let huge = PortConfig {
        ring_log2: 16,
        frames: 1,
        buffer_len: 4 << 20,
        ..good
    };
    Port::create(&one, "bad", huge)
        .and_then(|w| {
            Port::join(&two, "bad", good)?;
            w.ready(SOON)
        })
        .map(|_| ())
        .expect_err("no such buffer fits");
    balances(&one, before, "a creator's buffers");
}

/// After it said that the peer has gone, a port does not look at memory that exod may have taken
/// back: this program has no guard, and would die.
#[test]
fn a_port_whose_peer_has_gone_leaves_its_memory_alone() {
    for pages in [PageChoice::Huge2M, PageChoice::Small4K] {
        let mut config = Config::embedded();
        config.pool.pages = pages;
        config.pool.ready.0.clear();
        let exod = match Embedded::start(config) {
            Ok(exod) => exod,
            Err(error) => {
                println!("skipped: {pages:?}: {error}");
                continue;
            }
        };
        let (one, two) = (connect(&exod), connect(&exod));
        let ready = Port::create(&one, "left", PortConfig::default()).and_then(|waiting| {
            let joined = Port::join(&two, "left", PortConfig::default())?;
            Ok((waiting.ready(SOON)?, joined))
        });
        let (mut port, mut peer) = match ready {
            Ok(ports) => ports,
            Err(error @ Error::Refused { .. }) if pages == PageChoice::Huge2M => {
                println!("skipped: {pages:?}: {error}");
                continue;
            }
            Err(error) => panic!("{pages:?}: {error}"),
        };
        assert_eq!(port.send_with(2, 64, |_, b| b.fill(1)).expect("alive"), 2);
        assert_eq!(lengths(&mut peer), [64; 2]);
        drop(peer);
        while port.receive_burst(1).is_ok() {}
        assert_eq!(port.outstanding(), 0, "what it returned came home");
        // exod takes the peer's segment back, though this side still maps it.
        let deadline = std::time::Instant::now() + SOON;
        let usable = |seen: &Inspection| seen.state == 2;
        let left = || one.list().map(|seen| seen.expect("a session"));
        while left().filter(usable).count() > 2 {
            assert!(
                std::time::Instant::now() < deadline,
                "{:?}",
                left().collect::<Vec<_>>()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(matches!(port.receive_burst(1), Err(Error::PeerGone)));
        let sent = port.send_with(1, 64, |_, b| b.fill(2));
        assert!(matches!(sent, Err(Error::PeerGone)), "{sent:?}");
        let sent = port.send_burst(&mut vec![port.alloc(64).expect("a buffer")]);
        assert!(matches!(sent, Err(Error::PeerGone)), "{sent:?}");
        assert!(matches!(port.wait(Some(SOON)), Err(Error::PeerGone)));
        port.announce();
        port.flush().expect("nothing to do");
    }
}
