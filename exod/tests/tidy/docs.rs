//! Rules for pages: links lead somewhere, and what the README shows is what is there.

use std::path::{Component, Path, PathBuf};

use libexo::abi::wire::{ErrorCode, Op};

use super::tree::{File, files, root, text_of};

/// The example that the README shows whole.
const HELLO: &str = "examples/src/bin/hello.rs";

/// A page without its code blocks, where brackets mean something else.
fn prose(text: &str) -> String {
    let mut inside = false;
    let outside = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !inside && !fence
    });
    outside.collect::<Vec<_>>().join("\n")
}

/// Targets of all links of a page.
fn links(text: &str) -> Vec<String> {
    let prose = prose(text);
    let targets = prose.split("](").skip(1);
    let targets = targets.filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
    targets.map(str::to_owned).collect()
}

/// The anchors of a page, as mdBook and GitHub make them from headings.
fn anchors(text: &str) -> Vec<String> {
    let prose = prose(text);
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = text
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// `a/../b` as `b`.
fn normal(path: &Path) -> String {
    let mut parts = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                assert!(parts.pop(), "{} leaves the project", path.display());
            }
            Component::CurDir => {}
            part => parts.push(part),
        }
    }
    parts.to_string_lossy().into_owned()
}

fn dead_links(page: &File, files: &[File]) -> Vec<String> {
    let directory = Path::new(&page.path).parent().unwrap_or(Path::new(""));
    let mut dead = Vec::new();
    for link in links(&page.text) {
        if link.contains("://") || link.starts_with("mailto:") {
            continue;
        }
        let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
        let target = match path {
            "" => page.path.clone(),
            path => normal(&directory.join(path)),
        };
        let other = files.iter().find(|f| f.path == target);
        let found = other.is_some() || root().join(&target).exists();
        let anchored = anchor.is_empty()
            || other.is_some_and(|f| anchors(&f.text).iter().any(|known| known == anchor));
        if !found || !anchored {
            dead.push(format!("{}: {link}", page.path));
        }
    }
    dead
}

#[test]
fn links_lead_somewhere() {
    let files = files();
    let pages = files.iter().filter(|f| f.is_page());
    super::none(
        "dead links",
        pages.flat_map(|page| dead_links(page, &files)),
    );
}

#[test]
fn dead_links_are_found() {
    let page = |text: &str| File {
        path: "docs/page.md".into(),
        text: text.into(),
    };
    let one = page("# A *b* c!\n[x](#a-b-c) [y](../README.md) [z](https://example.org)");
    let files = [one];
    assert!(root().join("README.md").exists());
    assert_eq!(dead_links(&files[0], &files), [""; 0]);
    let two = page("[x](#nowhere) [y](none.md)\n```\n[z](in-code)\n```");
    assert_eq!(dead_links(&two, &[]).len(), 2);
}

#[test]
fn every_page_of_the_book_is_in_its_summary() {
    let files = files();
    let listed = links(text_of(&files, "docs/SUMMARY.md"));
    let pages = files.iter().filter_map(|f| f.path.strip_prefix("docs/"));
    let pages = pages.filter(|page| page.ends_with(".md") && *page != "SUMMARY.md");
    let unlisted = pages.filter(|page| !listed.iter().any(|link| link == page));
    super::none("not in docs/SUMMARY.md", unlisted.map(str::to_owned));
}

/// Names of tests, as pages write them: the path, two colons, the function, all in one code span.
fn named_tests(text: &str) -> Vec<(String, String)> {
    let spans = text.split('`').skip(1).step_by(2);
    let named = spans.filter_map(|span| span.split_once(".rs::"));
    named
        .filter(|(path, _)| path.contains('/'))
        .map(|(path, test)| (format!("{path}.rs"), test.to_owned()))
        .collect()
}

#[test]
fn every_promise_names_a_test_that_is_there() {
    let files = files();
    let page = text_of(&files, "docs/security.md");
    let named = named_tests(page);
    assert!(named.len() > 10, "docs/security.md names its tests");
    let missing = named.iter().filter(|(path, test)| {
        let definition = format!("#[test]\nfn {test}()");
        let file = files.iter().find(|f| f.path == *path);
        !file.is_some_and(|f| f.text.contains(&definition))
    });
    let missing = missing.map(|(path, test)| format!("{path}::{test}"));
    super::none("docs/security.md names tests that are not there", missing);
}

