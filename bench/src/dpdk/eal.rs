//! What every DPDK process is told: memory, cores, ports, and where its files may be.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use nix::unistd::Uid;

use crate::hugepages::{self, Lease};

/// Bytes of a hugepage, in MiB.
const HUGEPAGE_MIB: u64 = 2;
/// Hugepages beyond what the options ask for: each process rounds up, and rings are allocated later.
const HUGEPAGES_SPARE: u64 = 8;

/// A private directory for sockets and for what DPDK keeps while it runs; gone on drop.
pub(super) struct Room {
    dir: PathBuf,
    /// Held until the processes are gone; `None` where the kernel has no hugepage free and gives us none.
    lease: Option<Lease>,
}

/// The memory that one process asks for.
#[derive(Clone, Copy)]
pub(super) struct Memory {
    pub(super) mib: u64,
}

/// One end of a memif link.
pub(super) struct Memif<'a> {
    /// Number of the port in its process.
    pub(super) port: usize,
    /// The socket's name: both ends use the same.
    pub(super) link: &'a str,
    /// Whether this end creates the link's memory.
    pub(super) client: bool,
    /// Whether the client lends its packets instead of copying them.
    pub(super) zero_copy: bool,
    /// Bytes of the largest packet.
    pub(super) size: usize,
    /// Slots of the ring, as log2; DPDK's own choice is 10.
    pub(super) ring_log2: u32,
}

/// Hugepages that `processes` need.
fn pages(memory: Memory, processes: u64) -> u64 {
    processes * (memory.mib / HUGEPAGE_MIB + HUGEPAGES_SPARE)
}

/// None as well where the kernel has no such pages.
fn hugepages_free() -> u64 {
    hugepages::pool().map_or(0, |(_, free)| free)
}

/// Why `processes` would run on other pages than a port does here.
///
/// Without any hugepage everybody is on 4 KiB pages, which is fair; with some, but too few, only DPDK would be.
pub(super) fn unavailable(memory: Memory, processes: u64) -> Option<String> {
    let (free, needed) = (hugepages_free(), pages(memory, processes));
    let short = (1..needed).contains(&free) && !Uid::effective().is_root();
    short.then(|| {
        format!("{free} hugepages are free and {needed} are needed: run as root, or `sysctl vm.nr_hugepages={needed}`")
    })
}

impl Room {
    /// A room for `processes` that ask for `memory` each.
    pub(super) fn new(memory: Memory, processes: u64) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("netbench-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("cannot create {}", dir.display()))?;
        let mut room = Self { dir, lease: None };
        room.lease = match Lease::take(pages(memory, processes)) {
            Ok(lease) => Some(lease),
            Err(_) if hugepages_free() == 0 => None,
            Err(error) => return Err(error),
        };
        Ok(room)
    }

    /// The pages that processes in this room run on.
    pub(super) fn pages(&self) -> &'static str {
        match self.lease {
            Some(_) => "2 MiB hugepages",
            None => "4 KiB (--no-huge)",
        }
    }

    /// Adds EAL options to a command: one lcore for control on the first of `cores`, then one for packets
    /// on each of them.
    pub(super) fn furnish(&self, command: &mut Command, memory: Memory, cores: &[usize]) {
        let mut lcores = format!("0@{}", cores[0]);
        for (index, core) in cores.iter().enumerate() {
            lcores.push_str(&format!(",{}@{core}", index + 1));
        }
        command
            .env("RUNTIME_DIRECTORY", &self.dir)
            .env("XDG_RUNTIME_DIR", &self.dir)
            .args(["-v", "--no-pci", "--no-telemetry"])
            .args(["--lcores", &lcores, "-m", &memory.mib.to_string()]);
        if self.lease.is_some() {
            command.arg("--in-memory");
        } else {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            command
                .args(["--no-huge", "--no-shconf"])
                .arg(format!("--file-prefix=netbench{number}"));
        }
    }

    /// Adds one end of a memif link to a command.
    pub(super) fn add_memif(&self, command: &mut Command, memif: &Memif<'_>) {
        let role = if memif.client { "client" } else { "server" };
        let socket = self.dir.join(memif.link);
        let mut device = format!(
            "--vdev=net_memif{},role={role},socket={},socket-abstract=no,rsize={},bsize={}",
            memif.port,
            socket.display(),
            memif.ring_log2,
            buffer(memif.size),
        );
        if memif.client && memif.zero_copy {
            device.push_str(",zero-copy=yes");
            // Zero-copy lends whole segments, each behind one descriptor.
            if !command.get_args().any(|arg| arg == SINGLE_FILE) {
                command.arg(SINGLE_FILE);
            }
        }
        command.arg(device);
    }
}

const SINGLE_FILE: &str = "--single-file-segments";

/// Bytes of a packet buffer: DPDK's default, or what holds a larger packet in one piece.
pub(super) fn buffer(size: usize) -> usize {
    size.max(2048).next_multiple_of(64)
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("netbench: could not remove {}: {error}", self.dir.display());
        }
    }
}
