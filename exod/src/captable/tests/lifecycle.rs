//! Domains and objects from beginning to end: charges, quotas, death.

use libexo::abi::wire::ErrorCode;

use super::*;

#[test]
fn a_table_in_a_memfd_survives_its_first_user() {
    let mut first = Table::create(Limits::default()).expect("a memfd");
    let domain = first.add_domain(plenty()).expect("room");
    let (object, handle) = first.add_object(domain, unit(4), ALL).expect("room");
    let before = first.audit().expect("a sound table");
    let fd = first.as_fd().try_clone_to_owned().expect("a descriptor");
    drop(first);
    let second = Table::recover(fd).expect("the same table");
    assert_eq!(second.epoch(), 2);
    assert_eq!(second.audit(), Ok(before));
    let view = second
        .check(domain, handle, Rights::READ, Some(ObjectKind::Unit))
        .expect("held");
    assert_eq!(
        (view.object.id, view.object.frames, view.object.tag),
        (object, 4, 7)
    );
    assert_eq!(second.domain(domain).expect("there").info, plenty());
}

#[test]
fn an_unused_table_takes_no_memory() {
    let table = Table::create(Limits::default()).expect("a memfd");
    let stat = rustix::fs::fstat(table.as_fd()).expect("a memfd");
    assert!(stat.st_size > 4 << 20);
    assert!(
        stat.st_blocks * 512 <= 8 * 4096,
        "{} blocks",
        stat.st_blocks
    );
}

#[test]
fn an_object_stays_charged_until_it_is_released() {
    let (mut table, _) = table(SMALL);
    let mut events = Vec::new();
    let domain = table.add_domain(info(8, 8, 1)).expect("room");
    let (object, handle) = table
        .add_object(domain, unit(5), ALL)
        .expect("within quota");
    let refused = table.add_object(domain, unit(4), ALL);
    assert_eq!(refused, Err(TableError::QuotaExceeded("frames")));
    table.drop_cap(domain, handle, &mut events).expect("held");
    assert_eq!(unbinding(&events), [object]);
    for state in [ObjectState::Unbinding, ObjectState::Pinned] {
        assert_eq!(table.object(object).map(|o| o.state), Some(state));
        assert!(
            table.add_object(domain, unit(4), ALL).is_err(),
            "still charged"
        );
        assert_eq!(
            table.grant(object, domain, ALL),
            Err(TableError::WrongState(state))
        );
        if state == ObjectState::Unbinding {
            table.object_pinned(object).expect("unbinding");
            assert_eq!(table.ledger().frames_pinned(), 5);
        }
    }
    table.object_released(object, &mut events).expect("pinned");
    assert_eq!(table.object(object), None);
    assert_eq!(
        table.object_released(object, &mut events),
        Err(TableError::NoSuchObject)
    );
    table
        .add_object(domain, unit(8), ALL)
        .expect("all of the quota again");
    table.audit().expect("sound");
}

#[test]
fn quotas_name_what_is_used_up() {
    let (mut table, _) = table(SMALL);
    let domain = table.add_domain(info(9, 2, 1)).expect("room");
    let (_, handle) = table.add_object(domain, port(), ALL).expect("within quota");
    let second = table.add_object(domain, port(), ALL);
    assert_eq!(second, Err(TableError::QuotaExceeded("ports")));
    assert_eq!(second.map_err(ErrorCode::from), Err(ErrorCode::Quota));
    table
        .derive(domain, handle, domain, ALL)
        .expect("within quota");
    let refused = Err(TableError::QuotaExceeded("capabilities"));
    assert_eq!(table.derive(domain, handle, domain, ALL), refused);
    assert_eq!(table.add_object(domain, unit(1), ALL).map(|_| 0), refused);
    // A refusal half-way leaves nothing behind, the charge of its frames included.
    assert_eq!(
        table.domain(domain).map(|d| (d.frames, d.objects)),
        Some((0, 1))
    );
    table.audit().expect("sound");
}

#[test]
fn full_arrays_are_refused_and_nothing_changes() {
    let limits = Limits {
        capabilities: 3,
        objects: 3,
        domains: 2,
    };
    let (mut table, memory) = table(limits);
    let domain = table.add_domain(plenty()).expect("room");
    assert_eq!(
        table.add_domain(plenty()),
        Err(TableError::TableFull("domains"))
    );
    let (_, handle) = table.add_object(domain, unit(1), ALL).expect("room");
    table.derive(domain, handle, domain, ALL).expect("room");
    let before = memory.state();
    let full = Err(TableError::TableFull("capabilities"));
    assert_eq!(table.derive(domain, handle, domain, ALL), full);
    assert_eq!(table.add_object(domain, unit(1), ALL).map(|_| 0), full);
    assert_eq!(memory.state(), before);
}

