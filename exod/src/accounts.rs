//! What each user holds, over all of its sessions.
//!
//! The capability table charges domains; the policy speaks of users, who may open several. An
//! account outlives the user's last session as long as something is still charged to it: frames
//! that a pin holds, or a session whose socket cannot be closed.

#![forbid(unsafe_code)]

use std::collections::HashMap;

use libexo::abi::wire::ErrorCode;

use crate::policy::Grant;

/// One user's holdings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Sessions that are not closed.
    pub sessions: u32,
    /// Frames, until the kernel has them back.
    pub frames: u32,
    /// Capabilities.
    pub capabilities: u32,
    /// Port sides.
    pub ports: u32,
}

impl Account {
    /// Whether `more` can be added without exceeding the grant.
    pub fn admits(&self, grant: &Grant, more: Account) -> Result<(), ErrorCode> {
        let fits = |held: u32, more: u32, max: u32| {
            more == 0 || held.checked_add(more).is_some_and(|sum| sum <= max)
        };
        let within = fits(self.frames, more.frames, grant.max_frames)
            && fits(self.capabilities, more.capabilities, grant.max_capabilities)
            && fits(self.ports, more.ports, grant.max_ports);
        if within {
            Ok(())
        } else {
            Err(ErrorCode::Quota)
        }
    }
}

/// All users that hold anything.
#[derive(Debug, Default)]
pub struct Accounts {
    users: HashMap<u32, Account>,
}

impl Accounts {
    /// What a user holds.
    pub fn of(&self, uid: u32) -> Account {
        self.users.get(&uid).copied().unwrap_or_default()
    }

    /// Sessions of all users.
    pub fn sessions(&self) -> u32 {
        self.users.values().map(|account| account.sessions).sum()
    }

    /// Frames of all users.
    pub fn frames(&self) -> u64 {
        self.users.values().map(|a| u64::from(a.frames)).sum()
    }

    /// Charges a user.
    pub fn add(&mut self, uid: u32, more: Account) {
        let account = self.users.entry(uid).or_default();
        account.sessions = account.sessions.saturating_add(more.sessions);
        account.frames = account.frames.saturating_add(more.frames);
        account.capabilities = account.capabilities.saturating_add(more.capabilities);
        account.ports = account.ports.saturating_add(more.ports);
    }

    /// Takes a charge back.
    pub fn subtract(&mut self, uid: u32, less: Account) {
        let Some(account) = self.users.get_mut(&uid) else {
            return;
        };
        account.sessions = account.sessions.saturating_sub(less.sessions);
        account.frames = account.frames.saturating_sub(less.frames);
        account.capabilities = account.capabilities.saturating_sub(less.capabilities);
        account.ports = account.ports.saturating_sub(less.ports);
        if *account == Account::default() {
            self.users.remove(&uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_balances_and_goes() {
        let mut accounts = Accounts::default();
        let grant = Grant {
            max_frames: 3,
            ..Grant::everything()
        };
        let two = Account {
            frames: 2,
            ..Account::default()
        };
        accounts.add(7, two);
        assert_eq!(accounts.of(7).admits(&grant, two), Err(ErrorCode::Quota));
        let huge = Account {
            frames: u32::MAX,
            ..Account::default()
        };
        assert_eq!(accounts.of(7).admits(&grant, huge), Err(ErrorCode::Quota));
        assert_eq!(accounts.of(8).admits(&grant, two), Ok(()));
        accounts.subtract(7, two);
        assert!(accounts.users.is_empty());
    }
}
