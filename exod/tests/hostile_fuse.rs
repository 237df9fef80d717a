//! A file whose close never returns, sent to exod: a thread of the closer waits, nobody else does.

#[path = "common/client.rs"]
mod client;

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, UNIX_EPOCH};

use client::{Client, PATIENCE, embedded, watcher};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation,
    INodeNo, LockOwner, ReplyAttr, ReplyEmpty, ReplyEntry, Request,
};
use libexo::abi::wire::{Op, StatsPage};

const TTL: Duration = Duration::from_secs(1);

/// One file, `stuck`. What its last close waits for is kept here, and answered when dropped.
#[derive(Clone, Default)]
struct Never {
    waiting: Arc<Mutex<Option<Vec<ReplyEmpty>>>>,
}

impl Never {
    fn new() -> Never {
        let never = Never::default();
        *never.waiting.lock().expect("unpoisoned") = Some(Vec::new());
        never
    }

    fn waiting(&self) -> usize {
        let waiting = self.waiting.lock().expect("unpoisoned");
        waiting.as_ref().map_or(0, Vec::len)
    }

    /// Answers all, from now on at once.
    fn release(&self) {
        for reply in self
            .waiting
            .lock()
            .expect("unpoisoned")
            .take()
            .into_iter()
            .flatten()
        {
            reply.ok();
        }
    }
}

fn attr(ino: u64, kind: FileType) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: 0o755,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        flags: 0,
        blksize: 512,
    }
}

impl Filesystem for Never {
    fn lookup(&self, _req: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == "stuck" {
            reply.entry(&TTL, &attr(2, FileType::RegularFile), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let kind = match u64::from(ino) {
            1 => FileType::Directory,
            _ => FileType::RegularFile,
        };
        reply.attr(&TTL, &attr(u64::from(ino), kind));
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        match self.waiting.lock().expect("unpoisoned").as_mut() {
            Some(waiting) => waiting.push(reply),
            None => reply.ok(),
        }
    }
}

/// Mounts it, or says why not.
fn mount(never: &Never, at: &std::path::Path) -> Option<BackgroundSession> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: mounting a FUSE file system here takes root");
        return None;
    }
    match fuser::spawn_mount(never.clone(), at, &Config::default()) {
        Ok(session) => Some(session),
        Err(error) => {
            println!("skipped: no FUSE here: {error}");
            None
        }
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_file_that_cannot_be_closed_holds_up_nobody() {
    /// More than a closer without further threads could take.
    const GIFTS: usize = 3;
    let dir = tempfile::tempdir().expect("a directory");
    let never = Never::new();
    let Some(mounted) = mount(&never, dir.path()) else {
        return;
    };
    let exod = embedded();
    let (mut watch, ledger, work) = watcher(&exod);
    let mut ours = Vec::new();
    for n in 0..GIFTS {
        let stuck = File::open(dir.path().join("stuck")).expect("a file");
        let client = Client::of(&exod);
        // 64 good bytes, with a file.
        client.send_bytes(&[0; 64], &[stuck.as_fd()]).expect("sent");
        ours.push(stuck);
        until("exod's close waits", || never.waiting() == n + 1);
        // The session is over in every sense but that its socket waits in line.
        for _ in 0..100 {
            watch.ok(Op::Ping, 0, [0; 6]);
            let (unit, fd) = watch.alloc(1);
            drop(fd);
            watch.ok(Op::Drop, unit, [0; 6]);
        }
        let mut other = Client::of(&exod);
        other.ok(Op::Ping, 0, [0; 6]);
        drop(other);
        until("only this one waits", || {
            watch.stats(StatsPage::Work)[3] == n as u64 + 1
        });
    }
    never.release();
    watch.wait_for(ledger, work);
    drop(ours);
    drop(mounted);
}
