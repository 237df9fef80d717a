//! Death between any two stores of any operation: afterwards it happened, or it did not.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::super::layout::{TX_WRITES_MAX, header};
use super::*;

/// A table in which every operation has much to do.
struct Scene {
    table: Table<Memory>,
    memory: Memory,
    a: DomainId,
    b: DomainId,
    dying: DomainId,
    unit: ObjectId,
    binding: ObjectId,
    unbinding: ObjectId,
    dead_charge: ObjectId,
    root: u64,
    branch: u64,
    twig: u64,
    last: u64,
}

fn scene() -> Scene {
    let (mut table, memory) = table(SMALL);
    let mut events = Vec::new();
    let [a, b, dying, dead] = [(); 4].map(|()| table.add_domain(plenty()).unwrap());
    let (unit_id, root) = table.add_object(a, unit(3), ALL).unwrap();
    let branch = table.derive(a, root, b, ALL).unwrap();
    let fork = table.derive(b, branch, b, ALL).unwrap();
    let twig = table.derive(b, fork, b, Rights::READ).unwrap();
    table.derive(b, fork, dying, Rights::READ).unwrap();
    table.derive(b, branch, a, Rights::READ).unwrap();
    table.drop_cap(b, fork, &mut events).unwrap();
    assert_eq!(table.ledger().ghosts, 1);
    let (binding, _) = table.add_object(b, port(), ALL).unwrap();
    let (unbinding, handle) = table.add_object(b, unit(2), ALL).unwrap();
    table.drop_cap(b, handle, &mut events).unwrap();
    let (dead_charge, _) = table.add_object(dead, unit(2), ALL).unwrap();
    table.begin_death(dead, &mut events).unwrap();
    assert_eq!(table.death_step(dead, 9, &mut events), Ok(Progress::Done));
    // The last capability of a dying domain, on an object that nobody else holds.
    let (foreign, given) = table.add_object(a, unit(1), ALL).unwrap();
    let last = table.grant(foreign, dying, ALL).unwrap();
    table.drop_cap(a, given, &mut events).unwrap();
    table.begin_death(dying, &mut events).unwrap();
    let unit = unit_id;
    Scene {
        table,
        memory,
        a,
        b,
        dying,
        unit,
        binding,
        unbinding,
        dead_charge,
        root,
        branch,
        twig,
        last,
    }
}

