//! Knowing when to fold: drafting is a bet, and a stream that loses it decodes plainly and probes
//! again at a low duty.
//!
//! The controller's forecasts already turn down what looks like a loss. This is the safety net
//! under them: it goes by the clock alone, so it holds whatever the forecasts get wrong.

use super::mechanisms::Mechanisms;

/// What a stream may lose to drafting before it folds, in plain steps, net of what it won, where
/// drafting has not won yet. A cycle wins or loses about one step by chance, so less would fold on
/// bad luck.
const STAKE: f64 = 4.0;

/// What a probe may lose.
const PROBE_STAKE: f64 = 1.5;

/// What the winnings of all streams add to a stake at most. Where a cycle wins an eighth of a step
/// on average, bad luck takes this much in one stream of many hundreds, but four steps in every
/// third.
const MOST_BACKING: f64 = 12.0;

/// Tokens decoded plainly after the first lost stake; doubled after each further one.
const FIRST_REST: usize = 64;

/// Longest rest, in tokens.
const LONGEST_REST: usize = 1024;

/// Share of the time that bets may lose which don't look best.
const EXPLORATION: f64 = 0.01;

/// What may be saved up for such bets, in plain steps: spent in one stream, it would slow that one
/// down.
const MOST_SAVED: f64 = 4.0;

/// What all streams share: what drafting has won on balance, in plain steps, which backs the stakes
/// of each, and what bets may lose that don't look best. One that wins costs nothing: where
/// forecasts are too low, it goes on.
#[derive(Clone, Copy, Default, Debug)]
pub struct Bank {
    won: f64,
    /// For exploration, in plain steps.
    saved: f64,
    explorations: usize,
    mechanisms: Mechanisms,
}

/// Decides, for one stream, whether the next cycle drafts.
#[derive(Clone, Debug)]
pub struct Fold {
    state: State,
    next_rest: usize,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Drafting, with so many plain steps left to lose, and never more than the stake. With
    /// `enough` of them earlier losses are forgiven.
    Betting { left: f64, enough: f64 },
    /// Decoding plainly for this many more tokens.
    Resting { tokens: usize },
}

// === impl Bank ===

impl Bank {
    fn settle(&mut self, won: f64) {
        self.won = (self.won + won).clamp(0.0, MOST_BACKING);
    }

    /// The mechanisms that work.
    pub fn mechanisms(&self) -> Mechanisms {
        self.mechanisms
    }

    /// Switches mechanisms.
    pub fn set_mechanisms(&mut self, mechanisms: Mechanisms) {
        self.mechanisms = mechanisms;
    }

    /// What a stream may lose.
    fn stake(self) -> f64 {
        STAKE + if self.mechanisms.backing { self.won } else { 0.0 }
    }

    fn probe_stake(self) -> f64 {
        PROBE_STAKE * self.stake() / STAKE
    }

    /// Whether a bet that does not look best may be tried.
    pub fn may_explore(&self) -> bool {
        self.mechanisms.exploration && self.saved > 0.0
    }

    /// Bets that were tried so far.
    pub fn explorations(&self) -> usize {
        self.explorations
    }

    /// Books a cycle's time, and if it tried a bet what that lost, or won as less than nothing, in
    /// plain steps.
    pub fn book(&mut self, steps: f64, lost: Option<f64>) {
        self.explorations += usize::from(lost.is_some());
        let saved = self.saved + EXPLORATION * steps - lost.unwrap_or(0.0);
        // An interruption looks like a loss of any size.
        self.saved = saved.clamp(-MOST_SAVED, MOST_SAVED);
    }
}

// === impl Fold ===

impl Default for Fold {
    fn default() -> Self {
        Self { state: State::Betting { left: f64::INFINITY, enough: STAKE }, next_rest: FIRST_REST }
    }
}

impl Fold {
    /// Whether to draft now.
    pub fn drafts(&self) -> bool {
        matches!(self.state, State::Betting { .. })
    }

    /// Whether drafting has lost and not won back since.
    pub fn is_on_probation(&self) -> bool {
        self.next_rest > FIRST_REST
    }

