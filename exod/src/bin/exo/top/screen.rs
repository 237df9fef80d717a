//! A frame: two lines of totals, then a table each for domains, ports and cores.

#![forbid(unsafe_code)]

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Row, Table as Rows, Widget};

use super::model::{Model, Table};

/// Lines of a frame that belong to no table.
const HEAD: u16 = 2;

/// How each table is shown.
#[derive(Clone, Debug)]
pub struct Look {
    /// The table that keys speak to.
    pub chosen: Table,
    /// By table: the column that orders it, whether turned round, and the first row.
    pub tables: [(usize, bool, usize); 3],
    /// Held still.
    pub paused: bool,
}

impl Default for Look {
    /// Who has most frames first, and the busiest port.
    fn default() -> Look {
        Look {
            chosen: Table::Domains,
            tables: [(3, false, 0), (3, false, 0), (0, false, 0)],
            paused: false,
        }
    }
}

/// Draws a frame into an area of any size.
pub fn draw(model: &Model, look: &Look, colours: bool, area: Rect, buffer: &mut Buffer) {
    let needs = Table::ALL.map(|table| lines_of(model, table));
    let [head, domains, ports, cores, keys] = Layout::vertical([
        Constraint::Length(HEAD),
        Constraint::Fill(needs[0]),
        Constraint::Fill(needs[1]),
        Constraint::Fill(needs[2]),
        Constraint::Length(1),
    ])
    .areas(area);
    Text::from_iter(model.head.iter().map(String::as_str)).render(head, buffer);
    for (at, (table, area)) in Table::ALL
        .into_iter()
        .zip([domains, ports, cores])
        .enumerate()
    {
        draw_table(model, look, colours, (at, table), area, buffer);
    }
    let hint = "q end   Tab table   s order   r turn round   arrows scroll   space hold still";
    let hint = if look.paused {
        "held still: space goes on"
    } else {
        hint
    };
    Line::raw(hint).style(dim(colours)).render(keys, buffer);
}

/// A frame as text, as high as it needs to be.
pub fn text(model: &Model, columns: u16) -> String {
    let height = Table::ALL
        .map(|table| u32::from(lines_of(model, table)))
        .iter()
        .sum::<u32>();
    // ratatui counts cells in 16 bits.
    let most = u32::from(u16::MAX) / u32::from(columns);
    let height = (height + u32::from(HEAD)).min(most) as u16;
    let area = Rect::new(0, 0, columns, height);
    let mut buffer = Buffer::empty(area);
    let mut rest = Rect::new(0, 0, columns, HEAD);
    Text::from_iter(model.head.iter().map(String::as_str)).render(rest, &mut buffer);
    for (at, table) in Table::ALL.into_iter().enumerate() {
        rest.y += rest.height;
        rest.height = lines_of(model, table).min(height.saturating_sub(rest.y));
        draw_table(
            model,
            &Look::default(),
            false,
            (at, table),
            rest,
            &mut buffer,
        );
    }
    let lines = (0..height).map(|y| {
        let cells = (0..columns).map(|x| buffer.cell((x, y)).map_or(" ", |cell| cell.symbol()));
        cells.collect::<String>().trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A blank line, a header, and a line for each row.
fn lines_of(model: &Model, table: Table) -> u16 {
    let rows = model.rows(table, 0, false).len();
    u16::try_from(rows).unwrap_or(u16::MAX).saturating_add(2)
}

fn draw_table(
    model: &Model,
    look: &Look,
    colours: bool,
    (at, table): (usize, Table),
    area: Rect,
    buffer: &mut Buffer,
) {
    if area.height < 2 {
        return;
    }
    let (column, reverse, first) = look.tables[at];
    let rows = model.rows(table, column, reverse);
    let room = usize::from(area.height) - 2;
    let first = first.min(rows.len().saturating_sub(room));
    let names = table.columns().iter().enumerate().map(|(at, (name, _))| {
        // The first column's head says which table it is, and how many rows.
        let name = match at {
            0 => format!("{} ({})", table.title(), rows.len()),
            _ => (*name).to_owned(),
        };
        let style = if at == column && colours {
            Style::new().add_modifier(Modifier::UNDERLINED)
        } else {
            Style::new()
        };
        Line::raw(name).style(style)
    });
    let mut style = Style::new();
    if colours {
        style = style.add_modifier(Modifier::BOLD);
        if table == look.chosen {
            style = style.add_modifier(Modifier::REVERSED);
        }
    }
    let header = Row::new(names).style(style).top_margin(1);
    let shown = rows.iter().skip(first).take(room);
    let shown = shown.map(|row| Row::new(row.iter().map(|cell| cell.text.as_str())));
    let widths = table
        .columns()
        .iter()
        .map(|(_, width)| Constraint::Length(*width));
    let widget = Rows::new(shown, widths).header(header);
    Widget::render(widget, area, buffer);
}

fn dim(colours: bool) -> Style {
    if colours {
        Style::new().add_modifier(Modifier::DIM)
    } else {
        Style::new()
    }
}
