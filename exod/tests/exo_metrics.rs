//! `exo metrics`: the text is what Prometheus reads, the numbers are right, and its little HTTP
//! holds against whoever connects.

#[path = "common/exo.rs"]
mod exo;

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use exo::{Daemon, Exo, text, wait_until};
use libexo::port::PortConfig;
use rustix::process::Signal;

/// Samples by name and labels, checked for everything that the format asks for.
fn parse(text: &str) -> HashMap<String, f64> {
    let (mut samples, mut types, mut helped) = (HashMap::new(), HashMap::new(), HashSet::new());
    let mut family = String::new();
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help text");
            assert!(!help.is_empty() && helped.insert(name.to_owned()), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(helped.contains(name), "{line}: help comes first");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(
                name.starts_with("exod_") && name.chars().all(valid),
                "{line}"
            );
            assert!(
                types.insert(name.to_owned(), kind.to_owned()).is_none(),
                "{line}"
            );
            family = name.to_owned();
        } else {
            let (key, value) = line.rsplit_once(' ').expect("a value");
            let name = key.split('{').next().expect("a name");
            let suffix = name
                .strip_prefix(&family)
                .expect("samples follow their type");
            let allowed: &[&str] = match types[&family].as_str() {
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            assert!(allowed.contains(&suffix), "{line}");
            check_labels(&key[name.len()..]);
            let value: f64 = value.parse().expect(line);
            assert!(value.is_finite() && value >= 0.0, "{line}");
            assert!(
                samples.insert(key.to_owned(), value).is_none(),
                "twice: {line}"
            );
        }
    }
    check_histograms(text);
    samples
}

/// `{a="b",c="d"}`, with escapes inside of the quotes.
fn check_labels(text: &str) {
    if text.is_empty() {
        return;
    }
    let inner = text
        .strip_prefix('{')
        .and_then(|text| text.strip_suffix('}'))
        .expect(text);
    let mut rest = inner;
    let mut keys = HashSet::new();
    loop {
        let (key, more) = rest.split_once("=\"").expect(text);
        assert!(
            key.chars().all(|c| c.is_ascii_lowercase()) && keys.insert(key),
            "{text}"
        );
        let mut chars = more.char_indices();
        let end = loop {
            match chars.next().expect(text) {
                (_, '\\') => {
                    let (_, escaped) = chars.next().expect(text);
                    assert!(['\\', '"', 'n'].contains(&escaped), "{text}");
                }
                (at, '"') => break at,
                (_, c) => assert!(c != '\n', "{text}"),
            }
        };
        match more[end + 1..].strip_prefix(',') {
            Some(next) => rest = next,
            None => {
                assert!(more[end + 1..].is_empty(), "{text}");
                return;
            }
        }
    }
}

/// Buckets rise, in order of their bounds, up to the count.
fn check_histograms(text: &str) {
    let mut last: Option<(String, f64, f64)> = None;
    for line in text.lines().filter(|line| line.contains("_bucket{")) {
        let (key, value) = line.rsplit_once(' ').expect("a value");
        let (of, bound) = key.rsplit_once(",le=\"").expect("a bound");
        let bound = bound.trim_end_matches("\"}");
        let bound: f64 = bound.replace("+Inf", "inf").parse().expect(line);
        let value: f64 = value.parse().expect(line);
        if let Some((before, low, least)) = &last
            && before == of
        {
            assert!(bound > *low && value >= *least, "{line}");
        }
        if bound.is_infinite() {
            let count = format!("{}}} {value}", of.replace("_bucket", "_count"));
            assert!(text.lines().any(|line| line == count), "{count}");
        }
        last = Some((of.to_owned(), bound, value));
    }
    assert!(last.is_some(), "there are histograms");
}

fn metrics(daemon: &Daemon) -> HashMap<String, f64> {
    let out = daemon.exo(&["metrics"]).finish();
    assert!(out.status.success(), "{}", text(&out.stderr));
    parse(&text(&out.stdout))
}

