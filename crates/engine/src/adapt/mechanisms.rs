//! The adaptive mechanisms that can be switched off one by one, to measure what each is worth.

/// Which mechanisms work; all of them by default. `bench decode --without NAME` switches one off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mechanisms {
    /// A bet on a plan that was judged little may look somewhat worse than plain decoding.
    pub doubt: bool,
    /// A stream that loses by the clock rests.
    pub fold: bool,
    /// What all streams won backs the stake of each.
    pub backing: bool,
    /// Bets that don't look best are tried now and then.
    pub exploration: bool,
    /// All calibrated plans share how far text is off calibration's.
    pub shift: bool,
    /// Each stream has an offset of its own.
    pub offsets: bool,
    /// What was learned takes a seat only if it drafts better.
    pub auditions: bool,
    /// Plain steps confirm the machine's pace where drafting always wins.
    pub confirmation: bool,
}

/// Names of the mechanisms, as the command line knows them.
pub const MECHANISMS: [&str; 8] =
    ["doubt", "fold", "backing", "exploration", "shift", "offsets", "auditions", "confirmation"];

// === impl Mechanisms ===

impl Default for Mechanisms {
    fn default() -> Self {
        Self {
            doubt: true,
            fold: true,
            backing: true,
            exploration: true,
            shift: true,
            offsets: true,
            auditions: true,
            confirmation: true,
        }
    }
}

impl Mechanisms {
    /// All but the one of this name, one of [`MECHANISMS`].
    pub fn without(name: &str) -> Option<Self> {
        let mut all = Self::default();
        let switch = match name {
            "doubt" => &mut all.doubt,
            "fold" => &mut all.fold,
            "backing" => &mut all.backing,
            "exploration" => &mut all.exploration,
            "shift" => &mut all.shift,
            "offsets" => &mut all.offsets,
            "auditions" => &mut all.auditions,
            "confirmation" => &mut all.confirmation,
            _ => return None,
        };
        *switch = false;
        Some(all)
    }
}
