//! The file of last states: one row of half-precision numbers (bf16, as a pass keeps them) for each
//! token, sequence after sequence.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use half::bf16;

use super::TrainingError;

/// Reads states.
#[derive(Debug)]
pub struct States {
    file: File,
    path: PathBuf,
    hidden: usize,
    rows: usize,
}

/// Appends states.
#[derive(Debug)]
pub struct StatesWriter {
    file: BufWriter<File>,
    path: PathBuf,
}

// === impl States ===

impl States {
    /// Opens the file for rows of `hidden` numbers.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn open(path: &Path, hidden: usize) -> Result<Self, TrainingError> {
        let file = File::open(path).map_err(|source| failed(path, source))?;
        let bytes = file.metadata().map_err(|source| failed(path, source))?.len();
        let rows = usize::try_from(bytes).unwrap_or(usize::MAX) / (2 * hidden.max(1));
        Ok(Self { file, path: path.to_owned(), hidden, rows })
    }

    /// Rows of the file.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Reads `rows` rows from row `first` on, \[rows, hidden\].
    ///
    /// # Errors
    /// If the file has fewer.
    pub fn read(&self, first: usize, rows: usize) -> Result<Vec<f32>, TrainingError> {
        let mut bytes = vec![0; rows * self.hidden * 2];
        let start = (first * self.hidden * 2) as u64;
        self.file.read_exact_at(&mut bytes, start).map_err(|source| failed(&self.path, source))?;
        let words = bytes.as_chunks::<2>().0;
        Ok(words.iter().map(|&word| bf16::from_le_bytes(word).to_f32()).collect())
    }
}

// === impl StatesWriter ===

impl StatesWriter {
    /// Goes on with the file after its first `rows` rows of `hidden` numbers; what follows them is
    /// dropped.
    ///
    /// # Errors
    /// If it can't be written, or has fewer rows.
    pub fn resume(path: &Path, hidden: usize, rows: usize) -> Result<Self, TrainingError> {
        let wrong = |source| failed(path, source);
        let file = File::options().create(true).append(true).open(path).map_err(wrong)?;
        let bytes = (rows * hidden * 2) as u64;
        if file.metadata().map_err(wrong)?.len() < bytes {
            let short = std::io::Error::other("it is shorter than the text; remove both");
            return Err(wrong(short));
        }
        file.set_len(bytes).map_err(wrong)?;
        Ok(Self { file: BufWriter::with_capacity(1 << 20, file), path: path.to_owned() })
    }

    /// Appends rows.
    ///
    /// # Errors
    /// If they can't be written.
    pub fn append(&mut self, numbers: &[f32]) -> Result<(), TrainingError> {
        let mut write = || -> std::io::Result<()> {
            numbers
                .iter()
                .try_for_each(|&number| self.file.write_all(&bf16::from_f32(number).to_le_bytes()))
        };
        write().map_err(|source| failed(&self.path, source))
    }

    /// Makes sure that all rows are in the file.
    ///
    /// # Errors
    /// If they can't be written.
    pub fn flush(&mut self) -> Result<(), TrainingError> {
        self.file.flush().map_err(|source| failed(&self.path, source))
    }
}

fn failed(path: &Path, source: std::io::Error) -> TrainingError {
    TrainingError::File { path: path.display().to_string(), source }
}
