//! Tables that are none, or were damaged: recovery refuses them, and never panics.

use std::os::fd::OwnedFd;

use proptest::prelude::*;

use super::super::layout::{ARRAYS_FIRST, INTENT_FIRST, TX_WRITES_MAX, header};
use super::*;

fn busy_words() -> Vec<u64> {
    let (mut table, memory) = table(SMALL);
    let mut events = Vec::new();
    let [a, b] = [(); 2].map(|()| table.add_domain(plenty()).unwrap());
    let (_, root) = table.add_object(a, unit(3), ALL).unwrap();
    let branch = table.derive(a, root, b, ALL).unwrap();
    for _ in 0..3 {
        table.derive(b, branch, a, Rights::READ).unwrap();
    }
    table.drop_cap(b, branch, &mut events).unwrap();
    let (_, gone) = table.add_object(b, port(), ALL).unwrap();
    table.drop_cap(b, gone, &mut events).unwrap();
    table.add_object(b, unit(1), Rights::READ).unwrap();
    memory.words.take()
}

fn open(words: Vec<u64>) -> Result<Table<Memory>, OpenError> {
    Table::reopen(Memory::from_words(words))
}

#[test]
fn what_is_no_table_is_refused() {
    open(busy_words()).expect("as it was written");
    assert!(matches!(open(Vec::new()), Err(OpenError::NotATable(_))));
    assert!(matches!(
        open(vec![0; 100_000]),
        Err(OpenError::NotATable(_))
    ));
    let immutable = [header::MAGIC, header::VERSION, header::TOTAL_WORDS]
        .into_iter()
        .chain(header::LIMITS..header::LIMITS + 3);
    for word in immutable {
        for value in [0, 1, u64::MAX, busy_words()[word] + 1] {
            let mut words = busy_words();
            if words[word] != value {
                words[word] = value;
                assert!(
                    matches!(open(words), Err(OpenError::NotATable(_))),
                    "word {word}"
                );
            }
        }
    }
    for len in [1, header::WORDS, ARRAYS_FIRST, busy_words().len() - 1] {
        let mut words = busy_words();
        words.truncate(len);
        assert!(
            matches!(open(words), Err(OpenError::NotATable(_))),
            "{len} words"
        );
    }
    let mut words = busy_words();
    words.push(0);
    assert!(matches!(open(words), Err(OpenError::NotATable(_))));
    let none = Limits {
        capabilities: 1,
        objects: 2,
        domains: 2,
    };
    assert!(matches!(Table::create(none), Err(OpenError::Limits)));
}

#[test]
fn files_that_could_shrink_are_refused() {
    let plain = tempfile::tempfile().expect("a file");
    plain.set_len(1 << 20).expect("room");
    assert!(matches!(
        Table::recover(OwnedFd::from(plain)),
        Err(OpenError::NotATable(_))
    ));
    let flags = rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING;
    let memfd = rustix::fs::memfd_create("unsealed", flags).expect("a memfd");
    rustix::fs::ftruncate(&memfd, 1 << 20).expect("room");
    assert!(matches!(
        Table::recover(memfd),
        Err(OpenError::NotATable(_))
    ));
    let table = Table::create(SMALL).expect("a memfd");
    let shrunk = rustix::fs::ftruncate(table.as_fd(), 0);
    assert_eq!(shrunk, Err(rustix::io::Errno::PERM));
}

#[test]
fn intents_that_write_elsewhere_are_refused() {
    let committed = {
        // A real commit word: of a transaction that died after it.
        let (table, memory) = table(SMALL);
        let mut table = table;
        let stores = |n| memory.stores_left.set(n);
        let mut k = 0;
        loop {
            stores(k);
            let add = || table.add_domain(plenty()).map(|_| ());
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(add)).is_ok() {
                panic!("no death left a commit word");
            }
            stores(u64::MAX);
            if memory.words.borrow()[COMMIT_WORD] != 0 {
                break memory.words.borrow()[COMMIT_WORD];
            }
            k += 1;
        }
    };
    let base = committed & !u64::from(u32::MAX);
    for commit in [
        1,
        base ^ 1 << 40,
        base | (TX_WRITES_MAX as u64 + 1),
        u64::MAX,
    ] {
        let mut words = busy_words();
        words[COMMIT_WORD] = commit;
        assert!(
            matches!(open(words), Err(OpenError::NotATable(_))),
            "{commit:#x}"
        );
    }
    let end = busy_words().len() as u64;
    for target in [0, header::MAGIC as u64, COMMIT_WORD as u64, end, u64::MAX] {
        let mut words = busy_words();
        words[COMMIT_WORD] = base | 1;
        words[INTENT_FIRST] = target;
        assert!(
            matches!(open(words), Err(OpenError::NotATable(_))),
            "word {target}"
        );
    }
}

#[test]
fn every_damaged_link_is_noticed() {
    // Each word that is in use, changed in each half: the audit says so, or nothing depended on it.
    let sound = busy_words();
    let mut noticed = 0;
    for word in header::FIRST_MUTABLE..sound.len() {
        for change in [1u64, 1 << 32, u64::MAX] {
            let mut words = sound.clone();
            words[word] ^= change;
            noticed += u32::from(open(words).is_err());
        }
    }
    assert!(noticed > 200, "{noticed}");
}

/// Works on a table that passed recovery: whatever it holds, nothing may panic.
fn use_it(mut table: Table<Memory>) {
    let mut events = Vec::new();
    while let Some(domain) = table.next_domain(None) {
        let _ = table.add_object(domain.id, unit(1), ALL);
        if let Ok(Some(cap)) = table.next_cap(domain.id, 0) {
            let _ = table.derive(domain.id, cap.handle, domain.id, cap.rights);
            let _ = table.revoke_step(domain.id, cap.handle, 1000, &mut events);
        }
        table.begin_death(domain.id, &mut events).expect("there");
        let _ = table
            .death_step(domain.id, 1000, &mut events)
            .expect("dying");
        while let Some(object) = table.next_object_of(domain.id, None) {
            let _ = table
                .revoke_object_step(object.id, 1000, &mut events)
                .expect("there");
            table
                .object_released(object.id, &mut events)
                .expect("without holders");
        }
        table.audit().expect("sound after work");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn damage_never_panics(
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0..4u8, any::<u64>()), 1..8)
    ) {
        let mut words = busy_words();
        let first = header::FIRST_MUTABLE;
        for (at, how, value) in damage {
            let word = first + at.index(words.len() - first);
            words[word] = match how {
                0 => value,
                1 => value % 64,
                2 => words[word] ^ 1 << (value % 64),
                _ => words[word].wrapping_add(1 << 32),
            };
        }
        if let Ok(table) = open(words) {
            use_it(table);
        }
    }

    #[test]
    fn noise_below_a_good_header_never_panics(seed in any::<u64>(), small in any::<bool>()) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut words = busy_words();
        for word in &mut words[header::FIRST_MUTABLE..] {
            *word = if small { random.u64(..20) << 32 | random.u64(..20) } else { random.u64(..) };
        }
        if let Ok(table) = open(words) {
            use_it(table);
        }
    }
}
