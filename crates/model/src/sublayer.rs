//! The numbering of sublayers: layer `l` has its attention at `2l` and its MLP at `2l + 1`. No
//! other file knows it.

use std::ops::Range;

/// Kind of a sublayer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SublayerKind {
    /// Attention, with its norm and its place in the residual.
    Attention,
    /// The MLP, with its norm and its place in the residual.
    Mlp,
}

/// Sublayers of a layer.
const PER_LAYER: usize = 2;

/// Sublayers of `layers` layers; saturates, since files that are only looked at may claim anything.
pub const fn sublayers(layers: usize) -> usize {
    PER_LAYER.saturating_mul(layers)
}

/// Whole layers that `sublayers` sublayers make.
pub const fn layers(sublayers: usize) -> usize {
    sublayers / PER_LAYER
}

/// The kind of a sublayer.
pub const fn kind_of(sublayer: usize) -> SublayerKind {
    match sublayer % PER_LAYER {
        0 => SublayerKind::Attention,
        _ => SublayerKind::Mlp,
    }
}

/// The layer that a sublayer belongs to.
pub const fn layer_of(sublayer: usize) -> usize {
    sublayer / PER_LAYER
}

/// The sublayer of this kind of a layer.
pub const fn sublayer_of(layer: usize, kind: SublayerKind) -> usize {
    let offset = match kind {
        SublayerKind::Attention => 0,
        SublayerKind::Mlp => 1,
    };
    PER_LAYER * layer + offset
}

/// The attention of a layer, which is its first sublayer.
pub const fn attention_of(layer: usize) -> usize {
    sublayer_of(layer, SublayerKind::Attention)
}

/// The sublayers of a run of layers.
pub const fn of_layers(layers: Range<usize>) -> Range<usize> {
    attention_of(layers.start)..attention_of(layers.end)
}

/// The layers whose sublayer of this kind is among `sublayers`, in the same order.
pub fn layers_of_kind(
    sublayers: impl IntoIterator<Item = usize>,
    kind: SublayerKind,
) -> impl Iterator<Item = usize> {
    sublayers.into_iter().filter(move |&sublayer| kind_of(sublayer) == kind).map(layer_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_attention_then_mlp() {
        assert_eq!((sublayers(3), layers(6), attention_of(2)), (6, 3, 4));
        assert_eq!(of_layers(1..3), 2..6);
        for layer in 0..3 {
            let expected = [(layer, SublayerKind::Attention), (layer, SublayerKind::Mlp)];
            let indices: Vec<usize> = of_layers(layer..layer + 1).collect();
            let found: Vec<_> =
                indices.iter().map(|&index| (layer_of(index), kind_of(index))).collect();
            assert_eq!(found, expected);
            assert_eq!(indices, expected.map(|(layer, kind)| sublayer_of(layer, kind)));
        }
        let of = |kind| layers_of_kind([2, 3, 5, 6], kind).collect::<Vec<_>>();
        assert_eq!((of(SublayerKind::Attention), of(SublayerKind::Mlp)), (vec![1, 3], vec![1, 2]));
    }
}
