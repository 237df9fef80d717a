//! Operations: a checked command, by a session that exod knows, on capabilities that it holds.
//!
//! Each operation first looks (handles, rights, policy, quota, names) and changes nothing, so that a
//! refusal leaves everything as it was; then it acts. What can still fail then is the kernel, or a
//! full table; those paths undo what they did.

#![forbid(unsafe_code)]

use std::sync::Arc;

use libexo::abi::ABI_VERSION;
use libexo::abi::port::{Layout, PortFlags, SEGMENTS_MAX};
use libexo::abi::status::Status;
use libexo::abi::tap::TAP_PREFIX;
use libexo::abi::wire::{ErrorCode, ObjectKind, PageKind, PortName, Rights, StatsPage};

use crate::accounts::Account;
use crate::bell::Bell;
use crate::captable::{CapView, DomainId, DomainInfo, NewObject, ObjectId, ObjectState, Quota};
use crate::decode::Command;
use crate::frames::FRAME_BYTES;
use crate::identity::Identity;
use crate::policy::Grant;
use crate::ports::Holder;
use crate::state::{Answer, Cause, FdRef, OWNER, State, Ticket, bytes_of};
use crate::status::StatusTable;

/// Least packet memory in a segment: one page.
const PACKETS_MIN: usize = 4096;

/// Who asks.
#[derive(Debug)]
pub struct Caller {
    /// As the kernel says.
    pub who: Identity,
    /// What the policy gives; nothing: a peer that no rule names.
    pub grant: Option<Arc<Grant>>,
    /// Its domain, after the hello.
    pub domain: Option<DomainId>,
}

/// What became of a request.
#[derive(Debug)]
pub enum Outcome {
    /// It is done, or refused.
    Now(Result<Answer, ErrorCode>),
    /// A job works on it; [`State::collect`] brings the answer.
    Later,
}

type Verdict = Result<Answer, ErrorCode>;

/// A handle and what the policy grants, together: who asks, after the hello.
#[derive(Clone)]
struct Asker {
    id: DomainId,
    uid: u32,
    grant: Arc<Grant>,
}

impl State {
    /// Does one command.
    pub fn invoke(&mut self, caller: &mut Caller, ticket: Ticket, command: Command) -> Outcome {
        let by = match (&caller.grant, caller.domain) {
            (None, _) => return Outcome::Now(Err(ErrorCode::Denied)),
            (Some(grant), None) if command == Command::Hello => {
                let grant = grant.clone();
                return Outcome::Now(self.hello(caller, grant));
            }
            (Some(grant), Some(id)) if command != Command::Hello => Asker {
                id,
                uid: caller.who.uid,
                grant: grant.clone(),
            },
            _ => return Outcome::Now(Err(ErrorCode::OutOfOrder)),
        };
        if let Command::AllocUnit { frames, pages } = command {
            return self.alloc(&by, ticket, frames, pages);
        }
        Outcome::Now(self.invoke_now(&by, command))
    }

    fn invoke_now(&mut self, by: &Asker, command: Command) -> Verdict {
        match command {
            Command::Ping => Ok(Answer::default()),
            Command::Drop { handle } => self.drop_handle(by, handle),
            Command::Inspect { handle } => self.inspect(by, handle),
            Command::List { after } => self.list(by, after),
            Command::PortCreate {
                unit,
                name,
                ring_log2,
                flags,
            } => self.port_create(by, unit, name, ring_log2, flags),
            Command::PortJoin { unit, name, flags } => self.port_join(by, unit, name, flags),
            Command::PortPeer { port } => self.port_peer(by, port),
            Command::PortAttach { port, unit } => self.port_attach(by, port, unit),
            Command::PortSegment { port, segment } => self.port_segment(by, port, segment),
            Command::PortLeave { port, reason } => self.port_leave(by, port, reason),
            Command::PortTap { name, on } => self.port_tap(by, name, on),
            Command::Stats { domain, page } => self.stats(by, domain, page),
            // Answered before.
            Command::Hello | Command::AllocUnit { .. } => Err(ErrorCode::OutOfOrder),
        }
    }

    // --- sessions and memory ---

