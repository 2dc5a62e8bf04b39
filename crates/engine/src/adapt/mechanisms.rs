//! The adaptive mechanisms that can be switched off one by one, to measure what each is worth.

/// The mechanisms that work; all of them by default. `bench decode --without NAME` switches one
/// off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mechanisms {
    /// All calibrated plans share how far text is off calibration's.
    pub shift: bool,
    /// Each stream has offsets of its own.
    pub offsets: bool,
    /// Plain steps confirm the machine's pace where drafting always wins.
    pub confirmation: bool,
}

/// Names of the mechanisms, as the command line knows them.
pub const MECHANISMS: [&str; 3] = ["shift", "offsets", "confirmation"];

// === impl Mechanisms ===

impl Default for Mechanisms {
    fn default() -> Self {
        Self { shift: true, offsets: true, confirmation: true }
    }
}

impl Mechanisms {
    /// All but the one of this name, one of [`MECHANISMS`].
    pub fn without(name: &str) -> Option<Self> {
        let all = Self::default();
        match name {
            "shift" => Some(Self { shift: false, ..all }),
            "offsets" => Some(Self { offsets: false, ..all }),
            "confirmation" => Some(Self { confirmation: false, ..all }),
            _ => None,
        }
    }
}
