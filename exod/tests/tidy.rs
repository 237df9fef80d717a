//! Rules of style that a program can check. Each test is one rule and names every line that breaks
//! it. A rule that is wrong is changed here, in the open; there is no way around one elsewhere.

#[path = "tidy/docs.rs"]
mod docs;
#[path = "tidy/tree.rs"]
mod tree;

use tree::{File, files, root, text_of};

/// Longest file in lines.
const LINES_MAX: usize = 600;

/// Files that were longer when the rule began, with what they may have: less some day, never more.
const LONGER: [(&str, usize); 2] = [
    ("libexo/tests/client.rs", 720),
    ("libexo/tests/lying_peer.rs", 660),
];

/// Widest line of a Rust file. rustfmt sees to code, this to comments; text in quotes may be wider
/// where breaking it would hide it from a search.
const COLUMNS_MAX: usize = 100;

/// The only sources with unsafe code, and what each one needs it for.
const UNSAFE: [(&str, &str); 21] = [
    ("bench/src/clock.rs", "the timestamp counter"),
    (
        "bench/src/floor/memory.rs",
        "lines that two processes share",
    ),
    (
        "bench/src/floor/pingpong.rs",
        "lines that two processes share",
    ),
    (
        "bench/src/floor/stream.rs",
        "lines that two processes share",
    ),
    ("bench/src/kernel/mmsg.rs", "system calls on many messages"),
    ("bench/src/kernel/packet.rs", "rings that the kernel maps"),
    ("bench/src/kernel/uring.rs", "buffers that the kernel fills"),
    (
        "bench/src/pattern.rs",
        "bytes written and read in wide words",
    ),
    ("bench/src/worker/child.rs", "descriptors by number"),
    (
        "bench/src/worker/control.rs",
        "words that two processes share",
    ),
    (
        "exod/src/activation.rs",
        "descriptors that the service manager left, by number",
    ),
    (
        "exod/src/captable/words.rs",
        "the table's words in its memfd",
    ),
    ("exod/src/frames/lease.rs", "a fcntl that no crate has"),
    ("exod/src/identity.rs", "a getsockopt that no crate has"),
    (
        "exod/src/shared.rs",
        "words that exod writes and clients map",
    ),
    ("libexo/src/guard.rs", "the SIGBUS handler"),
    ("libexo/src/packet.rs", "buffers owned linearly"),
    ("libexo/src/shm.rs", "memory that two domains see"),
    ("libexo/src/shm/bytes.rs", "bytes that a peer may write"),
    ("libexo/src/status.rs", "words that exod writes"),
    ("libos/src/huge.rs", "tables on hugepages of this process"),
];

/// Packages that the project is built around, and whose code uses each for a real job.
const PACKAGES: [(&str, &[&str]); 8] = [
    ("io-uring", &["bench/src/"]),
    ("libc", &["exod/src/", "libexo/src/"]),
    ("memmap2", &["exod/src/", "libexo/src/"]),
    ("nix", &["exod/src/", "libexo/src/"]),
    ("crossbeam", &["exod/src/"]),
    ("hugepage-rs", &["libos/src/"]),
    ("mio", &["exod/src/"]),
    ("criterion", &["bench/benches/"]),
];

/// Everything at the top, hidden files aside.
const TOP: [&str; 14] = [
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "bench",
    "docs",
    "examples",
    "exod",
    "libexo",
    "libos",
    "systemd",
    "target",
];

/// What may be missing of it.
const OPTIONAL: [&str; 2] = ["CHANGELOG.md", "target"];

const CRATES: [&str; 6] = [".ci/guest", "bench", "examples", "exod", "libexo", "libos"];

/// Words that mark unfinished work, and those that speak of how the project is made. Broken in two
/// so that this file does not have them.
const UNWANTED: [&str; 14] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("todo", "!("),
    concat!("unimpl", "emented!("),
    concat!("dbg", "!("),
    concat!("../", "shared"),
    concat!("/work", "/"),
    concat!("design", ".md"),
    concat!("reference/", "linux"),
    concat!("issue", " #"),
    concat!("this ", "issue"),
    concat!("work", "tree"),
    concat!("Clau", "de"),
];

