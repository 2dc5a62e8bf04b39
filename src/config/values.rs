//! Reading single values: text from flags and variables, and the empty values that stand for "not
//! set".

use std::num::NonZeroUsize;

use figment::value::Value;
use serde::{Deserialize, Deserializer};

/// Reads `text` as a value of the same kind as `model`, the built-in value of the same key.
///
/// Text stays text where text is meant (`404` may be a model's name), and lists may leave out their
/// brackets (`3,4`). What does not fit is passed on as text, for the type check to refuse by name.
pub(super) fn value_like(model: Option<&Value>, text: &str) -> Value {
    let text = text.trim();
    let parsed = match model {
        Some(Value::Num(..) | Value::Bool(..)) => text.parse().ok(),
        Some(Value::Array(..)) if text.starts_with('[') => text.parse().ok(),
        Some(Value::Array(..)) => format!("[{text}]").parse().ok(),
        _ => None,
    };
    parsed.unwrap_or_else(|| Value::from(text))
}

/// Text that stands for itself, or nothing if it is empty.
pub(super) fn empty_is_unset<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: From<String>,
{
    let text = String::deserialize(deserializer)?;
    Ok((!text.is_empty()).then(|| T::from(text)))
}

/// A count, or nothing if it is 0.
pub(super) fn zero_is_unset<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<NonZeroUsize>, D::Error> {
    Ok(NonZeroUsize::new(usize::deserialize(deserializer)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_takes_the_kind_of_the_built_in_value() {
        let list = Value::from(Vec::<u32>::new());
        for (model, text, json) in [
            (Some(Value::from(1)), " 12 ", "12"),
            (Some(Value::from(1.5)), "2.25", "2.25"),
            (Some(Value::from(1)), "twelve", r#""twelve""#),
            (Some(Value::from(true)), "false", "false"),
            (Some(Value::from("")), "404", r#""404""#),
            (Some(Value::from("")), "127.0.0.1:1", r#""127.0.0.1:1""#),
            (Some(list.clone()), "3,4", "[3,4]"),
            (Some(list.clone()), "[3, 4]", "[3,4]"),
            (Some(list), "", "[]"),
            (None, "5", r#""5""#),
        ] {
            let value = value_like(model.as_ref(), text);
            assert_eq!(serde_json::to_string(&value).unwrap(), json, "{text:?} like {model:?}");
        }
    }
}
