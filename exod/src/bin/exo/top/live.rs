//! The live screen: keys in, frames out, and a terminal that is put back.

#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::model::{Model, Table};
use super::screen::{Look, draw};
use super::{TURN, look};
use crate::shape::Paint;
use crate::view::Watch;

/// Puts the terminal back when it is dropped. A panic does so too, before it says what happened.
struct Screen(DefaultTerminal);

impl Screen {
    fn open() -> anyhow::Result<Screen> {
        let hint = "cannot take over the terminal: use --batch or --json";
        Ok(Screen(ratatui::try_init().context(hint)?))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

pub fn run(watch: &Watch, pause: Duration, count: Option<u64>) -> anyhow::Result<()> {
    // However many signals come: each ends the loop, and then the terminal is put back.
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone()).context("cannot watch for signals")?;
    }
    let mut before = look(watch)?;
    let mut model = Model::new(&before, &before);
    let mut screen = Screen::open()?;
    let (mut shown, mut state, colours) = (0, Look::default(), Paint::stdout().is_on());
    let mut due = Instant::now() + pause;
    loop {
        let frame = |frame: &mut ratatui::Frame<'_>| {
            draw(&model, &state, colours, frame.area(), frame.buffer_mut());
        };
        screen.0.draw(frame)?;
        let changed = wait(&mut state, &model, due, &stop)?;
        if changed == Wait::End {
            return Ok(());
        }
        if changed == Wait::Due {
            if !state.paused {
                let now = look(watch)?;
                model = Model::new(&before, &now);
                before = now;
            }
            due = Instant::now() + pause;
            shown += 1;
            if count.is_some_and(|count| shown >= count) {
                return Ok(());
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    End,
    /// Draw again.
    Changed,
    /// Look again.
    Due,
}

fn wait(state: &mut Look, model: &Model, due: Instant, stop: &AtomicBool) -> io::Result<Wait> {
    loop {
        if stop.load(Ordering::Acquire) {
            return Ok(Wait::End);
        }
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Wait::Due);
        }
        if !event::poll(left.min(TURN))? {
            continue;
        }
        match event::read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => {
                return Ok(if pressed(state, model, key) {
                    Wait::Changed
                } else {
                    Wait::End
                });
            }
            Event::Resize(..) => return Ok(Wait::Changed),
            _ => {}
        }
    }
}

/// Does what a key says; false to end.
fn pressed(state: &mut Look, model: &Model, key: KeyEvent) -> bool {
    let at = Table::ALL
        .iter()
        .position(|table| *table == state.chosen)
        .unwrap_or(0);
    let (column, reverse, first) = &mut state.tables[at];
    let rows = model.rows(state.chosen, 0, false).len();
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return false,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
        KeyCode::Char('s') => *column = (*column + 1) % state.chosen.columns().len(),
        KeyCode::Char('r') => *reverse = !*reverse,
        KeyCode::Char(' ') => state.paused = !state.paused,
        KeyCode::Up => *first = first.saturating_sub(1),
        KeyCode::Down => *first = (*first + 1).min(rows.saturating_sub(1)),
        KeyCode::Tab => state.chosen = Table::ALL[(at + 1) % Table::ALL.len()],
        KeyCode::BackTab => state.chosen = Table::ALL[(at + 2) % Table::ALL.len()],
        _ => {}
    }
    true
}
