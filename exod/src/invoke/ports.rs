//! Operations on ports.

#![forbid(unsafe_code)]

use libexo::abi::port::{Layout, PortFlags, SEGMENTS_MAX};
use libexo::abi::status::Status;
use libexo::abi::tap::TAP_PREFIX;
use libexo::abi::wire::{ErrorCode, ObjectKind, PageKind, PortName, Rights};

use super::{Asker, Verdict, allow, refused};
use crate::accounts::Account;
use crate::audit::What;
use crate::bell::Bell;
use crate::captable::{CapView, DomainId, NewObject, ObjectId, ObjectState};
use crate::ports::Holder;
use crate::state::{Answer, Cause, FdRef, State, bytes_of};

/// Least packet memory in a segment: one page.
const PACKETS_MIN: usize = 4096;

impl State {
    pub(super) fn port_create(
        &mut self,
        by: &Asker,
        unit: u64,
        name: PortName,
        ring_log2: u32,
        flags: PortFlags,
    ) -> Verdict {
        let cap = self.own_segment(by, unit, ring_log2)?;
        let tap = name.as_str().starts_with(TAP_PREFIX);
        allow(if tap {
            by.grant.admin
        } else {
            by.grant.may_create(&name)
        })?;
        allow(by.grant.trusted || !flags.contains(PortFlags::TRUSTED))?;
        self.ports.may_create(&name)?;
        self.admits(by, SIDE)?;
        let kernel = |error| refused(by.ticket, "a bell", error);
        let bells = [Bell::new().map_err(kernel)?, Bell::new().map_err(kernel)?];
        let (object, handle) = self.new_side(by)?;
        let fds = bell_fds(&bells, 0);
        let holder = Holder {
            domain: by.id,
            handle,
            unit,
            flags,
        };
        self.ports.create(object, holder, name, ring_log2, bells);
        self.took_side(by, handle, unit, cap.object.id, object);
        Ok(Answer {
            handle,
            vals: [0; 6],
            fds,
        })
    }

    pub(super) fn port_join(
        &mut self,
        by: &Asker,
        unit: u64,
        name: PortName,
        flags: PortFlags,
    ) -> Verdict {
        allow(match name.as_str().strip_prefix(TAP_PREFIX) {
            Some(_) => self.ports.is_tapped_side(by.id, &name),
            None => by.grant.may_join(&name),
        })?;
        allow(by.grant.trusted || !flags.contains(PortFlags::TRUSTED))?;
        let number = self.ports.may_join(&name)?;
        let port = self.ports.port(number).ok_or(ErrorCode::NotFound)?;
        let (ring_log2, fds) = (port.ring_log2, bell_fds(&port.bells, 1));
        let cap = self.own_segment(by, unit, ring_log2)?;
        // The side, and the peer's segment.
        self.admits(
            by,
            Account {
                capabilities: 2,
                ..SIDE
            },
        )?;
        let (object, handle) = self.new_side(by)?;
        let holder = Holder {
            domain: by.id,
            handle,
            unit,
            flags,
        };
        self.ports.join(object, holder, number);
        self.took_side(by, handle, unit, cap.object.id, object);
        let peer = match self.peer_answer(by, object) {
            Ok(peer) => peer,
            Err(code) => {
                // The port cannot be had whole: then not at all.
                let mut events = Vec::new();
                self.table.drop_cap(by.id, handle, &mut events)?;
                self.settle(events, Cause::Given);
                return Err(code);
            }
        };
        if let Some(peer) = self.peer_of(object) {
            self.tell_side(peer);
        }
        let mut vals = peer.vals;
        vals[5] = peer.handle;
        Ok(Answer {
            handle,
            vals,
            fds: peer.fds.into_iter().chain(fds).collect(),
        })
    }

    pub(super) fn port_peer(&mut self, by: &Asker, port: u64) -> Verdict {
        let side = self.own_side(by, port)?;
        self.peer_answer(by, side)
    }

