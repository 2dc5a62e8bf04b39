//! Layers of configuration, merged and validated into [`Settings`].
//!
//! Built-in defaults (`config/default.toml`) <- `--config FILE` <- `SKIPSTONE_*` variables <-
//! flags. Every value keeps the name of the layer it came from, so that an error can say where to
//! look.

#![forbid(unsafe_code)]

mod backend;
mod check;
mod effective;
mod error;
mod layers;
mod ports;
mod settings;
mod source;
mod values;

pub use backend::{Backend, Device, InvalidDevice};
pub use effective::{Configuration, EffectiveValue};
pub use error::{ConfigError, ConfigErrors};
pub use layers::{Flag, Layers};
pub use ports::{ControlSettings, MetricsSettings, ServerSettings, Switch};
pub use settings::{
    EngineSettings, KvCachePrecision, LogSettings, ModelSettings, SamplingDefaults, Settings,
    SpeculationSettings,
};
pub use source::ModelSource;

/// The built-in defaults: every key there is, with a comment each.
pub const DEFAULT_TOML: &str = include_str!("../../config/default.toml");
