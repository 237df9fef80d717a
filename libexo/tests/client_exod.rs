//! The client against a real exod, embedded: sessions, units, ports, and memory that is taken back.

use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use exod::config::Config;
use exod::embedded::Embedded;
use libexo::abi::port::{Layout, PortFlags};
use libexo::abi::status::Status;
use libexo::abi::wire::{ErrorCode, ObjectKind, PageKind, PortName, Protection, Rights};
use libexo::client::{Call, UnitGrant};
use libexo::{Client, Error, guard};
use memmap2::{MmapOptions, MmapRaw};

const RING_LOG2: u32 = 6;

/// Longest wait for something that exod does by itself.
const SOON: Duration = Duration::from_secs(20);

/// An exod that takes back what it asked for without much patience.
fn exod() -> Embedded {
    let config = Config {
        give_back_ms: 50,
        ..Config::embedded()
    };
    Embedded::start(config).expect("an exod in this process")
}

fn connect(exod: &Embedded) -> Client {
    Client::over(exod.connect().expect("a socket")).expect("a session")
}

fn name(name: &str) -> PortName {
    PortName::new(name).expect("a good name")
}

fn map(fd: &OwnedFd, bytes: usize, write: bool) -> MmapRaw {
    let mut options = MmapOptions::new();
    let options = options.len(bytes);
    match write {
        true => options.map_raw(fd),
        false => options.map_raw_read_only(fd),
    }
    .expect("a mapping")
}

fn load(map: &MmapRaw, offset: usize) -> u8 {
    assert!(offset < map.len());
    // SAFETY: in the mapping.
    unsafe { map.as_ptr().add(offset).read_volatile() }
}

fn store(map: &MmapRaw, offset: usize, value: u8) {
    assert!(offset < map.len());
    // SAFETY: in the mapping.
    unsafe { map.as_mut_ptr().add(offset).write_volatile(value) }
}

/// Waits for a status, from events alone.
fn until(client: &Client, handle: u64, wanted: Status) {
    while !client.status(handle).contains(wanted) {
        assert!(
            client.wait_event(Some(SOON)).expect("a session"),
            "no {wanted:?}"
        );
    }
}

fn ring(bell: &OwnedFd) {
    rustix::io::write(bell, &1u64.to_ne_bytes()).expect("room for a ring");
}

fn heard(bell: &OwnedFd) -> bool {
    rustix::io::read(bell, &mut [0; 8]).is_ok()
}

#[test]
fn a_unit_is_granted_listed_and_given_back() {
    let exod = exod();
    let client = connect(&exod);
    let info = client.session();
    assert_eq!(info.page_kind, exod.offer().page_kind);
    let UnitGrant {
        handle,
        bytes,
        page_kind,
        fd,
        ..
    } = client.alloc_unit(2, None).expect("two frames");
    assert_eq!((bytes, page_kind), (2 * info.frame_bytes, info.page_kind));
    let memory = map(&fd, bytes, true);
    assert_eq!(
        (load(&memory, 0), load(&memory, bytes - 1)),
        (0, 0),
        "cleared"
    );
    store(&memory, bytes - 1, 7);
    assert_eq!(load(&memory, bytes - 1), 7);

    let unit = client.inspect(handle).expect("our own");
    assert_eq!((unit.kind, unit.size), (ObjectKind::Unit, bytes as u64));
    assert!(unit.rights.contains(Rights::READ | Rights::WRITE));
    assert_eq!(client.status(handle), Status::LIVE);
    let kept = client.status_word(handle).expect("in the table");
    let more = client.alloc_unit(1, Some(info.page_kind)).expect("a frame");
    let listed: Vec<_> = client
        .list()
        .map(|found| found.expect("a list").handle)
        .collect();
    assert_eq!(listed.len(), 2);
    assert!(listed.contains(&handle) && listed.contains(&more.handle));

    // What is listed can be dropped while it is listed.
    for found in client.list() {
        client
            .drop_handle(found.expect("a list").handle)
            .expect("given back");
    }
    assert_eq!(
        (client.status(handle), kept.load()),
        (Status::empty(), Status::empty())
    );
    assert_eq!(client.list().count(), 0);
    let error = client.drop_handle(handle).expect_err("stale");
    assert_eq!(error.code(), Some(ErrorCode::NoSuchHandle), "{error}");
}

#[test]
fn many_requests_in_flight_are_answered_in_order() {
    let exod = exod();
    let client = connect(&exod);
    let pings: Result<Vec<_>, _> = (0..200).map(|_| client.submit(Call::ping())).collect();
    let unit = client.submit(Call::alloc_unit(1, Some(PageKind::Small4K)));
    let unit = unit
        .expect("sent")
        .wait()
        .expect("small pages are everywhere");
    assert_eq!(unit.page_kind, PageKind::Small4K);
    for ping in pings.expect("all sent") {
        ping.wait().expect("an answer");
    }
}

#[test]
fn refusals_tell_why() {
    let exod = exod();
    let client = connect(&exod);
    let unit = client.alloc_unit(1, None).expect("a frame").handle;
    let none = PortFlags::empty();
    let code = |error: Error| error.code().expect("a refusal");
    assert_eq!(
        code(client.inspect(1 << 40).expect_err("guessed")),
        ErrorCode::NoSuchHandle
    );
    assert_eq!(
        code(client.port_peer(unit).expect_err("a unit")),
        ErrorCode::WrongKind
    );
    assert_eq!(
        code(client.alloc_unit(0, None).expect_err("nothing")),
        ErrorCode::Malformed
    );
    let nobody = client.port_join(&name("nobody"), unit, none);
    assert_eq!(code(nobody.expect_err("no such port")), ErrorCode::NotFound);
    let rings = client.port_create(&name("rings"), unit, 99, none);
    assert_eq!(code(rings.expect_err("too large")), ErrorCode::Malformed);
    // A refusal costs nothing: the session goes on.
    client.ping().expect("an answer");
}

