//! A worker's first steps: bound to its parent, pinned, preferred by the scheduler, then the row's
//! `work`.

use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::link::{Down, Up, receive, send};
use super::{Control, Job, Link, Role};
use crate::catalog;

/// Makes a command's process a worker: in its own session (Ctrl-C reaches only the parent, which
/// stops it), killed when the thread that starts it ends, and with `fds` inherited under their
/// numbers.
///
/// For programs of others as well, such as testpmd. Start them from a thread that outlives them.
pub fn guard(command: &mut Command, fds: Vec<RawFd>) -> &mut Command {
    prepare(command, fds, true)
}

/// Likewise, but in netbench's own session, as a process group of its own: who shares a core must
/// share a session too, since the scheduler weighs sessions against each other and a process that
/// yields gives way only within its own.
pub fn guard_sharing(command: &mut Command, fds: Vec<RawFd>) -> &mut Command {
    prepare(command, fds, false)
}

fn prepare(command: &mut Command, fds: Vec<RawFd>, session: bool) -> &mut Command {
    let parent = std::process::id() as libc::pid_t;
    let prepare = move || {
        // SAFETY: these calls take no pointers and are allowed between fork and exec.
        unsafe {
            let apart = if session {
                libc::setsid()
            } else {
                libc::setpgid(0, 0)
            };
            if apart < 0 || libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) < 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before prctl; then nobody would be told.
            if libc::getppid() != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            for &fd in &fds {
                if libc::fcntl(fd, libc::F_SETFD, 0) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
        }
        Ok(())
    };
    // SAFETY: `prepare` makes only async-signal-safe system calls and allocates nothing.
    unsafe { command.pre_exec(prepare) }
}

/// Pins the calling thread, and every thread that it will start, to one core.
pub fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core)
        .map_err(|_| anyhow!("core {core} is beyond what the kernel can name"))?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| {
        format!("cannot run on core {core}: choose two of the allowed cores with --cores A,B")
    })
}

/// Asks for the scheduler's preference; returns whether it was granted (root).
///
/// With autogroup scheduling `nice` alone does nothing between sessions, so the group's weight is
/// raised too. The worker has its own session: both end with it and there is nothing to put back.
pub fn raise_priority() -> bool {
    let group = fs::write("/proc/self/autogroup", "-20").is_ok();
    // SAFETY: no pointers; it changes this process's own nice value or fails.
    let nice = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) == 0 };
    group || nice
}

/// Makes a process (0: this one) take turns with others on its core that do the same: real-time
/// round robin, in which a yield lets the next one run for sure. The fair scheduler may pick who
/// yielded again, for a whole time slice. Returns whether it was granted (root).
pub fn take_turns(pid: i32) -> bool {
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameter outlives the call, which changes that process's scheduling or fails.
    unsafe { libc::sched_setscheduler(pid, libc::SCHED_RR, &lowest) == 0 }
}

/// Runs `netbench worker LINK CONTROL [FD...]`, the arguments being inherited descriptors.
pub fn child_main(fds: &[RawFd]) -> Result<()> {
    let [link, control, rest @ ..] = fds else {
        bail!("`netbench worker` is started by netbench itself");
    };
    let link = UnixStream::from(adopt(*link)?);
    let mut answers = link.try_clone()?;
    let control = Control::open(adopt(*control)?)?;
    let rest = rest
        .iter()
        .map(|&fd| adopt(fd))
        .collect::<Result<Vec<_>>>()?;
    let answer = match work(Link::new(link, control), rest) {
        Ok(report) => Up::Result(report),
        Err(error) => Up::Error(format!("{error:#}")),
    };
    send(&mut answers, &answer)
}

fn work(mut link: Link, fds: Vec<OwnedFd>) -> Result<super::Report> {
    let Some(Down::Job(mut job)) = receive(&mut link.stream)? else {
        bail!("the parent sent no job");
    };
    job.fds = fds;
    pin(core_of(&job))?;
    match (job.shares_core, job.role) {
        (false, _) => raise_priority(),
        (true, Role::Forwarder) => false,
        (true, _) => take_turns(0),
    };
    let row = catalog::find(&job.row).with_context(|| format!("no row `{}`", job.row))?;
    row.work(job, link)
}

/// The core on which a role runs: the forwarder shares the sender's, unless the row pins it
/// elsewhere.
fn core_of(job: &Job) -> usize {
    match job.role {
        Role::Sender | Role::Forwarder => job.plan.cores[0],
        Role::Receiver => job.plan.cores[1],
    }
}

/// Takes over an inherited descriptor, which must exist.
fn adopt(fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: F_SETFD takes no pointers; it fails when the descriptor is not open.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        bail!("descriptor {fd} was not inherited");
    }
    // SAFETY: open, passed by the parent for this process alone, and adopted once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
