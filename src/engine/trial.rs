//! A trial of two plans that cost the same: both draft in turn until one is accepted more often.

use std::sync::Arc;

use crate::drafting::DraftPlan;

/// Judged tokens of each side before a difference is looked at.
const LEAST_JUDGED: u32 = 100;

/// Judged tokens of each side after which the better one wins, however small the difference.
const MOST_JUDGED: u32 = 400;

/// Standard deviations that a difference takes to end the trial early. The trial is looked at again and again, so two would be too few.
const DEVIATIONS: f64 = 3.0;

/// A plan on trial against the one in use.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    rival: Arc<DraftPlan>,
    /// Of the incumbent and the rival.
    sides: [Side; 2],
    turn: Arm,
}

/// One of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Arm {
    /// The plan in use.
    Incumbent,
    /// The one on trial.
    Rival,
}

#[derive(Clone, Copy, Default, Debug)]
struct Side {
    judged: u32,
    accepted: u32,
}

// === impl Side ===

impl Side {
    fn share(self) -> f64 {
        f64::from(self.accepted) / f64::from(self.judged.max(1))
    }
}

// === impl Trial ===

impl Trial {
    pub(super) fn new(rival: Arc<DraftPlan>) -> Self {
        Self { rival, sides: [Side::default(); 2], turn: Arm::Rival }
    }

    pub(super) fn rival(&self) -> &Arc<DraftPlan> {
        &self.rival
    }

    /// Whose turn it is.
    pub(super) fn next(&mut self) -> Arm {
        self.turn = match self.turn {
            Arm::Incumbent => Arm::Rival,
            Arm::Rival => Arm::Incumbent,
        };
        self.turn
    }

    /// Takes in what became of a drafted token; the winner when it is decided. The incumbent stays if there is no difference.
    pub(super) fn observe(&mut self, arm: Arm, accepted: bool) -> Option<Arm> {
        let side = &mut self.sides[arm as usize];
        side.judged += 1;
        side.accepted += u32::from(accepted);
        let least = self.sides.iter().map(|side| side.judged).min().unwrap_or(0);
        if least < LEAST_JUDGED {
            return None;
        }
        let variance = |side: &Side| (side.share() * (1.0 - side.share())).max(1e-4) / f64::from(side.judged);
        let deviation = self.sides.iter().map(variance).sum::<f64>().sqrt();
        let (incumbent, rival) = self.acceptance();
        let gain = rival - incumbent;
        let decided = least >= MOST_JUDGED || gain.abs() > DEVIATIONS * deviation;
        decided.then_some(if gain > 0.0 { Arm::Rival } else { Arm::Incumbent })
    }

    /// The shares of the incumbent and of the rival that were accepted.
    pub(super) fn acceptance(&self) -> (f64, f64) {
        (self.sides[0].share(), self.sides[1].share())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::is_accepted;
    use crate::drafting::SkipSet;

    /// The winner of a trial in which evenly spread shares are accepted, and the judgements that it took.
    fn run(incumbent: f64, rival: f64) -> (Arm, u32) {
        let mut trial = Trial::new(Arc::new(DraftPlan::new(SkipSet::new(&[1], &[1], 4).unwrap(), 0.5)));
        for index in 1.. {
            let arm = trial.next();
            let share = if arm == Arm::Rival { rival } else { incumbent };
            if let Some(winner) = trial.observe(arm, is_accepted(index as usize / 2, share)) {
                return (winner, index);
            }
        }
        unreachable!("a trial ends")
    }

    #[test]
    fn the_better_side_wins_and_large_differences_show_early() {
        let (winner, early) = run(0.5, 0.8);
        assert_eq!((winner, early), (Arm::Rival, 2 * LEAST_JUDGED));
        let (winner, late) = run(0.60, 0.62);
        assert_eq!((winner, late), (Arm::Rival, 2 * MOST_JUDGED));
        assert_eq!(run(0.62, 0.60).0, Arm::Incumbent);
        assert_eq!(run(0.6, 0.6).0, Arm::Incumbent, "a rival must be better");
    }
}
