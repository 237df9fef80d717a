//! Where captured packets go: a pcapng file, or lines for people or programs.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use libexo::abi::wire::PortName;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::interface_statistics::{
    InterfaceStatisticsBlock, InterfaceStatisticsOption,
};
use pcap_file::{DataLink, PcapError};
use serde_json::json;

use super::part::Captured;

/// Bytes of a packet that a line for people shows.
const LINE_BYTES: usize = 24;

/// Unit of time in our files: 10^-9 s.
const NANOSECONDS: u8 = 9;

/// What a packet begins with.
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Link {
    /// An Ethernet header
    Ethernet,
    /// An IPv4 or IPv6 header
    Ip,
    /// Something of its own (LINKTYPE_USER0)
    User,
}

impl Link {
    fn data_link(self) -> DataLink {
        match self {
            Link::Ethernet => DataLink::ETHERNET,
            Link::Ip => DataLink::RAW,
            Link::User => DataLink::USER0,
        }
    }
}

type Out = BufWriter<Box<dyn Write>>;

/// See the module.
pub enum Sink {
    /// A capture file.
    Pcapng(PcapNgWriter<Out>, String),
    /// A line per packet.
    Lines(Out),
    /// A JSON object per packet.
    Json(Out),
}

impl Sink {
    /// Opens it, and writes what precedes packets.
    pub fn open(
        port: &PortName,
        file: Option<&Path>,
        link: Link,
        snap: u32,
        json: bool,
    ) -> anyhow::Result<Sink> {
        let stdout = || BufWriter::new(Box::new(io::stdout()) as Box<dyn Write>);
        let Some(path) = file else {
            let out = stdout();
            return Ok(if json {
                Sink::Json(out)
            } else {
                Sink::Lines(out)
            });
        };
        let shown = path.display().to_string();
        let out = if path == Path::new("-") {
            stdout()
        } else {
            let file = File::create(path).with_context(|| format!("cannot create {shown}"))?;
            BufWriter::new(Box::new(file) as Box<dyn Write>)
        };
        let writing = || format!("cannot write to {shown}");
        let mut writer = PcapNgWriter::new(out)
            .map_err(plain)
            .with_context(writing)?;
        for side in 0..2 {
            let name = format!("{port}/{side}");
            let options = vec![
                InterfaceDescriptionOption::IfName(Cow::Owned(name)),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ];
            let block = InterfaceDescriptionBlock {
                linktype: link.data_link(),
                // Zero: whole packets.
                snaplen: if snap == u32::MAX { 0 } else { snap },
                options,
            };
            writer
                .write_pcapng_block(block)
                .map_err(plain)
                .with_context(writing)?;
        }
        Ok(Sink::Pcapng(writer, shown))
    }

    /// Writes one packet that `side` sent.
    pub fn write(&mut self, side: u8, packet: &Captured) -> anyhow::Result<()> {
        let since = packet
            .at
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        match self {
            Sink::Pcapng(writer, path) => {
                let mut options = Vec::new();
                if packet.dropped > 0 {
                    options.push(EnhancedPacketOption::DropCount(packet.dropped));
                }
                let block = EnhancedPacketBlock {
                    interface_id: u32::from(side),
                    timestamp: since,
                    original_len: packet.len,
                    data: Cow::Borrowed(&packet.bytes),
                    options,
                };
                let written = writer.write_pcapng_block(block).map_err(plain);
                written.with_context(|| format!("cannot write to {path}"))?;
            }
            Sink::Lines(out) => line(out, side, since, packet).context(STDOUT)?,
            Sink::Json(out) => {
                let object = json!({
                    "time_ns": since.as_nanos() as u64,
                    "side": side,
                    "len": packet.len,
                    "dropped": packet.dropped,
                    "data": hex(&packet.bytes),
                });
                writeln!(out, "{object}").context(STDOUT)?;
            }
        }
        Ok(())
    }

    /// Gives what was written to whoever reads it.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        match self {
            Sink::Pcapng(writer, path) => {
                let flushed = writer.get_mut().flush();
                flushed.with_context(|| format!("cannot write to {path}"))
            }
            Sink::Lines(out) | Sink::Json(out) => out.flush().context(STDOUT),
        }
    }

    /// Writes what follows packets: of each side, how many there were and how many were dropped.
    pub fn close(&mut self, counts: [(u64, u64); 2]) -> anyhow::Result<()> {
        if let Sink::Pcapng(writer, path) = self {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let now_ns = now.unwrap_or(Duration::ZERO).as_nanos() as u64;
            for (side, (packets, dropped)) in counts.into_iter().enumerate() {
                let block = InterfaceStatisticsBlock {
                    interface_id: side as u32,
                    timestamp: high_half_first(now_ns),
                    options: vec![
                        InterfaceStatisticsOption::IsbIfRecv(packets + dropped),
                        InterfaceStatisticsOption::IsbIfDrop(dropped),
                    ],
                };
                let written = writer.write_pcapng_block(block).map_err(plain);
                written.with_context(|| format!("cannot write to {path}"))?;
            }
        }
        self.flush()
    }

    /// Writes the counts as JSON, where they do not get into the way of a capture.
    pub fn summary(&mut self, object: &serde_json::Value) {
        // Nobody to tell it to is no failure.
        let _ = match self {
            Sink::Pcapng(_, path) if path == "-" => writeln!(io::stderr(), "{object}"),
            Sink::Pcapng(..) => writeln!(io::stdout(), "{object}"),
            Sink::Lines(out) | Sink::Json(out) => {
                writeln!(out, "{object}").and_then(|()| out.flush())
            }
        };
    }
}

const STDOUT: &str = "cannot write to standard output";

/// A file's failure without the wrapping that hides its kind.
fn plain(error: PcapError) -> anyhow::Error {
    match error {
        PcapError::IoError(error) => error.into(),
        other => other.into(),
    }
}

/// This block's time is two words, the high one first; the writer takes it as one number of the
/// machine's order.
fn high_half_first(time: u64) -> u64 {
    if cfg!(target_endian = "little") {
        time.rotate_left(32)
    } else {
        time
    }
}

/// `14:03:11.000001234 0>1   60 bytes  0200..  ..text`
fn line(out: &mut Out, side: u8, since: Duration, packet: &Captured) -> io::Result<()> {
    let (day, nanos) = (since.as_secs() % 86_400, since.subsec_nanos());
    let (h, m, s) = (day / 3600, day / 60 % 60, day % 60);
    let shown = &packet.bytes[..packet.bytes.len().min(LINE_BYTES)];
    let text: String = shown
        .iter()
        .map(|b| {
            if b.is_ascii_graphic() {
                char::from(*b)
            } else {
                '.'
            }
        })
        .collect();
    if packet.dropped > 0 {
        writeln!(out, "{} packets dropped here", packet.dropped)?;
    }
    writeln!(
        out,
        "{h:02}:{m:02}:{s:02}.{nanos:09} {side}>{} {:>5} bytes  {}  {text}",
        1 - side,
        packet.len,
        hex(shown),
    )
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // A string takes everything.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
