//! The modes that `bench decode` knows: each a name, and what its requests ask for.

use skipstone_engine::Speculation;
use skipstone_engine::adapt::Allowed;

/// A way to decode.
#[derive(Debug)]
pub(super) struct KnownMode {
    /// Its name on the command line and in results.
    pub(super) name: &'static str,
    /// What it is, for the help.
    pub(super) about: &'static str,
    /// What its requests ask for.
    pub(super) speculation: fn() -> Speculation,
}

/// All modes, in the order of the help.
pub(super) const MODES: &[KnownMode] = &[
    KnownMode { name: "off", about: "plain decoding", speculation: || Speculation::Off },
    KnownMode {
        name: "unified",
        about: "evenly spaced layers skipped, or the skip lists of the settings",
        speculation: || Speculation::Static { skip_set: None, max_draft_tokens: None },
    },
    KnownMode {
        name: "swift",
        about: "layers skipped by the published search of SWIFT, which all prompts share",
        speculation: || Speculation::Swift,
    },
    KnownMode {
        name: "bridged",
        about: "the server chooses among the profile's plans, without n-gram matches",
        speculation: || only(Allowed { ngram: false, ..Allowed::default() }),
    },
    KnownMode {
        name: "ngram",
        about: "the server chooses when to propose n-gram matches, without layer skip",
        speculation: || only(Allowed { plans: false, ..Allowed::default() }),
    },
    KnownMode {
        name: "always",
        about: "every plan of the profile in turn, whatever the odds, without n-gram matches: what drafts are worth",
        speculation: || only(Allowed { always: true, ngram: false, ..Allowed::default() }),
    },
    KnownMode {
        name: "adaptive",
        about: "the server chooses among all it has, as it does by default",
        speculation: || Speculation::adaptive(None),
    },
];

fn only(allowed: Allowed) -> Speculation {
    Speculation::Adaptive { max_draft_tokens: None, allowed }
}

/// The mode that is called `name`.
pub(super) fn mode(name: &str) -> Result<&'static KnownMode, String> {
    MODES.iter().find(|mode| mode.name == name).ok_or_else(|| {
        let names: Vec<&str> = MODES.iter().map(|mode| mode.name).collect();
        format!("the modes are {}", names.join(", "))
    })
}

/// The modes with what they are, for the help.
pub(super) fn help() -> String {
    let lines = MODES.iter().map(|mode| format!("  {:<9} {}", mode.name, mode.about));
    format!("Modes:\n{}", lines.collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_different_and_known() {
        for known in MODES {
            assert_eq!(
                MODES.iter().filter(|other| other.name == known.name).count(),
                1,
                "{}",
                known.name
            );
            assert_eq!(mode(known.name).map(|mode| mode.name), Ok(known.name));
            assert!(help().contains(known.about), "{}", known.name);
        }
        assert!(mode("fast").is_err_and(|message| message.contains("off, unified")));
    }
}
