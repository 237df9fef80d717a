//! The ring against a queue that is plainly right: every size, wherever positions begin, and with
//! the words of laps before still in the slots.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use proptest::prelude::*;

use super::{Consumer, Producer, Slots};
use crate::abi::port::{Descriptor, RING_LOG2};

/// Memory of one process, seen by both ends.
#[derive(Clone, Debug)]
struct Memory(Rc<[Cell<u64>]>);

impl Memory {
    fn zeroed(log2: u32) -> Memory {
        Memory(vec![Cell::new(0); 1 << log2].into())
    }

    fn count(&self) -> u32 {
        self.0.len() as u32
    }
}

impl Slots for Memory {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn load(&self, index: usize) -> u64 {
        self.0[index].get()
    }

    fn store(&self, index: usize, value: u64) {
        self.0[index].set(value);
    }
}

/// Both ends at a position, over slots as the lap before left them.
fn ends_at(log2: u32, start: u32) -> (Producer<Memory>, Consumer<Memory>) {
    let memory = Memory::zeroed(log2);
    let before = start.wrapping_sub(memory.count());
    Producer::at(memory.clone(), before).push_burst(memory.count(), |k| stale(k).0);
    let ends = (
        Producer::at(memory.clone(), start),
        Consumer::at(memory, start),
    );
    assert_eq!(ends.0.position(), start);
    ends
}

/// What a slot is filled with before a test begins, to be recognised if it is ever seen.
fn stale(k: u32) -> Descriptor {
    Descriptor(u64::from(k) | 0xdead << 48)
}

/// An entry that differs from those around it, also in the bits next to the lap.
fn entry(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15) & !Descriptor::LAP
}

/// What the consumer sees next, without the lap.
fn next(consumer: &Consumer<Memory>) -> Option<u64> {
    consumer.peek(0).map(|entry| entry & !Descriptor::LAP)
}

/// Positions where something wraps: the position itself, a lap, half of the laps.
fn starts(log2: u32) -> impl Strategy<Value = u32> {
    let near = 3u32 << log2;
    prop_oneof![
        any::<u32>(),
        (0..=2 * near).prop_map(move |k| k.wrapping_sub(near)),
        (0..=2 * near).prop_map(move |k| (1u32 << 31).wrapping_sub(near).wrapping_add(k)),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Push(u32),
    Burst(u32),
    Take(u32),
    Look(u32),
    Scan(u32, u32),
}

fn step(slots: u32) -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..=slots).prop_map(Step::Push),
        (0..=slots).prop_map(Step::Burst),
        (0..=slots).prop_map(Step::Take),
        (0..slots).prop_map(Step::Look),
        (0..=2 * slots, 0..=slots).prop_map(|(max, stop)| Step::Scan(max, stop)),
    ]
}

fn case() -> impl Strategy<Value = (u32, u32, Vec<Step>)> {
    (0..=9u32).prop_flat_map(|log2| {
        let steps = prop::collection::vec(step(1 << log2), 1..60);
        (Just(log2), starts(log2), steps)
    })
}

