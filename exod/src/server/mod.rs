//! The loop: connections in, records to and fro, ends noticed.
//!
//! One thread. Each turn it takes what epoll reports, what jobs have done and what closers have
//! closed, does a few steps of chores, and gives each session that has something to say a turn of
//! [`TURN_BUDGET`] requests, in a round. So a flooder gets its share and no more. Nothing here
//! sleeps but the poll itself: sockets are read and written without waiting, slow kernel calls are
//! jobs, and what a client sent or left behind is closed by the closer.

#![forbid(unsafe_code)]

mod connections;
mod listener;
mod session;
mod upkeep;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, unbounded};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use crate::accounts::Account;
use crate::audit::Trail;
use crate::book::Book;
use crate::cgroup::Reservation;
use crate::closer::Closer;
use crate::config::Config;
use crate::counters::Counters;
use crate::invoke::Outcome;
use crate::jobs::Jobs;
use crate::leftovers;
use crate::manager::Manager;
use crate::state::{StartError, State, Ticket};

use self::upkeep::{Milestone, Raise, Reload, Upkeep};
pub use listener::{ListenError, Listener};
pub use session::{Ended, Session};

/// Requests of one session in one turn.
pub const TURN_BUDGET: usize = 16;

/// Events taken from epoll in one turn.
const EVENTS: usize = 256;

/// How long a stopping exod waits for sockets to be closed.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

const WAKER: Token = Token(0);
const LISTENER: Token = Token(1);
const STOP: Token = Token(2);
const RELOAD: Token = Token(3);

/// First number of a session; its socket's token is twice that, its pidfd's one more.
const FIRST_SESSION: u64 = 2;

/// Words to a running loop from other threads.
#[derive(Clone)]
pub struct Remote {
    messages: Sender<Message>,
    waker: Arc<Waker>,
}

enum Message {
    Connect(OwnedFd),
    Stop,
}

impl Remote {
    /// Hands one end of a socketpair over. Its peer's credentials are those of the process that
    /// made the pair.
    pub fn connect(&self, socket: OwnedFd) -> io::Result<()> {
        self.tell(Message::Connect(socket))
    }

    /// Ends the loop.
    pub fn stop(&self) -> io::Result<()> {
        self.tell(Message::Stop)
    }

    fn tell(&self, message: Message) -> io::Result<()> {
        let gone = |_| io::Error::new(io::ErrorKind::NotConnected, "this exod has stopped");
        self.messages.send(message).map_err(gone)?;
        self.waker.wake()
    }
}

/// See the module.
pub struct Server {
    poll: Poll,
    listener: Option<Listener>,
    stop_pipe: Option<OwnedFd>,
    remote: Remote,
    inbox: Receiver<Message>,
    state: State,
    sessions: HashMap<u64, Session>,
    turns: VecDeque<u64>,
    last_session: u64,
    closer: Closer,
    config: Config,
    upkeep: Jobs<Upkeep>,
    reload: Reload,
    manager: Option<Manager>,
    /// What the manager was told of, see `milestone`.
    milestone: Milestone,
    /// There may be connections to accept.
    acceptable: bool,
    accept_after: Option<Instant>,
    /// Hugepages that exod added.
    raise: Raise,
    /// Cores and limits, once they are there.
    reservation: Option<Reservation>,
}

