//! The ring and the doorbells under every order that the memory model allows.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p libexo --release --target-dir target/loom --test loom_ring
//! ```
//!
//! Without `--cfg loom` there is nothing here. loom runs each model once for every interleaving and
//! every value that a load may return; it fails on a data race of a cell, and when all threads
//! wait. Each model has a twin with one ordering taken out, in which loom must find the fault.

#![cfg(loom)]

use std::collections::VecDeque;

use libexo::abi::port::{Descriptor, Return};
use libexo::ring::{Consumer, Producer, Slots};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU64, Ordering, fence};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

/// Slots of a ring: the fewest that have a lap and a neighbour.
const SLOTS: usize = 2;

/// Packets that go over it: each slot in two laps.
const PACKETS: u64 = 4;

/// Forced switches in one run. Two are enough for any fault between two accesses; a third is for
/// the way back.
const SWITCHES_MAX: usize = 3;

fn model(f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(SWITCHES_MAX);
    builder.check(f);
}

/// A ring's words as atomics of loom.
#[derive(Clone)]
struct Words {
    words: Arc<[AtomicU64; SLOTS]>,
    load: Ordering,
    store: Ordering,
    /// What settles words that were glanced at.
    settle: Option<Ordering>,
}

impl Words {
    fn new() -> Words {
        Words::with(Ordering::Acquire, Ordering::Release)
    }

    fn unsettled() -> Words {
        Words {
            settle: None,
            ..Words::new()
        }
    }

    fn with(load: Ordering, store: Ordering) -> Words {
        let words = Arc::new(std::array::from_fn(|_| AtomicU64::new(0)));
        let settle = Some(Ordering::Acquire);
        Words {
            words,
            load,
            store,
            settle,
        }
    }
}

impl Slots for Words {
    fn len(&self) -> usize {
        SLOTS
    }

    fn load(&self, index: usize) -> u64 {
        self.words[index].load(self.load)
    }

    fn glance(&self, index: usize) -> u64 {
        self.words[index].load(Ordering::Relaxed)
    }

    fn settle(&self) {
        if let Some(order) = self.settle {
            fence(order);
        }
    }

    fn store(&self, index: usize, value: u64) {
        self.words[index].store(value, self.store);
    }
}

/// Packet memory: a sender writes a cell while nobody else may look at it.
type Buffers = Arc<[UnsafeCell<u64>; SLOTS]>;

fn buffers() -> Buffers {
    Arc::new(std::array::from_fn(|_| UnsafeCell::new(0)))
}

fn write(buffers: &Buffers, index: u64, value: u64) {
    // SAFETY: loom fails the model if anybody else can access the cell now.
    buffers[index as usize].with_mut(|cell| unsafe { *cell = value });
}

fn read(buffers: &Buffers, index: u64) -> u64 {
    // SAFETY: as above.
    buffers[index as usize].with(|cell| unsafe { *cell })
}

/// Sends all packets, `burst` at a time, each in a buffer that came home or was never out.
fn sender(descriptors: Words, returns: Words, buffers: Buffers, burst: u32) {
    let (mut ring, mut home) = (Producer::new(descriptors), Consumer::new(returns));
    let mut free: VecDeque<u64> = (0..SLOTS as u64).collect();
    let mut out = [None; SLOTS];
    let mut sent = 0;
    while sent < PACKETS {
        while let Some(run) = home.peek(0).map(Return) {
            for k in 0..run.count() {
                let slot = (run.first() + k) as usize % SLOTS;
                free.push_back(out[slot].take().expect("a slot comes home once"));
            }
            home.advance(1);
        }
        if free.len() < burst as usize {
            thread::yield_now();
            continue;
        }
        let taken: Vec<u64> = free.drain(..burst as usize).collect();
        for (k, buffer) in (0..).zip(&taken) {
            write(&buffers, *buffer, sent + u64::from(k) + 1);
            out[ring.slot(k)] = Some(*buffer);
        }
        ring.push_burst(burst, |k| taken[k as usize]);
        sent += u64::from(burst);
    }
}

