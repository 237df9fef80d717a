//! exod as a service: what its manager hands over and is told, reloads, and an exod with nothing to
//! do. The manager is this test; a real one is in the guest.

#[path = "common/client.rs"]
mod client;
#[path = "common/manager.rs"]
mod manager;

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use client::Client;
use libexo::abi::wire::{ErrorCode, Op, StatsPage};
use manager::{Service, exod, seqpacket};
use nix::sys::signal::Signal;

/// How long an idle exod is watched.
const IDLE: Duration = Duration::from_secs(3);

/// What an exod may take: the program, its table's and its threads' touched pages.
const RESIDENT_MAX_KIB: u64 = 16 << 10;

const STOCK: &str = "[pool]\npages = \"4K\"\nready = [{ frames = 1, units = 24 }]\n";

fn switches(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    let of = |task: std::io::Result<std::fs::DirEntry>| {
        let status = task.expect("a thread").path().join("status");
        manager::field(&status, "voluntary_ctxt_switches:")
    };
    tasks.map(of).sum()
}

/// The same, once all threads have gone to sleep after their last work.
fn settled(pid: u32) -> u64 {
    let mut before = switches(pid);
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let now = switches(pid);
        if std::mem::replace(&mut before, now) == now {
            return now;
        }
    }
}

#[test]
fn ready_comes_before_the_stock_and_an_idle_exod_sleeps() {
    let service = Service::start(STOCK);
    // The stock is made afterwards: readiness does not know it yet.
    let ready = service.hear("READY=1");
    assert!(ready.contains(" of 24 units ready"), "{ready}");
    while service.hear("STATUS=").contains("units ready") {}
    let pid = service.child.id();
    let before = settled(pid);
    std::thread::sleep(IDLE);
    assert_eq!(switches(pid) - before, 0, "it was woken");
    let status = format!("/proc/{pid}/status");
    let resident = manager::field(Path::new(&status), "VmRSS:");
    assert!(resident < RESIDENT_MAX_KIB, "{resident} KiB");
    service.stop();
}

#[test]
fn the_loop_itself_pings_the_watchdog() {
    let service = Service::started_with(STOCK, |exod| {
        exod.env("WATCHDOG_USEC", "100000");
    });
    service.hear("READY=1");
    for _ in 0..3 {
        service.hear("WATCHDOG=1");
    }
    // With no work but the pings it wakes for nothing else.
    while service.try_hear(Duration::ZERO).is_some() {}
    let before = switches(service.child.id());
    let mut pings = 0;
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        pings += u64::from(service.try_hear(Duration::from_millis(20)).is_some());
    }
    let woken = switches(service.child.id()) - before;
    assert!(
        pings > 0 && woken <= 2 * pings + 2,
        "{woken} for {pings} pings"
    );
    service.stop();
}

#[test]
fn a_reload_changes_what_may_change_and_touches_nobody() {
    let uid = rustix::process::geteuid().as_raw();
    let config = |frames: u32, more: &str| {
        format!(
            "{more}\n[pool]\npages = \"4K\"\nframes = {frames}\n\
             [[rule]]\nuser = {uid}\nmax_frames = {frames}\nadmin = true\n"
        )
    };
    let service = Service::start(&config(4, ""));
    service.hear("READY=1");
    let mut old = Client::at(&service.socket()).expect("a connection");
    old.hello();
    let (unit, _fd) = old.alloc(4);
    assert_eq!(
        old.refused(Op::AllocUnit, 0, [1, 0, 0, 0, 0, 0]),
        Some(ErrorCode::Quota)
    );

    service.reload(&config(6, "workers = 3\ngive_back_ms = 7"));
    assert!(service.hear("RELOADING=1").contains("MONOTONIC_USEC="));
    assert!(service.hear("READY=1").contains("Serving 6 frames"));
    // A session keeps the grant that it came with, and what it has.
    assert_eq!(
        old.refused(Op::AllocUnit, 0, [1, 0, 0, 0, 0, 0]),
        Some(ErrorCode::Quota)
    );
    old.ok(Op::Inspect, unit, [0; 6]);
    let mut new = Client::at(&service.socket()).expect("a connection");
    new.hello();
    new.alloc(2);
    assert_eq!(
        new.refused(Op::AllocUnit, 0, [1, 0, 0, 0, 0, 0]),
        Some(ErrorCode::Quota)
    );

    service.reload("workers = 3\n[pool]\nframes = \"many\"\n");
    let refused = service.hear("READY=1");
    assert!(refused.contains("exod.toml:3: "), "{refused}");
    assert!(refused.contains("the old one stays"), "{refused}");
    old.ok(Op::Inspect, unit, [0; 6]);
    assert_eq!(new.stats(StatsPage::Work)[0], 2, "both sessions");

    // Smaller than what is granted: what is granted stays.
    service.reload(&config(1, ""));
    let mended = service.hear("READY=1");
    assert!(!mended.contains("refused"), "{mended}");
    old.ok(Op::Inspect, unit, [0; 6]);
    assert_eq!(
        new.refused(Op::AllocUnit, 0, [1, 0, 0, 0, 0, 0]),
        Some(ErrorCode::Quota)
    );
    drop((old, new));
    let log = service.stop();
    assert!(
        log.contains("keep their values until") && log.contains("workers"),
        "{log}"
    );
    assert!(log.contains("the configuration is refused"), "{log}");
    assert!(log.contains("line 3"), "{log}");
}

