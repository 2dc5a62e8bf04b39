//! The pass: prefill, plain decode, draft and verify are this one function over rows.

use std::sync::Arc;
use std::time::Instant;

use super::Model;
use super::config::ModelConfig;
use super::pass::{PassOutput, RowGroup, RowInput};
use super::weights::{Attention, Layer, Linear, Mlp};
use crate::kernels::{self, Activations, AttentionRow, Isa, KvStore, PAGE_POSITIONS, Product, ThreadPool};

/// Runs passes over one model. Owns the key/value pages, the threads and all scratch memory.
pub struct Runner {
    model: Arc<Model>,
    store: KvStore,
    compute: Compute,
    scratch: Scratch,
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
    projected: Vec<f32>,
    /// Cosines and sines of each row's position, \[rows, pairs\].
    cosines: Vec<f32>,
    sines: Vec<f32>,
    logits: Vec<f32>,
    logit_starts: Vec<usize>,
    saved: Vec<f32>,
    saved_starts: Vec<usize>,
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
        Self::with_isa(model, pages, threads, Isa::detect())
    }

    /// As [`Runner::new`], with a given instruction set.
    pub fn with_isa(model: Arc<Model>, pages: usize, threads: usize, isa: Isa) -> Self {
        let store = KvStore::new(model.config().kv_shape(), pages);
        let compute = Compute { pool: ThreadPool::new(threads), isa };
        Self { model, store, compute, scratch: Scratch::default() }
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
            logit_starts: &scratch.logit_starts,
            saved: &scratch.saved,
            hidden: config.hidden,
            saved_starts: &scratch.saved_starts,
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
        let Self { store, compute, scratch, .. } = self;
        let formats = weights.query.formats().union(weights.key.formats()).union(weights.value.formats());
        scratch.norm_active(compute.isa, config, &weights.norm);
        scratch.inputs.quantize(compute.isa, formats);
        let rows = scratch.active.len();
        let (query_width, kv_width) =
            (config.query_heads * config.head_dim, config.kv_heads * config.head_dim);
        scratch.query.resize(rows * query_width, 0.0);
        scratch.key.resize(rows * kv_width, 0.0);
        scratch.value.resize(rows * kv_width, 0.0);
        compute.multiply(
            &scratch.inputs,
            &mut [
                (&weights.query, &mut scratch.query),
                (&weights.key, &mut scratch.key),
                (&weights.value, &mut scratch.value),
            ],
        );
        let pairs = config.rope.dimensions / 2;
        for (index, &row) in scratch.active.iter().enumerate() {
            let (cosines, sines) =
                (&scratch.cosines[row * pairs..][..pairs], &scratch.sines[row * pairs..][..pairs]);
            let query = &mut scratch.query[index * query_width..][..query_width];
            kernels::rope(config.rope.pairs, query, config.head_dim, cosines, sines);
            let key = &mut scratch.key[index * kv_width..][..kv_width];
            kernels::rope(config.rope.pairs, key, config.head_dim, cosines, sines);
            let Row { group, position, .. } = scratch.rows[row];
            let page = groups[group].pages[position / PAGE_POSITIONS];
            let value = &scratch.value[index * kv_width..][..kv_width];
            store.write(compute.isa, layer, page, position % PAGE_POSITIONS, key, value);
        }
        let attending: Vec<AttentionRow<'_>> = scratch
            .active
            .iter()
            .map(|&row| {
                let Row { group, position, .. } = scratch.rows[row];
                AttentionRow { pages: groups[group].pages, length: position + 1 }
            })
            .collect();
        scratch.inner.reset(rows, query_width);
        let out = scratch.inner.values_mut();
        store.attend(&mut compute.pool, compute.isa, layer, &attending, &scratch.query, out);
        scratch.project_and_add(compute, config, &weights.output);
    }

    fn mlp(&mut self, config: &ModelConfig, weights: &Mlp) {
        let Self { compute, scratch, .. } = self;
        scratch.norm_active(compute.isa, config, &weights.norm);
        scratch.inputs.quantize(compute.isa, weights.gate.formats().union(weights.up.formats()));
        let rows = scratch.active.len();
        scratch.gate.resize(rows * config.feed_forward, 0.0);
        scratch.up.resize(rows * config.feed_forward, 0.0);
        compute.multiply(
            &scratch.inputs,
            &mut [(&weights.gate, &mut scratch.gate), (&weights.up, &mut scratch.up)],
        );
        scratch.inner.reset(rows, config.feed_forward);
        kernels::swiglu(compute.isa, &scratch.gate, &scratch.up, scratch.inner.values_mut());
        scratch.project_and_add(compute, config, &weights.down);
    }

    fn head(&mut self, model: &Model, groups: &[RowGroup<'_>]) {
        let Self { compute, scratch, .. } = self;
        let (config, weights) = (model.config(), model.weights());
        scratch.active.clear();
        scratch.logit_starts.clear();
        let mut first_row = 0;
        for group in groups {
            scratch.logit_starts.push(scratch.active.len());
            let wanted = group.logits.rows(group.rows.len());
            scratch.active.extend(wanted.map(|row| first_row + row));
            first_row += group.rows.len();
        }
        scratch.logits.resize(scratch.active.len() * config.vocabulary, 0.0);
        if scratch.active.is_empty() {
            return;
        }
        scratch.norm_active(compute.isa, config, &weights.output_norm);
        let format = weights.head.kind().activation_format();
        scratch.inputs.quantize(compute.isa, kernels::FormatSet::default().with(format));
        let product = Product { matrix: &weights.head, out: &mut scratch.logits };
        kernels::multiply(&mut compute.pool, compute.isa, &scratch.inputs, &mut [product]);
    }
}

