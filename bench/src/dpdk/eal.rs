//! What every DPDK process is told: memory, cores, ports, and where its files may be.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::hugepages::Lease;

/// Bytes of a hugepage, in MiB.
const HUGEPAGE_MIB: u64 = 2;
/// Hugepages beyond what the options ask for: each process rounds up, and rings are allocated later.
const HUGEPAGES_SPARE: u64 = 8;

/// A private directory for sockets and for what DPDK keeps while it runs; gone on drop.
pub(super) struct Room {
    dir: PathBuf,
    /// Held until the processes are gone; `None` where there are no hugepages to be had.
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
        let pages = processes * (memory.mib / HUGEPAGE_MIB + HUGEPAGES_SPARE);
        let lease = Lease::take(pages).ok();
        Ok(Self { dir, lease })
    }

    /// The pages that processes in this room run on.
    pub(super) fn pages(&self) -> &'static str {
        match self.lease {
            Some(_) => "2 MiB hugepages",
            None => "4 KiB (--no-huge: no free hugepages, and no right to make more)",
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
