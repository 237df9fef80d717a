//! The oracle of the random histories: maps from names to plain structs, and no cleverness.
//!
//! It keeps derivation as a parent link per capability and never forgets a dropped one, so ghosts,
//! splices and handing up have no counterpart in it; all that both sides must agree on is who holds
//! what, who is charged with what, and every answer.

use std::collections::{BTreeMap, HashMap};

use super::*;

pub(super) struct Domain {
    pub(super) quota: Quota,
    pub(super) ending: bool,
}

pub(super) struct Object {
    pub(super) owner: DomainId,
    pub(super) new: NewObject,
    pub(super) state: ObjectState,
}

pub(super) struct Cap {
    pub(super) holder: DomainId,
    pub(super) object: ObjectId,
    pub(super) rights: Rights,
    pub(super) parent: Option<u64>,
    pub(super) live: bool,
}

#[derive(Default)]
pub(super) struct Oracle {
    pub(super) domains: BTreeMap<DomainId, Domain>,
    pub(super) objects: BTreeMap<ObjectId, Object>,
    pub(super) caps: BTreeMap<u64, Cap>,
}

impl Oracle {
    pub(super) fn held_by(&self, domain: DomainId) -> u32 {
        self.caps
            .values()
            .filter(|c| c.live && c.holder == domain)
            .count() as u32
    }

    pub(super) fn holders(&self, object: ObjectId) -> u32 {
        self.caps
            .values()
            .filter(|c| c.live && c.object == object)
            .count() as u32
    }

    pub(super) fn charge(&self, domain: DomainId) -> (u64, u32, u32) {
        let owned: Vec<_> = self
            .objects
            .values()
            .filter(|o| o.owner == domain)
            .collect();
        let ports = owned
            .iter()
            .filter(|o| o.new.kind == ObjectKind::Port)
            .count();
        let frames = owned.iter().map(|o| u64::from(o.new.frames)).sum();
        (frames, ports as u32, owned.len() as u32)
    }

    pub(super) fn descends(&self, mut cap: u64, root: u64) -> bool {
        while let Some(parent) = self.caps[&cap].parent {
            if parent == root {
                return true;
            }
            cap = parent;
        }
        false
    }

    pub(super) fn may_hold_more(&self, domain: DomainId) -> bool {
        let quota = self.domains[&domain].quota;
        !self.domains[&domain].ending && self.held_by(domain) < quota.capabilities
    }

    pub(super) fn may_own(&self, domain: DomainId, new: &NewObject) -> bool {
        let quota = self.domains[&domain].quota;
        let (frames, ports, _) = self.charge(domain);
        frames + u64::from(new.frames) <= quota.frames
            && (new.kind != ObjectKind::Port || ports < quota.ports)
            && self.may_hold_more(domain)
    }

    /// Takes the table's word for which capabilities went (the order is its own business), and
    /// checks that each was there, that `allowed` says it may go, and what follows from it.
    pub(super) fn apply(&mut self, events: &[Event], allowed: impl Fn(&Oracle, u64) -> bool) {
        for event in events {
            match *event {
                Event::CapGone {
                    holder,
                    handle,
                    object,
                } => {
                    assert!(allowed(self, handle), "the wrong capability went");
                    let cap = self.caps.get_mut(&handle).expect("known");
                    assert!(cap.live && cap.holder == holder && cap.object == object);
                    cap.live = false;
                }
                Event::Unbind {
                    object,
                    was_binding,
                } => {
                    assert_eq!(self.holders(object.id), 0);
                    let known = self.objects.get_mut(&object.id).expect("known");
                    assert_eq!(was_binding, known.state == ObjectState::Binding);
                    known.state = ObjectState::Unbinding;
                }
                Event::DomainGone(domain) => {
                    assert_eq!((self.held_by(domain), self.charge(domain)), (0, (0, 0, 0)));
                    assert!(self.domains.remove(&domain).expect("known").ending);
                }
            }
        }
    }

    /// Everything that can be seen of the table.
    pub(super) fn compare(&self, table: &Table<Memory>) {
        let ledger = table.audit().expect("sound");
        let live = self.caps.values().filter(|c| c.live).count();
        assert_eq!(ledger.capabilities as usize, live);
        assert!(ledger.ghosts < ledger.capabilities.max(1));
        assert_eq!(ledger.domains as usize, self.domains.len());
        assert_eq!(ledger.objects_total() as usize, self.objects.len());
        for (handle, cap) in &self.caps {
            let seen = table.check(cap.holder, *handle, Rights::empty(), None);
            let view = seen.ok().map(|v| (v.holder, v.object.id, v.rights));
            assert_eq!(
                view,
                cap.live.then_some((cap.holder, cap.object, cap.rights))
            );
        }
        for (id, object) in &self.objects {
            let view = table.object(*id).expect("there");
            assert_eq!((view.owner, view.state), (object.owner, object.state));
            assert_eq!(view.holders, self.holders(*id));
            assert_eq!(
                (view.kind, view.frames),
                (object.new.kind, object.new.frames)
            );
        }
        for (id, domain) in &self.domains {
            let view = table.domain(*id).expect("there");
            assert_eq!((view.frames, view.ports, view.objects), self.charge(*id));
            assert_eq!(view.capabilities, self.held_by(*id));
            let state = match (domain.ending, view.capabilities) {
                (false, _) => DomainState::Live,
                (true, 0) => DomainState::Dead,
                (true, _) => DomainState::Dying,
            };
            assert_eq!((view.state, view.info.quota), (state, domain.quota));
        }
    }
}

impl Oracle {
    /// What the lists say must be what the capabilities say.
    pub(super) fn compare_lists(&self, table: &Table<Memory>) {
        let mut by_holder: HashMap<DomainId, Vec<u64>> = HashMap::new();
        for (handle, cap) in self.caps.iter().filter(|(_, cap)| cap.live) {
            by_holder.entry(cap.holder).or_default().push(*handle);
        }
        for domain in self.domains.keys() {
            let (mut met, mut after) = (Vec::new(), 0);
            while let Some(view) = table.next_cap(*domain, after).expect("live") {
                met.push(view.handle);
                after = view.handle;
            }
            met.sort_unstable();
            assert_eq!(met, by_holder.remove(domain).unwrap_or_default());
        }
    }
}
