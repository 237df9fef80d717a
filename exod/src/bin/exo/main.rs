//! `exo`: what a person asks of a running exod, and of the machine. One file or folder per verb;
//! each verb is its arguments and a function `run` over [`Exod`]. [`view`] and [`shape`] are what
//! they share.

#![forbid(unsafe_code)]

mod doctor;
mod dump;
mod log;
mod metrics;
mod shape;
mod status;
mod top;
mod view;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use libexo::Client;
use libexo::abi::wire::ErrorCode;
use signal_hook::consts::{SIGINT, SIGTERM};

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
    Top(top::Args),
    Dump(dump::Args),
    Doctor(doctor::Args),
    Log(log::Args),
    Metrics(metrics::Args),
}

const AFTER_HELP: &str = "\
First steps:
  What can this machine do, and what is missing? Needs no exod and no privilege:
      exo doctor
  What does exod own, and who has it?
      exo status
  The same as it changes, with rates of ports and load of cores; `q` ends it:
      exo top
  What passes the port `demo`? A line per packet; Ctrl-C ends it:
      exo dump demo
  Keep it for Wireshark, or look at it there as it passes:
      exo dump demo -w demo.pcapng
      exo dump demo -w - | tshark -r -
  Who was granted, refused or lost what in the last hour?
      exo log --since 1h
  Metrics for Prometheus, once or at http://127.0.0.1:9591/metrics:
      exo metrics
      exo metrics --listen 127.0.0.1:9591

For programs: every verb has --json; colours are for terminals alone, and NO_COLOR turns them off.

Exit codes:
  0  done, or ended by Ctrl-C, or whoever read the output has seen enough
  1  failed; the message says what to do
  2  wrong command line
  3  doctor: something that exo needs is missing (with --strict: or is not as it should be)";

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

    /// The same, without patience.
    fn connect_within(&self, timeout: Duration) -> libexo::Result<Client> {
        Client::connect_within(self.socket.as_deref(), timeout)
    }

    /// Where it is, for people.
    fn place(&self) -> String {
        if let Some(path) = &self.socket {
            return path.display().to_string();
        }
        let named = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(path) = named("EXO_SOCKET") {
            return PathBuf::from(path).display().to_string();
        }
        match named("EXO_SOCKET_FD") {
            Some(number) => format!("inherited socket {}", number.display()),
            None => exod::config::SOCKET_PATH.to_owned(),
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

/// Whether it only says that our reader has closed its end.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|e| e.downcast_ref::<io::Error>());
    io.is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// Set by Ctrl-C; the second Ctrl-C ends exo at once.
fn stop_flag() -> anyhow::Result<Arc<AtomicBool>> {
    /// As a shell reports a process that SIGINT ended.
    const INTERRUPTED: i32 = 130;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, INTERRUPTED, stop.clone())
            .and_then(|_| signal_hook::flag::register(signal, stop.clone()))
            .context("cannot watch for signals")?;
    }
    Ok(stop)
}

fn main() -> ExitCode {
    if let Some(done) = exod::pages::asked(Options::command, 1) {
        return done;
    }
    let options = Options::parse();
    let exod = Exod {
        socket: options.socket,
    };
    let done = |outcome: anyhow::Result<()>| outcome.map(|()| ExitCode::SUCCESS);
    let outcome = match options.verb {
        Verb::Status(args) => done(status::run(&exod, &args)),
        Verb::Top(args) => done(top::run(&exod, &args)),
        Verb::Dump(args) => done(dump::run(&exod, &args)),
        Verb::Doctor(args) => doctor::run(&exod, &args),
        Verb::Log(args) => done(log::run(&args)),
        Verb::Metrics(args) => done(metrics::run(&exod, &args)),
    };
    match outcome {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("exo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
