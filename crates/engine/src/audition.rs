//! Auditions: whether a plan would have drafted what streams just said better than the plan that it
//! would replace.
//!
//! Both draft the same committed tokens, one each at several places of a stream's last text, in one
//! pass over spare pages: a paired comparison, which tells small differences apart many times
//! sooner than drafting with both in turn. What counts is what a cycle of one drafted token yields
//! for its time. All auditions together may take [`BUDGET`] of the time of the streams that they
//! are made on.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::drafting::DraftPlan;
use skipstone_model::Bridge;

/// Share of the time of the streams they are made on that auditions may take. After each pass comes
/// a pause, since what is saved up while nobody waits would slow down the streams of one moment.
const BUDGET: f64 = 0.01;

/// Places of a stream's text that one pass looks at.
pub(super) const PLACES: usize = 8;

/// Tokens between two places: neighbours tend to be right or wrong together.
pub(super) const STRIDE: usize = 4;

/// Tokens drafted by each side before a difference is looked at.
const LEAST: u32 = 96;

/// Tokens drafted by each side after which it is decided.
const MOST: u32 = 384;

/// Standard deviations that a difference takes to decide early. It is looked at again and again, so
/// two would be too few.
const EARLY: f64 = 3.0;

/// Candidates that may wait; a machine that can't try so many lets the oldest go.
const WAITING: usize = 4;

/// The candidates, the one on stage first.
#[derive(Default)]
pub(super) struct Auditions {
    candidates: VecDeque<Candidate>,
    /// Time of such streams until the next audition.
    pause_seconds: f64,
}

/// A plan that would replace another.
pub(super) struct Candidate {
    /// The place in the frontier of the plan it would replace.
    pub(super) seat: usize,
    pub(super) name: String,
    pub(super) plan: Arc<DraftPlan>,
    /// What is new in it.
    bridge: Arc<Bridge>,
    /// Its draft step's cost less that of the plan it would replace, in plain steps.
    pub(super) extra_cost: f64,
    tally: Tally,
}

/// What became of the tokens that both drafted.
#[derive(Clone, Copy, Default, Debug)]
struct Tally {
    tokens: u32,
    /// The incumbent was right.
    incumbent: u32,
    /// The candidate was right.
    candidate: u32,
    /// Exactly one of them was.
    apart: u32,
}

/// What an audition is decided by: costs in plain steps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stakes {
    /// The incumbent's draft step.
    pub(super) draft: f64,
    /// Whether the candidate skips what the incumbent skips, so that only their bridges differ.
    pub(super) same_sublayers: bool,
    /// A verify pass of two rows.
    pub(super) verify: f64,
}

/// How an audition ended.
pub(super) struct Outcome {
    pub(super) candidate: Candidate,
    pub(super) is_better: bool,
    /// Shares that were right, of the incumbent and of the candidate.
    pub(super) agreement: (f64, f64),
    pub(super) tokens: u32,
}

// === impl Auditions ===

impl Auditions {
    /// Puts a candidate in line, in place of one that wants the same seat for a bridge over the
    /// same run and was not tried yet: to begin anew with each fit would never come to an end.
    pub(super) fn enter(&mut self, candidate: Candidate) {
        let is_same = |other: &Candidate| {
            let same_run = other.bridge.span() == candidate.bridge.span();
            other.seat == candidate.seat && same_run && other.tally.tokens == 0
        };
        match self.candidates.iter_mut().find(|other| is_same(other)) {
            Some(other) => *other = candidate,
            None => self.candidates.push_back(candidate),
        }
        if self.candidates.len() > WAITING {
            // The oldest that was not tried yet.
            let is_tried = self.candidates[0].tally.tokens > 0;
            self.candidates.remove(usize::from(is_tried));
        }
    }

    /// The candidate on stage, unless auditions have used up their share of the time.
    pub(super) fn on_stage(&self) -> Option<&Candidate> {
        self.candidates.front().filter(|_| self.pause_seconds <= 0.0)
    }

