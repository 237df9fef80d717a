//! The file alone: what is mended, set aside, refused.

use super::*;
use std::os::unix::fs::{PermissionsExt, symlink};

fn config(dir: &Path) -> AuditConfig {
    AuditConfig {
        path: dir.join("trail"),
        group: None,
        bytes_max: 1000,
        kept: 2,
    }
}

fn line(seq: u64) -> Vec<u8> {
    format!("{{\"seq\":{seq},\"event\":\"test\"}}\n").into_bytes()
}

fn opened(dir: &Path) -> (AuditFile, u64, u64) {
    AuditFile::open(config(dir)).expect("it can be had")
}

#[test]
fn numbers_go_on_and_a_torn_line_goes() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = config(dir.path()).path;
    let (mut file, last, next) = opened(dir.path());
    assert_eq!((last, next), (0, 1));
    file.append(&[line(1), line(2)].concat()).expect("written");
    drop(file);
    assert_eq!(opened(dir.path()).1, 2);
    let whole = fs::read(&path).expect("the file");
    for torn in ["{\"seq\":3,\"ev", "\0\0\0\0", "\u{1b}"] {
        let more = [whole.as_slice(), torn.as_bytes()].concat();
        fs::write(&path, more).expect("written");
        let (_, last, next) = opened(dir.path());
        assert_eq!((last, next), (2, 4), "the torn line had a number");
        assert_eq!(fs::read(&path).expect("the file"), whole);
    }
    // Whole lines that are none are left alone, and the number before them counts.
    let more = [whole.as_slice(), b"nonsense\n{}\n\n"].concat();
    fs::write(&path, &more).expect("written");
    assert_eq!(opened(dir.path()).1, 2);
    assert_eq!(fs::read(&path).expect("the file"), more);
}

#[test]
fn a_full_file_is_set_aside_and_so_many_are_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut file, ..) = opened(dir.path());
    for seq in 1..=200 {
        file.append(&line(seq)).expect("written");
    }
    drop(file);
    let mut names: Vec<_> = fs::read_dir(dir.path())
        .expect("it")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("text")
        })
        .collect();
    names.sort();
    assert_eq!(names, ["trail", "trail.1", "trail.2"]);
    let mut seqs = Vec::new();
    for name in ["trail.2", "trail.1", "trail"] {
        let text = fs::read(dir.path().join(name)).expect("the file");
        assert!(text.len() <= 1000);
        seqs.extend(
            text.split(|b| *b == b'\n')
                .filter_map(crate::audit::line::seq_of),
        );
    }
    let first = seqs[0];
    assert!(seqs.iter().copied().eq(first..=200), "{seqs:?}");
    // Numbers go on also where the newest file has none yet.
    let before = last_seq_of(&dir.path().join("trail.1"));
    fs::remove_file(dir.path().join("trail")).expect("it was there");
    assert_eq!(Some(opened(dir.path()).1), before);
}

#[test]
fn a_file_that_was_moved_away_is_made_anew() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = config(dir.path()).path;
    let (mut file, ..) = opened(dir.path());
    file.append(&line(1)).expect("written");
    fs::rename(&path, dir.path().join("elsewhere")).expect("moved");
    file.append(&line(2)).expect("written");
    assert_eq!(fs::read(&path).expect("the file"), line(2));
    let mode = fs::metadata(&path).expect("the file").permissions().mode();
    assert_eq!(mode & 0o137, 0, "{mode:o}: not for others");
}

#[test]
fn what_is_no_file_or_another_exods_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let refusal = |config: AuditConfig| match AuditFile::open(config) {
        Ok(_) => panic!("it was opened"),
        Err(error) => error.to_string(),
    };
    let at = |path: PathBuf| AuditConfig {
        path,
        ..config(dir.path())
    };
    let first = opened(dir.path());
    assert!(refusal(config(dir.path())).contains("another exod writes"));
    drop(first);
    let link = dir.path().join("link");
    symlink(dir.path().join("trail"), &link).expect("a link");
    assert!(refusal(at(link)).contains("it is a link"));
    assert!(refusal(at(dir.path().to_owned())).contains("cannot open"));
    let pipe = dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    assert!(refusal(at(pipe)).contains("is not a file"));
    assert!(refusal(at("/nonexistent/a/b".into())).contains("make its directory"));
}
