//! The engine of a backend that runs one sequence at a time: a fair queue in front of a
//! [`Predictor`].
//!
//! Queue, deadlines, cancelling, sampling, stops and text are those of the batching engine; nothing
//! is ever drafted. A slow reader holds nobody up: its messages wait for it, and the next request
//! starts when its last token is chosen.

mod stream;

use std::sync::Arc;
use std::time::{Duration, Instant};

use stream::SerialStream;

use super::activity::Activity;
use super::board::Board;
use super::event::GenerationError;
use super::outbox::Delivery;
use super::predictor::{Prediction, Predictor};
use super::queue::{Queue, queue};
use super::thread::Engine;
use crate::record;
use skipstone_model::text::TextModel;

/// Time that a pass is waited for before waiting requests and readers are looked at again.
const PATIENCE: Duration = Duration::from_millis(20);

/// Time that the thread sleeps when only readers are waited for.
const READER_POLL: Duration = Duration::from_millis(1);

/// Streams that have ended and wait for their readers, at most; until there are fewer, nothing
/// starts.
const LATE_READERS: usize = 32;

/// Weight of the last plain step in the measured one.
const WEIGHT: f64 = 0.1;

/// Limits of a serial engine.
#[derive(Clone, Copy, Debug)]
pub struct SerialOptions {
    /// Requests that may wait.
    pub max_waiting: usize,
    /// Time that a reader may take nothing before its stream is cancelled.
    pub stall_timeout: Duration,
    /// Messages held for a slow reader.
    pub event_buffer: usize,
    /// Positions of a sequence, at most.
    pub context_length: usize,
}

struct SerialWorker {
    predictor: Box<dyn Predictor>,
    text: Arc<TextModel>,
    options: SerialOptions,
    queue: Queue,
    /// The stream that the predictor works for.
    current: Option<SerialStream>,
    /// Those that have ended and are not read to their end.
    late: Vec<SerialStream>,
    board: Board,
    plain_step_seconds: f64,
}

// === impl Engine ===

impl Engine {
    /// Starts an engine that runs one stream at a time on `predictor`.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn serial(
        predictor: Box<dyn Predictor>,
        text: Arc<TextModel>,
        options: SerialOptions,
    ) -> std::io::Result<Self> {
        let (entrance, queue) = queue(options.max_waiting, options.event_buffer);
        let board = Board::new();
        let observer = board.observer();
        let mut worker = SerialWorker {
            predictor,
            text,
            options,
            queue,
            current: None,
            late: Vec::new(),
            board,
            plain_step_seconds: 0.0,
        };
        Self::spawn(entrance, observer, move || worker.run())
    }
}

// === impl SerialWorker ===

impl SerialWorker {
    fn run(&mut self) {
        while self.receive() {
            self.sweep();
            self.admit();
            self.report();
            self.step();
        }
        self.predictor.end();
        if let Some(mut stream) = self.current.take() {
            stream.fail(GenerationError::ShuttingDown);
            self.board.retire(stream.activity());
        }
        self.queue.shut_down();
        let now = Instant::now();
        for mut stream in self.late.drain(..) {
            if !matches!(stream.outbox.flush(now), Delivery::Done) {
                stream.outbox.fail(GenerationError::ShuttingDown);
            }
        }
        self.report();
        self.show();
        self.board.set_idle(true);
    }

    /// Takes new requests; blocks while there is nothing else to do. Returns false when the engine
    /// shall end.
    fn receive(&mut self) -> bool {
        if self.current.is_none() && self.late.is_empty() && self.queue.is_empty() {
            self.report();
            self.show();
            self.board.set_idle(true);
            self.queue.block();
            self.board.set_idle(false);
        }
        self.queue.receive()
    }

