//! The pass: prefill, plain decode, draft and verify are this one function over rows.

use std::sync::Arc;
use std::time::Instant;

use super::Model;
use super::bridge::Bridge;
use super::config::ModelConfig;
use super::pass::{LogitRows, LogitsWanted, PassOutput, RowGroup, RowInput};
use super::weights::{Attention, Layer, Linear, Mlp};
use crate::kernels::{
    self, Activations, AttentionRow, FormatSet, Isa, KvPrecision, KvSlot, KvStore, Out, PAGE_POSITIONS,
    Product, RopeAngles, RopePairs, ThreadPool,
};

/// Runs passes over one model. Owns the key/value pages, the threads and all scratch memory.
pub struct Runner {
    model: Arc<Model>,
    store: KvStore,
    compute: Compute,
    scratch: Scratch,
}

/// How a runner computes.
#[derive(Clone, Copy, Debug)]
pub struct RunnerOptions {
    /// Key/value pages of [`PAGE_POSITIONS`] positions.
    pub pages: usize,
    /// Threads.
    pub threads: usize,
    /// Instruction set.
    pub isa: Isa,
    /// How keys and values are stored.
    pub kv_precision: KvPrecision,
}

struct Compute {
    pool: ThreadPool,
    isa: Isa,
}

/// Memory that passes reuse.
#[derive(Default)]
struct Scratch {
    rows: Vec<Row>,
    /// Hidden states, \[rows, hidden\].
    hidden: Vec<f32>,
    /// Rows that take part in the current sublayer.
    active: Vec<usize>,
    /// Normed hidden states of the active rows; later their attention outputs or MLP products.
    inputs: Activations,
    inner: Activations,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    angles: Angles,
    logits: Vec<f32>,
    logit_rows: Vec<LogitRows>,
    saved: Vec<f32>,
    saved_rows: Vec<(usize, usize)>,
    /// Groups whose bridge at the current sublayer is applied.
    bridged: Vec<bool>,
}

/// Rotary angles of the rows, each \[rows, pairs\].
#[derive(Default)]
struct Angles {
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

#[derive(Clone, Copy)]
struct Row {
    group: usize,
    position: usize,
    first_sublayer: usize,
}

// === impl Runner ===

impl Runner {
    /// Prepares to run `model` with `pages` key/value pages on `threads` threads.
    pub fn new(model: Arc<Model>, pages: usize, threads: usize) -> Self {
        Self::with_options(model, RunnerOptions { pages, threads, ..RunnerOptions::default() })
    }

    /// Prepares to run `model`.
    pub fn with_options(model: Arc<Model>, options: RunnerOptions) -> Self {
        let RunnerOptions { pages, threads, isa, kv_precision } = options;
        let store = KvStore::new(model.config().kv_shape(), kv_precision, pages);
        let compute = Compute { pool: ThreadPool::new(threads), isa };
        Self { model, store, compute, scratch: Scratch::default() }
    }

