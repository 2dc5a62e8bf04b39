//! Many streams at once, so that passes hold a mix of prompts, drafts and verifies.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::decode::{DecodeError, DecodeMode, DecodePrompt, Turn};
use skipstone_engine::Submit;
use skipstone_model::sampling::SamplingSettings;

/// The streams to run: greedy.
#[derive(Clone, Debug)]
pub struct PassesBench {
    /// The prompts, each in one of the modes in turn.
    pub prompts: Vec<DecodePrompt>,
    /// The modes, at least one.
    pub modes: Vec<DecodeMode>,
    /// Streams at a time.
    pub streams: usize,
    /// Tokens generated at most; a stream may end before.
    pub max_new_tokens: usize,
}

// === impl PassesBench ===

impl PassesBench {
    /// Runs all streams to their ends.
    ///
    /// # Errors
    /// If a stream fails.
    pub fn run(&self, engine: &dyn Submit) -> Result<(), DecodeError> {
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            let reader = || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(prompt) = self.prompts.get(index) else { return Ok(()) };
                    let turn = Turn {
                        prompt,
                        mode: &self.modes[index % self.modes.len()],
                        max_new_tokens: self.max_new_tokens,
                        sampling: SamplingSettings::default(),
                    };
                    turn.read(turn.submit(engine)?)?;
                }
            };
            let readers: Vec<_> = (0..self.streams).map(|_| scope.spawn(reader)).collect();
            let mut ends = readers.into_iter().map(|reader| reader.join());
            ends.try_for_each(|end| end.unwrap_or(Ok(())))
        })
    }
}
