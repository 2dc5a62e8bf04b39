//! The key-value section of a file, with getters that check types and ranges.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::error::quoted;
use super::{Array, MetadataError, Value};

/// The metadata of a file: unique keys with their values.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Metadata {
    values: BTreeMap<String, Value>,
}

// === impl Metadata ===

impl Metadata {
    pub(super) fn new(values: BTreeMap<String, Value>) -> Self {
        Self { values }
    }

    /// The value of a key, whatever its type.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// All keys with their values, by ascending key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// A string; nothing when the key is missing, an error when it holds something else.
    pub fn string(&self, key: &str) -> Result<Option<&str>, MetadataError> {
        self.read(key, "a string", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// An integer of any width that fits a u32.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, MetadataError> {
        self.read(key, "an integer from 0 to 2^32-1", |value| u32::try_from(integer(value)?).ok())
    }

    /// An integer of any width that is not negative.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, MetadataError> {
        self.read(key, "an integer that is not negative", |value| {
            u64::try_from(integer(value)?).ok()
        })
    }

    /// A float, rounded from f64 where the file has that; never an f64 beyond the range of f32.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, MetadataError> {
        self.read(key, "a float in the range of f32", |value| match value {
            Value::F32(number) => Some(*number),
            Value::F64(number) => narrowed(*number),
            _ => None,
        })
    }

    /// A boolean.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, MetadataError> {
        self.read(key, "a bool", |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>, MetadataError> {
        self.read(key, "an array of strings", |value| match value {
            Value::Array(Array::String(texts)) => Some(texts.as_slice()),
            _ => None,
        })
    }

    /// An array of integers of any width that all fit an i32; borrowed when they are stored so.
    pub fn i32s(&self, key: &str) -> Result<Option<Cow<'_, [i32]>>, MetadataError> {
        self.read(key, "an array of integers from -2^31 to 2^31-1", |value| match value {
            Value::Array(Array::I32(numbers)) => Some(Cow::Borrowed(numbers.as_slice())),
            Value::Array(array) => integers(array).map(Cow::Owned),
            _ => None,
        })
    }

    /// An array of integers of any width that all fit a u32; borrowed when they are stored so.
    pub fn u32s(&self, key: &str) -> Result<Option<Cow<'_, [u32]>>, MetadataError> {
        self.read(key, "an array of integers from 0 to 2^32-1", |value| match value {
            Value::Array(Array::U32(numbers)) => Some(Cow::Borrowed(numbers.as_slice())),
            Value::Array(array) => integers(array).map(Cow::Owned),
            _ => None,
        })
    }

    /// An array of floats, with the ranges of [`Metadata::f32`]; borrowed when they are stored as
    /// f32.
    pub fn f32s(&self, key: &str) -> Result<Option<Cow<'_, [f32]>>, MetadataError> {
        self.read(key, "an array of floats in the range of f32", |value| match value {
            Value::Array(Array::F32(numbers)) => Some(Cow::Borrowed(numbers.as_slice())),
            Value::Array(Array::F64(numbers)) => numbers
                .iter()
                .map(|&number| narrowed(number))
                .collect::<Option<_>>()
                .map(Cow::Owned),
            _ => None,
        })
    }

    /// As [`Metadata::string`]; a missing key is an error.
    pub fn require_string(&self, key: &str) -> Result<&str, MetadataError> {
        self.string(key)?.ok_or_else(|| missing(key, "a string"))
    }

    /// As [`Metadata::u32`]; a missing key is an error.
    pub fn require_u32(&self, key: &str) -> Result<u32, MetadataError> {
        self.u32(key)?.ok_or_else(|| missing(key, "an integer"))
    }

    /// As [`Metadata::u64`]; a missing key is an error.
    pub fn require_u64(&self, key: &str) -> Result<u64, MetadataError> {
        self.u64(key)?.ok_or_else(|| missing(key, "an integer"))
    }

    /// As [`Metadata::f32`]; a missing key is an error.
    pub fn require_f32(&self, key: &str) -> Result<f32, MetadataError> {
        self.f32(key)?.ok_or_else(|| missing(key, "a float"))
    }

    /// As [`Metadata::strings`]; a missing key is an error.
    pub fn require_strings(&self, key: &str) -> Result<&[String], MetadataError> {
        self.strings(key)?.ok_or_else(|| missing(key, "an array of strings"))
    }

    fn read<'a, T>(
        &'a self,
        key: &str,
        wanted: &'static str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, MetadataError> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(wrong(key, wanted, value)),
        }
    }
}

/// The error for a key that holds the wrong thing.
pub(super) fn wrong(key: &str, wanted: &'static str, value: &Value) -> MetadataError {
    let found = match value {
        Value::Array(_) => format!("holds an {value}"),
        _ => format!("holds the {} {value}", value.value_type().name()),
    };
    MetadataError { key: quoted(key), wanted, found }
}

fn missing(key: &str, wanted: &'static str) -> MetadataError {
    MetadataError { key: quoted(key), wanted, found: "is missing".to_owned() }
}

