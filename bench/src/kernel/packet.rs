//! AF_PACKET with mmap rings, over a veth pair in a network namespace of its own.
//!
//! The parent makes the namespace on a thread that ends at once, so nothing of it has a name: the
//! two sockets alone keep it alive, and it goes when they close. Frames carry an Ethernet type for
//! local experiments, and the sockets are bound to it, so the namespace's own chatter is never
//! seen.
//!
//! Throughput receives into TPACKET_V3 blocks, which the kernel fills densely; a block reaches its
//! reader only when it is full or its timer ends, so round trips use TPACKET_V2, frame by frame.

use std::ffi::{CString, c_int};
use std::io::{self, Write};
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use memmap2::{MmapOptions, MmapRaw};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Uid;
use serde_json::json;

use super::drive::{Endpoint, drive, or_zero};
use crate::pattern;
use crate::row::Plan;
use crate::worker::{Job, Link, Meter, Mode, Report};

/// IEEE 802: local experimental Ethernet type 1.
const ETHER_TYPE: u16 = 0x88B5;
const HEADER: usize = 14;
/// The ring headers, our Ethernet header and 16,000 bytes fit a 16 KiB frame.
pub(super) const SIZE_MAX: usize = 16_000;
/// The ring's own header and alignment, in front of each frame.
const FRAME_HEADER: usize = 80;
/// Bytes of each ring: fits the second-level cache of a current server core.
const RING_BYTES: usize = 1 << 20;
/// Bytes of one block; a V3 block is handed over as a whole.
const BLOCK_BYTES: usize = 128 << 10;
/// A V3 block that does not fill is handed over after this time.
const RETIRE_MS: u32 = 1;

/// Why this row cannot run.
pub(super) fn unavailable() -> Option<String> {
    if !Uid::effective().is_root() {
        return Some("needs root for a network namespace: run as root".into());
    }
    let ip = Command::new("ip")
        .arg("-V")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    ip.is_err()
        .then(|| "needs the `ip` command: apt-get install iproute2".into())
}

/// One packet socket on each end of a new veth pair.
pub(super) fn pair(plan: &Plan, mode: Mode) -> Result<(Vec<OwnedFd>, Vec<OwnedFd>)> {
    let size = plan.size;
    // A thread of its own, because a namespace cannot be left again without keeping a way back.
    let thread = std::thread::spawn(move || -> Result<_> {
        unshare(CloneFlags::CLONE_NEWNET)
            .context("cannot make a network namespace: run as root")?;
        make_veth(size)?;
        Ok((
            vec![open("exo0", size, mode)?],
            vec![open("exo1", size, mode)?],
        ))
    });
    thread
        .join()
        .unwrap_or_else(|_| bail!("making the veth pair panicked"))
}

fn make_veth(size: usize) -> Result<()> {
    let mut ip = Command::new("ip");
    ip.args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    let mut child = ip.spawn().context("cannot run `ip`")?;
    let mtu = (HEADER + size).max(1500);
    let mut commands = "link add exo0 type veth peer name exo1\n".to_owned();
    for end in ["exo0", "exo1"] {
        // Without an address of its own an end sends no neighbour discovery.
        commands += &format!("link set {end} mtu {mtu} addrgenmode none\nlink set {end} up\n");
    }
    let input = child.stdin.take().context("no pipe to `ip`")?;
    { input }.write_all(commands.as_bytes())?;
    if !child.wait()?.success() {
        bail!("`ip` could not make a veth pair: is CONFIG_VETH in this kernel?");
    }
    Ok(())
}

