//! The trail under more than it can take: every number is in the file or is told as lost.

use super::*;
use libexo::abi::counters::Counter;

fn config(path: PathBuf) -> AuditConfig {
    AuditConfig {
        path,
        group: None,
        bytes_max: 64 << 20,
        kept: 1,
    }
}

#[test]
fn a_flood_loses_lines_and_says_how_many() {
    const EVENTS: u64 = 50_000;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("trail");
    let counters = Arc::new(Counters::create().expect("a page"));
    let trail = Trail::open(config(path.clone()), counters.clone()).expect("it can be had");
    let subject = Subject {
        session: 1,
        ..Subject::default()
    };
    for handle in 0..EVENTS {
        trail.note(subject, None, What::Loss { handle });
        trail.kick();
    }
    assert!(trail.stop(), "the disk takes it");
    let text = std::fs::read_to_string(&path).expect("the file");
    let lines = text.lines().map(serde_json::from_str::<serde_json::Value>);
    let (mut last, mut lost) = (0, 0);
    for line in lines {
        let line = line.expect("JSON");
        let seq = line["seq"].as_u64().expect("a number");
        let gap = line["lines"].as_u64();
        lost += gap.unwrap_or(0);
        assert_eq!(seq, last + gap.unwrap_or(1), "{line}");
        last = seq;
    }
    let stopped = text
        .lines()
        .last()
        .is_some_and(|line| line.contains("\"stop\""));
    if stopped {
        assert_eq!(last, EVENTS + 2, "a start, and a stop");
    }
    let mut page = vec![0; counters.bytes()];
    rustix::io::pread(&*counters.reader(), &mut page, 0).expect("readable");
    let count = |counter: Counter| {
        let at = 8 * counter.word();
        u64::from_le_bytes(page[at..at + 8].try_into().expect("eight bytes"))
    };
    assert_eq!(count(Counter::AuditEvents), EVENTS + 2);
    let untold = EVENTS + 2 - last;
    assert_eq!(count(Counter::AuditLost), lost + untold);
}
