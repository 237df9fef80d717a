//! A session with exod: typed requests out, checked replies and descriptors in.
//!
//! A [`Client`] is one socket and one capability space. It is a cheap handle to share within a
//! thread; another thread connects by itself. Requests can be pipelined: a [`Call`] says what to
//! ask, [`Client::submit`] sends it, [`Pending::wait`] collects the answer, and [`Client::call`] is
//! both. Every named method is one call.
//!
//! exod is trusted with resources, but not with this process's health: a reply is checked in full
//! (operation, sequence, number and kind of descriptors, ranges) before anything of it is used, and
//! a nonsense one is an error. One that breaks the order of replies ends the session.
//!
//! Dropping what was granted closes descriptors and no more; [`Client::drop_handle`] gives a
//! capability back, and the end of the last handle to a session gives back everything.
//!
//! ```
//! use exod::{config::Config, embedded::Embedded};
//! use libexo::{Client, abi::status::Status};
//!
//! // A daemon in this process; `Client::connect_default` finds the machine's.
//! let exod = Embedded::start(Config::embedded())?;
//! let client = Client::over(exod.connect()?)?;
//! let unit = client.alloc_unit(1, None)?;
//! assert_eq!(unit.bytes, client.session().frame_bytes);
//! assert_eq!(client.status(unit.handle), Status::LIVE);
//! client.drop_handle(unit.handle)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Pipelined, many units cost one wait:
//!
//! ```
//! # use exod::{config::Config, embedded::Embedded};
//! # use libexo::Client;
//! use libexo::client::Call;
//! # let exod = Embedded::start(Config::embedded())?;
//! # let client = Client::over(exod.connect()?)?;
//!
//! let calls = (0..3).map(|_| client.submit(Call::alloc_unit(1, None)));
//! let sent = calls.collect::<libexo::Result<Vec<_>>>()?;
//! for pending in sent {
//!     println!("{:#x}", pending.wait()?.handle);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod calls;
mod checks;
mod connect;
mod grants;
mod session;
mod socket;

pub use calls::Call;
pub use grants::*;
pub use session::Pending;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use crate::abi::port::PortFlags;
use crate::abi::status::Status;
use crate::abi::wire::{ErrorCode, PageKind, PortName};
use crate::counters::Counters;
use crate::status::{StatusTable, StatusWord};
use crate::{Error, Result};
use session::Session;

/// How long to wait for an answer unless told otherwise. exod answers in microseconds, or in
/// milliseconds when the kernel must clear pages; who waits longer talks to a stopped daemon.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A session with exod.
#[derive(Clone)]
pub struct Client(Rc<Inner>);

struct Inner {
    session: Rc<Session>,
    info: SessionInfo,
    status: StatusTable,
    bell: OwnedFd,
}

impl Client {
    /// Connects to the exod that listens at `path`.
    pub fn connect(path: impl AsRef<Path>) -> Result<Client> {
        Client::over(connect::to_path(path.as_ref(), ANSWER_TIMEOUT)?)
    }

    /// Connects to where the environment says: `EXO_SOCKET` (a path), else `EXO_SOCKET_FD` (an
    /// inherited socket, good for one session, which lasts until the process ends), else
    /// `/run/exod/exod.sock`.
    pub fn connect_default() -> Result<Client> {
        Client::over(connect::from_environment(ANSWER_TIMEOUT)?)
    }

    /// As [`Client::connect`], or without a path as [`Client::connect_default`], waiting at most
    /// `timeout` for the connection, the hello, and each answer after it.
    pub fn connect_within(path: Option<&Path>, timeout: Duration) -> Result<Client> {
        let socket = match path {
            Some(path) => connect::to_path(path, timeout)?,
            None => connect::from_environment(timeout)?,
        };
        Client::over_with(socket, Some(timeout))
    }

    /// Begins a session over a connected `SOCK_SEQPACKET` socket.
    pub fn over(socket: OwnedFd) -> Result<Client> {
        Client::over_with(socket, Some(ANSWER_TIMEOUT))
    }

