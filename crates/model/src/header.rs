//! A file's header as architectures read it: the keys of their own prefix, checked.

use std::ops::RangeInclusive;

use super::error::ModelError;
use skipstone_gguf::{Manifest, Metadata};

/// The header of a file of a known architecture.
pub(super) struct Header<'a> {
    pub(super) manifest: &'a Manifest,
    /// `general.architecture`, the prefix of the keys.
    pub(super) architecture: &'a str,
}

// === impl Header ===

impl<'a> Header<'a> {
    /// The metadata, under whole keys.
    pub(super) fn metadata(&self) -> &'a Metadata {
        self.manifest.metadata()
    }

    /// The whole key of `name`.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    /// The error that the value of `name` is impossible.
    pub(super) fn error(&self, name: &str, value: usize, reason: String) -> ModelError {
        ModelError::Size { key: self.key(name), value: value as u64, reason }
    }

    /// A size within `range`, if the file names it.
    pub(super) fn optional(
        &self,
        name: &str,
        range: RangeInclusive<usize>,
    ) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.metadata().u64(&self.key(name))? else { return Ok(None) };
        match usize::try_from(value) {
            Ok(size) if range.contains(&size) => Ok(Some(size)),
            _ => Err(ModelError::Size {
                key: self.key(name),
                value,
                reason: format!("must be between {} and {}", range.start(), range.end()),
            }),
        }
    }

    /// A size within `range`, which the file must name.
    pub(super) fn required(
        &self,
        name: &str,
        range: RangeInclusive<usize>,
    ) -> Result<usize, ModelError> {
        match self.optional(name, range)? {
            Some(size) => Ok(size),
            // Asks again for the error that names the key.
            None => Ok(self.metadata().require_u64(&self.key(name))? as usize),
        }
    }

    /// A number within `range`, if the file names it.
    pub(super) fn number(
        &self,
        name: &str,
        range: RangeInclusive<f32>,
    ) -> Result<Option<f32>, ModelError> {
        let Some(value) = self.metadata().f32(&self.key(name))? else { return Ok(None) };
        let (least, most) = range.into_inner();
        match (least..=most).contains(&value) {
            true => Ok(Some(value)),
            false => Err(ModelError::Number { key: self.key(name), value, least, most }),
        }
    }

    /// A number within `range`, which the file must name.
    pub(super) fn required_number(
        &self,
        name: &str,
        range: RangeInclusive<f32>,
    ) -> Result<f32, ModelError> {
        match self.number(name, range)? {
            Some(number) => Ok(number),
            // Asks again for the error that names the key.
            None => Ok(self.metadata().require_f32(&self.key(name))?),
        }
    }

    /// A required size that the kernels can cut into vectors of eight.
    pub(super) fn multiple_of_8(&self, name: &str) -> Result<usize, ModelError> {
        let size = self.required(name, 8..=1 << 20)?;
        if size.is_multiple_of(8) {
            Ok(size)
        } else {
            Err(self.error(name, size, "must be a multiple of 8".to_owned()))
        }
    }
}
