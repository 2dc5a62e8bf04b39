//! `bench decode --without NAME`: adaptive decoding with one mechanism switched off, each over an
//! engine of its own.

use std::sync::Arc;

use anyhow::Context;

use crate::bench::decode::DecodeMode;
use skipstone_engine::adapt::{MECHANISMS, Mechanisms};
use skipstone_engine::{
    EngineOptions, GenerationStream, Speculation, Submit, SubmitError, ValidRequest,
};

/// Beginning of the name of a mode without a mechanism.
pub(super) const WITHOUT: &str = "without ";

/// An engine that lacks a mechanism.
pub(in crate::cli) struct Variant {
    name: String,
    mechanisms: Mechanisms,
}

/// Sends each stream to the engine of its mode.
pub(super) struct Router {
    engine: Arc<dyn Submit>,
    /// Engines by name of the mode.
    variants: Vec<(String, Arc<dyn Submit>)>,
}

/// The variants without the mechanisms of these names.
pub(super) fn variants(names: &[String]) -> anyhow::Result<Vec<Variant>> {
    let variant = |name: &String| {
        let mechanisms = Mechanisms::without(name).with_context(|| {
            format!("there is no mechanism {name}; there are {}", MECHANISMS.join(", "))
        })?;
        Ok(Variant { name: name.clone(), mechanisms })
    };
    names.iter().map(variant).collect()
}

// === impl Variant ===

impl Variant {
    /// The mode that decodes by it.
    pub(super) fn mode(&self) -> DecodeMode {
        DecodeMode {
            name: format!("{WITHOUT}{}", self.name),
            speculation: Speculation::adaptive(None),
        }
    }

    /// Sets the options of its engine.
    pub(in crate::cli) fn apply(&self, options: &mut EngineOptions) {
        options.mechanisms = self.mechanisms;
    }
}

// === impl Router ===

impl Router {
    /// Over the engine of all other modes, and those of `variants`, in the same order.
    pub(super) fn new(
        engine: Arc<dyn Submit>,
        variants: &[Variant],
        engines: Vec<Arc<dyn Submit>>,
    ) -> Self {
        let names = variants.iter().map(|variant| variant.mode().name);
        Self { engine, variants: names.zip(engines).collect() }
    }
}

impl Submit for Router {
    fn submit(&self, request: ValidRequest) -> Result<GenerationStream, SubmitError> {
        // A turn's request is named by its prompt and its mode.
        let of_mode = |(name, _): &&(String, _)| request.id.ends_with(name.as_str());
        match self.variants.iter().find(of_mode) {
            Some((_, engine)) => engine.submit(request),
            None => self.engine.submit(request),
        }
    }

    fn drain(&self) {
        self.engine.drain();
    }

    fn in_flight(&self) -> usize {
        self.engine.in_flight()
    }
}
