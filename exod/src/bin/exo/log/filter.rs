//! Which lines of the trail somebody wants.

#![forbid(unsafe_code)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use serde_json::{Map, Value};

/// What the command line says.
#[derive(clap::Args)]
#[group(id = "filter", multiple = true)]
pub struct Args {
    /// Of one domain
    #[arg(long, value_name = "NUMBER")]
    domain: Option<u64>,

    /// Of one session, and with SESSION.REQUEST of one request
    #[arg(long, value_name = "SESSION[.REQUEST]")]
    session: Option<String>,

    /// Of one user, by name or number
    #[arg(long, value_name = "USER")]
    user: Option<String>,

    /// About one port
    #[arg(long, value_name = "NAME")]
    port: Option<String>,

    /// Of one kind: grant, refusal, loss, begin, end, left, pinned, turned-away, start, stop, lost
    #[arg(long, value_name = "KIND")]
    event: Option<String>,

    /// Not older: a time (2026-11-22T17:00:00Z) or how long ago (90s, 15min, 2h, 7d)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
}

/// The same, checked.
pub struct Filter {
    numbers: Vec<(&'static str, u64)>,
    texts: Vec<(&'static str, String)>,
    since_us: u64,
}

impl Args {
    pub fn parse(&self) -> anyhow::Result<Filter> {
        let mut filter = Filter {
            numbers: Vec::new(),
            texts: Vec::new(),
            since_us: 0,
        };
        filter
            .numbers
            .extend(self.domain.map(|domain| ("domain", domain)));
        if let Some(text) = &self.session {
            let (session, request) = match text.split_once('.') {
                Some((session, request)) => (session, Some(request)),
                None => (text.as_str(), None),
            };
            let number = |text: &str| text.parse().with_context(|| format!("no session {text:?}"));
            filter.numbers.push(("session", number(session)?));
            if let Some(request) = request {
                filter.numbers.push(("request", number(request)?));
            }
        }
        if let Some(user) = &self.user {
            filter.numbers.push(("uid", u64::from(uid_of(user)?)));
        }
        filter
            .texts
            .extend(self.port.clone().map(|port| ("port", port)));
        filter
            .texts
            .extend(self.event.clone().map(|event| ("event", event)));
        if let Some(since) = &self.since {
            filter.since_us = microseconds(since)?;
        }
        Ok(filter)
    }
}

impl Filter {
    /// Whether a line is wanted. A line that says nothing about what is asked for is not.
    pub fn fits(&self, line: &Map<String, Value>) -> bool {
        let number = |key: &str| line.get(key).and_then(Value::as_u64);
        let text = |key: &str| line.get(key).and_then(Value::as_str);
        self.numbers
            .iter()
            .all(|(key, wanted)| number(key) == Some(*wanted))
            && self
                .texts
                .iter()
                .all(|(key, wanted)| text(key) == Some(wanted))
            && (self.since_us == 0 || number("time_us").is_some_and(|at| at >= self.since_us))
    }
}

fn uid_of(user: &str) -> anyhow::Result<u32> {
    if let Ok(uid) = user.parse() {
        return Ok(uid);
    }
    match nix::unistd::User::from_name(user) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        _ => bail!("no user {user:?}"),
    }
}

fn microseconds(since: &str) -> anyhow::Result<u64> {
    let ago = humantime::parse_duration(since).ok();
    let ago = ago.and_then(|ago| SystemTime::now().checked_sub(ago));
    let time = match ago {
        Some(time) => time,
        None => humantime::parse_rfc3339_weak(since).with_context(|| {
            format!(
                "no time {since:?}: use one like 2026-11-22T17:00:00Z (UTC), or 90s, 15min, 2h, 7d"
            )
        })?,
    };
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Ok(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
