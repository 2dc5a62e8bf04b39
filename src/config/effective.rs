//! The result of loading: the settings, and each value's origin for `skipstone config print`.

use std::fmt;

use figment::value::{Dict, Value};

use super::settings::Settings;

/// Checked settings and where each value came from.
#[derive(Clone, PartialEq, Debug)]
pub struct Configuration {
    settings: Settings,
    values: Vec<EffectiveValue>,
}

/// One value that holds, as TOML, and the layer that set it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EffectiveValue {
    section: String,
    name: String,
    value: String,
    origin: String,
}

// === impl Configuration ===

impl Configuration {
    pub(super) fn new(settings: Settings, values: Vec<EffectiveValue>) -> Self {
        Self { settings, values }
    }

    /// The checked settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Every value, sorted by section and key.
    pub fn values(&self) -> &[EffectiveValue] {
        &self.values
    }
}

/// A TOML file that sets every key to the value that holds, with the origin of each in a comment.
impl fmt::Display for Configuration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut section = "";
        let width = self.values.iter().map(EffectiveValue::width).max().unwrap_or_default();
        for value in &self.values {
            if value.section != section {
                let blank = if section.is_empty() { "" } else { "\n" };
                section = &value.section;
                writeln!(formatter, "{blank}[{section}]")?;
            }
            let padding = width - value.width();
            writeln!(
                formatter,
                "{} = {}{:padding$}  # {}",
                value.name, value.value, "", value.origin
            )?;
        }
        Ok(())
    }
}

// === impl EffectiveValue ===

impl EffectiveValue {
    pub(super) fn new(key: &str, value: &Value, origin: String) -> Self {
        let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
        // What JSON and TOML share (numbers, truth values, basic strings, lists) is all that
        // settings are made of.
        let value = serde_json::to_string(value).unwrap_or_default();
        Self { section: section.to_owned(), name: name.to_owned(), value, origin }
    }

    /// The key, as in `server.listen`.
    pub fn key(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The value as TOML.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// The layer that set it.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    fn width(&self) -> usize {
        self.name.chars().count() + self.value.chars().count()
    }
}

/// Every value that is not a table, by its full key.
pub(super) fn leaves(values: &Dict) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    collect("", values, &mut found);
    found
}

fn collect(prefix: &str, values: &Dict, found: &mut Vec<(String, Value)>) {
    for (name, value) in values {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            Value::Dict(_, inner) => collect(&key, inner, found),
            _ => found.push((key, value.clone())),
        }
    }
}
