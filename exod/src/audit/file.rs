//! The file: opened so that it is what it should be, mended, appended to, set aside when full.
//!
//! The invariant: the file ends after a whole line, and its length is the one that is kept here. A
//! write that the disk took in part is cut off again. One exod at a time writes it, by a lock.

#![forbid(unsafe_code)]

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::{AuditConfig, line};

/// How much of the file's end is looked at for its last whole line: more than any line.
const TAIL: u64 = 64 << 10;

/// Owner writes, the group reads.
const MODE: u32 = 0o640;

/// Why there is no audit trail.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// It cannot be opened.
    #[error("cannot open the audit trail {path}: {source}; {hint}")]
    Open {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// It is a directory, a device, a pipe.
    #[error("{0} is not a file: name another one with `audit` in exod's configuration")]
    NotAFile(PathBuf),
    /// Another exod writes it.
    #[error("another exod writes {0}: name another file with `audit` in exod's configuration")]
    Busy(PathBuf),
    /// No thread.
    #[error("cannot start the audit trail's thread: {0}")]
    Thread(io::Error),
}

/// See the module.
pub(super) struct AuditFile {
    config: AuditConfig,
    /// None where the disk was too full even to make it.
    open: Option<Opened>,
}

struct Opened {
    file: File,
    len: u64,
    /// Device and inode, to notice that somebody else has moved the file.
    identity: (u64, u64),
}

impl AuditFile {
    /// The file, the number of its last line (zero: there is none), and the number that comes next.
    pub(super) fn open(config: AuditConfig) -> Result<(AuditFile, u64, u64), AuditError> {
        let opened = match open(&config) {
            Ok(opened) => Some(opened),
            Err(AuditError::Open { source, .. }) if is_full(&source) => None,
            Err(error) => return Err(error),
        };
        let (mut last, mut torn) = (None, false);
        let mut audit = AuditFile { config, open: None };
        if let Some(mut opened) = opened {
            let failed = |source| failure(&audit.config.path, source);
            (last, torn) = mend(&mut opened).map_err(failed)?;
            audit.open = Some(opened);
        }
        let last = last.or_else(|| last_seq_of(&audit.aside(1))).unwrap_or(0);
        // A line that was cut off had a number too.
        Ok((audit, last, last.saturating_add(1 + u64::from(torn))))
    }

    /// Appends whole lines: all of them, or nothing.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let bytes_max = self.config.bytes_max;
        if self
            .open
            .as_ref()
            .is_some_and(|open| !is_at(open, &self.config.path))
        {
            self.open = None;
        }
        let full = |open: &Opened| open.len > 0 && open.len + lines.len() as u64 > bytes_max;
        if self.open.as_ref().is_some_and(full) {
            self.set_aside()?;
        }
        let open = self.opened()?;
        match open.file.write_all(lines) {
            Ok(()) => {
                open.len += lines.len() as u64;
                Ok(())
            }
            Err(error) => {
                // What the disk took of a line must not stay.
                if open.file.set_len(open.len).is_err() {
                    self.open = None;
                }
                Err(error)
            }
        }
    }

    /// Has the disk keep what was appended.
    pub(super) fn sync(&self) -> io::Result<()> {
        match &self.open {
            Some(open) => open.file.sync_data(),
            None => Ok(()),
        }
    }

    /// Its path, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.config.path
    }

    fn opened(&mut self) -> io::Result<&mut Opened> {
        if self.open.is_none() {
            let mut opened = open(&self.config).map_err(|error| match error {
                AuditError::Open { source, .. } => source,
                other => io::Error::other(other),
            })?;
            mend(&mut opened)?;
            self.open = Some(opened);
        }
        self.open.as_mut().ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn aside(&self, number: u32) -> PathBuf {
        let mut name = self.config.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }

    /// Renames `PATH` to `PATH.1`, and older ones likewise; the oldest goes.
    fn set_aside(&mut self) -> io::Result<()> {
        self.sync()?;
        for number in (1..self.config.kept).rev() {
            absent_is_fine(fs::rename(self.aside(number), self.aside(number + 1)))?;
        }
        if self.config.kept == 0 {
            absent_is_fine(fs::remove_file(&self.config.path))?;
        } else {
            fs::rename(&self.config.path, self.aside(1))?;
        }
        self.open = None;
        Ok(())
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn open(config: &AuditConfig) -> Result<Opened, AuditError> {
    let path = &config.path;
    let failed = |source| failure(path, source);
    if let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        match DirBuilder::new().mode(0o750).create(parent) {
            Ok(()) if config.group.is_some() => {
                std::os::unix::fs::chown(parent, None, config.group).map_err(failed)?;
            }
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
    }
    // A pipe must not make the open wait, nor a link lead elsewhere.
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(MODE)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(AuditError::NotAFile(path.clone()));
    }
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(AuditError::Busy(path.clone())),
        other => other.map_err(|errno| failed(errno.into()))?,
    }
    if let Some(group) = config.group.filter(|group| *group != meta.gid()) {
        std::os::unix::fs::fchown(&file, None, Some(group)).map_err(failed)?;
    }
    Ok(Opened {
        file,
        len: meta.len(),
        identity: (meta.dev(), meta.ino()),
    })
}

fn is_at(open: &Opened, path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| (meta.dev(), meta.ino()) == open.identity)
}

/// Cuts off what follows the last whole line. That line's number, and whether anything was cut.
fn mend(open: &mut Opened) -> io::Result<(Option<u64>, bool)> {
    let from = open.len.saturating_sub(TAIL);
    let mut tail = Vec::new();
    open.file.seek(SeekFrom::Start(from))?;
    open.file.read_to_end(&mut tail)?;
    let whole = tail
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1);
    let torn = whole < tail.len();
    if torn {
        open.len = from + whole as u64;
        open.file.set_len(open.len)?;
    }
    Ok((last_seq(&tail[..whole]), torn))
}

/// The number of the last line that has one.
fn last_seq(lines: &[u8]) -> Option<u64> {
    lines.rsplit(|byte| *byte == b'\n').find_map(line::seq_of)
}

/// The same of a file that was set aside.
fn last_seq_of(path: &Path) -> Option<u64> {
    let mut file = File::open(path).ok()?;
    let len = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL))).ok()?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail).ok()?;
    last_seq(&tail)
}

/// Whether waiting may help.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}

fn failure(path: &Path, source: io::Error) -> AuditError {
    let hint = match source.kind() {
        ErrorKind::PermissionDenied => "exod's user must be able to write it and its directory",
        ErrorKind::NotFound => "make its directory",
        _ if source.raw_os_error() == Some(libc::ELOOP) => "it is a link: name the file itself",
        _ => "name another file with `audit` in exod's configuration",
    };
    AuditError::Open {
        path: path.to_owned(),
        source,
        hint,
    }
}

#[cfg(test)]
mod tests;