impl Server {
    /// Everything that a running exod needs, but nobody is served yet.
    ///
    /// What is changed on this machine (hugepages) is recorded in the directory `records`, if there
    /// is one.
    pub fn new(config: &Config, records: Option<PathBuf>) -> Result<Server, StartError> {
        let kernel = |what| move |source| StartError::Kernel { what, source };
        let poll = Poll::new().map_err(kernel("cannot make an epoll"))?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(kernel("cannot make a waker"))?;
        let waker = Arc::new(waker);
        let raise = Server::first_page(config, records.map(|dir| dir.join(leftovers::HUGEPAGES)));
        let hook = config.before_job.clone();
        let counters = Counters::create().map_err(kernel("cannot make a page of counters"))?;
        let counters = Arc::new(counters);
        let jobs = Jobs::start("job", config.workers.0, waker.clone(), hook, &counters);
        let jobs = jobs.map_err(kernel("cannot start worker threads"))?;
        let upkeep = Jobs::start("upkeep", 1, waker.clone(), None, &counters);
        let upkeep = upkeep.map_err(kernel("cannot start the thread for upkeep"))?;
        let trail = config.audit_trail();
        let trail = trail.map(|trail| Trail::open(trail, counters.clone()));
        let book = Arc::new(Book::new(counters, trail.transpose()?));
        let (messages, inbox) = unbounded();
        Ok(Server {
            state: State::new(config, jobs, book)?,
            poll,
            listener: None,
            stop_pipe: None,
            closer: Closer::new(waker.clone()),
            remote: Remote { messages, waker },
            inbox,
            sessions: HashMap::new(),
            turns: VecDeque::new(),
            last_session: FIRST_SESSION,
            config: config.clone(),
            upkeep,
            reload: Reload::default(),
            manager: None,
            milestone: Default::default(),
            acceptable: false,
            accept_after: None,
            raise,
            reservation: None,
        })
    }

    /// Serves whoever connects there.
    pub fn listen(&mut self, listener: Listener) -> io::Result<()> {
        let fd = listener.as_fd().as_raw_fd();
        self.poll
            .registry()
            .register(&mut SourceFd(&fd), LISTENER, Interest::READABLE)?;
        self.listener = Some(listener);
        self.acceptable = true;
        Ok(())
    }

    /// Stops when this becomes readable: the pipe of a signal handler.
    pub fn stop_on(&mut self, pipe: OwnedFd) -> io::Result<()> {
        let fd = pipe.as_raw_fd();
        self.poll
            .registry()
            .register(&mut SourceFd(&fd), STOP, Interest::READABLE)?;
        self.stop_pipe = Some(pipe);
        Ok(())
    }

    /// To talk to the loop from elsewhere.
    pub fn remote(&self) -> Remote {
        self.remote.clone()
    }

    /// What memory it hands out.
    pub fn offer(&self) -> &crate::frames::Offer {
        &self.state.offer
    }

