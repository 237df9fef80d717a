//! `--report`: one HTML file with its charts inside, to be sent around or kept beside a release.
#![forbid(unsafe_code)]

use std::fmt::Write;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::host::Host;
use crate::record::Record;
use crate::row::Kind;
use crate::table;

const WIDTH: u32 = 900;
/// Pixels of one bar with its gap.
const BAR: u32 = 26;
/// Pixels left of the bars, for names.
const NAMES: i32 = 250;
/// Pixels right of the longest bar, for its figure.
const FIGURES: i32 = 130;
const STYLE: &str = "body{font:15px/1.5 sans-serif;max-width:940px;margin:2em auto;padding:0 1em;color:#222}\
    pre{background:#f5f5f5;padding:1em;overflow-x:auto;font-size:12px}svg{max-width:100%;height:auto}";

fn colour(kind: Kind) -> RGBColor {
    match kind {
        Kind::Ours => RGBColor(0, 114, 178),
        Kind::Floor => RGBColor(150, 150, 150),
        Kind::Kernel => RGBColor(230, 159, 0),
        Kind::Dpdk => RGBColor(0, 158, 115),
    }
}

/// Text for an HTML page.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// Horizontal bars, in the order given, with the spread over repeats as a line.
fn bars(records: &[&Record]) -> Result<String> {
    let mut svg = String::new();
    let height = BAR * records.len() as u32 + 10;
    let longest = records
        .iter()
        .map(|record| record.max)
        .fold(f64::MIN_POSITIVE, f64::max);
    let scale = f64::from(WIDTH as i32 - NAMES - FIGURES) / longest;
    let at = |value: f64| NAMES + (value * scale) as i32;
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        let text = ("sans-serif", 14).into_font().color(&BLACK);
        for (index, record) in records.iter().enumerate() {
            let top = 5 + (index as u32 * BAR) as i32;
            let middle = top + (BAR / 2) as i32 - 2;
            let name = format!("{} (burst {})", record.row, record.burst);
            let right = text.clone().pos(Pos::new(HPos::Right, VPos::Center));
            area.draw(&Text::new(name, (NAMES - 8, middle), right))
                .map_err(failed)?;
            let corners = [
                (NAMES, top),
                (at(record.value).max(NAMES + 1), top + BAR as i32 - 6),
            ];
            area.draw(&Rectangle::new(corners, colour(record.kind).filled()))
                .map_err(failed)?;
            let range = vec![(at(record.min), middle), (at(record.max), middle)];
            area.draw(&PathElement::new(range, BLACK.stroke_width(1)))
                .map_err(failed)?;
            let figure = format!("{:.2} {}", record.value, record.unit);
            let left = text.clone().pos(Pos::new(HPos::Left, VPos::Center));
            area.draw(&Text::new(figure, (at(record.max) + 8, middle), left))
                .map_err(failed)?;
        }
        area.present().map_err(failed)?;
    }
    Ok(svg)
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw a chart: {error}")
}

/// The page.
pub fn html(host: &Host, records: &[Record], warnings: &[String]) -> Result<String> {
    let mut page = String::from("<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">");
    write!(
        page,
        "<title>netbench</title><style>{STYLE}</style><h1>netbench</h1>"
    )?;
    write!(page, "<pre>{}</pre>", escape(&table::host(host)))?;
    page += "<p>Bars are medians, the thin line is the spread over repeats. Blue: this project. Grey: the \
        machine's floor. Orange: the kernel. Green: DPDK.</p>";
    for warning in warnings {
        write!(page, "<p><strong>Warning:</strong> {}</p>", escape(warning))?;
    }
    for (metric, title) in [
        ("rate", "Packets"),
        ("bandwidth", "Bytes"),
        ("rtt-p50", "Round trip, median"),
    ] {
        let mut sizes: Vec<usize> = records
            .iter()
            .filter(|r| r.metric == metric)
            .map(|r| r.size)
            .collect();
        sizes.sort_unstable();
        sizes.dedup();
        for size in sizes {
            let mut chosen: Vec<&Record> = records
                .iter()
                .filter(|r| r.metric == metric && r.size == size)
                .collect();
            chosen.sort_by(|a, b| b.value.total_cmp(&a.value));
            write!(page, "<h2>{title}, {size} bytes</h2>{}", bars(&chosen)?)?;
        }
    }
    for table in [
        table::throughputs(records),
        table::round_trips(records),
        table::figures(records),
    ] {
        write!(page, "<pre>{}</pre>", escape(&table.unwrap_or_default()))?;
    }
    page += "</html>\n";
    Ok(page)
}
