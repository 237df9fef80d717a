//! Random histories of everything that can be done to a table, each step compared with the oracle.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::oracle::{Cap, Domain, Object, Oracle};
use super::*;

/// Small enough that every limit is met.
const TINY: Limits = Limits {
    capabilities: 24,
    objects: 10,
    domains: 6,
};

#[derive(Clone, Debug)]
enum Step {
    AddDomain {
        frames: u64,
        caps: u32,
        ports: u32,
    },
    AddObject {
        domain: usize,
        port: bool,
        frames: u32,
        bound: bool,
    },
    Derive {
        cap: usize,
        to: usize,
        rights: u32,
    },
    Grant {
        object: usize,
        to: usize,
    },
    Drop {
        cap: usize,
    },
    Revoke {
        cap: usize,
        budget: u32,
    },
    RevokeObject {
        object: usize,
        budget: u32,
    },
    Die {
        domain: usize,
        budget: u32,
    },
    Bound {
        object: usize,
    },
    Pinned {
        object: usize,
    },
    Release {
        object: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let pick = 0..64usize;
    let quota = (0..12u64, 0..12u32, 0..3u32);
    prop_oneof![
        2 => quota.prop_map(|(frames, caps, ports)| Step::AddDomain { frames, caps, ports }),
        4 => (pick.clone(), any::<bool>(), 0..5u32, any::<bool>()).prop_map(
            |(domain, port, frames, bound)| Step::AddObject { domain, port, frames, bound }
        ),
        9 => (pick.clone(), pick.clone(), 0..8u32)
            .prop_map(|(cap, to, rights)| Step::Derive { cap, to, rights }),
        1 => (pick.clone(), pick.clone()).prop_map(|(object, to)| Step::Grant { object, to }),
        6 => pick.clone().prop_map(|cap| Step::Drop { cap }),
        2 => (pick.clone(), 0..6u32).prop_map(|(cap, budget)| Step::Revoke { cap, budget }),
        1 => (pick.clone(), 0..4u32)
            .prop_map(|(object, budget)| Step::RevokeObject { object, budget }),
        1 => (pick.clone(), 0..4u32).prop_map(|(domain, budget)| Step::Die { domain, budget }),
        1 => pick.clone().prop_map(|object| Step::Bound { object }),
        1 => pick.clone().prop_map(|object| Step::Pinned { object }),
        4 => pick.prop_map(|object| Step::Release { object }),
    ]
}

fn pick<K: Copy, V>(map: &BTreeMap<K, V>, nth: usize) -> Option<K> {
    map.keys().nth(nth % map.len().max(1)).copied()
}

/// A refusal for want of slots is right exactly when a slot is wanting: ghosts hold some.
fn full<T>(answer: &Result<T, TableError>, table: &Table<Memory>) -> bool {
    let ledger = table.ledger();
    let caps = ledger.capabilities + ledger.ghosts + 1 == TINY.capabilities;
    match answer {
        Err(TableError::TableFull("domains")) => ledger.domains + 1 == TINY.domains,
        Err(TableError::TableFull("objects")) => ledger.objects_total() + 1 == TINY.objects,
        Err(TableError::TableFull("capabilities")) => caps,
        _ => false,
    }
}

fn run(table: &mut Table<Memory>, oracle: &mut Oracle, step: Step) -> Option<()> {
    let mut events = Vec::new();
    match step {
        Step::AddDomain {
            frames,
            caps,
            ports,
        } => {
            let info = info(frames, caps, ports);
            let answer = table.add_domain(info);
            if let Ok(id) = answer {
                oracle.domains.insert(
                    id,
                    Domain {
                        quota: info.quota,
                        ending: false,
                    },
                );
            } else {
                assert!(full(&answer, table));
            }
        }
        Step::AddObject {
            domain,
            port,
            frames,
            bound,
        } => {
            let domain = pick(&oracle.domains, domain)?;
            let kind = if port {
                ObjectKind::Port
            } else {
                ObjectKind::Unit
            };
            let new = NewObject {
                kind,
                bound,
                ..unit(frames)
            };
            let may = oracle.may_own(domain, &new);
            let answer = table.add_object(domain, new, ALL);
            assert!(answer.is_ok() == may || full(&answer, table), "{answer:?}");
            let (id, handle) = answer.ok()?;
            let state = if bound {
                ObjectState::Bound
            } else {
                ObjectState::Binding
            };
            assert!(
                oracle
                    .objects
                    .insert(
                        id,
                        Object {
                            owner: domain,
                            new,
                            state
                        }
                    )
                    .is_none()
            );
            let cap = Cap {
                holder: domain,
                object: id,
                rights: ALL,
                parent: None,
                live: true,
            };
            assert!(
                oracle.caps.insert(handle, cap).is_none(),
                "a handle was given twice"
            );
        }
        Step::Derive { cap, to, rights } => {
            let (handle, to) = (pick(&oracle.caps, cap)?, pick(&oracle.domains, to)?);
            let rights = Rights::from_bits_truncate(rights);
            let parent = &oracle.caps[&handle];
            let (holder, object) = (parent.holder, parent.object);
            let may = parent.live && parent.rights.contains(rights) && oracle.may_hold_more(to);
            let answer = table.derive(holder, handle, to, rights);
            assert!(answer.is_ok() == may || full(&answer, table), "{answer:?}");
            let cap = Cap {
                holder: to,
                object,
                rights,
                parent: Some(handle),
                live: true,
            };
            assert!(
                oracle.caps.insert(answer.ok()?, cap).is_none(),
                "a handle was given twice"
            );
        }
        Step::Grant { object, to } => {
            let (object, to) = (pick(&oracle.objects, object)?, pick(&oracle.domains, to)?);
            let may = oracle.holders(object) > 0 && oracle.may_hold_more(to);
            let answer = table.grant(object, to, Rights::READ);
            assert!(answer.is_ok() == may || full(&answer, table), "{answer:?}");
            let cap = Cap {
                holder: to,
                object,
                rights: Rights::READ,
                parent: None,
                live: true,
            };
            assert!(
                oracle.caps.insert(answer.ok()?, cap).is_none(),
                "a handle was given twice"
            );
        }
        Step::Drop { cap } => {
            let handle = pick(&oracle.caps, cap)?;
            let (live, holder) = (oracle.caps[&handle].live, oracle.caps[&handle].holder);
            let answer = table.drop_cap(holder, handle, &mut events);
            assert_eq!(answer.is_ok(), live);
            assert_eq!(gone(&events), usize::from(live));
            oracle.apply(&events, |_, h| h == handle);
        }
        Step::Revoke { cap, budget } => {
            let handle = pick(&oracle.caps, cap)?;
            let (live, holder) = (oracle.caps[&handle].live, oracle.caps[&handle].holder);
            let answer = table.revoke_step(holder, handle, budget, &mut events);
            assert_eq!(answer.is_ok(), live);
            oracle.apply(&events, |oracle, h| oracle.descends(h, handle));
            let left = oracle
                .caps
                .iter()
                .any(|(h, c)| c.live && oracle.descends(*h, handle));
            assert!(answer != Ok(Progress::Done) || !left, "done too early");
            assert!(gone(&events) <= budget as usize);
        }
        Step::RevokeObject { object, budget } => {
            let object = pick(&oracle.objects, object)?;
            let due = oracle.holders(object).min(budget) as usize;
            let answer = table.revoke_object_step(object, budget, &mut events);
            oracle.apply(&events, |oracle, h| oracle.caps[&h].object == object);
            assert_eq!(gone(&events), due);
            assert!(answer != Ok(Progress::Done) || oracle.holders(object) == 0);
        }
        Step::Die { domain, budget } => {
            let domain = pick(&oracle.domains, domain)?;
            oracle.domains.get_mut(&domain).expect("picked").ending = true;
            let due = oracle.held_by(domain).min(budget) as usize;
            table.begin_death(domain, &mut events).expect("there");
            let answer = table
                .death_step(domain, budget, &mut events)
                .expect("dying");
            oracle.apply(&events, |oracle, h| oracle.caps[&h].holder == domain);
            assert_eq!(gone(&events), due);
            assert!(answer != Progress::Done || oracle.held_by(domain) == 0);
        }
        Step::Bound { object } => {
            let object = pick(&oracle.objects, object)?;
            let known = oracle.objects.get_mut(&object).expect("picked");
            let may = known.state == ObjectState::Binding;
            assert_eq!(table.object_bound(object).is_ok(), may);
            known.state = if may { ObjectState::Bound } else { known.state };
        }
        Step::Pinned { object } => {
            let object = pick(&oracle.objects, object)?;
            let known = oracle.objects.get_mut(&object).expect("picked");
            let may = known.state == ObjectState::Unbinding;
            assert_eq!(table.object_pinned(object).is_ok(), may);
            known.state = if may {
                ObjectState::Pinned
            } else {
                known.state
            };
        }
        Step::Release { object } => {
            let object = pick(&oracle.objects, object)?;
            let state = oracle.objects[&object].state;
            let may = matches!(state, ObjectState::Unbinding | ObjectState::Pinned);
            assert_eq!(table.object_released(object, &mut events).is_ok(), may);
            if may {
                oracle.objects.remove(&object);
            }
            oracle.apply(&events, |_, _| false);
        }
    }
    Some(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn histories_agree_with_the_oracle(steps in prop::collection::vec(step(), 1..150)) {
        let (mut table, memory) = table(TINY);
        let mut oracle = Oracle::default();
        for step in steps {
            let before = memory.state();
            let refused = run(&mut table, &mut oracle, step).is_none();
            prop_assert!(!refused || memory.state() == before, "a refusal changed something");
            oracle.compare(&table);
        }
        oracle.compare_lists(&table);
        // Whatever happened, the ledger balances to zero.
        let mut events = Vec::new();
        while let Some(domain) = table.next_domain(None) {
            table.begin_death(domain.id, &mut events).expect("there");
            prop_assert_eq!(table.death_step(domain.id, 1000, &mut events), Ok(Progress::Done));
            while let Some(object) = table.next_object_of(domain.id, None) {
                let done = table.revoke_object_step(object.id, 1000, &mut events);
                prop_assert_eq!(done, Ok(Progress::Done));
                table.object_released(object.id, &mut events).expect("without holders");
            }
        }
        prop_assert_eq!(table.audit(), Ok(Ledger::default()));
    }
}
