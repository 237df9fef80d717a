//! Reading the ledger.

#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

use libexo::abi::wire::{ErrorCode, StatsPage};

use super::{Asker, Verdict, allow};
use crate::captable::DomainId;
use crate::state::{Answer, State};

impl State {
    pub(super) fn stats(&self, by: &Asker, domain: u64, page: StatsPage) -> Verdict {
        allow(by.grant.admin)?;
        let vals = match (domain, page) {
            (0, StatsPage::Ledger) => self.totals(),
            (0, StatsPage::Work) => self.work(),
            (_, StatsPage::Ledger) => self.share_of(DomainId::from_raw(domain))?,
            (0, StatsPage::Activity) | (_, StatsPage::Work) => {
                return Err(ErrorCode::Unsupported);
            }
            (_, StatsPage::Activity) => self.activity(DomainId::from_raw(domain))?,
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

    fn activity(&self, id: DomainId) -> Result<[u64; 6], ErrorCode> {
        let view = self.table.domain(id).ok_or(ErrorCode::NotFound)?;
        let domain = self.domains.get(&id).ok_or(ErrorCode::NotFound)?;
        let tally = &domain.tally;
        let counts = [&tally.requests, &tally.refused, &tally.granted, &tally.lost];
        let [requests, refused, granted, lost] = counts.map(|c| c.load(Ordering::Relaxed));
        let ports = u64::from(view.ports);
        Ok([requests, refused, granted, lost, ports, view.state as u64])
    }
}