    pub(super) fn port_segment(&mut self, by: &Asker, port: u64, segment: usize) -> Verdict {
        let side = self.own_side(by, port)?;
        let (handle, unit) = self.peer_segment(by, side, segment)?;
        let object = self.table.object(unit).ok_or(ErrorCode::Revoked)?;
        Ok(Answer {
            handle,
            vals: [bytes_of(&object), page_of(object.page), 0, 0, 0, 0],
            fds: vec![FdRef::Reader(unit)],
        })
    }

    pub(super) fn port_attach(&mut self, by: &Asker, port: u64, unit: u64) -> Verdict {
        let side = self.own_side(by, port)?;
        let needed = Rights::READ | Rights::SHARE;
        let cap = self
            .table
            .check(by.id, unit, needed, Some(ObjectKind::Unit))?;
        self.usable(&cap)?;
        let side = self.ports.side_mut(side).ok_or(ErrorCode::Revoked)?;
        let index = match side.segments.iter().position(|known| *known == unit) {
            Some(index) => index,
            None if side.segments.len() >= SEGMENTS_MAX => return Err(ErrorCode::TableFull),
            None => {
                side.segments.push(unit);
                *self.uses.entry(unit).or_default() += 1;
                side.segments.len() - 1
            }
        };
        Ok(Answer {
            vals: [index as u64, 0, 0, 0, 0, 0],
            ..Answer::default()
        })
    }

    pub(super) fn port_leave(&mut self, by: &Asker, port: u64, reason: u64) -> Verdict {
        let kind = Some(ObjectKind::Port);
        let cap = self.table.check(by.id, port, Rights::empty(), kind)?;
        let (domain, handle, session) = (by.id.raw(), port, by.ticket.session);
        tracing::info!(target: "exod::audit", session, domain, handle, reason, "left");
        let subject = by.tally.subject(domain, by.ticket.place + 1);
        let name = self.name_of(by.id, port);
        self.book.note(subject, name, What::Left { handle, reason });
        self.give_back(by, &cap)?;
        Ok(Answer::default())
    }

    /// The port that a handle of a domain's is a side of.
    pub(crate) fn name_of(&self, by: DomainId, port: u64) -> Option<PortName> {
        let kind = Some(ObjectKind::Port);
        let cap = self.table.check(by, port, Rights::empty(), kind).ok()?;
        let side = self.ports.side(cap.object.id)?;
        Some(self.ports.port(side.port)?.name)
    }

    pub(super) fn port_tap(&mut self, by: &Asker, name: PortName, on: bool) -> Verdict {
        allow(by.grant.admin)?;
        let port = self.ports.may_tap(&name, by.id)?;
        self.set_tap(port, on.then_some(by.id));
        Ok(Answer::default())
    }

    /// A unit that can be used now.
    fn usable(&self, cap: &CapView) -> Result<(), ErrorCode> {
        let unit = self.units.get(&cap.object.id);
        match (cap.object.state, unit) {
            (ObjectState::Bound, Some(unit)) if !unit.asked_back => Ok(()),
            (ObjectState::Binding, _) => Err(ErrorCode::Busy),
            _ => Err(ErrorCode::Revoked),
        }
    }

    /// A unit that may become the asker's side of a port with such rings.
    fn own_segment(&self, by: &Asker, unit: u64, ring_log2: u32) -> Result<CapView, ErrorCode> {
        let needed = Rights::READ | Rights::WRITE;
        let cap = self
            .table
            .check(by.id, unit, needed, Some(ObjectKind::Unit))?;
        self.usable(&cap)?;
        if self
            .units
            .get(&cap.object.id)
            .is_some_and(|unit| unit.was_segment)
        {
            return Err(ErrorCode::Busy);
        }
        let least = Layout::new(ring_log2).packets + PACKETS_MIN;
        if bytes_of(&cap.object) < least as u64 {
            return Err(ErrorCode::Malformed);
        }
        Ok(cap)
    }

    /// The side that a port's handle stands for.
    fn own_side(&self, by: &Asker, port: u64) -> Result<ObjectId, ErrorCode> {
        let kind = Some(ObjectKind::Port);
        let cap = self.table.check(by.id, port, Rights::READ, kind)?;
        Ok(cap.object.id)
    }

    fn peer_of(&self, side: ObjectId) -> Option<ObjectId> {
        let side = self.ports.side(side)?;
        self.ports.port(side.port)?.side(1 - side.number).ok()
    }

