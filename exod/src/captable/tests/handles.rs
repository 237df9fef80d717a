//! Handles that must not work: stale, guessed, foreign; and generations at their end.

use libexo::abi::status::{handle, split_handle};
use libexo::abi::wire::ErrorCode;

use super::super::layout::{Array, GENERATION};
use super::super::slots::GENERATION_MAX;
use super::*;

#[test]
fn refusals_come_in_order() {
    let (mut table, _) = table(SMALL);
    let (a, b) = (
        table.add_domain(plenty()).unwrap(),
        table.add_domain(plenty()).unwrap(),
    );
    let (_, held) = table
        .add_object(a, unit(1), Rights::READ | Rights::SHARE)
        .unwrap();
    let check = |domain, handle, needed, kind| table.check(domain, handle, needed, kind).err();
    assert_eq!(check(a, held, Rights::READ, Some(ObjectKind::Unit)), None);
    assert_eq!(check(a, held, Rights::READ | Rights::SHARE, None), None);
    assert_eq!(check(a, held, Rights::WRITE, None), Some(ErrorCode::Rights));
    assert_eq!(
        check(a, held, ALL, Some(ObjectKind::Port)),
        Some(ErrorCode::WrongKind)
    );
    assert_eq!(
        check(b, held, Rights::READ, None),
        Some(ErrorCode::NoSuchHandle),
        "foreign"
    );
    assert_eq!(table.derive(a, held, b, ALL), Err(TableError::Rights));
    assert_eq!(
        table.derive(b, held, b, Rights::READ),
        Err(TableError::NoSuchHandle)
    );
}

#[test]
fn guesses_find_nothing() {
    let (mut table, _) = table(SMALL);
    let (a, b) = (
        table.add_domain(plenty()).unwrap(),
        table.add_domain(plenty()).unwrap(),
    );
    let mut mine = Vec::new();
    for _ in 0..20 {
        mine.push(table.add_object(a, unit(1), ALL).unwrap().1);
    }
    let mut random = fastrand::Rng::with_seed(1);
    for round in 0..200_000 {
        // Near misses as well: small indexes and generations.
        let guess = match round % 3 {
            0 => random.u64(..),
            1 => handle(random.u32(..100), random.u32(..)),
            _ => handle(random.u32(..100), random.u32(..4)),
        };
        assert_eq!(
            table.check(a, guess, Rights::empty(), None).is_ok(),
            mine.contains(&guess)
        );
        assert!(table.check(b, guess, Rights::empty(), None).is_err());
        let stranger = DomainId::from_raw(random.u64(..));
        if stranger != a {
            assert!(
                table
                    .check(stranger, mine[0], Rights::empty(), None)
                    .is_err()
            );
        }
        if !mine.contains(&guess) {
            assert_eq!(
                table.drop_cap(a, guess, &mut Vec::new()),
                Err(TableError::NoSuchHandle)
            );
            let stepped = table.revoke_step(a, guess, 9, &mut Vec::new());
            assert_eq!(stepped, Err(TableError::NoSuchHandle));
            assert!(guess == 0 || table.next_cap(a, guess).is_err());
        }
    }
    table.audit().expect("sound");
}

#[test]
fn a_slot_used_again_has_another_handle() {
    let (mut table, _) = table(SMALL);
    let domain = table.add_domain(plenty()).unwrap();
    let (_, root) = table.add_object(domain, unit(1), ALL).unwrap();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..1000 {
        let child = table.derive(domain, root, domain, ALL).unwrap();
        assert!(seen.insert(child), "a handle was given twice");
        assert_eq!(split_handle(child).0, 2, "the free slot comes first");
        table.drop_cap(domain, child, &mut Vec::new()).unwrap();
        assert_eq!(
            table.check(domain, child, ALL, None),
            Err(ErrorCode::NoSuchHandle)
        );
        assert!(table.drop_cap(domain, child, &mut Vec::new()).is_err());
    }
}

#[test]
fn a_slot_without_generations_left_is_retired() {
    let (mut table, memory) = table(SMALL);
    let mut events = Vec::new();
    let domain = table.add_domain(plenty()).unwrap();
    let (_, root) = table.add_object(domain, unit(1), ALL).unwrap();
    // Ages one free slot of each array to just before its last generation.
    let age = |table: &Table<Memory>, array, index| {
        let word = table.layout.record(array, index) + GENERATION.word;
        let mut words = memory.words.borrow_mut();
        words[word] = GENERATION.with(words[word], u64::from(GENERATION_MAX - 1));
    };
    let child = table.derive(domain, root, domain, ALL).unwrap();
    table.drop_cap(domain, child, &mut events).unwrap();
    age(&table, Array::Caps, 2);
    let last = table.derive(domain, root, domain, ALL).unwrap();
    assert_eq!(last, handle(2, GENERATION_MAX));
    table.drop_cap(domain, last, &mut events).unwrap();
    assert!(table.check(domain, last, Rights::empty(), None).is_err());
    let next = table.derive(domain, root, domain, ALL).unwrap();
    assert_eq!(next, handle(3, 1), "the retired slot is never taken again");

    let (object, held) = table.add_object(domain, unit(1), ALL).unwrap();
    table.drop_cap(domain, held, &mut events).unwrap();
    table.object_released(object, &mut events).unwrap();
    age(&table, Array::Objects, 2);
    let (object, held) = table.add_object(domain, unit(1), ALL).unwrap();
    assert_eq!(object.raw(), handle(2, GENERATION_MAX));
    table.drop_cap(domain, held, &mut events).unwrap();
    table.object_released(object, &mut events).unwrap();
    let other = table.add_domain(plenty()).unwrap();
    table.begin_death(other, &mut events).unwrap();
    age(&table, Array::Domains, 2);
    let other = table.add_domain(plenty()).unwrap();
    table.begin_death(other, &mut events).unwrap();
    assert_eq!(table.domain(other), None);
    assert_eq!(table.audit().expect("sound").retired, 3);
}

#[test]
fn listing_meets_each_once_while_others_come() {
    let (mut table, _) = table(SMALL);
    let domain = table.add_domain(plenty()).unwrap();
    let mut expected = Vec::new();
    for _ in 0..10 {
        expected.push(table.add_object(domain, unit(1), ALL).unwrap().1);
    }
    let (mut met, mut after) = (Vec::new(), 0);
    while let Some(view) = table.next_cap(domain, after).unwrap() {
        assert_eq!(view.holder, domain);
        met.push(view.handle);
        after = view.handle;
        table.add_object(domain, unit(1), ALL).unwrap();
    }
    met.reverse();
    assert_eq!(met, expected);
    let object = table.check(domain, met[0], ALL, None).unwrap().object.id;
    let second = table.derive(domain, met[0], domain, Rights::READ).unwrap();
    let first = table.next_holder(object, 0).unwrap().unwrap().handle;
    assert_eq!(first, second);
    assert_eq!(
        table.next_holder(object, first).unwrap().unwrap().handle,
        met[0]
    );
    assert_eq!(table.next_holder(object, met[0]), Ok(None));
    assert!(
        table.next_holder(object, met[1]).is_err(),
        "another object's"
    );
}
