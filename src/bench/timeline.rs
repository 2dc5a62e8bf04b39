//! The places in a stream where drafting pays: one output in windows, plain and adaptive in turn.

use std::time::Instant;

use serde::Serialize;

use super::decode::{DecodeError, DecodeMode, DecodePrompt, Turn};
use super::median;
use skipstone_engine::{Delta, Event, GenerationError, Speculation, Submit};
use skipstone_model::TokenId;
use skipstone_model::sampling::SamplingSettings;

/// The output to follow: greedy, one stream at a time.
#[derive(Clone, Debug)]
pub struct TimelineBench {
    /// Prompt to continue.
    pub prompt: DecodePrompt,
    /// Tokens generated at most.
    pub max_new_tokens: usize,
    /// Tokens of a window.
    pub window: usize,
    /// Times that it is decoded each way; medians count.
    pub repeats: usize,
}

/// A part of the output.
#[derive(Clone, PartialEq, Default, Serialize, Debug)]
pub struct Window {
    /// Its first token, from 0.
    pub first: usize,
    /// Tokens a second without drafting.
    pub off_tokens_per_second: f64,
    /// The same, adaptive.
    pub adaptive_tokens_per_second: f64,
    /// The adaptive rate over the other.
    pub ratio: f64,
    /// Tokens drafted; this and what follows are of the first repeat, in which the stream is new.
    pub drafted: usize,
    /// Of these, accepted.
    pub accepted: usize,
    /// Cycles that drafted nothing.
    pub plain: usize,
    /// Cycles with tokens of an n-gram match.
    pub ngram: usize,
    /// Cycles with tokens of each plan, by its place in the frontier.
    pub plans: Vec<usize>,
    /// Its text.
    pub text: String,
}

/// One run through the output.
struct Course {
    deltas: Vec<Delta>,
    /// Seconds since the first token at each delta.
    seconds: Vec<f64>,
}

// === impl TimelineBench ===

impl TimelineBench {
    /// Measures.
    ///
    /// # Errors
    /// If a stream fails, or drafting changed a token.
    pub fn run(&self, engine: &dyn Submit) -> Result<Vec<Window>, DecodeError> {
        let off = DecodeMode { name: "off".to_owned(), speculation: Speculation::Off };
        let adaptive =
            DecodeMode { name: "adaptive".to_owned(), speculation: Speculation::adaptive(None) };
        let (mut plain, mut drafted) = (Vec::new(), Vec::new());
        for _ in 0..self.repeats {
            plain.push(self.follow(engine, &off)?);
            drafted.push(self.follow(engine, &adaptive)?);
        }
        let Some((reference, first)) = plain.first().zip(drafted.first()) else {
            return Ok(Vec::new());
        };
        for course in plain.iter().chain(&drafted) {
            let mut pairs = course.tokens().zip(reference.tokens());
            if let Some(position) = pairs.position(|(token, expected)| token != expected) {
                return Err(DecodeError::Differs {
                    prompt: self.prompt.id.clone(),
                    mode: adaptive.name,
                    reference: off.name,
                    position,
                });
            }
        }
        let windows = reference.tokens().count() / self.window;
        let rate = |courses: &[Course], window: usize| {
            let mut rates: Vec<f64> = courses
                .iter()
                .map(|course| course.rate(window * self.window, self.window))
                .collect();
            median(&mut rates)
        };
        let window = |window: usize| {
            let (off, adaptive) = (rate(&plain, window), rate(&drafted, window));
            let mut found = first.tell(window * self.window, self.window);
            found.off_tokens_per_second = off;
            found.adaptive_tokens_per_second = adaptive;
            found.ratio = if off > 0.0 { adaptive / off } else { 0.0 };
            found
        };
        Ok((0..windows).map(window).collect())
    }

