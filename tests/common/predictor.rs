//! A predictor over the native model, and what tests want to know of it.

#![allow(clippy::unwrap_used, reason = "helpers of tests may assert by panicking, as tests do")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use skipstone::engine::{Prediction, Predictor};
use skipstone::kernels::Isa;
use skipstone::model::{PageLease, PagePool, Runner, TokenId};

use super::passes::{group, inputs, runner};
use super::tiny_model::Loaded;

/// Runs the model's plain passes. Panics if two sequences meet.
pub struct NativePredictor {
    runner: Runner,
    lease: PageLease,
    _pages: PagePool,
    length: usize,
    logits: Option<Vec<f32>>,
    is_busy: bool,
    controls: Arc<Controls>,
}

/// Shared with the test.
#[derive(Default)]
pub struct Controls {
    /// No logits come while it is set.
    pub holds: AtomicBool,
    /// A sequence that was ended does not stop while it is set.
    pub lingers: AtomicBool,
    /// The next wait fails.
    pub fails: AtomicBool,
    /// Sequences that were begun.
    pub begun: AtomicUsize,
}

// === impl NativePredictor ===

impl NativePredictor {
    pub fn new(loaded: &Loaded, controls: &Arc<Controls>) -> Self {
        let positions = loaded.model.config().context_length;
        let (runner, pages) = runner(&loaded.model, Isa::detect(), 1, positions);
        let lease = pages.lease(positions).unwrap();
        let controls = Arc::clone(controls);
        Self { runner, lease, _pages: pages, length: 0, logits: None, is_busy: false, controls }
    }

    fn run(&mut self, tokens: &[TokenId]) {
        let rows = inputs(tokens);
        let output = self.runner.run(&[group(&self.lease, self.length, &rows)]);
        self.logits = Some(output.logits(0, tokens.len() - 1).to_vec());
        self.length += tokens.len();
    }
}

impl Predictor for NativePredictor {
    fn begin(&mut self, prompt: &[TokenId], _: usize) -> Result<(), String> {
        assert!(self.is_free(), "a sequence began before the one before it had stopped");
        self.controls.begun.fetch_add(1, Ordering::SeqCst);
        (self.length, self.is_busy) = (0, true);
        self.run(prompt);
        Ok(())
    }

    fn wait(&mut self, patience: Duration) -> Prediction {
        if self.controls.holds.load(Ordering::SeqCst) {
            std::thread::sleep(patience.min(Duration::from_millis(1)));
            return Prediction::Pending;
        }
        if self.controls.fails.swap(false, Ordering::SeqCst) {
            self.is_busy = false;
            return Prediction::Failed("it was told to".to_owned());
        }
        self.logits.take().map_or(Prediction::Pending, Prediction::Logits)
    }

    fn feed(&mut self, token: TokenId) {
        self.run(&[token]);
    }

    fn end(&mut self) {
        (self.logits, self.is_busy) = (None, false);
    }

    fn is_free(&mut self) -> bool {
        !self.is_busy && !self.controls.lingers.load(Ordering::SeqCst)
    }
}
