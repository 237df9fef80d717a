//! What is refused, and that a refusal changes nothing, over plain files that read as a kernel's.
//! What the kernel makes of it is tested on real ones, in the guest.

use std::fs;
use std::path::Path;

use super::*;

/// A hierarchy with exod in it, and these controllers.
fn hierarchy(own: &str, controllers: &str) -> (tempfile::TempDir, Place) {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path();
    fs::create_dir_all(root.join(own)).expect("a cgroup");
    for cgroup in Path::new(own).ancestors() {
        fs::write(root.join(cgroup).join("cgroup.subtree_control"), "cpuset\n").expect("written");
    }
    let me = std::process::id().to_string();
    fs::write(root.join(own).join("cgroup.procs"), me).expect("written");
    fs::write(root.join("cgroup.controllers"), controllers).expect("written");
    fs::write(root.join("cpuset.cpus.effective"), "0-3\n").expect("written");
    let place = Place::new(root, &format!("4:cpu:/\n0::/{own}\n")).expect("cgroup v2");
    (dir, place)
}

fn wanted(cores: &str) -> MachineConfig {
    MachineConfig {
        cores: Cores::parse(cores).expect("a list"),
        hugepages_max: Some(FrameCount(4)),
    }
}

/// All files of a hierarchy and what they say.
fn text_of(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            all.push((path.clone(), String::new()));
            all.extend(text_of(&path));
        } else {
            let text = fs::read_to_string(&path).expect("a file");
            all.push((path, text.trim_end().to_owned()));
        }
    }
    all.sort();
    all
}

#[test]
fn each_refusal_has_its_reason_and_changes_nothing() {
    let exod = "exo.slice/exod.service";
    let cases = [
        (
            exod,
            "cpuset memory",
            "2",
            "no hugetlb controller",
            "Linux 6.7",
        ),
        (exod, "hugetlb", "2", "cannot read", "no cpuset controller"),
        (
            exod,
            "cpuset",
            "3-4",
            "no hugetlb",
            "core 4 cannot be had: exod's machine has 0-3",
        ),
        (exod, "cpuset", "0-3", "no hugetlb", "leave at least one"),
        (
            "exod.service",
            "cpuset",
            "2",
            "cgroup of its own",
            "cgroup of its own",
        ),
        (
            "system.slice/exod.service",
            "cpuset hugetlb",
            "2",
            "others are too",
            "Slice=exo.slice",
        ),
    ];
    for (own, controllers, cores, pages_hint, cores_hint) in cases {
        let (dir, place) = hierarchy(own, controllers);
        let before = text_of(dir.path());
        let reservation = reserve(&wanted(cores), &place, None);
        assert!(reservation.has.is_empty(), "{:?}", reservation.has);
        let [pages, cores] = &reservation.lacks[..] else {
            panic!("{:?}", reservation.lacks);
        };
        assert!(pages.contains(pages_hint), "{pages}");
        assert!(cores.contains(cores_hint), "{cores}");
        drop(reservation);
        // Plain files keep the last word that was written, where the kernel would forget it.
        let after = text_of(dir.path());
        let kept = |all: &[(PathBuf, String)]| -> Vec<PathBuf> {
            all.iter().map(|(path, _)| path.clone()).collect()
        };
        assert_eq!(kept(&before), kept(&after));
    }
}

#[test]
fn an_exod_among_others_changes_nothing_of_theirs() {
    let (dir, place) = hierarchy("user.slice/shell.scope", "cpuset hugetlb");
    let procs = dir.path().join("user.slice/shell.scope/cgroup.procs");
    fs::write(&procs, format!("{}\n1\n", std::process::id())).expect("written");
    let before = text_of(dir.path());
    let reservation = reserve(&wanted("2"), &place, None);
    assert_eq!(reservation.lacks.len(), 2, "{:?}", reservation.lacks);
    drop(reservation);
    assert_eq!(text_of(dir.path()), before);
}

#[test]
fn without_cgroup_v2_it_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let none = Place::new(dir.path(), "3:cpu:/\n").expect_err("no cgroup v2");
    let nothing = Reservation::nothing(&none);
    assert!(nothing.lacks[0].contains("unified_cgroup_hierarchy=1"));
}

#[test]
fn what_is_changed_is_put_back_also_by_its_record() {
    let exod = "exo.slice/exod.service";
    let (dir, place) = hierarchy(exod, "cpuset hugetlb");
    let record = dir.path().join("record");
    let limits = ["hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"].map(|f| place.slice().join(f));
    for limit in &limits {
        fs::write(limit, "max\n").expect("written");
    }
    let machine = MachineConfig {
        hugepages_max: Some(FrameCount(4)),
        ..MachineConfig::default()
    };
    for killed in [false, true] {
        let reservation = reserve(&machine, &place, Some(record.clone()));
        assert_eq!(reservation.has, ["/exo.slice takes at most 4 hugepages"]);
        assert_eq!(fs::read_to_string(&limits[0]).expect("a limit"), "8388608");
        assert!(record.exists());
        if killed {
            std::mem::forget(reservation);
            let left = Changes::left_behind(&record).expect("a record");
            assert_eq!(left.len(), 3);
            drop(left);
        } else {
            drop(reservation);
        }
        for limit in &limits {
            assert_eq!(fs::read_to_string(limit).expect("a limit"), "max\n");
        }
        let root = fs::read_to_string(dir.path().join("cgroup.subtree_control"));
        assert_eq!(root.expect("controllers"), "-hugetlb");
        assert!(!record.exists());
        fs::write(dir.path().join("cgroup.subtree_control"), "cpuset\n").expect("written");
    }
}