    /// Takes in that `plan` has taken a seat, whose draft step costs `extra_cost` more than its
    /// predecessor's. Who waits for the seat with another bridge of such a plan now means this one.
    pub(super) fn reseat(&mut self, seat: usize, plan: &DraftPlan, extra_cost: f64) {
        for rival in self.candidates.iter_mut().filter(|candidate| candidate.seat == seat) {
            rival.extra_cost -= extra_cost;
            if rival.plan.skip_set() == plan.skip_set()
                && let Ok(plan) = plan.with_bridge(Arc::clone(&rival.bridge))
            {
                rival.plan = Arc::new(plan);
            }
        }
    }

    /// Drops the candidate on stage: it can't be tried.
    pub(super) fn give_up(&mut self) {
        self.candidates.pop_front();
    }

    /// Whether nobody waits.
    pub(super) fn is_idle(&self) -> bool {
        self.candidates.is_empty()
    }

    /// Books the time of streams that auditions may be made on.
    pub(super) fn observe_pass(&mut self, seconds: f64) {
        self.pause_seconds -= seconds;
    }

    /// Takes in what the incumbent and the candidate on stage made of some tokens: whether each was
    /// right. Says how it ended, if it did.
    pub(super) fn observe(
        &mut self,
        right: impl Iterator<Item = (bool, bool)>,
        seconds: f64,
        stakes: Stakes,
    ) -> Option<Outcome> {
        self.pause_seconds = seconds / BUDGET;
        let candidate = self.candidates.front_mut()?;
        right.for_each(|(incumbent, other)| candidate.tally.observe(incumbent, other));
        let is_better = candidate.verdict(stakes)?;
        let candidate = self.candidates.pop_front()?;
        let tally = candidate.tally;
        let agreement = (tally.share(tally.incumbent), tally.share(tally.candidate));
        Some(Outcome { candidate, is_better, agreement, tokens: tally.tokens })
    }
}

// === impl Candidate ===

impl Candidate {
    pub(super) fn new(
        seat: usize,
        name: String,
        plan: Arc<DraftPlan>,
        bridge: Arc<Bridge>,
        extra_cost: f64,
    ) -> Self {
        Self { seat, name, plan, bridge, extra_cost, tally: Tally::default() }
    }

    /// Whether it is better, once that is decided.
    fn verdict(&self, stakes: Stakes) -> Option<bool> {
        let tally = &self.tally;
        if tally.tokens < LEAST {
            return None;
        }
        let deviation = f64::from(tally.apart.max(1)).sqrt() / f64::from(tally.tokens);
        // What a cycle of one drafted token yields, were the candidate's share of right ones off by
        // so many deviations.
        let gain = |deviations: f64| {
            let yields = |share: f64, draft: f64| (1.0 + share) / (draft + stakes.verify);
            yields(
                tally.share(tally.candidate) + deviations * deviation,
                stakes.draft + self.extra_cost,
            ) - yields(tally.share(tally.incumbent), stakes.draft)
        };
        match tally.tokens >= MOST {
            // Of many skip sets the one that looks best was lucky too; a bridge learned from more
            // text is better beforehand.
            true => Some(gain(if stakes.same_sublayers { 0.0 } else { -1.0 }) > 0.0),
            false if gain(-EARLY) > 0.0 => Some(true),
            false if gain(EARLY) < 0.0 => Some(false),
            false => None,
        }
    }
}

// === impl Tally ===

impl Tally {
    fn observe(&mut self, incumbent: bool, candidate: bool) {
        self.tokens += 1;
        self.incumbent += u32::from(incumbent);
        self.candidate += u32::from(candidate);
        self.apart += u32::from(incumbent != candidate);
    }

