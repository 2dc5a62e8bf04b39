//! Profiles on disk: safetensors, with everything but the large arrays as JSON in its metadata.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use half::f16;
use safetensors::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};

use super::bridge_fit::BridgeWeights;
use super::profile::{
    AcceptancePrior, Measurement, Profile, ProfileBridge, ProfileError, ProfilePlan, ProfiledModel,
};
use skipstone_model::{MAX_STAND_IN_LAYERS, StandInLayer, StandInWeights, TokenId, eight_bits};

/// Version of the file.
const VERSION: u32 = 3;

/// The oldest version that is read: it has no stand-ins. One that is older still is refused: a
/// profile is quickly made anew.
const OLDEST: u32 = 2;

/// The metadata entry that holds the JSON.
const ENTRY: &str = "skipstone.profile";

/// The vocabulary order, u32.
const ORDER: &str = "vocabulary_order";

/// Largest file that is read: some hundred bridges of rank 128 of a wide model.
const MAX_BYTES: u64 = 1 << 29;

/// The JSON.
#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    model: ProfiledModel,
    tokens: usize,
    relevance: Vec<Option<f32>>,
    plans: Vec<PlanHeader>,
    measurements: Vec<Measurement>,
    #[serde(default)]
    stand_in: Option<StandInHeader>,
}

/// Numbers of the stand-in are tensors: `stand_in.mix`, `stand_in.bias` and `stand_in.L.PART` for
/// each layer.
#[derive(Serialize, Deserialize)]
struct StandInHeader {
    first_layer: usize,
    layers: usize,
}

#[derive(Serialize, Deserialize)]
struct PlanHeader {
    name: String,
    skipped: Vec<usize>,
    /// First sublayer and end of each bridge; its numbers are the tensors `plan.P.bridge.B.{bias,
    /// down, up}`.
    bridges: Vec<(usize, usize)>,
    #[serde(default)]
    has_stand_in: bool,
    draft_vocabulary: usize,
    max_draft_tokens: usize,
    confidence_threshold: f32,
    cost: f64,
    speedup: f64,
    prior: AcceptancePrior,
}