    /// Likewise, waiting at most `timeout` for each answer; `None` waits for ever.
    pub fn over_with(socket: OwnedFd, timeout: Option<Duration>) -> Result<Client> {
        let session = Session::new(socket, timeout);
        let greeting = session.submit(Call::hello())?.wait()?;
        Ok(Client(Rc::new(Inner {
            session,
            info: greeting.info,
            status: StatusTable::map(&greeting.status, greeting.status_bytes)?,
            bell: greeting.bell,
        })))
    }

    /// Changes how long to wait for each answer; `None` waits for ever.
    pub fn set_timeout(&self, timeout: Option<Duration>) {
        self.0.session.set_timeout(timeout);
    }

    /// What exod said in the hello.
    pub fn session(&self) -> SessionInfo {
        self.0.info
    }

    /// Sends a request without waiting for its answer. At most
    /// [`PIPELINE_MAX`](crate::abi::wire::PIPELINE_MAX) are unanswered: one more waits for the
    /// first.
    pub fn submit<T>(&self, call: Call<T>) -> Result<Pending<T>> {
        self.0.session.submit(call)
    }

    /// Sends a request and waits for its answer.
    pub fn call<T>(&self, call: Call<T>) -> Result<T> {
        self.submit(call)?.wait()
    }

    /// Nothing: what an empty request costs.
    pub fn ping(&self) -> Result<()> {
        self.call(Call::ping())
    }

    /// A unit of `frames` frames, of the pool's pages unless a kind is named.
    pub fn alloc_unit(&self, frames: u64, kind: Option<PageKind>) -> Result<UnitGrant> {
        self.call(Call::alloc_unit(frames, kind))
    }

    /// Gives a capability back. A unit that serves a port of ours is busy.
    pub fn drop_handle(&self, handle: u64) -> Result<()> {
        self.call(Call::drop_handle(handle))
    }

    /// What exod's table says about one of this session's capabilities.
    pub fn inspect(&self, handle: u64) -> Result<Inspection> {
        self.call(Call::inspect(handle))
    }

