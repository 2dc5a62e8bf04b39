//! Second moments of an interrupted calibration, each in a file beside its other work: a pass over
//! all text makes them.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::CalibrationError;
use super::partial::{VERSION, folder_of, keep};
use crate::adapt::Moments;

/// The entry of the metadata that says whose moments they are.
const ENTRY: &str = "calibration";

/// The files that keep the moments of one calibration.
#[derive(Clone, Debug)]
pub(super) struct KeptMoments {
    /// Start of the file names.
    prefix: PathBuf,
    /// Key of the moments; those of another key are of no use.
    key: String,
}

// === impl KeptMoments ===

impl KeptMoments {
    /// Files beside `partial`, for a model with this fingerprint and a text of `tokens` tokens.
    pub(super) fn beside(partial: &Path, fingerprint: &str, tokens: usize) -> Self {
        let mut prefix = OsString::from(partial);
        prefix.push(".moments-");
        Self { prefix: prefix.into(), key: format!("{VERSION} {fingerprint} {tokens}") }
    }

    /// The moments of all `spans` from the first `limit` tokens of text, or none if one is missing
    /// or damaged.
    pub(super) fn read(
        &self,
        spans: &[Range<usize>],
        limit: usize,
        hidden: usize,
    ) -> Option<Vec<Moments>> {
        spans.iter().map(|span| self.read_one(span, limit, hidden)).collect()
    }

    fn read_one(&self, span: &Range<usize>, limit: usize, hidden: usize) -> Option<Moments> {
        let bytes = fs::read(self.path(span, limit)).ok()?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes).ok()?;
        if metadata.metadata().as_ref()?.get(ENTRY) != Some(&self.key) {
            return None;
        }
        let tensors = SafeTensors::deserialize(&bytes).ok()?;
        let singles = |name| words(&tensors, name, f32::from_le_bytes);
        let doubles = |name| words(&tensors, name, f64::from_le_bytes);
        let [tokens, weight] = <[f64; 2]>::try_from(doubles("totals")?).ok()?;
        let means = (doubles("mean_input")?, doubles("mean_change")?);
        let moments =
            Moments::from_parts((tokens, weight), means, (singles("gram")?, singles("cross")?))
                .ok()?;
        (moments.hidden() == hidden).then_some(moments)
    }

    /// Keeps the moments of one span: whole or not at all.
    ///
    /// # Errors
    /// If the file can't be written.
    pub(super) fn write(
        &self,
        span: &Range<usize>,
        limit: usize,
        moments: &Moments,
    ) -> Result<(), CalibrationError> {
        let (hidden, totals) = (moments.hidden(), [moments.tokens(), moments.weight()]);
        let parts = [
            ("totals", Dtype::F64, vec![2], bytes(&totals, f64::to_le_bytes)),
            (
                "mean_input",
                Dtype::F64,
                vec![2 * hidden],
                bytes(moments.mean_input(), f64::to_le_bytes),
            ),
            (
                "mean_change",
                Dtype::F64,
                vec![hidden],
                bytes(moments.mean_change(), f64::to_le_bytes),
            ),
            (
                "gram",
                Dtype::F32,
                vec![2 * hidden, 2 * hidden],
                bytes(moments.gram(), f32::to_le_bytes),
            ),
            (
                "cross",
                Dtype::F32,
                vec![hidden, 2 * hidden],
                bytes(moments.cross(), f32::to_le_bytes),
            ),
        ];
        let views = parts
            .iter()
            .map(|(name, dtype, shape, bytes)| {
                Ok((*name, TensorView::new(*dtype, shape.clone(), bytes)?))
            })
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>();
        let metadata = HashMap::from([(ENTRY.to_owned(), self.key.clone())]);
        let serialized = views.and_then(|views| safetensors::serialize(views, Some(metadata)));
        keep(&self.path(span, limit), serialized.map_err(std::io::Error::other))
    }

    /// Forgets all moments.
    pub(super) fn remove(&self) {
        let Ok(entries) = fs::read_dir(folder_of(&self.prefix)) else { return };
        let Some(prefix) = self.prefix.file_name().map(|name| name.to_string_lossy().into_owned())
        else {
            return;
        };
        for entry in entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        {
            // What is left behind is only in the way.
            let _ = fs::remove_file(entry.path());
        }
    }

    fn path(&self, span: &Range<usize>, limit: usize) -> PathBuf {
        let mut path = self.prefix.clone().into_os_string();
        path.push(format!("{}-{}", span.start, span.end));
        if limit < usize::MAX {
            path.push(format!("-{limit}"));
        }
        path.into()
    }
}

fn bytes<T: Copy, const N: usize>(values: &[T], to_bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&value| to_bytes(value)).collect()
}

fn words<T, const N: usize>(
    tensors: &SafeTensors<'_>,
    name: &str,
    from_bytes: impl Fn([u8; N]) -> T,
) -> Option<Vec<T>> {
    let tensor = tensors.tensor(name).ok()?;
    let (words, rest) = tensor.data().as_chunks::<N>();
    rest.is_empty().then(|| words.iter().map(|&word| from_bytes(word)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_come_back_to_their_own_calibration_only() {
        let folder = tempfile::tempdir().unwrap();
        let kept = KeptMoments::beside(&folder.path().join("a.partial"), "ab", 100);
        let mut moments = Moments::new(3);
        moments.observe(
            &[1.0, 2.0, 3.0, 0.5, -1.0, 2.0, 0.0, 1.0, 2.0, 3.0, 0.5, 0.5],
            &[2.0, 2.5, 3.0, 1.0, 0.0, 2.0],
        );
        let spans = [4..8, 6..12];
        assert_eq!(kept.read(&spans, usize::MAX, 3), None);
        kept.write(&spans[0], usize::MAX, &moments).unwrap();
        assert_eq!(kept.read(&spans, usize::MAX, 3), None, "one is missing");
        kept.write(&spans[1], usize::MAX, &moments).unwrap();
        assert_eq!(kept.read(&spans, usize::MAX, 3), Some(vec![moments.clone(), moments.clone()]));
        assert_eq!(kept.read(&spans, usize::MAX, 4), None);
        assert_eq!(kept.read(&spans, 50, 3), None, "from less text");
        let other = KeptMoments { key: "cd 100".to_owned(), ..kept.clone() };
        assert_eq!(other.read(&spans, usize::MAX, 3), None);
        fs::write(kept.path(&spans[0], usize::MAX), b"damaged").unwrap();
        assert_eq!(kept.read(&spans, usize::MAX, 3), None);
        kept.remove();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let nowhere = KeptMoments::beside(&folder.path().join("none").join("a.partial"), "ab", 100);
        assert!(
            nowhere
                .write(&spans[0], usize::MAX, &moments)
                .unwrap_err()
                .to_string()
                .contains("none")
        );
    }
}