/// How a receiver looks at its ring.
#[derive(Clone, Copy)]
enum Look {
    Peek,
    Scan,
}

/// Receives all packets in order, reads each one's buffer, and then gives its slots back.
fn receiver(descriptors: Words, returns: Words, buffers: Buffers, burst: u32, look: Look) {
    let (mut ring, mut gives) = (Consumer::new(descriptors), Producer::new(returns));
    let mut seen = 0;
    while seen < PACKETS {
        let mut found = Vec::new();
        match look {
            Look::Peek => found.extend((0..burst).map_while(|ahead| ring.peek(ahead))),
            Look::Scan => ring.scan(0, burst, |_, entry| {
                found.push(entry);
                true
            }),
        }
        if found.is_empty() {
            thread::yield_now();
            continue;
        }
        for entry in &found {
            seen += 1;
            let payload = read(&buffers, entry & !Descriptor::LAP);
            assert_eq!(payload, seen, "none is skipped, none comes twice");
        }
        let (first, count) = (ring.slot(0) as u32, found.len() as u32);
        ring.advance(count);
        gives.push(Return::new(first, count).0);
    }
    assert!(ring.peek(0).is_none(), "nothing comes after the last");
}

fn transfer(descriptors: Words, returns: Words, burst: u32, look: Look) {
    let buffers = buffers();
    let (d, r, b) = (descriptors.clone(), returns.clone(), Arc::clone(&buffers));
    let sending = thread::spawn(move || sender(d, r, b, burst));
    receiver(descriptors, returns, buffers, burst, look);
    sending.join().expect("the sender");
}

#[test]
fn packets_arrive_once_in_order_and_buffers_come_home_unread() {
    model(|| transfer(Words::new(), Words::new(), 1, Look::Peek));
}

#[test]
fn bursts_too() {
    model(|| transfer(Words::new(), Words::new(), SLOTS as u32, Look::Peek));
}

