//! Derivation trees of every shape: deep, wide, bushy, with ghosts in them.

use super::*;

fn revoke_all(table: &mut Table<Memory>, domain: DomainId, root: u64, budget: u32) -> usize {
    let (mut gone_total, mut steps) = (0, 0u32);
    loop {
        let mut events = Vec::new();
        let progress = table
            .revoke_step(domain, root, budget, &mut events)
            .expect("held");
        assert!(gone(&events) <= budget as usize);
        gone_total += gone(&events);
        steps += budget;
        if progress == Progress::Done {
            assert!(
                steps <= 2 * gone_total as u32 + 2 * budget,
                "more than two steps per node"
            );
            return gone_total;
        }
    }
}

/// `parent_of(i)` says which of the nodes made before is the i-th one's parent.
fn grow(count: u32, parent_of: impl Fn(usize) -> usize) -> (Table<Memory>, DomainId, Vec<u64>) {
    let (mut table, _) = table(Limits {
        capabilities: count + 2,
        objects: 2,
        domains: 3,
    });
    let domain = table.add_domain(plenty()).unwrap();
    let mut nodes = vec![table.add_object(domain, unit(1), ALL).unwrap().1];
    for i in 1..=count as usize {
        let parent = nodes[parent_of(i)];
        nodes.push(table.derive(domain, parent, domain, ALL).unwrap());
    }
    (table, domain, nodes)
}

#[test]
fn chains_fans_and_bushes_are_revoked_without_recursion() {
    let chain: (u32, fn(usize) -> usize) = (100_000, |i| i - 1);
    let fan: (u32, fn(usize) -> usize) = (100_000, |_| 0);
    let bush: (u32, fn(usize) -> usize) = (10_000, |i| i / 2);
    let spine_with_leaves: (u32, fn(usize) -> usize) =
        (10_000, |i| i - 1 - usize::from(i % 2 == 0));
    for (count, parent_of) in [chain, fan, bush, spine_with_leaves] {
        let (mut table, domain, nodes) = grow(count, |i| parent_of(i).min(i - 1));
        table.audit().expect("sound when grown");
        assert_eq!(
            revoke_all(&mut table, domain, nodes[0], 777),
            count as usize
        );
        let ledger = table.audit().expect("sound when revoked");
        assert_eq!((ledger.capabilities, ledger.ghosts), (1, 0));
        assert!(
            table.check(domain, nodes[0], ALL, None).is_ok(),
            "the root stays"
        );
    }
}

#[test]
fn a_subtree_goes_and_its_neighbours_stay() {
    // 0 -> 1, 2; 1 -> 3, 4; 2 -> 5, 6; 3 -> 7, 8 ...
    let (mut table, domain, nodes) = grow(62, |i| (i - 1) / 2);
    assert_eq!(revoke_all(&mut table, domain, nodes[1], 1), 30);
    table.audit().expect("sound");
    for (i, node) in nodes.iter().enumerate() {
        let mut ancestor = i;
        while ancestor > 2 {
            ancestor = (ancestor - 1) / 2;
        }
        let stays = i < 3 || ancestor == 2;
        assert_eq!(
            table.check(domain, *node, ALL, None).is_ok(),
            stays,
            "node {i}"
        );
    }
}

#[test]
fn what_a_dropped_giver_gave_can_still_be_revoked_from_above() {
    let (mut table, _) = table(SMALL);
    let mut events = Vec::new();
    let ids: Vec<_> = (0..4)
        .map(|_| table.add_domain(plenty()).unwrap())
        .collect();
    let (_, root) = table.add_object(ids[0], unit(1), ALL).unwrap();
    let giver = table.derive(ids[0], root, ids[1], ALL).unwrap();
    let left = table.derive(ids[1], giver, ids[2], Rights::READ).unwrap();
    let right = table.derive(ids[1], giver, ids[3], Rights::READ).unwrap();
    table.drop_cap(ids[1], giver, &mut events).unwrap();
    assert_eq!(table.audit().expect("sound").ghosts, 1);
    assert!(table.check(ids[1], giver, Rights::empty(), None).is_err());
    assert!(table.check(ids[2], left, Rights::READ, None).is_ok());
    // With one child left the ghost is not needed: the child hangs below the root directly.
    table.drop_cap(ids[2], left, &mut events).unwrap();
    assert_eq!(table.audit().expect("sound").ghosts, 0);
    assert!(table.check(ids[3], right, Rights::READ, None).is_ok());
    let progress = table.revoke_step(ids[0], root, 9, &mut events);
    assert_eq!(progress, Ok(Progress::Done));
    assert!(table.check(ids[3], right, Rights::READ, None).is_err());
}

#[test]
fn ghosts_never_outnumber_capabilities() {
    let (mut table, domain, nodes) = grow(5000, |i| i / 3);
    let mut order: Vec<_> = (0..nodes.len()).collect();
    fastrand::Rng::with_seed(2).shuffle(&mut order);
    for (done, i) in order.into_iter().enumerate() {
        let mut events = Vec::new();
        table.drop_cap(domain, nodes[i], &mut events).expect("held");
        let ledger = table.ledger();
        assert!(ledger.ghosts < ledger.capabilities.max(1));
        let last = done + 1 == nodes.len();
        assert_eq!(
            unbinding(&events).len(),
            usize::from(last),
            "unbound with the last one"
        );
        if done % 500 == 0 || last {
            table.audit().expect("sound");
        }
    }
}

#[test]
fn a_walk_goes_on_after_others_changed_the_tree() {
    let (mut table, domain, nodes) = grow(1000, |i| i / 2);
    let mut events = Vec::new();
    let mut random = fastrand::Rng::with_seed(3);
    while table.revoke_step(domain, nodes[0], 20, &mut events) == Ok(Progress::More) {
        for _ in 0..5 {
            let node = nodes[random.usize(1..nodes.len())];
            if random.bool() {
                let _ = table.derive(domain, node, domain, Rights::READ);
            } else {
                let _ = table.drop_cap(domain, node, &mut events);
            }
        }
        table.audit().expect("sound");
    }
    assert_eq!(table.audit().expect("sound").capabilities, 1);
}
