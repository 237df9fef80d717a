//! What the tests share: a table in private memory that can die at any store, and short names.

mod crash;
mod garbage;
mod handles;
mod lifecycle;
mod model;
mod oracle;
mod trees;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use libexo::abi::wire::{ObjectKind, PageKind, Rights};

use super::layout::{COMMIT_WORD, Layout};
use super::words::Words;
use super::*;

/// Words that outlive the table on them, and that fail at the n-th store from now.
#[derive(Clone)]
struct Memory {
    words: Rc<RefCell<Vec<u64>>>,
    stores_left: Rc<Cell<u64>>,
}

/// What a store throws when the process is to die there.
struct Died;

impl Memory {
    fn from_words(words: Vec<u64>) -> Memory {
        Memory {
            words: Rc::new(RefCell::new(words)),
            stores_left: Rc::new(Cell::new(u64::MAX)),
        }
    }

    /// Everything but the intent area, which means nothing once its commit word is zero.
    fn state(&self) -> Vec<u64> {
        let words = self.words.borrow();
        assert_eq!(words[COMMIT_WORD], 0, "a change is still open");
        let arrays = super::layout::ARRAYS_FIRST;
        words[..COMMIT_WORD]
            .iter()
            .chain(&words[arrays..])
            .copied()
            .collect()
    }
}

impl Words for Memory {
    fn len(&self) -> usize {
        self.words.borrow().len()
    }

    fn load(&self, index: usize) -> u64 {
        self.words.borrow()[index]
    }

    fn store(&self, index: usize, value: u64) {
        let left = self.stores_left.get();
        if left == 0 {
            // Not a panic: the hook would print one line for each of thousands of deaths.
            std::panic::resume_unwind(Box::new(Died));
        }
        self.stores_left.set(left - 1);
        self.words.borrow_mut()[index] = value;
    }
}

const SMALL: Limits = Limits {
    capabilities: 64,
    objects: 32,
    domains: 16,
};

fn table(limits: Limits) -> (Table<Memory>, Memory) {
    let layout = Layout::new(limits).expect("limits in range");
    let memory = Memory::from_words(vec![0; layout.total_words]);
    (
        Table::format(memory.clone(), limits).expect("limits in range"),
        memory,
    )
}

fn info(frames: u64, capabilities: u32, ports: u32) -> DomainInfo {
    let quota = Quota {
        frames,
        capabilities,
        ports,
    };
    DomainInfo {
        uid: 1000,
        gid: 100,
        pid: 4711,
        pid_start: 123_456_789,
        quota,
    }
}

fn plenty() -> DomainInfo {
    info(u64::MAX, u32::MAX, u32::MAX)
}

fn unit(frames: u32) -> NewObject {
    let page = Some(PageKind::Huge2M);
    NewObject {
        kind: ObjectKind::Unit,
        frames,
        page,
        tag: 7,
        bound: true,
    }
}

fn port() -> NewObject {
    NewObject {
        kind: ObjectKind::Port,
        frames: 0,
        page: None,
        tag: 8,
        bound: false,
    }
}

const ALL: Rights = Rights::all();

/// Counts the capabilities that events say are gone.
fn gone(events: &[Event]) -> usize {
    events
        .iter()
        .filter(|event| matches!(event, Event::CapGone { .. }))
        .count()
}

/// The objects that events ask to take apart.
fn unbinding(events: &[Event]) -> Vec<ObjectId> {
    let object = |event: &Event| match event {
        Event::Unbind { object, .. } => Some(object.id),
        _ => None,
    };
    events.iter().filter_map(object).collect()
}