/// The value of the one sample whose key begins so and has all these in it.
fn the(samples: &HashMap<String, f64>, name: &str, parts: &[&str]) -> f64 {
    let fits = |key: &&String| {
        key.split('{').next() == Some(name) && parts.iter().all(|part| key.contains(part))
    };
    let mut found = samples.keys().filter(fits);
    let key = found
        .next()
        .unwrap_or_else(|| panic!("no {name} {parts:?}: {samples:?}"));
    assert_eq!(found.next(), None, "{name} {parts:?}");
    samples[key]
}

#[test]
fn the_text_is_clean_and_the_numbers_are_right() {
    let daemon = Daemon::start(true);
    // What a process calls itself is not to be trusted.
    std::fs::write("/proc/self/comm", "a\"} 1\n\u{1b}[2J\\").expect("procfs");
    let [mut one, mut two] = daemon.pair("counted", PortConfig::default());
    let refused = one.0.stats(1 << 40);
    assert!(refused.is_err());
    // Two rings and a bit, so that the laps matter; what comes back goes the other way.
    let mut sent = 0;
    for round in 0..200 {
        sent += one
            .1
            .send_with(50, 60, |_, bytes| bytes.fill(round))
            .expect("sent");
        while !two.1.receive_burst(64).expect("received").is_empty() {}
        two.1.flush().expect("returned");
    }
    assert_eq!(sent, 10_000);
    assert_eq!(
        two.1
            .send_with(3, 60, |_, bytes| bytes.fill(1))
            .expect("sent"),
        3
    );
    let samples = metrics(&daemon);
    let port = |side| {
        the(
            &samples,
            "exod_port_descriptors_total",
            &["port=\"counted\"", side],
        )
    };
    assert_eq!((port("side=\"0\""), port("side=\"1\"")), (10_000.0, 3.0));
    assert_eq!(the(&samples, "exod_up", &[]), 1.0);
    assert_eq!(the(&samples, "exod_frames", &["owned"]), 2.0);
    assert_eq!(the(&samples, "exod_objects", &["port_side"]), 2.0);
    assert_eq!(the(&samples, "exod_refusals_total", &["NotFound"]), 1.0);
    let domain = format!("domain=\"{}\"", one.0.session().domain);
    let of_one = |name| the(&samples, name, &[&domain, "comm=\"a\\\"} 1??[2J\\\\\""]);
    assert_eq!(of_one("exod_domain_frames"), 1.0);
    assert_eq!(of_one("exod_domain_refusals_total"), 1.0);
    // A unit, the port, the peer's segment.
    assert_eq!(of_one("exod_domain_grants_total"), 3.0);
    let creates = the(
        &samples,
        "exod_request_duration_seconds_count",
        &["PortCreate"],
    );
    assert_eq!(creates, 1.0);
    assert!(the(&samples, "exod_job_duration_seconds_count", &["look"]) >= 1.0);
    // The same as JSON.
    let out = daemon.exo(&["metrics", "--json"]).finish();
    let lines = text(&out.stdout);
    let lines = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    let lines: Vec<serde_json::Value> = lines.collect();
    let up = |line: &&serde_json::Value| line["metric"] == "exod_up";
    assert_eq!(lines.iter().find(up).expect("it")["value"], 1.0);
    // Everything goes with its holder.
    drop((one, two));
    wait_until("the end of both", || {
        !metrics(&daemon)
            .keys()
            .any(|key| key.contains("counted") || key.contains(&domain))
    });
}

/// A serving `exo` and where it serves.
fn serve(daemon: &Daemon) -> (Exo, SocketAddr) {
    let mut exo = daemon.exo(&["metrics", "--listen", "127.0.0.1:0"]);
    let child = exo.0.as_mut().expect("running");
    let mut said = BufReader::new(child.stderr.take().expect("piped"));
    let address = loop {
        let mut line = String::new();
        assert!(said.read_line(&mut line).expect("text") > 0, "it ended");
        if let Some((_, rest)) = line.split_once("http://") {
            break rest
                .trim_end()
                .trim_end_matches("/metrics")
                .parse()
                .expect("an address");
        }
    };
    // Nobody reads on: what it says later must not fill a pipe.
    std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
    (exo, address)
}

fn ask(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(exo::SOON)).expect("a timeout");
    // It may have answered and closed before all was sent.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    text(&answer)
}

