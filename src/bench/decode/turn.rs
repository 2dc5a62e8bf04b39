//! One stream of a bench: submitted as a client would, and read to its end.

use super::run::{DecodeError, DecodeMode, DecodePrompt, Measurement};
use skipstone_engine::{
    Event, Finished, GenerationError, GenerationStream, OutputOptions, StopCriteria, Submit,
    ValidRequest,
};
use skipstone_model::TokenId;
use skipstone_model::sampling::{SamplingParams, SamplingSettings};

/// A prompt to decode, and how.
#[derive(Clone, Debug)]
pub(in crate::bench) struct Turn<'a> {
    pub(in crate::bench) prompt: &'a DecodePrompt,
    pub(in crate::bench) mode: &'a DecodeMode,
    pub(in crate::bench) max_new_tokens: usize,
    pub(in crate::bench) sampling: SamplingSettings,
}

// === impl Turn ===

impl Turn<'_> {
    /// Submits it.
    pub(in crate::bench) fn submit(
        &self,
        engine: &dyn Submit,
    ) -> Result<GenerationStream, DecodeError> {
        // The vocabulary bounds a logit bias only, and there is none.
        let sampling = SamplingParams::new(self.sampling.clone(), 0)?;
        let request = ValidRequest {
            id: format!("{} {}", self.prompt.id, self.mode.name),
            prompt: self.prompt.tokens.clone(),
            sampling,
            stop: StopCriteria {
                max_new_tokens: self.max_new_tokens,
                min_new_tokens: 0,
                stop_strings: Vec::new(),
                stop_token_ids: Vec::new(),
                include_stop_string: false,
                ignore_end_of_sequence: false,
            },
            output: OutputOptions::default(),
            speculation: self.mode.speculation.clone(),
            deadline: None,
        };
        engine.submit(request).map_err(|source| DecodeError::Refused {
            prompt: self.prompt.id.clone(),
            mode: self.mode.name.clone(),
            source,
        })
    }

    /// Reads its stream to the end.
    pub(in crate::bench) fn read(
        &self,
        mut stream: GenerationStream,
    ) -> Result<(Measurement, Vec<TokenId>), DecodeError> {
        let failed = |source| DecodeError::Failed {
            prompt: self.prompt.id.clone(),
            mode: self.mode.name.clone(),
            source,
        };
        let mut tokens = Vec::with_capacity(self.max_new_tokens);
        let mut messages = 0_usize;
        while let Some(message) = stream.blocking_next() {
            match message.map_err(failed)? {
                Event::Started(_) => {}
                Event::Delta(delta) => {
                    messages += usize::from(!delta.tokens.is_empty());
                    tokens.extend(delta.tokens.iter().map(|token| token.id));
                }
                Event::Finished(finished) => {
                    return Ok((measured(&finished, &tokens, messages), tokens));
                }
            }
        }
        Err(failed(GenerationError::Internal(
            "the engine ended the stream without a result".to_owned(),
        )))
    }

    /// Submits it and reads its stream to the end.
    pub(in crate::bench) fn run(
        &self,
        engine: &dyn Submit,
    ) -> Result<(Measurement, Vec<TokenId>), DecodeError> {
        self.read(self.submit(engine)?)
    }
}

/// `messages` carried tokens; the first came from the prefill.
fn measured(finished: &Finished, tokens: &[TokenId], messages: usize) -> Measurement {
    let Finished { speculation, timing, .. } = finished;
    Measurement {
        tokens: tokens.len().saturating_sub(1),
        seconds: timing.decode.as_secs_f64(),
        passes: messages.saturating_sub(1),
        drafted: speculation.draft_tokens,
        accepted: speculation.accepted_tokens,
        phases: speculation.phases,
        estimated_speedup: speculation.estimated_speedup,
        ..Measurement::nothing()
    }
}
