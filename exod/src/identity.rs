//! Who is at the other end of a socket, as the kernel says it.
//!
//! Credentials are those of the moment of connecting (`SO_PEERCRED`, `SO_PEERGROUPS`), so nothing
//! that the peer does later changes them, and nothing that it sends is believed. The pidfd names
//! that very process, never a successor with its number, and becomes readable when it ends: a
//! session does not outlive the process that opened it, whoever else holds the socket.
//!
//! Linux before 6.5 has no `SO_PEERPIDFD`. There the number is opened instead, and it is refused
//! when that process is not of the credential's user any more. A process that connects, exits, and
//! has its number taken by another one of the same user in between is not noticed; its session then
//! ends with that other process, and grants nothing that the user would not get anyway.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use libexo::abi::wire::ProcessName;
use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};

/// Most supplementary groups that Linux gives a process.
const GROUPS_MAX: usize = 65_536;

/// The peer's credentials when it connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Process, in exod's namespace.
    pub pid: i32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// When the process started, in clock ticks since boot: a number alone is used again. Zero when
    /// the kernel does not say.
    pub started_ticks: u64,
    /// What the process calls itself.
    pub name: ProcessName,
}

/// Credentials and a pidfd of whoever opened the other end of `socket`.
pub fn identify(socket: BorrowedFd<'_>) -> io::Result<(Identity, OwnedFd)> {
    let creds = getsockopt(&socket, sockopt::PeerCredentials)?;
    if creds.pid() <= 0 {
        return Err(io::Error::other(
            "the peer is in a process namespace that exod cannot see",
        ));
    }
    let pidfd = match getsockopt(&socket, sockopt::PeerPidfd) {
        Ok(pidfd) => pidfd,
        Err(Errno::ENOPROTOOPT) => open_by_number(creds.pid(), creds.uid())?,
        Err(e) => return Err(e.into()),
    };
    let (name, started_ticks) = stat_of(creds.pid());
    let who = Identity {
        pid: creds.pid(),
        uid: creds.uid(),
        gid: creds.gid(),
        groups: peer_groups(socket)?,
        started_ticks,
        name,
    };
    Ok((who, pidfd))
}

/// The name and field 22 of `/proc/PID/stat`, counted after the name, which may hold any character.
fn stat_of(pid: i32) -> (ProcessName, u64) {
    let stat = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    let open = stat.iter().position(|byte| *byte == b'(').map(|at| at + 1);
    let close = stat.iter().rposition(|byte| *byte == b')');
    let name = open
        .zip(close)
        .and_then(|(open, close)| stat.get(open..close));
    let fields = close.and_then(|close| std::str::from_utf8(&stat[close..]).ok());
    let started = fields.and_then(|fields| fields.split(' ').nth(22 - 2)?.parse().ok());
    (
        ProcessName::new(name.unwrap_or_default()),
        started.unwrap_or(0),
    )
}

/// The way of kernels before 6.5.
fn open_by_number(pid: i32, uid: u32) -> io::Result<OwnedFd> {
    let number = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    let pidfd = rustix::process::pidfd_open(number, rustix::process::PidfdFlags::empty())?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let same_user = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .is_some_and(|ids| ids.split_whitespace().any(|id| id.parse() == Ok(uid)));
    // The file was that of the pidfd's process only if that one still lives now.
    if !same_user || has_ended(pidfd.as_fd())? {
        return Err(io::Error::other("the peer's process has ended"));
    }
    Ok(pidfd)
}

/// Whether a pidfd's process has ended.
pub fn has_ended(pidfd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut fds = [rustix::event::PollFd::from_borrowed_fd(
        pidfd,
        rustix::event::PollFlags::IN,
    )];
    let ready = rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default()))?;
    Ok(ready > 0)
}

/// `SO_PEERGROUPS`, which neither rustix nor nix has.
fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0u32; 64];
    loop {
        let mut bytes = size_of_val(groups.as_slice()) as libc::socklen_t;
        // SAFETY: the pointer and length are of a live vector that nothing else refers to, and the
        // kernel writes at most `bytes` bytes of plain numbers into it.
        let rc = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &mut bytes,
            )
        };
        let needed = bytes as usize / size_of::<u32>();
        if rc == 0 {
            groups.truncate(needed);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        let grow = error.raw_os_error() == Some(libc::ERANGE)
            && (groups.len() + 1..=GROUPS_MAX).contains(&needed);
        if !grow {
            return Err(error);
        }
        groups.resize(needed, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    #[test]
    fn a_socketpair_is_this_very_process() {
        let (a, _b) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .expect("a socketpair");
        let (who, pidfd) = identify(a.as_fd()).expect("identity");
        assert_eq!(who.pid as u32, std::process::id());
        assert_eq!(who.uid, rustix::process::geteuid().as_raw());
        assert!(who.started_ticks > 0);
        let name = fs::read_to_string("/proc/self/comm").expect("procfs");
        assert_eq!(who.name.as_str(), name.trim_end());
        assert!(!has_ended(pidfd.as_fd()).expect("poll"));
    }

    #[test]
    fn a_number_is_opened_only_for_its_own_user() {
        let own = std::process::id() as i32;
        let uid = rustix::process::geteuid().as_raw();
        assert!(open_by_number(own, uid).is_ok());
        assert!(open_by_number(own, uid.wrapping_add(1)).is_err());
        let mut child = std::process::Command::new("true").spawn().expect("true");
        child.wait().expect("its end");
        assert!(open_by_number(child.id() as i32, uid).is_err());
    }
}
