//! Who may hold what, and how much.
//!
//! A policy is a list of rules; the first that names the peer decides, and nobody whom no rule
//! names gets in. A rule that leaves a key out grants nothing of that kind. The limits are per
//! user, not per session, so a second connection buys nothing.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use libexo::abi::wire::{NAME_LEN, PortName};
use serde::{Deserialize, Serialize};

use crate::config::{GroupId, UserId};
use crate::identity::Identity;

/// Capabilities that a rule grants when it does not say: a few ports with their segments. A
/// capability without frames or a port behind it costs exod a table slot and nothing else.
pub const CAPABILITIES_DEFAULT: u32 = 64;

/// Longest pattern: every character of a name may have a star before it.
pub const PATTERN_LEN: usize = 2 * NAME_LEN;

/// The list of rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Policy {
    /// In the order of the file.
    pub rules: Vec<Rule>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawRule", into = "RawRule")]
pub struct Rule {
    /// Whom it is for.
    pub who: Who,
    /// What they get.
    pub grant: Arc<Grant>,
}

/// Whom a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// One user.
    User(u32),
    /// Whoever is in a group, first or supplementary.
    Group(u32),
    /// Whoever can open the socket.
    Any,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::User(uid) => write!(f, "user {uid}"),
            Who::Group(gid) => write!(f, "group {gid}"),
            Who::Any => f.write_str("everybody"),
        }
    }
}

/// What a rule grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Frames that the user owns at a time.
    pub max_frames: u32,
    /// Capabilities that the user holds at a time.
    pub max_capabilities: u32,
    /// Port sides that the user holds at a time.
    pub max_ports: u32,
    /// Names of ports that the user may create.
    pub create: Vec<Pattern>,
    /// Names of ports that the user may join.
    pub join: Vec<Pattern>,
    /// Whether ports may be trusted.
    pub trusted: bool,
    /// Whether the user may tap ports and read the ledger.
    pub admin: bool,
}

impl Grant {
    /// No limit but the machine's and the tables'.
    pub fn everything() -> Grant {
        Grant {
            max_frames: u32::MAX,
            max_capabilities: u32::MAX,
            max_ports: u32::MAX,
            create: vec![Pattern("*".into())],
            join: vec![Pattern("*".into())],
            trusted: true,
            admin: true,
        }
    }

    /// Whether this name may be created.
    pub fn may_create(&self, name: &PortName) -> bool {
        self.create.iter().any(|p| p.matches(name.as_str()))
    }

    /// Whether this name may be joined.
    pub fn may_join(&self, name: &PortName) -> bool {
        self.join.iter().any(|p| p.matches(name.as_str()))
    }
}

impl Policy {
    /// What this peer gets: the first rule that names it, or nothing.
    pub fn grant_for(&self, who: &Identity) -> Option<&Arc<Grant>> {
        let names = |rule: &&Rule| match rule.who {
            Who::User(uid) => uid == who.uid,
            Who::Group(gid) => gid == who.gid || who.groups.contains(&gid),
            Who::Any => true,
        };
        self.rules.iter().find(names).map(|rule| &rule.grant)
    }

    /// Rules that never decide, since one before them names the same. A line for each.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for (at, rule) in self.rules.iter().enumerate() {
            let earlier = &self.rules[..at];
            let shadow = |other: &Rule| other.who == Who::Any || other.who == rule.who;
            if let Some(first) = earlier.iter().position(shadow) {
                let (this, first) = (at + 1, first + 1);
                notes.push(format!(
                    "rule {this} never decides: rule {first} before it names {}",
                    rule.who
                ));
            }
        }
        notes
    }
}

/// A port name in which `*` stands for any characters and `?` for one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern(String);

impl Pattern {
    /// Whether the whole name fits. At most [`NAME_LEN`] times [`PATTERN_LEN`] steps.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut p, mut n) = (0, 0);
        // Where to go on after the last star when the straight way fails.
        let mut retry = None;
        while n < name.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    retry = Some((p + 1, n));
                    p += 1;
                }
                Some(b) if *b == b'?' || *b == name[n] => (p, n) = (p + 1, n + 1),
                _ => match retry {
                    Some((after, from)) => {
                        (p, n) = (after, from + 1);
                        retry = Some((after, from + 1));
                    }
                    None => return false,
                },
            }
        }
        pattern[p..].iter().all(|b| *b == b'*')
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Pattern, String> {
        // A pattern is a name once its wildcards are letters; so no pattern is in vain.
        let plain = text.replace(['*', '?'], "x");
        let fits = plain.is_ascii() && (1..=PATTERN_LEN).contains(&plain.len());
        let named =
            |part: &[u8]| std::str::from_utf8(part).is_ok_and(|t| PortName::new(t).is_some());
        if !fits || !plain.as_bytes().chunks(NAME_LEN).all(named) {
            return Err(format!(
                "{text:?} matches no port name: they have letters, digits and -_.:/ (and * and ? here)"
            ));
        }
        Ok(Pattern(text))
    }
}

