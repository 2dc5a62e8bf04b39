//! The result: every mode overall and by category, and against a peer.

use serde::{Serialize, Serializer};

use super::figures::{Figures, Interval, PromptTotals};
use super::run::{DecodeBench, DecodeRun};
use skipstone_engine::Speculation;

/// A list of named things, an object in JSON, in order.
#[derive(Clone, PartialEq, Debug)]
pub struct Named<T>(pub Vec<(String, T)>);

/// One mode.
#[derive(Clone, PartialEq, Serialize, Debug)]
pub struct ModeReport<T> {
    /// All prompts.
    pub overall: T,
    /// Results by category, in the order of the prompts.
    pub categories: Named<T>,
}

/// The peer.
#[derive(Clone, PartialEq, Serialize, Debug)]
pub struct PeerReport {
    /// Its name.
    pub name: String,
    /// Its own speed; it does not draft.
    #[serde(flatten)]
    pub figures: ModeReport<PeerFigures>,
    /// Speed of each of our modes over the peer's.
    pub ratios: Named<ModeReport<Option<Interval>>>,
}

/// The peer over some prompts.
#[derive(Clone, Copy, PartialEq, Serialize, Debug)]
pub struct PeerFigures {
    /// Tokens after the first, by the time since the first.
    pub tokens_per_second: Option<f64>,
}

/// The whole result.
#[derive(Clone, PartialEq, Serialize, Debug)]
pub struct DecodeReport {
    /// The model's file name.
    pub model: String,
    /// Threads of each engine.
    pub threads: usize,
    /// Tokens generated at most.
    pub max_new_tokens: usize,
    /// Prompts decoded.
    pub prompts: usize,
    /// Times each was decoded in each mode.
    pub repeats: usize,
    /// 0 is greedy.
    pub temperature: f32,
    /// The mode that the others are compared with: plain decoding, if it was asked for.
    pub reference: Option<String>,
    /// Results by mode, in the order asked for.
    pub modes: Named<ModeReport<Figures>>,
    /// llama.cpp or none.
    pub peer: Option<PeerReport>,
}

/// The prompts of a category, by index.
struct Group {
    name: String,
    prompts: Vec<usize>,
}

// === impl Named ===

impl<T: Serialize> Serialize for Named<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

// === impl ModeReport ===

impl<T> ModeReport<T> {
    fn of(groups: &[Group], all: &[usize], figure: impl Fn(&[usize]) -> T) -> Self {
        let categories = groups.iter().map(|group| (group.name.clone(), figure(&group.prompts)));
        Self { overall: figure(all), categories: Named(categories.collect()) }
    }

    /// The categories, then all prompts as `overall`.
    pub fn rows(&self) -> impl Iterator<Item = (&str, &T)> {
        let categories = self.categories.0.iter().map(|(name, figures)| (name.as_str(), figures));
        categories.chain([("overall", &self.overall)])
    }
}

// === impl DecodeReport ===

impl DecodeReport {
    /// Speed of mode `of` over that of each whose name begins with `prefix`, every repeat of a
    /// prompt a pair of its own.
    pub fn worth(
        bench: &DecodeBench,
        run: &DecodeRun,
        of: &str,
        prefix: &str,
    ) -> Vec<(String, Interval)> {
        let totals = |mode: usize| -> Vec<PromptTotals> {
            let mut streams: Vec<_> = run.measurements.iter().filter(|m| m.mode == mode).collect();
            streams.sort_by_key(|measured| (measured.prompt, measured.repeat));
            streams
                .iter()
                .filter_map(|measured| PromptTotals::of(std::iter::once(*measured)))
                .collect()
        };
        let index = |name: &str| bench.modes.iter().position(|mode| mode.name == name);
        let Some(of) = index(of).map(totals) else { return Vec::new() };
        let others =
            bench.modes.iter().enumerate().filter(|(_, mode)| mode.name.starts_with(prefix));
        others
            .filter_map(|(other, mode)| {
                Some((mode.name.clone(), Interval::between(&of, &totals(other))?))
            })
            .collect()
    }

    /// Sums up a run of `bench` over the model file `model` on `threads` threads.
    pub fn new(bench: &DecodeBench, run: &DecodeRun, model: String, threads: usize) -> Self {
        let totals = |mode: usize, prompts: &[usize]| -> Vec<PromptTotals> {
            let of_mode = || run.measurements.iter().filter(move |measured| measured.mode == mode);
            let of_prompt = |&prompt: &usize| {
                PromptTotals::of(of_mode().filter(move |measured| measured.prompt == prompt))
            };
            prompts.iter().filter_map(of_prompt).collect()
        };
        let groups = groups(bench);
        let all: Vec<usize> = (0..bench.prompts.len()).collect();
        let off = bench.modes.iter().position(|mode| mode.speculation == Speculation::Off);
        let modes = bench.modes.iter().enumerate().map(|(index, mode)| {
            let figures = |prompts: &[usize]| {
                let off = off.map(|off| totals(off, prompts));
                Figures::of(&totals(index, prompts), off.as_deref())
            };
            (mode.name.clone(), ModeReport::of(&groups, &all, figures))
        });
        let peer_index = bench.modes.len();
        let peer = run.peer.as_ref().map(|name| PeerReport {
            name: name.clone(),
            figures: ModeReport::of(&groups, &all, |prompts| PeerFigures {
                tokens_per_second: Figures::of(&totals(peer_index, prompts), None)
                    .tokens_per_second,
            }),
            ratios: Named(
                bench
                    .modes
                    .iter()
                    .enumerate()
                    .map(|(index, mode)| {
                        let ratio = |prompts: &[usize]| {
                            Interval::between(&totals(index, prompts), &totals(peer_index, prompts))
                        };
                        (mode.name.clone(), ModeReport::of(&groups, &all, ratio))
                    })
                    .collect(),
            ),
        });
        Self {
            model,
            threads,
            max_new_tokens: bench.max_new_tokens,
            prompts: bench.prompts.len(),
            repeats: bench.repeats,
            temperature: bench.temperature,
            reference: off.map(|off| bench.modes[off].name.clone()),
            modes: Named(modes.collect()),
            peer,
        }
    }
}

/// Categories in the order in which they first appear.
fn groups(bench: &DecodeBench) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (index, prompt) in bench.prompts.iter().enumerate() {
        match groups.iter_mut().find(|group| group.name == prompt.category) {
            Some(group) => group.prompts.push(index),
            None => groups.push(Group { name: prompt.category.clone(), prompts: vec![index] }),
        }
    }
    groups
}
