//! `exo` against a running exod: real packets pass a port while it dumps, and then the file is
//! compared with what was sent, here and by the programs that people read such files with.

#[path = "common/exo.rs"]
mod exo;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use exo::{Daemon, text, wait_until};
use libexo::Client;
use libexo::abi::status::Status;
use libexo::port::{Port, PortConfig, RxPacket};
use pcap_file::pcapng::{Block, PcapNgReader};
use rustix::process::Signal;

/// Waits until a side mirrors: it joins the tap in its first look after it was told.
fn tapped(side: &mut (Client, Port)) {
    let (client, port) = side;
    wait_until("the tap", || {
        client.status(port.handle()).contains(Status::TAP)
    });
    port.wait(Some(Duration::ZERO)).expect("still there");
}

fn payload(seq: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (seq * 31 + at * 7) as u8).collect()
}

/// Sends packets, each in a burst of its own, while the other side throws them away.
fn send(from: &mut Port, to: &mut Port, packets: &[Vec<u8>]) {
    for packet in packets {
        let mut own = from.alloc(packet.len()).expect("a buffer");
        own.copy_from_slice(packet);
        let mut burst = vec![own];
        while from.send_burst(&mut burst).expect("sent") == 0 {}
        drain(to);
        from.flush().expect("returned");
    }
}

fn drain(port: &mut Port) {
    while !port.receive_burst(256).expect("received").is_empty() {}
}

/// The packets in a file: which side, how long, what of it.
fn packets(file: &Path) -> Vec<(u32, u32, Vec<u8>)> {
    let mut reader = PcapNgReader::new(File::open(file).expect("the file")).expect("pcapng");
    let mut found = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block.expect("a whole block") {
            let data = packet.data.into_owned();
            found.push((packet.interface_id, packet.original_len, data));
        }
    }
    found
}

fn of_side(all: &[(u32, u32, Vec<u8>)], side: u32) -> Vec<Vec<u8>> {
    let mine = all.iter().filter(|(from, ..)| *from == side);
    mine.map(|(_, _, data)| data.clone()).collect()
}

/// What another program reads from the file, or none (and why) where it is not installed.
fn read_with(program: &str, args: &[&str], file: &Path) -> Option<String> {
    let run = Command::new(program).args(args).arg(file).output();
    let Ok(out) = run else {
        println!("skipped: no {program} here");
        return None;
    };
    assert!(out.status.success(), "{program}: {}", text(&out.stderr));
    Some(text(&out.stdout))
}

#[test]
fn a_dump_is_what_passed_both_ways() {
    let daemon = Daemon::start(true);
    let config = PortConfig {
        buffer_len: 9216,
        ..PortConfig::default()
    };
    let [mut one, mut two] = daemon.pair("demo", config);
    let file = daemon.file();
    let exo = daemon.exo(&["dump", "demo", "-w", file.to_str().expect("a path")]);
    tapped(&mut one);
    tapped(&mut two);
    // Small ones, standard ones, and jumbo frames that take several parts.
    let lens = [
        1, 14, 60, 64, 1500, 1518, 2031, 2032, 2033, 4064, 4065, 9000, 9216,
    ];
    let there: Vec<_> = (0..200).map(|n| payload(n, lens[n % lens.len()])).collect();
    let back: Vec<_> = (0..90).map(|n| payload(n + 7, 100 + n)).collect();
    send(&mut one.1, &mut two.1, &there);
    send(&mut two.1, &mut one.1, &back);
    // Filled in place.
    let filled = two
        .1
        .send_with(5, 77, |n, b| b.fill(n as u8))
        .expect("sent");
    assert_eq!(filled, 5);
    let (_, stderr) = exo.interrupt();
    let bytes: usize = there.iter().chain(&back).map(Vec::len).sum::<usize>() + 5 * 77;
    let counts = format!("295 packets (200 from side 0, 95 from side 1), {bytes} bytes, 0 dropped");
    assert!(stderr.contains(&counts), "{stderr}");

    let all = packets(&file);
    assert_eq!(of_side(&all, 0), there);
    let mut expected = back.clone();
    expected.extend((0..5u8).map(|n| vec![n; 77]));
    assert_eq!(of_side(&all, 1), expected);
    let args = [
        "-T",
        "fields",
        "-e",
        "frame.len",
        "-e",
        "frame.interface_name",
        "-r",
    ];
    if let Some(out) = read_with("tshark", &args, &file) {
        let lines = out.lines().map(|line| line.trim().to_owned());
        let name = |side: u32| format!("demo/{side}");
        let expected = all
            .iter()
            .map(|(side, len, _)| format!("{len}\t{}", name(*side)));
        assert!(lines.eq(expected), "{out}");
    }
    if let Some(out) = read_with("tcpdump", &["-nn", "-tt", "-r"], &file) {
        assert_eq!(
            out.lines().filter(|l| !l.starts_with('\t')).count(),
            all.len()
        );
    }
    // Nobody mirrors any more, and the sides have their frames back.
    wait_until("the taps' end", || {
        [&one, &two]
            .iter()
            .all(|(client, port)| !client.status(port.handle()).contains(Status::TAP))
    });
    for (client, port) in [&mut one, &mut two] {
        port.wait(Some(Duration::ZERO)).expect("still there");
        let left = client
            .list()
            .collect::<Result<Vec<_>, _>>()
            .expect("listed");
        assert_eq!(left.len(), 3, "own segment, port, peer's segment: {left:?}");
    }
}

