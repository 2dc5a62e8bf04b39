//! The pass: prefill, plain decode, draft and verify are this one function over rows.

mod block;
mod stand_in;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod toy;

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::Model;
use super::bridge::Bridge;
use super::config::ModelConfig;
use super::draft_head::DraftHead;
use super::features::Features;
use super::pass::{LogitRows, LogitsWanted, PassOutput, RowGroup};
use super::scratch::{Row, Scratch};
use skipstone_kernels::{
    self as kernels, FormatSet, Isa, KvPrecision, KvStore, Out, PackedMatrix, Product, ThreadPool,
};

/// Runs passes over one model. Owns the key/value pages, the threads and all scratch memory.
pub struct Runner {
    model: Arc<Model>,
    store: KvStore,
    features: Features,
    /// The states after the last layer, where stand-ins read them.
    last_states: Option<Features>,
    compute: Compute,
    scratch: Scratch,
}

/// Options of a runner.
#[derive(Clone, Copy, Debug)]
pub struct RunnerOptions {
    /// Key/value pages of [`skipstone_kernels::PAGE_POSITIONS`] positions.
    pub pages: usize,
    /// Threads.
    pub threads: usize,
    /// Instruction set.
    pub isa: Isa,
    /// Precision that keys and values are stored in.
    pub kv_precision: KvPrecision,
    /// Layers of stand-ins that pages have room for, up to [`super::MAX_STAND_IN_LAYERS`].
    pub stand_in_layers: usize,
}

struct Compute {
    pool: ThreadPool,
    isa: Isa,
}

// === impl Runner ===

impl Runner {
    /// Prepares to run `model` with `pages` key/value pages on `threads` threads.
    pub fn new(model: Arc<Model>, pages: usize, threads: usize) -> Self {
        Self::with_options(model, RunnerOptions { pages, threads, ..RunnerOptions::default() })
    }

    /// Prepares to run `model`.
    pub fn with_options(model: Arc<Model>, options: RunnerOptions) -> Self {
        let RunnerOptions { pages, threads, isa, kv_precision, stand_in_layers } = options;
        let hidden = model.config().hidden;
        let mut shape = model.config().kv_shape();
        shape.layers += stand_in_layers;
        let store = KvStore::new(shape, kv_precision, pages);
        let features = Features::new(hidden, pages);
        let last_states = (stand_in_layers > 0).then(|| Features::new(hidden, pages));
        let compute = Compute { pool: ThreadPool::new(threads), isa };
        Self { model, store, features, last_states, compute, scratch: Scratch::default() }
    }

    /// Copies the keys, values and features of page `from` to page `to`.
    ///
    /// # Panics
    /// If there is no such page: a bug of the caller.
    pub fn copy_page(&mut self, from: u32, to: u32) {
        self.store.copy_page(from, to);
        self.features.copy_page(from, to);
        self.last_states.iter_mut().for_each(|states| states.copy_page(from, to));
    }

