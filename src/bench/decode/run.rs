//! The turns: who decodes which prompt when, and the check that all say the same.

use std::thread;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::turn::Turn;
use crate::bench::{DecodePeer, PeerError};
use skipstone_engine::{GenerationError, PhaseTimes, Speculation, Submit, SubmitError};
use skipstone_model::TokenId;
use skipstone_model::sampling::{InvalidSampling, SamplingSettings};

/// A prompt, tokenised.
#[derive(Clone, Debug)]
pub struct DecodePrompt {
    /// Names it in errors and records.
    pub id: String,
    /// Category that it is counted under.
    pub category: String,
    /// Its tokens, the chat template's included.
    pub tokens: Vec<TokenId>,
}

/// A way to decode.
#[derive(Clone, Debug)]
pub struct DecodeMode {
    /// Its name in reports.
    pub name: String,
    /// Drafting that a request asks for.
    pub speculation: Speculation,
}

/// A comparison of modes, one stream at a time.
#[derive(Clone, Debug)]
pub struct DecodeBench {
    /// The modes; greedy tokens are compared with those of `off` if it is among them, else with the
    /// first mode's.
    pub modes: Vec<DecodeMode>,
    /// The prompts.
    pub prompts: Vec<DecodePrompt>,
    /// Tokens generated at most; a stream may end before.
    pub max_new_tokens: usize,
    /// Times that each prompt is decoded in each mode.
    pub repeats: usize,
    /// 0 is greedy; above, each repeat has a seed of its own, and modes say different things of the
    /// same distribution.
    pub temperature: f32,
}

/// One stream, measured.
#[derive(Clone, PartialEq, Debug)]
pub struct Measurement {
    /// Index of the prompt.
    pub prompt: usize,
    /// Index of the mode; the peer comes after the last.
    pub mode: usize,
    /// Number of the repeat, from 0.
    pub repeat: usize,
    /// Tokens after the first.
    pub tokens: usize,
    /// Seconds between the first token and the last.
    pub seconds: f64,
    /// Passes of the whole model that committed these tokens: plain steps and verifies.
    pub passes: usize,
    /// Tokens drafted.
    pub drafted: usize,
    /// Of these, accepted.
    pub accepted: usize,
    /// Time of its steps, by kind.
    pub phases: PhaseTimes,
    /// The engine's own estimate of the speedup over plain decoding, if it drafted.
    pub estimated_speedup: Option<f64>,
}

/// All measurements.
#[derive(Clone, Debug)]
pub struct DecodeRun {
    /// Measurements, in the order they were made.
    pub measurements: Vec<Measurement>,
    /// The peer's name.
    pub peer: Option<String>,
}

/// A reason why a measurement fails.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The engine took no request.
    #[error("prompt {prompt}, mode {mode}: {source}")]
    Refused {
        /// The prompt's name.
        prompt: String,
        /// The mode's name.
        mode: String,
        /// The reason.
        source: SubmitError,
    },
    /// The engine ended a stream.
    #[error("prompt {prompt}, mode {mode}: {source}")]
    Failed {
        /// The prompt's name.
        prompt: String,
        /// The mode's name.
        mode: String,
        /// The reason.
        source: GenerationError,
    },
    /// A mode changed what the model says.
    #[error(
        "prompt {prompt}: mode {mode} differs from {reference} at token {position} of the output; \
         speculation must not change the output, please report this"
    )]
    Differs {
        /// The prompt's name.
        prompt: String,
        /// The mode's name.
        mode: String,
        /// The mode it was compared with.
        reference: String,
        /// Index of the first token that differs.
        position: usize,
    },
    /// The peer failed.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// Greedy sampling was refused.
    #[error(transparent)]
    Sampling(#[from] InvalidSampling),
}

/// A mode's output for the prompt in hand, to compare others with.
struct Output {
    mode: usize,
    tokens: Vec<TokenId>,
}

/// Shuffles the turns; fixed, so that a run can be repeated.
const ORDER_SEED: u64 = 0x7475_726e;
/// The other engine's threads spin for a while before they sleep; a turn begins after that.
const PEER_REST: Duration = Duration::from_millis(20);
/// Tokens of the turns that warm up and are not counted.
const WARM_UP_TOKENS: usize = 8;

// === impl DecodeBench ===

impl DecodeBench {
    /// Positions that the longest prompt and its output take.
    pub fn capacity(&self) -> usize {
        self.prompts.iter().map(|prompt| prompt.tokens.len()).max().unwrap_or(0)
            + self.max_new_tokens
    }

    /// Turns that [`DecodeBench::run`] takes, with a peer or without.
    pub fn turns(&self, with_peer: bool) -> usize {
        self.prompts.len() * self.repeats * (self.modes.len() + usize::from(with_peer))
    }

