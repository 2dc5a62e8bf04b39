//! Checked reading of little-endian fields from the header of a file.

use std::fmt;

use super::error::quoted;
use super::{GgufError, limits};

/// A place in a file that is being read, with the checks that every step makes.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

/// Name of the field that is being read, for messages: `metadata count`, or `value type of
/// "general.name"`.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    part: &'static str,
    owner: Option<&'a str>,
}

// === impl Field ===

impl<'a> Field<'a> {
    /// A field of the file itself.
    pub(super) const fn new(part: &'static str) -> Self {
        Self { part, owner: None }
    }

    /// A field of the named key or tensor.
    pub(super) const fn of(part: &'static str, owner: &'a str) -> Self {
        Self { part, owner: Some(owner) }
    }

    /// Another field of the same owner.
    pub(super) const fn part(self, part: &'static str) -> Self {
        Self { part, owner: self.owner }
    }
}

impl fmt::Display for Field<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.part)?;
        match self.owner {
            Some(owner) => write!(formatter, " of \"{}\"", quoted(owner)),
            None => Ok(()),
        }
    }
}

// === impl Cursor ===

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// Start of the next field, in bytes from the start of the file.
    pub(super) fn position(&self) -> u64 {
        self.position as u64
    }

    fn left(&self) -> u64 {
        (self.bytes.len() - self.position) as u64
    }

    /// The next `length` bytes.
    pub(super) fn take(&mut self, length: u64, field: Field<'_>) -> Result<&'a [u8], GgufError> {
        let at = self.position();
        if length > self.left() {
            return Err(GgufError::Truncated {
                field: field.to_string(),
                at,
                needed: length,
                left: self.left(),
            });
        }
        if length > limits::HEADER_BYTES.saturating_sub(at) {
            return Err(GgufError::HeaderTooLarge { field: field.to_string(), at });
        }
        // `length` fits the slice, so it fits usize.
        let (taken, _) = self.bytes[self.position..].split_at(length as usize);
        self.position += taken.len();
        Ok(taken)
    }

    /// The next `N` bytes.
    pub(super) fn fixed<const N: usize>(&mut self, field: Field<'_>) -> Result<[u8; N], GgufError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N as u64, field)?);
        Ok(bytes)
    }

    /// The next u32.
    pub(super) fn u32(&mut self, field: Field<'_>) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.fixed(field)?))
    }

    /// The next u64.
    pub(super) fn u64(&mut self, field: Field<'_>) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.fixed(field)?))
    }

    /// The next u64, as a count of things that take at least `least_bytes` bytes each and follow
    /// it.
    pub(super) fn count(&mut self, least_bytes: u64, field: Field<'_>) -> Result<u64, GgufError> {
        let at = self.position();
        let count = self.u64(field)?;
        if count.checked_mul(least_bytes).is_none_or(|bytes| bytes > self.left()) {
            return Err(GgufError::CountBeyondFile {
                field: field.to_string(),
                at,
                count,
                left: self.left(),
            });
        }
        Ok(count)
    }

    /// A string: its length in bytes as u64, then UTF-8.
    pub(super) fn string(&mut self, field: Field<'_>) -> Result<&'a str, GgufError> {
        let length = self.u64(field)?;
        self.text(length, field)
    }

    /// A metadata key or a tensor name: a string that is not empty and not too long.
    pub(super) fn name(&mut self, field: Field<'_>) -> Result<&'a str, GgufError> {
        let at = self.position();
        let length = self.u64(field)?;
        match length {
            0 => Err(GgufError::EmptyName { field: field.to_string(), at }),
            1..=limits::NAME_BYTES => self.text(length, field),
            count => Err(GgufError::CountAboveLimit {
                field: format!("length of a {field}"),
                at,
                count,
                limit: limits::NAME_BYTES,
            }),
        }
    }

    fn text(&mut self, length: u64, field: Field<'_>) -> Result<&'a str, GgufError> {
        let start = self.position();
        str::from_utf8(self.take(length, field)?).map_err(|error| GgufError::BadUtf8 {
            field: field.to_string(),
            at: start + error.valid_up_to() as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELD: Field<'static> = Field::of("value", "a\nkey");

    #[test]
    fn reads_fields_in_turn() {
        let mut cursor = Cursor::new(b"\x01\0\0\0\x02\0\0\0\0\0\0\0abc");
        assert_eq!(cursor.u32(FIELD).unwrap(), 1);
        assert_eq!(cursor.string(FIELD).unwrap(), "ab");
        assert_eq!(cursor.position(), 14);
        assert_eq!(cursor.take(1, FIELD).unwrap(), b"c");
        assert_eq!(
            cursor.take(1, FIELD).unwrap_err().to_string(),
            "the file ends inside the value of \"a\\nkey\": 1 bytes are needed at byte 15, 0 are left; it is \
             truncated, download it again"
        );
    }

    #[test]
    fn a_failed_read_does_not_move() {
        let mut cursor = Cursor::new(b"abc");
        assert!(cursor.u32(FIELD).is_err());
        assert!(cursor.take(u64::MAX, FIELD).is_err());
        assert_eq!(cursor.position(), 0);
    }

    #[test]
    fn counts_are_held_against_what_is_left() {
        let mut bytes = 3_u64.to_le_bytes().to_vec();
        bytes.extend([0; 12]);
        assert_eq!(Cursor::new(&bytes).count(4, FIELD).unwrap(), 3);
        for least_bytes in [5, u64::MAX] {
            let error = Cursor::new(&bytes).count(least_bytes, FIELD).unwrap_err().to_string();
            assert!(
                error.contains("is 3, but the 12 bytes that follow can't hold so many"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_header_has_an_end_even_if_the_file_has_not() {
        let bytes = vec![0; limits::HEADER_BYTES as usize + 1];
        let mut cursor = Cursor::new(&bytes);
        cursor.take(limits::HEADER_BYTES, FIELD).unwrap();
        let error = cursor.take(1, FIELD).unwrap_err().to_string();
        assert!(error.contains("passes the header limit of 67108864 bytes"), "{error}");
    }
}
