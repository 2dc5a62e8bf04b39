//! The sublayers that a draft does not run.

use skipstone_model::sublayer::{self, SublayerKind};
use skipstone_model::{LayerIndex, SkipMask};

/// The sublayers that a draft skips: attention and MLP blocks separately. The first layer runs
/// unless a stand-in takes its place.
///
/// Built only by functions that check it, so every value is valid for the model it was built for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SkipSet {
    attention: Vec<LayerIndex>,
    mlp: Vec<LayerIndex>,
    layer_count: usize,
}

/// A reason why a skip set is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SkipSetError {
    /// The layer does not exist.
    #[error("{kind} layer {layer} is out of range: the model has {layer_count} layers, so 1 to {} can be skipped", layer_count.saturating_sub(1))]
    OutOfRange {
        /// `attention` or `mlp`.
        kind: &'static str,
        /// The layer that was asked for.
        layer: u32,
        /// Layers of the model.
        layer_count: usize,
    },
    /// The first layer always runs: skipping it leaves nothing of the draft's
    /// quality.
    #[error("{kind} layer {layer} can't be skipped: the first layer always runs; use 1 to {}", layer_count.saturating_sub(1))]
    FirstLayer {
        /// `attention` or `mlp`.
        kind: &'static str,
        /// The layer that was asked for.
        layer: u32,
        /// Layers of the model.
        layer_count: usize,
    },
    /// The layer is named twice.
    #[error("{kind} layer {layer} is listed twice")]
    Duplicate {
        /// `attention` or `mlp`.
        kind: &'static str,
        /// The layer that was named twice.
        layer: u32,
    },
}

// === impl SkipSet ===

impl SkipSet {
    /// Checks the layers against a model of `layer_count` layers; order does not matter.
    pub fn new(attention: &[u32], mlp: &[u32], layer_count: usize) -> Result<Self, SkipSetError> {
        for (kind, layers) in [("attention", attention), ("mlp", mlp)] {
            if layers.contains(&0) {
                return Err(SkipSetError::FirstLayer { kind, layer: 0, layer_count });
            }
        }
        Self::of_layers(attention, mlp, layer_count)
    }

    fn of_layers(attention: &[u32], mlp: &[u32], layer_count: usize) -> Result<Self, SkipSetError> {
        Ok(Self {
            attention: checked("attention", attention, layer_count)?,
            mlp: checked("mlp", mlp, layer_count)?,
            layer_count,
        })
    }

    /// The set that skips these sublayers, each named once.
    pub fn of_sublayers(
        sublayers: impl IntoIterator<Item = usize>,
        layer_count: usize,
    ) -> Result<Self, SkipSetError> {
        let (attention, mlp) = by_kind(sublayers);
        Self::new(&attention, &mlp, layer_count)
    }

    /// The same, where something takes the place of the first layer, too.
    pub(super) fn of_any_sublayers(
        sublayers: impl IntoIterator<Item = usize>,
        layer_count: usize,
    ) -> Result<Self, SkipSetError> {
        let (attention, mlp) = by_kind(sublayers);
        Self::of_layers(&attention, &mlp, layer_count)
    }

    /// The set that skips nothing.
    pub fn empty(layer_count: usize) -> Self {
        Self { attention: Vec::new(), mlp: Vec::new(), layer_count }
    }

    /// Layers whose attention is skipped, ascending.
    pub fn attention(&self) -> &[LayerIndex] {
        &self.attention
    }

    /// Layers whose MLP is skipped, ascending.
    pub fn mlp(&self) -> &[LayerIndex] {
        &self.mlp
    }

    /// Layers of the model this set was built for.
    pub fn layer_count(&self) -> usize {
        self.layer_count
    }

    /// Share of the attention sublayers that run, 0 to 1.
    pub fn attention_share(&self) -> f64 {
        1.0 - self.attention.len() as f64 / self.layer_count.max(1) as f64
    }

    /// Whether nothing is skipped.
    pub fn is_empty(&self) -> bool {
        self.attention.is_empty() && self.mlp.is_empty()
    }

    /// The same as one flag for each sublayer.
    pub fn mask(&self) -> SkipMask {
        let sublayers = 0..sublayer::sublayers(self.layer_count);
        SkipMask::new(sublayers.map(|index| self.skips(index)).collect())
    }

    /// Whether sublayer `index`, numbered as in [`sublayer`], is skipped.
    pub fn skips(&self, index: usize) -> bool {
        let layers = match sublayer::kind_of(index) {
            SublayerKind::Attention => &self.attention,
            SublayerKind::Mlp => &self.mlp,
        };
        u16::try_from(sublayer::layer_of(index))
            .is_ok_and(|layer| layers.binary_search(&LayerIndex(layer)).is_ok())
    }
}

/// The layers of these sublayers, by kind.
fn by_kind(sublayers: impl IntoIterator<Item = usize>) -> (Vec<u32>, Vec<u32>) {
    let (mut attention, mut mlp) = (Vec::new(), Vec::new());
    for index in sublayers {
        let layers = match sublayer::kind_of(index) {
            SublayerKind::Attention => &mut attention,
            SublayerKind::Mlp => &mut mlp,
        };
        layers.push(u32::try_from(sublayer::layer_of(index)).unwrap_or(u32::MAX));
    }
    (attention, mlp)
}

fn checked(
    kind: &'static str,
    layers: &[u32],
    layer_count: usize,
) -> Result<Vec<LayerIndex>, SkipSetError> {
    let mut indices = Vec::with_capacity(layers.len().min(layer_count));
    for &layer in layers {
        let Some(index) =
            u16::try_from(layer).ok().filter(|&index| usize::from(index) < layer_count)
        else {
            return Err(SkipSetError::OutOfRange { kind, layer, layer_count });
        };
        match indices.binary_search(&LayerIndex(index)) {
            Ok(_) => return Err(SkipSetError::Duplicate { kind, layer }),
            Err(place) => indices.insert(place, LayerIndex(index)),
        }
    }
    Ok(indices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_layers_in_any_order() {
        let set = SkipSet::new(&[5, 3], &[4, 7], 8).unwrap();
        assert_eq!(set.attention(), [LayerIndex(3), LayerIndex(5)]);
        let skipped: Vec<usize> = (0..16).filter(|&index| set.skips(index)).collect();
        assert_eq!(skipped, [6, 9, 10, 15]);
    }

    #[test]
    fn sublayers_alternate_between_attention_and_mlp() {
        let set = SkipSet::of_sublayers(3..6, 8).unwrap();
        assert_eq!(set, SkipSet::new(&[2], &[1, 2], 8).unwrap());
        assert!(SkipSet::of_sublayers(0..4, 8).is_err());
        assert!(SkipSet::of_sublayers([3, 16], 8).is_err());
        assert!(SkipSet::of_sublayers([3, 3], 8).is_err());
    }

    #[test]
    fn refuses_the_first_layer_strangers_and_repeats() {
        for (layers, message) in [
            (&[0][..], "attention layer 0 can't be skipped"),
            (&[8], "attention layer 8 is out of range: the model has 8 layers, so 1 to 7"),
            (&[70_000], "attention layer 70000 is out of range"),
            (&[3, 3], "attention layer 3 is listed twice"),
        ] {
            let error = SkipSet::new(layers, &[], 8).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
