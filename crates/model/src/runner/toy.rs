//! A toy architecture whose blocks may have every option, and what it computes, written naively.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use crate::blueprint::{AttentionBlueprint, Blueprint, ExitBlueprint, LayerBlueprint};
use crate::config::ModelConfig;
use crate::rope::RopeConfig;
use crate::sublayer::{SublayerKind, sublayer_of};
use crate::{Model, TokenId};
use skipstone_gguf::{GgufBuilder, GgufFile};
use skipstone_kernels::RopePairs;

const HIDDEN: usize = 32;
const FEED_FORWARD: usize = 40;
const HEAD_DIM: usize = 8;
const QUERY_HEADS: usize = 4;
const KV_HEADS: usize = 2;
const LAYERS: usize = 3;
pub(super) const VOCABULARY: usize = 24;

/// A model of random float weights. Its file has the tensors of all options; the blueprint says
/// which are used.
pub(super) struct Toy {
    pub(super) blueprint: Blueprint,
    tensors: BTreeMap<String, Tensor>,
}

struct Tensor {
    /// Fastest dimension first.
    dims: Vec<usize>,
    values: Vec<f32>,
}

/// Uniform numbers in -1..1.
struct Noise(u64);

/// Keys and values of the positions so far.
type Cache = Vec<(Vec<f64>, Vec<f64>)>;

// === impl Noise ===

impl Noise {
    fn floats(&mut self, count: usize, middle: f32, spread: f32) -> Vec<f32> {
        let mut next = || {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| middle + spread * next()).collect()
    }
}

// === impl Toy ===

impl Toy {
    /// A toy with the options that `change` sets, and with or without biases on all its maps.
    pub(super) fn new(change: fn(&mut Blueprint), has_biases: bool) -> Self {
        let config = ModelConfig {
            architecture: "toy".to_owned(),
            layers: LAYERS,
            hidden: HIDDEN,
            feed_forward: FEED_FORWARD,
            query_heads: QUERY_HEADS,
            kv_heads: KV_HEADS,
            head_dim: HEAD_DIM,
            vocabulary: VOCABULARY,
            context_length: 64,
            norm_epsilon: 1e-5,
        };
        let rope = RopeConfig {
            pairs: RopePairs::Halves,
            dimensions: HEAD_DIM,
            base: 100.0,
            linear_factor: 1.0,
        };
        let mut blueprint = Blueprint::plain(config, rope);
        blueprint.ropes.push(RopeConfig {
            pairs: RopePairs::Adjacent,
            dimensions: HEAD_DIM / 2,
            base: 10.0,
            linear_factor: 2.0,
        });
        change(&mut blueprint);
        let mut toy = Self { blueprint, tensors: BTreeMap::new() };
        toy.add_tensors(has_biases);
        toy
    }

    fn add_tensors(&mut self, has_biases: bool) {
        let mut noise = Noise(3);
        let mut add = |name: &str, dims: &[usize], middle: f32, spread: f32| {
            let values = noise.floats(dims.iter().product(), middle, spread);
            self.tensors.insert(name.to_owned(), Tensor { dims: dims.to_vec(), values });
        };
        add("token_embd.weight", &[HIDDEN, VOCABULARY], 0.0, 1.7);
        add("output.weight", &[HIDDEN, VOCABULARY], 0.0, 0.6);
        add("output_norm.weight", &[HIDDEN], 1.0, 0.3);
        for layer in 0..LAYERS {
            for (norm, width) in [
                ("attn_norm", HIDDEN),
                ("attn_q_norm", HEAD_DIM),
                ("attn_k_norm", HEAD_DIM),
                ("post_attention_norm", HIDDEN),
                ("ffn_norm", HIDDEN),
                ("post_ffw_norm", HIDDEN),
            ] {
                add(&format!("blk.{layer}.{norm}.weight"), &[width], 1.0, 0.5);
            }
            for (map, inputs, outputs) in [
                ("attn_q", HIDDEN, QUERY_HEADS * HEAD_DIM),
                ("attn_k", HIDDEN, KV_HEADS * HEAD_DIM),
                ("attn_v", HIDDEN, KV_HEADS * HEAD_DIM),
                ("attn_output", QUERY_HEADS * HEAD_DIM, HIDDEN),
                ("ffn_gate", HIDDEN, FEED_FORWARD),
                ("ffn_up", HIDDEN, FEED_FORWARD),
                ("ffn_down", FEED_FORWARD, HIDDEN),
            ] {
                let spread = (3.0 / inputs as f32).sqrt();
                add(&format!("blk.{layer}.{map}.weight"), &[inputs, outputs], 0.0, spread);
                if has_biases {
                    add(&format!("blk.{layer}.{map}.bias"), &[outputs], 0.0, 0.5);
                }
            }
        }
    }

