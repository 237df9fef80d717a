//! What differs between two configurations, and which of it a running exod can take over.
//!
//! A reload touches no domain: sessions keep the grant that they got when they connected, and what
//! is granted stays granted, also above a limit that was lowered. A key that is not named in
//! [`CHANGEABLE`] keeps its value until exod starts again, and the administrator is told so.

use std::collections::BTreeMap;

use toml::Value;

use super::Config;

/// Keys that a reload changes.
pub const CHANGEABLE: [&str; 7] = [
    "give_back_ms",
    "pool.frames",
    "pool.raise_hugepages",
    "pool.ready",
    "rule",
    "sessions",
    "sessions_per_user",
];

/// Keys that differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Those that were taken over.
    pub taken: Vec<String>,
    /// Those that keep their old value.
    pub kept: Vec<String>,
}

/// Every key with its value, tables as `table.key`.
pub fn keys(config: &Config) -> BTreeMap<String, Value> {
    let mut keys = BTreeMap::new();
    // A configuration is made of what TOML has, so that this does not fail.
    for (key, value) in toml::Table::try_from(config).unwrap_or_default() {
        match value {
            Value::Table(table) => {
                keys.extend(table.into_iter().map(|(k, v)| (format!("{key}.{k}"), v)));
            }
            value => {
                keys.insert(key, value);
            }
        }
    }
    keys
}

impl Config {
    /// Takes over what can change while exod runs.
    pub fn take_over(&mut self, new: Config) -> Change {
        let (old_keys, new_keys) = (keys(self), keys(&new));
        let mut change = Change::default();
        let mut names: Vec<&String> = old_keys.keys().chain(new_keys.keys()).collect();
        names.sort_unstable();
        names.dedup();
        for key in names
            .into_iter()
            .filter(|k| old_keys.get(*k) != new_keys.get(*k))
        {
            if CHANGEABLE.contains(&key.as_str()) {
                change.taken.push(key.clone());
            } else {
                change.kept.push(key.clone());
            }
        }
        self.give_back_ms = new.give_back_ms;
        self.pool.frames = new.pool.frames;
        self.pool.raise_hugepages = new.pool.raise_hugepages;
        self.pool.ready = new.pool.ready;
        self.policy = new.policy;
        self.sessions = new.sessions;
        self.sessions_per_user = new.sessions_per_user;
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value for every key that is not its default.
    const OTHER: &str = "
        socket = '/elsewhere'
        group = 7
        workers = 3
        sessions = 3
        sessions_per_user = 2
        give_back_ms = 7
        audit = '/var/lib/exod/audit'
        audit_mib = 7
        audit_kept = 7
        [pool]
        pages = '4K'
        frames = 9
        ready = []
        raise_hugepages = 3
        [machine]
        cores = '1-2'
        hugepages_max = 9
        [[rule]]
        user = 7
        create = ['a*']
        admin = true
    ";

    #[test]
    fn what_may_change_does_and_the_rest_is_named() {
        let mut config = Config::default();
        let new = Config::parse(OTHER).expect("a good file");
        let change = config.take_over(new.clone());
        assert_eq!(change.taken, CHANGEABLE);
        let kept = [
            "audit",
            "audit_kept",
            "audit_mib",
            "group",
            "machine.cores",
            "machine.hugepages_max",
            "pool.pages",
            "socket",
            "workers",
        ];
        assert_eq!(change.kept, kept);
        // What was said to be taken is there now, and nothing else is.
        let (now, new, fresh) = (keys(&config), keys(&new), keys(&Config::default()));
        for key in new.keys() {
            let from = if CHANGEABLE.contains(&key.as_str()) {
                &new
            } else {
                &fresh
            };
            assert_eq!(now.get(key), from.get(key), "{key}");
        }
        assert_eq!(config.clone().take_over(config), Change::default());
    }

    #[test]
    fn what_is_printed_is_read_as_the_same() {
        let config = Config::parse(OTHER).expect("a good file");
        let text = toml::to_string(&config).expect("printed");
        let again = Config::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert_eq!(keys(&config), keys(&again), "{text}");
        assert_eq!(keys(&config).len(), keys(&Config::default()).len() + 3);
    }
}
