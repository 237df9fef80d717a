//! What the verbs share: a snapshot of a running exod, taken in a few round trips.
//!
//! Lists are asked for one by one and the rest pipelined, so domains and ports that come or go
//! meanwhile may be missing; none of that is an error.

#![forbid(unsafe_code)]

use libexo::Client;
use libexo::abi::wire::ErrorCode;
use libexo::client::{Activity, Call, DomainInfo, Ledger, PortCounts, PortInfo, Work};
use libexo::counters::{Counters, Snapshot};

use crate::explain;

/// A domain with what it holds and did.
#[derive(Clone, Debug)]
pub struct Domain {
    pub info: DomainInfo,
    pub ledger: Ledger,
    pub activity: Activity,
}

/// A port with what passed it.
#[derive(Clone, Debug)]
pub struct Port {
    pub info: PortInfo,
    pub counts: PortCounts,
}

/// Everything that an admin can see, but exo itself.
#[derive(Clone, Debug)]
pub struct View {
    pub ledger: Ledger,
    pub work: Work,
    pub counters: Snapshot,
    pub domains: Vec<Domain>,
    pub ports: Vec<Port>,
}

/// Where views come from.
pub struct Watch {
    client: Client,
    counters: Counters,
}

impl Watch {
    /// Over a session of one's own.
    pub fn new(client: Client) -> anyhow::Result<Watch> {
        let counters = explain(client.counters())?;
        Ok(Watch { client, counters })
    }

    /// The session.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Totals alone: cheap however many domains there are. Without exo's own session.
    pub fn totals(&self) -> anyhow::Result<View> {
        let ledger = self.client.submit(Call::stats(0))?;
        let work = self.client.submit(Call::work())?;
        let (mut ledger, mut work) = (ledger.wait()?, work.wait()?);
        ledger.domains = ledger.domains.saturating_sub(1);
        work.sessions = work.sessions.saturating_sub(1);
        Ok(View {
            ledger,
            work,
            counters: self.counters.read()?,
            domains: Vec::new(),
            ports: Vec::new(),
        })
    }

    /// Everything.
    pub fn all(&self) -> anyhow::Result<View> {
        let mut view = self.totals()?;
        view.domains = self.domains()?;
        view.ports = self.ports()?;
        // Last, so that they are no older than what was just asked for.
        view.counters = self.counters.read()?;
        Ok(view)
    }

    fn domains(&self) -> anyhow::Result<Vec<Domain>> {
        let own = self.client.session().domain;
        let infos = self.client.domains().collect::<libexo::Result<Vec<_>>>()?;
        let mut asked = Vec::new();
        for info in infos.into_iter().filter(|info| info.domain != own) {
            let ledger = self.client.submit(Call::stats(info.domain))?;
            let activity = self.client.submit(Call::activity(info.domain))?;
            asked.push((info, ledger, activity));
        }
        let mut domains = Vec::new();
        for (info, ledger, activity) in asked {
            let (ledger, activity) = (there(ledger.wait())?, there(activity.wait())?);
            if let (Some(ledger), Some(activity)) = (ledger, activity) {
                domains.push(Domain {
                    info,
                    ledger,
                    activity,
                });
            }
        }
        Ok(domains)
    }

    fn ports(&self) -> anyhow::Result<Vec<Port>> {
        let infos = self.client.ports().collect::<libexo::Result<Vec<_>>>()?;
        let mut asked = Vec::new();
        for info in infos {
            asked.push((info, self.client.submit(Call::port_counts(info.port))?));
        }
        let mut ports = Vec::new();
        for (info, counts) in asked {
            if let Some(counts) = there(counts.wait())? {
                ports.push(Port { info, counts });
            }
        }
        Ok(ports)
    }
}

/// Nothing, where what was asked about has gone meanwhile.
fn there<T>(answer: libexo::Result<T>) -> libexo::Result<Option<T>> {
    match answer {
        Err(error) if error.code() == Some(ErrorCode::NotFound) => Ok(None),
        other => other.map(Some),
    }
}
