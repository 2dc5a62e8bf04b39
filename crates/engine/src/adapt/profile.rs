//! The profile: what was learned about a model, for the next start and for other replicas.

use serde::{Deserialize, Serialize};

use super::bridge_fit::BridgeWeights;
use skipstone_model::{StandInWeights, TokenId};

/// Results of calibrating one model. A hint only: a lost or stale profile costs speed and nothing
/// else.
#[derive(Clone, PartialEq, Debug)]
pub struct Profile {
    /// The model that it belongs to.
    pub model: ProfiledModel,
    /// Tokens of the model's own text it was learned from.
    pub tokens: usize,
    /// For each sublayer, how often the model's best token stays the same without it, 0 to 1;
    /// `None` where that was not measured, as in the first and the last layer, which always run.
    pub relevance: Vec<Option<f32>>,
    /// The plans that no other plan beats in both cost and acceptance, cheapest first.
    pub plans: Vec<ProfilePlan>,
    /// The stand-in of the plans that have one.
    pub stand_in: Option<StandInWeights>,
    /// Everything that was measured on the way, for the picture.
    pub measurements: Vec<Measurement>,
    /// Tokens by how often the model wrote them, most frequent first: the first N are a draft
    /// vocabulary. It may end early.
    pub vocabulary_order: Vec<TokenId>,
}

/// The model that a profile belongs to.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct ProfiledModel {
    /// The model file's name, for people.
    pub name: String,
    /// [`skipstone_gguf::GgufFile::fingerprint`].
    pub fingerprint: String,
    /// Transformer layers.
    pub layers: usize,
    /// Elements of a hidden state.
    pub hidden: usize,
    /// Tokens.
    pub vocabulary: usize,
}

/// A draft plan with what to expect of it.
#[derive(Clone, PartialEq, Debug)]
pub struct ProfilePlan {
    /// Short name, as in `layers 3-15, rank 64`.
    pub name: String,
    /// Sublayers that the draft skips, ascending.
    pub skipped: Vec<usize>,
    /// Bridges over runs of them, ascending and disjoint; runs without one pass the state through.
    pub bridges: Vec<ProfileBridge>,
    /// Whether the profile's stand-in takes the place of what is skipped.
    pub has_stand_in: bool,
    /// Tokens that the draft's head covers, from the front of the profile's order; the whole
    /// vocabulary if it is that size.
    pub draft_vocabulary: usize,
    /// Tokens to draft in a cycle at most.
    pub max_draft_tokens: usize,
    /// Stop drafting before a token less likely than this.
    pub confidence_threshold: f32,
    /// Seconds of a draft step / seconds of a plain step, where it was calibrated.
    pub cost: f64,
    /// Estimated speedup of layer skip alone with these settings, where it was calibrated.
    pub speedup: f64,
    /// Acceptance on positions that nothing was fitted to or chosen by.
    pub prior: AcceptancePrior,
}

/// A bridge over sublayers `first..end`.
#[derive(Clone, PartialEq, Debug)]
pub struct ProfileBridge {
    /// First sublayer that it stands in for.
    pub first: usize,
    /// The sublayer after the last.
    pub end: usize,
    /// Its numbers.
    pub weights: BridgeWeights,
}

/// Acceptance counts.
#[derive(Clone, PartialEq, Serialize, Deserialize, Default, Debug)]
pub struct AcceptancePrior {
    /// Counts by position in the draft, each given that all before were accepted.
    pub positions: Vec<AcceptanceCount>,
    /// Counts by the draft's confidence, one for each of [`super::confidence_bin`]'s
    /// [`super::BINS`].
    pub confidence: Vec<AcceptanceCount>,
}

/// Number of drafted tokens, and of those that the full model confirmed.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, Default, Debug)]
pub struct AcceptanceCount {
    /// Drafted tokens.
    pub drafted: f64,
    /// Accepted ones.
    pub accepted: f64,
}

/// One candidate that calibration tried.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Measurement {
    /// The candidate's name.
    pub name: String,
    /// What took the place of the skipped sublayers.
    pub kind: FillerKind,
    /// Seconds of a draft step / seconds of a plain step.
    pub cost: f64,
    /// Share of the drafted tokens that were accepted, each given that all before were; 0 to 1.
    pub acceptance: f64,
}

/// What takes the place of a run of skipped sublayers.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "snake_case")]
pub enum FillerKind {
    /// Nothing: the state passes through.
    Identity,
    /// The mean change.
    Bias,
    /// A map of low rank.
    LowRank,
    /// A trained block.
    StandIn,
}

/// A reason why a profile can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The file can't be read or written.
    #[error("can't {action} the profile {path}: {source}")]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is larger than any profile.
    #[error("the profile {path} has {bytes} bytes; profiles have at most {limit}")]
    TooLarge {
        /// The file.
        path: String,
        /// Its size.
        bytes: u64,
        /// The largest size.
        limit: u64,
    },
    /// The file is damaged or something else.
    #[error("not a profile, or a damaged one: {0}; make a new one with `skipstone calibrate`")]
    Format(String),
    /// A version that this program does not know.
    #[error(
        "the profile has version {found}, this program reads {expected}; make a new one with `skipstone calibrate`"
    )]
    Version {
        /// The file's version.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// A value is out of range.
    #[error(
        "{field} of the profile is {value}: {reason}; make a new one with `skipstone calibrate`"
    )]
    Value {
        /// The field.
        field: String,
        /// Its value.
        value: String,
        /// The rule that it breaks.
        reason: String,
    },
    /// It was made for another model.
    #[error(
        "the profile was made for {profiled}, not for this model file; make one with `skipstone calibrate --model FILE`"
    )]
    OtherModel {
        /// Name and fingerprint of the profile's model.
        profiled: String,
    },
}