#[test]
fn forwarded_chains_are_dumped_whole() {
    let daemon = Daemon::start(true);
    let share = PortConfig {
        share: true,
        ..PortConfig::default()
    };
    let [mut source, mut inside] = daemon.pair("in", share);
    let [mut outside, mut sink] = daemon.pair("out", PortConfig::default());
    // One domain has both middle sides, as a forwarder does.
    drop((inside, outside));
    let middle = daemon.client();
    let mut waiting = Port::create(&source.0, "in2", share).expect("created");
    let joined = Port::join(&middle, "in2", share).expect("joined");
    source.1 = waiting.try_ready().expect("no error").expect("joined");
    inside = (middle.clone(), joined);
    let mut waiting = Port::create(&middle, "out2", PortConfig::default()).expect("created");
    sink.1 = Port::join(&sink.0, "out2", PortConfig::default()).expect("joined");
    outside = (
        middle,
        waiting.try_ready().expect("no error").expect("joined"),
    );
    outside.1.share_from(&mut inside.1).expect("shared");

    let file = daemon.file();
    let exo = daemon.exo(&["dump", "out2", "-w", file.to_str().expect("a path")]);
    tapped(&mut outside);
    let mut expected = Vec::new();
    for n in 0..50 {
        let packet = payload(n, 100 + n);
        source
            .1
            .send_with(1, packet.len(), |_, b| b.copy_from_slice(&packet))
            .expect("sent");
        let body: RxPacket = loop {
            if let Some(body) = inside.1.receive_burst(1).expect("received").take_next() {
                break body;
            }
        };
        let mut head = outside.1.alloc(14).expect("a buffer");
        head.fill(n as u8);
        let back = outside.1.forward(head, body, 14).expect("forwarded");
        assert!(back.is_none(), "there was credit");
        outside.1.announce();
        drain(&mut sink.1);
        for port in [&mut outside.1, &mut inside.1, &mut source.1] {
            port.flush().expect("returned");
        }
        expected.push([&[n as u8; 14], &packet[14..]].concat());
    }
    exo.interrupt();
    assert_eq!(of_side(&packets(&file), 0), expected);
}

#[test]
fn what_finds_no_room_is_counted_and_the_port_goes_on() {
    const SENT: usize = 6000;
    let daemon = Daemon::start(true);
    let [mut one, mut two] = daemon.pair("busy", PortConfig::default());
    let file = daemon.file();
    let exo = daemon.exo(&[
        "dump",
        "busy",
        "--json",
        "-w",
        file.to_str().expect("a path"),
    ]);
    tapped(&mut one);
    exo.signal(Signal::STOP);
    let sent: Vec<_> = (0..SENT).map(|n| payload(n, 60)).collect();
    send(&mut one.1, &mut two.1, &sent);
    exo.signal(Signal::CONT);
    // The last words of the side that sends nothing more.
    exo.signal(Signal::INT);
    wait_until("the tap's end", || {
        !one.0.status(one.1.handle()).contains(Status::TAP)
    });
    one.1.wait(Some(Duration::ZERO)).expect("still there");
    let out = exo.finish();
    assert!(out.status.success(), "{}", text(&out.stderr));
    let summary: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let count = |key: &str| summary["total"][key].as_u64().expect("a number") as usize;
    assert_eq!(count("packets") + count("dropped"), SENT, "{summary}");
    assert!(count("dropped") > 0 && count("packets") > 0, "{summary}");
    let found = of_side(&packets(&file), 0);
    assert_eq!(found.len(), count("packets"));
    let mut expected = sent.iter();
    for packet in &found {
        assert!(expected.any(|sent| sent == packet), "in order, each once");
    }
}

