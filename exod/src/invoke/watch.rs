//! What an admin may see: who is there, which ports, what passes them, how long exod takes.

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;

use libexo::abi::wire::{ErrorCode, PortBrief, Rights};

use super::{Asker, Outcome, Verdict, allow};
use crate::captable::DomainId;
use crate::look;
use crate::state::{Answer, Done, FdRef, State};

impl State {
    pub(super) fn domain_next(&self, by: &Asker, after: u64) -> Verdict {
        allow(by.grant.admin)?;
        let mut after = (after != 0).then(|| DomainId::from_raw(after));
        while let Some(view) = self.table.next_domain(after) {
            // Every domain of the table has one, but none is worth a panic.
            if let Some(domain) = self.domains.get(&view.id) {
                let (tally, info) = (&domain.tally, view.info);
                let [first, second] = tally.who.name.words();
                return Ok(Answer {
                    handle: view.id.raw(),
                    vals: [
                        u64::from(info.pid),
                        u64::from(info.uid) | u64::from(info.gid) << 32,
                        first,
                        second,
                        tally.since_ms,
                        tally.session,
                    ],
                    fds: Vec::new(),
                });
            }
            after = Some(view.id);
        }
        Ok(Answer::default())
    }

    pub(super) fn port_next(&self, by: &Asker, after: u64) -> Verdict {
        allow(by.grant.admin)?;
        let Some((number, port)) = self.ports.next_port(after) else {
            return Ok(Answer::default());
        };
        let domain = |side: usize| {
            let side = self.ports.side(port.side(side).ok()?)?;
            Some(side.domain.raw())
        };
        let gone = |side: usize| port.side(side) == Err(ErrorCode::Revoked);
        let brief = PortBrief {
            ring_log2: port.ring_log2,
            flags: port.flags,
            tapped: port.is_tapped(),
            gone: [gone(0), gone(1)],
        };
        let [a, b, c] = port.name.words();
        Ok(Answer {
            handle: number,
            vals: [
                a,
                b,
                c,
                brief.word(),
                domain(0).unwrap_or(0),
                domain(1).unwrap_or(0),
            ],
            fds: Vec::new(),
        })
    }

    pub(super) fn port_counts(&mut self, by: &Asker, port: u64) -> Outcome {
        let checked = allow(by.grant.admin).and_then(|()| {
            let port = self.ports.port(port).ok_or(ErrorCode::NotFound)?;
            let segment = |number: usize| self.segment_of(port.side(number).ok()?);
            Ok((port.ring_log2, [segment(0), segment(1)]))
        });
        let (ring_log2, segments) = match checked {
            Ok(found) => found,
            Err(code) => return Outcome::Now(Err(code)),
        };
        let ticket = by.ticket;
        self.post_look(move || {
            let sent = segments.map(|segment| look::sent(segment?, ring_log2));
            Done::Looked(ticket, sent)
        });
        Outcome::Later
    }

    /// The first segment of a port's side, for as long as the look takes.
    fn segment_of(&self, side: crate::captable::ObjectId) -> Option<OwnedFd> {
        let side = self.ports.side(side)?;
        let unit = *side.segments.first()?;
        let cap = self.table.check(side.domain, unit, Rights::empty(), None);
        self.reader_of(cap.ok()?.object.id)
    }

    pub(super) fn counters(&self, by: &Asker) -> Verdict {
        allow(by.grant.admin)?;
        let counters = &self.book.counters;
        Ok(Answer {
            handle: 0,
            vals: [counters.bytes() as u64, 0, 0, 0, 0, 0],
            fds: vec![FdRef::Own(counters.reader())],
        })
    }
}
