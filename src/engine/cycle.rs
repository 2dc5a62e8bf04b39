//! A draft/verify cycle: the drafted chain, and the rule that turns it into committed tokens.

use std::sync::Arc;

use crate::drafting::DraftPlan;
use crate::model::{RowInput, TokenId};
use crate::sampling::{
    Distribution, Proposal, ProposalDistribution, RandomStream, Sampler, SamplingError, TokenHistory,
    Verdict, top_probability,
};

/// The chain drafted so far, after the last committed token.
#[derive(Default)]
pub(super) struct Cycle {
    drafted: Vec<Drafted>,
    /// Hidden states before the plan's first skipped sublayer, \[rows fed, hidden\]: the verify enters there.
    states: Vec<f32>,
    /// Draft steps run; each fed one row.
    fed: usize,
    /// Draws made for drafts, over the stream's whole life: the counter of their random numbers.
    draws: u64,
    /// Whether the draft ended early, unsure of its next token.
    unsure: bool,
}

struct Drafted {
    token: TokenId,
    /// What it was drawn from.
    distribution: Distribution,
}

/// What a verify pass confirmed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Confirmed {
    /// Accepted drafts, then the bonus token or the replacement of the first rejected draft. At least one.
    pub(super) tokens: Vec<TokenId>,
    /// How many of them were drafted.
    pub(super) accepted: usize,
}

/// What choosing tokens needs of a stream.
pub(super) struct Chooser<'a> {
    pub(super) sampler: &'a mut Sampler,
    /// Prompt and committed tokens; extended while a chain is judged, and restored.
    pub(super) history: &'a mut TokenHistory,
}

// === impl Cycle ===

impl Cycle {
    /// Tokens drafted so far.
    pub(super) fn len(&self) -> usize {
        self.drafted.len()
    }

    /// Whether the next step verifies: the chain is full, or the draft is unsure.
    pub(super) fn wants_verify(&self, limit: usize) -> bool {
        self.unsure || self.drafted.len() >= limit
    }

    /// Whether nothing is drafted yet.
    pub(super) fn is_idle(&self) -> bool {
        self.fed == 0
    }

    /// The token that the next draft step feeds.
    pub(super) fn next_input(&self, committed: TokenId) -> TokenId {
        self.drafted.last().map_or(committed, |drafted| drafted.token)
    }

    /// Takes in a draft step: the hidden state it saved and the logits it gave.
    pub(super) fn extend(&mut self, plan: &DraftPlan, state: &[f32], logits: &[f32], chooser: Chooser<'_>) {
        self.states.extend_from_slice(state);
        self.fed += 1;
        // Judged before the draw, and by the most likely token whichever is drawn: to drop a token because it itself turned out unlikely
        // would favour the likely ones.
        let (_, confidence) = top_probability(logits);
        if confidence < plan.confidence_threshold {
            self.unsure = true;
            return;
        }
        let Chooser { sampler, history } = chooser;
        let before = history.generated().len();
        self.drafted.iter().for_each(|drafted| history.push(drafted.token));
        let distribution = sampler.distribution(logits, history);
        history.truncate(before);
        // A draft that went astray is no fault of the stream: plain decoding might never have come here.
        let Ok(distribution) = distribution else {
            self.unsure = true;
            return;
        };
        // A position may be drafted again after a rejection, under a plan that depends on the first draft: each draw gets a
        // random number of its own.
        let token = sampler.draw(&distribution, RandomStream::Draft, self.draws);
        self.draws += 1;
        self.drafted.push(Drafted { token, distribution });
    }

    /// The rows of the verify pass: the last committed token and the drafted ones. Those that the draft fed enter late.
    pub(super) fn verify_rows<'a>(&'a self, plan: &DraftPlan, hidden: usize) -> Vec<RowInput<'a>> {
        let first = plan.exact_until();
        let mut rows: Vec<RowInput<'a>> =
            self.states.chunks_exact(hidden).map(|state| RowInput::Hidden { first, state }).collect();
        if let Some(last) = self.drafted.last().filter(|_| rows.len() == self.drafted.len()) {
            rows.push(RowInput::Token(last.token));
        }
        rows
    }

    /// Judges the chain by the full model's logits and starts afresh. `logits(i)` is the row after `i` drafted
    /// tokens, `position` the number of tokens before the chain.
    pub(super) fn judge<'l>(
        &mut self,
        logits: impl Fn(usize) -> &'l [f32],
        position: usize,
        chooser: Chooser<'_>,
    ) -> Result<Confirmed, SamplingError> {
        let Chooser { sampler, history } = chooser;
        let before = history.generated().len();
        let mut confirmed = Confirmed { tokens: Vec::with_capacity(self.drafted.len() + 1), accepted: 0 };
        let mut judge = || -> Result<(), SamplingError> {
            for (index, drafted) in self.drafted.iter().enumerate() {
                let target = sampler.distribution(logits(index), history)?;
                let source = ProposalDistribution::Sampled(&drafted.distribution);
                let proposal = Proposal { token: drafted.token, distribution: source };
                match sampler.verify(&target, &proposal, (position + index) as u64) {
                    Verdict::Accepted => {
                        confirmed.tokens.push(drafted.token);
                        confirmed.accepted += 1;
                        history.push(drafted.token);
                    }
                    Verdict::Replaced(token) => {
                        confirmed.tokens.push(token);
                        return Ok(());
                    }
                }
            }
            let index = self.drafted.len();
            let target = sampler.distribution(logits(index), history)?;
            confirmed.tokens.push(sampler.draw(&target, RandomStream::Target, (position + index) as u64));
            Ok(())
        };
        let outcome = judge();
        history.truncate(before);
        self.reset();
        outcome.map(|()| confirmed)
    }

    /// Forgets the chain.
    fn reset(&mut self) {
        self.drafted.clear();
        self.states.clear();
        self.fed = 0;
        self.unsure = false;
    }

    /// Position of the next row to feed, after `computed` positions that are final.
    pub(super) fn next_position(&self, computed: usize) -> usize {
        computed + self.fed
    }
}

/// The plan of a stream, and its number among those the stream had.
#[derive(Clone)]
pub(super) struct CurrentPlan {
    pub(super) plan: Arc<DraftPlan>,
    pub(super) revision: u64,
}
