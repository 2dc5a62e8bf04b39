//! Metadata values: a scalar, a string, or a compact array of one type.

use std::fmt;

use super::error::quoted;

/// The type of a metadata value, by the numbers of the format.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)] // the names say it
pub enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

/// A metadata value.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs)] // the names say it
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array of values of one type, stored as tightly as the type allows.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs)] // the names say it
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<String>),
    Array(Vec<Array>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

// === impl ValueType ===

impl ValueType {
    /// Every type, at the index that is its number in files.
    pub const ALL: &[ValueType] = &[
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::String,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// The type with this number in files.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(id).ok()?).copied()
    }

    /// The number in files.
    pub const fn id(self) -> u32 {
        self as u32
    }

    /// The name, such as `u32`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::String => "string",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        }
    }

    /// Bytes that a value takes in a file at the least: a string its length, an array its type and
    /// its length.
    pub(super) const fn least_bytes(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::String => 8,
            Self::Array => 12,
        }
    }
}

// === impl Value ===

impl Value {
    /// The type.
    pub const fn value_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }
}

/// For people: strings shortened and escaped, arrays by type and length, such as `array of 3 u32`.
impl fmt::Display for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U8(value) => value.fmt(formatter),
            Self::I8(value) => value.fmt(formatter),
            Self::U16(value) => value.fmt(formatter),
            Self::I16(value) => value.fmt(formatter),
            Self::U32(value) => value.fmt(formatter),
            Self::I32(value) => value.fmt(formatter),
            Self::F32(value) => value.fmt(formatter),
            Self::Bool(value) => value.fmt(formatter),
            Self::String(value) => write!(formatter, "\"{}\"", quoted(value)),
            Self::Array(value) => {
                write!(formatter, "array of {} {}", value.len(), value.element_type().name())
            }
            Self::U64(value) => value.fmt(formatter),
            Self::I64(value) => value.fmt(formatter),
            Self::F64(value) => value.fmt(formatter),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

macro_rules! value_from {
    ($($name:ident($scalar:ty)),+ $(,)?) => {
        $(
            impl From<$scalar> for Value {
                fn from(value: $scalar) -> Self {
                    Self::$name(value)
                }
            }

            impl From<Vec<$scalar>> for Value {
                fn from(values: Vec<$scalar>) -> Self {
                    Self::Array(Array::$name(values))
                }
            }
        )+
    };
}

value_from!(
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
);

// === impl Array ===

impl Array {
    /// Number of values.
    pub const fn len(&self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::I8(values) => values.len(),
            Self::U16(values) => values.len(),
            Self::I16(values) => values.len(),
            Self::U32(values) => values.len(),
            Self::I32(values) => values.len(),
            Self::F32(values) => values.len(),
            Self::Bool(values) => values.len(),
            Self::String(values) => values.len(),
            Self::Array(values) => values.len(),
            Self::U64(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::F64(values) => values.len(),
        }
    }

    /// Whether there are no values.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type of the values.
    pub const fn element_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_the_numbers_of_the_format() {
        for (id, kind) in ValueType::ALL.iter().enumerate() {
            assert_eq!(kind.id() as usize, id);
            assert_eq!(ValueType::from_id(id as u32), Some(*kind));
        }
        assert_eq!(ValueType::from_id(13), None);
        assert_eq!(ValueType::String.id(), 8);
        assert_eq!(ValueType::F64.id(), 12);
    }

    #[test]
    fn values_are_shown_short() {
        for (value, shown) in [
            (Value::from(7_u8), "7"),
            (Value::from(-1.5_f32), "-1.5"),
            (Value::from("a\nb"), "\"a\\nb\""),
            (Value::from(vec![1_u64, 2]), "array of 2 u64"),
            (Value::from(vec![String::new()]), "array of 1 string"),
        ] {
            assert_eq!(value.to_string(), shown);
        }
    }
}
