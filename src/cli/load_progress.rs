//! Progress of loading, for people who watch.

use indicatif::{ProgressBar, ProgressStyle};

/// Hears what loading is busy with.
pub trait LoadProgress: Sync {
    /// A stage began, as in "reading the model".
    fn stage(&self, what: &str);
    /// `done` of `total` bytes of weights are ready.
    fn bytes(&self, done: u64, total: u64);
}

/// A bar on a terminal, which goes away when the load is over, and a line in the log for each
/// stage.
pub(super) struct LoadBar(ProgressBar);

// === impl LoadBar ===

impl LoadBar {
    pub(super) fn new() -> Self {
        // indicatif draws nothing unless stderr is a terminal.
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {bytes} of {total_bytes}")
        {
            bar.set_style(style.progress_chars("=> "));
        }
        Self(bar)
    }
}

impl LoadProgress for LoadBar {
    fn stage(&self, what: &str) {
        tracing::info!("{what}");
        self.0.set_message(what.to_owned());
    }

    fn bytes(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }
}

impl Drop for LoadBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
