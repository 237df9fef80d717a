//! An echo server and its client, two processes.
//!
//! `echo` alone starts both; `echo server` and `echo client` run one each over a real exod, in two
//! terminals, as two users if its policy allows them.

#![forbid(unsafe_code)]

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};
use examples::family::{Family, Stop};
use libexo::packet::Packet;
use libexo::port::{PeerPacket, Port, PortConfig};
use libexo::{Client, Error};
use libos::idle::{Idle, Policy};

/// How long a side waits for the other to come, or to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Packets that the server answers at once.
const BURST: usize = 32;

/// Sends packets to a server, which answers each with the same bytes
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    options: Options,
}

#[derive(Subcommand)]
enum Role {
    /// Answers one client until it leaves
    Server,
    /// Sends, compares the answers, and prints how long they took
    Client,
}

#[derive(Args)]
struct Options {
    /// The port's name
    #[arg(long, global = true, default_value = "echo")]
    name: String,
    /// Packets to send
    #[arg(long, global = true, default_value_t = 100_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Bytes in each
    #[arg(long, global = true, default_value_t = 64)]
    #[arg(value_parser = clap::value_parser!(u16).range(8..=2048))]
    size: u16,
}

fn main() -> Result<()> {
    let Cli { role, options } = Cli::parse();
    // The other side may go away with its memory while we read it: an error then, and no SIGBUS.
    libexo::guard::install()?;
    match role {
        Some(Role::Server) => server(&options),
        Some(Role::Client) => client(&options),
        None => both(&options),
    }
}

fn both(options: &Options) -> Result<()> {
    let _stop = Stop::install()?;
    let mut family = Family::new()?;
    for role in ["server", "client"] {
        let args = [
            role,
            "--name",
            &options.name,
            "--count",
            &options.count.to_string(),
            "--size",
            &options.size.to_string(),
        ];
        family.start(role, &args.map(str::to_owned))?;
    }
    family.wait()
}

fn server(options: &Options) -> Result<()> {
    let stop = Stop::install()?;
    let exod = Client::connect_default()?;
    let waiting = Port::create(&exod, &options.name, PortConfig::default())?;
    let mut port = waiting.ready(PATIENCE).context("no client came")?;
    let mut idle = Idle::new(Policy::Adaptive);
    let (mut answers, mut answered) = (Vec::with_capacity(BURST), 0);
    while !stop.asked() {
        match answer_some(&mut port, &mut answers, &mut idle) {
            Ok(count) => answered += count,
            Err(Error::PeerGone) => break,
            Err(error) => return Err(error.into()),
        }
    }
    println!("server: {answered} packets answered");
    Ok(())
}

/// One turn: receives what there is room for, and sends what waits. How many were sent.
fn answer_some(
    port: &mut Port,
    answers: &mut Vec<Packet>,
    idle: &mut Idle,
) -> libexo::Result<usize> {
    let room = BURST - answers.len();
    if port.pool().available() < room {
        port.flush()?;
    }
    let pool = Rc::clone(port.pool());
    for question in port.receive_burst(room.min(pool.available()))? {
        // One that is longer than our buffers is not answered.
        if let Some(mut answer) = pool.alloc(question.len()) {
            copy(question, &mut answer)?;
            answers.push(answer);
        }
    }
    if answers.is_empty() {
        idle.turn(false, &mut [port])?;
        return Ok(0);
    }
    let sent = port.send_burst(answers)?;
    idle.turn(sent > 0, &mut [port])?;
    Ok(sent)
}

/// Copies a packet, piece by piece, from the peer's memory into ours.
fn copy(from: PeerPacket<'_>, to: &mut [u8]) -> libexo::Result<()> {
    let mut at = 0;
    for piece in from.pieces() {
        at += piece.copy_to(&mut to[at..])?;
    }
    Ok(())
}

fn client(options: &Options) -> Result<()> {
    let stop = Stop::install()?;
    let exod = Client::connect_default()?;
    let mut port = Port::join_when_there(&exod, &options.name, PortConfig::default(), PATIENCE)
        .context("no server came")?;
    let mut idle = Idle::new(Policy::Adaptive);
    let mut times = Vec::new();
    for number in 0..options.count {
        if stop.asked() {
            break;
        }
        let sent_at = Instant::now();
        let question = question(number, usize::from(options.size));
        let sent = port.send_with(1, question.len(), |_, packet| {
            packet.copy_from_slice(&question)
        })?;
        ensure!(sent == 1, "the server keeps all our packets");
        let answer = answer(&mut port, &mut idle, sent_at)?;
        ensure!(answer == question, "answer {number} is not what was sent");
        times.push(sent_at.elapsed());
    }
    times.sort_unstable();
    let at = |share: f64| times.get((times.len() as f64 * share) as usize);
    if let (Some(half), Some(most)) = (at(0.5), at(0.99)) {
        println!(
            "client: {} answers of {} bytes, all as sent; round trip p50 {half:?}, p99 {most:?}",
            times.len(),
            options.size
        );
    }
    Ok(())
}

fn question(number: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![number as u8; size];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn answer(port: &mut Port, idle: &mut Idle, since: Instant) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        if let Some(packet) = port.receive_burst(1)?.next() {
            packet.append_to(&mut bytes)?;
            idle.turn(true, &mut [])?;
            return Ok(bytes);
        }
        idle.turn(false, &mut [port])?;
        if since.elapsed() > PATIENCE {
            bail!("the server does not answer");
        }
    }
}