#[test]
fn lines_stop_at_the_count_and_long_packets_are_cut() {
    let daemon = Daemon::start(true);
    let [mut one, mut two] = daemon.pair("lines", PortConfig::default());
    let exo = daemon.exo(&["dump", "lines", "-c", "3", "-s", "4", "--json"]);
    tapped(&mut one);
    let sent: Vec<_> = (0..5).map(|n| payload(n, 10 + n)).collect();
    send(&mut one.1, &mut two.1, &sent);
    let out = exo.finish();
    assert!(out.status.success(), "{}", text(&out.stderr));
    let stdout = text(&out.stdout);
    let mut lines = stdout
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    for packet in &sent[..3] {
        let line = lines.next().expect("a line");
        let data: String = packet[..4].iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            (&line["side"], &line["len"]),
            (&0.into(), &packet.len().into())
        );
        assert_eq!(line["data"], data);
    }
    assert_eq!(lines.next().expect("the counts")["total"]["packets"], 3);
    assert!(lines.next().is_none());

    let mut exo = daemon.exo(&["dump", "lines"]);
    tapped(&mut one);
    send(&mut one.1, &mut two.1, &[b"plain text".to_vec()]);
    let child = exo.0.as_mut().expect("running");
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    stdout.read_line(&mut line).expect("text");
    let expected = " 0>1    10 bytes  706c61696e2074657874  plain.text\n";
    assert!(line.ends_with(expected), "{line}");
    // The port's end ends the dump too.
    drop(one);
    let out = exo.finish();
    assert!(out.status.success(), "{}", text(&out.stderr));
}

#[test]
fn a_dump_that_is_killed_leaves_nothing() {
    let daemon = Daemon::start(true);
    let [mut one, mut two] = daemon.pair("killed", PortConfig::default());
    let exo = daemon.exo(&["dump", "killed"]);
    tapped(&mut one);
    exo.signal(Signal::KILL);
    exo.finish();
    wait_until("the tap's end", || {
        !one.0.status(one.1.handle()).contains(Status::TAP)
    });
    send(&mut one.1, &mut two.1, &[payload(1, 60)]);
    let held = one.0.list().count();
    assert_eq!(held, 3, "own segment, port, peer's segment");
    // And another one can begin.
    let exo = daemon.exo(&["dump", "killed", "-c", "1"]);
    tapped(&mut one);
    send(&mut one.1, &mut two.1, &[payload(2, 60)]);
    assert!(exo.finish().status.success());
}

#[test]
fn refusals_say_what_to_do() {
    let daemon = Daemon::start(true);
    let says = |daemon: &Daemon, args: &[&str], words: &str| {
        let out = daemon.exo(args).finish();
        let stderr = text(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{args:?}: {stderr}");
        assert!(stderr.contains(words), "{args:?}: {stderr}");
    };
    says(
        &daemon,
        &["dump", "nothing"],
        "its sides must be there first",
    );
    says(&daemon, &["dump", "no name"], "letters, digits");
    says(&daemon, &["dump", "tap:x/0"], "can be tapped");
    let [one, _two] = daemon.pair("here", PortConfig::default());
    says(
        &daemon,
        &["dump", "here", "-w", "/nonexistent/x"],
        "cannot create",
    );
    let first = daemon.exo(&["dump", "here"]);
    wait_until("the tap", || {
        one.0.status(one.1.handle()).contains(Status::TAP)
    });
    says(&daemon, &["dump", "here"], "exists already");
    first.interrupt();
    let strict = Daemon::start(false);
    let _pair = strict.pair("here", PortConfig::default());
    says(&strict, &["dump", "here"], "admin = true");
    says(&strict, &["status"], "admin = true");
    says(
        &strict,
        &["--socket", "/nonexistent", "status"],
        "is exod running?",
    );
}

#[test]
fn status_shows_the_ledger() {
    let daemon = Daemon::start(true);
    // Sessions that ended a moment ago may still be there.
    wait_until("nobody", || status(&daemon)["domains"] == 0);
    let _pair = daemon.pair("here", PortConfig::default());
    wait_until("both sides", || {
        let now = status(&daemon);
        (&now["port_sides"], &now["sessions"], &now["frames_owned"])
            == (&2.into(), &2.into(), &2.into())
    });
    let out = daemon.exo(&["status"]).finish();
    assert!(out.status.success());
    let table = text(&out.stdout);
    for words in [
        "2 owned",
        "2 with 2 sessions",
        "2 port sides",
        "audit     off",
    ] {
        assert!(table.contains(words), "{words}: {table}");
    }
    assert!(!table.contains('\u{1b}'), "no colours but on a terminal");
}

fn status(daemon: &Daemon) -> serde_json::Value {
    let out = daemon.exo(&["status", "--json"]).finish();
    assert!(out.status.success(), "{}", text(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("JSON")
}
