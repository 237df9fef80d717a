//! Ports between two sessions of an embedded exod, each side in a thread of its own: what is sent
//! arrives, in order, whole, and everything comes home.

use std::time::Duration;

use exod::Embedded;
use exod::config::Config;
use libexo::port::{Port, PortConfig};
use libexo::{Client, Error};

const SOON: Duration = Duration::from_secs(10);

fn exod() -> Embedded {
    Embedded::start(Config::embedded()).expect("an embedded exod needs no privilege")
}

/// Runs one function per side, each with a port joined to the other's.
fn pair(config: PortConfig, creator: impl FnOnce(Port) + Send, joiner: impl FnOnce(Port) + Send) {
    let exod = exod();
    let (one, two) = (exod.connect().unwrap(), exod.connect().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let client = Client::over(one).unwrap();
            creator(
                Port::create(&client, "test", config)
                    .unwrap()
                    .ready(SOON)
                    .unwrap(),
            );
        });
        scope.spawn(move || {
            let client = Client::over(two).unwrap();
            joiner(Port::join_when_there(&client, "test", config, SOON).unwrap());
        });
    });
}

fn byte(seq: u64, at: usize) -> u8 {
    (seq as usize * 31 + at * 7) as u8
}

fn send_all(port: &mut Port, packets: u64, len: impl Fn(u64) -> usize) {
    let mut burst = Vec::new();
    let mut seq = 0;
    while seq < packets || !burst.is_empty() {
        while burst.len() < 32 && seq < packets {
            let Some(mut packet) = port.alloc(len(seq)) else {
                break;
            };
            packet
                .iter_mut()
                .enumerate()
                .for_each(|(at, b)| *b = byte(seq, at));
            burst.push(packet);
            seq += 1;
        }
        if port.send_burst(&mut burst).unwrap() == 0 {
            port.wait(Some(SOON)).unwrap();
        }
        if burst.is_empty() && port.pool().available() == 0 {
            port.flush().unwrap();
        }
    }
}

fn receive_all(port: &mut Port, packets: u64, len: impl Fn(u64) -> usize) {
    let mut seq = 0;
    let mut bytes = Vec::new();
    while seq < packets {
        let burst = port.receive_burst(64).unwrap();
        if burst.is_empty() {
            assert!(port.wait(Some(SOON)).unwrap(), "packet {seq} never came");
            continue;
        }
        for packet in burst {
            bytes.clear();
            packet.append_to(&mut bytes).unwrap();
            assert_eq!(bytes.len(), len(seq));
            assert!(
                bytes.iter().enumerate().all(|(at, b)| *b == byte(seq, at)),
                "packet {seq}"
            );
            seq += 1;
        }
    }
}

#[test]
fn packets_arrive_whole_and_in_order() {
    let len = |seq: u64| 1 + (seq as usize * 37) % 2048;
    pair(
        PortConfig {
            ring_log2: 6,
            ..PortConfig::default()
        },
        |mut port| {
            send_all(&mut port, 20_000, len);
            while port.outstanding() > 0 {
                port.wait(Some(SOON)).unwrap();
                port.flush().unwrap();
            }
            assert_eq!(
                port.pool().available(),
                port.pool().capacity(),
                "all buffers came home"
            );
        },
        |mut port| {
            receive_all(&mut port, 20_000, len);
            port.flush().unwrap();
            assert!(matches!(wait_for_end(&mut port), Error::PeerGone));
        },
    );
}

fn wait_for_end(port: &mut Port) -> Error {
    loop {
        match port
            .receive_burst(1)
            .map(|_| ())
            .and_then(|()| port.wait(Some(SOON)))
        {
            Ok(true) => {}
            Ok(false) => panic!("the end never came"),
            Err(error) => return error,
        }
    }
}

#[test]
fn both_directions_at_once() {
    let len = |seq: u64| 60 + (seq as usize % 5);
    let both = |mut port: Port| {
        for round in 0..200 {
            let mut sent = 0;
            while sent < 16 {
                sent += port
                    .send_with(16 - sent, len(0), |_, b| b.fill(round as u8))
                    .unwrap();
            }
            let mut seen = 0;
            while seen < 16 {
                // The other side may be a round ahead, having seen all that we sent in this one.
                let burst = port.receive_burst(16 - seen).unwrap();
                seen += burst.len();
                for packet in burst {
                    assert_eq!(packet.bytes().head::<60>().unwrap(), [round as u8; 60]);
                }
            }
        }
        // Neither leaves before the other has read its last packets.
        port.flush().unwrap();
        std::thread::sleep(Duration::from_millis(50));
    };
    pair(PortConfig::default(), both, both);
}

#[test]
fn taken_packets_come_home_in_any_order() {
    pair(
        PortConfig {
            ring_log2: 4,
            ..PortConfig::default()
        },
        |mut port| {
            for round in 0..100u64 {
                send_all(&mut port, 16, |_| 64);
                while port.outstanding() > 0 {
                    assert!(port.wait(Some(SOON)).unwrap(), "round {round}");
                    port.flush().unwrap();
                }
            }
        },
        |mut port| {
            let mut held = Vec::new();
            let mut seen = 0;
            while seen < 1600 {
                let mut burst = port.receive_burst(16).unwrap();
                while let Some(packet) = burst.take_next() {
                    seen += 1;
                    held.push(packet);
                }
                if held.len() == 16 {
                    // Every other one first, then backwards.
                    let mut index = 0;
                    held.retain(|_| {
                        index += 1;
                        index % 2 == 0
                    });
                    while held.pop().is_some() {}
                    port.flush().unwrap();
                }
            }
        },
    );
}

#[test]
fn a_hoarder_starves_itself_alone() {
    pair(
        PortConfig {
            ring_log2: 4,
            ..PortConfig::default()
        },
        |mut port| {
            let mut sent = 0;
            while sent < 16 {
                sent += port.send_with(16, 64, |_, b| b.fill(1)).unwrap();
            }
            assert_eq!(
                port.send_with(1, 64, |_, b| b.fill(2)).unwrap(),
                0,
                "no credit is left"
            );
            assert_eq!(port.outstanding(), 16);
            assert!(port.wait(Some(SOON)).unwrap());
            assert_eq!(
                port.send_with(1, 64, |_, b| b.fill(3)).unwrap(),
                1,
                "a slot came home"
            );
            std::thread::sleep(Duration::from_millis(100));
        },
        |mut port| {
            let mut held = Vec::new();
            while held.len() < 16 {
                let mut burst = port.receive_burst(16).unwrap();
                held.extend(std::iter::from_fn(|| burst.take_next()));
            }
            std::thread::sleep(Duration::from_millis(50));
            held.clear();
            port.flush().unwrap();
            while port.receive_burst(1).unwrap().is_empty() {}
        },
    );
}
