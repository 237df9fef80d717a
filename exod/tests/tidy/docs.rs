//! Rules for pages: links lead somewhere, and what the README shows is what is there.

use std::path::{Component, Path, PathBuf};

use super::tree::{File, files, root};

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
        let found = root().join(&target).exists();
        let other = files.iter().find(|f| f.path == target);
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
    let summary = files.iter().find(|f| f.path == "docs/SUMMARY.md");
    let listed = links(&summary.expect("docs/SUMMARY.md").text);
    let pages = files.iter().filter_map(|f| f.path.strip_prefix("docs/"));
    let pages = pages.filter(|page| page.ends_with(".md") && *page != "SUMMARY.md");
    let unlisted = pages.filter(|page| !listed.iter().any(|link| link == page));
    super::none("not in docs/SUMMARY.md", unlisted.map(str::to_owned));
}

#[test]
fn the_readme_shows_the_example_as_it_is() {
    let files = files();
    let text = |path: &str| {
        let file = files.iter().find(|f| f.path == path);
        file.unwrap_or_else(|| panic!("no {path}")).text.as_str()
    };
    let shown = text("README.md").split_once("```rust\n");
    let shown = shown.and_then(|(_, rest)| rest.split_once("```"));
    let (shown, _) = shown.expect("README.md has a block of Rust");
    assert!(
        shown == text(HELLO),
        "README.md does not show {HELLO} as it is: paste the file between ```rust and ```"
    );
}

#[test]
fn the_readme_has_one_command_for_each_of_the_two_things() {
    let files = files();
    let readme = files.iter().find(|f| f.path == "README.md");
    let readme = &readme.expect("README.md").text;
    for start in ["cargo run --release", "cargo test"] {
        let count = readme
            .lines()
            .filter(|line| line.starts_with(start))
            .count();
        assert_eq!(count, 1, "lines of README.md that begin with {start:?}");
    }
}