    fn hello(&mut self, caller: &mut Caller, grant: Arc<Grant>) -> Verdict {
        let slots = self.table.limits().capabilities;
        let kernel = |error| refused("a status table or bell", error);
        let status = StatusTable::create(slots, self.table.epoch()).map_err(kernel)?;
        let bell = Bell::new().map_err(kernel)?;
        let id = self.table.add_domain(DomainInfo {
            uid: caller.who.uid,
            gid: caller.who.gid,
            pid: caller.who.pid as u32,
            pid_start: caller.who.started_ticks,
            quota: Quota {
                frames: u64::from(grant.max_frames),
                capabilities: grant.max_capabilities,
                ports: grant.max_ports,
            },
        })?;
        let left = grant.max_frames
            - self
                .accounts
                .of(caller.who.uid)
                .frames
                .min(grant.max_frames);
        let answer = Answer {
            handle: 0,
            vals: [
                u64::from(ABI_VERSION),
                id.raw(),
                status.bytes() as u64,
                self.offer.page_kind as u64,
                FRAME_BYTES as u64,
                u64::from(left).min(self.frames_free()),
            ],
            fds: vec![
                FdRef::Own(status.reader()),
                FdRef::Own(bell.sleeper.clone()),
            ],
        };
        self.admit(id, caller.who.uid, status, bell);
        caller.domain = Some(id);
        Ok(answer)
    }

    fn alloc(
        &mut self,
        by: &Asker,
        ticket: Ticket,
        frames: u32,
        pages: Option<PageKind>,
    ) -> Outcome {
        let more = Account {
            frames,
            capabilities: 1,
            ..Account::default()
        };
        if let Err(code) = self.admits(by, more) {
            return Outcome::Now(Err(code));
        }
        if u64::from(frames) > self.frames_free() {
            return Outcome::Now(Err(ErrorCode::NoFrames));
        }
        let plain = pages.is_none_or(|kind| kind == self.offer.page_kind);
        let ready = if plain { self.take_ready(frames) } else { None };
        let new = NewObject {
            kind: ObjectKind::Unit,
            frames,
            page: Some(pages.unwrap_or(self.offer.page_kind)),
            tag: 0,
            bound: ready.is_some(),
        };
        let (object, root) = match self.table.add_object(by.id, new, OWNER) {
            Ok(made) => made,
            Err(error) => {
                // Nobody has seen it.
                if let Some(unit) = ready {
                    self.pool.put(unit);
                }
                return Outcome::Now(Err(error.into()));
            }
        };
        let charged = Account {
            frames,
            ..Account::default()
        };
        self.accounts.add(by.uid, charged);
        self.introduce(by.id, root, Status::LIVE);
        match ready {
            Some(unit) => Outcome::Now(Ok(self.bind(object, root, unit))),
            None => {
                self.post_make(object, ticket, frames, pages);
                Outcome::Later
            }
        }
    }

    fn drop_handle(&mut self, by: &Asker, handle: u64) -> Verdict {
        let cap = self.table.check(by.id, handle, Rights::empty(), None)?;
        if self.uses.contains_key(&handle) {
            return Err(ErrorCode::Busy);
        }
        self.give_back(by, &cap)?;
        Ok(Answer::default())
    }

    fn give_back(&mut self, by: &Asker, cap: &CapView) -> Result<(), ErrorCode> {
        let mut events = Vec::new();
        self.table.drop_cap(by.id, cap.handle, &mut events)?;
        self.settle(events, Cause::Given);
        // Its owner is done with it: those who still read it have a while.
        if self
            .units
            .get(&cap.object.id)
            .is_some_and(|unit| unit.root == cap.handle)
        {
            self.ask_back(cap.object.id);
        }
        Ok(())
    }

    fn inspect(&mut self, by: &Asker, handle: u64) -> Verdict {
        let cap = self.table.check(by.id, handle, Rights::empty(), None)?;
        Ok(self.describe(&cap))
    }

    fn list(&mut self, by: &Asker, after: u64) -> Verdict {
        Ok(match self.table.next_cap(by.id, after)? {
            Some(cap) => self.describe(&cap),
            None => Answer::default(),
        })
    }

    fn describe(&self, cap: &CapView) -> Answer {
        let object = &cap.object;
        let size = match object.kind {
            ObjectKind::Unit => bytes_of(object),
            ObjectKind::Port => {
                let side = self.ports.side(object.id);
                let port = side.and_then(|side| self.ports.port(side.port));
                port.map_or(0, |port| 1 << port.ring_log2)
            }
        };
        Answer {
            handle: cap.handle,
            vals: [
                object.kind as u64,
                u64::from(cap.rights.bits()),
                object.state as u64,
                size,
                u64::from(object.holders),
                object.page.map_or(0, |page| page as u64),
            ],
            fds: Vec::new(),
        }
    }

