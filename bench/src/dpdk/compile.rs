//! Compiles `bench/dpdk` when it is first needed, and keeps the binary for the next time.
//!
//! The sources are part of this program, so it can be run from anywhere. The binary's name is a hash of all
//! that went into it: sources, compiler, libdpdk, and the processor that `-march=native` means.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

/// Name and text of every source file.
const SOURCES: &[(&str, &str)] = &[
    ("peer.h", include_str!("../../dpdk/peer.h")),
    ("pattern.h", include_str!("../../dpdk/pattern.h")),
    ("peer.c", include_str!("../../dpdk/peer.c")),
    ("memif.c", include_str!("../../dpdk/memif.c")),
    ("rings.c", include_str!("../../dpdk/rings.c")),
];

/// Directory beside this program, or in the user's cache, that keeps the binary.
const CACHE: &str = "netbench-cache";

/// What to install when something is missing.
const FIX: &str = "install them with `apt-get install gcc pkg-config libdpdk-dev dpdk-dev`";

/// The libdpdk that pkg-config finds.
#[derive(Debug, Clone)]
pub(super) struct Library {
    /// Its version.
    pub(super) version: String,
    /// The instruction set that it was built for: `corei7` is Debian's, for every x86-64 since 2008.
    pub(super) machine: String,
    cflags: Vec<String>,
    libs: Vec<String>,
}

/// The library, or why there is none.
pub(super) fn library() -> Result<&'static Library, String> {
    static FOUND: OnceLock<Result<Library, String>> = OnceLock::new();
    FOUND.get_or_init(find).as_ref().map_err(String::clone)
}

fn find() -> Result<Library, String> {
    let words = |args: &[&str]| {
        let text = answer("pkg-config", args)
            .ok_or_else(|| format!("pkg-config finds no libdpdk: {FIX}"))?;
        Ok::<_, String>(
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>(),
        )
    };
    let version = words(&["--modversion", "libdpdk"])?.concat();
    let cflags = words(&["--cflags", "libdpdk"])?;
    let mut libs = words(&["--libs", "libdpdk"])?;
    // A build of one's own is seldom where the loader looks.
    for dir in words(&["--variable=libdir", "libdpdk"])? {
        libs.push(format!("-Wl,-rpath,{dir}"));
    }
    if answer("cc", &["--version"]).is_none() {
        return Err(format!("there is no C compiler `cc`: {FIX}"));
    }
    let machine = cflags
        .iter()
        .find_map(|flag| flag.strip_prefix("-march="))
        .unwrap_or("unknown")
        .to_owned();
    Ok(Library {
        version,
        machine,
        cflags,
        libs,
    })
}

/// The compiled program.
pub(super) fn program() -> Result<PathBuf> {
    let library = library().map_err(anyhow::Error::msg)?;
    let dir = cache()?;
    let binary = dir.join(format!("dpdk-peer-{:016x}", fingerprint(library)));
    if !binary.is_file() {
        compile(library, &binary)?;
    }
    Ok(binary)
}

fn fingerprint(library: &Library) -> u64 {
    let mut hasher = DefaultHasher::new();
    SOURCES.hash(&mut hasher);
    (&library.version, &library.cflags, &library.libs).hash(&mut hasher);
    answer("cc", &["--version"]).hash(&mut hasher);
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = processor.lines().find(|line| line.starts_with("flags"));
    flags.hash(&mut hasher);
    hasher.finish()
}

/// The first place that can be written.
fn cache() -> Result<PathBuf> {
    let program = std::env::current_exe().context("where is this program?")?;
    let beside = program.parent().map(Path::to_owned);
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let user = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    for dir in [beside, user, home].into_iter().flatten() {
        let dir = dir.join(CACHE);
        let probe = dir.join(format!("probe-{}", std::process::id()));
        if fs::create_dir_all(&dir).is_ok() && fs::write(&probe, []).is_ok() {
            fs::remove_file(&probe)?;
            return Ok(dir);
        }
    }
    bail!(
        "no directory to keep a compiled program in: set XDG_CACHE_HOME to one that can be written"
    )
}

fn compile(library: &Library, binary: &Path) -> Result<()> {
    let work = binary.with_extension(format!("build-{}", std::process::id()));
    fs::create_dir_all(&work)?;
    let result = compile_in(&work, library, binary);
    fs::remove_dir_all(&work)?;
    result
}

fn compile_in(work: &Path, library: &Library, binary: &Path) -> Result<()> {
    for (name, text) in SOURCES {
        fs::write(work.join(name), text)?;
    }
    let sources = SOURCES.iter().filter(|(name, _)| name.ends_with(".c"));
    let output = Command::new("cc")
        .current_dir(work)
        .args(["-O3", "-o", "peer"])
        .args(&library.cflags)
        // After the library's own -march, which is the oldest processor that it supports.
        .arg("-march=native")
        .args(sources.map(|(name, _)| name))
        .args(&library.libs)
        .output()
        .context("cannot run cc")?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let first = text.lines().find(|line| line.contains("error"));
        bail!("the DPDK peer does not compile: {}", first.unwrap_or(&text));
    }
    // Renamed when complete, so that another netbench never starts half of it.
    fs::rename(work.join("peer"), binary)?;
    Ok(())
}

/// What a program prints, when it is there and succeeds.
fn answer(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern;

    /// Prints packets of the sizes and with the numbers that it is given.
    const PRINTER: &str = r#"
        #include <stdio.h>
        #include <stdlib.h>
        #include "pattern.h"
        int main(int argc, char **argv) {
            static uint8_t packet[9216];
            for (int i = 1; i + 1 < argc; i += 2) {
                uint32_t size = atoi(argv[i]);
                uint64_t seq = strtoull(argv[i + 1], NULL, 10), claimed = seq + 1;
                pattern_write(packet, size, seq);
                if (!pattern_check(packet, size, &claimed) || claimed != seq) return 1;
                fwrite(packet, size, 1, stdout);
                packet[size - 1] ^= 128;
                if (pattern_check(packet, size, &claimed)) return 2;
            }
            return 0;
        }"#;

    #[test]
    fn both_languages_write_the_same_packets() {
        if answer("cc", &["--version"]).is_none() {
            println!("skipped: there is no C compiler");
            return;
        }
        let dir = std::env::temp_dir().join(format!("netbench-pattern-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("pattern.h"), SOURCES[1].1).unwrap();
        fs::write(dir.join("printer.c"), PRINTER).unwrap();
        let mut cc = Command::new("cc");
        cc.current_dir(&dir)
            .args(["-O3", "-march=native", "-w", "-o", "printer", "printer.c"]);
        assert!(cc.status().unwrap().success());
        let cases = [
            (64, 0),
            (65, 7),
            (127, u64::MAX),
            (512, 1 << 40),
            (1518, 99),
            (9000, 3),
        ];
        let args = cases
            .iter()
            .flat_map(|(size, seq)| [size.to_string(), seq.to_string()]);
        let output = Command::new(dir.join("printer"))
            .args(args)
            .output()
            .unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert!(output.status.success(), "{}", output.status);
        let mut rest = &output.stdout[..];
        for (size, seq) in cases {
            let packet = rest.split_off(..size as usize).unwrap();
            assert!(pattern::check(packet, seq), "packet {seq} of {size} bytes");
        }
    }
}
