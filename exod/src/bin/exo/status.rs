//! `exo status`: the ledger in two columns, or as one JSON object.

#![forbid(unsafe_code)]

use std::io::Write;

use serde_json::json;

use crate::{Exod, explain};

/// Shows what exod owns, what it has granted, and what it is busy with
#[derive(clap::Args)]
pub struct Args {
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

pub fn run(exod: &Exod, args: &Args) -> anyhow::Result<()> {
    let client = exod.connect()?;
    let ledger = explain(client.stats(0))?;
    let work = explain(client.work())?;
    let session = client.session();
    // In the order of the table; exo's own session is not counted.
    let rows = [
        ("domains", ledger.domains.saturating_sub(1)),
        ("sessions", work.sessions.saturating_sub(1)),
        ("capabilities", ledger.capabilities),
        ("objects", ledger.objects),
        ("port_sides", work.port_sides),
        ("frames_free", ledger.frames_free),
        ("frames_owned", ledger.frames_owned),
        ("frames_pinned", ledger.frames_pinned),
        ("jobs", work.jobs),
        ("closes", work.closes),
        ("being_taken_back", work.unbinding),
        ("objects_pinned", work.pinned),
    ];
    let mut out = std::io::stdout().lock();
    if args.json {
        let mut object = serde_json::Map::new();
        object.insert("pages".into(), json!(session.page_kind.name()));
        object.insert("frame_bytes".into(), json!(session.frame_bytes));
        object.extend(rows.map(|(key, value)| (key.to_owned(), json!(value))));
        writeln!(out, "{}", serde_json::Value::Object(object))?;
        return Ok(());
    }
    let frame_kib = session.frame_bytes / 1024;
    let pages = session.page_kind.name();
    writeln!(out, "{:<18}{pages} ({frame_kib} KiB a frame)", "pages")?;
    for (key, value) in rows {
        writeln!(out, "{:<18}{value}", key.replace('_', " "))?;
    }
    Ok(())
}