#[test]
fn a_port_is_made_used_and_left() {
    let exod = exod();
    let (alice, bob) = (connect(&exod), connect(&exod));
    let demo = name("demo");
    let own = alice.alloc_unit(1, None).expect("a frame");
    let made = alice.port_create(&demo, own.handle, RING_LOG2, PortFlags::SHARE);
    let made = made.expect("a port");
    assert!(
        alice.port_peer(made.handle).expect("an answer").is_none(),
        "nobody yet"
    );
    let memory = map(&own.fd, own.bytes, true);
    let at = Layout::new(RING_LOG2).packets;
    store(&memory, at, 42);

    let his = bob.alloc_unit(1, None).expect("a frame");
    let joined = bob
        .port_join(&demo, his.handle, PortFlags::empty())
        .expect("a port");
    let seen = &joined.peer;
    assert_eq!(
        (seen.ring_log2, seen.bytes, seen.side),
        (RING_LOG2, own.bytes, 1)
    );
    assert_eq!(
        (seen.flags, seen.page_kind),
        (PortFlags::SHARE, own.page_kind)
    );
    assert_eq!(load(&map(&seen.fd, seen.bytes, false), at), 42);
    let rights = bob.inspect(seen.unit_handle).expect("a capability").rights;
    assert_eq!(rights, Rights::READ | Rights::SHARE);

    until(&alice, made.handle, Status::PEER_JOINED);
    let peer = alice
        .port_peer(made.handle)
        .expect("an answer")
        .expect("he joined");
    assert_eq!(
        (peer.bytes, peer.side, peer.flags),
        (his.bytes, 0, PortFlags::empty())
    );

    assert!(!heard(&joined.own_bell));
    ring(&made.peer_bell);
    assert!(heard(&joined.own_bell) && !heard(&made.own_bell));
    ring(&joined.peer_bell);
    assert!(heard(&made.own_bell));

    let more = alice.alloc_unit(1, None).expect("a frame");
    let index = alice
        .port_attach(made.handle, more.handle)
        .expect("an index");
    let segment = bob.port_segment(joined.handle, index).expect("a segment");
    store(&map(&more.fd, more.bytes, true), 5, 9);
    assert_eq!(load(&map(&segment.fd, segment.bytes, false), 5), 9);
    let error = alice.drop_handle(more.handle).expect_err("it is a segment");
    assert_eq!(error.code(), Some(ErrorCode::Busy), "{error}");

    bob.port_leave(joined.handle, 1).expect("left");
    until(&alice, made.handle, Status::PEER_GONE);
}

#[test]
fn a_dead_owners_memory_is_taken_back_and_its_reader_lives() {
    guard::install().expect("a handler");
    let exod = exod();
    let (alice, bob) = (connect(&exod), connect(&exod));
    let demo = name("lost");
    let flags = PortFlags::empty();
    let own = alice.alloc_unit(1, None).expect("a frame");
    alice
        .port_create(&demo, own.handle, RING_LOG2, flags)
        .expect("a port");
    let memory = map(&own.fd, own.bytes, true);
    let at = Layout::new(RING_LOG2).packets;
    store(&memory, at, 42);
    let his = bob.alloc_unit(1, None).expect("a frame");
    let joined = bob.port_join(&demo, his.handle, flags).expect("a port");
    let seen = map(&joined.peer.fd, joined.peer.bytes, false);
    let page = match joined.peer.page_kind {
        PageKind::Huge2M => 2 << 20,
        PageKind::Thp | PageKind::Small4K => 4096,
    };
    let start = NonNull::new(seen.as_mut_ptr()).expect("a mapping is not at 0");
    // SAFETY: our own mapping, dropped after the registration, read volatile only.
    let guarded = unsafe { guard::register(start, seen.len(), page) }.expect("a slot");
    assert_eq!(load(&seen, at), 42);
    let (before, told, touched) = (bob.losses(), bob.loss_counter(), guard::losses());
    let protection = own.protection;

    drop(memory);
    drop((own, alice));
    until(&bob, joined.handle, Status::PEER_GONE);
    until(&bob, joined.peer.unit_handle, Status::LOST);
    assert!(bob.loss_counter() > told, "counted before it is told");
    // The table is told first; the pages go in a job. Where they fault, the guard counts it.
    let end = Instant::now() + SOON;
    loop {
        let byte = load(&seen, at);
        assert!(
            byte == 42 || bob.losses() > before,
            "{byte} was taken for data"
        );
        if byte == 0 {
            break;
        }
        assert!(Instant::now() < end, "nothing was taken");
    }
    if protection == Protection::Mount {
        assert!(guard::losses() > touched, "truncated pages fault");
    }
    bob.ping().expect("the session goes on");
    drop(guarded);
}

#[test]
fn the_end_of_exod_ends_a_wait() {
    let exod = exod();
    let client = connect(&exod);
    let unit = client.alloc_unit(1, None).expect("a frame");
    drop(exod);
    assert!(matches!(
        client.wait_event(Some(SOON)),
        Ok(true) | Err(Error::Disconnected)
    ));
    while client.wait_event(Some(SOON)).is_ok() {}
    assert!(matches!(client.ping(), Err(Error::Disconnected)));
    // What it said last can still be read.
    assert!(!client.status(unit.handle).contains(Status::PEER_JOINED));
}
