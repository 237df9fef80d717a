//! The cache: packages as they were fetched, and images made of them, each named after what it was
//! made of. Everything in it can be deleted at any time; the next run fetches it again.

#![forbid(unsafe_code)]

use std::env;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::Context;

use crate::stop::Stop;

/// How often somebody who waits for a lock looks again.
const TICK: Duration = Duration::from_millis(50);

/// When something that nobody used is deleted.
const FORGOTTEN: Duration = Duration::from_secs(30 * 24 * 3600);

/// The directory that everything fetched lives in.
pub struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// Opens it, and makes it when it is not there.
    pub fn open() -> anyhow::Result<Cache> {
        let named = |name| env::var_os(name).filter(|value| !value.is_empty());
        let directory = match (
            named("EXO_GUEST_CACHE"),
            named("XDG_CACHE_HOME"),
            named("HOME"),
        ) {
            (Some(cache), _, _) => PathBuf::from(cache),
            (_, Some(cache), _) => Path::new(&cache).join("exo-guest"),
            (_, _, Some(home)) => Path::new(&home).join(".cache/exo-guest"),
            _ => anyhow::bail!("no place for a cache: set HOME or EXO_GUEST_CACHE"),
        };
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make the cache {}", directory.display()))?;
        let directory = directory.canonicalize()?;
        Ok(Cache { directory })
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The path of `name`, after `make` has made it if it was not there. `make` works on another
    /// name, so what is there is complete. It may make a file or a directory.
    pub fn get(
        &self,
        name: &str,
        make: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<PathBuf> {
        let path = self.path(name);
        if !path.exists() {
            let partial = self.path(&format!("{name}.partial"));
            remove(&partial)?;
            make(&partial).with_context(|| format!("cannot make {}", path.display()))?;
            fs::rename(&partial, &path)?;
        }
        // Its age is then that of its last use.
        File::open(&path)?.set_modified(SystemTime::now())?;
        Ok(path)
    }

    /// Waits until nobody else holds the lock of that name, and takes it. `waiting` is called when
    /// somebody does.
    pub fn lock(&self, name: &str, stop: &Stop, waiting: impl FnOnce()) -> anyhow::Result<Lock> {
        let path = self.path(name);
        let what = || format!("cannot lock {}", path.display());
        let file = File::create(&path).with_context(what)?;
        let mut waiting = Some(waiting);
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error).with_context(what),
            }
            if let Some(waiting) = waiting.take() {
                waiting();
            }
            stop.check()?;
            thread::sleep(TICK);
        }
    }

    /// How long ago `name` was written; `None` if it was not.
    pub fn age(&self, name: &str) -> Option<Duration> {
        let written = fs::metadata(self.path(name)).ok()?.modified().ok()?;
        // A clock that was set back says nothing about age.
        Some(written.elapsed().unwrap_or_default())
    }

    /// Deletes what lies directly in `directory` and is not wanted any more, by its name.
    pub fn prune(&self, directory: &str, is_wanted: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        for entry in fs::read_dir(self.path(directory))? {
            let entry = entry?;
            if !is_wanted(&entry.file_name().to_string_lossy()) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Deletes what was made for packages or a recipe of old, and not used for a month.
    pub fn prune_forgotten(&self) -> anyhow::Result<()> {
        self.prune("", |name| {
            // All that is named after what it was made of has a dash.
            !name.contains('-') || self.age(name).is_none_or(|age| age < FORGOTTEN)
        })
    }

    /// Names in the cache that begin so.
    pub fn names(&self, prefix: &str) -> anyhow::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with(prefix) {
                names.push(name);
            }
        }
        Ok(names)
    }
}

/// A lock that is held until it is dropped, or its process ends.
pub struct Lock {
    _file: File,
}

/// Removes a file or a directory, if it is there.
fn remove(path: &Path) -> anyhow::Result<()> {
    let removed = if path.is_dir() && !path.is_symlink() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// A short name for what something is made of (FNV-1a): equal parts, equal name, on every machine
/// and with every compiler.
pub fn key<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        for byte in part.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().to_owned();
        (directory, Cache { directory: path })
    }

    #[test]
    fn keys_tell_parts_apart() {
        assert_eq!(key(["a", "b"]), key(["a", "b"]));
        assert_ne!(key(["a", "b"]), key(["ab"]));
        assert_ne!(key(["a", "b"]), key(["b", "a"]));
    }

    #[test]
    fn what_failed_half_way_is_made_again() {
        let (_directory, cache) = cache();
        let half = |path: &Path| {
            fs::create_dir(path)?;
            fs::write(path.join("left"), b"")?;
            anyhow::bail!("the network is down")
        };
        let error = cache.get("thing", half).expect_err("half way");
        assert!(format!("{error:#}").contains("the network is down"));
        let whole = |path: &Path| Ok(fs::write(path, b"whole")?);
        let path = cache.get("thing", whole).expect("made");
        assert_eq!(fs::read(&path).expect("there"), b"whole");
        let again = cache.get("thing", |_| anyhow::bail!("made twice"));
        assert_eq!(again.expect("cached"), path);
    }

    #[test]
    fn pruning_keeps_what_is_named() {
        let (_directory, cache) = cache();
        fs::create_dir_all(cache.path("debs/sub")).expect("made");
        fs::write(cache.path("debs/old"), b"").expect("written");
        fs::write(cache.path("debs/new"), b"").expect("written");
        let pruned = cache.prune("debs", |name| name == "new");
        pruned.expect("pruned");
        let left = fs::read_dir(cache.path("debs")).expect("there");
        assert_eq!(left.count(), 1);
    }

    #[test]
    fn what_nobody_uses_is_forgotten() {
        let (_directory, cache) = cache();
        let old = SystemTime::now() - FORGOTTEN * 2;
        for name in ["image-1", "image-2", "cache.lock"] {
            let file = File::create(cache.path(name)).expect("made");
            file.set_modified(old).expect("its owner");
        }
        let used = cache.get("image-2", |_| anyhow::bail!("made twice"));
        used.expect("cached");
        cache.prune_forgotten().expect("pruned");
        let mut left = cache.names("").expect("names");
        left.sort();
        assert_eq!(left, ["cache.lock", "image-2"]);
    }

    #[test]
    fn a_lock_keeps_others_out_until_it_is_dropped() {
        let (_directory, cache) = cache();
        let stop = Stop::default();
        let lock = cache.lock("l", &stop, || panic!("nobody holds it"));
        let lock = lock.expect("held");
        let other = File::open(cache.path("l")).expect("there");
        assert!(other.try_lock().is_err());
        drop(lock);
        assert!(other.try_lock().is_ok());
    }
}