    /// All capabilities of this session, newest first, one request each. The one at hand may be
    /// dropped meanwhile. Ends after the first error.
    pub fn list(&self) -> impl Iterator<Item = Result<Inspection>> + '_ {
        let limit = self.0.status.handles();
        let mut ahead = self.call(Call::list(0)).transpose();
        let found = std::iter::from_fn(move || {
            let found = ahead.take()?;
            if let Ok(capability) = &found {
                ahead = self.call(Call::list(capability.handle)).transpose();
            }
            Some(found)
        });
        // No more than there can be, whatever exod says.
        found.take(limit)
    }

    /// A port with `unit` as this side's segment, waiting for a peer.
    pub fn port_create(
        &self,
        name: &PortName,
        unit: u64,
        ring_log2: u32,
        flags: PortFlags,
    ) -> Result<PortCreated> {
        self.call(Call::port_create(name, unit, ring_log2, flags))
    }

    /// Joins the port of that name, with `unit` as this side's segment.
    pub fn port_join(&self, name: &PortName, unit: u64, flags: PortFlags) -> Result<PortJoined> {
        self.call(Call::port_join(name, unit, flags))
    }

    /// The other side of a port; `None` before it joined.
    pub fn port_peer(&self, port: u64) -> Result<Option<PeerSide>> {
        match self.call(Call::port_peer(port)) {
            Err(error) if error.code() == Some(ErrorCode::NotReady) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Lets the port's other side read `unit` as one more segment of ours; gives its index.
    pub fn port_attach(&self, port: u64, unit: u64) -> Result<u32> {
        self.call(Call::port_attach(port, unit))
    }

    /// Segment `index` of the port's other side.
    pub fn port_segment(&self, port: u64, index: u32) -> Result<Segment> {
        self.call(Call::port_segment(port, index))
    }

    /// Ends this side of a port, for a reason that exod logs.
    pub fn port_leave(&self, port: u64, reason: u64) -> Result<()> {
        self.call(Call::port_leave(port, reason))
    }

    /// Asks both sides of a port to mirror what they send, or to stop. Needs the policy's `admin`.
    pub fn port_tap(&self, name: &PortName, on: bool) -> Result<()> {
        self.call(Call::port_tap(name, on))
    }

    /// The ledger of one domain, or of all (0). Needs the policy's `admin`.
    pub fn stats(&self, domain: u64) -> Result<Ledger> {
        self.call(Call::stats(domain))
    }

    /// What exod is busy with. Needs the policy's `admin`.
    pub fn work(&self) -> Result<Work> {
        self.call(Call::work())
    }

    /// Who is behind each domain. Needs the policy's `admin`. A list that is long is asked for one
    /// by one, so domains that begin or end meanwhile may be missing in it.
    pub fn domains(&self) -> impl Iterator<Item = Result<DomainInfo>> + '_ {
        let next = |last| self.call(Call::domain_next(last));
        listed(next, |domain: &DomainInfo| domain.domain)
    }

    /// What a domain's session did so far. Needs the policy's `admin`.
    pub fn activity(&self, domain: u64) -> Result<Activity> {
        self.call(Call::activity(domain))
    }

    /// All ports. Needs the policy's `admin`. See [`Client::domains`].
    pub fn ports(&self) -> impl Iterator<Item = Result<PortInfo>> + '_ {
        let next = |last| self.call(Call::port_next(last));
        listed(next, |port: &PortInfo| port.port)
    }

    /// How much has passed a port. Needs the policy's `admin`.
    pub fn port_counts(&self, port: u64) -> Result<PortCounts> {
        self.call(Call::port_counts(port))
    }

    /// exod's counters: asked for once, they are read without asking again. Needs the policy's
    /// `admin`.
    pub fn counters(&self) -> Result<Counters> {
        self.call(Call::counters())
    }

    /// Status of a capability: one load and a compare. Empty when the handle is not live any more.
    #[inline]
    pub fn status(&self, handle: u64) -> Status {
        self.0.status.status(handle)
    }

    /// The status word of a handle, to keep beside what it guards.
    pub fn status_word(&self, handle: u64) -> Result<StatusWord> {
        let word = self.0.status.word(handle);
        word.ok_or(Error::BadHandle(handle))
    }

    /// This session's status table.
    pub fn status_table(&self) -> &StatusTable {
        &self.0.status
    }

    /// Losses that exod inflicted on this domain.
    #[inline]
    pub fn loss_counter(&self) -> u64 {
        self.0.status.loss_counter()
    }

    /// Losses told by exod and met by this process: see [`StatusTable::losses`].
    #[inline]
    pub fn losses(&self) -> u64 {
        self.0.status.losses()
    }

    /// Waits until exod changed the status table: true when it did since the last time, false after
    /// `timeout`. `None` waits for ever, or until the session ends.
    pub fn wait_event(&self, timeout: Option<Duration>) -> Result<bool> {
        let session = self.0.session.socket();
        let mut polled = [
            PollFd::new(&self.0.bell, PollFlags::IN),
            // Replies to pipelined requests are no event; the session's end is.
            PollFd::from_borrowed_fd(session, PollFlags::RDHUP),
        ];
        let deadline = socket::deadline(timeout);
        if !socket::poll_until(&mut polled, deadline).map_err(Error::system("poll"))? {
            return Ok(false);
        }
        if polled[0].revents().contains(PollFlags::IN) {
            return self.take_event();
        }
        Err(Error::Disconnected)
    }

    /// Whether exod rang since the last time, without waiting.
    pub fn take_event(&self) -> Result<bool> {
        // More than a full bell holds (a page), so that one read takes all rings there are.
        let mut rings = [0; 8192];
        loop {
            match rustix::io::read(&self.0.bell, &mut rings) {
                Ok(0) => return Err(Error::Disconnected),
                Ok(_) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(errno) => return Err(Error::system("read of the event bell")(errno)),
            }
        }
    }

    /// The bell that exod rings after it changed the status table, for a poll loop of one's own:
    /// readable until [`Client::take_event`].
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.0.bell.as_fd()
    }
}

/// A list that is asked for one by one, to its end or its first error.
fn listed<T>(
    next: impl Fn(u64) -> Result<Option<T>>,
    number: impl Fn(&T) -> u64,
) -> impl Iterator<Item = Result<T>> {
    let mut last = Some(0);
    std::iter::from_fn(move || {
        let found = next(last?).transpose();
        last = match &found {
            Some(Ok(item)) => Some(number(item)),
            _ => None,
        };
        found
    })
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Client").field(&self.0.info).finish()
    }
}
