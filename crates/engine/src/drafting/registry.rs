//! The policies by name.

use super::policies::{adaptive, fixed, swift, unified};
use super::policy::{DraftPolicy, Setup};

/// A policy: its name, what it does, and how it starts for a stream.
pub struct PolicyEntry {
    /// Names it in requests, settings, statistics and metrics.
    pub name: &'static str,
    /// Description of what it does, in a line.
    pub about: &'static str,
    /// Whether requests may name what it skips.
    pub takes_skip_set: bool,
    /// Starts it for a stream.
    pub start: fn(&mut Setup<'_>) -> Box<dyn DraftPolicy>,
}

/// Every policy that a request or a setting can name. To add one, write its file and name it here.
pub static POLICIES: &[&PolicyEntry] =
    &[&adaptive::ENTRY, &fixed::ENTRY, &unified::ENTRY, &swift::ENTRY];

/// The policy that is called `name`.
pub fn policy(name: &str) -> Option<&'static PolicyEntry> {
    POLICIES.iter().copied().find(|entry| entry.name == name)
}

// === impl PolicyEntry ===

impl PartialEq for PolicyEntry {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl std::fmt::Debug for PolicyEntry {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_different_and_known() {
        for entry in POLICIES {
            let same = POLICIES.iter().filter(|other| other.name == entry.name);
            assert_eq!(same.count(), 1, "{}", entry.name);
            assert_eq!(policy(entry.name), Some(*entry));
        }
        assert_eq!(policy("fast"), None);
    }
}
