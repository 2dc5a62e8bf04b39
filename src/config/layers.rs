//! The layers of a configuration, and how they become one.

use std::fs;
use std::path::{Path, PathBuf};

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::de::DeserializeOwned;

use super::DEFAULT_TOML;
use super::check::check;
use super::effective::{Configuration, EffectiveValue, leaves};
use super::error::{ConfigError, ConfigErrors};
use super::settings::Settings;
use super::values::value_like;

/// Prefix of the section in the name of a variable.
const PREFIX: &str = "SKIPSTONE_";
/// Separator of section and key in the name of a variable.
const SEPARATOR: &str = "__";
/// For a value without an origin, which would be a defect.
const UNKNOWN_ORIGIN: &str = "an unknown layer";

/// Sources of settings, beside the built-in defaults.
///
/// [`Layers::default`] is the built-in defaults alone; it reads nothing from the process.
#[derive(Clone, Default, Debug)]
pub struct Layers {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// Environment variables; those that don't start with `SKIPSTONE_` are passed over.
    pub environment: Vec<(String, String)>,
    /// Flags; the last one of a key wins.
    pub flags: Vec<Flag>,
}

/// A setting from the command line.
#[derive(Clone, PartialEq, Debug)]
pub struct Flag {
    key: String,
    value: String,
    origin: String,
}

/// One layer on its way into figment, which keeps the origin beside each value.
struct Layer {
    origin: String,
    values: Dict,
}

// === impl Flag ===

impl Flag {
    /// Sets `key` (as in `server.listen`) to `value`; `origin` is how errors name the flag.
    pub fn new(
        key: impl Into<String>,
        value: impl Into<String>,
        origin: impl Into<String>,
    ) -> Self {
        Self { key: key.into(), value: value.into(), origin: origin.into() }
    }
}

// === impl Layers ===

impl Layers {
    /// The file and flags given, and the variables of this process.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<Flag>) -> Self {
        // `vars_os`, because `vars` panics on a variable that is not UTF-8, whoever set it.
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self { file, environment, flags }
    }

    /// Merges and checks the layers. All errors that can be found are returned at once.
    pub fn load(&self) -> Result<Configuration, ConfigErrors> {
        let defaults = parse_toml("the built-in defaults", DEFAULT_TOML)?;
        let known: Vec<(String, Value)> = leaves(&defaults.values);
        let kind_of =
            |key: &str| known.iter().find(|(known, _)| known == key).map(|(_, value)| value);

        let mut errors = Vec::new();
        let mut layers = vec![];
        if let Some(path) = &self.file {
            layers.push(read_file(path)?);
        }
        for (name, value) in &self.environment {
            match key_of_variable(name, &known) {
                Ok(None) => {}
                Ok(Some(key)) => {
                    let origin = format!("the environment variable {name}");
                    layers.push(Layer::of_one(&key, value_like(kind_of(&key), value), origin));
                }
                Err(error) => errors.push(error),
            }
        }
        for flag in &self.flags {
            layers.push(Layer::of_one(
                &flag.key,
                value_like(kind_of(&flag.key), &flag.value),
                flag.origin.clone(),
            ));
        }
        for layer in &layers {
            errors.extend(unknown_keys(layer, &known));
        }
        ConfigErrors::check(errors)?;

        let merged = layers.into_iter().fold(Figment::from(defaults), Figment::merge);
        let origin_of = |key: &str| {
            merged
                .find_metadata(key)
                .map_or_else(|| UNKNOWN_ORIGIN.to_owned(), |found| found.name.to_string())
        };
        let settings = extract(&merged)?;
        ConfigErrors::check(check(&settings, &origin_of))?;
        let values = known
            .iter()
            .filter_map(|(key, _)| {
                let value = merged.find_value(key).ok()?;
                Some(EffectiveValue::new(key, &value, origin_of(key)))
            })
            .collect();
        Ok(Configuration::new(settings, values))
    }
}

// === impl Layer ===

impl Layer {
    fn of_one(key: &str, value: Value, origin: String) -> Self {
        let values = figment::util::nest(key, value).into_dict().unwrap_or_default();
        Self { origin, values }
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.values.clone())]))
    }
}

fn read_file(path: &Path) -> Result<Layer, ConfigError> {
    let text = fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    parse_toml(&path.display().to_string(), &text)
}

fn parse_toml(origin: &str, text: &str) -> Result<Layer, ConfigError> {
    let values =
        Toml::from_str(text).map_err(|error: <Toml as Format>::Error| ConfigError::Syntax {
            origin: origin.to_owned(),
            reason: error.to_string().trim_end().to_owned(),
        })?;
    Ok(Layer { origin: origin.to_owned(), values })
}

