//! Passes that were recorded, to see how well they were priced.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::measure::deviations;
use super::{CostModel, ModelSize, PARAMETERS, StepShape};

/// Writes each pass of an engine to a file: a line with what was measured at start, then a line for
/// each pass.
#[derive(Debug)]
pub(crate) struct PassLog(BufWriter<File>);

/// The first line.
#[derive(Serialize, Deserialize)]
struct Start {
    size: ModelSize,
    parameters: Vec<f64>,
}

/// A pass, and what it took.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RecordedPass {
    /// From start to end, in seconds.
    pub seconds: f64,
    /// One for each stream.
    pub steps: Vec<StepShape>,
}

/// How far the model was off what passes took, each judged before it was learned from.
#[derive(Clone, Copy, PartialEq, Serialize, Debug)]
pub struct PriceErrors {
    /// Passes.
    pub passes: usize,
    /// The median of |predicted / taken - 1|.
    pub median: f64,
    /// Its 95th percentile.
    pub p95: f64,
}

// === impl PassLog ===

impl PassLog {
    pub(crate) fn create(path: &Path, costs: &CostModel) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        let start = Start { size: costs.size, parameters: costs.parameters.to_vec() };
        serde_json::to_writer(&mut file, &start)?;
        file.write_all(b"\n")?;
        Ok(Self(file))
    }

    pub(crate) fn write(&mut self, steps: &[StepShape], seconds: f64) -> io::Result<()> {
        serde_json::to_writer(&mut self.0, &RecordedPass { seconds, steps: steps.to_vec() })?;
        self.0.write_all(b"\n")
    }
}

// === impl CostModel ===

impl CostModel {
    /// The passes of a file that an engine wrote (`EngineOptions::pass_log`), and the model that it
    /// had at start.
    ///
    /// # Errors
    /// If the file can't be read, or is none.
    pub fn recorded(path: &Path) -> io::Result<(Self, Vec<RecordedPass>)> {
        let mut lines = BufReader::new(File::open(path)?).lines();
        let start = lines.next().ok_or(io::ErrorKind::UnexpectedEof)??;
        let Start { size, parameters } = serde_json::from_str(&start)?;
        let parameters: [f64; PARAMETERS] =
            parameters.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
        let deviations = deviations(&parameters, usize::MAX, 0.05);
        let pass = |line: io::Result<String>| Ok(serde_json::from_str(&line?)?);
        let passes = lines.map(pass).collect::<io::Result<_>>()?;
        Ok((Self::new(parameters, deviations, size), passes))
    }

    /// Prices these passes one by one, and learns from each.
    pub fn replay(&mut self, passes: &[RecordedPass]) -> PriceErrors {
        let mut errors: Vec<f64> = passes
            .iter()
            .map(|RecordedPass { seconds, steps }| {
                let error = (self.seconds(steps) / seconds - 1.0).abs();
                self.observe(steps, *seconds);
                error
            })
            .collect();
        errors.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = (share * errors.len() as f64) as usize;
            errors.get(place.min(errors.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
        };
        PriceErrors { passes: errors.len(), median: at(0.5), p95: at(0.95) }
    }
}