#[test]
fn signals_in_a_burst_end_with_the_last_file() {
    let service = Service::start("[pool]\npages = \"4K\"\nframes = 1\n");
    service.hear("READY=1");
    for frames in 2..=40 {
        service.reload(&format!("[pool]\npages = \"4K\"\nframes = {frames}\n"));
    }
    while !service.hear("READY=1").contains("Serving 40 frames") {}
    service.stop();
}

#[test]
fn the_managers_socket_is_served_and_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("given.sock");
    let socket = seqpacket(&path, true);
    // A client that came before exod, as the first one does.
    let mut early = Client::at(&path).expect("a connection");
    let service = Service::activated(
        socket,
        "1",
        "[pool]\npages = \"4K\"\n[[rule]]\nany = true\n",
    );
    early.hello();
    early.ok(Op::Ping, 0, [0; 6]);
    assert!(!service.socket().exists(), "it opened none of its own");
    drop(early);
    let log = service.stop();
    assert!(log.contains("given.sock"), "{log}");
    assert!(path.exists(), "the file is the manager's");
}

#[test]
fn a_manager_that_lies_is_told_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    let stream = || OwnedFd::from(UnixListener::bind(at("stream")).expect("a socket"));
    let pair = || OwnedFd::from(UnixStream::pair().expect("a pair").0);
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    let cases: [(OwnedFd, &str, &str); 6] = [
        (seqpacket(&at("a"), true), "2", "LISTEN_FDS"),
        (seqpacket(&at("b"), true), "many", "LISTEN_FDS"),
        (seqpacket(&at("c"), false), "1", "Accept=no"),
        (stream(), "1", "ListenSequentialPacket="),
        (pair(), "1", "SOCK_SEQPACKET"),
        (tcp.into(), "1", "no Unix socket"),
    ];
    for (socket, count, hint) in cases {
        let refused = Service::activated(socket, count, "[pool]\npages = \"4K\"\n");
        let (code, log) = refused.end();
        assert_eq!(code, Some(1), "{hint}: {log}");
        assert!(log.contains(hint), "{hint}: {log}");
    }
    let open = seqpacket(&at("open"), true);
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(at("open"), everybody).expect("its mode");
    let (code, log) = Service::activated(open, "1", "").end();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("SocketMode=0660"), "{log}");
}

#[test]
fn what_an_earlier_exod_left_with_the_manager_is_closed() {
    let null = std::fs::File::open("/dev/null").expect("a file");
    let service = Service::activated(null.into(), "1", "[pool]\npages = \"4K\"\n");
    service.hear("READY=1");
    assert!(service.socket().exists(), "it opened its own");
    let log = service.stop();
    assert!(
        log.contains("a descriptor kept by the service manager"),
        "{log}"
    );
}

#[test]
fn without_the_right_to_hugepages_exod_says_so_and_serves() {
    let root = rustix::process::geteuid().is_root();
    let config = "[pool]\nraise_hugepages = 4194304\n[[rule]]\nany = true\nmax_frames = 1\n";
    let service = Service::started_with(config, |exod| {
        if root {
            manager::as_nobody(exod);
        }
    });
    service.hear("READY=1");
    service.hear("hugepages could not be raised");
    let mut client = Client::at(&service.socket()).expect("a connection");
    client.hello();
    client.alloc(1);
    drop(client);
    let log = service.stop();
    assert!(log.contains("goes on with"), "{log}");
}

/// Root only, and where there is memory: adds to the kernel's pool, and is killed.
#[test]
fn a_killed_exod_leaves_a_record_that_puts_hugepages_back() {
    let pool = Path::new("/proc/sys/vm/nr_hugepages");
    let count = || std::fs::read_to_string(pool).map(|text| text.trim().to_owned());
    let Ok(before) = count() else {
        println!("skipped: this kernel has no hugepages");
        return;
    };
    if !rustix::process::geteuid().is_root() {
        println!("skipped: raising hugepages takes root");
        return;
    }
    // More than are free by three.
    let free = exod::frames::Hugepages::free() + 3;
    let config = format!(
        "[pool]\nraise_hugepages = {free}\nframes = {free}\nready = []\n\
         [[rule]]\nany = true\nmax_frames = {free}\nmax_capabilities = {free}\n"
    );
    let mut service = Service::start(&config);
    service.hear("READY=1");
    // Everything that shall be there can be had, whether or not it was there when exod was ready.
    let mut client = Client::at(&service.socket()).expect("a connection");
    client.hello();
    let units: Vec<_> = (0..free).map(|_| client.alloc(1)).collect();
    assert_ne!(count().ok(), Some(before.clone()), "it was raised");
    service.kill(Signal::SIGKILL);
    drop((units, client));
    assert!(service.records().join("hugepages").exists());
    let put_back = exod()
        .arg("--put-back")
        .env("RUNTIME_DIRECTORY", service.records())
        .output()
        .expect("exod");
    assert!(put_back.status.success(), "{put_back:?}");
    assert_eq!(count().ok(), Some(before));
    assert!(!service.records().join("hugepages").exists());
}
