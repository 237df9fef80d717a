//! Hugepages borrowed for the time of a run, for peers that cannot do without.
//!
//! A lease raises the kernel's pool only by what is missing, and takes exactly that away again when
//! it is dropped, also after Ctrl-C. Raising needs root; without it whatever is free already must
//! do.
#![forbid(unsafe_code)]

use std::fs;

use anyhow::{Context, Result, bail};

/// The pool of the 2 MiB size, whatever the default size is.
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// Pages lent by the kernel until drop.
#[derive(Debug)]
pub struct Lease {
    added: u64,
}

fn read(file: &str) -> Result<u64> {
    let path = format!("{POOL}/{file}");
    let text = fs::read_to_string(&path)
        .with_context(|| format!("{path}: no 2 MiB hugepages in this kernel"))?;
    text.trim()
        .parse()
        .with_context(|| format!("{path} is not a number"))
}

/// Hugepages of 2 MiB in the pool, and how many of them are free.
pub fn pool() -> Result<(u64, u64)> {
    Ok((
        read("nr_hugepages")?,
        read("free_hugepages")?.saturating_sub(read("resv_hugepages")?),
    ))
}

impl Lease {
    /// Makes sure that `pages` of 2 MiB are free.
    pub fn take(pages: u64) -> Result<Self> {
        let (total, free) = pool()?;
        let missing = pages.saturating_sub(free);
        if missing == 0 {
            return Ok(Self { added: 0 });
        }
        fs::write(format!("{POOL}/nr_hugepages"), (total + missing).to_string()).with_context(|| {
            format!("{free} hugepages are free and {pages} are needed: run as root, or `sysctl vm.nr_hugepages={}`", total + missing)
        })?;
        // The kernel gives what it finds and reports no error; the lease puts that much back on any
        // way out.
        let lease = Self {
            added: read("nr_hugepages")?.saturating_sub(total),
        };
        if lease.added < missing {
            bail!(
                "the kernel found {} of {missing} hugepages: memory is too full or too fragmented",
                lease.added
            );
        }
        Ok(lease)
    }

    /// Pages that this lease added to the pool.
    pub fn added(&self) -> u64 {
        self.added
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.added == 0 {
            return;
        }
        // Relative to what is there now: someone else may have changed the pool meanwhile.
        let restored = read("nr_hugepages")
            .map(|now| now.saturating_sub(self.added))
            .and_then(|pages| {
                Ok(fs::write(
                    format!("{POOL}/nr_hugepages"),
                    pages.to_string(),
                )?)
            });
        if let Err(error) = restored {
            eprintln!("could not put back {} hugepages: {error:#}", self.added);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_raised_is_put_back() {
        let Ok((total, free)) = pool() else {
            println!("skipped: this kernel has no 2 MiB hugepages");
            return;
        };
        match Lease::take(free + 1) {
            Ok(lease) => assert!(lease.added() >= 1),
            Err(error) => println!("skipped: {error:#}"),
        }
        // Others on this machine may hold a lease of their own for a moment.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while pool().unwrap().0 > total && std::time::Instant::now() < end {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        assert!(pool().unwrap().0 <= total);
    }
}