    /// The model, by way of a file.
    pub(super) fn load(&self) -> Arc<Model> {
        let mut builder = GgufBuilder::new();
        for (name, Tensor { dims, values }) in &self.tensors {
            let dims: Vec<u64> = dims.iter().map(|&dim| dim as u64).collect();
            builder = builder.tensor_f32(name, &dims, values);
        }
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&builder.build()).unwrap();
        let file = Arc::new(GgufFile::open(file.path()).unwrap());
        Arc::new(Model::build(self.blueprint.clone(), file, 1, &mut |_, _| {}).unwrap())
    }

    /// The logits after each token, one position after the other in double precision, without the
    /// sublayers in `skipped`.
    pub(super) fn reference(&self, tokens: &[TokenId], skipped: &[usize]) -> Vec<Vec<f64>> {
        let mut caches = vec![Cache::new(); LAYERS];
        let mut logits = Vec::with_capacity(tokens.len());
        for (position, token) in tokens.iter().enumerate() {
            let embedding = &self.tensors["token_embd.weight"].values;
            let mut state = doubles(&embedding[token.index() * HIDDEN..][..HIDDEN]);
            scale(&mut state, self.blueprint.embedding_scale);
            for (layer, cache) in caches.iter_mut().enumerate() {
                let LayerBlueprint { attention, mlp } = &self.blueprint.layers[layer];
                let name = |part: &str| format!("blk.{layer}.{part}");
                let runs = |kind| !skipped.contains(&sublayer_of(layer, kind));
                if runs(SublayerKind::Attention) {
                    let input = self.norm(&name("attn_norm"), &state);
                    let found = self.attend(layer, attention, &input, position, cache);
                    self.exit(&mut state, found, &name("post_attention_norm"), &attention.exit);
                }
                if runs(SublayerKind::Mlp) {
                    let input = self.norm(&name("ffn_norm"), &state);
                    let gate = self.linear(&name("ffn_gate"), &input);
                    let up = self.linear(&name("ffn_up"), &input);
                    let silu = |x: f64| x / (1.0 + (-x).exp());
                    let inner: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| silu(*g) * u).collect();
                    let found = self.linear(&name("ffn_down"), &inner);
                    self.exit(&mut state, found, &name("post_ffw_norm"), &mlp.exit);
                }
            }
            let mut row = self.linear("output", &self.norm("output_norm", &state));
            scale(&mut row, self.blueprint.logit_scale);
            logits.push(row);
        }
        logits
    }

    fn attend(
        &self,
        layer: usize,
        blueprint: &AttentionBlueprint,
        input: &[f64],
        position: usize,
        cache: &mut Cache,
    ) -> Vec<f64> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let mut query = self.linear(&name("attn_q"), input);
        let mut key = self.linear(&name("attn_k"), input);
        if blueprint.has_head_norms {
            let normed = |rows: &[f64], part| -> Vec<f64> {
                rows.chunks(HEAD_DIM).flat_map(|head| self.norm(&name(part), head)).collect()
            };
            (query, key) = (normed(&query, "attn_q_norm"), normed(&key, "attn_k_norm"));
        }
        if let Some(rope) = blueprint.rope {
            let rope = &self.blueprint.ropes[rope];
            query.chunks_mut(HEAD_DIM).for_each(|head| turn(rope, position, head));
            key.chunks_mut(HEAD_DIM).for_each(|head| turn(rope, position, head));
        }
        cache.push((key, self.linear(&name("attn_v"), input)));
        let score_scale = blueprint.scale.map_or(1.0 / (HEAD_DIM as f64).sqrt(), f64::from);
        let mut mixed = Vec::with_capacity(query.len());
        for (head, query) in query.chunks(HEAD_DIM).enumerate() {
            let kv_head = head / (QUERY_HEADS / KV_HEADS);
            let part = kv_head * HEAD_DIM..(kv_head + 1) * HEAD_DIM;
            let weight = |key: &[f64]| (dot(query, &key[part.clone()]) * score_scale).exp();
            let first = blueprint.window.map_or(0, |window| cache.len().saturating_sub(window));
            let cache = &cache[first..];
            let weights: Vec<f64> = cache.iter().map(|(key, _)| weight(key)).collect();
            let total: f64 = weights.iter().sum();
            mixed.extend(part.clone().map(|index| {
                let values = cache.iter().map(|(_, value)| value[index]);
                values.zip(&weights).map(|(value, weight)| value * weight / total).sum::<f64>()
            }));
        }
        self.linear(&name("attn_output"), &mixed)
    }

    fn exit(
        &self,
        state: &mut [f64],
        mut found: Vec<f64>,
        norm: &str,
        &ExitBlueprint { has_post_norm, residual_scale }: &ExitBlueprint,
    ) {
        if has_post_norm {
            found = self.norm(norm, &found);
        }
        scale(&mut found, residual_scale);
        state.iter_mut().zip(&found).for_each(|(value, found)| *value += found);
    }

    fn norm(&self, name: &str, row: &[f64]) -> Vec<f64> {
        let weight = &self.tensors[&format!("{name}.weight")].values;
        let mean = dot(row, row) / row.len() as f64;
        let factor = 1.0 / (mean + f64::from(self.blueprint.config.norm_epsilon)).sqrt();
        row.iter().zip(weight).map(|(value, &weight)| value * factor * f64::from(weight)).collect()
    }

    fn linear(&self, name: &str, input: &[f64]) -> Vec<f64> {
        let weights = &self.tensors[&format!("{name}.weight")].values;
        let bias = self.tensors.get(&format!("{name}.bias"));
        let rows = weights.chunks(input.len()).enumerate();
        rows.map(|(index, row)| {
            dot(&doubles(row), input) + bias.map_or(0.0, |bias| f64::from(bias.values[index]))
        })
        .collect()
    }
}

fn turn(rope: &RopeConfig, position: usize, head: &mut [f64]) {
    for pair in 0..rope.dimensions / 2 {
        let exponent = -2.0 * pair as f64 / rope.dimensions as f64;
        let frequency = f64::from(rope.base).powf(exponent) / f64::from(rope.linear_factor);
        let (sine, cosine) = (position as f64 * frequency).sin_cos();
        let (first, second) = match rope.pairs {
            RopePairs::Adjacent => (2 * pair, 2 * pair + 1),
            RopePairs::Halves => (pair, pair + rope.dimensions / 2),
        };
        let (a, b) = (head[first], head[second]);
        (head[first], head[second]) = (a * cosine - b * sine, a * sine + b * cosine);
    }
}

fn scale(values: &mut [f64], factor: Option<f32>) {
    values.iter_mut().for_each(|value| *value *= f64::from(factor.unwrap_or(1.0)));
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn doubles(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}
