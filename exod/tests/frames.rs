//! Units against holders that try what they must not be able to do, as another user where the
//! tests run as root.

#[path = "common/frames.rs"]
mod common;
#[path = "common/hostile.rs"]
mod hostile;

use common::{Hostile, hugepages, is_root, maker, wait_returned};
use exod::frames::{Error, FRAMES_MAX, Maker, PageKind, Protection, Unit};

/// Hugepages that one of these tests needs at most.
const PAGES: u64 = 12;

/// Not a test: what a [`Hostile`] runs.
#[test]
fn hostile_child() {
    if std::env::var_os(common::ROLE).is_some() {
        hostile::serve();
    }
}

/// The writer of a unit of two frames and a reader, each in a process of its own, both mapped.
fn two_holders(maker: &Maker) -> (Unit, Hostile, Hostile) {
    let unit = maker.make(2, None).expect("a unit");
    let mut writer = Hostile::start(&unit, true);
    let mut reader = Hostile::start(&unit, false);
    writer.expect(&[
        ("map w 200 rw 0f 2f", "ok"),
        ("store w 0f 7", "7"),
        ("store w 1f 8", "8"),
    ]);
    reader.expect(&[
        ("map r 201 ro 0f 2f", "ok"),
        ("load r 0f", "7"),
        ("load r 1f", "8"),
    ]);
    (unit, writer, reader)
}

/// What holds under both protections: nobody gets more from a descriptor than it was given.
fn descriptors_give_no_more_than_they_were_given(holder: &mut Hostile) {
    holder.expect(&[
        ("truncate 201 0", "EINVAL"),
        ("extend 201 0f 1f", "EBADF"),
        ("punch 201 0f 1f", "EBADF"),
        ("map x 201 rw 0f 1f", "EACCES"),
        ("map r 201 ro 0f 2f", "ok"),
        ("make-writable r", "EACCES"),
        ("remove r", "EACCES"),
        ("store r 0f 1", "SIGSEGV"),
        ("seal 200", "EPERM"),
        ("seal 201", "EPERM"),
    ]);
    if !is_root() {
        println!("skipped: reopening, since only root can make a process of another user");
        return;
    }
    for fd in [200, 201] {
        for (command, refused) in [
            ("reopen-writable", "EACCES"),
            ("reopen-readable", "EACCES"),
            ("reopen-truncating", "EACCES"),
            ("truncate-path", "EACCES"),
            ("chmod", "EPERM"),
        ] {
            assert_eq!(
                holder.ask(&format!("{command} {fd} 0")),
                refused,
                "{command} {fd}"
            );
        }
    }
}

#[test]
fn on_a_mount_a_holder_cannot_change_its_length_or_rights() {
    let Some(_turn) = hugepages(PAGES) else {
        return;
    };
    let Some(maker) = maker(PageKind::Huge2M, Protection::Mount) else {
        return;
    };
    let (_unit, mut writer, mut reader) = two_holders(&maker);
    descriptors_give_no_more_than_they_were_given(&mut writer);
    writer.expect(&[
        ("truncate 200 0f", "EACCES"),
        ("truncate 200 1f", "EACCES"),
        ("truncate 200 9f", "EACCES"),
        ("extend 200 0f 3f", "ENOSPC"),
        ("extend-keep-size 200 2f 1f", "ENOSPC"),
        ("map more 200 rw 0f 3f", "ENOMEM"),
        ("map copy 201 private 0f 1f", "ENOMEM"),
    ]);
    reader.expect(&[("load r 0f", "7"), ("load r 1f", "8")]);
}

#[test]
fn on_a_mount_punching_is_writing_zeroes_even_when_the_pool_is_drained() {
    let Some(_turn) = hugepages(PAGES) else {
        return;
    };
    let Some(maker) = maker(PageKind::Huge2M, Protection::Mount) else {
        return;
    };
    let (unit, mut writer, mut reader) = two_holders(&maker);
    let mut hog = Hostile::start(&unit, false);
    // Whatever a hole sets free, the hog tries to take before anybody touches it again.
    for hole in ["punch 200 0f 2f", "remove w"] {
        writer.expect(&[(hole, "ok")]);
        hog.ask("hog");
        reader.expect(&[("load r 0f", "0")]);
        writer.expect(&[("store w 1f 5", "5")]);
        reader.expect(&[("load r 1f", "5")]);
    }
}