/// Any integer; i128 holds all widths, signed and unsigned.
fn integer(value: &Value) -> Option<i128> {
    match value {
        Value::U8(number) => Some((*number).into()),
        Value::I8(number) => Some((*number).into()),
        Value::U16(number) => Some((*number).into()),
        Value::I16(number) => Some((*number).into()),
        Value::U32(number) => Some((*number).into()),
        Value::I32(number) => Some((*number).into()),
        Value::U64(number) => Some((*number).into()),
        Value::I64(number) => Some((*number).into()),
        _ => None,
    }
}

fn integers<T>(array: &Array) -> Option<Vec<T>>
where
    T: TryFrom<u8> + TryFrom<i8> + TryFrom<u16> + TryFrom<i16>,
    T: TryFrom<u32> + TryFrom<i32> + TryFrom<u64> + TryFrom<i64>,
{
    fn all<S: Copy, T: TryFrom<S>>(numbers: &[S]) -> Option<Vec<T>> {
        numbers.iter().map(|&number| T::try_from(number).ok()).collect()
    }
    match array {
        Array::U8(numbers) => all(numbers),
        Array::I8(numbers) => all(numbers),
        Array::U16(numbers) => all(numbers),
        Array::I16(numbers) => all(numbers),
        Array::U32(numbers) => all(numbers),
        Array::I32(numbers) => all(numbers),
        Array::U64(numbers) => all(numbers),
        Array::I64(numbers) => all(numbers),
        _ => None,
    }
}

/// An f64 rounded to f32, unless a finite value would become infinite.
fn narrowed(number: f64) -> Option<f32> {
    let rounded = number as f32;
    (rounded.is_finite() || !number.is_finite()).then_some(rounded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(value: impl Into<Value>) -> Metadata {
        Metadata::new(BTreeMap::from([("key".to_owned(), value.into())]))
    }

    #[test]
    fn integers_of_any_width_convert() {
        for value in
            [Value::U8(7), Value::I8(7), Value::U16(7), Value::I16(7), Value::U32(7), Value::I32(7)]
        {
            assert_eq!(metadata(value.clone()).u32("key"), Ok(Some(7)), "{value:?}");
        }
        assert_eq!(metadata(7_u64).u32("key"), Ok(Some(7)));
        assert_eq!(metadata(7_i64).u64("key"), Ok(Some(7)));
        assert_eq!(metadata(u64::MAX).u64("key"), Ok(Some(u64::MAX)));
        assert_eq!(metadata(vec![1_u8, 2]).i32s("key").unwrap().unwrap(), vec![1, 2]);
        assert_eq!(metadata(vec![1_i64, 2]).u32s("key").unwrap().unwrap(), vec![1, 2]);
        assert!(matches!(metadata(vec![1_i32]).i32s("key"), Ok(Some(Cow::Borrowed([1])))));
    }

    #[test]
    fn floats_convert_without_overflow() {
        assert_eq!(metadata(0.5_f64).f32("key"), Ok(Some(0.5)));
        assert_eq!(metadata(f64::INFINITY).f32("key"), Ok(Some(f32::INFINITY)));
        assert!(metadata(1e300_f64).f32("key").is_err());
        assert_eq!(metadata(vec![0.5_f64]).f32s("key").unwrap().unwrap(), vec![0.5]);
        assert!(metadata(vec![0.5_f64, 1e300]).f32s("key").is_err());
    }

    #[test]
    fn other_values_are_refused_by_name() {
        let of = |value: Value| metadata(value);
        let cases = [
            (of(Value::U32(3)).string("key").err(), "must hold a string, but holds the u32 3"),
            (of(Value::U64(1 << 32)).u32("key").err(), "but holds the u64 4294967296"),
            (of(Value::I8(-1)).u64("key").err(), "not negative, but holds the i8 -1"),
            (of(Value::F32(1.0)).u32("key").err(), "but holds the f32 1"),
            (of(Value::U8(1)).bool("key").err(), "must hold a bool, but holds the u8 1"),
            (of(Value::from("x")).f32("key").err(), "but holds the string \"x\""),
            (of(vec![1_u8].into()).strings("key").err(), "but holds an array of 1 u8"),
            (of(vec![i64::MAX].into()).i32s("key").err(), "but holds an array of 1 i64"),
            (of(vec![-1_i32].into()).u32s("key").err(), "but holds an array of 1 i32"),
            (of(vec![1_i32].into()).f32s("key").err(), "but holds an array of 1 i32"),
        ];
        let failures: Vec<_> = cases
            .iter()
            .filter(|(error, part)| {
                !error.as_ref().is_some_and(|error| error.to_string().contains(part))
            })
            .collect();
        assert!(failures.is_empty(), "{failures:#?}");
    }

    #[test]
    fn a_missing_key_is_nothing_unless_required() {
        let empty = Metadata::default();
        assert_eq!(empty.u32("key"), Ok(None));
        let error = empty.require_u32("key").unwrap_err();
        assert_eq!(error.found, "is missing");
        assert!(
            error.to_string().contains("\"key\" must hold an integer, but is missing"),
            "{error}"
        );
    }
}
