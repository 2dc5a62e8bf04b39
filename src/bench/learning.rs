//! What learning from traffic is worth: acceptance on fixed prompts, again and again while other
//! traffic is served.

use serde::Serialize;

use super::decode::{DecodeError, DecodeMode, DecodePrompt, Turn};
use skipstone_engine::adapt::Allowed;
use skipstone_engine::{Speculation, Submit};
use skipstone_model::sampling::SamplingSettings;

/// What to serve and what to measure on.
#[derive(Clone, Debug)]
pub struct LearningBench {
    /// Acceptance is measured on greedy continuations of these, which teach the engine nothing.
    pub prompts: Vec<DecodePrompt>,
    /// Sampled continuations of these are served in between, over and over with other seeds.
    pub traffic: Vec<DecodePrompt>,
    /// Tokens served in all.
    pub tokens: usize,
    /// Measurements after the first, evenly spread.
    pub checkpoints: usize,
    /// Tokens of each continuation at most.
    pub max_new_tokens: usize,
}

/// Acceptance at one point.
#[derive(Clone, Copy, PartialEq, Serialize, Debug)]
pub struct Checkpoint {
    /// Tokens of traffic served before, prompts included.
    pub served_tokens: usize,
    /// Tokens drafted on the prompts, one a cycle, each plan in turn.
    pub drafted: usize,
    /// Of these, accepted.
    pub accepted: usize,
    /// The same as a share.
    pub acceptance: f64,
    /// How fast these streams are against plain ones, which take turns with them.
    pub ratio_to_off: f64,
}

/// Streams of traffic that run together.
const CONCURRENT: usize = 4;

/// Temperature of the traffic.
const TEMPERATURE: f32 = 0.8;

// === impl LearningBench ===

impl LearningBench {
    /// Measures, and serves in between; `on_progress` is told how many tokens were served.
    ///
    /// # Errors
    /// If a stream fails.
    pub fn run(
        &self,
        engine: &dyn Submit,
        on_progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<Checkpoint>, DecodeError> {
        let mut points = vec![self.measure(engine, 0)?];
        let (mut served, mut next) = (0, 0);
        for checkpoint in 1..=self.checkpoints {
            while served < self.tokens * checkpoint / self.checkpoints && !self.traffic.is_empty() {
                served += self.serve(engine, next)?;
                next += CONCURRENT;
                on_progress(served);
            }
            points.push(self.measure(engine, served)?);
        }
        Ok(points)
    }

    fn measure(
        &self,
        engine: &dyn Submit,
        served_tokens: usize,
    ) -> Result<Checkpoint, DecodeError> {
        let allowed = Allowed { ngram: false, always: true, ..Allowed::default() };
        let speculation = Speculation::Adaptive { max_draft_tokens: Some(1), allowed };
        let always = DecodeMode { name: "always".to_owned(), speculation };
        let off = DecodeMode { name: "off".to_owned(), speculation: Speculation::Off };
        let (mut drafted, mut accepted) = (0, 0);
        let (mut seconds, mut plain_seconds) = (0.0, 0.0);
        for prompt in &self.prompts {
            let turn = |mode| {
                let sampling = SamplingSettings::default();
                Turn { prompt, mode, max_new_tokens: self.max_new_tokens, sampling, teaches: false }
            };
            let (measured, _) = turn(&always).run(engine)?;
            drafted += measured.drafted;
            accepted += measured.accepted;
            seconds += measured.seconds;
            // Greedy, so it says the same.
            plain_seconds += turn(&off).run(engine)?.0.seconds;
        }
        let acceptance = accepted as f64 / drafted.max(1) as f64;
        let ratio_to_off = if seconds > 0.0 { plain_seconds / seconds } else { 0.0 };
        Ok(Checkpoint { served_tokens, drafted, accepted, acceptance, ratio_to_off })
    }

    /// Serves some streams, of which the first has number `first`. Returns their tokens.
    fn serve(&self, engine: &dyn Submit, first: usize) -> Result<usize, DecodeError> {
        let mode =
            DecodeMode { name: "traffic".to_owned(), speculation: Speculation::adaptive(None) };
        let turn = |number: usize| Turn {
            prompt: &self.traffic[number % self.traffic.len()],
            mode: &mode,
            max_new_tokens: self.max_new_tokens,
            sampling: SamplingSettings {
                temperature: TEMPERATURE,
                seed: number as u64,
                ..SamplingSettings::default()
            },
            teaches: true,
        };
        let turns: Vec<Turn<'_>> = (first..first + CONCURRENT).map(turn).collect();
        let streams =
            turns.iter().map(|turn| turn.submit(engine)).collect::<Result<Vec<_>, _>>()?;
        let mut tokens = 0;
        for (turn, stream) in turns.iter().zip(streams) {
            tokens += turn.prompt.tokens.len() + turn.read(stream)?.1.len();
        }
        Ok(tokens)
    }
}
