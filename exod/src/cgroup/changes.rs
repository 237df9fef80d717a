//! Changes to cgroups that are noted before they are made, and put back in reverse order.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;
use super::place::failed;

/// How to put one change back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Undo {
    Write { file: PathBuf, text: String },
    Remove { directory: PathBuf },
}

/// What was changed. Dropping it puts everything back.
#[derive(Debug, Default)]
pub struct Changes {
    undo: Vec<Undo>,
    record: Option<PathBuf>,
}

impl Changes {
    /// Nothing changed yet. What will be is recorded in this file.
    pub fn recorded_in(record: Option<PathBuf>) -> Changes {
        let undo = Vec::new();
        Changes { undo, record }
    }

    /// What an exod that was killed had changed, by its record; dropping it puts that back.
    pub fn left_behind(record: &Path) -> Option<Changes> {
        let text = fs::read_to_string(record).ok()?;
        let undo: Vec<Undo> = serde_json::from_str(&text).ok()?;
        let record = Some(record.to_owned());
        Some(Changes { undo, record })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.undo.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.undo.is_empty()
    }

    /// All of it, or nothing.
    pub fn attempt<T>(
        &mut self,
        work: impl FnOnce(&mut Changes) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let before = self.undo.len();
        let outcome = work(self);
        if outcome.is_err() {
            self.put_back_to(before);
        }
        outcome
    }

    /// Writes a file that will be written again with what it said before.
    pub(super) fn write(&mut self, file: &Path, text: &str) -> Result<(), Error> {
        let before = fs::read_to_string(file).map_err(failed("read", file))?;
        // A write of nothing would not reach the kernel.
        let before = if before.is_empty() { "\n" } else { &before };
        self.write_and_undo_by(file, text, before)
    }

    /// Writes a file; to put it back, something else is written.
    pub(super) fn write_and_undo_by(
        &mut self,
        file: &Path,
        text: &str,
        undo: &str,
    ) -> Result<(), Error> {
        self.note(Undo::Write {
            file: file.to_owned(),
            text: undo.to_owned(),
        })?;
        fs::write(file, text).map_err(failed("write", file))
    }

    /// Makes a cgroup that will be removed; one that is there already is used.
    pub(super) fn make_directory(&mut self, directory: &Path) -> Result<(), Error> {
        self.note(Undo::Remove {
            directory: directory.to_owned(),
        })?;
        match fs::create_dir(directory) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(failed("make", directory)(e)),
            _ => Ok(()),
        }
    }

    fn note(&mut self, undo: Undo) -> Result<(), Error> {
        self.undo.push(undo);
        self.write_record()
    }

    fn write_record(&self) -> Result<(), Error> {
        let Some(record) = &self.record else {
            return Ok(());
        };
        let text = serde_json::to_string(&self.undo).map_err(io::Error::other);
        text.and_then(|text| fs::write(record, text))
            .map_err(failed("write", record))
    }

    fn put_back_to(&mut self, count: usize) {
        while self.undo.len() > count {
            let Some(undo) = self.undo.pop() else { return };
            let done = match &undo {
                Undo::Write { file, text } => fs::write(file, text),
                Undo::Remove { directory } => fs::remove_dir(directory),
            };
            match done {
                // systemd has removed the cgroup, and what was in it.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                // The leaf that exod is in goes with exod.
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
                    tracing::debug!(error = %e, ?undo, "still in use");
                }
                Err(error) => tracing::warn!(%error, ?undo, "cannot put back"),
                Ok(()) => {}
            }
        }
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.put_back_to(0);
        if let Some(record) = &self.record {
            // It was never written where nothing was changed.
            let _ = fs::remove_file(record);
        }
    }
}
