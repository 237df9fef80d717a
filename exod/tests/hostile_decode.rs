//! The decoder against any bytes: it never panics, and what it accepts is within its ranges.

use std::path::Path;

use exod::decode::{Command, decode};
use exod::frames::FRAMES_MAX;
use libexo::abi::port::{RING_LOG2, SEGMENTS_MAX};
use libexo::abi::wire::Op;

/// Mutations of each seed.
const ROUNDS: usize = 20_000;

fn seeds() -> Vec<Vec<u8>> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let files = std::fs::read_dir(corpus).expect("the corpus");
    files
        .map(|file| std::fs::read(file.expect("a file").path()).expect("its bytes"))
        .collect()
}

fn mutate(rng: &mut fastrand::Rng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.usize(1..4) {
        if bytes.is_empty() {
            return;
        }
        let at = rng.usize(..bytes.len());
        match rng.u8(..6) {
            0 => bytes[at] = rng.u8(..),
            1 => bytes[at] ^= 1 << rng.u8(..8),
            2 => bytes[at] = 0,
            3 => bytes[at] = 0xff,
            4 => bytes[0] = rng.u8(..16),
            _ => bytes.truncate(rng.usize(60..66)),
        }
    }
}

/// Checks what the decoder promises to whoever invokes.
fn check(bytes: &[u8]) -> bool {
    let Some((head, decoded)) = decode(bytes) else {
        assert_ne!(bytes.len(), 64);
        return false;
    };
    assert_eq!(head.op, u16::from_le_bytes([bytes[0], bytes[1]]));
    let Ok(command) = decoded else {
        return false;
    };
    assert!(Op::from_raw(head.op).is_some());
    match command {
        Command::AllocUnit { frames, .. } => assert!((1..=FRAMES_MAX).contains(&frames)),
        Command::PortCreate {
            name, ring_log2, ..
        } => {
            assert!(RING_LOG2.contains(&ring_log2));
            assert!(!name.as_str().is_empty());
        }
        Command::PortJoin { name, .. } | Command::PortTap { name, .. } => {
            assert!(!name.as_str().is_empty());
        }
        Command::PortSegment { segment, .. } => assert!(segment < SEGMENTS_MAX),
        _ => {}
    }
    true
}

#[test]
fn no_bytes_upset_the_decoder() {
    let seeds = seeds();
    assert_eq!(seeds.len(), Op::ALL.len(), "one seed for each operation");
    let mut rng = fastrand::Rng::with_seed(0xdec0de);
    let mut accepted = 0;
    for seed in &seeds {
        assert!(check(seed), "a seed is a good request: {seed:?}");
        for _ in 0..ROUNDS {
            let mut bytes = seed.clone();
            mutate(&mut rng, &mut bytes);
            accepted += usize::from(check(&bytes));
        }
    }
    // Otherwise the mutations would test nothing but the first check.
    assert!(accepted > ROUNDS, "{accepted} of the mutations were good");
    for _ in 0..ROUNDS {
        let mut bytes = [0; 64];
        rng.fill(&mut bytes);
        check(&bytes);
    }
}
