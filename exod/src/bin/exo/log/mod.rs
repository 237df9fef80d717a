//! `exo log`: the audit trail, as lines for people or as it is.
//!
//! It reads files and asks nobody, so it works while exod is away. Whoever may read the file may
//! read the trail: exod's user, and the group that exod's configuration names.

#![forbid(unsafe_code)]

mod filter;
mod follow;
mod show;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use exod::audit::AUDIT_PATH;
use exod::config::{CONFIG_PATH, Config};
use serde_json::Value;

use self::filter::Filter;

/// Longest line that is read; exod writes none that is near.
const LINE_MAX: usize = 64 << 10;

/// Files that were set aside that may be there: as many as the configuration can keep.
const ASIDE_MAX: u32 = 255;

/// Shows the audit trail: who was granted, refused or lost what
///
/// exod writes it where `audit` in its configuration says, and `exo log` needs the right to read
/// that file: its group is the `group` of the configuration.
#[derive(clap::Args)]
pub struct Args {
    /// The trail [default: as exod's configuration says, else /var/lib/exod/audit.jsonl]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    #[command(flatten)]
    filter: filter::Args,

    /// Only the last COUNT lines that fit
    #[arg(short = 'n', long, value_name = "COUNT")]
    lines: Option<usize>,

    /// Go on with what is written from now on, until Ctrl-C
    #[arg(short, long)]
    follow: bool,

    /// The lines as they are in the file, one JSON object each
    #[arg(long)]
    json: bool,
}

/// What is shown, and what was noticed on the way.
struct Reader {
    filter: Filter,
    json: bool,
    last_seq: Option<u64>,
    /// Lines that are not exod's.
    foreign: u64,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let path = args.file.clone().unwrap_or_else(configured);
    let mut reader = Reader {
        filter: args.filter.parse()?,
        json: args.json,
        last_seq: None,
        foreign: 0,
    };
    let mut out = io::stdout().lock();
    let mut kept = VecDeque::new();
    let newest = open(&path)?;
    // Oldest first. One that is set aside right now shows twice or not at all; numbers tell.
    for number in (1..=ASIDE_MAX).rev() {
        let mut aside = path.clone().into_os_string();
        aside.push(format!(".{number}"));
        if let Ok(file) = File::open(&aside) {
            reader.read(&mut BufReader::new(file), args.lines, &mut kept, &mut out)?;
        }
    }
    let mut newest = BufReader::new(newest);
    let partial = reader.read(&mut newest, args.lines, &mut kept, &mut out)?;
    for line in kept {
        writeln!(out, "{line}")?;
    }
    out.flush()?;
    if args.follow {
        let stop = crate::stop_flag()?;
        follow::follow(
            &path,
            newest,
            partial,
            |line| reader.take(line),
            &stop,
            &mut out,
        )?;
    }
    if reader.foreign > 0 {
        eprintln!(
            "exo: {} lines of {} are not exod's",
            reader.foreign,
            path.display()
        );
    }
    Ok(())
}

/// Where the trail is when nobody says.
fn configured() -> PathBuf {
    let loaded = Config::load(Path::new(CONFIG_PATH)).ok();
    loaded
        .and_then(|loaded| loaded.config.audit)
        .unwrap_or_else(|| AUDIT_PATH.into())
}

fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| {
        let hint = match path.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                "does exod keep one? set `audit` in its configuration, or name the file with --file"
            }
            _ => "the `group` of exod's configuration may read it: `usermod -aG GROUP USER`",
        };
        format!("cannot read the audit trail {} ({hint})", path.display())
    })
}

impl Reader {
    /// Reads to the end. The start of a line that is still being written, if there is one.
    fn read(
        &mut self,
        file: &mut BufReader<File>,
        lines: Option<usize>,
        kept: &mut VecDeque<String>,
        out: &mut impl Write,
    ) -> anyhow::Result<Vec<u8>> {
        let mut line = Vec::new();
        while read_line(file, &mut line)? {
            if let Some(shown) = self.take(&line) {
                match lines {
                    None => writeln!(out, "{shown}")?,
                    Some(0) => {}
                    Some(count) => {
                        if kept.len() == count {
                            kept.pop_front();
                        }
                        kept.push_back(shown);
                    }
                }
            }
            line.clear();
        }
        Ok(line)
    }

    /// What to show of one line.
    fn take(&mut self, line: &[u8]) -> Option<String> {
        let Ok(Value::Object(object)) = serde_json::from_slice::<Value>(line) else {
            self.foreign += u64::from(!line.trim_ascii().is_empty());
            return None;
        };
        let seq = object.get("seq").and_then(Value::as_u64);
        let explained = object.get("event").is_some_and(|event| event == "lost");
        if let (Some(seq), Some(last)) = (seq, self.last_seq)
            && seq > last.saturating_add(1)
            && !explained
        {
            eprintln!(
                "exo: {} lines before number {seq} are missing",
                seq - last - 1
            );
        }
        self.last_seq = seq.or(self.last_seq);
        if !self.filter.fits(&object) {
            return None;
        }
        Some(if self.json {
            Value::Object(object).to_string()
        } else {
            show::line(&object)
        })
    }
}

/// Adds to `line` up to the end of the line; false when the file ends before. Of a line that is too
/// long the rest is left out.
fn read_line(file: &mut BufReader<File>, line: &mut Vec<u8>) -> io::Result<bool> {
    loop {
        let part = match file.fill_buf() {
            Ok(part) => part,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if part.is_empty() {
            return Ok(false);
        }
        let end = part.iter().position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(part.len());
        let room = LINE_MAX.saturating_sub(line.len());
        line.extend_from_slice(&part[..taken.min(room)]);
        file.consume(taken + usize::from(end.is_some()));
        if end.is_some() {
            return Ok(true);
        }
    }
}
