//! A capture file in memory: pcapng and pcap, read whole, with errors that name their place.
#![forbid(unsafe_code)]

use std::ops::{Range, RangeInclusive};
use std::path::Path;

use anyhow::{Context, Result, bail};
use libexo::abi::port::PIECE_LEN_MAX;
use pcap_file::PcapError;
use pcap_file::pcap::PcapParser;
use pcap_file::pcapng::{Block, PcapNgParser};

/// What a pcapng file begins with.
const PCAPNG: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// The packets of a file, in order.
#[derive(Debug, Default)]
pub struct Capture {
    bytes: Vec<u8>,
    packets: Vec<Range<usize>>,
    /// Packets of no bytes, which a port does not carry.
    pub empty: usize,
}

impl Capture {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Capture> {
        let shown = path.display();
        let file = std::fs::read(path).with_context(|| format!("cannot read {shown}"))?;
        let capture = Capture::parse(&file).with_context(|| format!("{shown} is no good"))?;
        if capture.packets.is_empty() {
            bail!("{shown} holds no packet to send");
        }
        Ok(capture)
    }

    /// Reads the contents of a file.
    pub fn parse(file: &[u8]) -> Result<Capture> {
        let mut capture = Capture::default();
        if file.starts_with(&PCAPNG) {
            capture.pcapng(file)?;
        } else {
            capture.pcap(file)?;
        }
        Ok(capture)
    }

    fn pcapng(&mut self, file: &[u8]) -> Result<()> {
        let at = |rest: &[u8]| file.len() - rest.len();
        let (mut rest, mut parser) = PcapNgParser::new(file).map_err(|e| broken(e, 0, 0))?;
        while !rest.is_empty() {
            let here = at(rest);
            let (next, block) = parser
                .next_block(rest)
                .map_err(|e| broken(e, here, self.len()))?;
            match block {
                Block::EnhancedPacket(packet) => self.add(&packet.data, here)?,
                Block::Packet(packet) => self.add(&packet.data, here)?,
                Block::SimplePacket(packet) => {
                    // Its length is that of the wire; the block may hold less, and padding.
                    let snap = parser.interfaces().first().map_or(0, |i| i.snaplen);
                    let snap = if snap == 0 { u32::MAX } else { snap };
                    let len = packet.original_len.min(snap) as usize;
                    self.add(&packet.data[..len.min(packet.data.len())], here)?;
                }
                _ => {}
            }
            rest = next;
        }
        Ok(())
    }

    fn pcap(&mut self, file: &[u8]) -> Result<()> {
        let (mut rest, parser) = PcapParser::new(file).map_err(|e| broken(e, 0, 0))?;
        while !rest.is_empty() {
            let here = file.len() - rest.len();
            let (next, packet) = parser
                .next_raw_packet(rest)
                .map_err(|e| broken(e, here, self.len()))?;
            self.add(&packet.data, here)?;
            rest = next;
        }
        Ok(())
    }

    fn add(&mut self, packet: &[u8], offset: usize) -> Result<()> {
        if packet.is_empty() {
            self.empty += 1;
            return Ok(());
        }
        if packet.len() > PIECE_LEN_MAX {
            bail!(
                "packet {} at offset {offset} has {} bytes; a packet buffer holds at most {PIECE_LEN_MAX}",
                self.len() + 1,
                packet.len()
            );
        }
        let from = self.bytes.len();
        self.bytes.extend_from_slice(packet);
        self.packets.push(from..self.bytes.len());
        Ok(())
    }

    /// How many packets.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// A packet by its number, counted from 0 on; numbers beyond the end begin again.
    pub fn packet(&self, number: u64) -> &[u8] {
        let index = number % self.packets.len() as u64;
        &self.bytes[self.packets[index as usize].clone()]
    }

    /// The shortest and the longest packet.
    pub fn lengths(&self) -> RangeInclusive<usize> {
        let lens = || self.packets.iter().map(Range::len);
        lens().min().unwrap_or(0)..=lens().max().unwrap_or(0)
    }
}

fn broken(error: PcapError, offset: usize, packets: usize) -> anyhow::Error {
    let what = match error {
        PcapError::IncompleteBuffer => "it ends in the middle of something".to_owned(),
        other => other.to_string(),
    };
    anyhow::anyhow!(
        "broken at offset {offset}, after {packets} packets: {what} (pcapng and pcap files are read)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::Cow;
    use std::time::Duration;

    use pcap_file::DataLink;
    use pcap_file::pcap::{PcapPacket, PcapWriter};
    use pcap_file::pcapng::PcapNgWriter;
    use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
    use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionBlock;
    use pcap_file::pcapng::blocks::simple_packet::SimplePacketBlock;

    const LENS: [usize; 4] = [60, 1, 0, 1514];

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|at| at as u8).collect()
    }

    fn pcapng(lens: &[usize]) -> Vec<u8> {
        let mut writer = PcapNgWriter::new(Vec::new()).expect("a header");
        let interface = InterfaceDescriptionBlock::new(DataLink::ETHERNET, 0);
        writer.write_pcapng_block(interface).expect("memory");
        for len in lens {
            let packet = EnhancedPacketBlock {
                interface_id: 0,
                timestamp: Duration::from_secs(1),
                original_len: *len as u32,
                data: Cow::Owned(bytes(*len)),
                options: Vec::new(),
            };
            writer.write_pcapng_block(packet).expect("memory");
        }
        let simple = SimplePacketBlock {
            original_len: 5,
            data: Cow::Borrowed(b"simple"[..5].as_ref()),
        };
        writer.write_pcapng_block(simple).expect("memory");
        writer.into_inner()
    }

    #[test]
    fn both_formats_are_read() {
        let mut writer = PcapWriter::new(Vec::new()).expect("a header");
        for len in LENS {
            let data = bytes(len);
            let packet = PcapPacket::new(Duration::ZERO, len as u32, &data);
            writer.write_packet(&packet).expect("memory");
        }
        let classic = Capture::parse(&writer.into_writer()).expect("pcap");
        let new = Capture::parse(&pcapng(&LENS)).expect("pcapng");
        assert_eq!((classic.len(), classic.empty), (3, 1));
        assert_eq!((new.len(), new.empty), (4, 1));
        assert_eq!(new.packet(3), b"simpl");
        for n in 0..3 {
            assert_eq!(classic.packet(n), new.packet(n));
        }
        assert_eq!(classic.packet(2), bytes(1514));
        assert_eq!(classic.packet(3), classic.packet(0));
        assert_eq!(classic.lengths(), 1..=1514);
    }

    #[test]
    fn errors_name_their_place() {
        let whole = pcapng(&[60, 60]);
        let second = whole.len() - 24 - 92;
        let mut bad = whole.clone();
        bad[second + 4] = 0xff;
        let says = |file: &[u8]| format!("{:#}", Capture::parse(file).expect_err("broken"));
        let place = format!("offset {second}, after 1 packets");
        assert!(says(&bad).contains(&place), "{}", says(&bad));
        assert!(says(&whole[..whole.len() - 3]).contains("in the middle"));
        assert!(says(b"no capture at all, but a text").contains("offset 0"));
        assert!(says(&[]).contains("offset 0"));
        assert!(says(&pcapng(&[70_000])).contains("70000 bytes"));
    }

    #[test]
    fn nothing_makes_it_panic() {
        let whole = pcapng(&LENS);
        for end in 0..whole.len() {
            let _ = Capture::parse(&whole[..end]);
        }
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let mut file = whole.clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..file.len());
                file[at] = random.u8(..);
            }
            let _ = Capture::parse(&file);
        }
    }
}