    /// Drops what has ended, was cancelled, is too late or is not read.
    fn sweep(&mut self) {
        let now = Instant::now();
        let stall_timeout = self.options.stall_timeout;
        if let Some(stream) = &mut self.current {
            if stream.cancel.is_set() {
                stream.abandon(now);
            } else if stream.is_expired(now) {
                let error = stream.deadline_error();
                stream.fail(error);
            } else {
                match stream.outbox.flush(now) {
                    Delivery::Gone => stream.abandon(now),
                    Delivery::Blocked(time) if time >= stall_timeout => {
                        stream.fail(GenerationError::ReaderStalled {
                            seconds: stall_timeout.as_secs(),
                        });
                    }
                    Delivery::Done | Delivery::Blocked(_) => {}
                }
            }
            self.retire();
        }
        self.late.retain_mut(|stream| match stream.outbox.flush(now) {
            Delivery::Blocked(time) => time < stall_timeout && !stream.cancel.is_set(),
            Delivery::Done | Delivery::Gone => false,
        });
        self.queue.sweep(now);
    }

    /// If the current stream has ended, frees the predictor; the reader may still fetch what is
    /// left.
    fn retire(&mut self) {
        if let Some(stream) = self.current.take_if(|stream| stream.is_finished()) {
            self.predictor.end();
            self.board.retire(stream.activity());
            self.late.push(stream);
        }
    }

    /// Starts the request that came first, if the predictor is free.
    fn admit(&mut self) {
        if self.current.is_some() || self.late.len() >= LATE_READERS || !self.predictor.is_free() {
            return;
        }
        let Some(pending) = self.queue.take() else { return };
        let mut stream = SerialStream::admit(pending, &self.text);
        if let Err(reason) = self.predictor.begin(stream.prompt(), stream.max_new_tokens()) {
            stream.fail(GenerationError::Internal(reason));
        }
        self.current = Some(stream);
        self.queue.set_running(1 + self.late.len());
        self.queue.admitted();
        self.retire();
    }

    /// Lets the current stream take its next token, if its pass ends soon.
    fn step(&mut self) {
        let Some(stream) = &mut self.current else {
            // Either only readers are waited for, or a sequence that was ended has still to stop.
            if !self.predictor.is_free() {
                self.predictor.wait(PATIENCE);
            } else if !self.late.is_empty() {
                std::thread::sleep(READER_POLL);
            }
            return;
        };
        match self.predictor.wait(PATIENCE) {
            Prediction::Pending => return,
            Prediction::Failed(reason) => stream.fail(GenerationError::Internal(reason)),
            Prediction::Logits(logits) => {
                record::engine_step();
                let is_prefill = stream.is_prefilling();
                let (token, seconds) = stream.take(&logits);
                if let Some(token) = token {
                    self.predictor.feed(token);
                }
                stream.outbox.flush(Instant::now());
                if !is_prefill {
                    self.measure(seconds);
                }
            }
        }
        self.retire();
    }

    /// Keeps the measured plain step up to date.
    fn measure(&mut self, seconds: f64) {
        let known = self.plain_step_seconds;
        self.plain_step_seconds =
            if known > 0.0 { known + WEIGHT * (seconds - known) } else { seconds };
        record::plain_step_seconds(self.plain_step_seconds);
    }

    fn report(&mut self) {
        let running = usize::from(self.current.is_some());
        self.queue.set_running(running + self.late.len());
        record::running(running);
        record::waiting(self.queue.len());
        record::kv_usage(self.kv_usage());
        if self.board.is_asked() {
            self.show();
        }
    }

    /// Share of the context that the current stream may come to fill.
    fn kv_usage(&self) -> f64 {
        let positions = self.current.as_ref().map_or(0, SerialStream::positions);
        positions as f64 / self.options.context_length.max(1) as f64
    }

    /// Tells those who ask what is going on.
    fn show(&mut self) {
        self.board.show(Activity {
            running: self.current.iter().map(SerialStream::activity).collect(),
            waiting: self.queue.len(),
            plain_step_seconds: self.plain_step_seconds,
            kv_cache_usage: self.kv_usage(),
            ..Activity::default()
        });
    }
}