struct Array {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

// === impl Profile ===

impl Profile {
    /// Reads and checks a profile.
    ///
    /// # Errors
    /// The fault of the file, and what to do.
    pub fn read(path: &Path) -> Result<Self, ProfileError> {
        let failed = |source| ProfileError::File {
            action: "read",
            path: path.display().to_string(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let too_large = |bytes| ProfileError::TooLarge {
            path: path.display().to_string(),
            bytes,
            limit: MAX_BYTES,
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(too_large(
                fs::metadata(path).map_or(MAX_BYTES + 1, |metadata| metadata.len()),
            ));
        }
        Self::from_bytes(&bytes)
    }

    /// Writes the profile: whole or not at all.
    ///
    /// # Errors
    /// If a value is out of range, or the file can't be written.
    pub fn write(&self, path: &Path) -> Result<(), ProfileError> {
        let bytes = self.to_bytes()?;
        let failed = |source| ProfileError::File {
            action: "write",
            path: path.display().to_string(),
            source,
        };
        let folder =
            path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new()
            .prefix(".profile-")
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(folder)
            .map_err(failed)?;
        file.write_all(&bytes).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        Ok(())
    }

    /// The file's bytes. Maps of bridges are stored in half precision, those of the stand-in in 8
    /// bits, as it runs; everything else in single precision.
    ///
    /// # Errors
    /// If a value is out of range.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ProfileError> {
        self.check()?;
        let header = Header {
            version: VERSION,
            model: self.model.clone(),
            tokens: self.tokens,
            relevance: self.relevance.clone(),
            plans: self.plans.iter().map(PlanHeader::of).collect(),
            measurements: self.measurements.clone(),
            stand_in: self.stand_in.as_ref().map(|stand_in| StandInHeader {
                first_layer: stand_in.first_layer,
                layers: stand_in.layers.len(),
            }),
        };
        let json = serde_json::to_string(&header).map_err(format_error)?;
        let mut arrays = vec![(ORDER.to_owned(), Array::order(&self.vocabulary_order))];
        for (plan_index, plan) in self.plans.iter().enumerate() {
            for (index, ProfileBridge { weights, .. }) in plan.bridges.iter().enumerate() {
                let (hidden, rank) = (self.model.hidden, weights.rank());
                let name = |part| tensor_name(plan_index, index, part);
                arrays.push((name("bias"), Array::single(&weights.bias)));
                if rank > 0 {
                    arrays.push((name("down"), Array::half(&weights.down, [rank, 2 * hidden])));
                    arrays.push((name("up"), Array::half(&weights.up, [hidden, rank])));
                }
            }
        }
        if let Some(stand_in) = &self.stand_in {
            arrays.extend(stand_in_arrays(stand_in));
        }
        safetensors::serialize(arrays, Some(HashMap::from([(ENTRY.to_owned(), json)])))
            .map_err(format_error)
    }

    /// Reads and checks what [`Profile::to_bytes`] made. Never panics, whatever the bytes.
    ///
    /// # Errors
    /// The fault, and what to do.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ProfileError> {
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(format_error)?;
        let json = metadata.metadata().as_ref().and_then(|entries| entries.get(ENTRY));
        let json =
            json.ok_or_else(|| ProfileError::Format(format!("the metadata has no {ENTRY:?}")))?;
        // The version first: another one may have other fields.
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_str(json).map_err(format_error)?;
        if !(OLDEST..=VERSION).contains(&version) {
            return Err(ProfileError::Version { found: version, expected: VERSION });
        }
        let header: Header = serde_json::from_str(json).map_err(format_error)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(format_error)?;
        let plans = header.plans.into_iter().enumerate();
        let stand_in = match header.stand_in {
            Some(header) => Some(header.fill(&tensors)?),
            None => None,
        };
        let profile = Self {
            stand_in,
            plans: plans
                .map(|(index, plan)| plan.fill(index, &tensors))
                .collect::<Result<_, _>>()?,
            model: header.model,
            tokens: header.tokens,
            relevance: header.relevance,
            measurements: header.measurements,
            vocabulary_order: words(&tensors, ORDER, Dtype::U32)?
                .into_iter()
                .map(|word| TokenId(u32::from_le_bytes(word)))
                .collect(),
        };
        profile.check()?;
        Ok(profile)
    }
}

// === impl PlanHeader ===

impl PlanHeader {
    fn of(plan: &ProfilePlan) -> Self {
        Self {
            name: plan.name.clone(),
            skipped: plan.skipped.clone(),
            bridges: plan.bridges.iter().map(|bridge| (bridge.first, bridge.end)).collect(),
            has_stand_in: plan.has_stand_in,
            draft_vocabulary: plan.draft_vocabulary,
            max_draft_tokens: plan.max_draft_tokens,
            confidence_threshold: plan.confidence_threshold,
            cost: plan.cost,
            speedup: plan.speedup,
            prior: plan.prior.clone(),
        }
    }