/// The key that a variable sets, or `None` for the many variables that are not settings.
///
/// Only names with the separator are settings: an orchestrator that runs a service called
/// "skipstone" sets variables such as `SKIPSTONE_SERVICE_HOST`, and they must not stop the start. A
/// setting with one underscore too few is told apart by its name, so that it isn't passed over in
/// silence.
fn key_of_variable(name: &str, known: &[(String, Value)]) -> Result<Option<String>, ConfigError> {
    let Some(rest) = name.strip_prefix(PREFIX) else { return Ok(None) };
    if rest.contains(SEPARATOR) {
        return Ok(Some(rest.to_ascii_lowercase().replace(SEPARATOR, ".")));
    }
    match known.iter().find(|(key, _)| key.replace('.', "_").eq_ignore_ascii_case(rest)) {
        None => Ok(None),
        Some((key, _)) => Err(ConfigError::MisspeltVariable {
            name: name.to_owned(),
            correct: format!("{PREFIX}{}", key.to_ascii_uppercase().replace('.', SEPARATOR)),
        }),
    }
}

fn unknown_keys(layer: &Layer, known: &[(String, Value)]) -> Vec<ConfigError> {
    leaves(&layer.values)
        .into_iter()
        .filter(|(key, _)| !known.iter().any(|(known, _)| known == key))
        .map(|(key, _)| ConfigError::UnknownKey {
            nearest: nearest(&key, known),
            origin: layer.origin.clone(),
            key,
        })
        .collect()
}

/// The known key that `key` most probably means: the same name in another section, or a
/// misspelling.
fn nearest(key: &str, known: &[(String, Value)]) -> Option<String> {
    let name_of = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let name = name_of(key);
    let distance = |candidate: &str| {
        let in_full = strsim::damerau_levenshtein(key, candidate);
        let by_name = strsim::damerau_levenshtein(&name, &name_of(candidate));
        in_full.min(by_name.saturating_mul(2).saturating_add(1))
    };
    let (distance, candidate) =
        known.iter().map(|(candidate, _)| (distance(candidate), candidate)).min()?;
    // Two fifths of the letters wrong is still a misspelling; more is another word.
    (distance <= (key.len() * 2 / 5).max(2)).then(|| candidate.clone())
}

/// Reads section by section, so that one wrong type in each section is reported.
fn extract(merged: &Figment) -> Result<Settings, ConfigErrors> {
    let mut errors = Vec::new();
    let sections = (
        section(merged, "model", &mut errors),
        section(merged, "engine", &mut errors),
        section(merged, "speculation", &mut errors),
        section(merged, "server", &mut errors),
        section(merged, "openai", &mut errors),
        section(merged, "metrics", &mut errors),
        section(merged, "control", &mut errors),
        section(merged, "tracing", &mut errors),
        section(merged, "log", &mut errors),
        section(merged, "sampling", &mut errors),
    );
    let (
        Some(model),
        Some(engine),
        Some(speculation),
        Some(server),
        Some(openai),
        Some(metrics),
        Some(control),
        Some(tracing),
        Some(log),
        Some(sampling),
    ) = sections
    else {
        return Err(ConfigErrors::check(errors)
            .err()
            .unwrap_or_else(|| ConfigErrors::from(internal_gap())));
    };
    Ok(Settings {
        model,
        engine,
        speculation,
        server,
        openai,
        metrics,
        control,
        tracing,
        log,
        sampling,
    })
}

fn section<T: DeserializeOwned>(
    merged: &Figment,
    name: &str,
    errors: &mut Vec<ConfigError>,
) -> Option<T> {
    match merged.extract_inner(name) {
        Ok(section) => Some(section),
        Err(found) => {
            errors.extend(found.into_iter().map(|error| wrong_type(name, &error)));
            None
        }
    }
}

fn wrong_type(section: &str, error: &figment::Error) -> ConfigError {
    // figment appends the section where it should go in front.
    let names = error.path.iter().map(String::as_str).filter(|&name| name != section);
    let key = std::iter::once(section).chain(names).collect::<Vec<_>>().join(".");
    let origin = error
        .metadata
        .as_ref()
        .map_or_else(|| UNKNOWN_ORIGIN.to_owned(), |layer| layer.name.to_string());
    ConfigError::WrongType { key, origin, reason: error.kind.to_string() }
}

/// A section that failed without an error: figment does not do that, but the types allow it.
fn internal_gap() -> ConfigError {
    ConfigError::Syntax {
        origin: "the merged configuration".to_owned(),
        reason: "a section could not be read".to_owned(),
    }
}
