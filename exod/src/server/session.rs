//! One client's connection: a socket, the process behind it, and its line of replies.
//!
//! The line keeps replies in the order of requests while a job is under way for one of them. It has
//! at most [`PIPELINE_MAX`] places, and a request is read only when there is a place for its reply;
//! so a client that never reads costs that much memory and no more, and its socket's own buffer.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use libexo::abi::counters::Counter;
use libexo::abi::wire::{ErrorCode, FDS_MAX, PIPELINE_MAX, PortName, Reply, Request};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use zerocopy::IntoBytes;

use crate::audit::What;
use crate::book::{Answered, Book};
use crate::decode::{self, Command, Head};
use crate::invoke::Caller;
use crate::state::{Answer, State};

/// Descriptors that Linux lets one message carry. There is room for all, since those without room
/// would be closed by the kernel right there, on the loop.
const SCM_FDS_MAX: usize = 253;

/// Bytes that the kernel is asked to keep for a client that does not read: room for about as many
/// replies as a pipeline has, since each of them may hold descriptors in flight.
const SEND_BUFFER: usize = 16 << 10;

/// Why a session ends.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// It closed its socket.
    #[error("the client hung up")]
    HungUp,
    /// Its process ended, whoever else holds the socket.
    #[error("the client's process ended")]
    Died,
    /// It sent something that is no request.
    #[error("violation: {0}")]
    Violation(&'static str),
    /// It sent descriptors, which no operation takes.
    #[error(
        "violation: {count} descriptors that no operation takes, {memory} of them memory files"
    )]
    Descriptors {
        /// How many.
        count: usize,
        /// Of them, memory files.
        memory: usize,
    },
    /// No rule of the policy names it.
    #[error("no rule of the policy names this user")]
    Unwelcome,
    /// The socket failed.
    #[error("the socket failed: {0}")]
    Socket(#[from] Errno),
    /// exod stops.
    #[error("exod stops")]
    Stopped,
}

impl Ended {
    /// Where it is counted; a stop is not.
    fn counter(&self) -> Option<Counter> {
        Some(match self {
            Ended::HungUp => Counter::EndedHungUp,
            Ended::Died => Counter::EndedDied,
            Ended::Violation(_) | Ended::Descriptors { .. } => Counter::EndedViolation,
            Ended::Unwelcome => Counter::EndedUnwelcome,
            Ended::Socket(_) => Counter::EndedFailed,
            Ended::Stopped => return None,
        })
    }

    /// In the audit trail.
    fn word(&self) -> &'static str {
        match self {
            Ended::Violation(what) => what,
            Ended::Descriptors { .. } => "descriptors that no operation takes",
            Ended::Stopped => "stopped",
            other => other.counter().map_or("", Counter::name),
        }
    }
}

/// A request's place in the line.
struct Place {
    head: Head,
    /// The port that it is about.
    port: Option<PortName>,
    /// When it was read.
    began: Instant,
    /// Nothing while a job works on it.
    result: Option<Result<Answer, ErrorCode>>,
}

/// See the module.
pub struct Session {
    socket: OwnedFd,
    pidfd: OwnedFd,
    /// Who it is.
    pub caller: Caller,
    line: VecDeque<Place>,
    /// Number of the first place in the line.
    first: u64,
    /// There may be something to read.
    pub readable: bool,
    /// There may be room to write.
    pub writable: bool,
    /// It waits in the server's queue for its turn.
    pub queued: bool,
    book: Arc<Book>,
    /// Descriptors that came where none belong; the closer's.
    pub foreign: Vec<OwnedFd>,
}

impl Session {
    /// A connection that was just accepted.
    pub fn new(socket: OwnedFd, pidfd: OwnedFd, caller: Caller, book: Arc<Book>) -> Session {
        // Only a bound: where the kernel refuses, its own default holds.
        let _ = set_socket_send_buffer_size(&socket, SEND_BUFFER);
        Session {
            socket,
            pidfd,
            caller,
            line: VecDeque::new(),
            first: 0,
            readable: true,
            writable: true,
            queued: false,
            book,
            foreign: Vec::new(),
        }
    }

    /// Its socket.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Its process.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Everything that must be closed by the closer.
    pub fn into_fds(self) -> Vec<OwnedFd> {
        let mut fds = self.foreign;
        fds.push(self.socket);
        fds
    }

    /// Counts and logs how it went.
    pub fn ended(&self, why: &Ended) {
        let tally = &self.caller.tally;
        let refused = tally.refused.load(Ordering::Relaxed);
        let subject = tally.subject(self.domain(), 0);
        tracing::info!(
            target: "exod::audit",
            session = subject.session, domain = subject.domain, uid = subject.uid,
            pid = subject.pid, refused, %why, "session ended"
        );
        if let Some(counter) = why.counter() {
            self.book.counters.count(counter);
        }
        let why = why.word();
        self.book.note(subject, None, What::End { why, refused });
    }