#[test]
fn a_binding_that_everybody_left_is_reported_as_such() {
    let (mut table, _) = table(SMALL);
    let mut events = Vec::new();
    let domain = table.add_domain(plenty()).expect("room");
    let (object, handle) = table.add_object(domain, port(), ALL).expect("room");
    table.drop_cap(domain, handle, &mut events).expect("held");
    assert!(matches!(events[1], Event::Unbind { was_binding: true, object: o } if o.id == object));
    let late = table.object_bound(object);
    assert_eq!(late, Err(TableError::WrongState(ObjectState::Unbinding)));
}

#[test]
fn a_dead_domain_stays_until_its_last_charge_is_gone() {
    let (mut table, _) = table(SMALL);
    let mut events = Vec::new();
    let owner = table.add_domain(plenty()).expect("room");
    let friend = table.add_domain(plenty()).expect("room");
    let (shared, handle) = table.add_object(owner, unit(3), ALL).expect("room");
    let (private, _) = table.add_object(owner, unit(2), ALL).expect("room");
    let theirs = table
        .derive(owner, handle, friend, Rights::READ)
        .expect("live");
    assert_eq!(
        table.death_step(owner, 9, &mut events),
        Err(TableError::NoSuchDomain),
        "alive"
    );
    table.begin_death(owner, &mut events).expect("there");
    table
        .begin_death(owner, &mut events)
        .expect("twice is harmless");
    assert_eq!(
        table.derive(owner, handle, owner, ALL),
        Err(TableError::NoSuchDomain)
    );
    assert_eq!(table.death_step(owner, 1, &mut events), Ok(Progress::More));
    table.audit().expect("sound");
    assert_eq!(table.death_step(owner, 9, &mut events), Ok(Progress::Done));
    assert_eq!(
        table.domain(owner).map(|d| (d.state, d.frames)),
        Some((DomainState::Dead, 5))
    );
    assert_eq!(unbinding(&events), [private]);
    table
        .object_released(private, &mut events)
        .expect("unbinding");
    let left = table.next_object_of(owner, None).expect("still charged");
    assert_eq!(
        (left.id, table.next_object_of(owner, Some(shared))),
        (shared, None)
    );
    let done = table.revoke_object_step(shared, 9, &mut events);
    assert_eq!(done, Ok(Progress::Done));
    assert_eq!(
        table.check(friend, theirs, Rights::READ, None),
        Err(ErrorCode::NoSuchHandle)
    );
    table
        .object_released(shared, &mut events)
        .expect("unbinding");
    assert_eq!(events.last(), Some(&Event::DomainGone(owner)));
    assert_eq!(table.domain(owner), None);
    assert_eq!(
        table.death_step(owner, 9, &mut events),
        Ok(Progress::Done),
        "gone is done"
    );
    table.begin_death(friend, &mut events).expect("there");
    let ledger = table.audit().expect("sound");
    assert_eq!(ledger, Ledger::default(), "nothing is left");
}

#[test]
fn very_many_capabilities_die_in_bounded_steps() {
    const COUNT: u32 = 200_000;
    const BUDGET: u32 = 1000;
    let limits = Limits {
        capabilities: COUNT + 2,
        objects: 2,
        domains: 3,
    };
    let mut table = Table::create(limits).expect("a memfd");
    let domain = table.add_domain(plenty()).expect("room");
    let other = table.add_domain(plenty()).expect("room");
    let (_, root) = table.add_object(other, unit(1), ALL).expect("room");
    for _ in 0..COUNT {
        table.derive(other, root, domain, ALL).expect("room");
    }
    let mut events = Vec::new();
    table.begin_death(domain, &mut events).expect("there");
    for _ in 0..COUNT / BUDGET {
        events.clear();
        let progress = table
            .death_step(domain, BUDGET, &mut events)
            .expect("dying");
        assert_eq!((progress, gone(&events)), (Progress::More, BUDGET as usize));
        // Others are served between the steps.
        assert!(table.check(other, root, ALL, None).is_ok());
    }
    assert_eq!(table.death_step(domain, 1, &mut events), Ok(Progress::Done));
    assert_eq!(table.domain(domain), None);
    let ledger = table.audit().expect("sound");
    assert_eq!((ledger.capabilities, ledger.domains), (1, 1));
}
