//! From committed tokens to text, and the stops that text and tokens hit.

use std::sync::Arc;

use super::event::FinishReason;
use super::request::StopCriteria;
use skipstone_model::TokenId;
use skipstone_model::text::{Detokenizer, StopMatcher, TextModel};

/// The text side of one stream.
pub(super) struct OutputText {
    criteria: StopCriteria,
    detokenizer: Detokenizer,
    stops: StopMatcher,
    /// The model's own end-of-sequence tokens.
    ends: Arc<[TokenId]>,
}

// === impl OutputText ===

impl OutputText {
    pub(super) fn new(text: &TextModel, criteria: &StopCriteria) -> Self {
        Self {
            criteria: criteria.clone(),
            detokenizer: text.detokenizer(),
            stops: StopMatcher::new(criteria.stop_strings.clone(), criteria.include_stop_string),
            ends: text.end_of_sequence().into(),
        }
    }

    /// Appends what the `generated`-th token adds to `text`, and says whether the stream ends with
    /// it.
    pub(super) fn push(
        &mut self,
        token: TokenId,
        generated: usize,
        text: &mut String,
    ) -> Option<FinishReason> {
        let may_stop = generated >= self.criteria.min_new_tokens;
        let token_stop =
            if may_stop && !self.criteria.ignore_end_of_sequence && self.ends.contains(&token) {
                Some(FinishReason::EndOfSequence)
            } else if may_stop && self.criteria.stop_token_ids.contains(&token) {
                Some(FinishReason::StopToken(token))
            } else {
                None
            };
        if token_stop.is_some() {
            self.release(text);
            return token_stop;
        }
        let piece = self.detokenizer.push(token);
        if may_stop {
            let step = self.stops.push(&piece);
            text.push_str(&step.text);
            if let Some(matched) = step.matched {
                return Some(FinishReason::StopString(matched));
            }
        } else {
            text.push_str(&piece);
        }
        if generated < self.criteria.max_new_tokens {
            return None;
        }
        self.release(text);
        Some(FinishReason::Length)
    }

    /// Appends what was held back: an unfinished character, the possible start of a stop string.
    fn release(&mut self, text: &mut String) {
        let rest = self.detokenizer.finish();
        text.push_str(&self.stops.push(&rest).text);
        text.push_str(&self.stops.finish());
    }
}
