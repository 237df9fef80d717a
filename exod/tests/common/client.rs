//! A thin client of exod's socket: records out and in, nothing hidden. What a hostile one needs.

#![allow(dead_code)] // Each test file uses its part.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use exod::config::Config;
use exod::embedded::Embedded;
use exod::frames::PageChoice;
use libexo::abi::ABI_VERSION;
use libexo::abi::status::{self, LOSS_COUNTER_WORD, Status};
use libexo::abi::wire::{ErrorCode, HELLO_MAGIC, Op, PortName, Reply, Request, StatsPage};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg,
    sendmsg, socket_with,
};
use zerocopy::{FromBytes, IntoBytes};

/// Longest that anything in these tests takes; only a failure waits so long.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A reply and its descriptors.
#[derive(Debug)]
pub struct Got {
    pub reply: Reply,
    pub fds: VecDeque<OwnedFd>,
}

impl Got {
    pub fn error(&self) -> Option<ErrorCode> {
        ErrorCode::from_raw(self.reply.status)
    }
}

/// A session.
pub struct Client {
    pub socket: OwnedFd,
    pub status: Option<OwnedFd>,
    pub bell: Option<OwnedFd>,
    seq: u32,
}

impl Client {
    /// A connection that has not said hello.
    pub fn raw(socket: OwnedFd) -> Client {
        Client {
            socket,
            status: None,
            bell: None,
            seq: 0,
        }
    }