type Operation = (&'static str, fn(&mut Scene) -> Result<(), TableError>);

/// Each is one transaction.
fn operations() -> Vec<Operation> {
    vec![
        ("add_domain", |s| s.table.add_domain(plenty()).map(|_| ())),
        ("begin_death", |s| s.table.begin_death(s.a, &mut Vec::new())),
        ("add_object", |s| {
            s.table.add_object(s.a, unit(1), ALL).map(|_| ())
        }),
        ("derive", |s| {
            s.table.derive(s.a, s.root, s.b, ALL).map(|_| ())
        }),
        ("grant", |s| s.table.grant(s.unit, s.b, ALL).map(|_| ())),
        ("set_tag", |s| s.table.set_tag(s.unit, 99)),
        ("bound", |s| s.table.object_bound(s.binding)),
        ("pinned", |s| s.table.object_pinned(s.unbinding)),
        ("released", |s| {
            s.table.object_released(s.unbinding, &mut Vec::new())
        }),
        ("released, with its dead owner", |s| {
            s.table.object_released(s.dead_charge, &mut Vec::new())
        }),
        ("drop a root", |s| {
            s.table.drop_cap(s.a, s.root, &mut Vec::new())
        }),
        ("drop to a ghost", |s| {
            s.table.drop_cap(s.b, s.branch, &mut Vec::new())
        }),
        ("drop and splice", |s| {
            s.table.drop_cap(s.b, s.twig, &mut Vec::new())
        }),
        ("drop the last", |s| {
            s.table.drop_cap(s.dying, s.last, &mut Vec::new())
        }),
        ("hand up", |s| {
            s.table
                .revoke_step(s.a, s.root, 1, &mut Vec::new())
                .map(|_| ())
        }),
        ("revoke object", |s| {
            s.table
                .revoke_object_step(s.unit, 1, &mut Vec::new())
                .map(|_| ())
        }),
        ("death step", |s| {
            s.table.death_step(s.dying, 1, &mut Vec::new()).map(|_| ())
        }),
    ]
}

#[test]
fn death_at_any_store_leaves_before_or_after() {
    let mut most = 0;
    for (name, operation) in operations() {
        let mut whole = scene();
        let before = whole.memory.state();
        operation(&mut whole).expect(name);
        let after = whole.memory.state();
        assert_ne!(before, after, "{name} did nothing");
        let stores = u64::MAX - {
            let mut counted = scene();
            counted.memory.stores_left.set(u64::MAX);
            operation(&mut counted).expect(name);
            counted.memory.stores_left.get()
        };
        most = most.max(stores);
        let (mut rolled_back, mut finished) = (0, 0);
        for k in 0..stores {
            let mut scene = scene();
            scene.memory.stores_left.set(k);
            let died = catch_unwind(AssertUnwindSafe(|| operation(&mut scene))).is_err();
            assert!(died, "{name} at {k}");
            scene.memory.stores_left.set(u64::MAX);
            drop(scene.table);
            // Recovery may die as well, at any of its own stores; then it is done again.
            for again in 0.. {
                scene.memory.stores_left.set(again);
                let opened = catch_unwind(AssertUnwindSafe(|| Table::reopen(scene.memory.clone())));
                if let Ok(opened) = opened {
                    opened.unwrap_or_else(|e| panic!("{name} at {k}: {e}"));
                    break;
                }
            }
            let mut found = scene.memory.state();
            found[header::EPOCH] = before[header::EPOCH];
            assert!(
                found == before || found == after,
                "{name} at {k}: half a change"
            );
            rolled_back += u32::from(found == before);
            finished += u32::from(found == after);
        }
        let single = stores == 1;
        assert!(rolled_back > 0 && (finished > 0 || single), "{name}");
    }
    // 2 stores per write for the intent, 1 to apply it, 2 of the commit word.
    let writes = (most - 2) / 3;
    assert!(
        writes as usize * 3 <= TX_WRITES_MAX * 2,
        "{writes} writes: too close to the bound"
    );
}

#[test]
fn no_operation_comes_near_the_end_of_the_intent_area() {
    // Long random runs of everything, and the fullest transaction that they met.
    let (mut table, _) = table(SMALL);
    let mut random = fastrand::Rng::with_seed(4);
    let mut most = 0;
    let mut events = Vec::new();
    for _ in 0..50_000 {
        let domain = table.next_domain(None).map(|d| d.id);
        let nth = random.u32(..20);
        let mut at = domain;
        for _ in 0..random.u32(..6) {
            at = table.next_domain(at).map(|d| d.id).or(at);
        }
        let held = at.and_then(|d| table.next_cap(d, 0).ok().flatten());
        // Refusals are as good as changes here: what counts is how much a change writes.
        let _ = match (nth, at, held) {
            (0, ..) => table.add_domain(plenty()).map(|_| ()),
            (1..=4, Some(at), _) => table.add_object(at, unit(1), ALL).map(|_| ()),
            (5..=10, Some(at), Some(cap)) => table
                .derive(at, cap.handle, domain.unwrap_or(at), ALL)
                .map(|_| ()),
            (11..=14, Some(at), Some(cap)) => table.drop_cap(at, cap.handle, &mut events),
            (15, Some(at), Some(cap)) => table
                .revoke_step(at, cap.handle, 1, &mut events)
                .map(|_| ()),
            (16, Some(at), _) => table
                .begin_death(at, &mut events)
                .and_then(|()| table.death_step(at, 1, &mut events).map(|_| ())),
            _ => unbinding(&std::mem::take(&mut events))
                .into_iter()
                .try_for_each(|object| table.object_released(object, &mut events)),
        };
        most = most.max(table.writes.len());
    }
    table.audit().expect("sound");
    assert!(most > 15 && most * 3 <= TX_WRITES_MAX * 2, "{most} writes");
}
