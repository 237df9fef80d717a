//! What exod does for itself while it serves: hugepages, its configuration, its service manager.
//!
//! These calls may take seconds (the kernel moves memory together, a user's name is looked up in
//! another city), so they have a worker of their own: neither the loop nor a client's grant waits
//! for them. They are done one after the other, in the order in which they were asked for.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

use libexo::abi::counters::Job;
use mio::Interest;
use mio::unix::SourceFd;

use super::{RELOAD, Server};
use crate::cgroup::{self, Place, Reservation};
use crate::config::{Config, ConfigError, Loaded};
use crate::frames::{self, Hugepages};
use crate::manager::Manager;

/// Hugepages that are asked for in one call: what waits for pages gets these before the next are
/// asked for, and a stop waits for one call at most.
const RAISE_STEP: u64 = 64;

/// What the service manager is told anew when it changes.
pub(super) type Milestone = [bool; 4];

/// What a job of upkeep did.
pub(super) enum Upkeep {
    Raised(Hugepages, Result<(), frames::Error>),
    Reserved(Reservation),
    Read(Box<Result<Loaded, ConfigError>>),
}

/// The kernel's pool of hugepages, as far as it is exod's.
#[derive(Debug, Default)]
pub(super) struct Raise {
    /// Away while a job changes it.
    pages: Option<Hugepages>,
    /// Pages still to be added.
    missing: u64,
    /// What to take out again, once the job that is under way is done.
    surplus: u64,
    failed: bool,
}

/// Where the configuration comes from, and how the last reload went.
#[derive(Debug, Default)]
pub(super) struct Reload {
    path: PathBuf,
    pipe: Option<OwnedFd>,
    /// A job reads it.
    reading: bool,
    /// It may have changed since that job began.
    again: bool,
    /// Why the file is not what runs.
    refused: Option<String>,
}

impl Server {
    /// Reads this file again whenever the pipe becomes readable.
    pub fn reload_on(&mut self, pipe: OwnedFd, path: PathBuf) -> io::Result<()> {
        let fd = pipe.as_raw_fd();
        let registry = self.poll.registry();
        registry.register(&mut SourceFd(&fd), RELOAD, Interest::READABLE)?;
        self.reload.pipe = Some(pipe);
        self.reload.path = path;
        Ok(())
    }

    /// Tells the service manager how it goes, from readiness on.
    pub fn report_to(&mut self, manager: Manager) {
        self.manager = Some(manager);
    }

    /// The first hugepage is asked for at once, since what memory is offered depends on there being
    /// any; all others come while clients are served.
    pub(super) fn first_page(config: &Config, record: Option<PathBuf>) -> Raise {
        let goal = u64::from(config.pool.raise_hugepages.0);
        let mut pages = Hugepages::recorded_in(record);
        let begun = match goal {
            0 => Ok(0),
            goal => Hugepages::missing(goal).and_then(|missing| {
                let first = u64::from(missing > 0 && Hugepages::free() == 0);
                pages.add(first).map(|()| missing - first)
            }),
        };
        if let Err(error) = &begun {
            tracing::error!("hugepages cannot be raised, goes on with what is there: {error}");
        }
        Raise {
            pages: Some(pages),
            missing: *begun.as_ref().unwrap_or(&0),
            surplus: 0,
            failed: begun.is_err(),
        }
    }

    /// Reserves what the configuration says of the machine, for an exod that has it to itself.
    pub fn reserve(&mut self, record: Option<PathBuf>) {
        let machine = self.config.machine.clone();
        if machine.cores.is_empty() && machine.hugepages_max.is_none() {
            return;
        }
        self.upkeep.post(Job::Reserve, move || {
            Upkeep::Reserved(match Place::of_this_process() {
                Ok(place) => cgroup::reserve(&machine, &place, record),
                Err(error) => Reservation::nothing(&error),
            })
        });
    }

    fn reserved(&mut self, reservation: Reservation) {
        for has in &reservation.has {
            tracing::info!("{has}");
        }
        for lacks in &reservation.lacks {
            tracing::error!("{lacks}");
        }
        self.reservation = Some(reservation);
    }

    pub(super) fn go_on_raising(&mut self) {
        let raise = &mut self.raise;
        let Some(mut pages) = raise.pages.take() else {
            return;
        };
        if raise.missing == 0 && raise.surplus == 0 {
            raise.pages = Some(pages);
            return;
        }
        let step = raise.missing.min(RAISE_STEP);
        let surplus = std::mem::take(&mut raise.surplus);
        raise.missing -= step;
        self.state.pages_are_coming(true);
        self.upkeep.post(Job::Raise, move || {
            pages.remove(surplus);
            let added = pages.add(step);
            Upkeep::Raised(pages, added)
        });
    }

