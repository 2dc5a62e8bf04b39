//! Metadata values from bytes.

use super::cursor::{Cursor, Field};
use super::{Array, GgufError, Value, ValueType, limits};

/// Elements that are reserved at once. A count is only a promise, so a longer array grows as its
/// elements arrive.
const RESERVED_ELEMENTS: u64 = 4096;

/// Reads the type and the value of `key`.
pub(super) fn value(cursor: &mut Cursor<'_>, key: &str) -> Result<Value, GgufError> {
    let field = Field::of("value", key);
    Ok(match value_type(cursor, field.part("value type"))? {
        ValueType::U8 => Value::U8(u8::from_le_bytes(cursor.fixed(field)?)),
        ValueType::I8 => Value::I8(i8::from_le_bytes(cursor.fixed(field)?)),
        ValueType::U16 => Value::U16(u16::from_le_bytes(cursor.fixed(field)?)),
        ValueType::I16 => Value::I16(i16::from_le_bytes(cursor.fixed(field)?)),
        ValueType::U32 => Value::U32(u32::from_le_bytes(cursor.fixed(field)?)),
        ValueType::I32 => Value::I32(i32::from_le_bytes(cursor.fixed(field)?)),
        ValueType::F32 => Value::F32(f32::from_le_bytes(cursor.fixed(field)?)),
        ValueType::U64 => Value::U64(u64::from_le_bytes(cursor.fixed(field)?)),
        ValueType::I64 => Value::I64(i64::from_le_bytes(cursor.fixed(field)?)),
        ValueType::F64 => Value::F64(f64::from_le_bytes(cursor.fixed(field)?)),
        ValueType::Bool => {
            let at = cursor.position();
            let [byte] = cursor.fixed(field)?;
            Value::Bool(boolean(byte, at, field)?)
        }
        ValueType::String => Value::String(cursor.string(field)?.to_owned()),
        ValueType::Array => Value::Array(array(cursor, field, 1)?),
    })
}

fn value_type(cursor: &mut Cursor<'_>, field: Field<'_>) -> Result<ValueType, GgufError> {
    let at = cursor.position();
    let id = cursor.u32(field)?;
    ValueType::from_id(id).ok_or_else(|| GgufError::UnknownValueType {
        field: field.to_string(),
        id,
        at,
    })
}

fn boolean(byte: u8, at: u64, field: Field<'_>) -> Result<bool, GgufError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(GgufError::BadBool { field: field.to_string(), byte, at }),
    }
}

/// Reads an array; `depth` counts the arrays around its elements.
fn array(cursor: &mut Cursor<'_>, field: Field<'_>, depth: usize) -> Result<Array, GgufError> {
    if depth > limits::ARRAY_DEPTH {
        return Err(GgufError::ArrayTooDeep { field: field.to_string(), at: cursor.position() });
    }
    let element = value_type(cursor, field.part("element type"))?;
    let count = cursor.count(element.least_bytes(), field.part("array length"))?;
    let field = field.part("array");
    // The product can't wrap: `count` elements of this size fit the file.
    let mut numbers = || cursor.take(count * element.least_bytes(), field);
    Ok(match element {
        ValueType::U8 => Array::U8(numbers()?.to_vec()),
        ValueType::I8 => Array::I8(each(numbers()?, i8::from_le_bytes)),
        ValueType::U16 => Array::U16(each(numbers()?, u16::from_le_bytes)),
        ValueType::I16 => Array::I16(each(numbers()?, i16::from_le_bytes)),
        ValueType::U32 => Array::U32(each(numbers()?, u32::from_le_bytes)),
        ValueType::I32 => Array::I32(each(numbers()?, i32::from_le_bytes)),
        ValueType::F32 => Array::F32(each(numbers()?, f32::from_le_bytes)),
        ValueType::U64 => Array::U64(each(numbers()?, u64::from_le_bytes)),
        ValueType::I64 => Array::I64(each(numbers()?, i64::from_le_bytes)),
        ValueType::F64 => Array::F64(each(numbers()?, f64::from_le_bytes)),
        ValueType::Bool => {
            let bytes = numbers()?;
            let start = cursor.position() - count;
            let flags = bytes.iter().zip(start..).map(|(&byte, at)| boolean(byte, at, field));
            Array::Bool(flags.collect::<Result<_, _>>()?)
        }
        ValueType::String => {
            Array::String(repeated(count, || cursor.string(field).map(str::to_owned))?)
        }
        ValueType::Array => Array::Array(repeated(count, || array(cursor, field, depth + 1))?),
    })
}

fn each<const N: usize, T>(bytes: &[u8], convert: fn([u8; N]) -> T) -> Vec<T> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|&chunk| convert(chunk)).collect()
}

fn repeated<T>(
    count: u64,
    mut next: impl FnMut() -> Result<T, GgufError>,
) -> Result<Vec<T>, GgufError> {
    let mut items = Vec::with_capacity(count.min(RESERVED_ELEMENTS) as usize);
    for _ in 0..count {
        items.push(next()?);
    }
    items.shrink_to_fit();
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(depth: usize) -> Vec<u8> {
        let mut bytes = ValueType::Array.id().to_le_bytes().to_vec();
        for _ in 1..depth {
            bytes.extend(ValueType::Array.id().to_le_bytes());
            bytes.extend(1_u64.to_le_bytes());
        }
        bytes.extend(ValueType::U8.id().to_le_bytes());
        bytes.extend(2_u64.to_le_bytes());
        bytes.extend([8, 9]);
        bytes
    }

    #[test]
    fn arrays_nest_up_to_the_limit() {
        let mut expected = Array::U8(vec![8, 9]);
        for _ in 1..limits::ARRAY_DEPTH {
            expected = Array::Array(vec![expected]);
        }
        let bytes = nested(limits::ARRAY_DEPTH);
        assert_eq!(value(&mut Cursor::new(&bytes), "key").unwrap(), Value::Array(expected));
        for depth in [limits::ARRAY_DEPTH + 1, 100_000] {
            let error = value(&mut Cursor::new(&nested(depth)), "key").unwrap_err().to_string();
            assert!(error.contains("of \"key\" nests arrays deeper than 4 at byte 52"), "{error}");
        }
    }

    #[test]
    fn a_wrong_boolean_is_found_in_an_array() {
        let mut bytes = ValueType::Array.id().to_le_bytes().to_vec();
        bytes.extend(ValueType::Bool.id().to_le_bytes());
        bytes.extend(3_u64.to_le_bytes());
        bytes.extend([0, 1, 2]);
        let error = value(&mut Cursor::new(&bytes), "key").unwrap_err().to_string();
        assert!(error.contains("holds the boolean 2 at byte 18"), "{error}");
    }
}
