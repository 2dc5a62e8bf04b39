//! A draft/verify cycle: the drafted chain, and the rule that turns it into committed tokens.

use crate::drafting::{self, Origin};
use skipstone_model::TokenId;
use skipstone_model::sampling::{
    Distribution, Proposal, ProposalDistribution, RandomStream, Sampler, SamplingError,
    TokenHistory, Verdict,
};

/// The chain drafted so far, after the last committed token.
#[derive(Default)]
pub(super) struct Cycle {
    drafted: Vec<DraftedToken>,
    /// Hidden states before the plan's first skipped sublayer, \[rows fed, hidden\]: the verify
    /// enters there.
    states: Vec<f32>,
    /// Draft steps run; each fed one row.
    fed: usize,
    /// Draws made for drafts, over the stream's whole life: the counter of their random numbers.
    draws: u64,
    /// Whether the chain is to be verified as it is.
    closed: bool,
}

struct DraftedToken {
    token: TokenId,
    /// The distribution that it was drawn from; `None` for a token of an n-gram match.
    distribution: Option<Distribution>,
    origin: Origin,
}

/// Result of a verify pass.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Confirmed {
    /// Accepted drafts, then the bonus token or the replacement of the first rejected draft. At
    /// least one.
    pub(super) tokens: Vec<TokenId>,
    /// Number of drafted ones among them.
    pub(super) accepted: usize,
    /// Origins of the chain's tokens, rejected and unjudged ones included.
    pub(super) origins: Vec<Origin>,
    /// The error that ended judging after these tokens, if there was one. Plain decoding would have
    /// said them, and would fail at the same place unless they end the stream.
    pub(super) failed: Option<SamplingError>,
}

/// The parts of a stream that choosing tokens needs.
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

    /// Whether the next step verifies: the chain is full or closed.
    pub(super) fn wants_verify(&self, limit: usize) -> bool {
        self.closed || self.drafted.len() >= limit
    }

    /// Whether nothing is drafted yet.
    pub(super) fn is_idle(&self) -> bool {
        self.fed == 0 && self.drafted.is_empty()
    }

    /// The drafted tokens.
    pub(super) fn tokens(&self) -> impl Iterator<Item = TokenId> {
        self.drafted.iter().map(|drafted| drafted.token)
    }

    /// Ends drafting: what there is will be verified.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// Appends the tokens of an n-gram match, and ends drafting: no draft step has seen them. The
    /// chain gets no longer than `limit`, and ends before what is no token of the `vocabulary`.
    pub(super) fn append(&mut self, found: drafting::Proposal, limit: usize, vocabulary: usize) {
        let drafting::Proposal { tokens, matched } = found;
        let room = limit.saturating_sub(self.drafted.len());
        let known = tokens.into_iter().take_while(|token| token.index() < vocabulary).take(room);
        self.drafted.extend(known.enumerate().map(|(place, token)| DraftedToken {
            token,
            distribution: None,
            origin: Origin::Ngram { matched, place },
        }));
        self.closed = true;
    }

    /// Takes in the hidden state that a draft step saved.
    pub(super) fn feed(&mut self, state: &[f32]) {
        self.states.extend_from_slice(state);
        self.fed += 1;
    }

    /// Draws a token from a draft step's logits, of which `confidence` is the highest probability.
    pub(super) fn draw(&mut self, logits: &[f32], confidence: f32, chooser: Chooser<'_>) {
        let Chooser { sampler, history } = chooser;
        let before = history.generated().len();
        self.drafted.iter().for_each(|drafted| history.push(drafted.token));
        let distribution = sampler.distribution(logits, history);
        history.truncate(before);
        // A draft that went astray is no fault of the stream: plain decoding might never have come
        // here.
        let Ok(distribution) = distribution else {
            self.closed = true;
            return;
        };
        // A position may be drafted again after a rejection, under a plan that depends on the first
        // draft: each draw gets a random number of its own.
        let token = sampler.draw(&distribution, RandomStream::Draft, self.draws);
        self.draws += 1;
        let origin = Origin::Plan { confidence };
        self.drafted.push(DraftedToken { token, distribution: Some(distribution), origin });
    }

    /// Takes the most likely token of a draft step, for a sampler that takes nothing else.
    pub(super) fn take(&mut self, token: TokenId, confidence: f32) {
        let distribution = Some(Distribution::one_hot(token));
        self.drafted.push(DraftedToken {
            token,
            distribution,
            origin: Origin::Plan { confidence },
        });
    }

    /// The state that the `index`-th draft step left before the first sublayer that it skipped.
    pub(super) fn state(&self, index: usize, hidden: usize) -> &[f32] {
        &self.states[index * hidden..][..hidden]
    }

    /// The drafted token with this index.
    pub(super) fn token(&self, index: usize) -> TokenId {
        self.drafted[index].token
    }

    /// Draft steps run.
    pub(super) fn fed(&self) -> usize {
        self.fed
    }

    /// Judges the chain by the full model's logits and starts afresh. Fails only where not even one
    /// token is confirmed. `logits(i)` is the row after
    /// `i` drafted tokens, `position` the number of tokens before the chain.
    pub(super) fn judge<'l>(
        &mut self,
        logits: impl Fn(usize) -> &'l [f32],
        position: usize,
        chooser: Chooser<'_>,
    ) -> Result<Confirmed, SamplingError> {
        let Chooser { sampler, history } = chooser;
        let before = history.generated().len();
        let mut confirmed = Confirmed {
            tokens: Vec::with_capacity(self.drafted.len() + 1),
            accepted: 0,
            origins: self.drafted.iter().map(|drafted| drafted.origin).collect(),
            failed: None,
        };
        let mut judge = || -> Result<(), SamplingError> {
            for (index, drafted) in self.drafted.iter().enumerate() {
                let target = sampler.distribution(logits(index), history)?;
                let distribution = drafted
                    .distribution
                    .as_ref()
                    .map_or(ProposalDistribution::Deterministic, ProposalDistribution::Sampled);
                let proposal = Proposal { token: drafted.token, distribution };
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
            confirmed.tokens.push(sampler.draw(
                &target,
                RandomStream::Target,
                (position + index) as u64,
            ));
            Ok(())
        };
        let outcome = judge();
        history.truncate(before);
        self.reset();
        match outcome {
            Err(error) if confirmed.tokens.is_empty() => Err(error),
            outcome => {
                confirmed.failed = outcome.err();
                Ok(confirmed)
            }
        }
    }

    /// Forgets the chain.
    fn reset(&mut self) {
        self.drafted.clear();
        self.states.clear();
        self.fed = 0;
        self.closed = false;
    }
}