    fn share(&self, right: u32) -> f64 {
        f64::from(right) / f64::from(self.tokens.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::is_accepted;
    use crate::drafting::SkipSet;

    const STAKES: Stakes = Stakes { draft: 0.4, verify: 1.1, same_sublayers: true };

    fn candidate(extra_cost: f64) -> Candidate {
        two_bridges(extra_cost, 2)
    }

    /// Without layers 1 and 3, with a new bridge over the run from sublayer `first` on.
    fn two_bridges(extra_cost: f64, first: usize) -> Candidate {
        let bridge = |first: usize| {
            Arc::new(
                Bridge::new(first..first + 2, 8, vec![extra_cost as f32; 8], &[], &[]).unwrap(),
            )
        };
        let plan = DraftPlan::new(SkipSet::new(&[1, 3], &[1, 3], 5).unwrap(), 0.5);
        let plan = plan.with_bridges(vec![bridge(2), bridge(6)]).unwrap();
        Candidate::new(0, "candidate".to_owned(), Arc::new(plan), bridge(first), extra_cost)
    }

    /// Whether the candidate wins, and after how many tokens, where each side is right for an
    /// evenly spread share of the tokens.
    fn run(candidate: Candidate, stakes: Stakes, incumbent: f64, share: f64) -> (bool, u32) {
        let mut auditions = Auditions::default();
        auditions.enter(candidate);
        for index in 0.. {
            // The better side is right wherever the other is.
            let right = (is_accepted(index, incumbent), is_accepted(index, share));
            if let Some(outcome) = auditions.observe([right].into_iter(), 0.0, stakes) {
                assert!(auditions.is_idle());
                return (outcome.is_better, outcome.tokens);
            }
        }
        unreachable!("an audition ends")
    }

    #[test]
    fn the_better_plan_wins_and_large_differences_show_early() {
        let cases = [
            ("much better", true, 0.0, (0.5, 0.8), true, LEAST),
            ("much worse", true, 0.0, (0.8, 0.5), false, LEAST),
            ("a bridge somewhat better", true, 0.0, (0.70, 0.72), true, MOST),
            ("a bridge no better", true, 0.0, (0.7, 0.7), false, MOST),
            ("another skip set hardly better", false, 0.0, (0.70, 0.705), false, MOST),
            ("as right, and cheaper", false, -0.1, (0.7, 0.7), true, LEAST),
            ("better, but too dear", false, 0.2, (0.70, 0.75), false, MOST),
        ];
        let mut failures = Vec::new();
        for (case, same_sublayers, extra_cost, (incumbent, share), wins, tokens) in cases {
            let stakes = Stakes { same_sublayers, ..STAKES };
            let found = run(candidate(extra_cost), stakes, incumbent, share);
            if found.0 != wins || (found.1 == LEAST) != (tokens == LEAST) {
                failures.push(format!("{case}: {found:?}"));
            }
        }
        assert!(failures.is_empty(), "{failures:#?}");
    }

    #[test]
    fn each_audition_is_followed_by_a_pause_whatever_came_before() {
        let mut auditions = Auditions::default();
        assert!(auditions.on_stage().is_none());
        auditions.enter(candidate(0.0));
        assert!(auditions.on_stage().is_some());
        auditions.observe_pass(1000.0);
        for _ in 0..2 {
            assert!(auditions.observe([(true, true)].into_iter(), 0.03, STAKES).is_none());
            auditions.observe_pass(2.9);
            assert!(auditions.on_stage().is_none());
            auditions.observe_pass(0.2);
            assert!(auditions.on_stage().is_some());
        }
    }

    #[test]
    fn who_waits_for_a_seat_keeps_what_its_new_plan_has() {
        let mut auditions = Auditions::default();
        auditions.enter(two_bridges(0.1, 2));
        auditions.enter(two_bridges(0.25, 6));
        assert_eq!(auditions.candidates.len(), 2, "they are bridges over different runs");
        let winner = auditions.candidates.pop_front().unwrap();
        auditions.reseat(0, &winner.plan, winner.extra_cost);
        let waiting = &auditions.candidates[0];
        let digests = |bridges: &[Arc<Bridge>]| [bridges[0].digest(), bridges[1].digest()];
        let expected = [winner.plan.bridges()[0].digest(), waiting.bridge.digest()];
        assert_eq!(digests(waiting.plan.bridges()), expected);
        assert!((waiting.extra_cost - 0.15).abs() < 1e-12);
    }

    #[test]
    fn a_newer_bridge_takes_the_place_of_an_older_one_that_was_not_tried() {
        let mut auditions = Auditions::default();
        for tried in [false, true, false, false] {
            auditions.enter(candidate(0.0));
            if tried {
                auditions.observe([(true, false)].into_iter(), 0.0, STAKES);
            }
        }
        assert_eq!(auditions.candidates.len(), 2);
        assert_eq!(auditions.candidates[0].tally.tokens, 1);
    }
}
