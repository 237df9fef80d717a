//! Going on with a file that grows, and is set aside when it is full.

#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::read_line;

/// Between two looks at the file.
const TURN: Duration = Duration::from_millis(200);

/// Hands each line to `take` and writes what it gives, until `stop`. `line` is what was read of the
/// next one.
pub fn follow(
    path: &Path,
    mut file: BufReader<File>,
    mut line: Vec<u8>,
    mut take: impl FnMut(&[u8]) -> Option<String>,
    stop: &AtomicBool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    while !stop.load(Ordering::Acquire) {
        // Looked at before the end is reached: what is written after it is in another file.
        let moved = is_another(path, file.get_ref());
        while read_line(&mut file, &mut line)? {
            if let Some(shown) = take(&line) {
                writeln!(out, "{shown}")?;
            }
            line.clear();
        }
        out.flush()?;
        if moved && let Ok(next) = File::open(path) {
            file = BufReader::new(next);
            line.clear();
            continue;
        }
        if is_shorter(file.get_ref())? {
            file.seek(SeekFrom::End(0))?;
            line.clear();
        }
        std::thread::sleep(TURN);
    }
    Ok(())
}

fn is_another(path: &Path, file: &File) -> bool {
    let here = file.metadata().map(|meta| (meta.dev(), meta.ino()));
    let there = fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    matches!((here, there), (Ok(here), Ok(there)) if here != there)
}

/// Whether the file was cut below what was read: exod mends a torn line so when it starts.
fn is_shorter(mut file: &File) -> std::io::Result<bool> {
    Ok(file.metadata()?.len() < file.stream_position()?)
}