proptest! {
    #[test]
    fn a_ring_is_a_queue((log2, start, steps) in case()) {
        let (mut producer, mut consumer) = ends_at(log2, start);
        let capacity = producer.capacity();
        prop_assert_eq!((capacity, consumer.capacity()), (1 << log2, 1 << log2));
        let (mut model, mut made) = (VecDeque::new(), 0);
        for step in steps {
            let room = capacity - model.len() as u32;
            match step {
                Step::Push(count) => for _ in 0..count.min(room) {
                    prop_assert_eq!(producer.slot(0), consumer.slot(model.len() as u32));
                    producer.push(entry(made));
                    model.push_back(entry(made));
                    made += 1;
                },
                Step::Burst(count) => {
                    let count = count.min(room);
                    producer.push_burst(count, |k| entry(made + u64::from(k)));
                    model.extend((0..u64::from(count)).map(|k| entry(made + k)));
                    made += u64::from(count);
                }
                Step::Take(count) => for _ in 0..count {
                    prop_assert_eq!(next(&consumer), model.pop_front());
                    match next(&consumer) {
                        Some(_) => consumer.advance(1),
                        None => break,
                    }
                },
                Step::Scan(max, stop) => {
                    let mut seen = Vec::new();
                    consumer.scan(0, max, |ahead, entry| {
                        assert_eq!(ahead as usize, seen.len());
                        seen.push(entry & !Descriptor::LAP);
                        ahead < stop
                    });
                    let most = max.min(stop + 1) as usize;
                    let expected: Vec<u64> = model.iter().copied().take(most).collect();
                    prop_assert_eq!(seen, expected);
                }
                Step::Look(ahead) => {
                    let seen = consumer.peek(ahead).map(|entry| entry & !Descriptor::LAP);
                    prop_assert_eq!(seen, model.get(ahead as usize).copied());
                }
            }
            prop_assert_eq!(producer.position(), start.wrapping_add(made as u32));
        }
        for expected in model {
            prop_assert_eq!(next(&consumer), Some(expected));
            consumer.advance(1);
        }
        prop_assert!((0..capacity).all(|ahead| consumer.peek(ahead).is_none()));
    }

    /// The writer's caller owns every bit but one: it can't forge or lose the lap.
    #[test]
    fn the_lap_is_the_rings_own(word: u64, start: u32, log2 in 0..=16u32) {
        let (mut producer, consumer) = ends_at(log2, start);
        producer.push(word);
        prop_assert_eq!(next(&consumer), Some(word & !Descriptor::LAP));
    }

    /// Whatever a lying writer stores, a reader only ever looks at its own slot, and sees the word
    /// or nothing.
    #[test]
    fn any_words_are_words_or_nothing(
        words in prop::collection::vec(any::<u64>(), 16),
        start: u32,
        aheads in prop::collection::vec(any::<u32>(), 8),
    ) {
        let memory = Memory::zeroed(4);
        for (index, word) in words.iter().enumerate() {
            memory.store(index, *word);
        }
        let mut consumer = Consumer::at(memory, start);
        for ahead in aheads {
            let slot = consumer.slot(ahead);
            prop_assert_eq!(slot, start.wrapping_add(ahead) as usize % 16);
            if let Some(seen) = consumer.peek(ahead) {
                prop_assert_eq!(seen, words[slot]);
            }
        }
        consumer.advance(u32::MAX);
        prop_assert_eq!(consumer.slot(1), start as usize % 16);
    }
}

/// Two laps over the wrap of the position, for every ring that a port can have, with the reader on
/// the writer's heels and with it a whole ring behind.
#[test]
fn every_size_goes_over_the_wrap_of_its_position() {
    for log2 in RING_LOG2 {
        for behind in [1, 1 << log2] {
            let start = 0u32.wrapping_sub(1 << log2);
            let (mut producer, mut consumer) = ends_at(log2, start);
            let mut seen = 0;
            for made in 0..2u64 << log2 {
                producer.push(entry(made));
                if made + 1 - seen == behind {
                    assert_eq!(next(&consumer), Some(entry(seen)), "log2 {log2}");
                    consumer.advance(1);
                    seen += 1;
                }
            }
            while let Some(found) = next(&consumer) {
                assert_eq!(found, entry(seen));
                consumer.advance(1);
                seen += 1;
            }
            assert_eq!(seen, 2 << log2);
            assert_eq!(producer.position(), 1 << log2);
        }
    }
}

#[test]
fn a_fresh_ring_of_zeroes_is_empty_and_its_first_lap_is_seen() {
    for log2 in 0..=*RING_LOG2.end() {
        let memory = Memory::zeroed(log2);
        let mut producer = Producer::new(memory.clone());
        let consumer = Consumer::new(memory);
        assert!((0..producer.capacity()).all(|ahead| consumer.peek(ahead).is_none()));
        producer.push(0);
        assert_eq!(
            next(&consumer),
            Some(0),
            "a word of zeroes is an entry too, log2 {log2}"
        );
    }
}

/// The words of each of the last laps, left in place, are never new again until their own turn.
#[test]
fn stale_laps_stay_unseen() {
    const LOG2: u32 = 4;
    for lap in 0..8u32 {
        let start = (lap << LOG2).wrapping_sub(4 << LOG2);
        let (mut producer, mut consumer) = ends_at(LOG2, start);
        for filled in 0..1 << LOG2 {
            let unseen = (filled..1 << LOG2).all(|ahead| consumer.peek(ahead).is_none());
            assert!(unseen, "lap {lap} with {filled} entries");
            producer.push(entry(filled.into()));
        }
        consumer.advance(1 << LOG2);
        assert!((0..1 << LOG2).all(|ahead| consumer.peek(ahead).is_none()));
    }
}

#[test]
#[should_panic(expected = "a power of two of slots")]
fn a_ring_of_another_size_is_refused() {
    let _ = Producer::new(Memory(vec![Cell::new(0); 12].into()));
}