#[test]
fn bursts_that_are_scanned_too() {
    model(|| transfer(Words::new(), Words::new(), 1, Look::Scan));
    model(|| transfer(Words::new(), Words::new(), SLOTS as u32, Look::Scan));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_payload_behind_a_scan_that_is_not_settled_is_a_race() {
    model(|| transfer(Words::unsettled(), Words::new(), 1, Look::Scan));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_payload_behind_a_relaxed_descriptor_is_a_race() {
    let relaxed = || Words::with(Ordering::Acquire, Ordering::Relaxed);
    model(move || transfer(relaxed(), Words::new(), 1, Look::Peek));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_payload_behind_a_relaxed_look_is_a_race() {
    let relaxed = || Words::with(Ordering::Relaxed, Ordering::Release);
    model(move || transfer(relaxed(), Words::new(), 1, Look::Peek));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_buffer_behind_a_relaxed_return_is_a_race() {
    let relaxed = || Words::with(Ordering::Acquire, Ordering::Relaxed);
    model(move || transfer(Words::new(), relaxed(), 1, Look::Peek));
}

/// How the sender and the sleeper of a doorbell order their store and their load.
#[derive(Clone, Copy, PartialEq)]
enum Barrier {
    /// Both run a fence: what is done where there is no membarrier for the sender.
    Fences,
    /// The sleeper's membarrier makes the sender run one, wherever the sender is just then.
    Membarrier,
    Missing,
}

/// A barrier that the sleeper asks for and the sender runs between any two of its steps.
struct Everywhere {
    kind: Barrier,
    asked: AtomicU64,
    done: AtomicU64,
}

impl Everywhere {
    fn new(kind: Barrier) -> Everywhere {
        let (asked, done) = (AtomicU64::new(0), AtomicU64::new(0));
        Everywhere { kind, asked, done }
    }

    /// Between two steps of the sender an interrupt may come.
    fn interrupt(&self) {
        if self.kind == Barrier::Membarrier {
            let asked = self.asked.load(Ordering::Acquire);
            if asked != self.done.load(Ordering::Relaxed) {
                fence(Ordering::SeqCst);
                self.done.store(asked, Ordering::Release);
            }
        }
    }

    /// Between the sender's store and its load.
    fn publish(&self) {
        match self.kind {
            Barrier::Fences => fence(Ordering::SeqCst),
            Barrier::Membarrier => self.interrupt(),
            Barrier::Missing => {}
        }
    }

    /// Between the sleeper's store and its load.
    fn everywhere(&self, number: u64) {
        if self.kind != Barrier::Missing {
            fence(Ordering::SeqCst);
        }
        if self.kind == Barrier::Membarrier {
            self.asked.store(number, Ordering::Release);
            while self.done.load(Ordering::Acquire) < number {
                thread::yield_now();
            }
            fence(Ordering::SeqCst);
        }
    }
}

/// A bell: rings are merged, and hearing takes all of them.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().expect("no panic") = true;
        self.heard.notify_one();
    }

    fn wait(&self) {
        let mut rung = self.rung.lock().expect("no panic");
        while !*rung {
            rung = self.heard.wait(rung).expect("no panic");
        }
    }

    fn hush(&self) {
        *self.rung.lock().expect("no panic") = false;
    }
}

struct Link {
    words: Words,
    sleep: AtomicU64,
    bell: Bell,
    barrier: Everywhere,
    /// The sender has left its last step: no interrupt finds it there, and none is needed.
    left: AtomicU64,
}

/// Publishes each packet as a port does, and rings at most once for each odd sleep word.
fn ringing_sender(link: &Link, packets: u64) {
    let mut ring = Producer::new(link.words.clone());
    let mut rung_for = 0;
    for packet in 1..=packets {
        link.barrier.interrupt();
        ring.push(packet);
        link.barrier.publish();
        let word = link.sleep.load(Ordering::Acquire);
        if word & 1 == 1 && word != rung_for {
            rung_for = word;
            link.bell.ring();
        }
    }
    // The interrupt always arrives: at the latest here.
    while link.barrier.kind == Barrier::Membarrier && link.left.load(Ordering::Acquire) == 0 {
        link.barrier.interrupt();
        thread::yield_now();
    }
}

/// Receives each packet, sleeping before every one that is not there yet.
fn sleeper(link: &Link, packets: u64) {
    let mut ring = Consumer::new(link.words.clone());
    let mut sleeps = 0;
    for packet in 1..=packets {
        // Rung for nothing, it says that it is awake and goes to sleep anew: a second ring for the
        // same word would never come.
        while ring.peek(0).is_none() {
            sleeps += 1;
            link.sleep.store(sleeps * 2 - 1, Ordering::Release);
            link.barrier.everywhere(sleeps);
            if ring.peek(0).is_none() {
                link.bell.wait();
            }
            link.sleep.store(sleeps * 2, Ordering::Release);
            link.bell.hush();
        }
        let entry = ring.peek(0).expect("seen before") & !Descriptor::LAP;
        assert_eq!(entry, packet);
        ring.advance(1);
    }
    link.left.store(1, Ordering::Release);
}

fn sleep_and_wake(barrier: Barrier, packets: u64) {
    let link = Arc::new(Link {
        words: Words::new(),
        sleep: AtomicU64::new(0),
        bell: Bell::default(),
        barrier: Everywhere::new(barrier),
        left: AtomicU64::new(0),
    });
    let other = Arc::clone(&link);
    let sending = thread::spawn(move || ringing_sender(&other, packets));
    sleeper(&link, packets);
    sending.join().expect("the sender");
}

#[test]
fn no_wake_is_lost_between_two_fences() {
    model(|| sleep_and_wake(Barrier::Fences, 2));
}

#[test]
fn no_wake_is_lost_wherever_the_barrier_meets_the_sender() {
    model(|| sleep_and_wake(Barrier::Membarrier, 2));
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_a_barrier_a_wake_is_lost() {
    model(|| sleep_and_wake(Barrier::Missing, 1));
}
