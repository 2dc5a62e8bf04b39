//! `bench decode --without NAME`: adaptive decoding with one mechanism switched off, each over an
//! engine of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use crate::bench::decode::{DecodeMode, DecodePrompt};
use skipstone_engine::adapt::store::{MemoryStore, ProfileKey};
use skipstone_engine::adapt::{MECHANISMS, Mechanisms};
use skipstone_engine::{
    EngineOptions, GenerationStream, ProfileOptions, Profiles, Speculation, Submit, SubmitError,
    ValidRequest,
};

/// How an engine differs from that of the settings.
pub(super) struct Variant {
    name: String,
    change: fn(&mut EngineOptions),
    mechanisms: Mechanisms,
    profiles: Option<Arc<Profiles>>,
}

/// Sends each stream to the engine of its mode.
pub(super) struct Router {
    engine: Arc<dyn Submit>,
    variants: Vec<(String, Arc<dyn Submit>, Option<Arc<Profiles>>)>,
    categories: HashMap<String, String>,
    runtime: tokio::runtime::Runtime,
}

/// The variants of these names.
pub(super) fn variants(names: &[String]) -> anyhow::Result<Vec<Variant>> {
    let variant = |name: &String| {
        let (mut mechanisms, mut profiles) = (Mechanisms::default(), None);
        let change: fn(&mut EngineOptions) = match name.as_str() {
            "learning" => |options| options.learn_bridges = false,
            "+search" => |options| options.search_plans = true,
            "+store" => {
                let options = ProfileOptions {
                    model: Arc::from("bench"),
                    half_life: Duration::from_secs(7 * 86_400),
                    write_back: Duration::from_secs(1),
                };
                profiles =
                    Some(Arc::new(Profiles::start(Box::new(MemoryStore::new(1000)), options)?));
                |_| {}
            }
            name => {
                mechanisms = Mechanisms::without(name).with_context(|| {
                    format!(
                        "there is no mechanism {name}; there are {}, learning",
                        MECHANISMS.join(", ")
                    )
                })?;
                |_| {}
            }
        };
        Ok(Variant { name: name.clone(), change, mechanisms, profiles })
    };
    names.iter().map(variant).collect()
}

/// What each does to the options.
pub(super) fn changes(variants: &[Variant]) -> Vec<Box<dyn Fn(&mut EngineOptions)>> {
    let change = |variant: &Variant| {
        let (change, mechanisms) = (variant.change, variant.mechanisms);
        let link = variant.profiles.as_ref().map(|profiles| profiles.link());
        Box::new(move |options: &mut EngineOptions| {
            change(options);
            options.mechanisms = mechanisms;
            options.profiles = link.clone();
        }) as Box<dyn Fn(&mut EngineOptions)>
    };
    variants.iter().map(change).collect()
}

// === impl Variant ===

impl Variant {
    /// The mode that decodes by it.
    pub(super) fn mode(&self) -> DecodeMode {
        DecodeMode {
            name: format!("without {}", self.name),
            speculation: Speculation::adaptive(None),
        }
    }
}

// === impl Router ===

impl Router {
    pub(super) fn new(
        engine: Arc<dyn Submit>,
        variants: &[Variant],
        engines: Vec<Arc<dyn Submit>>,
        prompts: &[DecodePrompt],
    ) -> anyhow::Result<Self> {
        let variants = variants.iter().zip(engines);
        Ok(Self {
            engine,
            variants: variants
                .map(|(variant, engine)| (variant.mode().name, engine, variant.profiles.clone()))
                .collect(),
            categories: prompts.iter().map(|p| (p.id.clone(), p.category.clone())).collect(),
            runtime: tokio::runtime::Builder::new_current_thread().enable_time().build()?,
        })
    }
}

impl Submit for Router {
    fn drain(&self) {
        self.engine.drain();
    }

    fn in_flight(&self) -> usize {
        self.engine.in_flight()
    }

    fn submit(&self, mut request: ValidRequest) -> Result<GenerationStream, SubmitError> {
        let found = self.variants.iter().find_map(|variant| {
            let prompt = request.id.strip_suffix(variant.0.as_str())?;
            Some((variant, prompt.trim_end().to_owned()))
        });
        let Some(((_, engine, profiles), prompt)) = found else {
            return self.engine.submit(request);
        };
        if let (Some(profiles), Some(category)) = (profiles, self.categories.get(&prompt)) {
            request.traffic = self.runtime.block_on(profiles.traffic(ProfileKey::of(category)));
        }
        engine.submit(request)
    }
}