    fn domain(&self) -> u64 {
        self.caller.domain.map_or(0, |domain| domain.raw())
    }

    /// Whether another request may be read.
    pub fn has_place(&self) -> bool {
        self.line.len() < PIPELINE_MAX
    }

    /// Whether a reply could be sent now.
    pub fn has_reply(&self) -> bool {
        self.line
            .front()
            .is_some_and(|place| place.result.is_some())
    }

    /// Whether a turn would do anything.
    pub fn has_work(&self) -> bool {
        (self.readable && self.has_place()) || (self.writable && self.has_reply())
    }

    /// A place for a request's reply, by number. It has just been read.
    pub fn queue(&mut self, head: Head, port: Option<PortName>) -> u64 {
        self.line.push_back(Place {
            head,
            port,
            began: Instant::now(),
            result: None,
        });
        self.first + self.line.len() as u64 - 1
    }

    /// Fills a place. Each is filled once.
    pub fn answer(&mut self, place: u64, result: Result<Answer, ErrorCode>) {
        let (domain, index) = (self.domain(), place.wrapping_sub(self.first) as usize);
        let request = place + 1;
        let Some(place) = self.line.get_mut(index) else {
            return;
        };
        let about = Answered {
            domain,
            request,
            head: place.head,
            port: place.port,
            took: place.began.elapsed(),
        };
        let outcome = result
            .as_ref()
            .map(|answer| answer.handle)
            .map_err(|code| *code);
        self.book.answered(&self.caller.tally, &about, outcome);
        place.result = Some(result);
    }

    /// Reads one request. Nothing when there is none now.
    #[allow(clippy::type_complexity)]
    pub fn receive(&mut self) -> Result<Option<(Head, Result<Command, ErrorCode>)>, Ended> {
        // One byte more than a record, so that a longer one shows.
        let mut record = [0; size_of::<Request>() + 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SCM_FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let iov = &mut [IoSliceMut::new(&mut record)];
        let got = match recvmsg(&self.socket, iov, &mut control, flags) {
            Ok(got) => got,
            Err(Errno::AGAIN) => {
                self.readable = false;
                return Ok(None);
            }
            Err(Errno::INTR) => return Ok(None),
            Err(Errno::CONNRESET) => return Err(Ended::HungUp),
            Err(e) => return Err(e.into()),
        };
        // First of all: from here on they are ours, and only the closer may close them.
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.foreign.extend(fds);
            }
        }
        if !self.foreign.is_empty() {
            let memory = crate::closer::memory_files(&self.foreign);
            let count = self.foreign.len();
            return Err(Ended::Descriptors { count, memory });
        }
        if got.flags.contains(ReturnFlags::CTRUNC) {
            return Err(Ended::Violation("truncated control data"));
        }
        if got.bytes == 0 {
            return Err(Ended::HungUp);
        }
        if got.flags.contains(ReturnFlags::TRUNC) {
            return Err(Ended::Violation("a record longer than 64 bytes"));
        }
        match decode::decode(&record[..got.bytes]) {
            Some(decoded) => Ok(Some(decoded)),
            None => Err(Ended::Violation("a record that has not 64 bytes")),
        }
    }

    /// Sends replies from the front of the line, as far as they are there and the socket takes
    /// them. A descriptor that is gone by now makes its reply a refusal.
    pub fn flush(&mut self, state: &State) -> Result<(), Ended> {
        while self.writable {
            let Some(Place {
                head,
                result: Some(result),
                ..
            }) = self.line.front()
            else {
                return Ok(());
            };
            match send(self.socket.as_fd(), *head, result, state) {
                Ok(()) => {
                    self.line.pop_front();
                    self.first += 1;
                }
                Err(Errno::AGAIN) => self.writable = false,
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(Ended::HungUp),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

fn send(
    socket: BorrowedFd<'_>,
    head: Head,
    result: &Result<Answer, ErrorCode>,
    state: &State,
) -> rustix::io::Result<()> {
    let mut reply = Reply {
        op: head.op,
        seq: head.seq,
        ..Reply::default()
    };
    let mut fds = Vec::new();
    match result {
        Err(code) => reply.status = *code as u16,
        Ok(answer) => match answer
            .fds
            .iter()
            .map(|fd| state.fd(fd))
            .collect::<Option<Vec<_>>>()
        {
            Some(found) => {
                reply.handle = answer.handle;
                reply.vals = answer.vals;
                fds = found;
            }
            None => reply.status = ErrorCode::Revoked as u16,
        },
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(&fds));
        debug_assert!(fits, "a reply carries at most FDS_MAX descriptors");
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let bytes = [IoSlice::new(reply.as_bytes())];
    sendmsg(socket, &bytes, &mut control, flags).map(|_| ())
}
