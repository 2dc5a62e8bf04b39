//! Knowing when to fold: drafting is a bet, and a stream that loses it decodes plainly and probes again at a low duty.

/// Cycles that are judged together. Fewer would fold on a run of bad luck, more would pay for a bad plan too long.
const CYCLES: u32 = 8;

/// Tokens decoded plainly after the first lost bet; doubled after each further one. With 8 cycles of about two tokens each that
/// keeps probes at most a fifth of the time at first, and falling.
const FIRST_REST: usize = 64;

/// Longest rest, in tokens.
const LONGEST_REST: usize = 1024;

/// Decides, for one stream, whether the next cycle drafts.
#[derive(Clone, Debug)]
pub struct Fold {
    state: State,
    next_rest: usize,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Drafting: seconds that plain decoding would have taken, seconds spent, cycles counted.
    Betting { plain: f64, spent: f64, cycles: u32 },
    /// Decoding plainly for this many more tokens.
    Resting { tokens: usize },
}

// === impl Fold ===

impl Default for Fold {
    fn default() -> Self {
        Self { state: State::BETTING, next_rest: FIRST_REST }
    }
}

impl State {
    const BETTING: Self = Self::Betting { plain: 0.0, spent: 0.0, cycles: 0 };
}

impl Fold {
    /// Whether to draft now.
    pub fn drafts(&self) -> bool {
        matches!(self.state, State::Betting { .. })
    }

    /// Takes in a finished cycle or plain step: the tokens it committed, the seconds that plain decoding takes for each, and the seconds
    /// that were spent.
    pub fn observe(&mut self, tokens: usize, plain_seconds: f64, spent_seconds: f64) {
        match &mut self.state {
            State::Betting { plain, spent, cycles } => {
                *plain += tokens as f64 * plain_seconds;
                *spent += spent_seconds;
                *cycles += 1;
                if *cycles < CYCLES {
                    return;
                }
                if *plain >= *spent {
                    self.state = State::BETTING;
                    self.next_rest = FIRST_REST;
                } else {
                    self.state = State::Resting { tokens: self.next_rest };
                    self.next_rest = (2 * self.next_rest).min(LONGEST_REST);
                }
            }
            State::Resting { tokens: left } => {
                *left = left.saturating_sub(tokens);
                if *left == 0 {
                    self.state = State::BETTING;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_winning_bet_goes_on() {
        let mut fold = Fold::default();
        for _ in 0..100 {
            assert!(fold.drafts());
            fold.observe(3, 0.01, 0.02);
        }
    }

    #[test]
    fn a_losing_bet_is_folded_for_longer_and_longer() {
        let mut fold = Fold::default();
        let mut rests = Vec::new();
        for _ in 0..7 {
            for _ in 0..CYCLES {
                assert!(fold.drafts());
                fold.observe(1, 0.01, 0.02);
            }
            let mut rest = 0;
            while !fold.drafts() {
                fold.observe(1, 0.01, 0.01);
                rest += 1;
            }
            rests.push(rest);
        }
        assert_eq!(rests, [64, 128, 256, 512, 1024, 1024, 1024]);
        for _ in 0..CYCLES {
            fold.observe(3, 0.01, 0.02);
        }
        for _ in 0..CYCLES {
            fold.observe(1, 0.01, 0.02);
        }
        fold.observe(63, 0.01, 0.01);
        assert!(!fold.drafts(), "a win forgives: the next rest is the first again");
        fold.observe(1, 0.01, 0.01);
        assert!(fold.drafts());
    }
}
