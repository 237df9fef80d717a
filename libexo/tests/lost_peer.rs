//! A peer that is gone with its memory: what was held from it is data or an error, never zeroes.
//!
//! These tests install the guard, so they have a program of their own.

use std::time::{Duration, Instant};

use exod::Embedded;
use exod::config::Config;
use exod::frames::PageChoice;
use libexo::abi::port::PortFlags;
use libexo::port::{Port, PortConfig, RxPacket};
use libexo::{Client, Error, guard};

mod raw_peer;
use raw_peer::{RawPeer, SOON};

const GIVE_BACK_MS: u16 = 50;

/// An exod with these pages, if it starts here.
fn exod(pages: PageChoice) -> Option<Embedded> {
    let mut config = Config::embedded();
    config.give_back_ms = GIVE_BACK_MS;
    config.pool.pages = pages;
    // Others may need the large ones.
    config.pool.ready.0.clear();
    match Embedded::start(config) {
        Ok(exod) => Some(exod),
        Err(error) => {
            println!("skipped: {pages:?}: {error}");
            None
        }
    }
}

fn connect(exod: &Embedded) -> Client {
    Client::over(exod.connect().expect("a socket")).expect("a session")
}

fn pair(exod: &Embedded) -> libexo::Result<(Port, RawPeer)> {
    let config = PortConfig {
        ring_log2: 4,
        ..PortConfig::default()
    };
    let waiting = Port::create(&connect(exod), "lost", config)?;
    let peer = RawPeer::join(connect(exod), "lost", 1, PortFlags::empty())?;
    Ok((waiting.ready(SOON)?, peer))
}

fn fill(peer: &RawPeer) {
    for word in 0..8 {
        let at = peer.layout.packets + 8 * word;
        peer.memory.store(at, 0x0101_0101_0101_0101);
    }
}

fn read(packet: &RxPacket) -> libexo::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    packet.view().append_to(&mut bytes)?;
    Ok(bytes)
}

/// Runs a test over each kind of pages, on fresh pairs.
fn each_kind(test: impl Fn(Port, RawPeer, u32)) {
    guard::install().expect("a handler");
    for pages in [PageChoice::Huge2M, PageChoice::Thp, PageChoice::Small4K] {
        let Some(exod) = exod(pages) else { continue };
        for laps in 0..4 {
            match pair(&exod) {
                Ok((port, peer)) => test(port, peer, laps),
                Err(error @ Error::Refused { .. }) if pages == PageChoice::Huge2M => {
                    println!("skipped: {pages:?}: {error}");
                }
                Err(error) => panic!("{pages:?}: {error}"),
            }
        }
    }
}

#[test]
fn what_is_held_from_the_dead_is_data_or_an_error() {
    each_kind(|mut port, peer, _| {
        fill(&peer);
        peer.send(0, peer.good(64));
        let packet = port.receive_burst(1).expect("alive").take_next();
        let packet = packet.expect("it was sent");
        assert_eq!(read(&packet).expect("alive"), [1; 64]);
        drop(peer);
        let deadline = Instant::now() + SOON;
        loop {
            assert!(Instant::now() < deadline, "it was never taken");
            match read(&packet) {
                Ok(bytes) => assert_eq!(bytes, [1; 64], "zeroes were taken for data"),
                Err(error) => {
                    assert!(matches!(error, Error::Revoked), "{error}");
                    break;
                }
            }
        }
        // And it stays lost.
        std::thread::sleep(Duration::from_millis(2 * u64::from(GIVE_BACK_MS)));
        assert!(matches!(read(&packet), Err(Error::Revoked)));
        match port.receive_burst(1) {
            Err(Error::PeerGone | Error::Revoked) => {}
            other => panic!("{other:?}"),
        };
    });
}

/// Zeroes in the place of rings look new in every other lap: they are not what the peer wrote.
#[test]
fn the_rings_of_the_dead_say_nothing() {
    each_kind(|mut port, peer, laps| {
        for position in 0..laps * peer.slots() {
            fill(&peer);
            peer.send(position, peer.good(64));
            assert_eq!(port.receive_burst(1).expect("alive").count(), 1);
        }
        drop(peer);
        std::thread::sleep(Duration::from_millis(4 * u64::from(GIVE_BACK_MS)));
        for _ in 0..3 {
            match port.receive_burst(16) {
                Err(Error::PeerGone | Error::Revoked) => {}
                other => panic!("lap {laps}: {other:?}"),
            }
            match port.flush() {
                Ok(()) | Err(Error::PeerGone | Error::Revoked) => {}
                other => panic!("lap {laps}: {other:?}"),
            }
        }
    });
}
