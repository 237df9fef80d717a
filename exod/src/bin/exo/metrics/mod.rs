//! `exo metrics`: what exod counts, in the text format of Prometheus, once or over HTTP.
//!
//! HTTP is spoken by this unprivileged process, never by exod. One session with exod is kept for
//! all scrapes; where exod is away, `exod_up` is 0 and nothing else is said.

#![forbid(unsafe_code)]

mod http;
mod text;

use std::io::Write;
use std::net::{SocketAddr, TcpListener};

use anyhow::Context;
use serde_json::json;

use crate::view::Watch;
use crate::{Exod, explain};

/// Prints exod's metrics for Prometheus, or serves them over HTTP
#[derive(clap::Args)]
pub struct Args {
    /// Serve `http://ADDR:PORT/metrics` until stopped; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", conflicts_with = "json")]
    listen: Option<SocketAddr>,

    /// A JSON object per sample instead of Prometheus text
    #[arg(long)]
    json: bool,
}

pub fn run(exod: &Exod, args: &Args) -> anyhow::Result<()> {
    match args.listen {
        Some(address) => serve(exod, address),
        None => print(exod, args.json),
    }
}

fn print(exod: &Exod, json: bool) -> anyhow::Result<()> {
    let client = exod.connect()?;
    explain(client.work())?;
    let samples = collect(&Watch::new(client)?)?;
    let mut out = std::io::stdout().lock();
    if json {
        for family in &samples {
            for sample in family.samples() {
                let labels: serde_json::Map<_, _> = sample
                    .labels
                    .iter()
                    .map(|(key, value)| ((*key).to_owned(), json!(value)))
                    .collect();
                let name = format!("{}{}", family.name, sample.suffix);
                let object = json!({"metric": name, "labels": labels, "value": sample.value});
                writeln!(out, "{object}")?;
            }
        }
    } else {
        out.write_all(text::render(&samples).as_bytes())?;
    }
    out.flush()?;
    Ok(())
}

fn collect(watch: &Watch) -> anyhow::Result<Vec<text::Family>> {
    let view = watch.all()?;
    Ok(text::families(&view, watch.client().session()))
}

fn serve(exod: &Exod, address: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .with_context(|| format!("cannot listen at {address}: is something else there?"))?;
    let address = listener.local_addr()?;
    if nix::unistd::geteuid().is_root() {
        eprintln!(
            "exo: serving as root is not needed: any user that exod's policy calls admin will do"
        );
    }
    if !address.ip().is_loopback() {
        eprintln!("exo: whoever reaches {address} can read who uses exod");
    }
    eprintln!("exo: serving http://{address}/metrics");
    let mut watch = None;
    let stop = crate::stop_flag()?;
    http::serve(&listener, &stop, || scrape(exod, &mut watch))
}

/// The text of one scrape, whatever became of exod.
fn scrape(exod: &Exod, watch: &mut Option<Watch>) -> String {
    // A session of before may be over: then a new one.
    for _ in 0..2 {
        if watch.is_none() {
            *watch = connect(exod)
                .inspect_err(|error| eprintln!("exo: {error:#}"))
                .ok();
        }
        match watch.as_ref().map(collect) {
            Some(Ok(samples)) => return text::render(&samples),
            Some(Err(_)) => *watch = None,
            None => break,
        }
    }
    text::render(&[text::up(false)])
}

fn connect(exod: &Exod) -> anyhow::Result<Watch> {
    let client = exod.connect_within(http::PATIENCE)?;
    explain(client.work())?;
    Watch::new(client)
}
