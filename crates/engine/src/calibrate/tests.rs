//! The whole way on a model of random weights.

use std::cell::RefCell;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::candidate::Candidate;
use super::evaluate::Chain;
use super::*;
use crate::adapt::{BridgeWeights, FillerKind};
use crate::drafting::runs;
use skipstone_gguf::{GgufBuilder, GgufFile, TensorType};
use skipstone_model::sublayer;

const LAYERS: u32 = 6;
const HIDDEN: usize = 32;
const VOCABULARY: usize = 40;

/// Uniform numbers in -1..1.
struct Noise(u64);

impl Noise {
    fn bytes(&mut self, count: usize, scale: f32) -> Vec<u8> {
        let mut next = || {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0) * scale
        };
        (0..count).flat_map(|_| next().to_le_bytes()).collect()
    }
}

/// A model whose sublayers each change the state by about `scale` of it.
fn model(scale: f32) -> Arc<Model> {
    let mut noise = Noise(7);
    let mut gguf = GgufBuilder::new()
        .metadata("general.architecture", "llama")
        .metadata("llama.block_count", LAYERS)
        .metadata("llama.embedding_length", HIDDEN as u32)
        .metadata("llama.feed_forward_length", 64_u32)
        .metadata("llama.attention.head_count", 2_u32)
        .metadata("llama.attention.head_count_kv", 1_u32)
        .metadata("llama.context_length", 1024_u32)
        .metadata("llama.attention.layer_norm_rms_epsilon", 1e-5_f32);
    let mut matrix = |gguf: GgufBuilder, name: &str, rows: usize, columns: usize, scale: f32| {
        let bytes = noise.bytes(rows * columns, scale * (3.0 / columns as f32).sqrt());
        gguf.tensor(name, &[columns as u64, rows as u64], TensorType::F32, bytes)
    };
    let ones: Vec<u8> = [1.0_f32; HIDDEN].iter().flat_map(|one| one.to_le_bytes()).collect();
    gguf = matrix(gguf, "token_embd.weight", VOCABULARY, HIDDEN, 6.0);
    gguf = matrix(gguf, "output.weight", VOCABULARY, HIDDEN, 4.0);
    gguf = gguf.tensor("output_norm.weight", &[HIDDEN as u64], TensorType::F32, ones.clone());
    for layer in 0..LAYERS {
        for norm in ["attn_norm", "ffn_norm"] {
            let name = format!("blk.{layer}.{norm}.weight");
            gguf = gguf.tensor(&name, &[HIDDEN as u64], TensorType::F32, ones.clone());
        }
        for (part, rows, columns, scale) in [
            ("attn_q", HIDDEN, HIDDEN, 1.0),
            ("attn_k", HIDDEN / 2, HIDDEN, 1.0),
            ("attn_v", HIDDEN / 2, HIDDEN, 1.0),
            ("attn_output", HIDDEN, HIDDEN, scale),
            ("ffn_gate", 64, HIDDEN, 1.0),
            ("ffn_up", 64, HIDDEN, 1.0),
            ("ffn_down", HIDDEN, 64, scale),
        ] {
            gguf = matrix(gguf, &format!("blk.{layer}.{part}.weight"), rows, columns, scale);
        }
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&gguf.build()).unwrap();
    let file = GgufFile::open(file.path()).unwrap();
    Arc::new(Model::load(Arc::new(file), 1, &mut |_, _| {}).unwrap())
}

fn calibration(folder: &Path) -> Calibration {
    let seeds =
        (0..9).map(|seed| (0..6).map(|place| TokenId((seed * 5 + place * 3) % 40)).collect());
    Calibration {
        name: "random".to_owned(),
        fingerprint: "ab".repeat(32),
        seeds: seeds.collect(),
        ends: Vec::new(),
        tokens: 9000,
        threads: 2,
        partial: folder.join("partial"),
    }
}

/// Notes stages with their first count, and breaks off at one of them.
#[derive(Default)]
struct Watcher {
    stages: RefCell<Vec<(String, Option<usize>)>>,
    /// Acceptance of first drafts at each judgement of a training.
    trained: RefCell<Vec<f64>>,
    break_at: Option<&'static str>,
}