fn option<T>(fd: &OwnedFd, name: c_int, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and length are those of `value`, a plain kernel structure or integer.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            name,
            std::ptr::from_ref(value).cast(),
            mem::size_of::<T>() as libc::socklen_t,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Frame size and number of the rings for packets of `size` bytes.
fn geometry(size: usize) -> (usize, usize) {
    let frame = (FRAME_HEADER + HEADER + size).next_power_of_two();
    (frame, RING_BYTES / frame)
}

fn version(mode: Mode) -> c_int {
    (match mode {
        Mode::Throughput => libc::tpacket_versions::TPACKET_V3,
        Mode::RoundTrip => libc::tpacket_versions::TPACKET_V2,
    }) as c_int
}

/// A socket with both rings, bound to one interface and to our Ethernet type.
fn open(interface: &str, size: usize, mode: Mode) -> Result<OwnedFd> {
    // SAFETY: no pointers. Protocol 0: nothing arrives before bind names interface and type.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("cannot open a packet socket");
    }
    // SAFETY: just opened, owned by nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    option(&fd, libc::PACKET_VERSION, &version(mode)).context("PACKET_VERSION")?;
    option(&fd, libc::PACKET_QDISC_BYPASS, &1i32).context("PACKET_QDISC_BYPASS")?;
    let (frame, frames) = geometry(size);
    let transmit = libc::tpacket_req3 {
        tp_block_size: BLOCK_BYTES as u32,
        tp_block_nr: (RING_BYTES / BLOCK_BYTES) as u32,
        tp_frame_size: frame as u32,
        tp_frame_nr: frames as u32,
        tp_retire_blk_tov: 0,
        tp_sizeof_priv: 0,
        tp_feature_req_word: 0,
    };
    let receive = libc::tpacket_req3 {
        tp_retire_blk_tov: RETIRE_MS,
        ..transmit
    };
    if mode == Mode::Throughput {
        option(&fd, libc::PACKET_RX_RING, &receive).context("PACKET_RX_RING")?;
        option(&fd, libc::PACKET_TX_RING, &transmit).context("PACKET_TX_RING")?;
    } else {
        let request = libc::tpacket_req {
            tp_block_size: receive.tp_block_size,
            tp_block_nr: receive.tp_block_nr,
            tp_frame_size: receive.tp_frame_size,
            tp_frame_nr: receive.tp_frame_nr,
        };
        option(&fd, libc::PACKET_RX_RING, &request).context("PACKET_RX_RING")?;
        option(&fd, libc::PACKET_TX_RING, &request).context("PACKET_TX_RING")?;
    }
    bind(&fd, interface)?;
    Ok(fd)
}

fn bind(fd: &OwnedFd, interface: &str) -> Result<()> {
    let name = CString::new(interface)?;
    // SAFETY: sockaddr_ll is integers; all zeroes is an unbound address. The name ends with a NUL.
    let (mut address, index) = unsafe {
        (
            mem::zeroed::<libc::sockaddr_ll>(),
            libc::if_nametoindex(name.as_ptr()),
        )
    };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ETHER_TYPE.to_be();
    address.sll_ifindex = index as i32;
    let length = mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: the pointer and length are those of `address`.
    if unsafe { libc::bind(fd.as_raw_fd(), std::ptr::from_ref(&address).cast(), length) } < 0 {
        return Err(io::Error::last_os_error()).context("cannot bind to the veth end");
    }
    Ok(())
}

/// Both rings of one socket: the receive ring first, then the transmit ring, as the kernel maps
/// them.
struct Rings {
    fd: OwnedFd,
    map: MmapRaw,
    size: usize,
    frame: usize,
    frames: usize,
    burst: usize,
    mode: Mode,
    next_out: usize,
    next_in: usize,
}

pub(super) fn work(mut job: Job, mut link: Link) -> Result<Report> {
    let fd = job.fds.pop().context("no socket was passed")?;
    let map = MmapOptions::new()
        .len(2 * RING_BYTES)
        .map_raw(&fd)
        .context("cannot map the rings")?;
    let (size, mode, burst) = (job.plan.size, job.mode, job.plan.burst);
    let (frame, frames) = geometry(size);
    let (next_out, next_in) = (0, 0);
    let mut rings = Rings {
        fd,
        map,
        size,
        frame,
        frames,
        burst,
        mode,
        next_out,
        next_in,
    };
    let meter = link.ready(json!({}))?;
    let report = drive(&job, meter, &mut rings)?;
    Ok(report.with("ring", frames).with("header_bytes", HEADER))
}

