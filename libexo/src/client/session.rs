//! Requests in flight, and which reply belongs to which.
//!
//! exod answers in order, so the unanswered requests are a queue and a reply is its head's or it is
//! nonsense. A [`Pending`] shares a slot with its entry in the queue; when it is dropped first, the
//! answer goes with it, descriptors and all, and the order stays whole.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use super::Call;
use super::socket::{self, Fault, Record};
use crate::abi::wire::{ErrorCode, Op, PIPELINE_MAX, Reply, Request};
use crate::{Error, Result};

type Slot = Cell<Option<Record>>;

/// The socket and what is in flight on it.
pub(super) struct Session {
    socket: OwnedFd,
    timeout: Cell<Option<Duration>>,
    flight: RefCell<Flight>,
}

struct Flight {
    next_seq: u32,
    unanswered: VecDeque<Unanswered>,
    /// The order of replies is lost or the other end is gone: nothing more can be asked.
    over: bool,
}

struct Unanswered {
    op: Op,
    seq: u32,
    slot: Weak<Slot>,
}

/// A request that was sent. Dropping it drops the answer when it comes.
#[must_use = "the answer is dropped with it"]
pub struct Pending<T> {
    session: Rc<Session>,
    call: Call<T>,
    slot: Rc<Slot>,
}

impl Session {
    pub(super) fn new(socket: OwnedFd, timeout: Option<Duration>) -> Rc<Session> {
        Rc::new(Session {
            socket,
            timeout: Cell::new(timeout),
            flight: RefCell::new(Flight {
                next_seq: 1,
                unanswered: VecDeque::new(),
                over: false,
            }),
        })
    }

    pub(super) fn set_timeout(&self, timeout: Option<Duration>) {
        self.timeout.set(timeout);
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends a request, after waiting for an answer if too many are outstanding.
    pub(super) fn submit<T>(self: &Rc<Session>, call: Call<T>) -> Result<Pending<T>> {
        let deadline = socket::deadline(self.timeout.get());
        let flight = &mut *self.flight.borrow_mut();
        while flight.unanswered.len() >= PIPELINE_MAX {
            flight.receive(self.socket(), call.op, deadline)?;
        }
        if flight.over {
            return Err(Error::Disconnected);
        }
        let seq = flight.next_seq;
        let request = Request {
            seq,
            ..call.request
        };
        socket::send_record(self.socket(), &request, deadline)
            .map_err(|fault| flight.fail(call.op, fault))?;
        flight.next_seq = seq.wrapping_add(1);
        let slot = Rc::new(Cell::new(None));
        flight.unanswered.push_back(Unanswered {
            op: call.op,
            seq,
            slot: Rc::downgrade(&slot),
        });
        Ok(Pending {
            session: Rc::clone(self),
            call,
            slot,
        })
    }
}

impl Flight {
    /// Receives the oldest outstanding reply into its slot. `op` is what the caller waits for.
    fn receive(&mut self, socket: BorrowedFd<'_>, op: Op, deadline: Option<Instant>) -> Result<()> {
        let Some(head) = self.unanswered.front().filter(|_| !self.over) else {
            return Err(Error::Disconnected);
        };
        let (head_op, head_seq) = (head.op, head.seq);
        let record =
            socket::receive_record(socket, deadline).map_err(|fault| self.fail(op, fault))?;
        if record.reply.seq != head_seq || record.reply.op != head_op as u16 {
            return Err(self.fail(op, Fault::Nonsense("it answers something else")));
        }
        let slot = self
            .unanswered
            .pop_front()
            .and_then(|head| head.slot.upgrade());
        if let Some(slot) = slot {
            slot.set(Some(record));
        }
        Ok(())
    }

    /// The error for a fault; every fault but a passed deadline ends the session.
    fn fail(&mut self, op: Op, fault: Fault) -> Error {
        self.over |= !matches!(fault, Fault::TimedOut);
        match fault {
            Fault::TimedOut => Error::TimedOut { op },
            Fault::Closed => Error::Disconnected,
            Fault::Nonsense(reason) => Error::BadReply { op, reason },
            Fault::System(call, errno) => Error::system(call)(errno),
        }
    }
}

impl<T> Pending<T> {
    /// Waits for the answer, and with it for those of all requests before.
    pub fn wait(self) -> Result<T> {
        let op = self.call.op;
        let record = self.collect()?;
        if record.reply.status != 0 {
            return Err(refusal(op, &record));
        }
        let Record { reply, fds } = record;
        (self.call.decode)(&self.call.request, reply, fds)
            .map_err(|reason| Error::BadReply { op, reason })
    }

    fn collect(&self) -> Result<Record> {
        let deadline = socket::deadline(self.session.timeout.get());
        loop {
            if let Some(record) = self.slot.take() {
                return Ok(record);
            }
            self.session.flight.borrow_mut().receive(
                self.session.socket(),
                self.call.op,
                deadline,
            )?;
        }
    }
}

/// The error in a reply that refuses.
fn refusal(op: Op, record: &Record) -> Error {
    let Reply { status, .. } = record.reply;
    let reason = match ErrorCode::from_raw(status) {
        Some(code) if record.fds.is_empty() => return Error::Refused { op, code },
        Some(_) => "a refusal with descriptors",
        None => "an unknown error code",
    };
    Error::BadReply { op, reason }
}