// === impl Compute ===

impl Compute {
    /// Products that share an input, biases added.
    fn multiply<const N: usize>(
        &mut self,
        inputs: &Activations,
        products: &mut [(&Linear, &mut Vec<f32>); N],
    ) {
        let mut calls = products
            .each_mut()
            .map(|(linear, out)| Product { matrix: &linear.matrix, out: out.as_mut_slice() });
        kernels::multiply(&mut self.pool, self.isa, inputs, &mut calls);
        for (linear, out) in products {
            if let Some(bias) = &linear.bias {
                out.chunks_exact_mut(bias.len()).for_each(|row| kernels::add(row, bias));
            }
        }
    }
}

// === impl Scratch ===

impl Scratch {
    /// Lays out the rows of all groups and their hidden states at entry.
    fn enter(&mut self, model: &Model, groups: &[RowGroup<'_>]) {
        let config = model.config();
        self.rows.clear();
        self.saved_starts.clear();
        let count: usize = groups.iter().map(|group| group.rows.len()).sum();
        self.hidden.resize(count * config.hidden, 0.0);
        let mut saved = 0;
        for (index, group) in groups.iter().enumerate() {
            self.saved_starts.push(saved);
            saved += if group.save_before.is_some() { group.rows.len() } else { 0 };
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
        self.cosines.clear();
        self.sines.clear();
        for row in &self.rows {
            for frequency in model.rope_frequencies() {
                let (sine, cosine) = (row.position as f64 * frequency).sin_cos();
                self.cosines.push(cosine as f32);
                self.sines.push(sine as f32);
            }
        }
    }

    fn save(&mut self, config: &ModelConfig, groups: &[RowGroup<'_>], sublayer: usize) {
        let mut first_row = 0;
        for (index, group) in groups.iter().enumerate() {
            let length = group.rows.len() * config.hidden;
            if group.save_before == Some(sublayer) {
                let states = &self.hidden[first_row * config.hidden..][..length];
                self.saved[self.saved_starts[index] * config.hidden..][..length].copy_from_slice(states);
            }
            first_row += group.rows.len();
        }
    }

    fn choose_active(&mut self, groups: &[RowGroup<'_>], sublayer: usize) {
        self.active.clear();
        let runs = |row: &Row| {
            row.first_sublayer <= sublayer && groups[row.group].skip.is_none_or(|skip| !skip.skips(sublayer))
        };
        self.active.extend((0..self.rows.len()).filter(|&index| runs(&self.rows[index])));
    }

    /// Norms the hidden states of the active rows into `inputs`.
    fn norm_active(&mut self, isa: Isa, config: &ModelConfig, weight: &[f32]) {
        self.inputs.reset(self.active.len(), config.hidden);
        for (index, &row) in self.active.iter().enumerate() {
            let state = &self.hidden[row * config.hidden..][..config.hidden];
            kernels::rms_norm(isa, state, weight, config.norm_epsilon, self.inputs.row_mut(index));
        }
    }

    /// Multiplies `inner` and adds the result to the hidden states of the active rows.
    fn project_and_add(&mut self, compute: &mut Compute, config: &ModelConfig, linear: &Linear) {
        self.inner.quantize(compute.isa, linear.formats());
        self.projected.resize(self.active.len() * config.hidden, 0.0);
        compute.multiply(&self.inner, &mut [(linear, &mut self.projected)]);
        for (&row, projected) in self.active.iter().zip(self.projected.chunks_exact(config.hidden)) {
            kernels::add(&mut self.hidden[row * config.hidden..][..config.hidden], projected);
        }
    }
}