    /// Copies the keys and values of page `from` to page `to`.
    ///
    /// # Panics
    /// If there is no such page: a bug of the caller.
    pub fn copy_page(&mut self, from: u32, to: u32) {
        self.store.copy_page(from, to);
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Runs all groups through the model. Row `i` gets the same bits whatever else is in the pass.
    ///
    /// Keys and values are written in place at the rows' positions, for the sublayers that a row runs.
    ///
    /// # Panics
    /// If a group has no page for a position, or a token lies outside the vocabulary: bugs of the caller.
    pub fn run(&mut self, groups: &[RowGroup<'_>]) -> PassOutput<'_> {
        let started = Instant::now();
        let model = Arc::clone(&self.model);
        let config = model.config();
        self.scratch.enter(&model, groups);
        for sublayer in 0..config.sublayers() {
            self.scratch.save(config, groups, sublayer);
            self.bridge(config, groups, sublayer);
            self.scratch.choose_active(groups, sublayer);
            if self.scratch.active.is_empty() {
                continue;
            }
            let Layer { attention, mlp } = &model.weights().layers[sublayer / 2];
            if sublayer.is_multiple_of(2) {
                self.attention(config, attention, groups, sublayer / 2);
            } else {
                self.mlp(config, mlp);
            }
        }
        self.scratch.save(config, groups, config.sublayers());
        self.head(&model, groups);
        let scratch = &self.scratch;
        PassOutput {
            logits: &scratch.logits,
            vocabulary: config.vocabulary,
            logit_rows: &scratch.logit_rows,
            saved: &scratch.saved,
            hidden: config.hidden,
            saved_rows: &scratch.saved_rows,
            seconds: started.elapsed().as_secs_f64(),
        }
    }

    fn attention(
        &mut self,
        config: &ModelConfig,
        weights: &Attention,
        groups: &[RowGroup<'_>],
        layer: usize,
    ) {
        let Self { store, compute: Compute { pool, isa }, scratch, .. } = self;
        let formats = weights.query.formats().union(weights.key.formats()).union(weights.value.formats());
        scratch.norm_active(pool, *isa, config, &weights.norm, formats);
        let Scratch { inputs, inner, query, key, value, active, rows, angles, hidden, .. } = scratch;
        let count = active.len();
        let query_width = config.query_heads * config.head_dim;
        query.resize(count * query_width, 0.0);
        key.resize(count * config.kv_heads * config.head_dim, 0.0);
        value.resize(count * config.kv_heads * config.head_dim, 0.0);
        let products = [
            weights.query.product(count, query),
            weights.key.product(count, key),
            weights.value.product(count, value),
        ];
        kernels::multiply(pool, *isa, inputs, products);
        let angles = |row: usize| angles.of(row, config.rope.pairs, config.rope.dimensions / 2);
        let slot = |index: usize| {
            let Row { group, position, .. } = rows[active[index]];
            let page = groups[group].pages[position / PAGE_POSITIONS];
            KvSlot { page, slot: position % PAGE_POSITIONS, angles: angles(active[index]) }
        };
        store.write(pool, *isa, layer, slot, key, value);
        let attending = |index: usize| {
            let Row { group, position, .. } = rows[active[index]];
            AttentionRow { pages: groups[group].pages, length: position + 1, angles: angles(active[index]) }
        };
        inner.reset(count, query_width);
        store.attend(pool, *isa, layer, attending, query, inner.values_mut());
        inner.quantize(pool, *isa, weights.output.formats());
        kernels::multiply(pool, *isa, inner, [weights.output.product_added(hidden, active)]);
    }

    fn mlp(&mut self, config: &ModelConfig, weights: &Mlp) {
        let Self { compute: Compute { pool, isa }, scratch, .. } = self;
        let (isa, width) = (*isa, config.feed_forward);
        let formats = weights.gate.formats().union(weights.up.formats());
        scratch.norm_active(pool, isa, config, &weights.norm, formats);
        let Scratch { inputs, inner, gate, up, active, hidden, .. } = scratch;
        let count = active.len();
        gate.resize(count * width, 0.0);
        up.resize(count * width, 0.0);
        let products = [weights.gate.product(count, gate), weights.up.product(count, up)];
        kernels::multiply(pool, isa, inputs, products);
        inner.reset(count, width);
        inner.fill(pool, isa, weights.down.formats(), |row, out| {
            let part = row * width..(row + 1) * width;
            kernels::swiglu(isa, &gate[part.clone()], &up[part], out);
        });
        kernels::multiply(pool, isa, inner, [weights.down.product_added(hidden, active)]);
    }

    /// Applies the bridges that begin at `sublayer`, each once for all groups that take it.
    fn bridge(&mut self, config: &ModelConfig, groups: &[RowGroup<'_>], sublayer: usize) {
        let Self { compute: Compute { pool, isa }, scratch, .. } = self;
        fn at<'a>(group: &RowGroup<'a>, sublayer: usize) -> Option<&'a Bridge> {
            group.bridges.iter().map(|bridge| &**bridge).find(|bridge| bridge.span().start == sublayer)
        }
        let takes = |group: &RowGroup<'_>, bridge: &Bridge| {
            at(group, sublayer).is_some_and(|other| std::ptr::eq(other, bridge))
        };
        scratch.bridged.clear();
        scratch.bridged.resize(groups.len(), false);
        for first in 0..groups.len() {
            let Some(bridge) = at(&groups[first], sublayer).filter(|_| !scratch.bridged[first]) else {
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
            let Scratch { inputs, inner, hidden, active, .. } = scratch;
            let width = config.hidden;
            let Some((down, up)) = bridge.maps() else {
                for &row in active.iter() {
                    let state = &mut hidden[row * width..][..width];
                    state.iter_mut().zip(bridge.bias()).for_each(|(value, bias)| *value += bias);
                }
                continue;
            };
            let none = FormatSet::default();
            inputs.reset(active.len(), width);
            inputs.fill(pool, *isa, none, |index, out| {
                out.copy_from_slice(&hidden[active[index] * width..][..width]);
            });
            inner.reset(active.len(), down.outputs());
            kernels::multiply(pool, *isa, inputs, [Product::all(down, active.len(), inner.values_mut())]);
            let out = Out::Add { target: hidden, rows: active };
            let bias = Some(bridge.bias());
            let up = Product { matrix: up, tiles: None, rows: 0..active.len(), bias, out };
            kernels::multiply(pool, *isa, inner, [up]);
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
        scratch.norm_active(pool, *isa, config, &weights.output_norm, formats);
        let Scratch { inputs, logits, logit_rows, .. } = scratch;
        let (full, _) = logits.split_at_mut(full_rows * config.vocabulary);
        kernels::multiply(pool, *isa, inputs, [Product::all(&weights.head, full_rows, full)]);
        let mut row = full_rows;
        for (group, &LogitRows { start, .. }) in groups.iter().zip(logit_rows.iter()) {
            let LogitsWanted::Draft(head) = group.logits else { continue };
            let (shared, extra) =
                logits[start..][..head.width()].split_at_mut(head.vocabulary.tokens().len());
            let rows = row..row + 1;
            row += 1;
            let product = |matrix, tiles, out| Product {
                matrix,
                tiles,
                rows: rows.clone(),
                bias: None,
                out: Out::Write(out),
            };
            let products = [
                product(head.vocabulary.matrix(), None, shared),
                product(&weights.head, Some(head.extra_tiles), extra),
            ];
            kernels::multiply(pool, *isa, inputs, products);
        }
    }
}

// === impl RunnerOptions ===

impl Default for RunnerOptions {
    fn default() -> Self {
        Self { pages: 0, threads: 1, isa: Isa::detect(), kv_precision: KvPrecision::default() }
    }
}

// === impl Linear ===

impl Linear {
    /// The product for `rows` rows, written to `out`.
    fn product<'a>(&'a self, rows: usize, out: &'a mut [f32]) -> Product<'a> {
        Product { bias: self.bias.as_deref(), ..Product::all(&self.matrix, rows, out) }
    }

    /// The product, added to rows `rows` of `target`.
    fn product_added<'a>(&'a self, target: &'a mut [f32], rows: &'a [usize]) -> Product<'a> {
        let out = Out::Add { target, rows };
        Product { matrix: &self.matrix, tiles: None, rows: 0..rows.len(), bias: self.bias.as_deref(), out }
    }
}

// === impl Angles ===

impl Angles {
    fn of(&self, row: usize, pairs: RopePairs, count: usize) -> RopeAngles<'_> {
        let part = row * count..(row + 1) * count;
        RopeAngles { pairs, cosines: &self.cosines[part.clone()], sines: &self.sines[part] }
    }
}

// === impl Scratch ===

impl Scratch {
    /// Lays out the rows of all groups and their hidden states at entry.
    fn enter(&mut self, model: &Model, groups: &[RowGroup<'_>]) {
        let config = model.config();
        self.rows.clear();
        self.saved_rows.clear();
        let count: usize = groups.iter().map(|group| group.rows.len()).sum();
        self.hidden.resize(count * config.hidden, 0.0);
        let mut saved = 0;
        for (index, group) in groups.iter().enumerate() {
            self.saved_rows.push((saved, group.rows.len()));
            saved += group.save_before.len() * group.rows.len();
            for (offset, input) in group.rows.iter().enumerate() {
                let state = &mut self.hidden[self.rows.len() * config.hidden..][..config.hidden];
                let first_sublayer = match *input {
                    RowInput::Token(token) => {
                        model.weights().embed(token, state);
                        0
                    }
                    RowInput::Hidden { first, state: entered } => {
                        state.copy_from_slice(entered);
                        first
                    }
                };
                self.rows.push(Row { group: index, position: group.position + offset, first_sublayer });
            }
        }
        self.saved.resize(saved * config.hidden, 0.0);
        self.angles.cosines.clear();
        self.angles.sines.clear();
        for row in &self.rows {
            for frequency in model.rope_frequencies() {
                let (sine, cosine) = (row.position as f64 * frequency).sin_cos();
                self.angles.cosines.push(cosine as f32);
                self.angles.sines.push(sine as f32);
            }
        }
    }

    fn save(&mut self, config: &ModelConfig, groups: &[RowGroup<'_>], sublayer: usize) {
        let mut first_row = 0;
        for (group, &(start, rows)) in groups.iter().zip(&self.saved_rows) {
            let length = rows * config.hidden;
            if let Some(place) = group.save_before.iter().position(|&place| place == sublayer) {
                let states = &self.hidden[first_row * config.hidden..][..length];
                self.saved[(start + place * rows) * config.hidden..][..length].copy_from_slice(states);
            }
            first_row += rows;
        }
    }

    /// Makes the rows that want logits the active ones, those over the whole vocabulary first, and lays out the logits. Returns how many want
    /// the whole vocabulary.
    fn choose_logits(&mut self, config: &ModelConfig, groups: &[RowGroup<'_>]) -> usize {
        self.active.clear();
        self.logit_rows.clear();
        let mut first_row = 0;
        for group in groups {
            let (start, width) = (self.active.len() * config.vocabulary, config.vocabulary);
            self.logit_rows.push(LogitRows { start, width });
            let wanted = group.logits.full_rows(group.rows.len());
            self.active.extend(wanted.map(|row| first_row + row));
            first_row += group.rows.len();
        }
        let full_rows = self.active.len();
        let (mut start, mut first_row) = (full_rows * config.vocabulary, 0);
        for (group, place) in groups.iter().zip(&mut self.logit_rows) {
            first_row += group.rows.len();
            if let LogitsWanted::Draft(head) = group.logits {
                *place = LogitRows { start, width: head.width() };
                self.active.push(first_row - 1);
                start += head.width();
            }
        }
        self.logits.resize(start, 0.0);
        full_rows
    }

    fn choose_active(&mut self, groups: &[RowGroup<'_>], sublayer: usize) {
        self.active.clear();
        let runs = |row: &Row| {
            row.first_sublayer <= sublayer && groups[row.group].skip.is_none_or(|skip| !skip.skips(sublayer))
        };
        self.active.extend((0..self.rows.len()).filter(|&index| runs(&self.rows[index])));
    }

    /// Norms the hidden states of the active rows into `inputs` and quantises them.
    fn norm_active(
        &mut self,
        pool: &mut ThreadPool,
        isa: Isa,
        config: &ModelConfig,
        weight: &[f32],
        formats: FormatSet,
    ) {
        let Self { inputs, hidden, active, .. } = self;
        inputs.reset(active.len(), config.hidden);
        inputs.fill(pool, isa, formats, |index, out| {
            let state = &hidden[active[index] * config.hidden..][..config.hidden];
            kernels::rms_norm(isa, state, weight, config.norm_epsilon, out);
        });
    }
}
