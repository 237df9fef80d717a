//! The other end of a session: a real socket on which a test answers whatever it likes.

use std::fs::File;
use std::io::{IoSlice, pipe};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use libexo::abi::wire::{Op, Reply, Request};
use rustix::fs::{MemfdFlags, Mode, OFlags, fcntl_setfl, ftruncate, memfd_create, open};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recv, sendmsg, socketpair,
};
use zerocopy::{FromBytes, IntoBytes};

/// Bytes of the status table that an honest greeting comes with.
pub const STATUS_BYTES: usize = 4096;

/// The far end of a client's socket, and the files that it hands out.
pub struct Liar {
    socket: OwnedFd,
    /// The status table, writable.
    pub status: File,
    /// Rings the event bell.
    pub ringer: OwnedFd,
    bell: OwnedFd,
}

/// A read-only descriptor of a memory file, as exod makes them.
pub fn read_only(file: impl AsFd) -> OwnedFd {
    let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).expect("our own file")
}

/// A memory file of so many bytes.
pub fn memory(bytes: usize) -> OwnedFd {
    let fd = memfd_create("liar", MemfdFlags::CLOEXEC).expect("a memfd");
    ftruncate(&fd, bytes as u64).expect("our own file");
    fd
}

/// Both ends of a bell: the one to hear and the one to ring.
pub fn bell() -> (OwnedFd, OwnedFd) {
    let (hear, ring) = pipe().expect("a pipe");
    let (hear, ring) = (OwnedFd::from(hear), OwnedFd::from(ring));
    fcntl_setfl(&hear, OFlags::NONBLOCK).expect("our own pipe");
    fcntl_setfl(&ring, OFlags::NONBLOCK).expect("our own pipe");
    (hear, ring)
}

impl Liar {
    /// A liar and the socket for its client.
    pub fn new() -> (Liar, OwnedFd) {
        let flags = SocketFlags::CLOEXEC;
        let (socket, client) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("sockets");
        (Liar::on(socket), client)
    }

    /// A liar on a socket that was accepted.
    pub fn on(socket: OwnedFd) -> Liar {
        let (bell, ringer) = bell();
        let status = File::from(memory(STATUS_BYTES));
        Liar {
            socket,
            status,
            ringer,
            bell,
        }
    }

    /// The next request; none when the client is gone.
    pub fn request(&self) -> Option<Request> {
        let mut bytes = [0; 128];
        let (length, _) = recv(&self.socket, &mut bytes[..], RecvFlags::empty()).ok()?;
        let request = Request::read_from_bytes(&bytes[..length]).ok()?;
        assert_eq!(request.reserved, 0);
        assert!(Op::from_raw(request.op).is_some());
        Some(request)
    }

    /// Any bytes with any descriptors. Whether the client still hears it is not asked.
    pub fn say(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let parts = [IoSlice::new(bytes)];
        let _ = sendmsg(&self.socket, &parts, &mut control, SendFlags::NOSIGNAL);
    }

    /// Answers a request with `reply`, to which operation and sequence are added.
    pub fn answer(&self, request: &Request, reply: Reply, fds: &[BorrowedFd<'_>]) {
        let reply = Reply {
            op: request.op,
            seq: request.seq,
            ..reply
        };
        self.say(reply.as_bytes(), fds);
    }

    /// What an honest exod says in the hello.
    pub fn greeting() -> Reply {
        Reply {
            vals: [1, 3, STATUS_BYTES as u64, 3, 4096, 100],
            ..Reply::default()
        }
    }

    /// Takes the hello and answers it honestly.
    pub fn greet(&self) {
        let hello = self.request().expect("a hello");
        let status = read_only(&self.status);
        let fds = [status.as_fd(), self.bell.as_fd()];
        self.answer(&hello, Liar::greeting(), &fds);
    }
}