    /// Threads that compute.
    pub fn threads(&self) -> usize {
        self.compute.pool.threads()
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Runs all groups through the model. Row `i` gets the same bits whatever else is in the pass.
    ///
    /// Keys and values are written in place at the rows' positions, for the sublayers that a row
    /// runs, and so are features. A bridge reads the feature that an earlier pass wrote, so rows
    /// that follow each other under bridges go one at a time. Where a run spans the feature
    /// sublayer, what its bridge made of the state is kept.
    ///
    /// # Panics
    /// If a group has no page for a position, or a token lies outside the vocabulary: bugs of the
    /// caller.
    pub fn run(&mut self, groups: &[RowGroup<'_>]) -> PassOutput<'_> {
        let started = Instant::now();
        let model = Arc::clone(&self.model);
        let config = model.config();
        self.scratch.enter(&model, groups);
        for (sublayer, block) in model.weights().blocks.iter().enumerate() {
            self.scratch.save(config, groups, sublayer);
            if sublayer == config.feature_sublayer() {
                self.keep_features(config, groups);
            }
            self.bridge(config, groups, sublayer);
            self.begin_stand_in(groups, sublayer);
            self.scratch.choose_active(groups, sublayer);
            self.scratch.choose_filled(groups, sublayer);
            self.fill_keys(block, groups);
            self.scratch.note_before(config.hidden);
            if !self.scratch.active.is_empty() {
                self.run_block(block, groups);
            }
            self.scratch.note_signs(config.hidden);
        }
        self.scratch.save(config, groups, config.sublayers());
        self.keep_last_states(groups);
        self.head(&model, groups);
        self.write_stand_in_keys(groups);
        let scratch = &self.scratch;
        PassOutput {
            logits: &scratch.logits,
            vocabulary: config.vocabulary,
            logit_rows: &scratch.logit_rows,
            saved: &scratch.saved,
            hidden: config.hidden,
            saved_rows: &scratch.saved_rows,
            features: &self.features,
            gated: &scratch.gated,
            first_rows: &scratch.first_rows,
            seconds: started.elapsed().as_secs_f64(),
        }
    }

    fn keep_features(&mut self, config: &ModelConfig, groups: &[RowGroup<'_>]) {
        let Self { features, scratch: Scratch { rows, hidden, .. }, .. } = self;
        for (&Row { group, position, first_sublayer }, state) in
            rows.iter().zip(hidden.chunks_exact(config.hidden))
        {
            // A row that enters later was here in its earlier pass.
            if first_sublayer <= config.feature_sublayer() {
                features.write(groups[group].pages, position, state);
            }
        }
    }

    /// Applies the bridges that begin at `sublayer`, each once for all groups that take it.
    fn bridge(&mut self, config: &ModelConfig, groups: &[RowGroup<'_>], sublayer: usize) {
        let Self { compute: Compute { pool, isa }, features, scratch, .. } = self;
        fn at<'a>(group: &RowGroup<'a>, sublayer: usize) -> Option<&'a Bridge> {
            group
                .bridges
                .iter()
                .map(|bridge| &**bridge)
                .find(|bridge| bridge.span().start == sublayer)
        }
        let takes = |group: &RowGroup<'_>, bridge: &Bridge| {
            at(group, sublayer).is_some_and(|other| std::ptr::eq(other, bridge))
        };
        scratch.bridged.clear();
        scratch.bridged.resize(groups.len(), false);
        for first in 0..groups.len() {
            let Some(bridge) = at(&groups[first], sublayer).filter(|_| !scratch.bridged[first])
            else {
                continue;
            };
            for (index, group) in groups.iter().enumerate().skip(first) {
                scratch.bridged[index] |= takes(group, bridge);
            }
            scratch.active.clear();
            for (index, row) in scratch.rows.iter().enumerate() {
                if takes(&groups[row.group], bridge) && row.first_sublayer <= sublayer {
                    scratch.active.push(index);
                }
            }
            let Scratch { inputs, inner, hidden, active, rows, .. } = scratch;
            let width = config.hidden;
            let Some((down, up)) = bridge.maps() else {
                for &row in active.iter() {
                    let state = &mut hidden[row * width..][..width];
                    state.iter_mut().zip(bridge.bias()).for_each(|(value, bias)| *value += bias);
                }
                continue;
            };
            let none = FormatSet::default();
            inputs.reset(active.len(), 2 * width);
            inputs.fill(pool, *isa, none, |index, out| {
                let (state, feature) = out.split_at_mut(width);
                state.copy_from_slice(&hidden[active[index] * width..][..width]);
                let Row { group, position, .. } = rows[active[index]];
                features.read_before(groups[group].pages, position, feature);
            });
            inner.reset(active.len(), down.outputs());
            kernels::multiply(
                pool,
                *isa,
                inputs,
                [Product::all(down, active.len(), inner.values_mut())],
                None,
            );
            let out = Out::Add { target: hidden, rows: active };
            let bias = Some(bridge.bias());
            let up = Product { matrix: up, tiles: None, rows: 0..active.len(), bias, out };
            kernels::multiply(pool, *isa, inner, [up], None);
        }
    }

    fn head(&mut self, model: &Model, groups: &[RowGroup<'_>]) {
        let Self { compute: Compute { pool, isa }, scratch, .. } = self;
        let (config, weights) = (model.config(), model.weights());
        let full_rows = scratch.choose_logits(config, groups);
        if scratch.active.is_empty() {
            return;
        }
        let formats = FormatSet::default().with(weights.head.kind().activation_format());
        scratch.norm_active(pool, *isa, &weights.output_norm, formats);
        let Scratch { inputs, logits, logit_rows, shared, .. } = scratch;
        if full_rows > 0 {
            let full = &mut logits[..full_rows * config.vocabulary];
            kernels::multiply(
                pool,
                *isa,
                inputs,
                [Product::all(&weights.head, full_rows, full)],
                None,
            );
        }
        // Drafts that follow each other share a read of the vocabulary that they share.
        let heads = || groups.iter().zip(logit_rows.iter()).filter_map(draft_head);
        let (mut row, mut done) = (full_rows, 0);
        while let Some((first, _)) = heads().nth(done) {
            let vocabulary = first.vocabulary;
            let alike = || {
                let is_alike =
                    |(head, _): &(DraftHead<'_>, usize)| std::ptr::eq(head.vocabulary, vocabulary);
                heads().skip(done).take_while(is_alike)
            };
            let (count, width) = (alike().count(), vocabulary.tokens().len());
            if count > 1 {
                shared.resize(count * width, 0.0);
                let all = product(vocabulary.matrix(), None, row..row + count, shared);
                kernels::multiply(pool, *isa, inputs, [all], Some(&weights.head));
            }
            for (index, (head, start)) in alike().enumerate() {
                let (own, extra) = logits[start..][..head.width()].split_at_mut(width);
                let rows = row + index..row + index + 1;
                let tiles = product(&weights.head, Some(head.extra_tiles), rows.clone(), extra);
                if count > 1 {
                    own.copy_from_slice(&shared[index * width..][..width]);
                    kernels::multiply(pool, *isa, inputs, [tiles], None);
                } else {
                    let own = product(vocabulary.matrix(), None, rows, own);
                    kernels::multiply(pool, *isa, inputs, [own, tiles], None);
                }
                head.mask(&mut logits[start..][width..head.width()]);
            }
            (row, done) = (row + count, done + count);
        }
    }
}

/// Some rows of the input times a matrix, or some tiles of it.
fn product<'a>(
    matrix: &'a PackedMatrix,
    tiles: Option<&'a [u32]>,
    rows: Range<usize>,
    out: &'a mut [f32],
) -> Product<'a> {
    Product { matrix, tiles, rows, bias: None, out: Out::Write(out) }
}

/// The draft head of a group, and where its logits begin.
fn draft_head<'a>((group, place): (&RowGroup<'a>, &LogitRows)) -> Option<(DraftHead<'a>, usize)> {
    match group.logits {
        LogitsWanted::Draft(head) => Some((head, place.start)),
        _ => None,
    }
}

// === impl RunnerOptions ===

impl Default for RunnerOptions {
    fn default() -> Self {
        Self {
            pages: 0,
            threads: 1,
            isa: Isa::detect(),
            kv_precision: KvPrecision::default(),
            stand_in_layers: 0,
        }
    }
}