impl Rings {
    /// A word of the rings that the kernel writes too.
    fn word(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4) && at + 4 <= 2 * RING_BYTES);
        // SAFETY: aligned and inside the mapping, which lives as long as `self`; the kernel
        // accesses it as a 32-bit word too.
        unsafe { AtomicU32::from_ptr(self.map.as_mut_ptr().add(at).cast()) }
    }

    fn load(&self, at: usize) -> usize {
        self.word(at).load(Ordering::Relaxed) as usize
    }

    /// Bytes that the kernel delivered; it does not write them again before the frame is given
    /// back.
    fn bytes(&self, at: usize, len: usize) -> &[u8] {
        assert!(at + len <= 2 * RING_BYTES);
        // SAFETY: inside the mapping, and owned by user space until the status word is returned.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(at), len) }
    }

    /// Writes frame and header of one packet; the slot is ours.
    fn write_frame(&mut self, at: usize, seq: u64) {
        let (data, length) = match self.mode {
            Mode::Throughput => (48, mem::offset_of!(libc::tpacket3_hdr, tp_len)),
            Mode::RoundTrip => (32, mem::offset_of!(libc::tpacket2_hdr, tp_len)),
        };
        let total = HEADER + self.size;
        assert!(at + data + total <= 2 * RING_BYTES);
        // SAFETY: inside the mapping; the slot's status says that it belongs to user space, and
        // nothing else in this process looks at it.
        let frame =
            unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().add(at + data), total) };
        // To everybody, from nobody: the far end takes what arrives.
        frame[..6].fill(0xFF);
        frame[6..12].fill(0x02);
        frame[12..HEADER].copy_from_slice(&ETHER_TYPE.to_be_bytes());
        pattern::fill(&mut frame[HEADER..], seq);
        self.word(at + length)
            .store(total as u32, Ordering::Relaxed);
    }

    fn check(&self, at: usize, len: usize, meter: &mut Meter) {
        if len == HEADER + self.size {
            meter.receive(self.bytes(at + HEADER, self.size));
        } else {
            meter.corrupt(1);
        }
    }

    /// One V3 block, when the kernel has handed one over.
    fn receive_block(&mut self, meter: &mut Meter) -> usize {
        let block = self.next_in * BLOCK_BYTES;
        let header = block + mem::offset_of!(libc::tpacket_block_desc, hdr);
        let status = header + mem::offset_of!(libc::tpacket_hdr_v1, block_status);
        if self.word(status).load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return 0;
        }
        let packets = self.load(header + mem::offset_of!(libc::tpacket_hdr_v1, num_pkts));
        let mut at =
            block + self.load(header + mem::offset_of!(libc::tpacket_hdr_v1, offset_to_first_pkt));
        for _ in 0..packets {
            let len = self.load(at + mem::offset_of!(libc::tpacket3_hdr, tp_snaplen));
            // tp_mac is the low half of the word that holds tp_mac and tp_net.
            let mac = self.load(at + mem::offset_of!(libc::tpacket3_hdr, tp_mac)) & 0xFFFF;
            self.check(at + mac, len, meter);
            at += self.load(at + mem::offset_of!(libc::tpacket3_hdr, tp_next_offset));
        }
        self.word(status)
            .store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.next_in = (self.next_in + 1) % (RING_BYTES / BLOCK_BYTES);
        packets
    }

    /// One V2 frame, when there is one.
    fn receive_frame(&mut self, meter: &mut Meter) -> usize {
        let at = self.next_in * self.frame;
        if self.word(at).load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return 0;
        }
        let len = self.load(at + mem::offset_of!(libc::tpacket2_hdr, tp_snaplen));
        let mac = self.load(at + mem::offset_of!(libc::tpacket2_hdr, tp_mac)) & 0xFFFF;
        self.check(at + mac, len, meter);
        self.word(at)
            .store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.next_in = (self.next_in + 1) % self.frames;
        1
    }
}

impl Endpoint for Rings {
    fn send(&mut self, seq: u64) -> io::Result<usize> {
        let status = match self.mode {
            Mode::Throughput => mem::offset_of!(libc::tpacket3_hdr, tp_status),
            Mode::RoundTrip => mem::offset_of!(libc::tpacket2_hdr, tp_status),
        };
        let mut count = 0;
        while count < self.burst {
            let at = RING_BYTES + self.next_out * self.frame;
            if self.word(at + status).load(Ordering::Acquire) != libc::TP_STATUS_AVAILABLE {
                break;
            }
            self.write_frame(at, seq + count as u64);
            self.word(at + status)
                .store(libc::TP_STATUS_SEND_REQUEST, Ordering::Release);
            self.next_out = (self.next_out + 1) % self.frames;
            count += 1;
        }
        // Also with nothing new: a frame that was refused before is tried again.
        // SAFETY: no bytes are passed; the kernel takes the frames from the ring.
        let sent =
            unsafe { libc::send(self.fd.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT) };
        or_zero(if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(0)
        })?;
        Ok(count)
    }

    fn receive(&mut self, meter: &mut Meter) -> io::Result<usize> {
        Ok(match self.mode {
            Mode::Throughput => self.receive_block(meter),
            Mode::RoundTrip => self.receive_frame(meter),
        })
    }
}
