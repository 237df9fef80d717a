//! Operations: a checked command, by a session that exod knows, on capabilities that it holds.
//!
//! Each operation first looks (handles, rights, policy, quota, names) and changes nothing, so that
//! a refusal leaves everything as it was; then it acts. What can still fail then is the kernel, or
//! a full table; those paths undo what they did.

#![forbid(unsafe_code)]

mod ledger;
mod ports;
mod watch;

use std::sync::Arc;

use libexo::abi::ABI_VERSION;
use libexo::abi::status::Status;
use libexo::abi::wire::{ErrorCode, ObjectKind, PageKind, Rights};

use crate::accounts::Account;
use crate::bell::Bell;
use crate::book::Tally;
use crate::captable::{CapView, DomainId, DomainInfo, NewObject, Quota};
use crate::decode::Command;
use crate::frames::FRAME_BYTES;
use crate::policy::Grant;
use crate::state::{Answer, Cause, FdRef, OWNER, Order, State, Ticket, bytes_of};
use crate::status::StatusTable;

/// Who asks.
#[derive(Debug)]
pub struct Caller {
    /// As the kernel says, and what it did.
    pub tally: Arc<Tally>,
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
    /// A job works on it; `State::collect` brings the answer.
    Later,
}

type Verdict = Result<Answer, ErrorCode>;

/// A handle and what the policy grants, together: who asks, after the hello.
#[derive(Clone)]
struct Asker {
    id: DomainId,
    uid: u32,
    grant: Arc<Grant>,
    ticket: Ticket,
    tally: Arc<Tally>,
}

impl State {
    /// Does one command.
    pub fn invoke(&mut self, caller: &mut Caller, ticket: Ticket, command: Command) -> Outcome {
        let by = match (&caller.grant, caller.domain) {
            (None, _) => return Outcome::Now(Err(ErrorCode::Denied)),
            (Some(grant), None) if command == Command::Hello => {
                let grant = grant.clone();
                return Outcome::Now(self.hello(caller, ticket, grant));
            }
            (Some(grant), Some(id)) if command != Command::Hello => Asker {
                id,
                uid: caller.tally.who.uid,
                grant: grant.clone(),
                ticket,
                tally: caller.tally.clone(),
            },
            _ => return Outcome::Now(Err(ErrorCode::OutOfOrder)),
        };
        match command {
            Command::AllocUnit { frames, pages } => self.alloc(&by, frames, pages),
            Command::PortCounts { port } => self.port_counts(&by, port),
            other => Outcome::Now(self.invoke_now(&by, other)),
        }
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
            Command::DomainNext { after } => self.domain_next(by, after),
            Command::PortNext { after } => self.port_next(by, after),
            Command::Counters => self.counters(by),
            // Answered before.
            Command::Hello | Command::AllocUnit { .. } | Command::PortCounts { .. } => {
                Err(ErrorCode::OutOfOrder)
            }
        }
    }

    fn hello(&mut self, caller: &mut Caller, ticket: Ticket, grant: Arc<Grant>) -> Verdict {
        let slots = self.table.limits().capabilities;
        let kernel = |error| refused(ticket, "a status table or bell", error);
        let who = &caller.tally.who;
        let status = StatusTable::create(slots, self.table.epoch()).map_err(kernel)?;
        let bell = Bell::new().map_err(kernel)?;
        let id = self.table.add_domain(DomainInfo {
            uid: who.uid,
            gid: who.gid,
            pid: who.pid as u32,
            pid_start: who.started_ticks,
            quota: Quota {
                frames: u64::from(grant.max_frames),
                capabilities: grant.max_capabilities,
                ports: grant.max_ports,
            },
        })?;
        let owned = self.accounts.of(who.uid).frames;
        let left = grant.max_frames.saturating_sub(owned);
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
        self.admit(id, caller.tally.clone(), status, bell);
        caller.domain = Some(id);
        Ok(answer)
    }

    fn alloc(&mut self, by: &Asker, frames: u32, pages: Option<PageKind>) -> Outcome {
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
                self.post_make(Order {
                    id: object,
                    ticket: by.ticket,
                    frames,
                    pages,
                });
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

    fn admits(&self, by: &Asker, more: Account) -> Result<(), ErrorCode> {
        self.accounts.of(by.uid).admits(&by.grant, more)
    }
}

fn allow(allowed: bool) -> Result<(), ErrorCode> {
    if allowed {
        Ok(())
    } else {
        Err(ErrorCode::Denied)
    }
}

fn refused(ticket: Ticket, what: &str, error: std::io::Error) -> ErrorCode {
    let Ticket { session, place } = ticket;
    tracing::error!(session, request = place + 1, %error, "the kernel refused {what}");
    ErrorCode::Kernel
}