    // --- ports ---

    fn port_create(
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
        let kernel = |error| refused("a bell", error);
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

    fn port_join(&mut self, by: &Asker, unit: u64, name: PortName, flags: PortFlags) -> Verdict {
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

    fn port_peer(&mut self, by: &Asker, port: u64) -> Verdict {
        let side = self.own_side(by, port)?;
        self.peer_answer(by, side)
    }

    fn port_segment(&mut self, by: &Asker, port: u64, segment: usize) -> Verdict {
        let side = self.own_side(by, port)?;
        let (handle, unit) = self.peer_segment(by, side, segment)?;
        let object = self.table.object(unit).ok_or(ErrorCode::Revoked)?;
        Ok(Answer {
            handle,
            vals: [bytes_of(&object), page_of(object.page), 0, 0, 0, 0],
            fds: vec![FdRef::Reader(unit)],
        })
    }

    fn port_attach(&mut self, by: &Asker, port: u64, unit: u64) -> Verdict {
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

    fn port_leave(&mut self, by: &Asker, port: u64, reason: u64) -> Verdict {
        let kind = Some(ObjectKind::Port);
        let cap = self.table.check(by.id, port, Rights::empty(), kind)?;
        tracing::info!(target: "exod::audit", domain = by.id.raw(), handle = port, reason, "left");
        self.give_back(by, &cap)?;
        Ok(Answer::default())
    }

    fn port_tap(&mut self, by: &Asker, name: PortName, on: bool) -> Verdict {
        allow(by.grant.admin)?;
        let port = self.ports.may_tap(&name, by.id)?;
        self.set_tap(port, on.then_some(by.id));
        Ok(Answer::default())
    }

    // --- what several operations look at ---

    fn admits(&self, by: &Asker, more: Account) -> Result<(), ErrorCode> {
        self.accounts.of(by.uid).admits(&by.grant, more)
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

    // --- the ledger ---

    fn stats(&self, by: &Asker, domain: u64, page: StatsPage) -> Verdict {
        allow(by.grant.admin)?;
        let vals = match (domain, page) {
            (0, StatsPage::Ledger) => self.totals(),
            (0, StatsPage::Work) => self.work(),
            (_, StatsPage::Ledger) => self.share_of(DomainId::from_raw(domain))?,
            (_, StatsPage::Work) => return Err(ErrorCode::Unsupported),
        };
        Ok(Answer {
            vals,
            ..Answer::default()
        })
    }

    fn totals(&self) -> [u64; 6] {
        let ledger = self.table.ledger();
        [
            u64::from(ledger.domains),
            u64::from(ledger.capabilities),
            u64::from(ledger.objects_total()),
            self.frames_free(),
            ledger.frames_owned(),
            ledger.frames_pinned(),
        ]
    }

    fn work(&self) -> [u64; 6] {
        let ledger = self.table.ledger();
        let [_, _, unbinding, pinned] = ledger.objects.map(u64::from);
        let sessions = u64::from(self.accounts.sessions());
        [
            sessions,
            self.ports.sides() as u64,
            u64::from(self.jobs_pending()),
            self.closes_pending as u64,
            unbinding,
            pinned,
        ]
    }

    fn share_of(&self, id: DomainId) -> Result<[u64; 6], ErrorCode> {
        let domain = self.table.domain(id).ok_or(ErrorCode::NotFound)?;
        let left = domain.info.quota.frames.saturating_sub(domain.frames);
        Ok([
            1,
            u64::from(domain.capabilities),
            u64::from(domain.objects),
            left.min(self.frames_free()),
            domain.frames,
            0,
        ])
    }
}

/// What one more side of a port is charged with.
const SIDE: Account = Account {
    sessions: 0,
    frames: 0,
    capabilities: 1,
    ports: 1,
};

fn allow(allowed: bool) -> Result<(), ErrorCode> {
    if allowed {
        Ok(())
    } else {
        Err(ErrorCode::Denied)
    }
}

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

fn refused(what: &str, error: std::io::Error) -> ErrorCode {
    tracing::error!(%error, "the kernel refused {what}");
    ErrorCode::Kernel
}