impl CalibrationProgress for Watcher {
    fn stage(&self, what: &str, _: usize) {
        assert_ne!(Some(what), self.break_at, "the test breaks off here");
        self.stages.borrow_mut().push((what.to_owned(), None));
    }

    fn done(&self, units: usize) {
        if let Some((_, first @ None)) = self.stages.borrow_mut().last_mut() {
            *first = Some(units);
        }
    }

    fn trained(&self, _: usize, _: f64, acceptance: &[f64]) {
        self.trained.borrow_mut().push(acceptance[0]);
    }
}

/// Starts on text of a model, and what runs it.
fn evaluator(scale: f32) -> (Runner, Evaluator) {
    let folder = tempfile::tempdir().unwrap();
    let (model, calibration) = (model(scale), calibration(folder.path()));
    let sequences = corpus::Writer::new(&model, &calibration).unwrap().next(0).unwrap();
    let sequences: Vec<&Sequence> = sequences.iter().collect();
    let config = model.config();
    let starts = Evaluator::starts(&sequences, config.sublayers() * config.hidden);
    let pages = Evaluator::pages(&sequences, &starts);
    let mut runner = Runner::new(Arc::clone(&model), pages, 1);
    let pool = PagePool::new(pages);
    let evaluator =
        Evaluator::new(&mut runner, &pool, &sequences, &starts, &Watcher::default()).unwrap();
    (runner, evaluator)
}

#[test]
fn a_chain_that_skips_nothing_agrees_everywhere() {
    let (mut runner, evaluator) = evaluator(0.6);
    let config = runner.model().config().clone();
    let all: Vec<usize> = (0..evaluator.len()).collect();
    let mut agreement = |skipped: Vec<usize>| {
        let candidate = Candidate::new(String::new(), runs(skipped), &config, |_| None).unwrap();
        let chains = evaluator.evaluate(&mut runner, &candidate, &all).unwrap();
        let steps: Vec<bool> =
            chains.iter().flat_map(|chain| chain.steps.map(|step| step.agrees)).collect();
        steps.iter().filter(|&&agrees| agrees).count() as f64 / steps.len() as f64
    };
    assert!(all.len() > 100, "{} starts", all.len());
    assert_eq!(agreement(Vec::new()), 1.0);
    assert!(agreement((2..10).collect()) < 0.95, "skipping most of a model is noticed");
    assert_eq!(agreement(Vec::new()), 1.0, "chains leave nothing behind");
}

#[test]
fn a_bridge_of_zeros_drafts_what_the_identity_drafts_until_it_is_wrong() {
    let (mut runner, evaluator) = evaluator(0.3);
    let config = runner.model().config().clone();
    let zeros = BridgeWeights {
        bias: vec![0.0; HIDDEN],
        down: vec![0.0; 2 * HIDDEN],
        up: vec![0.0; HIDDEN],
    };
    let mut chains = |bridge: Option<BridgeWeights>| {
        let candidate =
            Candidate::new(String::new(), runs(4..8), &config, |_| bridge.clone()).unwrap();
        evaluator.evaluate(&mut runner, &candidate, &evaluator.choosing()).unwrap()
    };
    let (identity, bridged) = (chains(None), chains(Some(zeros)));
    let mut lengths = std::collections::BTreeSet::new();
    for (one, other) in identity.iter().zip(&bridged) {
        let judged = (one.length() + 1).min(one.steps.len());
        let said = |chain: &Chain| {
            chain.steps[..judged]
                .iter()
                .map(|step| (step.agrees, step.confidence))
                .collect::<Vec<_>>()
        };
        assert_eq!(said(one), said(other));
        lengths.insert(judged);
    }
    assert!(lengths.len() > 2, "{lengths:?}");
}