#[test]
fn the_protocol_page_has_every_operation_and_error() {
    let files = files();
    let page = text_of(&files, "docs/protocol.md");
    let ops = Op::ALL.map(|op| format!("| {} | `{op:?}` |", op as u16));
    let errors = ErrorCode::ALL.map(|code| format!("| {} | `{code:?}` |", code as u16));
    let rows: Vec<String> = ops.into_iter().chain(errors).collect();
    assert!(rows.len() > 25, "operations and errors have gaps");
    let missing = rows.into_iter().filter(|row| !page.contains(row));
    super::none("docs/protocol.md lacks", missing);
}

#[test]
fn the_benchmark_page_has_every_promise_and_no_other() {
    let files = files();
    let code = text_of(&files, "bench/src/targets.rs");
    let code = code.split_once("pub const TARGETS").map(|(_, rest)| rest);
    let code = code.and_then(|rest| rest.split_once("];"));
    let (code, _) = code.expect("bench/src/targets.rs has a table");
    let calls = code.split("higher(").flat_map(|part| part.split("lower("));
    let calls = calls.flat_map(|part| part.split("below("));
    let mut targets: Vec<&str> = calls.filter_map(|call| call.split('"').nth(1)).collect();
    assert!(targets.len() > 10, "bench/src/targets.rs has another form");
    let page = text_of(&files, "docs/benchmarks.md");
    let promises = page.split_once("\n## Promises").map(|(_, rest)| rest);
    let promises = promises.and_then(|rest| rest.split("\n## ").next());
    let rows = promises.unwrap_or_default().lines();
    let rows = rows.filter_map(|line| line.strip_prefix("| `"));
    let mut told: Vec<&str> = rows
        .filter_map(|row| row.split_once('`').map(|(name, _)| name))
        .collect();
    targets.sort_unstable();
    told.sort_unstable();
    assert_eq!(told, targets, "docs/benchmarks.md and bench/src/targets.rs");
}

#[test]
fn the_benchmark_page_has_every_promise_of_the_daemon_too() {
    let files = files();
    let code = text_of(&files, "bench/src/exobench/promises.rs");
    let code = code.split("#[cfg(test)]").next().unwrap_or_default();
    let calls = code.split("within(").skip(1);
    let targets: Vec<&str> = calls.filter_map(|call| call.split('"').nth(1)).collect();
    assert!(targets.len() >= 5, "promises.rs has another form");
    let page = text_of(&files, "docs/benchmarks.md");
    let promises = page
        .split_once("\n### Promises of exobench")
        .map(|(_, rest)| rest);
    let promises = promises.and_then(|rest| rest.split("\n## ").next());
    let rows = promises.unwrap_or_default().lines();
    let rows = rows.filter_map(|line| line.strip_prefix("| `"));
    let told: Vec<&str> = rows
        .filter_map(|row| row.split_once('`').map(|(name, _)| name))
        .collect();
    assert_eq!(told, targets, "docs/benchmarks.md and promises.rs");
}

#[test]
fn the_readme_shows_the_example_as_it_is() {
    let files = files();
    let shown = text_of(&files, "README.md").split_once("```rust\n");
    let shown = shown.and_then(|(_, rest)| rest.split_once("```"));
    let (shown, _) = shown.expect("README.md has a block of Rust");
    assert!(
        shown == text_of(&files, HELLO),
        "README.md does not show {HELLO} as it is: paste the file between ```rust and ```"
    );
}

#[test]
fn the_readme_has_one_command_for_each_of_the_two_things() {
    let files = files();
    let readme = text_of(&files, "README.md");
    for start in ["cargo run --release", "cargo test"] {
        let count = readme
            .lines()
            .filter(|line| line.starts_with(start))
            .count();
        assert_eq!(count, 1, "lines of README.md that begin with {start:?}");
    }
}