#[test]
fn on_a_mount_a_writer_that_moves_its_pages_hurts_its_own_readers_alone() {
    let Some(_turn) = hugepages(PAGES) else {
        return;
    };
    let Some(maker) = maker(PageKind::Huge2M, Protection::Mount) else {
        return;
    };
    let (_other_unit, _other_writer, mut other_reader) = two_holders(&maker);
    let (unit, mut writer, mut reader) = two_holders(&maker);
    // The limit that the module's documentation names.
    writer.expect(&[
        ("punch 200 0f 1f", "ok"),
        ("extend-keep-size 200 2f 1f", "ok"),
        ("extend-keep-size 200 3f 1f", "ENOSPC"),
    ]);
    let met = reader.ask("load r 0f");
    assert!(met == "SIGBUS" || met == "0", "{met}");
    reader.expect(&[("load r 1f", "8")]);
    other_reader.expect(&[("load r 0f", "7"), ("load r 1f", "8")]);
    drop((writer, reader));
    wait_returned(&mut unit.revoke());
}

#[test]
fn on_a_mount_revoking_is_final_and_returned_waits_for_the_last_holder() {
    let Some(_turn) = hugepages(PAGES) else {
        return;
    };
    let Some(maker) = maker(PageKind::Huge2M, Protection::Mount) else {
        return;
    };
    let (unit, mut writer, mut reader) = two_holders(&maker);
    let mut revoked = unit.revoke();
    reader.expect(&[("load r 0f", "SIGBUS"), ("load r 1f", "SIGBUS")]);
    writer.expect(&[("load w 0f", "SIGBUS"), ("store w 1f 1", "SIGBUS")]);
    assert!(!revoked.returned().expect("told"), "two still hold it");
    writer.expect(&[
        ("map again 200 rw 0f 1f", "ENOMEM"),
        ("extend 200 0f 1f", "ENOSPC"),
        ("extend-keep-size 200 5f 1f", "ENOSPC"),
        ("map again 200 rw-noreserve 0f 2f", "ok"),
        ("load again 0f", "SIGBUS"),
        ("store w 0f 1", "SIGBUS"),
    ]);
    drop(writer);
    assert!(
        !revoked.returned().expect("told"),
        "the reader still maps it"
    );
    reader.expect(&[("close 201", "ok")]);
    assert!(!revoked.returned().expect("told"), "a mapping holds it too");
    reader.expect(&[("unmap r", "ok")]);
    wait_returned(&mut revoked);
    assert!(revoked.returned().expect("told"), "once true, always true");
}

#[test]
fn on_a_mount_a_holder_that_took_pages_back_in_time_loses_them_all_the_same() {
    let Some(_turn) = hugepages(PAGES) else {
        return;
    };
    let Some(maker) = maker(PageKind::Huge2M, Protection::Mount) else {
        return;
    };
    let (unit, mut writer, _reader) = two_holders(&maker);
    let mut revoked = unit.revoke();
    // Between revoking and the first asking: mapping past the end extends the file.
    writer.expect(&[
        ("map again 200 rw 0f 1f", "ok"),
        ("store again 0f 3", "3"),
        ("extend-keep-size 200 7f 1f", "ok"),
    ]);
    assert!(!revoked.returned().expect("told"), "two still hold it");
    writer.expect(&[
        ("load again 0f", "SIGBUS"),
        ("load w 0f", "SIGBUS"),
        ("extend-keep-size 200 8f 1f", "ENOSPC"),
    ]);
}

#[test]
fn on_a_mount_a_holder_that_races_for_pages_ends_with_none() {
    let Some(_turn) = hugepages(PAGES) else {
        return;
    };
    let Some(maker) = maker(PageKind::Huge2M, Protection::Mount) else {
        return;
    };
    let (unit, mut writer, reader) = two_holders(&maker);
    writer.expect(&[("race", "ok")]);
    let mut revoked = unit.revoke();
    for _ in 0..200 {
        assert!(!revoked.returned().expect("told"), "two still hold it");
    }
    writer.expect(&[("rest", "ok")]);
    assert!(!revoked.returned().expect("told"), "two still hold it");
    writer.expect(&[
        ("extend-keep-size 200 70f 1f", "ENOSPC"),
        ("load w 0f", "SIGBUS"),
    ]);
    drop((writer, reader));
    wait_returned(&mut revoked);
}