#[test]
fn http_serves_what_is_asked_for_and_nothing_else() {
    let mut daemon = Daemon::start(true);
    let (exo, address) = serve(&daemon);
    let get = |path: &str| {
        ask(
            address,
            format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes(),
        )
    };
    let body = |answer: String| {
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let length = format!("Content-Length: {}", body.len());
        assert!(
            head.contains(&length) && head.contains("version=0.0.4"),
            "{head}"
        );
        body.to_owned()
    };
    assert_eq!(parse(&body(get("/metrics")))["exod_up"], 1.0);
    assert_eq!(parse(&body(get("/metrics?x=y")))["exod_up"], 1.0);
    assert!(get("/").starts_with("HTTP/1.1 200"));
    assert!(get("/../etc/passwd").starts_with("HTTP/1.1 404"));
    let head = ask(address, b"HEAD /metrics HTTP/1.0\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"));
    let cases: [(&[u8], &str); 6] = [
        (b"POST /metrics HTTP/1.1\r\n\r\n", "405"),
        (b"\x00\xff\r\n\r\n", "400"),
        (b"GET /metrics HTTP/9\r\n\r\n", "400"),
        (b"\r\n\r\n", "400"),
        (&[b'x'; 100_000], "431"),
        (b"GET /metrics", ""),
    ];
    for (request, status) in cases {
        let answer = ask(address, request);
        let found = answer.strip_prefix("HTTP/1.1 ").unwrap_or_default();
        assert!(found.starts_with(status), "{request:?}: {answer}");
        assert_eq!(found.is_empty(), status.is_empty(), "{request:?}: {answer}");
    }
    // One session serves all scrapes, and a new one those after a restart.
    let before = parse(&body(get("/metrics")))["exod_sessions_begun_total"];
    assert_eq!(
        parse(&body(get("/metrics")))["exod_sessions_begun_total"],
        before
    );
    daemon.restart(Signal::TERM, |_| {
        let away = body(get("/metrics"));
        assert!(away.contains("\nexod_up 0\n"), "{away}");
    });
    assert_eq!(parse(&body(get("/metrics")))["exod_up"], 1.0);
    exo.signal(Signal::TERM);
    assert!(exo.finish().status.success());
}

#[test]
fn clients_that_say_nothing_do_not_keep_others_out() {
    let daemon = Daemon::start(true);
    let (_exo, address) = serve(&daemon);
    let get = || ask(address, b"GET /metrics HTTP/1.1\r\n\r\n");
    // Fewer than there is room for: nobody waits.
    let idle: Vec<TcpStream> = (0..8)
        .map(|_| TcpStream::connect(address).expect("it listens"))
        .collect();
    assert!(get().contains("\nexod_up 1\n"));
    // More than there is room for, some of which send a byte now and then: for a while only.
    let mut many: Vec<TcpStream> = (0..40)
        .map(|_| TcpStream::connect(address).expect("it listens"))
        .collect();
    wait_until("a place", || {
        for stream in &mut many {
            let _ = stream.write_all(b"x");
        }
        get().contains("\nexod_up 1\n")
    });
    drop((idle, many));
}

#[test]
fn without_the_right_to_it_there_are_no_metrics() {
    let daemon = Daemon::start(false);
    for args in [&["metrics"][..], &["top", "--once"], &["metrics", "--json"]] {
        let out = daemon.exo(args).finish();
        assert_eq!(out.status.code(), Some(1));
        assert!(
            text(&out.stderr).contains("admin = true"),
            "{}",
            text(&out.stderr)
        );
        assert!(out.stdout.is_empty());
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let daemon = Daemon::start(true);
    for args in [
        &["metrics"][..],
        &["status"],
        &["doctor"],
        &["top", "--json", "-i", "0.05"],
    ] {
        let mut exo = daemon.exo(args);
        let child = exo.0.as_mut().expect("running");
        drop(child.stdout.take());
        let out = exo.finish();
        assert_eq!(
            out.status.code(),
            Some(0),
            "{args:?}: {}",
            text(&out.stderr)
        );
        assert_eq!(text(&out.stderr), "", "{args:?}");
    }
}