    /// Serves until told to stop. An error is the loop's own: no client can cause one.
    pub fn serve(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        let mut more = false;
        self.announce();
        self.go_on_raising();
        loop {
            match self.poll.poll(&mut events, self.timeout(more)) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            }
            if self.take_events(&events) | self.take_messages() {
                return Ok(());
            }
            self.accept();
            self.collect();
            self.collect_upkeep();
            more = self.state.do_chores(Instant::now());
            self.serve_turns();
            self.state.ring_bells();
            self.state.book.kick();
            self.report();
        }
    }

    /// Takes everything back that was granted, and ends all sessions.
    pub fn stop(mut self) {
        if let Some(manager) = &self.manager {
            manager.stopping();
        }
        // First the file, so that nobody connects to a daemon that ends.
        self.listener = None;
        let book = self.state.book.clone();
        // Units are broken while the sessions still stand, so that holders see what they lost.
        if !self.state.stop() {
            tracing::error!("a kernel call hangs; its thread is left behind");
        }
        for (_, session) in self.sessions.drain() {
            session.ended(&Ended::Stopped);
            let uid = session.caller.tally.who.uid;
            self.closer.close(uid, session.into_fds());
        }
        // After the units: what was added to the kernel's pool is free now.
        if !self.upkeep.stop(drop) {
            tracing::error!("raising hugepages hangs: they may stay");
        }
        drop((self.raise, self.reservation));
        let closes = self.closer.finish(CLOSE_WAIT);
        if closes > 0 {
            tracing::warn!(closes, "files that clients sent cannot be closed");
        }
        // Sessions and state held it too, and are gone.
        if !Arc::into_inner(book).is_none_or(Book::close) {
            tracing::error!("the audit trail's disk hangs: its last lines may be missing");
        }
    }

    fn timeout(&self, more: bool) -> Option<Duration> {
        if more || !self.turns.is_empty() || (self.acceptable && self.may_accept()) {
            return Some(Duration::ZERO);
        }
        let ping = self.manager.as_ref().and_then(Manager::next_ping);
        let due = [self.state.next_due(), self.accept_after, ping];
        let now = Instant::now();
        // Rounded up by epoll's millisecond, so that it is due when the loop wakes.
        let wait = |at: Instant| at.saturating_duration_since(now) + Duration::from_micros(500);
        due.into_iter().flatten().min().map(wait)
    }

    /// True when told to stop.
    fn take_events(&mut self, events: &Events) -> bool {
        let mut stop = false;
        for event in events {
            match event.token() {
                WAKER => {}
                LISTENER => self.acceptable = true,
                STOP => stop = true,
                RELOAD => self.begin_reload(),
                Token(token) => {
                    let id = token as u64 / 2;
                    if token % 2 == 1 {
                        self.end(id, &Ended::Died);
                    } else if event.is_write_closed() || event.is_error() {
                        self.end(id, &Ended::HungUp);
                    } else if let Some(session) = self.sessions.get_mut(&id) {
                        session.readable |= event.is_readable();
                        session.writable |= event.is_writable();
                        self.queue_turn(id);
                    }
                }
            }
        }
        stop
    }

    /// True when told to stop.
    fn take_messages(&mut self) -> bool {
        while let Ok(message) = self.inbox.try_recv() {
            match message {
                Message::Connect(socket) => self.admit(socket),
                Message::Stop => return true,
            }
        }
        false
    }

    fn collect(&mut self) {
        for (ticket, result) in self.state.collect() {
            if let Some(session) = self.sessions.get_mut(&ticket.session) {
                session.answer(ticket.place, result);
                self.queue_turn(ticket.session);
            }
        }
        let closed: Vec<u32> = self.closer.closed().collect();
        for uid in closed {
            self.state.accounts.subtract(uid, SESSION);
        }
        self.state.closes_pending = self.closer.pending();
    }

    fn queue_turn(&mut self, id: u64) {
        if let Some(session) = self.sessions.get_mut(&id)
            && session.has_work()
            && !session.queued
        {
            session.queued = true;
            self.turns.push_back(id);
        }
    }

    /// One turn for each session that has something to do.
    fn serve_turns(&mut self) {
        for _ in 0..self.turns.len() {
            let Some(id) = self.turns.pop_front() else {
                return;
            };
            if let Err(why) = self.serve_one(id) {
                self.end(id, &why);
            } else {
                self.queue_turn(id);
            }
        }
    }

    fn serve_one(&mut self, id: u64) -> Result<(), Ended> {
        let Some(session) = self.sessions.get_mut(&id) else {
            return Ok(());
        };
        session.queued = false;
        let state = &mut self.state;
        for _ in 0..TURN_BUDGET {
            session.flush(state)?;
            if !session.readable || !session.has_place() {
                return Ok(());
            }
            let Some((head, decoded)) = session.receive()? else {
                continue;
            };
            let port = decoded.as_ref().ok().and_then(|command| {
                let by = || session.caller.domain.zip(command.port_handle());
                let named = || by().and_then(|(by, port)| state.name_of(by, port));
                command.port_name().or_else(named)
            });
            let place = session.queue(head, port);
            let ticket = Ticket { session: id, place };
            let outcome = match decoded {
                Ok(command) => state.invoke(&mut session.caller, ticket, command),
                Err(code) => Outcome::Now(Err(code)),
            };
            if let Outcome::Now(result) = outcome {
                session.answer(place, result);
            }
            if session.caller.grant.is_none() {
                session.flush(state)?;
                return Err(Ended::Unwelcome);
            }
        }
        session.flush(state)
    }
}

/// One session.
const SESSION: Account = Account {
    sessions: 1,
    frames: 0,
    capabilities: 0,
    ports: 0,
};