    /// Takes in a finished cycle or plain step: the tokens it committed, and the time it took, in
    /// plain steps.
    pub fn observe(&mut self, tokens: usize, spent: f64, bank: &mut Bank) {
        match &mut self.state {
            State::Betting { left, enough } => {
                // An interruption looks like a loss of any size.
                let won = (tokens as f64 - spent).max(-STAKE);
                bank.settle(won);
                let stake = bank.stake();
                *left = (left.min(stake) + won).min(stake);
                if won > 0.0 && *left >= *enough {
                    self.next_rest = FIRST_REST;
                } else if *left < 0.0 {
                    self.state = State::Resting { tokens: self.next_rest };
                    self.next_rest = (2 * self.next_rest).min(LONGEST_REST);
                }
            }
            State::Resting { tokens: left } => {
                *left = left.saturating_sub(tokens);
                if *left == 0 {
                    let left = bank.probe_stake();
                    self.state = State::Betting { left, enough: left + STAKE - PROBE_STAKE };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_winning_bet_goes_on_through_bad_luck() {
        let (mut fold, mut bank) = (Fold::default(), Bank::default());
        for round in 0..200 {
            assert!(fold.drafts(), "{round}");
            // One cycle in three is lost, all in all five percent are won.
            if round % 3 == 0 {
                fold.observe(1, 1.5, &mut bank)
            } else {
                fold.observe(2, 1.65, &mut bank)
            }
        }
    }

    #[test]
    fn a_stream_that_loses_what_others_win_rests_longer_and_longer() {
        let (mut fold, mut bank) = (Fold::default(), Bank::default());
        let mut rests = Vec::new();
        for _ in 0..5 {
            while fold.drafts() {
                fold.observe(1, 1.5, &mut bank);
                (0..4).for_each(|_| Fold::default().observe(2, 1.5, &mut bank));
            }
            let mut rest = 0;
            while !fold.drafts() {
                fold.observe(1, 1.0, &mut bank);
                rest += 1;
            }
            rests.push(rest);
        }
        assert_eq!(rests, [64, 128, 256, 512, 1024]);
    }

    #[test]
    fn what_all_streams_win_backs_a_stream_with_bad_luck() {
        for (backed, folds) in [(false, true), (true, false)] {
            let (mut fold, mut bank) = (Fold::default(), Bank::default());
            if backed {
                (0..100).for_each(|_| Fold::default().observe(2, 1.5, &mut bank));
            }
            (0..12).for_each(|_| fold.observe(1, 1.5, &mut bank));
            assert_eq!(fold.drafts(), !folds, "backed: {backed}");
            // The backing is spent, too.
            (0..40).for_each(|_| fold.observe(1, 1.5, &mut bank));
            assert!(!fold.drafts());
        }
    }

    #[test]
    fn a_losing_bet_is_folded_for_longer_and_longer() {
        let (mut fold, mut bank) = (Fold::default(), Bank::default());
        let (mut rests, mut lost) = (Vec::new(), Vec::new());
        for _ in 0..7 {
            let mut cycles = 0.0;
            while fold.drafts() {
                fold.observe(1, 1.5, &mut bank);
                cycles += 1.0;
            }
            lost.push(0.5 * cycles);
            let mut rest = 0;
            while !fold.drafts() {
                fold.observe(1, 1.0, &mut bank);
                rest += 1;
            }
            rests.push(rest);
        }
        assert_eq!(rests, [64, 128, 256, 512, 1024, 1024, 1024]);
        assert!(fold.is_on_probation());
        assert!(
            lost[0] <= STAKE + 0.5 && lost[1..].iter().all(|&lost| lost <= PROBE_STAKE + 0.5),
            "{lost:?}"
        );
        for _ in 0..4 {
            fold.observe(3, 2.0, &mut bank);
        }
        assert!(!fold.is_on_probation());
        while fold.drafts() {
            fold.observe(1, 1.5, &mut bank);
        }
        fold.observe(63, 63.0, &mut bank);
        assert!(!fold.drafts(), "a win forgives: the next rest is the first again");
        fold.observe(1, 1.0, &mut bank);
        assert!(fold.drafts());
    }

    #[test]
    fn an_interruption_does_not_fold_what_won_before() {
        let (mut fold, mut bank) = (Fold::default(), Bank::default());
        (0..100).for_each(|_| fold.observe(2, 1.5, &mut bank));
        fold.observe(1, 500.0, &mut bank);
        assert!(fold.drafts());
    }
}
