//! The interface that a serial engine needs of whatever runs its model.

use std::time::Duration;

use skipstone_model::TokenId;

/// Runs a model for one sequence at a time: prompt in, logits out, then a token in, logits out.
///
/// Choosing tokens, stops, text and limits are the engine's. A sequence that was ended may take a
/// while to stop: nothing new may begin before [`Predictor::is_free`] says so.
pub trait Predictor: Send {
    /// Begins a sequence of `prompt` and at most `max_new_tokens` more; the next logits are those
    /// after the prompt.
    ///
    /// # Errors
    /// A fault of the predictor, in words; the sequence has not begun.
    fn begin(&mut self, prompt: &[TokenId], max_new_tokens: usize) -> Result<(), String>;

    /// Waits for logits, but not longer than `patience`.
    fn wait(&mut self, patience: Duration) -> Prediction;

    /// Appends the token that was chosen from the last logits; the next logits are those after it.
    fn feed(&mut self, token: TokenId);

    /// Ends the sequence, whether or not logits are awaited.
    fn end(&mut self);

    /// Whether a sequence may begin.
    fn is_free(&mut self) -> bool;
}

/// Outcome of a wait.
#[derive(Clone, PartialEq, Debug)]
pub enum Prediction {
    /// Logits of the next token, one for each token of the vocabulary.
    Logits(Vec<f32>),
    /// Nothing yet.
    Pending,
    /// The sequence can't go on, and has ended; why, in words.
    Failed(String),
}
