//! Synthetic models: small enough for thousands of streams, complete enough for the whole engine.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may assert by panicking, as tests do"
)]

use std::io::Write;
use std::sync::Arc;

use skipstone::gguf::{GgufBuilder, GgufFile, TensorType};
use skipstone::kernels::WeightType;
use skipstone::model::{Model, TokenId};
use skipstone::text::TextModel;

use super::weights::{Random, random_weights};

/// The recipe of a random model. Token 0 is unknown, token 1 ends the output, the others print one
/// letter each.
#[derive(Clone, Debug)]
pub struct TinyModel {
    /// `llama` or `qwen2`; the latter has biases.
    pub architecture: &'static str,
    pub kind: WeightType,
    pub layers: usize,
    /// Rows of the K types are a multiple of 256.
    pub hidden: usize,
    pub head_dim: usize,
    pub kv_heads: usize,
    pub feed_forward: usize,
    pub vocabulary: usize,
    pub context_length: usize,
    /// Size of what each sublayer adds, relative to the embedding: the larger, the worse a draft
    /// that skips it.
    pub sublayer_scale: f32,
    /// Spread of the logits.
    pub head_scale: f32,
    pub seed: u64,
    /// A token whose embedding is not a number.
    pub poisoned: Option<TokenId>,
}

/// A model in memory, and its tokenizer.
#[derive(Clone)]
pub struct Loaded {
    pub model: Arc<Model>,
    pub text: Arc<TextModel>,
}

// === impl TinyModel ===

impl Default for TinyModel {
    fn default() -> Self {
        Self {
            architecture: "llama",
            kind: WeightType::Q8_0,
            layers: 6,
            hidden: 64,
            head_dim: 16,
            kv_heads: 2,
            feed_forward: 96,
            vocabulary: 48,
            context_length: 4096,
            sublayer_scale: 0.5,
            head_scale: 3.0,
            seed: 1,
            poisoned: None,
        }
    }
}

impl TinyModel {
    /// A model whose rows suit every weight type.
    pub fn of_type(kind: WeightType, architecture: &'static str) -> Self {
        Self {
            architecture,
            kind,
            layers: 4,
            hidden: 256,
            head_dim: 32,
            feed_forward: 256,
            vocabulary: 29,
            seed: kind as u64 + 100,
            ..Self::default()
        }
    }