    fn follow(&self, engine: &dyn Submit, mode: &DecodeMode) -> Result<Course, DecodeError> {
        let failed = |source| DecodeError::Failed {
            prompt: self.prompt.id.clone(),
            mode: mode.name.clone(),
            source,
        };
        let turn = Turn {
            prompt: &self.prompt,
            mode,
            max_new_tokens: self.max_new_tokens,
            sampling: SamplingSettings::default(),
        };
        let mut stream = turn.submit(engine)?;
        let mut course = Course { deltas: Vec::new(), seconds: Vec::new() };
        let mut started = Instant::now();
        while let Some(message) = stream.blocking_next() {
            match message.map_err(failed)? {
                Event::Started(_) => {}
                Event::Delta(delta) => {
                    if course.deltas.is_empty() {
                        started = Instant::now();
                    }
                    course.seconds.push(started.elapsed().as_secs_f64());
                    course.deltas.push(delta);
                }
                Event::Finished(_) => return Ok(course),
            }
        }
        Err(failed(GenerationError::Internal(
            "the engine ended the stream without a result".to_owned(),
        )))
    }
}

// === impl Course ===

impl Course {
    fn tokens(&self) -> impl Iterator<Item = TokenId> {
        self.deltas.iter().flat_map(|delta| &delta.tokens).map(|token| token.id)
    }

    /// Tokens a second from token `first` on, for `length` tokens; a cycle counts where it ends.
    fn rate(&self, first: usize, length: usize) -> f64 {
        let (mut tokens, mut from, mut to) = (0, (0, 0.0), (0, 0.0));
        for (delta, &seconds) in self.deltas.iter().zip(&self.seconds) {
            tokens += delta.tokens.len();
            if tokens <= first.max(1) {
                from = (tokens, seconds);
            }
            if tokens <= first + length {
                to = (tokens, seconds);
            }
        }
        let seconds = to.1 - from.1;
        if seconds > 0.0 { (to.0 - from.0) as f64 / seconds } else { 0.0 }
    }

    /// Window of `length` tokens from token `first` on, without the rates.
    fn tell(&self, first: usize, length: usize) -> Window {
        let mut window = Window { first, ..Window::default() };
        let mut tokens = 0;
        for delta in &self.deltas {
            tokens += delta.tokens.len();
            if tokens <= first || tokens > first + length {
                continue;
            }
            window.drafted += delta.drafted;
            window.accepted += delta.accepted;
            window.plain += usize::from(delta.drafted == 0);
            window.ngram += usize::from(delta.drafted_by.ngram);
            if let Some(plan) = delta.drafted_by.plan {
                window.plans.resize(window.plans.len().max(plan + 1), 0);
                window.plans[plan] += 1;
            }
            window.text.push_str(&delta.text);
        }
        window
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skipstone_engine::{CommittedToken, DraftedBy};

    fn delta(tokens: usize, drafted_by: DraftedBy) -> Delta {
        let token = CommittedToken {
            id: TokenId(7),
            logprob: None,
            top_logprobs: Vec::new(),
            drafted: false,
        };
        Delta {
            text: "x".repeat(tokens),
            tokens: vec![token; tokens],
            drafted: tokens - 1,
            accepted: tokens - 1,
            drafted_by,
        }
    }

    #[test]
    fn windows_count_what_ends_in_them() {
        let (plan, ngram) =
            (DraftedBy { plan: Some(1), ngram: false }, DraftedBy { plan: None, ngram: true });
        let course = Course {
            deltas: vec![
                delta(1, DraftedBy::default()),
                delta(3, plan),
                delta(2, ngram),
                delta(1, DraftedBy::default()),
                delta(3, ngram),
            ],
            seconds: vec![0.0, 1.5, 2.0, 3.0, 3.5],
        };
        // The first token comes from the prompt: the time begins with it.
        assert_eq!(course.rate(0, 4), 2.0);
        assert_eq!(course.rate(4, 4), 2.0);
        let first = course.tell(0, 4);
        assert_eq!((first.plain, first.ngram, first.plans), (1, 0, vec![0, 1]));
        assert_eq!((first.drafted, first.text.as_str()), (2, "xxxx"));
        let second = course.tell(4, 4);
        assert_eq!((second.plain, second.ngram, second.plans.len()), (1, 1, 0));
    }
}