    /// A connection to a socket file.
    pub fn at(path: &Path) -> std::io::Result<Client> {
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Client::raw(socket))
    }

    /// A session with an embedded exod, after the hello.
    pub fn of(exod: &Embedded) -> Client {
        let mut client = Client::raw(exod.connect().expect("a connection"));
        client.hello();
        client
    }

    pub fn hello(&mut self) -> u64 {
        let args = [HELLO_MAGIC, u64::from(ABI_VERSION), 0, 0, 0, 0];
        let mut got = self.call(Op::Hello, 0, args);
        assert_eq!(got.error(), None);
        self.status = got.fds.pop_front();
        self.bell = got.fds.pop_front();
        assert!(self.bell.is_some());
        got.reply.vals[1]
    }

    /// Sends a record of our own making.
    pub fn send(&mut self, op: u16, handle: u64, args: [u64; 6]) -> u32 {
        self.seq += 1;
        let request = Request {
            op,
            reserved: 0,
            seq: self.seq,
            handle,
            args,
        };
        self.send_bytes(request.as_bytes(), &[]).expect("sent");
        self.seq
    }

    pub fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> rustix::io::Result<usize> {
        let mut space = vec![MaybeUninit::uninit(); 2048];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let iov = [IoSlice::new(bytes)];
        sendmsg(&self.socket, &iov, &mut control, SendFlags::NOSIGNAL)
    }

    /// The next reply; nothing when the session has ended.
    pub fn receive(&self) -> Option<Got> {
        assert!(ready(self.socket.as_fd(), PATIENCE), "exod does not answer");
        let mut bytes = [0; size_of::<Reply>() + 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let iov = &mut [IoSliceMut::new(&mut bytes)];
        let got = recvmsg(&self.socket, iov, &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
        if got.bytes == 0 {
            return None;
        }
        let mut fds = VecDeque::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(more) = message {
                fds.extend(more);
            }
        }
        let reply = Reply::read_from_bytes(&bytes[..got.bytes]).expect("64 bytes");
        Some(Got { reply, fds })
    }

    /// One request and its reply.
    pub fn call(&mut self, op: Op, handle: u64, args: [u64; 6]) -> Got {
        let seq = self.send(op as u16, handle, args);
        let got = self.receive().expect("the session lives");
        assert_eq!((got.reply.op, got.reply.seq), (op as u16, seq));
        got
    }

    /// One request that is refused.
    pub fn refused(&mut self, op: Op, handle: u64, args: [u64; 6]) -> Option<ErrorCode> {
        let got = self.call(op, handle, args);
        assert!(got.fds.is_empty());
        got.error()
    }

    /// One request that is not.
    pub fn ok(&mut self, op: Op, handle: u64, args: [u64; 6]) -> Got {
        let got = self.call(op, handle, args);
        assert_eq!(got.error(), None, "{op:?}");
        got
    }

    pub fn alloc(&mut self, frames: u64) -> (u64, OwnedFd) {
        let mut got = self.ok(Op::AllocUnit, 0, [frames, 0, 0, 0, 0, 0]);
        let fd = got.fds.pop_front().expect("the unit");
        (got.reply.handle, fd)
    }

    pub fn create(&mut self, unit: u64, port: &str, flags: u64) -> Got {
        self.call(Op::PortCreate, unit, port_args(port, 6, flags))
    }

    pub fn join(&mut self, unit: u64, port: &str, flags: u64) -> Got {
        self.call(Op::PortJoin, unit, port_args(port, 0, flags))
    }

    pub fn stats(&mut self, page: StatsPage) -> [u64; 6] {
        self.ok(Op::Stats, 0, [0, page as u64, 0, 0, 0, 0])
            .reply
            .vals
    }

    /// Asks until the ledger and the work are as given: frames come back when the kernel says so.
    pub fn wait_for(&mut self, ledger: [u64; 6], work: [u64; 6]) {
        let end = Instant::now() + PATIENCE;
        loop {
            let seen = (self.stats(StatsPage::Ledger), self.stats(StatsPage::Work));
            if seen == (ledger, work) {
                return;
            }
            assert!(Instant::now() < end, "{seen:?} is not {:?}", (ledger, work));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn word(&self, index: usize) -> u64 {
        let mut bytes = [0; 8];
        let table = self.status.as_ref().expect("said hello");
        let read = rustix::io::pread(table, &mut bytes, 8 * index as u64);
        assert_eq!(read, Ok(8));
        u64::from_le_bytes(bytes)
    }

    pub fn losses(&self) -> u64 {
        self.word(LOSS_COUNTER_WORD)
    }

    pub fn status(&self, handle: u64) -> Status {
        let (index, generation) = status::split_handle(handle);
        let word = self.word(status::word_index(index));
        status::read(word, generation).map_or(Status::empty(), |(status, _)| status)
    }

    /// Waits on the bell until a status holds.
    pub fn wait_status(&self, handle: u64, wanted: Status) {
        while !self.status(handle).contains(wanted) {
            let bell = self.bell.as_ref().expect("said hello");
            assert!(ready(bell.as_fd(), PATIENCE), "{:?}", self.status(handle));
            let _ = rustix::io::read(bell, &mut [0; 8]);
        }
    }

    /// Whether exod has ended this session.
    pub fn ended(&self) -> bool {
        while let Some(got) = self.receive() {
            assert!(got.error().is_some(), "{got:?}");
        }
        true
    }
}

/// Waits until a descriptor is readable or hung up.
pub fn ready(fd: BorrowedFd<'_>, patience: Duration) -> bool {
    let time = Timespec {
        tv_sec: patience.as_secs() as i64,
        tv_nsec: i64::from(patience.subsec_nanos()),
    };
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    poll(&mut fds, Some(&time)).expect("poll") > 0
}

pub fn port_args(port: &str, ring_log2: u64, flags: u64) -> [u64; 6] {
    let [a, b, c] = PortName::new(port).expect("a name").words();
    [a, b, c, ring_log2, flags, 0]
}

/// An embedded exod on small pages, so that tests in parallel do not fight over hugepages.
pub fn config() -> Config {
    let mut config = Config::embedded();
    config.pool.pages = PageChoice::Small4K;
    config.give_back_ms = 200;
    config
}

pub fn embedded() -> Embedded {
    Embedded::start(config()).expect("an embedded exod")
}

/// A session that watches, and what it sees while nothing happens.
pub fn watcher(exod: &Embedded) -> (Client, [u64; 6], [u64; 6]) {
    let mut client = Client::of(exod);
    let end = Instant::now() + PATIENCE;
    loop {
        let seen = (
            client.stats(StatsPage::Ledger),
            client.stats(StatsPage::Work),
        );
        let [_, _, jobs, closes, _, _] = seen.1;
        if jobs == 0 && closes == 0 {
            return (client, seen.0, seen.1);
        }
        assert!(Instant::now() < end, "never idle: {seen:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
