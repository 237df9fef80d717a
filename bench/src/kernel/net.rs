//! Connected socket pairs with buffers that hold a burst of the largest packets.
#![forbid(unsafe_code)]

use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::Result;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};

/// Bytes of socket buffer. Enough that a receiver who is scheduled away for a millisecond loses
/// little.
const BUFFER_BYTES: usize = 8 << 20;

/// Large buffers; ordinary users get what net.core.rmem_max allows.
fn widen(fd: &impl AsFd) {
    if setsockopt(fd, sockopt::RcvBufForce, &BUFFER_BYTES).is_err() {
        let _ = setsockopt(fd, sockopt::RcvBuf, &BUFFER_BYTES);
    }
    if setsockopt(fd, sockopt::SndBufForce, &BUFFER_BYTES).is_err() {
        let _ = setsockopt(fd, sockopt::SndBuf, &BUFFER_BYTES);
    }
}

/// Two UDP sockets on loopback, connected to each other and to nobody else.
pub(super) fn udp_pair() -> Result<(Vec<OwnedFd>, Vec<OwnedFd>)> {
    let (a, b) = (
        UdpSocket::bind("127.0.0.1:0")?,
        UdpSocket::bind("127.0.0.1:0")?,
    );
    a.connect(b.local_addr()?)?;
    b.connect(a.local_addr()?)?;
    for socket in [&a, &b] {
        widen(socket);
        socket.set_nonblocking(true)?;
    }
    Ok((vec![a.into()], vec![b.into()]))
}

/// A socketpair of records.
pub(super) fn seqpacket_pair() -> Result<(Vec<OwnedFd>, Vec<OwnedFd>)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    widen(&a);
    widen(&b);
    Ok((vec![a], vec![b]))
}