    fn new_side(&mut self, by: &Asker) -> Result<(ObjectId, u64), ErrorCode> {
        let new = NewObject {
            kind: ObjectKind::Port,
            frames: 0,
            page: None,
            tag: 0,
            bound: true,
        };
        Ok(self
            .table
            .add_object(by.id, new, Rights::READ | Rights::WRITE)?)
    }

    fn took_side(&mut self, by: &Asker, handle: u64, unit: u64, memory: ObjectId, side: ObjectId) {
        let charged = Account {
            ports: 1,
            ..Account::default()
        };
        self.accounts.add(by.uid, charged);
        *self.uses.entry(unit).or_default() += 1;
        if let Some(unit) = self.units.get_mut(&memory) {
            unit.was_segment = true;
        }
        self.introduce(by.id, handle, Status::LIVE);
        self.tell_side(side);
    }

    /// The answer to [`Command::PortPeer`].
    fn peer_answer(&mut self, by: &Asker, side: ObjectId) -> Verdict {
        let (handle, unit) = self.peer_segment(by, side, 0)?;
        let object = self.table.object(unit).ok_or(ErrorCode::Revoked)?;
        let mine = self.ports.side(side).ok_or(ErrorCode::Revoked)?;
        let port = self.ports.port(mine.port).ok_or(ErrorCode::Revoked)?;
        let peer = port.side(1 - mine.number)?;
        let peer = self.ports.side(peer).ok_or(ErrorCode::Revoked)?;
        Ok(Answer {
            handle,
            vals: [
                u64::from(port.ring_log2),
                bytes_of(&object),
                u64::from(self.ports.flags_of(peer).bits()),
                page_of(object.page),
                mine.number as u64,
                0,
            ],
            fds: vec![FdRef::Reader(unit)],
        })
    }

    /// A capability of the asker's on a segment of its peer's: the one that it has, or a new one.
    fn peer_segment(
        &mut self,
        by: &Asker,
        side: ObjectId,
        segment: usize,
    ) -> Result<(u64, ObjectId), ErrorCode> {
        let mine = self.ports.side(side).ok_or(ErrorCode::Revoked)?;
        let port = self.ports.port(mine.port).ok_or(ErrorCode::Revoked)?;
        let peer = port.side(1 - mine.number)?;
        let peer = self.ports.side(peer).ok_or(ErrorCode::Revoked)?;
        let source = *peer.segments.get(segment).ok_or(ErrorCode::NotFound)?;
        let (owner, share) = (peer.domain, peer.flags.contains(PortFlags::SHARE));
        let had = mine.given[segment];
        if had != 0
            && let Ok(cap) = self.table.check(by.id, had, Rights::READ, None)
        {
            return Ok((had, cap.object.id));
        }
        // The peer's own capability may have been taken from it.
        let lost = |_| ErrorCode::Revoked;
        let cap = self
            .table
            .check(owner, source, Rights::READ, None)
            .map_err(lost)?;
        self.usable(&cap)?;
        let one = Account {
            capabilities: 1,
            ..Account::default()
        };
        self.admits(by, one)?;
        let mut rights = Rights::READ;
        rights.set(Rights::SHARE, share && cap.rights.contains(Rights::SHARE));
        let handle = self.table.derive(owner, source, by.id, rights)?;
        self.introduce(by.id, handle, Status::LIVE);
        if let Some(mine) = self.ports.side_mut(side) {
            mine.given[segment] = handle;
        }
        Ok((handle, cap.object.id))
    }
}

/// What one more side of a port is charged with.
const SIDE: Account = Account {
    sessions: 0,
    frames: 0,
    capabilities: 1,
    ports: 1,
};

fn page_of(page: Option<PageKind>) -> u64 {
    page.map_or(0, |page| page as u64)
}

/// The bell that side `number` sleeps on, and the one that it rings.
fn bell_fds(bells: &[Bell; 2], number: usize) -> Vec<FdRef> {
    vec![
        FdRef::Own(bells[number].sleeper.clone()),
        FdRef::Own(bells[1 - number].ringer.clone()),
    ]
}
