//! `netbench replay`: a real capture through a port, checked byte for byte on the other side.
//!
//! Two processes, each with a session of its own with an exod that is embedded in a third, which
//! only starts them and adds up. Both sides have the file; the receiver compares every packet with
//! the one that should come next. A session travels as the child's standard input, so that nothing
//! but the standard library is needed to pass it.
#![forbid(unsafe_code)]

mod capture;
mod sides;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use exod::Embedded;
use exod::config::Config;
use serde_json::json;

pub use capture::Capture;
use sides::{Received, Side};

/// Arguments of `netbench replay`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A capture: pcapng or pcap.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How often to send the whole file.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    loops: u64,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// Which side this process is; netbench says so to the processes that it starts.
    #[arg(long, hide = true)]
    side: Option<Side>,
}

/// Sends a capture through a port between two processes and checks what arrives. An error when a
/// packet is lost or damaged.
pub fn run(args: &Args) -> Result<()> {
    let capture = Capture::load(&args.file)?;
    match args.side {
        Some(Side::Send) => sides::send(&capture, args.loops),
        Some(Side::Receive) => sides::receive(&capture, args.loops),
        None => drive(args, &capture),
    }
}

fn drive(args: &Args, capture: &Capture) -> Result<()> {
    let exod = Embedded::start(Config::embedded()).context("cannot embed exod")?;
    let receiver = start(args, &exod, Side::Receive)?;
    let sender = start(args, &exod, Side::Send)?;
    let sent = finish(sender, "sender");
    let received = finish(receiver, "receiver");
    crate::interrupt::check()?;
    sent?;
    let received: Received =
        serde_json::from_str(&received?).context("the receiver's report makes no sense")?;
    let expected = capture.len() as u64 * args.loops;
    let lost = expected - received.packets.min(expected);
    report(args, capture, &exod, &received, lost);
    if lost > 0 || received.mismatches > 0 {
        bail!(
            "{lost} packets lost, {} not what was sent",
            received.mismatches
        );
    }
    Ok(())
}

fn start(args: &Args, exod: &Embedded, side: Side) -> Result<Child> {
    let session = exod.connect().context("cannot make a session")?;
    let program = std::env::current_exe().context("cannot find this program's file")?;
    Command::new(program)
        .arg("replay")
        .arg(&args.file)
        .args(["--loops", &args.loops.to_string(), "--side", side.name()])
        .env_remove("EXO_SOCKET")
        .env("EXO_SOCKET_FD", "0")
        .stdin(Stdio::from(session))
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start a side")
}

/// What a side printed, when it succeeded.
fn finish(child: Child, who: &str) -> Result<String> {
    let out = child.wait_with_output()?;
    if !out.status.success() {
        bail!("the {who} failed ({})", out.status);
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn report(args: &Args, capture: &Capture, exod: &Embedded, received: &Received, lost: u64) {
    let pages = exod.offer().page_kind.name();
    let seconds = received.seconds.max(f64::MIN_POSITIVE);
    let mpps = received.packets as f64 / seconds / 1e6;
    let gbit = received.bytes as f64 * 8.0 / seconds / 1e9;
    let (least, most) = capture.lengths().into_inner();
    if args.json {
        println!(
            "{}",
            json!({
                "bench": "netbench", "row": "replay", "metric": "rate", "unit": "Mpps",
                "value": mpps, "gbit_per_s": gbit, "file": args.file.display().to_string(),
                "loops": args.loops, "packets": received.packets, "bytes": received.bytes,
                "mismatches": received.mismatches, "lost": lost, "skipped_empty": capture.empty,
                "size_min": least, "size_max": most, "pages": pages,
            })
        );
        return;
    }
    println!(
        "{}: {} packets of {least} to {most} bytes, {} times, through a port on {pages} pages",
        args.file.display(),
        capture.len(),
        args.loops
    );
    println!(
        "{} packets, {} bytes in {seconds:.3} s: {mpps:.3} Mpps, {gbit:.3} Gbit/s",
        received.packets, received.bytes
    );
    println!("{} mismatches, {lost} lost", received.mismatches);
    if capture.empty > 0 {
        println!("{} empty packets of the file were not sent", capture.empty);
    }
}