// === impl Profile ===

impl Profile {
    /// Refuses a profile that was made for another model than the one with this fingerprint.
    ///
    /// # Errors
    /// [`ProfileError::OtherModel`].
    pub fn check_model(&self, fingerprint: &str) -> Result<(), ProfileError> {
        if self.model.fingerprint == fingerprint {
            return Ok(());
        }
        let ProfiledModel { name, fingerprint, .. } = &self.model;
        let short = fingerprint.get(..12).unwrap_or(fingerprint);
        Err(ProfileError::OtherModel { profiled: format!("{name} (fingerprint {short}…)") })
    }

    /// The draft vocabulary of `size` tokens, ascending: the first of the order, then the lowest
    /// ids, since those are the most frequent where a vocabulary is built by merging.
    pub fn draft_vocabulary(&self, size: usize) -> Vec<TokenId> {
        let vocabulary = self.model.vocabulary;
        let size = size.min(vocabulary);
        let mut taken = vec![false; vocabulary];
        let mut tokens = Vec::with_capacity(size);
        let ordered = self.vocabulary_order.iter().copied();
        for token in ordered.chain((0..vocabulary as u32).map(TokenId)) {
            if tokens.len() == size {
                break;
            }
            if let Some(seen) = taken.get_mut(token.index())
                && !std::mem::replace(seen, true)
            {
                tokens.push(token);
            }
        }
        tokens.sort_unstable();
        tokens
    }

    /// Checks every number: sizes that fit each other, ranges, finite values. Files are checked as
    /// they are read.
    ///
    /// # Errors
    /// [`ProfileError::Value`] with the first value that is wrong.
    pub fn check(&self) -> Result<(), ProfileError> {
        super::profile_check::check(self)
    }
}

// === impl ProfilePlan ===

impl ProfilePlan {
    /// What takes the place of the skipped sublayers.
    pub fn kind(&self) -> FillerKind {
        if self.has_stand_in {
            return FillerKind::StandIn;
        }
        match self.bridges.iter().map(|bridge| bridge.weights.rank()).max() {
            None => FillerKind::Identity,
            Some(0) => FillerKind::Bias,
            Some(_) => FillerKind::LowRank,
        }
    }

    /// Share of the drafted tokens that were accepted, each given that all before were; 0 to 1.
    pub fn acceptance(&self) -> f64 {
        let sum = |of: fn(&AcceptanceCount) -> f64| self.prior.positions.iter().map(of).sum();
        AcceptanceCount {
            drafted: sum(|count| count.drafted),
            accepted: sum(|count| count.accepted),
        }
        .rate()
    }
}

// === impl AcceptanceCount ===

impl AcceptanceCount {
    /// Accepted / drafted; 0 if nothing was drafted.
    pub fn rate(&self) -> f64 {
        if self.drafted > 0.0 { self.accepted / self.drafted } else { 0.0 }
    }

    /// Counts one drafted token.
    pub fn observe(&mut self, accepted: bool) {
        self.drafted += 1.0;
        self.accepted += f64::from(u8::from(accepted));
    }
}

// === impl FillerKind ===

impl FillerKind {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Bias => "bias",
            Self::LowRank => "low rank",
            Self::StandIn => "stand-in",
        }
    }
}

impl Profile {
    /// A small profile of a model of five layers with one plan, for tests and examples.
    pub fn example() -> Self {
        let weights = BridgeWeights { bias: vec![0.0; 8], down: vec![0.0; 32], up: vec![0.0; 16] };
        let counts = [(10.0, 8.0), (10.0, 6.0)]
            .map(|(drafted, accepted)| AcceptanceCount { drafted, accepted });
        let plan = ProfilePlan {
            name: "layers 1-2, rank 2".to_owned(),
            skipped: (2..6).collect(),
            bridges: vec![ProfileBridge { first: 2, end: 6, weights }],
            has_stand_in: false,
            draft_vocabulary: 3,
            max_draft_tokens: 4,
            confidence_threshold: 0.5,
            cost: 0.5,
            speedup: 1.25,
            prior: AcceptancePrior {
                positions: counts.to_vec(),
                confidence: vec![AcceptanceCount::default(); super::BINS],
            },
        };
        let measurement =
            |kind, acceptance| Measurement { name: "x".to_owned(), kind, cost: 0.5, acceptance };
        Self {
            model: ProfiledModel {
                name: "m.gguf".to_owned(),
                fingerprint: "0f".repeat(32),
                layers: 5,
                hidden: 8,
                vocabulary: 6,
            },
            tokens: 1000,
            relevance: [0.0, 0.0, 0.9, 0.1, 0.9, 0.8, 0.9, 1.0, 0.0, 0.0]
                .map(|relevance| (relevance > 0.0).then_some(relevance))
                .to_vec(),
            plans: vec![plan],
            stand_in: None,
            measurements: vec![
                measurement(FillerKind::Identity, 0.4),
                measurement(FillerKind::LowRank, 0.7),
            ],
            vocabulary_order: Vec::new(),
        }
    }
}
