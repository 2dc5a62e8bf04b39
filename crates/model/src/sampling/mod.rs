//! From logits to a token, and the rule that decides which drafted tokens stay.
//!
//! A row of logits becomes a [`Distribution`] in this order, the same for a draft and for the full
//! model:
//!
//! 1. repetition penalty, over every token of the prompt and the output: positive logits divide,
//!    negative multiply;
//! 2. frequency and presence penalty, over the output alone;
//! 3. logit bias, added last so that it means what it says whatever the penalties did;
//! 4. temperature; at 0 the best token takes it all, the lowest id among equals, and the order ends
//!    here;
//! 5. top-k, ties to the lowest ids, so never more than k;
//! 6. top-p: the fewest of the best tokens whose share of what top-k left reaches p;
//! 7. min-p: out with what is less likely than min-p times the best.
//!
//! Steps 1, 2 and 4 are what users of vLLM expect (it puts the bias before the penalties and min-p
//! before top-k); steps 5 to 7 are llama.cpp's default order of filters (it puts the temperature
//! after them).
//!
//! Speculation is lossless only if what happens to a drafted token before it is verified depends on
//! the token in no way: see [`Proposal`].
#![forbid(unsafe_code)]

mod acceptance;
mod distribution;
mod filters;
mod history;
mod logits;
mod logprobs;
mod params;
mod processors;
mod random;
mod sampler;

pub use acceptance::{
    Proposal, ProposalDistribution, Verdict, acceptance_probability, decide, residual,
};
pub use distribution::Distribution;
pub use history::TokenHistory;
pub use logits::{SamplingError, argmax, top_probability};
pub use logprobs::{TokenLogprobs, log_probabilities};
pub use params::{InvalidSampling, SamplingParams, SamplingSettings};
pub use random::{RandomStream, uniform};
pub use sampler::Sampler;