/// Pins a page by `how`, lets go of all else, and says whether the pin was to be had.
fn pinned_pages_are_not_returned(how: &str) {
    let Some(_turn) = hugepages(PAGES) else {
        return;
    };
    let Some(maker) = maker(PageKind::Huge2M, Protection::Mount) else {
        return;
    };
    let (unit, mut writer, reader) = two_holders(&maker);
    drop(reader);
    let met = writer.ask(&format!("{how} w"));
    if met != "ok" {
        println!("skipped: {how}: {met}");
        return;
    }
    let mut revoked = unit.revoke();
    writer.expect(&[
        ("load w 0f", "SIGBUS"),
        ("unmap w", "ok"),
        ("close 200", "ok"),
        ("close 201", "ok"),
    ]);
    for _ in 0..20 {
        assert!(!revoked.returned().expect("told"), "a page is still pinned");
    }
    drop(writer);
    wait_returned(&mut revoked);
}

#[test]
fn on_a_mount_a_page_in_a_pipe_is_not_returned_until_its_holder_dies() {
    pinned_pages_are_not_returned("pin-pipe");
}

#[test]
fn on_a_mount_a_page_in_an_io_uring_is_not_returned_until_its_holder_dies() {
    pinned_pages_are_not_returned("pin-uring");
}

/// The hostile set against seals.
fn sealed_units_keep_their_length(kind: PageKind) {
    let Some(maker) = maker(kind, Protection::Seals) else {
        return;
    };
    let (unit, mut writer, mut reader) = two_holders(&maker);
    assert_eq!(unit.protection(), Protection::Seals);
    descriptors_give_no_more_than_they_were_given(&mut writer);
    writer.expect(&[
        ("truncate 200 0f", "EPERM"),
        ("truncate 200 1f", "EPERM"),
        ("truncate 200 9f", "EPERM"),
        ("extend 200 0f 3f", "EPERM"),
        ("extend-keep-size 200 2f 1f", "EPERM"),
    ]);
    reader.expect(&[("load r 0f", "7"), ("load r 1f", "8")]);
    writer.expect(&[("punch 200 0f 1f", "ok")]);
    reader.expect(&[("load r 0f", "0"), ("load r 1f", "8")]);
    writer.expect(&[("store w 0f 9", "9"), ("remove w", "ok")]);
    reader.expect(&[("load r 0f", "0"), ("load r 1f", "0")]);

    writer.expect(&[("store w 0f 9", "9")]);
    let mut revoked = unit.revoke();
    reader.expect(&[("load r 0f", "0")]);
    // What seals do not promise: a page again, for as long as it is held.
    writer.expect(&[("store w 0f 9", "9")]);
    assert!(!revoked.returned().expect("told"), "two still hold it");
    reader.expect(&[("load r 0f", "0")]);
    drop(writer);
    assert!(
        !revoked.returned().expect("told"),
        "the reader still holds it"
    );
    reader.expect(&[("unmap r", "ok"), ("close 201", "ok")]);
    wait_returned(&mut revoked);
}

#[test]
fn sealed_small_pages_keep_their_length() {
    sealed_units_keep_their_length(PageKind::Small4K);
}

#[test]
fn sealed_hugepages_keep_their_length() {
    let Some(_turn) = hugepages(PAGES) else {
        return;
    };
    sealed_units_keep_their_length(PageKind::Huge2M);
}

#[test]
fn sealed_small_pages_end_where_they_end() {
    let Some(maker) = maker(PageKind::Small4K, Protection::Seals) else {
        return;
    };
    let (_unit, mut writer, _reader) = two_holders(&maker);
    writer.expect(&[
        ("map more 200 rw 0f 3f", "ok"),
        ("load more 1f", "8"),
        ("load more 2f", "SIGBUS"),
    ]);
}

#[test]
fn sizes_and_kinds_that_cannot_be_are_refused() {
    let Some(maker) = maker(PageKind::Small4K, Protection::Seals) else {
        return;
    };
    for frames in [0, FRAMES_MAX + 1, u32::MAX] {
        let refused = maker.make(frames, None).map(|_| ());
        assert!(
            matches!(refused, Err(Error::Size(n)) if n == frames),
            "{refused:?}"
        );
    }
    let refused = maker.make(1, Some(PageKind::Huge2M)).map(|_| ());
    assert!(matches!(refused, Err(Error::NoPages { .. })), "{refused:?}");
}