    fn fill(
        self,
        plan_index: usize,
        tensors: &SafeTensors<'_>,
    ) -> Result<ProfilePlan, ProfileError> {
        let bridge = |(index, &(first, end)): (usize, &(usize, usize))| {
            let name = |part| tensor_name(plan_index, index, part);
            let bias = words(tensors, &name("bias"), Dtype::F32)?
                .into_iter()
                .map(f32::from_le_bytes)
                .collect();
            let map = |part| -> Result<Vec<f32>, ProfileError> {
                // The bias bridge has no maps.
                if tensors.tensor(&name(part)).is_err() {
                    return Ok(Vec::new());
                }
                let halves = words(tensors, &name(part), Dtype::F16)?.into_iter();
                Ok(halves.map(|half| f16::from_le_bytes(half).to_f32()).collect())
            };
            let weights = BridgeWeights { bias, down: map("down")?, up: map("up")? };
            Ok(ProfileBridge { first, end, weights })
        };
        Ok(ProfilePlan {
            bridges: self.bridges.iter().enumerate().map(bridge).collect::<Result<_, _>>()?,
            name: self.name,
            has_stand_in: self.has_stand_in,
            skipped: self.skipped,
            draft_vocabulary: self.draft_vocabulary,
            max_draft_tokens: self.max_draft_tokens,
            confidence_threshold: self.confidence_threshold,
            cost: self.cost,
            speedup: self.speedup,
            prior: self.prior,
        })
    }
}

// === impl StandInHeader ===

impl StandInHeader {
    fn fill(self, tensors: &SafeTensors<'_>) -> Result<StandInWeights, ProfileError> {
        let Self { first_layer, layers } = self;
        let (mix, bias) = ("stand_in.mix", "stand_in.bias");
        let mut weights = StandInWeights {
            first_layer,
            mix: eight_bit_numbers(tensors, mix)?,
            bias: single_numbers(tensors, bias)?,
            layers: Vec::new(),
        };
        // The check of the profile has the last word about how many there may be.
        for index in 0..layers.min(MAX_STAND_IN_LAYERS + 1) {
            let mut layer = StandInLayer::default();
            for (part, numbers, is_map) in layer_parts(&mut layer) {
                let name = layer_tensor(index, part);
                *numbers = match is_map {
                    true => eight_bit_numbers(tensors, &name)?,
                    false => single_numbers(tensors, &name)?,
                };
            }
            weights.layers.push(layer);
        }
        Ok(weights)
    }
}

/// The arrays of a layer: name, numbers, and whether it is a map, which is kept in 8 bits.
fn layer_parts(layer: &mut StandInLayer) -> [(&'static str, &mut Vec<f32>, bool); 12] {
    [
        ("attention_norm", &mut layer.attention_norm, false),
        ("query", &mut layer.query, true),
        ("key", &mut layer.key, true),
        ("value", &mut layer.value, true),
        ("query_bias", &mut layer.query_bias, false),
        ("key_bias", &mut layer.key_bias, false),
        ("value_bias", &mut layer.value_bias, false),
        ("output", &mut layer.output, true),
        ("mlp_norm", &mut layer.mlp_norm, false),
        ("gate", &mut layer.gate, true),
        ("up", &mut layer.up, true),
        ("down", &mut layer.down, true),
    ]
}

fn layer_tensor(layer: usize, part: &str) -> String {
    format!("stand_in.{layer}.{part}")
}

fn stand_in_arrays(stand_in: &StandInWeights) -> Vec<(String, Array)> {
    let map = |name: &str, numbers: &[f32]| {
        let (scales, codes): (Vec<f16>, Vec<[i8; 32]>) = eight_bits(numbers).unzip();
        let scales = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
        let codes = codes.as_flattened().iter().map(|&code| code as u8).collect();
        [
            (name.to_owned(), Array::bytes(Dtype::I8, codes)),
            (format!("{name}.scales"), Array::bytes(Dtype::F16, scales)),
        ]
    };
    let mut arrays = Vec::new();
    arrays.extend(map("stand_in.mix", &stand_in.mix));
    arrays.push(("stand_in.bias".to_owned(), Array::single(&stand_in.bias)));
    for (index, layer) in stand_in.layers.iter().enumerate() {
        for (part, numbers, is_map) in layer_parts(&mut layer.clone()) {
            let name = layer_tensor(index, part);
            match is_map {
                true => arrays.extend(map(&name, numbers)),
                false => arrays.push((name, Array::single(numbers))),
            }
        }
    }
    arrays
}

/// Numbers that were stored in 8 bits.
fn eight_bit_numbers(tensors: &SafeTensors<'_>, name: &str) -> Result<Vec<f32>, ProfileError> {
    let codes = words::<1>(tensors, name, Dtype::I8)?;
    let scales = words(tensors, &format!("{name}.scales"), Dtype::F16)?;
    if codes.len() != 32 * scales.len() {
        return Err(ProfileError::Format(format!(
            "tensor {name} has {} numbers and {} scales, not one for each 32",
            codes.len(),
            scales.len()
        )));
    }
    let scales = scales.into_iter().map(|scale| f16::from_le_bytes(scale).to_f32());
    let blocks = codes.as_chunks::<32>().0.iter().zip(scales);
    Ok(blocks
        .flat_map(|(block, scale)| block.map(|[code]| f32::from(code as i8) * scale))
        .collect())
}

fn single_numbers(tensors: &SafeTensors<'_>, name: &str) -> Result<Vec<f32>, ProfileError> {
    Ok(words(tensors, name, Dtype::F32)?.into_iter().map(f32::from_le_bytes).collect())
}

// === impl Array ===

impl Array {
    /// An array of one dimension.
    fn bytes(dtype: Dtype, bytes: Vec<u8>) -> Self {
        let shape = vec![bytes.len() * 8 / dtype.bitsize()];
        Self { dtype, shape, bytes }
    }

    fn single(values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { dtype: Dtype::F32, shape: vec![values.len()], bytes }
    }

    fn half(values: &[f32], shape: [usize; 2]) -> Self {
        let bytes = values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect();
        Self { dtype: Dtype::F16, shape: shape.to_vec(), bytes }
    }

    fn order(tokens: &[TokenId]) -> Self {
        let bytes = tokens.iter().flat_map(|token| token.0.to_le_bytes()).collect();
        Self { dtype: Dtype::U32, shape: vec![tokens.len()], bytes }
    }
}

impl View for Array {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

fn tensor_name(plan: usize, bridge: usize, part: &str) -> String {
    format!("plan.{plan}.bridge.{bridge}.{part}")
}

/// The elements of a tensor as little-endian words of `N` bytes.
fn words<const N: usize>(
    tensors: &SafeTensors<'_>,
    name: &str,
    dtype: Dtype,
) -> Result<Vec<[u8; N]>, ProfileError> {
    let view = tensors.tensor(name).map_err(format_error)?;
    if view.dtype() != dtype {
        return Err(ProfileError::Format(format!(
            "tensor {name} is {:?}, not {dtype:?}",
            view.dtype()
        )));
    }
    Ok(view.data().as_chunks::<N>().0.to_vec())
}

fn format_error(error: impl std::fmt::Display) -> ProfileError {
    ProfileError::Format(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::profile::FillerKind;
    use super::*;

    fn plan(rank: Option<usize>) -> ProfilePlan {
        // Numbers that half precision holds.
        let numbers =
            |count: usize| (0..count).map(|index| index as f32 * 0.25 - 1.0).collect::<Vec<f32>>();
        let bridge = |rank| ProfileBridge {
            first: 3,
            end: 5,
            weights: BridgeWeights {
                bias: numbers(32),
                down: numbers(64 * rank),
                up: numbers(32 * rank),
            },
        };
        ProfilePlan {
            skipped: vec![3, 4, 6],
            bridges: rank.map(bridge).into_iter().collect(),
            draft_vocabulary: 4,
            ..Profile::example().plans.remove(0)
        }
    }

    fn profile() -> Profile {
        let stand_in = stand_in();
        let mut drafts = plan(None);
        (drafts.has_stand_in, drafts.skipped) = (true, (4..10).collect());
        Profile {
            plans: vec![plan(None), plan(Some(0)), plan(Some(2)), drafts],
            vocabulary_order: vec![TokenId(5), TokenId(1)],
            stand_in: Some(stand_in),
            model: ProfiledModel { hidden: 32, ..Profile::example().model },
            ..Profile::example()
        }
    }

    /// Numbers that 8 bits hold: whole multiples of a power of two, the largest in each block.
    fn stand_in() -> StandInWeights {
        let numbers = |count: usize| -> Vec<f32> {
            (0..count).map(|index| (127 - (index % 32) as i32 * 3) as f32 * 0.0625).collect()
        };
        let layer = StandInLayer {
            attention_norm: numbers(32),
            query: numbers(64 * 32),
            key: numbers(32 * 32),
            value: numbers(32 * 32),
            query_bias: numbers(64),
            key_bias: Vec::new(),
            value_bias: Vec::new(),
            output: numbers(64 * 32),
            mlp_norm: numbers(32),
            gate: numbers(96 * 32),
            up: numbers(96 * 32),
            down: numbers(96 * 32),
        };
        StandInWeights {
            first_layer: 2,
            mix: numbers(2 * 32 * 32),
            bias: numbers(32),
            layers: vec![layer],
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.profile");
        for _ in 0..2 {
            profile().write(&path).unwrap();
            assert_eq!(Profile::read(&path).unwrap(), profile());
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
        let kinds: Vec<FillerKind> = profile().plans.iter().map(ProfilePlan::kind).collect();
        use FillerKind::{Bias, Identity, LowRank, StandIn};
        assert_eq!(kinds, [Identity, Bias, LowRank, StandIn]);
        assert_eq!(profile().draft_vocabulary(4), [0, 1, 2, 5].map(TokenId));
        assert_eq!(profile().draft_vocabulary(99).len(), 6);
        let missing = Profile::read(&folder.path().join("missing")).unwrap_err().to_string();
        assert!(
            missing.contains("can't read the profile") && missing.contains("missing"),
            "{missing}"
        );
    }

    #[test]
    fn damaged_files_are_refused_and_never_panic() {
        let bytes = profile().to_bytes().unwrap();
        for length in (0..bytes.len()).rev().step_by(7) {
            assert!(Profile::from_bytes(&bytes[..length]).is_err(), "cut to {length} bytes");
        }
        // All of the header, and of the numbers some.
        let numbers = 4096.min(bytes.len());
        for index in (0..numbers).chain((numbers..bytes.len()).step_by(31)) {
            for flip in [1, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[index] ^= flip;
                // What still reads must have passed every check.
                if let Ok(read) = Profile::from_bytes(&damaged) {
                    read.check().unwrap();
                }
            }
        }
    }

    #[test]
    fn another_version_or_model_is_refused_with_the_remedy() {
        let mut bytes = profile().to_bytes().unwrap();
        let version = br#"{\"version\":"#;
        let at = bytes.windows(version.len()).position(|window| window == version).unwrap()
            + version.len();
        bytes[at] = b'7';
        let error = Profile::from_bytes(&bytes).unwrap_err().to_string();
        assert!(error.contains("version 7") && error.contains("skipstone calibrate"), "{error}");
        assert!(profile().check_model(&"0f".repeat(32)).is_ok());
        let error = profile().check_model(&"00".repeat(32)).unwrap_err().to_string();
        assert!(error.contains("m.gguf") && error.contains("calibrate --model"), "{error}");
    }

    #[test]
    fn impossible_values_are_refused_by_name() {
        type Change = fn(&mut Profile);
        let cases: [(&str, Change); 20] = [
            ("the fingerprint", |p| p.model.fingerprint.truncate(9)),
            ("the model's name", |p| p.model.name = "\u{1b}[2J".to_owned()),
            ("the number of layers", |p| p.model.layers = 1),
            ("the number of relevances", |p| p.relevance.truncate(3)),
            ("a relevance", |p| p.relevance[4] = Some(f32::NAN)),
            ("the vocabulary order", |p| p.vocabulary_order.push(TokenId(5))),
            ("the vocabulary order", |p| p.vocabulary_order.push(TokenId(6))),
            ("a skipped sublayer", |p| p.plans[0].skipped = vec![1]),
            ("a skipped sublayer", |p| p.plans[0].skipped = vec![8]),
            ("a skipped sublayer", |p| p.plans[0].skipped = vec![3, 3]),
            ("a bridge's run", |p| p.plans[1].bridges[0].end = 6),
            ("a bridge's run", |p| p.plans[1].bridges[0].end = usize::MAX),
            ("a bridge's weight", |p| p.plans[2].bridges[0].weights.up[3] = f32::INFINITY),
            ("the elements of a bridge's up map", |p| p.plans[2].bridges[0].weights.up.truncate(9)),
            ("a count of accepted tokens", |p| p.plans[0].prior.positions[0].accepted = 11.0),
            ("a plan's cost", |p| p.plans[0].cost = f64::NAN),
            ("the number of sublayers that the stand-in replaces", |p| p.stand_in = None),
            ("the elements of the stand-in's mix", |p| {
                p.stand_in.as_mut().unwrap().mix.truncate(64);
            }),
            ("the elements of the stand-in's value map", |p| {
                p.stand_in.as_mut().unwrap().layers[0].value.truncate(64);
            }),
            ("a stand-in's weight", |p| p.stand_in.as_mut().unwrap().bias[3] = f32::NAN),
        ];
        for (field, change) in cases {
            let mut damaged = profile();
            change(&mut damaged);
            let error = damaged.to_bytes().err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.starts_with(field) && error.contains("calibrate"), "{field}: {error:?}");
        }
    }
}
