//! `netbench replay` with real files: made by the library that other programs' files are read with,
//! and, where tcpdump may listen, captured from loopback.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionBlock;

/// A file of our own, removed at the end.
struct Sample(PathBuf);

impl Sample {
    fn new(name: &str) -> Sample {
        let name = format!("exo-replay-{}-{name}", std::process::id());
        Sample(std::env::temp_dir().join(name))
    }

    fn of(name: &str, lens: impl IntoIterator<Item = usize>) -> Sample {
        let sample = Sample::new(name);
        let file = File::create(&sample.0).expect("a file");
        let mut writer = PcapNgWriter::new(file).expect("a header");
        let interface = InterfaceDescriptionBlock::new(DataLink::ETHERNET, 0);
        writer.write_pcapng_block(interface).expect("written");
        let mut random = fastrand::Rng::with_seed(3);
        for len in lens {
            let data: Vec<u8> = (0..len).map(|_| random.u8(..)).collect();
            let packet = EnhancedPacketBlock {
                interface_id: 0,
                timestamp: Duration::from_secs(1),
                original_len: len as u32,
                data: Cow::Owned(data),
                options: Vec::new(),
            };
            writer.write_pcapng_block(packet).expect("written");
        }
        sample
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn replay(file: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_netbench"))
        .arg("replay")
        .arg(file)
        .args(args)
        .output()
        .expect("netbench starts")
}

fn report(file: &Path, loops: &str) -> serde_json::Value {
    let out = replay(file, &["--loops", loops, "--json"]);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{stderr}");
    serde_json::from_slice(&out.stdout).expect("JSON")
}

#[test]
fn every_packet_arrives_as_it_was() {
    let lens = [60, 1514, 1, 577, 0, 9000, 65_535];
    let sample = Sample::of("mixed", (0..700).map(|n| lens[n % lens.len()]));
    let seen = report(&sample.0, "3");
    assert_eq!(seen["packets"], 600 * 3);
    assert_eq!(seen["bytes"], 3 * 100 * lens.iter().sum::<usize>());
    for none in ["mismatches", "lost"] {
        assert_eq!(seen[none], 0, "{seen}");
    }
    assert_eq!(seen["skipped_empty"], 100);
    assert!(seen["value"].as_f64().expect("a rate") > 0.0);
    let out = replay(&sample.0, &[]);
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.contains("0 mismatches, 0 lost"), "{text}");
}

#[test]
fn files_that_are_no_good_are_refused_with_the_place() {
    let says = |file: &Path, words: &str| {
        let out = replay(file, &[]);
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(words), "{words}: {stderr}");
    };
    says(Path::new("/nonexistent"), "cannot read");
    let sample = Sample::of("cut", [60, 60]);
    let whole = std::fs::read(&sample.0).expect("the file");
    std::fs::write(&sample.0, &whole[..whole.len() - 5]).expect("written");
    // The second of two blocks of 92 bytes (8 of type and length, 20 of header, 60, 4 of length).
    let place = format!("offset {}, after 1 packets", whole.len() - 92);
    says(&sample.0, &place);
    says(&Sample::of("none", []).0, "no packet to send");
    says(&Sample::of("long", [65_536]).0, "65536 bytes");
}

#[test]
fn a_capture_of_loopback_is_replayed() {
    const PACKETS: usize = 40;
    let sample = Sample::new("lo");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback");
    let port = socket.local_addr().expect("bound").port();
    let spawned = Command::new("tcpdump")
        .args(["-i", "lo", "-U", "-c", &PACKETS.to_string(), "-w"])
        .arg(&sample.0)
        .args(["udp", "and", "port", &port.to_string()])
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut tcpdump) = spawned else {
        println!("skipped: no tcpdump here");
        return;
    };
    let mut lines = BufReader::new(tcpdump.stderr.take().expect("piped")).lines();
    let listens = lines
        .by_ref()
        .map_while(Result::ok)
        .any(|l| l.contains("listening on"));
    if !listens {
        let _ = tcpdump.wait();
        println!("skipped: tcpdump may not listen on lo");
        return;
    }
    for n in 0..PACKETS {
        socket
            .send_to(&vec![n as u8; 10 + 30 * n], ("127.0.0.1", port))
            .expect("sent");
    }
    assert!(tcpdump.wait().expect("ends after its count").success());
    let seen = report(&sample.0, "25");
    assert_eq!(
        (&seen["packets"], &seen["lost"]),
        (&(PACKETS * 25).into(), &0.into())
    );
    assert_eq!(seen["mismatches"], 0);
    // Ethernet, IPv4 and UDP headers before our bytes.
    assert_eq!(seen["size_min"], 42 + 10);
}
