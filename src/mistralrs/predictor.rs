//! One sequence at a time through mistral.rs: its sampler is asked to choose what our engine has
//! chosen.
//!
//! A logits processor sees the logits of each step before anything is sampled. It hands them over,
//! waits for the answer, and returns a row in which only that token is left. To end a sequence it
//! fails instead, which ends the sequence, and nothing else, within the step.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use mistralrs_core::{
    Constraint, CustomLogitsProcessor, MistralRs, NormalRequest, Request, RequestMessage, Response,
    SamplingParams,
};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use skipstone_engine::{Prediction, Predictor};
use skipstone_model::TokenId;

/// Time between looks at a sequence that was ended, while nothing else is to be done.
const POLL: Duration = Duration::from_millis(1);

/// Answers that mistral.rs may leave before they are read; there is one a sequence.
const RESPONSES: usize = 4;

/// Runs a model of mistral.rs.
pub struct MistralRsPredictor {
    runner: Arc<MistralRs>,
    /// Logits beyond it are padding.
    vocabulary: usize,
    sequence: Option<Sequence>,
    /// The answers of a sequence that was ended; the answer means that it has stopped.
    ending: Option<mpsc::Receiver<Response>>,
    next_id: usize,
}

/// A sequence in flight.
struct Sequence {
    rows: Receiver<Vec<f32>>,
    choices: SyncSender<TokenId>,
    responses: mpsc::Receiver<Response>,
}

/// The end of a sequence's channels that lives in mistral.rs.
struct Tap {
    rows: SyncSender<Vec<f32>>,
    choices: Mutex<Receiver<TokenId>>,
}

// === impl MistralRsPredictor ===

impl MistralRsPredictor {
    pub(super) fn new(runner: Arc<MistralRs>, vocabulary: usize) -> Self {
        Self { runner, vocabulary, sequence: None, ending: None, next_id: 0 }
    }

    fn request(
        &mut self,
        prompt: &[TokenId],
        tap: Tap,
        response: mpsc::Sender<Response>,
    ) -> NormalRequest {
        self.next_id += 1;
        NormalRequest {
            messages: RequestMessage::CompletionTokens(
                prompt.iter().map(|token| token.0).collect(),
            ),
            // The one token that the tap leaves is taken, whatever the temperature.
            sampling_params: SamplingParams::deterministic(),
            response,
            return_logprobs: false,
            is_streaming: false,
            id: self.next_id,
            constraint: Constraint::None,
            suffix: None,
            tools: None,
            tool_choice: None,
            logits_processors: Some(vec![Arc::new(tap)]),
            return_raw_logits: false,
            web_search_options: None,
            model_id: None,
            truncate_sequence: false,
        }
    }
}

impl Predictor for MistralRsPredictor {
    fn begin(&mut self, prompt: &[TokenId], _max_new_tokens: usize) -> Result<(), String> {
        let (to_us, rows) = sync_channel(1);
        let (choices, from_us) = sync_channel(1);
        let (response, responses) = mpsc::channel(RESPONSES);
        let tap = Tap { rows: to_us, choices: Mutex::new(from_us) };
        let request = self.request(prompt, tap, response);
        let sender = self
            .runner
            .get_sender(None)
            .map_err(|error| format!("mistral.rs has stopped: {error}"))?;
        sender
            .blocking_send(Request::Normal(Box::new(request)))
            .map_err(|_| "mistral.rs has stopped".to_owned())?;
        self.sequence = Some(Sequence { rows, choices, responses });
        Ok(())
    }

    fn wait(&mut self, patience: Duration) -> Prediction {
        let Some(sequence) = &mut self.sequence else {
            let start = Instant::now();
            while !self.is_free() && start.elapsed() < patience {
                std::thread::sleep(POLL);
            }
            return Prediction::Pending;
        };
        match sequence.rows.recv_timeout(patience) {
            Ok(mut row) => {
                row.truncate(self.vocabulary);
                return Prediction::Logits(row);
            }
            Err(RecvTimeoutError::Timeout) => {}
            // The tap is gone: an answer is there or on its way.
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(POLL),
        }
        let reason = match sequence.responses.try_recv() {
            Err(TryRecvError::Empty) => return Prediction::Pending,
            Err(TryRecvError::Disconnected) => {
                "mistral.rs dropped the sequence; its log says why".to_owned()
            }
            Ok(response) => reason(response),
        };
        self.sequence = None;
        Prediction::Failed(reason)
    }

    fn feed(&mut self, token: TokenId) {
        if let Some(sequence) = &self.sequence {
            // A tap that is gone is noticed by the next wait.
            let _ = sequence.choices.send(token);
        }
    }

    fn end(&mut self) {
        // Without our ends of the channels the tap fails, now or as soon as the pass is through.
        self.ending =
            self.sequence.take().map(|sequence| sequence.responses).or_else(|| self.ending.take());
    }

    fn is_free(&mut self) -> bool {
        if let Some(responses) = &mut self.ending
            && !matches!(responses.try_recv(), Err(TryRecvError::Empty))
        {
            self.ending = None;
        }
        self.sequence.is_none() && self.ending.is_none()
    }
}

// === impl Tap ===

impl CustomLogitsProcessor for Tap {
    fn apply(&self, logits: &Tensor, _context: &[u32]) -> candle_core::Result<Tensor> {
        let row: Vec<f32> = logits.to_vec1()?;
        let length = row.len();
        let ended = || candle_core::Error::msg("the sequence was ended by its engine");
        self.rows.send(row).map_err(|_| ended())?;
        let choices = self.choices.lock().unwrap_or_else(PoisonError::into_inner);
        let token = choices.recv().map_err(|_| ended())?;
        let mut only = vec![f32::NEG_INFINITY; length];
        if let Some(logit) = only.get_mut(token.index()) {
            *logit = 0.0;
        }
        Tensor::from_vec(only, length, &Device::Cpu)
    }
}

/// Reason why a sequence ended that nobody ended.
fn reason(response: Response) -> String {
    match response {
        Response::InternalError(error) | Response::ValidationError(error) => error.to_string(),
        Response::ModelError(error, _) | Response::CompletionModelError(error, _) => error,
        _ => "mistral.rs ended the sequence before its time".to_owned(),
    }
}