    /// Writes the model to a file, maps it and loads it.
    pub fn load(&self) -> Loaded {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&self.build()).unwrap();
        // The map outlives the file's name.
        let file = Arc::new(
            GgufFile::open(file.path()).unwrap_or_else(|error| panic!("{self:?}: {error}")),
        );
        let text = Arc::new(TextModel::from_gguf(&file).unwrap());
        let model = Model::load(file, 1, &mut |_, _| {})
            .unwrap_or_else(|error| panic!("{self:?}: {error}"));
        Loaded { model: Arc::new(model), text }
    }

    fn build(&self) -> Vec<u8> {
        self.gguf().build()
    }

    /// Its file, to be changed.
    pub fn gguf(&self) -> GgufBuilder {
        let mut weights = Weights { recipe: self, random: Random(self.seed), gguf: self.header() };
        let query_width = self.hidden / self.head_dim * self.head_dim;
        let kv_width = self.kv_heads * self.head_dim;
        let embedding = weights.bytes(self.vocabulary, self.hidden, 1.7);
        weights.matrix("token_embd.weight", self.vocabulary, self.hidden, self.poison(embedding));
        for layer in 0..self.layers {
            let name = |part: &str| format!("blk.{layer}.{part}");
            weights.norm(&name("attn_norm.weight"));
            weights.linear(&name("attn_q"), query_width, self.hidden, 2.0);
            weights.linear(&name("attn_k"), kv_width, self.hidden, 2.0);
            weights.linear(&name("attn_v"), kv_width, self.hidden, 1.0);
            weights.linear(&name("attn_output"), self.hidden, query_width, self.sublayer_scale);
            weights.norm(&name("ffn_norm.weight"));
            weights.linear(&name("ffn_gate"), self.feed_forward, self.hidden, 1.5);
            weights.linear(&name("ffn_up"), self.feed_forward, self.hidden, 1.5);
            weights.linear(&name("ffn_down"), self.hidden, self.feed_forward, self.sublayer_scale);
        }
        weights.norm("output_norm.weight");
        weights.linear("output", self.vocabulary, self.hidden, self.head_scale);
        weights.gguf
    }

    fn header(&self) -> GgufBuilder {
        let architecture = self.architecture;
        let key = |name: &str| format!("{architecture}.{name}");
        let number = |value: usize| u32::try_from(value).unwrap();
        let mut tokens = vec!["<unk>".to_owned(), "</s>".to_owned()];
        tokens.extend((2..self.vocabulary).map(|token| letter(token).to_string()));
        // Unknown, control, then ordinary text.
        let types: Vec<i32> =
            [2, 3].into_iter().chain([1].into_iter().cycle()).take(self.vocabulary).collect();
        GgufBuilder::new()
            .metadata("general.architecture", architecture)
            .metadata(&key("block_count"), number(self.layers))
            .metadata(&key("embedding_length"), number(self.hidden))
            .metadata(&key("feed_forward_length"), number(self.feed_forward))
            .metadata(&key("attention.head_count"), number(self.hidden / self.head_dim))
            .metadata(&key("attention.head_count_kv"), number(self.kv_heads))
            .metadata(&key("attention.key_length"), number(self.head_dim))
            .metadata(&key("context_length"), number(self.context_length))
            .metadata(&key("attention.layer_norm_rms_epsilon"), 1e-5_f32)
            .metadata("tokenizer.ggml.model", "llama")
            .metadata("tokenizer.ggml.tokens", tokens)
            .metadata("tokenizer.ggml.scores", vec![0.0_f32; self.vocabulary])
            .metadata("tokenizer.ggml.token_type", types)
            .metadata("tokenizer.ggml.unknown_token_id", 0_u32)
            .metadata("tokenizer.ggml.eos_token_id", 1_u32)
    }

    fn poison(&self, mut embedding: Vec<u8>) -> Vec<u8> {
        if let Some(token) = self.poisoned {
            assert_eq!(self.kind, WeightType::F32, "only floats can be poisoned");
            embedding[token.index() * self.hidden * 4..][..4]
                .copy_from_slice(&f32::NAN.to_le_bytes());
        }
        embedding
    }
}

/// The letter that token `token` prints.
pub fn letter(token: usize) -> char {
    ('a'..='z').chain('A'..='Z').chain('0'..='9').nth(token - 2).unwrap()
}

// === tensors ===

struct Weights<'a> {
    recipe: &'a TinyModel,
    random: Random,
    gguf: GgufBuilder,
}

impl Weights<'_> {
    fn bytes(&mut self, outputs: usize, inputs: usize, scale: f32) -> Vec<u8> {
        random_weights(self.recipe.kind, outputs, inputs, scale, &mut self.random)
    }

    fn matrix(&mut self, name: &str, outputs: usize, inputs: usize, bytes: Vec<u8>) {
        let named = |kind: &&TensorType| kind.name() == self.recipe.kind.name();
        let kind = *TensorType::ALL.iter().find(named).unwrap();
        self.add(|gguf| gguf.tensor(name, &[inputs as u64, outputs as u64], kind, bytes));
    }

    /// A matrix that turns inputs of magnitude 1 into outputs of about `gain`, and qwen2's bias on
    /// queries, keys and values.
    fn linear(&mut self, name: &str, outputs: usize, inputs: usize, gain: f32) {
        let bytes = self.bytes(outputs, inputs, gain * (3.0 / inputs as f32).sqrt());
        self.matrix(&format!("{name}.weight"), outputs, inputs, bytes);
        let biased = ["attn_q", "attn_k", "attn_v"].iter().any(|part| name.ends_with(part));
        if self.recipe.architecture == "qwen2" && biased {
            let bias = self.random.floats(outputs, 0.5);
            self.add(|gguf| gguf.tensor_f32(&format!("{name}.bias"), &[outputs as u64], &bias));
        }
    }

    fn norm(&mut self, name: &str) {
        let weights: Vec<f32> =
            self.random.floats(self.recipe.hidden, 0.2).iter().map(|weight| 1.0 + weight).collect();
        self.add(|gguf| gguf.tensor_f32(name, &[weights.len() as u64], &weights));
    }

    fn add(&mut self, add: impl FnOnce(GgufBuilder) -> GgufBuilder) {
        self.gguf = add(std::mem::take(&mut self.gguf));
    }
}
