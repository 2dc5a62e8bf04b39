//! Engines over test models, requests to them, and what comes back.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may assert by panicking, as tests do"
)]

use std::time::{Duration, Instant};

use skipstone::drafting::SkipSet;
use skipstone::engine::{
    Delta, Engine, EngineOptions, Event, FinishReason, Finished, GenerationError, GenerationStream,
    OutputOptions, Speculation, StopCriteria, Submit, ValidRequest,
};
use skipstone::kernels::KvPrecision;
use skipstone::model::TokenId;
use skipstone::sampling::{SamplingParams, SamplingSettings};

use super::tiny_model::Loaded;
use super::weights::Random;

/// No test waits longer for anything.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Room for everything, two threads, and drafts that never stop because they are unsure.
pub fn options(loaded: &Loaded) -> EngineOptions {
    EngineOptions {
        threads: 2,
        max_streams: 8,
        max_waiting: 4096,
        prefill_tokens_per_step: 64,
        stall_timeout: PATIENCE,
        event_buffer: 1024,
        kv_cache_tokens: 4096,
        kv_precision: KvPrecision::F16,
        default_skip_set: SkipSet::empty(loaded.model.config().layers),
        target_speedup: 1.25,
        frontier: Vec::new(),
        mechanisms: Default::default(),
        cost_file: None,
        pass_log: None,
        max_draft_tokens: 4,
        confidence_threshold: 0.0,
    }
}

pub fn start(loaded: &Loaded, options: EngineOptions) -> Engine {
    Engine::start(loaded.model.clone(), loaded.text.clone(), options).unwrap()
}

/// A greedy request for `max_new_tokens` tokens that nothing else stops.
pub fn request(
    prompt: &[TokenId],
    max_new_tokens: usize,
    speculation: Speculation,
) -> ValidRequest {
    ValidRequest {
        id: "test".to_owned(),
        prompt: prompt.to_vec(),
        sampling: SamplingParams::new(SamplingSettings::default(), 1).unwrap(),
        stop: StopCriteria {
            max_new_tokens,
            min_new_tokens: 0,
            stop_strings: Vec::new(),
            stop_token_ids: Vec::new(),
            include_stop_string: false,
            ignore_end_of_sequence: true,
        },
        output: OutputOptions::default(),
        speculation,
        deadline: None,
    }
}

/// Drafts that skip `skip_set`, up to `max_draft_tokens`.
pub fn fixed(skip_set: &SkipSet, max_draft_tokens: usize) -> Speculation {
    Speculation::fixed(Some(skip_set.clone()), Some(max_draft_tokens))
}

/// A prompt of `length` random tokens, ordinary ones only.
pub fn prompt(length: usize, vocabulary: usize, random: &mut Random) -> Vec<TokenId> {
    (0..length).map(|_| TokenId(2 + random.below(vocabulary - 2) as u32)).collect()
}

/// A skip set that has each inner sublayer with the chance `share`.
pub fn random_skip_set(layers: usize, share: f32, random: &mut Random) -> SkipSet {
    let mut choose = || -> Vec<u32> {
        (1..layers as u32).filter(|_| random.signed() < 2.0 * share - 1.0).collect()
    };
    let (attention, mlp) = (choose(), choose());
    SkipSet::new(&attention, &mlp, layers).unwrap()
}

/// The whole answer to a request.
#[derive(Debug)]
pub struct Outcome {
    pub tokens: Vec<TokenId>,
    pub text: String,
    pub deltas: Vec<Delta>,
    pub finished: Finished,
}

/// Tokens, text and reason: what must not depend on speculation.
pub type Said = (Vec<TokenId>, String, FinishReason);

// === impl Outcome ===

impl Outcome {
    pub fn said(&self) -> Said {
        (self.tokens.clone(), self.text.clone(), self.finished.reason.clone())
    }
}

/// Submits and reads to the end.
pub fn generate(engine: &Engine, request: ValidRequest) -> Result<Outcome, GenerationError> {
    read(engine.submit(request).unwrap())
}

/// Submits all at once and reads each to its end.
pub fn generate_all(
    engine: &Engine,
    requests: impl IntoIterator<Item = ValidRequest>,
) -> Vec<Result<Outcome, GenerationError>> {
    let streams: Vec<GenerationStream> =
        requests.into_iter().map(|request| engine.submit(request).unwrap()).collect();
    streams.into_iter().map(read).collect()
}

/// Reads a stream to its end. A stream that ends without saying why is a failure of the engine.
pub fn read(mut stream: GenerationStream) -> Result<Outcome, GenerationError> {
    match stream.blocking_next() {
        Some(Ok(Event::Started(_))) => {}
        Some(Err(error)) => return Err(error),
        other => panic!("a stream must begin with `Started`, not {other:?}"),
    }
    let (mut tokens, mut text, mut deltas) = (Vec::new(), String::new(), Vec::new());
    loop {
        match stream.blocking_next() {
            Some(Ok(Event::Delta(delta))) => {
                tokens.extend(delta.tokens.iter().map(|token| token.id));
                text.push_str(&delta.text);
                deltas.push(delta);
            }
            Some(Ok(Event::Finished(finished))) => {
                return Ok(Outcome { tokens, text, deltas, finished: *finished });
            }
            Some(Ok(Event::Started(_))) => panic!("`Started` came twice"),
            Some(Err(error)) => return Err(error),
            None => panic!("the stream ended after {} tokens without a reason", tokens.len()),
        }
    }
}

/// Waits for the `Started` of a stream.
pub fn wait_until_started(stream: &mut GenerationStream) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let first = runtime.block_on(async { tokio::time::timeout(PATIENCE, stream.next()).await });
    assert!(matches!(first, Ok(Some(Ok(Event::Started(_))))), "expected `Started`, got {first:?}");
}

/// Waits until no stream waits or runs.
pub fn wait_until_idle(engine: &Engine) {
    wait_until("the engine is idle", || engine.in_flight() == 0);
}

/// Waits until something holds that another thread brings about.
pub fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::yield_now();
    }
}