/// Fails with every offence on a line of its own.
fn none(rule: &str, offences: impl IntoIterator<Item = String>) {
    let offences: Vec<String> = offences.into_iter().collect();
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

/// `path:line: text` for each line that `bad` says is one.
fn lines(file: &File, bad: impl Fn(&str) -> bool) -> Vec<String> {
    let numbered = file.text.lines().enumerate();
    let found = numbered.filter(|(_, line)| bad(line));
    found
        .map(|(at, line)| format!("{}:{}: {}", file.path, at + 1, line.trim()))
        .collect()
}

#[test]
fn unsafe_code_lives_in_a_few_known_files() {
    let files = files();
    let allowed = |path: &str| UNSAFE.iter().any(|(known, _)| *known == path);
    let strays = files
        .iter()
        .filter(|f| f.is_source() && f.has_unsafe() && !allowed(&f.path));
    none("unsafe code elsewhere", strays.map(|f| f.path.clone()));
    let idle = UNSAFE.iter().filter(|(path, _)| {
        let file = files.iter().find(|f| f.path == *path);
        !file.is_some_and(File::has_unsafe)
    });
    none(
        "listed, and without unsafe code",
        idle.map(|(path, _)| (*path).to_owned()),
    );
}

#[test]
fn every_other_source_forbids_unsafe_code() {
    let files = files();
    let sources: Vec<&File> = files.iter().filter(|f| f.is_source()).collect();
    let above_unsafe = |file: &File| {
        let inside = format!("{}/", file.module());
        UNSAFE.iter().any(|(path, _)| path.starts_with(&inside))
    };
    let covered = |file: &File| {
        let above = file.ancestors();
        let covers = |other: &&File| other.turns_unsafe_off() && above.contains(&other.module());
        file.turns_unsafe_off() || sources.iter().any(covers)
    };
    let listed = |file: &File| UNSAFE.iter().any(|(path, _)| *path == file.path);
    let bare = sources
        .iter()
        .filter(|f| !listed(f) && !above_unsafe(f) && !covered(f));
    none(
        "no #![forbid(unsafe_code)], here or above",
        bare.map(|f| f.path.clone()),
    );
}

#[test]
fn files_are_short_and_lines_are_narrow() {
    let files = files();
    let rust = || files.iter().filter(|f| f.is_rust());
    let limit = |path: &str| {
        let known = LONGER.iter().find(|(long, _)| *long == path);
        known.map_or(LINES_MAX, |(_, lines)| *lines)
    };
    let long = rust().filter_map(|f| {
        let (count, max) = (f.text.lines().count(), limit(&f.path));
        (count > max).then(|| format!("{}: {count} lines, at most {max}", f.path))
    });
    none("too long: split it", long);
    let wide = rust().flat_map(|f| {
        // A row of a table in a comment cannot be broken, and text in quotes need not be.
        let breaks = |line: &str| match line.trim_start().strip_prefix("//") {
            Some(comment) => !comment.trim_start_matches(['/', '!', ' ']).starts_with('|'),
            None => !line.contains('"'),
        };
        lines(f, |line| line.chars().count() > COLUMNS_MAX && breaks(line))
    });
    none("too wide", wide);
    let tabs = rust().flat_map(|f| lines(f, |line| line.contains('\t') || line.ends_with(' ')));
    none("a tab, or a space at the end", tabs);
}

#[test]
fn files_begin_with_prose() {
    let files = files();
    let silent = files.iter().filter(|f| {
        let first = f.text.lines().next().unwrap_or_default();
        f.is_rust() && !(first.starts_with("//! ") && first.len() > 10)
    });
    none(
        "the first line does not say what it is",
        silent.map(|f| f.path.clone()),
    );
}

#[test]
fn nothing_is_unfinished_and_nothing_speaks_of_its_making() {
    let files = files();
    let found = files
        .iter()
        .flat_map(|f| lines(f, |line| UNWANTED.iter().any(|word| line.contains(word))));
    none("unwanted words", found);
}

#[test]
fn arrows_run_one_way() {
    let files = files();
    let upward = files.iter().flat_map(|f| {
        let daemon = f.path.starts_with("exod/src/") && !f.path.starts_with("exod/src/bin/");
        let beyond_abi = move |line: &str| {
            let code = line.split("//").next().unwrap_or_default();
            let uses = code.split("libexo::").skip(1);
            daemon && uses.into_iter().any(|rest| !rest.starts_with("abi"))
        };
        lines(f, beyond_abi)
    });
    none("exod uses more of libexo than its abi", upward);
    let libos = files
        .iter()
        .filter(|f| f.path.starts_with("exod/src/") || f.path == "exod/Cargo.toml");
    let libos = libos.flat_map(|f| lines(f, |line| line.contains("libos")));
    none("exod knows libos", libos);
    let abi = files
        .iter()
        .filter(|f| f.path.starts_with("libexo/src/abi/"));
    let abi = abi.flat_map(|f| lines(f, |line| line.trim_start().starts_with("use crate::")));
    none("the abi uses what is above it", abi);
}

#[test]
fn each_package_has_a_job_and_is_named() {
    let files = files();
    let architecture = text_of(&files, "docs/architecture.md");
    for (package, rooms) in PACKAGES {
        let named = format!("`{package}`");
        assert!(
            architecture.contains(&named),
            "docs/architecture.md does not name {named}"
        );
        let path = format!("{}::", package.replace('-', "_"));
        for room in rooms {
            let used = files
                .iter()
                .filter(|f| f.path.starts_with(room) && f.is_rust() && !f.is_test_module())
                .any(|f| f.code().any(|line| line.contains(&path)));
            assert!(used, "no code under {room} that is not a test uses {path}");
        }
    }
}

#[test]
fn the_top_is_as_designed() {
    let mut found: Vec<String> = std::fs::read_dir(root())
        .expect("the root")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .filter(|name| !name.starts_with('.'))
        .collect();
    found.sort();
    let stray = found
        .iter()
        .filter(|name| !TOP.contains(&name.as_str()))
        .cloned();
    none("not of the design", stray);
    let missing = TOP.iter().filter(|name| {
        !OPTIONAL.contains(name) && !found.iter().any(|there| there.as_str() == **name)
    });
    none("missing", missing.map(|name| (*name).to_owned()));
    assert!(root().join(".ci/run").is_file(), ".ci/run is missing");
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let files = files();
    let workspace = text_of(&files, "Cargo.toml");
    for lint in [
        "missing_docs = \"warn\"",
        "unsafe_op_in_unsafe_fn = \"deny\"",
    ] {
        assert!(workspace.contains(lint), "Cargo.toml lacks {lint}");
    }
    assert!(workspace.contains("undocumented_unsafe_blocks = \"deny\""));
    for name in CRATES {
        let manifest = text_of(&files, &format!("{name}/Cargo.toml"));
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "{name} has lints of its own"
        );
    }
    let allows = files.iter().flat_map(|f| {
        let allow = concat!("allow(miss", "ing_docs)");
        lines(f, |line| line.contains(allow))
    });
    none("documentation is not optional", allows);
}
