//! Units on private mounts: a hugetlbfs of exactly the unit's size, attached nowhere.
//!
//! The mount's `size` is the quota and its `min_size` the reservation: pages that a holder punches
//! go back to this mount and to nobody else, so the next touch finds one however empty the pool is.
//! The client's descriptor comes from the [`Opener`], so it cannot truncate. The file has no name
//! once it is made, and the mount never had one.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, bounded};
use landlock::{
    AccessFs, CompatLevel, Compatible, RestrictionStatus, Ruleset, RulesetAttr, RulesetStatus,
};
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, fallocate, ftruncate, openat, unlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use super::unit::Files;
use super::{Error, FRAME_BYTES, Hugepages, PageKind};

const UNIT_NAME: &str = "unit";
const HOLD_NAME: &str = "hold";

/// Owner only: with the owner exod, a reopen through /proc fails for everybody else.
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Makes the files of a unit of `frames` zeroed hugepages on a mount of its own.
pub(super) fn make(frames: u32, opener: &Opener) -> Result<Files, Error> {
    let bytes = u64::from(frames) * FRAME_BYTES as u64;
    let mount = private_mount(bytes)?;
    let full = create(&mount, UNIT_NAME)?;
    ftruncate(&full, bytes).map_err(Error::kernel("ftruncate", "a unit on its mount"))?;
    fill(&full, bytes).map_err(|e| match e {
        // The mount has reserved the pages, so it is not the pool that lacks them.
        Errno::NOSPC => no_hugepages(bytes),
        e => Error::kernel("fallocate", "a unit on its mount")(e),
    })?;
    let (mount, client) = opener.open(mount)?;
    let peer = openat(&mount, UNIT_NAME, flags(OFlags::RDONLY), Mode::empty())
        .map_err(Error::kernel("openat", "a unit's read-only descriptor"))?;
    unlinkat(&mount, UNIT_NAME, AtFlags::empty())
        .map_err(Error::kernel("unlinkat", "a unit on its mount"))?;
    Ok(Files {
        mount: Some(mount),
        full,
        client,
        peer,
    })
}

/// Takes every page that the mount has left for a nameless file of exod's, so that a holder of the
/// unit's file cannot have them.
///
/// True when the file has all of them. What it took before a failure it keeps, so trying again
/// gets nearer, whatever the holder does meanwhile.
pub(super) fn hold_pages(
    mount: &OwnedFd,
    hold: &mut Option<OwnedFd>,
    bytes: u64,
) -> Result<bool, Error> {
    if hold.is_none() {
        let file = create(mount, HOLD_NAME)?;
        unlinkat(mount, HOLD_NAME, AtFlags::empty())
            .map_err(Error::kernel("unlinkat", "a file that holds back pages"))?;
        *hold = Some(file);
    }
    let Some(file) = hold else { return Ok(false) };
    match fill(file, bytes) {
        Ok(()) => Ok(true),
        Err(Errno::NOSPC | Errno::NOMEM) => Ok(false),
        Err(e) => Err(Error::kernel("fallocate", "a file that holds back pages")(
            e,
        )),
    }
}