    fn raised(&mut self, pages: Hugepages, added: Result<(), frames::Error>) {
        self.raise.failed = added.is_err();
        if let Err(error) = added {
            let missing = std::mem::take(&mut self.raise.missing);
            tracing::error!("{missing} hugepages cannot be added, goes on without: {error}");
        }
        self.raise.pages = Some(pages);
        self.state.pages_are_coming(self.raise.missing > 0);
        self.go_on_raising();
    }

    /// Another goal: the pool grows or shrinks by the difference.
    fn raise_to(&mut self, old: u64, new: u64) {
        self.raise.missing += new.saturating_sub(old);
        let less = old.saturating_sub(new);
        let not_begun = less.min(self.raise.missing);
        self.raise.missing -= not_begun;
        self.raise.surplus += less - not_begun;
        self.go_on_raising();
    }

    /// A signal came: reads the configuration, once more if it is being read.
    pub(super) fn begin_reload(&mut self) {
        let Some(pipe) = &self.reload.pipe else {
            return;
        };
        let mut signals = [0; 64];
        while rustix::io::read(pipe, &mut signals).is_ok_and(|n| n > 0) {}
        if std::mem::replace(&mut self.reload.reading, true) {
            self.reload.again = true;
            return;
        }
        if let Some(manager) = &self.manager {
            manager.reloading();
        }
        let path = self.reload.path.clone();
        self.upkeep.post(Job::Reload, move || {
            Upkeep::Read(Box::new(Config::load(&path)))
        });
    }

    fn reloaded(&mut self, result: Result<Loaded, ConfigError>) {
        self.reload.reading = false;
        match result {
            Ok(loaded) => {
                self.reload.refused = None;
                self.take_over(loaded.config);
            }
            Err(error) => {
                tracing::error!("the configuration is refused, the old one stays: {error}");
                self.reload.refused = Some(error.brief());
            }
        }
        let status = self.status_line();
        if let Some(manager) = &mut self.manager {
            manager.ready(status);
        }
        if std::mem::take(&mut self.reload.again) {
            self.begin_reload();
        }
    }

    fn take_over(&mut self, new: Config) {
        for note in new.notes() {
            tracing::warn!("configuration: {note}");
        }
        let old_pages = u64::from(self.config.pool.raise_hugepages.0);
        let change = self.config.take_over(new);
        if !change.kept.is_empty() {
            let keys = change.kept.join(", ");
            tracing::warn!("keep their values until exod is started again: {keys}");
        }
        let keys = change.taken.join(", ");
        tracing::info!("configuration reloaded, changed: {keys}");
        self.state.reconfigure(&self.config);
        let new_pages = u64::from(self.config.pool.raise_hugepages.0);
        self.raise_to(old_pages, new_pages);
    }

    /// What upkeep has done since the last turn.
    pub(super) fn collect_upkeep(&mut self) {
        let done: Vec<Upkeep> = self.upkeep.results().collect();
        for done in done {
            match done {
                Upkeep::Raised(pages, added) => self.raised(pages, added),
                Upkeep::Reserved(reservation) => self.reserved(reservation),
                Upkeep::Read(result) => self.reloaded(*result),
            }
        }
    }

    /// Clients are served: says so.
    pub(super) fn announce(&mut self) {
        let status = self.status_line();
        if let Some(manager) = &mut self.manager {
            manager.ready(status);
        }
    }

    /// The end of a turn: the watchdog sees that there was one, and news are told.
    pub(super) fn report(&mut self) {
        let news = self.milestone();
        let told = std::mem::replace(&mut self.milestone, news);
        let status = (told != news).then(|| self.status_line());
        let Some(manager) = &mut self.manager else {
            return;
        };
        if let Some(status) = status {
            manager.status(status);
        }
        if manager.turn(Instant::now()) {
            // It is awake anyway, and somebody else may have let go of memory.
            self.state.restock();
        }
    }

    /// What is worth a new line of status: not each unit of the stock.
    fn milestone(&self) -> Milestone {
        let (ready, wanted) = self.state.stock();
        [
            ready >= wanted,
            self.raise.missing > 0,
            self.raise.failed,
            self.reservation.is_some(),
        ]
    }

    fn status_line(&self) -> String {
        let offer = &self.state.offer;
        let (ready, wanted) = self.state.stock();
        let frames = self.config.pool.frames.0;
        let pages = offer.page_kind.name();
        let mut line = format!("Serving {frames} frames of {pages} pages");
        if ready < wanted {
            line += &format!(", {ready} of {wanted} units ready");
        }
        if self.raise.missing > 0 {
            line += &format!(", {} hugepages to be added", self.raise.missing);
        }
        if self.raise.failed {
            line += ", hugepages could not be raised";
        }
        if let Some(reservation) = &self.reservation {
            for part in reservation.has.iter().chain(&reservation.lacks) {
                line += &format!("; {part}");
            }
        }
        if let Some(reason) = &self.reload.refused {
            line += &format!("; the configuration was refused, the old one stays: {reason}");
        }
        line
    }
}
