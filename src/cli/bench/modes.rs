//! The modes that `bench decode` knows: each a name, and what its requests ask for.

use skipstone_engine::Speculation;
use skipstone_engine::adapt::Allowed;
use skipstone_engine::drafting::{POLICIES, PolicyRequest, policy};

/// A way to decode.
#[derive(Clone, Debug)]
pub(super) struct KnownMode {
    /// Its name on the command line and in results.
    pub(super) name: &'static str,
    /// Description of what it is, for the help.
    pub(super) about: &'static str,
    /// Drafting that its requests ask for.
    pub(super) speculation: Speculation,
}

/// The policy that the restricted modes restrict.
const BETS: &str = "adaptive";

/// Modes that may bet on a part of what there is.
const RESTRICTED: [(&str, &str, Allowed); 3] = [
    (
        "bridged",
        "adaptive without n-gram matches",
        Allowed { plans: true, ngram: false, always: false },
    ),
    ("ngram", "adaptive without layer skip", Allowed { plans: false, ngram: true, always: false }),
    (
        "always",
        "every plan of the profile in turn, whatever the odds, without n-gram matches: what \
         drafts are worth",
        Allowed { plans: true, ngram: false, always: true },
    ),
];

/// All modes, in the order of the help: plain decoding, every policy, restricted ones.
pub(super) fn modes() -> impl Iterator<Item = KnownMode> {
    let off = KnownMode { name: "off", about: "plain decoding", speculation: Speculation::Off };
    let policies = POLICIES.iter().map(|entry| KnownMode {
        name: entry.name,
        about: entry.about,
        speculation: Speculation::Draft(PolicyRequest::new(entry)),
    });
    let restricted = RESTRICTED.into_iter().filter_map(|(name, about, allowed)| {
        let request = PolicyRequest { allowed, ..PolicyRequest::new(policy(BETS)?) };
        Some(KnownMode { name, about, speculation: Speculation::Draft(request) })
    });
    std::iter::once(off).chain(policies).chain(restricted)
}

/// The mode that is called `name`.
pub(super) fn mode(name: &str) -> Result<KnownMode, String> {
    modes().find(|mode| mode.name == name).ok_or_else(|| {
        let names: Vec<&str> = modes().map(|mode| mode.name).collect();
        format!("the modes are {}", names.join(", "))
    })
}

/// The modes with what they are, for the help.
pub(super) fn help() -> String {
    let lines = modes().map(|mode| format!("  {:<9} {}", mode.name, mode.about));
    format!("Modes:\n{}", lines.collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_different_and_known() {
        assert_eq!(modes().count(), 1 + POLICIES.len() + RESTRICTED.len());
        for known in modes() {
            assert_eq!(modes().filter(|other| other.name == known.name).count(), 1);
            assert_eq!(mode(known.name).map(|mode| mode.name), Ok(known.name));
            assert!(help().contains(known.about), "{}", known.name);
        }
        assert!(mode("fast").is_err_and(|message| message.contains("off, adaptive")));
    }
}