#[test]
fn calibration_finds_plans_and_goes_on_where_it_broke_off() {
    let folder = tempfile::tempdir().unwrap();
    let (model, calibration) = (model(0.15), calibration(folder.path()));
    for stage in ["mean changes", "bridges"] {
        let broken = Watcher { break_at: Some(stage), ..Watcher::default() };
        assert!(catch_unwind(AssertUnwindSafe(|| calibration.run(&model, &broken))).is_err());
    }
    let watcher = Watcher::default();
    let resumed = calibration.run(&model, &watcher).unwrap();
    let stages = watcher.stages.into_inner();
    assert!(
        matches!(&stages[0], (name, Some(done)) if name == "the model writes text" && *done >= 9000),
        "{stages:?}"
    );
    for kept in ["relevance of each sublayer", "second moments"] {
        assert!(stages.iter().all(|(name, _)| name != kept), "{stages:?}");
    }
    calibration.clean_up();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

    let whole = calibration.run(&model, &Watcher::default()).unwrap();
    assert_eq!(whole.relevance, resumed.relevance);
    assert_eq!(whole.vocabulary_order, resumed.vocabulary_order);
    assert_eq!(whole.tokens, resumed.tokens);
    assert!(!whole.plans.is_empty());
    assert_eq!(Profile::from_bytes(&whole.to_bytes().unwrap()).unwrap().model, whole.model);
    for kind in [FillerKind::Identity, FillerKind::Bias, FillerKind::LowRank] {
        assert!(whole.measurements.iter().any(|measured| measured.kind == kind), "{kind:?}");
    }
    let inner = sublayer::of_layers(1..LAYERS as usize - 1);
    assert!(
        whole.relevance.iter().enumerate().all(|(s, found)| found.is_some() == inner.contains(&s))
    );
    let other = Calibration { fingerprint: "cd".repeat(32), ..calibration };
    let kept = Partial::resume(&other.partial, &other.fingerprint, other.tokens);
    assert!(kept.sequences.is_empty(), "work on another model is of no use");
}

#[test]
fn a_stand_in_is_trained_and_drafts_as_the_training_said() {
    let folder = tempfile::tempdir().unwrap();
    let (model, calibration) = (model(0.8), calibration(folder.path()));
    let training = StandInCalibration {
        seeds: calibration
            .seeds
            .iter()
            .map(|seed| Seed::Prompt(seed.clone()))
            .chain([Seed::About(calibration.seeds[0].clone(), calibration.seeds[1].clone())])
            .collect(),
        ends: Vec::new(),
        text: 20_000,
        learn: 80_000,
        rate: 3e-3,
        layers: 1,
        mlp_width: None,
        threads: 2,
        partial: calibration.partial.clone(),
    };
    let profile = Profile {
        model: ProfiledModel {
            name: calibration.name.clone(),
            fingerprint: calibration.fingerprint.clone(),
            layers: LAYERS as usize,
            hidden: HIDDEN,
            vocabulary: VOCABULARY,
        },
        relevance: vec![None; 2 * LAYERS as usize],
        plans: Vec::new(),
        measurements: Vec::new(),
        vocabulary_order: Vec::new(),
        ..Profile::example()
    };
    let broken = Watcher { break_at: Some("states of the held-back text"), ..Watcher::default() };
    let run = |watcher: &Watcher| training.run(&model, profile.clone(), watcher);
    assert!(catch_unwind(AssertUnwindSafe(|| run(&broken))).is_err());
    let judged = broken.trained.into_inner();
    let (first, last) = (judged[0], judged[judged.len() - 1]);
    assert!(last > first + 0.02, "it learns: {judged:?}");
    // The training is done: it is judged once more.
    let resumed = Watcher::default();
    let profile = run(&resumed).unwrap();
    assert_eq!(resumed.trained.into_inner(), [last]);
    let plan = profile.plans.iter().find(|plan| plan.has_stand_in).unwrap();
    // Few positions, so a wide tolerance. A stand-in that the engine ran otherwise than the
    // training would be right for one token in forty.
    let (first, count) = (plan.prior.positions[0], plan.prior.positions[0].drafted);
    let off = (first.rate() - last).abs();
    assert!(off < 2.0 / count.sqrt() && first.rate() > 0.3, "judged {last}, drafted {first:?}");
    let read = Profile::from_bytes(&profile.to_bytes().unwrap()).unwrap();
    assert_eq!(read.plans[0].prior, profile.plans[0].prior);
    let seats = crate::adapt::frontier(&read, &model, 1).unwrap();
    assert!(seats.iter().any(|seat| seat.plan.stand_in().is_some()));
    training.clean_up();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn too_little_text_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let mut calibration = calibration(folder.path());
    calibration.seeds.truncate(3);
    let error = calibration.run(&model(0.1), &Watcher::default()).unwrap_err().to_string();
    assert!(error.contains("only 3 seed prompts"), "{error}");
}
