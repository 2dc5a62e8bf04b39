//! What a stream's own text says about plans: auditions, and SWIFT's search.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use super::super::account::StepTime;
use super::super::audition::{PLACES, STRIDE};
use super::super::bets::Betting;
use super::super::score::{ScoredText, Scratchpad};
use super::Stream;
use skipstone_model::Runner;

impl Stream {
    /// Whether it may be learned from.
    pub(in super::super) fn teaches(&self) -> bool {
        self.request.teaches
    }

    /// Whether plans may be tried on its text: what adapts is judged and paid for by the streams
    /// that adapt.
    pub(in super::super) fn may_audition(&self) -> bool {
        self.teaches() && self.drafter.bets().is_some()
    }

    /// Tries plans on what the stream has said. A plan that breaks the pass is given up; the
    /// stream, whose own pages are not written, goes on.
    pub(in super::super) fn look_back(
        &mut self,
        runner: &mut Runner,
        scratchpad: &Scratchpad,
        betting: &mut Betting,
    ) {
        let looked = catch_unwind(AssertUnwindSafe(|| {
            self.search(runner, scratchpad, betting);
            self.audition(runner, scratchpad, betting);
        }));
        if looked.is_err() {
            tracing::error!("a plan could not be tried: a defect of the server");
            betting.auditions.give_up();
        }
    }

    /// A step of SWIFT's search, if the stream drafts by it and a cycle has just ended. Its time
    /// counts as the stream's.
    fn search(&mut self, runner: &mut Runner, scratchpad: &Scratchpad, betting: &mut Betting) {
        let swift = &mut betting.swift;
        if !self.drafter.is_swift()
            || !self.drafter.cycle().is_idle()
            || !swift.wants_score(self.generated())
        {
            return;
        }
        let (Some(lease), started) = (&self.lease, Instant::now()) else { return };
        swift.step(scratchpad, runner, lease.pages(), &self.tokens, self.request.prompt.len());
        let plain_seconds = betting.baseline.seconds(self.context(), 1);
        self.spend(StepTime::new(started.elapsed().as_secs_f64(), plain_seconds));
    }

    /// Lets the candidate on stage and the plan it would replace draft some of the stream's last
    /// tokens, if the stream has enough text that none was tried on, and is between two cycles.
    fn audition(&mut self, runner: &mut Runner, scratchpad: &Scratchpad, betting: &mut Betting) {
        let fresh = self.tokens.len() - self.auditioned.max(self.request.prompt.len());
        if !self.may_audition() || fresh <= PLACES * STRIDE || !self.drafter.cycle().is_idle() {
            return;
        }
        let (Some(candidate), Some(lease)) = (betting.auditions.on_stage(), &self.lease) else {
            return;
        };
        let seat = candidate.seat;
        let text =
            ScoredText { pages: lease.pages(), tokens: &self.tokens, head: self.drafter.head() };
        // The last token is not fed yet, and what follows the one before it is the last that is
        // known.
        let places: Vec<usize> = (1..=PLACES).map(|place| self.computed - place * STRIDE).collect();
        let plans = [&*betting.plans()[seat].plan, &*candidate.plan];
        let (drafted, seconds) = scratchpad.compare(runner, &text, &places, plans);
        let right = drafted.iter().zip(&places).map(|(drafted, &place)| {
            let [incumbent, other] = drafted.map(|token| token == self.tokens[place + 1]);
            (incumbent, other)
        });
        let stakes = betting.stakes(seat, plans[1]);
        if let Some(outcome) = betting.auditions.observe(right, seconds, stakes) {
            betting.conclude(outcome);
        }
        self.auditioned = self.tokens.len();
        // Part of what adapting costs the stream, but no fault of the bets that it placed.
        self.account.spend(seconds);
    }
}