    /// Measures; `on_turn` is called after each turn.
    ///
    /// # Errors
    /// If a stream fails or two modes differ in a token.
    pub fn run(
        &self,
        engine: &dyn Submit,
        mut peer: Option<&mut (dyn DecodePeer + 'static)>,
        on_turn: &mut dyn FnMut(),
    ) -> Result<DecodeRun, DecodeError> {
        let mut order: Vec<usize> = (0..self.modes.len() + usize::from(peer.is_some())).collect();
        if let Some(prompt) = self.prompts.first() {
            for &mode in &order {
                let tokens = WARM_UP_TOKENS.min(self.max_new_tokens);
                self.turn(engine, peer.as_deref_mut(), prompt, mode, (0, tokens))?;
            }
        }
        let mut random = ChaCha8Rng::seed_from_u64(ORDER_SEED);
        let mut measurements = Vec::with_capacity(self.turns(peer.is_some()));
        for (index, prompt) in self.prompts.iter().enumerate() {
            let mut expected: Option<Output> = None;
            for repeat in 0..self.repeats {
                shuffle(&mut order, &mut random);
                let mut outputs = Vec::with_capacity(self.modes.len());
                for &mode in &order {
                    let settings = (repeat, self.max_new_tokens);
                    let (mut measurement, tokens) =
                        self.turn(engine, peer.as_deref_mut(), prompt, mode, settings)?;
                    (measurement.prompt, measurement.repeat) = (index, repeat);
                    measurements.push(measurement);
                    outputs.extend(tokens.map(|tokens| Output { mode, tokens }));
                    on_turn();
                }
                if self.temperature == 0.0 {
                    self.compare(prompt, &mut expected, outputs)?;
                }
            }
        }
        Ok(DecodeRun { measurements, peer: peer.map(|peer| peer.name().to_owned()) })
    }

    /// One stream. A peer's tokens are not ours to compare: it computes in other numbers.
    fn turn(
        &self,
        engine: &dyn Submit,
        peer: Option<&mut (dyn DecodePeer + 'static)>,
        prompt: &DecodePrompt,
        mode: usize,
        (repeat, max_new_tokens): (usize, usize),
    ) -> Result<(Measurement, Option<Vec<TokenId>>), DecodeError> {
        if peer.is_some() {
            thread::sleep(PEER_REST);
        }
        match (self.modes.get(mode), peer) {
            (Some(kind), _) => {
                let sampling = SamplingSettings {
                    temperature: self.temperature,
                    seed: repeat as u64,
                    ..SamplingSettings::default()
                };
                let turn = Turn { prompt, mode: kind, max_new_tokens, sampling };
                let (measurement, tokens) = turn.run(engine)?;
                Ok((Measurement { mode, ..measurement }, Some(tokens)))
            }
            (None, Some(peer)) => {
                let (seconds, generated) = peer.generate(&prompt.tokens, max_new_tokens)?;
                let tokens = generated.saturating_sub(1);
                Ok((
                    Measurement { mode, tokens, seconds, passes: tokens, ..Measurement::nothing() },
                    None,
                ))
            }
            (None, None) => Ok((Measurement { mode, ..Measurement::nothing() }, None)),
        }
    }

    /// Checks the outputs of one repeat against the first of `off`, or of the first mode.
    fn compare(
        &self,
        prompt: &DecodePrompt,
        expected: &mut Option<Output>,
        outputs: Vec<Output>,
    ) -> Result<(), DecodeError> {
        let truth =
            self.modes.iter().position(|mode| mode.speculation == Speculation::Off).unwrap_or(0);
        for output in outputs.iter().filter(|output| output.mode == truth) {
            expected.get_or_insert_with(|| Output { mode: truth, tokens: output.tokens.clone() });
        }
        let Some(expected) = expected else { return Ok(()) };
        for output in &outputs {
            if output.tokens == expected.tokens {
                continue;
            }
            let same = output
                .tokens
                .iter()
                .zip(&expected.tokens)
                .take_while(|(left, right)| left == right);
            return Err(DecodeError::Differs {
                prompt: prompt.id.clone(),
                mode: self.modes[output.mode].name.clone(),
                reference: self.modes[expected.mode].name.clone(),
                position: same.count(),
            });
        }
        Ok(())
    }
}

// === impl Measurement ===

impl Measurement {
    /// A measurement to be filled in.
    pub(super) fn nothing() -> Self {
        Self {
            prompt: 0,
            mode: 0,
            repeat: 0,
            tokens: 0,
            seconds: 0.0,
            passes: 0,
            drafted: 0,
            accepted: 0,
            phases: PhaseTimes::default(),
            estimated_speedup: None,
        }
    }
}

/// Fisher-Yates.
fn shuffle(order: &mut [usize], random: &mut impl Rng) {
    for last in (1..order.len()).rev() {
        // The bias of the remainder is below 2^-50 for any number of modes.
        order.swap(last, (random.next_u64() % (last as u64 + 1)) as usize);
    }
}