/// A rule as the file has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<UserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<GroupId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    any: Option<bool>,
    #[serde(default)]
    max_frames: u32,
    #[serde(default = "capabilities_default")]
    max_capabilities: u32,
    #[serde(default)]
    max_ports: u32,
    #[serde(default)]
    create: Vec<Pattern>,
    #[serde(default)]
    join: Vec<Pattern>,
    #[serde(default)]
    trusted: bool,
    #[serde(default)]
    admin: bool,
}

fn capabilities_default() -> u32 {
    CAPABILITIES_DEFAULT
}

impl TryFrom<RawRule> for Rule {
    type Error = &'static str;

    fn try_from(raw: RawRule) -> Result<Rule, &'static str> {
        let who = match (raw.user, raw.group, raw.any) {
            (Some(user), None, None) => Who::User(user.0),
            (None, Some(group), None) => Who::Group(group.0),
            (None, None, Some(true)) => Who::Any,
            _ => {
                return Err(
                    "a rule names exactly one of `user = NAME`, `group = NAME` and `any = true`",
                );
            }
        };
        Ok(Rule {
            who,
            grant: Arc::new(Grant {
                max_frames: raw.max_frames,
                max_capabilities: raw.max_capabilities,
                max_ports: raw.max_ports,
                create: raw.create,
                join: raw.join,
                trusted: raw.trusted,
                admin: raw.admin,
            }),
        })
    }
}

impl From<Rule> for RawRule {
    fn from(rule: Rule) -> RawRule {
        let (mut user, mut group, mut any) = (None, None, None);
        match rule.who {
            Who::User(uid) => user = Some(UserId(uid)),
            Who::Group(gid) => group = Some(GroupId(gid)),
            Who::Any => any = Some(true),
        }
        let grant = Arc::unwrap_or_clone(rule.grant);
        RawRule {
            user,
            group,
            any,
            max_frames: grant.max_frames,
            max_capabilities: grant.max_capabilities,
            max_ports: grant.max_ports,
            create: grant.create,
            join: grant.join,
            trusted: grant.trusted,
            admin: grant.admin,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn peer(uid: u32, gid: u32, groups: &[u32]) -> Identity {
        Identity {
            pid: 1,
            uid,
            gid,
            groups: groups.to_vec(),
            started_ticks: 0,
            name: libexo::abi::wire::ProcessName::new(b"test"),
        }
    }

    #[test]
    fn the_first_rule_that_names_the_peer_decides() {
        let text = "
            [[rule]]
            user = 7
            max_frames = 1
            [[rule]]
            group = 9
            max_frames = 2
            [[rule]]
            any = true
            max_frames = 3
        ";
        let mut policy = Config::parse(text).expect("a good file").policy;
        let frames = |policy: &Policy, who| policy.grant_for(&who).map(|g| g.max_frames);
        assert_eq!(frames(&policy, peer(7, 9, &[])), Some(1));
        assert_eq!(frames(&policy, peer(8, 9, &[])), Some(2));
        assert_eq!(frames(&policy, peer(8, 1, &[4, 9])), Some(2));
        assert_eq!(frames(&policy, peer(8, 1, &[4])), Some(3));
        policy.rules.pop();
        assert_eq!(frames(&policy, peer(8, 1, &[4])), None);
    }

    #[test]
    fn a_rule_grants_nothing_that_it_does_not_name() {
        let policy = Config::parse("[[rule]]\nany = true")
            .expect("a good file")
            .policy;
        let grant = policy.grant_for(&peer(1, 1, &[])).expect("any");
        let name = PortName::new("a").expect("a name");
        assert_eq!((grant.max_frames, grant.max_ports), (0, 0));
        assert!(!grant.may_create(&name) && !grant.may_join(&name));
        assert!(!grant.trusted && !grant.admin);
    }

    #[test]
    fn rules_that_never_decide_are_named() {
        let text = "
            [[rule]]
            user = 7
            [[rule]]
            group = 7
            [[rule]]
            user = 7
            [[rule]]
            any = true
            [[rule]]
            user = 8
        ";
        let notes = Config::parse(text).expect("a good file").policy.notes();
        assert_eq!(
            notes,
            [
                "rule 3 never decides: rule 1 before it names user 7",
                "rule 5 never decides: rule 4 before it names user 8"
            ]
        );
    }

    #[test]
    fn patterns_match_whole_names() {
        let cases = [
            ("*", "a", true),
            ("demo-*", "demo-", true),
            ("demo-*", "demo", false),
            ("*-b", "a-b-b", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a*b*c", "a1b2b3c", true),
            ("a*b*c", "a1b2b3", false),
            ("abc", "abcd", false),
        ];
        for (pattern, name, expected) in cases {
            let pattern = Pattern::try_from(pattern.to_owned()).expect("a pattern");
            assert_eq!(pattern.matches(name), expected, "{pattern:?} {name}");
        }
    }
}
