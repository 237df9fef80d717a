//! `exo`: what a person asks of a running exod. One file per verb; each verb is its arguments and a
//! function `run` over [`Exod`].

#![forbid(unsafe_code)]

mod dump;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use libexo::Client;
use libexo::abi::wire::ErrorCode;

/// Looks into a running exod: what it has granted, and what passes a port.
///
/// exo is a client like any other. What it shows is other people's business, so the policy must
/// grant it: `admin = true` in the rule that names you in exod's configuration.
#[derive(Parser)]
#[command(name = "exo", version, after_long_help = AFTER_HELP)]
struct Options {
    /// exod's socket [default: $EXO_SOCKET, else /run/exod/exod.sock]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Status(status::Args),
    Dump(dump::Args),
}

const AFTER_HELP: &str = "\
First steps:
  What does exod own, and who has it?
      exo status
  What passes the port `demo`? A line per packet; Ctrl-C ends it:
      exo dump demo
  Keep it for Wireshark, or look at it there as it passes:
      exo dump demo -w demo.pcapng
      exo dump demo -w - | tshark -r -
  The first hundred packets as JSON, 64 bytes of each:
      exo dump demo -c 100 -s 64 --json

Exit codes:
  0  done, or ended by Ctrl-C
  1  failed; the message says what to do
  2  wrong command line";

/// Where exod is.
struct Exod {
    socket: Option<PathBuf>,
}

impl Exod {
    /// A new session.
    fn connect(&self) -> libexo::Result<Client> {
        match &self.socket {
            Some(path) => Client::connect(path),
            None => Client::connect_default(),
        }
    }
}

/// Says what to do about a refusal that the code's own text cannot know.
fn explain<T>(result: libexo::Result<T>) -> anyhow::Result<T> {
    let code = result.as_ref().err().and_then(libexo::Error::code);
    match code {
        Some(ErrorCode::Denied) => {
            result.context("this needs `admin = true` in the rule of exod's policy that names you")
        }
        _ => Ok(result?),
    }
}

fn main() -> ExitCode {
    if let Some(done) = exod::pages::asked(Options::command(), 1) {
        return done;
    }
    let options = Options::parse();
    let exod = Exod {
        socket: options.socket,
    };
    let outcome = match options.verb {
        Verb::Status(args) => status::run(&exod, &args),
        Verb::Dump(args) => dump::run(&exod, &args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("exo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
