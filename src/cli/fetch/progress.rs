//! A progress bar on stderr, shown only where a person watches.

use std::io::Read;

use indicatif::{ProgressBar, ProgressStyle};

/// Counts bytes. indicatif draws nothing unless stderr is a terminal.
pub(super) struct Progress(ProgressBar);

// === impl Progress ===

impl Progress {
    /// A bar for `total` bytes, or a spinner if nobody knows how many there will be.
    pub(super) fn new(total: Option<u64>) -> Self {
        let (bar, template) = match total {
            Some(total) => (
                ProgressBar::new(total),
                "{bar:30} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} \
                 left",
            ),
            None => {
                (ProgressBar::new_spinner(), "{spinner} {binary_bytes}, {binary_bytes_per_sec}")
            }
        };
        // A template that can't be read costs the looks of the bar only.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// Counts what is read through the result.
    pub(super) fn around<R: Read>(&self, source: R) -> impl Read + use<R> {
        self.0.wrap_read(source)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

impl hf_hub::api::Progress for Progress {
    fn init(&mut self, size: usize, _filename: &str) {
        self.0.set_length(size as u64);
    }

    fn update(&mut self, size: usize) {
        self.0.inc(size as u64);
    }

    fn finish(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_can_be_read() {
        for total in [Some(10), None] {
            let progress = Progress::new(total);
            let mut bytes = Vec::new();
            progress.around(&b"hello"[..]).read_to_end(&mut bytes).unwrap();
            assert_eq!((bytes.as_slice(), progress.0.position()), (&b"hello"[..], 5));
        }
        for template in [
            "{bar:30} {binary_bytes} {binary_total_bytes} {binary_bytes_per_sec} {eta}",
            "{spinner}",
        ] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
