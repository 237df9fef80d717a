//! What one packet costs on one core, without a peer: rings, pools, buffers.
//!
//! Both ends of a ring run in this thread, so no line moves between cores: these figures are the
//! instructions, netbench's are the price. Memory is a unit of an embedded exod, on the best pages
//! that it finds.

use std::hint::black_box;
use std::rc::Rc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use exod::Embedded;
use exod::config::Config;
use libexo::Client;
use libexo::abi::port::Descriptor;
use libexo::packet::Mempool;
use libexo::ring::{Consumer, Producer};
use libexo::shm::{Buffers, Mapping, Words};

/// Slots of the ring, as on a port where nothing else is asked for.
const SLOTS: usize = 4096;
/// Packets that are handed over at once.
const BURST: u32 = 32;
/// Bytes of a buffer.
const BUFFER: usize = 2048;

fn memory(exod: &Embedded) -> Rc<Mapping> {
    let client = Client::over(exod.connect().expect("a session")).expect("a hello");
    let unit = client.alloc_unit(1, None).expect("a frame");
    Mapping::own(&client, &unit).expect("mapped")
}

fn embedded() -> Embedded {
    Embedded::start(Config::embedded()).expect("an embedded exod")
}

fn ends(exod: &Embedded) -> (Producer<Words>, Consumer<Words>) {
    let memory = memory(exod);
    let words = || memory.words(0, SLOTS).expect("the ring fits");
    (Producer::new(words()), Consumer::new(words()))
}

fn pool(exod: &Embedded) -> Mempool {
    let buffers = Buffers::new(memory(exod), 0, BUFFER, u32::MAX).expect("buffers fit");
    Mempool::new(buffers).expect("a pool")
}

fn ring(c: &mut Criterion) {
    let mut group = c.benchmark_group("ring");
    let entry = Descriptor::new(0, 4096, 64, false).0;
    let exod = embedded();
    let (mut producer, mut consumer) = ends(&exod);
    group.throughput(Throughput::Elements(1));
    group.bench_function("push-peek-1", |b| {
        b.iter(|| {
            producer.push(black_box(entry));
            let seen = consumer.peek(0);
            consumer.advance(1);
            seen
        });
    });
    group.throughput(Throughput::Elements(u64::from(BURST)));
    group.bench_function("push-peek-32", |b| {
        b.iter(|| {
            producer.push_burst(BURST, |_| black_box(entry));
            let mut seen = 0;
            while seen < BURST && consumer.peek(seen).map(black_box).is_some() {
                seen += 1;
            }
            consumer.advance(seen);
            assert_eq!(seen, BURST);
        });
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("peek-nothing", |b| b.iter(|| black_box(consumer.peek(0))));
    group.finish();
}

fn mempool(c: &mut Criterion) {
    let mut group = c.benchmark_group("mempool");
    let exod = embedded();
    let pool = pool(&exod);
    group.throughput(Throughput::Elements(1));
    group.bench_function("alloc-free-1", |b| {
        b.iter(|| drop(black_box(pool.alloc(black_box(64)))));
    });
    group.throughput(Throughput::Elements(u64::from(BURST)));
    group.bench_function("alloc-free-32", |b| {
        b.iter_batched_ref(
            || Vec::with_capacity(BURST as usize),
            |burst| {
                let count = pool.alloc_burst(BURST as usize, 64, burst);
                burst.clear();
                assert_eq!(count, BURST as usize);
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn packet(c: &mut Criterion) {
    let mut group = c.benchmark_group("packet");
    let exod = embedded();
    let pool = pool(&exod);
    for len in [64, 1518] {
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("alloc-fill-drop-{len}"), |b| {
            b.iter(|| {
                let mut packet = pool.alloc(len).expect("the last one came back");
                packet.fill(black_box(7));
                black_box(&packet);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, ring, mempool, packet);
criterion_main!(benches);