fn private_mount(bytes: u64) -> Result<OwnedFd, Error> {
    const WHAT: &str = "a private hugetlbfs (needs CAP_SYS_ADMIN)";
    let context =
        fsopen("hugetlbfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(Error::kernel("fsopen", WHAT))?;
    let size = bytes.to_string();
    for (key, value) in [
        ("size", size.as_str()),
        ("min_size", size.as_str()),
        ("pagesize", "2M"),
        ("mode", "0700"),
    ] {
        fsconfig_set_string(&context, key, value).map_err(Error::kernel("fsconfig", WHAT))?;
    }
    fsconfig_create(&context).map_err(|e| match e {
        // The reservation is made here: this is how the kernel says that the pool has too few.
        Errno::NOMEM | Errno::NOSPC => no_hugepages(bytes),
        e => Error::kernel("fsconfig(CREATE)", WHAT)(e),
    })?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(Error::kernel("fsmount", WHAT))
}

/// The error for `bytes` of hugepages that the kernel did not give.
pub(super) fn no_hugepages(bytes: u64) -> Error {
    let frames = bytes / FRAME_BYTES as u64;
    // The kernel does not say which it was. With free pages there it was the controller.
    let reason = if Hugepages::free() >= frames {
        "the limit of exod's cgroup is reached: raise machine.hugepages_max, or hugetlb.2MB.max of \
         the cgroups above exod"
            .into()
    } else {
        format!(
            "fewer than {frames} hugepages free: raise the pool, as in echo 512 > \
             /proc/sys/vm/nr_hugepages"
        )
    };
    Error::NoPages {
        kind: PageKind::Huge2M,
        reason,
    }
}

fn create(mount: &OwnedFd, name: &str) -> Result<OwnedFd, Error> {
    let create = flags(OFlags::RDWR) | OFlags::CREATE | OFlags::EXCL;
    openat(mount, name, create, FILE_MODE).map_err(Error::kernel("openat", "a file on its mount"))
}

fn flags(access: OFlags) -> OFlags {
    access | OFlags::CLOEXEC | OFlags::NOFOLLOW
}

fn fill(file: &OwnedFd, bytes: u64) -> Result<(), Errno> {
    rustix::io::retry_on_intr(|| fallocate(file, FallocateFlags::empty(), 0, bytes))
}

/// Opens clients' descriptors on a thread that has given up the right to truncate.
///
/// Landlock freezes that right into a descriptor when it is opened, and restricts one thread alone,
/// so the rest of exod keeps it. The thread also gains nothing by exec for ever, which it never
/// calls.
#[derive(Debug)]
pub(super) struct Opener {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

/// The mount goes there and back, which saves duplicating its descriptor.
type Opened = (OwnedFd, Result<OwnedFd, Errno>);

#[derive(Debug)]
struct Order {
    mount: OwnedFd,
    answer: Sender<Opened>,
}

impl Opener {
    /// Starts the thread.
    ///
    /// # Errors
    /// Where threads or Landlock's right to truncate (Linux 6.2) are not to be had.
    pub(super) fn start() -> Result<Opener, Error> {
        let (orders, inbox) = bounded::<Order>(0);
        let (ready, started) = bounded(1);
        let thread = std::thread::Builder::new()
            .name("exod-opener".into())
            .spawn(move || {
                let restricted = give_up_truncation();
                let go_on = restricted.is_ok();
                let told = ready.send(restricted).is_ok();
                if go_on && told {
                    serve(&inbox);
                }
            })
            .map_err(Error::kernel("clone", "the thread that opens descriptors"))?;
        let opener = Opener {
            orders: Some(orders),
            thread: Some(thread),
        };
        started.recv().map_err(|_| Error::OpenerGone)??;
        Ok(opener)
    }

    fn open(&self, mount: OwnedFd) -> Result<(OwnedFd, OwnedFd), Error> {
        let (answer, opened) = bounded(1);
        let orders = self.orders.as_ref().ok_or(Error::OpenerGone)?;
        orders
            .send(Order { mount, answer })
            .map_err(|_| Error::OpenerGone)?;
        let (mount, client) = opened.recv().map_err(|_| Error::OpenerGone)?;
        let client = client.map_err(Error::kernel("openat", "a client's descriptor"))?;
        Ok((mount, client))
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        // Without senders the thread's loop ends.
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // It owns nothing that could be lost, and it has already said on stderr if it panicked.
            let _ = thread.join();
        }
    }
}

fn serve(inbox: &Receiver<Order>) {
    for Order { mount, answer } in inbox {
        let client = openat(&mount, UNIT_NAME, flags(OFlags::RDWR), Mode::empty());
        // A maker that no longer waits has closed nothing: both descriptors end here.
        let _ = answer.send((mount, client));
    }
}

fn give_up_truncation() -> Result<(), Error> {
    const WHAT: &str = "Landlock without truncation (Linux 6.2, landlock among the active LSMs)";
    let restrict = || -> Result<RestrictionStatus, landlock::RulesetError> {
        Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::Truncate)?
            .create()?
            .restrict_self()
    };
    let status =
        restrict().map_err(|e| Error::kernel("landlock", WHAT)(io::Error::other(e.to_string())))?;
    if status.ruleset == RulesetStatus::FullyEnforced {
        Ok(())
    } else {
        let e = io::Error::other(format!("{:?}", status.ruleset));
        Err(Error::kernel("landlock_restrict_self", WHAT)(e))
    }
}
