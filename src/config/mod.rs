//! Layers of configuration, merged and validated into [`Settings`].
//!
//! Built-in defaults (`config/default.toml`) <- `--config FILE` <- `SKIPSTONE_*` variables <- flags. Every value keeps
//! the name of the layer it came from, so that an error can say where to look.

#![forbid(unsafe_code)]

mod check;
mod effective;
mod error;
mod layers;
mod ports;
mod settings;
mod values;

pub use effective::{Configuration, EffectiveValue};
pub use error::{ConfigError, ConfigErrors};
pub use layers::{Flag, Layers};
pub use ports::{ControlSettings, MetricsSettings, ServerSettings, Switch};
pub use settings::{
    EngineSettings, KvCachePrecision, LogSettings, ModelSettings, ProfileSettings, ProfileStoreKind,
    SamplingDefaults, Settings, SpeculationMode, SpeculationSettings,
};

/// The built-in defaults: every key there is, with a comment each.
pub const DEFAULT_TOML: &str = include_str!("../../config/default.toml");
