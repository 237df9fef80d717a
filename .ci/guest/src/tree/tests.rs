//! Trees: links on the way, archives read, and the exact bytes that the kernel gets.

use super::*;

fn archive(members: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, kind, data) in members {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o4751);
        header.set_uid(7);
        header.set_gid(9);
        header.set_size(0);
        let linked = matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link);
        let data = if linked {
            archive
                .append_link(&mut header, path, data)
                .expect("in memory");
            continue;
        } else {
            data.as_bytes()
        };
        header.set_size(data.len() as u64);
        archive
            .append_data(&mut header, path, data)
            .expect("in memory");
    }
    archive.into_inner().expect("in memory")
}

fn cpio(tree: &Tree) -> Vec<u8> {
    let mut bytes = Vec::new();
    tree.write_cpio(&mut bytes).expect("in memory");
    bytes
}

#[test]
fn members_follow_links_of_the_tree() {
    let mut tree = Tree::default();
    tree.symlink("lib", "usr/lib");
    tree.symlink("usr/lib/deep", "../../lib/other");
    tree.file("lib/deep/file", 0o644, b"x");
    let paths: Vec<&str> = tree.nodes.keys().map(String::as_str).collect();
    let expected = [
        "lib",
        "usr",
        "usr/lib",
        "usr/lib/deep",
        "usr/lib/other",
        "usr/lib/other/file",
    ];
    assert_eq!(paths, expected);
    assert_eq!(tree.read("lib/deep/file"), Some(&b"x"[..]));
}

#[test]
fn links_in_a_circle_end() {
    let mut tree = Tree::default();
    tree.symlink("a", "b");
    tree.symlink("b", "a");
    assert_eq!(tree.read("a/x"), None);
    assert_eq!(tree.read("a"), None);
}

#[test]
fn archives_keep_owners_modes_and_links() {
    let bytes = archive(&[
        ("./lib/", tar::EntryType::Directory, ""),
        ("./lib/one", tar::EntryType::Regular, "data"),
        ("./lib/two", tar::EntryType::Link, "./lib/one"),
        ("./lib/three", tar::EntryType::Symlink, "one"),
        ("./usr/share/doc/x", tar::EntryType::Regular, "long"),
    ]);
    let mut tree = Tree::default();
    tree.symlink("lib", "usr/lib");
    let keep = |path: &str| !path.starts_with("usr/share/doc/");
    let paths = tree.unpack(&bytes[..], keep).expect("a good archive");
    assert_eq!(paths.len(), 5);
    assert_eq!(tree.read("usr/lib/three"), Some(&b"data"[..]));
    let two = &tree.nodes["usr/lib/two"];
    assert_eq!((two.mode, two.uid, two.gid), (REGULAR | 0o4751, 7, 9));
    assert!(
        tree.nodes["lib"].is(SYMLINK),
        "a directory became of the link"
    );
    assert!(!tree.nodes.contains_key("usr/share/doc/x"));
}

#[test]
fn a_hard_link_to_nothing_is_an_error() {
    let bytes = archive(&[("two", tar::EntryType::Link, "one")]);
    let error = Tree::default().unpack(&bytes[..], |_| true);
    assert!(error.expect_err("no target").to_string().contains("one"));
}

#[test]
fn the_archive_is_padded_and_ends_with_a_trailer() {
    let mut tree = Tree::default();
    tree.device("dev/console", 0o600, 5, 1);
    tree.file("init", 0o755, b"12345");
    let bytes = cpio(&tree);
    assert_eq!(bytes.len() % 4, 0);
    let text = String::from_utf8_lossy(&bytes);
    let headers: Vec<&str> = text.split("070701").skip(1).collect();
    assert_eq!(headers.len(), 4, "dev, dev/console, init, the trailer");
    let fields = [3, 0o100_755, 0, 0, 1, 0, 5, 0, 0, 0, 0, 5, 0];
    let fields: String = fields.map(|field| format!("{field:08x}")).concat();
    assert_eq!(headers[2], fields + "init\0\0" + "12345\0\0\0");
    assert!(headers[1].contains("0000000500000001"), "{:?}", headers[1]);
    assert!(headers[3].contains("TRAILER!!!"));
}
