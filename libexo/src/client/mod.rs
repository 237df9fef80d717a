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

#![forbid(unsafe_code)]

mod grants;

pub use grants::*;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use crate::Result;
use crate::abi::port::PortFlags;
use crate::abi::status::Status;
use crate::abi::wire::{PageKind, PortName};
use crate::status::{StatusTable, StatusWord};

/// How long to wait for an answer unless told otherwise. exod answers in microseconds, or in
/// milliseconds when the kernel must clear pages; who waits longer talks to a stopped daemon.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A session with exod.
#[derive(Clone)]
pub struct Client(Rc<()>);

/// One request and how to read its answer.
pub struct Call<T>(std::marker::PhantomData<T>);

/// A request that was sent. Dropping it drops the answer when it comes.
#[must_use]
pub struct Pending<T>(std::marker::PhantomData<T>);

impl<T> Pending<T> {
    /// Waits for the answer.
    pub fn wait(self) -> Result<T> {
        todo!()
    }
}

#[allow(missing_docs, unused)]
impl Call<()> {
    pub fn ping() -> Call<()> {
        todo!()
    }
    pub fn alloc_unit(frames: u64, kind: Option<PageKind>) -> Call<UnitGrant> {
        todo!()
    }
    // one constructor per method of `Client` below, same arguments
}

#[allow(unused)]
impl Client {
    /// Connects to the exod that listens at `path`.
    pub fn connect(path: impl AsRef<Path>) -> Result<Client> {
        todo!()
    }

    /// Connects to where the environment says: `EXO_SOCKET` (a path), else `EXO_SOCKET_FD` (an
    /// inherited socket), else `/run/exod/exod.sock`.
    pub fn connect_default() -> Result<Client> {
        todo!()
    }

    /// Begins a session over a connected `SOCK_SEQPACKET` socket.
    pub fn over(socket: OwnedFd) -> Result<Client> {
        todo!()
    }

    /// Likewise, waiting at most `timeout` for each answer; `None` waits for ever.
    pub fn over_with(socket: OwnedFd, timeout: Option<Duration>) -> Result<Client> {
        todo!()
    }

    /// Changes how long to wait for each answer; `None` waits for ever.
    pub fn set_timeout(&self, timeout: Option<Duration>) {
        todo!()
    }

    /// What exod said in the hello.
    pub fn session(&self) -> SessionInfo {
        todo!()
    }

    /// Sends a request without waiting. At most `PIPELINE_MAX` are unanswered: one more waits.
    pub fn submit<T>(&self, call: Call<T>) -> Result<Pending<T>> {
        todo!()
    }

    /// Sends a request and waits for its answer.
    pub fn call<T>(&self, call: Call<T>) -> Result<T> {
        self.submit(call)?.wait()
    }

    /// Nothing: what an empty request costs.
    pub fn ping(&self) -> Result<()> {
        todo!()
    }

    /// A unit of `frames` frames, of the pool's pages unless a kind is named.
    pub fn alloc_unit(&self, frames: u64, kind: Option<PageKind>) -> Result<UnitGrant> {
        todo!()
    }

    /// Gives a capability back.
    pub fn drop_handle(&self, handle: u64) -> Result<()> {
        todo!()
    }

    /// What exod's table says about one of this session's capabilities.
    pub fn inspect(&self, handle: u64) -> Result<Inspection> {
        todo!()
    }

    /// All capabilities of this session.
    pub fn list(&self) -> impl Iterator<Item = Result<Inspection>> + '_ {
        std::iter::from_fn(|| todo!())
    }

    /// A port with `unit` as this side's segment, waiting for a peer.
    pub fn port_create(
        &self,
        name: &PortName,
        unit: u64,
        ring_log2: u32,
        flags: PortFlags,
    ) -> Result<PortCreated> {
        todo!()
    }

    /// Joins the port of that name, with `unit` as this side's segment.
    pub fn port_join(&self, name: &PortName, unit: u64, flags: PortFlags) -> Result<PortJoined> {
        todo!()
    }

    /// The other side of a port; `None` before it joined.
    pub fn port_peer(&self, port: u64) -> Result<Option<PeerSide>> {
        todo!()
    }

    /// Lets the port's other side read `unit` as one more segment of ours; its index.
    pub fn port_attach(&self, port: u64, unit: u64) -> Result<u32> {
        todo!()
    }

    /// Segment `index` of the port's other side.
    pub fn port_segment(&self, port: u64, index: u32) -> Result<Segment> {
        todo!()
    }

    /// Ends this side of a port, for a reason that exod logs.
    pub fn port_leave(&self, port: u64, reason: u64) -> Result<()> {
        todo!()
    }

    /// Asks both sides of a port to mirror what they send, or to stop.
    pub fn port_tap(&self, name: &PortName, on: bool) -> Result<()> {
        todo!()
    }

    /// Totals of one domain, or of all (0).
    pub fn stats(&self, domain: u64) -> Result<Ledger> {
        todo!()
    }

    /// Status of a capability: one load and a compare. Empty when the handle is not live any more.
    #[inline]
    pub fn status(&self, handle: u64) -> Status {
        self.status_table().status(handle)
    }

    /// The status word of a handle, to keep beside what it guards.
    pub fn status_word(&self, handle: u64) -> Result<StatusWord> {
        todo!()
    }

    /// This session's status table.
    pub fn status_table(&self) -> &StatusTable {
        todo!()
    }

    /// Losses that exod inflicted on this domain.
    #[inline]
    pub fn loss_counter(&self) -> u64 {
        self.status_table().loss_counter()
    }

    /// Waits until exod changed the status table: true when it did, false after `timeout`.
    pub fn wait_event(&self, timeout: Option<Duration>) -> Result<bool> {
        todo!()
    }

    /// The bell that exod rings after it changed the status table, for a poll loop of one's own.
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        todo!()
    }
}
